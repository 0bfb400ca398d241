"""What is tested: models with their weights, or predictions that an earlier test has kept."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from utils.checkpoint import load_official, load_weights, read_checkpoint
from utils.cli import reader_options
from utils.engine.dry_run import dry_run
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime, RuntimeSettings
from utils.errors import UserError
from utils.recipe.resolve import check_use, flat, full_keys, recipe_from_dict, recipe_with, resolve_recipe
from utils.recipe.schema import Recipe, ViewSettings
from utils.registry import DATASETS, MODELS
from utils.report.predictions import SavedPredictions, read_predictions
from utils.task import Task, task_of

CreateModel = Callable[..., nn.Module]


@dataclass(frozen=True)
class Candidate:
    """A model to test, and where its weights or its predictions come from; else it has no parameters.

    checkpoint: a file of train.py, with its `content`
    official:   published weights
    saved:      predictions that are scored without a network
    """

    name: str
    checkpoint: Path | None = None
    content: dict[str, Any] = field(default_factory=dict, repr=False)
    official: Path | None = None
    saved: SavedPredictions | None = None

    @property
    def source(self) -> str:
        """What tables call the weights."""
        if self.saved:
            return self.saved.facts["weights"]
        return str(self.checkpoint or self.official or "no parameters")

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
        saved = recipe_from_dict(self.content["recipe"] if self.content else self.saved.facts["recipe"])
        typed = full_keys(typed, flat(saved.to_dict()))
        parts = ("view", "scoring", "runtime") if self.content else ("scoring", "runtime")
        check_use(typed, parts, f"a test of {self.title}")
        recipe = recipe_with(replace(saved, runtime=RuntimeSettings()), typed, self.task.name)
        self.task.check(recipe)
        return recipe

    def note(self, dataset: str, recipe: Recipe) -> str | None:
        """What the user should know of a test on another data set than the one it was trained on."""
        if not self.content or self.trained_on == dataset:
            return None
        view = recipe.view
        statistics = f"the statistics of {dataset}, or of each sequence where it has none"
        gray = statistics if view.mean is None else "the mean and std of its recipe"
        kept = {key: value for key, value in vars(view).items() if value != vars(ViewSettings())[key]}
        text = ", ".join(f"{key}={value}" for key, value in kept.items()) or "frames as they are"
        return (
            f"{self.source} was trained on {self.trained_on}; on {dataset} it keeps the view of its training "
            f"({text}), and gray values are normalised by {gray}"
        )

    def load(self, recipe: Recipe, create_model: CreateModel) -> nn.Module:
        """The network with its weights. Raises UserError where they do not fit it."""
        model = create_model(self.name, **recipe.model)
        if self.content:
            load_weights(model, self.content["weights"], self.checkpoint)
        elif self.official:
            load_official(model, self.official)
        return model

    def try_out(self, recipe: Recipe, create_model: CreateModel, videos: Sequence[Any]) -> None:
        """Raises UserError where the weights do not fit the network, or the network not the first video."""
        if not self.saved:
            self.load(recipe, create_model)
            _, clip = next(iter(videos[0]))
            build = partial(create_model, self.name, **recipe.model)
            dry_run(build, self.task, recipe.view, tuple(clip.shape[-2:]))

    def predictor(self, recipe: Recipe, create_model: CreateModel, runtime: Runtime) -> Callable:
        """What gives (frame, prediction) of every frame of a video."""
        threshold = recipe.scoring.threshold
        if self.saved:
            return self.saved.reader(threshold)
        model = runtime.prepare(self.load(recipe, create_model))
        return partial(predict_video, model, self.task, runtime, threshold)


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
    kept = [read_predictions(folder) for folder in predictions]
    candidates = [Candidate(MODELS.entry(p.facts["model"]).name, saved=p) for p in kept]
    if candidates and not (names or checkpoints or official):
        return candidates
    contents = {path: read_checkpoint(path) for path in checkpoints}
    chosen = [MODELS.entry(n).name for n in names or [c["model"] for c in contents.values()] or ["DeepPro"]]
    for path, content in contents.items():
        if content["model"] not in chosen:
            raise UserError(
                f"{path} holds {content['model']}, which is not among --model_names {' '.join(chosen)}"
            )
    files = list(official)
    for name in dict.fromkeys(chosen):
        own = [Candidate(name, path, c) for path, c in contents.items() if c["model"] == name]
        if own:
            candidates += own
        elif next(create_model(name).parameters(), None) is None:
            candidates.append(Candidate(name))
        elif files:
            candidates.append(Candidate(name, official=files.pop(0)))
        else:
            raise UserError(
                f"{name} needs weights; give --checkpoint (from train.py) or --official (published)"
            )
    if files:
        raise UserError(f"--official {files[0]} belongs to no model; name its model in --model_names")
    return candidates


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
