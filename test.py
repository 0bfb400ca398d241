"""Test detectors by name: `python test.py --dataset_names NUDT-MIRSDT --checkpoint best.pth`."""

import argparse
import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dataset import SequenceSet, create_dataset
from dataset.video import TestVideo
from metrics.papers import published_rows, read_papers
from metrics.protocols import protocol_metrics
from model import create_model
from utils.checkpoint import load_official, load_weights, read_checkpoint
from utils.cli import add_data_flags, add_recipe_flags, add_switch, new_parser, reader_options, typed_settings
from utils.engine.predict import predict_video
from utils.engine.runtime import pick_device
from utils.engine.score import Metrics, Scoring, score_set, scorings
from utils.errors import UserError, run_command
from utils.files import write_atomically, write_json
from utils.recipe.schema import Recipe, flat, recipe_from_dict, resolve_recipe
from utils.registry import DATASETS, MODELS
from utils.report.predictions import PredictionWriter, SavedPredictions, read_predictions
from utils.report.rows import (
    COLUMNS,
    FORMATS,
    Row,
    all_of,
    columns_of,
    evaluated_rows,
    map_saver,
    overlay_saver,
    published_row,
    row,
    with_footnotes,
    write_pr,
    write_roc,
)
from utils.report.table import format_table
from utils.runlog import new_run_folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("Test detectors of infrared small moving targets.")
    add_data_flags(parser)
    parser.set_defaults(dataset_names=None, dataset_dir=None)  # then those of --predictions, see find_sets
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
    add("--split", choices=("test", "train"), help="which sequences (default: test)")
    text = "score as the model's paper does, by the rules that are the same for all, or side by side"
    choices = ("published", "clean")
    add("--protocol", nargs="+", choices=choices, default=list(choices), dest="protocols", help=text)
    add_switch(parser, "--save_predictions", "keep maps (also as 8-bit PNG) and boxes")
    text = "score what --save_predictions wrote, without a network"
    add("--predictions", nargs="+", type=Path, default=[], metavar="DIR", help=text)
    text = "print what is published on a data set and what was measured here beside it, and end"
    add("--paper_table", metavar="DATASET", help=text)
    add_switch(parser, "--save_overlays", "write contact sheets: targets, hits and false alarms")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Candidate:
    """A model to test and where its weights, or its predictions, come from."""

    name: str
    checkpoint: Path | None = None
    official: Path | None = None
    saved: SavedPredictions | None = None

    @property
    def source(self) -> str:
        if self.saved:
            return self.saved.facts["weights"]
        return str(self.checkpoint or self.official or "no parameters")


def find_candidates(args: argparse.Namespace) -> list[Candidate]:
    """Match checkpoints (which name their model) and published files (given in order) with --model_names.

    Saved predictions name their model, and stand beside these.
    """
    predictions = [read_predictions(folder) for folder in args.predictions]
    ready = [Candidate(MODELS.entry(p.facts["model"]).name, saved=p) for p in predictions]
    if ready and not (args.model_names or args.checkpoint or args.official):
        return ready
    saved = {path: read_checkpoint(path)["model"] for path in args.checkpoint}
    names = [MODELS.entry(n).name for n in args.model_names or saved.values() or ["DeepPro"]]
    for path, name in saved.items():
        if name not in names:
            raise UserError(f"{path} holds {name}, which is not among --model_names {' '.join(names)}")
    official = list(args.official)
    candidates = ready
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
    """Score one model on one data set; writes its folder and returns its rows and its curves."""
    device = pick_device(args.device, args.tf32, args.deterministic)
    if candidate.saved:
        recipe = recipe_from_dict({**flat(candidate.saved.facts["recipe"]), **typed_settings(args)})
        predict = candidate.saved.reader(recipe.threshold)
    else:
        model, recipe = load_candidate(candidate, data.name, typed_settings(args))
        predict = partial(predict_video, model.to(device), device, recipe.threshold)
    cache = args.cache_dir if args.cache else None
    videos = [TestVideo(sequence, data, recipe.clip, cache) for sequence in data]
    protocols = list(dict.fromkeys(args.protocols))

    def new_metrics() -> Metrics:
        return protocol_metrics(protocols, recipe.scoring, recipe.threshold, recipe.match, recipe.exclude)

    chosen = scorings(new_metrics(), recipe.threshold)
    folder = new_run_folder(args.log_dir, data.name, candidate.name)
    savers: list[Callable] = []
    if args.save_overlays:
        savers.append(overlay_saver(folder / "overlays", candidate.name, recipe.threshold))
    writer = PredictionWriter(folder / "predictions")
    if args.save_predictions:
        savers += [writer, map_saver(folder / "predictions")]

    begin = time.perf_counter()
    groups, sequences = score_set(predict, videos, data.subsets, new_metrics, all_of(savers))
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
    before = candidate.saved.facts if candidate.saved else {}
    facts = {
        "model": candidate.name,
        "weights": candidate.source,
        "dataset": data.name,
        "dataset_dir": data.root,
        "dataset_options": args.dataset_options or before.get("dataset_options", []),
        "split": data.split,
        "recipe": recipe.to_dict(),
    }
    if args.save_predictions:
        writer.finish(facts)
    measurements = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "seconds": seconds,
        "frames": sum(len(sequence) for sequence in data),
        "normalisation": {} if candidate.saved else normalisations(videos),
        "scores": [scored(s, groups, sequences) for s in chosen],
        "published": published,
    }
    write_json(folder / "eval.json", facts | measurements)
    write_table(folder / "table", measured + published)
    write_table(folder / "sequences", per_sequence)
    title = f"{candidate.name} on {data.name}"
    pictures = curves_of(chosen, groups)
    for name, curves in pictures.items():
        write_curves(folder / name, curves, title)
    print(
        format_table(per_sequence, columns_of(per_sequence, ("figures of", "rule")), formats=FORMATS), end=""
    )
    for s in chosen:
        print(f"{title}, {s.protocol} protocol: {s.rule(groups['all'])}")
    print(f"{seconds:.1f} s, in {folder}\n", flush=True)
    return {
        "name": candidate.name,
        "source": candidate.source,
        "rows": measured,
        "published": published,
        "curves": {name: curves["all"] for name, curves in pictures.items() if "all" in curves},
    }


def normalisations(videos: list[TestVideo]) -> dict[str, Any]:
    return {video.name: dataclasses.asdict(video.normalisation) for video in videos}


def curves_of(chosen: list[Scoring], groups: dict[str, Metrics]) -> dict[str, dict[str, Any]]:
    """The curves of each group, by the name of the picture that shows them."""
    pictures = {}
    for s in chosen:
        pictures[f"roc_{s.protocol}_{s.targets}.png"] = {g: s.curve(m) for g, m in groups.items()}
        pictures[f"pr_{s.protocol}.png"] = {g: s.pr_curve(m) for g, m in groups.items()}
    found = {name: {g: c for g, c in curves.items() if c} for name, curves in pictures.items()}
    return {name: curves for name, curves in found.items() if curves}


def write_curves(path: Path, curves: dict[str, Any], title: str) -> None:
    """Draw ROC or precision-recall curves, by name."""
    is_pr = "precision_curve" in next(iter(curves.values()))
    (write_pr if is_pr else write_roc)(path, curves, title)


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


def write_table(path: Path, rows: list[Row]) -> None:
    """Write <path>.md and, in full precision and with all columns, <path>.csv."""
    text = format_table(rows, columns_of(rows), "markdown", FORMATS)
    write_atomically(path.with_suffix(".md"), text.encode())
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


def find_sets(args: argparse.Namespace, candidates: list[Candidate]) -> list[SequenceSet]:
    """The data sets that were typed, else those of the saved predictions, else Synthetic."""
    saved = {c.saved.facts["dataset"]: c.saved.facts for c in candidates if c.saved}
    sets = []
    for name in args.dataset_names or list(saved) or ["Synthetic"]:
        facts = saved.get(DATASETS.entry(name).name, {})
        options = reader_options(args.dataset_options or facts.get("dataset_options", []))
        root = args.dataset_dir or facts.get("dataset_dir", "data")
        sets.append(create_dataset(name, root, args.split or facts.get("split", "test"), **options))
    for candidate in candidates:
        if candidate.saved and candidate.saved.facts["dataset"] not in [data.name for data in sets]:
            raise UserError(
                f"{candidate.saved.folder} holds predictions on {candidate.saved.facts['dataset']}; "
                "name it in --dataset_names"
            )
    return sets


def paper_table(name: str, log_dir: Path) -> None:
    """Print and write the published rows of a data set, each model's own evaluations below them.

    Raises UserError where nothing is published.
    """
    published = [published_row(entry) for entry in published_rows(name)]
    if not published:
        known = ", ".join(sorted({entry["dataset"] for entry in read_papers()["rows"]}))
        raise UserError(f"nothing is published on {name}; known: {known}")
    own = evaluated_rows(log_dir, published[0]["data set"])
    models = dict.fromkeys(r["model"] for r in published + own)
    rows = [r for model in models for r in published + own if r["model"] == model]
    folder = new_run_folder(log_dir, "tables")
    write_table(folder / "table", rows)
    short, notes = with_footnotes(rows)
    print(format_table(short, columns_of(short), formats=FORMATS), end="")
    print("\n".join(notes))
    print(f"{len(own)} of these lines were measured here; in {folder}")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.paper_table:
        paper_table(args.paper_table, args.log_dir)
        return
    candidates = find_candidates(args)
    sets = find_sets(args, candidates)
    for note in (note for data in sets for note in data.notes):
        print(f"note: {note}")
    results = {
        data.name: [
            test_one(args, c, data)
            for c in candidates
            if not c.saved or c.saved.facts["dataset"] == data.name
        ]
        for data in sets
    }
    folder = new_run_folder(args.log_dir, "tables")
    rows = []
    for dataset, found in results.items():
        rows += [r for one in found for r in one["rows"]]
        for published in {one["name"]: one["published"] for one in found}.values():
            rows += published
        for picture, curves in shared_curves(found).items():
            write_curves(folder / f"{dataset}_{picture}", curves, dataset)
    write_table(folder / "table", rows)
    print(format_table(rows, columns_of(rows, ("rule",)), formats=FORMATS), end="")
    print(f"in {folder}")


if __name__ == "__main__":
    run_command(main)
