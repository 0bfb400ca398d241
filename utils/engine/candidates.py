"""What is tested: models with their weights, or predictions that an earlier test has kept."""

import argparse
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from utils.checkpoint import REMEDY, load_official, load_weights, read_published, read_run
from utils.cli import reader_options
from utils.engine.dry_run import dry_run
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime, RuntimeSettings
from utils.engine.stages import confirmed
from utils.errors import UserError, reason
from utils.recipe.resolve import check_use, flat, full_keys, recipe_with, resolve_recipe
from utils.recipe.saved import saved_recipe
from utils.recipe.schema import Recipe, ViewSettings
from utils.registry import DATASETS, MODELS, Registry
from utils.report.prediction_files import INDEX
from utils.report.prediction_files import REMEDY as PREDICTIONS_REMEDY
from utils.report.predictions import SavedPredictions, read_predictions
from utils.task import Task, task_of

CreateModel = Callable[..., nn.Module]


@dataclass(frozen=True)
class Candidate:
    """A model to test, and where its weights or its predictions come from; else it has no parameters.

    checkpoint: a file of train.py, with its `content`
    official:   a file of published weights, with its `published` content
    saved:      predictions that are scored without a network
    """

    name: str
    checkpoint: Path | None = None
    content: dict[str, Any] = field(default_factory=dict, repr=False)
    official: Path | None = None
    published: dict[str, Any] = field(default_factory=dict, repr=False)
    saved: SavedPredictions | None = None

    @property
    def source(self) -> str:
        """What tables call the weights."""
        if self.saved:
            return self.saved.facts["weights"]
        return str(self.checkpoint or self.official or "no parameters")

    @property
    def is_light(self) -> bool:
        """Whether it is a model without weights."""
        return not (self.checkpoint or self.official or self.saved)

    @property
    def title(self) -> str:
        """What sentences call it."""
        return f"{self.name} ({self.source})"

    @property
    def task(self) -> Task:
        return task_of(MODELS.entry(self.name))

    @property
    def trained_on(self) -> str | None:
        """The data set of the checkpoint."""
        return self.content.get("dataset")

    def recipe(self, dataset: str, typed: dict[str, Any]) -> Recipe:
        """The recipe by which the model is tested on a data set.

        That of a checkpoint keeps the view and the scoring that it was trained with, on every data set.
        Raises UserError for a typed key that a test of this candidate ignores, and for a recipe that its task
        cannot follow.
        """
        if not self.content and not self.saved:
            recipe = MODELS.entry(self.name).facts["recipe"]
            check_use(
                full_keys(typed, flat(recipe)),
                ("model", "view", "scoring", "runtime"),
                f"a test of {self.title}",
            )
            recipe = resolve_recipe(recipe, dataset, typed, self.task.name)
            self.task.check(recipe)
            return recipe
        saved = self.saved_recipe
        typed = full_keys(typed, flat(saved.to_dict()))
        parts = ("view", "scoring", "runtime") if self.content else ("scoring", "runtime")
        check_use(typed, parts, f"a test of {self.title}")
        recipe = recipe_with(replace(saved, runtime=RuntimeSettings()), typed, self.task.name)
        self.task.check(recipe)
        return recipe

    @property
    def saved_recipe(self) -> Recipe:
        """The recipe of the checkpoint or of the kept predictions. Raises UserError for a damaged one."""
        if self.content:
            return saved_recipe(self.content["recipe"], self.checkpoint, REMEDY)
        return saved_recipe(self.saved.facts["recipe"], self.saved.index, PREDICTIONS_REMEDY)

    def tell(self, dataset: str, recipe: Recipe) -> None:
        """Print what the user should know of a test on another data set than the one it was trained on."""
        if not self.content or self.trained_on == dataset:
            return
        view = recipe.view
        statistics = f"the statistics of {dataset}, or of each sequence where it has none"
        if view.statistics == "train":
            statistics = f"the statistics of the training frames of {dataset}"
        gray = statistics if view.mean is view.test_mean is None else "the mean and std of its recipe"
        kept = {key: value for key, value in vars(view).items() if value != vars(ViewSettings())[key]}
        text = ", ".join(f"{key}={value}" for key, value in kept.items()) or "frames as they are"
        print(
            f"note: {self.source} was trained on {self.trained_on}; on {dataset} it keeps the view of its "
            f"training ({text}), and gray values are normalised by {gray}"
        )

    def load(self, recipe: Recipe, create_model: CreateModel) -> nn.Module:
        """The network with its weights. Raises UserError where they do not fit it."""
        model = create_model(self.name, **recipe.model)
        if self.content:
            load_weights(model, self.content["weights"], self.checkpoint)
        elif self.official:
            load_official(model, self.published, self.official)
        return model

    def try_out(self, recipe: Recipe, create_model: CreateModel, videos: Sequence[Any]) -> None:
        """Raises UserError where the weights do not fit the network, or the network not the first video.

        Also where kept predictions are damaged, or of other frames.
        """
        if self.saved:
            self.saved.check(videos)
        else:
            _, clip = next(iter(videos[0]))
            self.try_size(recipe, create_model, tuple(clip.shape[-2:]))

    def try_size(self, recipe: Recipe, create_model: CreateModel, size: tuple[int, int]) -> None:
        """Raises UserError where the weights do not fit the network, or that does not fit such an input.

        size: (height, width)
        """
        self.load(recipe, create_model)
        dry_run(partial(create_model, self.name, **recipe.model), self.task, recipe.view, size)

    def predictor(self, recipe: Recipe, create_model: CreateModel, runtime: Runtime) -> Callable:
        """What gives (frame, prediction) of every frame of a video."""
        threshold = recipe.scoring.threshold
        if self.saved:
            return confirmed(self.saved.reader(threshold), recipe, create_model)
        model = runtime.prepare(self.load(recipe, create_model))
        predict = partial(predict_video, model, self.task, runtime, threshold)
        return confirmed(predict, recipe, create_model)


def find_candidates(
    names: Sequence[str] | None,
    checkpoints: Sequence[Path],
    official: Sequence[Path],
    predictions: Sequence[Path],
    create_model: CreateModel,
) -> list[Candidate]:
    """Match checkpoints (which name their model) and published files (given in order) with model names.

    Kept predictions name their model, and stand in front of these. Raises UserError for files that belong to
    no model, and for models without weights.
    """
    for flag, paths in (("checkpoint", checkpoints), ("official", official), ("predictions", predictions)):
        for path in paths:
            check_place(path, flag)
    candidates = [kept_candidate(read_predictions(folder)) for folder in predictions]
    if candidates and not (names or checkpoints or official):
        return candidates
    contents = {path: read_run(path) for path in checkpoints}
    trained = {path: named(MODELS, content["model"], path) for path, content in contents.items()}
    chosen = [MODELS.entry(name).name for name in names or list(trained.values()) or ["DeepPro"]]
    for path, name in trained.items():
        if name not in chosen:
            raise UserError(f"{path} holds {name}, which is not among --model_names {' '.join(chosen)}")
    files = list(official)
    for name in dict.fromkeys(chosen):
        own = [Candidate(name, path, contents[path]) for path in contents if trained[path] == name]
        if own:
            candidates += own
        elif next(create_model(name).parameters(), None) is None:
            candidates.append(Candidate(name))
        elif files:
            published = read_published(files[0])
            candidates.append(Candidate(name, official=files.pop(0), published=published))
        else:
            raise UserError(
                f"{name} needs weights; give --checkpoint (from train.py) or --official (published)"
            )
    if files:
        raise UserError(f"--official {files[0]} belongs to no model; name its model in --model_names")
    return candidates


def kept_candidate(saved: SavedPredictions) -> Candidate:
    """The model of kept predictions.

    Raises UserError for names that are not registered, and where the model does not predict what was kept.
    """
    facts = {**saved.facts, "dataset": named(DATASETS, saved.facts["dataset"], saved.index)}
    candidate = Candidate(named(MODELS, facts["model"], saved.index), saved=replace(saved, facts=facts))
    try:
        reader_options(facts["dataset_options"])
    except UserError as error:
        raise UserError(f"{saved.index}: dataset_options: {error}") from None
    if saved.facts["kind"] != candidate.task.kept:
        raise UserError(
            f"{saved.index} has predictions of kind {saved.facts['kind']}, but {candidate.name} predicts "
            f"{candidate.task.kept}; {PREDICTIONS_REMEDY}"
        )
    return candidate


def named(registry: Registry, name: str, source: Path) -> str:
    """A name in a file as it is registered. Raises UserError, with the file, where it is not."""
    try:
        return registry.entry(name).name
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def check_place(path: Path, flag: str) -> None:
    """Raises UserError where a flag was given a path that cannot be read, or that another flag takes."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return  # what reads it says what it should be
    except OSError as error:
        raise UserError(f"--{flag} {path}: {reason(error)}; give a path that can be read") from None
    if flag == "predictions" and is_folder and os.path.lexists(path / "last.pth"):
        what = f"this is a run of train.py; use --checkpoint {path / 'best.pth'}"
    elif flag == "predictions" and not is_folder:
        what = "this is no folder of kept predictions; weights are given by --checkpoint or --official"
    elif flag != "predictions" and is_folder:
        kept = any(os.path.lexists(place / INDEX) for place in (path, path / "predictions"))
        what = (
            f"this is a folder of predictions; use --predictions {path}"
            if kept
            else ("this is a folder; give a .pth file in it")
        )
    else:
        return
    raise UserError(f"--{flag} {path}: {what}")


def wanted_sets(args: argparse.Namespace, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Arguments of create_dataset, for the data sets that were typed, else for those of kept predictions.

    Raises UserError for predictions on a data set that is not among those that were typed.
    """
    saved = {c.saved.facts["dataset"]: c.saved.facts for c in candidates if c.saved}
    names = [DATASETS.entry(name).name for name in args.dataset_names or list(saved) or ["Synthetic"]]
    for candidate in candidates:
        if candidate.saved and candidate.saved.facts["dataset"] not in names:
            raise UserError(
                f"{candidate.saved.folder} holds predictions on {candidate.saved.facts['dataset']}; "
                "name it in --dataset_names"
            )
    sets = []
    for name in names:
        facts = saved.get(name, {})
        root = args.dataset_dir or facts.get("dataset_dir", "data")
        options = reader_options(args.dataset_options or facts.get("dataset_options", []))
        sets.append(
            {"name": name, "root": root, "split": args.split or facts.get("split", "test"), **options}
        )
    return sets
