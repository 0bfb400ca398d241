"""ConvLSTMs over the frames of a clip: the cross-slice one of SSTNet's and TSMSA's papers, and what is left
of it with a single slice.

"SSTNet: Sliced Spatio-Temporal Network With Cross-Slice ConvLSTM for Moving Infrared Dim-Small Target
Detection", IEEE TGRS 2024. Gates come in the order input, forget, output, cell.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import UserError


def lstm_step(i: Tensor, f: Tensor, o: Tensor, g: Tensor, c: Tensor | float) -> tuple[Tensor, Tensor]:
    """(h, c) after the gates i, f, o, g before their sigmoids and tanh, and the cell state c before them."""
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


# ---------------------------------------------------------------- one slice, one layer


class ConvLSTM(nn.Module):
    """A ConvLSTM whose gates are the sum of two convolutions, of [x, h] and of [x, h, x].

    This is a CrossSliceLSTM as published with one slice and one layer. There the second convolution also sees
    the motion state of another slice, which is 0, and the node's own motion state reaches nothing.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)
        self.slice_conv = nn.Conv2d(4 * channels, 4 * channels, 3, padding=1)
        # Drawn with the channels that it has as published, then without those of the other slice.
        self.slice_conv.weight = nn.Parameter(self.slice_conv.weight.detach()[:, : 3 * channels].clone())

    def forward(self, frames: Sequence[Tensor]) -> list[Tensor]:
        """Frames [B, C, H, W] -> the state h after each of them, of the same shape."""
        return self.states(self.frame_gates(torch.cat(list(frames))).chunk(len(frames)))

    def frame_gates(self, frames: Tensor) -> Tensor:
        """What frames [N, C, H, W] contribute to the gates, [N, 4 C, H, W]; no frame depends on another."""
        x_weight, _ = self.conv.weight.split(self.channels, dim=1)
        first_x, _, last_x = self.slice_conv.weight.split(self.channels, dim=1)  # of [x, h, x]
        bias = self.conv.bias + self.slice_conv.bias
        return F.conv2d(frames, x_weight + first_x + last_x, bias, padding=1)

    def states(self, frame_gates: Sequence[Tensor]) -> list[Tensor]:
        """The states of `forward` from `frame_gates` [B, 4 C, H, W] of each frame."""
        _, h_weight = self.conv.weight.split(self.channels, dim=1)
        _, slice_h_weight, _ = self.slice_conv.weight.split(self.channels, dim=1)
        weight = h_weight + slice_h_weight
        states, c = [], 0.0
        for gates in frame_gates:
            if states:
                gates = gates + F.conv2d(states[-1], weight, padding=1)
            h, c = lstm_step(*gates.chunk(4, dim=1), c)
            states.append(h)
        return states

    def without_other_slice(self, name: str, weight: Tensor) -> Tensor:
        """The published weight [4 C, 4 C, 3, 3] of our parameter `name`, slice_conv's, as [4 C, 3 C, 3, 3].

        Raises UserError where the channels of the other slice are not there.
        """
        if weight.shape[1:2] != (4 * self.channels,):
            raise UserError(
                f"the published {name} takes {4 * self.channels} channels but this one has shape "
                f"{list(weight.shape)}; use the checkpoint as it was published"
            )
        return weight[:, : 3 * self.channels]


# ---------------------------------------------------------------- slices and layers


class ContextAttention(nn.Module):
    """The mean of the query over all positions, weighted by the key, times the value.

    As published with a bias, which a softmax takes no notice of, and further layers that are never used.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.mask = nn.Conv1d(channels, 1, 1, bias=False)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """All [B, C, N]."""
        attention = torch.softmax(self.mask(key), dim=-1)  # [B, 1, N]
        return (query * attention).sum(-1, keepdim=True) * value


State = tuple[Tensor, Tensor]  # h and c, [B, C, H, W] each


class CrossSliceNode(nn.Module):
    """One step of a ConvLSTM that has a motion state beside its own.

    The motion state looks back at the first and ahead at the last frame of the clip.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)
        self.slice_conv = nn.Conv2d(4 * channels, 4 * channels, 3, padding=1)
        self.past_attention, self.future_attention = (ContextAttention(channels) for _ in range(2))
        self.past_mix, self.future_mix = (nn.Conv2d(2 * channels, channels, 1, bias=False) for _ in range(2))
        self.motion_conv = nn.Conv2d(3 * channels, 4 * channels, 3, padding=1)

    def forward(
        self, x: Tensor, y: Tensor, ends: tuple[Tensor, Tensor], state: State, motion: State
    ) -> tuple[State, State]:
        """The next (state, motion state).

        x, y: [B, C, H, W], at least 4 x 4 pixels: the frame's features, and what the motion state sees of it
        ends: y of the clip's first and last frame
        """
        h, c = state
        motion_h, motion_c = motion
        gates = self.conv(torch.cat([x, h], dim=1)) + self.slice_conv(torch.cat([x, h, y, motion_h], dim=1))
        h, c = lstm_step(*gates.chunk(4, dim=1), c)

        pooled, first, last = (pool(z) for z in (motion_h, *ends))
        past = self.past_attention(first, pooled, pooled)
        future = self.future_attention(last, past, past)
        views = [
            mix(torch.cat([enlarged_like(motion_h, seen).sigmoid() + motion_h, motion_h], dim=1))
            for mix, seen in ((self.past_mix, past), (self.future_mix, future))
        ]
        i, f, g, o = self.motion_conv(torch.cat([y, *views], dim=1)).chunk(4, dim=1)  # another order
        motion_c = f.sigmoid() * motion_c + i.sigmoid() * g.tanh() + c
        return (h, c), (o.sigmoid() * motion_c.tanh() + h, motion_c)


def pool(x: Tensor) -> Tensor:
    """Maxima over 4x4 pixels, [B, C, H, W] -> [B, C, H // 4 * W // 4]."""
    return F.max_pool2d(x, 4).flatten(2)


def enlarged_like(x: Tensor, pooled: Tensor) -> Tensor:
    """What `pool` made of a map of the size of x, [B, C, N], as a map of that size again."""
    size = x.shape[-2:]
    coarse = pooled.unflatten(2, [side // 4 for side in size])
    return F.interpolate(coarse, size, mode="bilinear", align_corners=True)


class CrossSliceLSTM(nn.Module):
    """Layers of CrossSliceNodes over the frames, and slices of such layers one after the other.

    The motion state of a frame comes from the slice before, at the same layer and frame.

    carry: what the first slice has instead. False, as published: zeros for every frame. True, ours: its own
           motion state after the frame before.
    """

    def __init__(self, channels: int, slices: int = 1, layers: int = 1, carry: bool = False):
        super().__init__()
        self.slices, self.layers, self.carry = slices, layers, carry
        places = [f"{d}{k}" for d in range(slices) for k in range(layers)]  # as published
        self.nodes = nn.ModuleDict({place: CrossSliceNode(channels) for place in places})

    def forward(self, frames: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Frames [B, C, H, W], at least 4 x 4 pixels -> h and motion h of each frame from the last layer.

        As published the network goes on with h alone.
        """
        x = y = list(frames)
        motions: list[list[State] | None] = [None] * self.layers
        for d in range(self.slices):
            for k in range(self.layers):
                x, motions[k] = self.run(self.nodes[f"{d}{k}"], x, y, motions[k])
                y = [h for h, _ in motions[k]]
        return x, y

    def run(
        self, node: CrossSliceNode, x: list[Tensor], y: list[Tensor], before: list[State] | None
    ) -> tuple[list[Tensor], list[State]]:
        """h and motion state of each frame; `before` are the motion states of the slice before, if any."""
        zeros = torch.zeros_like(x[0])
        state = motion = empty = (zeros, zeros)
        hidden, motions = [], []
        for t in range(len(x)):
            if before is not None:
                motion = before[t]
            elif not self.carry:
                motion = empty
            state, motion = node(x[t], y[t], (y[0], y[-1]), state, motion)
            hidden.append(state[0])
            motions.append(motion)
        return hidden, motions
