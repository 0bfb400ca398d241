"""Soft intersection over union, with the sums of different papers."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from loss.inputs import logits_and_target
from loss.side_maps import mean_over_maps
from loss.terms import named_terms
from utils.recipe.fields import Facts
from utils.registry import register_loss

AXES = {"clip": (1, 2, 3), "batch": (0, 1, 2, 3), "frame": (0, 2, 3)}  # summed over, of [B, T', H, W]


@register_loss("SoftIoU")
class SoftIoULoss(nn.Module):
    """1 - mean of (I + smooth) / (P + Y - I + smooth).

    With p = sigmoid(logits): I = sum(p * y), P = sum(p), Y = sum(y).

    smooth: with 0 a clip without target has loss 1 and gradient 0
    over:   what a sum runs over: "clip", each clip by itself; "batch", all clips together; "frame", one time
            step of all clips
    sides:  average over the main and the side maps, see `mean_over_maps`

    Sources: the defaults are those of DeepPro (arXiv 2506.12766, `SoftLoUloss` of its code); BasicIRSTD and
    the fully supervised loss of DTUM have smooth 1 over "batch", RFR has smooth 1 over "frame".
    """

    def __init__(
        self,
        smooth: Annotated[float, Facts("added to both sums", at_least=0, at_most=1e9)] = 0.0,
        over: Annotated[str, Facts("what a sum runs over", choices=tuple(AXES))] = "clip",
        sides: bool = False,
    ):
        super().__init__()
        self.smooth, self.axes, self.sides = smooth, AXES[over], sides

    def forward(self, raw: Mapping[str, Any], target: Tensor) -> dict[str, Tensor]:
        """raw["logits"] and target in {0, 1}: [B, T', H, W]. Returns {"loss": scalar}."""
        return mean_over_maps(self.one_map, raw, target) if self.sides else self.one_map(raw, target)

    def one_map(self, raw: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """As forward, of raw["logits"] alone."""
        logits, target = logits_and_target(raw, target)
        probability = torch.sigmoid(logits)
        intersection = (probability * target).sum(self.axes)
        union = probability.sum(self.axes) + target.sum(self.axes) - intersection
        # The union is 0 only if there is no target and every sigmoid underflows; then 0 / tiny = 0, not NaN.
        tiny = torch.finfo(union.dtype).tiny
        return named_terms(1 - ((intersection + self.smooth) / (union + self.smooth).clamp_min(tiny)).mean())
