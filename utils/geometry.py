"""The letterbox: a whole frame fitted into a square, and back."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Letterbox:
    """Where a frame of `width` x `height` pixels lies in a square of `side`: scaled to fit, in the middle.

    Sizes are truncated as in the published loaders, so that the longer side is one pixel short of `side` for
    some sizes (width 98, 103, 107, ...).
    """

    width: int
    height: int
    side: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the scaled frame."""
        scale = min(self.side / self.width, self.side / self.height)
        return max(int(self.width * scale), 1), max(int(self.height * scale), 1)

    @property
    def corner(self) -> tuple[int, int]:
        """(column, row) of the scaled frame's first pixel."""
        width, height = self.size
        return (self.side - width) // 2, (self.side - height) // 2

    def restore(self, square: np.ndarray) -> np.ndarray:
        """A map [side, side] at the frame's own size: cut out, then bilinear. Same dtype."""
        (width, height), (left, top) = self.size, self.corner
        inside = square[top : top + height, left : left + width]
        if (width, height) == (self.width, self.height):
            return inside
        inside = torch.from_numpy(np.ascontiguousarray(inside))[None, None]
        size = (self.height, self.width)
        return F.interpolate(inside, size, mode="bilinear", align_corners=False)[0, 0].numpy()
