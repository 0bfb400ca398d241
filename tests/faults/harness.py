"""Commands as real processes, forked from one that has imported everything: a few milliseconds each.

A command runs in a process and session of its own, its output comes through pipes, and it ends through
`utils.errors.run_command` with the exit code that a shell would see. What it leaves behind can be found by
its session. Linux only.
"""

import contextlib
import ctypes
import gc
import importlib
import multiprocessing.util
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch

from utils.errors import run_command

ROOT = Path(__file__).parents[2]
# What commands import at their first use, which takes longer than what is tried.
LATE = (
    "matplotlib.backends.backend_agg",
    "multiprocessing.synchronize",
    "scipy.linalg",
    "scipy.sparse",
    "scipy.spatial",
    "skimage.measure",
    "skimage.morphology",
    "torch._dynamo.convert_frame",
    "torch.utils.serialization",
)
MOST_MEMORY = 3 * 2**20  # KiB that a command may hold at its peak; what is tried is tiny
LIBC = ctypes.CDLL(None, use_errno=True)
GRACE = 12.0  # seconds within which the workers of a killed process have to notice that it has gone


def load_commands() -> dict[str, Any]:
    """The modules of all commands by the path that a user types: `train.py`, `tools/add_noise.py`, ..."""
    found = {}
    sys.path.append(str(ROOT / "tools"))  # tools import each other as scripts do
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("tools/*.py")]):
        name = path.relative_to(ROOT).as_posix()
        module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
        if hasattr(module, "main"):
            found[name] = module
    return found


def prepare() -> None:
    """Call it once in the process that forks, before anything is computed."""
    for name in LATE:
        importlib.import_module(name)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    gc.collect()
    gc.freeze()  # so that the pages of what is imported stay shared
    check_alone()


def check_alone() -> None:
    """Raises AssertionError where this process has other threads: it must not be forked then."""
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not be forked"


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    code:    its exit code, or minus the signal that ended it
    peak:    KiB of memory at its most
    timeout: whether it was ended because it took too long
    left:    processes of its session that were still there after `GRACE`
    """

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float
    peak: int
    timeout: bool = False
    left: int = 0


class Command:
    """A command that runs. `signal` and `wait`.

    Its output comes through pipes: files would be cut by the limits that some commands run under.
    """

    def __init__(self, argv: tuple[str, ...], pid: int, pipes: tuple[int, int]):
        self.argv, self.pid, self.pipes = argv, pid, pipes
        self.begin, self._status = time.monotonic(), None
        self._texts = [b"", b""]

    def output(self) -> list[str]:
        """What it has written so far, on standard output and on standard error."""
        for place, pipe in enumerate(self.pipes):
            with contextlib.suppress(BlockingIOError):
                while part := os.read(pipe, 2**16):
                    self._texts[place] += part
        return [text.decode(errors="replace") for text in self._texts]

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to its main process, or to all of its group; nothing if it has ended."""
        if not self.has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number) if group else os.kill(self.pid, number)

    def has_ended(self) -> bool:
        """Whether its main process has ended."""
        if self._status is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._status = status, usage, time.monotonic() - self.begin
        return self._status is not None

    def resident(self) -> int:
        """KiB of memory that its main process holds now; 0 when it has ended."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    return int(line.split()[1])
        return 0

    def wait(self, seconds: float = 120.0) -> Ended:
        """Wait for its end; it is killed after that many seconds."""
        limit, pause = time.monotonic() + seconds, 0.002
        while not self.has_ended() and time.monotonic() < limit:
            time.sleep(pause)
            pause = min(pause * 1.3, 0.05)
            self.output()
        timeout = not self.has_ended()
        if timeout:
            self.signal(signal.SIGKILL, group=True)
            while not self.has_ended():
                time.sleep(0.01)
        status, usage, took = self._status
        code = os.waitstatus_to_exitcode(status)
        left = end_session(self.pid, GRACE if code < 0 else 2.0)
        texts = self.output()
        for pipe in self.pipes:
            os.close(pipe)
        return Ended(self.argv, code, *texts, took, usage.ru_maxrss, timeout, left)


def start(argv: list[Any], main: Callable, before: Callable[[], Any] | None = None) -> Command:
    """Start a command.

    argv:   as a user types it, `train.py` first; `main` reads the rest from sys.argv
    before: called in the new process before the command, for limits and patches
    """
    argv = tuple(str(word) for word in argv)
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = [os.pipe(), os.pipe()]
    pid = os.fork()
    if pid == 0:
        _be_command(argv, main, [write for _, write in pipes], before)
    for read, write in pipes:
        os.close(write)
        os.set_blocking(read, False)
    return Command(argv, pid, tuple(read for read, _ in pipes))


def _be_command(argv: tuple[str, ...], main: Callable, pipes: list[int], before: Callable | None) -> None:
    """All that the new process does; it never returns."""
    code = 70
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ, signal.SIGPIPE):
            ignored = number in (signal.SIGXFSZ, signal.SIGPIPE)  # as Python starts
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for pipe, number in zip(pipes, (1, 2), strict=True):
            os.dup2(pipe, number)
            os.close(pipe)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115, it lives as long as this
        sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        os.chdir(ROOT)
        sys.argv = list(argv)
        if before:
            before()
        run_command(main)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # what the interpreter itself would print
        traceback.print_exc()
        code = 1
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(BaseException):
            threading._shutdown()
            multiprocessing.util._exit_function()  # as the interpreter does at its end
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


# ---------------------------------------------------------------- what stays behind


def session_members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return found


def end_session(session: int, grace: float) -> int:
    """Wait for the processes of a session to end and kill the rest; returns how many that were."""
    limit = time.monotonic() + grace
    while (members := session_members(session)) and time.monotonic() < limit:
        time.sleep(0.05)
    for pid in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(members)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Inside `with`, `folder` is an empty file system of that size, as `64k`; only this process sees it.

    Raises OSError where that is not allowed.
    """
    new_namespace, private, recursive, detach = 0x20000, 0x40000, 0x4000, 2
    checked(LIBC.unshare(new_namespace))
    checked(LIBC.mount(b"none", b"/", None, private | recursive, None))
    folder.mkdir(parents=True, exist_ok=True)
    checked(LIBC.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={size}".encode()))
    try:
        yield
    finally:
        LIBC.umount2(bytes(folder), detach)


def grow_disk(folder: Path) -> None:
    """Give a `small_disk` room for everything."""
    remount = 0x20
    checked(LIBC.mount(b"tmpfs", bytes(folder), b"tmpfs", remount, b"size=1g"))


def checked(result: int) -> None:
    """Raises OSError for what a function of the C library returns when it fails."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def limit_files(limit: int) -> Callable[[], None]:
    """For `before`: no file of the command may grow beyond `limit` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
