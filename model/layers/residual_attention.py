"""The residual block with channel and spatial attention that DNANet and MSHNet are made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm


class ChannelAttention(nn.Module):
    """A gate per channel, [B, C, 1, 1] in 0..1, from its mean and its maximum."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return torch.sigmoid(sum(self.fc2(F.relu(self.fc1(p))) for p in pooled))


class SpatialAttention(nn.Module):
    """A gate per pixel, [B, 1, H, W] in 0..1, from the mean and the maximum over the channels around it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(1, keepdim=True), x.amax(1, keepdim=True)
        return torch.sigmoid(self.conv(torch.cat(pooled, dim=1)))


def conv_norm(inputs: int, outputs: int, size: int) -> ConvNorm:
    """Convolution to the same size, and batch norm."""
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    return ConvNorm(conv, nn.BatchNorm2d(outputs))


class AttentionBlock(nn.Module):
    """Two 3x3 convolutions, channel and spatial attention, and the input added."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.conv2 = conv_norm(inputs, outputs, 3), conv_norm(outputs, outputs, 3)
        self.channel_attention, self.spatial_attention = ChannelAttention(outputs), SpatialAttention()
        self.shortcut = nn.Identity() if inputs == outputs else conv_norm(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu_(self.conv1(x)))
        y = y * self.channel_attention(y)
        y = y * self.spatial_attention(y)
        return F.relu_(y + self.shortcut(x))


def attention_blocks(inputs: int, outputs: int, number: int = 2) -> nn.Sequential:
    """So many blocks, the first of which changes the number of channels."""
    others = (AttentionBlock(outputs, outputs) for _ in range(number - 1))
    return nn.Sequential(AttentionBlock(inputs, outputs), *others)


def resize(x: Tensor, factor: float) -> Tensor:
    """x [B, C, H, W] enlarged or reduced bilinearly, corner pixels on corner pixels."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


BLOCK_RENAME = {  # published names -> ours
    r"(.*)\.ca\.": r"\1.channel_attention.",
    r"(.*)\.sa\.conv1\.": r"\1.spatial_attention.conv.",
    r"(.*)\.conv([12])\.(weight|bias)$": r"\1.conv\2.conv.\3",
    r"(.*)\.bn([12])\.": r"\1.conv\2.norm.",
    r"(.*)\.shortcut\.0\.": r"\1.shortcut.conv.",
    r"(.*)\.shortcut\.1\.": r"\1.shortcut.norm.",
}
