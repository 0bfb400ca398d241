"""The pixels of one sequence: decoded on demand, from files or from a memory-mapped cache."""

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from dataset.cache import CachedFrames
from dataset.io import gray_values, read_gray, read_size
from dataset.masks import read_centroid_map, read_mask
from dataset.normalisation import gray_statistics
from dataset.sample import cut_boxes
from dataset.sampling import SIMULATED, evenly_spaced
from dataset.sequence import Sequence
from dataset.simulated import read_simulated
from dataset.view import View
from utils.boxes import MIN_SIDE, component_boxes, filled, lengthened
from utils.errors import UserError
from utils.recipe.schema import ViewSettings

Area = tuple[slice, slice]  # rows and columns
WHOLE = np.s_[:, :]


class FrameMemory:
    """Decoded frames that stay in memory, the first ones forgotten beyond `limit` bytes.

    Neighbouring clips share frames, so that even one epoch reads each frame several times. Every process that
    loads clips has its own.
    """

    def __init__(self, limit: int = 512 * 2**20):
        self.limit, self.held = limit, 0
        self._frames: dict[tuple[str, Path], np.ndarray] = {}

    def get(self, key: tuple[str, Path], decode: Callable[[], np.ndarray]) -> np.ndarray:
        """What is kept under `key`, else what `decode` gives."""
        if key in self._frames:
            return self._frames[key]
        self._frames[key] = pixels = decode()
        self.held += pixels.nbytes
        while self.held > self.limit:
            self.held -= self._frames.pop(next(iter(self._frames))).nbytes
        return pixels


class SequencePart:
    """A square of all frames of a sequence: what training reads of frames and truth, without the rest.

    corner: row and column of its first pixel
    """

    def __init__(self, frames: "SequenceFrames", corner: tuple[int, int], side: int):
        self.frames, self.corner, self.side = frames, corner, side
        self.area = tuple(slice(first, first + side) for first in corner)

    def pixels(self, places: Iterable[int]) -> np.ndarray:
        """Pixels of several frames, [n, side, side]."""
        return self.frames.pixels(places, self.area)

    def masks(self, places: Iterable[int]) -> np.ndarray:
        """Masks of several frames, uint8 [n, side, side] of 0 and 1."""
        return self.frames.masks(places, self.area)

    def box_masks(self, places: Iterable[int]) -> np.ndarray:
        """The same where a sequence has masks, else the filled boxes."""
        return self.frames.box_masks(places, self.area)

    def input_boxes(self, index: int, labels: str = "float") -> np.ndarray:
        """The boxes of one frame whose centres lie in the square, cut at its border, float64 [N, 4]."""
        return cut_boxes(self.frames.input_boxes(index, labels), np.array(self.corner), self.side)


class SequenceFrames:
    """Frames and truth of one sequence as arrays of one size.

    view:   resizes or letterboxes images and masks; None keeps them as the files have them
    cache:  folder for memory-mapped copies, None decodes the files
    memory: keeps what was decoded from files, None decodes each time
    """

    def __init__(
        self,
        sequence: Sequence,
        view: View | None = None,
        cache: Path | None = None,
        memory: FrameMemory | None = None,
    ):
        self.sequence, self.cache, self.memory = sequence, cache, memory
        self.view = view or View(ViewSettings())
        self._caches: dict[str, CachedFrames] = {}
        self._boxes: dict[int, np.ndarray] = {}
        self._depth: np.dtype | None = None  # of the frames' pixels, as the first that was read has it

    def __len__(self) -> int:
        return len(self.sequence)

    @cached_property
    def file_size(self) -> tuple[int, int]:
        """(height, width) of the frames in their files, from the first one's header alone."""
        return read_size(self.sequence.images[0])

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames and masks that this object gives."""
        return self.view.placement(self.file_size).placed

    def pixels(self, places: Iterable[int], area: Area = WHOLE) -> np.ndarray:
        """Pixels of several frames as `image` gives them, [n, H, W], or of an area of each; read once."""
        places = list(places)
        decoded = {place: self.image(place)[area] for place in dict.fromkeys(places)}
        return np.stack([decoded[place] for place in places])

    def images(self, start: int, stop: int) -> np.ndarray:
        """Gray values 0..255 of frames start .. stop - 1, float32 [n, H, W]."""
        return np.stack([gray_values(self.image(i)) for i in range(start, stop)])

    def image(self, index: int) -> np.ndarray:
        """Pixels of one frame as the file has them, uint8 or uint16 [H, W]; letterboxed ones are uint8.

        index: -4 to -1 are the simulated frames before the sequence, which may be float32
        """
        return self._pixels("images", index) if index >= 0 else self._simulated[index]

    @property
    def _simulated(self) -> np.ndarray:
        """The simulated frames, as the view has them. Raises UserError where they do not fit the others."""
        path = self.sequence.simulated
        return (
            self.memory.get(("simulated", path), self._read_simulated)
            if self.memory
            else self._read_simulated()
        )

    def _read_simulated(self) -> np.ndarray:
        path = self.sequence.simulated
        frames = read_simulated(path, self.file_size, SIMULATED)
        if self.image(0).dtype != np.uint8:
            raise UserError(
                f"the frames of {self.sequence.name} are of 16 bit, the simulated ones before them in {path} "
                "of 8 bit; use --set history=repeat"
            )
        return np.stack([self.view.fit(frame, "images") for frame in frames])

    def masks(self, places: Iterable[int], area: Area = WHOLE) -> np.ndarray:
        """Masks of several frames, or of an area of each, uint8 [n, H, W] of 0 and 1."""
        return np.stack([self.mask(place, area) for place in places])

    def box_masks(self, places: Iterable[int], area: Area = WHOLE) -> np.ndarray:
        """The same where a sequence has masks, else the filled boxes."""
        if self.sequence.masks is not None:
            return self.masks(places, area)
        return np.stack([filled(self.input_boxes(place), self.size)[area] for place in places])

    def mask(self, index: int, area: Area = WHOLE) -> np.ndarray:
        """Mask of one frame, or of an area of it, uint8 [H, W] of 0 and 1."""
        return (self._pixels("masks", index)[area] > 0).view(np.uint8)

    def centroid_map(self, index: int) -> np.ndarray | None:
        """What target-level metrics take as truth, [H, W]: file values where the data set has centroid maps,
        else the mask, else 1 at each annotated point or box centre. None for a sequence without truth.
        """
        sequence = self.sequence
        if sequence.centroids is not None:
            pixels = self._pixels("centroids", index)
            return gray_values(pixels) / 255 if pixels.dtype == np.uint16 else pixels / np.float64(255)
        if sequence.masks is not None:
            return self.mask(index)
        points = self.points(index)
        if points is None:
            return None
        height, width = self.size
        marks = np.zeros((height, width), np.uint8)
        rows = np.clip(np.rint(points[:, 0]).astype(int), 0, height - 1)
        cols = np.clip(np.rint(points[:, 1]).astype(int), 0, width - 1)
        marks[rows, cols] = 1
        return marks

    def points(self, index: int) -> np.ndarray | None:
        """Row and column of each annotated target [N, 2]: the points, or the centres of the boxes."""
        if self.sequence.points is not None:
            return self.sequence.points[index]
        if self.sequence.boxes is not None:
            x1, y1, x2, y2 = self.sequence.boxes[index].reshape(-1, 4).T
            return np.stack([(y1 + y2 - 1) / 2, (x1 + x2 - 1) / 2], axis=1)
        return None

    def boxes(self, index: int) -> np.ndarray | None:
        """Boxes of one frame in its file's pixels, float64 [N, 4] x1 y1 x2 y2: the annotated ones, else those
        of the mask's components. None for a sequence with neither.
        """
        sequence = self.sequence
        if sequence.boxes is not None:
            return sequence.boxes[index].reshape(-1, 4)
        if sequence.masks is None:
            return None
        if index not in self._boxes:
            self._boxes[index] = component_boxes(self._file("masks", index) > 0)
        return self._boxes[index]

    def identities(self, index: int, points: np.ndarray | None) -> np.ndarray | None:
        """Row, column and identity of each target of a frame [N, 3].

        points: the targets' places, where the sequence has no identities: a single one is the only target
        None where there are several and nobody tells which is which, or where there is no truth.
        """
        if self.sequence.identities is not None:
            x1, y1, x2, y2 = self.sequence.boxes[index].reshape(-1, 4).T
            return np.stack([(y1 + y2 - 1) / 2, (x1 + x2 - 1) / 2, self.sequence.identities[index]], axis=1)
        if points is None or len(points) > 1:
            return None
        return np.concatenate([points, np.zeros((len(points), 1))], axis=1)

    def input_boxes(self, index: int, labels: str = "float") -> np.ndarray:
        """Boxes of one frame in the pixels of the view, float64 [N, 4]; see `View.fit_boxes`.

        Those of a mask's components have at least 4 pixels of the frame a side.
        """
        boxes = self.boxes(index)
        if self.sequence.boxes is None:
            boxes = lengthened(boxes, MIN_SIDE)
        return self.view.fit_boxes(boxes, self.file_size, labels)

    def statistics(self) -> tuple[float, float]:
        """(mean, standard deviation) of the gray values of up to 32 evenly spaced frames.

        With a cache they are measured once, ever.
        """

        def measured() -> tuple[float, float]:
            return gray_statistics([self._pixels("images", place) for place in evenly_spaced(len(self))])

        if self.cache is None:
            return measured()
        mean, std = self._cached("images").kept("statistics", measured)
        return mean, std

    # ---------------------------------------------------------------- private

    def _pixels(self, kind: str, index: int) -> np.ndarray:
        if self.cache is not None and kind != "centroids":
            return self._cached(kind)[index]
        if self.memory is not None:
            path = getattr(self.sequence, kind)[index]
            return self.memory.get((kind, path), lambda: self._decode(kind, index))
        return self._decode(kind, index)

    def _decode(self, kind: str, index: int) -> np.ndarray:
        pixels = self._file(kind, index)
        return pixels if kind == "centroids" else self.view.fit(pixels, kind)

    def _file(self, kind: str, index: int) -> np.ndarray:
        """The pixels of one file.

        Raises UserError unless it has the size of the first frame, and a frame the depth of the others.
        """
        path, rule = getattr(self.sequence, kind)[index], self.sequence.mask_rule
        if kind == "images":
            pixels = read_gray(path)
        else:
            pixels = read_centroid_map(path, rule) if kind == "centroids" else read_mask(path, rule)
        first, (height, width) = self.sequence.images[0], self.file_size
        if pixels.shape != (height, width):
            raise UserError(
                f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, {first} is {width}x{height}; all frames and "
                "masks of a sequence must have one size"
            )
        if kind == "images":
            self._depth = self._depth or pixels.dtype
            if pixels.dtype != self._depth:
                raise UserError(
                    f"{path} has pixels of {8 * pixels.itemsize} bit, another frame of its sequence of "
                    f"{8 * self._depth.itemsize}; all frames of a sequence must have one depth"
                )
        return pixels

    def _cached(self, kind: str) -> CachedFrames:
        if kind not in self._caches:
            chosen = self.view.settings
            resizing = (self.view.resize, chosen.letterbox, chosen.image_resize, chosen.mask_resize)
            if chosen.image_resize == "bilinear":
                resizing += ("in 32 bit",)  # earlier programs have written files of 8 bit
            sources, decode = getattr(self.sequence, kind), partial(self._decode, kind)
            checked = (self.file_size, self.sequence.mask_rule)
            content = (self.sequence.name, kind, *checked, *resizing)
            self._caches[kind] = CachedFrames(self.cache, content, sources, decode)
        return self._caches[kind]
