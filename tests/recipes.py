"""Recipes, training clips and test videos from the names of a few settings."""

from collections.abc import Iterable
from pathlib import Path

from dataset.clips import TrainingClips
from dataset.sequence import Sequence, SequenceSet
from dataset.video import TestVideo
from dataset.view import View
from utils.engine.schedules import create_schedule
from utils.recipe.fields import build, names_of
from utils.recipe.schema import PARTS, Recipe
from utils.task import TASKS


def recipe_of(**settings) -> Recipe:
    """The default recipe with these settings, each checked and put into the part that has it."""
    parts = {
        part: {n: settings.pop(n) for n in names_of(cls) if n in settings} for part, cls in PARTS.items()
    }
    assert not settings, f"no part of a recipe has {list(settings)}"
    return Recipe(**{part: build(cls, parts[part], part) for part, cls in PARTS.items()})


def view_of(split: str = "test", **settings) -> View:
    """The view of these settings."""
    return View.of(recipe_of(**settings).view, split)


def clips_of(data: SequenceSet, task: str = "masks", cache: Path | None = None, **settings) -> TrainingClips:
    """Training clips of masks or boxes, one per window or frame unless `sample_rate` is given."""
    return TrainingClips(data, recipe_of(**{"sample_rate": 1.0, **settings}), TASKS[task], cache)


def video_of(sequence: Sequence, data: SequenceSet, cache: Path | None = None, **settings) -> TestVideo:
    """A test video."""
    return TestVideo(sequence, data, recipe_of(**settings).view, cache)


def learning_rates(recipe: Recipe, epochs: Iterable[int]) -> list[float]:
    """The learning rates of some epochs, counted from 0."""
    chosen = recipe.optimisation
    schedule = create_schedule(chosen.schedule, **chosen.schedule_options)
    return [schedule.rate(chosen.learning_rate, epoch, chosen.epochs) for epoch in epochs]
