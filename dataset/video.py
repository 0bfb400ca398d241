"""Sequences to test clips, and predictions back to the size of the frames."""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dataset.frames import SequenceFrames
from dataset.normalisation import Normalisation
from dataset.sampling import ClipFrames
from dataset.sequence import Sequence, SequenceSet
from dataset.view import View
from utils.boxes import component_boxes, component_centroids
from utils.grid import EXACT, Grid
from utils.motion import Motion
from utils.recipe.schema import ViewSettings
from utils.registration import MODES, Registrar

T = TypeVar("T")


class VideoGeometry(ABC):
    """How frames of a video become the network's input, and how what it finds comes back to their pixels.

    device: where clips are made; to another one than the CPU frames are sent as their files have them
    """

    device = torch.device("cpu")

    def __init__(self, name: str, settings: ViewSettings):
        self.name, self.view = name, View.of(settings, "test")

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) of the original frames."""

    def input_of(
        self, clip: ClipFrames, pixels: np.ndarray, normalisation: Normalisation
    ) -> tuple[ClipFrames, Tensor]:
        """(frames, clip [1, C, T, h, w]) of the placed frames [n, H, W] of a clip, aligned where that helps.

        The frames of a window that was aligned know how to bring what is predicted of them back.
        """

        def applied(pixels: np.ndarray) -> Tensor:
            if self.device.type == "cpu":
                return self.view.apply(pixels, normalisation, self.name)[None]
            return self.view.apply_on(pixels, normalisation, self.device, self.name)[None]

        alignment = self.view.alignment(pixels, self.size)
        if alignment is None:
            return clip, applied(pixels)
        aligned = applied(alignment.frames(pixels))
        if self.view.settings.key != "all":  # the predicted frame is the one that the others are aligned to
            return replace(clip, is_aligned=True), aligned
        plain = None if alignment.sees_all else applied(pixels)
        return replace(clip, is_aligned=True, alignment=alignment, as_it_is=plain), aligned

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input, and of what it gives of a frame.

        Raises UserError where the frames are larger than the recipe's canvas.
        """
        return self.view.placement(self.size, self.name).whole

    def size_on(self, grid: Grid) -> tuple[int, int]:
        """(height, width) of what is counted of a frame on a grid."""
        return self.view.size_on(self.size, grid)

    def restore(self, probability: np.ndarray, grid: Grid = EXACT) -> np.ndarray:
        """A predicted map [h, w] in the pixels of a grid, by default at the size of the original frames."""
        return self.view.invert(probability, self.size, grid)

    def restore_boxes(self, boxes: np.ndarray, grid: Grid = EXACT) -> np.ndarray:
        """Predicted boxes [N, 5] in the pixels of a grid, by default of the original frames, float64.

        They are rounded to float32, so that a file of left, top, width and height keeps them to the bit.
        """
        return self.view.invert_boxes(boxes, self.size, grid).astype(np.float32).astype(np.float64)


class TestVideo(VideoGeometry):
    """One sequence at test time: the clips to predict, and the truth to score them with.

    Iterating gives (frames, clip [1, C, T, h, w]) per clip; `ClipFrames` tells which frames the model
    predicts from it: those of a window, or one key frame. Each frame is decoded once; the next clip is read
    while the current one is computed. Pixels are held during an iteration alone.
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    def __init__(
        self, sequence: Sequence, data: SequenceSet, settings: ViewSettings, cache: Path | None = None
    ):
        super().__init__(sequence.name, settings)
        self.data = data
        self.frames = SequenceFrames(sequence, self.view, cache)
        self.originals = SequenceFrames(sequence, cache=cache) if self.view.placed_size else self.frames
        self.clips = self.view.clips(sequence)
        mode = MODES.get(settings.register)
        self.registrar = mode and Registrar(mode)
        self._motions: list[Motion] = []
        self._measuring = threading.Lock()
        self._expected: frozenset[str] | None = None  # kinds of truth
        self._truths: dict[int, dict[str, np.ndarray | None]] = {}  # that were read and not yet asked for

    def motion(self, index: int) -> Motion:
        """How the background moved from the frame before to this one; the identity where nothing registers.

        Measured on first use, and with it those of all frames before.
        """
        with self._measuring:
            while self.registrar and len(self._motions) <= index:
                self._motions.append(self.registrar(self.picture(len(self._motions))))
        return self._motions[index] if self.registrar else Motion()

    @cached_property
    def normalisation(self) -> Normalisation:
        """Measured on first use: kept predictions are scored without it."""
        return self.view.normalisation(self.data.constants, self.frames.statistics)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the original frames."""
        return self.originals.size

    def __iter__(self) -> Iterator[tuple[ClipFrames, Tensor]]:
        recent: dict[int, np.ndarray] = {}  # frames of the last clip, by place
        self._truths.clear()
        self._read_to = 0  # the frames before it have their truth read
        return one_ahead(self._clip(clip, recent) for clip in self.clips)

    def expect(self, kinds: Collection[str]) -> None:
        """Let the thread that reads clips read what `truth(index, kinds)` gives of their frames as well."""
        self._expected = frozenset(kinds)
        self._truths.clear()

    def picture(self, index: int) -> np.ndarray:
        """Gray levels of a frame as its file has it, float32 [H, W]."""
        return self.originals.images(index, index + 1)[0]

    def cache_steps(self) -> list[Callable[[], None]]:
        """A call that makes or checks the files of the cache, by reading a frame and its truth."""

        def read() -> None:
            self.frames.image(0)
            self.truth(0)
            _ = self.normalisation

        return [read] if self.frames.cache else []

    def truth(self, index: int, kinds: Collection[str] = ()) -> dict[str, np.ndarray | None]:
        """The truth of a frame at its original size.

        "mask" [H, W] of 0 and 1; "centroid_map" [H, W], where there is no mask or `kinds` asks for it; and,
        where it does, "boxes" [N, 4] and "centroids" [N, 2] of the targets, "identities" [N, 3]: row, column
        and number of each, and "round_trip_mask": the mask after the letterbox and back, float32 in 0..1.
        None where the sequence does not tell, as of identities in a frame of several targets that have none.
        """
        ahead = self._truths.pop(index, None)
        return self._truth(index, kinds) if ahead is None or self._expected != frozenset(kinds) else ahead

    def _truth(self, index: int, kinds: Collection[str]) -> dict[str, np.ndarray | None]:
        sequence = self.originals.sequence
        mask = self.originals.mask(index) if sequence.masks is not None else None
        truth = {"mask": mask}
        if mask is None or "centroid_map" in kinds:
            is_same = mask is not None and sequence.centroids is None  # decoded once
            truth["centroid_map"] = mask if is_same else self.originals.centroid_map(index)
        if {"centroids", "identities"} & set(kinds):
            points = self.originals.points(index) if mask is None else component_centroids(mask)
            truth |= {"centroids": points} if "centroids" in kinds else {}
            truth |= {"identities": self.originals.identities(index, points)} if "identities" in kinds else {}
        if "boxes" in kinds:
            of_mask = mask is not None and sequence.boxes is None
            truth["boxes"] = component_boxes(mask) if of_mask else self.originals.boxes(index)
        if "round_trip_mask" in kinds:
            truth["round_trip_mask"] = None if mask is None else self.view.round_trip(mask)
        return truth

    def truth_on(
        self, grid: Grid, truth: dict[str, np.ndarray | None], kinds: Collection[str]
    ) -> dict[str, np.ndarray | None]:
        """The truth of a frame in the pixels of a grid, made of what `truth` gave for the same kinds.

        In resized frames all of it is that of the resized mask.
        """
        mask = truth["mask"]
        if grid.restore == "resized":
            if mask is None:
                return dict.fromkeys(truth)
            mask = self.view.resized_mask(mask, grid)
            made = {"centroids": component_centroids, "boxes": component_boxes}
            return {kind: made[kind](mask) if kind in made else mask for kind in truth}
        if "round_trip_mask" in kinds and mask is not None:
            return {**truth, "round_trip_mask": self.view.round_trip(mask, grid)}
        return truth

    def _clip(self, clip: ClipFrames, recent: dict[int, np.ndarray]) -> tuple[ClipFrames, Tensor]:
        """The input of one clip; `recent` holds the frames of the one before, then those of this one."""
        for place in [i for i in recent if i < min(clip.places)]:
            del recent[place]
        for place in clip.places:
            if place not in recent:
                recent[place] = self.frames.image(place)
        if self._expected is not None:
            for index in range(max(clip.first, self._read_to), clip.first + clip.count):
                self._truths[index] = self._truth(index, self._expected)
                self._read_to = index + 1
        pixels = np.stack([recent[place] for place in clip.places])
        return self.input_of(clip, pixels, self.normalisation)


def one_ahead(items: Generator[T, None, None], stop: Callable[[], None] = lambda: None) -> Iterator[T]:
    """The items, of which a thread makes the next one while the current one is used.

    stop: called where the items are left early, before the thread is waited for
    What is raised while an item is made is raised here in its place. The generator `items` is closed in any
    case: at its end, by an error on either side, or when the one that this function returns is closed.
    """
    end = object()
    with contextlib.closing(items), ThreadPoolExecutor(1) as maker:
        ahead = maker.submit(next, items, end)
        try:
            while (current := ahead.result()) is not end:
                ahead = maker.submit(next, items, end)
                yield current
        finally:
            stop()
