"""Gray values to network input."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor

from dataset.io import gray_values


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

    def of_tensor(self, pixels: Tensor) -> Tensor:
        """The same values of the same pixels as a tensor on any device, by the same steps there.

        Numbers are tensors of the device: divided by a Python number, a GPU multiplies by its inverse.
        """
        gray = pixels.to(torch.float32)
        if pixels.dtype == torch.uint16:
            gray = gray / filled_like(gray, 257)
        values = torch.stack([self._tensor_values(gray, mean, std) for mean, std in self._channels])
        return values if isinstance(self.mean, tuple) else values[0]

    def _tensor_values(self, gray: Tensor, mean: float, std: float) -> Tensor:
        if self.scale is None:
            return (gray - filled_like(gray, mean)) / filled_like(gray, std)
        fractions = (gray / filled_like(gray, self.scale)).double()
        centred = (fractions - filled_like(fractions, mean)).float().double()
        return (centred / filled_like(centred, std)).float()

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
        fractions = (gray / np.float32(self.scale)).astype(np.float64)
        centred = (fractions - mean).astype(np.float32)
        return (centred / np.float64(std)).astype(np.float32)


def filled_like(values: Tensor, number: float) -> Tensor:
    """A number as a tensor [] of the same dtype and device, for which nothing is sent there."""
    return torch.full((), number, dtype=values.dtype, device=values.device)


def gray_statistics(frames: Sequence[np.ndarray]) -> tuple[float, float]:
    """(mean, standard deviation) of the gray values of some frames, all of one size."""
    values = np.stack([gray_values(pixels) for pixels in frames]).astype(np.float64)
    return float(values.mean()), max(float(values.std()), 1e-3)
