"""Truth that does not fit the frames beside it, such as a mask that was exchanged with another one.

A frame's truth is misplaced when each of its targets is farther than a limit from all targets of the two
nearest frames, while these two agree with each other. The limit is 5 times the median step of the sequence's
targets from frame to frame, and 10 pixels at least. So a target that appears, vanishes or turns is not taken
for one; masks exchanged with those of the next frame or two are not found, and neither are frames that lost
their neighbours to a gap in the numbers, or whose neighbours are empty or misplaced as well.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Items

import numpy as np

STEPS, LEAST = 5, 10.0  # of the limit: median steps, pixels


def distances(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From each of some places [N, 2] to the nearest of others [M, 2], float64 [N]; M > 0."""
    return np.linalg.norm(ones[:, None] - others[None], axis=2).min(1)


def steps(centres: Items[np.ndarray]) -> np.ndarray:
    """How far each target is from the nearest one of the frame before."""
    pairs = zip(centres[1:], centres, strict=False)
    found = [distances(now, before) for now, before in pairs if len(now) and len(before)]
    return np.concatenate(found) if found else np.zeros(0)


def misplaced(centres: Items[np.ndarray], numbers: Items[int], step: int) -> Iterator[tuple[int, int | None]]:
    """Yields (frame, the frame with which it seems exchanged, or None).

    centres: row and column of the targets of each frame, [N, 2]
    numbers: of the frames; step: the difference between neighbours that belong together
    """
    moved = steps(centres)
    if not len(moved):
        return
    limit = max(LEAST, STEPS * float(np.median(moved)))
    beside = {}
    for index in range(len(centres)):
        near = neighbours(index, numbers, step)
        if near and is_between(centres[index], *(centres[place] for place in near), limit):
            beside[index] = near
    for index, near in beside.items():
        exchanged = (
            other
            for other, places in beside.items()
            if other != index
            and touches(centres[other], centres[near[0]], limit)
            and touches(centres[index], centres[places[0]], limit)
        )
        yield index, next(exchanged, None)


def neighbours(index: int, numbers: Items[int], step: int) -> tuple[int, int] | None:
    """The frames before and after; at the ends of a sequence the two nearest ones. None beside a gap."""
    last = len(numbers) - 1
    if last < 2:
        return None
    first = min(max(index - 1, 0), last - 2)
    three = range(first, first + 3)
    if any(numbers[place + 1] - numbers[place] != step for place in three[:-1]):
        return None
    one, other = (place for place in three if place != index)
    return one, other


def is_between(own: np.ndarray, one: np.ndarray, other: np.ndarray, limit: float) -> bool:
    """Whether all places are far from those of both neighbours, which agree with each other."""
    if not (len(own) and len(one) and len(other)) or not np.isfinite(np.concatenate([own, one, other])).all():
        return False
    both = np.concatenate([one, other])
    return bool(distances(own, both).min() > limit and distances(one, other).max() <= 2 * limit)


def touches(ones: np.ndarray, others: np.ndarray, limit: float) -> bool:
    """Whether every one of some places lies near one of others."""
    return bool(distances(ones, others).max() <= limit)
