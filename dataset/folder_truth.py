"""The truth of a user's own folder: masks, points and the common forms of boxes."""

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache, cached_property, partial
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from dataset.annotations import BoxTable, by_frame_key, frame_key, read_coco, read_txt_list
from dataset.layout import files_in, list_images
from dataset.pairing import few, pair
from dataset.truth import Size, TruthCheck, parse_number, size_of_frames
from utils.errors import UserError
from utils.files import read_bytes, read_text

POINT_FILES = ("centroids.txt", "centroids.csv", "groundtruth.txt")
SPLIT_LISTS = ("train.txt", "test.txt")

Frames = tuple[Path, ...]
Truth = dict[str, tuple]  # the truth fields of a Sequence


class FolderTruth:
    """What truth lies in `folder`, beside its `images`.

    notes:        takes what is amiss but no error
    origin:       number of the first row and column in the files of points and boxes, 0 or 1
    on_bad_truth: what happens to boxes and points that cannot be true, see `check`
    """

    def __init__(self, folder: Path, notes: list[str], origin: int, on_bad_truth: str):
        self.folder, self.notes, self.origin = folder, notes, origin

        @cache
        def size_in(place: PurePosixPath) -> Size | None:
            is_outside = place.is_absolute() or ".." in place.parts
            return None if is_outside else size_of_frames(folder / "images" / place)

        self.check = TruthCheck(
            on_bad_truth, lambda frame: size_in(PurePosixPath(frame_key(frame)).parent), origin
        )

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
            if os.path.lexists(self.folder / below)
        }

    def _points(self, place: Path, frames: Frames) -> Truth:
        """Line n holds the targets of the n-th frame: `row,col`, ";" between several, nothing for none."""
        path = self._file_of_one_sequence(place, POINT_FILES)
        if path is None:
            return {}
        lines = read_text(path, "points").splitlines()
        while len(lines) > len(frames) and not lines[-1].strip():
            lines.pop()
        if len(lines) != len(frames):
            raise UserError(
                f"{path} has {len(lines)} lines for {len(frames)} frames; write one line per frame, "
                "empty where there is no target"
            )
        numbered = zip(range(1, len(lines) + 1), lines, frames, strict=True)
        return {"points": tuple(self._read_points(path, *line) for line in numbered)}

    def _read_points(self, path: Path, number: int, line: str, frame: Path) -> np.ndarray:
        place = f"line {number}"
        try:
            targets = [target.split(",") for target in line.split(";") if target.strip()]
            points = [(parse_number(row), parse_number(col)) for row, col in targets]
        except ValueError:
            raise UserError(
                f"{path}, {place}: {line!r} is not row,col or row,col;row,col; correct it"
            ) from None
        points = [point for point in points if self.check.keeps_point(path, place, frame.name, point)]
        return np.array(points, dtype=float).reshape(-1, 2) - self.origin

    def _box_csv(self, place: Path, frames: Frames) -> Truth:
        """A line per target; x, y is the upper left corner, and frames without a line have no target."""
        path = self._file_of_one_sequence(place, ("boxes.csv",))
        if path is None:
            return {}
        table: dict[str, list] = {frame.stem: [] for frame in frames}
        names: dict[str, list[str]] = {frame.stem: [] for frame in frames}  # of the targets
        rows = csv.DictReader(io.StringIO(read_text(path, "boxes"), newline=""))
        for line, row in csv_lines(rows, path):
            try:
                key, box = frame_key(row["frame"]), corners(parse_number(row[side]) for side in "xywh")
                if None in row:
                    raise ValueError("more columns than the header has")
            except (AttributeError, TypeError, ValueError):
                raise UserError(
                    f"{path}, {line}: expected frame,x,y,w,h as the header says; correct it"
                ) from None
            if key not in table:
                raise UserError(f"{path}, {line}: there is no frame {row['frame']} in images/; correct it")
            name = (row.get("id") or "").strip()
            if "id" in row and (not name or name in names[key]):
                what = f"{row['frame']} has two boxes of the id {name}" if name else "there is no id"
                raise UserError(f"{path}, {line}: {what}; correct it, or take the column id away")
            if self.check.keeps_box(path, line, row["frame"], box):
                table[key].append(box)
                names[key].append(name)
        truth = self._boxes(table[frame.stem] for frame in frames)
        return truth | (identities(names[f.stem] for f in frames) if "id" in (rows.fieldnames or ()) else {})

    def _voc(self, place: Path, frames: Frames) -> Truth:
        """Pascal VOC, a file of the frame's stem each; frames without a file have no target."""
        for below in ("labels", "annotations"):
            files = {path.stem: path for path in files_in(self.folder / below / place, ".xml")}
            if files:
                break
        else:
            return {}
        stray = files.keys() - {frame.stem for frame in frames}
        if stray:
            raise UserError(
                f"{files[min(stray)]} has no frame of its name; add the frame or take the file away"
            )
        keys = [(place / frame.stem).as_posix() for frame in frames]
        return self._boxes(
            read_voc(files[frame.stem], key, self.check) if frame.stem in files else []
            for key, frame in zip(keys, frames, strict=True)
        )

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
        known = set(keys)
        missing = [name for name in self._listed_in[place.as_posix()] if name not in known]
        if missing:
            raise UserError(
                f"the annotations of {self.folder} list frames that are not in its images/: {few(missing)}; "
                "complete the frames or cut the list"
            )
        truth = self._boxes([row[:4] for row in self._listed[key]] for key in keys)
        names = [[name for row in self._listed[key] for name in row[5:]] for key in keys]  # track_id of COCO
        known = {name for frame in names for name in frame}
        if not known - {None}:
            return truth
        if None in known or any(len(set(frame)) < len(frame) for frame in names):
            self.notes.append(
                f"the track_id of {place.as_posix()} in {self.folder} are not used: one is missing, is no "
                "whole number, or is twice in a frame"
            )
            return truth
        return truth | identities(names)

    @cached_property
    def _listed(self) -> BoxTable:
        folders = (self.folder, self.folder / "json", self.folder / "annotations")
        coco = [path for folder in folders for path in files_in(folder, ".json")]
        lists = files_in(self.folder, ".txt")
        found = merge(coco, partial(read_coco, check=self.check, tracks=True)) or merge(
            lists, partial(read_txt_list, check=self.check)
        )
        others = [path for path in (*coco, *lists) if path.name not in SPLIT_LISTS]
        if others and not found:
            for path in others:
                if path.parent != self.folder or not read_text(path).strip():
                    raise UserError(f"{path} holds no boxes; write some, or take it away")
            names = few([path.name for path in others])
            self.notes.append(f"{self.folder} has no truth: {names} hold no boxes")
        return found

    @cached_property
    def _listed_in(self) -> dict[str, list[str]]:
        """The keys of the listed frames by the place of their sequence."""
        found: dict[str, list[str]] = defaultdict(list)
        for key in self._listed:
            found[PurePosixPath(key).parent.as_posix()].append(key)
        return found

    def _file_of_one_sequence(self, place: Path, names: tuple[str, ...]) -> Path | None:
        path = next((self.folder / name for name in names if os.path.lexists(self.folder / name)), None)
        if path and place != Path("."):
            raise UserError(
                f"{path} cannot serve several sequences; give each a folder of its own with images/ in it"
            )
        return path

    def _boxes(self, boxes) -> Truth:
        return {"boxes": tuple(np.array(rows, dtype=float).reshape(-1, 4) - self.origin for rows in boxes)}


def identities(names: Iterable[Sequence[Hashable]]) -> Truth:
    """The targets of the frames, numbered as they first appear, by what their file calls them."""
    numbers: dict[Hashable, int] = {}
    frames = [[numbers.setdefault(name, len(numbers)) for name in frame] for frame in names]
    return {"identities": tuple(np.array(frame, np.int64) for frame in frames)}


def corners(xywh) -> list[float]:
    """x, y, w, h -> x1, y1, x2, y2 with x2 = x + w."""
    x, y, w, h = xywh
    return [x, y, x + w, y + h]


def merge(paths: Iterable[Path], read: Callable[[Path], BoxTable]) -> BoxTable:
    """The tables of all files in one, by frame key. Raises UserError when two list the same frame."""
    table: BoxTable = {}
    for path in paths:
        found = by_frame_key(read(path), path)
        twice = table.keys() & found.keys()
        if twice:
            raise UserError(f"{path} lists {min(twice)}, which another file lists too; keep one of the two")
        table |= found
    return table


def csv_lines(rows: csv.DictReader, path: Path) -> Iterable[tuple[str, dict]]:
    """The lines of boxes.csv by their places. Raises UserError for a header or a line that is none."""
    try:
        header = Counter(rows.fieldnames or ())
        if any(header[name] != 1 for name in ("frame", *"xywh")) or header["id"] > 1:
            raise UserError(
                f"{path}, line 1: there is no header frame,x,y,w,h (and id); write one, also without boxes"
            )
        for row in rows:
            yield f"line {rows.line_num}", row
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num + 1}: {error}; correct it") from None


def read_voc(path: Path, frame: str, check: TruthCheck) -> list[list[float]]:
    """The boxes of a Pascal VOC file, with or without namespace; an <annotation> without object has none.

    Their numbers are as written: xmax is taken as xmin + width.
    Raises UserError for a file of another kind, an object without a box and a box that cannot be true.
    """
    try:
        root = ElementTree.fromstring(read_bytes(path, "boxes"))
        if root.tag.rpartition("}")[2] != "annotation":
            raise ValueError(f"it is <{root.tag}>, not <annotation>")
        found = [objects.find("{*}bndbox") for objects in root.findall("{*}object")]
        if None in found or (not found and root.find(".//{*}bndbox") is not None):
            raise ValueError("an object and a box go together")
        sides = ("xmin", "ymin", "xmax", "ymax")
        boxes = [[parse_number(box.findtext(f"{{*}}{side}")) for side in sides] for box in found]
        size = [parse_number(root.findtext(f"{{*}}size/{{*}}{side}") or "0") for side in ("height", "width")]
    # ElementTree raises LookupError for an encoding that it does not know.
    except (ElementTree.ParseError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no Pascal VOC annotation ({error}); correct it or take it away") from None
    if min(size) > 0:
        check.check_size(path, "size", frame, tuple(size))
    return [
        box for number, box in enumerate(boxes, 1) if check.keeps_box(path, f"object {number}", frame, box)
    ]
