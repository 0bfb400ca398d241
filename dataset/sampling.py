"""Which frames go together: windows and clips around a key frame, and the drawing of both for training."""

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from dataset.files import stems_of

SIMULATED = 4  # frames before the first one, of sequences that have such
ENDING_NUMBER = re.compile(r"(\d+)$")
STATISTICS_FRAMES = 32  # of which gray values are measured


@dataclass(frozen=True)
class ClipFrames:
    """The frames of one clip, by their places in the sequence.

    first, count: the frames that are predicted from it
    places:       the frames that it is made of; -4 to -1 are simulated frames before the sequence
    is_aligned:   whether the frames are shown as one of them sees them, see dataset.alignment
    alignment:    of an aligned window, what brings maps of its frames back
    as_it_is:     the input of an aligned window without alignment, for what that frame does not see
    """

    first: int
    count: int
    places: tuple[int, ...]
    is_aligned: bool = False
    alignment: Any = None
    as_it_is: Any = None

    @classmethod
    def window(cls, start: int, stop: int) -> "ClipFrames":
        """Frames start .. stop - 1, all of which are predicted."""
        return cls(start, stop - start, tuple(range(start, stop)))

    @classmethod
    def around(
        cls, numbers: Sequence[int], place: int, frames: int, key: int, history: str = "repeat"
    ) -> "ClipFrames":
        """The frames around the key frame at `place`; see `key_frame_clip`."""
        return cls(place, 1, tuple(key_frame_clip(numbers, place, frames, key, history)))


def overlap(length: int) -> int:
    """Frames that consecutive test windows share, and the shortest training window: a tenth of the length."""
    return max(int(length * 0.1), 1)


def training_windows(frames: int, length: int, include_last: bool = False) -> list[tuple[int, int]]:
    """(start, stop) of the windows that DeepPro draws its training clips from.

    One window of the `length` frames before each frame i = overlap .. frames - 1, shorter at the beginning.
    The published rule never uses the last frame; `include_last` adds the window that does.
    """
    ends = range(overlap(length), frames + 1 if include_last else frames)
    return [(max(0, end - length), end) for end in ends]


def test_windows(frames: int, length: int) -> list[tuple[int, int]]:
    """(start, stop) of the windows that cover a sequence at test time, in order.

    Consecutive windows share `overlap(length)` frames, the last is moved back to end with the sequence. A
    sequence shorter than `length` is one short window (which the clip former pads).
    """
    if frames <= length:
        return [(0, frames)]
    windows = list(takewhile(lambda window: window[1] <= frames, endless_windows(length)))
    return windows if windows[-1][1] == frames else [*windows, (frames - length, frames)]


test_windows.__test__ = False  # not a test, whatever pytest makes of its name


def endless_windows(length: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the windows that cover a sequence without end, in order."""
    shared = overlap(length) if length > 1 else 0
    return ((stop - length, stop) for stop in count(length, length - shared))


def evenly_spaced(frames: int, most: int = STATISTICS_FRAMES) -> list[int]:
    """The places of up to `most` evenly spaced frames, the first and the last one among them."""
    return np.unique(np.linspace(0, frames - 1, most).round().astype(int)).tolist()


def frame_numbers(images: Sequence[Path], neighbours: str = "number") -> list[int]:
    """Numbers by which frames are neighbours: those that end their names, or with "position" their places.

    Names without numbers, or with numbers that do not ascend, count by place as well.
    """
    found = [ENDING_NUMBER.search(stem) for stem in stems_of(images)] if neighbours == "number" else [None]
    if all(found):
        numbers = [int(match[1]) for match in found]
        if all(a < b for a, b in pairwise(numbers)):
            return numbers
    return list(range(len(images)))


def key_frame_clip(
    numbers: Sequence[int], place: int, frames: int, key: int, history: str = "repeat"
) -> list[int]:
    """Places of the frames that make up the clip of one key frame, in order of time.

    numbers: the frame numbers of a sequence, ascending
    place:   place of the key frame in `numbers`
    frames:  frames per clip; the key frame comes after `key` of them
    history: "repeat", or "future": where the clip would begin before the sequence, the frames before the key
             frame are those after it in reversed order (DTUM's rule for SatVideoIRSDT; where they end too
             soon, as the published loader does not allow, the last one is repeated), or "simulated":
             places -4 to -1 are the simulated frames before the first one
    The clip has the numbers around the key frame's. A number that is missing is replaced by the next higher
    one that is there, above the last by the last: the ends repeat, and a gap shows the frame after it
    (RPRNet's rule). With numbers that count without gaps this is the clamping of the other papers.
    """
    own = numbers[place]
    wanted = range(own - key, own - key + frames)
    if history == "future" and wanted[0] < numbers[0]:
        wanted = [2 * own - number if number < own else number for number in wanted]
    if history == "simulated" and wanted[0] < numbers[0]:
        before = [max(number - numbers[0], -SIMULATED) for number in wanted if number < numbers[0]]
        return before + key_frame_clip(numbers, place, frames - len(before), key - len(before))
    return [min(bisect_left(numbers, number), len(numbers) - 1) for number in wanted]


# ---------------------------------------------------------------- clips for training


class ClipsAround(Sequence[ClipFrames]):
    """The clips around each of the frames of a sequence; each is made when it is asked for.

    images, neighbours: see `frame_numbers`
    frames, key, history: see `key_frame_clip`
    """

    def __init__(self, images: Sequence[Path], neighbours: str, frames: int, key: int, history: str):
        self.images, self.neighbours = images, neighbours
        self.chosen = frames, key, history

    @cached_property
    def numbers(self) -> Sequence[int]:
        """The numbers of the frames."""
        return array("q", frame_numbers(self.images, self.neighbours))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> ClipFrames:
        return ClipFrames.around(self.numbers, range(len(self))[place], *self.chosen)


@dataclass(frozen=True)
class DrawnClip:
    """A training clip that a sampler drew.

    sequence: number of its sequence
    frames:   what it is made of
    padding:  how many frames fill it up (before, after) those
    draw:     the generator of what else is random in it
    """

    sequence: int
    frames: ClipFrames
    padding: tuple[int, int]
    draw: np.random.Generator


class WindowSampler:
    """Draws windows of `frames` frames, with a chance proportional to their length (DeepPro's rule).

    A window shorter than the clip is filled up at the end for an odd index, in front for an even one.

    lengths:     frames of each sequence
    sample_rate: clips per epoch, as a fraction of all windows
    """

    def __init__(
        self, lengths: Sequence[int], frames: int, include_last: bool, sample_rate: float, seed: int
    ):
        self.frames, self.seed = frames, seed
        of_sequences = [training_windows(length, frames, include_last) for length in lengths]
        self._ends = places_in([len(windows) for windows in of_sequences])
        self._windows = np.array([window for own in of_sequences for window in own], np.int32).reshape(-1, 2)
        self.candidates = len(self._windows)
        self.clips_per_epoch = clips_per_epoch(self.candidates, sample_rate)
        extents = np.diff(self._windows)[:, 0].astype(np.float64)
        self._chances = np.cumsum(extents) / extents.sum() if len(extents) else extents

    def __call__(self, epoch: int, index: int) -> DrawnClip:
        """Clip `index` of an epoch: the same for the same seed, whatever was drawn before."""
        draw = np.random.default_rng([self.seed, epoch, index])
        window = int(np.searchsorted(self._chances, draw.random(), side="right"))
        number, start, stop = self.window(min(window, self.candidates - 1))
        short = self.frames - (stop - start)
        padding = (0, short) if index % 2 else (short, 0)
        return DrawnClip(number, ClipFrames.window(start, stop), padding, draw)

    def window(self, index: int) -> tuple[int, int, int]:
        """(sequence, start, stop) of one of all windows."""
        start, stop = self._windows[index].tolist()
        return place_of(index, self._ends)[0], start, stop


class KeyFrameSampler:
    """Takes each frame of each sequence as key frame `sample_rate` times per epoch; below 1, a part is drawn.

    numbers: per sequence the numbers by which frames are neighbours, see `frame_numbers`
    frames:  frames per clip; the key frame comes after `key` of them
    history: what is before the first frame of each sequence, see `key_frame_clip`; "repeat" by default
    """

    def __init__(
        self,
        numbers: Sequence[Sequence[int]],
        frames: int,
        key: int,
        sample_rate: float,
        seed: int,
        history: Sequence[str] = (),
    ):
        self.numbers = [array("q", own) for own in numbers]  # of a million frames, in little memory
        self.frames, self.key, self.seed = frames, key, seed
        self.history = history or ["repeat"] * len(numbers)
        self._ends = places_in([len(n) for n in numbers])
        self.candidates = int(self._ends[-1]) if len(numbers) else 0
        self.clips_per_epoch = clips_per_epoch(self.candidates, sample_rate)
        self._order: tuple[int, np.ndarray] | None = None  # an epoch, and the key frames in its order

    def __call__(self, epoch: int, index: int) -> DrawnClip:
        """Clip `index` of an epoch: the same for the same seed, whatever was drawn before."""
        if self.clips_per_epoch < self.candidates:
            index = int(self._order_of(epoch)[index])
        number, place = place_of(index % self.candidates, self._ends)
        numbers, history = self.numbers[number], self.history[number]
        frames = ClipFrames.around(numbers, place, self.frames, self.key, history)
        return DrawnClip(number, frames, (0, 0), np.random.default_rng([self.seed, epoch, index]))

    def _order_of(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, permutation([self.seed, epoch], self.candidates)
        return self._order[1]


class EveryClip:
    """Takes the clips of a test in their order; nothing is drawn.

    clips:  per sequence
    frames: of a clip; those that a shorter one lacks are filled up at the end
    """

    def __init__(self, clips: Sequence[Sequence[ClipFrames]], frames: int):
        self.clips, self._ends = clips, places_in([len(own) for own in clips])
        self.candidates = int(self._ends[-1]) if len(clips) else 0
        self.frames, self.clips_per_epoch = frames, self.candidates

    def __call__(self, epoch: int, index: int) -> DrawnClip:
        """Clip `index` of all, whatever the epoch."""
        number, place = place_of(index, self._ends)
        clip = self.clips[number][place]
        short = self.frames - len(clip.places)
        return DrawnClip(number, clip, (0, short), np.random.default_rng(index))


def places_in(lengths: Sequence[int]) -> np.ndarray:
    """For each sequence how many frames, or clips, it has with those before it; int64 [sequences]."""
    return np.cumsum(np.array(lengths, np.int64))


def place_of(index: int, ends: np.ndarray) -> tuple[int, int]:
    """(sequence, place in it) of frame or clip `index` of all; ends: from `places_in`."""
    number = int(np.searchsorted(ends, index, side="right"))
    return number, index - (int(ends[number - 1]) if number else 0)


def clips_per_epoch(candidates: int, sample_rate: float) -> int:
    """The clips of one epoch: that fraction of the candidates, rounded down, at least one."""
    return max(int(candidates * sample_rate), 1)


def permutation(seed: list[int], count: int) -> np.ndarray:
    """0 .. count - 1 in random order."""
    return np.random.default_rng(seed).permutation(count)
