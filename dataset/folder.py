"""Anybody's own folder as a data set.

A folder with `images/` is one sequence, or one per folder below `images/` that holds frames; a folder without
is searched for such folders:

    mine/images/0.png                       the sequence "mine"
    mine/images/test/a/0.png                the sequence "test/a"
    mine/b/images/0.png                     the sequence "b"

Beside `images/` lies the truth, the first of these that is there, or none:

    masks/, masks_centroid/                 image files, in the same folders as the frames
    centroids.txt|csv, groundtruth.txt      a line per frame: row,col or row,col;row,col or nothing
    boxes.csv                               header frame,x,y,w,h and a line per target; x,y: upper left corner
                                            (a column id, if there is one, tells which target it is)
    labels/*.xml, annotations/*.xml         Pascal VOC, a file per frame that has a target
    *.json, json/*.json, annotations/*.json COCO
    *.txt                                   a line per frame: path x1,y1,x2,y2,class x1,y1,x2,y2,class ...

The files of points and boxes.csv serve a folder with one sequence. COCO and *.txt name the frames by their
path below `images/`, and name all that are on disk; COCO may tell targets apart by track_id. Frames are in
natural order (2.png before 10.png); masks and centroid maps bear the names of their frames, but for the
suffix and zeros before a number. Boxes and points that cannot be true (see dataset.truth) are refused.
`train.txt` and `test.txt` with sequence names, in the root, make the splits.
"""

import os
from pathlib import Path
from typing import Annotated

from dataset.folder_truth import FolderTruth
from dataset.layout import is_image_name, list_images, read_lines, scan, sequence_name, subfolders
from dataset.pairing import few
from dataset.refusals import each
from dataset.sequence import Sequence, SequenceSet
from dataset.truth import OnBadTruth
from utils.errors import UserError
from utils.recipe.fields import Facts
from utils.registry import register_dataset

BoxOrigin = Annotated[int, Facts("number of the first row and column", choices=(0, 1))]


@register_dataset("Folder")
def index(
    root: Path, split: str, box_origin: BoxOrigin = 0, on_bad_truth: OnBadTruth = "refuse"
) -> SequenceSet:
    """A folder of one's own; mean and std are measured, and sequences without truth are welcome.

    box_origin:   number of the first row and column in the files of points and boxes: 0, or 1 as MATLAB
                  counts
    on_bad_truth: "refuse" boxes and points that cannot be true, or "drop" them, with a note
    Raises UserError when there are no frames, or when the truth does not fit them.
    """
    if not os.path.lexists(root):
        raise UserError(f"there is no folder {root}; give a folder with images/ in it or below it")
    root = Path(os.path.abspath(root))  # "." has no name to call a sequence by
    notes: list[str] = []
    found = _find_sequences(root, notes, box_origin, on_bad_truth)
    names = _select(tuple(found), root, split, notes)
    sequences = each(
        names,
        lambda name: _index_sequence(name, *found[name]),
        lambda name: _without_truth(name, *found[name]),
    )
    for truth in dict.fromkeys(found[name][0] for name in names):
        notes += truth.check.notes
    return SequenceSet("Folder", root, split, sequences, notes=tuple(notes))


def _find_sequences(
    root: Path, notes: list[str], box_origin: int, on_bad_truth: str
) -> dict[str, tuple[FolderTruth, Path]]:
    """For every sequence name the truth of its folder, and the place of its frames below `images/`."""
    found = {}
    for folder in _folders_with_images(root):
        truth = FolderTruth(folder, notes, box_origin, on_bad_truth)
        for leaf in _leaves(folder / "images", notes):
            place = leaf.relative_to(folder / "images")
            name = (folder.relative_to(root) / place).as_posix()
            found[root.name if name == "." else name] = truth, place
    if not found:
        raise UserError(
            f"there is no folder images/ in or below {root}; put the frames into <sequence>/images/"
        )
    return found


def _folders_with_images(folder: Path, around: tuple[Path, ...] = ()) -> list[Path]:
    if os.path.lexists(folder / "images"):
        return [folder]
    around = _without_loop(folder, around)
    return [found for below in subfolders(folder) for found in _folders_with_images(below, around)]


def _leaves(folder: Path, notes: list[str], around: tuple[Path, ...] = ()) -> list[Path]:
    """`folder` if it holds image files or nothing, else the leaves of its folders."""
    below = subfolders(folder)
    if below and any(is_image_name(entry.name) for entry in scan(folder)):
        notes.append(
            f"{folder} holds frames, so that the folders in it are not read: {few(p.name for p in below)}"
        )
        return [folder]
    around = _without_loop(folder, around)
    return [leaf for path in below for leaf in _leaves(path, notes, around)] if below else [folder]


def _without_loop(folder: Path, around: tuple[Path, ...]) -> tuple[Path, ...]:
    """The real places of a folder and of those around it. Raises UserError when it is one of these."""
    place = folder.resolve()
    if place in around:
        raise UserError(f"{folder} leads back to {place}, which is around it; take that link away")
    return *around, place


def _select(names: tuple[str, ...], root: Path, split: str, notes: list[str]) -> tuple[str, ...]:
    """The names of the split in the order of its list, or all where there are no lists."""
    chosen, other = (root / f"{part}.txt" for part in (split, {"train": "test", "test": "train"}[split]))
    if not os.path.lexists(chosen):
        if os.path.lexists(other):
            raise UserError(f"there is {other} but no {chosen.name}; write its sequence names, one per line")
        notes.append(f"there is no train.txt or test.txt in {root}; both splits are all its sequences")
        return names
    selected = []
    for line in read_lines(chosen):
        name = next((name for name in (line, sequence_name(line)) if name in names), None)
        if name is None:
            raise UserError(
                f"{chosen} lists {line}, which is no sequence of {root}; known: {', '.join(names)}"
            )
        selected.append(name)
    return tuple(dict.fromkeys(selected))


def _index_sequence(name: str, truth: FolderTruth, place: Path) -> Sequence:
    frames = list_images(truth.folder / "images" / place)
    return Sequence(name, frames, **truth.of(place, frames))


def _without_truth(name: str, truth: FolderTruth, place: Path) -> Sequence:
    return Sequence(name, list_images(truth.folder / "images" / place))
