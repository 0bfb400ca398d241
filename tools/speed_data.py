"""What tools/compare_speed.py measures of loading and scoring, against what was before in tests/naive_*.py.

Seconds are those of the process on one thread, so that other work on the machine matters less.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import naive_files
import naive_scoring
import numpy as np
import torch
from PIL import Image

from dataset import Sequence, SequenceSet, create_dataset
from dataset.clips import TrainingClips
from dataset.frames import SequenceFrames
from dataset.layout import in_order
from dataset.pairing import pair
from metrics import create_metric
from model import list_models  # noqa: F401 - registers the recipes
from utils.boxes import MapPrediction, component_boxes, component_centroids
from utils.recipe.resolve import resolve_recipe
from utils.registry import MODELS
from utils.task import TASKS

CALLS = 10  # of each form per measurement
FRAMES, SIZE = 60, (480, 720)


def in_turns(naive: Callable[[], Any], ours: Callable[[], Any], rounds: int, calls: int = CALLS) -> dict:
    """Process seconds per call of each form, in turns, after one call of each whose results are compared."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    np.testing.assert_equal(ours(), naive())
    times = {"naive": [], "ours": []}
    for _ in range(rounds):
        for side, form in (("naive", naive), ("ours", ours)):
            begin = time.process_time()
            for _ in range(calls):
                form()
            times[side].append((time.process_time() - begin) / calls)
    return times


# ---------------------------------------------------------------- scoring


def quiet_map() -> np.ndarray:
    """A map as of a good detector: one target, and far from it a false response."""
    probability = logistic(-12, 3)
    probability[100:103, 120:123], probability[200:202, 30:33] = 0.99, 0.7
    return probability


def noisy_map() -> np.ndarray:
    """A map of an untrained detector, with thousands of responses."""
    return logistic(-4, 2.5)


def logistic(mean: float, std: float) -> np.ndarray:
    values = np.random.default_rng(0).normal(mean, std, (256, 256))
    return (1 / (1 + np.exp(-values))).astype(np.float32)


def target_mask() -> np.ndarray:
    mask = np.zeros((256, 256), np.uint8)
    mask[101:104, 120:123] = 1
    return mask


def centroid_pd_fa(make: Callable[[], np.ndarray]) -> Callable[[int], dict]:
    def measure(rounds: int) -> dict:
        probability, centroids = make(), component_centroids(target_mask())
        metric = create_metric("CentroidPdFa")

        def naive() -> dict:
            metric.reset()
            naive_scoring.update_centroid_pd_fa(metric, probability, 0.5, centroids)
            return metric.counts

        def ours() -> dict:
            metric.reset()
            metric.update(MapPrediction(probability, 0.5).responses, centroids)
            return metric.counts

        return in_turns(naive, ours, rounds)

    return measure


def pd_fa(make: Callable[[], np.ndarray]) -> Callable[[int], dict]:
    def measure(rounds: int) -> dict:
        probability, mask, metric = make(), target_mask(), create_metric("PdFa")

        def naive() -> dict:
            metric.reset()
            naive_scoring.update_pd_fa(metric, probability, mask)
            return metric.counts

        def ours() -> dict:
            metric.reset()
            metric.update(probability, mask)
            return metric.counts

        return in_turns(naive, ours, rounds)

    return measure


def truth_of_a_mask(rounds: int) -> dict:
    mask = target_mask()

    def naive() -> tuple:
        return naive_scoring.component_boxes(mask), naive_scoring.component_centroids(mask)

    return in_turns(naive, lambda: (component_boxes(mask), component_centroids(mask)), rounds)


# ---------------------------------------------------------------- loading


def random_sequence(folder: Path) -> Sequence:
    """60 frames of 480x720 with one target each."""
    rng, paths = np.random.default_rng(0), {"images": [], "masks": []}
    for number in range(FRAMES):
        mask = np.zeros(SIZE, np.uint8)
        mask[100 + number : 103 + number, 200:204] = 255
        for kind, pixels in (("images", rng.integers(0, 256, SIZE).astype(np.uint8)), ("masks", mask)):
            path = folder / kind / f"{number:05d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path, compress_level=1)
            paths[kind].append(path)
    return Sequence("a", **{kind: tuple(found) for kind, found in paths.items()})


class WholeFrames(TrainingClips):
    """Clips whose patches are cut from whole frames."""

    _reads_patches = False


def training_clip(rounds: int) -> dict:
    """A clip of 40 frames with a patch of 128, from the cache, by DeepPro's recipe."""
    with tempfile.TemporaryDirectory() as folder:
        data = SequenceSet("Folder", Path(folder), "train", (random_sequence(Path(folder)),), 100.0, 20.0)
        recipe = resolve_recipe(MODELS.entry("DeepPro").facts["recipe"], data.name, {})
        cache = Path(folder, "cache")
        naive, ours = (kind(data, recipe, TASKS["masks"], cache) for kind in (WholeFrames, TrainingClips))
        times = in_turns(lambda: all_of(naive), lambda: all_of(ours), rounds)
        return {side: [seconds / len(ours) for seconds in found] for side, found in times.items()}


def all_of(clips: TrainingClips) -> list[np.ndarray]:
    """The arrays of all clips of an epoch."""
    items = (clips[0, index] for index in range(len(clips)))
    return [item[part].numpy() for item in items for part in ("clip", "target")]


def statistics(rounds: int) -> dict:
    """Mean and standard deviation of a sequence with a cache, by a process that has opened its frames."""
    with tempfile.TemporaryDirectory() as folder:
        sequence = random_sequence(Path(folder))
        kept = SequenceFrames(sequence, cache=Path(folder, "cache")).statistics

        def naive() -> tuple[float, float]:
            for path in Path(folder, "cache").glob("*.json"):
                path.unlink()
            return kept()

        return in_turns(naive, kept, rounds)


def listing(rounds: int) -> dict:
    """1000 frames and their masks put in order and paired, without reading the folders."""
    names = [f"{number:05d}.png" for number in np.random.default_rng(0).permutation(1000)]
    images, masks = Path("data/NUDT-MIRSDT/a/images"), Path("data/NUDT-MIRSDT/a/masks")

    def naive() -> list[str]:
        frames, others = (naive_files.in_order(folder, names) for folder in (images, masks))
        return list(map(str, naive_files.pair(frames, others)))

    def ours() -> Any:
        return pair(in_order(images, names), in_order(masks, names))

    np.testing.assert_equal(list(map(str, ours())), naive())
    return in_turns(lambda: len(naive()), lambda: len(ours()), rounds)


def start_of_a_test(rounds: int) -> dict:
    """1000 sequences of 1000 frames, which are one folder of empty files, indexed."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("images", "masks"):
            Path(folder, "real", kind).mkdir(parents=True)
            for number in range(1000):
                Path(folder, "real", kind, f"{number:05d}.png").touch()
        root = Path(folder, "NUDT-MIRSDT")
        root.mkdir()
        for number in range(1000):
            (root / f"Sequence{number}").symlink_to(Path(folder, "real"), target_is_directory=True)
        (root / "test.txt").write_text("".join(f"Sequence{number}\n" for number in range(1000)))
        times = []
        for _ in range(rounds):
            begin = time.process_time()
            create_dataset("NUDT-MIRSDT", root, "test")
            times.append(time.process_time() - begin)
        return {"ours": times}


IN_TURNS: dict[str, Callable] = {}
TOGETHER = {
    "CentroidPdFa, noisy 256x256": centroid_pd_fa(noisy_map),
    "CentroidPdFa, quiet 256x256": centroid_pd_fa(quiet_map),
    "PdFa, noisy 256x256": pd_fa(noisy_map),
    "PdFa, quiet 256x256": pd_fa(quiet_map),
    "boxes and centroids of a mask, 256x256": truth_of_a_mask,
    "training clip 40x480x720, patch 128, from the cache": training_clip,
    "statistics of a sequence, 480x720": statistics,
    "1000 frames with masks in order and paired": listing,
    "1000 sequences of 1000 frames indexed": start_of_a_test,
}
