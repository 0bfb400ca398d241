"""Test detectors by name: `python test.py --dataset_names NUDT-MIRSDT --checkpoint best.pth`."""

import argparse
import dataclasses
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dataset import SequenceSet, create_dataset
from dataset.video import TestVideo
from metrics.papers import published_rows
from metrics.protocols import protocol_metrics
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
from utils.scoring import Metrics, Scoring, score_set, scorings


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
    text = "score as the model's paper does, by the rules that are the same for all, or side by side"
    choices = ("published", "clean")
    add("--protocol", nargs="+", choices=choices, dest="protocols", help=f"{text} (default: the recipe's)")
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
    device = pick_device(args.device, args.tf32, args.deterministic)
    model, recipe = load_candidate(candidate, data.name, typed_settings(args))
    cache = args.cache_dir if args.cache else None
    videos = [TestVideo(sequence, data, recipe.clip, cache) for sequence in data]

    protocols = list(dict.fromkeys(args.protocols or [recipe.protocol]))

    def new_metrics() -> Metrics:
        return protocol_metrics(protocols, recipe.scoring, recipe.threshold, recipe.match, recipe.exclude)

    chosen = scorings(new_metrics(), recipe.threshold)
    folder = new_run_folder(args.log_dir, data.name, candidate.name)
    savers = []
    if args.save_predictions:
        savers.append(prediction_saver(folder / "predictions"))
    if args.save_overlays:
        savers.append(overlay_saver(folder / "overlays", candidate.name, recipe.threshold))

    begin = time.perf_counter()
    groups, sequences = score_set(model.to(device), videos, data.subsets, new_metrics, device, all_of(savers))
    seconds = time.perf_counter() - begin

    def rows(scored: dict[str, Metrics]) -> list[Row]:
        names = (candidate.name, candidate.source)
        return [
            row((data.name, group, *names, s.protocol, s.targets), s.figures(metrics), s.rule(metrics))
            for group, metrics in scored.items()
            for s in chosen
        ]

    measured, per_sequence = rows(groups), rows(sequences)
    published = [published_row(entry) for entry in published_rows(data.name, candidate.name)]
    facts = {
        "model": candidate.name,
        "weights": candidate.source,
        "dataset": data.name,
        "dataset_dir": data.root,
        "split": data.split,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "seconds": seconds,
        "frames": sum(len(sequence) for sequence in data),
        "normalisation": {video.name: dataclasses.asdict(video.normalisation) for video in videos},
        "recipe": recipe.to_dict(),
        "scores": [scored(s, groups, sequences) for s in chosen],
        "published": published,
    }
    write_json(folder / "eval.json", facts)
    write_table(folder / "table", measured + published)
    write_table(folder / "sequences", per_sequence)
    curves = {s: {group: c for group, m in groups.items() if (c := s.curve(m))} for s in chosen}
    for s, of_groups in curves.items():
        if of_groups:
            write_roc(folder / roc_name(s), of_groups, f"{candidate.name} on {data.name}")
    print(format_table(per_sequence, BRIEF, formats=FORMATS), end="")
    for s in chosen:
        print(f"{candidate.name} on {data.name}, {s.protocol} protocol: {s.rule(groups['all'])}")
    print(f"{seconds:.1f} s, in {folder}\n", flush=True)
    return {
        "name": candidate.name,
        "source": candidate.source,
        "rows": measured,
        "published": published,
        "curves": {roc_name(s): of_groups["all"] for s, of_groups in curves.items() if "all" in of_groups},
    }


def scored(scoring: Scoring, groups: dict[str, Metrics], sequences: dict[str, Metrics]) -> dict[str, Any]:
    """All figures and curves of one scoring, for eval.json."""

    def with_curves(parts: dict[str, Metrics]) -> dict[str, Any]:
        return {k: {**scoring.figures(m), "curve": scoring.curve(m)} for k, m in parts.items()}

    return {
        "protocol": scoring.protocol,
        "targets_by": scoring.targets,
        "rule": scoring.rule(groups["all"]),
        "groups": with_curves(groups),
        "sequences": with_curves(sequences),
    }


def roc_name(scoring: Scoring) -> str:
    return f"roc_{scoring.protocol}_{scoring.targets}.png"


def write_table(path: Path, rows: list[Row]) -> None:
    """Write <path>.md and, in full precision, <path>.csv."""
    write_atomically(path.with_suffix(".md"), format_table(rows, COLUMNS, "markdown", FORMATS).encode())
    write_atomically(path.with_suffix(".csv"), format_table(rows, COLUMNS, "csv").encode())


def shared_curves(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Curves of several tests by picture, and in it by model or by the source of the model's weights."""
    tests = Counter(one["name"] for one in found)
    pictures: dict[str, dict[str, Any]] = {}
    for one in found:
        label = one["name"] if tests[one["name"]] == 1 else one["source"]
        for picture, curve in one["curves"].items():
            pictures.setdefault(picture, {})[label] = curve
    return {picture: curves for picture, curves in pictures.items() if len(curves) > 1}


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
        for picture, curves in shared_curves(found).items():
            write_roc(folder / f"{dataset}_{picture}", curves, dataset)
    write_table(folder / "table", rows)
    print(format_table(rows, COLUMNS, formats=FORMATS), end="")
    print(f"in {folder}")


if __name__ == "__main__":
    run_command(main)
