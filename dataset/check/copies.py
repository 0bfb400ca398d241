"""Frames that are there twice: within a sequence, within a split, and in both splits.

Equal frames have equal decoded pixels, whatever the file format. Nearly equal ones are looked for between the
splits alone, since the frames of a still camera all resemble each other. Each test frame is compared with the
one training frame that is most like it:

1. The means of 16x16 blocks, less their mean and of length 1, have a product of at least 0.9 (the correlation
   of two thumbnails). Brightness and contrast do not matter.
2. Of 64x64 pixels, less their means over 5x5 and of length 1, the product is at least 0.4. This is the fine
   structure of the scene; frames of other scenes, of the same camera as well, do not share it.

Measured on real video (DAUB, ISTD, ECASTT, IR-DRONE, MSIDT: 1409 frames of 13 sequences): of all pairs of
frames of two sequences none has a second product above 0.16. Copies with noise of up to 16 gray values, JPEG
down to quality 20, other brightness and contrast, or half the resolution have 0.82 at least; copies shifted
by 1 pixel in rows and columns 0.81, by 2 pixels 0.53. Mirrored and rotated copies are not found. A training
and a test sequence that show one scene by one still camera are found too: they are as good as one.
"""

from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dataset.check.findings import Finding
from dataset.check.reading import Record
from dataset.io import gray_values, read_gray
from dataset.sequence import Sequence, SequenceSet

LIKE_BLOCKS, LIKE_DETAIL = 0.9, 0.4
DETAIL, AROUND = 64, 5  # pixels a side
ROWS, COLUMNS = 2048, 16384  # frames that are compared at once


@dataclass(frozen=True, eq=False)
class Frame:
    """One read frame and where it belongs."""

    data: SequenceSet
    sequence: Sequence
    index: int
    record: Record

    @property
    def path(self) -> Path:
        return self.record.image

    @property
    def marks(self) -> tuple[tuple[float, float], ...]:
        """Row and column of its targets."""
        targets = self.record.targets
        return () if targets is None else tuple(map(tuple, targets.centres.tolist()))

    def has_truth_of(self, other: "Frame") -> bool:
        """Whether the targets are the same, to half a pixel."""
        ours, theirs = self.record.targets, other.record.targets
        if ours is None or theirs is None or len(ours.centres) != len(theirs.centres):
            return ours is theirs
        return bool(np.all(np.abs(ours.centres - theirs.centres) <= 0.5))


def by_content(frames: Items[Frame]) -> dict[bytes, list[Frame]]:
    """The frames by their pixels; those of one gray value are left out."""
    found = defaultdict(list)
    for frame in frames:
        if frame.record.digest and not frame.record.is_constant:
            found[frame.record.digest].append(frame)
    return found


def check_repeats(frames: Items[Frame]) -> Iterator[Finding]:
    """Yields the frames of one split that equal an earlier one of it."""
    for first, *others in by_content(frames).values():
        for frame in others:
            if frame.sequence is not first.sequence:
                kind = "frame in two sequences"
            else:
                kind = "repeated frame" if frame.has_truth_of(first) else "same frame, other truth"
            text = f"{frame.path} equals {first.path}"
            places = (frame.path, first.path, frame.marks, first.marks)
            yield Finding(kind, frame.data.split, frame.sequence.name, text, *places)


def check_leaks(train: Items[Frame], test: Items[Frame]) -> Iterator[Finding]:
    """Yields the test frames whose pixels are those of a training frame in another file."""
    trained = by_content(train)
    for digest, found in by_content(test).items():
        for frame in found:
            others = [other for other in trained.get(digest, ()) if other.path != frame.path]
            if others:
                text = f"{frame.path} equals {others[0].path}"
                yield Finding("leak", "test", frame.sequence.name, text, frame.path, others[0].path)


# ---------------------------------------------------------------- nearly equal


def near_pairs(train: Items[Frame], test: Items[Frame]) -> list[tuple[Frame, Frame]]:
    """(test frame, the training frame that is most like it) where the blocks agree but not all pixels do."""
    trained = {frame.record.digest for frame in train}
    train = [frame for frame in train if frame.record.blocks is not None and not frame.record.is_constant]
    test = [frame for frame in test if frame.record.blocks is not None and not frame.record.is_constant]
    test = [frame for frame in test if frame.record.digest not in trained]
    if not (train and test):
        return []
    wanted = np.stack([frame.record.blocks for frame in test])
    known = np.stack([frame.record.blocks for frame in train])
    pairs = []
    for start in range(0, len(test), ROWS):
        rows = wanted[start : start + ROWS]
        best, place = np.full(len(rows), -1, np.float32), np.zeros(len(rows), int)
        for first in range(0, len(train), COLUMNS):
            alike = rows @ known[first : first + COLUMNS].T
            nearest = alike.argmax(1)
            score = alike[np.arange(len(rows)), nearest]
            place[score > best] = first + nearest[score > best]
            best = np.maximum(best, score)
        chosen = np.nonzero(best >= LIKE_BLOCKS)[0]
        pairs += [(test[start + row], train[place[row]]) for row in chosen.tolist()]
    return pairs


def detail_likeness(paths: tuple[Path, Path]) -> float:
    """How much the fine structure of two frames agrees, -1..1."""
    first, second = (fine_structure(gray_values(read_gray(path))) for path in paths)
    return float(np.sum(first * second)) if first.shape == second.shape else 0.0


def fine_structure(gray: np.ndarray) -> np.ndarray:
    """64x64 pixels (fewer, where the frame has fewer), less their means over 5x5, of length 1."""
    size = tuple(min(DETAIL, side) for side in gray.shape[::-1])
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    detail = small - cv2.blur(small, (AROUND, AROUND))
    return detail / max(float(np.linalg.norm(detail)), 1e-3)


def near_leaks(pairs: Items[tuple[Frame, Frame]], likeness: Items[float]) -> Iterator[Finding]:
    """Yields the pairs whose fine structure agrees, too."""
    for (frame, other), alike in zip(pairs, likeness, strict=True):
        if alike >= LIKE_DETAIL:
            text = f"{frame.path} is nearly {other.path} (their fine structure correlates by {alike:.2f})"
            yield Finding("near leak", "test", frame.sequence.name, text, frame.path, other.path)
