"""Pd, Fa and AUC by the shooting rules of DTUM and DeepPro, at many thresholds in one pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from skimage.measure import label

from metrics.counting import frame_arrays
from metrics.target_rules import ThresholdRule
from utils.errors import UserError
from utils.registry import register_metric

BORDERS = ("published", "clip")


@register_metric("ShootingRules")
class ShootingRules(ThresholdRule):
    """Targets found and false pixels per threshold.

    A target is an 8-connected component of the centroid map. It is found when p >= threshold somewhere within
    `match` rows and columns of one of its pixels. A false pixel has p >= threshold and lies farther than
    `exclude` rows or columns from every target pixel. One response may find several targets.

    thresholds: ascending; by default the 27 of the published figures
    match:      half size of the box in which a response finds a target
    exclude:    half size of the box around a target in which responses are not false
    border:     "published" keeps the slices of the published code, which read a negative start from the far
                end: a target pixel nearer to the top or left border than a half size has an empty box (in
                frames smaller than the box, one at the far end). "clip" cuts the box at the border.
    Source: DTUM (TNNLS 2023) and DeepPro (arXiv 2506.12766), `ShootingRules` of their code. The published
    DeepPro figures have half sizes 2 and 5, those of DeepPro-Plus and of today's code 1 and 4.
    """

    takes = "score_map"  # it labels no responses, boxes will do
    truth = "centroid_map"

    def __init__(
        self,
        thresholds: Sequence[float] | None = None,
        match: int = 1,
        exclude: int = 4,
        border: str = "published",
    ):
        if border not in BORDERS:
            raise UserError(f"ShootingRules has no border {border!r}; known: {', '.join(BORDERS)}")
        self.match, self.exclude, self.border = match, exclude, border
        super().__init__(thresholds, match=match, exclude=exclude, border=border)
        self.exact_thresholds = {
            dtype: exact_thresholds(self.thresholds, dtype) for dtype in map(np.dtype, ("float32", "float64"))
        }

    def zero_counts(self) -> dict[str, Any]:
        per_threshold = self.thresholds.size
        return {
            "true": np.zeros(per_threshold, np.int64),
            "false": np.zeros(per_threshold, np.int64),
            "targets": 0,
            "pixels": 0,
        }

    def update(self, probability: Any, centroid_map: Any) -> None:
        """Count one frame.

        probability:  [h, w] in 0..1; another size than the map's is resized to it bilinearly
        centroid_map: [H, W]. Floats count where they are 1 or more after truncation, as a file's values / 255
                      do in the publication. Of integers, a map with a maximum of 0 or 1 is a 0/1 map; in any
                      other map only 255 counts.
        """
        probability, centroid_map = frame_arrays(probability, centroid_map)
        thresholds = self.exact_thresholds[probability.dtype]

        rows, cols, component = target_pixels(centroid_map)
        best = np.full(component.max(initial=0), -np.inf)  # per target, the largest p in its match boxes
        outside = probability.copy()  # with -inf, which reaches no threshold, in the exclusion boxes
        for row, col, target in zip(rows.tolist(), cols.tolist(), component - 1, strict=True):
            match_box = probability[self.box(row, col, self.match)]
            best[target] = match_box.max(initial=best[target])
            outside[self.box(row, col, self.exclude)] = -np.inf

        for response in best:
            self.counts["true"] += response >= thresholds
        self.counts["false"] += count_reaching(outside.ravel(), thresholds)
        self.counts["targets"] += best.size
        self.counts["pixels"] += centroid_map.size

    def box(self, row: int, col: int, half: int) -> tuple[slice, slice]:
        """The box of side 2 * half + 1 around a pixel."""
        top, left = row - half, col - half
        if self.border == "clip":
            top, left = max(top, 0), max(left, 0)
        return slice(top, row + half + 1), slice(left, col + half + 1)


def target_pixels(centroid_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and component numbers (from 1) of the target pixels of a map [H, W].

    Components are 8-connected and of one value, as scikit-image labels the map that is truncated to integers.
    """
    if centroid_map.dtype.kind == "f":
        is_target = centroid_map >= 1
    else:
        is_target = centroid_map == (255 if centroid_map.max() > 1 else 1)
    rows, cols = np.divmod(np.flatnonzero(is_target), centroid_map.shape[1])
    if rows.size == 0:
        return rows, cols, rows
    top, left = rows[0], cols.min()
    extent = np.s_[top : rows[-1] + 1, left : cols.max() + 1]  # to label only where there are targets
    values = (centroid_map[extent] * is_target[extent]).astype(np.int64)
    return rows, cols, label(values, connectivity=2)[rows - top, cols - left]


def exact_thresholds(thresholds: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The smallest numbers of `dtype` that are not below the float64 thresholds.

    p >= threshold then gives in p's own dtype what the comparison in float64 gives.
    """
    rounded = thresholds.astype(dtype)
    return np.where(rounded < thresholds, np.nextafter(rounded, np.inf, dtype=dtype), rounded)


def count_reaching(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many of `values` [N] reach each of the ascending `thresholds`; int64, one count per threshold."""
    counts = np.zeros(thresholds.size, np.int64)
    for index, threshold in enumerate(thresholds):
        reached = values >= threshold
        counts[index] = np.count_nonzero(reached)
        if 32 * counts[index] < values.size:  # from here on, it is faster to sort what is left
            few = np.sort(np.compress(reached, values))
            counts[index:] = few.size - np.searchsorted(few, thresholds[index:])
            break
    return counts
