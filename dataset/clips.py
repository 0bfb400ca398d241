"""Sequences to training clips: windows drawn as DeepPro draws them, and the frames around a key frame."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from dataset.augment import augment_targets, check_names, pair_halves, turned
from dataset.frames import FrameMemory, SequenceFrames
from dataset.normalisation import Normalisation, normalisation_of
from dataset.sampling import frame_numbers, key_frame_clip, training_windows
from dataset.sequence import SequenceSet
from utils.errors import UserError
from utils.recipe.schema import ClipSpec


class TrainingClips(Dataset):
    """Clips for training, each a pure function of (seed, epoch, index), so that any run can be continued.

    Items are taken by (epoch, index), index below len(self):
    {"clip": float32 [C, T, h, w], "target": float32 [T', h, w] of 0 and 1, "name": "Sequence1[12:52]"}.
    """

    truths: tuple[str, ...] = ("masks",)  # any of them in a sequence gives its targets

    def __init__(
        self, data: SequenceSet, spec: ClipSpec, sample_rate: float, seed: int = 0, cache: Path | None = None
    ):
        for sequence in data:
            if all(getattr(sequence, kind) is None for kind in self.truths):
                raise UserError(
                    f"{data.name} {sequence.name} has no {' or '.join(self.truths)}; training this model "
                    "needs them"
                )
        self.data, self.spec, self.seed = data, spec, seed
        memory = FrameMemory()
        self.frames = [
            SequenceFrames(
                sequence,
                spec.train_resize,
                spec.mask_resize,
                cache,
                spec.letterbox,
                memory,
                spec.image_resize,
            )
            for sequence in data
        ]
        check_names(spec.augment)
        self._normalisations: dict[int, Normalisation] = {}
        self.candidates = self.find_candidates()
        if not self.candidates:
            raise UserError(f"the sequences of {data.name} in {data.root} are too short for a training clip")
        self.clips_per_epoch = max(int(len(self.candidates) * sample_rate), 1)

    def __len__(self) -> int:
        return self.clips_per_epoch

    def normalised(self, number: int, images: np.ndarray) -> np.ndarray:
        """Frames of sequence `number` as the network sees them, float32."""
        if number not in self._normalisations:
            self._normalisations[number] = normalisation_of(self.frames[number], self.data, self.spec)
        return self._normalisations[number](images)

    def with_clones(
        self, pixels: np.ndarray, masks: np.ndarray, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames as the files have them and masks [n, H, W], with clones where the recipe asks for them."""
        if "targets" not in self.spec.augment:
            return pixels, masks
        return augment_targets(pixels, masks, draw)

    def mask_item(self, images: np.ndarray, masks: np.ndarray, name: str, draw: np.random.Generator) -> dict:
        """One item of normalised frames [T, h, w] or [C, T, h, w] and masks [T', h, w]."""
        images, masks = turned(images, masks, self.spec.augment, draw)
        if self.spec.canvas:
            images, masks = (fill_up(x, (self.spec.canvas,) * 2, name) for x in (images, masks))
        return self.item(images, masks, name)

    def collate(self, items: list[dict]) -> dict:
        """A batch: clips stacked, names in a list, and so the targets where they differ in size, as boxes do.

        With "pair_halves" in the recipe's clip.augment, a batch of twice the size.
        """
        batch = {
            "clip": torch.stack([item["clip"] for item in items]),
            "target": [item["target"] for item in items],
            "name": [item["name"] for item in items],
        }
        if batch["target"][0].ndim == 3:
            batch["target"] = torch.stack(batch["target"])
        if "pair_halves" in self.spec.augment:
            seed = zlib.crc32(" ".join(batch["name"]).encode())
            number = int(np.random.default_rng([self.seed, seed]).integers(len(items)))
            batch["clip"], batch["target"] = pair_halves(batch["clip"], batch["target"], number)
        return batch

    def item(self, images: np.ndarray, target: np.ndarray, name: str) -> dict:
        """One item of normalised frames [T, h, w] or [C, T, h, w] and its target."""
        clip = torch.from_numpy(images).expand(self.spec.channels, -1, -1, -1)
        return {"clip": clip, "target": torch.from_numpy(target.astype(np.float32, copy=False)), "name": name}


class WindowClips(TrainingClips):
    """Windows of frames, all of which the model predicts.

    One epoch has `sample_rate` x (number of windows) clips. For each, a window is drawn with a chance
    proportional to its length over all sequences (published rule). A window shorter than the clip is filled
    up with padding frames: at the end for an odd index, in front for an even one. A patch is then cut, with
    the chance `target_crops` around a target of the middle frame, else anywhere.
    """

    def find_candidates(self) -> list[tuple[int, int, int]]:
        """(sequence, start, stop) of each window."""
        windows = [
            (index, start, stop)
            for index, sequence in enumerate(self.data)
            for start, stop in training_windows(len(sequence), self.spec.frames, self.spec.include_last)
        ]
        lengths = np.array([stop - start for _, start, stop in windows], np.float64)
        self.chances = np.cumsum(lengths) / lengths.sum() if windows else lengths
        return windows

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        draw = np.random.default_rng([self.seed, epoch, index])
        window = int(np.searchsorted(self.chances, draw.random(), side="right"))
        number, start, stop = self.candidates[min(window, len(self.candidates) - 1)]
        frames = self.frames[number]
        pixels, masks = self.with_clones(frames.pixels(range(start, stop)), frames.masks(start, stop), draw)
        images = self.normalised(number, pixels)

        short = self.spec.frames - (stop - start)
        padding = (0, short) if index % 2 else (short, 0)
        middle = (stop - start) // 2  # the published reference frame, whichever side is padded
        if self.spec.patch:
            rows, cols = patch_of(masks[middle], self.spec, draw, frames.sequence.name)
            images, masks = images[..., rows, cols], masks[:, rows, cols]
        images, masks = pad_frames(images, padding, self.spec.padding), pad_frames(masks, padding, "zeros")
        return self.mask_item(images, masks, f"{frames.sequence.name}[{start}:{stop}]", draw)


class KeyFrameClips(TrainingClips):
    """The frames around a key frame, which alone the model predicts: "target" is [1, h, w].

    Each frame of each sequence is a key frame `sample_rate` times per epoch; below 1 a share is drawn. Which
    frames make up its clip is told in `dataset.sampling.key_frame_clip`.
    """

    def find_candidates(self) -> list[tuple[int, int]]:
        """(sequence, place in it) of each key frame."""
        self.numbers = [frame_numbers(s.images, self.spec.neighbours) for s in self.data]
        return [(number, place) for number, s in enumerate(self.data) for place in range(len(s))]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        if len(self) < len(self.candidates):
            index = int(np.random.default_rng([self.seed, epoch]).permutation(len(self.candidates))[index])
        number, place = self.candidates[index % len(self.candidates)]
        chosen = key_frame_clip(self.numbers[number], place, self.spec.frames, self.spec.key)
        draw = np.random.default_rng([self.seed, epoch, index])
        return self.of_key_frame(number, place, chosen, draw)

    def of_key_frame(self, number: int, place: int, chosen: list[int], draw: np.random.Generator) -> dict:
        """The item of the frame at `place` of sequence `number`, whose clip is of the frames `chosen`."""
        frames, spec = self.frames[number], self.spec
        pixels = frames.pixels(chosen)
        if "targets" in spec.augment:
            masks = np.stack([frames.mask(i) for i in chosen])
            pixels, masks = self.with_clones(pixels, masks, draw)
            mask = masks[spec.key]
        else:
            mask = frames.mask(place)
        images = self.normalised(number, pixels)
        target = with_column_quirk(mask) if spec.column_quirk else mask
        if spec.patch:
            rows, cols = patch_of(mask, spec, draw, frames.sequence.name)
            images, target = images[..., rows, cols], target[rows, cols]
        return self.mask_item(images, target[None], f"{frames.sequence.name}[{place}]", draw)


class KeyFrameBoxClips(KeyFrameClips):
    """Clips for box models: "target" is float32 [n, 5], cx, cy, w, h in input pixels and the class 0.

    A sequence with masks but without boxes has those of its targets' components.
    """

    truths = ("boxes", "masks")

    def of_key_frame(self, number: int, place: int, chosen: list[int], draw: np.random.Generator) -> dict:
        frames, spec = self.frames[number], self.spec
        images = self.normalised(number, with_gain(frames.pixels(chosen), spec.gain, draw))
        boxes = frames.input_boxes(place, spec.labels)
        if spec.flips:
            images, boxes = flipped(images, boxes, *(draw.random(2) < 0.5))
        if spec.crop:
            images, boxes = cropped(images, boxes, spec, draw)
        sides = boxes[:, 2:] - boxes[:, :2]
        target = np.hstack([boxes[:, :2] + sides / 2, sides, np.zeros((len(boxes), 1))])
        return self.item(images, target, f"{frames.sequence.name}[{place}]")


def with_gain(pixels: np.ndarray, gain: float, draw: np.random.Generator) -> np.ndarray:
    """uint8 pixels times a number that is drawn from 1 - gain .. 1 + gain; unchanged for a gain of 0.

    With 0.4, the change of value in the augmentation that STMENet's code holds but does not use.
    """
    if not gain:
        return pixels
    grays = np.arange(256) * draw.uniform(1 - gain, 1 + gain)
    return np.rint(grays.clip(0, 255)).astype(np.uint8)[pixels]


def flipped(images: np.ndarray, boxes: np.ndarray, across: bool, down: bool) -> tuple[np.ndarray, np.ndarray]:
    """Frames [..., H, W] and boxes [N, 4] mirrored left to right, top to bottom, or both."""
    height, width = images.shape[-2:]
    x1, y1, x2, y2 = boxes.T
    if across:
        images, (x1, x2) = images[..., ::-1], (width - x2, width - x1)
    if down:
        images, (y1, y2) = images[..., ::-1, :], (height - y2, height - y1)
    return np.ascontiguousarray(images), np.stack([x1, y1, x2, y2], axis=1)


def cropped(
    images: np.ndarray, boxes: np.ndarray, spec: ClipSpec, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A square of frames [..., T, H, W], with the boxes [N, 4] of the key frame whose centres are in it.

    Boxes are cut at its border. With the chance `spec.target_crops` a target lies somewhere in it. With
    `spec.drift`, the square has another place in each frame, and moves evenly to that in the key frame.
    """
    side = spec.crop
    limits = np.array(images.shape[:-3:-1]) - side  # of the corner's x and y
    low, high = np.zeros(2, int), limits
    if len(boxes) and draw.random() < spec.target_crops:
        x1, y1, x2, y2 = boxes[draw.integers(len(boxes))]
        low = np.clip(np.ceil([x2 - side, y2 - side]).astype(int), 0, limits)
        high = np.clip(np.floor([x1, y1]).astype(int), low, limits)
    corner = draw.integers(low, high + 1)
    steps = np.arange(images.shape[-3])[:, None] - spec.key
    drift = draw.uniform(-spec.drift, spec.drift, 2) if spec.drift else np.zeros(2)
    corners = np.clip(np.rint(corner + steps * drift).astype(int), 0, limits)
    squares = [
        images[..., t, top : top + side, left : left + side] for t, (left, top) in enumerate(corners.tolist())
    ]
    boxes = boxes - np.tile(corner, 2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= 0) & (centres < side)).all(1)
    return np.stack(squares, axis=-3), boxes[inside].clip(0, side)


def training_clips(
    data: SequenceSet, spec: ClipSpec, sample_rate: float, seed: int = 0, cache: Path | None = None
) -> TrainingClips:
    """The training clips of a recipe: windows, or clips of a key frame with its mask or its boxes."""
    if spec.target == "boxes":
        return KeyFrameBoxClips(data, spec, sample_rate, seed, cache)
    kind = WindowClips if spec.key == "all" else KeyFrameClips
    return kind(data, spec, sample_rate, seed, cache)


def fill_up(frames: np.ndarray, size: tuple[int, int], name: str = "") -> np.ndarray:
    """Frames [..., H, W] with zeros to the right and below up to `size` (height, width).

    Raises UserError when they are larger.
    """
    missing = [wanted - side for wanted, side in zip(size, frames.shape[-2:], strict=True)]
    if min(missing) < 0:
        height, width = frames.shape[-2:]
        raise UserError(
            f"frames of {name} are {width}x{height}, larger than the canvas of {size[1]}x{size[0]}; "
            "raise it by --set clip.canvas="
        )
    around = [(0, 0)] * (frames.ndim - 2) + [(0, n) for n in missing]
    return np.pad(frames, around) if any(missing) else frames


def patch_of(mask: np.ndarray, spec: ClipSpec, draw: np.random.Generator, name: str) -> tuple[slice, slice]:
    """Rows and columns of a training patch, placed by the mask [H, W] of its reference frame."""
    side = spec.patch
    if min(mask.shape) < side:
        raise UserError(
            f"frames of {name} are {mask.shape[1]}x{mask.shape[0]}, smaller than the patch "
            f"of {side}; use --patch_size {min(mask.shape)} or less"
        )
    spare = 0 if spec.include_last else 1  # published: the last row and column are never in a patch
    limits = [max(extent - side - spare, 0) for extent in mask.shape]
    corner = [int(draw.integers(0, limit + 1)) for limit in limits]
    count, _, _, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count > 1 and draw.random() < spec.target_crops:
        x, y = centres[draw.integers(1, count)]
        reach = int(side / 2 / 3)
        shift = draw.uniform(-reach, reach, 2)
        corner = [int(c + s - side / 2) for c, s in zip((y, x), shift, strict=True)]
        corner = [min(max(c, 0), limit) for c, limit in zip(corner, limits, strict=True)]
    return slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)


def with_column_quirk(mask: np.ndarray) -> np.ndarray:
    """The mask [H, W] after a statement that RPRNet's loader inherited from a loader of boxes, float32.

    Where targets lie in the first four columns, values such as -1 and 0.5 appear.
    """
    mask = mask.astype(np.float32)
    mask[:, 2:4] -= mask[:, 0:2]
    mask[:, 0:2] += mask[:, 2:4] / 2
    return mask


def pad_frames(frames: np.ndarray, padding: tuple[int, int], how: str) -> np.ndarray:
    """Add (before, after) frames to [..., n, H, W]: zeros, or the first and last frame repeated."""
    mode = {"zeros": "constant", "repeat": "edge"}[how]
    around = [(0, 0)] * (frames.ndim - 3) + [padding, (0, 0), (0, 0)]
    return np.pad(frames, around, mode=mode) if any(padding) else frames


class EpochBatches:
    """Batches of (epoch, index) keys for a DataLoader: a seeded shuffle per epoch, whole batches only.

    start: batches that were used before an interruption and are not served again.
    """

    def __init__(self, clips: int, batch_size: int, seed: int):
        self.clips, self.batch_size, self.seed = clips, min(batch_size, clips), seed
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.clips // self.batch_size - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips).tolist()
        for batch in range(self.start, self.clips // self.batch_size):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, index) for index in chosen]
