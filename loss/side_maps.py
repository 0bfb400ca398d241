"""Deep supervision: a loss averaged over the main map of a network and its side maps."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from utils.errors import UserError


def mean_over_maps(
    loss: Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]], raw: Mapping[str, Any], target: Tensor
) -> dict[str, Tensor]:
    """Each term of a loss, averaged over the maps of a network: raw["logits"] and all of raw["side_logits"].

    `loss` gets each map [B, T', h, w] as the "logits" of a dict. One that is smaller than the target
    [B, T', H, W] is compared with the target's maxima over H/h x W/w pixels. Raises UserError where the model
    gives no side maps.
    """
    if "side_logits" not in raw:
        raise UserError("this model gives no side maps to average over: set loss_options.sides to False")
    per_map = [loss({"logits": raw["logits"]}, target)]
    for logits in raw["side_logits"]:
        per_map.append(loss({"logits": logits}, adaptive_max_pool2d(target.float(), logits.shape[-2:])))
    return {name: torch.stack([terms[name] for terms in per_map]).mean() for name in per_map[0]}
