"""Defective pixels of a sensor: too bright or too dark wherever the camera looks."""

import cv2
import numpy as np

Pixels = tuple[np.ndarray, np.ndarray]  # rows, columns

RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)


class DefectFinder:
    """Counts in how many views a pixel stands out from its surroundings, and knows the defects by that.

    It is shown frames among which the camera has moved, so that nothing of the scene stays in its place; a
    camera that stands still shows one view, and no defect is found.

    least_views: views before anything is called a defect
    share:       the part of the views in which it stands out to the same side
    least_step:  gray levels by which it does, at least
    steps:       the same as a multiple of the noise of a frame
    """

    def __init__(self, least_views: int = 8, share: float = 0.6, least_step: float = 4.0, steps: float = 1.5):
        self.least_views, self.share = least_views, share
        self.least_step, self.steps = least_step, steps
        self.views = 0

    def add(self, gray: np.ndarray) -> None:
        """Take in a view, gray levels [H, W]."""
        height, width = gray.shape
        if not self.views:
            self.bright, self.dark = np.zeros((2, height, width), np.uint16)
            self.total = np.zeros((height, width), np.float32)
        step = gray.astype(np.float32) - surroundings(gray)
        noise = 1.48 * np.median(np.abs(step[::4, ::4]))
        least = max(self.least_step, self.steps * noise)
        self.bright += step > least
        self.dark += step < -least
        self.total += step
        self.views += 1

    @property
    def defects(self) -> Pixels | None:
        """Their rows and columns, or None where there are none.

        Neighbours that stand out as much are no defects, which are single pixels, but for the outermost rows
        and columns, which some sensors fill with a line.
        """
        if self.views < self.least_views:
            return None
        found = np.maximum(self.bright, self.dark) >= self.share * self.views
        step = np.abs(self.total)
        alone = cv2.dilate(step, RING) < 0.7 * step
        alone[[0, -1]] = alone[:, [0, -1]] = True
        pixels = np.nonzero(found & alone)
        return pixels if len(pixels[0]) else None


def surroundings(gray: np.ndarray) -> np.ndarray:
    """The median of the 5x5 pixels around each, mirrored at the border; same dtype."""
    if min(gray.shape) < 3:
        return gray
    return cv2.medianBlur(cv2.copyMakeBorder(gray, 2, 2, 2, 2, cv2.BORDER_REFLECT_101), 5)[2:-2, 2:-2]


def repaired(gray: np.ndarray, defects: Pixels | None) -> np.ndarray:
    """The frame with its defects replaced by the median of the 5x5 pixels around each."""
    if defects is None:
        return gray
    rows, cols = defects
    around = np.arange(-2, 3)
    rows, cols = rows[:, None, None] + around[:, None], cols[:, None, None] + around
    patches = gray[mirrored(rows, gray.shape[0]), mirrored(cols, gray.shape[1])]  # [n, 5, 5]
    whole = gray.copy()
    whole[defects] = np.median(patches.reshape(len(patches), -1), axis=1)
    return whole


def mirrored(places: np.ndarray, side: int) -> np.ndarray:
    """Places beyond the border 0 .. side - 1 mirrored into it."""
    return np.abs(side - 1 - np.abs(side - 1 - places)) if side > 2 else places.clip(0, side - 1)
