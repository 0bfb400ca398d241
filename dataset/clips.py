"""Sequences to model inputs: training clips drawn as DeepPro draws them, and the windows of a test."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.frames import SequenceFrames
from dataset.sequence import Sequence, SequenceSet
from utils.errors import UserError
from utils.recipe import ClipSpec
from utils.windows import test_windows, training_windows


def normalised(images: np.ndarray, mean: float, std: float) -> np.ndarray:
    """(images - mean) / std, float32."""
    return ((images - np.float32(mean)) / np.float32(std)).astype(np.float32, copy=False)


def gray_statistics(frames: SequenceFrames, data: SequenceSet, spec: ClipSpec) -> tuple[float, float]:
    """(mean, std) that normalise a sequence: the recipe's, else the data set's, else the sequence's own."""
    if spec.mean is not None and spec.std is not None:
        return spec.mean, spec.std
    if data.mean is not None:
        return data.mean, data.std
    return frames.statistics()


class TrainingClips(Dataset):
    """Clips for training, each a pure function of (seed, epoch, index), so that any run can be continued.

    One epoch has `sample_rate` x (number of windows) clips. For each, a window is drawn with a chance
    proportional to its length over all sequences (published rule). A window shorter than the clip is filled
    up with padding frames: at the end for an odd index, in front for an even one. A patch is then cut, with
    the chance `target_crops` around a target of the middle frame, else anywhere.

    Items: {"clip": float32 [C, T, h, w], "target": [T, h, w] of 0 and 1, "name": "Sequence1[12:52]"}.
    """

    def __init__(
        self, data: SequenceSet, spec: ClipSpec, sample_rate: float, seed: int = 0, cache: Path | None = None
    ):
        for sequence in data:
            if sequence.masks is None:
                raise UserError(f"{data.name} {sequence.name} has no masks; training a mask model needs them")
        self.spec, self.seed = spec, seed
        self.frames = [
            SequenceFrames(sequence, spec.train_resize, spec.mask_resize, cache) for sequence in data
        ]
        self.data = data
        self.windows = [
            (index, start, stop)
            for index, sequence in enumerate(data)
            for start, stop in training_windows(len(sequence), spec.frames, spec.include_last)
        ]
        if not self.windows:
            raise UserError(f"the sequences of {data.name} in {data.root} are too short for a training clip")
        lengths = np.array([stop - start for _, start, stop in self.windows], np.float64)
        self.chances = np.cumsum(lengths) / lengths.sum()
        self.clips_per_epoch = max(int(len(self.windows) * sample_rate), 1)
        self._statistics: dict[int, tuple[float, float]] = {}

    def __len__(self) -> int:
        return self.clips_per_epoch

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """key: (epoch, index), index below len(self)."""
        epoch, index = key
        draw = np.random.default_rng([self.seed, epoch, index])
        window = int(np.searchsorted(self.chances, draw.random(), side="right"))
        number, start, stop = self.windows[min(window, len(self.windows) - 1)]
        frames = self.frames[number]
        if number not in self._statistics:
            self._statistics[number] = gray_statistics(frames, self.data, self.spec)
        images = normalised(frames.images(start, stop), *self._statistics[number])
        masks = frames.masks(start, stop)

        short = self.spec.frames - (stop - start)
        padding = (0, short) if index % 2 else (short, 0)
        middle = (stop - start) // 2  # the published reference frame, whichever side is padded
        if self.spec.patch:
            rows, cols = self._crop(masks[middle], draw, frames.sequence.name)
            images, masks = images[:, rows, cols], masks[:, rows, cols]
        images, masks = pad_frames(images, padding, self.spec.padding), pad_frames(masks, padding, "zeros")
        clip = torch.from_numpy(images)[None].repeat(self.spec.channels, 1, 1, 1)
        name = f"{frames.sequence.name}[{start}:{stop}]"
        return {"clip": clip, "target": torch.from_numpy(masks.astype(np.float32)), "name": name}

    def _crop(self, mask: np.ndarray, draw: np.random.Generator, name: str) -> tuple[slice, slice]:
        side = self.spec.patch
        if min(mask.shape) < side:
            raise UserError(
                f"frames of {name} are {mask.shape[1]}x{mask.shape[0]}, smaller than the patch "
                f"of {side}; use --patch_size {min(mask.shape)} or less"
            )
        spare = 0 if self.spec.include_last else 1  # published: the last row and column are never in a patch
        limits = [max(extent - side - spare, 0) for extent in mask.shape]
        corner = [int(draw.integers(0, limit + 1)) for limit in limits]
        count, _, _, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
        if count > 1 and draw.random() < self.spec.target_crops:
            x, y = centres[draw.integers(1, count)]
            reach = int(side / 2 / 3)
            shift = draw.uniform(-reach, reach, 2)
            corner = [int(c + s - side / 2) for c, s in zip((y, x), shift, strict=True)]
            corner = [min(max(c, 0), limit) for c, limit in zip(corner, limits, strict=True)]
        return slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)


def pad_frames(frames: np.ndarray, padding: tuple[int, int], how: str) -> np.ndarray:
    """Add (before, after) frames to [n, H, W]: zeros, or the first and last frame repeated."""
    mode = {"zeros": "constant", "repeat": "edge"}[how]
    return np.pad(frames, (padding, (0, 0), (0, 0)), mode=mode) if any(padding) else frames


class EpochBatches:
    """Batches of (epoch, index) keys for a DataLoader: a seeded shuffle per epoch, whole batches only.

    start: batches that were used before an interruption and are not served again.
    """

    def __init__(self, clips: int, batch_size: int, seed: int):
        self.clips, self.batch_size, self.seed = clips, min(batch_size, clips), seed
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.clips // self.batch_size - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips).tolist()
        for batch in range(self.start, self.clips // self.batch_size):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, index) for index in chosen]


class TestVideo:
    """One sequence at test time: the windows to predict, and the truth to score them with.

    Iterating gives (first frame, number of real frames, clip [1, C, T, H, W]) per window. Each frame is
    decoded once; the next window is read while the current one is computed.
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    def __init__(self, sequence: Sequence, data: SequenceSet, spec: ClipSpec, cache: Path | None = None):
        self.name, self.spec = sequence.name, spec
        self.frames = SequenceFrames(sequence, spec.test_resize, cache=cache)
        self.originals = SequenceFrames(sequence, cache=cache) if spec.test_resize else self.frames
        self.mean, self.std = gray_statistics(self.frames, data, spec)
        self.windows = test_windows(len(sequence), spec.frames)
        self._recent: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._window, *self.windows[0])
            for following in [*self.windows[1:], None]:
                current = ahead.result()
                if following:
                    ahead = reader.submit(self._window, *following)
                yield current

    def restore(self, probability: np.ndarray) -> np.ndarray:
        """A predicted map [h, w] at the size of the original frames, bilinear by OpenCV."""
        height, width = self.originals.size
        if probability.shape == (height, width):
            return probability
        return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)

    def truth(self, index: int) -> dict[str, np.ndarray | None]:
        """The truth of a frame at its original size: "mask" [H, W] of 0 and 1, and "centroid_map" [H, W]."""
        sequence = self.originals.sequence
        mask = self.originals.mask(index) if sequence.masks is not None else None
        if mask is not None and sequence.centroids is None:
            return {"mask": mask, "centroid_map": mask}  # decoded once
        return {"mask": mask, "centroid_map": self.originals.centroid_map(index)}

    def _window(self, start: int, stop: int) -> tuple[int, int, Tensor]:
        for index in [i for i in self._recent if i < start]:
            del self._recent[index]
        for index in range(start, stop):
            if index not in self._recent:
                self._recent[index] = normalised(self.frames.images(index, index + 1)[0], self.mean, self.std)
        images = np.stack([self._recent[i] for i in range(start, stop)])
        images = pad_frames(images, (0, self.spec.frames - (stop - start)), self.spec.padding)
        clip = torch.from_numpy(images)[None, None].expand(1, self.spec.channels, -1, -1, -1)
        return start, stop - start, clip
