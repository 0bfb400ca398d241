"""Memory over thousands of steps and frames of toys.

Held means that after a warm-up the resident memory of the command stays within one percent: what it holds on
average towards the end of its steps or frames is at most that much more than after a third of them.
"""

import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from dataset.scene import SceneSettings
from dataset.synthetic import write_dataset
from tests.faults.campaign import Case, FaultClass, NotHeld
from tests.faults.judges import complaint
from tests.faults.observe import without_pictures
from tests.faults.toy_runs import BOXES, MORE, TOY
from tests.toys import WATCHED

FLAT = 0.01
CASES = (("a training", 1500), ("a test", 3000), ("a training", 10_000), ("a test", 20_000),
         ("a training with a worker", 10_000), ("a training on boxes", 3000))  # fmt: skip


def long_data(case: Case, frames: int) -> Path:
    """The parent of a data set Synthetic with so many test frames, in sequences of 500 (16 differ)."""

    def make(folder: Path) -> None:
        count, length = max(frames // 500, 1), min(frames, 500)
        settings = SceneSettings(height=24, width=24, frames=16, targets=(1, 1))
        write_dataset(folder / "short" / "Synthetic", settings, train_sequences=1, test_sequences=1)
        short, root = folder / "short" / "Synthetic", folder / "Synthetic"
        names = [f"Sequence{number}" for number in range(2, 2 + count)]
        for name, source, total in [
            ("Sequence1", "Sequence1", 64),
            *((n, "Sequence2", length) for n in names),
        ]:
            for kind in ("images", "masks", "masks_centroid"):
                (root / name / kind).mkdir(parents=True)
                for frame in range(total):
                    os.link(short / source / kind / f"{frame % 16 + 1:05d}.png",
                            root / name / kind / f"{frame + 1:05d}.png")  # fmt: skip
        (root / "train.txt").write_text("Sequence1\n")
        (root / "test.txt").write_text("".join(f"{name}\n" for name in names))

    return case.once(f"long_{frames}", make)


def command_line(case: Case, what: str, count: int) -> tuple[Any, ...]:
    """The command of a case: so many steps, or test frames."""
    log = ("--log_dir", case.folder / "log")
    if what == "a test":
        data = ("--dataset_dir", long_data(case, count))
        return ("test.py", "--model_names", "TopHat", *data, *log, "--device", "cpu")
    data = ("--dataset_dir", long_data(case, 16))
    model, clips = (BOXES, 64) if "boxes" in what else (TOY, 61)  # windows of four of 64 frames are 61
    epochs, workers = 5, int("worker" in what)
    rate = count * 2 / epochs / clips
    return ("train.py", *model, *MORE, *data, *log, "--sample_rate", rate, "--epochs", epochs,
            "--num_workers", workers, "--save_every", 100)  # fmt: skip


def without_memories() -> None:
    """For `before`: no pictures, and toys that do not keep what they have seen."""
    without_pictures()
    for name in ("clips", "targets", "terms", "streams"):
        setattr(WATCHED, name, deque(maxlen=1))


def try_memory(case: Case) -> None:
    """One long command."""
    what, count = CASES[case.number]
    case.tried = count
    command = case.start(*command_line(case, what, count), before=without_memories)
    held = []
    while not command.has_ended():
        held.append(command.resident())
        command.output()
        time.sleep(0.05)
    case.hold(complaint(case.wait(command), (0,)))
    known = np.array([value for value in held if value], float)
    third = len(known) // 3
    # At the very end the figures are computed from all that was counted, which takes memory once.
    late = slice(int(0.75 * len(known)), int(0.9 * len(known)))
    before, after = known[third : third + third // 2].mean(), known[late].mean()
    case.about = (
        f"{what} of {count}: {before / 1024:.1f} MiB after a third of it, {after / 1024:.1f} late in it"
    )
    if after > before * (1 + FLAT):
        raise NotHeld(f"resident memory grows by {100 * (after / before - 1):.1f} percent")


MEMORY = FaultClass(
    "memory",
    "thousands of steps and test frames: resident memory flat within 1 percent",
    {"full": len(CASES), "short": 2, "ci": 0},
    try_memory,
)
