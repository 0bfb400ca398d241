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

    def fit_boxes(self, boxes: np.ndarray, labels: str = "float") -> np.ndarray:
        """Boxes [N, 4] (x1 y1 x2 y2, frame pixels) in the square, cut at its border; float64 [M, 4].

        labels: "float", or "published": truncated to whole pixels, and boxes of one pixel or less a side
                dropped. Boxes without area are dropped by both.
        """
        (width, height), (left, top) = self.size, self.corner
        fitted = boxes * (width, height, width, height) / self._extent + (left, top, left, top)
        fitted = (np.trunc(fitted) if labels == "published" else fitted).clip(0, self.side)
        least = 1 if labels == "published" else 0
        return fitted[(fitted[:, 2:] - fitted[:, :2] > least).all(1)]

    def restore_boxes(self, boxes: np.ndarray, rule: str = "exact") -> np.ndarray:
        """Boxes [N, 4 or more] (x1 y1 x2 y2, ...) of the square in frame pixels; what follows stays.

        rule: "exact" inverts `fit_boxes`; "published" (STMENet and others) rounds the scaled size and takes
              exact halves for its corner, and so misses by up to 1.25 pixels where the size is not whole
        """
        (width, height), (left, top) = self.size, self.corner
        if rule == "published":
            scale = min(self.side / self.width, self.side / self.height)
            width, height = round(self.width * scale), round(self.height * scale)
            left, top = (self.side - width) / 2, (self.side - height) / 2
        restored = boxes.astype(np.float64)
        restored[:, :4] -= (left, top, left, top)
        restored[:, :4] *= np.array(self._extent) / (width, height, width, height)
        return restored

    @property
    def _extent(self) -> tuple[int, int, int, int]:
        return self.width, self.height, self.width, self.height
