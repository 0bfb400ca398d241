"""DNANet: a U-Net on one frame with nested columns, in which every scale meets its neighbours repeatedly.

"Dense Nested Attention Network for Infrared Small Target Detection", TIP 2023, as in BasicIRSTD.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.residual_attention import BLOCK_RENAME, attention_blocks, resize
from model.layers.single_frame import BASIC_IRSTD_RECIPE, frame_of, pad_to_sixteens
from utils.registry import register_model

CHANNELS = (16, 32, 64, 128, 256)  # by depth; the scale of depth i is 1 / 2^i


def inputs_of(i: int, j: int) -> int:
    """The number of channels that node (i, j) sees."""
    shallower = CHANNELS[i - 1] if i else 0
    if j == 0:
        return shallower or 1
    return j * CHANNELS[i] + CHANNELS[i + 1] + shallower


class DNANet(nn.Module):
    """The published network of one frame.

    Node (i, j) at depth i in column j sees the nodes of its depth in all columns before, the deeper node of
    the column before and the shallower node of its own column.
    """

    def __init__(self, deep_supervision: bool):
        super().__init__()
        self.nodes = nn.ModuleDict()
        for j in range(5):
            for i in range(5 - j):
                blocks = attention_blocks(inputs_of(i, j), CHANNELS[i], number=2 if i else 1)
                self.nodes[f"{i}_{j}"] = blocks
        self.lateral = nn.ModuleList(nn.Conv2d(channels, 16, 1) for channels in CHANNELS[1:])
        self.gather = attention_blocks(5 * 16, 16, number=1)
        self.final = nn.Conv2d(16, 1, 1)
        self.sides = nn.ModuleList(nn.Conv2d(16, 1, 1) for _ in range(3 if deep_supervision else 0))

    def forward(self, clip: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """clip: float32 [B, 1, 1, H, W], of any size, see pad_to_sixteens.

        Returns, before the sigmoids that the published network ends with, the "logits" [B, 1, H, W] and, with
        deep supervision, "side_logits", a list of three such maps, of the columns 1 to 3.
        Raises UserError for clips of another shape.
        """
        frame = frame_of("DNANet", clip)
        height, width = frame.shape[-2:]
        x = self.features(pad_to_sixteens(frame))
        last = [resize(conv(x[i, 4 - i]), 2**i) for i, conv in enumerate(self.lateral, start=1)]
        logits = self.final(self.gather(torch.cat([*reversed(last), x[0, 4]], dim=1)))
        raw = {"logits": logits[..., :height, :width]}
        if self.sides:
            sides = (conv(x[0, j]) for j, conv in enumerate(self.sides, start=1))
            raw["side_logits"] = [side[..., :height, :width] for side in sides]
        return raw

    def features(self, frame: Tensor) -> dict[tuple[int, int], Tensor]:
        """The features [B, CHANNELS[i], H / 2^i, W / 2^i] of each node (i, j)."""
        x = {(0, 0): self.nodes["0_0"](frame)}
        for i in range(1, 5):
            x[i, 0] = self.nodes[f"{i}_0"](F.max_pool2d(x[i - 1, 0], 2))
        for j in range(1, 5):
            for i in range(5 - j):
                seen = [x[i, before] for before in range(j)]
                seen.append(resize(x[i + 1, j - 1], 2))
                if i:
                    seen.append(resize(x[i - 1, j], 0.5))
                x[i, j] = self.nodes[f"{i}_{j}"](torch.cat(seen, dim=1))
        return x

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, 1, H, W] in 0..1."""
        return torch.sigmoid(raw["logits"])


# ---------------------------------------------------------------- recipe, published names, entry point

RECIPE = {
    **BASIC_IRSTD_RECIPE,
    "optimisation": {
        **BASIC_IRSTD_RECIPE["optimisation"],
        "loss_options": {**BASIC_IRSTD_RECIPE["optimisation"]["loss_options"], "sides": True},
    },
}

RENAME = {
    r"conv(\d_\d)\.": r"nodes.\1.",
    r"conv0_4_final\.": "gather.",
    r"conv0_1_1x1\.": "lateral.0.",
    r"conv0_2_1x1\.": "lateral.1.",
    r"conv0_3_1x1\.": "lateral.2.",
    r"conv0_4_1x1\.": "lateral.3.",
    r"final1\.": "sides.0.",
    r"final2\.": "sides.1.",
    r"final3\.": "sides.2.",
    r"final4\.": "final.",
    **BLOCK_RENAME,
}


@register_model("DNANet", recipe=RECIPE, rename=RENAME)
def dnanet(deep_supervision: bool = True) -> DNANet:
    """deep_supervision: side maps for a loss with sides=True; without them it is the DNANet of TSMSA."""
    return DNANet(deep_supervision)
