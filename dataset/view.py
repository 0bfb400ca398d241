"""The view: how frames become the network's input, and how what it finds comes back to the frames' pixels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataset.alignment import Alignment
from dataset.io import gray_values
from dataset.normalisation import Normalisation
from dataset.sampling import ClipFrames, ClipsAround, frame_numbers, test_windows
from dataset.sequence import Sequence
from utils.errors import UserError
from utils.grid import EXACT, Grid
from utils.recipe.schema import ViewSettings

Clips = list[ClipFrames] | ClipsAround
Size = tuple[int, int]  # height and width, or row and column

AROUND = {"images": 128, "masks": 0}  # gray values around a letterboxed frame, as published
RESAMPLING = {name: Image.Resampling[name.upper()] for name in ("bicubic", "bilinear", "nearest")}


@dataclass(frozen=True)
class Placement:
    """Where a frame of one size lies in the network's input; all are (height, width) or (row, column).

    frame:  size of the frame in its file
    scaled: size that it has in the input
    corner: its first pixel there
    placed: size of the resized or letterboxed frame
    whole:  size of the input: that of `placed` with the zeros to the right and below
    """

    frame: Size
    scaled: Size
    corner: Size
    placed: Size
    whole: Size


@dataclass(frozen=True)
class View:
    """Geometry and normalisation of a recipe, from the files to the network and back.

    settings: the recipe's
    resize:   (height, width) of all frames, None keeps the files' sizes
    multiple: normalised frames are padded with zeros, right and below, to a multiple of it
    """

    settings: ViewSettings
    resize: Size | None = None
    multiple: int = 1

    @classmethod
    def of(cls, settings: ViewSettings, split: str) -> "View":
        """The view of training or test frames; only their sizes, what pads and what normalises them differ.

        split: "train" or "test"
        """
        if split == "train":
            return cls(settings, settings.train_resize)
        if settings.test_mean is not None:
            settings = replace(settings, mean=settings.test_mean, std=settings.test_std)
        return cls(settings, settings.test_resize, settings.multiple)

    # ---------------------------------------------------------------- which frames

    def clips(self, sequence: Sequence) -> Clips:
        """The clips by which a sequence is tested: windows, or one around each frame as key frame."""
        images = sequence.images
        frames, key = self.settings.frames, self.settings.key
        if key == "all":
            return [ClipFrames.window(*window) for window in test_windows(len(images), frames)]
        return ClipsAround(images, self.settings.neighbours, frames, key, self.history(sequence))

    def starts_before(self, sequence: Sequence) -> int:
        """How many of the clips around its frames begin before its first one."""
        numbers, key = frame_numbers(sequence.images, self.settings.neighbours), self.settings.key
        return sum(number - key < numbers[0] for number in numbers)

    def history(self, sequence: Sequence) -> str:
        """What is before its first frame: as the recipe says, "repeat" where it has no simulated frames."""
        chosen = self.settings.history
        return "repeat" if chosen == "simulated" and sequence.simulated is None else chosen

    def predicted(self, clip: ClipFrames) -> tuple[int, ...]:
        """The places in a clip of the frames that are predicted from it."""
        key = self.settings.key
        return tuple(range(clip.count)) if key == "all" else (key,)

    # ---------------------------------------------------------------- registration

    def alignment(self, frames: np.ndarray, size: Size) -> Alignment | None:
        """How the placed frames [n, H, W] of a clip are aligned to its key frame, or to a window's middle.

        size: (height, width) of the frames in their files
        None where the recipe wants none, and where none is measured.
        """
        if self.settings.register == "off" or self.settings.frames == 1:
            return None
        key, place = self.settings.key, self.placement(size)
        reference = len(frames) // 2 if key == "all" else key
        area = tuple(slice(low, low + side) for low, side in zip(place.corner, place.scaled, strict=True))
        return Alignment.measured(frames, reference, self.settings.register, area)

    # ---------------------------------------------------------------- geometry

    def placement(self, size: Size, name: str = "") -> Placement:
        """Where a frame of `size` (height, width) lies in the input.

        name: of the sequence, for the sentence
        Raises UserError where it is larger than the recipe's canvas.
        A letterbox scales it to fit and puts it in the middle. Sizes are truncated as in the published
        loaders, so that the longer side is one pixel short of the letterbox for some (98, 103, 107, ...).
        """
        side = self.settings.letterbox
        if not side:
            scaled = self.resize or size
            return Placement(size, scaled, (0, 0), scaled, self._padded_size(scaled, name))
        height, width = size
        scale = min(side / width, side / height)
        height, width = max(int(height * scale), 1), max(int(width * scale), 1)
        corner = (side - height) // 2, (side - width) // 2
        return Placement(size, (height, width), corner, (side, side), self._padded_size((side, side), name))

    @property
    def placed_size(self) -> Size | None:
        """(height, width) of resized or letterboxed frames; None where it depends on the file."""
        side = self.settings.letterbox
        return (side, side) if side else self.resize

    def fit(self, pixels: np.ndarray, kind: str) -> np.ndarray:
        """Pixels [H, W] of a file, resized or letterboxed.

        kind: "images" or "masks". Same dtype, but letterboxed 16-bit pixels become uint8, as published.
        """
        method = RESAMPLING[self.settings.image_resize if kind == "images" else self.settings.mask_resize]
        if side := self.settings.letterbox:
            place = self.placement(pixels.shape)
            image = Image.fromarray(np.rint(gray_values(pixels)).astype(np.uint8))
            square = Image.new("L", (side, side), AROUND[kind])
            square.paste(image.resize(place.scaled[::-1], method), place.corner[::-1])
            return np.asarray(square)
        if self.resize in (None, pixels.shape):
            return pixels
        if method is Image.Resampling.BILINEAR:  # as TSMSA does it; in 8 bit Pillow rounds in another way
            image = Image.fromarray(pixels.astype(np.int32))
            return np.asarray(image.resize(self.resize[::-1], method)).astype(pixels.dtype)
        return np.asarray(Image.fromarray(pixels).resize(self.resize[::-1], method))

    def size_on(self, size: Size, grid: Grid) -> Size:
        """(height, width) of what is counted of frames of `size` on a grid."""
        height, width = self.placement(size).scaled if grid.restore == "resized" else size
        most = grid.crop or (height, width)
        return min(height, most[0]), min(width, most[1])

    def invert(self, output: np.ndarray, size: Size, grid: Grid = EXACT) -> np.ndarray:
        """A predicted map [h, w] of the input in the pixels of a grid; same dtype.

        By default at the frames' `size`, bilinear. Only boxes come back by rounded sizes.
        """
        (height, width), (top, left) = self._placed(size, EXACT if grid.restore == "rounded" else grid)
        inside = output[top : top + height, left : left + width]
        if grid.restore == "resized":
            height, width = self.size_on(size, grid)
            return inside[:height, :width]
        if inside.shape == size:
            return output if output.shape == size else inside
        if not self.settings.letterbox:
            return cv2.resize(inside, size[::-1], interpolation=cv2.INTER_LINEAR)
        inside = torch.from_numpy(np.ascontiguousarray(inside))[None, None]
        return F.interpolate(inside, size, mode="bilinear", align_corners=False)[0, 0].numpy()

    def fit_boxes(self, boxes: np.ndarray, size: Size, labels: str = "float") -> np.ndarray:
        """Boxes [N, 4] (x1 y1 x2 y2) of a frame of `size` in the input, cut at the placed frame's border.

        labels: "float", or "published": truncated to whole pixels, and boxes of one pixel or less a side
                dropped. Boxes without area are dropped by both. float64 [M, 4].
        """
        place = self.placement(size)
        (height, width), (top, left) = place.scaled, place.corner
        fitted = boxes * (width, height, width, height) / xyxy(size) + (left, top, left, top)
        fitted = (np.trunc(fitted) if labels == "published" else fitted).clip(0, xyxy(place.placed))
        least = 1 if labels == "published" else 0
        return fitted[(fitted[:, 2:] - fitted[:, :2] > least).all(1)]

    def invert_boxes(self, boxes: np.ndarray, size: Size, grid: Grid = EXACT) -> np.ndarray:
        """Predicted boxes [N, 4 or more] (x1 y1 x2 y2, ...) of the input in the pixels of a grid, float64.

        What follows the corners stays. By default the inverse of `fit_boxes`, in a frame of `size`.
        """
        restored = boxes.astype(np.float64)
        if grid.restore == "resized":
            return restored
        (height, width), (top, left) = self._placed(size, grid)
        restored[:, :4] -= (left, top, left, top)
        restored[:, :4] *= np.array(xyxy(size)) / (width, height, width, height)
        return restored

    def _placed(self, size: Size, grid: Grid) -> tuple[Size, tuple[float, float]]:
        """(size, corner) in the input of frames of `size`, as they go back to a grid.

        Published code computes them anew for a letterbox. In float32, a side is one pixel shorter or longer
        for about 15 % of all sizes; rounded sizes with exact halves miss a box by up to 1.25 pixels.
        """
        place, side = self.placement(size), self.settings.letterbox
        if not side or grid.restore not in ("float32", "rounded"):
            return place.scaled, place.corner
        if grid.restore == "rounded":
            scale = min(side / size[1], side / size[0])
            height, width = round(size[0] * scale), round(size[1] * scale)
            return (height, width), ((side - height) / 2, (side - width) / 2)
        sides = np.array(size, np.float32)
        scale = (np.float32(side) / sides).min()
        height, width = (max(int(scaled), 1) for scaled in sides * scale)
        return (height, width), ((side - height) // 2, (side - width) // 2)

    def round_trip(self, mask: np.ndarray, grid: Grid = EXACT) -> np.ndarray:
        """A mask [H, W] of 0 and 1 after the letterbox and back, float32, soft; unchanged without one.

        Values are in 0..1, but for those of a grid with the column quirk.
        """
        placed = mask if not self.settings.letterbox else self.fit(255 * mask, "masks") > 0
        placed = with_column_quirk(placed) if grid.column_quirk else placed.astype(np.float32)
        return self.invert(placed, mask.shape, grid) if self.settings.letterbox else placed

    def resized_mask(self, mask: np.ndarray, grid: Grid) -> np.ndarray:
        """A mask [H, W] of 0 and 1 in the resized frames of a grid, uint8."""
        height, width = self.size_on(mask.shape, grid)
        return (self.fit(255 * mask, "masks") > 0)[:height, :width].astype(np.uint8)

    # ---------------------------------------------------------------- values

    def normalisation(
        self, constants: tuple[float, float] | None, statistics: Callable[[], tuple[float, float]]
    ) -> Normalisation:
        """What normalises a sequence: the recipe's mean and std, else the data set's, else the sequence's.

        constants:  mean and std of the data set, None where it has none
        statistics: gives those of the sequence; called only where they are needed
        Raises UserError where the recipe wants those of the training frames and nobody has measured them.
        """
        chosen = self.settings
        if chosen.mean is not None:
            return Normalisation(chosen.mean, chosen.std, chosen.gray_scale)
        if chosen.statistics == "train":
            raise UserError(
                "recipe key view.statistics is train, and view.mean and view.std are not measured yet: take "
                "the recipe that dataset.prepare.prepared gives"
            )
        return Normalisation(*(constants or statistics()))

    def apply(self, pixels: np.ndarray, normalisation: Normalisation, name: str = "") -> Tensor:
        """The network's input, float32 [C, T, h, w], of placed frames [n, H, W], n at most the clip's T.

        name: of the sequence, for the sentence on frames that are too large
        """
        images = normalisation(pixels)
        images = self.pad_time(images, (0, self.settings.frames - len(pixels)))
        return self.tensor(self.pad(images, name))

    def apply_on(
        self, pixels: np.ndarray, normalisation: Normalisation, device: torch.device, name: str = ""
    ) -> Tensor:
        """The same on a device: one channel is sent as the frames have it, the rest is done there.

        Nothing waits for it. The values are those of `apply`.
        """
        frames = torch.from_numpy(pixels)
        frames = frames.pin_memory() if torch.cuda.is_available() else frames
        images = normalisation.of_tensor(frames.to(device, non_blocking=True))
        height, width = pixels.shape[-2:]
        whole = self._padded_size((height, width), name)
        if missing := self.settings.frames - len(pixels):
            last = images[..., -1:, :, :]
            last = last if self.settings.padding == "repeat" else torch.zeros_like(last)
            images = torch.cat([images, *[last] * missing], dim=-3)
        if whole != (height, width):
            images = F.pad(images, (0, whole[1] - width, 0, whole[0] - height))
        return images.expand(self.settings.channels, -1, -1, -1)

    def pad_time(self, images: np.ndarray, padding: tuple[int, int]) -> np.ndarray:
        """Normalised frames [..., n, H, W] with (before, after) frames more: zeros, or those at the ends."""
        mode = {"zeros": "constant", "repeat": "edge"}[self.settings.padding]
        around = [(0, 0)] * (images.ndim - 3) + [padding, (0, 0), (0, 0)]
        return np.pad(images, around, mode=mode) if any(padding) else images

    def pad(self, frames: np.ndarray, name: str = "") -> np.ndarray:
        """Normalised frames or masks [..., H, W] with zeros to the right and below.

        Raises UserError when they are larger than the recipe's canvas.
        """
        height, width = frames.shape[-2:]
        whole = self._padded_size((height, width), name)
        missing = whole[0] - height, whole[1] - width
        around = [(0, 0)] * (frames.ndim - 2) + [(0, more) for more in missing]
        return np.pad(frames, around) if any(missing) else frames

    def tensor(self, images: np.ndarray) -> Tensor:
        """Normalised frames [T, h, w] or [C, T, h, w] as [C, T, h, w]; equal channels share their memory."""
        return torch.from_numpy(images).expand(self.settings.channels, -1, -1, -1)

    def _padded_size(self, size: Size, name: str) -> Size:
        height, width = size
        if side := self.settings.canvas:
            if max(size) > side:
                of = f" of {name}" if name else ""
                raise UserError(
                    f"frames{of} are {width}x{height}, larger than the canvas of {side}x{side}; "
                    "raise it by --set view.canvas="
                )
            return side, side
        return height + -height % self.multiple, width + -width % self.multiple


def with_column_quirk(mask: np.ndarray) -> np.ndarray:
    """The mask [H, W] after a statement that RPRNet's loader inherited from a loader of boxes, float32.

    Where targets lie in the first four columns, values such as -1 and 0.5 appear.
    """
    mask = mask.astype(np.float32)
    mask[:, 2:4] -= mask[:, 0:2]
    mask[:, 0:2] += mask[:, 2:4] / 2
    return mask


def xyxy(size: Size) -> tuple[int, int, int, int]:
    """The extents that x1, y1, x2, y2 of a box have in frames of `size` (height, width)."""
    height, width = size
    return width, height, width, height
