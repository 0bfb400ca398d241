"""Test detectors by name: `python test.py --dataset_names NUDT-MIRSDT --checkpoint best.pth`."""

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dataset import SequenceSet, create_dataset
from dataset.clips import TestVideo
from metrics import mask_metrics
from metrics.papers import published_rows
from metrics.table import format_table
from model import create_model
from utils.checkpoint import load_official, load_weights, read_checkpoint
from utils.cli import add_data_flags, add_recipe_flags, add_switch, new_parser, reader_options, typed_settings
from utils.device import pick_device
from utils.errors import UserError, run_command
from utils.files import write_atomically, write_json
from utils.recipe import Recipe, flat, recipe_from_dict, resolve_recipe
from utils.registry import MODELS
from utils.report import (
    BRIEF,
    COLUMNS,
    FORMATS,
    Row,
    all_of,
    overlay_saver,
    prediction_saver,
    published_row,
    row,
    write_roc,
)
from utils.runlog import new_run_folder
from utils.scoring import curve, figures, rule, score_set


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("Test detectors of infrared small moving targets.")
    add_data_flags(parser)
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
    add_switch(parser, "--save_predictions", "write each probability map as an 8-bit PNG, floor(255 p)")
    add_switch(parser, "--save_overlays", "write contact sheets: targets, hits and false alarms")
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
    """Score one model on one data set; writes its folder and returns its rows and its curve."""
    device = pick_device(args.device, args.tf32)
    model, recipe = load_candidate(candidate, data.name, typed_settings(args))
    cache = args.cache_dir if args.cache else None
    videos = [TestVideo(sequence, data, recipe.clip, cache) for sequence in data]

    def new_metrics() -> dict[str, Any]:
        return mask_metrics(recipe.match, recipe.exclude, recipe.threshold)

    figures(new_metrics(), recipe.threshold)  # a threshold that is not counted is refused before the work
    folder = new_run_folder(args.log_dir, data.name, candidate.name)
    savers = []
    if args.save_predictions:
        savers.append(prediction_saver(folder / "predictions"))
    if args.save_overlays:
        savers.append(overlay_saver(folder / "overlays", candidate.name, recipe.threshold))

    begin = time.perf_counter()
    groups, sequences = score_set(model.to(device), videos, data.subsets, new_metrics, device, all_of(savers))
    seconds = time.perf_counter() - begin

    def rows(scored: dict[str, Any]) -> list[Row]:
        return [
            row(data.name, name, candidate.name, candidate.source, *judged(metrics, recipe.threshold))
            for name, metrics in scored.items()
        ]

    measured, per_sequence = rows(groups), rows(sequences)
    published = [published_row(entry) for entry in published_rows(data.name, candidate.name)]
    facts = {
        "model": candidate.name,
        "weights": candidate.source,
        "dataset": data.name,
        "dataset_dir": data.root,
        "split": data.split,
        "rule": rule(groups["all"], recipe.threshold),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "seconds": seconds,
        "frames": sum(len(sequence) for sequence in data),
        "normalisation": {video.name: [video.mean, video.std] for video in videos},
        "recipe": recipe.to_dict(),
        "groups": {k: with_curve(metrics, recipe.threshold) for k, metrics in groups.items()},
        "sequences": {k: with_curve(metrics, recipe.threshold) for k, metrics in sequences.items()},
        "published": published,
    }
    write_json(folder / "eval.json", facts)
    write_table(folder / "table", measured + published)
    write_table(folder / "sequences", per_sequence)
    curves = {group: curve(m) for group, m in groups.items() if curve(m) and curve(m)["targets"][0]}
    if curves:
        write_roc(folder / "roc.png", curves, f"{candidate.name} on {data.name}")
    print(format_table(per_sequence, BRIEF, formats=FORMATS), end="")
    print(f"{candidate.name} on {data.name}, {facts['rule']}\n{seconds:.1f} s, in {folder}\n", flush=True)
    return {
        "name": candidate.name,
        "source": candidate.source,
        "rows": measured,
        "published": published,
        "curve": curves.get("all"),
    }


def judged(metrics: dict[str, Any], threshold: float) -> tuple[dict[str, float], str]:
    return figures(metrics, threshold), rule(metrics, threshold)


def with_curve(metrics: dict[str, Any], threshold: float) -> dict[str, Any]:
    return {**figures(metrics, threshold), "curve": curve(metrics)}


def write_table(path: Path, rows: list[Row]) -> None:
    """Write <path>.md and, in full precision, <path>.csv."""
    write_atomically(path.with_suffix(".md"), format_table(rows, COLUMNS, "markdown", FORMATS).encode())
    write_atomically(path.with_suffix(".csv"), format_table(rows, COLUMNS, "csv").encode())


def labelled_curves(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Curves by model, or by the source of the weights where one model was tested with several."""
    tests = Counter(one["name"] for one in found)
    labels = [one["name"] if tests[one["name"]] == 1 else one["source"] for one in found]
    return {label: one["curve"] for label, one in zip(labels, found, strict=True) if one["curve"]}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    candidates = find_candidates(args)
    options = reader_options(args)
    sets = [create_dataset(name, args.dataset_dir, args.split, **options) for name in args.dataset_names]
    for note in (note for data in sets for note in data.notes):
        print(f"note: {note}")
    results = {data.name: [test_one(args, candidate, data) for candidate in candidates] for data in sets}
    folder = new_run_folder(args.log_dir, "tables")
    rows = []
    for dataset, found in results.items():
        rows += [r for one in found for r in one["rows"]]
        for published in {one["name"]: one["published"] for one in found}.values():
            rows += published
        curves = labelled_curves(found)
        if len(curves) > 1:
            write_roc(folder / f"roc_{dataset}.png", curves, dataset)
    write_table(folder / "table", rows)
    print(format_table(rows, COLUMNS, formats=FORMATS), end="")
    print(f"in {folder}")


if __name__ == "__main__":
    run_command(main)
