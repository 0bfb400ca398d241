"""Measure this project against the plain way of doing the same: `python tools/compare_speed.py`.

Inference and training of each network against its plain modules in tests/naive_*.py, in fresh processes that
take turns; clips, losses and scores against their plain forms, side by side in one process ("data": loading
and scoring, for all networks). Outputs are compared; ratios are of medians. speed_<model>.py beside this file
says what is measured.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import speed_data  # noqa: E402
import speed_deeppro  # noqa: E402
import speed_rprnet  # noqa: E402
import speed_stmenet  # noqa: E402

from utils.cli import Parser, number  # noqa: E402
from utils.engine.cost import machine_facts, peak_mebibytes  # noqa: E402
from utils.engine.runtime import keep_freed_memory  # noqa: E402
from utils.errors import UserError, run_command  # noqa: E402
from utils.files import check_writable, write_json  # noqa: E402

# IN_TURNS of a module: functions of "naive" or "ours" that return (seconds, values to compare). TOGETHER:
# functions of the number of rounds that compare the outputs and return the seconds of each side.
MODELS = {"DeepPro": speed_deeppro, "RPRNet": speed_rprnet, "STMENet": speed_stmenet, "data": speed_data}
RATIOS = {
    "ratio": ("naive", "ours"),
    "ratio, our allocator on both sides": ("naive, our allocator", "ours"),
    "ratio, later epochs": ("naive", "ours, later epochs"),
    "fraction of a training step": ("SPGloss", "training step"),
}


def in_child(model: str, task: str, how: str, allocator: str) -> dict:
    """Run one measurement in a fresh process; `how` is "naive", "ours" or the number of rounds."""
    command = [sys.executable, __file__, "--child", model, task, how, allocator]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{model} {task} {how} ended with code {done.returncode}; the lines above say why")
    return json.loads(done.stdout.splitlines()[-1])


def run_child(model: str, task: str, how: str, allocator: str) -> None:
    """The other side of `in_child`."""
    if allocator == "kept":
        keep_freed_memory()
    module = MODELS[model]
    if task in module.TOGETHER:
        result = module.TOGETHER[task](int(how))
    else:
        seconds, values = module.IN_TURNS[task](how)
        result = {"seconds": seconds, "values": values, "peak MiB": peak_mebibytes(torch.device("cpu"))}
    print(json.dumps(result))


def summary(times: dict[str, list[float]]) -> dict:
    medians = {side: float(np.median(t)) for side, t in times.items()}
    ratios = {
        name: medians[one] / medians[other]
        for name, (one, other) in RATIOS.items()
        if one in medians and other in medians
    }
    return {"seconds": medians, "all": times, **ratios}


def compare(model: str, task: str, rounds: int) -> dict:
    """Naive in a plain process, naive with our allocator setting, and ours, in turns."""
    sides = {"naive": ("naive", "plain"), "naive, our allocator": ("naive", "kept"), "ours": ("ours", "kept")}
    results = {side: [] for side in sides}
    for _ in range(rounds):
        for side, (kind, allocator) in sides.items():
            results[side].append(in_child(model, task, kind, allocator))
    naive, ours = (np.array([r["values"] for r in results[side]]) for side in ("naive", "ours"))
    if not np.allclose(ours, naive, rtol=2e-5, atol=1e-5):
        raise UserError(f"{model} {task}: the two versions differ by up to {np.abs(ours - naive).max():.2g}")
    compared = summary({side: [r["seconds"] for r in rows] for side, rows in results.items()})
    if results["ours"][0]["peak MiB"] is None:  # not known on this system
        return compared
    peaks = {side: float(np.median([r["peak MiB"] for r in rows])) for side, rows in results.items()}
    return {
        **compared,
        "peak MiB": peaks,
        "peak ratio": peaks["naive"] / peaks["ours"],
        "peak ratio, our allocator on both sides": peaks["naive, our allocator"] / peaks["ours"],
    }


def described(result: dict) -> str:
    """The medians, the peaks and the ratios of a result on one line."""
    parts = [", ".join(f"{side} {seconds:.4g} s" for side, seconds in result["seconds"].items())]
    if "peak MiB" in result:
        parts.append(
            "peak " + ", ".join(f"{side} {peak:.0f} MiB" for side, peak in result["peak MiB"].items())
        )
    parts += [f"{name} {value:.3g}" for name, value in result.items() if isinstance(value, float)]
    return "; ".join(parts)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    parser.add_argument(
        "--rounds", type=number(int, at_least=1, at_most=1000), default=3, help="measurements per side"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("log/benchmarks/compare_speed.json"), help="JSON file"
    )
    parser.add_argument(
        "--child", nargs=4, metavar=("MODEL", "TASK", "HOW", "ALLOCATOR"), help=argparse.SUPPRESS
    )
    args = parser.parse_args(argv)
    if args.child:
        run_child(*args.child)
        return
    check_writable(args.out)
    results = {"machine": machine_facts(torch.device("cpu")), **{model: {} for model in args.models}}
    tasks = [(m, task) for m in args.models for task in (*MODELS[m].IN_TURNS, *MODELS[m].TOGETHER)]
    for model, task in tqdm(tasks, desc="measurements", disable=None):
        if task in MODELS[model].IN_TURNS:
            result = compare(model, task, args.rounds)
        else:
            result = summary(in_child(model, task, str(args.rounds), "kept"))
        results[model][task] = result
        tqdm.write(f"{model} {task}: {described(result)}")
    write_json(args.out, results)
    print(f"in {args.out}")


if __name__ == "__main__":
    run_command(main)
