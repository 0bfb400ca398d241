"""What there is to say of a frame of a video: where the background went, what was detected, what is tracked.

All places are in pixels of the source: x and y are counted from 0 at the middle of the first pixel, a box is
x1, y1, x2, y2 at the pixels' borders, x2 and y2 exclusive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from utils.boxes import Prediction
from utils.motion import Motion


@dataclass(frozen=True, eq=False)
class Detections:
    """The N things that were detected in a frame.

    centres: float64 [N, 2], x and y
    boxes:   float64 [N, 4]
    scores:  float64 [N], in 0..1
    tracks:  int64 [N], the number of the track that each belongs to, from 1; 0: none
    """

    centres: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    tracks: np.ndarray

    @classmethod
    def of(cls, prediction: Prediction | None, threshold: float) -> "Detections":
        """What a prediction scores above the threshold, in the order of falling scores; None: nothing."""
        if prediction is None:
            return cls(np.zeros((0, 2)), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
        responses, boxes = prediction.responses, prediction.boxes[:, :4]
        order = np.argsort(-responses.scores, kind="stable")
        order = order[responses.scores[order] > threshold]
        centres, scores = responses.centres[order, ::-1], responses.scores[order]
        return cls(centres.astype(np.float64), boxes[order], scores, np.zeros(len(order), np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def tracked(self, tracks: Sequence[int]) -> "Detections":
        """The same detections with the numbers of their tracks."""
        return replace(self, tracks=np.asarray(tracks, np.int64))


@dataclass(frozen=True)
class TrackPoint:
    """Where a track is in a frame.

    track: its number, from 1
    score: of the detection there; None where the track was carried on without one
    confirmed: whether it was a track by then; else the point was added when it had become one
    """

    track: int
    x: float
    y: float
    box: tuple[float, float, float, float]
    score: float | None
    confirmed: bool = True


@dataclass(frozen=True, eq=False)
class Found:
    """All of one frame.

    frame:      see dataset.source.Frame: its number, name and pixels
    motion:     how the background moved since the frame before
    detections: what was detected
    prediction: what that was taken from, in the source's pixels; None for a frame that cannot be read
    tracks:     the confirmed tracks that are in the frame
    """

    frame: Any
    motion: Motion
    detections: Detections
    prediction: Prediction | None = None
    tracks: tuple[TrackPoint, ...] = ()
