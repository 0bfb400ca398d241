"""DeepPro and DeepPro-Plus written the obvious way, module by module as the paper draws them.

The reference for speed and for outputs: Conv3d + BatchNorm3d + Linear, nothing folded, nothing reused.
Its parameter names are those of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import nn


class TemporalDifference(nn.Conv3d):
    def forward(self, x):
        w = self.weight
        after = torch.cat([w[:, :, 1:], w[:, :, -1:]], dim=2)
        before = torch.cat([w[:, :, :1], w[:, :, :-1]], dim=2)
        return F.conv3d(x, 2 * w - after - before, self.bias, 1, self.padding, self.dilation)


class SpatialDifference(nn.Conv3d):
    def forward(self, x):
        centre = (self.kernel_size[-1] - 1) // 2
        w = -self.weight
        tap = torch.zeros_like(w)
        tap[..., centre, centre] = 1
        w = w * (1 - tap) + tap * self.weight.sum(dim=(3, 4), keepdim=True)
        return F.conv3d(x, w, self.bias, 1, self.padding, self.dilation)


class Block(nn.Module):
    def __init__(self, ci, co, spatial):
        super().__init__()
        if spatial:
            self.conv1 = TemporalDifference(ci, co, 3, padding=(2, 1, 1), dilation=(2, 1, 1))
            self.conv2 = SpatialDifference(co, co, 3, padding=(1, 2, 2), dilation=(1, 2, 2))
        else:
            self.conv1 = TemporalDifference(ci, co, (3, 1, 1), padding=(2, 0, 0), dilation=(2, 1, 1))
            self.conv2 = nn.Conv3d(co, co, (3, 1, 1), padding=(1, 0, 0))
        self.conv3 = nn.Conv3d(co, co, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm3d(co), nn.BatchNorm3d(co), nn.BatchNorm3d(co)
        self.shortcut = nn.Sequential(nn.Conv3d(ci, co, 1), nn.BatchNorm3d(co))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class TPro(nn.Module):
    def __init__(self, length, heads, width=32):
        super().__init__()
        self.QK_heads = nn.ModuleList(nn.Linear(length, length) for _ in range(heads))
        self.norm1 = nn.BatchNorm3d(width)
        self.conv = nn.Sequential(nn.Conv3d(width, width, 1), nn.BatchNorm3d(width))
        self.length = length

    def forward(self, x):
        x = x.permute(0, 3, 4, 1, 2) / self.length**0.5  # [B, H, W, C, L]
        groups = x.chunk(len(self.QK_heads), dim=3)
        x = torch.cat([head(g) for head, g in zip(self.QK_heads, groups, strict=True)], dim=3)
        x = F.relu(self.norm1(x.permute(0, 3, 4, 1, 2)))
        return F.relu(self.conv(x))


def conv_bn_relu(ci, co, kernel=1, padding=0, conv=nn.Conv3d):
    return nn.Sequential(conv(ci, co, kernel, padding=padding), nn.BatchNorm3d(co), nn.ReLU())


def upsample(x, size):
    b, c, t, h, w = x.shape
    x = F.interpolate(x.reshape(b, c * t, h, w), size=size, mode="bilinear", align_corners=True)
    return x.view(b, c, t, *size)


class NaiveDeepPro(nn.Module):
    def __init__(self, length=40):
        super().__init__()
        pool = nn.MaxPool3d((1, 2, 2))
        self.conv_in = conv_bn_relu(1, 8, (5, 1, 1), (2, 0, 0))
        self.layer1 = nn.Sequential(Block(8, 16, False), Block(16, 32, False))
        self.layer2 = nn.Sequential(pool, Block(8, 16, False), Block(16, 32, False))
        self.layer3 = nn.Sequential(pool, Block(8, 16, False), pool, Block(16, 32, False))
        self.TPro1, self.TPro2, self.TPro3 = (TPro(length, 4) for _ in range(3))
        self.conv_out1_1, self.conv_out1_2, self.conv_out1_3 = (conv_bn_relu(32, 8) for _ in range(3))
        self.conv_out2 = conv_bn_relu(24, 8)
        self.final = nn.Conv3d(8, 1, 1)

    def forward(self, clip):
        x = self.conv_in(clip)
        levels = [
            self.conv_out1_1(self.TPro1(self.layer1(x))),
            self.conv_out1_2(self.TPro2(self.layer2(x))),
            self.conv_out1_3(self.TPro3(self.layer3(x))),
        ]
        features = self.conv_out2(torch.cat([upsample(level, clip.shape[-2:]) for level in levels], 1))
        return features, self.final(features).squeeze(1)


class NaiveDeepProPlus(nn.Module):
    def __init__(self, length=40):
        super().__init__()
        self.conv_in = conv_bn_relu(1, 8, (5, 7, 7), (2, 3, 3), SpatialDifference)
        self.layer1 = nn.Sequential(Block(8, 16, True), Block(16, 32, True))
        self.TPro = TPro(length, 8)
        self.conv_out1 = conv_bn_relu(32, 8)
        self.conv_out2 = nn.Conv3d(8, 1, 1)

    def forward(self, clip):
        features = self.conv_out1(self.TPro(self.layer1(self.conv_in(clip))))
        return features, self.conv_out2(features).squeeze(1)


class NaiveDeepProPlusMoving(nn.Module):
    def __init__(self, length=40):
        super().__init__()
        pool = nn.MaxPool3d((1, 2, 2))
        self.conv_in = conv_bn_relu(1, 8, (5, 7, 7), (2, 3, 3), SpatialDifference)
        self.layer1 = nn.Sequential(pool, Block(8, 16, True), Block(16, 32, True))
        self.layer2 = nn.Sequential(pool, Block(16, 32, True))
        self.TATT1, self.TATT2 = TPro(length, 8), TPro(length, 8)
        self.conv_out1_1, self.conv_out1_2 = conv_bn_relu(32, 8), conv_bn_relu(32, 8)
        self.conv_out2 = conv_bn_relu(16, 8)
        self.final = nn.Conv3d(8, 1, 1)

    def forward(self, clip):
        half = self.layer1[:2](self.conv_in(clip))
        levels = [
            self.conv_out1_1(self.TATT1(self.layer1[2](half))),
            self.conv_out1_2(self.TATT2(self.layer2(half))),
        ]
        features = self.conv_out2(torch.cat([upsample(level, clip.shape[-2:]) for level in levels], 1))
        return features, self.final(features).squeeze(1)
