"""The files of kept predictions: maps by sequence, or the boxes of all sequences; written, checked and read.

Names of sequences become paths below the folder, and never any outside of it.
"""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.boxes import BoxPrediction, MapPrediction, Prediction
from utils.entries import LIST, Kind, check_entries, is_number
from utils.errors import UserError, reason
from utils.files import digest, read_json, temporary_beside, write_atomically, writing

INDEX, BOXES = "predictions.json", "boxes.json"
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

    digests: SHA-256 of the files, filled while they are written
    """

    def __init__(self, folder: Path):
        self.folder, self.digests = folder, {}
        self._file: zipfile.ZipFile | None = None  # that is being written, for now as `_temporary`
        self._temporary: Path | None = None

    def add(self, video, index: int, _image: dict[str, Any], prediction: MapPrediction) -> None:
        """Write one frame; frames come in order, those of a sequence one after the other.

        Raises UserError where that cannot be written.
        """
        path = self.path(video.name)
        with writing(path):
            if index == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._temporary = temporary_beside(path)
                self._file = zipfile.ZipFile(self._temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
            with self._file.open(member_of(index), "w") as file:
                np.lib.format.write_array(file, np.asarray(prediction.map, np.float32))
            if index == len(video.frames) - 1:
                self._file.close()
                self.digests[path.relative_to(self.folder).as_posix()] = digest(self._temporary)
                os.replace(self._temporary, path)
        _, png = cv2.imencode(".png", (255 * prediction.map).astype(np.uint8))
        write_atomically(self.folder / video.name / f"{index + 1:05d}.png", png.tobytes())

    def finish(self) -> None:
        """Every sequence is written already."""

    def abandon(self) -> None:
        """Remove what is half written."""
        with contextlib.suppress(OSError, ValueError):  # as on a full disk
            if self._file:
                self._file.close()
        with contextlib.suppress(OSError):
            if self._temporary:
                self._temporary.unlink()

    def check(self, images: Images, digests: Digests) -> None:
        """Raises UserError where a file is missing or damaged, or holds other frames than `images`."""
        for name, frames in images.items():
            path = self.path(name)
            with opened(existing(path)) as archive:
                found = sorted(archive.namelist())
            wanted = sorted(member_of(image["frame"]) for image in frames)
            if found != wanted:
                other = next(iter(set(found) ^ set(wanted)), "the same map twice")
                raise UserError(
                    f"{path} has {len(found)} maps and {INDEX} lists {len(wanted)}, they differ in {other}; "
                    f"{REMEDY}"
                )
            check_digest(path, path.relative_to(self.folder).as_posix(), digests)

    def read(
        self, video, images: Sequence[Mapping[str, Any]], threshold: float
    ) -> Iterator[tuple[int, Prediction]]:
        """(frame, prediction) of the frames of a sequence. Raises UserError for a map that is none."""
        path = self.path(video.name)
        with opened(existing(path)) as archive:
            for image in images:
                member = member_of(image["frame"])
                found = MapPrediction(read_map(archive, member, path, video.size), threshold)
                if fault := found.fault(video.size):
                    raise UserError(f"{path}: {member} holds {fault}; {REMEDY}")
                yield image["frame"], found

    def path(self, sequence: str) -> Path:
        """The file of a sequence. Raises UserError for a name that would lead out of the folder."""
        if "\\" in sequence or "\0" in sequence or any(p in ("", ".", "..") for p in sequence.split("/")):
            raise UserError(
                f"the sequence {sequence!r} cannot be kept in {self.folder}: its name is no path below it; "
                "rename it"
            )
        return self.folder / f"{sequence}.npz"


class BoxStore:
    """Boxes, one file for all sequences; `digests` as in `MapStore`."""

    def __init__(self, folder: Path):
        self.folder, self.digests = folder, {}
        self.results: list[dict[str, Any]] = []
        self._boxes: dict[int, np.ndarray] = {}

    def add(self, _video, _index: int, image: dict[str, Any], prediction: BoxPrediction) -> None:
        """Remember the boxes of one frame."""
        for x1, y1, x2, y2, score in prediction.boxes.tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            self.results.append({"image_id": image["id"], "category_id": 1, "bbox": box, "score": score})

    def finish(self) -> None:
        """Write the boxes of all frames."""
        write_atomically(self.folder / BOXES, json.dumps(self.results).encode())
        self.digests[BOXES] = digest(self.folder / BOXES)

    def abandon(self) -> None:
        """Nothing is half written."""

    def check(self, images: Images, digests: Digests) -> None:
        """Raises UserError where the file is missing or damaged, or holds what is no box of `images`."""
        path = existing(self.folder / BOXES)
        entries = read_json(path, "boxes")
        known = {image["id"] for frames in images.values() for image in frames}
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
        check_digest(path, BOXES, digests)
        self._boxes = {image: np.array(found, np.float64) for image, found in rows.items()}

    def read(
        self, video, images: Sequence[Mapping[str, Any]], _threshold: float
    ) -> Iterator[tuple[int, Prediction]]:
        """(frame, prediction) of the frames of a sequence, after `check`."""
        for image in images:
            found = BoxPrediction(self._boxes.get(image["id"], np.zeros((0, 5))), video.size)
            if fault := found.fault(video.size):
                raise UserError(f"{self.folder / BOXES}: image {image['id']} has {fault}; {REMEDY}")
            yield image["frame"], found


STORES = {"maps": MapStore, "boxes": BoxStore}  # by the kind of prediction


# ---------------------------------------------------------------- files


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
