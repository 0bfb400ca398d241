"""Evaluation protocols as data: the lines of a table, and which metrics with which options stand in each.

"clean" is the same for every model: the original masks at their original size, three rules for targets, and
one binary truth for every pixel figure. The others are what a paper's own code does; a model's recipe names
its paper.

A protocol is one or more lines and the pixels in which they are counted; a line maps metrics to their
options. Its first rule for targets names it, and of two metrics that give the same figure the first counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metrics import create_metric
from metrics.counting import Figure
from utils.boxes import MIN_SIDE
from utils.errors import UserError, near_matches
from utils.grid import EXACT, Grid
from utils.recipe.schema import Recipe, ViewSettings
from utils.registry import METRICS

# Of the 50 figures that DTUM publishes, and of their AUC.
DTUM_THRESHOLDS = (
    *(0, 1e-30, *(float(f"1e{power}") for power in range(-20, 0))),
    *(0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    *(0.975, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 0.999999, 0.9999999, 1),
)


@dataclass(frozen=True)
class Protocol:
    """How a paper, or everyone, scores.

    lines:    each maps metrics to their options
    grid:     the pixels in which they are counted
    datasets: the protocol on those data sets where it is another one, by name
    """

    lines: tuple[dict[str, dict[str, Any]], ...]
    grid: Grid = EXACT
    datasets: Mapping[str, "Protocol"] = field(default_factory=dict)

    def on(self, dataset: str) -> "Protocol":
        """The protocol on a data set."""
        return self.datasets.get(dataset, self)


PROTOCOLS: dict[str, Protocol] = {
    "clean": Protocol(
        (
            {"ShootingRules": {"border": "clip"}, "IoU": {}, "ROC": {"target": "positive"}},
            {"PdFa": {"rule": "pixels"}, "IoU": {}, "ROC": {"target": "positive"}},
            {"CentroidPdFa": {}, "AveragePrecision": {"images": "all", "min_side": MIN_SIDE}},
        )
    ),
    "STMENet": Protocol(  # SMFNet's and SSTNet's as well
        ({"AveragePrecision": {"images": "annotated"}},), Grid("rounded")
    ),
    "DeepPro": Protocol(({"ShootingRules": {"border": "published"}, "IoU": {}},)),
    "DTUM": Protocol(({"ShootingRules": {"border": "published", "thresholds": DTUM_THRESHOLDS}, "IoU": {}},)),
    # RFR's code has no ROC, and its targets of a mask that is neither 0 nor 255 vanish; here they do not.
    "RFR": Protocol(({"PdFa": {"rule": "areas"}, "IoU": {}},)),
    "BasicIRSTD": Protocol(({"PdFa": {"rule": "pixels"}, "IoU": {}},)),
    # Of the single-frame networks in TSMSA's tables as well. On MWIRSTD its code cuts maps of 512x512 to the
    # 509x655 of the files, and divides the false pixels by as many.
    "TSMSA": Protocol(
        ({"PdFa": {"rule": "pixels"}, "IoU": {}},),
        Grid("resized"),
        {
            "MWIRSTD": Protocol(
                ({"PdFa": {"rule": "pixels", "frame_pixels": 509 * 655}, "IoU": {}},),
                Grid("resized", crop=(509, 655)),
            )
        },
    ),
    # Truth is the mask after the letterbox and back, which makes it soft; every figure then draws its own
    # line between target and background (RPRNet's test.py).
    "RPRNet": Protocol(
        (
            {
                "PdFa": {"rule": "areas", "target": "positive", "truth": "round_trip_mask"},
                "nIoU": {"target": "one", "truth": "round_trip_mask"},
                "IoU": {"target": "positive", "truth": "round_trip_mask"},
                "ROC": {"target": "soft", "truth": "round_trip_mask"},
            },
        ),
        Grid("float32", column_quirk=True),
    ),
    # Where tracks were made; the same for all models, as the clean one is.
    "tracks": Protocol(({"Tracks": {}},)),
}


class LineMetric:
    """One metric of a line.

    name:      its registered name
    options:   what `create` gives to create_metric
    threshold: the operating point of metrics that count at many thresholds
    grid:      the pixels in which it is counted
    misfit:    why the recipe's view does not allow that, or ""
    hidden:    figures and kinds of curves that metrics before it in the line give
    empty:     the metric without any frame, for what it declares
    gives:     all its figures and kinds of curves
    key:       what metrics that count the same have in common
    text:      the metric, its options and its truth, in words
    Raises UserError for a threshold that is not counted, and where the metric lacks a package.
    """

    def __init__(
        self,
        name: str,
        options: dict[str, Any],
        threshold: float,
        grid: Grid = EXACT,
        misfit: str = "",
        hidden: frozenset[str] = frozenset(),
    ):
        self.name, self.options, self.threshold, self.hidden = name, options, threshold, hidden
        self.grid, self.misfit = grid, misfit
        self.empty = self.create()
        self.empty.require()
        self.gives = frozenset(self.empty.figures_at(threshold)) | frozenset(self.empty.curves())
        self.key = f"{name} {self.empty.options!r} {grid!r}"
        words = [name, self.empty.description(threshold)]
        if "truth" not in self.empty.options:
            words.append(f"truth={self.empty.truth}")
        self.text = " ".join(word for word in words if word)

    def create(self) -> Any:
        """The metric, without any frame."""
        return create_metric(self.name, **self.options)


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a table: the figures of some metrics of one protocol, by one rule for targets at most.

    protocol: as the user calls it, such as "published"
    targets:  the name of the rule for targets, or ""
    pixels:   those in which all its metrics are counted, in words
    """

    protocol: str
    targets: str
    metrics: tuple[LineMetric, ...]
    pixels: str = ""

    @property
    def rule(self) -> LineMetric | None:
        """The rule for targets."""
        return next((metric for metric in self.metrics if metric.name == self.targets), None)

    @property
    def misfit(self) -> str:
        """Why the recipe's view does not allow to count it, or ""."""
        return self.metrics[0].misfit

    @property
    def text(self) -> str:
        """All its metrics and their options, and the pixels, in words."""
        return "; ".join([*(metric.text for metric in self.metrics), self.pixels])


def recipe_lines(recipe: Recipe, protocols: Sequence[str], dataset: str) -> list[Line]:
    """The lines of several protocols by a recipe, on a data set; arguments and errors of `protocol_lines`."""
    scoring = recipe.scoring
    offered = (scoring.threshold, scoring.match, scoring.exclude)
    return protocol_lines(protocols, scoring.paper, *offered, recipe.view, dataset)


def protocol_lines(
    protocols: Sequence[str],
    paper: str,
    threshold: float,
    match: int,
    exclude: int,
    view: ViewSettings | None = None,
    dataset: str = "",
) -> list[Line]:
    """The lines of several protocols.

    protocols: names of PROTOCOLS; "published" stands for that of the `paper`
    threshold, match, exclude: for each metric with an option of that name which the protocol leaves open.
               Metrics that count at many thresholds are quoted at `threshold`.
    view:      of the recipe, by default that of frames as they are
    dataset:   the name of the data set that is scored
    Raises UserError for an unknown paper or protocol and a threshold that is not counted.
    """
    offered = {"threshold": threshold, "match": match, "exclude": exclude}
    lines = []
    papers = [name for name in PROTOCOLS if name not in ("clean", "tracks")]
    if paper not in papers:
        raise UserError(f"recipe key scoring.paper names no paper {paper!r}; {near_matches(paper, papers)}")
    for protocol in protocols:
        name = paper if protocol == "published" else protocol
        if name not in PROTOCOLS:
            raise UserError(f"there is no protocol {name!r}; {near_matches(name, PROTOCOLS)}")
        chosen, view = PROTOCOLS[name].on(dataset), view or ViewSettings()
        misfit = chosen.grid.misfit(view)
        reason = f"{name}'s rule does not fit the recipe, {misfit}" if misfit else ""
        for line in chosen.lines:
            metrics = line_metrics(line, offered, chosen.grid, reason)
            rules = [metric.name for metric in metrics if metric.empty.finds_targets]
            lines.append(Line(protocol, next(iter(rules), ""), metrics, chosen.grid.text(view)))
    return lines


def line_metrics(
    line: dict[str, dict[str, Any]], offered: dict[str, float], grid: Grid, misfit: str
) -> tuple[LineMetric, ...]:
    """The metrics of a line, their options completed by those of the `offered` ones that they have."""
    metrics: list[LineMetric] = []
    for name, options in line.items():
        known = METRICS.entry(name).options
        options = {**{k: v for k, v in offered.items() if k in known}, **options}
        hidden = frozenset().union(*(metric.gives for metric in metrics))
        metrics.append(LineMetric(name, options, offered["threshold"], grid, misfit, hidden))
    return tuple(metrics)


def table_figures() -> tuple[Figure, ...]:
    """What tables show, in the order in which the clean protocol and then the others declare it."""
    lines = [line for protocol in PROTOCOLS.values() for line in protocol.lines]
    metrics = [create_metric(name, **options) for line in lines for name, options in line.items()]
    return tuple({figure.name: figure for metric in metrics for figure in metric.figures}.values())


def better(figure: str) -> str:
    """Whether the "higher" or the "lower" of two values is better. Raises UserError for an unknown figure."""
    known = {declared.name: declared.better for declared in table_figures()}
    if figure not in known:
        raise UserError(f"tables have no figure {figure!r}; {near_matches(figure, known)}")
    return known[figure]
