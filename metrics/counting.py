"""What the metrics share: counters that add up over frames and processes, and one frame as arrays."""

import math
from typing import Any

import cv2
import numpy as np
import torch

from utils.errors import UserError


class CountingMetric:
    """Options and counters: `update` adds to `counts`, `merge` sums the counts of two, `compute` divides.

    A subclass gives `zero_counts()`, `update(prediction, truth)` and `compute()`, and passes the options that
    decide what is counted to `__init__`.
    """

    takes = "map"  # the kind of prediction that `update` takes: "map" or a form of utils.boxes

    def __init__(self, **options: Any):
        self.options = options
        self.reset()

    def reset(self) -> None:
        """Forget every frame."""
        self.counts = self.zero_counts()

    def merge(self, other: "CountingMetric") -> None:
        """Add the frames that `other` has counted. Raises ValueError for another metric or other options."""
        if type(other) is not type(self) or other.options != self.options:
            raise ValueError(f"{other!r} does not count what {self!r} counts")
        for name, count in other.counts.items():
            self.counts[name] = self.counts[name] + count

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options})"


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
