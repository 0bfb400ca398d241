"""Train detectors by name: `python train.py --model_names DeepPro --dataset_names NUDT-MIRSDT`."""

import argparse
from functools import partial
from typing import Any

import torch

from dataset import SequenceSet, create_dataset
from dataset.cache import cache_folder, fill_caches
from dataset.check.warn import tell
from dataset.clips import EpochBatches, TrainingClips, ValidationClips
from dataset.prepare import prepared
from dataset.sequence import SOURCES
from dataset.video import TestVideo
from loss import create_loss
from metrics.protocols import recipe_lines
from model import create_model
from utils.cli import (
    add_data_flags,
    add_recipe_flags,
    add_start_flags,
    new_parser,
    reader_options,
    typed_settings,
)
from utils.engine.dry_run import try_first_clips
from utils.engine.initial import start_from
from utils.engine.resume import find_saved_run, resume_command
from utils.engine.run import TrainingRun
from utils.engine.runtime import Runtime
from utils.engine.state import TrainState
from utils.engine.validation import Validation
from utils.errors import UserError, run_command
from utils.recipe.resolve import resolve_recipe
from utils.recipe.schema import Recipe
from utils.registry import DATASETS, MODELS, Entry
from utils.seed import set_seed
from utils.task import Task, task_of


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("Train detectors of infrared small moving targets.")
    add_data_flags(parser)
    add_recipe_flags(parser)
    add_start_flags(parser)
    return parser.parse_args(argv)


def build_run(args: argparse.Namespace, model: Entry, dataset: Entry) -> TrainingRun:
    """All parts of one run. Raises UserError for what cannot work; nothing is written yet."""
    names, task = (model.name, dataset.name), task_of(model)
    saved, typed = find_saved_run(args.log_dir, names, args.resume), typed_settings(args)
    if saved:
        recipe = saved.recipe(typed, task.name)
    else:
        recipe = resolve_recipe(model.facts["recipe"], dataset.name, typed, task.name)
    runtime = Runtime.of(recipe.runtime)
    set_seed(recipe.runtime.seed)
    network = create_model(model.name, **recipe.model)
    init = start_from(network, args.init, args.init_only) if args.init else None
    state = TrainState(network, recipe.optimisation)
    if saved:
        state.check(saved.content, saved.folder / "last.pth")
    loss = build_loss(recipe, task, model.name)
    lines = recipe_lines(recipe, [recipe.scoring.protocol], dataset.name)
    cache = cache_folder(args.cache_dir) if args.cache else None
    training, held = read_data(args, dataset.name, recipe)
    data = {"training": training.fingerprint, "validation": held.fingerprint}
    if saved:
        saved.check_data(data)
    recipe = prepared(recipe, (training, held), cache)
    videos = [TestVideo(sequence, held, recipe.view, cache) for sequence in held]

    def label() -> tuple[ValidationClips, EpochBatches, Any]:
        labelled = ValidationClips(held, recipe, task, cache)
        return labelled, batches_of(labelled, recipe), loss

    validation = Validation(videos, lines, recipe, task, SOURCES, label, create_model)
    validation.check(dataset.name)
    clips = TrainingClips(training, recipe, task, cache)
    try_first_clips(partial(create_model, model.name, **recipe.model), task, recipe.view, clips, videos)
    return TrainingRun(
        names,
        recipe,
        state,
        loss,
        clips,
        batches_of(clips, recipe),
        validation,
        runtime,
        log_dir=args.log_dir,
        facts={"dataset_dir": args.dataset_dir, "device": str(runtime.device), "torch": torch.__version__},
        data=data,
        init=init,
        resume=resume_command(args, names),
        saved=saved,
    )


def batches_of(clips: TrainingClips, recipe: Recipe) -> EpochBatches:
    return EpochBatches(len(clips), recipe.sampling.batch_size, recipe.runtime.seed)


def build_loss(recipe: Recipe, task: Task, model: str) -> Any:
    """The loss of the recipe. Raises UserError for one of the other task."""
    name = recipe.optimisation.loss
    loss = create_loss(name, **recipe.optimisation.loss_options)
    if loss.task != task.name:
        raise UserError(
            f"loss {name} takes {loss.task} but {model} predicts {task.name}; choose another --loss"
        )
    return loss


def read_data(args: argparse.Namespace, name: str, recipe: Recipe) -> tuple[SequenceSet, SequenceSet]:
    """(training, validation) sequences, as the recipe's `validation` says."""
    options, sampling = reader_options(args.dataset_options), recipe.sampling
    training = create_dataset(name, args.dataset_dir, "train", **options)
    if sampling.validation == "test":
        test = create_dataset(name, args.dataset_dir, "test", **options)
        tell((training, test), args.log_dir)
        return training, test
    tell((training,), args.log_dir)
    return training.holding_out(sampling.holdout)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    pairs = [
        (MODELS.entry(model), DATASETS.entry(dataset))
        for dataset in args.dataset_names
        for model in args.model_names or ["DeepPro"]
    ]
    runs = [build_run(args, *pair) for pair in pairs]  # all are built before the first one trains
    fill_caches(part for run in runs for part in (run.clips, *run.validation.parts))
    for run in runs:
        run.run()


if __name__ == "__main__":
    run_command(main)
