"""The folder of a run: where it lies, who uses it, its line-by-line record, its curves for TensorBoard."""

import json
import os
import platform
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from utils.errors import UserError, reason
from utils.files import plain, write_atomically

try:
    import fcntl
except ImportError:  # on Windows, where runs are not locked
    fcntl = None

TIME = "%Y-%m-%d_%H-%M-%S"
RUN_NAME = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(?:_(\d+))?")  # and the number of a namesake


# ---------------------------------------------------------------- places


def new_run_folder(log_dir: Path, *names: str) -> Path:
    """Make log_dir/names.../<time>, a name that no other run has."""
    parent, time = Path(log_dir, *names), datetime.now().strftime(TIME)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            folder = parent / (time if attempt == 1 else f"{time}_{attempt}")
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise UserError(
            f"cannot make a folder in {parent}: {reason(error)}; choose another --log_dir"
        ) from None
    raise UserError(f"cannot find a free name for a run in {parent}; choose another --log_dir")


def latest_run(folder: Path) -> Path:
    """The newest run in `folder` that has a last.pth, by the times that `new_run_folder` names runs by."""
    runs = {}
    try:
        for name in os.listdir(folder) if folder.is_dir() else []:
            found = RUN_NAME.fullmatch(name)
            if found and (folder / name / "last.pth").is_file():
                runs[found[1], int(found[2] or 1)] = folder / name
    except OSError as error:
        raise UserError(f"cannot look for runs in {folder}: {reason(error)}; put that right") from None
    if not runs:
        raise UserError(
            f"there is no run to resume in {folder}; start one without --resume, or give the folder of one"
        )
    return runs[max(runs)]


class RunLock:
    """Keeps the folder of a run to this process, until `release` or its end, however that comes.

    The lock is the system's, on the file .lock, which stays. Processes that this one forks do not hold it. On
    Windows, and where the file system has no locks, there is none.
    Raises UserError when another process uses the folder.
    """

    def __init__(self, folder: Path):
        path = folder / ".lock"
        try:
            self.file = path.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(
                f"cannot write into the run {folder}: {reason(error)}; put that right or copy the run"
            ) from None
        try:
            if fcntl:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.file.seek(0)
            raise UserError(
                f"the run {folder} is in use by {self.file.read().strip() or 'another process'}; stop it, or "
                "wait for its end"
            ) from None
        except OSError as error:  # of a file system without locks
            print(
                f"note: {folder} cannot be locked ({reason(error)}); let no other process continue this run"
            )
        with suppress(OSError):  # a full disk does not matter here
            self.file.truncate(0)
            self.file.write(f"process {os.getpid()} on {platform.node()}\n")
            self.file.flush()

    def release(self) -> None:
        self.file.close()


# ---------------------------------------------------------------- what a run writes line by line


class Record:
    """train.jsonl: one JSON object per epoch, each epoch once.

    What a run that goes on finds there: lines of its finished epochs stay, those of epochs that are trained
    again are left out. So is what is no epoch's line: shown, unless it is the half of one.
    """

    def __init__(self, path: Path, finished_epochs: int):
        self.path = path
        self.lines: dict[int, str] = {}
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise UserError(f"cannot read {path}: {reason(error)}; put that right") from None
        content = content.replace(b"\0", b"")  # what a crash of the system may leave
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            epoch = epoch_of(line)
            if epoch is None and line.strip() and line.endswith(b"\n"):
                shown = line[:80].decode("utf-8", "replace").strip()
                print(f"note: line {number} of {path} is no epoch's and is left out: {shown}")
            elif epoch is not None and epoch <= finished_epochs:
                self.lines[epoch] = line.decode().strip()
        self.write()

    def add(self, entry: dict[str, Any]) -> None:
        self.lines[entry["epoch"]] = json.dumps(plain(entry))
        self.write()

    def write(self) -> None:
        """All lines at once, so that a full disk leaves the old ones."""
        write_atomically(self.path, "".join(f"{line}\n" for line in self.lines.values()).encode())


def epoch_of(line: bytes) -> int | None:
    """The epoch that a line of train.jsonl tells of, or None."""
    try:
        entry = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    epoch = entry.get("epoch") if isinstance(entry, dict) else None
    return epoch if type(epoch) is int and epoch > 0 else None


class Curves:
    """What TensorBoard shows of a run.

    Where it cannot be written, that is said once and the run goes on without: train.jsonl has the figures.

    first_step: TensorBoard forgets what an earlier process wrote of this step and later ones
    """

    def __init__(self, folder: Path, first_step: int):
        self.folder = folder
        self.writer: SummaryWriter | None = None
        self.usual_hook, threading.excepthook = threading.excepthook, self.thread_ended
        with self.attempt():
            self.writer = SummaryWriter(str(folder), purge_step=first_step)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.writer = None
            print(f"note: cannot write the curves in {self.folder}: {reason(error)}; the run goes on without")

    def thread_ended(self, how: threading.ExceptHookArgs) -> None:
        """The thread that writes meets the error first; the next call to it raises the same one."""
        if not (
            isinstance(how.exc_value, OSError) and type(how.thread).__module__.startswith("tensorboard.")
        ):
            self.usual_hook(how)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """A point of each curve."""
        with self.attempt():
            for name, value in values.items() if self.writer else ():
                self.writer.add_scalar(name, value, step)

    def add_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """picture: uint8 [H, W, 3]"""
        with self.attempt():
            if self.writer:
                self.writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        with self.attempt():
            if self.writer:
                self.writer.flush()

    def close(self) -> None:
        with self.attempt():
            if self.writer:
                self.writer.close()
        threading.excepthook = self.usual_hook
