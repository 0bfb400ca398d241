"""Evaluation protocols as data: which metrics, with which options, against which truth.

"clean" is the same for every model: the original masks at their original size, both rules for targets, and
one binary truth for every pixel figure. The others are what a paper's own code does; a model's recipe names
its paper's in `scoring`.
"""

from typing import Any

from metrics import create_metric
from utils.boxes import MIN_SIDE
from utils.errors import UserError, near_matches

# Of the 50 figures that DTUM publishes, and of their AUC.
DTUM_THRESHOLDS = (
    *(0, 1e-30, *(float(f"1e{power}") for power in range(-20, 0))),
    *(0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    *(0.975, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 0.999999, 0.9999999, 1),
)

PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {
    "clean": {
        "ShootingRules": {"border": "clip"},
        "PdFa": {"rule": "pixels"},
        "CentroidPdFa": {},
        "IoU": {},
        "ROC": {"target": "positive"},
        "AveragePrecision": {"images": "all", "min_side": MIN_SIDE},
    },
    "STMENet": {"AveragePrecision": {"images": "annotated"}},  # SMFNet's and SSTNet's as well
    "DeepPro": {"ShootingRules": {"border": "published"}, "IoU": {}},
    "DTUM": {"ShootingRules": {"border": "published", "thresholds": DTUM_THRESHOLDS}, "IoU": {}},
    # RFR's code has no ROC, and its targets of a mask that is neither 0 nor 255 vanish; here they do not.
    "RFR": {"PdFa": {"rule": "areas"}, "IoU": {}},
    # BasicIRSTD's as well. TSMSA's code scores TSMSA, unlike its single-frame networks, on frames and masks
    # resized to 512x512, where 3 pixels are not the same; here all are scored at the size of the files.
    "TSMSA": {"PdFa": {"rule": "pixels"}, "IoU": {}},
    # Truth is the mask after the letterbox and back, which makes it soft; every figure then draws its own
    # line between target and background (RPRNet's test.py).
    "RPRNet": {
        "PdFa": {"rule": "areas", "target": "positive", "truth": "round_trip_mask"},
        "IoU": {"target": "positive", "truth": "round_trip_mask"},
        "nIoU": {"target": "one", "truth": "round_trip_mask"},
        "ROC": {"target": "soft", "truth": "round_trip_mask"},
    },
}

Key = tuple[str, str]  # protocol as the user calls it, metric


def protocol_metrics(
    protocols: list[str], scoring: str, threshold: float, match: int, exclude: int
) -> dict[Key, Any]:
    """New metrics of several protocols, by ("published" or "clean", name of the metric).

    scoring:        the paper's protocol that "published" stands for
    threshold:      of the metrics that count at one threshold
    match, exclude: half sizes of ShootingRules
    Raises UserError for an unknown `scoring`.
    """
    if scoring not in PROTOCOLS:
        raise UserError(f"there is no scoring {scoring!r}; {near_matches(scoring, PROTOCOLS)}")
    metrics = {}
    for protocol in protocols:
        chosen = PROTOCOLS[scoring if protocol == "published" else protocol]
        for name, options in chosen.items():
            if name == "ShootingRules":
                options = {**options, "match": match, "exclude": exclude}
            elif name in ("PdFa", "IoU", "nIoU"):
                options = {**options, "threshold": threshold}
            metrics[protocol, name] = create_metric(name, **options)
    return metrics
