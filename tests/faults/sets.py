"""A small valid data set as files in memory, in any layout: see layouts.py."""

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH, FRAMES = 24, 32, 4
NAMES = ("Sequence3", "Sequence5")  # one flipped bit makes no other one of them
FOLDER = object()  # in place of the content of a file
Box = tuple[float, float, float, float]  # x1, y1, x2, y2, exclusive ends


@dataclass(frozen=True)
class Link:
    """A symbolic link, in place of the content of a file."""

    target: str


Files = dict[str, Any]  # content by relative path: bytes, Link or FOLDER


@dataclass(frozen=True, eq=False)
class Clip:
    """One sequence: frames [T, H, W], masks of 0 and 255, boxes of each frame, numbers of the frames."""

    frames: np.ndarray
    masks: np.ndarray
    boxes: tuple[tuple[Box, ...], ...]
    numbers: tuple[int, ...]

    def only(self, kept: Iterable[int]) -> "Clip":
        """The frames at these places."""
        kept = list(kept)
        boxes, numbers = (tuple(values[k] for k in kept) for values in (self.boxes, self.numbers))
        return Clip(self.frames[kept], self.masks[kept], boxes, numbers)

    def with_boxes(self, place: int, boxes: Iterable[Box]) -> "Clip":
        """Other boxes in one frame."""
        changed = list(self.boxes)
        changed[place] = tuple(boxes)
        return replace(self, boxes=tuple(changed))


Scene = dict[str, Clip]


def draw_scene(draw: np.random.Generator) -> Scene:
    """Two sequences with one or two bright targets in each frame, each target a filled box."""
    scene = {}
    for name in NAMES:
        frames = draw.integers(60, 90, (FRAMES, HEIGHT, WIDTH)).astype(np.uint8)
        masks, boxes = np.zeros_like(frames), []
        for place in range(FRAMES):
            found = []
            for part in range(1 + place % 2):  # each in a half of its own
                top, left = int(draw.integers(2, HEIGHT - 6)), int(draw.integers(2, 10)) + 16 * part
                side = int(draw.integers(2, 4))
                frames[place, top : top + side, left : left + side] += draw.integers(60, 120, dtype=np.uint8)
                masks[place, top : top + side, left : left + side] = 255
                found.append((float(left), float(top), float(left + side), float(top + side)))
            boxes.append(tuple(found))
        scene[name] = Clip(frames, masks, tuple(boxes), tuple(range(FRAMES)))
    return scene


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a reader finds what; in places "*" stands for the sequence.

    images, masks, centroids: the folders, several where the same lies in each
    unread: folders of frames that have to be there though nothing reads them
    lists: text files with the sequences by path, with what a line says of each
    truth: gives the text files of boxes or points of a scene, and `form` names their form
    """

    reader: str
    label: str
    images: tuple[str, ...]
    masks: tuple[str, ...] = ()
    centroids: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    lists: tuple[tuple[str, str], ...] = ()
    truth: Callable[["Layout", Scene], dict[str, str]] | None = None
    form: str = ""
    suffix: str = ".png"
    mask_suffix: str = ""
    stem: str = "{:05d}"
    first: int = 1
    flags: tuple[str, ...] = field(default=())

    def name(self, number: int, kind: str = "images") -> str:
        """The file of frame `number`."""
        suffix = self.suffix if kind in ("images", "unread") else self.mask_suffix or self.suffix
        return self.stem.format(number + self.first) + suffix

    def paths(self, kind: str, sequence: str, number: int) -> list[str]:
        """The paths of a frame, a mask or a centroid map."""
        return [f"{place.replace('*', sequence)}/{self.name(number, kind)}" for place in getattr(self, kind)]

    def files(self, scene: Scene) -> Files:
        """The whole data set."""
        found: Files = {}
        for sequence, clip in scene.items():
            for place, number in enumerate(clip.numbers):
                mask = clip.masks[place]
                frame = clip.frames[place]
                pixels = {"images": frame, "unread": frame, "masks": mask, "centroids": centroid_map(mask)}
                for kind, image in pixels.items():
                    for path in self.paths(kind, sequence, number):
                        found[path] = encoded(image, Path(path).suffix)
        for path, line in self.lists:
            found[path] = "".join(f"{line.replace('*', name)}\n" for name in scene).encode()
        if self.truth:
            found |= {path: text.encode() for path, text in self.truth(self, scene).items()}
        return found


def centroid_map(mask: np.ndarray) -> np.ndarray:
    """255 at the upper left pixel of each target."""
    before = np.pad(mask, ((1, 0), (1, 0)))
    return np.where((mask > 0) & (before[:-1, 1:] == 0) & (before[1:, :-1] == 0), 255, 0).astype(np.uint8)


def encoded(pixels: np.ndarray, suffix: str, **options: Any) -> bytes:
    """An image file."""
    file, kind = io.BytesIO(), {".jpg": "JPEG", ".tif": "TIFF", ".bmp": "BMP", ".png": "PNG"}[suffix]
    Image.fromarray(pixels).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return file.getvalue()


def put(files: Files, root: Path) -> Path:
    """Write the files below `root`."""
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is FOLDER:
            place.mkdir()
        elif isinstance(content, Link):
            place.symlink_to(content.target)
        else:
            place.write_bytes(content)
    return root


# ---------------------------------------------------------------- files of boxes and points


def text_of(value: float) -> str:
    return f"{value:g}"


def points_text(layout: Layout, scene: Scene) -> dict[str, str]:
    """A line per frame, row,col;row,col."""
    return {
        f"{name}/centroids.txt": "".join(
            ";".join(f"{(y1 + y2 - 1) / 2:g},{(x1 + x2 - 1) / 2:g}" for x1, y1, x2, y2 in boxes) + "\n"
            for boxes in clip.boxes
        )
        for name, clip in scene.items()
    }


def boxes_csv(layout: Layout, scene: Scene) -> dict[str, str]:
    """frame,x,y,w,h and a line per target."""
    files = {}
    for name, clip in scene.items():
        rows = ["frame,x,y,w,h"]
        for number, boxes in zip(clip.numbers, clip.boxes, strict=True):
            stem = Path(layout.name(number)).stem
            rows += [f"{stem},{x1:g},{y1:g},{x2 - x1:g},{y2 - y1:g}" for x1, y1, x2, y2 in boxes]
        files[f"{name}/boxes.csv"] = "\n".join(rows) + "\n"
    return files


def voc(layout: Layout, scene: Scene) -> dict[str, str]:
    """A file per frame."""
    files = {}
    for name, clip in scene.items():
        for number, boxes in zip(clip.numbers, clip.boxes, strict=True):
            objects = "".join(
                f"<object><name>target</name><bndbox><xmin>{x1:g}</xmin><ymin>{y1:g}</ymin>"
                f"<xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox></object>"
                for x1, y1, x2, y2 in boxes
            )
            size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            stem = Path(layout.name(number)).stem
            files[f"labels/{name}/{stem}.xml"] = f"<annotation>{size}{objects}</annotation>"
    return files


def coco_at(*paths: str) -> Callable[[Layout, Scene], dict[str, str]]:
    """COCO, the same in each of `paths`."""

    def write(layout: Layout, scene: Scene) -> dict[str, str]:
        images, annotations = [], []
        for name, clip in scene.items():
            for number, boxes in zip(clip.numbers, clip.boxes, strict=True):
                (path,) = layout.paths("images", name, number)
                images.append({"id": len(images) + 1, "file_name": path, "width": WIDTH, "height": HEIGHT})
                for x1, y1, x2, y2 in boxes:
                    box = {"id": len(annotations) + 1, "image_id": len(images), "category_id": 1}
                    annotations.append({**box, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "target"}]}
        return dict.fromkeys(paths, json.dumps(content))

    return write


def txt_at(*paths: str) -> Callable[[Layout, Scene], dict[str, str]]:
    """A line per frame, path x1,y1,x2,y2,class ..., the same in each of `paths`."""

    def write(layout: Layout, scene: Scene) -> dict[str, str]:
        lines = [
            " ".join(
                [*layout.paths("images", name, number), *(f"{','.join(map(text_of, b))},0" for b in boxes)]
            )
            for name, clip in scene.items()
            for number, boxes in zip(clip.numbers, clip.boxes, strict=True)
        ]
        return dict.fromkeys(paths, "\n".join(lines) + "\n")

    return write
