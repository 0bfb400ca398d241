"""What a test leaves behind besides its counters: table rows, probability maps, contact sheets."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.files import write_atomically
from utils.pictures import Shot, overlay_sheet, roc_picture

NAMES = ("data set", "group", "model", "figures of", "protocol", "targets by")
COLUMNS = (*NAMES, "Pd %", "Fa 1e-5", "AUC", "IoU", "nIoU", "rule")
BRIEF = tuple(c for c in COLUMNS if c not in ("figures of", "rule"))
FORMATS = {"Pd %": ".2f", "Fa 1e-5": ".2f", "AUC": ".4f", "IoU": ".4f", "nIoU": ".4f"}
SHEET_FRAMES = 6

Row = dict[str, Any]


def row(names: tuple[str, ...], values: dict[str, Any], rule: str) -> Row:
    """One line of the tables; what could not be scored stays empty.

    names:  what stands in the columns NAMES
    values: pd, fa, auc, iou, niou, all as fractions
    """

    def scaled(key: str, factor: float = 1) -> float | None:
        value = values.get(key)
        return None if value is None or value != value else value * factor

    numbers = (scaled("pd", 100), scaled("fa", 1e5), scaled("auc"), scaled("iou"), scaled("niou"))
    return dict(zip(COLUMNS, (*names, *numbers, rule), strict=True))


def published_row(entry: dict[str, Any]) -> Row:
    """A row of metrics/papers.json as a line of the same table."""
    percent = entry.get("pd_percent")
    values = {**entry, "pd": None if percent is None else percent / 100}
    source = f"published: {entry['source']}"
    names = (entry["dataset"], entry["group"], entry["model"], source)
    return row((*names, "published", entry["rule"]["metric"] or ""), values, entry["rule"]["text"])


def write_roc(path: Path, curves: dict[str, dict[str, Any]], title: str) -> None:
    """Draw the curves of one `utils.scoring.Scoring`, by name."""
    first = next(iter(curves.values()))
    of_pixels = {"x": "false positive rate of pixels", "y": "true positive rate of pixels"}
    axes = of_pixels if "tpr" in first else {}
    pairs = {name: (c["fa"], c["pd"]) for name, c in curves.items()}
    roc_picture(pairs, path, title, first["thresholds"], **axes)


def prediction_saver(folder: Path) -> Callable:
    """An on_frame that writes <folder>/<sequence>/<frame from 1>.png with floor(255 p), as published."""

    def save(video, index: int, probability: np.ndarray, _truth: dict) -> None:
        _, png = cv2.imencode(".png", (255 * probability).astype(np.uint8))
        write_atomically(folder / video.name / f"{index + 1:05d}.png", png.tobytes())

    return save


def overlay_saver(folder: Path, model: str, threshold: float) -> Callable:
    """An on_frame that writes <folder>/<sequence>.png, a contact sheet of a few evenly spaced frames."""
    shots: list[Shot] = []

    def save(video, index: int, probability: np.ndarray, truth: dict) -> None:
        last = len(video.frames) - 1
        if index in np.linspace(0, last, SHEET_FRAMES).round().astype(int):
            marks = truth["mask"] if truth["mask"] is not None else truth["centroid_map"]
            marks = np.zeros((0, 2)) if marks is None else marks
            shots.append(Shot(index + 1, video.originals.images(index, index + 1)[0], probability, marks))
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
