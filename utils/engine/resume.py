"""Runs that go on: where one lies, what it holds, and the command that continues it."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.checkpoint import read_checkpoint
from utils.errors import UserError
from utils.recipe.resolve import changes, recipe_from_dict, recipe_with
from utils.recipe.schema import Recipe
from utils.runlog import RunLock, latest_run


@dataclass(frozen=True)
class SavedRun:
    """A run to go on with: its folder, which no other process uses, and the content of its last.pth."""

    folder: Path
    content: dict[str, Any]
    lock: RunLock

    def recipe(self, typed: dict[str, Any], task: str) -> Recipe:
        """Its recipe, with what the user typed. Raises UserError for a key that would change its training."""
        recipe = recipe_from_dict(self.content["recipe"])
        for key, (before, wanted) in changes(recipe, typed, task).items():
            raise UserError(
                f"the run in {self.folder} has {key}={before}, which --resume cannot change to {wanted}; "
                "leave the flag out or start a new run"
            )
        return recipe_with(recipe, typed, task)

    def check_data(self, data: dict[str, dict[str, Any]]) -> None:
        """Raises UserError where the data is not what the run began with, wherever it lies now.

        data: the fingerprint of each part, see dataset.sequence
        """
        if "data" not in self.content:
            print(f"note: {self.folder} does not tell which data it began with; see that this is the same")
            return
        for part, now in data.items():
            change = changed_data(self.content["data"][part], now)
            if change:
                raise UserError(
                    f"the run in {self.folder} began with other {part} data: {change}; give it the same data "
                    "and the same --dataset_option, or start a new run"
                )


def changed_data(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What differs between two fingerprints of data, in words; None where nothing does."""
    if before["options"] != now["options"]:
        old, new = (
            " ".join(f"{key}={value}" for key, value in data["options"].items()) or "none"
            for data in (before, now)
        )
        return f"its reader's options were {old}, now they are {new}"
    old, new = before["sequences"], now["sequences"]
    for name in [name for name in {**old, **new} if old.get(name) != new.get(name)]:
        if name not in new:
            return f"the sequence {name} is missing"
        if name not in old:
            return f"the sequence {name} was not there"
        return f"the sequence {name} had {old[name]}, now it has {new[name]}"
    return None if list(old) == list(new) else "its sequences are in another order"


def find_saved_run(log_dir: Path, names: tuple[str, str], run: str | None) -> SavedRun | None:
    """The run to continue, or None where a new one is wanted.

    names: of the model and of the data set
    run:   its folder or last.pth; "latest": the newest of these names; None: a new run
    Raises UserError where there is none, it trains something else, or another process uses it.
    """
    if run is None:
        return None
    if run == "latest":
        folder = latest_run(Path(log_dir, *reversed(names)))
    else:
        folder = Path(run).parent if Path(run).is_file() else Path(run)
    if not (folder / "last.pth").is_file():
        raise UserError(f"there is no checkpoint {folder / 'last.pth'}; give --resume the folder of a run")
    lock = RunLock(folder)  # before last.pth is read: a run that goes on would replace it
    saved = read_checkpoint(folder / "last.pth")
    if (saved["model"], saved["dataset"]) != names:
        raise UserError(
            f"{folder} trains {saved['model']} on {saved['dataset']}, not {names[0]} on {names[1]}; name "
            "these in --model_names and --dataset_names"
        )
    return SavedRun(folder, saved, lock)


def resume_command(args: argparse.Namespace, names: tuple[str, str]) -> str:
    """The command that continues a run by its own recipe, but for `--resume`, quoted for any shell."""
    flags = [f"--model_names {names[0]} --dataset_names {names[1]}", f'--dataset_dir "{args.dataset_dir}"']
    flags += [f'--dataset_option "{option}"' for option in args.dataset_options]
    return f"python train.py {' '.join(flags)}"
