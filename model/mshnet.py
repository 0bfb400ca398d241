"""MSHNet: a U-Net on one frame that predicts on four scales and mixes the four predictions.

"Infrared Small Target Detection with Scale and Location Sensitivity", CVPR 2024, of which the loss, SLSIoU,
is the point.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.residual_attention import BLOCK_RENAME, attention_blocks, resize
from model.layers.single_frame import BASIC_IRSTD_RECIPE, frame_of, pad_to_sixteens
from utils.registry import register_model


class MSHNet(nn.Module):
    """The published network of one frame."""

    def __init__(self):
        super().__init__()
        self.conv_init = nn.Conv2d(1, 16, 1)
        self.encoder = nn.ModuleList(
            [
                attention_blocks(16, 16, number=1),
                attention_blocks(16, 32),
                attention_blocks(32, 64),
                attention_blocks(64, 128),
            ]
        )
        self.middle = attention_blocks(128, 256)
        self.decoder = nn.ModuleList(  # like the encoder, finest scale first
            [
                attention_blocks(16 + 32, 16, number=1),
                attention_blocks(32 + 64, 32),
                attention_blocks(64 + 128, 64),
                attention_blocks(128 + 256, 128),
            ]
        )
        self.output = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in (16, 32, 64, 128))
        self.final = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, clip: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """clip: float32 [B, 1, 1, H, W], of any size, see pad_to_sixteens.

        Returns, before any sigmoid, the "logits" [B, 1, H, W] and "side_logits", the four predictions that
        they are mixed from: [B, 1, H / 2^k, W / 2^k] for k = 0..3, sizes rounded up.
        Raises UserError for clips of another shape.
        """
        frame = frame_of("MSHNet", clip)
        height, width = frame.shape[-2:]
        x = self.conv_init(pad_to_sixteens(frame))
        encoded = []
        for stage in self.encoder:
            x = stage(F.max_pool2d(x, 2) if encoded else x)
            encoded.append(x)
        x = self.middle(F.max_pool2d(x, 2))  # [B, 256, H/16, W/16]
        sides = []
        for k in (3, 2, 1, 0):
            x = self.decoder[k](torch.cat([encoded[k], resize(x, 2)], dim=1))
            sides.insert(0, self.output[k](x))  # [B, 1, H / 2^k, W / 2^k]
        logits = self.final(torch.cat([resize(side, 2**k) for k, side in enumerate(sides)], dim=1))
        return {
            "logits": logits[..., :height, :width],
            "side_logits": [s[..., : -(-height >> k), : -(-width >> k)] for k, s in enumerate(sides)],
        }

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, 1, H, W] in 0..1."""
        return torch.sigmoid(raw["logits"])


# ---------------------------------------------------------------- recipe, published names, entry point

RECIPE = {
    **BASIC_IRSTD_RECIPE,
    "optimisation": {
        **BASIC_IRSTD_RECIPE["optimisation"],
        "loss": "SLSIoU",
        "loss_options": {"sides": True},
    },
}

RENAME = {
    r"(encoder|decoder|output)_(\d)\.": r"\1.\2.",
    r"middle_layer\.": "middle.",
    **BLOCK_RENAME,
}


@register_model("MSHNet", recipe=RECIPE, rename=RENAME)
def mshnet() -> MSHNet:
    return MSHNet()
