"""Video files, cameras and network streams as sources of frames, by OpenCV.

Of a video in colour the luma is taken (0.299 R + 0.587 G + 0.114 B), which nearly all codecs store as such;
where the three channels are equal, as in most infrared videos, it is any of them.
"""

import contextlib
import re
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import cv2
import numpy as np

from dataset.gray_range import AUTO, RangeChoice
from dataset.sampling import evenly_spaced
from dataset.source import Frame, LiveSource, Source, counted_name
from dataset.sources.images import COLOURED
from utils.errors import UserError

GRAY_FORMATS = (b"Y800", b"Y1\x00\x10")  # of 8 and 16 bit, which OpenCV gives as they are
MOST_RATE = 1000  # frames per second; more is what damaged headers say
PATIENCE, LIVE_PATIENCE = 100, 3  # failures to get a frame after which a video has ended
STEADY = 10  # frames in equal steps before a gap is believed to be one
TOLERANCE = 0.2  # of a step between frames, by which times in a file are rounded


class VideoFile(Source):
    """A video file, of whatever format OpenCV opens.

    A frame that cannot be decoded is missing in what OpenCV gives. Where the times of the others show the
    gap, it has a number and a note; elsewhere a note at the end tells how many frames are missing.
    """

    def __init__(self, name: str, path: Path, gray_range: RangeChoice = AUTO):
        """Raises UserError where OpenCV cannot open the file."""
        super().__init__(name, str(path), gray_range)
        self.path = path
        with self._opened() as capture:
            self.fps = positive(capture.get(cv2.CAP_PROP_FPS), MOST_RATE)
            count = positive(capture.get(cv2.CAP_PROP_FRAME_COUNT), 1e9)
            self._length = count and int(count)
        if self._length is None:
            self.sampled = LiveSource.sampled

    @property
    def length(self) -> int | None:
        return self._length

    def _frames(self) -> Generator[Frame, None, None]:
        number = -1
        with self._opened() as capture:
            for number, retrieve in self._grabbed(capture):
                yield frame_of(self, number, retrieve())
        if self.length and number + 1 < self.length:
            self.tell(
                "end",
                f"{self.path} announces {self.length} frames, of which {number + 1} came: it is cut off or "
                "damaged, and frames after a damaged place may have numbers that are too low",
            )

    def _samples(self, most: int) -> Iterator[np.ndarray]:
        """By a pass through the video up to the last chosen frame: seeking misses frames in some files."""
        wanted = set(range(most) if self.length is None else evenly_spaced(self.length, most))
        with self._opened() as capture:
            for number, retrieve in self._grabbed(capture):
                if number in wanted and (pixels := retrieve()) is not None:
                    yield luma(pixels)
                if number >= max(wanted):
                    return

    def _grabbed(self, capture: cv2.VideoCapture) -> Iterator[tuple[int, Callable]]:
        """The number of each frame, and what gives its pixels, or None where it cannot be decoded."""
        clock, number = FrameClock(self.fps, self.length), 0
        for failures in grabs(capture, PATIENCE):
            lost = clock.missing(capture.get(cv2.CAP_PROP_POS_MSEC), number, failures)
            for place in range(number, number + lost):
                yield place, lambda: None
            yield number + lost, partial(retrieved, capture)
            number += lost + 1

    def _opened(self) -> contextlib.AbstractContextManager[cv2.VideoCapture]:
        refusal = "is no image, and no video that OpenCV can open; convert it or leave it out"
        return captured(str(self.path), f"{self.path} {refusal}")


class LiveVideo(LiveSource):
    """A camera, by its number or its device, or a stream from the network, by its address."""

    def __init__(self, where: int | str, gray_range: RangeChoice = AUTO):
        self.where = where
        if isinstance(where, int):
            name, title = f"camera-{where}", f"camera {where}"
        else:
            address = urlsplit(where)
            host = address.netloc.rpartition("@")[2]  # without a password
            title = urlunsplit((address.scheme, host, address.path, "", ""))
            name = re.sub(r"[^\w.-]+", "-", host + address.path).strip("-")
        super().__init__(name, title, gray_range)

    def _received(self) -> Generator[Frame, None, None]:
        refusal = f"there is no {self.title} that OpenCV can open; look whether it is there"
        with captured(self.where, refusal) as capture:
            self.fps = positive(capture.get(cv2.CAP_PROP_FPS), MOST_RATE)
            for number, _ in enumerate(grabs(capture, LIVE_PATIENCE)):
                yield frame_of(self, number, retrieved(capture))


class FrameClock:
    """Finds by their times how many frames are missing between two others.

    Only as long as the times go in equal steps: in videos without a steady rate a longer step is no gap.

    fps, length: of the video; without both, what failed to decode is taken for one frame each time
    """

    def __init__(self, fps: float | None, length: int | None):
        self.fps, self.length = fps or 0, length or 0
        self._is_steady, self._steps = bool(fps and length), 0
        self._before: float | None = None

    def missing(self, milliseconds: float, number: int, failures: int) -> int:
        """How many frames are missing before the one at this time.

        number:   which that one has if none is missing
        failures: how often decoding has failed since the one before
        """
        before, self._before = self._before, milliseconds
        if before is None or not self._is_steady:
            return failures
        steps = (milliseconds - before) * self.fps / 1000
        lost = round(steps) - 1
        is_gap = lost > 0 and (failures or self._steps >= STEADY) and number + lost < self.length
        self._is_steady = abs(steps - round(steps)) <= TOLERANCE and (lost == 0 or is_gap)
        self._steps += lost == 0
        return lost if self._is_steady else failures


def grabs(capture: cv2.VideoCapture, patience: int) -> Iterator[int]:
    """Grab frame by frame; gives how often that failed before each, as it does where decoding fails.

    patience: after how many failures in turn the video has ended
    """
    failures = 0
    while failures < patience:
        if capture.grab():
            yield failures
            failures = 0
        else:
            failures += 1


@contextlib.contextmanager
def captured(where: int | str, refusal: str) -> Iterator[cv2.VideoCapture]:
    """An open capture, released at the end. Raises UserError(refusal) where OpenCV cannot open it."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # the refusal says it
    capture = cv2.VideoCapture(where)
    cv2.utils.logging.setLogLevel(level)
    try:
        if not capture.isOpened():
            raise UserError(refusal)
        kind = int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)) & 0xFFFFFFFF
        if kind.to_bytes(4, "little") in GRAY_FORMATS:
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        yield capture
    finally:
        capture.release()


def retrieved(capture: cv2.VideoCapture) -> np.ndarray | None:
    """The frame that was grabbed, [H, W] or [H, W, 3] with blue first; None where it cannot be decoded."""
    is_there, pixels = capture.retrieve()
    return pixels if is_there else None


def frame_of(source: Source, number: int, pixels: np.ndarray | None) -> Frame:
    """A frame of what was retrieved. Of the first one the source tells whether it is in colour."""
    name = counted_name(number)
    if pixels is None:
        return Frame(number, name, None, f"frame {name} of {source.title} cannot be decoded")
    if number == 0 and has_colour(pixels):
        source.tell("colour", f"{source.title} is in colour; of each frame the luma is taken")
    return Frame(number, name, luma(pixels))


def luma(pixels: np.ndarray) -> np.ndarray:
    """Gray values [H, W] of a frame [H, W], [H, W, 1] or [H, W, 3], exactly of equal channels."""
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    return pixels.reshape(pixels.shape[:2])


def has_colour(pixels: np.ndarray) -> bool:
    """Whether the channels of a frame differ by more than compression makes them differ."""
    if pixels.ndim == 2:
        return False
    first, *others = cv2.split(pixels)
    return any(cv2.norm(first, other, cv2.NORM_INF) > COLOURED for other in others)


def positive(value: float, limit: float) -> float | None:
    """A number that a video's header tells, None where it tells none that can be."""
    return value if 0 < value < limit else None
