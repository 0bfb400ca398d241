"""What differs between detectors of masks and of boxes, in one object each.

A model is registered with its task. Training asks it for the target, evaluation for the prediction, the
commands for the truth that is needed and for the score that chooses the best checkpoint.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.boxes import BoxPrediction, MapPrediction, Prediction


class Geometry(Protocol):
    """The part of dataset.video.TestVideo that brings outputs back to the frame."""

    size: tuple[int, int]

    def restore(self, probability: np.ndarray) -> np.ndarray: ...
    def restore_boxes(self, boxes: np.ndarray) -> np.ndarray: ...


class MaskTask:
    """Probabilities of pixels.

    name:     by which models and losses are registered
    truths:   the kinds of truth that a sequence can be trained with, the first one that it has
    predicts: the forms of its predictions that metrics can take
    best:     the score that chooses the best checkpoint where the recipe names none
    """

    name = "masks"
    truths = ("masks",)
    predicts = ("map", "score_map", "responses", "boxes")
    best = "iou"

    def target(self, masks: np.ndarray | None, boxes: Sequence[np.ndarray] | None) -> np.ndarray:
        """What the loss takes of one clip: float32 [T', h, w] of its predicted frames."""
        return masks.astype(np.float32, copy=False)

    def batch(self, targets: Sequence[Tensor]) -> Tensor:
        """The targets of a batch, float32 [B, T', h, w]."""
        return torch.stack(list(targets))

    def outputs(self, decoded: Any, count: int) -> np.ndarray:
        """The maps of the first `count` predicted frames of one clip, float32 [count, h, w]."""
        return decoded[0, :count].float().cpu().numpy()

    def prediction(self, output: np.ndarray, video: Geometry, threshold: float) -> Prediction:
        """What was found in a frame, at the frame's own size; p > threshold belongs to a target."""
        return MapPrediction(video.restore(output), threshold)


class BoxTask:
    """Boxes with scores, of one key frame per clip; the fields are those of `MaskTask`."""

    name = "boxes"
    truths = ("boxes", "masks")
    predicts = ("score_map", "responses", "boxes")
    best = "ap50"

    def target(self, masks: np.ndarray | None, boxes: Sequence[np.ndarray] | None) -> np.ndarray:
        """What the loss takes of one clip: float32 [n, 5], cx, cy, w, h in input pixels and the class 0."""
        (corners,) = boxes
        sides = corners[:, 2:] - corners[:, :2]
        rows = np.hstack([corners[:, :2] + sides / 2, sides, np.zeros((len(corners), 1))])
        return rows.astype(np.float32)

    def batch(self, targets: Sequence[Tensor]) -> list[Tensor]:
        """The targets of a batch, which differ in number."""
        return list(targets)

    def outputs(self, decoded: Any, count: int) -> list[np.ndarray]:
        """The boxes [N, 5] of the key frame of one clip."""
        return [decoded[0].float().cpu().numpy()]

    def prediction(self, output: np.ndarray, video: Geometry, threshold: float) -> Prediction:
        """What was found in a frame, in the frame's own pixels; all boxes with their scores."""
        return BoxPrediction(video.restore_boxes(output), video.size)


Task = MaskTask | BoxTask
TASKS: dict[str, Task] = {task.name: task for task in (MaskTask(), BoxTask())}
