"""From counters to figures: what tables, eval.json and TensorBoard show."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from utils.engine import evaluate, merge_scores
from utils.errors import UserError

Metrics = dict[tuple[str, str], Any]  # by (protocol, name of the metric)

TARGET_RULES = ("ShootingRules", "PdFa")


def score_set(
    model: nn.Module,
    videos: Iterable,
    subsets: Mapping[str, Iterable[str]],
    new_metrics: Callable[[], Metrics],
    device,
    on_frame: Callable | None = None,
) -> tuple[dict[str, Metrics], dict[str, Metrics]]:
    """(metrics per group, metrics per sequence). The groups are "all" and the data set's subsets."""
    scores = evaluate(model, videos, new_metrics, device, on_frame)
    groups = {"all": merge_scores(scores, new_metrics, scores)}
    for name, members in subsets.items():
        groups[name] = merge_scores(scores, new_metrics, [m for m in members if m in scores])
    return groups, scores


@dataclass(frozen=True)
class Scoring:
    """One line of a table: the figures of one protocol with one of its rules for targets.

    threshold: of Pd and Fa by ShootingRules; the other metrics have theirs in their options
    """

    protocol: str
    targets: str  # one of TARGET_RULES
    threshold: float

    def figures(self, metrics: Metrics) -> dict[str, float]:
        """pd, fa, auc, true, targets, false, pixels, iou, niou, ...; what could not be scored is left out.

        auc is the area under Pd over Fa with ShootingRules, else that of the pixels' ROC curve. Raises
        UserError when ShootingRules did not count at the threshold.
        """
        out: dict[str, float] = {}
        for name in ("IoU", "nIoU", "ROC"):
            if metric := metrics.get((self.protocol, name)):
                out |= {k: float(v) for k, v in metric.compute().items() if np.ndim(v) == 0}
        if self.targets == "ShootingRules":
            out.pop("auc", None)
        if metric := metrics.get((self.protocol, self.targets)):
            counted = metric.compute()
            if self.targets == "ShootingRules":
                at = threshold_index(counted["thresholds"], self.threshold)
                counted |= {k: counted[k][at].item() for k in ("pd", "fa", "true", "targets", "false")}
            out |= {k: v for k, v in counted.items() if np.ndim(v) == 0}
        return out

    def curve(self, metrics: Metrics) -> dict[str, Any] | None:
        """The curve under which `auc` is the area, as "thresholds", "fa" and "pd"; None where there is none.

        With ShootingRules of targets; else of pixels: "fa" is then the false and "pd" the true positive rate.
        """
        name = "ShootingRules" if self.targets == "ShootingRules" else "ROC"
        metric = metrics.get((self.protocol, name))
        if metric is None:
            return None
        counted = metric.compute()
        if name == "ROC":
            return {**counted, "fa": counted["fpr"], "pd": counted["tpr"]}
        return counted if counted["targets"][0] else None

    def rule(self, metrics: Metrics) -> str:
        """By which metrics and options the figures were computed, in words."""
        parts = []
        if (self.protocol, self.targets) not in metrics:
            parts.append(f"{self.targets}: not scored, its kind of truth is missing")
        for (protocol, name), metric in metrics.items():
            if protocol == self.protocol and name in (self.targets, "IoU", "nIoU", "ROC"):
                options = {k: v for k, v in metric.options.items() if k != "thresholds"}
                text = " ".join([name, *(f"{k}={v}" for k, v in options.items())])
                parts.append(f"{text} at p >= {self.threshold:g}" if name == "ShootingRules" else text)
        return "; ".join(parts)


def scorings(metrics: Metrics, threshold: float) -> list[Scoring]:
    """Every protocol of `metrics` with each of its rules for targets. Refuses a threshold, as `figures`."""
    found = [Scoring(protocol, name, threshold) for protocol, name in metrics if name in TARGET_RULES]
    for scoring in found:
        scoring.figures(metrics)
    return found


def threshold_index(thresholds: np.ndarray, threshold: float) -> int:
    """Place of `threshold` among those that were counted. Raises UserError if it is not among them."""
    places = np.flatnonzero(np.isclose(thresholds, threshold, rtol=0, atol=1e-12))
    if not len(places):
        known = ", ".join(f"{t:g}" for t in thresholds)
        raise UserError(f"Pd and Fa are not counted at the threshold {threshold}; choose one of {known}")
    return int(places[0])
