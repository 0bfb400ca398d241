"""By what best.pth is chosen: rules by name, each with what a validation measures for it.

`scoring.best` names one of RULES, or figures of the protocol. A new rule is one entry of RULES.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from utils.engine.runtime import Runtime
from utils.seed import random_state, restore_random_state, set_seed


@dataclass(frozen=True)
class Rule:
    """How the best of the validated epochs is told.

    text:    what is compared, in words
    better:  the "higher" or the "lower" value, or the "later" epoch, whatever its scores
    value:   the name of what is compared, in train.jsonl and TensorBoard; "" where it is nothing
    takes:   the kind of prediction that it needs, as metrics declare it; "" where it needs none
    truth:   the kind of truth that each sequence must have, as metrics declare it, or LABELS; "" likewise
    label:   what the line of an epoch calls the value; "" where that is a figure, which has its own
    measure: makes what measures the value, of the validation that asks for it; None where that is a figure
    """

    text: str
    better: str
    value: str = ""
    takes: str = ""
    truth: str = ""
    label: str = ""
    measure: Callable[[Any], "Measure"] | None = None

    def is_as_good(self, score: float, best: float) -> bool:
        """Whether a score is at least as good as another one; nan is not."""
        return score >= best if self.better == "higher" else score <= best


LABELS = "labels"  # the truth that the model's task trains with


class Measure:
    """What one validation measures for a rule, beside the figures of the protocol; this one, nothing."""

    def see_clip(self, video: Any, frames: Any, outputs: Sequence[np.ndarray]) -> None:
        """What the network gives for each predicted frame of a clip, before overlapping clips are joined.

        video, frames: as utils.engine.predict gives them
        """

    def see_truth(self, video: Any, index: int, truth: Mapping[str, Any]) -> None:
        """The truth of a frame, after all clips that it lies in."""

    def value(
        self, model: nn.Module, runtime: Runtime, scores: Mapping[str, float], loader: Callable
    ) -> float:
        """The value, after all frames.

        scores: the figures of the protocol
        loader: makes of clips and a sampler of batches what serves these, and is closed afterwards
        """
        raise NotImplementedError


class MeanFigure(Measure):
    """The mean of some figures of the protocol."""

    def __init__(self, names: Sequence[str]):
        self.names = names

    def value(self, model, runtime, scores, loader) -> float:
        return sum(scores[name] for name in self.names) / len(self.names)


class WindowIoU(Measure):
    """IoU of the single clips' predictions: a frame that lies in two windows counts twice.

    Intersections and unions are summed over all clips. Maps come to the masks' size by their nearest values.
    Source: the evaluation in DeepPro's training script.
    """

    def __init__(self, validation: Any):
        self.threshold = np.array([validation.recipe.scoring.threshold], np.float64)  # not rounded to float32
        self.waiting: dict[int, list[np.ndarray]] = {}  # what was found in frames whose truth is to come
        self.intersection = self.union = 0

    def see_clip(self, video, frames, outputs) -> None:
        for index, found in enumerate(at_size_of(video, np.asarray(outputs) > self.threshold), frames.first):
            self.waiting.setdefault(index, []).append(found)

    def see_truth(self, video, index, truth) -> None:
        mask = truth["mask"] > 0
        for found in self.waiting.pop(index):
            self.intersection += int(np.count_nonzero(found & mask))
            self.union += int(np.count_nonzero(found | mask))

    def value(self, model, runtime, scores, loader) -> float:
        return self.intersection / self.union if self.union else float("nan")


def at_size_of(video: Any, maps: np.ndarray) -> np.ndarray:
    """Bool maps [n, h, w] of the network's input at the size of the video's frames, by nearest values."""
    place = video.view.placement(video.size)
    (height, width), (top, left) = place.scaled, place.corner
    inside = maps[:, top : top + height, left : left + width]
    if place.scaled == video.size:
        return inside
    return F.interpolate(torch.from_numpy(inside)[None].float(), video.size)[0].numpy() > 0


class MeanLoss(Measure):
    """The mean of the training loss over batches of all validated clips, by the network at rest.

    The batches are drawn once by the recipe's seed and are whole, as in training; what a loss draws itself is
    the same in every validation too. The generators are then as they were.
    Source: the training scripts of STMENet and SSTNet, which draw the batches anew.
    """

    def __init__(self, validation: Any):
        self.validation = validation

    def value(self, model, runtime, scores, loader) -> float:
        clips, batches, loss = self.validation.labelled
        before = random_state()
        set_seed(self.validation.recipe.runtime.seed)
        model.eval()
        losses = []
        try:
            with torch.inference_mode(), closing(loader(clips, batches)) as loaded:
                for batch in loaded:
                    with runtime.computing():
                        raw = model(runtime.place(batch["clip"]))
                    terms = loss(runtime.widened(raw), runtime.place(batch["target"]))
                    losses.append(terms["loss"].item())
        finally:
            restore_random_state(before)
        return statistics.fmean(losses)


RULES = {
    "loss": Rule(
        "the mean of the training loss over the validated clips",
        "lower",
        "validation_loss",
        truth=LABELS,
        label="validation loss",
        measure=MeanLoss,
    ),
    "window_iou": Rule(
        "the IoU of windows before they are joined, p > {threshold}",
        "higher",
        "window_iou",
        takes="map",
        truth="mask",
        label="IoU of windows",
        measure=WindowIoU,
    ),
    "last": Rule("the last epoch, whatever its scores", "later"),
}
