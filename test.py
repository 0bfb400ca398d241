"""Test detectors by name: `python test.py --dataset_names NUDT-MIRSDT --checkpoint best.pth`."""

import argparse
import contextlib
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset import SequenceSet, create_dataset
from dataset.cache import cache_folder, fill_caches
from dataset.check.warn import tell
from dataset.prepare import prepared
from dataset.published import standing
from dataset.video import TestVideo
from metrics.papers import published_rows, refuse_unpublished
from metrics.protocols import recipe_lines, table_figures
from model import create_model
from utils import cli
from utils.engine.candidates import Candidate, find_candidates, wanted_sets
from utils.engine.runtime import Runtime
from utils.engine.score import score_set
from utils.engine.stages import linked
from utils.errors import run_command
from utils.recipe.schema import Recipe
from utils.report.evaluation import Result, Summary, write_evaluation, write_paper_table
from utils.report.pictures import SheetWriter
from utils.report.predictions import PredictionWriter
from utils.report.rows import Table
from utils.runlog import new_run_folder
from utils.tracking import TrackSettings


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser("Test detectors of infrared small moving targets.")
    cli.add_data_flags(parser)
    parser.set_defaults(dataset_names=None, dataset_dir=None)  # then those of --predictions
    cli.add_recipe_flags(parser, "seq_len", "threshold", "register", "confirm")
    cli.add_weight_flags(parser)
    add = parser.add_argument
    add("--split", choices=("test", "train"), help="which sequences (default: test)")
    cli.add_scoring_flags(parser)
    cli.add_switch(parser, "--save_predictions", "keep maps (also as 8-bit PNG) and boxes")
    text = "score what --save_predictions wrote, without a network"
    add("--predictions", nargs="+", type=Path, default=[], metavar="DIR", help=text)
    text = "print what is published on a data set and what was measured here beside it, and end"
    add("--paper_table", metavar="DATASET", help=text)
    cli.add_switch(parser, "--save_overlays", "write contact sheets: targets and detections")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Test:
    """One candidate on one data set, with all that its scoring needs."""

    __test__ = False  # not a test, whatever pytest makes of its name

    candidate: Candidate
    data: SequenceSet
    recipe: Recipe
    lines: list
    videos: list[TestVideo]
    runtime: Runtime
    tracks: TrackSettings | None


def build_test(args: argparse.Namespace, candidate: Candidate, data: SequenceSet) -> Test:
    """All parts of a test. Raises UserError for what cannot work; nothing is written yet."""
    recipe = candidate.recipe(data.name, cli.typed_settings(args))
    candidate.tell(data.name, recipe)
    lines = recipe_lines(recipe, cli.protocols(args), data.name)
    cache = cache_folder(args.cache_dir) if args.cache else None
    recipe = recipe if candidate.saved else prepared(recipe, [data], cache)
    videos = [TestVideo(sequence, data, recipe.view, cache) for sequence in data]
    candidate.try_out(recipe, create_model, videos)
    return Test(candidate, data, recipe, lines, videos, Runtime.of(recipe.runtime), cli.track_settings(args))


def run_test(args: argparse.Namespace, test: Test, table: Table) -> Result:
    """Score one model on one data set and write its folder."""
    candidate, data, recipe = test.candidate, test.data, test.recipe
    predict = linked(candidate.predictor(recipe, create_model, test.runtime), recipe, test.tracks)
    folder = new_run_folder(args.log_dir, data.name, candidate.name)
    keeper = PredictionWriter(folder / "predictions") if args.save_predictions else None
    sheets = SheetWriter(folder / "overlays", candidate.name, test.lines, recipe.scoring.threshold)
    on_frame = [writer for writer in (args.save_overlays and sheets, keeper) if writer]
    begin = time.perf_counter()
    with keeper or contextlib.nullcontext():
        groups, sequences = score_set(
            predict, test.videos, data.subsets, test.lines, lambda *frame: [see(*frame) for see in on_frame]
        )
    seconds = time.perf_counter() - begin
    facts = describe(args, test)
    if keeper:
        keeper.finish(facts)
    facts |= {"device": test.runtime.name, "seconds": seconds, "frames": sum(map(len, data))}
    facts["tracks"] = test.tracks and dataclasses.asdict(test.tracks)
    computed = [] if candidate.saved else test.videos
    facts["normalisation"] = {video.name: dataclasses.asdict(video.normalisation) for video in computed}
    published = published_rows(data.name, candidate.name)
    result = write_evaluation(folder, facts, groups, sequences, test.lines, table, published)
    print(f"{seconds:.1f} s, in {folder}\n", flush=True)
    return result


def describe(args: argparse.Namespace, test: Test) -> dict[str, Any]:
    """What was tested on what."""
    candidate, data = test.candidate, test.data
    before = candidate.saved.facts if candidate.saved else {}
    return {
        "model": candidate.name,
        "weights": candidate.source,
        "trained_on": candidate.trained_on or before.get("trained_on"),
        "dataset": data.name,
        "dataset_dir": data.root,
        "data": standing(data),
        "dataset_options": args.dataset_options or before.get("dataset_options", []),
        "split": data.split,
        "has_truth": any(sequence.has_truth for sequence in data),
        "recipe": test.recipe.to_dict(),
    }


def main(argv: list[str] | None = None) -> None:
    args, table = parse(argv), Table(table_figures())
    if args.paper_table is not None:
        published = published_rows(args.paper_table) or refuse_unpublished(args.paper_table)
        write_paper_table(args.log_dir, table, published)
        return
    candidates = find_candidates(
        args.model_names, args.checkpoint, args.official, args.predictions, create_model
    )
    sets = [create_dataset(**wanted) for wanted in wanted_sets(args, candidates)]
    tell(sets, args.log_dir)
    tests = [  # all are built before the first one runs
        build_test(args, candidate, data)
        for data in sets
        for candidate in candidates
        if not candidate.saved or candidate.saved.facts["dataset"] == data.name
    ]
    fill_caches(video for test in tests if not test.candidate.saved for video in test.videos)
    summary = Summary(args.log_dir, table)
    for test in tests:
        summary.add(run_test(args, test, table))
    summary.show()


if __name__ == "__main__":
    run_command(main)
