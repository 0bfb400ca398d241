"""Measure predict.py on long videos: frames a second, of each stage too, and memory.

A video is made of the frames of a source, played forth and back as often as it takes, so that a camera that
moves keeps moving. Each measurement is a process of its own; those of several sources take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import predict  # noqa: E402
from dataset.sources import open_sources  # noqa: E402
from utils.cli import Parser, number  # noqa: E402
from utils.engine.cost import machine_facts, peak_mebibytes  # noqa: E402
from utils.errors import UserError, run_command  # noqa: E402
from utils.files import check_writable, read_json, write_json  # noqa: E402
from utils.recipe.fields import shown  # noqa: E402

RATE = 25  # frames a second of the videos
MOST = 300  # frames of a source that are played


def played(source: Any, count: int) -> Iterator[np.ndarray]:
    """So many frames, uint8 [H, W], of a source played forth and back. Raises UserError where it has none."""
    frames = [frame.pixels for frame in islice(source, MOST) if frame.pixels is not None]
    if not frames:
        raise UserError(f"{source.title} has no frame that can be read")
    for pixels in islice(cycle([*frames, *frames[-2:0:-1]]), count):
        yield np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def write_video(path: Path, frames: Iterator[np.ndarray]) -> tuple[int, int]:
    """Write frames as MPEG-4 and tell their height and width."""
    writer = None
    for pixels in frames:
        height, width = pixels.shape
        writer = writer or cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (width, height))
        writer.write(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR))
    writer.release()
    return height, width


def measured(video: Path, folder: Path, flags: list[str]) -> dict[str, Any]:
    """One run of predict.py in a fresh process."""
    load = os.getloadavg()[0]
    command = [sys.executable, __file__, "--child", str(video), "--out", str(folder), *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"predict.py on {video.stem} ended with code {done.returncode}; the lines above say why"
        )
    summary = read_json(folder / "summary.json", "a summary")
    return {
        "seconds": summary["seconds"],
        "frames/s": summary["frames"] / summary["seconds"]["all"],
        "peak MiB": json.loads(done.stdout.splitlines()[-1]),
        "load before": load,
    }


def run_child(arguments: list[str]) -> None:
    """The other side of `measured`."""
    predict.main(arguments)
    print(json.dumps(peak_mebibytes(torch.device("cpu"))))


def described(row: dict[str, Any]) -> str:
    """The median of a row's runs on one line."""
    runs = row["runs"]
    rate = float(np.median([run["frames/s"] for run in runs]))
    stages = {
        stage: float(np.median([1000 * run["seconds"][stage] for run in runs])) / row["frames"]
        for stage in runs[0]["seconds"]
        if stage != "all"
    }
    text = ", ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in stages.items())
    peak = max(run["peak MiB"] or 0 for run in runs)
    height, width = row["size"]
    of = f"{row['source']} ({width}x{height}, {row['frames']} frames)"
    return f"{of}: {rate:.1f} frames/s; ms per frame: {text}; {peak:.0f} MiB"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, at_least=1, at_most=1_000_000)
    add("sources", nargs="+", metavar="SOURCE", help="videos or folders of images, as for predict.py")
    add("--frames", type=count, default=400, help="of each video (default: %(default)s)")
    add("--rounds", type=count, default=3, help="runs of each (default: %(default)s)")
    add("--flag", action="append", default=[], dest="flags", help="of predict.py, as --flag=--no-overlay")
    add("--out", type=Path, default=Path("log/benchmarks/predict.json"), help="JSON file, which is added to")
    args = parser.parse_args(argv)
    others = predict.parse(["video", *args.flags]).sources[1:]
    if others:
        parser.error(f"--flag {shown(others[0])} is no flag of predict.py; measured are the sources alone")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_writable(args.out)
    content = read_json(args.out, "earlier measurements") if args.out.exists() else {}
    machine = machine_facts(torch.device("cpu"))
    if content and (not isinstance(content, dict) or content.get("machine") != machine):
        raise UserError(f"{args.out} holds no measurements of this machine; choose another --out")
    sources = open_sources(args.sources)
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(sources) * args.rounds, unit="run", disable=None) as bar,
    ):
        for place, source in enumerate(sources):
            video = Path(folder, f"{place}.mp4")
            size = write_video(video, played(source, args.frames))
            rows.append({"source": source.name, "size": size, "frames": args.frames, "flags": args.flags})
            rows[-1] |= {"video": video, "runs": []}
        for turn in range(args.rounds):
            for place, row in enumerate(rows):
                row["runs"].append(measured(row["video"], Path(folder, f"{place}_{turn}"), args.flags))
                bar.update()
    for row in rows:
        del row["video"]
        print(described(row))
    write_json(args.out, {"machine": machine, "rows": [*content.get("rows", []), *rows]})
    print(f"in {args.out}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_command(lambda: run_child(sys.argv[2:]))
    run_command(main)
