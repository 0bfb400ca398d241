"""What the box detectors take from YOLOX: CSPDarknet, the decoupled head and the decoding of its maps.

"YOLOX: Exceeding YOLO Series in 2021", arXiv 2107.08430, in the small form (depth 0.33, width 0.5) that
STMENet, SMFNet and SSTNet take, whose head has a single level, at stride 8.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm
from utils.errors import UserError

STRIDE = 8  # input pixels per cell of the head's map

# ---------------------------------------------------------------- CSPDarknet


class BaseConv(ConvNorm):
    """Convolution of an odd size, zero-padded; batch norm; SiLU, or another activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ):
        conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(super().forward(x))


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolution, around them a shortcut if wanted."""

    def __init__(self, channels: int, shortcut: bool):
        super().__init__()
        self.conv1, self.conv2 = BaseConv(channels, channels, 1), BaseConv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return y + x if self.shortcut else y


class CSPLayer(nn.Module):
    """Cross-stage partial layer: one half of the channels goes through `depth` bottlenecks, one past them."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = True):
        super().__init__()
        half = outputs // 2
        self.conv1, self.conv2 = BaseConv(inputs, half, 1), BaseConv(inputs, half, 1)
        self.conv3 = BaseConv(2 * half, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], dim=1))


class SPP(nn.Module):
    """Spatial pyramid pooling: the map beside its maxima over 5x5, 9x9 and 13x13."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1, self.conv2 = BaseConv(channels, half, 1), BaseConv(4 * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.conv1(x)]
        for _ in range(3):  # the maximum over 5x5 of that over 5x5 is that over 9x9
            maps.append(F.max_pool2d(maps[-1], 5, stride=1, padding=2))
        return self.conv2(torch.cat(maps, dim=1))


class Focus(nn.Module):
    """2x2 pixels become channels of one: [B, 3, H, W] -> [B, outputs, H/2, W/2]."""

    def __init__(self, outputs: int):
        super().__init__()
        self.conv = BaseConv(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(parts, dim=1))


class CSPDarknet(nn.Module):
    """The backbone of YOLOX-s.

    [B, 3, H, W] -> features [B, 128, H/8, W/8], [B, 256, H/16, W/16] and [B, 512, H/32, W/32].
    """

    def __init__(self):
        super().__init__()
        self.stem = Focus(32)
        self.dark2 = nn.Sequential(BaseConv(32, 64, 3, stride=2), CSPLayer(64, 64, depth=1))
        self.dark3 = nn.Sequential(BaseConv(64, 128, 3, stride=2), CSPLayer(128, 128, depth=3))
        self.dark4 = nn.Sequential(BaseConv(128, 256, 3, stride=2), CSPLayer(256, 256, depth=3))
        self.dark5 = nn.Sequential(
            BaseConv(256, 512, 3, stride=2), SPP(512), CSPLayer(512, 512, depth=1, shortcut=False)
        )

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f1 = self.dark3(self.dark2(self.stem(frame)))
        f2 = self.dark4(f1)
        return f1, f2, self.dark5(f2)


# ---------------------------------------------------------------- head


class YOLOXHead(nn.Module):
    """The decoupled head of one level: [B, inputs, h, w] -> [B, 5 + classes, h, w].

    Channels of the output: tx, ty, tw, th, the logit of objectness, the logits of the classes.
    objectness_prior: the objectness that all cells start with; None, as published, is about 0.5.
    """

    width = 256

    def __init__(self, inputs: int = 128, classes: int = 1, objectness_prior: float | None = None):
        super().__init__()
        self.stem = BaseConv(inputs, self.width, 1)
        self.cls_convs, self.reg_convs = (
            nn.Sequential(BaseConv(self.width, self.width, 3), BaseConv(self.width, self.width, 3))
            for _ in range(2)
        )
        self.cls_pred, self.reg_pred, self.obj_pred = (nn.Conv2d(self.width, n, 1) for n in (classes, 4, 1))
        if objectness_prior is not None:
            nn.init.constant_(self.obj_pred.bias, prior_logit(objectness_prior))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        box = self.reg_convs(x)
        return torch.cat([self.reg_pred(box), self.obj_pred(box), self.cls_pred(self.cls_convs(x))], dim=1)


def prior_logit(probability: float) -> float:
    """The logit of a probability between 0 and 1."""
    return math.log(probability) - math.log1p(-probability)


HEAD_RENAME = {  # published names of the layers above -> ours
    r"head\.stems\.0\.": "head.stem.",
    r"head\.(cls|reg)_convs\.0\.": r"head.\1_convs.",
    r"head\.(cls|reg|obj)_preds\.0\.": r"head.\1_pred.",
    r"(.*)\.bn\.": r"\1.norm.",
}


def decode_boxes(head: Tensor, score_threshold: float, nms_iou: float) -> list[Tensor]:
    """The boxes of a head's map [B, 5 + classes, h, w].

    Per image [N, 5]: x1, y1, x2, y2 in input pixels and the score, sigmoid(objectness) times that of the
    best class; only scores of at least `score_threshold`, highest first. Of boxes of one class whose IoU is
    above `nms_iou` the one of the highest score stays.
    """
    from torchvision.ops import batched_nms  # its import takes a second, which --help need not wait for

    head = head.detach()
    rows, columns = (torch.arange(size, device=head.device, dtype=head.dtype) for size in head.shape[-2:])
    cell = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))  # [2, h, w]
    centre, half = (head[:, :2] + cell) * STRIDE, head[:, 2:4].exp() * (STRIDE / 2)
    class_score, class_index = head[:, 5:].sigmoid().max(dim=1)
    score = head[:, 4].sigmoid() * class_score
    boxes = torch.cat([centre - half, centre + half, score[:, None]], dim=1)  # [B, 5, h, w]
    out = []
    for image, kind in zip(boxes.flatten(2).mT, class_index.flatten(1), strict=True):
        likely = image[:, 4] >= score_threshold
        image, kind = image[likely], kind[likely]
        out.append(image[batched_nms(image[:, :4], image[:, 4], kind, nms_iou)])
    return out


# ---------------------------------------------------------------- what the models share


def check_clip(name: str, clip: Tensor) -> None:
    """Raises UserError unless clip is [B, 3, 5, H, W] with H and W multiples of 32."""
    if clip.ndim != 5 or clip.shape[1:3] != (3, 5):
        raise UserError(
            f"{name} takes clips [B, 3, 5, H, W] but got {list(clip.shape)}; "
            "set view.channels to 3 and view.frames to 5"
        )
    if clip.shape[3] % 32 or clip.shape[4] % 32:
        raise UserError(
            f"{name} needs frames whose height and width are multiples of 32 but got {list(clip.shape)}; "
            "set view.letterbox to such a size, 512 as published"
        )


def check_streamed_clip(name: str, clip: Tensor, places: Sequence[int]) -> None:
    """Raises UserError unless clip is [1, 3, 5, H, W], as for check_clip, and each frame has its place."""
    check_clip(name, clip)
    if len(clip) != 1 or len(places) != clip.shape[2]:
        raise UserError(
            f"a stream of {name} takes one clip at a time and the places of its {clip.shape[2]} frames "
            f"but got {len(clip)} and {len(places)}; give it the clips of a video in turn"
        )


def published_init(model: nn.Module) -> None:
    """What the published training scripts make of the constructor's values.

    The weights of all 2-D and 3-D convolutions ~ N(0, 0.02^2), the scales of 2-D batch norms ~ N(1, 0.02^2).
    Biases, 3-D batch norms and linear layers stay.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


UESTC_RECIPE = {  # of STMENet, SMFNet and SSTNet, from their training scripts
    "view": {
        "frames": 5,
        "key": 4,
        "neighbours": "position",
        "channels": 3,
        "letterbox": 512,
        "gray_scale": 255.0,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "sampling": {"batch_size": 4, "sample_rate": 0.2, "labels": "published"},
    "optimisation": {
        "loss": "YOLOX",
        "epochs": 100,
        "optimizer": "SGD",
        "optimizer_options": {"momentum": 0.937, "nesterov": True},
        "learning_rate": 6.25e-4,
        "weight_decay": 5e-4,
        "parameter_groups": "published",
        "schedule": "warmup-cosine-yolox",
        "schedule_options": {"warmup_epochs": 3, "min_learning_rate": 6.25e-6},
        "ema": 0.9999,
    },
    "scoring": {"paper": "STMENet", "best": "loss"},
    "runtime": {"seed": 2023},
}
