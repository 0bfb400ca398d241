"""Which frames go together: windows, clips around a key frame, and the fusion of overlapping predictions."""

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path


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
    shared = overlap(length) if length > 1 else 0
    count = math.ceil((frames - shared) / (length - shared))
    ends = [min(frames, (i + 1) * (length - shared) + shared) for i in range(count)]
    return [(end - length, end) for end in ends]


test_windows.__test__ = False  # not a test, whatever pytest makes of its name


def frame_numbers(images: Sequence[Path], neighbours: str = "number") -> list[int]:
    """Numbers by which frames are neighbours: those that end their names, or with "position" their places.

    Names without numbers, or with numbers that do not ascend, count by place as well.
    """
    found = [re.search(r"(\d+)$", path.stem) for path in images]
    if neighbours == "number" and all(found):
        numbers = [int(match[1]) for match in found]
        if all(a < b for a, b in pairwise(numbers)):
            return numbers
    return list(range(len(images)))


def key_frame_clip(numbers: Sequence[int], place: int, frames: int, key: int) -> list[int]:
    """Places of the frames that make up the clip of one key frame, in order of time.

    numbers: the frame numbers of a sequence, ascending
    place:   place of the key frame in `numbers`
    frames:  frames per clip; the key frame comes after `key` of them
    The clip has the numbers around the key frame's. A number that is missing is replaced by the next higher
    one that is there, above the last by the last: the ends repeat, and a gap shows the frame after it
    (RPRNet's rule). With numbers that count without gaps this is the clamping of the other papers.
    """
    wanted = range(numbers[place] - key, numbers[place] - key + frames)
    return [min(bisect_left(numbers, number), len(numbers) - 1) for number in wanted]
