"""The pictures of an overlay: gray values of a steady range, boxes, tracks, and a legend below them."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.detections import Found
from utils.report.drawing import (
    DETECTION,
    FONT,
    FONT_SIZE,
    INK,
    PAPER,
    TRACK,
    Colour,
    corners_around,
    draw_box,
    draw_traces,
    write_beside,
)
from utils.report.traces import Trace

WIDTH, NARROWEST, LARGEST = 640, 320, 1920  # of a picture, pixels: about; at least; at most, also its height
LINE, GAP = 20, 8  # of the text below it
BASE = 6  # from the letters to the end of their line
PERCENTILES = (0.5, 99.9)  # which become black and white
SAMPLE = 4096  # pixels, about, in which they are measured
ADAPTATION = 0.05  # how much of the way to a frame's own range the range goes
LEAST_RANGE = 16  # gray levels of whole numbers; noise alone is not stretched further


class SteadyStretch:
    """Gray values as 8 bit, in a range that follows the frames slowly: the picture does not flicker."""

    def __init__(self):
        self._range: np.ndarray | None = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W] of a frame."""
        step = max(1, int((pixels.size / SAMPLE) ** 0.5))
        found = np.percentile(pixels[::step, ::step], PERCENTILES)
        before = found if self._range is None else self._range
        self._range = before + ADAPTATION * (found - before)
        low, high = self._range
        least = LEAST_RANGE if np.issubdtype(pixels.dtype, np.integer) else 1e-6
        widened = max(0.0, least - (high - low)) / 2
        low, scale = low - widened, 255 / (high - low + 2 * widened)
        if pixels.dtype == np.uint8:
            return cv2.LUT(pixels, as_bytes(np.arange(256, dtype=np.float32), low, scale))
        return as_bytes(pixels.astype(np.float32), low, scale)


def as_bytes(values: np.ndarray, low: float, scale: float) -> np.ndarray:
    return np.clip((values - np.float32(low)) * np.float32(scale), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Layout:
    """Where what stands in a picture.

    scale:        pixels of the picture for one of the frame
    shown:        height and width of the enlarged frame
    left:         of it, where the frame is narrower than the text
    size:         height and width of the picture, even numbers, as codecs need them
    """

    scale: float
    shown: tuple[int, int]
    left: int
    size: tuple[int, int]

    @classmethod
    def of(cls, height: int, width: int) -> "Layout":
        """For frames of that size: they are enlarged, or made smaller, by whole numbers."""
        scale = max(1, min(round(WIDTH / width), LARGEST // max(height, width)))
        if max(height, width) > LARGEST:
            scale = 1 / -(-max(height, width) // LARGEST)
        shown = max(1, round(scale * height)), max(1, round(scale * width))
        across = max(shown[1], NARROWEST)
        return cls(
            scale,
            shown,
            (across - shown[1]) // 2,
            (even(shown[0] + 2 * LINE), even(across)),
        )


def even(number: int) -> int:
    """The number, or the next one."""
    return number + number % 2


class Canvas:
    """What the pictures are drawn on, one after the other.

    rate:  frames of the video per second; None: not known
    title: stands in the legend
    """

    def __init__(self, layout: Layout, rate: float | None, title: str):
        self.layout, self.rate, self.title = layout, rate, title
        self._picture = np.full((*layout.size, 3), PAPER[::-1], np.uint8)

    def draw(self, gray: np.ndarray, found: Found, traces: Sequence[Trace]) -> np.ndarray:
        """A picture, BGR, uint8 [H, W, 3] of the layout's size, until the next one is drawn.

        gray: uint8 [h, w]
        """
        (height, width), left = self.layout.shown, self.layout.left
        method = cv2.INTER_NEAREST if self.layout.scale >= 1 else cv2.INTER_AREA
        shown = self._picture[:height, left : left + width]
        enlarged = cv2.resize(gray, (width, height), interpolation=method)
        shown[:] = cv2.cvtColor(enlarged, cv2.COLOR_GRAY2BGR)
        numbers = {trace.track for trace in traces}
        for box, track in zip(found.detections.boxes.tolist(), found.detections.tracks.tolist(), strict=True):
            if track not in numbers:
                draw_box(shown, corners_around(box, self.layout.scale, shown.shape), DETECTION[::-1])
        draw_traces(shown, traces, self.layout.scale, TRACK[::-1])
        if found.frame.pixels is None:
            write_beside(shown, f"frame {found.frame.number} cannot be read", (GAP, GAP), INK)
        self._write_legend(found, len(traces))
        return self._picture

    def _write_legend(self, found: Found, tracks: int) -> None:
        """The frame's number, time and name; how many detections and tracks it has, in their colours."""
        picture, top = self._picture, self.layout.shown[0]
        picture[top:] = PAPER[0]
        first, second = top + LINE - BASE, top + 2 * LINE - BASE
        number = found.frame.number
        time = "" if self.rate is None else f"   {clock(number / self.rate)}"
        right = write(picture, f"frame {number}{time}", GAP, first, INK)
        write(picture, found.frame.name, right + 2 * GAP, first, INK)
        right = GAP
        counts = ("detections", len(found.detections), DETECTION), ("tracks", tracks, TRACK)
        for name, count, colour in counts:
            cv2.rectangle(picture, (right, second - 9), (right + 9, second), colour[::-1], 1)
            right = write(picture, f"{name} {count}", right + 16, second, colour) + 2 * GAP
        write(picture, self.title, right, second, INK)


def write(picture: np.ndarray, text: str, left: int, base: int, colour: Colour) -> int:
    """Write a text, of which the beginning is left out where it is too long; where it ends."""
    room = picture.shape[1] - left - GAP
    shown, width = text, width_of(text)
    while width > room and len(text) > 1:
        text = text[max(1, len(text) * (width - room) // (2 * width)) :]
        shown = f"...{text}"
        width = width_of(shown)
    if width <= room:
        cv2.putText(picture, shown, (left, base), FONT, FONT_SIZE, colour[::-1], 1, cv2.LINE_AA)
    return left + width


def width_of(text: str) -> int:
    return cv2.getTextSize(text, FONT, FONT_SIZE, 1)[0][0]


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any."""
    minutes, rest = divmod(round(100 * seconds), 6000)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{rest / 100:05.2f}"
