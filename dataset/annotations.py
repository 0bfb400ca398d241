"""Files of boxes: the txt lists of the YOLO family and COCO json, both as one table in memory.

A txt list has a line per frame, `path x1,y1,x2,y2,class x1,y1,x2,y2,class ...`; a line may have no box, a
path may contain blanks. The class counts from 0, in COCO (category_id) from 1.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataset.layout import is_image_name
from utils.errors import UserError
from utils.files import write_atomically

# The rows x1, y1, x2, y2, class of every listed frame, by its path as the file has it, with "/" for "\".
# Coordinates are in pixels of the image, x2 and y2 exclusive: x2 = x1 + width.
BoxTable = dict[str, list[list[float]]]
Size = tuple[int, int]  # width, height

COCO_RULES = ("exact", "published")
COCO_FORMS = {
    "images": "an image (id, file_name, width, height)",
    "annotations": "an annotation (image_id of a listed image, bbox [x, y, width, height], category_id)",
}
NUMBER = r"-?\d+(?:\.\d+)?"
FRAME_LINE = re.compile(
    rf"(?P<path>.+?\.(?:png|bmp|jpe?g|tiff?))(?P<boxes>(?:\s+{NUMBER}(?:,{NUMBER}){{4}})*)", re.IGNORECASE
)


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


def by_frame_key(table: BoxTable) -> BoxTable:
    """The same rows under the key of each frame."""
    keyed: BoxTable = {}
    for path, rows in table.items():
        keyed.setdefault(frame_key(path), []).extend(rows)
    return keyed


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


def read_txt_list(path: Path) -> BoxTable:
    """The boxes of a txt list; nothing when the text is not one or has no box.

    Raises UserError naming the first line that does not fit.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines or not FRAME_LINE.fullmatch(lines[0][1]):
        return {}
    table: BoxTable = {}
    for number, line in lines:
        entry = FRAME_LINE.fullmatch(line)
        if entry is None:
            raise UserError(f"{path}, line {number}: {line!r} is not path x1,y1,x2,y2,class ...; correct it")
        rows = [[float(value) for value in box.split(",")] for box in entry["boxes"].split()]
        if any(x2 < x1 or y2 < y1 for x1, y1, x2, y2, _ in rows):
            raise UserError(
                f"{path}, line {number}: a box of {line!r} ends before it begins; write x1,y1,x2,y2,class"
            )
        table.setdefault(slashed(entry["path"]), []).extend(rows)
    return table if any(table.values()) else {}


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


def read_coco(path: Path, rule: str = "exact") -> BoxTable:
    """The boxes of a COCO file; nothing when it is a json of another kind.

    rule: "exact", or "published", as `coco_to_txt` of SSTNet, STMENet and SMFNet reads: x, y, width and
          height are truncated to whole pixels, frames come in the order of their first box, and frames
          without a box are left out
    Raises UserError naming the first entry that does not fit.
    """
    content = _coco_content(path)
    if not content:
        return {}
    frames = _coco_frames(path, content)

    def parse(entry: dict) -> tuple[str, list[float]]:
        x, y, width, height = map(math.trunc if rule == "published" else float, entry["bbox"])
        if not (width >= 0 and height >= 0 and math.isfinite(x + y + width + height)):
            raise ValueError
        return frames[entry["image_id"]], [x, y, x + width, y + height, entry.get("category_id", 1) - 1]

    table: BoxTable = {} if rule == "published" else {frame: [] for frame in frames.values()}
    for frame, row in _coco_parsed(path, content, "annotations", parse):
        table.setdefault(frame, []).append(row)
    return table


def read_coco_sizes(path: Path) -> dict[str, Size]:
    """Width and height of every frame of a COCO file, by the same paths as those of `read_coco`.

    Raises UserError when the file does not state them.
    """
    content = _coco_content(path)

    def parse(entry: dict) -> tuple[str, Size]:
        return slashed(entry["file_name"]), (int(entry["width"]), int(entry["height"]))

    return dict(_coco_parsed(path, content, "images", parse))


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
    """The parsed file, or None for a json of another kind."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path} is no COCO annotation ({error}); correct it or take it away") from None
    lists = COCO_FORMS.keys()
    is_coco = isinstance(content, dict) and all(isinstance(content.get(kind), list) for kind in lists)
    return content if is_coco else None


def _coco_frames(path: Path, content: dict[str, Any]) -> dict[Any, str]:
    """The path of each frame by the id of its image."""
    images = _coco_parsed(path, content, "images", lambda entry: (entry["id"], slashed(entry["file_name"])))
    frames = dict(images)
    if len(frames) < len(images):
        raise UserError(f"{path} gives several images one id; number its images anew")
    return frames


def _coco_parsed(
    path: Path, content: dict[str, Any], kind: str, parse: Callable[[dict], tuple]
) -> list[tuple]:
    """What `parse` makes of every entry of the list `kind`."""
    parsed = []
    for number, entry in enumerate(content[kind], 1):
        try:
            parsed.append(parse(entry))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            raise UserError(
                f"{path} is no COCO annotation: entry {number} of {kind} is not {COCO_FORMS[kind]}; "
                "correct it or take it away"
            ) from None
    return parsed
