"""How the background of a video moves: plane homographies from frame to frame.

A point is x, y in pixels, counted from 0 at the middle of the first one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Motion:
    """How the background moved from the frame before to this one.

    homography: float64 [3, 3], takes (x, y, 1) of the frame before to this frame
    still:      root mean square of the gray-level differences to the frame before, as both lie
    residual:   the same after registration; `still` where the homography is the identity
    measured:   whether the homography was measured and accepted; else it is the identity
    is_cut:     whether the frame shows another scene than the one before, as far as can be seen
    """

    homography: np.ndarray = field(default_factory=lambda: np.eye(3))
    still: float = 0.0
    residual: float = 0.0
    measured: bool = False
    is_cut: bool = False


def moved(points: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """Points [N, 2] (x, y) where a homography [3, 3] takes them, float64 [N, 2]."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    places = points @ homography[:, :2].T + homography[:, 2]
    return places[:, :2] / places[:, 2:]


def chained(homographies: Sequence[np.ndarray]) -> np.ndarray:
    """One homography [3, 3] for several that follow each other, the first one applied first."""
    total = np.eye(3)
    for homography in homographies:
        total = homography @ total
    return total / total[2, 2]
