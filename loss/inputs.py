"""What every loss reads: the logits and a target that fits them."""

from collections.abc import Mapping

import torch
from torch import Tensor


def logits_and_target(raw: Mapping[str, Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """raw["logits"] and `target`, [B, T', H, W], on the logits' device and in at least float32.

    Half-precision logits are widened, because sums over a clip overflow float16.
    Raises ValueError where the shapes differ: broadcasting would give a plausible wrong loss.
    """
    logits = raw["logits"]
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits, target.to(logits)
