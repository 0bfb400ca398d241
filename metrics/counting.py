"""What the metrics share: declarations, counters that add up over frames and processes, frames as arrays."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch

from utils.errors import UserError

# Attributes of the predictions of utils.boxes, and keys of TestVideo.truth.
PREDICTIONS = ("map", "score_map", "responses", "boxes", "tracks")
TRUTHS = ("mask", "round_trip_mask", "centroid_map", "centroids", "boxes", "identities")
DECLARED = ("takes", "truth", "figures", "finds_targets", "options")
DECLARES = "metrics/counting.py says what a metric declares"
METHODS = ("update", "compute", "merge", "reset", "require", "figures_at", "curves", "description")


@dataclass(frozen=True)
class Figure:
    """A number that tables show.

    name:   its key in what `compute` gives
    label:  the title of its column, with the unit
    factor: what it is multiplied by to be in that unit
    format: its format specification in text and Markdown
    better: whether the "higher" or the "lower" of two is the better one
    """

    name: str
    label: str
    factor: float
    format: str
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve to draw.

    kind:             "roc", drawn over a logarithmic axis, or "pr", precision over recall
    x, y:             one value per point [N]
    x_label, y_label: what the axes are called
    point:            x and y of the operating point at 0.5, or None
    values:           all that the metric computed, for eval.json
    """

    kind: Literal["roc", "pr"]
    x: np.ndarray
    y: np.ndarray
    x_label: str
    y_label: str
    point: tuple[float, float] | None
    values: dict[str, Any]


class CountingMetric:
    """Options and counters: `update` adds to `counts`, `merge` sums the counts of two, `compute` divides.

    A subclass gives `zero_counts()`, `update(prediction, truth)` and `compute()`, which has every figure also
    without any frame (see `ratio`). It passes the options that decide what is counted to `__init__` and
    declares

    takes:         the kind of prediction that `update` takes, one of PREDICTIONS
    truth:         the kind of truth, one of TRUTHS; of the class, or of an instance by its options
    figures:       what tables show of it, in the order of the columns
    finds_targets: whether it is a rule for targets: it gives pd, fa and `caption`, and names the lines of a
                   table in which it stands
    """

    takes: str
    truth: str
    figures: tuple[Figure, ...]
    finds_targets: bool = False

    def __init__(self, **options: Any):
        self.options = options
        self.reset()

    def zero_counts(self) -> dict[str, Any]:
        """The counters before any frame."""
        raise UserError(f"the metric {type(self).__name__} does not declare zero_counts(); {DECLARES}")

    def require(self) -> None:
        """Raises UserError where a package that it counts with is not installed."""

    def reset(self) -> None:
        """Forget every frame."""
        self.counts = self.zero_counts()

    def merge(self, other: "CountingMetric") -> None:
        """Add the frames that `other` has counted. Raises ValueError for another metric or other options."""
        if type(other) is not type(self) or other.options != self.options:
            raise ValueError(f"{other!r} does not count what {self!r} counts")
        for name, count in other.counts.items():
            self.counts[name] = self.counts[name] + count

    def figures_at(self, threshold: float) -> dict[str, Any]:
        """The numbers of `compute`, without its arrays.

        threshold: the operating point of metrics that count at many thresholds; the others ignore it
        """
        return {name: value for name, value in self.compute().items() if np.ndim(value) == 0}

    def curves(self) -> dict[str, Curve | None]:
        """Its curves by kind, "roc" or "pr"; None where a curve is undefined, as without targets."""
        return {}

    def description(self, threshold: float) -> str:
        """The options by which it counts, in words; `threshold` as in `figures_at`."""
        return " ".join(f"{name}={value}" for name, value in self.options.items())

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options})"


def check_declaration(name: str, metric: Any) -> None:
    """Raises UserError where a metric does not declare what CountingMetric asks for."""
    missing = [what for what in DECLARED if not hasattr(metric, what)]
    missing += [f"{what}()" for what in METHODS if not callable(getattr(metric, what, None))]
    if not missing and metric.finds_targets and not hasattr(metric, "caption"):
        missing = ["caption()"]
    if missing:
        raise UserError(f"the metric {name} does not declare {', '.join(missing)}; {DECLARES}")
    for what, value, known in (("takes", metric.takes, PREDICTIONS), ("truth", metric.truth, TRUTHS)):
        if value not in known:
            raise UserError(f"the metric {name} declares {what}={value!r}; known: {', '.join(known)}")
    if not all(isinstance(figure, Figure) for figure in metric.figures):
        raise UserError(f"the metric {name} declares figures that are no metrics.counting.Figure")


def ratio(numerator: Any, denominator: int | float) -> Any:
    """numerator / denominator, or nan where the denominator is 0 because there was nothing to count."""
    return np.divide(numerator, denominator if denominator else np.nan)


def frame_arrays(prediction: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    """The prediction and the truth of one frame as arrays [H, W] of the truth's size.

    prediction: array or tensor [h, w] of probabilities, float32 or float64 on return; resized bilinearly by
                OpenCV if the truth has another size
    truth:      array or tensor [H, W]
    Raises ValueError for other shapes, UserError for a prediction with nan.
    """
    prediction, truth = as_array(prediction), as_array(truth)
    if prediction.ndim != 2 or truth.ndim != 2:
        raise ValueError(f"a frame is [H, W], not {prediction.shape} with truth {truth.shape}")
    if prediction.dtype != np.float64:
        prediction = prediction.astype(np.float32, copy=False)
    if math.isnan(prediction.max()):
        raise UserError("the prediction holds nan: check the checkpoint and the input frames")
    if prediction.shape != truth.shape:
        prediction = cv2.resize(prediction, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return prediction, truth


def as_array(values: Any) -> np.ndarray:
    """A NumPy array of an array or of a tensor on any device; bfloat16, unknown to NumPy, becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)
