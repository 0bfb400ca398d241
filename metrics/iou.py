"""Pixel figures at one threshold: pooled IoU, nIoU, pixAcc, precision, recall, F1."""

from typing import Any

import numpy as np

from metrics.counting import CountingMetric, Figure, frame_arrays, ratio
from utils.errors import UserError
from utils.registry import register_metric

MASKS = ("mask", "round_trip_mask")  # the kinds of truth that pixel metrics take, and PdFa
NIOU = Figure("niou", "nIoU", 1, ".4f")
TARGETS = {"positive": lambda mask: mask > 0, "one": lambda mask: mask.astype(np.int64) == 1}


@register_metric("IoU", aliases=("mIoU", "pixAcc"))
class IoU(CountingMetric):
    """Overlap of the detected pixels (p > threshold) with the target pixels.

    target: "positive": pixels above 0 are target. "one": those that are 1 once truncated to integers.
            "soft": the published comparison with a soft mask, in which a hit has exactly 1, the union counts
            what is 0.5 or more, and recall is over what is above 0.
    truth:  the kind of truth that `update` takes, "mask" or "round_trip_mask"
    Source: DeepPro (arXiv 2506.12766) for the pooled IoU; RPRNet's test.py for nIoU and pixAcc ("positive",
    nIoU "one") and its metrics.py ("soft").
    """

    takes = "map"
    figures = (Figure("iou", "IoU", 1, ".4f"), NIOU)

    def __init__(self, threshold: float = 0.5, target: str = "positive", truth: str = "mask"):
        check_choice(type(self).__name__, "target", target, (*TARGETS, "soft"))
        check_choice(type(self).__name__, "truth", truth, MASKS)
        self.threshold, self.target, self.truth = threshold, target, truth
        super().__init__(threshold=threshold, target=target, truth=truth)

    def zero_counts(self) -> dict[str, Any]:
        return {"intersection": 0, "union": 0, "detected": 0, "truth": 0, "frame_iou_sum": 0.0, "frames": 0}

    def update(self, probability: Any, mask: Any) -> None:
        """Count one frame.

        probability: [h, w] in 0..1; another size than the mask's is resized to it bilinearly
        mask:        [H, W]; target by the rule of `target`
        """
        probability, mask = frame_arrays(probability, mask)
        detected = exceeds(probability, self.threshold)
        if self.target == "soft":
            hit, area, truth = mask == 1, mask >= 0.5, mask > 0
        else:
            hit = area = truth = TARGETS[self.target](mask)
        intersection, num_detected, num_area, num_truth = (
            int(np.count_nonzero(pixels)) for pixels in (detected & hit, detected, area, truth)
        )
        union = num_detected + num_area - intersection
        self.counts["intersection"] += intersection
        self.counts["union"] += union
        self.counts["detected"] += num_detected
        self.counts["truth"] += num_truth
        self.counts["frame_iou_sum"] += intersection / union if union else 0.0
        self.counts["frames"] += 1

    def compute(self) -> dict[str, float]:
        """The figures of all frames so far, each in 0..1, and nan without anything to count.

        iou:     intersection / union of all frames together
        niou:    mean of the frames' own IoU, in which an empty frame with an empty prediction counts 0
        pixacc:  intersection / truth, the name of `recall` in RPRNet's code
        precision, recall, f1: of pixels
        """
        counts = self.counts
        hits = counts["intersection"]
        recall = ratio(hits, counts["truth"])
        figures = {
            "iou": ratio(hits, counts["union"]),
            "niou": ratio(counts["frame_iou_sum"], counts["frames"]),
            "pixacc": recall,
            "precision": ratio(hits, counts["detected"]),
            "recall": recall,
            "f1": ratio(2 * hits, counts["detected"] + counts["truth"]),
        }
        return {name: float(value) for name, value in figures.items()}


@register_metric("nIoU")
class NormalisedIoU(IoU):
    """nIoU alone, for protocols whose IoU draws another line between target and background."""

    figures = (NIOU,)

    def compute(self) -> dict[str, float]:
        """niou: mean of the frames' own IoU, in which an empty frame with an empty prediction counts 0."""
        return {"niou": super().compute()["niou"]}


def exceeds(probability: np.ndarray, threshold: float) -> np.ndarray:
    """probability > threshold, compared in float64 whatever the probability's own precision."""
    return probability > np.array([threshold], np.float64)  # a bare number would be rounded


def check_choice(metric: str, option: str, value: str, known: tuple[str, ...]) -> None:
    """Raises UserError if `value` is not among the known ones."""
    if value not in known:
        raise UserError(f"{metric} has no {option} {value!r}; known: {', '.join(known)}")
