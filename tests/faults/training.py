"""Tiny trainings that are interrupted, and how their ends are compared to the bit."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dataset.scene import SceneSettings
from dataset.synthetic import write_dataset
from tests.faults.campaign import Case, NotHeld
from tests.faults.judges import complaint
from utils.checkpoint import read_checkpoint

MAY_DIFFER = ("num_workers", "save_every")  # in the recipe of a run that goes on


@dataclass(frozen=True)
class Setup:
    """A training, small enough to be repeated many times.

    draws: what it draws at random beside the clips
    """

    name: str
    model: str
    flags: tuple[str, ...]
    draws: str


NATIVE = ("--set", "train_resize=None", "--set", "test_resize=None", "--protocol", "clean")
MIRRORS = ("--set", "augment=('flip_rows','flip_columns','gain(limit=0.3)')")
DEEPPRO = ("--seq_len", "4", "--batch_size", "2", "--sample_rate", "0.6", "--save_every", "1")
MASKS = ("--batch_size", "2", "--sample_rate", "0.4", "--save_every", "1")
BOXES = ("--batch_size", "2", "--sample_rate", "0.3", "--save_every", "2", "--patch_size", "64")
SETUPS = (
    Setup("DeepPro", "DeepPro", (*DEEPPRO, "--patch_size", "16", *MIRRORS), "mirrors and gain"),
    Setup("HAM", "DeepPro", (*DEEPPRO, "--patch_size", "16", "--loss", "HAM", "--set", "ema=0.9"),
          "pixels of the loss; averaged weights"),
    Setup("TSMSA", "TSMSA", (*MASKS, "--patch_size", "16", *NATIVE), "clones and pairs of halves"),
    Setup("ACM", "ACM", (*MASKS, "--patch_size", "16", *NATIVE, *MIRRORS), "mirrors and gain"),
    Setup("DTUM", "ResUNet-DTUM", (*MASKS, "--patch_size", "16", "--set", "ema=0.95"), "averaged weights"),
    Setup("STMENet", "STMENet", (*BOXES, "--set", "augment=('flip_columns','crop(32)')"),
          "mirrors and crops; boxes, averaged weights, dropout"),
    Setup("RPRNet", "RPRNet", (*MASKS[:2], "--sample_rate", "0.3", "--save_every", "2", "--patch_size", "16",
                               "--set", "schedule=constant"), "pixels of the loss"),
)  # fmt: skip


def epochs_of(setup: Setup) -> int:
    return 2 if setup.name in ("STMENet", "RPRNet") else 3


def training_data(case: Case) -> Path:
    """The parent of a tiny data set Synthetic: two sequences to train on, one to validate."""

    def make(folder: Path) -> None:
        settings = SceneSettings(height=32, width=40, frames=10, targets=(1, 2))
        write_dataset(folder / "Synthetic", settings, train_sequences=2, test_sequences=1)

    return case.once("training_data", make)


def command_line(case: Case, setup: Setup, log: Path, workers: int) -> tuple[Any, ...]:
    """The command of a training."""
    names = ("--model_names", setup.model, "--dataset_dir", training_data(case), "--log_dir", log)
    more = ("--epochs", epochs_of(setup), "--num_workers", workers, "--device", "cpu")
    return ("train.py", *names, *setup.flags, *more)


def reference(case: Case, setup: Setup) -> tuple[Path, float]:
    """(run folder, seconds) of the training that nothing interrupts."""

    def make(folder: Path) -> None:
        ended = case.call(*command_line(case, setup, folder, 0))
        if wrong := complaint(ended, (0,)):
            raise NotHeld(f"the reference: {wrong}")
        (folder / "seconds").write_text(str(ended.seconds))

    folder = case.once(f"reference_{setup.name}", make)
    (run,) = (folder / "Synthetic" / setup.model).iterdir()
    return run, float((folder / "seconds").read_text())


def run_to_resume(log: Path, model: str) -> Path | None:
    """The newest run that can go on."""
    runs = sorted(path.parent for path in (log / "Synthetic" / model).glob("*/last.pth"))
    return runs[-1] if runs else None


def resume_flags(log: Path, model: str) -> tuple[Any, ...]:
    run = run_to_resume(log, model)
    return ("--resume", run) if run else ()


def wait_until(command: Any, seconds: float) -> bool:
    """Whether a command still runs after so many seconds of its life."""
    limit = command.begin + seconds
    while not command.has_ended() and time.monotonic() < limit:
        time.sleep(0.002)
    return not command.has_ended()


# ---------------------------------------------------------------- to the bit


def difference(found: Any, expected: Any, place: str = "") -> str:
    """Where two nested values differ first, or ""; tensors to the bit."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if found.keys() != expected.keys():
            return f"{place or '.'} has {sorted(map(str, found.keys() ^ expected.keys()))} on one side only"
        parts = ((found[key], expected[key], f"{place}/{key}") for key in expected)
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(found) != len(expected):
            return f"{place} has {len(found)} entries instead of {len(expected)}"
        parts = ((a, b, f"{place}/{i}") for i, (a, b) in enumerate(zip(found, expected, strict=True)))
    elif isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        return "" if torch.equal(found, expected) else f"{place} has other bits"
    else:
        is_same = found == expected or (found != found and expected != expected)
        return "" if is_same else f"{place} is {found!r} instead of {expected!r}"
    return next((told for part in parts if (told := difference(*part))), "")


def comparable(path: Path) -> dict[str, Any]:
    """A checkpoint without what may differ between runs."""
    saved = read_checkpoint(path)
    for key in MAY_DIFFER:
        saved["recipe"]["runtime"].pop(key, None)
    return saved


def record_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of train.jsonl without the times."""
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in lines]


def check_same_run(folder: Path, expected: Path) -> None:
    """Raises NotHeld unless a run ended as the one that nothing interrupted, and left nothing else behind."""
    for name in ("last.pth", "best.pth"):
        if told := difference(comparable(folder / name), comparable(expected / name)):
            raise NotHeld(f"{name}: {told}")
    if told := difference(record_of(folder), record_of(expected)):
        raise NotHeld(f"train.jsonl: {told}")
    if left := sorted(path.name for path in folder.glob(".*.tmp")):
        raise NotHeld(f"{', '.join(left)} was never removed")
