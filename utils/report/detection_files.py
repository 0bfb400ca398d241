"""What was found in a video as text: CSV, MOTChallenge and COCO, written frame by frame.

Places are in pixels of the source, as in `utils.detections`; frames count from 0 in reading order. Of places
and sides three decimals are kept, of scores six.

detections.csv   frame,name,x,y,score,x1,y1,x2,y2,track; no track: empty
tracks.csv       frame,name,track,x,y,x1,y1,x2,y2,score; carried on without a detection: no score
tracks_mot.txt   MOTChallenge: frame,id,left,top,width,height,score,-1,-1,-1; frames and pixels count from 1;
                 no score: -1
detections.json  COCO's results: image_id (the frame, from 0), file_name, category_id 1, bbox (left, top,
                 width, height, from 0) and score
motion.csv       frame,h11,...,h33,still,residual,measured: see `utils.motion.Motion`; nine digits each
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

from utils.detections import Found
from utils.files import temporary_beside, writing

WAITING = 2**16  # characters that are kept before they are written

DETECTIONS = ("frame", "name", "x", "y", "score", "x1", "y1", "x2", "y2", "track")
TRACKS = ("frame", "name", "track", "x", "y", "x1", "y1", "x2", "y2", "score")
HOMOGRAPHY = tuple(f"h{row}{column}" for row in (1, 2, 3) for column in (1, 2, 3))
MOTION = ("frame", *HOMOGRAPHY, "still", "residual", "measured")


class RecordFile:
    """A text file to which records are added, under a temporary name until it is closed.

    It is `head`, the records with `between` between them, and `tail`, whenever something was written: a file
    that is closed early, or of which a part could not be written, is whole.
    Raises UserError where it cannot be written.
    """

    def __init__(self, path: Path, head: str = "", between: str = "", tail: str = ""):
        self.path, self._between, self._tail = path, between, encoded(tail)
        self._waiting: list[str] = []
        self._characters = 0
        self._temporary = temporary_beside(path)
        with writing(path):
            self._file = open(self._temporary, "wb", buffering=0)  # noqa: SIM115, closed by `close`
            self._file.write(encoded(head) + self._tail)
        self._first = self._end = len(encoded(head))  # where the first record begins, and the tail

    def add(self, records: Iterable[str]) -> None:
        """Add some records."""
        for record in records:
            self._waiting.append(record)
            self._characters += len(record)
        if self._characters > WAITING:
            self._write()

    def _write(self) -> None:
        """Write what waits. Where that fails the file holds what it held before."""
        if not self._waiting:
            return
        before = self._between if self._end > self._first else ""
        content = encoded(before + self._between.join(self._waiting))
        self._waiting, self._characters = [], 0
        try:
            with writing(self.path):
                self._put(content + self._tail)
        except BaseException:
            with contextlib.suppress(OSError):
                self._put(self._tail)
            raise
        self._end += len(content)

    def _put(self, content: bytes) -> None:
        """Replace all behind the last whole record. Raises OSError."""
        self._file.seek(self._end)
        self._file.truncate()
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Put the file into its place, with all that could be written."""
        try:
            self._write()
            with writing(self.path):
                os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
            with writing(self.path):
                os.replace(self._temporary, self.path)


class DetectionFiles:
    """The five files above, in `folder`."""

    names = ("detections.csv", "tracks.csv", "tracks_mot.txt", "detections.json", "motion.csv")

    def __init__(self, folder: Path):
        heads = csv_line(DETECTIONS), csv_line(TRACKS), "", "[\n", csv_line(MOTION)
        self.files = [
            RecordFile(folder / name, head, *((",\n", "\n]\n") if name.endswith("json") else ()))
            for name, head in zip(self.names, heads, strict=True)
        ]

    def add(self, found: Found) -> None:
        """Write one frame."""
        records = (detection_lines, track_lines, mot_lines, coco_results, motion_lines)
        for file, records_of in zip(self.files, records, strict=True):
            file.add(records_of(found))

    def close(self) -> None:
        """Put all files into their places. Raises UserError after that where one lacks something."""
        with contextlib.ExitStack() as stack:
            for file in self.files:
                stack.callback(file.close)


# ---------------------------------------------------------------- records


def detection_lines(found: Found) -> Iterable[str]:
    """The lines of detections.csv."""
    of = found.detections
    for (x, y), box, score, track in zip(of.centres, of.boxes, of.scores, of.tracks, strict=True):
        numbers = (pixels(x), pixels(y), share(score), *map(pixels, box))
        yield csv_line((found.frame.number, found.frame.name, *numbers, track or ""))


def track_lines(found: Found) -> Iterable[str]:
    """The lines of tracks.csv."""
    for point in found.tracks:
        score = "" if point.score is None else share(point.score)
        numbers = (pixels(point.x), pixels(point.y), *map(pixels, point.box), score)
        yield csv_line((found.frame.number, found.frame.name, point.track, *numbers))


def mot_lines(found: Found) -> Iterable[str]:
    """The lines of tracks_mot.txt, where the left upper corner of the picture is at 1, 1."""
    for point in found.tracks:
        x1, y1, x2, y2 = point.box
        score = "-1" if point.score is None else share(point.score)
        sides = map(pixels, (x1 + 1, y1 + 1, x2 - x1, y2 - y1))
        yield csv_line((found.frame.number + 1, point.track, *sides, score, -1, -1, -1))


def coco_results(found: Found) -> Iterable[str]:
    """The entries of detections.json."""
    of = found.detections
    for (x1, y1, x2, y2), score in zip(of.boxes.tolist(), of.scores.tolist(), strict=True):
        box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
        entry = {"image_id": int(found.frame.number), "file_name": found.frame.name, "category_id": 1}
        yield json.dumps({**entry, "bbox": box, "score": round(score, 6)})


def motion_lines(found: Found) -> Iterable[str]:
    """The line of motion.csv."""
    motion = found.motion
    numbers = (f"{value:.9g}" for value in motion.homography.ravel())
    quality = pixels(motion.still), pixels(motion.residual), int(motion.measured)
    yield csv_line((found.frame.number, *numbers, *quality))


def csv_line(values: Iterable[object]) -> str:
    """The values with commas, quoted where they need it, and a line feed."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def pixels(value: float) -> str:
    """A number of pixels, or of gray levels, to a thousandth; 0 is never negative."""
    return f"{round(float(value), 3) + 0.0:.3f}"


def share(score: float) -> str:
    """A number from 0 to 1, to a millionth."""
    return f"{score:.6f}"


def encoded(text: str) -> bytes:
    """UTF-8; names of files that are none are kept byte by byte."""
    return text.encode("utf-8", "surrogateescape")
