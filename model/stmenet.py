"""STMENet: the boxes of one key frame, from it and the four frames before it.

"Moving Infrared Dim and Small Target Detection by Spatio-temporal Mixed Encoding". A 2-D backbone looks at
the key frame, a 3-D one at the clip. On three scales a mixed encoder refines the temporal features and fuses
them with the spatial ones; a top-down fusion leads to a YOLOX head at stride 8. SMFNet is the same network.

The outputs are the published ones, computed in another order: what does not change by the enlarging of the
temporal features comes before it, and layers without effect are left out.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm, folded_copy
from model.layers.shufflenet3d import ShuffleNet3d
from model.layers.yolox import (
    HEAD_RENAME,
    UESTC_RECIPE,
    BaseConv,
    CSPDarknet,
    CSPLayer,
    YOLOXHead,
    check_clip,
    check_streamed_clip,
    decode_boxes,
    published_init,
)
from model.options import Init, ObjectnessPrior
from utils.errors import UserError
from utils.registry import fold, register_model


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Each pixel of x [B, C, H, W] becomes factor x factor equal ones."""
    return F.interpolate(x, scale_factor=factor) if factor > 1 else x


# ---------------------------------------------------------------- mixed encoder


class ChannelGate(nn.Module):
    """A gate between 0 and 2 per channel, [B, C, 1, 1], from its mean and its maximum."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return sum(torch.sigmoid(self.fc2(F.relu(self.fc1(p)))) for p in pooled)


def strip_conv(channels: int, height: int, width: int) -> nn.Conv2d:
    """Depthwise convolution to the same size."""
    padding = (height // 2, width // 2)
    return nn.Conv2d(channels, channels, (height, width), padding=padding, groups=channels)


class SelfRefining(nn.Module):
    """Temporal features weigh themselves, by channel and by what crosses of three sizes see at a pixel."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.gate = ChannelGate(channels)
        self.square = strip_conv(channels, 5, 5)
        self.crosses = nn.ModuleList(
            nn.Sequential(strip_conv(channels, 1, n), strip_conv(channels, n, 1)) for n in (7, 11, 21)
        )

    def forward(self, x: Tensor, factor: int) -> Tensor:
        """x [B, C, h, w] -> refined features, `factor` times as large, before the last convolution.

        As published x is enlarged first, and self.conv follows the product a third time: see MixingConv.
        """
        x = F.gelu(self.conv(x))
        x = enlarge(self.gate(x) * x, factor)
        near = self.square(x)
        return self.conv(sum((cross(near) for cross in self.crosses), start=near)) * x


class MixingConv(nn.Conv2d):
    """A 1x1 convolution over spatial features beside last(refined), where `last` is a 1x1 convolution too.

    `last` is multiplied into this one, as nothing stands between the two.
    """

    def forward(self, x: tuple[Tensor, Tensor, nn.Conv2d]) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: tuple[Tensor, Tensor, nn.Conv2d], weight: Tensor, bias: Tensor | None) -> Tensor:
        spatial, refined, last = x
        spatial_weight, refined_weight = weight.split([spatial.shape[1], refined.shape[1]], dim=1)
        refined_weight = refined_weight.flatten(1)  # [O, C]
        shift = refined_weight @ last.bias
        product_weight = (refined_weight @ last.weight.flatten(1))[:, :, None, None]
        out = F.conv2d(spatial, spatial_weight, shift if bias is None else bias + shift)
        return out.add_(F.conv2d(refined, product_weight))


class CSAM(nn.Module):
    """Channel self-attention: each channel also takes gamma times a mean of those that are unlike it.

    gamma starts at 0. Where it is 0 and nothing asks for its gradient, the attention is not computed.
    """

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self._known = None  # (gamma's identity and version, whether it is 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_identity():
            return x
        flat = x.flatten(2)
        attention = torch.softmax(-flat @ flat.mT, dim=-1)  # [B, C, C]
        return self.gamma * (attention @ flat).view_as(x) + x

    def is_identity(self) -> bool:
        """Looks at gamma only when it may have changed: a look makes the program wait for the device."""
        if self.gamma.requires_grad and torch.is_grad_enabled():
            return False
        if self.gamma.is_inference():  # such a tensor has no version, so that nothing tells of a change
            return not self.gamma.any().item()
        version = id(self.gamma), self.gamma._version
        if self._known is None or self._known[0] != version:
            self._known = version, not self.gamma.any().item()
        return self._known[1]


class LeakyConv(ConvNorm):
    """Convolution, batch norm and LeakyReLU."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels))

    def forward(self, x) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.1)


class MixedEncoder(nn.Module):
    """One scale: the temporal features refine themselves and are fused with the spatial ones."""

    def __init__(self, spatial: int, temporal: int = 464, outputs: int = 128):
        super().__init__()
        self.refine = SelfRefining(temporal)
        self.mix = LeakyConv(MixingConv(spatial + temporal, outputs, 1, bias=False))
        self.conv1 = LeakyConv(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))
        self.attention = CSAM()
        self.conv2 = LeakyConv(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))
        self.dropout = nn.Dropout(0.1)
        self.project = nn.Conv2d(outputs, outputs, 1)

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """spatial [B, C, k h, k w] and temporal [B, 464, h, w] -> [B, outputs, k h, k w]."""
        refined = self.refine(temporal, spatial.shape[-1] // temporal.shape[-1])
        x = self.mix((spatial, refined, self.refine.conv))
        x = self.conv2(self.attention(self.conv1(x)))
        return self.project(self.dropout(x))


# ---------------------------------------------------------------- top-down fusion


class TopDownFusion(nn.Module):
    """Encodings [B, 128, ...] at strides 8, 16 and 32 -> [B, 128, H/8, W/8].

    C3_p4: what stands at stride 16, 256 -> 256 channels
    """

    def __init__(self, C3_p4: nn.Module):
        super().__init__()
        self.C3_p4 = C3_p4
        self.lateral_conv0, self.reduce_conv1 = BaseConv(256, 128, 1), BaseConv(256, 128, 1)

    def forward(self, e1: Tensor, e2: Tensor, e3: Tensor) -> Tensor:
        p4 = self.lateral_conv0(self.C3_p4(torch.cat([enlarge(e3, 2), e2], dim=1)))
        return self.reduce_conv1(torch.cat([enlarge(p4, 2), e1], dim=1))


class CSPFusion(nn.Module):
    """The same with a CSP layer at strides 16 and 8."""

    def __init__(self):
        super().__init__()
        self.lateral_conv0, self.reduce_conv1 = BaseConv(128, 128, 1), BaseConv(128, 128, 1)
        self.C3_p4, self.C3_p3 = (CSPLayer(256, 128, depth=3, shortcut=False) for _ in range(2))

    def forward(self, e1: Tensor, e2: Tensor, e3: Tensor) -> Tensor:
        p4 = self.C3_p4(torch.cat([enlarge(self.lateral_conv0(e3), 2), e2], dim=1))
        return self.C3_p3(torch.cat([enlarge(self.reduce_conv1(p4), 2), e1], dim=1))


def top_down_fusion(kind: str) -> nn.Module:
    """The fusion that is called "plain", "bottleneck" or "csp"."""
    if kind == "csp":
        return CSPFusion()
    if kind == "plain":
        return TopDownFusion(nn.Identity())
    convs = {"conv1": BaseConv(256, 128, 1), "conv2": BaseConv(128, 128, 1), "conv3": BaseConv(128, 256, 1)}
    return TopDownFusion(nn.Sequential(OrderedDict(convs)))


UNUSED = {  # published keys of layers that the network of a fusion owns and never runs
    "plain": {r"feature_fusion\.C3_p[34]\.conv[123]\.": None},
    "bottleneck": {},
    "csp": {r"backbone\.(lateral_conv0|C3_p4|reduce_conv1|C3_p3)\.": None},
}

# ---------------------------------------------------------------- network


class STMENet(nn.Module):
    """The network of both papers; its forms differ in the top-down fusion.

    fusion:           "plain", "bottleneck" or "csp"
    objectness_prior: the objectness that all cells start with; None, as published, is about 0.5
    """

    name = "STMENet"

    def __init__(self, fusion: str = "plain", objectness_prior: float | None = None):
        super().__init__()
        self.backbone2d, self.backbone3d = CSPDarknet(), ShuffleNet3d()
        self.encoder1, self.encoder2, self.encoder3 = (MixedEncoder(c) for c in (128, 256, 512))
        self.fusion = top_down_fusion(fusion)
        self.head = YOLOXHead(128, objectness_prior=objectness_prior)
        self.unused = UNUSED[fusion]

    def forward(self, clip: Tensor) -> dict[str, list[Tensor]]:
        """clip: float32 [B, 3, 5, H, W], normalised, the key frame last; H and W are multiples of 32.

        Returns "head", a list of one map [B, 6, H/8, W/8]: tx, ty, tw, th, logits of objectness and class.
        Raises UserError for clips of another shape.
        """
        check_clip(self.name, clip)
        # In training channels come first in memory: PyTorch's batch statistics are less exact otherwise.
        frames = frames_in_batch(clip, torch.contiguous_format if self.training else torch.channels_last)
        return {"head": [self.detect(frames[-len(clip) :], self.backbone3d(frames))]}

    def detect(self, key_frame: Tensor, temporal: Tensor) -> Tensor:
        """The head's map from the key frame [B, 3, H, W] and temporal features [B, 464, H/32, W/32]."""
        f1, f2, f3 = self.backbone2d(key_frame)  # [B, 128, H/8, W/8], 256 at stride 16, 512 at stride 32
        e1, e2, e3 = self.encoder1(f1, temporal), self.encoder2(f2, temporal), self.encoder3(f3, temporal)
        return self.head(self.fusion(e1, e2, e3))

    def check_official(self, published: dict[str, Tensor]) -> None:
        """Raises UserError for weights of the IRDST variant where those of the other one are wanted.

        All that is used agrees in the two. They differ in a layer that the other variant owns unused.
        """
        layer = published.get("feature_fusion.C3_p4.conv1.conv.weight")
        if self.unused is UNUSED["plain"] and layer is not None and layer.shape[:1] != (64,):
            raise UserError("these are the weights of the variant IRDST; set model.variant to it")

    def decode(
        self, raw: dict[str, list[Tensor]], score_threshold: float = 0.001, nms_iou: float = 0.65
    ) -> list[Tensor]:
        """Per image boxes [N, 5]: x1, y1, x2, y2 in input pixels and score, highest score first."""
        return decode_boxes(raw["head"][0], score_threshold, nms_iou)

    def stream(self) -> "Stream":
        """The network as it is now for the clips of one video, in eval."""
        return Stream(self)


def frames_in_batch(clip: Tensor, memory_format: torch.memory_format) -> Tensor:
    """[B, C, T, H, W] -> [T B, C, H, W]."""
    return clip.movedim(2, 0).flatten(0, 1).contiguous(memory_format=memory_format)


class Stream:
    """STMENet over one video, whose clips overlap: stream(clip, places) equals the network's eval output.

    The first layers of the 3-D branch see a frame and its neighbours in the clip. Their maps are kept by
    these places until a clip lacks them. The weights are those at the start, with the batch norms folded.
    """

    def __init__(self, network: STMENet):
        self.network = folded_copy(network)
        self.maps: dict[tuple, Tensor] = {}  # (place before, place, place after) -> [1, 24, H/4, W/4]

    def __call__(self, clip: Tensor, places: Sequence[int]) -> dict[str, list[Tensor]]:
        """clip: [1, 3, 5, H, W]; places: the number that each of its frames has in the video, in any order.

        Raises UserError for clips of another shape.
        """
        check_streamed_clip(self.network.name, clip, places)
        frames, backbone = frames_in_batch(clip, torch.channels_last).split(1), self.network.backbone3d
        windows = list(zip([None, *places[:-1]], places, [*places[1:], None], strict=True))
        known, self.maps = self.maps, {}
        for t, window in enumerate(windows):
            if window not in self.maps:
                self.maps[window] = known[window] if window in known else backbone.first_map(t, frames)
        temporal = backbone.later_layers([self.maps[window] for window in windows])
        return {"head": [self.network.detect(frames[-1], temporal)]}


# ---------------------------------------------------------------- recipe, published names, entry point

RECIPE = {
    **UESTC_RECIPE,
    "datasets": {"DAUB": {"model": {"variant": "DAUB"}}, "IRDST": {"model": {"variant": "IRDST"}}},
}

RENAME = {
    r"backbone\.backbone\.": "backbone2d.",
    r"backbone_3d\.backbone\.": "backbone3d.",
    r"backbone3d\.conv1\.0\.": "backbone3d.conv1.conv.",
    r"backbone3d\.conv1\.1\.": "backbone3d.conv1.norm.",
    r"(.*)\.banch1\.0\.": r"\1.shortcut.0.conv.",
    r"(.*)\.banch1\.1\.": r"\1.shortcut.0.norm.",
    r"(.*)\.banch1\.2\.": r"\1.shortcut.1.conv.",
    r"(.*)\.banch1\.3\.": r"\1.shortcut.1.norm.",
    r"(.*)\.banch2\.0\.": r"\1.branch.0.conv.",
    r"(.*)\.banch2\.1\.": r"\1.branch.0.norm.",
    r"(.*)\.banch2\.3\.": r"\1.branch.2.conv.",
    r"(.*)\.banch2\.4\.": r"\1.branch.2.norm.",
    r"(.*)\.banch2\.5\.": r"\1.branch.3.conv.",
    r"(.*)\.banch2\.6\.": r"\1.branch.3.norm.",
    r"cls_channel_encoders(\d)\.": r"encoder\1.",
    r"(.*)\.fuse_time\.0\.": r"\1.refine.",
    r"(.*)\.refine\.ca\.": r"\1.refine.gate.",
    r"(.*)\.refine\.dconv5_5\.": r"\1.refine.square.",
    r"(.*)\.refine\.dconv1_7\.": r"\1.refine.crosses.0.0.",
    r"(.*)\.refine\.dconv7_1\.": r"\1.refine.crosses.0.1.",
    r"(.*)\.refine\.dconv1_11\.": r"\1.refine.crosses.1.0.",
    r"(.*)\.refine\.dconv11_1\.": r"\1.refine.crosses.1.1.",
    r"(.*)\.refine\.dconv1_21\.": r"\1.refine.crosses.2.0.",
    r"(.*)\.refine\.dconv21_1\.": r"\1.refine.crosses.2.1.",
    r"(.*)\.convs\.0\.": r"\1.conv.",
    r"(.*)\.convs\.1\.": r"\1.norm.",
    r"(.*)\.fuse_convs\.0\.": r"\1.mix.",
    r"(.*)\.fuse_convs\.1\.": r"\1.conv1.",
    r"(.*)\.fuse_convs\.2\.": r"\1.attention.",
    r"(.*)\.fuse_convs\.3\.": r"\1.conv2.",
    r"(.*)\.fuse_convs\.5\.": r"\1.project.",
    r"feature_fusion\.": "fusion.",
    **HEAD_RENAME,
}


def build(
    name: str, fusions: dict[str, str], variant: str, init: str, objectness_prior: float | None
) -> STMENet:
    """A network by the name of its data set, initialised.

    fusions: the fusion of each variant of the model `name`
    Raises UserError for an unknown variant.
    """
    known = {fold(spelling): fusion for spelling, fusion in fusions.items()}
    if fold(variant) not in known:
        raise UserError(f"{name} has no variant {variant!r}; known: {', '.join(fusions)}")
    model = STMENet(known[fold(variant)], objectness_prior)
    if init == "published":
        published_init(model)
    return model


@register_model("STMENet", recipe=RECIPE, rename=RENAME, task="boxes")
def stmenet(
    variant: str = "ITSDT-15K", init: Init = "published", objectness_prior: ObjectnessPrior = None
) -> STMENet:
    """STMENet.

    variant:          the data set whose published network is built: "ITSDT-15K", "DAUB" (the same), "IRDST"
    init:             "published", what the published train.py starts from, or "constructor"
    objectness_prior: the objectness that all cells start with, such as 0.01; None, as published, is about 0.5

    The published network is constructed with the Kinetics weights of its 3-D backbone. The initialisation of
    the training script overwrites their convolutions, so that only the batch norms remain: `train.py --init
    kinetics_shufflenetv2_1.0x_RGB_16_best.pth --init_only norm`. Then it loads pre_trained.pth, most likely
    YOLOX-s for the 2-D backbone, by names and shapes; that file is not public.
    """
    fusions = {"ITSDT-15K": "plain", "DAUB": "plain", "IRDST": "bottleneck"}
    return build("STMENet", fusions, variant, init, objectness_prior)
