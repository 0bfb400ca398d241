"""Sequences to test clips, and predictions back to the size of the frames."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from dataset.clips import fill_up, pad_frames
from dataset.frames import SequenceFrames
from dataset.io import PADDING, letterboxed
from dataset.normalisation import Normalisation, normalisation_of
from dataset.sampling import frame_numbers, key_frame_clip, test_windows
from dataset.sequence import Sequence, SequenceSet
from dataset.view import Letterbox
from utils.boxes import component_boxes, component_centroids
from utils.recipe.schema import ClipSpec


@dataclass(frozen=True)
class Read:
    """What one clip shows.

    first, count: the frames that are predicted from it
    places:       the frames that it is made of
    """

    first: int
    count: int
    places: tuple[int, ...]


class TestVideo:
    """One sequence at test time: the clips to predict, and the truth to score them with.

    Iterating gives (read, clip [1, C, T, H, W]) per clip; a `Read` tells which frames the model predicts from
    it: those of a window, or one key frame. Each frame is decoded once; the next clip is read while the
    current one is computed.
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    def __init__(self, sequence: Sequence, data: SequenceSet, spec: ClipSpec, cache: Path | None = None):
        self.name, self.spec = sequence.name, spec
        self.frames = SequenceFrames(
            sequence, spec.test_resize, spec.mask_resize, cache, spec.letterbox, None, spec.image_resize
        )
        self.originals = self.frames
        if spec.test_resize or spec.letterbox:
            self.originals = SequenceFrames(sequence, cache=cache)
        self.data = data
        self.reads = self._plan(sequence)
        self._recent: dict[int, np.ndarray] = {}

    @cached_property
    def normalisation(self) -> Normalisation:
        """Measured on first use: kept predictions are scored without it."""
        return normalisation_of(self.frames, self.data, self.spec)

    def __len__(self) -> int:
        return len(self.reads)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the original frames."""
        return self.originals.size

    def __iter__(self) -> Iterator[tuple[Read, Tensor]]:
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._clip, self.reads[0])
            for following in [*self.reads[1:], None]:
                current = ahead.result()
                if following:
                    ahead = reader.submit(self._clip, following)
                yield current

    def restore(self, probability: np.ndarray) -> np.ndarray:
        """A predicted map [h, w] at the size of the original frames, bilinear."""
        height, width = self.originals.size
        if self.spec.letterbox:
            return Letterbox(width, height, self.spec.letterbox).restore(probability)
        rows, columns = self.frames.size  # without what filled them up
        if probability.shape != (rows, columns):
            probability = probability[:rows, :columns]
        if probability.shape == (height, width):
            return probability
        return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)

    def restore_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Predicted boxes [N, 5] in the pixels of the original frames, float64.

        They are rounded to float32, so that a file of left, top, width and height keeps them to the bit.
        """
        if self.spec.letterbox:
            height, width = self.originals.size
            place = Letterbox(width, height, self.spec.letterbox)
            boxes = place.restore_boxes(boxes, self.spec.box_restore)
        return boxes.astype(np.float32).astype(np.float64)

    def truth(self, index: int, kinds: Collection[str] = ()) -> dict[str, np.ndarray | None]:
        """The truth of a frame at its original size.

        "mask" [H, W] of 0 and 1; "centroid_map" [H, W]; and, where `kinds` asks for them, "boxes" [N, 4] and
        "centroids" [N, 2] of the targets, and "round_trip_mask": the mask after the way of the frame into the
        network's input and back, float32 in 0..1. None where the sequence does not tell.
        """
        sequence = self.originals.sequence
        mask = self.originals.mask(index) if sequence.masks is not None else None
        is_same = mask is not None and sequence.centroids is None  # decoded once
        truth = {"mask": mask, "centroid_map": mask if is_same else self.originals.centroid_map(index)}
        if "centroids" in kinds:
            truth["centroids"] = self.originals.points(index) if mask is None else component_centroids(mask)
        if "boxes" in kinds:
            of_mask = mask is not None and sequence.boxes is None
            truth["boxes"] = component_boxes(mask) if of_mask else self.originals.boxes(index)
        if "round_trip_mask" in kinds:
            truth["round_trip_mask"] = None if mask is None else self._round_trip(mask)
        return truth

    def _round_trip(self, mask: np.ndarray) -> np.ndarray:
        if not self.spec.letterbox:
            return mask.astype(np.float32)
        square = letterboxed(255 * mask, self.spec.letterbox, PADDING["masks"], self.spec.mask_resize)
        return self.restore((square > 0).astype(np.float32))

    def _plan(self, sequence: Sequence) -> list[Read]:
        frames, key = self.spec.frames, self.spec.key
        if key == "all":
            windows = test_windows(len(sequence), frames)
            return [Read(start, stop - start, tuple(range(start, stop))) for start, stop in windows]
        numbers = frame_numbers(sequence.images, self.spec.neighbours)
        return [Read(i, 1, tuple(key_frame_clip(numbers, i, frames, key))) for i in range(len(sequence))]

    def _filled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of frames of that size with what the recipe adds on the right and below."""
        if self.spec.canvas:
            return self.spec.canvas, self.spec.canvas
        height, width = (side + -side % self.spec.multiple for side in size)
        return height, width

    def _clip(self, read: Read) -> tuple[Read, Tensor]:
        for place in [i for i in self._recent if i < read.places[0]]:
            del self._recent[place]
        for place in read.places:
            if place not in self._recent:
                self._recent[place] = self.normalisation(self.frames.image(place))
        images = np.stack([self._recent[i] for i in read.places], axis=-3)  # [T, H, W] or [C, T, H, W]
        images = pad_frames(images, (0, self.spec.frames - len(read.places)), self.spec.padding)
        images = fill_up(images, self._filled_size(images.shape[-2:]), self.name)
        return read, torch.from_numpy(images).expand(1, self.spec.channels, -1, -1, -1)
