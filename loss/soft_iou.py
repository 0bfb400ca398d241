"""Soft intersection over union: the loss that DeepPro and DeepPro-Plus train with."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loss.inputs import logits_and_target
from utils.registry import register_loss


@register_loss("SoftIoU")
class SoftIoULoss(nn.Module):
    """1 - mean over the batch of I / (P + Y - I), each summed over a whole clip.

    With p = sigmoid(logits): I = sum(p * y), P = sum(p), Y = sum(y). Nothing is added to either side of the
    fraction, so a clip without target has loss 1 and gradient 0.
    Source: DeepPro (arXiv 2506.12766), `SoftLoUloss` of its code.
    """

    def forward(self, raw: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """raw["logits"] and target in {0, 1}: [B, T', H, W]. Returns a scalar."""
        logits, target = logits_and_target(raw, target)
        probability = torch.sigmoid(logits)
        clip = (1, 2, 3)
        intersection = (probability * target).sum(clip)  # [B]
        union = probability.sum(clip) + target.sum(clip) - intersection
        # The union is 0 only if there is no target and every sigmoid underflows; then 0 / tiny = 0, not NaN.
        tiny = torch.finfo(union.dtype).tiny
        return 1 - (intersection / union.clamp_min(tiny)).mean()
