"""Measure this project against the plain way of doing the same: `python tools/compare_speed.py`.

Inference and training of DeepPro against tests/naive_deeppro.py (Conv3d + BatchNorm3d + Linear), in fresh
processes that take turns; scoring against one labelling per threshold. Outputs are compared; ratios are of
medians.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from naive_deeppro import NaiveDeepPro  # noqa: E402
from test_metrics import shooting_rules_one_threshold_at_a_time  # noqa: E402

from loss import create_loss  # noqa: E402
from metrics import create_metric  # noqa: E402
from model import create_model  # noqa: E402
from utils.checkpoint import load_official  # noqa: E402
from utils.device import keep_freed_memory, processor_name  # noqa: E402
from utils.errors import UserError, run_command  # noqa: E402
from utils.files import write_json  # noqa: E402


def build(kind: str) -> torch.nn.Module:
    """The naive network or ours, with the same weights."""
    torch.manual_seed(0)
    naive = NaiveDeepPro()
    if kind == "naive":
        return naive
    ours = create_model("DeepPro")
    load_official(ours, naive.state_dict())
    return ours


def logits_of(model: torch.nn.Module, clip: torch.Tensor) -> torch.Tensor:
    out = model(clip)
    return out["logits"] if isinstance(out, dict) else out[1]


def inference(model: torch.nn.Module) -> tuple[float, float]:
    """Seconds for a clip of 40x256x256, and a checksum of the logits."""
    clip = torch.randn(1, 1, 40, 256, 256, generator=torch.Generator().manual_seed(1))
    model.eval()
    with torch.inference_mode():
        logits_of(model, clip)
        begin = time.perf_counter()
        logits = logits_of(model, clip)
        return time.perf_counter() - begin, logits.double().mean().item()


def training(model: torch.nn.Module) -> tuple[float, float]:
    """Seconds for an Adam step on a clip of 40x128x128, and the loss after two steps."""
    draw = torch.Generator().manual_seed(1)
    clip = torch.randn(1, 1, 40, 128, 128, generator=draw)
    target = (torch.rand(1, 40, 128, 128, generator=draw) > 0.999).float()
    loss, optimizer = create_loss("SoftIoU"), torch.optim.Adam(model.train().parameters(), 1e-3)
    for _ in range(2):
        begin = time.perf_counter()
        value = loss({"logits": logits_of(model, clip)}, target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seconds = time.perf_counter() - begin
    return seconds, value.item()


def scoring() -> tuple[float, float]:
    """Seconds per 256x256 frame at 27 thresholds: (one labelling per threshold, ours); equal counts."""
    draw = np.random.default_rng(0)
    probability = (draw.random((256, 256)) ** 12).astype(np.float32)
    truth = np.zeros((256, 256), np.uint8)
    truth[100, 120] = 255
    metric = create_metric("ShootingRules")
    plain, ours = [], []
    for _ in range(7):
        begin = time.perf_counter()
        expected = shooting_rules_one_threshold_at_a_time(probability, truth // 255, metric.thresholds, 1, 4)
        plain.append(time.perf_counter() - begin)
        metric.reset()
        begin = time.perf_counter()
        for _ in range(20):
            metric.update(probability, truth)
        ours.append((time.perf_counter() - begin) / 20)
    metric.reset()
    metric.update(probability, truth)
    counted = metric.compute()
    for name, values in zip(("false", "true", "targets"), expected.T, strict=True):
        np.testing.assert_array_equal(counted[name], values)
    return float(np.median(plain)), float(np.median(ours))


TASKS = {"inference": inference, "training": training}


def child(task: str, kind: str, allocator: str) -> dict:
    """Run one measurement in a fresh process."""
    command = [sys.executable, __file__, "--child", task, kind, allocator]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def compare(task: str, rounds: int) -> dict:
    """Naive in a plain process, naive with our allocator setting, and ours, in turns."""
    sides = {"naive": ("naive", "plain"), "naive, our allocator": ("naive", "kept"), "ours": ("ours", "kept")}
    times = {side: [] for side in sides}
    checks = {}
    for _ in range(rounds):
        for side, (kind, allocator) in sides.items():
            result = child(task, kind, allocator)
            times[side].append(result["seconds"])
            checks[side] = result["check"]
    if abs(checks["naive"] - checks["ours"]) > 1e-5:
        raise UserError(f"{task}: the two versions differ, {checks}")
    medians = {side: float(np.median(t)) for side, t in times.items()}
    return {
        "seconds": medians,
        "all": times,
        "ratio": medians["naive"] / medians["ours"],
        "ratio, our allocator on both sides": medians["naive, our allocator"] / medians["ours"],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=3, help="measurements per side")
    parser.add_argument(
        "--out", type=Path, default=Path("log/benchmarks/compare_speed.json"), help="JSON file"
    )
    parser.add_argument("--child", nargs=3, metavar=("TASK", "KIND", "ALLOCATOR"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        task, kind, allocator = args.child
        if allocator == "kept":
            keep_freed_memory()
        seconds, check = TASKS[task](build(kind))
        print(json.dumps({"seconds": seconds, "check": check}))
        return
    results = {task: compare(task, args.rounds) for task in TASKS}
    plain, ours = scoring()
    results["scoring"] = {"seconds": {"naive": plain, "ours": ours}, "ratio": plain / ours}
    machine = {"device": "CPU", "threads": torch.get_num_threads(), "processor": processor_name()}
    write_json(args.out, {"machine": {**machine, "torch": torch.__version__}, **results})
    for task, result in results.items():
        pace = ", ".join(f"{side} {seconds:.4g} s" for side, seconds in result["seconds"].items())
        print(f"{task}: {pace}; {result['ratio']:.1f} times faster")
    print(f"in {args.out}")


if __name__ == "__main__":
    run_command(main)
