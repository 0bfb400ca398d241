"""The ROC curve of pixels: rates, precision and F1 at evenly spaced thresholds, and the area below."""

from typing import Any

import numpy as np

from metrics.counting import CountingMetric, Curve, frame_arrays
from metrics.iou import MASKS, check_choice
from metrics.shooting_rules import count_reaching
from metrics.target_rules import AUC, area_under_curve, roc_curve
from utils.errors import UserError
from utils.registry import register_metric

PUBLISHED_F1_INDEX = 5  # of the threshold that RPRNet's F1 is taken at, 1/6 with 30 bins


@register_metric("ROC", aliases=("AUC", "F1"))
class ROC(CountingMetric):
    """Pixels detected (p > i / bins, i = 0..bins, in float32) and missed, by class.

    target: "positive": pixels above 0 are target, the others are not. "soft": the published comparison with a
            soft mask for equality. A detected pixel is true where the mask is 1 and else false; another one
            is missed where the mask is not 0 and else rightly silent. A pixel between 0 and 1 changes sides.
    truth:  the kind of truth that `update` takes, "mask" or "round_trip_mask"
    bins:   even and 6 or more, so that 1/2 is among the thresholds and the published F1 has its place
    Source: RPRNet, `ROCMetric` of its test.py.
    """

    takes = "map"
    figures = (AUC,)

    def __init__(self, bins: int = 30, target: str = "positive", truth: str = "mask"):
        if bins < 6 or bins % 2:
            raise UserError(f"the bins of ROC must be an even number of at least 6, not {bins!r}")
        check_choice("ROC", "target", target, ("positive", "soft"))
        check_choice("ROC", "truth", truth, MASKS)
        self.bins, self.target, self.truth = bins, target, truth
        self.thresholds = np.arange(bins + 1) / bins
        # The smallest float32 above each threshold: p exceeds the threshold where p reaches it.
        self.exceeding = np.nextafter(self.thresholds.astype(np.float32), np.float32(np.inf))
        super().__init__(bins=bins, target=target, truth=truth)

    def zero_counts(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(self.bins + 1, np.int64) for name in ("tp", "fp", "tn", "fn")}

    def update(self, probability: Any, mask: Any) -> None:
        """Count one frame.

        probability: [h, w] in 0..1; another size than the mask's is resized to it bilinearly
        mask:        [H, W]; target by the rule of `target`
        """
        probability, mask = frame_arrays(probability, mask)
        probability = probability.astype(np.float32, copy=False)
        is_target = mask != 0 if self.target == "soft" else mask > 0
        is_hit = mask == 1 if self.target == "soft" else is_target

        detected, true, detected_targets = (
            count_reaching(values.ravel(), self.exceeding)
            for values in (probability, probability[is_hit], probability[is_target])
        )
        num_targets = np.count_nonzero(is_target)
        self.counts["tp"] += true
        self.counts["fp"] += detected - true
        self.counts["tn"] += mask.size - num_targets - (detected - detected_targets)
        self.counts["fn"] += num_targets - detected_targets

    def compute(self) -> dict[str, Any]:
        """The figures of all frames so far.

        Arrays with one value per threshold: thresholds, tp, fp, pos (tp + fn), neg (fp + tn), class_pos
        (tp + fp), tpr = tp / (pos + 0.001), fpr = fp / (neg + 0.001), precision = tp / (class_pos + 0.001).
        The published 0.001 makes a rate 0 where there was nothing to count. Numbers:

        f1_published: 2 precision tpr / (precision + tpr + 1e-5) at the sixth threshold, 1/6 with 30 bins
        f1_at_half:   the same at the threshold 1/2
        auc:          trapezoids under tpr over fpr from (0, 0) to (1, 1); nan without target or background
        """
        tp, fp, tn, fn = (self.counts[name] for name in ("tp", "fp", "tn", "fn"))
        pos, neg, class_pos = tp + fn, fp + tn, tp + fp
        tpr, fpr, precision = tp / (pos + 0.001), fp / (neg + 0.001), tp / (class_pos + 0.001)
        f1 = 2 * precision * tpr / (precision + tpr + 1e-5)
        # Nothing exceeds the threshold 1, so that pos and neg there count all target and background pixels.
        has_both_classes = pos[-1] > 0 and neg[-1] > 0
        auc = area_under_curve(np.r_[1, fpr, 0], np.r_[1, tpr, 0]) if has_both_classes else np.nan
        return {
            "thresholds": self.thresholds.copy(),
            "tp": tp.copy(),
            "fp": fp.copy(),
            "pos": pos,
            "neg": neg,
            "class_pos": class_pos,
            "tpr": tpr,
            "fpr": fpr,
            "precision": precision,
            "f1_published": float(f1[PUBLISHED_F1_INDEX]),
            "f1_at_half": float(f1[self.bins // 2]),
            "auc": float(auc),
        }

    def curves(self) -> dict[str, Curve | None]:
        """The true over the false positive rate as "roc", which its values hold as pd and fa too."""
        computed = self.compute()
        labels = "false positive rate of pixels", "true positive rate of pixels"
        return {"roc": roc_curve(computed["fpr"], computed["tpr"], labels, computed)}
