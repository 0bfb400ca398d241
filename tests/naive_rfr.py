"""ResUNet-RFR written the obvious way, frame by frame and module by module as published.

The deformable convolution gathers each tap by grid_sample, the cosine transform is written as sums. The
reference for outputs and gradients. Its parameter names are those of the published checkpoints, without the
"model." in front of them.
"""

import math

import torch
import torch.nn.functional as F
from naive_dtum import NaiveResUNet
from torch import nn

C = 16


def conv(ci, co=C, size=3, stride=1):
    return nn.Conv2d(ci, co, size, stride, size // 2)


def up(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class NaiveDCN(nn.Module):
    """Modulated deformable convolution v2; 4 groups of 4 input channels."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(C, C, 3, 3)), nn.Parameter(torch.randn(C))
        self.conv_offset = conv(C, 108)

    def forward(self, x, feature):
        batch, _, height, width = x.shape
        raw = self.conv_offset(feature)
        offsets = raw[:, :72].view(batch, 4, 9, 2, height, width)
        masks = torch.sigmoid(raw[:, 72:]).view(batch, 4, 9, 1, height, width)
        rows = torch.arange(height, dtype=x.dtype)[:, None]
        cols = torch.arange(width, dtype=x.dtype)
        out = self.bias[:, None, None]
        for group in range(4):
            channels = slice(4 * group, 4 * group + 4)
            for tap in range(9):
                y = rows + tap // 3 - 1 + offsets[:, group, tap, 0]
                z = cols + tap % 3 - 1 + offsets[:, group, tap, 1]
                grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
                sampled = F.grid_sample(x[:, channels], grid, padding_mode="zeros", align_corners=True)
                kernel = self.weight[:, channels, tap // 3, tap % 3]
                out = out + torch.einsum("oc,bchw->bohw", kernel, sampled * masks[:, group, tap])
        return out


class NaivePDA(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_l2_1, self.conv_l2_2 = conv(C, stride=2), conv(C)
        self.conv_l3_1, self.conv_l3_2 = conv(C, stride=2), conv(C)
        self.offset_conv1 = nn.ModuleDict({level: conv(2 * C) for level in ("l3", "l2", "l1")})
        self.offset_conv2 = nn.ModuleDict({"l3": conv(C), "l2": conv(2 * C), "l1": conv(2 * C)})
        self.offset_conv3 = nn.ModuleDict({"l2": conv(C), "l1": conv(C)})
        self.feat_conv = nn.ModuleDict({"l2": conv(2 * C), "l1": conv(2 * C)})
        self.dcn_pack = nn.ModuleDict({level: NaiveDCN() for level in ("l3", "l2", "l1")})

    def pyramid(self, x):
        half = F.relu(self.conv_l2_2(F.relu(self.conv_l2_1(x))))
        quarter = F.relu(self.conv_l3_2(F.relu(self.conv_l3_1(half))))
        return {"l1": x, "l2": half, "l3": quarter}

    def forward(self, neighbour, reference):
        n, r = self.pyramid(neighbour), self.pyramid(reference)
        o_prev = y_prev = None
        for level in ("l3", "l2", "l1"):
            o = F.relu(self.offset_conv1[level](torch.cat([n[level], r[level]], 1)))
            if level == "l3":
                o = F.relu(self.offset_conv2[level](o))
            else:
                o = F.relu(self.offset_conv2[level](torch.cat([o, up(o_prev) * 2], 1)))
                o = F.relu(self.offset_conv3[level](o))
            y = self.dcn_pack[level](n[level], o)
            if level != "l3":
                y = self.feat_conv[level](torch.cat([y, up(y_prev)], 1))
            if level != "l1":
                y = F.relu(y)
            o_prev, y_prev = o, y
        return y


def dct_weight():
    """float32 [16, 56, 56], as it stands in the published checkpoints."""
    rows = (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2)
    cols = (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2)

    def b(k, n):
        return math.cos(math.pi * k * (n + 0.5) / 56) / math.sqrt(56) * (math.sqrt(2) if k else 1)

    out = torch.zeros(16, 56, 56)
    for i, (fx, fy) in enumerate(zip(rows, cols, strict=True)):
        for row in range(56):
            for col in range(56):
                out[i, row, col] = b(8 * fx, row) * b(8 * fy, col)
    return out


class NaiveTSFM(nn.Module):
    def __init__(self):
        super().__init__()
        self.temporal_attn1, self.temporal_attn2 = conv(C), conv(C)
        self.feat_fusion = conv(2 * C, size=1)
        self.sa, self.fa, self.fa.dct_layer = nn.Module(), nn.Module(), nn.Module()
        self.sa.conv1 = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        self.fa.fc = nn.Sequential(
            nn.Linear(C, 1, bias=False), nn.ReLU(), nn.Linear(1, C, bias=False), nn.Sigmoid()
        )
        self.fa.dct_layer.register_buffer("weight", dct_weight())

    def forward(self, aligned, current):
        s = torch.sigmoid((self.temporal_attn1(current) * self.temporal_attn2(aligned)).sum(1, keepdim=True))
        u = self.feat_fusion(torch.cat([aligned * s, current], 1))
        seen = torch.cat([u.mean(1, keepdim=True), u.max(1, keepdim=True).values], 1)
        v = u * torch.sigmoid(self.sa.conv1(seen))
        q = (F.adaptive_avg_pool2d(v, (56, 56)) * self.fa.dct_layer.weight).sum((2, 3))
        return F.relu(v * self.fa.fc(q)[:, :, None, None])


class NaiveResUNetRFR(nn.Module):
    """forward(clip [B, 1, T, H, W]) is the logits [B, T, H, W]; H and W multiples of 8."""

    def __init__(self):
        super().__init__()
        self.feat_extract, self.fusion, self.fusion_align = conv(1), conv(2 * C), conv(2 * C)
        self.deform_align, self.spatio_temporal_fusion = NaivePDA(), NaiveTSFM()
        self.detection_head = NaiveResUNet(C, 1, 16)

    def step(self, frame, state):
        """frame [B, 1, H, W] -> (logits [B, 1, H, W], state [B, 16, H, W])."""
        current = self.feat_extract(frame)
        aligned = current if state is None else self.deform_align(state, current)
        state = self.spatio_temporal_fusion(aligned, current)
        return self.detection_head(self.fusion(torch.cat([current, state], 1))), state

    def forward(self, clip):
        logits, state = [], None
        for frame in clip.unbind(2):
            out, state = self.step(frame, state)
            logits.append(out)
        return torch.cat(logits, 1)
