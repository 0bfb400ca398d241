"""What a network costs here: multiply-adds, seconds and memory."""

import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from utils.engine.runtime import processor_name

WARM_UP = 2  # clips before the timed ones: a stream has to compute all frames of the first one


def multiply_adds(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> float:
    """Multiply-adds per clip of the network that `build` makes, module by module as in training.

    Nothing is computed. Two clips are counted, because some networks cannot train on one.
    shape: of the clip, (1, C, T, H, W)
    """
    with torch.device("meta"):
        model, clips = build().train(), torch.empty(2, *shape[1:])
    counter = FlopCounterMode(display=False)
    with counter:
        model(clips)
    return counter.get_total_flops() / 2 / len(clips)


def load_and_score_seconds(
    size: tuple[int, int], read: Callable[[Path], Any], score: Callable[[np.ndarray, np.ndarray], Any]
) -> tuple[float, float]:
    """Seconds to read one 8-bit PNG frame of `size`, and to score one predicted frame.

    read:  decodes a file
    score: takes a probability map and a mask, [H, W] each
    """
    draw, cpu, calls = np.random.default_rng(0), torch.device("cpu"), 21 * [()]
    scene = cv2.GaussianBlur(draw.integers(0, 256, size).astype(np.uint8), (0, 0), 3)
    probability = (draw.random(size) ** 12).astype(np.float32)
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 2, size[1] // 2] = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frame.png")
        path.write_bytes(cv2.imencode(".png", scene)[1].tobytes())
        loading = np.median(seconds_of(lambda: read(path), calls, cpu))
    scoring = np.median(seconds_of(lambda: score(probability, mask), calls, cpu))
    return float(loading), float(scoring)


@torch.inference_mode()
def speed_on_video(
    model: nn.Module, shape: tuple[int, ...], step: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Speed of the network and its decoding over a video as test.py runs them, after some clips to warm up.

    Without registration, but for a stream that measures the motion of the camera itself.
    shape:   of a clip, (1, C, T, H, W)
    step:    frames from a clip to the next, which are those that a clip gives predictions of
    repeats: timed clips
    Returns the "form", which is "stream" for a model that has stream() and "clip" for others, the median of
    "frames/s", and the seconds that 50 and 95 % of the clips stay below.
    """
    model = model.eval()
    has_stream = hasattr(model, "stream")
    run = model.stream() if has_stream else lambda clip, _: model(clip)
    warm_up = WARM_UP + -(-getattr(run, "reach", 0) // step)  # a late stream gives nothing before
    clips = ((clip.to(device), places) for clip, places in consecutive_clips(shape, step, warm_up + repeats))
    times = seconds_of(lambda clip, places: model.decode(run(clip, places)), clips, device)[warm_up:]
    return {
        "form": "stream" if has_stream else "clip",
        "frames/s": step / float(np.median(times)),
        "clip p50 s": float(np.percentile(times, 50)),
        "clip p95 s": float(np.percentile(times, 95)),
    }


def consecutive_clips(
    shape: tuple[int, ...], step: int, count: int
) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """(clip, places of its frames in the video) of `count` clips of noise, each `step` frames after the last.

    shape: of a clip, (1, C, T, H, W); the channels are equal
    """
    _, channels, length, *size = shape
    for first in range(0, count * step, step):
        places = tuple(range(first, first + length))
        frames = [torch.randn(size, generator=torch.Generator().manual_seed(place)) for place in places]
        yield torch.stack(frames).repeat(1, channels, 1, 1, 1), places


def seconds_of(run: Callable[..., Any], calls: Iterable[tuple], device: torch.device) -> np.ndarray:
    """Wall-clock seconds of run(*arguments) for each of `calls`, without the making of the arguments."""
    times = []
    for arguments in calls:
        begin = time.perf_counter()
        run(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return np.array(times)


def peak_mebibytes(device: torch.device) -> float | None:
    """The most memory that this process has held, in MiB: on a GPU that of its tensors, on a CPU all of it.

    None on a system that does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if found:  # what getrusage tells on Linux begins with the peak of the process that started this one
        return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What to quote a measurement on this device with."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": gpu or "CPU",
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "torch": torch.__version__,
    }


def machine_text(device: torch.device) -> str:
    """The facts of the machine in words."""
    facts = machine_facts(device)
    gpu = f"{facts['device']}, " if device.type == "cuda" else ""
    return (
        f"{gpu}{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}, host {facts['host']}"
    )
