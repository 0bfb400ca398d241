"""DeepPro, DeepPro-Plus and DeepPro-Plus for moving scenes: detection from the temporal profile of pixels.

R. Li et al., "Probing Deep into Temporal Profile Makes the Infrared Small Target Detector Much Better",
arXiv 2506.12766. A whole clip goes in, as many probability maps come out.

In training the network runs module by module. In eval the batch norms are folded into the convolutions and
DeepPro, which never mixes pixels before its pooling, runs in tiles of pixels that stay in the CPU's cache.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import UserError
from utils.recipe.fields import Facts
from utils.registry import register_model

# ---------------------------------------------------------------- convolutions


def conv_over_time(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """A (k, 1, 1) convolution of x [B, C, T, ...] with same-size padding, as a 2-D one over [time, pixel]."""
    outputs, _, taps = weight.shape[:3]
    if (
        taps == 1 and outputs <= 16 and len(x) == 1
    ):  # a plain product spares the convolution's change of layout
        y = torch.matmul(weight.flatten(1), x.flatten(2)[0])
        y = y if bias is None else y.add_(bias[:, None])
        return y.view(1, outputs, *x.shape[2:])
    pixels = x.shape[3:]
    reach = dilation * (taps // 2)
    y = F.conv2d(x.flatten(3), weight[..., 0], bias, padding=(reach, 0), dilation=(dilation, 1))
    return y.unflatten(3, pixels)


class TimeConv(nn.Conv3d):
    """Convolution of size (taps, 1, 1), zero-padded to the same length."""

    def __init__(self, inputs: int, outputs: int, taps: int = 1, dilation: int = 1):
        super().__init__(inputs, outputs, (taps, 1, 1), dilation=(dilation, 1, 1))

    def kernel(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return conv_over_time(x, self.kernel(), self.bias, self.dilation[0])


def temporal_difference(weight: Tensor) -> Tensor:
    """Kernel of the temporal difference convolution: 2 w[t] - w[t+1] - w[t-1], ends repeated; sums to 0."""
    later = torch.cat([weight[:, :, 1:], weight[:, :, -1:]], dim=2)
    earlier = torch.cat([weight[:, :, :1], weight[:, :, :-1]], dim=2)
    return 2 * weight - later - earlier


def spatial_difference(weight: Tensor) -> Tensor:
    """Kernel of the spatial difference convolution: -w around the centre, the sum of all of w at the centre.

    The centre tap itself is in that sum, as published, so a constant image is not suppressed.
    """
    centre = (weight.shape[-1] - 1) // 2
    mark = torch.zeros_like(weight[:1, :1, :1])
    mark[..., centre, centre] = 1
    return mark * weight.sum((3, 4), keepdim=True) - (1 - mark) * weight


class TimeDifferenceConv(TimeConv):
    """Temporal difference convolution of size (3, 1, 1)."""

    def kernel(self) -> Tensor:
        return temporal_difference(self.weight)


class VolumeConv(nn.Conv3d):
    """3-D convolution, zero-padded to the same size, whose kernel is a difference of its weights."""

    def __init__(self, inputs: int, outputs: int, size, dilation=(1, 1, 1), difference=spatial_difference):
        padding = tuple(d * (k // 2) for d, k in zip(dilation, size, strict=True))
        super().__init__(inputs, outputs, size, padding=padding, dilation=dilation)
        self.difference = difference

    def kernel(self) -> Tensor:
        return self.difference(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.kernel(), self.bias, padding=self.padding, dilation=self.dilation)


def conv_norm_relu(conv: nn.Conv3d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm3d(conv.out_channels), nn.ReLU(inplace=True))


def norm_scale_shift(norm: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """The per-channel (scale, shift) that a batch norm applies in eval."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def folded(conv: nn.Conv3d, norm: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """(kernel, bias) of a convolution with the batch norm behind it folded in."""
    scale, shift = norm_scale_shift(norm)
    return conv.kernel() * scale.view(-1, 1, 1, 1, 1), conv.bias * scale + shift


# ---------------------------------------------------------------- blocks


class ResidualBlock(nn.Module):
    """Difference convolution over time, second convolution, 1x1x1 convolution, and a 1x1x1 shortcut.

    spatial=False: TD_Resblock, everything along time. spatial=True: STD_Resblock, 3x3x3 kernels, the second
    one a spatial difference.
    """

    def __init__(self, inputs: int, outputs: int, spatial: bool):
        super().__init__()
        if spatial:
            self.conv1 = VolumeConv(inputs, outputs, (3, 3, 3), (2, 1, 1), temporal_difference)
            self.conv2 = VolumeConv(outputs, outputs, (3, 3, 3), (1, 2, 2), spatial_difference)
        else:
            self.conv1 = TimeDifferenceConv(inputs, outputs, taps=3, dilation=2)
            self.conv2 = TimeConv(outputs, outputs, taps=3)
        self.conv3 = TimeConv(outputs, outputs)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm3d(outputs) for _ in range(3))
        self.shortcut = nn.Sequential(TimeConv(inputs, outputs), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.bn1(self.conv1(x)))
        y = F.relu_(self.bn2(self.conv2(y)))
        return F.relu_(self.bn3(self.conv3(y)) + self.shortcut(x))

    def fold(self):
        """The block as a function: batch norms folded in, conv3 and shortcut made one convolution."""
        (kernel1, bias1), (kernel2, bias2) = folded(self.conv1, self.bn1), folded(self.conv2, self.bn2)
        (kernel3, bias3), (kernel4, bias4) = folded(self.conv3, self.bn3), folded(*self.shortcut)
        out_kernel, out_bias = torch.cat([kernel3, kernel4], dim=1), bias3 + bias4
        convolve = fast_volume_conv if isinstance(self.conv1, VolumeConv) else fast_time_conv
        dilation1, dilation2 = self.conv1.dilation, self.conv2.dilation

        def run(x: Tensor) -> Tensor:
            y = F.relu_(convolve(x, kernel1, bias1, dilation1))
            y = F.relu_(convolve(y, kernel2, bias2, dilation2))
            return F.relu_(conv_over_time(torch.cat([y, x], dim=1), out_kernel, out_bias))

        return run


def fast_time_conv(x: Tensor, kernel: Tensor, bias: Tensor, dilation: tuple[int, int, int]) -> Tensor:
    return conv_over_time(x, kernel, bias, dilation[0])


def fast_volume_conv(x: Tensor, kernel: Tensor, bias: Tensor, dilation: tuple[int, int, int]) -> Tensor:
    padding = tuple(d * (k // 2) for d, k in zip(dilation, kernel.shape[2:], strict=True))
    return F.conv3d(x, kernel, bias, padding=padding, dilation=dilation)


class TemporalProfile(nn.Module):
    """TPro of the paper: one learned L x L map over time per group of channels, the same for every pixel."""

    def __init__(self, width: int, heads: int, length: int):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(length, length) for _ in range(heads))
        self.norm = nn.BatchNorm3d(width)
        self.mix = conv_norm_relu(TimeConv(width, width))

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Per channel the matrix [C, L, L], with the published division by sqrt(L) in it, and bias [C, L]."""
        channels = self.norm.num_features // len(self.maps)
        weight = torch.stack([m.weight for m in self.maps]) / self.maps[0].in_features ** 0.5
        bias = torch.stack([m.bias for m in self.maps])
        return weight.repeat_interleave(channels, 0), bias.repeat_interleave(channels, 0)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.matrices()
        z = torch.matmul(weight, x.flatten(3)) + bias[..., None]  # [B, C, L, H*W]
        return self.mix(F.relu_(self.norm(z.view_as(x))))

    def fold(self):
        """The layer as a function of x [1, C, L, ...], both batch norms folded in."""
        weight, bias = self.matrices()
        scale, shift = norm_scale_shift(self.norm)
        weight, bias = weight * scale.view(-1, 1, 1), (bias * scale[:, None] + shift[:, None])[..., None]
        mix = folded(self.mix[0], self.mix[1])

        def run(x: Tensor) -> Tensor:
            z = torch.baddbmm(bias, weight, x.flatten(3)[0]).view_as(x)
            return F.relu_(conv_over_time(F.relu_(z), *mix))

        return run


def fold_chain(modules: nn.Sequential):
    """A Sequential of residual blocks and poolings as one function, folded."""
    steps = [m.fold() if isinstance(m, ResidualBlock) else m for m in modules]

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def fold_branch(level, profile: TemporalProfile, reduce: nn.Sequential, fuse_kernel: Tensor):
    """Blocks, temporal profile, reduction to 8 channels and this level's part of `fuse`, as one function."""
    blocks, profile, reduce = fold_chain(level), profile.fold(), folded(reduce[0], reduce[1])

    def run(x: Tensor) -> Tensor:
        return conv_over_time(F.relu_(conv_over_time(profile(blocks(x)), *reduce)), fuse_kernel, None)

    return run


def pool() -> nn.MaxPool3d:
    return nn.MaxPool3d((1, 2, 2))


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners aligned, of every frame of x [B, C, T, h, w] to `size`."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x.flatten(1, 2), size=size, mode="bilinear", align_corners=True).view(
        *x.shape[:3], *size
    )


# ---------------------------------------------------------------- networks


class ClipDetector(nn.Module):
    """What the three networks share: the checks of the input, the choice of form, the decoding."""

    smallest = 1  # height and width

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """clip: float32 [B, 1, seq_len, H, W], gray values normalised by the data set's mean and std.

        Returns logits [B, seq_len, H, W]. Raises UserError for another number of frames or channels.
        """
        if clip.ndim != 5 or clip.shape[1] != 1 or clip.shape[2] != self.seq_len:
            raise UserError(
                f"{type(self).__name__} takes clips [B, 1, {self.seq_len}, H, W] but got {list(clip.shape)}; "
                "set view.channels to 1, and model.seq_len and view.frames to one number"
            )
        if min(clip.shape[-2:]) < self.smallest:
            raise UserError(
                f"{type(self).__name__} needs frames of at least {self.smallest} x {self.smallest} pixels"
            )
        return {"logits": self.plain(clip) if self.training else self.fast(clip)}

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, T', H, W] in 0..1."""
        return torch.sigmoid(raw["logits"])

    def plain(self, clip: Tensor) -> Tensor:
        """The network module by module, with live batch norms."""
        return self.head(self.features(clip)).squeeze(1)


class DeepPro(ClipDetector):
    """DeepPro: computes along time only, on three spatial scales."""

    smallest = 4
    tile_pixels = 2048  # pixels per tile in eval on a CPU, so that 32 channels of it fit the cache

    def __init__(self, seq_len: int = 40):
        super().__init__()
        self.seq_len = seq_len
        self.stem = conv_norm_relu(TimeConv(1, 8, taps=5))
        self.level1 = nn.Sequential(ResidualBlock(8, 16, False), ResidualBlock(16, 32, False))
        self.level2 = nn.Sequential(pool(), ResidualBlock(8, 16, False), ResidualBlock(16, 32, False))
        self.level3 = nn.Sequential(pool(), ResidualBlock(8, 16, False), pool(), ResidualBlock(16, 32, False))
        self.profile1, self.profile2, self.profile3 = (TemporalProfile(32, 4, seq_len) for _ in range(3))
        self.reduce1, self.reduce2, self.reduce3 = (conv_norm_relu(TimeConv(32, 8)) for _ in range(3))
        self.fuse = conv_norm_relu(TimeConv(24, 8))
        self.head = TimeConv(8, 1)

    def features(self, clip: Tensor) -> Tensor:
        """The last feature maps, [B, 8, L, H, W]."""
        x = self.stem(clip)
        levels = [
            self.reduce1(self.profile1(self.level1(x))),  # [B, 8, L, H, W]
            self.reduce2(self.profile2(self.level2(x))),  # [B, 8, L, H/2, W/2]
            self.reduce3(self.profile3(self.level3(x))),  # [B, 8, L, H/4, W/4]
        ]
        return self.fuse(torch.cat([upsample(level, clip.shape[-2:]) for level in levels], dim=1))

    def fast(self, clip: Tensor) -> Tensor:
        """The same network for eval: folded, in tiles, and fused before the upsampling (fuse is linear)."""
        stem = folded(self.stem[0], self.stem[1])
        kernel, bias = folded(self.fuse[0], self.fuse[1])
        branches = [
            fold_branch(self.level1, self.profile1, self.reduce1, kernel[:, :8]),
            fold_branch(self.level2, self.profile2, self.reduce2, kernel[:, 8:16]),
            fold_branch(self.level3, self.profile3, self.reduce3, kernel[:, 16:]),
        ]
        return torch.stack([self._fast_item(item[None], stem, branches, bias) for item in clip])

    def _fast_item(self, clip: Tensor, stem, branches, bias: Tensor) -> Tensor:
        height, width = clip.shape[-2:]
        sums = [clip.new_empty(1, 8, self.seq_len, height // s, width // s) for s in (1, 2, 4)]
        for rows, cols in self._tiles(height, width, clip.device.type):
            x = F.relu_(conv_over_time(clip[..., rows, cols].contiguous(), *stem))
            for scale, branch, out in zip((1, 2, 4), branches, sums, strict=True):
                low_rows = slice(rows.start // scale, rows.stop // scale)
                low_cols = slice(cols.start // scale, cols.stop // scale)
                if low_rows.start < low_rows.stop and low_cols.start < low_cols.stop:
                    out[..., low_rows, low_cols] = branch(x)
        return self._fuse_and_head(sums, bias)

    def _tiles(self, height: int, width: int, device: str):
        """Slices of rows and columns that start at multiples of 4, so that pooling stays inside a tile."""
        if device != "cpu":
            return [(slice(0, height), slice(0, width))]
        tile_width = min(width, 64)
        tile_height = max(4, self.tile_pixels // tile_width // 4 * 4)
        return [
            (slice(r, min(r + tile_height, height)), slice(c, min(c + tile_width, width)))
            for r in range(0, height, tile_height)
            for c in range(0, width, tile_width)
        ]

    def _fuse_and_head(self, sums: list[Tensor], bias: Tensor) -> Tensor:
        size = sums[0].shape[-2:]
        frames = []
        for first, second, third in zip(
            *(s.split(4, dim=2) for s in sums), strict=True
        ):  # a few frames at a time
            total = first + upsample(second, size) + upsample(third, size) + bias.view(1, -1, 1, 1, 1)
            frames.append(self.head(F.relu_(total))[0, 0])
        return torch.cat(frames)  # [L, H, W]


class DeepProPlus(ClipDetector):
    """DeepPro-Plus: spatial difference convolutions beside the temporal ones, at full resolution."""

    strip_pixels = 96 * 1024  # pixels per strip in eval
    halo = 9  # rows: 3 for the first convolution, 1 + 2 for each block

    def __init__(self, seq_len: int = 40):
        super().__init__()
        self.seq_len = seq_len
        self.stem = conv_norm_relu(VolumeConv(1, 8, (5, 7, 7)))
        self.level = nn.Sequential(ResidualBlock(8, 16, True), ResidualBlock(16, 32, True))
        self.profile = TemporalProfile(32, 8, seq_len)
        self.reduce = conv_norm_relu(TimeConv(32, 8))
        self.head = TimeConv(8, 1)

    def features(self, clip: Tensor) -> Tensor:
        """The last feature maps, [B, 8, L, H, W]."""
        return self.reduce(self.profile(self.level(self.stem(clip))))

    def fast(self, clip: Tensor) -> Tensor:
        """The same network for eval: folded, in strips of rows that bound the memory."""
        stem, blocks, profile = fold_stem(self.stem), fold_chain(self.level), self.profile.fold()
        reduce = folded(self.reduce[0], self.reduce[1])

        def run(strip: Tensor) -> Tensor:
            x = profile(blocks(stem(strip)))
            return self.head(F.relu_(conv_over_time(x, *reduce)))[0, 0]

        rows = max(self.strip_pixels // clip.shape[-1], 2 * self.halo)
        return torch.stack([in_strips(run, item[None], rows, self.halo) for item in clip])


def in_strips(run, clip: Tensor, rows: int, halo: int) -> Tensor:
    """run(clip [1, 1, L, H, W]) -> [L, H, W], computed `rows` rows at a time.

    Each strip also sees `halo` rows on both sides, as far as the kernels reach; their results are dropped.
    """
    strips = []
    for top in range(0, clip.shape[-2], rows):
        first = max(top - halo, 0)
        logits = run(clip[..., first : top + rows + halo, :])
        strips.append(logits[..., top - first : top - first + rows, :])
    return torch.cat(strips, dim=-2)


class DeepProPlusMoving(ClipDetector):
    """DeepPro-Plus for moving scenes: two pooled levels, for unregistered video."""

    smallest = 4

    def __init__(self, seq_len: int = 40):
        super().__init__()
        self.seq_len = seq_len
        self.stem = conv_norm_relu(VolumeConv(1, 8, (5, 7, 7)))
        self.level1 = nn.Sequential(pool(), ResidualBlock(8, 16, True), ResidualBlock(16, 32, True))
        self.level2 = nn.Sequential(pool(), ResidualBlock(16, 32, True))
        self.profile1, self.profile2 = TemporalProfile(32, 8, seq_len), TemporalProfile(32, 8, seq_len)
        self.reduce1, self.reduce2 = conv_norm_relu(TimeConv(32, 8)), conv_norm_relu(TimeConv(32, 8))
        self.fuse = conv_norm_relu(TimeConv(16, 8))
        self.head = TimeConv(8, 1)

    def features(self, clip: Tensor) -> Tensor:
        """The last feature maps, [B, 8, L, H, W]."""
        half = self.level1[:2](self.stem(clip))  # [B, 16, L, H/2, W/2], shared by both levels
        levels = [
            self.reduce1(self.profile1(self.level1[2](half))),  # [B, 8, L, H/2, W/2]
            self.reduce2(self.profile2(self.level2(half))),  # [B, 8, L, H/4, W/4]
        ]
        return self.fuse(torch.cat([upsample(level, clip.shape[-2:]) for level in levels], dim=1))

    def fast(self, clip: Tensor) -> Tensor:
        """The same network for eval, folded, and fused before the upsampling (fuse is linear)."""
        stem, entry = fold_stem(self.stem), fold_chain(self.level1[:2])
        kernel, bias = folded(self.fuse[0], self.fuse[1])
        branches = [
            fold_branch(self.level1[2:], self.profile1, self.reduce1, kernel[:, :8]),
            fold_branch(self.level2, self.profile2, self.reduce2, kernel[:, 8:]),
        ]
        logits = []
        for item in clip:
            half = entry(stem(item[None]))
            total = sum(upsample(branch(half), clip.shape[-2:]) for branch in branches)
            logits.append(self.head(F.relu_(total + bias.view(1, -1, 1, 1, 1)))[0, 0])
        return torch.stack(logits)


def fold_stem(stem: nn.Sequential):
    """The first convolution, folded, its five frames being the channels of a 2-D convolution."""
    kernel, bias = folded(stem[0], stem[1])
    taps, size = kernel.shape[2], kernel.shape[-1]

    def run(clip: Tensor) -> Tensor:
        padded = F.pad(clip[0, 0], (0, 0, 0, 0, taps // 2, taps // 2))  # [L + 4, H, W]
        windows = torch.stack([padded[k : k + clip.shape[2]] for k in range(taps)], dim=1)  # [L, 5, H, W]
        return (
            F.relu_(F.conv2d(windows, kernel[:, 0], bias, padding=size // 2))
            .transpose(0, 1)[None]
            .contiguous()
        )

    return run


# ---------------------------------------------------------------- recipe, published names, entry points

RECIPE = {
    "model": {"seq_len": 40},
    "view": {"frames": 40, "key": "all", "channels": 1},
    "sampling": {"batch_size": 4, "patch": 128},
    "optimisation": {
        "loss": "SoftIoU",
        "epochs": 32,
        "optimizer": "Adam",
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "schedule": "step",
        "schedule_options": {"step_size": 10, "lr_decay": 0.7, "min_learning_rate": 1e-5},
    },
    "scoring": {"best": "window_iou"},
    "datasets": {
        "NUDT-MIRSDT": {"sampling": {"sample_rate": 0.1}, "view": {"train_resize": (256, 256)}},
        "NUDT-MIRSDT-Noise": {"sampling": {"sample_rate": 0.1}, "view": {"train_resize": (256, 256)}},
        "IRDST-simulation": {"sampling": {"sample_rate": 0.03}},
        "RGBT-Tiny": {"sampling": {"sample_rate": 0.05}},
        "SatVideoIRSDT": {"sampling": {"sample_rate": 0.04}, "optimisation": {"epochs": 40}},
        "IRSatVideo-LEO": {"view": {"train_resize": (512, 512), "test_resize": (512, 512)}},
    },
}

RENAME = {
    r"conv_in\.": "stem.",
    r"TPro(\d)\.": r"profile\1.",
    r"layer(\d)\.": r"level\1.",
    r"conv_out1_(\d)\.": r"reduce\1.",
    r"conv_out2\.": "fuse.",
    r"final\.": "head.",
    r"(.*)\.QK_heads\.": r"\1.maps.",
    r"(profile\d?)\.norm1\.": r"\1.norm.",
    r"(profile\d?)\.conv\.": r"\1.mix.",
}
RENAME_PLUS = {
    r"conv_in\.": "stem.",
    r"layer1\.": "level.",
    r"TPro\.": "profile.",
    r"conv_out1\.": "reduce.",
    r"conv_out2\.": "head.",
    **{k: v for k, v in RENAME.items() if "QK_heads" in k or "profile" in k},
}
RENAME_MOVING = {r"TATT(\d)\.": r"profile\1.", **RENAME}


SeqLen = Annotated[int, Facts("frames of a clip", at_least=1, at_most=10_000)]


@register_model("DeepPro", recipe=RECIPE, rename=RENAME)
def deeppro(seq_len: SeqLen = 40) -> DeepPro:
    return DeepPro(seq_len)


@register_model("DeepPro-Plus", recipe=RECIPE, rename=RENAME_PLUS)
def deeppro_plus(seq_len: SeqLen = 40) -> DeepProPlus:
    return DeepProPlus(seq_len)


@register_model(
    "DeepPro-Plus-Moving", aliases=("DeepPro-Plus_forMovingScenes",), recipe=RECIPE, rename=RENAME_MOVING
)
def deeppro_plus_moving(seq_len: SeqLen = 40) -> DeepProPlusMoving:
    return DeepProPlusMoving(seq_len)
