"""Files that are either the old one or the new one, never half of each."""

import json
import os
from pathlib import Path
from typing import Any

from utils.errors import UserError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, flush it to the disk, rename it over `path`.

    Raises UserError when the disk is full or the folder cannot be written; `path` is then as it was.
    """
    path = Path(path)
    # Not by `tempfile`, whose files nobody but their owner may read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kept = "; what was saved there before is untouched" if os.path.exists(path) else ""
        raise UserError(
            f"cannot write {path}: {error.strerror or error}{kept}; free some space or choose another folder"
        ) from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


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
