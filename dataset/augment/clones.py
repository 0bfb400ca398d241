"""Clones of targets, a part of TSMSA's sample augmentation.

"TSMSA: Temporal Segmentation Modeling with Sample Augmentation for Moving Infrared Small Target Detection",
and its code.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from dataset.augment.base import Augmentation
from dataset.sample import Sample
from utils.boxes import component_boxes
from utils.registry import register_augmentation

CLONES, SCALES = 3, (0.6, 0.9)  # of each target; sides of a clone as fractions of the target's
ROOM = 32  # pixels that a target has at least in each direction, whatever its own size


class Clone(NamedTuple):
    """Where a clone of each target of a clip goes: so many pixels down and to the right, scaled."""

    down: int
    right: int
    scale: float


@register_augmentation("clones", aliases=("targets",))
@dataclass(frozen=True)
class Clones(Augmentation):
    """Three smaller clones of each target, which move through the clip as the target does.

    A clone has the pixels of its target's mask, or, without masks, all of its box.
    """

    stage = "pixels"
    needs_truth = True

    def __call__(self, sample: Sample, draw: np.random.Generator) -> Sample:
        if sample.masks is not None:
            outlines = [component_boxes(mask).astype(int) for mask in sample.masks]
        else:
            outlines = [whole_pixels(boxes, sample.size) for boxes in sample.boxes]
        room = room_of(outlines)
        published_draw = random.Random(int(draw.integers(2**63)))  # the published kind of generator
        clones = draw_clones(sample.size, room, published_draw)
        images, masks, places = paste_clones(sample.images, sample.masks, outlines, room, clones)
        boxes = sample.boxes
        if boxes is not None:
            boxes = tuple(map(with_cloned_boxes, boxes, outlines, places))
        return replace(sample, images=images, masks=masks, boxes=boxes)


def whole_pixels(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a frame of `size` that boxes [N, 4] touch, int [N, 4] x1 y1 x2 y2."""
    corners = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
    return corners.clip(0, np.tile(size[::-1], 2)).astype(int)


def room_of(boxes: Sequence[np.ndarray]) -> int:
    """The longest side of the targets of a clip, at least ROOM; boxes [N, 4] x1 y1 x2 y2 per frame.

    As published it is the longest side among all clips that a loading process has seen until then.
    """
    corners = np.concatenate(boxes)
    return int((corners[:, 2:] - corners[:, :2]).max(initial=ROOM))


def draw_clones(size: tuple[int, int], room: int, draw: random.Random) -> list[Clone]:
    """The clones of one clip with frames of `size` (height, width).

    They go up to a quarter of the frame away, less `room`. The order of the draws is the published one.
    """
    down, right = (max(int(side / 4 - room), 0) for side in size)
    return [
        Clone(draw.randint(-down, down), draw.randint(-right, right), draw.uniform(*SCALES))
        for _ in range(CLONES)
    ]


def paste_clones(
    images: np.ndarray,
    masks: np.ndarray | None,
    boxes: Sequence[np.ndarray],
    room: int,
    clones: Sequence[Clone],
) -> tuple[np.ndarray, np.ndarray | None, list[np.ndarray]]:
    """Images and masks [T, H, W] with the clones of the targets in `boxes`, int [N, 4] x1 y1 x2 y2 per frame.

    images: uint8 or uint16; masks: targets above 0. Both come back as new arrays, with what the clones
    cover, int [clones, N, 4] per frame. A clone has hard edges; it may cover a target or another clone. Where
    less than 2 `room` would be left below or to the right of its corner, it stays there.
    """
    shapes = np.ones_like(images, np.uint8) if masks is None else masks
    new_images, new_masks, places = images.copy(), shapes.copy(), []
    lowest, rightmost = (max(side - 2 * room, 0) for side in images.shape[1:])
    for t, targets in enumerate(boxes):
        places.append(np.zeros((len(clones), len(targets), 4), int))
        for c, (down, right, scale) in enumerate(clones):
            for n, (x1, y1, x2, y2) in enumerate(targets):
                image, shape = (
                    # By factors, which decide what is sampled, and not by the rounded size.
                    cv2.resize(frames[t, y1:y2, x1:x2], None, fx=scale, fy=scale, interpolation=method)
                    for frames, method in ((images, cv2.INTER_LINEAR), (shapes, cv2.INTER_NEAREST))
                )
                top, left = min(max(y1 + down, 0), lowest), min(max(x1 + right, 0), rightmost)
                bottom, end = top + shape.shape[0], left + shape.shape[1]
                place = np.s_[t, top:bottom, left:end]
                new_images[place][shape > 0] = image[shape > 0]
                new_masks[place][shape > 0] = shape[shape > 0]
                places[t][c, n] = left, top, end, bottom
    return new_images, None if masks is None else new_masks, places


def with_cloned_boxes(boxes: np.ndarray, outlines: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] of a frame and those of their clones, which lie in `places` [clones, N, 4].

    outlines: int [N, 4], the whole pixels of the boxes, which the clones show
    """
    start, sides = np.tile(outlines[:, :2], 2), np.tile(outlines[:, 2:] - outlines[:, :2], 2)
    fractions = (boxes - start) / sides
    cloned = np.tile(places[..., :2], 2) + fractions * np.tile(places[..., 2:] - places[..., :2], 2)
    return np.concatenate([boxes, cloned.reshape(-1, 4)])
