"""The same work on many things, by several processes, with a progress bar."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from utils.errors import UserError

CHUNK = 16  # things that a process takes at once
LEAST = 1000  # things that are worth another process, which takes seconds to start


def in_parallel(
    function: Callable[[Any], Any], things: Sequence[Any], workers: int, title: str, unit: str = "frame"
) -> list[Any]:
    """function(thing) of each, in their order. One worker is this process itself.

    An interruption ends the workers after the things at hand. Raises UserError when the system ends one.
    """
    workers = min(workers, len(things) // LEAST)
    with tqdm(total=len(things), desc=title, unit=unit, disable=None, leave=False) as bar:
        if workers <= 1:
            found = []
            for thing in things:
                found.append(function(thing))
                bar.update()
            return found
        chunks = [things[start : start + CHUNK] for start in range(0, len(things), CHUNK)]
        results: dict[int, list[Any]] = {}
        context = multiprocessing.get_context("spawn")  # a copy of this process would have its threads' locks
        pool = ProcessPoolExecutor(workers, context, initializer=begin_worker)
        try:
            with interrupts_ignored():  # which the workers inherit
                futures = {pool.submit(each_of, function, chunk): place for place, chunk in enumerate(chunks)}
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                bar.update(len(results[futures[future]]))
        except BrokenProcessPool:
            raise UserError(
                f"the system ended one of {workers} reading processes, most likely for lack of memory; start "
                "again with fewer --workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return [result for place in range(len(chunks)) for result in results[place]]


def each_of(function: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
    return [function(thing) for thing in things]


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ctrl-C, which the terminal sends to every process, is for the one that started the workers."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def begin_worker() -> None:
    """No worker outlives the process that started it."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
