"""Dice as it stands in the code of MSHNet and TSMSA."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loss.inputs import logits_and_target
from loss.terms import named_terms
from utils.registry import register_loss


@register_loss("Dice")
class DiceLoss(nn.Module):
    """1 - mean over the clips of (2 I + 1) / (P + Y + I + 1).

    With p = sigmoid(logits): I = sum(p * y), P = sum(p), Y = sum(y) of a clip. As published I also stands in
    the divisor, where the Dice coefficient has none: a perfect prediction has a loss of about 1/3, not 0.
    """

    def forward(self, raw: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """raw["logits"] and target in {0, 1}: [B, T', H, W]. Returns {"loss": scalar}."""
        logits, target = logits_and_target(raw, target)
        probability = torch.sigmoid(logits)
        clip = (1, 2, 3)
        intersection = (probability * target).sum(clip)  # [B]
        areas = probability.sum(clip) + target.sum(clip)
        return named_terms(1 - ((2 * intersection + 1) / (areas + intersection + 1)).mean())
