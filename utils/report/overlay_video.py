"""A video with what was found drawn on its frames: boxes, tracks with their numbers and ways, a legend."""

import contextlib
import errno
import os
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np

from utils.detections import Found
from utils.errors import UserError
from utils.files import temporary_beside, writing
from utils.report.overlay_picture import Canvas, Layout, SteadyStretch
from utils.report.traces import Trace, Traces

DEFAULT_RATE, SLOWEST, FASTEST = 25.0, 1.0, 240.0  # frames per second
CHECKED = 64  # frames from one look at the disk to the next
INDEX_BYTES, INDEX_BASE = 64, 2**16  # what the end of a video takes: per frame, and beside that
CODECS = (  # what plays most widely of what OpenCV's usual builds can write, then what they all can
    (".mp4", cv2.CAP_FFMPEG, "mp4v"),
    (".avi", cv2.CAP_OPENCV_MJPEG, "MJPG"),
)


class OverlayVideo:
    """Draws every frame into <folder>/overlay.mp4, or .avi where OpenCV can write no mp4.

    A frame that cannot be read shows the picture before with a note on it. Frames before the first that can
    be read are black. Without any frame that can be read there is no video.
    rate:  frames per second; None: not known
    title: stands in the legend
    notes: what the user should know of it, filled when the video is opened and closed
    Raises UserError where it cannot be written.
    """

    def __init__(self, folder: Path, rate: float | None = None, title: str = ""):
        self.folder, self.title = folder, title
        self.rate = rate if rate and rate > 0 else None
        self.notes: list[str] = []
        self._stretch, self._traces = SteadyStretch(), Traces()
        self._early: list[tuple[Found, list[Trace]]] = []  # frames before the first that can be read
        self._gray: np.ndarray | None = None  # the last frame that could be read
        self._canvas: Canvas | None = None
        self._video: VideoFile | None = None

    def add(self, found: Found) -> None:
        """Draw one frame."""
        traces = self._traces.add(found)
        pixels = found.frame.pixels
        if pixels is None and self._canvas is None:
            self._early.append((found, traces))
            return
        if self._canvas is None:
            self._open(*pixels.shape)
        if pixels is not None:
            self._gray = self._stretch(pixels)
        self._write(found, traces)

    def close(self) -> None:
        """Put the video into its place."""
        if self._video:
            video, self._video = self._video, None
            video.close()

    def _open(self, height: int, width: int) -> None:
        layout = Layout.of(height, width)
        self._canvas = Canvas(layout, self.rate, self.title)
        self._gray = np.zeros((height, width), np.uint8)
        rate = min(max(self.rate or DEFAULT_RATE, SLOWEST), FASTEST)
        self._video = VideoFile.opened(self.folder / "overlay", rate, layout.size)
        if self._video is None:
            self.notes.append("this build of OpenCV can write no video, so that there is no overlay")
        elif self._video.path.suffix != CODECS[0][0]:
            self.notes.append(
                f"this build of OpenCV can write no mp4; the overlay is {self._video.path.name}"
            )
        early, self._early = self._early, []
        for found, traces in early:
            self._write(found, traces)

    def _write(self, found: Found, traces: list[Trace]) -> None:
        if self._video:
            self._video.add(self._canvas.draw(self._gray, found, traces))


class VideoFile:
    """A video file, in a temporary folder until it is closed.

    OpenCV says nothing of a full disk: the disk is watched, and the file is looked at when it is closed.
    """

    def __init__(self, path: Path, temporary: Path, writer: cv2.VideoWriter):
        self.path, self._temporary, self._writer, self._frames = path, temporary, writer, 0

    @classmethod
    def opened(cls, path: Path, rate: float, size: tuple[int, int]) -> "VideoFile | None":
        """A new file of that name and a suffix that OpenCV can write; None where it can write none."""
        for suffix, interface, codec in CODECS:
            whole = path.with_suffix(suffix)
            temporary = temporary_beside(whole)  # a folder: OpenCV tells formats by suffixes
            with writing(whole):
                temporary.mkdir(parents=True, exist_ok=True)
                (temporary / whole.name).touch()
            code = cv2.VideoWriter.fourcc(*codec)
            writer = cv2.VideoWriter(str(temporary / whole.name), interface, code, rate, size[::-1])
            if writer.isOpened():
                return cls(whole, temporary, writer)
            shutil.rmtree(temporary, ignore_errors=True)
        return None

    def add(self, picture: np.ndarray) -> None:
        """Write a picture, BGR. Raises UserError while there is room left for the end of the file."""
        if self._frames % CHECKED == 0:
            with writing(self.path):
                if shutil.disk_usage(self._temporary).free < INDEX_BASE + INDEX_BYTES * self._frames:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._writer.write(picture)
        self._frames += 1

    def close(self) -> None:
        """Put the file into its place. Raises UserError where not all of it could be written."""
        file = self._temporary / self.path.name
        try:
            self._writer.release()
            written = number_of_frames(file)
            if written != self._frames:
                raise UserError(
                    f"cannot write {self.path}: of {self._frames} frames the file holds {written}; free some "
                    "space or choose another folder"
                )
            with writing(self.path):
                os.replace(file, self.path)
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._temporary)


def number_of_frames(path: Path) -> int:
    """How many frames a video says to have; 0 where it is none."""
    if path.suffix == ".mp4" and not has_index(path):  # of which FFmpeg would complain on the terminal
        return 0
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    video.release()
    return count


def has_index(path: Path) -> bool:
    """Whether an mp4 has its index, the box moov, which is written last."""
    place, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while place + 16 <= size:
            file.seek(place)
            length, kind, long_length = struct.unpack(">I4sQ", file.read(16))
            length = long_length if length == 1 else length
            if kind == b"moov":
                return place + length <= size
            if length < 8:
                return False
            place += length
    return False
