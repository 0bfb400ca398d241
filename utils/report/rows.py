"""What a test leaves behind besides its counters: table rows, probability maps, contact sheets."""

import io
import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.boxes import Prediction
from utils.files import write_atomically
from utils.report.curves import pr_picture, roc_picture
from utils.report.pictures import Shot, overlay_sheet

NAMES = ("data set", "group", "model", "figures of", "protocol", "targets by")
FIGURES = {  # column: (figure, factor, format). P, R, F1 by the published formula are no operating point.
    "Pd %": ("pd", 100, ".2f"),
    "Fa 1e-5": ("fa", 1e5, ".2f"),
    "AUC": ("auc", 1, ".4f"),
    "IoU": ("iou", 1, ".4f"),
    "nIoU": ("niou", 1, ".4f"),
    "AP50 %": ("ap50", 100, ".2f"),
    "P % (published)": ("published_precision", 100, ".2f"),
    "R % (published)": ("published_recall", 100, ".2f"),
    "F1 % (published)": ("published_f1", 100, ".2f"),
    "F1 % at 0.5": ("box_f1", 100, ".2f"),
    "best F1 %": ("curve_best_f1", 100, ".2f"),
}
COLUMNS = (*NAMES, *FIGURES, "rule")
FORMATS = {column: text for column, (_, _, text) in FIGURES.items()}
SHEET_FRAMES = 6

Row = dict[str, Any]


def row(names: tuple[str, ...], values: dict[str, Any], rule: str) -> Row:
    """One line of the tables; what could not be scored stays empty.

    names:  what stands in the columns NAMES
    values: pd, fa, auc, iou, ap50, ..., all as fractions
    """

    def scaled(key: str, factor: float) -> float | None:
        value = values.get(key)
        return None if value is None or value != value else value * factor

    numbers = (scaled(key, factor) for key, factor, _ in FIGURES.values())
    return dict(zip(COLUMNS, (*names, *numbers, rule), strict=True))


def columns_of(rows: Iterable[Row], hidden: Collection[str] = ()) -> tuple[str, ...]:
    """The columns in which some row has a figure, and the names; without the `hidden` ones."""
    rows = list(rows)
    return tuple(
        c for c in COLUMNS if c not in hidden and (c not in FIGURES or any(r[c] is not None for r in rows))
    )


def published_row(entry: dict[str, Any]) -> Row:
    """A row of metrics/papers.json as a line of the same table."""
    percent = entry.get("pd_percent")
    values = {**entry, "pd": None if percent is None else percent / 100}
    note = f" ({entry['note']})" if entry.get("note") else ""
    source = f"published: {entry['source']}{note}"
    names = (entry["dataset"], entry["group"], entry["model"], source)
    return row((*names, "published", entry["rule"]["metric"] or ""), values, entry["rule"]["text"])


def evaluated_rows(log_dir: Path, dataset: str) -> list[Row]:
    """What test.py has measured on a data set: the groups of the newest evaluation of each model and weights.

    Evaluations lie in log_dir/<data set>/<model>/<time>/eval.json; those of training splits do not count.
    """
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(log_dir.glob(f"{dataset}/*/*/eval.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["split"] == "test":
            newest[facts["model"], facts["weights"]] = facts
    return [
        row((dataset, group, model, f"ours: {weights}", s["protocol"], s["targets_by"]), figures, s["rule"])
        for (model, weights), facts in newest.items()
        for s in facts["scores"]
        for group, figures in s["groups"].items()
    ]


def with_footnotes(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
    """The rows with numbers in place of their rules and sources, and the texts behind the numbers."""
    notes: list[str] = []

    def number(text: str) -> str:
        if text not in notes:
            notes.append(text)
        return f"[{notes.index(text) + 1}]"

    short = [{**r, "rule": number(r["rule"]), "figures of": number(r["figures of"])} for r in rows]
    return short, [f"[{i}] {text}" for i, text in enumerate(notes, 1)]


def write_roc(path: Path, curves: dict[str, dict[str, Any]], title: str) -> None:
    """Draw the curves of one `utils.engine.score.Scoring`, by name."""
    first = next(iter(curves.values()))
    of_pixels = {"x": "false positive rate of pixels", "y": "true positive rate of pixels"}
    axes = of_pixels if "tpr" in first else {}
    pairs = {name: (c["fa"], c["pd"]) for name, c in curves.items()}
    roc_picture(pairs, path, title, first["thresholds"], **axes)


def write_pr(path: Path, curves: dict[str, dict[str, Any]], title: str) -> None:
    """Draw precision over recall at IoU 0.5, by name, and write the 101 points of each beside it as CSV.

    curves: what AveragePrecision computes; the point at score 0.5 is marked
    """
    levels = next(iter(curves.values()))["recall_levels"]
    pairs = {name: (levels, c["precision_curve"]) for name, c in curves.items()}
    points = {name: (c["box_recall"], c["box_precision"]) for name, c in curves.items()}
    pr_picture(pairs, path, title, points)
    text = io.StringIO()
    table = np.column_stack([levels, *(precision for _, precision in pairs.values())])
    header = ",".join(["recall", *(f"precision of {name}" for name in pairs)])
    np.savetxt(text, table, "%.17g", delimiter=",", header=header, comments="")
    write_atomically(path.with_suffix(".csv"), text.getvalue().encode())


def map_saver(folder: Path) -> Callable:
    """An on_frame that writes maps as <folder>/<sequence>/<frame from 1>.png, floor(255 p) as published."""

    def save(video, index: int, prediction: Prediction, _truth: dict) -> None:
        if prediction.map is None:
            return
        _, png = cv2.imencode(".png", (255 * prediction.map).astype(np.uint8))
        write_atomically(folder / video.name / f"{index + 1:05d}.png", png.tobytes())

    return save


def shot_of(video, index: int, prediction: Prediction, truth: dict) -> Shot:
    """What there is to draw of a frame that `utils.engine.score.evaluate` has come to."""
    image = video.originals.images(index, index + 1)[0]
    found = prediction.boxes if prediction.map is None else prediction.map
    marks = truth["mask"] if truth["mask"] is not None else truth["centroid_map"]
    return Shot(index + 1, image, found, np.zeros((0, 2)) if marks is None else marks)


def overlay_saver(folder: Path, model: str, threshold: float) -> Callable:
    """An on_frame that writes <folder>/<sequence>.png, a contact sheet of a few evenly spaced frames."""
    shots: list[Shot] = []

    def save(video, index: int, prediction: Prediction, truth: dict) -> None:
        last = len(video.frames) - 1
        if index in np.linspace(0, last, SHEET_FRAMES).round().astype(int):
            shots.append(shot_of(video, index, prediction, truth))
        if index == last:
            name = video.name.replace("/", "_")
            overlay_sheet(shots, folder / f"{name}.png", f"{model} on {video.name}", threshold)
            shots.clear()

    return save


def all_of(savers: Iterable[Callable]) -> Callable:
    """One on_frame that calls each of several."""

    def save(*frame: Any) -> None:
        for saver in savers:
            saver(*frame)

    return save
