"""What a reader hands on: the names and paths of one sequence, and of a whole split. No pixels."""

import hashlib
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataset.files import names_of
from dataset.masks import STRICT, MaskRule
from utils.errors import UserError

# What metrics may ask for: any of these fields of a sequence gives it.
SOURCES = {
    "mask": ("masks",),
    "round_trip_mask": ("masks",),
    "boxes": ("boxes", "masks"),
    "centroids": ("masks", "points", "boxes"),
    "centroid_map": ("centroids", "masks", "points", "boxes"),
    "identities": ("identities", "masks", "points", "boxes"),
}


@dataclass(frozen=True, eq=False)
class Sequence:
    """One video: its frames in order and, per frame, what truth there is.

    Every truth field is None (this data set has none of that kind) or has one item per frame, which its
    reader matched by name.

    images:    paths of the frames
    masks:     paths of the pixel masks (value > 0 is target)
    centroids: paths of the centroid maps (value 255 at a target's centroid)
    points:    float64 [N, 2] per frame: row, column of each target's centre, counted from 0
    boxes:     float64 [N, 4] per frame: x1, y1, x2, y2 in pixels, counted from 0, x2 and y2 exclusive
    identities: int64 [N] per frame: which target each box is of, the same number in all its frames
    mask_rule: how the files of masks and centroid maps are read
    simulated: path of the .mat file with the simulated frames before the first one; None: there are none
    """

    name: str
    images: Items[Path]
    masks: Items[Path] | None = None
    centroids: Items[Path] | None = None
    points: tuple[np.ndarray, ...] | None = None
    boxes: tuple[np.ndarray, ...] | None = None
    identities: tuple[np.ndarray, ...] | None = None
    mask_rule: MaskRule = STRICT
    simulated: Path | None = None

    def __post_init__(self):
        for kind in ("masks", "centroids", "points", "boxes", "identities"):
            truth = getattr(self, kind)
            if truth is not None and len(truth) != len(self.images):
                raise ValueError(f"{self.name}: {len(self.images)} frames but {len(truth)} {kind}")

    def __len__(self) -> int:
        return len(self.images)

    def has(self, kinds: Iterable[str]) -> bool:
        """Whether any of these fields has truth."""
        return any(getattr(self, kind) is not None for kind in kinds)

    @property
    def has_truth(self) -> bool:
        """Whether there is anything to score detections with."""
        return self.has(("masks", "centroids", "points", "boxes"))

    @property
    def contents(self) -> str:
        """Its frames and truth in short: "24 frames (names 1f0a93c2), 24 masks, 31 boxes"."""
        names = hashlib.sha256("\n".join(names_of(self.images)).encode()).hexdigest()[:8]
        parts = [f"{len(self)} frames (names {names})"]
        parts += [f"{len(getattr(self, kind))} {kind}" for kind in ("masks", "centroids") if self.has([kind])]
        for kind in ("points", "boxes"):
            if self.has([kind]):
                parts.append(f"{sum(len(targets) for targets in getattr(self, kind))} {kind}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Published:
    """What was published of one split.

    frames:  of each sequence of its list, by name; None where the number is unknown
    targets: of the whole split: its boxes, or what its centroid maps mark; None where unknown
    """

    frames: Mapping[str, int | None]
    targets: int | None = None


@dataclass(frozen=True, eq=False)
class SequenceSet:
    """The sequences of one split of one data set, and the constants its papers use.

    mean, std: gray-level statistics (0..255) for (x - mean) / std; None: see view.statistics
    subsets:   named groups of sequence names that are scored by themselves, such as "SNR<=3"
    notes:     what the user should know of how the set was found ("train.txt is missing, ...")
    published: what dataset/published.py compares the set with; None where no list is known
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
    published: Published | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def constants(self) -> tuple[float, float] | None:
        """Mean and std of its gray values; None where its papers give none."""
        return None if self.mean is None else (self.mean, self.std)

    @property
    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Plain values by which the same data is known again, wherever it lies; of names and counts alone."""
        sequences = {sequence.name: sequence.contents for sequence in self}
        return {"options": dict(self.options), "sequences": sequences}

    def __post_init__(self):
        known: dict[str, Sequence] = {}
        for sequence in self.sequences:
            other = known.setdefault(sequence.name.casefold(), sequence)
            if other is sequence:
                continue
            if other.name == sequence.name or is_same_file(other.images[0], sequence.images[0]):
                raise UserError(
                    f"the {self.split} split of {self.name} in {self.root} has the sequence {other.name} "
                    f"twice, once as {sequence.name} in {sequence.images[0].parent}; list it once"
                )

    def holding_out(self, every: int) -> tuple["SequenceSet", "SequenceSet"]:
        """(the set without every so many-th of its sequences, these). Raises UserError for too few."""
        held = self.sequences[every - 1 :: every]
        if not held:
            raise UserError(
                f"{self.name} has {len(self)} training sequences, too few to hold out every {every}th; "
                "lower --set holdout="
            )
        rest = tuple(sequence for sequence in self if sequence not in held)
        return replace(self, sequences=rest), replace(self, sequences=held)

    def with_mask_threshold(self, threshold: float) -> "SequenceSet":
        """The same set, with pixels of mask files above a gray value as targets, whatever the files hold.

        Raises UserError for a threshold that is none, and for a set without masks.
        """
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not (is_number and 0 <= threshold < 255):
            raise UserError(f"mask_threshold is {threshold!r}; it takes a gray value from 0 to below 255")
        if not any(sequence.has(("masks", "centroids")) for sequence in self.sequences):
            raise UserError(f"{self.name} in {self.root} has no masks; leave mask_threshold out")
        rule = MaskRule(threshold)
        return replace(self, sequences=tuple(replace(one, mask_rule=rule) for one in self.sequences))

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self):
        return iter(self.sequences)

    def __getitem__(self, index: int) -> Sequence:
        return self.sequences[index]


def is_same_file(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file, also where the file system folds case."""
    return first == second or (first.exists() and second.exists() and first.samefile(second))
