"""Files of boxes and points, read in the plainest way: what a reader of the project has to agree with."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from tests.faults.mutations import REFUSED
from tests.faults.sets import HEIGHT, WIDTH, Box, Layout, Scene

Rows = dict[str, list[Box]]  # by sequence/stem


def frame_of(path: str) -> str:
    """Sequence and stem of a path below images/."""
    return path.replace("\\", "/").rpartition("images/")[2].rpartition(".")[0]


def read_csv(path: str, text: str) -> Rows:
    head, *lines = [line for line in text.splitlines() if line.strip()]
    assert head == "frame,x,y,w,h"
    rows: Rows = {}
    for line in lines:
        frame, *numbers = line.split(",")
        x, y, w, h = map(number, numbers)
        rows.setdefault(f"{path.split('/')[0]}/{frame}", []).append((x, y, x + w, y + h))
    return rows


def read_points(path: str, text: str) -> Rows:
    """Points as boxes of one pixel."""
    rows: Rows = {}
    for place, line in enumerate(text.splitlines()):
        found = [tuple(map(number, part.split(","))) for part in line.split(";") if part.strip()]
        rows[f"{path.split('/')[0]}/{place}"] = [(col, row, col + 1, row + 1) for row, col in found]
    return rows


def read_voc(path: str, text: str) -> Rows:
    root = ElementTree.fromstring(text)
    assert root.tag == "annotation" and all(child.tag in ("size", "object") for child in root)
    found = []
    for child in root.findall("object"):
        (box,) = child.findall("bndbox")
        assert [part.tag for part in box] == ["xmin", "ymin", "xmax", "ymax"]
        found.append(tuple(number(part.text) for part in box))
    return {frame_of(f"images/{path.partition('/')[2]}"): found}


def read_coco(path: str, text: str) -> Rows:
    content = json.loads(text)
    names = {image["id"]: frame_of(image["file_name"]) for image in content["images"]}
    assert len(names) == len(content["images"])
    rows: Rows = {name: [] for name in names.values()}
    for entry in content["annotations"]:
        assert entry["category_id"] == 1 and isinstance(entry["bbox"], list)
        x, y, w, h = map(number, entry["bbox"])
        rows[names[entry["image_id"]]].append((x, y, x + w, y + h))
    return rows


def read_txt(path: str, text: str) -> Rows:
    rows: Rows = {}
    for line in filter(str.strip, text.splitlines()):
        frame, *boxes = line.split()
        assert frame_of(frame) not in rows
        found = [tuple(map(number, box.split(","))) for box in boxes]
        assert all(len(box) == 5 and box[4] == 0 for box in found)
        rows[frame_of(frame)] = [box[:4] for box in found]
    return rows


def number(value: str | float) -> float:
    """A finite number in plain digits."""
    assert not isinstance(value, bool)
    if isinstance(value, str):
        assert re.fullmatch(r"-?\d+(\.\d+)?", value)
    assert math.isfinite(float(value))
    return float(value)


READ: dict[str, Callable[[str, str], Rows]] = {
    "csv": read_csv,
    "points": read_points,
    "voc": read_voc,
    "coco": read_coco,
    "txt": read_txt,
}


def is_possible(box: Box) -> bool:
    """Whether a target can have this box: it has an area, and a part of it lies in the frame."""
    x1, y1, x2, y2 = box
    return x1 < x2 and y1 < y2 and x1 < WIDTH and y1 < HEIGHT and x2 > 0 and y2 > 0


def read_again(layout: Layout, scene: Scene, path: str, content: bytes) -> Scene | None | str:
    """The scene with the truth of the changed file; None where it cannot be read; REFUSED where it cannot be
    true."""
    try:
        rows = READ[layout.form](path, content.decode("utf-8-sig"))
    except Exception:  # whatever is wrong with the text
        return None
    new, seen = {}, set()
    for name, clip in scene.items():
        boxes = list(clip.boxes)
        for place, frame in enumerate(clip.numbers):
            stem = str(place) if layout.form == "points" else Path(layout.name(frame)).stem
            if f"{name}/{stem}" in rows:
                boxes[place] = tuple(rows[f"{name}/{stem}"])
                seen.add(f"{name}/{stem}")
            elif layout.form in ("coco", "txt") or (layout.form == "csv" and path.startswith(f"{name}/")):
                boxes[place] = ()
        new[name] = type(clip)(clip.frames, clip.masks, tuple(boxes), clip.numbers)
    all_boxes = [box for clip in new.values() for boxes in clip.boxes for box in boxes]
    if rows.keys() - seen or not all(map(is_possible, all_boxes)):
        return REFUSED
    if layout.form in ("coco", "txt") and len(seen) < sum(len(clip.numbers) for clip in scene.values()):
        return None  # frames that no list names
    return new
