"""What a detector found in a frame, as a map, as boxes or as responses, so that any metric can score it.

A box is x1, y1, x2, y2 in pixels counted from 0, x2 and y2 exclusive; a centre is row, column, whole numbers
in the middle of pixels. utils/components.py says what components are, and their order.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from utils.components import Components
from utils.grid import EXACT, Grid

ROUNDING = 1e-5  # what a resized map may lie above 1
MIN_SIDE = 4  # pixels; of smaller boxes an IoU of 0.5 is a matter of a fraction of a pixel


class Geometry(Protocol):
    """The part of dataset.video.TestVideo that brings what a network gives to the pixels of a grid."""

    size: tuple[int, int]

    def size_on(self, grid: Grid) -> tuple[int, int]: ...
    def restore(self, probability: np.ndarray, grid: Grid = EXACT) -> np.ndarray: ...
    def restore_boxes(self, boxes: np.ndarray, grid: Grid = EXACT) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Responses(ABC):
    """The N things that a detector found in one frame.

    scores:  float64 [N]
    centres: float64 [N, 2], row and column
    shape:   height and width of the frame
    lowest:  the score below which the detector lists none
    """

    scores: np.ndarray
    centres: np.ndarray
    shape: tuple[int, int]
    lowest: float

    @abstractmethod
    def pixel_scores(self, chosen: np.ndarray) -> np.ndarray:
        """Of each pixel that one of the chosen responses, bool [N], covers the largest score of such; [P]."""


@dataclass(frozen=True, eq=False)
class ComponentResponses(Responses):
    """The components of a map; no pixel is in two of them."""

    components: Components

    def pixel_scores(self, chosen: np.ndarray) -> np.ndarray:
        return np.repeat(self.scores[chosen], self.components.areas[chosen])


@dataclass(frozen=True, eq=False)
class BoxResponses(Responses):
    """Boxes, which may overlap; regions: for each the rows and columns of its pixels."""

    regions: Sequence[tuple[slice, slice]]

    def score_map(self, chosen: np.ndarray, outside: float) -> np.ndarray:
        """Per pixel the largest score of the chosen boxes that cover it, else `outside`; float64 [H, W]."""
        out = np.full(self.shape, outside, np.float64)
        order = np.argsort(self.scores, kind="stable")
        for place in order[chosen[order]]:
            out[self.regions[place]] = self.scores[place]
        return out

    def pixel_scores(self, chosen: np.ndarray) -> np.ndarray:
        scores = self.score_map(chosen, outside=-np.inf)
        return scores[scores > -np.inf]


@dataclass(frozen=True, eq=False)
class MapPrediction:
    """What a mask model found in one frame.

    map:       probabilities [H, W]
    threshold: a component of p > threshold is one response, and its largest p the score
    output:    the probabilities [h, w] in the network's input, from which the map was made; None: not known
    video:     the sequence that made it
    tracks:    where tracks are, of utils.detections.TrackPoint; None: none were made
    """

    map: np.ndarray
    threshold: float
    output: np.ndarray | None = None
    video: Geometry | None = None
    tracks: tuple[Any, ...] | None = None
    kind = "maps"  # how it is kept and drawn

    def on(self, grid: Grid) -> "MapPrediction | None":
        """The same in the pixels of a grid; this one has those of the file. None without the output."""
        if grid == EXACT:
            return self
        if self.output is None:
            return None
        return MapPrediction(self.video.restore(self.output, grid), self.threshold)

    @property
    def score_map(self) -> np.ndarray:
        """The map itself."""
        return self.map

    def fault(self, size: tuple[int, int]) -> str | None:
        """Why this is no prediction of a frame of `size`, as the end of a sentence; None where it is one."""
        if self.map.shape != tuple(size):
            return f"a map of {list(self.map.shape)} pixels for a frame of {list(size)}"
        low, high = self.map.min(), self.map.max()
        if not (low >= 0 and high <= 1 + ROUNDING):  # as of nan
            return f"values from {low:g} to {high:g}, where probabilities are from 0 to 1"
        return None

    @cached_property
    def responses(self) -> ComponentResponses:
        """The components, with their centroids and their own pixels."""
        found = Components.of(self.map > np.float64(self.threshold))  # a bare number would be rounded
        scores = found.largest(self.map)
        return ComponentResponses(scores, found.centroids, self.map.shape, self.threshold, found)

    @cached_property
    def boxes(self) -> np.ndarray:
        """The components as boxes and scores, float64 [N, 5]."""
        return np.column_stack([self.responses.components.boxes, self.responses.scores])


@dataclass(frozen=True, eq=False)
class BoxPrediction:
    """What a box model found in one frame.

    boxes: float64 [N, 5] in any order, the score last; they may reach beyond the frame
    shape: height and width of the frame
    output, video, tracks: as of a MapPrediction, the output boxes [N, 5] in the pixels of the input
    """

    boxes: np.ndarray
    shape: tuple[int, int]
    output: np.ndarray | None = None
    video: Geometry | None = None
    tracks: tuple[Any, ...] | None = None
    kind = "boxes"  # how it is kept and drawn
    map = None  # metrics that take a map do not score boxes

    def on(self, grid: Grid) -> "BoxPrediction | None":
        """The same in the pixels of a grid; this one has those of the file. None without the output."""
        if grid == EXACT:
            return self
        if self.output is None:
            return None
        return BoxPrediction(self.video.restore_boxes(self.output, grid), self.video.size_on(grid))

    def fault(self, _size: tuple[int, int]) -> str | None:
        """Why these are no boxes, as the end of a sentence; None where they are."""
        x1, y1, x2, y2, scores = self.boxes.T
        if not np.isfinite(self.boxes).all():
            return "a box that is not finite"
        if (x2 < x1).any() or (y2 < y1).any():
            return "a box whose right or lower side lies before its left or upper one"
        if (scores < 0).any() or (scores > 1 + ROUNDING).any():
            return f"a score of {scores[np.abs(scores - 0.5).argmax()]:g}, where scores are from 0 to 1"
        return None

    @cached_property
    def score_map(self) -> np.ndarray:
        """Per pixel the largest score of the boxes that cover it, 0 elsewhere; float32 [H, W]."""
        return self.responses.score_map(np.ones(len(self.boxes), bool), outside=0).astype(np.float32)

    @cached_property
    def responses(self) -> BoxResponses:
        """The boxes with their centres."""
        x1, y1, x2, y2, scores = self.boxes.T
        centres = np.stack([y1 + y2 - 1, x1 + x2 - 1], axis=1) / 2
        return BoxResponses(scores, centres, self.shape, 0.0, covered(self.boxes, self.shape))


Prediction = MapPrediction | BoxPrediction


def with_tracks(prediction: Prediction, tracks: Iterable[Any]) -> Prediction:
    """The same prediction with the tracks in its frame; what was computed of it is kept."""
    found = copy.copy(prediction)
    object.__setattr__(found, "tracks", tuple(tracks))  # `replace` would compute the components anew
    return found


def covered(boxes: np.ndarray, shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """For each box [N, 4 or more] the rows and columns of the pixels whose middle lies in it."""
    extents = np.tile(shape[::-1], 2)
    corners = np.clip(np.ceil(boxes[:, :4] - 0.5), 0, extents).astype(int)
    return [np.s_[top:bottom, left:right] for left, top, right, bottom in corners.tolist()]


def filled(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask of `shape` (height, width), uint8, that is 1 in the pixels that boxes [N, 4] cover.

    A side of less than a pixel counts as one, so that none is lost.
    """
    mask = np.zeros(shape, np.uint8)
    for pixels in covered(lengthened(boxes, 1), shape):
        mask[pixels] = 1
    return mask


def component_boxes(mask: np.ndarray) -> np.ndarray:
    """The boxes around the components of a mask [H, W] with targets above 0, float64 [N, 4]."""
    return Components.of(np.asarray(mask) > 0).boxes


def lengthened(boxes: np.ndarray, min_side: float) -> np.ndarray:
    """Boxes [N, 4 or more], of which sides below `min_side` are lengthened about their middles."""
    missing = (min_side - (boxes[:, 2:4] - boxes[:, :2])).clip(min=0) / 2
    return np.concatenate([boxes[:, :2] - missing, boxes[:, 2:4] + missing, boxes[:, 4:]], axis=1)


def component_centroids(mask: np.ndarray) -> np.ndarray:
    """Row and column of the centroids of the components of a mask [H, W] with targets above 0, [N, 2]."""
    return Components.of(np.asarray(mask) > 0).centroids
