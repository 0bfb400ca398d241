"""ResUNet-DTUM: the targets of the last of five frames, by how features move through time.

R. Li et al., "Direction-Coded Temporal U-Shape Module for Multiframe Infrared Small Target Detection", IEEE
TNNLS 2023, doi 10.1109/TNNLS.2023.3331004. A Res-UNet describes each frame by itself; DTUM, a U-Net whose
convolutions run along time alone, relates the five descriptions. Where it halves the resolution, it weighs
the maximum of each 2x2 window by the place it had there, so that a motion within the window leaves a trace.

The outputs are the published ones. As published, the coarse levels of DTUM are never trained.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm, folded_copy
from model.layers.res_unet import ResUNet, pad_to_multiple, published_names
from utils.errors import UserError
from utils.registry import register_model

FRAMES, CHANNELS = 5, 32  # of a clip; of a frame's features
REACH = FRAMES // 2  # of a convolution along time: 5 taps

# ---------------------------------------------------------------- convolutions along time

# Below, the frames of a clip stand in the batch: [B * 5, C, H, W], oldest first.


class TimeConv(nn.Conv3d):
    """Convolution over 5 frames, zero-padded to 5 frames or, without padding, to the middle one alone.

    It is one product of matrices, of all channels of all frames.
    """

    def __init__(self, inputs: int, outputs: int, middle_alone: bool = False):
        super().__init__(inputs, outputs, (FRAMES, 1, 1))
        self.predicted = [REACH] if middle_alone else range(FRAMES)

    def forward(self, x: Tensor) -> Tensor:
        """[B * 5, inputs, H, W] -> [B * 5, outputs, H, W], or [B, outputs, H, W] of the middle frame."""
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        taps = F.pad(weight.flatten(2), (REACH, REACH))  # [outputs, inputs, 9], of frames -4..4 away
        rows = [taps[..., 4 - t : 9 - t] for t in self.predicted]  # to frame t from each frame
        matrix = torch.stack(rows).transpose(2, 3).flatten(2).flatten(0, 1)  # [T' outputs, 5 inputs]
        bias = None if bias is None else bias.repeat(len(rows))
        y = F.conv2d(x.unflatten(0, (-1, FRAMES)).flatten(1, 2), matrix[..., None, None], bias)
        return y.unflatten(1, (len(rows), -1)).flatten(0, 1)


class MergingConv(TimeConv):
    """TimeConv of (coarse features, fine features), of which the coarse ones have half the resolution.

    Published is the convolution of both, the coarse ones enlarged. It looks at one pixel at a time and is
    linear, so that the coarse half of it can come before the enlarging.
    """

    def __init__(self, middle_alone: bool = False):
        super().__init__(2 * CHANNELS, CHANNELS, middle_alone)

    def convolve(self, x: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
        coarse, fine = x
        coarse_weight, fine_weight = weight.split(CHANNELS, dim=1)
        y = super().convolve(fine, fine_weight, bias)
        return y + F.interpolate(super().convolve(coarse, coarse_weight, None), scale_factor=2)


def direction_pool(x: Tensor) -> Tensor:
    """The maximum of each 2x2 window of x [..., H, W] times the code of its place, [..., H/2, W/2].

    The codes are -1.5 and -0.5 above, 0.5 and 1.5 below; of equal values the first one counts, row by row.
    """
    above_left, above_right = x[..., ::2, ::2], x[..., ::2, 1::2]
    below_left, below_right = x[..., 1::2, ::2], x[..., 1::2, 1::2]
    above, below = torch.maximum(above_left, above_right), torch.maximum(below_left, below_right)
    is_below = below > above
    is_right = torch.where(is_below, below_right > below_left, above_right > above_left)
    return torch.maximum(above, below) * (2.0 * is_below + is_right - 1.5)


# ---------------------------------------------------------------- DTUM


class TimeBlock(ConvNorm):
    """TimeConv, batch norm, ReLU."""

    def __init__(self, conv: TimeConv):
        super().__init__(conv, nn.BatchNorm2d(CHANNELS))

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return F.relu_(super().forward(x))


class DirectionBlock(nn.Module):
    """Direction-coded pooling, TimeConv, absolute value, batch norm, ReLU: to half the resolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = TimeConv(CHANNELS, CHANNELS), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.norm(self.conv(direction_pool(x)).abs()))


class DTUM(nn.Module):
    """Direction-coded temporal U-shape module.

    train_direction_branch: False, as published, cuts the gradient of all levels below the full resolution,
                            which then stay as they were initialised, except for their running statistics
    """

    def __init__(self, train_direction_branch: bool):
        super().__init__()
        self.train_direction_branch = train_direction_branch
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.down1 = TimeBlock(TimeConv(CHANNELS, CHANNELS))
        self.down2, self.down3, self.down4 = (DirectionBlock() for _ in range(3))
        self.up3, self.up2 = TimeBlock(MergingConv()), TimeBlock(MergingConv())
        self.up1 = TimeBlock(MergingConv(middle_alone=True))
        conv = nn.Conv2d(2 * CHANNELS, CHANNELS, 3, padding=1)
        self.head = nn.Sequential(
            ConvNorm(conv, nn.BatchNorm2d(CHANNELS)),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(CHANNELS, 1, 1),
        )

    def normalised(self, features: Tensor) -> Tensor:
        """The Res-UNet's features as DTUM takes them: what belongs to one frame alone, in eval."""
        return F.relu_(self.norm(features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features [B * 5, 32, H, W] -> logits [B, 1, H, W] of the last frame."""
        fine = self.down1(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_direction_branch):
            coarse = self.direction_branch(fine)
        merged = self.up1((coarse, fine))  # [B, 32, H, W]
        last = x[FRAMES - 1 :: FRAMES]
        return self.head(torch.cat([merged, last], dim=1))

    def direction_branch(self, fine: Tensor) -> Tensor:
        """[B * 5, 32, H, W] -> [B * 5, 32, H/2, W/2]."""
        half = self.down2(fine)
        quarter = self.down3(half)
        return self.up2((self.up3((self.down4(quarter), quarter)), half))


# ---------------------------------------------------------------- network


class ResUNetDTUM(nn.Module):
    """The published network of five frames, each three equal channels."""

    def __init__(self, train_direction_branch: bool = False):
        super().__init__()
        self.unet = ResUNet(3, CHANNELS, width=8)
        self.dtum = DTUM(train_direction_branch)

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """clip: float32 [B, 3, 5, H, W], the last frame is the key frame.

        Returns its "logits" [B, 1, H, W], before any sigmoid. Sides that are no multiples of 8 are padded
        with zeros. Raises UserError for clips of another shape.
        """
        check_clip(clip)
        height, width = clip.shape[-2:]
        features = self.features(pad_to_multiple(clip))
        return {"logits": self.dtum(self.dtum.normalised(features))[..., :height, :width]}

    def features(self, clip: Tensor) -> Tensor:
        """The Res-UNet's features [B * 5, 32, H, W] of the frames of each clip."""
        if not self.training:
            return self.unet(clip.transpose(1, 2).flatten(0, 1))
        # Batch norms see the frames one by one, the newest first, as published.
        newest_first = [self.unet(frame) for frame in reversed(clip.unbind(2))]
        return torch.stack(newest_first[::-1], dim=1).flatten(0, 1)

    def stream(self) -> "Stream":
        """A form for the frames of one video in turn, see Stream; it does not follow later weights."""
        return Stream(self)

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, 1, H, W] of the last frame, in 0..1."""
        return torch.sigmoid(raw["logits"])

    def adapt_official(self, name: str, value: Tensor) -> Tensor:
        """A published value in the form of our parameter `name`: the head's kernels have no time axis."""
        return value.squeeze(2) if name.startswith("dtum.head.") and value.ndim == 5 else value


def check_clip(clip: Tensor) -> None:
    if clip.ndim != 5 or clip.shape[1:3] != (3, FRAMES):
        raise UserError(
            f"ResUNet-DTUM takes clips [B, 3, {FRAMES}, H, W] but got {list(clip.shape)}; "
            f"set view.channels to 3 and view.frames to {FRAMES}"
        )


class Stream:
    """The network in eval over the frames of one video, whose features are computed once per frame."""

    def __init__(self, network: ResUNetDTUM):
        self.network = folded_copy(network)
        self.known: dict[int, Tensor] = {}  # normalised features [1, 32, H, W], by the frame's place

    @torch.no_grad()
    def __call__(self, clip: Tensor, places: Sequence[int]) -> dict[str, Tensor]:
        """As ResUNetDTUM.forward in eval, of one clip [1, 3, 5, H, W].

        places: the number of each frame in its video, in any order of calls; it alone says which frames are
                the same. Frames that are not in the clip are forgotten.
        """
        check_clip(clip)
        height, width = clip.shape[-2:]
        frames = dict(zip(places, pad_to_multiple(clip).unbind(2), strict=True))
        new = [place for place in frames if place not in self.known]
        if new:
            dtum = self.network.dtum
            features = dtum.normalised(self.network.unet(torch.cat([frames[place] for place in new])))
            self.known.update(zip(new, features.split(1), strict=True))
        self.known = {place: self.known[place] for place in frames}
        logits = self.network.dtum(torch.cat([self.known[place] for place in places]))
        return {"logits": logits[..., :height, :width]}


# ---------------------------------------------------------------- recipe, published names, entry point

RECIPE = {
    "view": {"frames": FRAMES, "key": FRAMES - 1, "channels": 3},
    "sampling": {"batch_size": 1, "sample_rate": 1.0},
    "optimisation": {
        "loss": "SoftIoU",
        "loss_options": {"smooth": 1.0, "over": "batch"},
        "epochs": 20,
        "optimizer": "Adam",
        "optimizer_options": {"beta2": 0.99},
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "schedule": "step",
        "schedule_options": {"step_size": 3, "lr_decay": 0.5, "min_learning_rate": 0.0},
    },
    "scoring": {"paper": "DTUM", "best": "last"},
    "datasets": {
        "NUDT-MIRSDT": {"view": {"canvas": 512, "history": "simulated"}},
        "NUDT-MIRSDT-Noise": {"view": {"canvas": 512}},
        "SatVideoIRSDT": {
            "view": {
                "neighbours": "position",
                "history": "future",
                "test_mean": 105.31,  # as published, other constants than in training
                "test_std": 26.08,
            },
            "sampling": {"patch": 256, "crops": "dtum", "target_crops": 1.0, "include_last": True},
        },
    },
}

RENAME = {
    **published_names("UNet", "unet"),
    r"DTUM\.bn0\.": "dtum.norm.",
    r"DTUM\.conv(\d)_1\.": r"dtum.down\1.conv.",
    r"DTUM\.bn(\d)_1\.": r"dtum.down\1.norm.",
    r"DTUM\.conv(\d)_2\.": r"dtum.up\1.conv.",
    r"DTUM\.bn(\d)_2\.": r"dtum.up\1.norm.",
    r"DTUM\.final\.0\.": "dtum.head.0.conv.",
    r"DTUM\.final\.1\.": "dtum.head.0.norm.",
    r"DTUM\.final\.4\.": "dtum.head.3.",
}


@register_model("ResUNet-DTUM", recipe=RECIPE, rename=RENAME)
def resunet_dtum(train_direction_branch: bool = False) -> ResUNetDTUM:
    """train_direction_branch: train the coarse levels of DTUM too, which are not trained as published."""
    return ResUNetDTUM(train_direction_branch)
