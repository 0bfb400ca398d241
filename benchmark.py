"""Size, cost and speed of detectors: `python benchmark.py --model_names DeepPro --size 480x720`."""

import argparse
import platform
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dataset.io import read_gray
from metrics import create_metric
from metrics.papers import published_complexity
from model import create_model
from utils.cli import add_recipe_flags, new_parser, typed_settings
from utils.engine.runtime import pick_device, processor_name
from utils.errors import UserError, run_command
from utils.files import write_json
from utils.recipe.schema import Recipe, resolve_recipe
from utils.registry import MODELS
from utils.report.table import format_table
from utils.runlog import new_run_folder

COLUMNS = {
    "model": None,
    "parameters": "d",
    "KiB": ".0f",
    "published KiB": ".0f",
    "GMAC/frame": ".2f",
    "published GMAC": ".1f",
    "GFLOP/frame": ".2f",
    "frames/s": ".1f",
    "clip p50 s": ".3f",
    "clip p95 s": ".3f",
    "peak MiB": ".0f",
    "load ms": ".2f",
    "score ms": ".2f",
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("Measure parameters, multiply-adds, speed and memory of detectors.")
    add_recipe_flags(parser, "seq_len")
    parser.add_argument("--size", default="480x720", metavar="HxW", help="height and width of the frames")
    parser.add_argument("--repeats", type=int, default=5, help="timed clips, after one to warm up")
    return parser.parse_args(argv)


def frame_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not found or min(int(found[1]), int(found[2])) < 4:
        raise UserError(f"--size takes HEIGHTxWIDTH like 480x720, not {text!r}")
    return int(found[1]), int(found[2])


def count_multiply_adds(name: str, recipe: Recipe, size: tuple[int, int]) -> float:
    """Multiply-adds per predicted frame of the network in training, module by module; nothing is computed."""
    with torch.device("meta"):
        model = create_model(name, **recipe.model).train()
        clip = torch.empty(1, recipe.clip.channels, recipe.clip.frames, *size)
    counter = FlopCounterMode(display=False)
    with counter:
        model(clip)
    return counter.get_total_flops() / 2 / predicted_frames(recipe)


def predicted_frames(recipe: Recipe) -> int:
    """Frames that one clip gives predictions of."""
    return recipe.clip.frames if recipe.clip.key == "all" else 1


def seconds_of(run: Callable[[], Any], repeats: int, device: torch.device) -> np.ndarray:
    """Wall-clock seconds of each of `repeats` calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return np.array(times[1:])


def peak_mebibytes(device: torch.device) -> float | None:
    """On a GPU the largest allocation since the last reset, on a CPU the peak of this whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def load_and_score_seconds(size: tuple[int, int]) -> tuple[float, float]:
    """Seconds to decode one 8-bit PNG frame, and to score one predicted frame by ShootingRules and IoU."""
    draw = np.random.default_rng(0)
    scene = cv2.GaussianBlur(draw.integers(0, 256, size).astype(np.uint8), (0, 0), 3)
    probability = (draw.random(size) ** 12).astype(np.float32)
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 2, size[1] // 2] = 1
    metrics = [create_metric("ShootingRules"), create_metric("IoU")]
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frame.png")
        path.write_bytes(cv2.imencode(".png", scene)[1].tobytes())
        load = np.median(seconds_of(lambda: read_gray(path), 20, cpu))
    score = np.median(seconds_of(lambda: [m.update(probability, mask) for m in metrics], 20, cpu))
    return float(load), float(score)


def measure(
    name: str, recipe: Recipe, size: tuple[int, int], device: torch.device, repeats: int
) -> dict[str, Any]:
    """One row: what the network weighs, what it costs, how fast it is here."""
    model: nn.Module = create_model(name, **recipe.model).eval().to(device)
    parameters = sum(p.numel() for p in model.parameters())
    clip = torch.randn(1, recipe.clip.channels, recipe.clip.frames, *size, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        times = seconds_of(lambda: model.decode(model(clip)), repeats, device)
    load, score = load_and_score_seconds(size)
    multiply_adds = count_multiply_adds(name, recipe, size)
    published = published_complexity(name) if size == (480, 720) else {}
    return {
        "model": name,
        "parameters": parameters,
        "KiB": parameters * 4 / 1024,
        "published KiB": published.get("kib"),
        "GMAC/frame": multiply_adds / 1e9,
        "published GMAC": published.get("gmac_per_frame"),
        "GFLOP/frame": 2 * multiply_adds / 1e9,
        "frames/s": predicted_frames(recipe) / float(np.median(times)),
        "clip p50 s": float(np.percentile(times, 50)),
        "clip p95 s": float(np.percentile(times, 95)),
        "peak MiB": peak_mebibytes(device),
        "load ms": 1e3 * load,
        "score ms": 1e3 * score,
        "clip": list(clip.shape),
    }


def machine(device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": gpu or "CPU",
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "torch": torch.__version__,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.repeats < 1:
        raise UserError(f"--repeats takes 1 or more, not {args.repeats}")
    size, device = frame_size(args.size), pick_device(args.device, args.tf32, args.deterministic)
    rows = []
    for name in args.model_names or ["DeepPro", "DeepPro-Plus"]:
        entry = MODELS.entry(name)
        recipe = resolve_recipe(entry.facts["recipe"], "", typed_settings(args))
        rows.append(measure(entry.name, recipe, size, device, args.repeats))
    path = new_run_folder(args.log_dir, "benchmark") / "benchmark.json"
    write_json(path, {"machine": machine(device), "size": list(size), "rows": rows})
    print(format_table(rows, COLUMNS, formats=COLUMNS), end="")
    print(f"frames of {size[0]}x{size[1]}; GMAC: multiply-adds of the network in training; {machine(device)}")
    print(f"in {path}")


if __name__ == "__main__":
    run_command(main)
