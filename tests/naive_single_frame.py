"""ACM, DNANet, RDIAN and MSHNet written the obvious way, module by module as published.

Norms after convolutions, one convolution per direction, nothing shared. Parameter names are those of the
published checkpoints without their prefix `model.`. All take [B, 1, H, W] and return what the published
networks compute before a final sigmoid: one map [B, 1, H, W], of DNANet a list.
"""

import torch
import torch.nn.functional as F
from torch import nn


def norm(channels, momentum=0.1):
    return nn.BatchNorm2d(channels, momentum=momentum)


def fcn_head(ci, momentum):
    head = nn.Module()
    head.block = nn.Sequential(
        nn.Conv2d(ci, ci // 4, 3, padding=1, bias=False),
        norm(ci // 4, momentum),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(ci // 4, 1, 1),
    )
    return head


# ---------------------------------------------------------------- ACM


class BasicBlock(nn.Module):
    def __init__(self, ci, co, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(ci, co, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(co, co, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = norm(co), norm(co)
        self.downsample = projection(ci, co, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x)))


class DepthwiseBlock(nn.Module):
    def __init__(self, ci, co, stride):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(ci, ci, 3, stride, 1, groups=ci), nn.Conv2d(ci, co, 1))
        self.conv2 = nn.Sequential(nn.Conv2d(co, co, 3, 1, 1, groups=co))
        self.bn1, self.bn2 = norm(co), norm(co)
        self.downsample = projection(ci, co, stride)

    def forward(self, x):
        y = F.leaky_relu(self.bn1(self.conv1(x)), 0.01)
        y = self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x))
        return F.leaky_relu(y, 0.01)


def projection(ci, co, stride):
    if stride == 1 and ci == co:
        return None
    return nn.Sequential(nn.Conv2d(ci, co, 1, stride, bias=False), norm(co, 0.9))


class AsymBi(nn.Module):
    def __init__(self, c):
        super().__init__()
        b = c // 4
        self.topdown = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c, b, 1),
            norm(b, 0.9),
            nn.ReLU(),
            nn.Conv2d(b, c, 1),
            norm(c, 0.9),
            nn.Sigmoid(),
        )
        self.bottomup = nn.Sequential(
            nn.Conv2d(c, b, 1), norm(b, 0.9), nn.ReLU(), nn.Conv2d(b, c, 1), norm(c, 0.9), nn.Sigmoid()
        )
        self.post = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), norm(c, 0.9), nn.ReLU())

    def forward(self, high, low):
        return self.post(2 * low * self.topdown(high) + 2 * high * self.bottomup(low))


class NaiveACM(nn.Module):
    def __init__(self, block=BasicBlock):
        super().__init__()
        self.stem = nn.Sequential(
            norm(1, 0.9),
            nn.Conv2d(1, 8, 3, 2, 1, bias=False),
            norm(8, 0.9),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1, bias=False),
            norm(8, 0.9),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 1, 1, bias=False),
            norm(16, 0.9),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )

        def stage(ci, co, stride):
            return nn.Sequential(block(ci, co, stride), block(co, co, 1), block(co, co, 1))

        self.layer1, self.layer2, self.layer3 = stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2)
        self.deconv2, self.fuse2 = nn.ConvTranspose2d(64, 32, 4, 2, 1), AsymBi(32)
        self.uplayer2 = stage(32, 32, 1)
        self.deconv1, self.fuse1 = nn.ConvTranspose2d(32, 16, 4, 2, 1), AsymBi(16)
        self.uplayer1 = stage(16, 16, 1)
        self.head = fcn_head(16, 0.9)

    def forward(self, x):
        c1 = self.layer1(self.stem(x))
        c2 = self.layer2(c1)
        c3 = self.layer3(c2)
        up2 = self.uplayer2(self.fuse2(self.deconv2(c3), c2))
        up1 = self.uplayer1(self.fuse1(self.deconv1(up2), c1))
        return F.interpolate(self.head.block(up1), x.shape[-2:], mode="bilinear", align_corners=False)


# ---------------------------------------------------------------- DNANet and MSHNet


class Res(nn.Module):
    def __init__(self, ci, co):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ci, co, 3, padding=1), norm(co)
        self.conv2, self.bn2 = nn.Conv2d(co, co, 3, padding=1), norm(co)
        self.shortcut = nn.Sequential(nn.Conv2d(ci, co, 1), norm(co)) if ci != co else None
        self.ca, self.sa = nn.Module(), nn.Module()
        self.ca.fc1 = nn.Conv2d(co, co // 16, 1, bias=False)
        self.ca.fc2 = nn.Conv2d(co // 16, co, 1, bias=False)
        self.sa.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x):
        side = x if self.shortcut is None else self.shortcut(x)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        mean = self.ca.fc2(F.relu(self.ca.fc1(F.adaptive_avg_pool2d(y, 1))))
        top = self.ca.fc2(F.relu(self.ca.fc1(F.adaptive_max_pool2d(y, 1))))
        y = torch.sigmoid(mean + top) * y
        pooled = torch.cat([torch.mean(y, 1, keepdim=True), torch.max(y, 1, keepdim=True)[0]], 1)
        y = torch.sigmoid(self.sa.conv1(pooled)) * y
        return F.relu(y + side)


def one(ci, co):
    return nn.Sequential(Res(ci, co))


def two(ci, co):
    return nn.Sequential(Res(ci, co), Res(co, co))


def up(x, factor=2):
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


def down(x):
    return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True)


def cat(*maps):
    return torch.cat(maps, 1)


class NaiveDNANet(nn.Module):
    def __init__(self, deep_supervision=True):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.conv0_0, self.conv1_0, self.conv2_0 = one(1, 16), two(16, 32), two(32, 64)
        self.conv3_0, self.conv4_0 = two(64, 128), two(128, 256)
        self.conv0_1, self.conv1_1 = one(16 + 32, 16), two(32 + 64 + 16, 32)
        self.conv2_1, self.conv3_1 = two(64 + 128 + 32, 64), two(128 + 256 + 64, 128)
        self.conv0_2, self.conv1_2 = one(16 * 2 + 32, 16), two(32 * 2 + 64 + 16, 32)
        self.conv2_2 = two(64 * 2 + 128 + 32, 64)
        self.conv0_3, self.conv1_3 = one(16 * 3 + 32, 16), two(32 * 3 + 64 + 16, 32)
        self.conv0_4, self.conv0_4_final = one(16 * 4 + 32, 16), one(16 * 5, 16)
        self.conv0_4_1x1, self.conv0_3_1x1 = nn.Conv2d(256, 16, 1), nn.Conv2d(128, 16, 1)
        self.conv0_2_1x1, self.conv0_1_1x1 = nn.Conv2d(64, 16, 1), nn.Conv2d(32, 16, 1)
        for name in ("final1", "final2", "final3", "final4") if deep_supervision else ("final",):
            self.add_module(name, nn.Conv2d(16, 1, 1))

    def forward(self, x):
        pool = nn.MaxPool2d(2)
        x00 = self.conv0_0(x)
        x10 = self.conv1_0(pool(x00))
        x01 = self.conv0_1(cat(x00, up(x10)))
        x20 = self.conv2_0(pool(x10))
        x11 = self.conv1_1(cat(x10, up(x20), down(x01)))
        x02 = self.conv0_2(cat(x00, x01, up(x11)))
        x30 = self.conv3_0(pool(x20))
        x21 = self.conv2_1(cat(x20, up(x30), down(x11)))
        x12 = self.conv1_2(cat(x10, x11, up(x21), down(x02)))
        x03 = self.conv0_3(cat(x00, x01, x02, up(x12)))
        x40 = self.conv4_0(pool(x30))
        x31 = self.conv3_1(cat(x30, up(x40), down(x21)))
        x22 = self.conv2_2(cat(x20, x21, up(x31), down(x12)))
        x13 = self.conv1_3(cat(x10, x11, x12, up(x22), down(x03)))
        x04 = self.conv0_4(cat(x00, x01, x02, x03, up(x13)))
        final = self.conv0_4_final(
            cat(
                up(self.conv0_4_1x1(x40), 16),
                up(self.conv0_3_1x1(x31), 8),
                up(self.conv0_2_1x1(x22), 4),
                up(self.conv0_1_1x1(x13), 2),
                x04,
            )
        )
        if not self.deep_supervision:
            return [self.final(final)]
        return [self.final1(x01), self.final2(x02), self.final3(x03), self.final4(final)]


class NaiveMSHNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_init = nn.Conv2d(1, 16, 1)
        self.encoder_0, self.encoder_1 = one(16, 16), two(16, 32)
        self.encoder_2, self.encoder_3 = two(32, 64), two(64, 128)
        self.middle_layer = two(128, 256)
        self.decoder_3, self.decoder_2 = two(256 + 128, 128), two(128 + 64, 64)
        self.decoder_1, self.decoder_0 = two(64 + 32, 32), one(32 + 16, 16)
        self.output_0, self.output_1 = nn.Conv2d(16, 1, 1), nn.Conv2d(32, 1, 1)
        self.output_2, self.output_3 = nn.Conv2d(64, 1, 1), nn.Conv2d(128, 1, 1)
        self.final = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        pool = nn.MaxPool2d(2)
        e0 = self.encoder_0(self.conv_init(x))
        e1 = self.encoder_1(pool(e0))
        e2 = self.encoder_2(pool(e1))
        e3 = self.encoder_3(pool(e2))
        d3 = self.decoder_3(cat(e3, up(self.middle_layer(pool(e3)))))
        d2 = self.decoder_2(cat(e2, up(d3)))
        d1 = self.decoder_1(cat(e1, up(d2)))
        d0 = self.decoder_0(cat(e0, up(d1)))
        outputs = self.output_0(d0), self.output_1(d1), self.output_2(d2), self.output_3(d3)
        return self.final(cat(outputs[0], *(up(o, 2**k) for k, o in enumerate(outputs) if k)))


# ---------------------------------------------------------------- RDIAN


def leaky(ci, co, k, stride=1):
    return nn.Sequential(nn.Conv2d(ci, co, k, stride, k // 2, bias=False), norm(co), nn.LeakyReLU(0.01))


class Unit(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.layer1, self.layer2 = leaky(32, 16, k), leaky(16, 32, k)

    def forward(self, x):
        return x + self.layer2(self.layer1(x))


class NaiveRDIAN(nn.Module):
    places = ((-2, -2), (-2, 0), (-2, 2), (0, 2), (2, 2), (2, 0), (2, -2), (0, -2))

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = leaky(1, 16, 3), leaky(16, 32, 3, 2)
        self.residual_block0 = nn.Sequential(Unit(1))
        self.residual_block1 = nn.Sequential(Unit(3), Unit(3))
        self.residual_block2 = nn.Sequential(Unit(5), Unit(5))
        self.residual_block3 = nn.Sequential(Unit(7), Unit(7))
        self.cbam = nn.Module()
        self.cbam.ChannelGate, self.cbam.SpatialGate = nn.Module(), nn.Module()
        self.cbam.ChannelGate.mlp = nn.Sequential(nn.Flatten(), nn.Linear(32, 1), nn.ReLU(), nn.Linear(1, 32))
        self.cbam.SpatialGate.spatial = nn.Sequential()
        self.cbam.SpatialGate.spatial.add_module("conv", nn.Conv2d(2, 1, 7, padding=3, bias=False))
        self.cbam.SpatialGate.spatial.add_module("bn", norm(1, 0.01))
        self.conv_cat, self.conv_res = leaky(128, 32, 3), leaky(16, 32, 1)
        for number, (row, column) in enumerate(self.places, start=1):
            conv = nn.Conv2d(1, 1, 5, padding=2, bias=False)
            nn.init.zeros_(conv.weight)
            conv.weight.requires_grad_(False)
            conv.weight[0, 0, 2, 2], conv.weight[0, 0, 2 + row, 2 + column] = 1, -1
            self.add_module(f"d1{number}", conv)
        self.head = fcn_head(32, 0.1)

    def forward(self, x):
        d = [getattr(self, f"d1{number}")(x) for number in range(1, 9)]
        direction = torch.sigmoid(d[0] * d[4] + d[1] * d[5] + d[2] * d[6] + d[3] * d[7])
        a = self.conv1(x)
        b = self.conv2(a + a * direction)
        e = self.conv_cat(cat(*(getattr(self, f"residual_block{k}")(b) for k in range(4))))
        mlp = self.cbam.ChannelGate.mlp
        gate = mlp(F.adaptive_avg_pool2d(e, 1)) + mlp(F.adaptive_max_pool2d(e, 1))
        e = e * torch.sigmoid(gate)[:, :, None, None]
        pooled = cat(torch.max(e, 1, keepdim=True)[0], torch.mean(e, 1, keepdim=True))
        e = e * torch.sigmoid(self.cbam.SpatialGate.spatial(pooled))
        e = F.interpolate(e, x.shape[-2:], mode="bilinear", align_corners=False)
        return self.head.block(F.relu(e + self.conv_res(a)))
