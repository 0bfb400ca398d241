"""SSTNet: boxes around the targets of a clip's last frame.

"SSTNet: Sliced Spatio-Temporal Network With Cross-Slice ConvLSTM for Moving Infrared Dim-Small Target
Detection", IEEE TGRS 2024. A YOLOX backbone on each of five frames, a neck that relates the four earlier ones
to the key frame, one YOLOX head; in training the features and a ConvLSTM over the frames attract each other.

The published network has a single slice, so that its cross-slice attention acts on nothing; it is left out
here, and the outputs are the same. Batch norms are folded into the convolutions in eval.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_lstm import ConvLSTM
from model.layers.conv_norm import folded_copy
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
from utils.registry import register_model

FRAMES, CHANNELS = 5, 128  # of a clip; of a frame's features


class Backbone(nn.Module):
    """CSPDarknet and the top-down half of the YOLOX neck: [B, 3, H, W] -> [B, 128, H/8, W/8]."""

    def __init__(self):
        super().__init__()
        self.darknet = CSPDarknet()
        self.lateral = BaseConv(512, 256, 1)
        self.merge4 = CSPLayer(512, 256, shortcut=False)
        self.reduce = BaseConv(256, CHANNELS, 1)
        self.merge3 = CSPLayer(256, CHANNELS, shortcut=False)

    def forward(self, frame: Tensor) -> Tensor:
        f1, f2, f3 = self.darknet(frame)
        x = self.merge4(torch.cat([double(self.lateral(f3)), f2], dim=1))  # [B, 256, H/16, W/16]
        return self.merge3(torch.cat([double(self.reduce(x)), f1], dim=1))


def double(x: Tensor) -> Tensor:
    """Each pixel becomes 2x2."""
    return F.interpolate(x, scale_factor=2)


# ---------------------------------------------------------------- neck


def two_convs(inputs: int, middle: int, activation: Callable[[Tensor], Tensor] = F.silu) -> nn.Sequential:
    """Two 3x3 convolutions to 128 channels; the second one with the given activation."""
    return nn.Sequential(BaseConv(inputs, middle, 3), BaseConv(middle, CHANNELS, 3, activation=activation))


class PairConv(BaseConv):
    """A 3x3 convolution of an earlier frame's features beside those of the key frame.

    It is linear up to its norm: conv([a, b]) = conv_a(a) + conv_b(b). Each half is computed once per frame.
    """

    def __init__(self):
        super().__init__(2 * CHANNELS, 2 * CHANNELS, 3)

    def kernel(self) -> tuple[Tensor, Tensor | None]:
        """(weight, bias), in eval those of convolution and norm together."""
        if self.training or self.norm is None:
            return self.conv.weight, self.conv.bias
        return self.folded()

    def earlier(self, x: Tensor) -> Tensor:
        weight, _ = self.kernel()
        return F.conv2d(x, weight[:, :CHANNELS], padding=1)

    def key(self, x: Tensor) -> Tensor:
        weight, bias = self.kernel()
        return F.conv2d(x, weight[:, CHANNELS:], bias, padding=1)

    def forward(self, earlier: Tensor, key: Tensor) -> Tensor:
        """Both halves, [B, 256, h, w] each, to one output of that shape."""
        x = earlier + key
        return self.activation(self.norm(x) if self.training else x)


class Neck(nn.Module):
    """What the five frames tell of the key frame: features [B, 128, h, w] of each -> one such map.

    The earlier frames gate the key frame's features, and each of them is compared with the key frame. The
    weights of the four comparisons stay as they are with the parameter groups of the published training.
    """

    def __init__(self):
        super().__init__()
        self.gate = two_convs((FRAMES - 1) * CHANNELS, 2 * CHANNELS, activation=torch.sigmoid)
        self.gated = two_convs(CHANNELS, CHANNELS)
        self.gated_mix = two_convs(2 * CHANNELS, 2 * CHANNELS)
        self.pair_conv, self.pair_out = PairConv(), BaseConv(2 * CHANNELS, CHANNELS, 3)
        self.pair_weight = nn.ParameterList(torch.full((1,), 0.25) for _ in range(FRAMES - 1))
        self.pair_mix = two_convs(CHANNELS, CHANNELS)
        self.final = two_convs(2 * CHANNELS, 2 * CHANNELS)

    def forward(self, earlier: Sequence[Tensor], halves: Sequence[Tensor], key: Tensor) -> Tensor:
        """Features of the four earlier frames, pair_conv.earlier of each, and features of the key frame."""
        gate = self.gate(torch.cat(earlier, dim=1))
        gated = self.gated_mix(torch.cat([self.gated(gate * key), key], dim=1))
        key_half = self.pair_conv.key(key)
        pairs = [self.pair_out(self.pair_conv(half, key_half)) for half in halves]
        compared = sum(weight * pair for weight, pair in zip(self.pair_weight, pairs, strict=True))
        return self.final(torch.cat([self.pair_mix(compared), gated], dim=1))


# ---------------------------------------------------------------- motion loss


class Motion(nn.Module):
    """A second view of the features of all frames, by a ConvLSTM over the frames."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=4, padding=1, bias=False),
            nn.LeakyReLU(),
            nn.Conv2d(32, 64, 1, bias=False),
            nn.LeakyReLU(),
        )
        self.lstm = ConvLSTM(64)
        self.out = nn.Conv2d(FRAMES * 64, FRAMES * CHANNELS, 1, bias=False)

    def forward(self, frames: Sequence[Tensor]) -> Tensor:
        """Frames [B, 3, H, W] -> [B, 5 * 128, H/8, W/8]; published for 512 x 512 alone."""
        states = self.lstm([self.encoder(frame) for frame in frames])  # [B, 64, H/4, W/4] each
        return F.leaky_relu(F.max_pool2d(self.out(torch.cat(states, dim=1)), 2))


# ---------------------------------------------------------------- network


class SSTNet(nn.Module):
    """The published network of five frames and one class.

    objectness_prior: the objectness that all cells start with; None, as published, is about 0.5
    """

    def __init__(self, objectness_prior: float | None = None):
        super().__init__()
        self.backbone, self.neck = Backbone(), Neck()
        self.head = YOLOXHead(objectness_prior=objectness_prior)
        self.motion = Motion()

    def forward(self, clip: Tensor) -> dict[str, list[Tensor] | Tensor]:
        """clip: float32 [B, 3, 5, H, W], the key frame last, H and W multiples of 32.

        Returns "head", a list of one map [B, 6, H/8, W/8]: tx, ty, tw, th, logits of objectness and class; in
        train mode also "motion_loss", a scalar to be added to the loss.
        Raises UserError for clips of another shape.
        """
        check_clip("SSTNet", clip)
        frames = clip.unbind(2)
        if self.training:  # batch norms see the frames one by one, as published
            features = [self.backbone(frame) for frame in frames]
        else:
            features = self.backbone(torch.cat(frames)).chunk(FRAMES)
        halves = self.neck.pair_conv.earlier(torch.cat(features[:-1])).chunk(FRAMES - 1)
        raw = {"head": [self.head(self.neck(features[:-1], halves, features[-1]))]}
        if self.training:
            raw["motion_loss"] = F.mse_loss(torch.cat(features, dim=1), self.motion(frames))
        return raw

    def stream(self) -> "Stream":
        """A form for the frames of one video in turn, see Stream; it does not follow later weights."""
        return Stream(self)

    def decode(
        self, raw: dict[str, list[Tensor]], score_threshold: float = 0.001, nms_iou: float = 0.65
    ) -> list[Tensor]:
        """Per image boxes [N, 5]: x1, y1, x2, y2 in input pixels, score; see decode_boxes."""
        return decode_boxes(raw["head"][0], score_threshold, nms_iou)

    def adapt_official(self, name: str, value: Tensor) -> Tensor:
        """A published value in the form of our parameter `name`: the state of another slice is left out.

        Raises UserError where it is not there.
        """
        if name == "motion.lstm.slice_conv.weight":
            return self.motion.lstm.without_other_slice(name, value)
        return value


class Stream:
    """The network in eval over the frames of one video, which computes once what neighbouring clips share."""

    def __init__(self, network: SSTNet):
        self.network = folded_copy(network)
        self.features: dict[int, Tensor] = {}  # of each frame, by its place in the video
        self.halves: dict[int, Tensor] = {}  # of each frame as an earlier one, see PairConv

    @torch.no_grad()
    def __call__(self, clip: Tensor, places: list[int]) -> dict[str, list[Tensor]]:
        """As SSTNet.forward in eval, of one clip [1, 3, 5, H, W].

        places: the number of each frame in its video, in any order of calls; it alone says which frames are
                the same. Frames that are not in the clip are forgotten.
        """
        check_streamed_clip("SSTNet", clip, places)
        *earlier, key = places
        backbone, neck = self.network.backbone, self.network.neck
        self.features = updated(
            self.features, places, lambda new: backbone(torch.cat([clip[:, :, places.index(p)] for p in new]))
        )
        self.halves = updated(
            self.halves,
            earlier,
            lambda new: neck.pair_conv.earlier(torch.cat([self.features[p] for p in new])),
        )
        features, halves = [self.features[p] for p in earlier], [self.halves[p] for p in earlier]
        return {"head": [self.network.head(neck(features, halves, self.features[key]))]}


def updated(
    known: dict[int, Tensor], places: list[int], compute: Callable[[list[int]], Tensor]
) -> dict[int, Tensor]:
    """The maps [1, ...] of these places alone: the known ones, and what `compute` gives for all others."""
    new = sorted(set(places) - known.keys())
    if new:
        known = known | dict(zip(new, compute(new).split(1), strict=True))
    return {place: known[place] for place in places}


# ---------------------------------------------------------------- recipe, published names, entry point

RECIPE = UESTC_RECIPE

RENAME = {
    r"mapping0\.": None,  # never used
    r"neck\.weight\.4$": None,
    r"SSTNet\.cell_list\.00\.(motion|mm1|mm2|past_attention|future_attention)\.": None,  # act on nothing
    r"backbone\.backbone\.": "backbone.darknet.",
    r"backbone\.lateral_conv0\.": "backbone.lateral.",
    r"backbone\.C3_p(\d)\.": r"backbone.merge\1.",
    r"backbone\.reduce_conv1\.": "backbone.reduce.",
    r"neck\.conv_ref\.": "neck.gate.",
    r"neck\.conv_cur\.": "neck.gated.",
    r"neck\.conv_cr_mix\.": "neck.gated_mix.",
    r"neck\.conv_gl\.0\.": "neck.pair_conv.",
    r"neck\.conv_gl\.1\.": "neck.pair_out.",
    r"neck\.weight\.": "neck.pair_weight.",
    r"neck\.conv_gl_mix\.": "neck.pair_mix.",
    r"neck\.conv_final\.": "neck.final.",
    r"mapping1\.": "motion.encoder.",
    r"SSTNet\.cell_list\.00\.conv\.": "motion.lstm.conv.",
    r"SSTNet\.cell_list\.00\.conv2\.": "motion.lstm.slice_conv.",
    r"mapping2\.0\.": "motion.out.",
    **HEAD_RENAME,
}


@register_model("SSTNet", recipe=RECIPE, rename=RENAME, task="boxes")
def sstnet(init: Init = "published", objectness_prior: ObjectnessPrior = None) -> SSTNet:
    """SSTNet.

    init:             "published", what the published training script starts from, or "constructor", before it
    objectness_prior: the objectness that all cells start with, such as 0.01; None, as published, is about 0.5

    The published script then loads pre_trained.pth by names and shapes, a file that is not public; whoever
    has it: `train.py --init pre_trained.pth`.
    """
    model = SSTNet(objectness_prior)
    if init == "published":
        published_init(model)
    return model
