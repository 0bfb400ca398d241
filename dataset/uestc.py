"""DAUB, ITSDT-15K and IRDST as SSTNet, STMENet and SMFNet (UESTC) lay them out: frames and lists of boxes.

    images/train/data5/0.bmp            DAUB
    images/1/0.bmp                      ITSDT-15K, IRDST
    coco_train_DAUB.txt                 a list: any *.txt with boxes that has "train" in its name; for the
                                        test split coco_val_DAUB.txt, any with "val" or "test"
    json/DAUB_instances_test2017.json   the same as COCO json, which is read where no txt list is found

Lists lie beside images/, in json/ or in annotations/. The paths in them count from their last images/ on: the
published ones begin on other machines. The published "val" lists are the test sets, on which SSTNet, STMENet
and SMFNet choose their checkpoints as well. No mean and std are published.

Boxes that cannot be true (see dataset.truth) are refused; on_bad_truth="drop" leaves them out, with a note.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from dataset.annotations import BoxTable, by_frame_key, frame_key, read_coco, read_txt_list
from dataset.layout import (
    files_in,
    find_below,
    find_root,
    list_images,
    listed_folder,
    natural_key,
    require_layout,
)
from dataset.pairing import few
from dataset.published import read_published
from dataset.refusals import each, refuse
from dataset.sequence import Sequence, SequenceSet
from dataset.truth import OnBadTruth, Size, TruthCheck, size_of_frames
from utils.errors import UserError
from utils.registry import register_dataset

LIST_FOLDERS = (".", "json", "annotations")
LIST_WORDS = {"train": ("train",), "test": ("val", "test")}
PUBLISHED_LISTS = {
    "DAUB": {"train": "DAUB/uestc_train.csv", "test": "DAUB/uestc_val.csv"},
    "ITSDT-15K": {"train": "ITSDT-15K/uestc_train.csv", "test": "ITSDT-15K/uestc_val.csv"},
    "IRDST": {"train": "IRDST/real_uestc_train.csv", "test": "IRDST/real_uestc_val.csv"},
}
PUBLISHED_BOXES = {
    "DAUB": {"train": 8982, "test": 4795},
    "ITSDT-15K": {"train": 37686, "test": 23151},
    "IRDST": {"train": 21038, "test": 20763},
}


@register_dataset("DAUB")
def daub(root: Path, split: str, on_bad_truth: OnBadTruth = "refuse") -> SequenceSet:
    """DAUB (Hui et al., Science Data Bank): 256x256, one box of about 8x8 in every frame.

    Published: 10 training sequences with 8982 frames and boxes, 7 test sequences with 4795.
    Raises UserError when the list or something that it names is missing.
    """
    return index_boxes("DAUB", find_root(root, "DAUB"), split, on_bad_truth)


@register_dataset("ITSDT-15K")
def itsdt_15k(root: Path, split: str, on_bad_truth: OnBadTruth = "refuse") -> SequenceSet:
    """ITSDT-15K (Fu et al., Science Data Bank): 640x480, up to 8 boxes in a frame, the median is 19x11.

    Published: 40 training sequences with 10000 frames and 37686 boxes (69 frames without one), 20 test
    sequences with 5000 and 23151.
    Raises UserError when the list or something that it names is missing.
    """
    return index_boxes("ITSDT-15K", find_root(root, "ITSDT-15K", "ITSDT"), split, on_bad_truth)


@register_dataset("IRDST", aliases=("IRDST-real",))
def irdst(root: Path, split: str, on_bad_truth: OnBadTruth = "refuse") -> SequenceSet:
    """The real part of IRDST (Sun et al., RDIAN, TGRS 2023): 1 or 2 boxes in a frame, the median is 7x7.

    Published: 42 training sequences (odd numbers) with 20398 frames and 21038 boxes, 43 test sequences (even)
    with 20258 and 20763.
    Raises UserError when the list or something that it names is missing.
    """
    return index_boxes("IRDST", find_root(root, "IRDST", "IRDST-real"), split, on_bad_truth)


def index_boxes(name: str, root: Path, split: str, on_bad_truth: str) -> SequenceSet:
    """The sequences that the split's list in `root` names, with its boxes."""
    require_layout((root / "images").is_dir(), name, root, "images/ with a list of boxes beside it")
    check = TruthCheck(on_bad_truth, size_finder(root))
    path, boxes = find_list(root, split, check)
    places: dict[str, BoxTable] = {}
    for key, rows in boxes.items():
        place, _, stem = key.rpartition("/")
        places.setdefault(place, {})[stem] = rows
    notes: list[str] = []
    sequences = each(places, lambda place: index_place(root, place, places[place], path, notes))
    published = read_published(PUBLISHED_LISTS[name][split], targets=PUBLISHED_BOXES[name][split])
    return SequenceSet(name, root, split, sequences, notes=(*notes, *check.notes), published=published)


def size_finder(root: Path) -> Callable[[str], Size | None]:
    """Gives the size of a listed frame, as a frame of its sequence has it."""

    @cache
    def size_in(place: str) -> Size | None:
        folder = find_below(root, "images", *place.split("/"))
        try:
            return folder and size_of_frames(folder)
        except UserError as error:
            refuse(place, str(error))
            return None

    return lambda frame: size_in(frame_key(frame).rpartition("/")[0])


def find_list(root: Path, split: str, check: TruthCheck) -> tuple[Path, BoxTable]:
    """The list of the split and its rows by frame key; a txt list before a COCO json.

    Raises UserError when there is none or more than one.
    """
    forms = {".txt": partial(read_txt_list, check=check), ".json": partial(read_coco, check=check)}
    others = []
    for suffix, read in forms.items():
        paths = files_of(root, split, suffix)
        found = {path: table for path in paths if (table := read(path))}
        if len(found) > 1:
            first, second, *_ = found
            raise UserError(f"both {first} and {second} list the {split} split; keep one of them")
        if found:
            path, table = found.popitem()
            return path, by_frame_key(table, path)
        others += paths
    words = " or ".join(f"*{word}*{suffix}" for suffix in forms for word in LIST_WORDS[split])
    has_others = f"; {few(map(str, others))} hold no boxes" if others else ""
    raise UserError(
        f"there is no list of boxes of the {split} split in {root}: looked for {words} there, in json/ "
        f"and in annotations/{has_others}; copy the published list there or write one with "
        "tools/convert_annotations.py"
    )


def files_of(root: Path, split: str, suffix: str) -> list[Path]:
    """The files with this suffix whose names have a word of this split and none of the other."""

    def has_word(name: str, part: str) -> bool:
        return any(word in name for word in LIST_WORDS[part])

    other = {"train": "test", "test": "train"}[split]
    paths = [path for folder in LIST_FOLDERS for path in files_in(root / folder, suffix)]
    names = [path.stem.casefold() for path in paths]
    return [
        path
        for path, name in zip(paths, names, strict=True)
        if has_word(name, split) and not has_word(name, other)
    ]


def index_place(root: Path, place: str, listed: BoxTable, path: Path, notes: list[str]) -> Sequence:
    """The sequence in `images`/`place`, of the frames that `path` lists with their rows.

    A frame that is not listed may hold a target, so it is left out, with a note.
    """
    frames = list_images(listed_folder(root, "images", *place.split("/")))
    kept = tuple(frame for frame in frames if frame.stem in listed)
    if len(kept) < len(listed):
        missing = listed.keys() - {frame.stem for frame in kept}
        refuse(
            place,
            f"{path} lists {len(missing)} frames of {frames[0].parent} that are not there, such as "
            f"{min(missing, key=natural_key)}; complete the data set or cut the list",
        )
    if len(kept) < len(frames):
        notes.append(
            f"{len(frames) - len(kept)} frames of {frames[0].parent} are not in {path} and are left out"
        )
    boxes = (np.array(listed[frame.stem], dtype=float).reshape(-1, 5)[:, :4] for frame in kept)
    return Sequence(place, kept, boxes=tuple(boxes))
