"""The folder of a run: where it lies, its line-by-line record, its curves for TensorBoard."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import plain, write_atomically


def new_run_folder(log_dir: Path, *names: str) -> Path:
    """Make log_dir/names.../<time>, a name that no other run has."""
    time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1, 1000):
        folder = Path(log_dir, *names, time if attempt == 1 else f"{time}_{attempt}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"cannot make the folder {folder}: {error.strerror}; choose another --log_dir"
            ) from None
    raise UserError(f"cannot find a free name for a run in {log_dir}")


def latest_run(folder: Path) -> Path:
    """The newest run below `folder` that has a last.pth."""
    runs = sorted(p.parent for p in folder.glob("*/last.pth"))
    if not runs:
        raise UserError(f"there is no run to resume in {folder}; start one without --resume")
    return runs[-1]


class Record:
    """train.jsonl: one JSON object per epoch. After an interruption, lines of epochs to come are dropped."""

    def __init__(self, path: Path, finished_epochs: int):
        self.path = path
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # the line that was being written when the run was killed
                    continue
                if entry["epoch"] <= finished_epochs:
                    kept.append(line)
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

    def add(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(entry)) + "\n")
