"""ResUNet-DTUM written the obvious way, module by module as published.

3-D convolutions and norms, pooling with the places of the maxima, each frame by itself, nothing folded. The
reference for outputs and gradients. Its parameter names are those of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, ci, co):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ci, co, 3, padding=1), nn.BatchNorm2d(co)
        self.conv2, self.bn2 = nn.Conv2d(co, co, 3, padding=1), nn.BatchNorm2d(co)
        self.shortcut = None
        if ci != co:
            self.shortcut = nn.Sequential(nn.Conv2d(ci, co, 1), nn.BatchNorm2d(co))

    def forward(self, x):
        side = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + side)


class NaiveResUNet(nn.Module):
    def __init__(self, ci, co, width):
        super().__init__()
        w0, w1, w2, w3 = width, 2 * width, 4 * width, 8 * width
        self.pool = nn.MaxPool2d(2, 2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv0_0 = nn.Sequential(Block(ci, w0))
        self.conv1_0 = nn.Sequential(Block(w0, w1), Block(w1, w1))
        self.conv2_0 = nn.Sequential(Block(w1, w2), Block(w2, w2))
        self.conv3_0 = nn.Sequential(Block(w2, w3), Block(w3, w3))
        self.conv2_1 = nn.Sequential(Block(w2 + w3, w2))
        self.conv1_2 = nn.Sequential(Block(w1 + w2, w1))
        self.conv0_3 = nn.Sequential(Block(w0 + w1, w0))
        self.final = nn.Conv2d(w0, co, 1)

    def forward(self, x):
        x00 = self.conv0_0(x)
        x10 = self.conv1_0(self.pool(x00))
        x20 = self.conv2_0(self.pool(x10))
        x30 = self.conv3_0(self.pool(x20))
        x21 = self.conv2_1(torch.cat([x20, self.up(x30)], 1))
        x12 = self.conv1_2(torch.cat([x10, self.up(x21)], 1))
        x03 = self.conv0_3(torch.cat([x00, self.up(x12)], 1))
        return self.final(x03)


class NaiveDTUM(nn.Module):
    def __init__(self, detach, c=32):
        super().__init__()
        self.detach = detach
        for level in "1234":
            setattr(self, f"conv{level}_1", nn.Conv3d(c, c, (5, 1, 1), padding=(2, 0, 0)))
            setattr(self, f"bn{level}_1", nn.BatchNorm3d(c))
        for level, padding in (("3", 2), ("2", 2), ("1", 0)):
            setattr(self, f"conv{level}_2", nn.Conv3d(2 * c, c, (5, 1, 1), padding=(padding, 0, 0)))
            setattr(self, f"bn{level}_2", nn.BatchNorm3d(c))
        self.bn0 = nn.BatchNorm3d(c)
        self.final = nn.Sequential(
            nn.Conv3d(2 * c, c, (1, 3, 3), padding=(0, 1, 1)),
            nn.BatchNorm3d(c),
            nn.ReLU(),
            nn.Dropout3d(0.5),
            nn.Conv3d(c, 1, 1),
        )

    def forward(self, features):
        up = nn.Upsample(scale_factor=(1, 2, 2))
        x = F.relu(self.bn0(features))
        x1 = F.relu(self.bn1_1(self.conv1_1(x)))
        x2 = F.relu(self.bn2_1(self.conv2_1(direction_pool(x1)).abs()))
        x3 = F.relu(self.bn3_1(self.conv3_1(direction_pool(x2)).abs()))
        x4 = F.relu(self.bn4_1(self.conv4_1(direction_pool(x3)).abs()))
        o3 = F.relu(self.bn3_2(self.conv3_2(torch.cat([up(x4), x3], 1))))
        o2 = F.relu(self.bn2_2(self.conv2_2(torch.cat([up(o3), x2], 1))))
        if self.detach:
            o2 = o2.detach()
        o1 = F.relu(self.bn1_2(self.conv1_2(torch.cat([up(o2), x1], 1))))
        return self.final(torch.cat([o1, x[:, :, 4:5]], 1))


def direction_pool(x):
    pooled, place = F.max_pool3d(x, (1, 2, 2), (1, 2, 2), return_indices=True)
    height, width = x.shape[-2:]
    row, col = place % (height * width) // width % 2, place % width % 2
    return pooled * (2.0 * row + col - 1.5).to(x)


class NaiveResUNetDTUM(nn.Module):
    """forward(clip [B, 3, 5, H, W]) is the logits [B, 1, 1, H, W]; H and W multiples of 8."""

    def __init__(self, detach=True):
        super().__init__()
        self.UNet, self.DTUM = NaiveResUNet(3, 32, 8), NaiveDTUM(detach)

    def forward(self, clip):
        features = {t: self.UNet(clip[:, :, t]) for t in (4, 3, 2, 1, 0)}
        return self.DTUM(torch.stack([features[t] for t in range(5)], 2))
