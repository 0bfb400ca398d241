"""Damage to lists of sequences and to files of boxes and points, and a literal reading of the latter."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tests.faults.mutations import EITHER, REFUSED, SAME, Mutated, Mutation, changed, damaged, without
from tests.faults.sets import FOLDER, HEIGHT, NAMES, WIDTH, Box, Layout, Link, Scene

FAR = 1e6


def chosen_list(draw: np.random.Generator, layout: Layout) -> str | None:
    paths = [path for path, _ in layout.lists]
    return str(draw.choice(paths)) if paths else None


# ---------------------------------------------------------------- lists of sequences


def harmless_line(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A list as other editors write it: the same names."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    text = files[path]
    forms = {
        "blank lines": b"\n\n" + text.replace(b"\n", b"\n\n"),
        "carriage returns": text.replace(b"\n", b"\r\n"),
        "a byte order mark": b"\xef\xbb\xbf" + text,
        "no last line end": text.rstrip(),
        "blanks around names": text.replace(b"\n", b"  \n"),
    }
    form = str(draw.choice(list(forms)))
    return Mutated(f"{form} in {path}", changed(files, path, forms[form]), SAME)


def doubtful_line(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A list that one may read or refuse, but not in part."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    text = files[path]
    forms = {
        "a comment": b"# of the paper\n" + text,
        "a name twice": text + text.splitlines()[0] + b"\n",
        "old line ends": text.replace(b"\n", b"\r"),
        "NUL bytes": text.replace(b"\n", b"\n\0"),
        "./ before names": b"./" + text,
        "another case": text.swapcase(),
    }
    form = str(draw.choice(list(forms)))
    return Mutated(f"{form} in {path}", changed(files, path, forms[form]), EITHER, (Path(path).name, *NAMES))


def wrong_line(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A list of what is not there, or no list."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    text = files[path]
    forms = {
        "an unknown name": text + text.splitlines()[0].replace(b"Sequence", b"Sequenz") + b"\n",
        "a byte that is not UTF-8": text + b"\xff\xfe\n",
        "UTF-16": text.decode().encode("utf-16"),
        "nothing": b"",
        "only blanks": b" \n\t\n",
        "noise": draw.bytes(200),
        "a path that leads out": b"../" + text,
        "a long line": text + b"x" * 5000 + b"\n",
    }
    form = str(draw.choice([*forms, "a folder", "a loop of links"]))
    content = {"a folder": FOLDER, "a loop of links": Link(Path(path).name)}.get(form) or forms[form]
    if form == "nothing":
        content = b""
    named = (Path(path).name, "Sequenz3", "Sequence", "xxx")
    return Mutated(f"{form} in {path}", changed(files, path, content), REFUSED, named)


def damaged_list(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """Damage to the bytes of a list. A name that is there may be left over; no other one may come of it."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    how, content = damaged(draw, files[path])
    part = [changed(files, path, f"{line.replace('*', name)}\n".encode()) for p, line in layout.lists
            for name in NAMES if p == path]  # fmt: skip
    return Mutated(f"{how} in {path}", changed(files, path, content), EITHER, equals=(files, *part))


def lost_list(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A list is gone: neither the shipped one nor all sequences take its place unseen."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    return Mutated(f"{path} is gone", without(files, path), EITHER)


LISTS: tuple[Mutation, ...] = (
    harmless_line,
    doubtful_line,
    wrong_line,
    wrong_line,
    damaged_list,
    damaged_list,
    lost_list,
)

# ---------------------------------------------------------------- boxes and points

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
    """Whether a target can have this box: it has an area, and lies in the frame."""
    x1, y1, x2, y2 = box
    return 0 <= x1 < x2 <= WIDTH and 0 <= y1 < y2 <= HEIGHT


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


def chosen_truth(draw: np.random.Generator, layout: Layout, scene: Scene) -> str | None:
    return str(draw.choice(list(layout.truth(layout, scene)))) if layout.truth else None


def with_all(layout: Layout, scene: Scene, path: str, content: bytes) -> dict:
    """The files with this content; layouts that have the same file twice get it in the one place only."""
    return changed(layout.files(scene), path, content)


def damaged_truth(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """Damage to the bytes: what a literal reading makes of them is read, or they are refused."""
    path = chosen_truth(draw, layout, scene)
    if path is None:
        return None
    files = layout.files(scene)
    how, content = damaged(draw, files[path])
    found = read_again(layout, scene, path, content)
    expects, equals = EITHER, (files,)
    if found == REFUSED:
        expects = REFUSED
    elif found is not None:
        equals = (changed(files, path, layout.files(found)[path]),)
    named = (Path(path).name, *NAMES)
    return Mutated(f"{how} in {path}", changed(files, path, content), expects, named, equals)


def impossible(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A target that cannot be: not a number, infinite, outside the frame, ends before it begins, no area."""
    path = chosen_truth(draw, layout, scene)
    if path is None:
        return None
    sequence = next((name for name in NAMES if name in path), str(draw.choice(NAMES)))
    place = int(draw.integers(len(scene[sequence].numbers)))
    if layout.form == "voc":
        sequence, stem = path.removesuffix(".xml").split("/")[1:]
        place = [Path(layout.name(n)).stem for n in scene[sequence].numbers].index(stem)
    boxes = {
        "nan": (math.nan, 3, 9, 8),
        "infinite": (2, 3, math.inf, 8),
        "outside": (WIDTH + 5, 3, WIDTH + 9, 8),
        "below": (2, HEIGHT + 3, 9, HEIGHT + 8),
        "far outside": (FAR, FAR, FAR + 4, FAR + 4),
        "negative": (-9, -9, -4, -4),
    }
    if layout.form != "points":
        boxes |= {"inverted": (9, 8, 4, 3), "without area": (5, 5, 5, 9), "a point": (5, 5, 5, 5)}
    what = str(draw.choice(list(boxes)))
    is_all = bool(draw.integers(2))
    clip = scene[sequence]
    for changed_place in range(len(clip.numbers)) if is_all else [place]:
        kept = () if is_all else clip.boxes[changed_place]
        clip = clip.with_boxes(changed_place, [*kept, boxes[what]])
    files = layout.files(scene)
    mutated = changed(files, path, layout.files({**scene, sequence: clip})[path])
    about = f"{what} target{' in every frame' * is_all} of {sequence} in {path}"
    return Mutated(about, mutated, REFUSED, (Path(path).name,))


def mistyped(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A file of the right kind whose entries are of the wrong one."""
    path = chosen_truth(draw, layout, scene)
    if path is None:
        return None
    files = layout.files(scene)
    text = files[path].decode()
    forms = {
        "nothing": "",
        "a word for a number": re.sub(r"(?<=[,>\s\[])\d+(?=[,.<\]\s])", "twelve", text, count=1),
        "a hexadecimal number": re.sub(r"(?<=[,>\s\[])\d+(?=[,.<\]\s])", "0xff", text, count=1),
        "UTF-16": None,
        "not UTF-8": None,
        "half of it": text[: len(text) // 2],
        **FORMS[layout.form](text),
    }
    form = str(draw.choice(list(forms)))
    content = {"UTF-16": text.encode("utf-16"), "not UTF-8": b"\xff\xfe" + text.encode()}.get(form)
    if content is None:
        content = forms[form].encode()
    found = read_again(layout, scene, path, content)
    equals = (files,)
    if found not in (None, REFUSED):
        equals = (changed(files, path, layout.files(found)[path]),)
    expects = REFUSED if found is None or found == REFUSED else EITHER
    named = (Path(path).name, *NAMES)
    return Mutated(f"{form} in {path}", changed(files, path, content), expects, named, equals)


def coco_forms(text: str) -> dict[str, str]:
    """COCO with entries of the wrong type."""
    content = json.loads(text)

    def other(kind: str, **values: object) -> str:
        first, *rest = content[kind]
        return json.dumps({**content, kind: [{**first, **values}, *rest]})

    return {
        "bbox a text": other("annotations", bbox="1234"),
        "bbox of three": other("annotations", bbox=[1, 2, 3]),
        "bbox null": other("annotations", bbox=None),
        "bbox nested": other("annotations", bbox=[[1, 2], [3, 4]]),
        "bbox of texts": other("annotations", bbox=["1", "2", "x", "4"]),
        "bbox of truths": other("annotations", bbox=[True, True, True, True]),
        "a NaN": other("annotations", bbox=[math.nan, 1, 2, 3]),
        "a huge number": text.replace("[{", '[{"x": 1' + "0" * 5000 + ", ", 1),
        "unknown image": other("annotations", image_id=999),
        "image id a list": other("images", id=[1]),
        "image id twice": other("images", id=2),
        "file name a number": other("images", file_name=7),
        "no annotations": json.dumps({key: value for key, value in content.items() if key != "annotations"}),
        "no images": json.dumps({key: value for key, value in content.items() if key != "images"}),
        "annotations a dict": json.dumps({**content, "annotations": {"0": 1}}),
        "a list": json.dumps([content]),
        "deep nesting": "[" * 100_000,
        "a number": "7",
    }


FORMS: dict[str, Callable[[str], dict[str, str]]] = {
    "coco": coco_forms,
    "csv": lambda text: {
        "no header": text.partition("\n")[2],
        "another header": text.replace("frame,x,y,w,h", "frame;x;y;w;h"),
        "a column too few": re.sub(r",\d+\n", "\n", text, count=1),
        "an unknown frame": text + "77777,1,2,3,4\n",
        "only a header": text.partition("\n")[0] + "\n",
        "a NUL": text + "\0\n",
    },
    "points": lambda text: {
        "one number": text.replace(",", " ", 1),
        "a line too many": text + "1,2\n",
        "a line too few": text.partition("\n")[2],
        "three numbers": text.replace("\n", ",5\n", 1),
    },
    "voc": lambda text: {
        "a namespace": text.replace("<annotation>", '<annotation xmlns="http://example.org/voc">'),
        "an unknown encoding": '<?xml version="1.0" encoding="klingon"?>' + text,
        "no xmax": re.sub("<xmax>.*?</xmax>", "", text, count=1),
        "an empty ymin": re.sub("<ymin>.*?</ymin>", "<ymin/>", text, count=1),
        "capitals": text.replace("bndbox", "BndBox"),
        "bombs": '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
        + text.replace("target", "&b;", 1),
    },
    "txt": lambda text: {
        "four numbers": text.replace(",0\n", "\n", 1),
        "six numbers": text.replace(",0\n", ",0,0\n", 1),
        "a comment first": "# path x1,y1,x2,y2,class\n" + text,
        "a line twice": text + text.splitlines()[0] + "\n",
        "an unknown frame": text + "images/Sequence3/777.bmp 1,2,5,6,0\n",
        "blanks in numbers": text.replace(",", ", ", 1),
        "a NUL": text.replace("\n", "\0\n", 1),
        "an exponent": re.sub(r" (\d),", r" \g<1>e0,", text, count=1),
    },
}


def no_file(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A file of boxes or points is gone or no file; a frame without a VOC file has no target."""
    path = chosen_truth(draw, layout, scene)
    if path is None:
        return None
    files = layout.files(scene)
    what = str(draw.choice(["a folder", "a loop of links", "a dead link", "noise"]))
    content = {
        "a folder": FOLDER,
        "a loop of links": Link(Path(path).name),
        "a dead link": Link("not there"),
        "noise": draw.bytes(300),
    }[what]
    named = (Path(path).name, "list", *NAMES)
    return Mutated(f"{what} as {path}", changed(files, path, content), REFUSED, named)


TRUTHS: tuple[Mutation, ...] = (
    damaged_truth,
    damaged_truth,
    impossible,
    impossible,
    impossible,
    mistyped,
    mistyped,
    no_file,
)
