"""Res-UNet: the single-frame U-Net of residual blocks that ResUNet-DTUM and ResUNet-RFR are built on.

Source: the code of DTUM (TNNLS 2023) and of BasicIRSTD; RFR (arXiv 2409.12448) takes it as its head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm

MULTIPLE = 8  # of height and width: three levels below the full resolution


def conv_norm(inputs: int, outputs: int, size: int, folds: bool) -> ConvNorm:
    """Convolution to the same size, and batch norm."""
    return ConvNorm(nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.BatchNorm2d(outputs), folds)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, and a shortcut that is a 1x1 convolution where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int, folds: bool):
        super().__init__()
        self.first, self.second = conv_norm(inputs, outputs, 3, folds), conv_norm(outputs, outputs, 3, folds)
        self.shortcut = nn.Identity() if inputs == outputs else conv_norm(inputs, outputs, 1, folds)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.second(F.relu_(self.first(x))) + self.shortcut(x))


class ResUNet(nn.Module):
    """[B, inputs, H, W] -> [B, outputs, H, W], H and W multiples of 8.

    width: channels at full resolution; they double with each of the three levels below it
    folds: whether eval folds its batch norms, see ConvNorm
    """

    def __init__(self, inputs: int, outputs: int, width: int, folds: bool = True):
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.down0 = ResidualBlock(inputs, width, folds)
        self.down1, self.down2, self.down3 = (
            nn.Sequential(ResidualBlock(above, own, folds), ResidualBlock(own, own, folds))
            for above, own in zip(widths, widths[1:], strict=False)
        )
        self.up2, self.up1, self.up0 = (
            ResidualBlock(3 * widths[level], widths[level], folds) for level in (2, 1, 0)
        )
        self.out = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        full = self.down0(x)  # [B, width, H, W]
        half = self.down1(halve(full))
        quarter = self.down2(halve(half))
        x = self.down3(halve(quarter))  # [B, 8 width, H/8, W/8]
        for level, skip in ((self.up2, quarter), (self.up1, half), (self.up0, full)):
            x = level(torch.cat([skip, double(x)], dim=1))
        return self.out(x)


def halve(x: Tensor) -> Tensor:
    """Half the resolution: the maximum of each 2x2 window."""
    if torch.is_grad_enabled():
        return F.max_pool2d(x, 2)
    rows = torch.maximum(x[..., ::2, :], x[..., 1::2, :])  # in less time, but not where gradients go in ties
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def double(x: Tensor) -> Tensor:
    """Twice the resolution, bilinear between the corners: the result depends on the size of the canvas."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def pad_to_multiple(clip: Tensor) -> Tensor:
    """The clip [..., H, W] with zeros at the right and at the bottom up to multiples of 8.

    Zeros, the mean gray value, are what the published test loaders pad normalised frames with.
    """
    down, right = (-size % MULTIPLE for size in clip.shape[-2:])
    return F.pad(clip, (0, right, 0, down)) if down or right else clip


def published_names(published: str, own: str) -> dict[str, str]:
    """The part of a rename table for a Res-UNet that is called `published` there and `own` in our network."""
    table = {
        rf"{published}\.conv0_0\.0\.": "down0.",
        rf"{published}\.conv(\d)_0\.(\d)\.": r"down\1.\2.",
        rf"{published}\.conv2_1\.0\.": "up2.",
        rf"{published}\.conv1_2\.0\.": "up1.",
        rf"{published}\.conv0_3\.0\.": "up0.",
        rf"{published}\.final\.": "out.",
    }
    block = rf"({own}\.(?:down\d(?:\.\d)?|up\d))"
    return {
        **{pattern: f"{own}.{name}" for pattern, name in table.items()},
        rf"{block}\.conv1\.": r"\1.first.conv.",
        rf"{block}\.bn1\.": r"\1.first.norm.",
        rf"{block}\.conv2\.": r"\1.second.conv.",
        rf"{block}\.bn2\.": r"\1.second.norm.",
        rf"{block}\.shortcut\.0\.": r"\1.shortcut.conv.",
        rf"{block}\.shortcut\.1\.": r"\1.shortcut.norm.",
    }
