"""How a network is scored between epochs, and which of the scores chooses the best checkpoint."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import nn
from torch.utils.data import Dataset, Sampler

from utils.engine.best import LABELS, RULES, MeanFigure, Measure, Rule
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime
from utils.engine.score import figure_names, score_set
from utils.engine.stages import confirmed
from utils.errors import UserError
from utils.recipe.schema import Recipe
from utils.task import Task


@dataclass(frozen=True)
class Validation:
    """How a network is scored between epochs.

    videos:  of the sequences that choose the best checkpoint
    lines:   of the protocol, see metrics.protocols
    sources: by kind of truth, the fields of a sequence of which any gives it
    label:   makes (clips of these sequences with targets, batches of them, the loss of the training)
    create_model: makes the model that confirms what the network finds, by its name
    """

    videos: list
    lines: list
    recipe: Recipe
    task: Task
    sources: Mapping[str, tuple[str, ...]]
    label: Callable[[], tuple[Dataset, Sampler, Callable]]
    create_model: Callable[..., nn.Module]

    # ---------------------------------------------------------------- what chooses the best checkpoint

    @property
    def best(self) -> str:
        """What chooses the best checkpoint: a name of RULES, or figures of the protocol joined by +."""
        return self.recipe.scoring.best or self.task.best

    @cached_property
    def rule(self) -> Rule:
        """How it does. Raises UserError for what is neither, and for what the task does not predict."""
        if self.best in RULES and self.is_predicted(RULES[self.best]):
            return RULES[self.best]
        figures, names = self.figures, self.best.split("+")
        if not all(name in self.predicted for name in names):
            scoring = self.recipe.scoring
            known = [*self.predicted, *(name for name in RULES if self.is_predicted(RULES[name]))]
            raise UserError(
                f"the {scoring.protocol} protocol of {scoring.paper} does not score {self.best} for models "
                f"of {self.task.name}; --set best= takes one of {', '.join(known)}"
            )
        directions = {figures[name].better for name in names}
        if len(directions) > 1:
            raise UserError(
                f"recipe key scoring.best is {self.best}, but of some of these figures the higher and of "
                "others the lower value is the better one; join figures of one direction"
            )
        (better,), of_protocol = directions, f"of the {self.recipe.scoring.protocol} protocol"
        if len(names) == 1:
            return Rule(f"{self.best} {of_protocol}", better, self.best)
        mean = f"mean of {' and '.join(names)}"
        value, measure = "_".join(names), lambda _: MeanFigure(names)
        return Rule(f"the {mean} {of_protocol}", better, value, label=mean, measure=measure)

    @property
    def choice(self) -> dict[str, str]:
        """The rule in words, for recipe.json and checkpoints."""
        text = self.rule.text.format(threshold=self.recipe.scoring.threshold)
        return {"best": self.best, "is": text, "better": self.rule.better}

    def check(self, dataset: str) -> None:
        """Raises UserError where what chooses is not computed, or not of each of the sequences.

        And for a model that cannot confirm.
        """
        confirmed(iter, self.recipe, self.create_model)
        if misfit := next((line.misfit for line in self.lines if line.misfit), ""):
            protocol = self.recipe.scoring.protocol
            raise UserError(f"the {protocol} protocol cannot validate: {misfit}, or --protocol clean")
        for kinds in self.needed(self.best, self.rule):
            for video in self.videos:
                if not video.frames.sequence.has(kinds):
                    others = figure_names(self.lines, self.is_possible)
                    others += [name for name in RULES if self.is_measurable(name)]
                    raise UserError(
                        f"{dataset} {video.name} has no {' or '.join(kinds)}, so it cannot validate by "
                        f"{self.best}; add them, or use --set validation=holdout or --set best= one of "
                        f"{', '.join(others)}"
                    )
        if self.rule.truth == LABELS:
            _ = self.labelled  # raises UserError where its clips cannot be made

    def needed(self, name: str, rule: Rule) -> list[tuple[str, ...]]:
        """The fields of which each sequence must have one, for each truth that a rule needs."""
        if name in RULES:
            known = {"": [], LABELS: [self.task.truths(self.recipe)]}
            return known[rule.truth] if rule.truth in known else [self.sources[rule.truth]]
        return [self.sources[self.metric_of(figure).empty.truth] for figure in name.split("+")]

    def is_predicted(self, what: Rule | Any) -> bool:
        """Whether the task has what a rule, or a metric, takes."""
        return not what.takes or what.takes in self.task.predicts

    def is_measurable(self, name: str) -> bool:
        """Whether a rule has what it needs of the task and of each of the sequences."""
        rule = RULES[name]
        kinds = self.needed(name, rule)
        has_truth = all(video.frames.sequence.has(k) for video in self.videos for k in kinds)
        return self.is_predicted(rule) and has_truth

    def is_possible(self, metric: Any) -> bool:
        """Whether the task has what a metric takes, and each of the sequences its truth."""
        kinds = self.sources[metric.truth]
        has_truth = all(video.frames.sequence.has(kinds) for video in self.videos)
        return self.is_predicted(metric) and has_truth

    @property
    def predicted(self) -> list[str]:
        """The figures of the protocol of what the task predicts."""
        return figure_names(self.lines, self.is_predicted)

    def metric_of(self, figure: str) -> Any:
        """The metric that gives a figure."""
        metrics = (m for line in self.lines for m in line.metrics if self.is_predicted(m.empty))
        return next(m for m in metrics if figure in [f.name for f in m.empty.figures])

    @cached_property
    def labelled(self) -> tuple[Dataset, Sampler, Callable]:
        """(clips with targets, batches of them, the loss of the training); made on first use."""
        return self.label()

    @property
    def parts(self) -> list[Any]:
        """What reads frames."""
        return [*self.videos, *self.labelled[:1]] if self.rule.truth == LABELS else self.videos

    # ---------------------------------------------------------------- scores

    @property
    def figures(self) -> dict[str, Any]:
        """What the metrics of the protocol declare of their figures, by name."""
        return {f.name: f for line in self.lines for m in line.metrics for f in m.empty.figures}

    def texts(self, scores: Mapping[str, float]) -> list[str]:
        """Scores that are numbers as tables show them, such as "Pd % 98.50"."""
        figures, label = self.figures, {self.rule.value: self.rule.label}
        return [
            f"{figures[name].label} {format(value * figures[name].factor, figures[name].format)}"
            if name in figures
            else f"{label[name]} {value:.4f}"
            for name, value in scores.items()
            if not math.isnan(value)
        ]

    def score(
        self, model: nn.Module, runtime: Runtime, on_frame: Callable, loader: Callable
    ) -> dict[str, float]:
        """The figures of the protocol by name, of the first line that gives each, and the rule's value.

        on_frame: as in utils.engine.score
        loader:   as in Measure.value
        """
        measure = self.rule.measure(self) if self.rule.measure else Measure()

        def see(video: Any, index: int, prediction: Any, truth: dict) -> None:
            measure.see_truth(video, index, truth)
            on_frame(video, index, prediction, truth)

        threshold = self.recipe.scoring.threshold
        predict = partial(predict_video, model, self.task, runtime, threshold, on_clip=measure.see_clip)
        predict = confirmed(predict, self.recipe, self.create_model)
        groups, _ = score_set(predict, self.videos, {}, self.lines, see)
        scores: dict[str, float] = {}
        for line in reversed(self.lines):
            scores |= groups["all"].figures(line)
        scores = {name: float(scores[name]) for name in figure_names(self.lines) if name in scores}
        if self.rule.measure:
            scores[self.rule.value] = measure.value(model, runtime, scores, loader)
        return scores
