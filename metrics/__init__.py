"""Metrics by name: pure counters with `update(prediction, truth)`, `compute()`, `merge(other)`, `reset()`.

Each declares what it takes, which truth it needs and which figures it gives: see metrics/counting.py.
"""

from metrics import average_precision, centroid_pd_fa, iou, pd_fa, roc, shooting_rules, tracks  # noqa: F401
from metrics.counting import check_declaration
from utils.registry import METRICS, register_metric


def list_metrics() -> list[str]:
    """The registered names, sorted."""
    return METRICS.names()


def create_metric(name: str, **options):
    """Build a metric by name. Raises UserError for an unknown name or option, or a declaration with gaps."""
    metric = METRICS.create(name, **options)
    check_declaration(METRICS.entry(name).name, metric)
    return metric


__all__ = ["create_metric", "list_metrics", "register_metric"]
