"""Pixel figures at one threshold: pooled IoU, nIoU, pixAcc, precision, recall, F1."""

from typing import Any

import numpy as np

from metrics.counting import CountingMetric, frame_arrays, ratio
from utils.registry import register_metric


@register_metric("IoU")
class IoU(CountingMetric):
    """Overlap of the detected pixels (p > threshold) with the target pixels (truth > 0).

    Source: DeepPro (arXiv 2506.12766) for the pooled IoU, RPRNet's test for nIoU and pixAcc.
    """

    truth = "mask"  # the kind of truth that `update` takes

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold
        super().__init__(threshold=threshold)

    def zero_counts(self) -> dict[str, Any]:
        return {"intersection": 0, "detected": 0, "truth": 0, "frame_iou_sum": 0.0, "frames": 0}

    def update(self, probability: Any, mask: Any) -> None:
        """Count one frame.

        probability: [h, w] in 0..1; another size than the mask's is resized to it bilinearly
        mask:        [H, W]; target where it is above 0
        """
        probability, mask = frame_arrays(probability, mask)
        detected = probability > np.array([self.threshold], np.float64)  # an array, to compare in float64
        truth = mask > 0
        intersection, num_detected, num_truth = (
            int(np.count_nonzero(pixels)) for pixels in (detected & truth, detected, truth)
        )
        union = num_detected + num_truth - intersection
        self.counts["intersection"] += intersection
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
        hits, positives = counts["intersection"], counts["detected"] + counts["truth"]
        recall = ratio(hits, counts["truth"])
        figures = {
            "iou": ratio(hits, positives - hits),
            "niou": ratio(counts["frame_iou_sum"], counts["frames"]),
            "pixacc": recall,
            "precision": ratio(hits, counts["detected"]),
            "recall": recall,
            "f1": ratio(2 * hits, positives),
        }
        return {name: float(value) for name, value in figures.items()}
