"""Pd and Fa by the distance between centroids, at one threshold."""

from typing import Any

import numpy as np

from metrics.counting import frame_arrays, ratio
from metrics.iou import MASKS, TARGETS, check_choice, exceeds
from metrics.target_rules import TargetRule
from utils.components import Components
from utils.registry import register_metric

MAX_DISTANCE = 3  # pixels between the centroids of a target and its response, exclusive
RULES = ("pixels", "areas")


@register_metric("PdFa")
class PdFa(TargetRule):
    """Targets found and false pixels, counted by components.

    Targets and responses are the 8-connected components of the mask and of p > threshold, each in the raster
    order of its first pixel. A target is found by the first response not yet taken whose centroid is closer
    than 3 pixels; a response finds one target.

    rule:   "pixels": false are the pixels of the responses that found nothing. "areas": only of those whose
            area differs from that of every response of the frame that found a target.
    target: "positive": pixels above 0 are target. "one": those that are 1 once truncated to integers.
    truth:  the kind of truth that `update` takes, "mask" or "round_trip_mask"
    frame_pixels: what a frame adds to the pixels that Fa is divided by; None: the pixels that it has
    Source: "areas" from RPRNet and RFR (arXiv 2409.12448), "pixels" from today's XinyiYing/BasicIRSTD.
    """

    takes = "map"

    def __init__(
        self,
        threshold: float = 0.5,
        rule: str = "pixels",
        target: str = "positive",
        truth: str = "mask",
        frame_pixels: int | None = None,
    ):
        check_choice("PdFa", "rule", rule, RULES)
        check_choice("PdFa", "target", target, tuple(TARGETS))
        check_choice("PdFa", "truth", truth, MASKS)
        self.threshold, self.rule, self.target, self.truth = threshold, rule, target, truth
        self.frame_pixels = frame_pixels
        others = {} if frame_pixels is None else {"frame_pixels": frame_pixels}
        super().__init__(threshold=threshold, rule=rule, target=target, truth=truth, **others)

    def zero_counts(self) -> dict[str, int]:
        return {"true": 0, "targets": 0, "false": 0, "pixels": 0}

    def update(self, probability: Any, mask: Any) -> None:
        """Count one frame.

        probability: [h, w] in 0..1; another size than the mask's is resized to it bilinearly
        mask:        [H, W]; target by the rule of `target`
        """
        probability, mask = frame_arrays(probability, mask)
        targets = Components.of(TARGETS[self.target](mask))
        responses = Components.of(exceeds(probability, self.threshold))
        areas, found = responses.areas, match(targets.centroids, responses.centroids)
        if self.rule == "areas":
            false = areas[~np.isin(areas, areas[found])].sum()
        else:
            false = areas.sum() - areas[found].sum()
        self.counts["true"] += len(found)
        self.counts["targets"] += len(targets)
        self.counts["false"] += int(false)
        self.counts["pixels"] += mask.size if self.frame_pixels is None else self.frame_pixels

    def compute(self) -> dict[str, float | int]:
        """The figures of all frames so far.

        pd = true / targets and fa = false / pixels, nan where there was nothing to count; and the counts
        true (targets found), targets, false (pixels), pixels (of the frames).
        """
        pd = ratio(self.counts["true"], self.counts["targets"])
        fa = ratio(self.counts["false"], self.counts["pixels"])
        return {"pd": float(pd), "fa": float(fa), **self.counts}


def match(targets: np.ndarray, responses: np.ndarray) -> list[int]:
    """Places of the responses that find a target; centroids [N, 2] and [M, 2]."""
    free = responses.copy()
    found = []
    for target in targets:
        near = np.flatnonzero(np.linalg.norm(free - target, axis=1) < MAX_DISTANCE)
        if near.size:
            found.append(int(near[0]))
            free[near[0]] = np.inf
    return found
