"""Size, cost and speed of detectors: `python benchmark.py --model_names DeepPro --size 480x720`."""

import argparse
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any

from dataset.io import read_gray
from metrics import create_metric
from metrics.papers import published_complexity
from metrics.protocols import PROTOCOLS
from model import create_model
from utils.cli import add_recipe_flags, frame_size, new_parser, number, typed_settings
from utils.engine.cost import (
    WARM_UP,
    load_and_score_seconds,
    machine_facts,
    machine_text,
    multiply_adds,
    peak_mebibytes,
    speed_on_video,
)
from utils.engine.dry_run import dry_run
from utils.engine.runtime import Runtime
from utils.errors import UserError, run_command
from utils.files import check_writable, write_json
from utils.recipe.resolve import check_use, full_keys, resolve_recipe
from utils.recipe.schema import Recipe
from utils.registry import MODELS, Entry
from utils.report.table import format_table
from utils.runlog import new_run_folder
from utils.task import task_of

COLUMNS = {
    "model": None,
    "parameters": "d",
    "KiB": ".0f",
    "published KiB": ".0f",
    "GMAC/frame": ".2f",
    "published GMAC": ".1f",
    "GFLOP/frame": ".2f",
    "form": None,
    "frames/s": ".1f",
    "clip p50 s": ".3f",
    "clip p95 s": ".3f",
    "peak MiB": ".0f",
    "load ms": ".2f",
    "score ms": ".2f",
}
ACTING = ("model", "runtime", "view.frames", "view.key", "view.channels")  # parts and keys of a recipe
NOTE = (
    "GMAC: multiply-adds of the network in training; form: the network's stream over a video, or clip by "
    "clip; peak: of a process that runs this model alone"
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("Measure parameters, multiply-adds, speed and memory of detectors.")
    add_recipe_flags(parser, "seq_len")
    add, repeats = parser.add_argument, number(int, at_least=1, at_most=100_000)
    text = "height and width of the frames"
    add("--size", type=frame_size(4), default="480x720", metavar="HxW", help=text)
    add("--repeats", type=repeats, default=5, help=f"timed clips, after {WARM_UP} to warm up")
    return parser.parse_args(argv)


def checked_recipe(entry: Entry, args: argparse.Namespace) -> Recipe:
    """A model's recipe. Raises UserError for keys that do nothing here and a size that it does not take."""
    typed, task = typed_settings(args), task_of(entry)
    check_use(full_keys(typed, {}), ACTING, f"the speed of {entry.name}")
    recipe = resolve_recipe(entry.facts["recipe"], "", typed, task.name)
    dry_run(partial(create_model, entry.name, **recipe.model), task, recipe.view, args.size)
    return recipe


def measure(name: str, recipe: Recipe, args: argparse.Namespace) -> dict[str, Any]:
    """One row: what the network weighs, what it costs, how fast it is here."""
    runtime, view = Runtime.of(recipe.runtime), recipe.view
    shape = (1, view.channels, view.frames, *args.size)
    model = runtime.prepare(create_model(name, **recipe.model))
    parameters = sum(p.numel() for p in model.parameters())
    with runtime.computing():
        speed = speed_on_video(model, shape, view.predicted, args.repeats, runtime.device)
    peak = peak_mebibytes(runtime.device)  # before anything else takes memory
    multiplied = multiply_adds(lambda: create_model(name, **recipe.model), shape) / view.predicted
    metrics = [create_metric(name, **options) for name, options in PROTOCOLS["DeepPro"].lines[0].items()]
    load, score = load_and_score_seconds(
        args.size, read_gray, lambda *frame: [metric.update(*frame) for metric in metrics]
    )
    published = published_complexity(name) if args.size == (480, 720) else {}
    return {
        "model": name,
        "parameters": parameters,
        "KiB": parameters * 4 / 1024,
        "published KiB": published.get("kib"),
        "GMAC/frame": multiplied / 1e9,
        "published GMAC": published.get("gmac_per_frame"),
        "GFLOP/frame": 2 * multiplied / 1e9,
        **speed,
        "peak MiB": peak,
        "load ms": 1e3 * load,
        "score ms": 1e3 * score,
        "clip": list(shape),
    }


def measure_alone(name: str, recipe: Recipe, args: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a fresh process, in whose memory no other model has been."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(measure, name, recipe, args).result()
        except BrokenProcessPool:
            raise UserError(
                f"the process that measured {name} was ended from outside, as by a lack of memory; "
                "set a smaller --size"
            ) from None


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    entries = [MODELS.entry(name) for name in args.model_names or ["DeepPro", "DeepPro-Plus"]]
    recipes = [checked_recipe(entry, args) for entry in entries]
    device = Runtime.of(recipes[0].runtime).device
    check_writable(args.log_dir / "benchmark" / "benchmark.json")
    rows = [measure_alone(e.name, recipe, args) for e, recipe in zip(entries, recipes, strict=True)]
    path = new_run_folder(args.log_dir, "benchmark") / "benchmark.json"
    write_json(path, {"machine": machine_facts(device), "size": list(args.size), "rows": rows})
    print(format_table(rows, COLUMNS, formats=COLUMNS), end="")
    print(f"frames of {args.size[0]}x{args.size[1]}; {NOTE}\non {machine_text(device)}, in {path}")


if __name__ == "__main__":
    run_command(main)
