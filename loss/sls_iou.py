"""SLS-IoU: a soft IoU that also tells the area and the place of what is missed."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loss.inputs import logits_and_target
from loss.side_maps import mean_over_maps
from loss.terms import named_terms
from utils.registry import register_loss

EPSILON = 1e-8


@register_loss("SLSIoU")
class SLSIoULoss(nn.Module):
    """1 - mean over images of scale * IoU, plus the location loss.

    With p = sigmoid(logits), I = sum(p * y), P = sum(p), Y = sum(y) of an image and d = ((P - Y) / 2)^2:

        IoU = I / (P + Y - I)        scale = (min(P, Y) + d) / (max(P, Y) + d)

    Nothing is added to the fractions, so an image without target has IoU 0 and gradient 0 in this part.

    warmup:   1 - mean IoU alone, without scale and location, as the paper trains its first 5 epochs (and
              the finest side map instead of the main one, which this loss does not do)
    location: add `location_loss`
    sides:    average over the main and the side maps as the paper does, see `mean_over_maps`

    Source: "Infrared Small Target Detection with Scale and Location Sensitivity" (MSHNet, CVPR 2024).
    """

    def __init__(self, warmup: bool = False, location: bool = True, sides: bool = False):
        super().__init__()
        self.warmup, self.location, self.sides = warmup, location, sides

    def forward(self, raw: Mapping[str, Any], target: Tensor) -> dict[str, Tensor]:
        """raw["logits"] and target in {0, 1}: [B, T', H, W], B * T' images.

        Returns the scalar "loss" and its terms: "iou", without the location loss, and "location", if it is
        added.
        """
        return mean_over_maps(self.one_map, raw, target) if self.sides else self.one_map(raw, target)

    def one_map(self, raw: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """As forward, of raw["logits"] alone."""
        logits, target = logits_and_target(raw, target)
        probability = torch.sigmoid(logits)
        intersection, area, true_area = (x.sum((2, 3)) for x in (probability * target, probability, target))
        # Both divisors are 0 only if there is no target and every sigmoid underflows.
        tiny = torch.finfo(area.dtype).tiny
        iou = intersection / (area + true_area - intersection).clamp_min(tiny)  # [B, T']
        if self.warmup:
            loss = 1 - iou.mean()
            return named_terms(loss, iou=loss)
        distance = ((area - true_area) / 2) ** 2
        smaller, larger = torch.minimum(area, true_area), torch.maximum(area, true_area)
        scale = (smaller + distance) / (larger + distance).clamp_min(tiny)
        scaled_iou = 1 - (scale * iou).mean()
        if not self.location:
            return named_terms(scaled_iou, iou=scaled_iou)
        location = location_loss(probability, target)
        return named_terms(scaled_iou + location, iou=scaled_iou, location=location)


def location_loss(probability: Tensor, target: Tensor) -> Tensor:
    """How far the centre of a prediction is from the target's, in polar coordinates; a scalar.

    probability, target: [B, T', H, W]. Mean over the images of

        1 - min(r_p, r_y) / max(r_p, r_y) + 4 / pi^2 * (angle_p - angle_y)^2

    As published, a centre is not divided by the mass, so that it moves away from the corner with the area.
    """
    (x, y), (true_x, true_y) = weighted_centre(probability), weighted_centre(target)
    radius, true_radius = (torch.sqrt(a**2 + b**2 + EPSILON) for a, b in ((x, y), (true_x, true_y)))
    ratio = torch.minimum(radius, true_radius) / (torch.maximum(radius, true_radius) + EPSILON)
    angle = torch.atan(y / (x + EPSILON)) - torch.atan(true_y / (true_x + EPSILON))
    return (1 - ratio + 4 / math.pi**2 * angle**2).mean()


def weighted_centre(values: Tensor) -> tuple[Tensor, Tensor]:
    """Means over all pixels of column / W * value and of row / H * value, [B, T'] each."""
    height, width = values.shape[-2:]
    rows, columns = (
        torch.arange(size, dtype=values.dtype, device=values.device) / size for size in (height, width)
    )
    return (values * columns).mean((2, 3)), (values * rows[:, None]).mean((2, 3))
