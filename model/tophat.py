"""White top-hat: the parameter-free single-frame baseline."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import UserError
from utils.recipe.fields import Facts
from utils.registry import register_model


class TopHat(nn.Module):
    """Bright details smaller than a square of `size` pixels, judged against their own frame.

    The logit is (top-hat - mean) / std - threshold with mean and std over the frame's top-hat image, so that
    probability 0.5 is the usual adaptive threshold mean + threshold * std.
    """

    def __init__(self, size: int = 7, threshold: float = 5.0):
        super().__init__()
        if size < 3 or size % 2 == 0:
            raise UserError(f"TopHat needs an odd size of at least 3, not {size}")
        self.size, self.threshold = size, threshold

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """clip [B, 1, T, H, W] of gray values in any scale. Returns logits [B, T, H, W].

        Raises UserError for another number of channels.
        """
        if clip.ndim != 5 or clip.shape[1] != 1:
            raise UserError(
                f"TopHat takes clips [B, 1, T, H, W] but got {list(clip.shape)}; set view.channels to 1"
            )
        frames = clip[:, 0]
        detail = frames - self._dilate(-self._dilate(-frames))
        std, mean = torch.std_mean(detail, dim=(2, 3), keepdim=True, correction=0)
        return {"logits": (detail - mean) / std.clamp_min(1e-6) - self.threshold}

    def _dilate(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.size, stride=1, padding=self.size // 2)

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, T, H, W] in 0..1."""
        return torch.sigmoid(raw["logits"])


RECIPE = {"view": {"frames": 1, "key": "all", "channels": 1}}
RENAME = {}


@register_model("TopHat", recipe=RECIPE, rename=RENAME)
def tophat(
    size: Annotated[int, Facts("side of the square in pixels, odd", at_least=3, at_most=255)] = 7,
    threshold: Annotated[float, Facts("standard deviations", at_least=-1e6, at_most=1e6)] = 5.0,
) -> TopHat:
    return TopHat(size, threshold)
