"""Detectors by name: `create_model("DeepPro", seq_len=40)`."""

import torch
from torch import nn

from model import (  # noqa: F401
    acm,
    deeppro,
    dnanet,
    dtum,
    mshnet,
    rdian,
    rfr,
    rprnet,
    smfnet,
    sstnet,
    stmenet,
    temporal_median,
    tophat,
    tsmsa,
)
from utils.registry import MODELS, register_model


def list_models() -> list[str]:
    """The registered names, sorted."""
    return MODELS.names()


def create_model(name: str, **overrides) -> nn.Module:
    """Build a detector by name, with its paper's sizes unless `overrides` say otherwise.

    The module takes float32 clips [B, C, T, H, W] and returns a dict of raw tensors. Its `task` is "masks":
    the dict has "logits" and `decode(raw)` gives probabilities [B, T', H, W]; or "boxes": the dict has "head"
    and `decode(raw)` gives boxes [N, 5] of each image, x1, y1, x2, y2 in input pixels and score. The module
    also carries `name`, `options`, `recipe` and `rename` (see `utils.recipe` and `utils.checkpoint`).
    Raises UserError for an unknown name or option, or a wrong value.
    """
    entry = MODELS.check_options(name, overrides)
    with torch.inference_mode(False):  # inference tensors lack the version counter that some layers read
        network = entry.build(**overrides)
    network.name, network.options = entry.name, dict(overrides)
    network.recipe, network.task = entry.facts["recipe"], entry.facts["task"]
    network.rename = {**getattr(network, "unused", {}), **entry.facts["rename"]}  # `unused` by these options
    return network


__all__ = ["create_model", "list_models", "register_model"]
