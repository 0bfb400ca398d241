"""What a data set gives: the figures of a test, and the clips and labels of an epoch of training."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.faults.campaign import Case, NotHeld
from tests.faults.harness import Ended
from tests.faults.judges import complaint
from tests.toys import registered_toys
from utils.registry import DATASETS

TOYS = registered_toys()
TOYS.__enter__()  # for as long as this process and those forked from it live
VIEWS = ("test", "Toy", "ToyBoxes")
GRAY = ("--set", "view.mean=75", "--set", "view.std=20")


def without_pictures() -> None:
    """For `before`: curves are computed but not drawn, which takes most of the time of a small test."""
    from matplotlib.figure import Figure

    Figure.savefig = lambda figure, file, **options: file.write(b"") if hasattr(file, "write") else None


def data_flags(reader: str, root: Path) -> tuple[Any, ...]:
    return "--dataset_names", reader, "--dataset_dir", root


def start_view(case: Case, view: str, reader: str, root: Path, log: Path, more: tuple = ()):
    """Start the command that shows one view of a data set."""
    flags = (*data_flags(reader, root), "--log_dir", log, "--device", "cpu", *more)
    if view == "test":
        return case.start("test.py", "--model_names", "TopHat", *flags, before=without_pictures)
    epoch = ("--sample_rate", 1, "--num_workers", 0, "--epochs", 0)
    patch = ("--set", "sampling.patch=None") if view == "Toy" else ()

    def clips_only() -> None:
        case.commands["train.py"].TrainingRun.run = lambda run: write_clips(run.clips, log)

    return case.start("train.py", "--model_names", view, *flags, *epoch, *patch, *GRAY, before=clips_only)


def write_clips(clips: Any, log: Path) -> None:
    """A digest of each clip and its labels, in one epoch."""
    items = [clips[0, index] for index in range(len(clips))]
    digests = [
        [hashlib.sha256(item[key].numpy().tobytes()).hexdigest()[:16] for key in ("clip", "target")]
        for item in items
    ]
    log.mkdir(parents=True, exist_ok=True)
    (log / "clips.json").write_text(json.dumps([len(items), sorted(digests)]))


def read_view(view: str, ended: Ended, log: Path, reader: str) -> dict[str, Any]:
    """{"refused": sentence} or {"given": figures or digests}; NotHeld for a command that misbehaved."""
    wrong = complaint(ended)
    if wrong:
        raise NotHeld(f"{view}: {wrong}")
    if ended.code:
        return {"refused": ended.err.strip()}
    if view != "test":
        return {"given": json.loads((log / "clips.json").read_text())}
    (path,) = (log / DATASETS.entry(reader).name / "TopHat").glob("*/eval.json")
    scores = json.loads(path.read_text())["scores"]
    return {"given": [[entry["rule"], entry["groups"]["all"]] for entry in scores]}


def observe(case: Case, reader: str, root: Path, log: Path, more: tuple = ()) -> dict[str, dict[str, Any]]:
    """What each view of a data set gives, or the sentence on which it was refused."""
    found = {}
    for view in VIEWS:
        place = log / view
        ended = case.wait(start_view(case, view, reader, root, place, more))
        found[view] = read_view(view, ended, place, reader)
    return found
