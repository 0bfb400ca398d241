"""What a reader hands on: the names and paths of one sequence, and of a whole split. No pixels."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# What metrics may ask for: any of these fields of a sequence gives it.
SOURCES = {
    "mask": ("masks",),
    "round_trip_mask": ("masks",),
    "boxes": ("boxes", "masks"),
    "centroids": ("masks", "points", "boxes"),
    "centroid_map": ("centroids", "masks", "points", "boxes"),
}


@dataclass(frozen=True, eq=False)
class Sequence:
    """One video: its frames in order and, per frame, what truth there is.

    Every truth field is None (this data set has none of that kind) or has one item per frame.

    images:    paths of the frames
    masks:     paths of the pixel masks (value > 0 is target)
    centroids: paths of the centroid maps (value 255 at a target's centroid)
    points:    float64 [N, 2] per frame: row, column of each target's centre, counted from 0
    boxes:     float64 [N, 4] per frame: x1, y1, x2, y2 in pixels, counted from 0, x2 and y2 exclusive
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...] | None = None
    centroids: tuple[Path, ...] | None = None
    points: tuple[np.ndarray, ...] | None = None
    boxes: tuple[np.ndarray, ...] | None = None

    def __post_init__(self):
        for kind in ("masks", "centroids", "points", "boxes"):
            truth = getattr(self, kind)
            if truth is not None and len(truth) != len(self.images):
                raise ValueError(f"{self.name}: {len(self.images)} frames but {len(truth)} {kind}")

    def __len__(self) -> int:
        return len(self.images)

    def has(self, kinds: Iterable[str]) -> bool:
        """Whether any of these fields has truth."""
        return any(getattr(self, kind) is not None for kind in kinds)

    @property
    def contents(self) -> str:
        """Its frames and truth in short: "24 frames (names 1f0a93c2), 24 masks, 31 boxes"."""
        names = hashlib.sha256("\n".join(path.name for path in self.images).encode()).hexdigest()[:8]
        parts = [f"{len(self)} frames (names {names})"]
        parts += [f"{len(getattr(self, kind))} {kind}" for kind in ("masks", "centroids") if self.has([kind])]
        for kind in ("points", "boxes"):
            if self.has([kind]):
                parts.append(f"{sum(len(targets) for targets in getattr(self, kind))} {kind}")
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class SequenceSet:
    """The sequences of one split of one data set, and the constants its papers use.

    mean, std: gray-level statistics (0..255) for (x - mean) / std; None: each sequence's own
    subsets:   named groups of sequence names that are scored by themselves, such as "SNR<=3"
    notes:     what the user should know of how the set was found ("train.txt is missing, ...")
    options:   those of its reader that differ from their defaults
    """

    name: str
    root: Path
    split: str
    sequences: tuple[Sequence, ...]
    mean: float | None = None
    std: float | None = None
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Plain values by which the same data is known again, wherever it lies; of names and counts alone."""
        sequences = {sequence.name: sequence.contents for sequence in self}
        return {"options": dict(self.options), "sequences": sequences}

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self):
        return iter(self.sequences)

    def __getitem__(self, index: int) -> Sequence:
        return self.sequences[index]
