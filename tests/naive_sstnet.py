"""SSTNet written the obvious way, module by module as published.

Each pair of frames goes through a whole convolution, each gate sees the empty state of another slice, nothing
is folded. What the published network computes to no effect is here as parameters alone. The reference for
outputs and gradients. The parameter names are those of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from naive_stmenet import Backbone, BaseConv, Head, up
from torch import nn


class FrameBackbone(Backbone):
    def __init__(self):
        super().__init__(top_down=True)

    def forward(self, x):
        f1, f2, f3 = self.backbone(x)
        p4 = self.reduce_conv1(self.C3_p4(torch.cat([up(self.lateral_conv0(f3)), f2], 1)))
        return self.C3_p3(torch.cat([up(p4), f1], 1))


class SigmoidConv(BaseConv):
    def forward(self, x):
        return torch.sigmoid(self.bn(self.conv(x)))


def two(c0, c1, c2, last=BaseConv):
    return nn.Sequential(BaseConv(c0, c1, 3), last(c1, c2, 3))


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_ref = two(512, 256, 128, last=SigmoidConv)
        self.conv_cur, self.conv_cr_mix = two(128, 128, 128), two(256, 256, 128)
        self.conv_gl, self.conv_gl_mix = two(256, 256, 128), two(128, 128, 128)
        self.conv_final = two(256, 256, 128)
        self.weight = nn.ParameterList([torch.full((1,), 0.25) for _ in range(5)])

    def forward(self, features):
        *earlier, key = features
        c = self.conv_cur(self.conv_ref(torch.cat(earlier, 1)) * key)
        c = self.conv_cr_mix(torch.cat([c, key], 1))
        g = 0
        for i in range(4):
            g = g + self.weight[i] * self.conv_gl(torch.cat([earlier[i], key], 1))
        return self.conv_final(torch.cat([self.conv_gl_mix(g), c], 1))


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(128, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)
        # never part of the result
        self.motion = nn.Sequential(nn.Conv2d(192, 256, 3, padding=1))
        self.mm1, self.mm2 = nn.Conv2d(128, 64, 1, bias=False), nn.Conv2d(128, 64, 1, bias=False)
        self.past_attention, self.future_attention = (nn.MultiheadAttention(1024, 8) for _ in range(2))

    def forward(self, x, h, c):
        other_slice = torch.zeros_like(h)
        first = self.conv(torch.cat([x, h], 1)).chunk(4, 1)
        second = self.conv2(torch.cat([x, h, x, other_slice], 1)).chunk(4, 1)
        i, f, o, g = (a + b for a, b in zip(first, second, strict=True))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class NaiveSSTNet(nn.Module):
    """forward(clip [B, 3, 5, H, W]) is the head's map, in train mode (that map, motion loss)."""

    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.head = FrameBackbone(), Neck(), Head()
        self.mapping0 = nn.Sequential(nn.Conv2d(640, 128, 1, bias=False))  # never used
        self.mapping1 = nn.Sequential(
            nn.Conv2d(3, 32, 5, 4, 1, bias=False),
            nn.LeakyReLU(0.01),
            nn.Conv2d(32, 64, 1, bias=False),
            nn.LeakyReLU(0.01),
        )
        self.mapping2 = nn.Sequential(nn.Conv2d(320, 640, 1, bias=False), nn.LeakyReLU(0.01))
        self.SSTNet = nn.Module()
        self.SSTNet.cell_list = nn.ModuleDict({"00": Cell()})

    def forward(self, clip):
        features = [self.backbone(clip[:, :, t]) for t in range(5)]
        raw = self.head(self.neck(features))
        return (raw, self.motion_loss(clip, features)) if self.training else raw

    def motion_loss(self, clip, features):
        frames = [self.mapping1(clip[:, :, t]) for t in range(5)]
        h = c = torch.zeros_like(frames[0])
        states = []
        for x in frames:
            h, c = self.SSTNet.cell_list["00"](x, h, c)
            states.append(h)
        seen = F.adaptive_max_pool2d(self.mapping2(torch.cat(states, 1)), features[0].shape[2:])
        return ((torch.cat(features, 1) - seen) ** 2).mean()
