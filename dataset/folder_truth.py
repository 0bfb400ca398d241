"""The truth of a user's own folder: masks, points and the common forms of boxes."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from dataset.annotations import BoxTable, by_frame_key, frame_key, read_coco, read_txt_list
from dataset.layout import list_images, pair
from utils.errors import UserError

POINT_FILES = ("centroids.txt", "centroids.csv", "groundtruth.txt")

Frames = tuple[Path, ...]
Truth = dict[str, tuple]  # the truth fields of a Sequence


class FolderTruth:
    """What truth lies in `folder`, beside its `images`.

    origin: number of the first row and column in the files of points and boxes, 0 or 1
    notes:  takes what is amiss but no error
    """

    def __init__(self, folder: Path, origin: int, notes: list[str]):
        self.folder = folder
        self.origin = origin
        self.notes = notes

    def of(self, place: Path, frames: Frames) -> Truth:
        """The truth fields of the sequence whose `frames` lie in `images`/`place`; empty when there is none.

        Raises UserError when the first kind of truth that is there cannot be read or does not fit the frames.
        """
        return (
            self._maps(place, frames)
            or self._points(place, frames)
            or self._box_csv(place, frames)
            or self._voc(place, frames)
            or self._lists(place, frames)
        )

    def _maps(self, place: Path, frames: Frames) -> Truth:
        kinds = (("masks", "masks", "mask"), ("centroids", "masks_centroid", "centroid map"))
        return {
            field: pair(frames, list_images(self.folder / below / place, f"{content}s"), content)
            for field, below, content in kinds
            if (self.folder / below).is_dir()
        }

    def _points(self, place: Path, frames: Frames) -> Truth:
        """Line n holds the targets of the n-th frame: `row,col`, ";" between several, nothing for none."""
        path = self._file_of_one_sequence(place, POINT_FILES)
        if path is None:
            return {}
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        while len(lines) > len(frames) and not lines[-1].strip():
            lines.pop()
        if len(lines) != len(frames):
            raise UserError(
                f"{path} has {len(lines)} lines for {len(frames)} frames; write one line per frame, "
                "empty where there is no target"
            )
        return {"points": tuple(self._read_points(path, n, line) for n, line in enumerate(lines, 1))}

    def _read_points(self, path: Path, number: int, line: str) -> np.ndarray:
        try:
            targets = [target.split(",") for target in line.split(";") if target.strip()]
            points = [(float(row), float(col)) for row, col in targets]
        except ValueError:
            raise UserError(f"{path}, line {number}: {line!r} is not row,col or row,col;row,col") from None
        return np.array(points, dtype=float).reshape(-1, 2) - self.origin

    def _box_csv(self, place: Path, frames: Frames) -> Truth:
        """A line per target; x, y is the upper left corner, and frames without a line have no target."""
        path = self._file_of_one_sequence(place, ("boxes.csv",))
        if path is None:
            return {}
        table: dict[str, list] = {frame.stem: [] for frame in frames}
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            for row in rows:
                try:
                    key, box = frame_key(row["frame"]), corners(float(row[side]) for side in "xywh")
                except (KeyError, TypeError, ValueError):
                    raise UserError(
                        f"{path}, line {rows.line_num}: expected frame,x,y,w,h as the header says"
                    ) from None
                if key not in table:
                    raise UserError(
                        f"{path}, line {rows.line_num}: there is no frame {row['frame']} in images/"
                    )
                table[key].append(box)
        return self._boxes(table[frame.stem] for frame in frames)

    def _voc(self, place: Path, frames: Frames) -> Truth:
        """Pascal VOC, a file of the frame's stem each; frames without a file have no target."""
        for below in ("labels", "annotations"):
            files = {path.stem: path for path in sorted((self.folder / below / place).glob("*.xml"))}
            if files:
                break
        else:
            return {}
        stray = files.keys() - {frame.stem for frame in frames}
        if stray:
            raise UserError(
                f"{files[min(stray)]} has no frame of its name; add the frame or take the file away"
            )
        return self._boxes(read_voc(files[frame.stem]) if frame.stem in files else [] for frame in frames)

    def _lists(self, place: Path, frames: Frames) -> Truth:
        """COCO or a txt list. These name every frame, those without a target too."""
        if not self._listed:
            return {}
        keys = [(place / frame.stem).as_posix() for frame in frames]
        for key, frame in zip(keys, frames, strict=True):
            if key not in self._listed:
                raise UserError(
                    f"{frame} is not in the annotation lists of {self.folder}; list it, if only without box"
                )
        missing = self._listed_in[place.as_posix()] - len(frames)
        if missing:
            self.notes.append(
                f"{missing} frames that the annotation lists are not in {self.folder / 'images' / place}"
            )
        return self._boxes([row[:4] for row in self._listed[key]] for key in keys)

    @cached_property
    def _listed(self) -> BoxTable:
        folders = (self.folder, self.folder / "json", self.folder / "annotations")
        coco = [path for folder in folders for path in sorted(folder.glob("*.json"))]
        return merge(coco, read_coco) or merge(sorted(self.folder.glob("*.txt")), read_txt_list)

    @cached_property
    def _listed_in(self) -> Counter:
        return Counter(PurePosixPath(key).parent.as_posix() for key in self._listed)

    def _file_of_one_sequence(self, place: Path, names: tuple[str, ...]) -> Path | None:
        path = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        if path and place != Path("."):
            raise UserError(
                f"{path} cannot serve several sequences; give each a folder of its own with images/ in it"
            )
        return path

    def _boxes(self, boxes) -> Truth:
        return {"boxes": tuple(np.array(rows, dtype=float).reshape(-1, 4) - self.origin for rows in boxes)}


def corners(xywh) -> list[float]:
    """x, y, w, h -> x1, y1, x2, y2 with x2 = x + w."""
    x, y, w, h = xywh
    return [x, y, x + w, y + h]


def merge(paths: Iterable[Path], read: Callable[[Path], BoxTable]) -> BoxTable:
    """The tables of all files in one, by frame key. Raises UserError when two list the same frame."""
    table: BoxTable = {}
    for path in paths:
        found = by_frame_key(read(path))
        twice = table.keys() & found.keys()
        if twice:
            raise UserError(f"{path} lists {min(twice)}, which another file lists too; keep one of the two")
        table |= found
    return table


def read_voc(path: Path) -> list[list[float]]:
    """The boxes of a Pascal VOC file, their numbers as written: xmax is taken as xmin + width."""
    try:
        found = ElementTree.parse(path).iter("bndbox")
        return [[float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")] for box in found]
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no Pascal VOC annotation ({error}); correct it or take it away") from None
