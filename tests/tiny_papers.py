"""Tiny data sets, weights and the command, for the tests of published tables.

Counts are equal. RATIO is for what is a quotient or a sum of the same counts: float64 in another order, and
the 2.2e-16 that the papers add to what they divide by.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from literal_counting import centroid, components
from parity import DATA, published_weights
from PIL import Image
from torch import Tensor, nn

import test
from model import create_model
from utils.checkpoint import load_official
from utils.engine import candidates
from utils.registry import MODELS, register_model

RATIO = 1e-9
MARGIN = 1e-5  # of probabilities to the threshold 0.5, ten times what another order of sums changes


# ---------------------------------------------------------------- data


def scene(frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """uint8 [T, H, W]: smooth background, noise, three bright spots that move."""
    draw = np.random.default_rng(seed)
    rows, cols = np.mgrid[:height, :width]
    video = 100 + 30 * np.sin(rows / 9) * np.cos(cols / 13) + draw.normal(0, 1.5, (frames, height, width))
    for spot in range(3):
        top, left = draw.uniform(2, height - 5), draw.uniform(2, width - 5)
        speed = draw.uniform(-1, 1, 2)
        for frame in range(frames):
            row = int(np.clip(top + frame * speed[0], 0, height - 3))
            col = int(np.clip(left + frame * speed[1], 0, width - 3))
            video[frame, row : row + 3, col : col + 3] += 60 + 20 * spot
    return video.clip(0, 255).astype(np.uint8)


def write_images(folder: Path, images: Iterable[np.ndarray], names: Iterable[str]) -> None:
    folder.mkdir(parents=True)
    for pixels, name in zip(images, names, strict=True):
        Image.fromarray(pixels).save(folder / name)


def write_list(root: Path, *folders: str, name: str = "test.txt") -> None:
    """A split list with a line for each frame in these folders."""
    lines = (f"{folder}/{path.name}\n" for folder in folders for path in sorted((root / folder).iterdir()))
    (root / name).write_text("".join(lines))


def places_of_targets(
    p: np.ndarray, size: tuple[int, int], draw: np.random.Generator
) -> list[tuple[int, int]]:
    """(row, col) of targets in a frame of `size`: on the network's responses, beside them, and elsewhere.

    p: probabilities of the frame, of any size
    """
    scale = np.array(size) / p.shape
    responses = sorted(components(p > 0.5), key=len)
    centres = [(np.array(centroid(r)) + 0.5) * scale for r in responses]
    chosen = [centres[k] for k in draw.permutation(len(centres))[:4]]
    beside = [centre + draw.integers(-3, 4, 2) for centre in chosen[2:]]
    elsewhere = [draw.uniform(3, np.array(size) - 3)]
    return [tuple(np.floor(place).astype(int)) for place in (*chosen[:2], *beside, *elsewhere)]


def mask_of(places: Iterable[tuple[int, int]], size: tuple[int, int], side: int = 2) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for row, col in places:
        row, col = max(row - side // 2, 0), max(col - side // 2, 0)
        mask[row : row + side, col : col + side] = 255
    return mask


# ---------------------------------------------------------------- weights


def weights_of(stored: str, factors: dict[str, float], biases: dict[str, float]) -> dict[str, Tensor]:
    """Seeded weights by published names, whose last layer is brought into the range of a trained one.

    factors: of all that begins with a name; biases: values of others, added afterwards
    """
    weights = published_weights(np.load(DATA / stored))
    for start, factor in factors.items():
        for name in [name for name in weights if name.startswith(start)]:
            weights[name] = weights[name] * factor
    for name, value in biases.items():
        weights[name] = weights[name] + value
    return weights


def network_of(name: str, weights: dict[str, Tensor], **options) -> nn.Module:
    network = create_model(name, **options)
    load_official(network, weights)
    return network.eval()


def video_of(network: nn.Module) -> Callable[[Tensor, list[int]], dict]:
    """For the clips of one video, the network's raw output of (clip, the places of its frames)."""
    step = network.stream() if hasattr(network, "stream") else lambda clip, _: network(clip)
    return torch.inference_mode()(step)


def probabilities(step: Callable, clips: Iterable[tuple[Tensor, list[int]]]) -> list[np.ndarray]:
    """Of the key frames of a video's clips, each [H, W]."""
    return [torch.sigmoid(step(clip, places)["logits"])[0, 0].numpy() for clip, places in clips]


# ---------------------------------------------------------------- a network that is known without weights


class Brightness(nn.Module):
    """In place of a network: what is bright in the key frame, less so where the clip's end frames are.

    key: place of that frame; level: above which it is bright
    """

    def __init__(self, key: int, level: float):
        super().__init__()
        self.key, self.level = key, level

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        earliest, key, latest = (clip[:, 0, place, None] for place in (0, self.key, -1))
        return {"logits": 3 * (key - self.level) - 0.5 * (earliest + 1) - 0.25 * (latest + 1)}

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        return torch.sigmoid(raw["logits"])


@contextmanager
def registered(name: str, network: Callable[[], nn.Module], recipe: dict):
    """Inside `with`, a network without weights has a name and a recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODELS, "_entries", dict(MODELS._entries))
        patch.setattr(MODELS, "_folded", dict(MODELS._folded))
        register_model(name, recipe=recipe, rename={})(network)
        yield


def bright_scene(
    frames: int, height: int, width: int, seed: int
) -> tuple[np.ndarray, list[list[tuple[int, int]]]]:
    """Frames and places of three targets each, one of them at the left border; false alarms blink."""
    draw, size = np.random.default_rng(seed), np.array((height, width))
    video, places = scene(frames, height, width, seed).clip(0, 160), []
    for frame in video:
        targets = [(int(row), int(col)) for row, col in draw.uniform(4, size - 4, (2, 2))]
        targets.append((int(draw.integers(4, height - 4)), 1))
        for row, col in [*targets, *draw.integers(4, size - 4, (2, 2))]:
            row, col = row + draw.integers(-2, 3), max(col + draw.integers(-3, 4), 1)
            frame[row - 1 : row + 2, col - 1 : col + 2] = 250
        places.append(targets)
    return video, places


# ---------------------------------------------------------------- the command, and what it says


def published_figures(tmp_path: Path, model: str, dataset: str, root: Path, *flags) -> dict[str, dict]:
    """By group of sequences, all figures of the published protocol that test.py writes."""
    places = ("--dataset_names", dataset, "--dataset_dir", root, "--log_dir", tmp_path / "log")
    fixed = ("--model_names", model, "--protocol", "published", "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch:  # of a trial run that takes longer than all the rest
        patch.setattr(candidates, "dry_run", lambda *_: None)
        test.main([str(flag) for flag in (*fixed, *places, *flags)])
    (folder,) = (tmp_path / "log" / dataset / model).iterdir()
    scores = json.loads((folder / "eval.json").read_text())["scores"]
    assert {entry["protocol"] for entry in scores} == {"published"}
    found: dict[str, dict] = {}
    for entry in scores:
        for group, figures in entry["groups"].items():
            curve = figures.pop("curve") or {}
            curves = {f"curve_{kind}": curve[kind] for kind in ("true", "false") if kind in curve}
            found[group] = {**figures, **curves, **found.get(group, {})}
    return found


def official_file(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    """As the published training scripts save."""
    path = tmp_path / "weights.pth.tar"
    torch.save({"epoch": 1, "state_dict": weights}, path)
    return path


def assert_equal(found: dict, expected: dict) -> None:
    """Each expected figure was found: ratios but for rounding, all else exactly."""
    close = {k: pytest.approx(v, abs=RATIO) if isinstance(v, float) else v for k, v in expected.items()}
    differing = {k: (found.get(k), v) for k, v in expected.items() if found.get(k) != close[k]}
    assert not differing, f"found and expected: {differing}"


def assert_telling(expected: dict, maps: Iterable[np.ndarray] = ()) -> None:
    """Something was hit, something missed, there are false alarms, and no pixel is a matter of rounding."""
    assert 0 < expected["true"] < expected["targets"], expected
    assert 0 < expected["false"] < expected["pixels"] / 2, expected
    assert all(0 < expected[name] < 1 for name in ("iou", "niou", "auc") if name in expected), expected
    assert all(np.abs(p - 0.5).min() > MARGIN for p in maps), "another bias keeps farther from 0.5"
