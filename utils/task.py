"""What differs between detectors of masks and of boxes, in one object each.

A model is registered with its task. Training asks it for the truth that is read and for the target,
evaluation for the prediction, the commands for the truth that is needed and for the score that chooses the
best checkpoint. A new kind of output is one more such object, with its prediction in utils.boxes, which
utils.report keeps and draws.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.boxes import BoxPrediction, Geometry, MapPrediction, Prediction
from utils.errors import UserError
from utils.recipe.schema import Recipe
from utils.registry import Entry


class Frames(Protocol):
    """The part of dataset.frames.SequenceFrames that reads the truth of training clips."""

    def masks(self, places: Iterable[int]) -> np.ndarray: ...
    def box_masks(self, places: Iterable[int]) -> np.ndarray: ...
    def input_boxes(self, index: int, labels: str) -> np.ndarray: ...


class MaskTask:
    """Probabilities of pixels.

    name:     by which models and losses are registered
    predicts: the forms of its predictions that metrics can take
    best:     the score that chooses the best checkpoint where the recipe names none
    kept:     the kind of its predictions, by which they are kept and drawn
    """

    name = "masks"
    predicts = ("map", "score_map", "responses", "boxes")
    kept = MapPrediction.kind
    best = "iou"

    def check(self, recipe: Recipe) -> None:
        """Raises UserError for a recipe that such a model cannot follow."""

    def check_output(self, raw: dict[str, Any], shape: tuple[int, int, int]) -> None:
        """Raises UserError unless the network gives a map for each predicted frame; shape: (T', h, w)."""
        found = tuple(raw["logits"].shape[1:])
        if found != shape:
            raise UserError(
                f"the network predicts {found[0]} frames of {found[1]}x{found[2]} from a clip, the recipe "
                f"wants {shape[0]} of {shape[1]}x{shape[2]}; set view.key to all where it predicts whole "
                "windows, to the place of its key frame where it predicts one"
            )

    def truths(self, recipe: Recipe) -> tuple[str, ...]:
        """The kinds of truth that a sequence can be trained with, the first one that it has."""
        return ("masks", "boxes") if recipe.sampling.box_masks else ("masks",)

    def truth(self, frames: Frames, places: Sequence[int], recipe: Recipe) -> dict[str, Any]:
        """The truth of some frames, by the fields of dataset.sample.Sample."""
        return {"masks": frames.box_masks(places) if recipe.sampling.box_masks else frames.masks(places)}

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
        return MapPrediction(video.restore(output), threshold, output, video)


class BoxTask:
    """Boxes with scores, of one key frame per clip; the fields are those of `MaskTask`."""

    name = "boxes"
    predicts = ("score_map", "responses", "boxes")
    kept = BoxPrediction.kind
    best = "ap50"

    def check(self, recipe: Recipe) -> None:
        """Raises UserError for a recipe that such a model cannot follow."""
        if recipe.view.key == "all":
            raise UserError(
                "recipe key view.key is all, but box models predict one key frame: set it to the place of "
                "that frame in the clip"
            )
        if recipe.sampling.column_quirk:
            raise UserError(
                "recipe key sampling.column_quirk changes masks and has no effect on boxes; set it to False"
            )

    def check_output(self, raw: dict[str, Any], shape: tuple[int, int, int]) -> None:
        """Any head will do: boxes are not tied to pixels."""

    def truths(self, recipe: Recipe) -> tuple[str, ...]:
        """The kinds of truth that a sequence can be trained with, the first one that it has."""
        return ("boxes", "masks")

    def truth(self, frames: Frames, places: Sequence[int], recipe: Recipe) -> dict[str, Any]:
        """The truth of some frames, by the fields of dataset.sample.Sample."""
        return {"boxes": tuple(frames.input_boxes(place, recipe.sampling.labels) for place in places)}

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
        return BoxPrediction(video.restore_boxes(output), video.size, output, video)


Task = MaskTask | BoxTask
TASKS: dict[str, Task] = {task.name: task for task in (MaskTask(), BoxTask())}


def task_of(model: Entry) -> Task:
    """The task of a registered model. Raises UserError where it is registered with another word."""
    name = model.facts["task"]
    if name not in TASKS:
        raise UserError(f"model {model.name} is registered with task={name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]
