"""Damage to files of boxes and points."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults.literal import read_again
from tests.faults.mutations import EITHER, REFUSED, SAME, Mutated, Mutation, changed, damaged
from tests.faults.sets import FOLDER, HEIGHT, NAMES, WIDTH, Layout, Link, Scene
from utils.registry import DATASETS

FAR = 1e6
DROP = "on_bad_truth=drop"


def chosen_truth(draw: np.random.Generator, layout: Layout, scene: Scene) -> str | None:
    return str(draw.choice(list(layout.truth(layout, scene)))) if layout.truth else None


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
    return Mutated(f"{how} in {path}", changed(files, path, content), expects, equals=equals)


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


def dropped(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A target that cannot be, and the user has asked that such are left out: the others are left."""
    found = impossible(draw, layout, scene)
    if found is None or DROP.partition("=")[0] not in DATASETS.entry(layout.reader).options:
        return None
    if "in every frame" in found.about:  # then there may be nothing left
        return found
    flags = ("--dataset_option", DROP)
    return Mutated(f"{found.about}, with {DROP}", found.files, SAME, flags=flags)


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
    expects = REFUSED if found == REFUSED else EITHER
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
    dropped,
    mistyped,
    mistyped,
    no_file,
)
