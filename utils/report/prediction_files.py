"""The files of kept predictions: maps by sequence, or the boxes of all sequences; written, checked and read.

Names of sequences become paths below the folder, and never any outside of it.
"""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.boxes import BoxPrediction, MapPrediction, Prediction
from utils.entries import LIST, Kind, check_entries, is_number
from utils.errors import UserError, reason
from utils.files import digest, read_json, temporary_beside, write_atomically, writing

INDEX, BOXES, INPUT_BOXES = "predictions.json", "boxes.json", "input_boxes.json"
INPUT = ".input"  # in the name of a file of maps as the network gave them
REMEDY = "copy the whole folder again, or test the network again"
BOX = Kind(
    "left, top, width and height, these at least 0",
    lambda v: LIST.fits(v) and len(v) == 4 and all(map(is_number, v)) and v[2] >= 0 and v[3] >= 0,
)
SCORE = Kind("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
HEADER = 1024  # bytes that the header of a map may have

Images = Mapping[str, Sequence[Mapping[str, Any]]]  # the frames of each sequence, as the index lists them
Digests = Mapping[str, str] | None  # SHA-256 by file name; of earlier programs there are none


class MapStore:
    """Maps, one compressed file per sequence and one PNG per frame.

    inputs:  whether what the network gave is kept beside each map, in a file of its own
    digests: SHA-256 of the files, filled while they are written
    """

    def __init__(self, folder: Path, inputs: bool = False):
        self.folder, self.inputs, self.digests = folder, inputs, {}
        self._open: dict[Path, MapFile] = {}  # of the sequence that is being written

    def add(self, video, index: int, _image: dict[str, Any], prediction: MapPrediction) -> None:
        """Write one frame; frames come in order, those of a sequence one after the other.

        Raises UserError where that cannot be written.
        """
        maps = {self.path(video.name): prediction.map}
        if self.inputs:
            maps[self.path(video.name, INPUT)] = prediction.output
        for path, values in maps.items():
            with writing(path):
                if index == 0:
                    self._open[path] = MapFile(path)
                self._open[path].add(member_of(index), values)
                if index == len(video.frames) - 1:
                    self._close(path)
        _, png = cv2.imencode(".png", (255 * prediction.map).astype(np.uint8))
        write_atomically(self.folder / video.name / f"{index + 1:05d}.png", png.tobytes())

    def _close(self, path: Path) -> None:
        """Put a whole file into its place. Raises UserError where another sequence has it already."""
        name = path.relative_to(self.folder).as_posix()
        if name in self.digests:
            raise UserError(f"two sequences would be kept in {path}; rename the one whose name ends so")
        self.digests[name] = self._open[path].close()
        del self._open[path]

    def finish(self) -> None:
        """Every sequence is written already."""

    def abandon(self) -> None:
        """Remove what is half written."""
        for file in self._open.values():
            file.abandon()

    def check(self, images: Images, digests: Digests) -> None:
        """Raises UserError where a file is missing or damaged, or holds other frames than `images`."""
        for name, frames in images.items():
            for path in [self.path(name)] + [self.path(name, INPUT)] * self.inputs:
                with opened(existing(path)) as archive:
                    found = sorted(archive.namelist())
                wanted = sorted(member_of(image["frame"]) for image in frames)
                if found != wanted:
                    other = next(iter(set(found) ^ set(wanted)), "the same map twice")
                    raise UserError(
                        f"{path} has {len(found)} maps and {INDEX} lists {len(wanted)}, they differ in "
                        f"{other}; {REMEDY}"
                    )
                check_digest(path, path.relative_to(self.folder).as_posix(), digests)

    def read(
        self, video, images: Sequence[Mapping[str, Any]], threshold: float
    ) -> Iterator[tuple[int, Prediction]]:
        """(frame, prediction) of the frames of a sequence. Raises UserError for a map that is none."""
        with contextlib.ExitStack() as stack:
            archives = {}
            for kind in ("", INPUT) if self.inputs else ("",):
                path = self.path(video.name, kind)
                archives[kind] = path, stack.enter_context(opened(existing(path)))
            for image in images:
                member = member_of(image["frame"])
                found = checked_map(*archives[""], member, video.size)
                output = None if changes_size(video) else found
                if self.inputs:
                    output = checked_map(*archives[INPUT], member, video.input_size)
                yield image["frame"], MapPrediction(found, threshold, output, video)

    def path(self, sequence: str, kind: str = "") -> Path:
        """The file of a sequence, or that of what the network gave (INPUT).

        Raises UserError for a name that would lead out of the folder.
        """
        if "\\" in sequence or "\0" in sequence or any(p in ("", ".", "..") for p in sequence.split("/")):
            raise UserError(
                f"the sequence {sequence!r} cannot be kept in {self.folder}: its name is no path below it; "
                "rename it"
            )
        return self.folder / f"{sequence}{kind}.npz"


class MapFile:
    """A compressed file of maps, under another name until it is closed."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._temporary = path, temporary_beside(path)
        self._file = zipfile.ZipFile(self._temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1)

    def __contains__(self, member: str) -> bool:
        return member in self._file.NameToInfo

    def add(self, member: str, values: np.ndarray) -> None:
        """Write one map, as float32."""
        with self._file.open(member, "w") as file:
            np.lib.format.write_array(file, np.asarray(values, np.float32))

    def close(self) -> str:
        """Put the file into its place; its SHA-256."""
        self._file.close()
        found = digest(self._temporary)
        os.replace(self._temporary, self.path)
        return found

    def abandon(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError, ValueError):  # as on a full disk
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()


class BoxStore:
    """Boxes, one file for all sequences; `inputs` and `digests` as in `MapStore`."""

    def __init__(self, folder: Path, inputs: bool = False):
        self.folder, self.inputs, self.digests = folder, inputs, {}
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in self.names}  # by file
        self._boxes: dict[str, dict[int, np.ndarray]] = {}  # by file and image

    @property
    def names(self) -> tuple[str, ...]:
        """Its files."""
        return (BOXES, INPUT_BOXES) if self.inputs else (BOXES,)

    def add(self, _video, _index: int, image: dict[str, Any], prediction: BoxPrediction) -> None:
        """Remember the boxes of one frame."""
        for name, boxes in zip(self.names, (prediction.boxes, prediction.output), strict=False):
            for x1, y1, x2, y2, score in boxes.tolist():
                box = [x1, y1, x2 - x1, y2 - y1]
                row = {"image_id": image["id"], "category_id": 1, "bbox": box, "score": score}
                self._rows[name].append(row)

    def finish(self) -> None:
        """Write the boxes of all frames."""
        for name, rows in self._rows.items():
            write_atomically(self.folder / name, json.dumps(rows).encode())
            self.digests[name] = digest(self.folder / name)

    def abandon(self) -> None:
        """Nothing is half written."""

    def check(self, images: Images, digests: Digests) -> None:
        """Raises UserError where a file is missing or damaged, or holds what is no box of `images`."""
        known = {image["id"] for frames in images.values() for image in frames}
        self._boxes = {name: read_boxes(self.folder, name, known, digests) for name in self.names}

    def read(
        self, video, images: Sequence[Mapping[str, Any]], _threshold: float
    ) -> Iterator[tuple[int, Prediction]]:
        """(frame, prediction) of the frames of a sequence, after `check`."""
        for image in images:
            found = self._found(BOXES, image, video)
            output = None if changes_size(video) else found.boxes
            if self.inputs:
                output = self._found(INPUT_BOXES, image, video).boxes.astype(np.float32)
            yield image["frame"], BoxPrediction(found.boxes, video.size, output, video)

    def _found(self, name: str, image: Mapping[str, Any], video) -> BoxPrediction:
        found = BoxPrediction(self._boxes[name].get(image["id"], np.zeros((0, 5))), video.size)
        if fault := found.fault(video.size):
            raise UserError(f"{self.folder / name}: image {image['id']} has {fault}; {REMEDY}")
        return found


STORES = {"maps": MapStore, "boxes": BoxStore}  # by the kind of prediction


# ---------------------------------------------------------------- files


def changes_size(video) -> bool:
    """Whether what the network gives of a video lies in other pixels than those of its frames."""
    return video.view.placed_size is not None


def read_boxes(folder: Path, name: str, known: Container[int], digests: Digests) -> dict[int, np.ndarray]:
    """The boxes [N, 5] of a file by image. Raises UserError where it holds what is no box of `known` ones."""
    path = existing(folder / name)
    entries = read_json(path, "boxes")
    kinds = {
        "image_id": Kind("the id of an image", lambda value: type(value) is int and value in known),
        "category_id": Kind("1, the only category", lambda value: value == 1),
        "bbox": BOX,
        "score": SCORE,
    }
    if not isinstance(entries, list):
        raise UserError(f"{path} holds no list of boxes; {REMEDY}")
    rows: dict[int, list[list[float]]] = {}
    for number, entry in enumerate(entries):
        check_entries(entry, kinds, f"{path}, [{number}],", REMEDY)
        x, y, width, height = entry["bbox"]
        rows.setdefault(entry["image_id"], []).append([x, y, x + width, y + height, entry["score"]])
    check_digest(path, name, digests)
    return {image: np.array(found, np.float64) for image, found in rows.items()}


def checked_map(path: Path, archive: zipfile.ZipFile, member: str, size: tuple[int, int]) -> np.ndarray:
    """A map of probabilities of `size`. Raises UserError where there is another thing."""
    found = read_map(archive, member, path, size)
    if fault := MapPrediction(found, 0).fault(size):
        raise UserError(f"{path}: {member} holds {fault}; {REMEDY}")
    return found


def member_of(frame: int) -> str:
    """The name of a frame, counted from 0, in the file of its sequence."""
    return f"{frame + 1:05d}.npy"


def existing(path: Path) -> Path:
    """The path of a file that the index promises. Raises UserError where it is missing."""
    if not path.is_file():
        raise UserError(f"{path} is missing, though {INDEX} beside it promises it; {REMEDY}")
    return path


def check_digest(path: Path, name: str, digests: Digests) -> None:
    """Raises UserError where a file is not the one whose SHA-256 the index has under `name`."""
    if digests is not None and digests.get(name) != digest(path):
        raise UserError(f"{path} is not what was written there: its SHA-256 is another one; {REMEDY}")


def opened(path: Path) -> zipfile.ZipFile:
    """A zip file. Raises UserError where it is none."""
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}; put that right") from None
    except Exception as error:  # zipfile raises many kinds on a damaged file
        raise UserError(f"{path} is cut off or damaged ({error}); {REMEDY}") from None


def read_map(archive: zipfile.ZipFile, member: str, path: Path, size: tuple[int, int]) -> np.ndarray:
    """A map, float32 [H, W] of `size`. Raises UserError where there is another thing, or a damaged one."""
    try:
        with archive.open(member) as file:
            data = io.BytesIO(file.read(4 * size[0] * size[1] + HEADER + 1))  # to its end, where the sum is
        version = np.lib.format.read_magic(data)
        shape, _, dtype = np.lib.format.read_array_header_1_0(data)
        if version != (1, 0) or (shape, dtype) != (tuple(size), np.float32):
            raise ValueError(f"{dtype} {list(shape)} instead of float32 {list(size)}")
        data.seek(0)
        return np.lib.format.read_array(data, allow_pickle=False)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}; put that right") from None
    except Exception as error:  # zipfile and NumPy raise many kinds on damaged data
        raise UserError(f"{path}: {member} is no map, or damaged ({error}); {REMEDY}") from None
