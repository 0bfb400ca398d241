"""The connected pixels of a mask: the area, centroid and box of each component, from one labelling."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np


@dataclass(frozen=True, eq=False)
class Components:
    """The N 8-connected components of a mask, in the raster order of their first pixels.

    rows, columns: of the P pixels of all components, in raster order, int64 [P]
    number:        of the component of each, from 0, int32 [P]
    areas:         how many pixels each component has, int64 [N]
    """

    rows: np.ndarray
    columns: np.ndarray
    number: np.ndarray
    areas: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> "Components":
        """Those of a bool mask [H, W]."""
        places = np.flatnonzero(mask)
        if not places.size:
            return cls(places, places, places, places)
        rows, columns = np.divmod(places, mask.shape[1])
        top, left = rows[0], columns.min()
        part = mask[top : rows[-1] + 1, left : columns.max() + 1]  # to label only where something is
        # Wu's algorithm numbers components in the raster order of their first pixels; the default does not.
        _, labels = cv2.connectedComponentsWithAlgorithm(part.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_WU)
        number = labels[part] - 1
        return cls(rows, columns, number, np.bincount(number))

    def __len__(self) -> int:
        return len(self.areas)

    @cached_property
    def centroids(self) -> np.ndarray:
        """The mean row and column of the pixels of each, float64 [N, 2]."""
        sums = [np.bincount(self.number, places, len(self)) for places in (self.rows, self.columns)]
        return np.stack(sums, axis=1) / self.areas[:, None]

    @cached_property
    def boxes(self) -> np.ndarray:
        """The box around each, float64 [N, 4]: x1, y1, x2, y2, of which x2 and y2 are exclusive."""
        sides = (-self.columns, -self.rows, self.columns + 1, self.rows + 1)
        x1, y1, x2, y2 = (greatest(places, self.number, len(self)) for places in sides)
        return np.stack([-x1, -y1, x2, y2], axis=1).astype(np.float64)

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Of each component the largest of the values [H, W] of its pixels, float64 [N]."""
        return greatest(values[self.rows, self.columns], self.number, len(self)).astype(np.float64)


def greatest(values: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    """The largest of the values [P] of each number from 0 to count - 1, each of which `number` [P] has."""
    found = np.empty(count, values.dtype)
    found[number] = values  # any of each to begin with
    np.maximum.at(found, number, values)
    return found
