"""Deformable 3-D convolution: each of the 27 taps reads at its own, learned offset from its usual place.

As in RPRNet, "Refined Spatio-Temporal Pipeline Representation Network for Infrared Small Moving Target
Detection": the offsets are shared by all channels and limited by a tanh.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def interpolate_rows(
    table: Tensor, lower: Tensor, fractions: Sequence[Tensor], steps: Sequence[int]
) -> Tensor:
    """Linear interpolation between the 2, 4 or 8 corners of a cell, which are rows of a table.

    table:     [R, C], the pixels of images or volumes, one a row
    lower:     int64 [...], the row of each cell's lowest corner
    fractions: one [...] per axis, the way from the lower to the upper corner, 0..1
    steps:     per axis the number of rows from a corner to its upper neighbour
    Returns [..., C].

    A weighted sum of rows is an embedding bag. Unlike grid_sample's, its gradient is deterministic on GPUs.
    """
    rows, weights = [lower.clamp(0, len(table) - 1 - sum(steps))], [1.0]  # clamp: where an offset is NaN
    for fraction, step in zip(fractions, steps, strict=True):
        fraction = fraction.to(torch.promote_types(fraction.dtype, torch.float32))
        rows = rows + [row + step for row in rows]
        weights = [w * (1 - fraction) for w in weights] + [w * fraction for w in weights]
    sums = F.embedding_bag(
        torch.stack(rows, dim=-1).flatten(0, -2),
        table.to(fraction.dtype),
        per_sample_weights=torch.stack(weights, dim=-1).flatten(0, -2),
        mode="sum",
    )
    return sums.to(table.dtype).view(*lower.shape, -1)


class DeformableConv3d(nn.Module):
    """3x3x3 deformable convolution with padding 1 and no bias; outside the input are zeros.

    inputs, outputs: channels C and O
    stride:          (time, rows, columns)
    max_disp_xy:     how many pixels a tap can move within its frame
    max_disp_t:      how many frames it can move in time
    A limit of 0 holds the taps on that axis, and no offset is computed for it; with both limits 0 this is an
    ordinary convolution.

    weight is [O, C, 27], tap = 9 * (0..2 in time) + 3 * row + column. The channels of `offset_conv` are the
    free axes, in the order column, row, time, of tap 0, then those of tap 1, and so on.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: tuple[int, int, int] = (1, 1, 1),
        max_disp_xy: float = 0.5,
        max_disp_t: float = 0.5,
    ):
        super().__init__()
        self.bias = None
        self.stride = stride
        self.limits = (max_disp_xy, max_disp_xy, max_disp_t)  # column, row, time
        self.axes = [axis for axis, limit in enumerate(self.limits) if limit]
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 27))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.axes:
            self.offset_conv = nn.Conv3d(inputs, 27 * len(self.axes), 3, stride, padding=1)
            nn.init.zeros_(self.offset_conv.weight)
            nn.init.zeros_(self.offset_conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, H, W] -> [B, O, D, H', W'], each size divided by the stride and rounded up."""
        return self.convolve(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The same with another weight [O, C, 27], and a bias [O]."""
        if not self.axes:
            return F.conv3d(x, weight.unflatten(2, (3, 3, 3)), bias, self.stride, padding=1)
        offsets = self.offset_conv(x).permute(0, 2, 3, 4, 1).unflatten(-1, (27, -1))
        groups = zip(range(0, 27, 9), offsets.split(9, -2), weight.transpose(1, 2).split(9, 1), strict=True)
        # Nine taps at a time. Their samples would fill the memory: the gradient computes them again.
        out = sum(
            checkpoint(self.partial_sum, x, *group, use_reentrant=False, preserve_rng_state=False)
            for group in groups
        )
        return out if bias is None else out + bias.view(-1, 1, 1, 1)

    def partial_sum(self, x: Tensor, first: int, offsets: Tensor, weight: Tensor) -> Tensor:
        """What the K taps from tap `first` on add to the convolution, [B, O, D, H', W'].

        offsets: [B, D, H', W', K, axes], as they come from `offset_conv`
        weight:  [O, K, C]
        """
        # The volume as a table of its voxels, with a margin of zeros as wide as taps reach: 1 for the kernel,
        # the limit, and 1 for the upper corner.
        columns, rows, frames = (2 + int(limit) if limit else 1 for limit in self.limits)
        padded = F.pad(x.permute(0, 2, 3, 4, 1), (0, 0, columns, columns, rows, rows, frames, frames))
        number = torch.arange(padded[..., 0].numel(), device=x.device).view(padded.shape[:4])
        steps = [(1, padded.shape[3], padded.shape[2] * padded.shape[3])[axis] for axis in self.axes]
        inside = [slice(m, -m, s) for m, s in zip((frames, rows, columns), self.stride, strict=True)]
        taps = (number[0, :3, :3, :3] - number[0, 1, 1, 1]).flatten()[first : first + weight.shape[1]]
        lower = number[(slice(None), *inside)][..., None] + taps  # [B, D, H', W', K]
        fractions = []
        for axis, step, raw in zip(self.axes, steps, offsets.unbind(-1), strict=True):
            offset = self.limits[axis] * raw.tanh()  # pixels or frames
            whole = offset.detach().floor()
            lower = lower + whole.long() * step
            fractions.append(offset - whole)
        samples = interpolate_rows(padded.flatten(0, 3), lower, fractions, steps)
        samples = samples.flatten(-2).permute(0, 4, 1, 2, 3)  # [B, K * C, D, H', W']
        return F.conv3d(samples, weight.flatten(1)[:, :, None, None, None])
