"""What the single-frame baselines share, and the recipe of the toolbox that they are compared in.

BasicIRSTD (https://github.com/XinyiYing/BasicIRSTD) trains ACM, DNANet and RDIAN alike.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm
from utils.errors import UserError


def frame_of(name: str, clip: Tensor) -> Tensor:
    """The one frame [B, 1, H, W] of a clip [B, 1, 1, H, W]. Raises UserError for clips of another shape."""
    if clip.ndim != 5 or clip.shape[1:3] != (1, 1):
        raise UserError(
            f"{name} takes clips [B, 1, 1, H, W] of a single frame but got {list(clip.shape)}; "
            "set view.channels and view.frames to 1"
        )
    return clip[:, :, 0]


def pad_to_sixteens(frame: Tensor) -> Tensor:
    """The frame with zeros below and to the right, up to the next multiples of 16.

    Zeros of the normalised image are what BasicIRSTD pads with, up to multiples of 32.
    """
    height, width = frame.shape[-2:]
    return F.pad(frame, (0, -width % 16, 0, -height % 16))


class FCNHead(nn.Module):
    """3x3 convolution to a quarter of the channels, dropout, one logit: [B, C, h, w] -> [B, 1, h, w]."""

    def __init__(self, channels: int, momentum: float = 0.1):
        super().__init__()
        middle = channels // 4
        conv = nn.Conv2d(channels, middle, 3, padding=1, bias=False)
        self.conv = ConvNorm(conv, nn.BatchNorm2d(middle, momentum=momentum))
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Conv2d(middle, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.dropout(F.relu(self.conv(x))))


FCN_HEAD_RENAME = {  # published names -> ours
    r"head\.block\.0\.": "head.conv.conv.",
    r"head\.block\.1\.": "head.conv.norm.",
    r"head\.block\.4\.": "head.out.",
}

TSMSA_STATISTICS = {"mean": 105.98960876464844, "std": 25.601680755615234}  # of NUDT-MIRSDT, by its loaders

# Trained as in BasicIRSTD, on frames as they are, and tested as in TSMSA's tables, on frames of 512x512;
# tested as in BasicIRSTD, too, by --set scoring.paper=BasicIRSTD --set view.test_resize=None.
BASIC_IRSTD_RECIPE = {
    "view": {
        "frames": 1,
        "key": 0,
        "channels": 1,
        "test_resize": (512, 512),
        "image_resize": "bilinear",
        "mask_resize": "nearest",
        "multiple": 32,
    },
    "sampling": {
        "batch_size": 16,
        "sample_rate": 0.1,  # an epoch of a video set then has about as many frames as one of an image set
        "patch": 256,
        "target_crops": 0.5,
        "include_last": True,
        "augment": ("flip_rows", "flip_columns", "transpose"),
    },
    "optimisation": {
        "loss": "SoftIoU",
        "loss_options": {"smooth": 1.0, "over": "batch"},
        "epochs": 400,
        "optimizer": "Adam",
        "learning_rate": 5e-4,
        "weight_decay": 0.0,
        "schedule": "milestones",
        "schedule_options": {"milestones": (200, 300), "lr_decay": 0.1},
    },
    "scoring": {"paper": "TSMSA", "best": "iou+pd"},
    "runtime": {"seed": 42},
    "datasets": {
        "NUDT-MIRSDT": {"view": TSMSA_STATISTICS},
        "MWIRSTD": {"view": {"statistics": "train"}},  # for which no constants are published
    },
}
