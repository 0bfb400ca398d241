"""3-D ShuffleNetV2 without its last layers, computed frame by frame with 2-D convolutions.

N. Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", in the 3-D form of
O. Köpüklü et al., "Resource Efficient 3D Convolutional Neural Networks", width 1.0.

The frames of a volume stand in the batch, time first: [T B, C, H, W]. A 3-D convolution is the sum of 2-D
ones, a frame per tap. Taps that meet no frame, two of three where one frame is left, cost nothing.
"""

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import ConvNorm


class FramewiseConv(nn.Conv3d):
    """A zero-padded 3-D convolution of volumes of so many frames; a 1x1x1 one takes any number.

    stride: (time, rows, columns)
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, frames: int = 1, stride=(1, 1, 1), groups: int = 1
    ):
        super().__init__(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """x [frames B, C, H, W] -> [frames' B, O, H', W'], each size divided by the stride and rounded up."""
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another weight [O, C / groups, size, size, size], and a bias [O]."""
        frames = x.chunk(self.frames)
        return torch.cat([self.at(t, frames, weight, bias) for t in range(0, self.frames, self.stride[0])])

    def at(self, t: int, frames: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the taps around frame t give, [B, O, H', W']."""
        first = t - self.padding[0]  # the frame under tap 0
        out = None
        for tap in range(max(0, -first), min(weight.shape[2], len(frames) - first)):
            term = F.conv2d(
                frames[first + tap],
                weight[:, :, tap],
                bias if out is None else None,
                self.stride[1:],
                self.padding[1:],
                groups=self.groups,
            )
            out = term if out is None else out.add_(term)
        return out


class FramewiseNorm(nn.BatchNorm3d):
    """3-D batch norm of volumes whose frames stand in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unsqueeze(2)).squeeze(2)


def conv_norm(
    inputs: int, outputs: int, size: int, frames: int = 1, stride=(1, 1, 1), groups: int = 1
) -> ConvNorm:
    conv = FramewiseConv(inputs, outputs, size, frames, stride, groups)
    return ConvNorm(conv, FramewiseNorm(outputs))


def depthwise(channels: int, frames: int, stride: int) -> ConvNorm:
    return conv_norm(channels, channels, 3, frames, (stride,) * 3, groups=channels)


class ShuffleBlock(nn.Module):
    """A block of stride 1 or 2, in time too, for volumes of so many frames, with the shuffle behind it.

    A branch gives half of the channels. The others are half of the input at stride 1, a second branch else.
    """

    def __init__(self, inputs: int, outputs: int, frames: int, stride: int):
        super().__init__()
        half = outputs // 2
        self.shortcut = None
        if stride == 2:
            self.shortcut = nn.Sequential(depthwise(inputs, frames, 2), conv_norm(inputs, half, 1), nn.ReLU())
        self.branch = nn.Sequential(
            conv_norm(inputs if stride == 2 else half, half, 1),
            nn.ReLU(),
            depthwise(half, frames, stride),
            conv_norm(half, half, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            kept, x = x.chunk(2, dim=1)
        else:
            kept = self.shortcut(x)
        return F.channel_shuffle(torch.cat([kept, self.branch(x)], dim=1), 2)


class ShuffleNet3d(nn.Module):
    """Temporal features of five frames at stride 32, where a single frame is left."""

    frames = 5

    def __init__(self):
        super().__init__()
        self.conv1 = conv_norm(3, 24, 3, self.frames, stride=(1, 2, 2))
        blocks, inputs = [], 24
        for outputs, depth, frames in ((116, 4, 3), (232, 8, 2), (464, 4, 1)):  # frames before the stage
            blocks.append(ShuffleBlock(inputs, outputs, frames, stride=2))
            blocks += [ShuffleBlock(outputs, outputs, (frames + 1) // 2, stride=1) for _ in range(depth - 1)]
            inputs = outputs
        self.features = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """x [5 B, 3, H, W] -> [B, 464, H/32, W/32]."""
        return self.later_layers(pool_in_space(self.conv1(x)).chunk(self.frames))

    def first_map(self, t: int, frames: tuple[Tensor, ...]) -> Tensor:
        """In eval, what the first layers make of frame t beside its neighbours, [B, 24, H/4, W/4]."""
        return pool_in_space(self.conv1.conv.at(t, frames, *self.conv1.folded()))

    def later_layers(self, maps: Sequence[Tensor]) -> Tensor:
        """All that follows the first maps of the frames, from the temporal half of the max pooling on."""
        windows = [maps[max(t - 1, 0) : t + 2] for t in range(0, self.frames, 2)]
        pooled = torch.cat([reduce(torch.maximum, window) for window in windows])  # [3 B, 24, H/4, W/4]
        return self.features(F.relu_(pooled))


def pool_in_space(x: Tensor) -> Tensor:
    """The spatial half of the 3x3x3 max pooling of stride 2. The ReLU can come after it."""
    return F.max_pool2d(x, 3, stride=2, padding=1)
