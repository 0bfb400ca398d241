"""Metrics by name: pure counters with `update(prediction, truth)`, `compute()`, `merge(other)`, `reset()`."""

from metrics import iou, shooting_rules  # noqa: F401
from utils.registry import METRICS, register_metric


def list_metrics() -> list[str]:
    """The registered names, sorted."""
    return METRICS.names()


def create_metric(name: str, **options):
    """Build a metric by name. Raises UserError for an unknown name or option."""
    return METRICS.create(name, **options)


def mask_metrics(match: int, exclude: int, threshold: float) -> dict:
    """The metrics by which probability maps are scored: targets (Pd, Fa, AUC) and pixels (IoU, nIoU)."""
    return {
        "ShootingRules": create_metric("ShootingRules", match=match, exclude=exclude),
        "IoU": create_metric("IoU", threshold=threshold),
    }


__all__ = ["create_metric", "list_metrics", "mask_metrics", "register_metric"]
