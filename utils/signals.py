"""How a command is asked to end: by Ctrl-C, by a scheduler, by a terminal that closes."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # the last as SLURM sends it by --signal=USR1@60
STOPS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
TWICE = 1.0  # seconds within which a second signal is the first one's: `timeout` sends two

Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def handling(handle: Handler) -> Iterator[None]:
    """Inside `with`, all these signals call `handle` in this process, and act as usual in those it forks.

    A closed terminal that somebody has told to be ignored, as `nohup` does, stays so.
    """
    process = os.getpid()

    def act(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            handle(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.getsignal(number) for number in STOPS}
    for number, handler in before.items():
        if (number.name, handler) != ("SIGHUP", signal.SIG_IGN):
            signal.signal(number, act)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's own


class Interruption:
    """Handles a first signal, and a later Ctrl-C, by KeyboardInterrupt."""

    def __init__(self):
        self.asked_at: float | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.is_new(number):
            raise KeyboardInterrupt

    def is_new(self, number: int) -> bool:
        """Whether this is the first signal, or a Ctrl-C by somebody who has waited."""
        now, before = time.monotonic(), self.asked_at
        if before is None:
            self.asked_at = now
        return before is None or (number == signal.SIGINT and now - before > TWICE)


class Stopped(KeyboardInterrupt):
    """Somebody asked for an end, and nothing is half done."""


class StopRequest(Interruption):
    """Handles a first signal by setting `asked`; a later Ctrl-C ends the program at once.

    when: the first signal is answered by "stopping <when>; ..."
    act:  called then, wherever the program is
    """

    asked = is_waiting = False

    def __init__(self, when: str = "as soon as the weights are saved", act: Callable[[], None] | None = None):
        super().__init__()
        self.when, self.act = when, act

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            super().__call__(number, frame)
        elif self.is_new(number):
            self.asked = True
            told = f"stopping {self.when}; press Ctrl-C again to end at once\n"
            with contextlib.suppress(OSError):  # where the terminal is closed
                os.write(2, told.encode())  # `print` may be what the signal has interrupted
            if self.act:
                self.act()
            if self.is_waiting:
                raise Stopped

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside `with`, where nothing is half done, a stop raises Stopped; so does one from before."""
        self.is_waiting = True
        try:
            self.check()
            yield
        finally:
            self.is_waiting = False

    def check(self) -> None:
        """Raises Stopped where somebody has asked for an end."""
        if self.asked:
            raise Stopped


@contextlib.contextmanager
def shielding_children() -> Iterator[None]:
    """Processes that are started inside `with` never meet a stop, from their first moment on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_stops_to_the_main_process() -> None:
    """Ctrl-C and schedulers reach every process of a group; the main one alone decides when to stop."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
