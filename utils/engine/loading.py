"""Training clips in batches, read by processes of their own, and what becomes of these processes."""

import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing import active_children
from multiprocessing.connection import wait
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from utils.errors import UserError, reason, sentence
from utils.signals import leave_stops_to_the_main_process, shielding_children

MORE_SHARED = (
    "enlarge /dev/shm (docker: --shm-size=8g), raise the limit of open files (ulimit -n), or use "
    "--num_workers 0"
)


class Batches(Dataset):
    """Whole batches of clips, made where they are read.

    What the user can put right leaves it as a UserError: an error of the system would lose its number and its
    file on the way from one process to another.
    """

    def __init__(self, clips: Any):
        self.clips = clips

    def __getitems__(self, keys: list) -> dict[str, Any]:
        try:
            batch = self.clips.collate([self.clips[key] for key in keys])
            if get_worker_info():
                share(batch)
            return batch
        except Exception as error:
            told = sentence(error)
            if told is None:
                raise
            raise UserError(told) from None


class ClipLoader(DataLoader):
    """Serves the batches that `batches` lists of `clips`, read ahead by `workers` processes; 0: by this one.

    The processes leave signals to this one, and end with it. Iterating raises UserError where they cannot be
    started or were killed.

    waiting: a context in which this process waits for a batch
    """

    def __init__(
        self,
        clips: Any,
        batches: Sampler,
        workers: int,
        pins_memory: bool,
        waiting: Callable[[], AbstractContextManager] = nullcontext,
    ):
        super().__init__(
            Batches(clips),
            batch_sampler=batches,
            collate_fn=as_it_is,
            num_workers=workers,
            pin_memory=pins_memory,
            persistent_workers=workers > 0,
            worker_init_fn=start_process,
            generator=torch.Generator(),  # its own, so that the global one is the training's alone
        )
        self.waiting = waiting
        self.processes: list = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            batches = super().__iter__() if self.processes else self.start()
            while True:
                with self.waiting():
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        except (RuntimeError, OSError, EOFError):  # what torch meets of a process that has gone
            codes = self.exit_codes() if self.processes else []
            if not codes:
                raise
            raise UserError(why_ended(codes[0])) from None

    def start(self) -> Iterator[dict[str, Any]]:
        """The batches of a first epoch, for which the processes are started."""
        others = active_children()
        try:
            with shielding_children():
                return super().__iter__()
        except OSError as error:
            for process in active_children():
                if process not in others:
                    process.kill()
            forget(error)
            raise UserError(
                f"cannot start {self.num_workers} processes that load clips: {reason(error)}; lower "
                "--num_workers"
            ) from None
        finally:
            self.processes = [process for process in active_children() if process not in others]
            if self.num_workers and hasattr(signal, "SIGCHLD"):
                # torch's handler raises in the midst of a step; waiting for a batch notices the same.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def exit_codes(self) -> list[int]:
        """Those, other than 0, of processes that have ended or are about to: the system may tell of the
        silence of a process, and close its files, before it tells of its end.
        """
        silent = wait([process.sentinel for process in self.processes], timeout=5)
        for process in self.processes:
            if process.sentinel in silent:
                process.join(timeout=5)
        return [process.exitcode for process in self.processes if process.exitcode]

    def close(self) -> None:
        """End the processes."""
        with suppress(AttributeError):  # of a loader that has not begun
            self._iterator._shutdown_workers()  # torch has no public way
        for process in self.processes:
            if process.is_alive():  # one that hangs in a read
                process.kill()


def as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch


def share(batch: dict[str, Any]) -> None:
    """Put the tensors where another process can read them.

    torch would do so when they are sent, in a thread whose errors are lost: who waits would wait for ever.
    """
    try:
        for value in batch.values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Tensor):
                    item.share_memory_()
    except RuntimeError as error:
        why = str(error).rpartition(": ")[2]
        raise UserError(
            f"the processes that load clips cannot hand them over ({why}); {MORE_SHARED}"
        ) from None


def forget(error: OSError) -> None:
    """Drop what the error has left half built: torch's iterator, which cannot end itself and would say so."""
    usual, sys.unraisablehook = sys.unraisablehook, lambda _: None
    traceback.clear_frames(error.__traceback__)
    sys.unraisablehook = usual


def start_process(_number: int) -> None:
    """Called first in each process that loads clips."""
    leave_stops_to_the_main_process()
    cv2.setNumThreads(0)  # as torch: there are as many processes; and threads do not survive a fork
    if hasattr(signal, "SIGBUS"):
        signal.signal(signal.SIGBUS, signal.SIG_DFL)  # torch's handler writes a line; `why_ended` tells it


def why_ended(code: int) -> str:
    """What to tell of a process that loads clips and has ended with this exit code, below 0 by a signal."""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if name == "SIGBUS":
        return f"the processes that load clips have too little shared memory; {MORE_SHARED}"
    if name == "SIGKILL":
        return (
            "a process that loads clips was killed (SIGKILL), most likely because the machine ran out of "
            "memory; lower --num_workers, --batch_size or --seq_len"
        )
    return f"a process that loads clips has ended ({name}); --num_workers 0 loads them without, or shows why"
