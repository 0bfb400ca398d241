"""What tools/compare_speed.py measures of STMENet, against the plain modules of tests/naive_stmenet.py."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from naive_stmenet import NaiveSTMENet
from parity import DATA, clip, published_weights
from PIL import Image
from speed_rprnet import letterboxed_as_published
from timing import loading_times
from torch import Tensor, nn

from dataset import Sequence, SequenceSet
from dataset.clips import TrainingClips
from loss import create_loss
from model import create_model
from utils.checkpoint import load_official
from utils.recipe.resolve import resolve_recipe
from utils.task import TASKS

SIDE, FRAMES = 512, 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# ---------------------------------------------------------------- network


def build(kind: str) -> nn.Module:
    """The naive network or ours, with the weights of the stored outputs; gamma is 0, as after training."""
    weights = published_weights(np.load(DATA / "stmenet_itsdt.npz"))
    weights = {k: torch.zeros_like(v) if k.endswith(".gamma") else v for k, v in weights.items()}
    if kind == "naive":
        naive = NaiveSTMENet()
        naive.load_state_dict(weights)
        return naive
    ours = create_model("STMENet")
    load_official(ours, weights)
    return ours


def head_of(model: nn.Module, frames: Tensor) -> Tensor:
    out = model(frames)
    return out["head"][0] if isinstance(out, dict) else out


def clips_of_video(frames: int) -> Iterator[tuple[list[int], Tensor]]:
    """(places, clip [1, 3, 5, 512, 512]) of each frame of a video."""
    video = torch.from_numpy(clip((1, 3, frames, SIDE, SIDE), seed=1))
    for key in range(frames):
        places = [max(key - back, 0) for back in (4, 3, 2, 1, 0)]
        yield places, video[:, :, places]


def video(kind: str) -> tuple[float, list[float]]:
    """Mean seconds per frame of a video, after its first frames, and about 1000 values of the head."""
    model = build(kind).eval()
    seconds, heads = [], []
    with torch.inference_mode():
        step = model.stream() if kind == "ours" else lambda frames, _: head_of(model, frames)
        for places, frames in clips_of_video(15):
            begin = time.perf_counter()
            out = step(frames, places)
            seconds.append(time.perf_counter() - begin)
            heads.append(out["head"][0] if isinstance(out, dict) else out)
    values = torch.stack(heads[5:])
    return float(np.mean(seconds[5:])), (values / values.abs().max()).flatten()[::241].tolist()


def inference(kind: str) -> tuple[float, list[float]]:
    """Seconds for one clip of 5x512x512 by itself, and about 1000 values of the head."""
    model = build(kind).eval()
    frames = torch.from_numpy(clip((1, 3, FRAMES, SIDE, SIDE), seed=1))
    with torch.inference_mode():
        head_of(model, frames)
        begin = time.perf_counter()
        head = head_of(model, frames)
        seconds = time.perf_counter() - begin
    return seconds, (head / head.abs().max()).flatten()[::23].tolist()


def yolox_loss(rounds: int) -> dict[str, list[float]]:
    """Seconds of the loss with its assignment, forward and backward: 4 images of 5 targets, 64x64 cells."""
    draw = torch.Generator().manual_seed(1)
    head = torch.randn(4, 6, SIDE // 8, SIDE // 8, generator=draw).requires_grad_()
    sizes_and_class = torch.tensor([14.0, 14, 0]).expand(5, 3)
    centres = 16 + 480 * torch.rand(4, 5, 2, generator=draw)
    target = [torch.cat([boxes, sizes_and_class], dim=1) for boxes in centres]
    loss, times = create_loss("YOLOX"), []
    for _ in range(10 * rounds):
        begin = time.perf_counter()
        torch.autograd.grad(loss({"head": [head]}, target)["loss"], head)
        times.append(time.perf_counter() - begin)
    return {"ours": times}


# ---------------------------------------------------------------- one clip from the disk


def write_sequence(folder: Path, frames: int, size: int) -> SequenceSet:
    """Noise as 24-bit BMP files 0.bmp onwards, with one box in each frame."""
    draw = np.random.default_rng(0)
    paths = tuple(folder / f"{number}.bmp" for number in range(frames))
    for path in paths:
        pixels = draw.normal(100, 12, (size, size)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(path)
    boxes = tuple(np.array([[n, 40, n + 8, 48]], float) for n in range(frames))
    return SequenceSet("Noise", folder, "train", (Sequence("1", paths, boxes=boxes),))


def load_as_published(folder: Path, key: int) -> np.ndarray:
    """The clip [3, 5, 512, 512] of key frame `key`, step by step as the published seqDataset."""
    frames = []
    for number in range(key - 4, key + 1):
        image = Image.open(folder / f"{max(number, 0)}.bmp").convert("RGB")
        values = np.array(letterboxed_as_published(image, (128, 128, 128), SIDE), np.float32)
        values /= 255.0
        values -= np.array(MEAN)
        values /= np.array(STD)
        frames.append(np.transpose(values, (2, 0, 1)))
    return np.ascontiguousarray(np.stack(frames, axis=1))


def loading(rounds: int) -> dict[str, list[float]]:
    """Mean seconds per clip of 256x256 frames over a shuffled epoch of 100, see `loading_times`."""
    recipe = resolve_recipe(create_model("STMENet").recipe, "", {"sample_rate": 1.0})
    with tempfile.TemporaryDirectory() as folder:
        data = write_sequence(Path(folder), frames=100, size=256)
        return loading_times(
            lambda: TrainingClips(data, recipe, TASKS["boxes"]),
            lambda index: (load_as_published(Path(folder), index),),
            lambda item: (item["clip"].numpy(),),
            rounds,
        )


IN_TURNS = {"inference": inference, "video, per frame": video}
TOGETHER = {"YOLOX loss": yolox_loss, "loading": loading}
