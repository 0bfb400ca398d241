"""What tools/compare_speed.py measures of RPRNet, against the plain modules of tests/naive_rprnet.py.

Both networks are trained with our SPGloss, so that a training step compares the networks.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from naive_rprnet import NaiveRPRNet
from parity import DATA, clip, published_weights
from PIL import Image
from test_component_metrics import roc_by_loops
from timing import loading_times, side_by_side
from torch import Tensor, nn

from dataset import Sequence, SequenceSet
from dataset.clips import TrainingClips
from loss import create_loss
from metrics import create_metric
from model import create_model
from utils.checkpoint import load_official
from utils.recipe.resolve import resolve_recipe
from utils.task import TASKS

SIDE = 256

# ---------------------------------------------------------------- network


def build(kind: str) -> nn.Module:
    """The naive network or ours, with the weights of the stored outputs in tests/data."""
    weights = published_weights(np.load(DATA / "rprnet.npz"))
    if kind == "naive":
        naive = NaiveRPRNet()
        naive.load_state_dict(weights, strict=False)  # the constant buffers are not stored
        return naive
    ours = create_model("RPRNet")
    load_official(ours, weights)
    return ours


def raw_of(model: nn.Module, frames: Tensor) -> dict[str, Tensor | list[Tensor]]:
    out = model(frames)
    return out if isinstance(out, dict) else {"logits": out[0], "side_logits": out[1]}


def inference(kind: str) -> tuple[float, list[float]]:
    """Seconds for a clip of 6x256x256, and about 1000 probabilities of the five maps."""
    model = build(kind).eval()
    frames = torch.from_numpy(clip((1, 3, 6, SIDE, SIDE), seed=1))
    with torch.inference_mode():
        raw_of(model, frames)
        begin = time.perf_counter()
        raw = raw_of(model, frames)
        seconds = time.perf_counter() - begin
    maps = torch.cat([raw["logits"], *raw["side_logits"]])
    return seconds, maps.sigmoid().flatten()[::331].tolist()


def training(kind: str, batch: int = 1) -> tuple[float, list[float]]:
    """Seconds for an Adam step on clips of 6x256x256, and the SPGloss before and after a step."""
    model = build(kind).train()
    frames = torch.from_numpy(clip((batch, 3, 6, SIDE, SIDE), seed=1))
    target = squares_mask(batch)
    loss, optimizer = create_loss("SPGloss"), torch.optim.Adam(model.parameters(), 1e-4)
    values = []
    for step in range(2):
        torch.manual_seed(step)  # of the pixels that the loss draws
        begin = time.perf_counter()
        value = loss(raw_of(model, frames), target)["loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seconds = time.perf_counter() - begin
        values.append(value.item())
    return seconds, values


def squares_mask(batch: int) -> Tensor:
    """A 3x3 target in each frame, [batch, 1, 256, 256]."""
    target = torch.zeros(batch, 1, SIDE, SIDE)
    target[..., 128:131, 66:69] = 1
    return target


def spg_loss(rounds: int) -> dict[str, list[float]]:
    """Seconds of SPGloss forward and backward at batch 2, and of our training step at that batch."""
    draw = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 1, SIDE, SIDE, generator=draw).requires_grad_() for _ in range(5)]
    raw = {"logits": maps[0], "side_logits": maps[1:]}
    loss, target = create_loss("SPGloss"), squares_mask(2)
    times = {"SPGloss": [], "training step": []}
    for _ in range(rounds):
        times["training step"].append(training("ours", batch=2)[0])
        for _ in range(10):
            begin = time.perf_counter()
            torch.autograd.grad(loss(raw, target)["loss"], maps)
            times["SPGloss"].append(time.perf_counter() - begin)
    return times


# ---------------------------------------------------------------- one clip from the disk


def write_sequence(folder: Path, frames: int, size: int) -> SequenceSet:
    """Noise with a moving 3x3 target as PNG files, images/00001.png and masks/00001.png onwards."""
    draw = np.random.default_rng(0)
    paths = {"images": [], "masks": []}
    for kind, files in paths.items():
        (folder / kind).mkdir()
        for number in range(1, frames + 1):
            files.append(folder / kind / f"{number:05d}.png")
            if kind == "images":
                pixels = draw.normal(100, 12, (size, size)).clip(0, 255).astype(np.uint8)
            else:
                pixels = np.zeros((size, size), np.uint8)
                pixels[size // 2 :, size // 4 + number :][:3, :3] = 255
            Image.fromarray(pixels).save(files[-1])
    sequence = Sequence("Sequence1", tuple(paths["images"]), masks=tuple(paths["masks"]))
    return SequenceSet("Noise", folder, "train", (sequence,))


def letterboxed_as_published(
    image: Image.Image, padding: int | tuple[int, ...], side: int = SIDE
) -> Image.Image:
    scale = min(side / image.width, side / image.height)
    width, height = int(image.width * scale), int(image.height * scale)
    square = Image.new(image.mode, (side, side), padding)
    square.paste(
        image.resize((width, height), Image.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2)
    )
    return square


def load_as_published(folder: Path, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip [3, 6, 256, 256] and target [256, 256] of key frame `key`, step by step as RPRNet's seqDataset."""
    numbers = sorted(int(path.stem) for path in (folder / "images").iterdir() if path.suffix == ".png")
    frames = []
    for wanted in range(key - 2, key + 4):
        number = next((n for n in numbers if n >= wanted), numbers[-1])
        image = Image.open(folder / "images" / f"{number:05d}.png").convert("RGB")
        values = np.array(letterboxed_as_published(image, (128, 128, 128)), np.float32)
        values /= 255.0
        values -= np.array([0.28, 0.28, 0.28])
        values /= np.array([0.23, 0.23, 0.23])
        frames.append(values)
    image = Image.open(folder / "masks" / f"{key:05d}.png").convert("L")
    mask = np.array(letterboxed_as_published(image, 0), np.float32)
    mask[mask > 0] = 255
    mask[:, 2:4] -= mask[:, 0:2]  # of a loader of boxes; no target is there
    mask[:, 0:2] += mask[:, 2:4] / 2
    return np.ascontiguousarray(np.stack(frames).transpose(3, 0, 1, 2)), mask / 255


def loading(rounds: int, size: int) -> dict[str, list[float]]:
    """Mean seconds per clip over a shuffled epoch of 100 frames, see `loading_times`."""
    recipe = resolve_recipe(create_model("RPRNet").recipe, "", {})
    with tempfile.TemporaryDirectory() as folder:
        data = write_sequence(Path(folder), frames=100, size=size)
        return loading_times(
            lambda: TrainingClips(data, recipe, TASKS["masks"]),
            lambda index: load_as_published(Path(folder), index + 1),
            # the copy to 3 channels is what a batch makes
            lambda item: (np.ascontiguousarray(item["clip"].numpy()), item["target"][0].numpy()),
            rounds,
        )


# ---------------------------------------------------------------- ROC


def roc(rounds: int) -> dict[str, list[float]]:
    """Seconds per 256x256 frame at 31 thresholds, a loop over them and ours; equal counts."""
    draw = np.random.default_rng(0)
    probability = (draw.random((SIDE, SIDE)) ** 12).astype(np.float32)
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[99:104, 119:124] = 0.5  # a soft border, as the published resizing leaves
    mask[100:103, 120:123] = 1
    torch.set_num_threads(1)  # the loop compares small tensors, which several threads make slower
    metric = create_metric("ROC", target="soft")
    times, (tp, fp, tn, fn) = side_by_side(
        lambda: roc_by_loops(probability, mask, "soft", metric.bins),
        lambda: metric.update(probability, mask),
        10 * rounds,
    )
    metric.reset()
    metric.update(probability, mask)
    counted = metric.compute()
    for name, values in {"tp": tp, "fp": fp, "pos": tp + fn, "neg": fp + tn}.items():
        np.testing.assert_array_equal(counted[name], values)
    return times


IN_TURNS = {"inference": inference, "training": training}
TOGETHER = {
    "SPGloss": spg_loss,
    "loading 256x256": partial(loading, size=256),
    "loading 512x512": partial(loading, size=512),
    "ROC": roc,
}
