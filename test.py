"""Test detectors by name: `python test.py --dataset_names NUDT-MIRSDT --checkpoint best.pth`."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from dataset import SequenceSet, create_dataset
from dataset.clips import TestVideo
from metrics import create_metric
from metrics.papers import published_rows
from metrics.table import format_table
from model import create_model
from utils.checkpoint import load_official, load_weights, read_checkpoint
from utils.cli import add_recipe_flags, new_parser, reader_options, typed_settings
from utils.device import pick_device
from utils.errors import UserError, run_command
from utils.files import write_atomically, write_json
from utils.pictures import Shot, overlay_sheet, roc_picture
from utils.recipe import Recipe, flat, recipe_from_dict, resolve_recipe
from utils.registry import DATASETS, MODELS
from utils.runlog import new_run_folder
from utils.scoring import curve, figures, rule, score_set

COLUMNS = ("data set", "group", "model", "figures of", "Pd %", "Fa 1e-5", "AUC", "IoU", "nIoU", "rule")
SHEET_FRAMES = 6


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("Test detectors of infrared small moving targets.")
    add_recipe_flags(parser, "seq_len", "threshold")
    add = parser.add_argument
    add(
        "--checkpoint",
        nargs="+",
        type=Path,
        default=[],
        help="checkpoints that train.py wrote; each names its model",
    )
    add(
        "--official",
        nargs="+",
        type=Path,
        default=[],
        help="published weights, in the order of --model_names",
    )
    add("--split", choices=("test", "train"), default="test", help="which sequences")
    add(
        "--save_predictions",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="write each probability map as an 8-bit PNG, floor(255 p)",
    )
    add(
        "--save_overlays",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="write a contact sheet per sequence: targets, hits and false alarms",
    )
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Candidate:
    """A model to test and where its weights come from."""

    name: str
    checkpoint: Path | None = None
    official: Path | None = None

    @property
    def source(self) -> str:
        return str(self.checkpoint or self.official or "no parameters")


def find_candidates(args: argparse.Namespace) -> list[Candidate]:
    """Match checkpoints (which name their model) and published files (given in order) with --model_names."""
    saved = {path: read_checkpoint(path)["model"] for path in args.checkpoint}
    names = [MODELS.entry(n).name for n in args.model_names or saved.values() or ["DeepPro"]]
    for path, name in saved.items():
        if name not in names:
            raise UserError(f"{path} holds {name}, which is not among --model_names {' '.join(names)}")
    official = list(args.official)
    candidates = []
    for name in dict.fromkeys(names):
        own = [Candidate(name, checkpoint=path) for path, model in saved.items() if model == name]
        if own:
            candidates += own
        elif not any(True for _ in create_model(name).parameters()):
            candidates.append(Candidate(name))
        elif official:
            candidates.append(Candidate(name, official=official.pop(0)))
        else:
            raise UserError(
                f"{name} needs weights; give --checkpoint (from train.py) or --official (published)"
            )
    if official:
        raise UserError(f"--official {official[0]} belongs to no model; name its model in --model_names")
    return candidates


def load_candidate(candidate: Candidate, dataset: str, typed: dict[str, Any]) -> tuple[nn.Module, Recipe]:
    """The model with its weights, and the recipe by which it is tested on `dataset`."""
    base = MODELS.entry(candidate.name).facts["recipe"]
    if not candidate.checkpoint:
        recipe = resolve_recipe(base, dataset, typed)
        model = create_model(candidate.name, **recipe.model)
        if candidate.official:
            load_official(model, candidate.official)
        return model, recipe
    saved = read_checkpoint(candidate.checkpoint)
    trained = recipe_from_dict(saved["recipe"])
    if saved["dataset"] == dataset:
        recipe = recipe_from_dict({**flat(trained.to_dict()), **typed})
    else:  # what belongs to the other data set stays behind
        carried = {f"model.{k}": v for k, v in trained.model.items()} | {"clip.frames": trained.clip.frames}
        recipe = resolve_recipe(base, dataset, {**carried, **typed})
    model = create_model(candidate.name, **trained.model)
    load_weights(model, saved["weights"], candidate.checkpoint)
    return model, recipe


def test_one(args: argparse.Namespace, candidate: Candidate, data: SequenceSet) -> dict[str, Any]:
    """Score one model on one data set; writes its folder and returns its rows and curve."""
    device = pick_device(args.device)
    model, recipe = load_candidate(candidate, data.name, typed_settings(args))
    folder = new_run_folder(args.log_dir, data.name, candidate.name)
    cache = args.cache_dir if args.cache else None
    videos = [TestVideo(sequence, data, recipe.clip, cache) for sequence in data]

    def new_metrics() -> dict[str, Any]:
        return {
            "ShootingRules": create_metric("ShootingRules", match=recipe.match, exclude=recipe.exclude),
            "IoU": create_metric("IoU", threshold=recipe.threshold),
        }

    savers = []
    if args.save_predictions:
        savers.append(prediction_saver(folder / "predictions"))
    if args.save_overlays:
        savers.append(overlay_saver(folder / "overlays", candidate.name, recipe.threshold))

    def on_frame(*frame: Any) -> None:
        for save in savers:
            save(*frame)

    begin = time.perf_counter()
    groups, sequences = score_set(model.to(device), videos, data.subsets, new_metrics, device, on_frame)
    seconds = time.perf_counter() - begin
    name = candidate.name
    measured = [
        row(
            data.name,
            group,
            name,
            candidate.source,
            figures(metrics, recipe.threshold),
            rule(metrics, recipe.threshold),
        )
        for group, metrics in groups.items()
    ]
    per_sequence = [
        row(
            data.name,
            s,
            name,
            candidate.source,
            figures(metrics, recipe.threshold),
            rule(metrics, recipe.threshold),
        )
        for s, metrics in sequences.items()
    ]
    published = published_table(data.name, name)
    write_json(
        folder / "eval.json",
        {
            "model": name,
            "weights": candidate.source,
            "dataset": data.name,
            "dataset_dir": data.root,
            "split": data.split,
            "rule": rule(groups["all"], recipe.threshold),
            "device": device_name(device),
            "seconds": seconds,
            "frames": sum(len(s) for s in data),
            "normalisation": {v.name: [v.mean, v.std] for v in videos},
            "recipe": recipe.to_dict(),
            "groups": {k: with_curve(m, recipe.threshold) for k, m in groups.items()},
            "sequences": {k: with_curve(m, recipe.threshold) for k, m in sequences.items()},
            "published": published,
        },
    )
    write_tables(folder, measured + published, per_sequence)
    pictured = {g: curve(m) for g, m in groups.items() if curve(m) and curve(m)["targets"][0]}
    if pictured:
        write_roc(folder / "roc.png", pictured, f"{name} on {data.name}")
    print(format_table(per_sequence, COLUMNS))
    print(f"{name} on {data.name}: {seconds:.1f} s, written to {folder}\n", flush=True)
    return {"name": name, "rows": measured, "published": published, "curve": pictured.get("all")}


# ---------------------------------------------------------------- rows and files


def row(
    dataset: str, group: str, model: str, source: str, values: dict[str, float], by: str
) -> dict[str, str]:
    """One line of the tables; what could not be scored stays '-'."""

    def show(key: str, factor: float, digits: int) -> str:
        value = values.get(key)
        return "-" if value is None or value != value else f"{value * factor:.{digits}f}"

    texts = (show("pd", 100, 2), show("fa", 1e5, 2), show("auc", 1, 4), show("iou", 1, 4), show("niou", 1, 4))
    return dict(zip(COLUMNS, (dataset, group, model, source, *texts, by), strict=True))


def published_table(dataset: str, model: str) -> list[dict[str, str]]:
    """What papers state of this model on this data set, as rows of the same table."""
    rows = []
    for entry in published_rows(dataset, model):
        values = {k: entry.get(k) for k in ("fa", "auc", "iou", "niou")}
        values["pd"] = entry["pd_percent"] / 100 if entry.get("pd_percent") is not None else None
        rows.append(
            row(
                dataset, entry["group"], model, f"published: {entry['source']}", values, entry["rule"]["text"]
            )
        )
    return rows


def with_curve(metrics: dict[str, Any], threshold: float) -> dict[str, Any]:
    return {**figures(metrics, threshold), "curve": curve(metrics)}


def write_tables(folder: Path, rows: list[dict[str, str]], per_sequence: list[dict[str, str]]) -> None:
    for style, suffix in (("markdown", "md"), ("csv", "csv")):
        write_atomically(folder / f"table.{suffix}", (format_table(rows, COLUMNS, style) + "\n").encode())
        text = format_table(per_sequence, COLUMNS, style) + "\n"
        write_atomically(folder / f"sequences.{suffix}", text.encode())


def write_roc(path: Path, curves: dict[str, dict], title: str) -> None:
    thresholds = next(iter(curves.values()))["thresholds"]
    roc_picture({k: (c["fa"], c["pd"]) for k, c in curves.items()}, path, title, thresholds)


def prediction_saver(folder: Path) -> Callable:
    """Writes <folder>/<sequence>/<frame from 1>.png with floor(255 p), as published."""

    def save(video: TestVideo, index: int, probability: np.ndarray, _truth: dict) -> None:
        _, png = cv2.imencode(".png", (255 * probability).astype(np.uint8))
        write_atomically(folder / video.name / f"{index + 1:05d}.png", png.tobytes())

    return save


def overlay_saver(folder: Path, model: str, threshold: float) -> Callable:
    """Writes <folder>/<sequence>.png, a contact sheet of evenly spaced frames, when a sequence is through."""
    shots: list[Shot] = []

    def save(video: TestVideo, index: int, probability: np.ndarray, truth: dict) -> None:
        last = len(video.frames) - 1
        if index in np.unique(np.linspace(0, last, SHEET_FRAMES).round().astype(int)):
            marks = truth["mask"] if truth["mask"] is not None else truth["centroid_map"]
            marks = np.zeros((0, 2)) if marks is None else marks
            image = video.originals.images(index, index + 1)[0]
            shots.append(Shot(index + 1, image, probability, marks))
        if index == last:
            path = folder / f"{video.name.replace('/', '_')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            overlay_sheet(shots, path, f"{model} on {video.name}", threshold)
            shots.clear()

    return save


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    candidates = find_candidates(args)
    names = [DATASETS.entry(n).name for n in args.dataset_names]
    results: dict[str, list[dict[str, Any]]] = {}
    for dataset in names:
        data = create_dataset(dataset, args.dataset_dir, args.split, **reader_options(args))
        for note in data.notes:
            print(f"note: {note}")
        results[dataset] = [test_one(args, candidate, data) for candidate in candidates]
    folder = new_run_folder(args.log_dir, "tables")
    rows = [r for found in results.values() for one in found for r in one["rows"]]
    rows += [
        r
        for found in results.values()
        for r in {o["name"]: o["published"] for o in found}.values()
        for r in r
    ]
    rows.sort(key=lambda r: (names.index(r["data set"]),))
    for style, suffix in (("markdown", "md"), ("csv", "csv")):
        write_atomically(folder / f"table.{suffix}", (format_table(rows, COLUMNS, style) + "\n").encode())
    for dataset, found in results.items():
        curves = {one["name"]: one["curve"] for one in found if one["curve"]}
        if len(curves) > 1:
            write_roc(folder / f"roc_{dataset}.png", curves, dataset)
    print(format_table(rows, COLUMNS))
    print(f"written to {folder}")


if __name__ == "__main__":
    run_command(main)
