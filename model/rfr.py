"""ResUNet-RFR: the targets of every frame of a video, by features that are refined from frame to frame.

X. Ying et al., "Infrared Small Target Detection in Satellite Videos: A New Dataset and A Novel Recurrent
Feature Refinement Framework", arXiv 2409.12448, IEEE TGRS 2025. What is known so far, the state, is aligned
with the current frame by deformable convolutions (PDA), fused with it (TSFM), and handed on to the next. A
Res-UNet looks for targets in frame and state.

The outputs are the published ones. What depends on single frames alone is computed for all frames at once.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.conv_norm import folded_copy
from model.layers.res_unet import ResUNet, pad_to_multiple, published_names
from utils.errors import UserError
from utils.registry import register_model

CHANNELS = 16
HEAD_FRAMES = 4  # that the head looks at together in eval: more take memory and no less time


def conv3(inputs: int, outputs: int = CHANNELS, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def double(x: Tensor) -> Tensor:
    """Twice the resolution, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


# ---------------------------------------------------------------- PDA: pyramid deformable alignment


class DeformableConv(nn.Conv2d):
    """Modulated deformable 3x3 convolution, whose offsets and weights of taps come from other features.

    Four groups of channels have their own. It starts with offsets 0 and weights 0.5.
    """

    groups_of_offsets = 4

    def __init__(self):
        super().__init__(CHANNELS, CHANNELS, 3, padding=1)
        self.taps = 9 * self.groups_of_offsets
        self.conv_offset = conv3(CHANNELS, 3 * self.taps)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        """x and motion [B, 16, H, W] -> [B, 16, H, W]."""
        offset, weight_logits = self.conv_offset(motion).split([2 * self.taps, self.taps], dim=1)
        weights = torch.sigmoid(weight_logits)
        from torchvision.ops import deform_conv2d  # its import takes a second, which --help need not wait for

        return deform_conv2d(x, offset, self.weight, self.bias, padding=1, mask=weights)


class AlignmentLevel(nn.Module):
    """One resolution of the alignment; all maps are [B, 16, h, w]."""

    def __init__(self, is_coarsest: bool):
        super().__init__()
        self.compare = conv3(2 * CHANNELS)
        if not is_coarsest:
            self.merge_motion = conv3(2 * CHANNELS)
            self.merge_aligned = conv3(2 * CHANNELS)
        self.motion = conv3(CHANNELS)
        self.deform = DeformableConv()

    def forward(
        self, state: Tensor, frame: Tensor, coarser: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """(motion features, state aligned with the frame), given those of the level below."""
        motion = F.relu_(self.compare(torch.cat([state, frame], dim=1)))
        if coarser is None:
            motion = F.relu_(self.motion(motion))
            return motion, self.deform(state, motion)
        coarse_motion, coarse_aligned = coarser
        motion = F.relu_(self.merge_motion(torch.cat([motion, 2 * double(coarse_motion)], dim=1)))
        motion = F.relu_(self.motion(motion))
        aligned = self.deform(state, motion)
        return motion, self.merge_aligned(torch.cat([aligned, double(coarse_aligned)], dim=1))


class PDA(nn.Module):
    """Aligns the state with a frame, from a quarter of the resolution up to the full one."""

    def __init__(self):
        super().__init__()
        self.shrink2, self.shrink3 = (
            nn.Sequential(
                conv3(CHANNELS, stride=2), nn.ReLU(inplace=True), conv3(CHANNELS), nn.ReLU(inplace=True)
            )
            for _ in range(2)
        )
        self.level1, self.level2 = AlignmentLevel(is_coarsest=False), AlignmentLevel(is_coarsest=False)
        self.level3 = AlignmentLevel(is_coarsest=True)

    def pyramid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of state or frame, [B, 16, H, W], at full, half and quarter resolution."""
        half = self.shrink2(x)
        return x, half, self.shrink3(half)

    def forward(self, state: Tensor, frame: Sequence[Tensor]) -> Tensor:
        """state [B, 16, H, W] and the pyramid of the frame -> the aligned state, [B, 16, H, W]."""
        states = self.pyramid(state)
        motion, aligned = self.level3(states[2], frame[2], None)
        motion, aligned = self.level2(states[1], frame[1], (motion, F.relu_(aligned)))
        _, aligned = self.level1(states[0], frame[0], (motion, F.relu_(aligned)))
        return aligned


# ---------------------------------------------------------------- TSFM: temporal-spatial-frequency modulation

DCT_SIZE = 56
# Frequencies of the 16 channels along height and width, in units of 8.
DCT_ROWS = (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2)
DCT_COLUMNS = (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2)


def dct_waves(frequencies: Sequence[int]) -> np.ndarray:
    """One cosine of the orthonormal DCT per channel, float64 [16, 56]; frequencies in units of 8."""
    k, n = 8 * np.array(frequencies)[:, None], np.arange(DCT_SIZE)
    return np.cos(np.pi * k * (n + 0.5) / DCT_SIZE) * np.sqrt(np.where(k, 2, 1) / DCT_SIZE)


class TSFM(nn.Module):
    """Fuses the aligned state with a frame, gated in time, in space and by frequencies."""

    def __init__(self):
        super().__init__()
        self.of_frame, self.of_state = conv3(CHANNELS), conv3(CHANNELS)
        self.fuse = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
        self.spatial = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        self.squeeze = nn.Linear(CHANNELS, 1, bias=False)
        self.excite = nn.Linear(1, CHANNELS, bias=False)
        waves = dct_waves(DCT_ROWS)[:, :, None] * dct_waves(DCT_COLUMNS)[:, None]
        self.register_buffer("waves", torch.tensor(waves, dtype=torch.float32), persistent=False)

    def forward(self, aligned: Tensor, frame: Tensor, query: Tensor) -> Tensor:
        """Aligned state, frame and self.of_frame(frame), [B, 16, H, W] each -> the new state alike."""
        likeness = torch.sigmoid((query * self.of_state(aligned)).sum(1, keepdim=True))
        x = self.fuse(torch.cat([aligned * likeness, frame], dim=1))
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        x = x * torch.sigmoid(self.spatial(pooled))
        spectrum = (F.adaptive_avg_pool2d(x, DCT_SIZE) * self.waves).sum((2, 3))  # [B, 16]
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(spectrum))))
        return F.relu_(x * gates[:, :, None, None])


# ---------------------------------------------------------------- network


class ResUNetRFR(nn.Module):
    """The published network, for clips of any length."""

    def __init__(self):
        super().__init__()
        self.extract = conv3(1)
        self.align, self.fuse = PDA(), TSFM()
        self.merge = conv3(2 * CHANNELS)
        self.head = ResUNet(CHANNELS, 1, width=16)

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """clip: float32 [B, 1, T, H, W], the start of a video as far as the network knows.

        Returns the "logits" [B, T, H, W] of all frames, before any sigmoid. Sides that are no multiples of 8
        are padded with zeros. Raises UserError for clips of another shape.
        """
        check_clip(clip)
        logits, _ = self.refine(clip, None)
        return {"logits": logits}

    def refine(self, clip: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """(logits [B, T, H, W], state after the last frame) from a clip and the state before its first.

        A state is [B, 16, h, w], h and w the next multiples of 8; None at the start of a video.
        """
        batch, _, length, height, width = clip.shape
        frames = self.extract(pad_to_multiple(clip).movedim(2, 0).flatten(0, 1))  # [T B, 16, h, w]
        pyramids = zip(*(level.split(batch) for level in self.align.pyramid(frames)), strict=True)
        queries = self.fuse.of_frame(frames).split(batch)
        states = []
        for pyramid, query in zip(pyramids, queries, strict=True):
            frame = pyramid[0]
            aligned = frame if state is None else self.align(state, pyramid)
            state = self.fuse(aligned, frame, query)
            states.append(state)
        logits = self.detect(frames, torch.cat(states), batch)  # [T B, 1, h, w]
        logits = logits.unflatten(0, (length, batch))[:, :, 0, :height, :width]
        return logits.transpose(0, 1), state

    def detect(self, frames: Tensor, states: Tensor, batch: int) -> Tensor:
        """Logits [T B, 1, h, w] of frames and states [T B, 16, h, w]."""
        # In training the head's batch norms see the frames one by one, as published.
        together = batch if self.training else HEAD_FRAMES * batch
        pairs = zip(frames.split(together), states.split(together), strict=True)
        return torch.cat([self.head(self.merge(torch.cat(pair, dim=1))) for pair in pairs])

    def stream(self) -> "Stream":
        """A form for a video as long as you like, see Stream; it does not follow later weights."""
        return Stream(self)

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, T, H, W], in 0..1."""
        return torch.sigmoid(raw["logits"])


def check_clip(clip: Tensor) -> None:
    if clip.ndim != 5 or clip.shape[1] != 1 or clip.shape[2] < 1:
        raise UserError(
            f"ResUNet-RFR takes clips [B, 1, T, H, W] but got {list(clip.shape)}; set view.channels to 1"
        )


class Stream:
    """The network in eval over one video, whose state runs through from the first frame to the last.

    Published is the test of a whole video, frame by frame. Here it comes in windows, which may overlap.
    """

    def __init__(self, network: ResUNetRFR):
        self.network = folded_copy(network)
        self.forget()

    def forget(self) -> None:
        """Be as before the first frame."""
        self.state, self.next_place = None, 0
        self.logits: dict[int, Tensor] = {}  # [1, 1, H, W] of the frames of the last window, by place

    @torch.no_grad()
    def __call__(self, clip: Tensor, places: Sequence[int]) -> dict[str, Tensor]:
        """The "logits" [1, n, H, W] of the window's frames, given all frames of the video before them.

        clip:   [1, 1, T, H, W]; what it has after its first n frames is padding
        places: the numbers of these n frames in the video, one after the other. They alone say which frames
                are the same: those of the last window are not computed again.
        A window that begins with the first frame or that does not follow the last one begins a new video.
        Raises UserError for clips of another shape, ValueError for places with gaps.
        """
        check_clip(clip)
        first, stop = places[0], places[0] + len(places)
        if list(places) != list(range(first, stop)):
            raise ValueError(f"a window has frames that follow each other, not {list(places)}")
        known = range(first, min(stop, self.next_place))
        if first == 0 or first > self.next_place or any(place not in self.logits for place in known):
            self.forget()
            self.next_place = first
        if stop > self.next_place:
            new = range(self.next_place, stop)
            window = clip[:, :, new.start - first : new.stop - first]
            logits, self.state = self.network.refine(window, self.state)
            self.logits.update(zip(new, logits.split(1, dim=1), strict=True))
            self.next_place = stop
        self.logits = {place: self.logits[place] for place in places}
        return {"logits": torch.cat(list(self.logits.values()), dim=1)}


# ---------------------------------------------------------------- recipe, published names, entry point

RECIPE = {
    "view": {"frames": 20, "key": "all", "channels": 1, "padding": "repeat", "multiple": 32},
    "sampling": {
        "batch_size": 3,
        "sample_rate": 0.05,  # as many clips as the videos have lengths of 20 frames
        "patch": 128,
        "target_crops": 0.5,
        "include_last": True,
        "augment": ("flip_rows", "flip_columns", "reverse_time", "transpose"),
    },
    "optimisation": {
        "loss": "SoftIoU",
        "loss_options": {"smooth": 1.0, "over": "frame"},
        "epochs": 20,
        "optimizer": "Adam",
        "learning_rate": 5e-4,
        "weight_decay": 0.0,
        "schedule": "milestones",
        "schedule_options": {"milestones": (5, 10, 15), "lr_decay": 0.5},
    },
    "scoring": {"paper": "RFR", "best": "last"},
    "runtime": {"seed": 42},
}

RENAME = {
    r"model\.": "",
    r"fusion_align\.": None,  # never used
    r"spatio_temporal_fusion\.fa\.dct_layer\.weight$": None,  # constant
    r"feat_extract\.": "extract.",
    r"fusion\.": "merge.",
    r"deform_align\.conv_l(\d)_1\.": r"align.shrink\1.0.",
    r"deform_align\.conv_l(\d)_2\.": r"align.shrink\1.2.",
    r"deform_align\.offset_conv1\.l(\d)\.": r"align.level\1.compare.",
    r"deform_align\.offset_conv2\.l3\.": "align.level3.motion.",
    r"deform_align\.offset_conv2\.l(\d)\.": r"align.level\1.merge_motion.",
    r"deform_align\.offset_conv3\.l(\d)\.": r"align.level\1.motion.",
    r"deform_align\.feat_conv\.l(\d)\.": r"align.level\1.merge_aligned.",
    r"deform_align\.dcn_pack\.l(\d)\.": r"align.level\1.deform.",
    r"spatio_temporal_fusion\.temporal_attn1\.": "fuse.of_frame.",
    r"spatio_temporal_fusion\.temporal_attn2\.": "fuse.of_state.",
    r"spatio_temporal_fusion\.feat_fusion\.": "fuse.fuse.",
    r"spatio_temporal_fusion\.sa\.conv1\.": "fuse.spatial.",
    r"spatio_temporal_fusion\.fa\.fc\.0\.": "fuse.squeeze.",
    r"spatio_temporal_fusion\.fa\.fc\.2\.": "fuse.excite.",
    **published_names("detection_head", "head"),
}


@register_model("ResUNet-RFR", recipe=RECIPE, rename=RENAME)
def resunet_rfr() -> ResUNetRFR:
    """The published network; it has no options."""
    return ResUNetRFR()
