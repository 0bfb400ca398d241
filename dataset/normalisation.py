"""Gray values to network input."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dataset.frames import SequenceFrames
from dataset.io import gray_values
from dataset.sequence import SequenceSet
from utils.recipe import ClipSpec


@dataclass(frozen=True)
class Normalisation:
    """(gray - mean) / std in float32; with `scale`, (gray / scale - mean) / std.

    The second form rounds to float32 after each step and takes mean and std in float64, as NumPy did in the
    published loaders that use it, so that its values are theirs to the last bit.
    """

    mean: float
    std: float
    scale: float | None = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels as `dataset.io.read_gray` gives them, uint8 or uint16 of any shape, to float32."""
        if pixels.dtype == np.uint8:
            return self._table[pixels]
        return self._values(gray_values(pixels))

    @cached_property
    def _table(self) -> np.ndarray:
        return self._values(np.arange(256, dtype=np.float32))

    def _values(self, gray: np.ndarray) -> np.ndarray:
        if self.scale is None:
            return (gray - np.float32(self.mean)) / np.float32(self.std)
        shares = (gray / np.float32(self.scale)).astype(np.float64)
        centred = (shares - self.mean).astype(np.float32)
        return (centred / np.float64(self.std)).astype(np.float32)


def normalisation_of(frames: SequenceFrames, data: SequenceSet, spec: ClipSpec) -> Normalisation:
    """What normalises a sequence: the recipe's mean and std, else the data set's, else the sequence's own."""
    if spec.mean is not None and spec.std is not None:
        return Normalisation(spec.mean, spec.std, spec.gray_scale)
    mean, std = (data.mean, data.std) if data.mean is not None else frames.statistics()
    return Normalisation(mean, std)
