"""Files of boxes: the txt lists of the YOLO family and COCO json, both as one table in memory.

A txt list has a line per frame, `path x1,y1,x2,y2,class x1,y1,x2,y2,class ...`; a line may have no box, a
path may contain blanks. The class counts from 0, in COCO (category_id) from 1.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset.layout import is_image_name
from dataset.truth import TruthCheck
from utils.errors import UserError
from utils.files import read_bytes, read_json, read_text, write_atomically

# The rows x1, y1, x2, y2, class of every listed frame, by its path as the file has it, with "/" for "\".
# Coordinates are in pixels of the image, x2 and y2 exclusive: x2 = x1 + width.
BoxTable = dict[str, list[list[float]]]
Size = tuple[int, int]  # width, height

COCO_RULES = ("exact", "published")
COCO_FORMS = {
    "images": "an image (id, file_name, width, height)",
    "annotations": "an annotation (image_id of a listed image, bbox [x, y, width, height], category_id)",
}
NUMBER = r"(?:[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?|[-+]?nan|[-+]?inf(?:inity)?)"
PATH = r"(?P<path>.+?\.(?:png|bmp|jpe?g|tiff?))"
FRAME_LINE = re.compile(rf"{PATH}(?P<boxes>(?:\s+{NUMBER}(?:,{NUMBER}){{4}})*)", re.IGNORECASE)
BOX_LINE = re.compile(rf"{PATH}\s+{NUMBER},", re.IGNORECASE)  # right or wrong


# ---------------------------------------------------------------- paths


def slashed(path: str) -> str:
    """The path with "/", whichever system wrote it."""
    return path.replace("\\", "/")


def below_images(path: str) -> str | None:
    """What follows the last folder `images` of the path; None where there is no such folder."""
    _, folder, below = f"/{slashed(path)}".rpartition("/images/")
    return below if folder else None


def frame_key(path: str) -> str:
    """What a frame is known by: its path below `images/`, or all of it where that is not in it; no suffix."""
    below = below_images(path)
    path = slashed(path) if below is None else below
    return path.rpartition(".")[0] if is_image_name(path.rpartition("/")[2]) else path


def by_frame_key(table: BoxTable, path: Path) -> BoxTable:
    """The same rows under the key of each frame. Raises UserError when two frames of `path` have one key."""
    keyed: dict[str, str] = {}
    for frame in table:
        other = keyed.setdefault(frame_key(frame), frame)
        if other is not frame:
            raise UserError(
                f"{path} lists {other} and {frame}, which are one frame here; keep one of the two"
            )
    return {key: table[frame] for key, frame in keyed.items()}


def relative_frame(path: str) -> str:
    """The frame's path within its data set; of a path that leads out of it, the part from `images/` on.

    The published lists hold absolute paths of their authors' machines.
    Raises UserError for such a path without a folder `images`.
    """
    path = slashed(path)
    parts = [part for part in path.split("/") if part != "."]
    if not path.startswith("/") and ":" not in parts[0] and ".." not in parts:
        return "/".join(parts)
    below = below_images(path)
    if below is None or ".." in below.split("/"):
        raise UserError(
            f"the frame {path} has no folder images/ in its path; write paths within the data set"
        )
    return f"images/{below}"


# ---------------------------------------------------------------- txt lists


def read_txt_list(path: Path, check: TruthCheck | None = None) -> BoxTable:
    """The boxes of a txt list; nothing when the text is not one or has no box.

    It is one when a line has a frame and the beginning of a box.
    check: which boxes may stay; None: all that are boxes
    Raises UserError naming the first line that does not fit.
    """
    check = check or TruthCheck()
    guess = read_bytes(path, "text").decode("utf-8-sig", errors="replace")
    if not any(BOX_LINE.match(line.strip()) for line in guess.splitlines()):
        return {}
    table: BoxTable = {}
    for number, line in enumerate(read_text(path, "boxes").splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        entry, place = FRAME_LINE.fullmatch(line), f"line {number}"
        if entry is None:
            raise UserError(f"{path}, {place}: {line!r} is not path x1,y1,x2,y2,class ...; correct it")
        frame = slashed(entry["path"])
        before, rows = table.get(frame, []), [list(map(float, b.split(","))) for b in entry["boxes"].split()]
        if any(row in before for row in rows):
            raise UserError(
                f"{path}, {place}: {line!r} repeats a box of a line before; take one of them away"
            )
        rows = [row for row in rows if check.keeps_box(path, place, frame, row[:4])]
        table.setdefault(frame, []).extend(rows)
    return table


def write_txt_list(path: Path, table: BoxTable) -> None:
    """Write a txt list, a line per frame in the order of the table. Whole numbers have no decimals.

    Raises UserError when the file cannot be written.
    """
    lines = [
        " ".join([frame, *(",".join(map(decimal, row)) for row in rows)]) + "\n"
        for frame, rows in table.items()
    ]
    write_atomically(path, "".join(lines).encode())


def decimal(value: float) -> str:
    """The shortest text that reads back as the value, never with an exponent."""
    return np.format_float_positional(value, trim="-")


# ---------------------------------------------------------------- COCO json


def read_coco(
    path: Path, rule: str = "exact", check: TruthCheck | None = None, tracks: bool = False
) -> BoxTable:
    """The boxes of a COCO file; nothing when it is a json of another kind.

    rule:  "exact", or "published", as `coco_to_txt` of SSTNet, STMENet and SMFNet reads: x, y, width and
           height are truncated to whole pixels, frames come in the order of their first box, and frames
           without a box are left out
    check: which boxes may stay; None: all that are boxes
    tracks: whether the rows have the track_id behind the class; None where an annotation has none
    Raises UserError naming the first entry that does not fit.
    """
    check = check or TruthCheck()
    content = _coco_content(path)
    if not content:
        return {}
    frames = _coco_frames(path, content, check)
    table: BoxTable = {} if rule == "published" else {frame: [] for frame in frames.values()}
    for place, (frame, box, *labels) in _coco_parsed(
        path, content, "annotations", partial(_coco_box, frames)
    ):
        x, y, width, height = box
        if check.keeps_box(path, place, frame, [x, y, x + width, y + height]):
            x, y, width, height = map(math.trunc, box) if rule == "published" else box
            table.setdefault(frame, []).append([x, y, x + width, y + height, *labels[: 1 + tracks]])
    return table


def read_coco_sizes(path: Path) -> dict[str, Size]:
    """Width and height of every frame of a COCO file, by the same paths as those of `read_coco`.

    Raises UserError when the file does not state them.
    """
    content = _coco_content(path)

    def parse(entry: dict) -> tuple[str, Size]:
        return slashed(entry["file_name"]), (int(entry["width"]), int(entry["height"]))

    return dict(found for _, found in _coco_parsed(path, content, "images", parse))


def write_coco(path: Path, table: BoxTable, sizes: Mapping[str, Size]) -> None:
    """Write a COCO file in the form of the published ones; images and annotations are numbered from 1.

    Raises UserError when the file cannot be written.
    """
    numbers = {frame: number for number, frame in enumerate(table, 1)}
    images = [
        {"id": number, "file_name": frame, "width": sizes[frame][0], "height": sizes[frame][1]}
        for frame, number in numbers.items()
    ]
    boxes = ((numbers[frame], row) for frame, rows in table.items() for row in rows)
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": [[]],
        }
        for number, (image, (x1, y1, x2, y2, label)) in enumerate(boxes, 1)
    ]
    used = {1, *(annotation["category_id"] for annotation in annotations)}
    categories = [{"supercategory": "none", "id": number, "name": "target"} for number in sorted(used)]
    content = {"categories": categories, "images": images, "annotations": annotations}
    write_atomically(path, json.dumps(content).encode())


def _coco_content(path: Path) -> dict[str, Any] | None:
    """The parsed file, or None for a json of another kind. Raises UserError for half a COCO file."""
    content = read_json(path, "boxes")
    has = [isinstance(content, dict) and isinstance(content.get(kind), list) for kind in COCO_FORMS]
    if not any(has):
        return None
    if not all(has) or not content["images"]:
        missing = "images" if not has[0] or not content["images"] else "annotations"
        raise UserError(f"{path} is no COCO annotation: it has no {missing}; correct it or take it away")
    return content


def _coco_frames(path: Path, content: dict[str, Any], check: TruthCheck) -> dict[Any, str]:
    """The path of each frame by the id of its image."""

    def parse(entry: dict) -> tuple[Any, str, Any, Any]:
        hash(entry["id"])
        return entry["id"], slashed(entry["file_name"]), entry.get("width"), entry.get("height")

    frames: dict[Any, str] = {}
    for place, (number, frame, width, height) in _coco_parsed(path, content, "images", parse):
        if number in frames:
            raise UserError(f"{path} gives several images one id; number its images anew")
        frames[number] = frame
        if is_number(width) and is_number(height) and width > 0 and height > 0:
            check.check_size(path, place, frame, (height, width))
    if len(set(frames.values())) < len(frames):
        twice, _ = Counter(frames.values()).most_common(1)[0]
        raise UserError(f"{path} lists the image {twice} twice; give all its boxes one image_id")
    return frames


def _coco_box(frames: Mapping[Any, str], entry: dict) -> tuple[str, list[float], int, int | None]:
    """Frame, x, y, width, height, class and track_id of an annotation."""
    if not isinstance(entry["bbox"], list) or not all(map(is_number, entry["bbox"])):
        raise TypeError("bbox is no list of numbers")
    x, y, width, height = map(float, entry["bbox"])
    target = entry.get("track_id")
    target = target if type(target) is int else None
    return frames[entry["image_id"]], [x, y, width, height], int(entry.get("category_id", 1)) - 1, target


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _coco_parsed(
    path: Path, content: dict[str, Any], kind: str, parse: Callable[[dict], Any]
) -> list[tuple[str, Any]]:
    """Place in the file and what `parse` makes of it, of every entry of the list `kind`."""
    parsed = []
    for number, entry in enumerate(content[kind], 1):
        place = f"entry {number} of {kind}"
        try:
            parsed.append((place, parse(entry)))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            raise UserError(
                f"{path} is no COCO annotation: {place} is not {COCO_FORMS[kind]}; correct it or take it away"
            ) from None
    return parsed
