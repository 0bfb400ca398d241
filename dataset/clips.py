"""Sequences to training clips: drawn, augmented, cut and normalised, each with the target of its task."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dataset.augment import Augmentation, create_augmentations
from dataset.frames import FrameMemory, SequenceFrames, SequencePart
from dataset.normalisation import Normalisation
from dataset.sample import Batch, Sample
from dataset.sampling import DrawnClip, EveryClip, KeyFrameSampler, WindowSampler, frame_numbers
from dataset.sequence import SequenceSet
from dataset.view import View, with_column_quirk
from utils.errors import UserError
from utils.recipe.schema import Recipe, SamplingSettings
from utils.task import Task


class TrainingClips(Dataset):
    """Clips for training, each a pure function of (seed, epoch, index), so that any run can be continued.

    Items are taken by (epoch, index), index below len(self):
    {"clip": float32 [C, T, h, w], "target": what `task.target` gives, "name": "Sequence1[12:52]"}.
    A window of frames, all of which are predicted, or the frames around a key frame, as view.key says, are
    drawn (see dataset.sampling), then augmented, cut to a patch, normalised and filled up in time.
    Raises UserError for a sequence without truth, or a recipe that does not fit the task.
    """

    split = "train"  # whose view it has

    def __init__(self, data: SequenceSet, recipe: Recipe, task: Task, cache: Path | None = None):
        self.data, self.task, self.recipe = data, task, recipe
        self.sampling, self.seed = recipe.sampling, recipe.runtime.seed
        self.view = View.of(recipe.view, self.split)
        self.augmentations = create_augmentations(self.sampling.augment)
        self._check()
        memory = FrameMemory()
        self.frames = [SequenceFrames(sequence, self.view, cache, memory) for sequence in data]
        self._normalisations: dict[int, Normalisation] = {}
        self.sampler = self._sampler()
        if not self.sampler.candidates:
            raise UserError(
                f"the sequences of {data.name} in {data.root} are too short for a training clip of "
                f"{recipe.view.frames} frames; lower --seq_len"
            )

    def __len__(self) -> int:
        return self.sampler.clips_per_epoch

    def __getitem__(self, key: tuple[int, int]) -> dict:
        drawn = self.sampler(*key)
        name, sample = self.data[drawn.sequence].name, self._sample(drawn)
        images = self._normalisation(drawn.sequence)(sample.images)
        sample = sample.padded(self.view.pad_time(images, drawn.padding), drawn.padding)
        for augmentation in self._stage("clip"):
            sample = augmentation(sample, drawn.draw)

        images, masks = self.view.pad(sample.images, name), sample.masks
        masks = None if masks is None else np.ascontiguousarray(self.view.pad(masks, name))
        return {
            "clip": self.view.tensor(np.ascontiguousarray(images)),
            "target": torch.from_numpy(self.task.target(masks, sample.boxes)),
            "name": f"{name}[{self._places(drawn)}]",
        }

    def cache_steps(self) -> list[Callable[[], None]]:
        """For each sequence a call that makes or checks its files of the cache, by reading a frame."""

        def read(number: int) -> None:
            frames = self.frames[number]
            frames.image(0)
            self.task.truth(frames, [0], self.recipe)
            self._normalisation(number)

        return [partial(read, number) for number, frames in enumerate(self.frames) if frames.cache]

    def collate(self, items: list[dict]) -> dict:
        """A batch: clips [B, C, T, h, w], targets as `task.batch` gives them, names in a list.

        An augmentation of batches may make it larger than its list of names.
        """
        names, targets = [item["name"] for item in items], self.task.batch([item["target"] for item in items])
        batch = Batch(torch.stack([item["clip"] for item in items]), **{self.task.name: targets})
        draw = np.random.default_rng([self.seed, zlib.crc32(" ".join(names).encode())])
        for augmentation in self._stage("batch"):
            batch = augmentation(batch, draw)
        return {"clip": batch.clips, "target": getattr(batch, self.task.name), "name": names}

    # ---------------------------------------------------------------- private

    def _check(self) -> None:
        truths = self.task.truths(self.recipe)
        for sequence in self.data:
            if not sequence.has(truths):
                remedy = ", or --set box_masks=True to train on filled boxes" * sequence.has(["boxes"])
                raise UserError(
                    f"{self.data.name} {sequence.name} has no {' or '.join(truths)}; training this model "
                    f"needs them{remedy}"
                )
        self.task.check(self.recipe)
        needing = [word for word in self.sampling.augment if create_augmentations((word,))[0].needs_truth]
        if needing and any(self.view.history(sequence) == "simulated" for sequence in self.data):
            raise UserError(
                f"augmentation {needing[0]} needs the targets of all frames, but the simulated frames of "
                f"{self.data.name} have none; use --set history=repeat"
            )
        side = self.sampling.patch
        size = (side, side) if side else self.view.placed_size
        for augmentation in self.augmentations if size else ():
            augmentation.check(size)

    def _normalisation(self, number: int) -> Normalisation:
        """That of a sequence; its gray values are measured on first use, where nobody gives them."""
        if number not in self._normalisations:
            self._normalisations[number] = self.view.normalisation(
                self.data.constants, self.frames[number].statistics
            )
        return self._normalisations[number]

    def _stage(self, stage: str) -> list[Augmentation]:
        return [augmentation for augmentation in self.augmentations if augmentation.stage == stage]

    def _sampler(self) -> Callable[[int, int], DrawnClip]:
        view, rate = self.recipe.view, self.sampling.sample_rate
        if view.key == "all":
            lengths = [len(sequence) for sequence in self.data]
            return WindowSampler(lengths, view.frames, self.sampling.include_last, rate, self.seed)
        numbers = [frame_numbers(sequence.images, view.neighbours) for sequence in self.data]
        history = [self.view.history(sequence) for sequence in self.data]
        return KeyFrameSampler(numbers, view.frames, view.key, rate, self.seed, history)

    @property
    def _reads_patches(self) -> bool:
        """Whether nothing that is done to a clip before its patch is cut needs the rest of the frames."""
        chosen = self.view.settings
        needs_whole = chosen.register != "off" or self.sampling.column_quirk or self._stage("pixels")
        return bool(self.sampling.patch) and not needs_whole

    def _sample(self, drawn: DrawnClip) -> Sample:
        """The clip with the truth of its predicted frames, augmented, and cut to the patch if there is one.

        All that is drawn is drawn in the same order, whether whole frames are read or the patch alone.
        """
        if self._reads_patches:
            return self._read_patch(drawn)
        sample = self._read(drawn)
        for augmentation in self._stage("pixels"):
            sample = augmentation(sample, drawn.draw)
        sample = sample.only(self.view.predicted(drawn.frames))
        return self._patch(sample, drawn.draw, self.data[drawn.sequence].name)

    def _read_patch(self, drawn: DrawnClip) -> Sample:
        """The patch of the frames, for which the truth of the key frame alone is read as a whole."""
        frames, places = self.frames[drawn.sequence], drawn.frames.places
        predicted = self.view.predicted(drawn.frames)
        key = predicted[len(predicted) // 2]
        whole = Sample(frames.image(places[key])[None], (key,), key, **self._truth(frames, drawn, (key,)))
        corner = patch_corner(whole, self.sampling, drawn.draw, frames.sequence.name)
        part = SequencePart(frames, corner, self.sampling.patch)
        return Sample(part.pixels(places), predicted, key, **self._truth(part, drawn, predicted))

    def _read(self, drawn: DrawnClip) -> Sample:
        """The frames as the view places them, with the truth that augmentations and the task need."""
        frames, places = self.frames[drawn.sequence], drawn.frames.places
        predicted = self.view.predicted(drawn.frames)
        needs_all = any(augmentation.needs_truth for augmentation in self.augmentations)
        truth = tuple(range(len(places))) if needs_all else predicted
        pixels, found = frames.pixels(places), self._truth(frames, drawn, truth)
        if alignment := self.view.alignment(pixels, frames.file_size):
            pixels = alignment.frames(pixels)
            found = {kind: getattr(alignment, kind)(shown, truth) for kind, shown in found.items()}
        return Sample(pixels, truth, predicted[len(predicted) // 2], **found)

    def _truth(
        self, frames: SequenceFrames | SequencePart, drawn: DrawnClip, truth: tuple[int, ...]
    ) -> dict[str, Any]:
        """What augmentations and the task need of the frames at the places `truth` of the clip."""
        return self.task.truth(frames, [drawn.frames.places[place] for place in truth], self.recipe)

    def _patch(self, sample: Sample, draw: np.random.Generator, name: str) -> Sample:
        """The sample with the recipe's defect and its patch, if it has them."""
        side, corner = self.sampling.patch, None
        if side:
            corner = patch_corner(sample, self.sampling, draw, name)
        if self.sampling.column_quirk:
            sample = replace(sample, masks=np.stack([with_column_quirk(mask) for mask in sample.masks]))
        return sample.cut(np.tile(corner, (sample.length, 1)), side) if side else sample

    def _places(self, drawn: DrawnClip) -> str:
        first, count = drawn.frames.first, drawn.frames.count
        return f"{first}:{first + count}" if self.view.settings.key == "all" else str(first)


class ValidationClips(TrainingClips):
    """The clips by which sequences are tested, each with the target that training would give it.

    They are whole frames as a test places them, neither drawn nor augmented.
    Raises UserError also where they cannot be put together in batches.
    """

    split = "test"

    def __init__(self, data: SequenceSet, recipe: Recipe, task: Task, cache: Path | None = None):
        plain = replace(recipe.sampling, augment=(), patch=None)
        super().__init__(data, replace(recipe, sampling=plain), task, cache)
        if plain.batch_size > 1:
            self._check_sizes()

    def _sampler(self) -> EveryClip:
        clips = [self.view.clips(sequence) for sequence in self.data]
        return EveryClip(clips, self.recipe.view.frames)

    def _check_sizes(self) -> None:
        sizes = {one: self.view.placement(one.file_size).whole for one in self.frames}
        first, *others = sizes
        for other in others:
            if sizes[other] != sizes[first]:
                (h, w), (height, width) = sizes[other], sizes[first]
                raise UserError(
                    f"frames of {other.sequence.name} are {w}x{h}, those of {first.sequence.name} "
                    f"{width}x{height}, so that their loss cannot be computed in batches of "
                    f"{self.sampling.batch_size}; use --set view.canvas=, --batch_size 1, or another --set "
                    "best="
                )


def patch_corner(
    sample: Sample, sampling: SamplingSettings, draw: np.random.Generator, name: str
) -> tuple[int, int]:
    """Row and column of the first pixel of a training patch.

    With the chance target_crops it lies by a target of the sample's key frame, else anywhere: around the
    target's centre (DeepPro's rule), or less than half a side above and left of one of its pixels (DTUM's).
    Raises UserError when the frames, of the sequence `name`, are smaller than the patch.
    """
    side = sampling.patch
    height, width = sample.size
    if min(sample.size) < side:
        raise UserError(
            f"frames of {name} are {width}x{height}, smaller than the patch of {side}; use --patch_size "
            f"{min(sample.size)} or less"
        )
    margin = 0 if sampling.include_last else 1  # published: the last row and column are never in a patch
    limits = [max(extent - side - margin, 0) for extent in sample.size]
    row, column = (int(draw.integers(0, limit + 1)) for limit in limits)
    if sampling.crops == "dtum":
        pixels = sample.key_pixels()
        if len(pixels) and draw.random() < sampling.target_crops:
            first = pixels[draw.integers(len(pixels))] - draw.integers(0, side // 2, 2)
            row, column = (min(max(int(f), 0), limit) for f, limit in zip(first, limits, strict=True))
        return row, column
    _, centres = sample.key_targets()
    if len(centres) and draw.random() < sampling.target_crops:
        centre = centres[draw.integers(len(centres))]
        reach = int(side / 2 / 3)
        shift = draw.uniform(-reach, reach, 2)
        row, column = (
            min(max(int(c + s - side / 2), 0), limit)
            for c, s, limit in zip(centre, shift, limits, strict=True)
        )
    return row, column


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
