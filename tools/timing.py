"""Timing of two forms of the same computation in one process."""

import time
from collections.abc import Callable
from typing import Any

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
