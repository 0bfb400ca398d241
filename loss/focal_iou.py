"""Focal loss and intersection over union in one: the loss that TSMSA trains with."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loss.inputs import logits_and_target
from loss.terms import named_terms
from utils.registry import register_loss


@register_loss("FocalIoU")
class FocalIoULoss(nn.Module):
    """sum over all pixels of the batch of a (1 - IoU) f^e.

    With p = 0.5 + 0.999 (sigmoid(logits) - 0.5), which stays off 0 and 1, the cross-entropy b of p and y:

        IoU = (sum(p y) + 1) / (sum(p) + sum(y) - sum(p y) + 1), over the whole batch
        f = (1 - exp(-b))^2 b      e = (1 + IoU) / 2      a = 0.75 y + 0.25 (1 - y)

    The gradient runs through both places of IoU. Nothing is divided, so that the loss grows with the pixels
    of the batch: about 1e5 at the start for 8 clips of 512x512.
    Source: TSMSA, `FocalIoULoss` of its code.
    """

    def forward(self, raw: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """raw["logits"] and target y in 0..1: [B, T', H, W]. Returns {"loss": scalar}."""
        logits, target = logits_and_target(raw, target)
        p = 0.999 * (torch.sigmoid(logits) - 0.5) + 0.5
        both = (p * target).sum()
        iou = (both + 1) / (p.sum() + target.sum() - both + 1)
        cross_entropy = -target * p.log() - (1 - target) * (1 - p).log()
        focal = (1 - torch.exp(-cross_entropy)) ** 2 * cross_entropy
        balance = 0.75 * target + 0.25 * (1 - target)
        return named_terms((balance * (1 - iou) * focal ** (0.5 * iou + 0.5)).sum())
