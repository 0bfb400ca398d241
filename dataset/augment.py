"""What TSMSA adds to training clips: clones of their targets, and clips made of the halves of two others.

"TSMSA: Temporal Segmentation Modeling with Sample Augmentation for Moving Infrared Small Target Detection",
and its code. Nothing here depends on the model: any one that predicts masks can train with it.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.boxes import component_boxes
from utils.errors import UserError, near_matches

CLONES, SCALES = 3, (0.6, 0.9)  # of each target; sides of a clone as shares of the target's
ROOM = 32  # pixels that a target has at least in each direction, whatever its own size

# ---------------------------------------------------------------- clones of targets


class Clone(NamedTuple):
    """Where a clone of each target of a clip goes: so many pixels down and to the right, scaled."""

    down: int
    right: int
    scale: float


def augment_targets(
    images: np.ndarray, masks: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Three smaller clones of each target, which move through the clip as the target does.

    images, masks: [T, H, W], uint8 or uint16 gray values before any normalisation, and masks with targets
    above 0. Both come back as new arrays.
    """
    boxes = [component_boxes(mask).astype(int) for mask in masks]
    room = room_of(boxes)
    published_draw = random.Random(int(draw.integers(2**63)))  # the published kind of generator
    return paste_clones(images, masks, boxes, room, draw_clones(masks.shape[1:], room, published_draw))


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
    images: np.ndarray, masks: np.ndarray, boxes: Sequence[np.ndarray], room: int, clones: Sequence[Clone]
) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks [T, H, W] with the clones of the targets in `boxes`, int [N, 4] x1 y1 x2 y2 per frame.

    A clone has the pixels of its target alone and hard edges; it may cover a target or another clone. Where
    less than 2 `room` would be left below or to the right of its corner, it stays there.
    """
    new_images, new_masks = images.copy(), masks.copy()
    lowest, rightmost = (max(side - 2 * room, 0) for side in masks.shape[1:])
    for t, targets in enumerate(boxes):
        for down, right, scale in clones:
            for x1, y1, x2, y2 in targets:
                image, mask = (
                    # By factors, which decide what is sampled, and not by the rounded size.
                    cv2.resize(frames[t, y1:y2, x1:x2], None, fx=scale, fy=scale, interpolation=method)
                    for frames, method in ((images, cv2.INTER_LINEAR), (masks, cv2.INTER_NEAREST))
                )
                top, left = min(max(y1 + down, 0), lowest), min(max(x1 + right, 0), rightmost)
                place = np.s_[t, top : top + mask.shape[0], left : left + mask.shape[1]]
                new_images[place][mask > 0] = image[mask > 0]
                new_masks[place][mask > 0] = mask[mask > 0]
    return new_images, new_masks


# ---------------------------------------------------------------- mirrors


MIRRORS = ("flip_rows", "flip_columns", "reverse_time", "transpose")  # each with chance 1/2
NAMES = ("targets", *MIRRORS, "pair_halves")


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for a name that is not in NAMES."""
    for name in names:
        if name not in NAMES:
            raise UserError(f"clip.augment has {name!r}; {near_matches(name, NAMES)}")


def turned(
    images: np.ndarray, masks: np.ndarray, names: Sequence[str], draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Images [..., T, H, W] and masks [T', H, W] after those of the MIRRORS in `names` that the draws choose.

    Time is reversed only where every frame has a mask; rows and columns change places in squares alone.
    """
    for name in names:
        if name not in MIRRORS or draw.random() < 0.5:
            continue
        if name == "reverse_time" and len(masks) == images.shape[-3]:
            images, masks = images[..., ::-1, :, :], masks[::-1]
        elif name == "flip_rows":
            images, masks = images[..., ::-1, :], masks[..., ::-1, :]
        elif name == "flip_columns":
            images, masks = images[..., ::-1], masks[..., ::-1]
        elif name == "transpose" and images.shape[-1] == images.shape[-2]:
            images, masks = images.swapaxes(-1, -2), masks.swapaxes(-1, -2)
    return np.ascontiguousarray(images), np.ascontiguousarray(masks)


# ---------------------------------------------------------------- halves of two clips


def pair_halves(clips: Tensor, targets: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """A batch of clips [B, C, T, H, W] and targets [B, T', H, W], followed by as many new ones.

    Each new one is a clip and the next one of the batch, side by side or one above the other, with every
    second column or row of both, so that targets of one pixel may vanish. A single clip stays alone.

    number: drawn from 0 .. B - 1; numbers below B // 2 put the new halves above each other
    """
    if len(clips) == 1:
        return clips, targets
    axis = -2 if number < len(clips) // 2 else -1
    return with_halves(clips, axis), with_halves(targets, axis)


def with_halves(x: Tensor, axis: int) -> Tensor:
    """x [B, ..., H, W] and every second line of each item beside its successor's, [2 B, ..., H, W]."""
    both = torch.cat([x, x.roll(-1, dims=0)], dim=axis)
    lines = torch.arange(0, both.shape[axis], 2, device=x.device)
    return torch.cat([x, both.index_select(axis, lines)])
