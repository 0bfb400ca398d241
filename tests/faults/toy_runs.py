"""Runs and predictions of the toy detectors, made once, for classes that damage what is kept of them."""

import json
from pathlib import Path
from typing import Any

from tests.faults.campaign import Case
from tests.faults.judges import complaint
from tests.faults.observe import without_pictures
from tests.faults.training import training_data

TOY = ("--model_names", "Toy", "--loss", "Scaled", "--set", "sampling.patch=16", "--batch_size", 2)
TOY = (*TOY, "--learning_rate", 0.001)
BOXES = ("--model_names", "ToyBoxes", "--batch_size", 2)
MORE = ("--sample_rate", 0.5, "--set", "ema=0.9", "--num_workers", 0, "--device", "cpu")
MODELS = {"Toy": TOY, "ToyBoxes": BOXES}


def toy_training(case: Case, model: str, log: Path, epochs: int) -> tuple[Any, ...]:
    """The command that trains a toy."""
    places = ("--dataset_dir", training_data(case), "--log_dir", log)
    return ("train.py", *MODELS[model], *MORE, *places, "--epochs", epochs)


def only_run(log: Path, model: str) -> Path:
    (run,) = (log / "Synthetic" / model).iterdir()
    return run


def toy_run(case: Case, model: str, epochs: int = 1) -> Path:
    """The folder of a finished run."""

    def make(folder: Path) -> None:
        case.hold(complaint(case.call(*toy_training(case, model, folder, epochs)), (0,)))

    return only_run(case.once(f"run_{model}_{epochs}", make), model)


def continued_run(case: Case, model: str) -> Path:
    """The folder of a run of one epoch that was continued to two: what resuming an intact one gives."""
    first = toy_run(case, model)

    def make(folder: Path) -> None:
        run = copied(first, folder / "Synthetic" / model / "run")
        ended = case.call(*toy_training(case, model, folder, 2), "--resume", run)
        case.hold(complaint(ended, (0,)))

    return only_run(case.once(f"continued_{model}", make), model)


def copied(source: Path, target: Path) -> Path:
    """A copy of the files of a folder."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return target


def kept_predictions(case: Case, model: str) -> Path:
    """A folder that `test.py --save_predictions` has written: of TopHat maps, of ToyBoxes boxes."""
    weights = () if model == "TopHat" else ("--checkpoint", toy_run(case, model) / "last.pth")

    def make(folder: Path) -> None:
        flags = ("--dataset_dir", training_data(case), "--log_dir", folder, "--device", "cpu")
        ended = case.call(
            "test.py", "--model_names", model, *weights, *flags, "--save_predictions", before=without_pictures
        )
        case.hold(complaint(ended, (0,)))

    return only_run(case.once(f"predictions_{model}", make), model) / "predictions"


def figures(log: Path, model: str) -> Any:
    """What a test has counted, in all groups."""
    (path,) = (log / "Synthetic" / model).glob("*/eval.json")
    return [[entry["rule"], entry["groups"]] for entry in json.loads(path.read_text())["scores"]]
