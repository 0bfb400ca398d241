"""Training clips in batches, read by processes of their own, and what becomes of these processes."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import active_children
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.errors import UserError, reason, sentence
from utils.signals import held_back, leave_stops_to_the_main_process

BUS_ERROR = -7  # what a process meets whose share of /dev/shm is not there


class Batches(Dataset):
    """Whole batches of clips, made where they are read.

    What the user can put right leaves it as a UserError: an error of the system would lose its number and its
    file on the way from one process to another.
    """

    def __init__(self, clips: Any):
        self.clips = clips

    def __getitems__(self, keys: list) -> Any:
        try:
            return self.clips.collate([self.clips[key] for key in keys])
        except Exception as error:
            told = sentence(error)
            if told is None:
                raise
            raise UserError(told) from None


class ClipLoader(DataLoader):
    """Serves the batches that `batches` lists of `clips`, read ahead by `workers` processes; 0: by this one.

    The processes leave signals to this one, and end with it. Iterating raises UserError where they cannot be
    started or were killed.
    """

    def __init__(self, clips: Any, batches: Sampler, workers: int, pins_memory: bool):
        super().__init__(
            Batches(clips),
            batch_sampler=batches,
            collate_fn=as_it_is,
            num_workers=workers,
            pin_memory=pins_memory,
            persistent_workers=workers > 0,
            worker_init_fn=leave_stops_to_the_main_process,
            generator=torch.Generator(),  # its own, so that the global one is the training's alone
        )
        self.processes: list = []

    def __iter__(self) -> Iterator:
        try:
            yield from super().__iter__() if self.processes else self.start()
        except RuntimeError:
            codes = [process.exitcode for process in self.processes if process.exitcode]
            if not codes:
                raise
            raise UserError(why_ended(codes[0])) from None

    def start(self) -> Iterator:
        """The batches of a first epoch, for which the processes are started."""
        others = active_children()
        try:
            with held_back():
                return super().__iter__()
        except OSError as error:
            raise UserError(
                f"cannot start {self.num_workers} processes that load clips: {reason(error)}; lower "
                "--num_workers"
            ) from None
        finally:
            self.processes = [process for process in active_children() if process not in others]
            if self.processes and hasattr(signal, "SIGCHLD"):
                # torch's handler raises in the midst of a step; waiting for a batch notices the same.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def close(self) -> None:
        """End the processes."""
        with suppress(AttributeError):  # of a loader that has not begun
            self._iterator._shutdown_workers()  # torch has no public way
        for process in self.processes:
            if process.is_alive():  # one that hangs in a read
                process.kill()


def as_it_is(batch: Any) -> Any:
    return batch


def why_ended(code: int) -> str:
    """What to tell of a process that loads clips and has ended with this exit code, below 0 by a signal."""
    if code == BUS_ERROR:
        return (
            "the processes that load clips have too little shared memory; enlarge /dev/shm (docker: "
            "--shm-size=8g), or use --num_workers 0"
        )
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return (
        f"a process that loads clips was {how}, most likely because the machine ran out of memory; lower "
        "--num_workers, --batch_size or --seq_len"
    )
