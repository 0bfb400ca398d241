"""Runs that go on: where one lies, what it holds, and the command that continues it."""

import argparse
from pathlib import Path
from typing import Any

from utils.checkpoint import REMEDY, read_run
from utils.errors import UserError
from utils.recipe.resolve import changes, recipe_with
from utils.recipe.saved import saved_recipe
from utils.recipe.schema import Recipe
from utils.runlog import latest_run


def find_saved_run(
    log_dir: Path, names: tuple[str, str], run: str | None
) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
    """(folder, content of its last.pth) of the run to continue; (None, None) without one.

    names: of the model and of the data set
    run:   its folder or last.pth; "latest": the newest of these names; None: a new run is wanted
    Raises UserError where there is none or it trains something else.
    """
    if run is None:
        return None, None
    if run == "latest":
        folder = latest_run(Path(log_dir, *reversed(names)))
    else:
        folder = Path(run).parent if Path(run).is_file() else Path(run)
    saved = read_run(folder / "last.pth")
    if (saved["model"], saved["dataset"]) != names:
        raise UserError(
            f"{folder} trains {saved['model']} on {saved['dataset']}, not {names[0]} on {names[1]}; name "
            "these in --model_names and --dataset_names"
        )
    return folder, saved


def continued_recipe(saved: dict[str, Any], typed: dict[str, Any], folder: Path) -> Recipe:
    """The recipe of a run that goes on. Raises UserError for a typed key that would change its training."""
    recipe = saved_recipe(saved["recipe"], folder / "last.pth", REMEDY)
    for key, (before, wanted) in changes(recipe, typed).items():
        raise UserError(
            f"the run in {folder} has {key}={before}, which --resume cannot change to {wanted}; leave the "
            "flag out or start a new run"
        )
    return recipe_with(recipe, typed)


def resume_command(args: argparse.Namespace, names: tuple[str, str]) -> str:
    """The command that continues a run by its own recipe, but for `--resume`, quoted for any shell."""
    flags = [f"--model_names {names[0]} --dataset_names {names[1]}", f'--dataset_dir "{args.dataset_dir}"']
    flags += [f'--dataset_option "{option}"' for option in args.dataset_options]
    return f"python train.py {' '.join(flags)}"
