"""Clips made of the halves of two others, a part of TSMSA's sample augmentation."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataset.augment.base import BatchAugmentation
from dataset.sample import Batch
from utils.registry import register_augmentation


@register_augmentation("pair_halves")
@dataclass(frozen=True)
class PairHalves(BatchAugmentation):
    """As many clips more, each made of the halves of two clips of the batch (TSMSA)."""

    def __call__(self, batch: Batch, draw: np.random.Generator) -> Batch:
        return pair_halves(batch, int(draw.integers(len(batch.clips))))


def pair_halves(batch: Batch, number: int) -> Batch:
    """The clips and targets of a batch of B, followed by as many new ones.

    Each new one is a clip and the next one of the batch, side by side or one above the other, with every
    second column or row of both, so that targets of one pixel may vanish. A single clip stays alone.

    number: drawn from 0 .. B - 1; numbers below B // 2 put the new halves above each other
    """
    clips, masks, boxes = batch.clips, batch.masks, batch.boxes
    if len(clips) == 1:
        return batch
    axis = -2 if number < len(clips) // 2 else -1
    if masks is not None:
        masks = with_halves(masks, axis)
    if boxes is not None:
        following = [*boxes[1:], boxes[0]]
        extent = clips.shape[axis]
        boxes = [*boxes, *(join_halves(a, b, axis, extent) for a, b in zip(boxes, following, strict=True))]
    return Batch(with_halves(clips, axis), masks, boxes)


def with_halves(x: Tensor, axis: int) -> Tensor:
    """x [B, ..., H, W] and every second line of each item beside its successor's, [2 B, ..., H, W]."""
    both = torch.cat([x, x.roll(-1, dims=0)], dim=axis)
    lines = torch.arange(0, both.shape[axis], 2, device=x.device)
    return torch.cat([x, both.index_select(axis, lines)])


def join_halves(first: Tensor, second: Tensor, axis: int, extent: int) -> Tensor:
    """Boxes of two clips as rows [n, 5] (cx cy w h class) in the clip of their halves; see `with_halves`.

    axis, extent: along which the clips are joined, and their size along it. A box that covers the middle of
    no line that is left is dropped.
    """
    along = {-1: 0, -2: 1}[axis]
    both = torch.cat([first, second])
    both[len(first) :, along] += extent
    centre, side = both[:, along], both[:, along + 2]
    lines = torch.ceil((centre + side / 2 - 0.5) / 2) - torch.ceil((centre - side / 2 - 0.5) / 2)
    both[:, [along, along + 2]] /= 2
    return both[lines > 0]
