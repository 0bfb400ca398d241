"""RDIAN: residual branches of four kernel sizes on one frame, guided by its differences in eight directions.

"Receptive-Field and Direction Induced Attention Network for Infrared Dim Small Target Detection With a
Large-Scale Dataset IRDST", TGRS 2023.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm
from model.layers.single_frame import BASIC_IRSTD_RECIPE, FCN_HEAD_RENAME, FCNHead, frame_of
from utils.registry import register_model

DIRECTIONS = ((-2, -2), (-2, 0), (-2, 2), (0, 2))  # row and column offsets; the other four are opposite


def direction_map(frame: Tensor) -> Tensor:
    """Near 1 where a pixel differs alike from pixels on opposite sides of it; [B, 1, H, W] both.

    Published as eight convolutions with fixed 5x5 kernels. Beyond the border are zeros.
    """
    height, width = frame.shape[-2:]
    padded = F.pad(frame, (2, 2, 2, 2))

    def difference(row: int, column: int) -> Tensor:
        return frame - padded[..., 2 + row : 2 + row + height, 2 + column : 2 + column + width]

    return torch.sigmoid(sum(difference(r, c) * difference(-r, -c) for r, c in DIRECTIONS))


class LeakyConv(ConvNorm):
    """Convolution of an odd size, zero-padded; batch norm; LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1):
        conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x))


class ResidualUnit(nn.Module):
    """Two convolutions through 16 of the 32 channels, and the input added."""

    def __init__(self, size: int):
        super().__init__()
        self.conv1, self.conv2 = LeakyConv(32, 16, size), LeakyConv(16, 32, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class CBAM(nn.Module):
    """Convolutional block attention: x [B, C, h, w] times a gate per channel, then times a gate per pixel."""

    def __init__(self, channels: int, middle: int):
        super().__init__()
        self.channel_gate = nn.Sequential(
            nn.Linear(channels, middle), nn.ReLU(inplace=True), nn.Linear(middle, channels)
        )
        conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.spatial_gate = ConvNorm(conv, nn.BatchNorm2d(1, momentum=0.01))

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3)), x.amax((2, 3))
        x = x * torch.sigmoid(sum(map(self.channel_gate, pooled)))[..., None, None]
        pooled = x.amax(1, keepdim=True), x.mean(1, keepdim=True)
        return x * torch.sigmoid(self.spatial_gate(torch.cat(pooled, dim=1)))


class RDIAN(nn.Module):
    """The published network of one frame.

    The weights that its authors publish (params/best.pth) want gray values / 255 with mean -0.1246 and std
    1.0923: clip.gray_scale=255 clip.mean=-0.1246 clip.std=1.0923.
    """

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = LeakyConv(1, 16, 3), LeakyConv(16, 32, 3, stride=2)
        self.branches = nn.ModuleList(
            nn.Sequential(*(ResidualUnit(size) for _ in range(number)))
            for size, number in ((1, 1), (3, 2), (5, 2), (7, 2))
        )
        self.mix = LeakyConv(4 * 32, 32, 3)
        self.attention = CBAM(32, middle=1)
        self.skip = LeakyConv(16, 32, 1)
        self.head = FCNHead(32)

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """clip: float32 [B, 1, 1, H, W], of any size.

        Returns the "logits" [B, 1, H, W], before the sigmoid that BasicIRSTD adds.
        Raises UserError for clips of another shape.
        """
        frame = frame_of("RDIAN", clip)
        fine = self.conv1(frame)  # [B, 16, H, W]
        half = self.conv2(fine * (1 + direction_map(frame)))  # [B, 32, H/2, W/2]
        x = self.attention(self.mix(torch.cat([branch(half) for branch in self.branches], dim=1)))
        x = F.interpolate(x, frame.shape[-2:], mode="bilinear")
        return {"logits": self.head(F.relu_(x + self.skip(fine)))}

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, 1, H, W] in 0..1."""
        return torch.sigmoid(raw["logits"])


# ---------------------------------------------------------------- published names, entry point

RENAME = {
    r"d1[1-8]\.weight$": None,  # the fixed kernels of direction_map
    r"residual_block(\d)\.(\d)\.layer([12])\.0\.": r"branches.\1.\2.conv\3.conv.",
    r"residual_block(\d)\.(\d)\.layer([12])\.1\.": r"branches.\1.\2.conv\3.norm.",
    r"cbam\.ChannelGate\.mlp\.1\.": "attention.channel_gate.0.",
    r"cbam\.ChannelGate\.mlp\.3\.": "attention.channel_gate.2.",
    r"cbam\.SpatialGate\.spatial\.conv\.": "attention.spatial_gate.conv.",
    r"cbam\.SpatialGate\.spatial\.bn\.": "attention.spatial_gate.norm.",
    r"conv_cat\.": "mix.",
    r"conv_res\.": "skip.",
    r"(conv1|conv2|mix|skip)\.0\.": r"\1.conv.",
    r"(conv1|conv2|mix|skip)\.1\.": r"\1.norm.",
    **FCN_HEAD_RENAME,
}


@register_model("RDIAN", recipe=BASIC_IRSTD_RECIPE, rename=RENAME)
def rdian() -> RDIAN:
    return RDIAN()
