"""TSMSA written the obvious way, module by module as published.

Each frame, gate and attention is computed by itself, nothing is folded, and the motion branch runs although
it reaches no output. The reference for outputs and gradients. The parameter names are those of the published
checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import nn


def norm(channels):
    return nn.BatchNorm2d(channels, momentum=0.9)


class DSBlock(nn.Module):
    def __init__(self, inputs, outputs, stride=1, project=False):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs), nn.Conv2d(inputs, outputs, 1)
        )
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, groups=outputs))
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
        self.connect_conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x):
        side = self.downsample(x) if self.downsample else self.connect_conv(x)
        x = F.leaky_relu(self.bn1(self.conv1(x)))
        return F.leaky_relu(self.bn2(self.conv2(x)) + side)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.feature1 = nn.Sequential(
            norm(1),
            nn.Conv2d(1, 8, 3, 1, 1, bias=False),
            norm(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1, bias=False),
            norm(8),
            nn.ReLU(),
        )
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(DSBlock(c, 2 * c, 2, project=True), DSBlock(2 * c, 2 * c), DSBlock(2 * c, 2 * c))
            for c in (8, 16, 32)
        )

    def forward(self, x):
        x1 = self.feature1(x)
        x2 = self.layer1(x1)
        x3 = self.layer2(x2)
        return x1, x2, x3, self.layer3(x3)


# ---------------------------------------------------------------- ConvLSTM


class GCBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv_mask = nn.Conv1d(channels, 1, 1)
        hidden = channels // 16
        self.channel_add_conv = nn.Sequential(  # never used
            nn.Conv1d(channels, hidden, 1),
            nn.LayerNorm([hidden, 1, 1]),
            nn.ReLU(),
            nn.Conv1d(hidden, channels, 1),
        )

    def forward(self, query, key, value):
        weight = F.softmax(self.conv_mask(key), dim=2)
        context = 0
        for n in range(query.shape[2]):
            context = context + query[:, :, n : n + 1] * weight[:, :, n : n + 1]
        return context * value


class Node(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(2 * c, 4 * c, 3, padding=1), nn.Conv2d(4 * c, 4 * c, 3, padding=1)
        self.motion = nn.Sequential(nn.Conv2d(3 * c, 4 * c, 3, padding=1))
        self.mm1, self.mm2 = nn.Conv2d(2 * c, c, 1, bias=False), nn.Conv2d(2 * c, c, 1, bias=False)
        self.past_attention, self.future_attention = GCBlock(c), GCBlock(c)

    def forward(self, x, y, all_state, h, c, m_h, m_c):
        first = self.conv(torch.cat([x, h], 1)).chunk(4, 1)
        second = self.conv2(torch.cat([x, h, y, m_h], 1)).chunk(4, 1)
        i, f, o, g = (a + b for a, b in zip(first, second, strict=True))
        c_next = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h_next = torch.sigmoid(o) * torch.tanh(c_next)

        def flat(z):
            return F.max_pool2d(z, 4, 4).flatten(2)

        height, width = m_h.shape[2:]
        pooled = flat(m_h)
        r1 = self.past_attention(flat(all_state[:, 0]), pooled, pooled)
        r2 = self.future_attention(flat(all_state[:, -1]), r1, r1)
        maps = []
        for mix, r in ((self.mm1, r1), (self.mm2, r2)):
            r = r.view(*m_h.shape[:2], height // 4, width // 4)
            r = F.interpolate(r, (height, width), mode="bilinear", align_corners=True)
            maps.append(mix(torch.cat([torch.sigmoid(r) + m_h, m_h], 1)))
        i, f, g, o = self.motion(torch.cat([y, *maps], 1)).chunk(4, 1)
        m_c_next = torch.sigmoid(f) * m_c + torch.sigmoid(i) * torch.tanh(g) + c_next
        m_h_next = torch.sigmoid(o) * torch.tanh(m_c_next) + h_next
        return h_next, c_next, m_h_next, m_c_next


class SSTCell(nn.Module):
    """forward(x [B, T, C, H, W]) is the stack of h, or with `carry`, which is ours, that of m_h."""

    def __init__(self, channels, slices=1, layers=1, carry=False):
        super().__init__()
        self.slices, self.layers, self.carry = slices, layers, carry
        self.cell_list = nn.ModuleDict(
            {f"{d}{k}": Node(channels) for d in range(slices) for k in range(layers)}
        )

    def forward(self, x):
        layer_input = head_input = x
        kept = {}  # motion states by slice, layer and time
        for d in range(self.slices):
            for k in range(self.layers):
                h = c = torch.zeros_like(x[:, 0])
                outputs, heads = [], []
                for t in range(x.shape[1]):
                    zeros = torch.zeros_like(h), torch.zeros_like(h)
                    if d > 0:
                        m_h, m_c = kept[d - 1, k, t]
                    elif self.carry and t > 0:
                        m_h, m_c = kept[d, k, t - 1]
                    else:
                        m_h, m_c = zeros
                    h, c, m_h, m_c = self.cell_list[f"{d}{k}"](
                        layer_input[:, t], head_input[:, t], head_input, h, c, m_h, m_c
                    )
                    kept[d, k, t] = m_h, m_c
                    outputs.append(h)
                    heads.append(m_h)
                layer_input, head_input = torch.stack(outputs, 1), torch.stack(heads, 1)
        return head_input if self.carry else layer_input


# ---------------------------------------------------------------- fusion and network


class BaseConv(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x):
        x = self.bn(self.conv(x))
        return x * torch.sigmoid(x)


class SimpleFusion(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.lateral_conv0, self.lateral_conv1 = BaseConv(2 * c, c), BaseConv(2 * c, c)

    def forward(self, fine, coarse):
        coarse = self.lateral_conv0(coarse).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.lateral_conv1(torch.cat([coarse, fine], 1))


class FeatureEnhance(nn.Module):
    def __init__(self):
        super().__init__()
        self.Sconv1, self.Sconv2, self.Sconv3 = DSBlock(160, 32), DSBlock(64, 32), DSBlock(32, 32)
        self.weight = nn.ParameterList([torch.full((1,), 0.2) for _ in range(5)])
        self.Tconv1, self.Tconv2 = nn.Sequential(DSBlock(64, 32)), nn.Sequential(DSBlock(32, 32))
        self.conv_mix = nn.Sequential(DSBlock(64, 32))

    def forward(self, key, motion):
        s = self.Sconv1(torch.cat([motion[:, t] for t in range(5)], 1))
        s = self.Sconv2(torch.cat([key, s], 1))
        q = self.Sconv3(key) + s
        v = 0
        for t in range(5):
            v = v + self.weight[t] * self.Tconv1(torch.cat([motion[:, t], key], 1))
        return self.conv_mix(torch.cat([q, self.Tconv2(v)], 1))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(8, 2, 3, 1, 1, bias=False), norm(2), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(2, 1, 1)
        )

    def forward(self, x):
        return self.block(x)


class NaiveTSMSA(nn.Module):
    """forward(clip [B, 1, 5, H, W]) is the map [B, 1, H, W] before the published sigmoid."""

    def __init__(self, **lstm):
        super().__init__()
        self.mapping1 = nn.Sequential(
            nn.Conv2d(1, 16, 5, 4, 1, bias=False),
            nn.LeakyReLU(0.01),
            nn.Conv2d(16, 32, 1, bias=False),
            nn.LeakyReLU(0.01),
        )
        self.SSTCell, self.backbone = SSTCell(32, **lstm), Backbone()
        self.feature_enhance = FeatureEnhance()
        self.fusion1, self.fusion2, self.fusion3 = SimpleFusion(32), SimpleFusion(16), SimpleFusion(8)
        self.head = Head()

    def forward(self, clip):
        motion = self.SSTCell(torch.stack([self.mapping1(clip[:, :, t]) for t in range(5)], 1))
        x1, x2, x3, x4 = self.backbone(clip[:, :, 4])
        x = self.feature_enhance(self.fusion1(x3, x4), motion)
        return self.head(self.fusion3(x1, self.fusion2(x2, x)))
