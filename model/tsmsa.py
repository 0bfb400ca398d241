"""TSMSA: the targets of a clip's last frame.

"TSMSA: Temporal Segmentation Modeling with Sample Augmentation for Moving Infrared Small Target Detection". A
2-D backbone looks at the key frame, a ConvLSTM at the features of all five; the motion-coupling module brings
both together at a quarter of the resolution, and simple fusions lead back to the full one.

The published network also computes what it never uses: with a single slice the motion branch of its
cross-slice ConvLSTM reaches no output. It is left out, and the outputs are the same. Batch norms are folded
into the convolutions in eval.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_lstm import ConvLSTM, CrossSliceLSTM
from model.layers.conv_norm import ConvNorm, folded_copy
from model.layers.single_frame import FCN_HEAD_RENAME, TSMSA_STATISTICS, FCNHead
from model.layers.yolox import BaseConv
from utils.errors import UserError
from utils.recipe.fields import Facts
from utils.registry import register_model

FRAMES, CHANNELS = 5, 32  # of a clip; of a frame's features, at a quarter of the resolution


class DSBlock(nn.Module):
    """A residual block of depthwise separable convolutions, whose side path is a 1x1 convolution.

    norm: the norm of the side path, which is without one elsewhere
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, norm: nn.Module | None = None):
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs)
        self.pointwise = ConvNorm(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        second = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)
        self.second = ConvNorm(second, nn.BatchNorm2d(outputs))
        side = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.side = ConvNorm(side, norm) if norm else side

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y = self.second(F.leaky_relu(self.pointwise(self.depthwise(x))))
        return F.leaky_relu(y + self.side(x))


class Backbone(nn.Module):
    """The key frame [B, 1, H, W] -> features of 8, 16, 32 and 64 channels at strides 1, 2, 4 and 8."""

    def __init__(self, momentum: float):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, momentum=momentum)
        self.conv1, self.conv2 = (
            ConvNorm(nn.Conv2d(inputs, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, momentum=momentum))
            for inputs in (1, 8)
        )
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                DSBlock(inputs, 2 * inputs, 2, nn.BatchNorm2d(2 * inputs, momentum=momentum)),
                DSBlock(2 * inputs, 2 * inputs),
                DSBlock(2 * inputs, 2 * inputs),
            )
            for inputs in (8, 16, 32)
        )

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x1 = F.relu_(self.conv2(F.relu_(self.conv1(self.norm(frame)))))
        x2 = self.layer1(x1)
        x3 = self.layer2(x2)
        return x1, x2, x3, self.layer3(x3)


class MotionCoupling(nn.Module):
    """The motion-coupling module (MCM): joins the key frame's features with the states of all frames."""

    def __init__(self):
        super().__init__()
        self.spatial1 = DSBlock(FRAMES * CHANNELS, CHANNELS)
        self.spatial2, self.spatial3 = DSBlock(2 * CHANNELS, CHANNELS), DSBlock(CHANNELS, CHANNELS)
        self.temporal1, self.temporal2 = DSBlock(2 * CHANNELS, CHANNELS), DSBlock(CHANNELS, CHANNELS)
        self.frame_weight = nn.ParameterList(torch.full((1,), 0.2) for _ in range(FRAMES))
        self.mix = DSBlock(2 * CHANNELS, CHANNELS)

    def forward(self, key: Tensor, states: Sequence[Tensor]) -> Tensor:
        """All [B, 32, h, w], the states from the oldest frame on."""
        spatial = self.spatial1(torch.cat(list(states), dim=1))
        spatial = self.spatial3(key) + self.spatial2(torch.cat([key, spatial], dim=1))
        coupled = self.coupled([torch.cat([state, key], dim=1) for state in states])
        temporal = sum(weight * x for weight, x in zip(self.frame_weight, coupled, strict=True))
        return self.mix(torch.cat([spatial, self.temporal2(temporal)], dim=1))

    def coupled(self, pairs: list[Tensor]) -> Sequence[Tensor]:
        if self.training:  # batch norms see the frames one by one, as published
            return [self.temporal1(pair) for pair in pairs]
        return self.temporal1(torch.cat(pairs)).chunk(len(pairs))


class SimpleFusion(nn.Module):
    """SF: brings features of half the resolution and twice the channels into the finer ones."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce, self.mix = BaseConv(2 * channels, channels, 1), BaseConv(2 * channels, channels, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine [B, C, 2 h, 2 w], coarse [B, 2 C, h, w] -> [B, C, 2 h, 2 w]."""
        enlarged = F.interpolate(self.reduce(coarse), scale_factor=2)
        return self.mix(torch.cat([enlarged, fine], dim=1))


# ---------------------------------------------------------------- network


class TSMSA(nn.Module):
    """The network of five frames, see `tsmsa` for the options."""

    def __init__(self, motion: bool, slices: int, layers: int, momentum: float):
        super().__init__()
        self.motion = motion
        self.encoder = nn.Sequential(
            nn.Conv2d(1, CHANNELS // 2, 5, stride=4, padding=1, bias=False),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(CHANNELS // 2, CHANNELS, 1, bias=False),
            nn.LeakyReLU(inplace=True),
        )
        self.lstm = CrossSliceLSTM(CHANNELS, slices, layers, carry=True) if motion else ConvLSTM(CHANNELS)
        self.backbone = Backbone(momentum)
        self.coupling = MotionCoupling()
        self.fusion1, self.fusion2, self.fusion3 = (SimpleFusion(channels) for channels in (32, 16, 8))
        self.head = FCNHead(8, momentum)

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """clip: float32 [B, 1, 5, H, W], the key frame last.

        Returns "logits" [B, 1, H, W] of the key frame, before the sigmoid that the published network ends
        with. Raises UserError for clips of another shape.
        """
        frames = self.padded(clip).unbind(2)
        maps = self.frame_maps(torch.cat(frames)).chunk(FRAMES)
        return {"logits": self.detect(frames[-1], maps)[..., : clip.shape[3], : clip.shape[4]]}

    def frame_maps(self, frames: Tensor) -> Tensor:
        """What the ConvLSTM takes of each of N frames [N, 1, H, W] by itself, [N, C, H/4, W/4]."""
        features = self.encoder(frames)
        return features if self.motion else self.lstm.frame_gates(features)

    def detect(self, key_frame: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Logits [B, 1, H, W] from the key frame of that size and the frame_maps of the five frames."""
        states = self.lstm(maps)[1] if self.motion else self.lstm.states(maps)
        x1, x2, x3, x4 = self.backbone(key_frame)
        x = self.coupling(self.fusion1(x3, x4), states)
        return self.head(self.fusion3(x1, self.fusion2(x2, x)))

    def padded(self, clip: Tensor) -> Tensor:
        """The clip with zeros at the right and at the bottom up to multiples of 8, which run as published.

        Zeros, the mean gray value, are what the published loader pads normalised frames with.
        Raises UserError for clips that no padding makes fit.
        """
        if clip.ndim != 5 or clip.shape[1:3] != (1, FRAMES):
            raise UserError(
                f"TSMSA takes clips [B, 1, {FRAMES}, H, W] but got {list(clip.shape)}; "
                f"set view.channels to 1 and view.frames to {FRAMES}"
            )
        if self.motion and min(clip.shape[3:]) <= 8:
            raise UserError(
                f"TSMSA with motion needs frames of at least 9 x 9 pixels but got {list(clip.shape)}; "
                "enlarge them"
            )
        down, right = (-size % 8 for size in clip.shape[3:])
        return F.pad(clip, (0, right, 0, down))

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, 1, H, W] of the key frame, in 0..1."""
        return torch.sigmoid(raw["logits"])

    def stream(self) -> "Stream":
        """A form for the frames of one video in turn, see Stream; it does not follow later weights."""
        return Stream(self)

    @property
    def rename(self) -> dict[str, str | None]:
        """Published key names -> ours."""
        return self._rename

    @rename.setter
    def rename(self, table: dict[str, str | None]):
        self._rename = {**(MOTION_RENAME if self.motion else PLAIN_RENAME), **table}

    def adapt_official(self, name: str, value: Tensor) -> Tensor:
        """A published value in the form of our parameter `name`: the state of another slice is left out.

        Raises UserError where it is not there.
        """
        return self.lstm.without_other_slice(name, value) if name == "lstm.slice_conv.weight" else value


class Stream:
    """The network in eval over the frames of one video, which computes once what neighbouring clips share."""

    def __init__(self, network: TSMSA):
        self.network = folded_copy(network)
        self.maps: dict[int, Tensor] = {}  # frame_maps of each frame, by its place in the video

    @torch.no_grad()
    def __call__(self, clip: Tensor, places: list[int]) -> dict[str, Tensor]:
        """As TSMSA.forward in eval, of one clip [1, 1, 5, H, W].

        places: the number of each frame in its video, in any order of calls; it alone says which frames are
                the same. Frames that are not in the clip are forgotten.
        """
        network = self.network
        frames = dict(zip(places, network.padded(clip).unbind(2), strict=True))
        new = [place for place in frames if place not in self.maps]
        if new:
            maps = network.frame_maps(torch.cat([frames[place] for place in new]))
            self.maps.update(zip(new, maps.split(1), strict=True))
        self.maps = {place: self.maps[place] for place in frames}
        logits = network.detect(frames[places[-1]], [self.maps[place] for place in places])
        return {"logits": logits[..., : clip.shape[3], : clip.shape[4]]}


# ---------------------------------------------------------------- recipe, published names, entry point

RECIPE = {
    "view": {
        "frames": FRAMES,
        "key": FRAMES - 1,
        "channels": 1,
        "train_resize": (512, 512),
        "test_resize": (512, 512),
        "image_resize": "bilinear",
        "mask_resize": "nearest",
    },
    # Published, the last clips of an epoch that fill no batch are a smaller one; here they are left out (2 of
    # the 990 of MWIRSTD, none of NUDT-MIRSDT).
    "sampling": {"batch_size": 4, "sample_rate": 1.0, "augment": ("clones", "pair_halves")},
    "optimisation": {
        "loss": "FocalIoU",
        "epochs": 100,
        "optimizer": "Adam",
        "learning_rate": 5e-4,
        "weight_decay": 0.0,
        "schedule": "milestones",
        "schedule_options": {"milestones": (50, 75), "lr_decay": 0.1},
    },
    "scoring": {"paper": "TSMSA", "best": "iou+pd"},
    "runtime": {"seed": 42},
    "datasets": {
        "NUDT-MIRSDT": {"view": TSMSA_STATISTICS},
        "MWIRSTD": {
            "view": {"statistics": "train"},
            "optimisation": {"epochs": 300, "schedule_options": {"milestones": (150, 225)}},
        },
    },
}

PLAIN_RENAME = {
    r"SSTCell\.cell_list\.00\.(motion|mm1|mm2|past_attention|future_attention)\.": None,  # reach no output
    r"SSTCell\.cell_list\.00\.conv\.": "lstm.conv.",
    r"SSTCell\.cell_list\.00\.conv2\.": "lstm.slice_conv.",
}

MOTION_RENAME = {
    r".*_attention\.(channel_add_conv\.|conv_mask\.bias$)": None,  # never used; a softmax takes no notice
    r"SSTCell\.cell_list\.": "lstm.nodes.",
    r"(lstm\.nodes\.\d\d)\.conv2\.": r"\1.slice_conv.",
    r"(lstm\.nodes\.\d\d)\.motion\.0\.": r"\1.motion_conv.",
    r"(lstm\.nodes\.\d\d)\.mm1\.": r"\1.past_mix.",
    r"(lstm\.nodes\.\d\d)\.mm2\.": r"\1.future_mix.",
    r"(lstm\.nodes\.\d\d\..*)\.conv_mask\.": r"\1.mask.",
}

RENAME = {
    r"backbone\.layer\d\.0\.connect_conv\.": None,  # computed and thrown away
    r"mapping1\.": "encoder.",
    r"feature_enhance\.": "coupling.",
    r"backbone\.feature1\.0\.": "backbone.norm.",
    r"backbone\.feature1\.1\.": "backbone.conv1.conv.",
    r"backbone\.feature1\.2\.": "backbone.conv1.norm.",
    r"backbone\.feature1\.4\.": "backbone.conv2.conv.",
    r"backbone\.feature1\.5\.": "backbone.conv2.norm.",
    r"coupling\.weight\.": "coupling.frame_weight.",
    r"coupling\.Sconv(\d)\.": r"coupling.spatial\1.",
    r"coupling\.Tconv(\d)\.0\.": r"coupling.temporal\1.",
    r"coupling\.conv_mix\.0\.": "coupling.mix.",
    r"((?:backbone|coupling)\..*)\.conv1\.0\.": r"\1.depthwise.",
    r"((?:backbone|coupling)\..*)\.conv1\.1\.": r"\1.pointwise.conv.",
    r"((?:backbone|coupling)\..*)\.bn1\.": r"\1.pointwise.norm.",
    r"((?:backbone|coupling)\..*)\.conv2\.0\.": r"\1.second.conv.",
    r"((?:backbone|coupling)\..*)\.bn2\.": r"\1.second.norm.",
    r"(.*)\.connect_conv\.": r"\1.side.",
    r"(.*)\.downsample\.0\.": r"\1.side.conv.",
    r"(.*)\.downsample\.1\.": r"\1.side.norm.",
    r"(fusion\d)\.lateral_conv0\.": r"\1.reduce.",
    r"(fusion\d)\.lateral_conv1\.": r"\1.mix.",
    r"(fusion\d\..*)\.bn\.": r"\1.norm.",
    **FCN_HEAD_RENAME,
}


@register_model("TSMSA", recipe=RECIPE, rename=RENAME)
def tsmsa(
    motion: bool = False,
    slices: Annotated[int, Facts("of the cross-slice ConvLSTM", at_least=1, at_most=16)] = 1,
    layers: Annotated[int, Facts("of the cross-slice ConvLSTM", at_least=1, at_most=16)] = 1,
    momentum: Annotated[float, Facts("of batch norms", above=0, at_most=1)] = 0.9,
) -> TSMSA:
    """TSMSA.

    motion:         False is the published network. True is ours, nearer to what the papers say: the motion
                    state of the cross-slice ConvLSTM runs on from frame to frame, and the network goes on
                    with it instead of the plain state, so that the motion branch acts. No results of it are
                    published.
    slices, layers: of the cross-slice ConvLSTM; other than 1 with motion alone
    momentum:       of the batch norms that have the published 0.9, with which the running statistics are
                    nearly those of the last batch
    Raises UserError for slices or layers without motion.
    """
    if not motion and (slices, layers) != (1, 1):
        raise UserError("TSMSA has more slices or layers with motion alone: set model.motion to True")
    return TSMSA(motion, slices, layers, momentum)
