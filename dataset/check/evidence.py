"""The pictures of a contact sheet: a few findings of each kind, with the frames that they are about."""

from collections.abc import Sequence as Items
from pathlib import Path

import numpy as np

from dataset.check.findings import KINDS, Finding
from dataset.io import gray_values, read_gray
from utils.errors import UserError
from utils.report.check_sheet import Pair, Panel

MOST = 12


def evidence(findings: Items[Finding], root: Path) -> list[Pair]:
    """Up to 12 pairs of pictures: the first finding of each kind, then the second of each, and so on."""
    places: dict[str, int] = {}
    turns = []
    for finding in findings:
        if finding.file is not None:
            turn = places[finding.kind] = places.get(finding.kind, -1) + 1
            turns.append((turn, finding))
    chosen = [finding for turn, finding in sorted(turns, key=lambda entry: entry[0])[:MOST]]
    return [pair_of(finding, root) for finding in findings if finding in chosen]


def pair_of(finding: Finding, root: Path) -> Pair:
    marks = finding.marks if finding.other_marks is None else finding.other_marks
    right = None if finding.other is None else panel_of(finding.other, root, marks)
    left = panel_of(finding.file, root, finding.marks)
    return Pair(KINDS[finding.kind].title, finding.changes_figures, left, right)


def panel_of(path: Path, root: Path, marks: tuple) -> Panel:
    caption = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    return Panel(pixels_of(path), caption, marks)


def pixels_of(path: Path) -> np.ndarray | None:
    try:
        return gray_values(read_gray(path))
    except UserError:
        return None
