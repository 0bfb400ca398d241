"""Flips of rows, columns, both diagonally, and of time, each with chance 1/2."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dataset.augment.base import Augmentation
from dataset.sample import Sample
from utils.registry import register_augmentation

Change = Callable[[np.ndarray], np.ndarray]


class Mirror(Augmentation):
    """An augmentation that acts with chance 1/2."""

    def __call__(self, sample: Sample, draw: np.random.Generator) -> Sample:
        return sample if draw.random() < 0.5 else self.mirror(sample)

    def mirror(self, sample: Sample) -> Sample:
        raise NotImplementedError


@register_augmentation("flip_rows")
@dataclass(frozen=True)
class FlipRows(Mirror):
    """Top becomes bottom."""

    def mirror(self, sample: Sample) -> Sample:
        height = sample.size[0]

        def flip(boxes: np.ndarray) -> np.ndarray:
            x1, y1, x2, y2 = boxes.T
            return np.stack([x1, height - y2, x2, height - y1], axis=1)

        return changed(sample, lambda frames: frames[..., ::-1, :], flip)


@register_augmentation("flip_columns")
@dataclass(frozen=True)
class FlipColumns(Mirror):
    """Left becomes right."""

    def mirror(self, sample: Sample) -> Sample:
        width = sample.size[1]

        def flip(boxes: np.ndarray) -> np.ndarray:
            x1, y1, x2, y2 = boxes.T
            return np.stack([width - x2, y1, width - x1, y2], axis=1)

        return changed(sample, lambda frames: frames[..., ::-1], flip)


@register_augmentation("transpose")
@dataclass(frozen=True)
class Transpose(Mirror):
    """Rows and columns change places, in square frames alone."""

    def mirror(self, sample: Sample) -> Sample:
        if sample.size[0] != sample.size[1]:
            return sample
        return changed(sample, lambda frames: frames.swapaxes(-1, -2), lambda boxes: boxes[:, [1, 0, 3, 2]])


@register_augmentation("reverse_time")
@dataclass(frozen=True)
class ReverseTime(Mirror):
    """The last frame becomes the first, only where every frame of the clip has truth."""

    def mirror(self, sample: Sample) -> Sample:
        if len(sample.truth) < sample.length:
            return sample
        return replace(
            sample,
            images=sample.images[..., ::-1, :, :],
            key=sample.length - 1 - sample.key,
            masks=None if sample.masks is None else sample.masks[::-1],
            boxes=None if sample.boxes is None else sample.boxes[::-1],
        )


def changed(sample: Sample, change_frames: Change, change_boxes: Change) -> Sample:
    """The sample after a change of frames and masks [..., H, W], and of the boxes [N, 4] of each frame."""
    masks = None if sample.masks is None else change_frames(sample.masks)
    boxes = None if sample.boxes is None else tuple(map(change_boxes, sample.boxes))
    return replace(sample, images=change_frames(sample.images), masks=masks, boxes=boxes)
