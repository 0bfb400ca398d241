"""Gray values to network input."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from dataset.frames import SequenceFrames
from dataset.io import gray_values
from dataset.sequence import SequenceSet
from utils.recipe.schema import ClipSpec


@dataclass(frozen=True)
class Normalisation:
    """(gray - mean) / std in float32; with `scale`, (gray / scale - mean) / std.

    The second form rounds to float32 after each step and takes mean and std in float64, as NumPy did in the
    published loaders that use it, so that its values are theirs to the last bit.
    """

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    scale: float | None = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels as `dataset.io.read_gray` gives them, uint8 or uint16 of any shape, to float32.

        With a mean and std per channel, the channels come first: [C, ...].
        """
        if pixels.dtype == np.uint8:
            values = self._looked_up(np.ascontiguousarray(pixels))
        else:
            gray = gray_values(pixels)
            values = np.stack([self._values(gray, mean, std) for mean, std in self._channels])
        return values if isinstance(self.mean, tuple) else values[0]

    def _looked_up(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 pixels [...] to [C, ...] by tables; OpenCV's look-up is many times faster than NumPy's."""
        values = np.empty((len(self._tables), *pixels.shape), np.float32)
        rows = (-1, pixels.shape[-1])
        for table, out in zip(self._tables, values, strict=True):
            cv2.LUT(pixels.reshape(rows), table, dst=out.reshape(rows))
        return values

    @property
    def _channels(self) -> list[tuple[float, float]]:
        if isinstance(self.mean, tuple):
            return list(zip(self.mean, self.std, strict=True))
        return [(self.mean, self.std)]

    @cached_property
    def _tables(self) -> list[np.ndarray]:
        grays = np.arange(256, dtype=np.float32)
        return [self._values(grays, mean, std) for mean, std in self._channels]

    def _values(self, gray: np.ndarray, mean: float, std: float) -> np.ndarray:
        if self.scale is None:
            return (gray - np.float32(mean)) / np.float32(std)
        shares = (gray / np.float32(self.scale)).astype(np.float64)
        centred = (shares - mean).astype(np.float32)
        return (centred / np.float64(std)).astype(np.float32)


def normalisation_of(frames: SequenceFrames, data: SequenceSet, spec: ClipSpec) -> Normalisation:
    """What normalises a sequence: the recipe's mean and std, else the data set's, else the sequence's own."""
    if spec.mean is not None and spec.std is not None:
        return Normalisation(spec.mean, spec.std, spec.gray_scale)
    mean, std = (data.mean, data.std) if data.mean is not None else frames.statistics()
    return Normalisation(mean, std)
