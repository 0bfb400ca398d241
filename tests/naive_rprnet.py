"""RPRNet written the obvious way, module by module as published.

27 sampled copies of the input per deformable convolution, offsets for every axis, upsampling before every 1x1
convolution, nothing folded. The reference for outputs, gradients, speed and memory. Its parameter names are
those of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import nn


class NaiveDeformableConv3d(nn.Module):
    def __init__(self, ci, co, stride, max_disp_xy, max_disp_t):
        super().__init__()
        self.stride, self.max_disp_xy, self.max_disp_t = stride, max_disp_xy, max_disp_t
        self.weight = nn.Parameter(torch.randn(co, ci, 27))
        self.offset_conv = nn.Conv3d(ci, 81, 3, stride, 1)

    def forward(self, x):
        offset = torch.tanh(self.offset_conv(x)).unflatten(1, (27, 3))  # [B, 27, xyz, D, H', W']
        padded = F.pad(x, (1,) * 6)
        depth, height, width = padded.shape[2:]
        d, i, j = (
            torch.arange(n, dtype=x.dtype, device=x.device) * s
            for n, s in zip(offset.shape[3:], self.stride, strict=True)
        )
        samples = []
        for k in range(27):
            kz, ky, kx = k // 9, k // 3 % 3, k % 3  # positions in the padded input
            dx, dy, dz = offset[:, k].unbind(1)
            grid = torch.stack(
                [
                    2 * (j + kx + self.max_disp_xy * dx) / (width - 1) - 1,
                    2 * (i[:, None] + ky + self.max_disp_xy * dy) / (height - 1) - 1,
                    2 * (d[:, None, None] + kz + self.max_disp_t * dz) / (depth - 1) - 1,
                ],
                dim=-1,
            )
            samples.append(F.grid_sample(padded, grid, align_corners=True))
        stacked = torch.stack(samples, dim=2)  # [B, C, 27, D, H', W']
        out = torch.matmul(self.weight.flatten(1), stacked.flatten(3).flatten(1, 2))
        return out.unflatten(2, stacked.shape[3:])


class DeformableBlock(nn.Module):
    def __init__(self, ci, co, stride, max_disp_xy, max_disp_t):
        super().__init__()
        self.conv = NaiveDeformableConv3d(ci, co, stride, max_disp_xy, max_disp_t)
        self.bn = nn.BatchNorm3d(co)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class ResidualBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv3d(c, c, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm3d(c), nn.BatchNorm3d(c)

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class ChannelAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        gate = torch.sigmoid(self.conv(x.mean((2, 3, 4))[:, None]))
        return x * gate[:, 0, :, None, None, None]


def stage(ci, co, stride, max_disp_xy, max_disp_t):
    return nn.Sequential(
        DeformableBlock(ci, co, stride, max_disp_xy, max_disp_t), ResidualBlock(co), ChannelAttention()
    )


class NaiveUpsampler(nn.Module):
    def __init__(self, c, groups=4):
        super().__init__()
        self.groups = groups
        self.offset = nn.Conv2d(c, 32, 1)
        self.ir_gate = nn.Sequential(nn.Conv2d(c, c // 4, 1), nn.ReLU(), nn.Conv2d(c // 4, 32, 1))
        place = torch.tensor([-0.25, 0.25])
        across = place.expand(groups, 2, 2)  # [group, sub-row, sub-column]
        self.register_buffer("init_pos", torch.stack([across, across.transpose(1, 2)]).reshape(1, 32, 1, 1))

    def forward(self, x):
        height, width = x.shape[2:]
        delta = 0.25 * self.offset(x) * 2 * torch.sigmoid(self.ir_gate(x)) + self.init_pos
        delta = F.pixel_shuffle(delta, 2).unflatten(1, (2, self.groups))  # [B, xy, group, 2H, 2W]
        rows = torch.arange(height, dtype=x.dtype, device=x.device).repeat_interleave(2)[:, None]
        cols = torch.arange(width, dtype=x.dtype, device=x.device).repeat_interleave(2)
        grid = torch.stack(
            [(2 * (cols + delta[:, 0]) + 1) / width - 1, (2 * (rows + delta[:, 1]) + 1) / height - 1], dim=-1
        )
        sampled = F.grid_sample(
            x.unflatten(1, (self.groups, -1)).flatten(0, 1),
            grid.flatten(0, 1),
            padding_mode="border",
            align_corners=False,
        )
        return sampled.view(len(x), -1, 2 * height, 2 * width)


class DownBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(c)

    def forward(self, x):
        return F.silu(self.norm(self.conv(x)))


class Head(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.block1, self.block2, self.block3 = (DownBlock(c) for _ in range(3))
        for name in ("up1", "up2", "up22", "up3", "up33", "up333"):
            setattr(self, name, NaiveUpsampler(c))
        self.out0, self.out1, self.out2, self.out3 = (nn.Conv2d(c, 1, 1) for _ in range(4))
        self.fuse = nn.Conv2d(4, 1, 1)
        self.gamma = nn.Parameter(torch.zeros(4))

    def forward(self, x0):
        x1 = self.block1(x0)
        x2 = self.block2(x1)
        x3 = self.block3(x2)
        sides = [
            self.out0(x0),
            self.out1(self.up1(x1)),
            self.out2(self.up22(self.up2(x2))),
            self.out3(self.up333(self.up33(self.up3(x3)))),
        ]
        share = torch.softmax(self.gamma, 0)
        main = self.fuse(torch.cat(sides, 1)) + sum(g * s for g, s in zip(share, sides, strict=True))
        return main, sides


class NaiveRPRNet(nn.Module):
    """forward(clip) is (main, four sides), each [B, 1, H, W] before the sigmoid; sizes as published only."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Module()
        self.stem.block = nn.Sequential(
            nn.Conv3d(3, 32, 3, padding=1, bias=False), nn.BatchNorm3d(32), nn.ReLU()
        )
        self.stage1 = stage(32, 64, (1, 2, 2), 0.5, 0.0)
        self.stage2 = stage(64, 128, (2, 1, 1), 0.0, 0.5)
        self.stage3 = stage(128, 256, (1, 1, 1), 0.0, 0.0)
        self.pooling3d = nn.MaxPool3d((3, 1, 1))
        self.out_conv = nn.Conv3d(256, 256, 1, bias=False)
        self.out_bn = nn.BatchNorm3d(256)
        self.IRGSM_SAMPLE = NaiveUpsampler(256)
        self.MultiScaleSegHead = Head(256)

    def forward(self, clip):
        x = self.pooling3d(self.stage3(self.stage2(self.stage1(self.stem.block(clip)))))
        x = F.relu(self.out_bn(self.out_conv(x))).squeeze(2)
        return self.MultiScaleSegHead(self.IRGSM_SAMPLE(x))
