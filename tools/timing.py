"""Timing of two forms of the same computation in one process."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

REPEATS = 20  # calls of the fast form per measurement


def side_by_side(
    naive: Callable[[], Any], ours: Callable[[], Any], rounds: int
) -> tuple[dict[str, list[float]], Any]:
    """Seconds per call of each form, measured in turns, and what `naive` returned last."""
    times = {"naive": [], "ours": []}
    for _ in range(rounds):
        begin = time.perf_counter()
        result = naive()
        times["naive"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for _ in range(REPEATS):
            ours()
        times["ours"].append((time.perf_counter() - begin) / REPEATS)
    return times, result


def loading_times(
    new_clips: Callable[[], Any],
    published: Callable[[int], tuple[np.ndarray, ...]],
    arrays: Callable[[dict[str, Any]], tuple[np.ndarray, ...]],
    rounds: int,
) -> dict[str, list[float]]:
    """Mean seconds per clip over a shuffled epoch, of which ours starts with empty memory.

    new_clips: training clips that have read nothing, whose item [epoch, index] is that of key frame `index`
    published: the arrays of that clip by the published steps, which cost the same in each epoch
    arrays:    the same of an item
    Raises AssertionError where the two are not identical.
    """
    times = {"naive": [], "ours": [], "ours, later epochs": []}
    for seed in range(rounds):
        clips = new_clips()
        order = np.random.default_rng(seed).permutation(len(clips)).tolist()
        naive_first, first = epoch_of_loading(clips, published, arrays, order, epoch=0)
        naive_later, later = epoch_of_loading(clips, published, arrays, order[::-1], epoch=1)
        for side, seconds in zip(times, ((naive_first + naive_later) / 2, first, later), strict=True):
            times[side].append(seconds)
    return times


def epoch_of_loading(clips, published, arrays, order: list[int], epoch: int) -> tuple[float, float]:
    """Mean seconds per clip, (published, ours), of the clips in that order; see `loading_times`."""
    total = np.zeros(2)
    for index in order:
        begin = time.perf_counter()
        expected = published(index)
        middle = time.perf_counter()
        own = arrays(clips[epoch, index])
        total += middle - begin, time.perf_counter() - middle
        for ours, theirs in zip(own, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    naive, ours = (total / len(order)).tolist()
    return naive, ours
