"""HAM and HPM: focal losses over the target and a few mined clutter pixels.

Source: DTUM (TNNLS 2023) and DeepPro (arXiv 2506.12766), `HAMloss` and `HPMloss` of its code.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, max_pool2d

from loss.inputs import logits_and_target
from loss.terms import named_terms
from utils.errors import UserError
from utils.recipe.fields import Facts
from utils.registry import register_loss

RANKED = 200  # clutter pixels that are ranked by their loss
FIRST_RANK, NUM_RANKS = 20, 130  # hard pixels are drawn from ranks 20..149


class HardMiningLoss(nn.Module):
    """Sum of a focal term over chosen pixels; nothing is divided, so the loss grows with batch and clip.

    Chosen are the target pixels and, per clip and in all its frames, `max_clutter` clutter pixels: a quarter
    hard ones, drawn from ranks 20..149 of the cross-entropy summed over time, and the rest drawn from
    anywhere. Clutter within `protected_area` pixels of a target counts in no frame.

    Random numbers come from the global CPU generator in the published order: one permutation of 130 for the
    batch, then one permutation of H * W per clip.

    alpha:     weights of the focal term on background and on target pixels
    gamma:     focal exponent; the focal factors are constants for the gradient
    per_frame: mine every frame by itself, as HAM does in DeepPro-Plus for moving scenes, not the whole clip
    """

    spread = 0  # pixels by which the choice grows in every direction of its frame

    def __init__(
        self,
        alpha: Annotated[tuple[float, float], Facts("weights", at_least=0, at_most=1e6)] = (0.1667, 0.8333),
        gamma: Annotated[float, Facts("focal exponent", at_least=0, at_most=100)] = 2.0,
        max_clutter: Annotated[int, Facts("clutter pixels of a clip", at_least=0, at_most=10_000)] = 39,
        protected_area: Annotated[int, Facts("pixels around a target", at_least=0, at_most=100)] = 2,
        per_frame: bool = False,
    ):
        super().__init__()
        self.alpha_background, self.alpha_target = alpha
        self.gamma = gamma
        self.num_hard = round(max_clutter / 4)
        self.num_easy = max_clutter - self.num_hard
        self.protected_area = protected_area
        self.per_frame = per_frame

    def forward(self, raw: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """raw["logits"] and target in {0, 1}: [B, T', H, W]. Returns {"loss": scalar}.

        Raises UserError for frames of fewer than 200 pixels.
        """
        logits, target = logits_and_target(raw, target)
        if self.per_frame:
            logits, target = (x.flatten(0, 1).unsqueeze(1) for x in (logits, target))  # [B * T', 1, H, W]
        return named_terms((self.focal_terms(logits, target) * self.choose(logits.detach(), target)).sum())

    def focal_terms(self, logits: Tensor, target: Tensor) -> Tensor:
        """The focal term of every pixel, [B, T', H, W]."""
        probability = torch.sigmoid(logits.detach())
        on_target = self.alpha_target * (1 - probability) ** self.gamma * target
        on_background = self.alpha_background * probability**self.gamma * (1 - target)
        return -on_target * logsigmoid(logits) - on_background * logsigmoid(-logits)

    def choose(self, logits: Tensor, target: Tensor) -> Tensor:
        """1 where the focal term counts, else 0; [B, T', H, W]."""
        outside = 1 - grow(target, self.protected_area)
        clutter_loss = binary_cross_entropy_with_logits(logits, target, reduction="none") * outside
        clutter = self.draw_clutter(clutter_loss.sum(1))  # [B, 1, H, W]
        chosen = (clutter * outside + target > 0).to(logits)
        return grow(chosen, self.spread)

    def draw_clutter(self, loss: Tensor) -> Tensor:
        """Mark the hard and the easy pixels of each clip by its loss map [B, H, W]; returns [B, 1, H, W]."""
        batch, height, width = loss.shape
        if height * width < RANKED:
            raise UserError(
                f"HAM and HPM rank {RANKED} pixels, but these frames are {height}x{width}: use larger frames"
            )
        hard_ranks = (FIRST_RANK + torch.randperm(NUM_RANKS))[: self.num_hard]
        easy = torch.stack([torch.randperm(height * width)[: self.num_easy] for _ in range(batch)])

        ranked = loss.flatten(1).topk(RANKED).indices  # [B, 200], hardest first
        pixels = torch.cat([ranked[:, hard_ranks.to(loss.device)], easy.to(loss.device)], dim=1)
        marks = torch.zeros_like(loss).flatten(1).scatter_(1, pixels, 1)
        return marks.view(batch, 1, height, width)


def grow(marks: Tensor, radius: int) -> Tensor:
    """Each pixel's maximum over the square of side 2 * radius + 1 around it, per frame of [B, T', H, W]."""
    return max_pool2d(marks, 2 * radius + 1, stride=1, padding=radius)


@register_loss("HPM")
class HPMLoss(HardMiningLoss):
    """Hard point mining: the target and the mined pixels alone."""


@register_loss("HAM")
class HAMLoss(HardMiningLoss):
    """Hard-aware mining: the target and the mined pixels, spread over 5x5 pixels."""

    spread = 2
