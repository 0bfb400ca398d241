"""Runs that go on where something has changed: data, record, folder, a second process, a lost worker.

Held means one sentence, or a run that goes on to the bits of one that nothing happened to.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataset.scene import SceneSettings
from dataset.synthetic import write_dataset
from tests.faults.campaign import Case, FaultClass, NotHeld
from tests.faults.data import scene_of
from tests.faults.judges import complaint, refusal
from tests.faults.layouts import LAYOUTS
from tests.faults.sets import put
from tests.faults.toy_runs import MORE, continued_run, copied, only_run, toy_run, toy_training
from tests.faults.training import comparable, difference, record_of, training_data, wait_until
from utils.files import temporary_beside


def own_run(case: Case) -> Path:
    """A copy of a run of one epoch."""
    return copied(toy_run(case, "Toy"), case.folder / "log" / "Synthetic" / "Toy" / "run")


def resumed(case: Case, *more: Any, epochs: int = 2) -> Any:
    """The command that goes on with `own_run`."""
    run = case.folder / "log" / "Synthetic" / "Toy" / "run"
    return case.call(*toy_training(case, "Toy", case.folder / "log", epochs), "--resume", run, *more)


def check_same(case: Case) -> None:
    """Raises NotHeld unless the run went on as an untouched one."""
    run, expected = case.folder / "log" / "Synthetic" / "Toy" / "run", continued_run(case, "Toy")
    told = difference(comparable(run / "last.pth"), comparable(expected / "last.pth"))
    case.hold(told or difference(record_of(run), record_of(expected)))


def data_copy(case: Case) -> Path:
    return copied(training_data(case) / "Synthetic", case.folder / "data" / "Synthetic")


# ---------------------------------------------------------------- other data


def other_data(case: Case) -> None:
    """Another data set lies under the same name."""
    own_run(case)
    settings = SceneSettings(height=32, width=40, frames=12, targets=(1, 2))
    write_dataset(case.folder / "data" / "Synthetic", settings, 3, 1, seed=5)
    case.hold(refusal(resumed(case, "--dataset_dir", case.folder / "data"), "Synthetic", "data"))


def frames_gone(case: Case) -> None:
    """A frame with all that belongs to it has gone from the training data."""
    own_run(case)
    for path in data_copy(case).glob("Sequence1/*/00007.png"):
        path.unlink()
    case.hold(refusal(resumed(case, "--dataset_dir", case.folder / "data"), "Sequence1", "Synthetic"))


def other_split(case: Case) -> None:
    """The list of the training sequences names others."""
    own_run(case)
    root = data_copy(case)
    (root / "train.txt").write_text("Sequence3\nSequence1\n")
    case.hold(
        refusal(resumed(case, "--dataset_dir", case.folder / "data"), "Sequence3", "train", "Synthetic")
    )


def moved_data(case: Case) -> None:
    """The same data at another place are the same data."""
    own_run(case)
    data_copy(case)
    case.hold(complaint(resumed(case, "--dataset_dir", case.folder / "data"), (0,)))
    check_same(case)


def lost_option(case: Case) -> None:
    """The run was trained with an option of the reader that is not given any more."""
    layout = next(layout for layout in LAYOUTS if layout.label == "boxes.csv")
    root = put(layout.files(scene_of(case.seed)), case.folder / "own")
    flags = (
        "train.py",
        "--model_names",
        "ToyBoxes",
        *MORE,
        "--dataset_names",
        "Folder",
        "--dataset_dir",
        root,
    )
    flags = (*flags, "--log_dir", case.folder / "log", "--sample_rate", 1)
    case.hold(complaint(case.call(*flags, "--epochs", 1, "--dataset_option", "box_origin=1"), (0,)))
    (run,) = (case.folder / "log" / "Folder" / "ToyBoxes").iterdir()
    case.hold(refusal(case.call(*flags, "--epochs", 2, "--resume", run), "box_origin"))


def data_vanish(case: Case) -> None:
    """The frames are removed while it trains."""
    root = data_copy(case)
    argv = toy_training(case, "Toy", case.folder / "log", 400)
    workers = int(case.draw.integers(2))
    command = case.start(
        *argv, "--dataset_dir", case.folder / "data", "--num_workers", workers, before=no_memory
    )
    wait_for(command, case.folder / "log", "train.jsonl")
    shutil.rmtree(root)
    case.hold(refusal(case.wait(command, 60), "Sequence", "Synthetic"))


def no_memory() -> None:
    """For `before`: frames are read from the disk each time."""
    from dataset import frames

    frames.FrameMemory.get = lambda memory, key, decode: decode()


# ---------------------------------------------------------------- the run's folder

LINES = (
    b"a foreign line\n",
    b"[1, 2]\n",
    b"7\n",
    b"{}\n",
    b'{"epoch": "one"}\n',
    b'{"epoch": null}\n',
    b'{"epoch": 1e999}\n',
    b'{"epoch": [1]}\n',
    b"\xff\xfe\n",
    b"\0\0\0\0",
    b"null\n",
    b"[" * 100_000 + b"\n",
)


def foreign_lines(case: Case) -> None:
    """train.jsonl holds what the run did not write."""
    run, line = own_run(case), LINES[case.draw.integers(len(LINES))]
    case.about = f"train.jsonl with {line[:20]!r}"
    path = run / "train.jsonl"
    before = path.read_bytes()
    path.write_bytes(line + before if case.draw.integers(2) else before + line)
    ended = resumed(case)
    case.hold(complaint(ended))
    if ended.code == 0:
        check_same(case)
    elif difference(comparable(run / "last.pth"), comparable(toy_run(case, "Toy") / "last.pth")):
        raise NotHeld("the run was refused and has changed")


def epochs_twice(case: Case) -> None:
    """train.jsonl holds an epoch twice: one that is trained again replaces its line."""
    run = own_run(case)
    path = run / "train.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().replace(b'"epoch": 1', b'"epoch": 2'))
    ended = resumed(case)
    case.hold(complaint(ended))
    if ended.code == 0:
        check_same(case)


def folder_removed(case: Case) -> None:
    """The run's folder is removed while it trains."""
    log = case.folder / "log"
    command = case.start(*toy_training(case, "Toy", log, 400), "--save_every", 1)
    wait_for(command, log, "train.jsonl")
    shutil.rmtree(only_run(log, "Toy"), ignore_errors=True)
    case.hold(refusal(case.wait(command, 60), "Toy"))


def no_last(case: Case) -> None:
    """There is no last.pth, or it is a folder, a link to itself, or nothing."""
    run = own_run(case)
    path = run / "last.pth"
    path.unlink()
    what = case.draw.integers(4)
    if what == 1:
        path.mkdir()
    elif what == 2:
        path.symlink_to("last.pth")
    elif what == 3:
        path.write_bytes(b"")
    case.hold(refusal(resumed(case), "last.pth", "run"))


def other_names(case: Case) -> None:
    """The run is of another model."""
    run = own_run(case)
    flags = ("train.py", "--model_names", "ToyBoxes", "--dataset_dir", training_data(case), *MORE)
    case.hold(refusal(case.call(*flags, "--log_dir", case.folder / "log", "--resume", run), "ToyBoxes"))


def lost_best(case: Case) -> None:
    """What is beside last.pth has gone: the run goes on, or says what is missing."""
    run = own_run(case)
    (run / str(case.draw.choice(["best.pth", "recipe.json", "train.jsonl"]))).unlink()
    ended = resumed(case)
    case.hold(complaint(ended))


def left_behind(case: Case) -> None:
    """Temporary files of a process that was killed lie in the folder."""
    run = own_run(case)
    dead = case.start("dead", main=lambda: None)
    case.wait(dead)
    for name in ("last.pth", "best.pth", "recipe.json"):
        place = temporary_beside(run / name)
        place = place.with_name(place.name.replace(f".{os.getpid()}.", f".{dead.pid}."))
        place.write_bytes(b"half")
    case.hold(complaint(resumed(case), (0,)))
    if left := sorted(path.name for path in run.glob(".*.tmp")):
        raise NotHeld(f"{', '.join(left)} stays")
    check_same(case)


# ---------------------------------------------------------------- processes


def second_process(case: Case) -> None:
    """Two processes go on with one run: one is refused, and the run has each epoch once."""
    run = own_run(case)
    argv = (*toy_training(case, "Toy", case.folder / "log", 60), "--resume", run)
    first = case.start(*argv)
    wait_until(first, float(case.draw.uniform(0, 1.5)))
    second = case.start(*argv)
    ends = [case.wait(first), case.wait(second)]
    wrong = [complaint(ended) for ended in ends]
    case.hold(wrong[0] or wrong[1])
    if sorted(ended.code for ended in ends) != [0, 2]:
        raise NotHeld(f"both ended with code {[ended.code for ended in ends]}")
    epochs = [line["epoch"] for line in record_of(run)]
    if epochs != list(range(1, 61)):
        raise NotHeld(f"the record has {len(epochs)} lines for 60 epochs")


def killed_worker(case: Case) -> None:
    """A process that loads clips is killed, as for its memory: one sentence, and the run can go on."""
    log = case.folder / "log"
    command = case.start(*toy_training(case, "Toy", log, 2000), "--num_workers", 2)
    wait_for(command, log, "train.jsonl")
    time.sleep(float(case.draw.uniform(0, 0.4)))
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    if not children:
        raise NotHeld("there are no workers")
    os.kill(int(case.draw.choice(children)), signal.SIGKILL)
    case.hold(refusal(case.wait(command, 60), "worker", "memory"))
    run = only_run(log, "Toy")
    again = case.call(*toy_training(case, "Toy", log, len(record_of(run)) + 1), "--resume", run)
    case.hold(complaint(again, (0,)))


def wait_for(command: Any, log: Path, name: str) -> None:
    """Wait until a run has written a file, which the first finished epoch fills."""
    limit = time.monotonic() + 60
    while not command.has_ended() and time.monotonic() < limit:
        if any(path.stat().st_size for path in log.glob(f"*/*/*/{name}")):
            return
        time.sleep(0.01)


SCENARIOS: tuple[Callable[[Case], None], ...] = (
    other_data,
    frames_gone,
    other_split,
    moved_data,
    lost_option,
    data_vanish,
    foreign_lines,
    foreign_lines,
    foreign_lines,
    epochs_twice,
    folder_removed,
    no_last,
    other_names,
    lost_best,
    left_behind,
    second_process,
    killed_worker,
)


def try_resume(case: Case) -> None:
    """One scenario."""
    scenario = case.chosen(SCENARIOS)
    case.about = scenario.__doc__
    scenario(case)


RESUME = FaultClass(
    "resume",
    "other data, records, folders and processes: one sentence, or on to the same bits",
    {"full": 3 * len(SCENARIOS), "short": len(SCENARIOS), "ci": 5},
    try_resume,
)
