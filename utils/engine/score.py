"""From counters to figures: what tables, eval.json and TensorBoard show."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.boxes import Prediction
from utils.errors import UserError

Metrics = dict[tuple[str, str], Any]  # by (protocol, name of the metric)

TARGET_RULES = ("ShootingRules", "PdFa", "CentroidPdFa")
AT_THRESHOLDS = ("ShootingRules", "CentroidPdFa")  # those that count at many thresholds
PIXELS, BOXES = ("IoU", "nIoU", "ROC"), ("AveragePrecision",)
BESIDE = {"ShootingRules": PIXELS, "PdFa": PIXELS, "CentroidPdFa": BOXES, "": PIXELS + BOXES}


def score_set(
    predict: Callable,
    videos: Iterable,
    subsets: Mapping[str, Iterable[str]],
    new_metrics: Callable[[], Metrics],
    on_frame: Callable | None = None,
) -> tuple[dict[str, Metrics], dict[str, Metrics]]:
    """(metrics per group, metrics per sequence). The groups are "all" and the data set's subsets.

    predict, videos, new_metrics, on_frame: as in `utils.engine.score.evaluate`
    """
    scores = evaluate(predict, videos, new_metrics, on_frame)
    groups = {"all": merge_scores(scores, new_metrics, scores)}
    for name, members in subsets.items():
        groups[name] = merge_scores(scores, new_metrics, [m for m in members if m in scores])
    return groups, scores


@dataclass(frozen=True)
class Scoring:
    """One line of a table: the figures of one protocol with one of its rules for targets.

    Beside rules for maps stand the figures of pixels, beside the one for boxes as well those of boxes.

    targets:   one of TARGET_RULES, or "" in a protocol without
    threshold: of Pd and Fa by ShootingRules and CentroidPdFa; the other metrics have theirs in their options
    """

    protocol: str
    targets: str
    threshold: float

    def figures(self, metrics: Metrics) -> dict[str, float]:
        """pd, fa, auc, true, targets, false, pixels, iou, niou, ap50, ...; what was not scored is left out.

        auc is the area under Pd over Fa with rules that count at many thresholds, else that of the pixels'
        ROC curve. Raises UserError when such a rule did not count at the threshold.
        """
        out: dict[str, float] = {}
        for name in BESIDE[self.targets]:
            if metric := metrics.get((self.protocol, name)):
                out |= numbers(metric.compute())
        if self.targets in AT_THRESHOLDS:
            out.pop("auc", None)
        if metric := metrics.get((self.protocol, self.targets)):
            counted = metric.compute()
            if self.targets in AT_THRESHOLDS:
                at = threshold_index(counted["thresholds"], self.threshold)
                counted |= {k: v[at].item() for k, v in counted.items() if np.ndim(v)}
            out |= numbers(counted)
        return out

    def curve(self, metrics: Metrics) -> dict[str, Any] | None:
        """The curve under which `auc` is the area, as "thresholds", "fa" and "pd"; None where there is none.

        With ShootingRules and CentroidPdFa of targets; else of pixels: "fa" is then the false and "pd" the
        true positive rate.
        """
        name = self.targets if self.targets in AT_THRESHOLDS else "ROC"
        metric = metrics.get((self.protocol, name))
        if metric is None:
            return None
        counted = metric.compute()
        if name == "ROC":
            return {**counted, "fa": counted["fpr"], "pd": counted["tpr"]}
        return None if np.isnan(counted["auc"]) else counted

    def pr_curve(self, metrics: Metrics) -> dict[str, Any] | None:
        """What AveragePrecision computes, such as "precision_curve"; None where it had no targets."""
        beside = "AveragePrecision" in BESIDE[self.targets]
        metric = metrics.get((self.protocol, "AveragePrecision")) if beside else None
        computed = metric.compute() if metric else {"ap50": np.nan}
        return None if np.isnan(computed["ap50"]) else computed

    def rule(self, metrics: Metrics) -> str:
        """By which metrics and options the figures were computed, in words."""
        parts = []
        if self.targets and (self.protocol, self.targets) not in metrics:
            parts.append(f"{self.targets}: not scored, its kind of truth or of prediction is missing")
        for (protocol, name), metric in metrics.items():
            if protocol == self.protocol and name in (self.targets, *BESIDE[self.targets]):
                options = dict(metric.options)
                if counted := options.pop("thresholds", None):
                    options["thresholds"] = len(counted)
                text = " ".join([name, *(f"{k}={v}" for k, v in options.items())])
                parts.append(f"{text} at p >= {self.threshold:g}" if name in AT_THRESHOLDS else text)
        return "; ".join(parts)


def numbers(computed: dict[str, Any]) -> dict[str, Any]:
    """What a metric computed, without its arrays."""
    return {k: v for k, v in computed.items() if np.ndim(v) == 0}


def scorings(metrics: Metrics, threshold: float) -> list[Scoring]:
    """Every protocol of `metrics` with each of its rules for targets. Refuses a threshold, as `figures`."""
    protocols = dict.fromkeys(protocol for protocol, _ in metrics)
    rules = {p: [name for name in TARGET_RULES if (p, name) in metrics] or [""] for p in protocols}
    found = [Scoring(protocol, name, threshold) for protocol in protocols for name in rules[protocol]]
    for scoring in found:
        scoring.figures(metrics)
    return found


def threshold_index(thresholds: np.ndarray, threshold: float) -> int:
    """Place of `threshold` among those that were counted. Raises UserError if it is not among them."""
    places = np.flatnonzero(np.isclose(thresholds, threshold, rtol=0, atol=1e-12))
    if not len(places):
        known = ", ".join(f"{t:g}" for t in thresholds)
        raise UserError(f"Pd and Fa are not counted at the threshold {threshold}; choose one of {known}")
    return int(places[0])


def evaluate(
    predict: Callable[[Any], Iterable[tuple[int, Prediction]]],
    videos: Iterable,
    new_metrics: Callable[[], dict[str, Any]],
    on_frame: Callable[[Any, int, Prediction, dict], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Score predictions of videos: {sequence name: {key: metric}}, each metric updated once per frame.

    predict: gives (frame, prediction) of every frame of a video
    A metric that takes what the predictions are not, or whose kind of truth a sequence lacks, is left out for
    that sequence.
    on_frame(video, index, prediction, truth): sees every frame, to save or draw it.
    """
    scores = {}
    for video in tqdm(videos, "test", unit="sequence", leave=False, disable=None):
        metrics = new_metrics()
        kinds = {metric.truth for metric in metrics.values()}
        for index, prediction in predict(video):
            truth = video.truth(index, kinds)
            for name, metric in list(metrics.items()):
                found = getattr(prediction, metric.takes)
                if found is None or truth[metric.truth] is None:
                    del metrics[name]
                else:
                    metric.update(found, truth[metric.truth])
            if on_frame:
                on_frame(video, index, prediction, truth)
        scores[video.name] = metrics
    return scores


def merge_scores(
    scores: dict[str, dict[str, Any]], new_metrics: Callable[[], dict[str, Any]], names: Iterable[str]
) -> dict[str, Any]:
    """One set of metrics over the named sequences: counters are summed, not figures averaged."""
    total = new_metrics()
    used = set()
    for name in names:
        for kind, metric in scores[name].items():
            total[kind].merge(metric)
            used.add(kind)
    return {kind: metric for kind, metric in total.items() if kind in used}
