"""Focal loss and OHEM, which DTUM's code holds beside its soft IoU and HPM.

Source: R. Li et al., DTUM (IEEE TNNLS 2023), `FocalLoss` and `OHEM` of its code.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from loss.hard_mining import HardMiningLoss
from loss.inputs import logits_and_target
from loss.options import Variant
from loss.terms import named_terms
from utils.errors import UserError
from utils.registry import register_loss

ALPHA_BACKGROUND, ALPHA_TARGET, GAMMA = 0.1667, 0.8333, 2


@register_loss("Focal")
class FocalLoss(nn.Module):
    """Mean over all pixels of the batch of a focal term, p = sigmoid(logits):

        -0.8333 (1 - p)^2 y ln p - 0.1667 q^2 (1 - y) ln(1 - p)

    The focal factors are constants for the gradient.

    variant: "published" has q = 1 - p, which weighs background the less the more it is mistaken for a target;
             "clean" has q = p
    """

    def __init__(self, variant: Variant = "published"):
        super().__init__()
        self.variant = variant

    def forward(self, raw: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """raw["logits"] and target in {0, 1}: [B, T', H, W]. Returns {"loss": scalar}."""
        logits, target = logits_and_target(raw, target)
        p = torch.sigmoid(logits.detach())
        q = p if self.variant == "clean" else 1 - p
        on_target = ALPHA_TARGET * (1 - p) ** GAMMA * target * logsigmoid(logits)
        on_background = ALPHA_BACKGROUND * q**GAMMA * (1 - target) * logsigmoid(-logits)
        return named_terms(-(on_target + on_background).mean())


@register_loss("OHEM")
class OHEMLoss(HardMiningLoss):
    """Online hard example mining: the target and the `max_clutter` hardest clutter pixels of each clip."""

    def draw_clutter(self, loss: Tensor) -> Tensor:
        """Mark the hardest pixels of each clip by its loss map [B, H, W]; returns [B, 1, H, W]."""
        count, pixels = self.num_hard + self.num_easy, loss[0].numel()
        if pixels < count:
            raise UserError(
                f"OHEM takes {count} clutter pixels, but these frames have {pixels}: use larger frames or "
                "lower loss_options.max_clutter"
            )
        hardest = loss.flatten(1).topk(count).indices
        return torch.zeros_like(loss).flatten(1).scatter_(1, hardest, 1).view_as(loss).unsqueeze(1)
