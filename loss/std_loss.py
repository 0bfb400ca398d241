"""STDLoss: the focal loss that RPRNet's code holds beside SPGloss and never calls."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loss.options import Variant
from loss.spg import maps_and_target
from loss.terms import named_terms
from utils.registry import register_loss

ALPHA, GAMMA = 0.8, 2
MARGIN = 1e-6  # probabilities stay this far from 0 and 1


@register_loss("STDLoss")
class STDLoss(nn.Module):
    """Focal loss, summed over the main and the side maps of RPRNet and averaged over pixels and samples.

    With p = sigmoid(map) kept within 1e-6 .. 1 - 1e-6 and the target t, a pixel of a map has

        -0.8 (1 - p)^2 t ln p - 0.2 p^2 (1 - t) ln(1 - p)

    variant: "published" counts the batch's last sample alone, divided by the number of samples, because the
             published loop overwrites its sum; "clean" averages all samples
    Source: RPRNet, `STDloss` of its code.
    """

    def __init__(self, variant: Variant = "published"):
        super().__init__()
        self.variant = variant

    def forward(self, raw: Mapping[str, Any], target: Tensor) -> dict[str, Tensor]:
        """raw as in `maps_and_target`; target [B, 1, H, W] or [B, H, W]. Returns {"loss": scalar}."""
        maps, target = maps_and_target(raw, target)
        p = torch.sigmoid(maps).clamp(MARGIN, 1 - MARGIN)
        on_target = ALPHA * (1 - p) ** GAMMA * target * -torch.log(p)
        on_background = (1 - ALPHA) * p**GAMMA * (1 - target) * -torch.log(1 - p)
        per_sample = (on_target + on_background).sum(1).mean((1, 2))  # [B]
        return named_terms(per_sample.mean() if self.variant == "clean" else per_sample[-1] / len(per_sample))
