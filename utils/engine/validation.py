"""How a network is scored between epochs, and which of the scores chooses the best checkpoint."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime
from utils.engine.score import figure_names, score_set
from utils.errors import UserError
from utils.recipe.schema import Recipe
from utils.task import Task


@dataclass(frozen=True)
class Validation:
    """How a network is scored between epochs.

    videos:  of the sequences that choose the best checkpoint
    lines:   of the protocol, see metrics.protocols
    sources: by kind of truth, the fields of a sequence of which any gives it
    """

    videos: list
    lines: list
    recipe: Recipe
    task: Task
    sources: Mapping[str, tuple[str, ...]]

    @property
    def best(self) -> str:
        """The score that chooses the best checkpoint."""
        return self.recipe.scoring.best or self.task.best

    def check(self, dataset: str) -> None:
        """Raises UserError where that score is not computed, or not of each of the sequences."""
        scoring = self.recipe.scoring
        if misfit := next((line.misfit for line in self.lines if line.misfit), ""):
            raise UserError(f"the {scoring.protocol} protocol cannot validate: {misfit}, or --protocol clean")
        known = figure_names(self.lines, lambda metric: metric.takes in self.task.predicts)
        if self.best not in known:
            raise UserError(
                f"the {scoring.protocol} protocol of {scoring.paper} does not score {self.best} for models "
                f"of {self.task.name}; --set best= takes one of {', '.join(known)}"
            )
        kinds = self.sources[self.chosen.empty.truth]
        for video in self.videos:
            if not video.frames.sequence.has(kinds):
                others = figure_names(self.lines, self.is_possible)
                remedy = f" or --set best= one of {', '.join(others)}" if others else ""
                raise UserError(
                    f"{dataset} {video.name} has no {' or '.join(kinds)}, so it cannot validate by "
                    f"{self.best}; add them, or use --set validation=holdout{remedy}"
                )

    def is_possible(self, metric: Any) -> bool:
        """Whether the task has what a metric takes, and each of the sequences its truth."""
        kinds = self.sources[metric.truth]
        has_truth = all(video.frames.sequence.has(kinds) for video in self.videos)
        return metric.takes in self.task.predicts and has_truth

    @property
    def chosen(self) -> Any:
        """The metric that gives the score."""
        metrics = (m for line in self.lines for m in line.metrics if m.empty.takes in self.task.predicts)
        return next(m for m in metrics if self.best in [f.name for f in m.empty.figures])

    @property
    def is_higher_better(self) -> bool:
        """Whether the larger of two scores is the better one."""
        return self.figures[self.best].better == "higher"

    @property
    def figures(self) -> dict[str, Any]:
        """What the metrics of the protocol declare of their figures, by name."""
        return {f.name: f for line in self.lines for m in line.metrics for f in m.empty.figures}

    def texts(self, scores: Mapping[str, float]) -> list[str]:
        """Scores that are numbers as tables show them, such as "Pd % 98.50"."""
        figures = self.figures
        return [
            f"{figures[name].label} {format(value * figures[name].factor, figures[name].format)}"
            for name, value in scores.items()
            if not math.isnan(value)
        ]

    def score(self, model: nn.Module, runtime: Runtime, on_frame: Callable) -> dict[str, float]:
        """The figures of the protocol by name, of the first line that gives each."""
        predict = partial(predict_video, model, self.task, runtime, self.recipe.scoring.threshold)
        groups, _ = score_set(predict, self.videos, {}, self.lines, on_frame)
        scores: dict[str, float] = {}
        for line in reversed(self.lines):
            scores |= groups["all"].figures(line)
        return {name: float(scores[name]) for name in figure_names(self.lines) if name in scores}
