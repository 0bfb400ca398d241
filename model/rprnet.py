"""RPRNet: one key frame's targets from a short clip around it.

"Refined Spatio-Temporal Pipeline Representation Network for Infrared Small Moving Target Detection". Three
spatio-temporal refinement blocks (STRB) on half the resolution, the maximum over time, an upsampler that
decides where each new pixel looks (IG-GSM), and a head that judges on four scales.

The published network also computes what it never uses, or computes it in a costly order; the outputs here are
the same. Batch norms are folded into the convolutions in eval.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm
from model.layers.deformable3d import DeformableConv3d, interpolate_rows
from model.options import Init
from utils.errors import UserError
from utils.registry import register_model

# ---------------------------------------------------------------- spatio-temporal refinement


def conv_norm(inputs: int, outputs: int, size: int = 3) -> ConvNorm:
    """3-D convolution to the same size, and batch norm."""
    conv = nn.Conv3d(inputs, outputs, size, padding=size // 2, bias=False)
    return ConvNorm(conv, nn.BatchNorm3d(outputs))


class ChannelAttention(nn.Module):
    """Efficient channel attention: a gate per channel from its mean and those of its two neighbours."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The gates [B, C, 1, 1, 1], between 0 and 1, of x [B, C, T, H, W]."""
        means = x.mean((2, 3, 4))
        return torch.sigmoid(self.conv(means[:, None])[:, 0, :, None, None, None])


class STRB(nn.Module):
    """Spatio-temporal refinement: deformable convolution, residual block, channel attention."""

    def __init__(
        self, inputs: int, outputs: int, stride: tuple[int, int, int], max_disp_xy: float, max_disp_t: float
    ):
        super().__init__()
        deformable = DeformableConv3d(inputs, outputs, stride, max_disp_xy, max_disp_t)
        self.deform = ConvNorm(deformable, nn.BatchNorm3d(outputs))
        self.first, self.second = conv_norm(outputs, outputs), conv_norm(outputs, outputs)
        self.attention = ChannelAttention()

    def features(self, x: Tensor) -> Tensor:
        """[B, inputs, T, H, W] -> [B, outputs, ...], smaller by the stride: what the attention weighs."""
        x = F.relu_(self.deform(x))
        return F.relu_(self.second(F.relu_(self.first(x))) + x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return x * self.attention(x)


# ---------------------------------------------------------------- upsampling and head


def border_cell(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(lower neighbour int64, way 0..1 to the upper one) of positions, clamped to the pixels 0..size - 1."""
    position = position.clamp(0, size - 1)
    lower = position.detach().floor().clamp(max=size - 2)
    return lower.long(), position - lower


class IGGSM(nn.Module):
    """IG-GSM: doubles the resolution; each new pixel is sampled where a gated offset points to.

    Four groups of channels have their own offsets. The unit of offsets is the pixel before upsampling.
    """

    groups = 4

    def __init__(self, channels: int):
        super().__init__()
        maps = 2 * self.groups * 4  # axis (x, y), group, sub-row, sub-column
        self.offset = nn.Conv2d(channels, maps, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1), nn.ReLU(inplace=True), nn.Conv2d(channels // 4, maps, 1)
        )
        for conv in (self.gate[0], self.gate[2]):
            nn.init.xavier_uniform_(conv.weight, gain=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W], at least 2 x 2 pixels -> [B, C, 2H, 2W]."""
        return self.sample(x, self.offsets(x))

    def project(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """conv(self(x)) of a 1x1 convolution to one channel, [B, 1, 2H, 2W].

        Sampling is linear and the same for all channels of a group, so that the convolution can come first:
        one channel per group is sampled instead of C / 4.
        """
        weight = conv.weight.view(self.groups, -1, 1, 1)
        maps = F.conv2d(x, weight, groups=self.groups)  # [B, groups, H, W]
        return self.sample(maps, self.offsets(x)).sum(1, keepdim=True) + conv.bias.view(-1, 1, 1)

    def offsets(self, x: Tensor) -> Tensor:
        """Offsets [axis (x, y), B, H, sub-row, W, sub-column, group] from the pixel that is divided."""
        maps = 0.5 * self.offset(x) * torch.sigmoid(self.gate(x))
        return maps.unflatten(1, (2, self.groups, 2, 2)).permute(1, 0, 5, 3, 6, 4, 2)

    def sample(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Bilinear samples of x [B, C, H, W], its border repeated, [B, C, 2H, 2W]."""
        batch, _, height, width = x.shape
        dtype = torch.promote_types(offsets.dtype, torch.float32)
        rows, columns = (  # where new pixels sit among the old ones: -0.25, 0.25, 0.75, ...
            (torch.arange(2 * size, dtype=dtype, device=x.device) / 2 - 0.25).view(size, 2, 1)
            for size in (height, width)
        )
        right, to_right = border_cell(columns + offsets[0], width)
        down, to_down = border_cell(rows[..., None, None] + offsets[1], height)
        table = x.permute(0, 2, 3, 1).reshape(batch * height * width * self.groups, -1)
        number = torch.arange(len(table), device=x.device).view(batch, height, 1, width, 1, self.groups)
        lower = number[:, :1, :, :1] + (down * width + right) * self.groups
        steps = (self.groups, width * self.groups)
        samples = interpolate_rows(table, lower, (to_right, to_down), steps)
        return samples.view(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def halve(channels: int) -> nn.Sequential:
    """3x3 convolution of stride 2, batch norm and SiLU."""
    conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(ConvNorm(conv, nn.BatchNorm2d(channels)), nn.SiLU(inplace=True))


class MultiScaleHead(nn.Module):
    """Judges the features at full, half, quarter and eighth resolution, and mixes the four judgements.

    Each digit in the name of an upsampler doubles the resolution once more: up3, up33, up333 bring the eighth
    back to the full one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.down1, self.down2, self.down3 = (halve(channels) for _ in range(3))
        self.up1, self.up2, self.up22, self.up3, self.up33, self.up333 = (IGGSM(channels) for _ in range(6))
        self.out0, self.out1, self.out2, self.out3 = (nn.Conv2d(channels, 1, 1) for _ in range(4))
        self.fuse = nn.Conv2d(4, 1, 1)
        self.gamma = nn.Parameter(torch.zeros(4))

    def forward(self, full: Tensor) -> tuple[Tensor, list[Tensor]]:
        """full [B, C, H, W] -> (main logits [B, 1, H, W], the four it is mixed from)."""
        half = self.down1(full)
        quarter = self.down2(half)
        eighth = self.down3(quarter)
        sides = [
            self.out0(full),
            self.up1.project(half, self.out1),
            self.up22.project(self.up2(quarter), self.out2),
            self.up333.project(self.up33(self.up3(eighth)), self.out3),
        ]
        # Published as fuse(sides) + sum(softmax(gamma) * sides): together one convolution.
        weight = self.fuse.weight + torch.softmax(self.gamma, 0).view(1, 4, 1, 1)
        return F.conv2d(torch.cat(sides, dim=1), weight, self.fuse.bias), sides


# ---------------------------------------------------------------- network


class RPRNet(nn.Module):
    """The published network of 3 channels and 5 to 10 frames, 6 as published."""

    smallest = 16  # height and width; the coarsest features are then 2 x 2

    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 32)
        self.stage1 = STRB(32, 64, (1, 2, 2), max_disp_xy=0.5, max_disp_t=0)
        self.stage2 = STRB(64, 128, (2, 1, 1), max_disp_xy=0, max_disp_t=0.5)
        self.stage3 = STRB(128, 256, (1, 1, 1), max_disp_xy=0, max_disp_t=0)
        self.reduce = conv_norm(256, 256, size=1)
        self.upsample = IGGSM(256)
        self.head = MultiScaleHead(256)

    def forward(self, clip: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """clip: float32 [B, 3, T, H, W], T = 5..10 frames around the key frame, which is the third of six.

        Returns, before any sigmoid, the "logits" [B, 1, H, W] of the key frame and "side_logits", a list of
        the four judgements [B, 1, H, W] behind them, from fine to coarse.
        Raises UserError for other channels or lengths and for frames below 16 x 16 pixels.
        """
        self._check(clip)
        height, width = clip.shape[-2:]
        x = pad_to_eights(clip).contiguous(memory_format=torch.channels_last_3d)  # taps read whole pixels
        x = F.relu_(self.stem(x))  # [B, 32, T, H, W]
        x = self.stage1(x)  # [B, 64, T, H/2, W/2]
        x = self.stage2(x)  # [B, 128, T/2, H/2, W/2]
        x = self.stage3.features(x)  # [B, 256, T/2, H/2, W/2]
        # The maximum over time comes before the gates, which are positive. As published it sees three of T/2.
        first, second, third = x[:, :, :3].split(1, dim=2)
        x = torch.maximum(torch.maximum(first, second), third) * self.stage3.attention(x)
        x = F.relu_(self.reduce(x)).squeeze(2)  # [B, 256, H/2, W/2]
        main, sides = self.head(self.upsample(x))
        return {
            "logits": main[..., :height, :width],
            "side_logits": [side[..., :height, :width] for side in sides],
        }

    def _check(self, clip: Tensor) -> None:
        if clip.ndim != 5 or clip.shape[1] != 3 or not 5 <= clip.shape[2] <= 10:
            raise UserError(
                f"RPRNet takes clips [B, 3, T, H, W] of T = 5 to 10 frames but got {list(clip.shape)}; "
                "set view.channels to 3 and view.frames to 6"
            )
        if min(clip.shape[-2:]) < self.smallest:
            raise UserError(
                f"RPRNet needs frames of at least {self.smallest} x {self.smallest} pixels "
                f"but got {list(clip.shape)}; enlarge them"
            )

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, 1, H, W] of the key frame, in 0..1."""
        return torch.sigmoid(raw["logits"])

    def adapt_official(self, name: str, value: Tensor) -> Tensor:
        """A published value in the form of our parameter `name`: offset convolutions lose dead channels.

        Published are x, y and t of each tap. Raises UserError where there are fewer.
        """
        layer, offset_conv, _ = name.rpartition(".offset_conv.")
        if not offset_conv:
            return value
        if value.shape[:1] != (81,):
            raise UserError(
                f"the published {name} has 81 channels but this one has shape {list(value.shape)}; "
                "use the checkpoint as it was published"
            )
        return value.unflatten(0, (27, 3))[:, self.get_submodule(layer).axes].flatten(0, 1)


def pad_to_eights(clip: Tensor) -> Tensor:
    """The clip with its last row and column repeated until the head can halve and double it three times.

    Zeros there would be an edge. A size of a multiple of 8 less 1 runs as it is, as published: stage 1 rounds
    its half up.
    """
    down, right = (missing if missing > 1 else 0 for missing in (-size % 8 for size in clip.shape[-2:]))
    if not down and not right:
        return clip
    rows, columns = (
        torch.arange(size + extra, device=clip.device).clamp(max=size - 1)
        for size, extra in zip(clip.shape[-2:], (down, right), strict=True)
    )
    return clip[..., rows[:, None], columns]  # by index, whose gradient is deterministic on GPUs


def published_init(model: RPRNet) -> None:
    """What the published train.py makes of the constructor's values (init_weights_full).

    Every 2-D and 3-D convolution is drawn again with std sqrt(2 / (outputs * kernel)), so that offsets start
    far from 0 and side logits with a std of 6 to 9. Norms, deformable kernels and attention stay.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for stage in (model.stage1, model.stage2):  # the published offset convolutions have 81 outputs, most dead
        nn.init.normal_(stage.deform.conv.offset_conv.weight, std=math.sqrt(2 / (81 * 27)))
    head = model.head
    for conv in (head.out0, head.out1, head.out2, head.out3, head.fuse):
        nn.init.constant_(conv.bias, math.log(0.01 / 0.99))


# ---------------------------------------------------------------- recipe, published names, entry point

RECIPE = {
    "view": {
        "frames": 6,
        "key": 2,
        "channels": 3,
        "letterbox": 256,
        "gray_scale": 255.0,
        "mean": 0.28,
        "std": 0.23,
    },
    "sampling": {"batch_size": 2, "sample_rate": 1.0, "column_quirk": True},
    "optimisation": {
        "loss": "SPGloss",
        "epochs": 30,
        "optimizer": "Adam",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "schedule": "warmup-cosine-published",
        "schedule_options": {"warmup_epochs": 10, "min_learning_rate": 1e-6},
    },
    "scoring": {"paper": "RPRNet", "best": "last"},
    "runtime": {"seed": 42},
}

RENAME = {
    r"model\.": "",
    r"BCEWithLogitsLoss\.pos_weight$": None,
    r".*\.init_pos$": None,  # constant
    r"stage3\.0\.conv\.offset_conv\.": None,  # multiplied by a limit of 0
    r"stem\.block\.0\.": "stem.conv.",
    r"stem\.block\.1\.": "stem.norm.",
    r"(stage\d)\.0\.conv\.": r"\1.deform.conv.",
    r"(stage\d)\.0\.bn\.": r"\1.deform.norm.",
    r"(stage\d)\.1\.conv1\.": r"\1.first.conv.",
    r"(stage\d)\.1\.bn1\.": r"\1.first.norm.",
    r"(stage\d)\.1\.conv2\.": r"\1.second.conv.",
    r"(stage\d)\.1\.bn2\.": r"\1.second.norm.",
    r"(stage\d)\.2\.": r"\1.attention.",
    r"out_conv\.": "reduce.conv.",
    r"out_bn\.": "reduce.norm.",
    r"IRGSM_SAMPLE\.": "upsample.",
    r"MultiScaleSegHead\.block(\d)\.": r"head.down\1.0.",
    r"MultiScaleSegHead\.": "head.",
    r"(.*)\.ir_gate\.": r"\1.gate.",
}


@register_model("RPRNet", recipe=RECIPE, rename=RENAME)
def rprnet(init: Init = "published") -> RPRNet:
    """init: "published", what the published train.py starts from, or "constructor", offsets near 0."""
    model = RPRNet()
    if init == "published":
        published_init(model)
    return model
