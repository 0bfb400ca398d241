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


class TimeConv(nn.Conv3d):
    """Convolution over 5 frames, zero-padded to 5 frames or, without padding, to the middle one alone.

    It is one product of matrices, of all channels of all frames.
    """

    def __init__(self, inputs: int, outputs: int, middle_alone: bool = False):
        super().__init__(inputs, outputs, (FRAMES, 1, 1), padding=(0 if middle_alone else REACH, 0, 0))
        self.predicted = [REACH] if middle_alone else range(FRAMES)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, 5, H, W] -> [B, outputs, 5, H, W], or [B, outputs, 1, H, W] of the middle frame."""
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.product(x, weight, bias).unflatten(1, (-1, len(self.predicted)))

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[B, inputs, 5, H, W] -> [B, outputs * T', H, W]."""
        matrix, bias = self.matrix(weight, bias)
        return F.conv2d(x.flatten(1, 2), matrix[..., None, None], bias)

    def matrix(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(matrix, bias) from all channels and frames to all: [outputs * T', inputs * 5], [outputs * T']."""
        taps = F.pad(weight.flatten(2), (REACH, REACH))  # [outputs, inputs, 9], of frames -4..4 away
        rows = [taps[..., 4 - t : 9 - t] for t in self.predicted]  # to frame t from each frame
        bias = None if bias is None else bias.repeat_interleave(len(rows))
        return torch.stack(rows, dim=1).flatten(2).flatten(0, 1), bias


class PublishedTimeConv(TimeConv):
    """TimeConv that rounds as the published one: by the last bit of it, direction_pool decides near-ties."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not x.is_cpu or is_for_one_dnn(x):
            return F.conv3d(x, weight, bias, padding=self.padding)
        # PyTorch copies each frame for each tap and takes a product of matrices. This one adds the same
        # numbers in the same order, and copies nothing.
        matrix, bias = self.matrix(weight, bias)
        y = torch.baddbmm(bias[:, None], matrix.expand(len(x), -1, -1), x.flatten(1, 2).flatten(2))
        return y.view(len(x), -1, *x.shape[2:])


def is_for_one_dnn(x: Tensor) -> bool:
    """Whether PyTorch (2.15) leaves a float32 convolution along time alone, of x [B, C, T, H, W], to oneDNN.

    Where another version chooses otherwise, near-ties fall by chance again; all else stays.
    """
    clips, channels, frames, height, _ = x.shape
    is_large = clips > 1 or channels * frames * height > 20480
    return x.dtype == torch.float32 and is_large and (torch.get_num_threads() > 1 or clips >= 16)


class MergingConv(TimeConv):
    """TimeConv of (coarse features, fine features), of which the coarse ones have half the resolution.

    Published is the convolution of both, the coarse ones enlarged. It looks at one pixel at a time and is
    linear, so that the coarse half of it can come before the enlarging.
    """

    def __init__(self, middle_alone: bool = False):
        super().__init__(2 * CHANNELS, CHANNELS, middle_alone)

    def product(self, x: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
        coarse, fine = x
        coarse_weight, fine_weight = weight.split(CHANNELS, dim=1)
        y = super().product(fine, fine_weight, bias)
        return y + F.interpolate(super().product(coarse, coarse_weight, None), scale_factor=2)


def direction_pool(x: Tensor) -> Tensor:
    """The maximum of each 2x2 window of x [..., H, W] times the code of its place, [..., H/2, W/2].

    The codes are -1.5 and -0.5 above, 0.5 and 1.5 below; of equal values the first one counts, row by row.
    """
    left, right = x[..., ::2].contiguous(), x[..., 1::2].contiguous()  # apart, they are compared faster
    larger, is_right = torch.maximum(left, right), (right > left).to(x.dtype)
    above, below = larger[..., ::2, :], larger[..., 1::2, :]
    is_below = (below > above).to(x.dtype)
    code = torch.lerp(is_right[..., ::2, :] - 1.5, is_right[..., 1::2, :] + 0.5, is_below)
    return torch.maximum(above, below) * code


# ---------------------------------------------------------------- DTUM


class TimeBlock(ConvNorm):
    """TimeConv, batch norm, ReLU."""

    def __init__(self, conv: TimeConv, folds: bool = True):
        super().__init__(conv, nn.BatchNorm3d(CHANNELS), folds)

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return F.relu_(super().forward(x))


class DirectionBlock(nn.Module):
    """Direction-coded pooling, TimeConv, absolute value, batch norm, ReLU: to half the resolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = PublishedTimeConv(CHANNELS, CHANNELS), nn.BatchNorm3d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu:  # frame by frame, what is compared stays in the cache
            pooled = torch.stack([direction_pool(frame) for frame in x.unbind(2)], dim=2)
        else:
            pooled = direction_pool(x)
        return F.relu_(self.norm(self.conv(pooled).abs_()))


class DTUM(nn.Module):
    """Direction-coded temporal U-shape module.

    What comes before a direction_pool is computed in the published order of operations, also in eval: with
    a norm folded into its convolution, near-ties would fall elsewhere and change whole blocks of logits.

    train_direction_branch: False, as published, cuts the gradient of all levels below the full resolution,
                            which then stay as they were initialised, except for their running statistics
    """

    def __init__(self, train_direction_branch: bool):
        super().__init__()
        self.train_direction_branch = train_direction_branch
        self.norm = nn.BatchNorm3d(CHANNELS)
        self.down1 = TimeBlock(PublishedTimeConv(CHANNELS, CHANNELS), folds=False)
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
        """The Res-UNet's features [B, 32, T, H, W] as DTUM takes them; in eval, each frame's by itself."""
        return F.relu_(self.norm(features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features [B, 32, 5, H, W], oldest first -> logits [B, 1, H, W] of the last frame."""
        fine = self.down1(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_direction_branch):
            coarse = self.direction_branch(fine)
        merged = self.up1((coarse, fine))[:, :, 0]  # [B, 32, H, W]
        return self.head(torch.cat([merged, x[:, :, -1]], dim=1))

    def direction_branch(self, fine: Tensor) -> Tensor:
        """[B, 32, 5, H, W] -> [B, 32, 5, H/2, W/2]."""
        half = self.down2(fine)
        quarter = self.down3(half)
        return self.up2((self.up3((self.down4(quarter), quarter)), half))


# ---------------------------------------------------------------- network


class ResUNetDTUM(nn.Module):
    """The published network of five frames, each three equal channels."""

    def __init__(self, train_direction_branch: bool = False):
        super().__init__()
        self.unet = ResUNet(3, CHANNELS, width=8, folds=False)
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
        """The Res-UNet's features [B, 32, 5, H, W] of the frames of each clip.

        It sees the frames one by one, the newest first, as published: batch norms learn in that order, and
        PyTorch rounds the convolutions of several frames at once in another way.
        """
        newest_first = [self.unet(frame) for frame in reversed(clip.unbind(2))]
        return torch.stack(newest_first[::-1], dim=2)

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
        self.known: dict[int, Tensor] = {}  # normalised features [1, 32, 1, H, W], by the frame's place

    @torch.no_grad()
    def __call__(self, clip: Tensor, places: Sequence[int]) -> dict[str, Tensor]:
        """As ResUNetDTUM.forward in eval, of one clip [1, 3, 5, H, W].

        places: the number of each frame in its video, in any order of calls; it alone says which frames are
                the same. Frames that are not in the clip are forgotten.
        """
        check_clip(clip)
        height, width = clip.shape[-2:]
        frames = dict(zip(places, pad_to_multiple(clip).unbind(2), strict=True))
        self.known = {place: self.known.get(place, None) for place in frames}
        for place, frame in frames.items():
            if self.known[place] is None:
                self.known[place] = self.network.dtum.normalised(self.network.unet(frame).unsqueeze(2))
        logits = self.network.dtum(torch.cat([self.known[place] for place in places], dim=2))
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
