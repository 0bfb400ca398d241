"""What a check can find: its kinds, each with what it does to figures and with a remedy."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    title:           what a list of them is called
    changes_figures: whether figures measured, or networks trained, on such data are others than on sound data
    remedy:          what to do; empty where the finding says it itself
    """

    title: str
    changes_figures: bool
    remedy: str


# By severity: those that a figure hangs on come first.
KINDS = {
    "refused": Kind("refused by the reader", True, ""),
    "unreadable": Kind("files that cannot be read", True, ""),
    "leak": Kind("test frames that are training frames", True, "take them out of one of the splits"),
    "near leak": Kind(
        "test frames that are nearly training frames",
        True,
        "compare the two; if one was made from the other, take it out of one of the splits",
    ),
    "shared sequence": Kind("sequences of both splits", True, "name each in one list only"),
    "unlike published": Kind(
        "not the published data",
        True,
        "complete or correct the data set, or do not compare its figures with published ones",
    ),
    "gap": Kind("gaps in the numbers of frames", True, "complete the frames, or split the sequence there"),
    "size": Kind("files of another size", True, "bring all frames and masks of a sequence to one size"),
    "depth": Kind("frames of another bit depth", True, "write all frames of a sequence with one depth"),
    "constant frame": Kind("frames of one gray value", True, "replace them or take them out"),
    "gray values": Kind(
        "gray values unlike the data set's constants",
        True,
        "find out how the gray values were changed, or train with a mean and std of their own",
    ),
    "no mask": Kind("files that are no masks", True, ""),
    "flooded mask": Kind("masks that cover much of the frame", True, "write targets above 0, the rest 0"),
    "misplaced truth": Kind("truth far from that of the frames beside it", True, "look whose truth it is"),
    "origin": Kind(
        "points beside their targets",
        True,
        "if the file counts rows and columns from 1, add --dataset_option box_origin=1",
    ),
    "centroid map": Kind("centroid maps that do not fit the masks", True, "look which of the two is wrong"),
    "outside": Kind("targets outside their frame", True, "correct them or take them out"),
    "no area": Kind("boxes without area", True, "correct them or take them out"),
    "same frame, other truth": Kind("equal frames with unequal truth", True, "look which truth is right"),
    "frame in two sequences": Kind("frames of two sequences", True, "take them out of one of the two"),
    "gray mask": Kind(
        "masks with more than two gray values",
        False,
        "nothing, if each value above 0 is target; resized masks have such borders, and larger targets",
    ),
    "repeated frame": Kind("frames that repeat an earlier one", False, "look whether the video stood still"),
    "gap as published": Kind("gaps in the numbers, with as many frames as published", False, "nothing"),
    "box at border": Kind("boxes cut at the border", False, "nothing, unless they should lie inside"),
    "colour": Kind("coloured frames, of which the first channel is read", False, "write gray frames"),
    "without targets": Kind("sequences without targets", False, "look whether their truth was lost"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    kind:  a key of KINDS
    split: "train" or "test"
    text:  what is wrong, and where
    file:  the file that it is about, for the contact sheet; other: the one that it is compared with
    marks: places (row, column) to look at, in both unless the other has other_marks
    """

    kind: str
    split: str
    sequence: str
    text: str
    file: Path | None = None
    other: Path | None = None
    marks: tuple[tuple[float, float], ...] = ()
    other_marks: tuple[tuple[float, float], ...] | None = None

    @property
    def changes_figures(self) -> bool:
        return KINDS[self.kind].changes_figures

    @property
    def sentence(self) -> str:
        """What is wrong, where, and what to do."""
        remedy = KINDS[self.kind].remedy
        return f"{self.text}; {remedy}" if remedy else self.text

    def facts(self) -> dict[str, Any]:
        """As the JSON has it."""
        return {
            "kind": self.kind,
            "changes_figures": self.changes_figures,
            "split": self.split,
            "sequence": self.sequence,
            "file": self.file,
            "other": self.other,
            "text": self.text,
            "sentence": self.sentence,
        }


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """In the order of KINDS."""
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))
