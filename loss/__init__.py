"""Losses by name, called with the model's raw dict and the target: `create_loss("SoftIoU")(raw, target)`."""

from torch import nn

from loss import bce, dice, dtum, focal_iou, hard_mining, sls_iou, soft_iou, spg, std_loss, yolox  # noqa: F401
from utils.registry import LOSSES, register_loss


def list_losses() -> list[str]:
    """The registered names, sorted."""
    return LOSSES.names()


def create_loss(name: str, **options) -> nn.Module:
    """Build a loss: `loss(raw, target)` is a dict of scalars by name.

    "loss" is what is minimised; it alone carries the gradient. Other entries are its terms as they enter it,
    for the log.

    The loss has a `task`. "masks": it takes raw["logits"] and a target [B, T', H, W] in {0, 1}. "boxes": it
    takes raw["head"] and, per image, a target [n, 5] of centre x, y, width, height in input pixels and class.
    Raises UserError for an unknown name or option, or a wrong value.
    """
    loss = LOSSES.create(name, **options)
    loss.task = LOSSES.entry(name).facts["task"]
    return loss


__all__ = ["create_loss", "list_losses", "register_loss"]
