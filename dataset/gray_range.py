"""Which gray values of a video become 0 and 255: those of 16 bit are stretched, or stay as the file has them.

An infrared camera of 14 or 16 bit uses a small part of its counts around an offset, which `gray_values`, a
division by 257, would leave at a few gray values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from utils.errors import UserError

AUTO, FILE = "auto", "file"
HOT_PIXELS = 4  # of each frame, which say nothing of the range: the brightest and the darkest ones
ROOM_BELOW, ROOM_ABOVE = 0.5, 1.0  # the middle 98 % of the counts, in widths of these; targets are above
BEYOND = 1.25  # how far the range goes out for the brightest and darkest counts, in distances of these
FARTHEST = 5.0  # but no farther, in the same widths
LEAST_WIDTH = 16  # counts; frames of one count have no range of their own

RangeChoice = str | tuple[float, float]


def parse_range(words: Sequence[str]) -> RangeChoice:
    """What `--range` says: "auto", "file", or two numbers, the counts that become 0 and 255.

    Raises UserError for anything else.
    """
    if list(words) in ([AUTO], [FILE]):
        return words[0]
    try:
        low, high = map(float, words)
    except ValueError:
        low = high = 0.0
    if not -1e6 < low < high < 1e6:
        raise UserError(
            f"--range is {' '.join(words)}; it takes {AUTO}, {FILE}, or two counts, the lower of which "
            "becomes gray value 0 and the higher 255"
        )
    return low, high


@dataclass(frozen=True)
class Stretch:
    """Counts from `low` to `high` become gray values from 0 to 255, linearly; what is beyond is cut.

    reason: where the two come from, for the note
    """

    low: float
    high: float
    reason: str

    @classmethod
    def of(cls, frames: Iterable[np.ndarray], sampled: str) -> "Stretch":
        """The stretch for 16-bit frames by the counts in some of them.

        The middle 98 % of the counts get up to two fifths of the gray values, so that there is room above and
        below them. Where the brightest and darkest counts lie farther out, the range goes beyond these, at
        most five times as far as the middle is wide. The few brightest and darkest pixels, which faults of
        the sensor may be, do not count.

        sampled: which frames these are, for the note
        """
        counts, number = np.zeros(2**16, np.int64), 0
        for pixels in frames:
            counts += np.bincount(pixels.ravel(), minlength=2**16)
            number += 1
        below = np.cumsum(counts)
        faulty = min(HOT_PIXELS * number, below[-1] // 100)
        places = faulty, 0.01 * below[-1], 0.99 * below[-1], below[-1] - faulty - 1
        darkest, first, last, brightest = np.searchsorted(below, places, side="right").astype(float)
        width = max(last - first, LEAST_WIDTH)
        low = first - np.clip(BEYOND * (first - darkest), ROOM_BELOW * width, FARTHEST * width)
        high = last + np.clip(BEYOND * (brightest - last), ROOM_ABOVE * width, FARTHEST * width)
        reason = f"98 % of the counts of {sampled} lie from {first:.0f} to {last:.0f}"
        return cls(float(np.floor(low)), float(np.ceil(high)), reason)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels, uint8 or uint16, with their counts spread over 0 .. 65535, uint16."""
        return np.take(self._table, pixels)

    @cached_property
    def _table(self) -> np.ndarray:
        fractions = (np.arange(2**16) - self.low) / (self.high - self.low)
        return np.rint(65535 * fractions.clip(0, 1)).astype(np.uint16)

    def cut(self, pixels: np.ndarray) -> float:
        """Which part of the pixels of a frame lies beyond the range, 0..1."""
        return float(np.count_nonzero((pixels < self.low) | (pixels > self.high)) / pixels.size)

    def __str__(self) -> str:
        return f"counts from {self.low:g} to {self.high:g} become gray values 0 to 255 ({self.reason})"
