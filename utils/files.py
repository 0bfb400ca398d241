"""Files that are either the old one or the new one, never half of each, and files of text read or refused."""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError, reason

ABANDONED = 24 * 3600  # seconds after which the unfinished file of a process elsewhere is left behind


# ---------------------------------------------------------------- writing


@contextlib.contextmanager
def writing(path: str | Path, remedy: str = "free some space or choose another folder") -> Iterator[None]:
    """Around what becomes `path`. Raises UserError when the disk is full or the folder cannot be written.

    remedy: what the user can do then
    """
    try:
        yield
    except OSError as error:
        kept = "; what was saved there before is untouched" if os.path.exists(path) else ""
        raise UserError(f"cannot write {path}: {reason(error)}{kept}; {remedy}") from None


@contextlib.contextmanager
def replacing(path: str | Path, remedy: str = "free some space or choose another folder") -> Iterator[Path]:
    """Gives a temporary path beside `path`; what is written there becomes `path` at the end of the block.

    An error in the block, or a kill, leaves `path` as it was. Raises UserError as `writing` does.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with writing(path, remedy):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, flush it to the disk, rename it over `path`.

    Raises UserError when the disk is full or the folder cannot be written; `path` is then as it was.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def check_writable(path: Path) -> None:
    """Raises UserError where `path` could not be written at the end of long work; its folder is made."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; choose another folder") from None


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON atomically. nan and infinity become null."""
    write_atomically(path, (json.dumps(plain(content), indent=1) + "\n").encode())


def plain(value: Any) -> Any:
    """The value as JSON can hold it: arrays and tensors as lists, numbers as Python's, nan as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return str(value) if isinstance(value, Path) else value


# ---------------------------------------------------------------- what killed processes leave behind


def temporary_beside(path: Path) -> Path:
    """The name under which this process writes `path` until it is whole: `.<name>.<machine>.<process>.tmp`.

    Not by `tempfile`, whose files nobody but their owner may read.
    """
    return path.with_name(f".{path.name}.{machine_name()}.{os.getpid()}.tmp")


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose processes have ended, others a day later.

    What cannot be removed stays.
    """
    for path in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\..+\.(?P<machine>[\w-]+)\.(?P<process>\d+)\.tmp", path.name)
        with contextlib.suppress(OSError):
            if found and found["machine"] == machine_name():
                is_abandoned = not is_running(int(found["process"]))
            else:
                is_abandoned = time.time() - path.stat().st_mtime > ABANDONED
            if is_abandoned:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def machine_name() -> str:
    """The name of this machine, of letters, digits and dashes."""
    return re.sub(r"[^\w-]", "-", platform.node()) or "machine"


def is_running(process: int) -> bool:
    """Whether this machine may have a process of that number, whoever owns it."""
    if os.name != "posix":
        return True  # elsewhere this question ends the process
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


# ---------------------------------------------------------------- reading


def read_bytes(path: Path, content: str = "bytes") -> bytes:
    """All of a file. Never waits, as the opening of a pipe would.

    content: what the file holds, for the sentence
    Raises UserError for a file that is missing, no file or not readable.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}, which should hold {content}, is no file; put a file there")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no {path} with {content}; put it there") from None
    except OSError as error:
        raise UserError(f"cannot read {path} with {content}: {reason(error)}; put that right") from None


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal; it is read in parts."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):  # Python 3.10 has no hashlib.file_digest
            found.update(part)
    return found.hexdigest()


def read_text(path: Path, content: str = "text") -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    content: what the file holds, for the sentence
    Raises UserError as `read_bytes` does, and for a file that is not UTF-8.
    """
    raw = read_bytes(path, content)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte {raw[error.start]:#04x} is not UTF-8 text; save {content} as UTF-8"
        ) from None


def read_json(path: Path, content: str = "JSON") -> Any:
    """What a JSON file holds. Raises UserError as `read_text` does, and for text that is not JSON."""
    try:
        return json.loads(read_text(path, content))
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is no JSON with {content} ({why}); correct it or take it away") from None
