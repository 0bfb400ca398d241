"""The last hits of what is followed: does it move against the ground, or is it fixed in the sensor?"""

from collections.abc import Sequence

import numpy as np

from utils.kalman import carried

LENGTH = 24  # hits that are remembered of a thing
LEAST_JITTER = 0.2  # pixels; that a few places lie on a line does not tell that they have no noise


class Trails:
    """The last hits of K things.

    sensor: float64 [K, LENGTH, 2], x and y where they were hit, the latest last; nan: no hit
    ground: likewise, where that point of the ground lies now
    times:  float64 [K, LENGTH], the frames
    """

    def __init__(self):
        self.sensor = self.ground = np.zeros((0, LENGTH, 2))
        self.times = np.zeros((0, LENGTH))

    def carry(self, homography: np.ndarray) -> None:
        """To the next frame, whose ground lies where a homography [3, 3] takes that of this one."""
        self.ground = carried(self.ground.reshape(-1, 2), homography)[0].reshape(self.ground.shape)

    def add(self, rows: np.ndarray, places: np.ndarray, count: int, frame: int) -> None:
        """Take in hits of a frame: those of some rows [M] at places [M, 2]; there are `count` things now."""
        missing = count - len(self.times)
        new = np.full((missing, LENGTH, 2), np.nan)
        self.sensor, self.ground = (np.concatenate([a, new]) for a in (self.sensor, self.ground))
        self.times = np.concatenate([self.times, new[..., 0]])
        for kept, value in ((self.sensor, places), (self.ground, places), (self.times, frame)):
            kept[rows, :-1] = kept[rows, 1:]
            kept[rows, -1] = value

    def keep(self, chosen: np.ndarray) -> None:
        """Forget all but the chosen ones, bool [K]."""
        self.sensor, self.ground, self.times = (a[chosen] for a in (self.sensor, self.ground, self.times))

    def move(self, rows: Sequence[int], least: float, certainty: float) -> np.ndarray:
        """Which of some things [M] move against the ground, bool [M]; see `moves`."""
        return self._each(self.ground, rows, least, certainty)

    def stay(self, rows: Sequence[int], least: float, certainty: float, within: float) -> np.ndarray:
        """Which of some things [M] are fixed in the sensor, bool [M].

        These do not move there, and most of their hits lie `within` some pixels of the median.
        """
        sensor = self.sensor[rows]
        off = np.linalg.norm(sensor - np.nanmedian(sensor, axis=1, keepdims=True), axis=2)
        return (np.nanmedian(off, axis=1) <= within) & ~self._each(self.sensor, rows, least, certainty)

    def _each(self, places: np.ndarray, rows: Sequence[int], least: float, certainty: float) -> np.ndarray:
        hits = [~np.isnan(places[row, :, 0]) for row in rows]
        found = [
            moves(self.times[row, hit], places[row, hit], least, certainty)
            for row, hit in zip(rows, hits, strict=True)
        ]
        return np.array(found, bool)


def moves(times: np.ndarray, places: np.ndarray, least: float, certainty: float) -> bool:
    """Whether places [N, 2] at times [N] are those of a thing that moves.

    Its motion is that of the line through them, from the first to the last one. It must have `least` pixels,
    and `certainty` standard deviations as the places scatter about the line.
    """
    if len(times) < 3:
        return False
    times = times - times.mean()
    spread = times @ times
    speed = times @ places / spread
    off = places - places.mean(axis=0) - times[:, None] * speed
    jitter = max(LEAST_JITTER, np.sqrt((off**2).sum() / (2 * len(times) - 4)))
    moved = np.hypot(*speed)
    return bool(moved * np.ptp(times) >= least and moved >= certainty * jitter / np.sqrt(spread))
