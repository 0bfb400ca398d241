"""SPGloss: cross-entropy over the target, over weighted rings around it and over mined clutter pixels.

Source: RPRNet ("Refined Spatio-Temporal Pipeline Representation Network for Infrared Small Moving Target
Detection"), `SPGloss` of its code.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, pad

from loss.inputs import logits_and_target
from loss.options import Variant
from loss.terms import named_terms
from utils.errors import UserError
from utils.registry import register_loss

ALPHA_BACKGROUND, ALPHA_TARGET = 0.1667, 0.8333
RING_WEIGHTS = (0.5, 0.3, 0.2)  # of the outer, the middle and the inner ring
NUM_HARD, NUM_EASY = 60, 60  # clutter pixels of each map
RANKED = 200  # pixels of each map that are ranked by their cross-entropy
FIRST_RANK, NUM_RANKS = 20, 130  # hard pixels are drawn from ranks 20..149


class SPGLoss(nn.Module):
    """The loss as published: a sum over the main and the side maps, all pixels and all samples.

    With t the target, w = min(1, clutter outside the 5x5 pixels around targets + t) and the maps p, a map has

        0.8333 t w softplus(-p) + 0.1667 (1 - t) (w + 0.5 outer + 0.3 middle + 0.2 inner) softplus(p)

    Quirks that are kept: p has been through a sigmoid before, so that the loss cannot come near 0; the rings
    come from boxes of even sides and lie mostly below and to the right of a target (`published_rings`);
    nothing is divided, so that the loss grows with the batch; one draw of ranks serves the whole batch.

    Random numbers come from the global CPU generator in the published order: per map one permutation of 130,
    then one permutation of H * W per sample. Target values outside 0 and 1 enter the formula as they are.
    """

    def forward(self, raw: Mapping[str, Any], target: Tensor) -> dict[str, Tensor]:
        """raw as in `maps_and_target`; target [B, 1, H, W] or [B, H, W]. Returns what `terms` does."""
        maps, target = maps_and_target(raw, target)
        maps = torch.sigmoid(maps)
        return self.terms(maps, target, self.draw_clutter(maps.detach(), target))

    def terms(self, maps: Tensor, target: Tensor, clutter: Tensor) -> dict[str, Tensor]:
        """The scalars "loss" and its terms "target" and "background", for a given clutter mask.

        maps:    [B, N, H, W], of which the loss takes the sigmoid
        target:  [B, 1, H, W]
        clutter: [B, N, H, W], 1 on the clutter pixels of each map and else 0
        """
        parts = self.parts(maps, target, clutter)
        on_target, on_background = parts.sum(0)
        return named_terms(parts.sum(), target=on_target, background=on_background)

    def parts(self, maps: Tensor, target: Tensor, clutter: Tensor) -> Tensor:
        """The sums over targets and over background of each map, [N, 2]; arguments as those of `terms`."""
        weight = (clutter * (1 - protected_area(target)) + target).clamp(max=1)
        ring = sum(w * r for w, r in zip(RING_WEIGHTS, self.rings(target), strict=True))
        log_p = logsigmoid(maps)
        on_target = ALPHA_TARGET * target * weight * -log_p
        on_background = ALPHA_BACKGROUND * (1 - target) * (weight + ring) * (maps - log_p)
        return torch.stack([on_target.sum((0, 2, 3)), on_background.sum((0, 2, 3))], dim=1)

    def draw_clutter(self, maps: Tensor, target: Tensor) -> Tensor:
        """A new clutter mask [B, N, H, W]: hard and easy pixels of each map of each sample.

        Frames of fewer than 200 pixels rank all that they have.
        """
        batch, number, height, width = maps.shape
        ranks, easy = self.draw(batch, number, height * width, maps.device)
        ranks, easy = (drawn.to(maps.device, non_blocking=True) for drawn in (ranks, easy))
        ranked = hardest_pixels(maps, target)
        hard = ranked.gather(2, ranks.clamp(max=ranked.shape[2] - 1))
        marks = torch.zeros_like(maps).flatten(2).scatter_(2, torch.cat([hard, easy], dim=2), 1)
        return marks.view_as(maps)

    def rings(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The outer, the middle and the inner ring around the targets, each [B, 1, H, W] of 0 and 1."""
        return published_rings(target)

    def draw(self, batch: int, number: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Ranks of the hard pixels and places of the easy ones, [B, N, 60] each, on `device` or the CPU."""
        ranks, easy = [], []
        for _ in range(number):
            ranks.append(FIRST_RANK + torch.randperm(NUM_RANKS)[:NUM_HARD])
            easy.append(torch.stack([torch.randperm(pixels)[:NUM_EASY] for _ in range(batch)]))
        return torch.stack(ranks).expand(batch, -1, -1), torch.stack(easy, dim=1)


class CleanSPGLoss(SPGLoss):
    """The loss without the quirks: maps before any sigmoid, symmetric rings, ranks drawn per sample, mean.

    The loss is divided by the number of target pixels of the batch, or by that of its samples if they are
    more, so that a batch without targets has a finite loss. Target is where the value is above 0. Random
    numbers come from the generator of the maps' device; an easy pixel may be drawn twice.
    """

    def forward(self, raw: Mapping[str, Any], target: Tensor) -> dict[str, Tensor]:
        """raw as in `maps_and_target`; target [B, 1, H, W] or [B, H, W]. Returns what `terms` does."""
        maps, target = maps_and_target(raw, target)
        target = (target > 0).to(maps)
        return self.terms(maps, target, self.draw_clutter(maps.detach(), target))

    def terms(self, maps: Tensor, target: Tensor, clutter: Tensor) -> dict[str, Tensor]:
        pixels = target.sum().clamp(min=len(target))
        return {name: term / pixels for name, term in super().terms(maps, target, clutter).items()}

    def rings(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return symmetric_rings(target)

    def draw(self, batch: int, number: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
        order = torch.rand(batch, number, NUM_RANKS, device=device)
        easy = torch.randint(pixels, (batch, number, NUM_EASY), device=device)
        return FIRST_RANK + order.topk(NUM_HARD).indices, easy


@register_loss("SPGloss")
def spg_loss(variant: Variant = "published") -> SPGLoss:
    """SPGloss as published, with the quirks of the published code, or clean, without them."""
    return {"published": SPGLoss, "clean": CleanSPGLoss}[variant]()


def maps_and_target(raw: Mapping[str, Any], target: Tensor) -> tuple[Tensor, Tensor]:
    """The main and the side maps of RPRNet as one tensor [B, 5, H, W], and the target [B, 1, H, W].

    raw:    "logits" [B, 1, H, W] and "side_logits", four of [B, 1, H, W], all before any sigmoid
    target: [B, 1, H, W] or [B, H, W]
    Both come back on the logits' device and in at least float32. Raises UserError without side maps,
    ValueError where the shapes of logits and target differ.
    """
    if "side_logits" not in raw:
        raise UserError("SPGloss and STDLoss read the side maps of RPRNet: give this model another loss")
    logits, target = logits_and_target(raw, target.unsqueeze(1) if target.ndim == 3 else target)
    return torch.cat([logits, *raw["side_logits"]], dim=1), target


def hardest_pixels(maps: Tensor, target: Tensor) -> Tensor:
    """Places (row * W + column) of the pixels with the largest cross-entropy outside the protected area.

    maps [B, N, H, W], target [B, 1, H, W]; returns [B, N, 200], hardest first.
    """
    loss = binary_cross_entropy_with_logits(maps, target.expand_as(maps), reduction="none")
    loss = (loss * (1 - protected_area(target))).flatten(2)
    return loss.topk(min(RANKED, loss.shape[2])).indices


def protected_area(target: Tensor) -> Tensor:
    """1 within the 5x5 pixels around a target, else 0; [B, 1, H, W]."""
    return (box_sum(target, 5, 5) > 0).to(target)


def published_rings(target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What boxes of sides 5, 4, 3, 2 count more than the next smaller one; [B, 1, H, W] each.

    Boxes of even sides reach one pixel farther down and to the right than up and to the left. Around one
    target pixel T the weights are

        .3 .3 .3 .3 .5
        .3  0  0 .2 .5
        .3  0  T .2 .5
        .3 .2 .2 .2 .5
        .5 .5 .5 .5 .5
    """
    count4, count3, count2 = (box_sum(target, side, side) for side in (4, 3, 2))
    differences = (protected_area(target) - count4, count4 - count3, count3 - count2)
    outer, middle, inner = ((difference > 0).to(target) for difference in differences)
    return outer, middle, inner


def symmetric_rings(target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same neighbourhood of 5x5 pixels in rings by the distance to the nearest target; [B, 1, H, W] each.

    inner:  distance 1, the neighbours that share an edge with a target pixel
    middle: distance sqrt(2), those that share a corner only
    outer:  two rows or columns away. Around one target pixel T the weights are

        .5 .5 .5 .5 .5
        .5 .3 .2 .3 .5
        .5 .2  T .2 .5
        .5 .3 .2 .3 .5
        .5 .5 .5 .5 .5
    """
    edge = (box_sum(target, 3, 1) + box_sum(target, 1, 3) > 0).to(target)
    square = (box_sum(target, 3, 3) > 0).to(target)
    return protected_area(target) - square, square - edge, edge - target


def box_sum(values: Tensor, height: int, width: int) -> Tensor:
    """Sums of [B, 1, H, W] over a box around each pixel, with zeros outside the frame.

    The box has (side - 1) // 2 pixels above and left of its pixel and side // 2 below and right of it.
    """
    padded = pad(values, ((width - 1) // 2, width // 2, (height - 1) // 2, height // 2))
    return padded.unfold(2, height, 1).sum(-1).unfold(3, width, 1).sum(-1)
