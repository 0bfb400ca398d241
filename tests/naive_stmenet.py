"""STMENet and SMFNet written the obvious way, module by module as published.

3-D convolutions throughout, upsampling before every block, channel attention always computed, and the layers
that the published networks own but never use. The reference for outputs, gradients and speed. The parameter
names are those of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import nn


class BaseConv(nn.Module):
    def __init__(self, ci, co, k, s=1):
        super().__init__()
        self.conv = nn.Conv2d(ci, co, k, s, (k - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(co, eps=1e-3, momentum=0.03)

    def forward(self, x):
        return F.silu(self.bn(self.conv(x)))


# ---------------------------------------------------------------- 2-D backbone


class Bottleneck(nn.Module):
    def __init__(self, c, shortcut):
        super().__init__()
        self.conv1, self.conv2, self.shortcut = BaseConv(c, c, 1), BaseConv(c, c, 3), shortcut

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class CSP(nn.Module):
    def __init__(self, ci, co, n, shortcut):
        super().__init__()
        h = co // 2
        self.conv1, self.conv2, self.conv3 = BaseConv(ci, h, 1), BaseConv(ci, h, 1), BaseConv(2 * h, co, 1)
        self.m = nn.Sequential(*[Bottleneck(h, shortcut) for _ in range(n)])

    def forward(self, x):
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], 1))


class SPP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.conv2 = BaseConv(c, c // 2, 1), BaseConv(2 * c, c, 1)

    def forward(self, x):
        y = self.conv1(x)
        return self.conv2(torch.cat([y, *(F.max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13))], 1))


class Focus(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = BaseConv(12, 32, 3)

    def forward(self, x):
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.conv(torch.cat(parts, 1))


class Darknet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Focus()
        self.dark2 = nn.Sequential(BaseConv(32, 64, 3, 2), CSP(64, 64, 1, True))
        self.dark3 = nn.Sequential(BaseConv(64, 128, 3, 2), CSP(128, 128, 3, True))
        self.dark4 = nn.Sequential(BaseConv(128, 256, 3, 2), CSP(256, 256, 3, True))
        self.dark5 = nn.Sequential(BaseConv(256, 512, 3, 2), SPP(512), CSP(512, 512, 1, False))

    def forward(self, x):
        f1 = self.dark3(self.dark2(self.stem(x)))
        f2 = self.dark4(f1)
        return f1, f2, self.dark5(f2)


class Backbone(nn.Module):
    """The top-down half is SMFNet's for IRDST and never used."""

    def __init__(self, top_down):
        super().__init__()
        self.backbone = Darknet()
        if top_down:
            self.lateral_conv0, self.C3_p4 = BaseConv(512, 256, 1), CSP(512, 256, 1, False)
            self.reduce_conv1, self.C3_p3 = BaseConv(256, 128, 1), CSP(256, 128, 1, False)


# ---------------------------------------------------------------- 3-D backbone


def pointwise(ci, co):
    return [nn.Conv3d(ci, co, 1, bias=False), nn.BatchNorm3d(co)]


def depthwise(c, stride):
    return [nn.Conv3d(c, c, 3, stride, 1, groups=c, bias=False), nn.BatchNorm3d(c)]


class ShuffleBlock(nn.Module):
    def __init__(self, ci, co, stride):
        super().__init__()
        c, self.stride = co // 2, stride
        if stride == 2:
            self.banch1 = nn.Sequential(*depthwise(ci, 2), *pointwise(ci, c), nn.ReLU())
        self.banch2 = nn.Sequential(
            *pointwise(ci if stride == 2 else c, c),
            nn.ReLU(),
            *depthwise(c, stride),
            *pointwise(c, c),
            nn.ReLU(),
        )

    def forward(self, x):
        if self.stride == 2:
            x = torch.cat([self.banch1(x), self.banch2(x)], 1)
        else:
            x1, x2 = x.chunk(2, 1)
            x = torch.cat([x1, self.banch2(x2)], 1)
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv3d(3, 24, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(24), nn.ReLU()
        )
        blocks, ci = [], 24
        for co, n in ((116, 4), (232, 8), (464, 4)):
            blocks += [ShuffleBlock(ci, co, 2), *(ShuffleBlock(co, co, 1) for _ in range(n - 1))]
            ci = co
        self.features = nn.Sequential(*blocks)

    def forward(self, x):
        x = self.features(F.max_pool3d(self.conv1(x), 3, 2, 1))
        return x.mean(2)


# ---------------------------------------------------------------- encoders


class ChannelGate(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(c, c // 4, 1), nn.Conv2d(c // 4, c, 1)

    def forward(self, u):
        pools = F.adaptive_avg_pool2d(u, 1), F.adaptive_max_pool2d(u, 1)
        first, second = (torch.sigmoid(self.fc2(F.relu(self.fc1(p)))) for p in pools)
        return first + second


class RepBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ca = ChannelGate(c)
        for kh, kw in ((5, 5), (1, 7), (7, 1), (1, 11), (11, 1), (1, 21), (21, 1)):
            conv = nn.Conv2d(c, c, (kh, kw), padding=(kh // 2, kw // 2), groups=c)
            setattr(self, f"dconv{kh}_{kw}", conv)
        self.conv = nn.Conv2d(c, c, 1)

    def forward(self, x):
        u = F.gelu(self.conv(x))
        v = self.ca(u) * u
        x0 = self.dconv5_5(v)
        p1 = self.dconv7_1(self.dconv1_7(x0))
        p2 = self.dconv11_1(self.dconv1_11(x0))
        p3 = self.dconv21_1(self.dconv1_21(x0))
        return self.conv(self.conv(p1 + p2 + p3 + x0) * v)


class ConvBlock(nn.Module):
    def __init__(self, ci, co, k):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(ci, co, k, padding=k // 2, bias=False), nn.BatchNorm2d(co), nn.LeakyReLU(0.1)
        )

    def forward(self, x):
        return self.convs(x)


class CSAM(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        flat = x.flatten(2)
        energy = flat @ flat.mT
        energy = energy.max(-1, keepdim=True)[0] - energy
        return self.gamma * (energy.softmax(-1) @ flat).view_as(x) + x


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fuse_time = nn.Sequential(RepBlock(464))
        self.fuse_convs = nn.Sequential(
            ConvBlock(c + 464, 128, 1),
            ConvBlock(128, 128, 3),
            CSAM(),
            ConvBlock(128, 128, 3),
            nn.Dropout(0.1),
            nn.Conv2d(128, 128, 1),
        )

    def forward(self, f, g):
        return self.fuse_convs(torch.cat([f, self.fuse_time(g)], 1))


# ---------------------------------------------------------------- fusion and head


def up(x):
    return F.interpolate(x, scale_factor=2)


class ThreeConvs(nn.Module):
    def __init__(self, c0, c1, c2, c3):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = BaseConv(c0, c1, 1), BaseConv(c1, c2, 1), BaseConv(c2, c3, 1)

    def forward(self, x):
        return self.conv3(self.conv2(self.conv1(x)))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.lateral_conv0, self.reduce_conv1 = BaseConv(256, 128, 1), BaseConv(256, 128, 1)
        self.C3_p4, self.C3_p3 = ThreeConvs(256, 64, 64, 128), ThreeConvs(256, 64, 64, 128)  # never used

    def forward(self, e1, e2, e3):
        p = self.lateral_conv0(torch.cat([up(e3), e2], 1))
        return self.reduce_conv1(torch.cat([up(p), e1], 1))


class BottleneckFusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.lateral_conv0, self.reduce_conv1 = BaseConv(256, 128, 1), BaseConv(256, 128, 1)
        self.C3_p4 = ThreeConvs(256, 128, 128, 256)

    def forward(self, e1, e2, e3):
        p = self.lateral_conv0(self.C3_p4(torch.cat([up(e3), e2], 1)))
        return self.reduce_conv1(torch.cat([up(p), e1], 1))


class CSPFusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.lateral_conv0, self.reduce_conv1 = BaseConv(128, 128, 1), BaseConv(128, 128, 1)
        self.C3_p4, self.C3_p3 = CSP(256, 128, 3, False), CSP(256, 128, 3, False)

    def forward(self, e1, e2, e3):
        p4 = self.reduce_conv1(self.C3_p4(torch.cat([up(self.lateral_conv0(e3)), e2], 1)))
        return self.C3_p3(torch.cat([up(p4), e1], 1))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.stems = nn.ModuleList([BaseConv(128, 256, 1)])
        self.cls_convs, self.reg_convs = (
            nn.ModuleList([nn.Sequential(BaseConv(256, 256, 3), BaseConv(256, 256, 3))]) for _ in range(2)
        )
        self.cls_preds, self.reg_preds, self.obj_preds = (
            nn.ModuleList([nn.Conv2d(256, n, 1)]) for n in (1, 4, 1)
        )

    def forward(self, x):
        y = self.stems[0](x)
        box = self.reg_convs[0](y)
        return torch.cat(
            [self.reg_preds[0](box), self.obj_preds[0](box), self.cls_preds[0](self.cls_convs[0](y))], 1
        )


class NaiveSTMENet(nn.Module):
    """forward(clip [B, 3, 5, H, W]) is the head's map; fusion: "plain", "bottleneck" or "csp"."""

    def __init__(self, fusion="plain"):
        super().__init__()
        self.backbone = Backbone(top_down=fusion == "csp")
        self.backbone_3d = nn.Module()
        self.backbone_3d.backbone = ShuffleNet()
        self.cls_channel_encoders1, self.cls_channel_encoders2, self.cls_channel_encoders3 = (
            Encoder(c) for c in (128, 256, 512)
        )
        fusions = {"plain": Plain, "bottleneck": BottleneckFusion, "csp": CSPFusion}
        self.feature_fusion = fusions[fusion]()
        self.head = Head()

    def forward(self, clip):
        f1, f2, f3 = self.backbone.backbone(clip[:, :, -1])
        g = self.backbone_3d.backbone(clip)
        e1 = self.cls_channel_encoders1(f1, up(up(g)))
        e2 = self.cls_channel_encoders2(f2, up(g))
        e3 = self.cls_channel_encoders3(f3, g)
        return self.head(self.feature_fusion(e1, e2, e3))
