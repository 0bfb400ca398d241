"""Test detectors by name: `python test.py --dataset_names NUDT-MIRSDT --checkpoint best.pth`."""

import argparse
import dataclasses
import time
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
from metrics.protocols import protocol_lines, table_figures
from model import create_model
from utils.checkpoint import load_official, load_weights, read_checkpoint
from utils.cli import add_data_flags, add_recipe_flags, add_switch, new_parser, reader_options, typed_settings
from utils.engine.predict import predict_video
from utils.engine.runtime import pick_device
from utils.engine.score import score_set
from utils.errors import UserError, run_command
from utils.files import write_json
from utils.recipe.schema import Recipe, flat, recipe_from_dict, resolve_recipe
from utils.registry import DATASETS, MODELS
from utils.report.curves import curve_pictures, shared_curves, write_curves
from utils.report.pictures import SheetWriter
from utils.report.predictions import PredictionWriter, SavedPredictions, read_predictions
from utils.report.rows import Table, score_entries, with_footnotes
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
    add_switch(parser, "--save_overlays", "write contact sheets: targets and detections")
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

    lines = protocol_lines(protocols, recipe.scoring, recipe.threshold, recipe.match, recipe.exclude)
    table = Table(table_figures())
    folder = new_run_folder(args.log_dir, data.name, candidate.name)
    savers: list[Callable] = []
    if args.save_overlays:
        savers.append(SheetWriter(folder / "overlays", candidate.name, lines, recipe.threshold))
    writer = PredictionWriter(folder / "predictions")
    if args.save_predictions:
        savers.append(writer)

    begin = time.perf_counter()
    groups, sequences = score_set(
        predict, videos, data.subsets, lines, lambda *frame: [save(*frame) for save in savers]
    )
    seconds = time.perf_counter() - begin

    parts = [groups["all"].split(line) for line in lines]
    names = (data.name, candidate.name, candidate.source)
    measured, per_sequence = (table.measured(names, scored, parts) for scored in (groups, sequences))
    published = [table.published(entry) for entry in published_rows(data.name, candidate.name)]
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
        "scores": score_entries(groups, sequences, parts),
        "published": published,
    }
    write_json(folder / "eval.json", facts | measurements)
    table.write(folder / "table", measured + published)
    table.write(folder / "sequences", per_sequence)
    title = f"{candidate.name} on {data.name}"
    pictures = curve_pictures(groups, lines)
    for name, curves in pictures.items():
        write_curves(folder / name, curves, title)
    print(table.text(per_sequence, ("weights", "rule")), end="")
    for line in (line for split in parts for line in split):
        print(f"{title}, {line.protocol} protocol: {groups['all'].rule(line)}")
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
    table = Table(table_figures())
    published = [table.published(entry) for entry in published_rows(name)]
    if not published:
        known = ", ".join(sorted({entry["dataset"] for entry in read_papers()["rows"]}))
        raise UserError(f"nothing is published on {name}; known: {known}")
    own = table.evaluated(log_dir, published[0]["data set"])
    models = dict.fromkeys(r["model"] for r in published + own)
    rows = [r for model in models for r in published + own if r["model"] == model]
    folder = new_run_folder(log_dir, "tables")
    table.write(folder / "table", rows)
    short, notes = with_footnotes(rows)
    print(table.text(short), end="")
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
        tests = [(one["name"], one["source"], one["curves"]) for one in found]
        for picture, curves in shared_curves(tests).items():
            write_curves(folder / f"{dataset}_{picture}", curves, dataset)
    table = Table(table_figures())
    table.write(folder / "table", rows)
    print(table.text(rows, ("rule",)), end="")
    print(f"in {folder}")


if __name__ == "__main__":
    run_command(main)
