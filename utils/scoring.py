"""From counters to figures: what tables, eval.json and TensorBoard show."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import nn

from utils.engine import evaluate, merge_scores
from utils.errors import UserError

Metrics = dict[str, Any]


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


def figures(metrics: Metrics, threshold: float) -> dict[str, float]:
    """The figures of the tables at one threshold: pd, fa, auc, true, targets, false, pixels, iou, ..."""
    out: dict[str, float] = {}
    if "ShootingRules" in metrics:
        counted = metrics["ShootingRules"].compute()
        at = threshold_index(counted["thresholds"], threshold)
        out |= {k: counted[k][at].item() for k in ("pd", "fa", "true", "targets", "false")}
        out |= {k: float(counted[k]) for k in ("auc", "auc_normalised")} | {"pixels": int(counted["pixels"])}
    if "IoU" in metrics:
        out |= {k: float(v) for k, v in metrics["IoU"].compute().items()}
    return out


def curve(metrics: Metrics) -> dict[str, Any] | None:
    """The Pd/Fa curve over all thresholds, or None where targets could not be scored."""
    return metrics["ShootingRules"].compute() if "ShootingRules" in metrics else None


def threshold_index(thresholds: np.ndarray, threshold: float) -> int:
    """Place of `threshold` among those that were counted. Raises UserError if it is not among them."""
    places = np.flatnonzero(np.isclose(thresholds, threshold, rtol=0, atol=1e-12))
    if not len(places):
        known = ", ".join(f"{t:g}" for t in thresholds)
        raise UserError(f"Pd and Fa are not counted at the threshold {threshold}; choose one of {known}")
    return int(places[0])


def rule(metrics: Metrics, threshold: float) -> str:
    """By which rule the figures were computed, in words."""
    parts = [f"p >= {threshold:g}"]
    if "ShootingRules" in metrics:
        options = metrics["ShootingRules"].options
        parts = [f"ShootingRules match={options['match']} exclude={options['exclude']} at p >= {threshold:g}"]
    if "IoU" in metrics:
        parts.append(f"IoU at p > {metrics['IoU'].threshold:g}")
    return "; ".join(parts)
