"""Losses by name, called with the model's raw dict and the target: `create_loss("SoftIoU")(raw, target)`."""

from loss import bce, dice, dtum, focal_iou, hard_mining, sls_iou, soft_iou, spg, std_loss, yolox  # noqa: F401
from utils.registry import LOSSES, register_loss


def list_losses() -> list[str]:
    """The registered names, sorted."""
    return LOSSES.names()


def create_loss(name: str, **options):
    """Build a loss: `loss(raw, target)` is a scalar.

    Mask models: raw["logits"] and a target [B, T', H, W] in {0, 1}. Box models: raw["head"] and, per image, a
    target [n, 5] of centre x, y, width, height in input pixels and class.
    """
    return LOSSES.create(name, **options)


__all__ = ["create_loss", "list_losses", "register_loss"]
