"""Binary cross-entropy."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from loss.inputs import logits_and_target
from loss.terms import named_terms
from utils.registry import register_loss


@register_loss("BCE")
class BCELoss(nn.Module):
    """Binary cross-entropy with logits, averaged over all pixels of the batch."""

    def forward(self, raw: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """raw["logits"] and target in {0, 1}: [B, T', H, W]. Returns {"loss": scalar}."""
        logits, target = logits_and_target(raw, target)
        return named_terms(binary_cross_entropy_with_logits(logits, target))
