"""Kills at random moments while a file is written, again and again: checkpoints, JSON, train.jsonl, kept
predictions and the cache of frames.

Held means that the file is the old one or the new one, whole: what was finished before the kill can be read,
and what was not cannot be taken for finished. The next start gives the same figures and leaves no temporary
file.
"""

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.faults.campaign import Case, FaultClass, NotHeld
from tests.faults.judges import complaint
from tests.faults.observe import without_pictures
from tests.faults.training import training_data, wait_until
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.errors import USER_ERROR, UserError
from utils.files import remove_abandoned, write_json
from utils.runlog import Record

SIZE = 300_000  # numbers in a checkpoint: a few milliseconds of writing


def saves_for_ever(write: Callable[[int], None], log: Path) -> Callable[[], None]:
    """A command that writes one thing after the other and notes each before and after."""

    def main() -> None:
        with log.open("w", buffering=1) as file:
            for number in itertools.count(1):
                file.write(f"begin {number}\n")
                write(number)
                file.write(f"end {number}\n")

    return main


def killed_while(case: Case, write: Callable[[int], None], least: float = 0.03) -> tuple[int, int]:
    """(last number that was finished, last that was begun) of a command that is killed while it writes."""
    log = case.folder / "written"
    command = case.start("saves", main=saves_for_ever(write, log))
    while not log.exists() and not command.has_ended():
        time.sleep(0.001)
    time.sleep(least + float(case.draw.uniform(0, 0.2)))
    command.signal(9)
    ended = case.wait(command)
    if ended.code != -9:
        raise NotHeld(f"the writing ended by itself: {complaint(ended, ())}")
    numbers = {"begin": 0, "end": 0}
    for line in log.read_text().splitlines():
        word, _, number = line.partition(" ")
        numbers[word] = int(number or numbers[word])
    return numbers["end"], numbers["begin"]


def check_number(found: Any, finished: int, begun: int, what: str) -> None:
    """Raises NotHeld unless what was read is the old or the new one."""
    if found not in (finished, begun):
        raise NotHeld(f"{what} is of save {found}; {finished} was finished and {begun} begun")


def checkpoint(case: Case) -> None:
    """The weights of a save are its number, all of them."""
    path = case.folder / "run" / "last.pth"
    path.parent.mkdir()

    def write(number: int) -> None:
        weights = {name: torch.full((SIZE,), float(number)) for name in "ab"}
        save_checkpoint(path, {"weights": weights, "number": number})

    finished, begun = killed_while(case, write)
    if finished == 0 and not path.exists():
        return
    try:
        saved = read_checkpoint(path)
    except UserError as error:
        raise NotHeld(f"after a kill: {error}") from None
    check_number(saved["number"], finished, begun, "the checkpoint")
    if any(not (value == saved["number"]).all() for value in saved["weights"].values()):
        raise NotHeld("a checkpoint of two saves")
    check_tidied(path.parent)


def json_file(case: Case) -> None:
    """A file of JSON of about the size of a large eval.json."""
    path = case.folder / "run" / "eval.json"
    path.parent.mkdir()
    finished, begun = killed_while(case, lambda n: write_json(path, {"number": n, "values": [n] * 20_000}))
    if finished == 0 and not path.exists():
        return
    found = json.loads(path.read_text())
    check_number(found["number"], finished, begun, "the file")
    if found["values"] != [found["number"]] * 20_000:
        raise NotHeld("a file of two saves")
    check_tidied(path.parent)


def record(case: Case) -> None:
    """Lines of train.jsonl: what was added is there once and in order, whatever was being written."""
    path = case.folder / "run" / "train.jsonl"
    path.parent.mkdir()
    made = Record(path, 0)
    finished, begun = killed_while(case, lambda n: made.add({"epoch": n, "loss": 1 / n, "text": "x" * 3000}))
    for epochs in (finished, max(finished - 3, 0)):
        Record(path, epochs)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if [line["epoch"] for line in lines] != list(range(1, epochs + 1)):
            raise NotHeld(
                f"of {epochs} epochs the record has {[line['epoch'] for line in lines][-5:]} at its end"
            )
    check_tidied(path.parent)


def check_tidied(folder: Path) -> None:
    """Raises NotHeld where the next start does not remove what the killed process left."""
    remove_abandoned(folder)
    if left := sorted(path.name for path in folder.glob(".*.tmp")):
        raise NotHeld(f"{', '.join(left)} stays for ever")


# ---------------------------------------------------------------- commands that are killed


def tophat(case: Case, log: Path, *more: Any) -> tuple[Any, ...]:
    data = ("--model_names", "TopHat", "--dataset_dir", training_data(case))
    return ("test.py", *data, "--log_dir", log, "--device", "cpu", *more)


def figures_of(log: Path) -> Any:
    """What a test has counted."""
    (path,) = (log / "Synthetic" / "TopHat").glob("*/eval.json")
    return [[entry["rule"], entry["groups"]] for entry in json.loads(path.read_text())["scores"]]


def figures_expected(case: Case) -> Any:
    """The figures of the test that nothing interrupts."""

    def make(folder: Path) -> None:
        case.hold(complaint(case.call(*tophat(case, folder / "log"), before=without_pictures), (0,)))
        (folder / "figures.json").write_text(json.dumps(figures_of(folder / "log")))

    return json.loads((case.once("tophat", make) / "figures.json").read_text())


def predictions(case: Case) -> None:
    """A test with --save_predictions is killed; what it left gives its figures or is refused."""
    expected, log = figures_expected(case), case.folder / "log"
    command = case.start(*tophat(case, log, "--save_predictions"), before=without_pictures)
    wait_until(command, float(case.draw.uniform(0.03, 0.6)))
    command.signal(9)
    case.wait(command)
    for folder in (log / "Synthetic" / "TopHat").glob("*"):
        again = case.folder / "again"
        flags = ("--predictions", folder, "--dataset_dir", training_data(case), "--log_dir", again)
        ended = case.call("test.py", *flags, "--device", "cpu", before=without_pictures)
        case.hold(complaint(ended))
        if ended.code != USER_ERROR and figures_of(again) != expected:
            raise NotHeld("predictions of a killed test give other figures")


def cache(case: Case) -> None:
    """A test with --cache is killed; the next one gives the same figures and leaves nothing behind."""
    expected, folder = figures_expected(case), case.folder / "cache"
    flags = ("--cache", "--cache_dir", folder)
    command = case.start(*tophat(case, case.folder / "log", *flags), before=without_pictures)
    wait_until(command, float(case.draw.uniform(0.01, 0.25)))
    command.signal(9)
    case.wait(command)
    again = case.folder / "again"
    ended = case.call(*tophat(case, again, *flags), before=without_pictures)
    case.hold(complaint(ended, (0,)))
    if figures_of(again) != expected:
        raise NotHeld("the cache of a killed test gives other figures")
    if left := sorted(path.name for path in folder.rglob(".*.tmp")):
        raise NotHeld(f"{', '.join(left)} was never removed")


KINDS = (checkpoint, checkpoint, checkpoint, checkpoint, json_file, record, predictions, cache)


def try_save(case: Case) -> None:
    kind = case.chosen(KINDS)
    case.about = f"a kill while writing: {kind.__name__}"
    kind(case)


SAVES = FaultClass(
    "saves",
    "kills inside saves: each file is the old or the new one, whole",
    {"full": 240, "short": 64, "ci": 16},
    try_save,
)
