"""Pd and Fa by the distance between centres, at many thresholds: one rule for mask and for box detectors."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from metrics.counting import as_array, ratio
from metrics.pd_fa import MAX_DISTANCE
from metrics.shooting_rules import count_reaching
from metrics.target_rules import ThresholdRule, threshold_index
from utils.boxes import Responses
from utils.errors import UserError
from utils.registry import register_metric

MOST_CUT = 0.01  # a curve whose scores begin above it has no area worth the name


@register_metric("CentroidPdFa")
class CentroidPdFa(ThresholdRule):
    """Targets found, false pixels and false responses per threshold.

    A response, a box or a component of a mask, counts where its score >= threshold. In the order of falling
    scores, each response takes the nearest target not yet taken whose centroid is closer than 3 pixels to its
    centre. False are the pixels within the frame that an unmatched response covers, each once.

    Boxes are larger than targets: the false pixels of boxes and of masks compare only loosely, their false
    responses do. The components of a mask are those of the detector's one threshold and do not grow below it.

    thresholds: ascending; by default the 27 of ShootingRules
    """

    takes = "responses"
    truth = "centroids"

    def __init__(self, thresholds: Sequence[float] | None = None):
        super().__init__(thresholds)

    def zero_counts(self) -> dict[str, Any]:
        per_threshold = {
            name: np.zeros(self.thresholds.size, np.int64) for name in ("true", "false", "false_responses")
        }
        return {**per_threshold, "targets": 0, "pixels": 0, "frames": 0, "cut_frames": 0}

    def update(self, responses: Responses, centroids: Any) -> None:
        """Count one frame.

        responses: see `utils.boxes`
        centroids: row and column of each target [N, 2]
        Raises UserError for a score that is nan.
        """
        centroids = as_array(centroids).reshape(-1, 2)
        scores = responses.scores
        if np.isnan(scores).any():
            raise UserError("a score is nan: check the checkpoint and the input frames")
        # What a threshold leaves is the beginning of the order of scores, so one matching serves them all.
        found = find_targets(scores, responses.centres, centroids)
        self.counts["true"] += count_reaching(scores[found], self.thresholds)
        self.counts["false"] += count_reaching(responses.pixel_scores(~found), self.thresholds)
        self.counts["false_responses"] += count_reaching(scores[~found], self.thresholds)
        self.counts["targets"] += len(centroids)
        self.counts["pixels"] += math.prod(responses.shape)
        self.counts["frames"] += 1
        self.counts["cut_frames"] += responses.lowest > MOST_CUT

    def compute(self) -> dict[str, Any]:
        """The figures of all frames so far.

        Arrays with one value per threshold: thresholds, true (targets found), targets, false (pixels),
        pd = true / targets, fa = false / pixels, false_boxes_per_frame (unmatched responses). Numbers: pixels
        (of the frames), auc and auc_normalised as ShootingRules has them. A figure is nan where there was
        nothing to count, and auc where responses of low scores are not listed, as of components of a mask.
        """
        figures = super().compute()
        if self.counts["cut_frames"]:
            figures |= {"auc": np.nan, "auc_normalised": np.nan}
        false_boxes = ratio(self.counts["false_responses"], self.counts["frames"])
        return {**figures, "false_boxes_per_frame": false_boxes}

    def caption(self, threshold: float) -> str:
        """What was found, with the false responses beside their pixels."""
        false = self.counts["false_responses"][threshold_index(self.thresholds, threshold)]
        return f"{super().caption(threshold)} in {false} response{'' if false == 1 else 's'}"


def find_targets(scores: np.ndarray, centres: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Which of the responses find a target, bool [N]; scores [N], centres [N, 2], targets [M, 2]."""
    distances = np.linalg.norm(centres[:, None] - targets, axis=2)  # [N, M]
    near = (distances < MAX_DISTANCE).any(axis=1)
    found = np.zeros(len(scores), bool)
    order = np.argsort(-scores, kind="stable")
    for place in order[near[order]]:
        nearest = distances[place].argmin()
        if distances[place, nearest] < MAX_DISTANCE:
            found[place] = True
            distances[:, nearest] = np.inf
    return found
