"""Evaluation protocols as data: the lines of a table, and which metrics with which options stand in each.

"clean" is the same for every model: the original masks at their original size, three rules for targets, and
one binary truth for every pixel figure. The others are what a paper's own code does; a model's recipe names
its paper.

A protocol is one or more lines, a line maps metrics to their options. Its first rule for targets names it,
and of two metrics that give the same figure the first one counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metrics import create_metric
from metrics.counting import Figure
from utils.boxes import MIN_SIDE
from utils.errors import UserError, near_matches
from utils.registry import METRICS

# Of the 50 figures that DTUM publishes, and of their AUC.
DTUM_THRESHOLDS = (
    *(0, 1e-30, *(float(f"1e{power}") for power in range(-20, 0))),
    *(0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    *(0.975, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 0.999999, 0.9999999, 1),
)

PROTOCOLS: dict[str, tuple[dict[str, dict[str, Any]], ...]] = {
    "clean": (
        {"ShootingRules": {"border": "clip"}, "IoU": {}, "ROC": {"target": "positive"}},
        {"PdFa": {"rule": "pixels"}, "IoU": {}, "ROC": {"target": "positive"}},
        {"CentroidPdFa": {}, "AveragePrecision": {"images": "all", "min_side": MIN_SIDE}},
    ),
    "STMENet": ({"AveragePrecision": {"images": "annotated"}},),  # SMFNet's and SSTNet's as well
    "DeepPro": ({"ShootingRules": {"border": "published"}, "IoU": {}},),
    "DTUM": ({"ShootingRules": {"border": "published", "thresholds": DTUM_THRESHOLDS}, "IoU": {}},),
    # RFR's code has no ROC, and its targets of a mask that is neither 0 nor 255 vanish; here they do not.
    "RFR": ({"PdFa": {"rule": "areas"}, "IoU": {}},),
    # BasicIRSTD's as well. TSMSA's code scores TSMSA, unlike its single-frame networks, on frames and masks
    # resized to 512x512, where 3 pixels are not the same; here all are scored at the size of the files.
    "TSMSA": ({"PdFa": {"rule": "pixels"}, "IoU": {}},),
    # Truth is the mask after the letterbox and back, which makes it soft; every figure then draws its own
    # line between target and background (RPRNet's test.py).
    "RPRNet": (
        {
            "PdFa": {"rule": "areas", "target": "positive", "truth": "round_trip_mask"},
            "nIoU": {"target": "one", "truth": "round_trip_mask"},
            "IoU": {"target": "positive", "truth": "round_trip_mask"},
            "ROC": {"target": "soft", "truth": "round_trip_mask"},
        },
    ),
}


class LineMetric:
    """One metric of a line.

    name:      its registered name
    options:   what `create` gives to create_metric
    threshold: the operating point of metrics that count at many thresholds
    hidden:    figures and kinds of curves that metrics before it in the line give
    empty:     the metric without any frame, for what it declares
    gives:     all its figures and kinds of curves
    key:       what metrics that count the same have in common
    text:      the metric and its options, in words
    Raises UserError for a threshold that is not counted.
    """

    def __init__(
        self, name: str, options: dict[str, Any], threshold: float, hidden: frozenset[str] = frozenset()
    ):
        self.name, self.options, self.threshold, self.hidden = name, options, threshold, hidden
        self.empty = self.create()
        self.gives = frozenset(self.empty.figures_at(threshold)) | frozenset(self.empty.curves())
        self.key = f"{name} {self.empty.options!r}"
        self.text = f"{name} {self.empty.description(threshold)}".strip()

    def create(self) -> Any:
        """The metric, without any frame."""
        return create_metric(self.name, **self.options)


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a table: the figures of some metrics of one protocol, by one rule for targets at most.

    protocol: as the user calls it, such as "published"
    targets:  the name of the rule for targets, or ""
    """

    protocol: str
    targets: str
    metrics: tuple[LineMetric, ...]

    @property
    def rule(self) -> LineMetric | None:
        """The rule for targets."""
        return next((metric for metric in self.metrics if metric.name == self.targets), None)

    @property
    def text(self) -> str:
        """All its metrics and their options, in words."""
        return "; ".join(metric.text for metric in self.metrics)


def protocol_lines(
    protocols: Sequence[str], paper: str, threshold: float, match: int, exclude: int
) -> list[Line]:
    """The lines of several protocols.

    protocols: names of PROTOCOLS; "published" stands for that of the `paper`
    threshold, match, exclude: for each metric with an option of that name which the protocol leaves open.
               Metrics that count at many thresholds are quoted at `threshold`.
    Raises UserError for an unknown paper or protocol and a threshold that is not counted.
    """
    offered = {"threshold": threshold, "match": match, "exclude": exclude}
    lines = []
    papers = [name for name in PROTOCOLS if name != "clean"]
    if paper not in papers:
        raise UserError(f"recipe key scoring.paper names no paper {paper!r}; {near_matches(paper, papers)}")
    for protocol in protocols:
        name = paper if protocol == "published" else protocol
        if name not in PROTOCOLS:
            raise UserError(f"there is no protocol {name!r}; {near_matches(name, PROTOCOLS)}")
        lines += [make_line(protocol, chosen, offered) for chosen in PROTOCOLS[name]]
    return lines


def make_line(protocol: str, chosen: dict[str, dict[str, Any]], offered: dict[str, float]) -> Line:
    """A line of PROTOCOLS, its options completed by those of the `offered` ones that its metrics have."""
    metrics: list[LineMetric] = []
    for name, options in chosen.items():
        known = METRICS.entry(name).options
        options = {**{k: v for k, v in offered.items() if k in known}, **options}
        hidden = frozenset().union(*(metric.gives for metric in metrics))
        metrics.append(LineMetric(name, options, offered["threshold"], hidden))
    rules = [metric.name for metric in metrics if metric.empty.finds_targets]
    return Line(protocol, next(iter(rules), ""), tuple(metrics))


def table_figures() -> tuple[Figure, ...]:
    """What tables show, in the order in which the clean protocol and then the others declare it."""
    lines = [line for lines in PROTOCOLS.values() for line in lines]
    metrics = [create_metric(name, **options) for line in lines for name, options in line.items()]
    return tuple({figure.name: figure for metric in metrics for figure in metric.figures}.values())


def better(figure: str) -> str:
    """Whether the "higher" or the "lower" of two values is better. Raises UserError for an unknown figure."""
    known = {declared.name: declared.better for declared in table_figures()}
    if figure not in known:
        raise UserError(f"tables have no figure {figure!r}; {near_matches(figure, known)}")
    return known[figure]
