"""What rules for targets share: Pd, Fa and, where they count at many thresholds, the curve between them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metrics.counting import CountingMetric, Curve, Figure, ratio
from utils.errors import UserError

PD = Figure("pd", "Pd %", 100, ".2f")
FA = Figure("fa", "Fa 1e-5", 1e5, ".2f", better="lower")
AUC = Figure("auc", "AUC", 1, ".4f")

# The thresholds of the published figures; their AUC depends on this list.
THRESHOLDS = (
    *(0, 1e-20, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5),
    *(0.55, 0.6, 0.65, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1),
)


class TargetRule(CountingMetric):
    """A rule by which targets are found; `compute` gives pd, fa, true, targets, false and pixels."""

    figures = (PD, FA)
    finds_targets = True

    def caption(self, threshold: float) -> str:
        """What was found in the frames so far at an operating point, in the units of the rule."""
        numbers = self.figures_at(threshold)
        return f"found {numbers['true']} of {numbers['targets']}    false pixels {numbers['false']}"


class ThresholdRule(TargetRule):
    """A rule that counts at many thresholds, whose counts "true" and "false" have one value per threshold."""

    figures = (PD, FA, AUC)

    def __init__(self, thresholds: Sequence[float] | None, **options: Any):
        self.thresholds = np.array(THRESHOLDS if thresholds is None else thresholds, np.float64)
        if self.thresholds.size == 0 or np.any(np.diff(self.thresholds) <= 0):
            raise UserError(
                f"the thresholds of {type(self).__name__} must be one or more, in ascending order"
            )
        super().__init__(thresholds=tuple(self.thresholds.tolist()), **options)

    def compute(self) -> dict[str, Any]:
        """The figures of all frames so far.

        Arrays with one value per threshold: thresholds, true (targets found), targets, false (pixels),
        pd = true / targets, fa = false / pixels. Numbers: pixels (of the truth), auc, and
        auc_normalised = auc / the range of fa, which a perfect detector brings to 1. A figure is nan where
        there was nothing to count.
        """
        counts = self.counts
        pd, fa = ratio(counts["true"], counts["targets"]), ratio(counts["false"], counts["pixels"])
        auc = area_under_curve(fa, pd)
        return {
            "thresholds": self.thresholds.copy(),
            "true": counts["true"].copy(),
            "targets": np.full(self.thresholds.size, counts["targets"]),
            "false": counts["false"].copy(),
            "pixels": counts["pixels"],
            "pd": pd,
            "fa": fa,
            "auc": auc,
            "auc_normalised": ratio(auc, fa[0] - fa[-1]),
        }

    def figures_at(self, threshold: float) -> dict[str, Any]:
        """The numbers of `compute`, and what its arrays hold at the threshold.

        Raises UserError for a threshold that was not counted.
        """
        at = threshold_index(self.thresholds, threshold)
        return {name: value[at].item() if np.ndim(value) else value for name, value in self.compute().items()}

    def curves(self) -> dict[str, Curve | None]:
        """Pd over Fa as "roc", where it has an area."""
        computed = self.compute()
        if np.isnan(computed["auc"]):
            return {"roc": None}
        labels = "Fa (false pixels / pixels)", "Pd (targets found / targets)"
        return {"roc": roc_curve(computed["fa"], computed["pd"], labels, computed)}

    def description(self, threshold: float) -> str:
        options = {**self.options, "thresholds": self.thresholds.size}
        options["thresholds"] = options.pop("thresholds")  # last
        return " ".join(f"{name}={value}" for name, value in options.items()) + f" at p >= {threshold:g}"


def roc_curve(fa: np.ndarray, pd: np.ndarray, labels: tuple[str, str], computed: dict[str, Any]) -> Curve:
    """The curve of `pd` over `fa` [N] with the point at 0.5, if `computed["thresholds"]` [N] hold that."""
    at_half = np.flatnonzero(np.equal(computed["thresholds"], 0.5))
    point = (fa[at_half[0]], pd[at_half[0]]) if at_half.size else None
    return Curve("roc", fa, pd, *labels, point, {**computed, "fa": fa, "pd": pd})


def threshold_index(thresholds: np.ndarray, threshold: float) -> int:
    """Place of `threshold` among those that were counted. Raises UserError if it is not among them."""
    places = np.flatnonzero(np.isclose(thresholds, threshold, rtol=0, atol=1e-12))
    if not len(places):
        known = ", ".join(f"{t:g}" for t in thresholds)
        raise UserError(f"Pd and Fa are not counted at the threshold {threshold}; choose one of {known}")
    return int(places[0])


def area_under_curve(fa: np.ndarray, pd: np.ndarray) -> float:
    """Trapezoid area under pd over fa, both in the order of ascending thresholds (so fa never rises).

    As published, no end point is added and nothing is normalised: with fa < 1 at the lowest threshold, the
    area stays below 1 even for a perfect detector. Fewer than two points have no area: nan.
    """
    if len(fa) < 2:
        return float("nan")
    return float(np.sum((fa[:-1] - fa[1:]) * (pd[:-1] + pd[1:]) / 2))
