"""ACM: a small U-Net on one frame whose skip connections let low and high levels gate each other.

"Asymmetric Contextual Modulation for Infrared Small Target Detection", WACV 2021, in the U-Net form of
BasicIRSTD (ASKCResUNet, 3 blocks per stage), and as TSMSA calls it ACM, with depthwise convolutions.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm
from model.layers.single_frame import (
    BASIC_IRSTD_RECIPE,
    FCN_HEAD_RENAME,
    FCNHead,
    frame_of,
    pad_to_sixteens,
)
from utils.errors import UserError
from utils.recipe.fields import Facts
from utils.registry import register_model

FAST = 0.9  # momentum of the batch norms outside the two branches of residual blocks


def fast_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=FAST)


# ---------------------------------------------------------------- residual blocks


class ResidualBlock(nn.Module):
    """The basic block of ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.conv1, self.conv2 = (ConvNorm(conv, nn.BatchNorm2d(outputs)) for conv in (conv1, conv2))
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.conv2(F.relu_(self.conv1(x))) + self.shortcut(x))


class DepthwiseBlock(nn.Module):
    """TSMSA's block: only a 1x1 convolution mixes the channels."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs)
        conv1 = nn.Conv2d(inputs, outputs, 1)
        conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)
        self.conv1, self.conv2 = (ConvNorm(conv, nn.BatchNorm2d(outputs)) for conv in (conv1, conv2))
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.leaky_relu_(self.conv1(self.depthwise(x))))
        return F.leaky_relu_(y + self.shortcut(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return ConvNorm(nn.Conv2d(inputs, outputs, 1, stride, bias=False), fast_norm(outputs))


BLOCKS = {"residual": ResidualBlock, "depthwise": DepthwiseBlock}


# ---------------------------------------------------------------- asymmetric contextual modulation


def conv_norm(inputs: int, outputs: int, size: int = 1) -> ConvNorm:
    return ConvNorm(nn.Conv2d(inputs, outputs, size, padding=size // 2), fast_norm(outputs))


def gate(channels: int) -> nn.Sequential:
    """Two 1x1 convolutions through a quarter of the channels to values in 0..1."""
    quarter = channels // 4
    return nn.Sequential(
        conv_norm(channels, quarter), nn.ReLU(inplace=True), conv_norm(quarter, channels), nn.Sigmoid()
    )


class AsymmetricFusion(nn.Module):
    """Low-level features are gated by the mean of the high-level ones, and these by the low-level pixels."""

    def __init__(self, channels: int):
        super().__init__()
        self.top_down, self.bottom_up = gate(channels), gate(channels)
        self.post = conv_norm(channels, channels, size=3)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Two maps [B, C, h, w] -> one. Raises UserError for a training batch of one image."""
        if self.top_down[0].norm.training and len(high) == 1:
            raise UserError(
                "ACM cannot train on a batch of one image, of which a batch norm sees one pixel; "
                "set batch_size to 2 or more"
            )
        low_gate = self.top_down(high.mean((2, 3), keepdim=True))
        high_gate = self.bottom_up(low)
        return F.relu_(self.post(2 * (low * low_gate + high * high_gate)))


# ---------------------------------------------------------------- network


class Stem(nn.Module):
    """[B, 1, H, W] -> [B, 16, H/4, W/4]."""

    def __init__(self):
        super().__init__()
        self.norm = fast_norm(1)
        sizes = ((1, 8, 2), (8, 8, 1), (8, 16, 1))
        self.conv1, self.conv2, self.conv3 = (
            ConvNorm(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), fast_norm(outputs))
            for inputs, outputs, stride in sizes
        )

    def forward(self, frame: Tensor) -> Tensor:
        x = self.norm(frame)
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu_(conv(x))
        return F.max_pool2d(x, 3, stride=2, padding=1)


class ACM(nn.Module):
    """The published network of one frame."""

    def __init__(self, block: type[nn.Module]):
        super().__init__()

        def stage(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            others = (block(outputs, outputs) for _ in range(2))
            return nn.Sequential(block(inputs, outputs, stride), *others)

        self.stem = Stem()
        self.layer1, self.layer2, self.layer3 = stage(16, 16), stage(16, 32, 2), stage(32, 64, 2)
        self.deconv2, self.deconv1 = (nn.ConvTranspose2d(2 * c, c, 4, 2, padding=1) for c in (32, 16))
        self.fuse2, self.fuse1 = AsymmetricFusion(32), AsymmetricFusion(16)
        self.uplayer2, self.uplayer1 = stage(32, 32), stage(16, 16)
        self.head = FCNHead(16, momentum=FAST)

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """clip: float32 [B, 1, 1, H, W], of any size, see pad_to_sixteens.

        Returns the "logits" [B, 1, H, W], before the sigmoid that the published network ends with.
        Raises UserError for clips of another shape and for a training batch of one image.
        """
        frame = frame_of("ACM", clip)
        height, width = frame.shape[-2:]
        c1 = self.layer1(self.stem(pad_to_sixteens(frame)))  # [B, 16, H/4, W/4]
        c2 = self.layer2(c1)  # [B, 32, H/8, W/8]
        c3 = self.layer3(c2)  # [B, 64, H/16, W/16]
        x = self.uplayer2(self.fuse2(self.deconv2(c3), c2))
        x = self.uplayer1(self.fuse1(self.deconv1(x), c1))
        logits = F.interpolate(self.head(x), scale_factor=4, mode="bilinear")
        return {"logits": logits[..., :height, :width]}

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, 1, H, W] in 0..1."""
        return torch.sigmoid(raw["logits"])


# ---------------------------------------------------------------- published names, entry point

RENAME = {
    r"stem\.0\.": "stem.norm.",
    r"stem\.1\.": "stem.conv1.conv.",
    r"stem\.2\.": "stem.conv1.norm.",
    r"stem\.4\.": "stem.conv2.conv.",
    r"stem\.5\.": "stem.conv2.norm.",
    r"stem\.7\.": "stem.conv3.conv.",
    r"stem\.8\.": "stem.conv3.norm.",
    r"(.*layer\d\.\d)\.conv1\.0\.": r"\1.depthwise.",
    r"(.*layer\d\.\d)\.conv1\.1\.": r"\1.conv1.conv.",
    r"(.*layer\d\.\d)\.conv2\.0\.": r"\1.conv2.conv.",
    r"(.*layer\d\.\d)\.conv([12])\.weight$": r"\1.conv\2.conv.weight",
    r"(.*layer\d\.\d)\.bn([12])\.": r"\1.conv\2.norm.",
    r"(.*layer\d\.\d)\.downsample\.0\.": r"\1.shortcut.conv.",
    r"(.*layer\d\.\d)\.downsample\.1\.": r"\1.shortcut.norm.",
    r"(fuse\d)\.topdown\.1\.": r"\1.top_down.0.conv.",
    r"(fuse\d)\.topdown\.2\.": r"\1.top_down.0.norm.",
    r"(fuse\d)\.topdown\.4\.": r"\1.top_down.2.conv.",
    r"(fuse\d)\.topdown\.5\.": r"\1.top_down.2.norm.",
    r"(fuse\d)\.bottomup\.0\.": r"\1.bottom_up.0.conv.",
    r"(fuse\d)\.bottomup\.1\.": r"\1.bottom_up.0.norm.",
    r"(fuse\d)\.bottomup\.3\.": r"\1.bottom_up.2.conv.",
    r"(fuse\d)\.bottomup\.4\.": r"\1.bottom_up.2.norm.",
    r"(fuse\d)\.post\.0\.": r"\1.post.conv.",
    r"(fuse\d)\.post\.1\.": r"\1.post.norm.",
    **FCN_HEAD_RENAME,
}


@register_model("ACM", recipe=BASIC_IRSTD_RECIPE, rename=RENAME)
def acm(
    blocks: Annotated[str, Facts("of the encoder", choices=tuple(BLOCKS))] = "residual",
) -> ACM:
    """blocks: "residual", or "depthwise" as in TSMSA's tables."""
    return ACM(BLOCKS[blocks])
