"""From predictions to figures: each frame is scored once, and every figure says over what it was counted.

Lines say which metrics are counted and which of their figures stand together (see metrics/protocols.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm import tqdm

from utils.boxes import Prediction
from utils.grid import EXACT, Grid


@dataclass(frozen=True, eq=False)
class Count:
    """A metric, the sequences that it has counted, and how many frames these have."""

    metric: Any
    sequences: tuple[str, ...]
    frames: int


@dataclass(frozen=True, eq=False)
class Group:
    """The counts of some sequences together.

    sequences: their names
    counts:    by the key of the metric; without those that could be scored in none of the sequences
    lacks:     by the key of the metric, what a sequence or its predictions lacked for it
    """

    sequences: tuple[str, ...]
    counts: Mapping[str, Count]
    lacks: Mapping[str, str] = field(default_factory=dict)

    def counted(self, line: Any) -> list[tuple[Any, Count]]:
        """(metric of the line, its count) of those that were scored."""
        return [(m, self.counts[m.key]) for m in line.metrics if m.key in self.counts]

    def figures(self, line: Any) -> dict[str, Any]:
        """All numbers of a line by name, such as pd, fa, auc, iou, true, targets; those that were scored."""
        return {
            name: value
            for chosen, count in self.counted(line)
            for name, value in count.metric.figures_at(chosen.threshold).items()
            if name not in chosen.hidden
        }

    def figure(self, lines: Iterable[Any], name: str) -> float:
        """A figure of the first of the lines that gives it; nan where none does."""
        for line in lines:
            if name in (found := self.figures(line)):
                return float(found[name])
        return float("nan")

    def curves(self, line: Any) -> dict[str, Any]:
        """The curves of a line by kind, "roc" or "pr"; those that are defined."""
        return {
            kind: curve
            for chosen, count in self.counted(line)
            for kind, curve in count.metric.curves().items()
            if kind not in chosen.hidden and curve is not None
        }

    def coverage(self, line: Any) -> tuple[int, int]:
        """How many sequences and frames a line was counted over, whose metrics have counted the same ones.

        `split` makes such lines.
        """
        counts = [(len(count.sequences), count.frames) for _, count in self.counted(line)]
        return max(counts, default=(0, 0))

    def rule(self, line: Any) -> str:
        """By which metrics and options, in which pixels, the figures of a line were computed, in words."""
        if not self.sequences:
            return "no sequence of this group was tested"
        parts = [chosen.text for chosen, _ in self.counted(line)]
        parts += [line.pixels] * bool(parts and line.pixels)
        named = line.rule or line.metrics[0]
        if named.key not in self.counts and (line.rule or not parts):
            parts.insert(0, f"{named.name}: not scored, {self.lacks[named.key]}")
        return "; ".join(parts)

    def split(self, line: Any) -> list[Any]:
        """The line as one or more lines, each of metrics that were counted over the same sequences.

        Parts without the line's rule for targets have no name in `targets`. What could not be scored at all
        stays with the first part.
        """
        parts: dict[frozenset[str], list[Any]] = {}
        for chosen, count in self.counted(line):
            parts.setdefault(frozenset(count.sequences), []).append(chosen)
        if len(parts) < 2:
            return [line]
        first, *others = parts.values()
        kept = [first + [m for m in line.metrics if m.key not in self.counts], *others]
        return [
            replace(line, metrics=tuple(metrics), targets=line.targets if line.rule in metrics else "")
            for metrics in kept
        ]


def score_set(
    predict: Callable,
    videos: Iterable,
    subsets: Mapping[str, Iterable[str]],
    lines: Sequence[Any],
    on_frame: Callable | None = None,
) -> tuple[dict[str, Group], dict[str, Group]]:
    """(groups, sequences): what was counted of "all" and the data set's subsets, and of each sequence.

    predict, videos, lines, on_frame: as in `evaluate`
    """
    sequences = evaluate(predict, videos, lines, on_frame)
    groups = {"all": merge_groups(sequences.values(), lines)}
    for name, members in subsets.items():
        found = dict.fromkeys(member for member in members if member in sequences)
        groups[name] = merge_groups([sequences[member] for member in found], lines)
    return groups, sequences


def evaluate(
    predict: Callable[[Any], Iterable[tuple[int, Prediction]]],
    videos: Iterable,
    lines: Sequence[Any],
    on_frame: Callable[[Any, int, Prediction, dict], None] | None = None,
) -> dict[str, Group]:
    """Score predictions of videos, by the name of the sequence; each metric is updated once per frame.

    predict: gives (frame, prediction) of every frame of a video
    lines:   whose metrics are counted, metrics of equal options once
    A metric that takes what the predictions are not, or whose kind of truth a sequence lacks, is left out for
    that sequence, and one that does not fit the recipe is for all.
    on_frame(video, index, prediction, truth): sees every frame in the pixels of its file, to save or draw it.
    """
    chosen = {metric.key: metric for line in lines for metric in line.metrics}
    misfits = {key: metric.misfit for key, metric in chosen.items() if metric.misfit}
    grids = kinds_by_grid(metric for key, metric in chosen.items() if key not in misfits)
    groups = {}
    for video in tqdm(videos, "test", unit="sequence", leave=False, disable=None):
        metrics = {key: metric.create() for key, metric in chosen.items() if key not in misfits}
        lacks, frames = dict(misfits), 0
        video.expect(kinds_of(grids))
        for index, prediction in predict(video):
            views = frame_views(video, index, prediction, grids)
            frames += 1
            for key, metric in list(metrics.items()):
                found, truth = views[chosen[key].grid]
                if lack := lack_of(metric, found, truth):
                    lacks[key] = lack
                    del metrics[key]
                else:
                    metric.update(getattr(found, metric.takes), truth[metric.truth])
            if on_frame:
                on_frame(video, index, prediction, views[EXACT][1])
        counts = {key: Count(metric, (video.name,), frames) for key, metric in metrics.items()}
        groups[video.name] = Group((video.name,), counts, lacks)
    return groups


def kinds_by_grid(metrics: Iterable[Any]) -> dict[Grid, set[str]]:
    """The kinds of truth that metrics of lines need, by the pixels in which they count.

    Those of the file come first, where the truth of the others begins and pictures are drawn.
    """
    grids: dict[Grid, set[str]] = {EXACT: set()}
    for metric in metrics:
        grids.setdefault(metric.grid, set()).add(metric.empty.truth)
    return grids


def kinds_of(grids: Mapping[Grid, set[str]]) -> set[str]:
    """The kinds of truth that are read of a frame, for the metrics of all grids."""
    others = set().union(*(kinds for grid, kinds in grids.items() if grid != EXACT)) - {"round_trip_mask"}
    return grids[EXACT] | others


def frame_views(
    video: Any, index: int, prediction: Prediction, grids: Mapping[Grid, set[str]]
) -> dict[Grid, tuple[Prediction | None, dict[str, Any]]]:
    """(prediction, truth) of a frame by grid; None for a prediction that is not known there.

    grids: as from `kinds_by_grid`
    """
    exact = video.truth(index, kinds_of(grids))
    return {
        grid: (prediction, exact)
        if grid == EXACT
        else (prediction.on(grid), video.truth_on(grid, exact, kinds))
        for grid, kinds in grids.items()
    }


def lack_of(metric: Any, prediction: Prediction | None, truth: Mapping[str, Any]) -> str:
    """Which kind of prediction or truth that a metric takes is not there for a frame; "" where both are."""
    if prediction is None:
        return (
            "what the network gave in its own input is not known; test it again, and without scoring.confirm"
        )
    if getattr(prediction, metric.takes) is None:
        return f"the model predicts no {metric.takes.replace('_', ' ')}"
    if truth.get(metric.truth) is None:
        return f"the data has no {metric.truth.replace('_', ' ')}"
    return ""


def merge_groups(groups: Iterable[Group], lines: Sequence[Any]) -> Group:
    """One group of several: counters are summed, not figures averaged."""
    groups = list(groups)
    counts = {}
    for key, chosen in {metric.key: metric for line in lines for metric in line.metrics}.items():
        found = [group.counts[key] for group in groups if key in group.counts]
        total = chosen.create()
        for count in found:
            total.merge(count.metric)
        if found:
            sequences = tuple(name for count in found for name in count.sequences)
            counts[key] = Count(total, sequences, sum(count.frames for count in found))
    lacks = {key: lack for group in groups for key, lack in group.lacks.items()}
    return Group(tuple(name for group in groups for name in group.sequences), counts, lacks)


def figure_names(lines: Iterable[Any], is_possible: Callable[[Any], bool] = lambda metric: True) -> list[str]:
    """The figures of tables that lines give, in order.

    is_possible(metric): whether a metric can be scored, by what it declares in `takes` and `truth`
    """
    figures = (f for line in lines for m in line.metrics if is_possible(m.empty) for f in m.empty.figures)
    return list(dict.fromkeys(figure.name for figure in figures))
