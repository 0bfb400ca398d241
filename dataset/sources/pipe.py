"""Frames from standard input: PNG or JPEG images that follow each other.

That is what `ffmpeg -i VIDEO -f image2pipe -c:v png -` writes, with `-pix_fmt gray` or `-pix_fmt gray16be`
before the last word for gray video of 8 or 16 bit, and what any program writes that sends one image file
after the other. Of images in colour the luma is taken, as of video files.
"""

import math
import os
import select
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from dataset.gray_range import AUTO, RangeChoice
from dataset.io import MAX_PIXELS, PNG, checked, first_page, gray_or_refuse, gray_pixels
from dataset.source import Frame, LiveSource, counted_name
from dataset.sources.images import has_colour
from utils.errors import UserError

JPEG = b"\xff\xd8\xff"  # how such a file begins
RESTARTS, SCAN, BEGIN, END = range(0xD0, 0xD8), 0xDA, 0xD8, 0xD9  # markers in a JPEG
TURN = 0.2  # seconds after which a wait for bytes looks whether it should end
PART = 2**20  # bytes that are read at once
HOW = "pipe PNG or JPEG images into it, as `ffmpeg -i VIDEO -f image2pipe -c:v png -` writes them"


class PipedImages(LiveSource):
    """The images that come by a pipe, a frame each."""

    def __init__(self, name: str = "stdin", pipe: BinaryIO | None = None, gray_range: RangeChoice = AUTO):
        """pipe: with a file descriptor, from which it is read; None: standard input

        Raises UserError where standard input is closed or a terminal.
        """
        super().__init__(name, "standard input", gray_range)
        self.pipe = pipe or (sys.stdin and sys.stdin.buffer)
        if self.pipe is None or self.pipe.isatty():
            raise UserError(f"nothing is piped to standard input; {HOW}")

    def _received(self) -> Generator[Frame, None, None]:
        stream = ImageStream(self._read)
        for number, data in enumerate(stream):
            yield self._frame(number, data)
        if stream.skipped:
            self.tell("skipped", f"{stream.skipped} bytes of {self.title} belong to no image and are skipped")

    def _frame(self, number: int, data: bytes) -> Frame:
        name = counted_name(number)
        title = f"frame {name} of {self.title}"
        try:
            image = decoded(data, title)
            if number == 0 and has_colour(image):
                self.tell("colour", f"{self.title} is in colour; of each frame the luma is taken")
            return Frame(number, name, gray_or_refuse(luma(image), title))
        except UserError as error:
            return Frame(number, name, None, str(error))

    def _read(self) -> bytes:
        """Some bytes, as soon as there are any; none at the end, and after `stop`."""
        descriptor = self.pipe.fileno()
        while not self._is_stopped and threading.main_thread().is_alive():
            if os.name != "posix" or select.select([descriptor], [], [], TURN)[0]:
                return os.read(descriptor, PART)
        return b""


class ImageStream:
    """Cuts a stream into the PNG or JPEG images that follow each other in it, of the kind of the first one.

    Iterating gives the bytes of each; no bytes stand for an image that is broken before its end.

    read:    gives some bytes of the stream, none at its end
    skipped: bytes so far that belong to no image
    """

    def __init__(self, read: Callable[[], bytes]):
        self.skipped = 0
        self._read, self._bytes = read, bytearray()

    def __iter__(self) -> Iterator[bytes]:
        """Raises UserError for a stream that begins with neither."""
        if not self._read_until(len(PNG)) or not self._bytes.startswith((PNG, JPEG)):
            raise UserError(f"standard input begins with no PNG and no JPEG image; {HOW}")
        begin, find_end = (PNG, self._png_end) if self._bytes.startswith(PNG) else (JPEG, self._jpeg_end)
        is_whole = True  # the image before; what follows a broken one is the rest of it
        while self._go_to(begin, counts=is_whole):
            end = find_end()
            is_whole = end is not None
            yield bytes(self._bytes[: end or 0])
            del self._bytes[: end or 1]

    def _read_until(self, count: int) -> bool:
        """Whether the stream has so many bytes more."""
        while len(self._bytes) < count:
            part = self._read()
            if not part:
                return False
            self._bytes += part
        return True

    def _go_to(self, begin: bytes, counts: bool) -> bool:
        """Drop what is before the next image, and count it as skipped or not. False where no image comes."""
        is_there = True
        while (place := self._bytes.find(begin)) < 0 and is_there:
            self._drop(len(self._bytes) - len(begin) + 1, counts)  # the rest may be how it begins
            is_there = self._read_until(len(self._bytes) + 1)
        self._drop(place if is_there else len(self._bytes), counts)
        return is_there

    def _drop(self, count: int, counts: bool) -> None:
        del self._bytes[: max(count, 0)]
        self.skipped += max(count, 0) if counts else 0

    def _png_end(self) -> int | None:
        """The length of the PNG at the beginning; None where it is broken."""
        end, kind = len(PNG), b""
        while kind != b"IEND":
            start = end  # of a part: its length, name, content and checksum
            if not self._read_until(start + 8):
                return None
            kind = bytes(self._bytes[start + 4 : start + 8])
            end = start + 12 + int.from_bytes(self._bytes[start : start + 4], "big")
            if not self._read_part(start, end):
                return None
        return end

    def _read_part(self, start: int, end: int) -> bool:
        """Whether a part of a PNG is there whole; not where its length leads into another image."""
        start -= len(PNG) - 1  # which may begin in the part before
        while self._bytes.find(PNG, start, end) < 0:
            if len(self._bytes) >= end:
                return True
            start = max(start, len(self._bytes) - len(PNG))
            if not self._read_until(len(self._bytes) + 1):
                return False
        return False

    def _jpeg_end(self) -> int | None:
        """The length of the JPEG at the beginning; None where it is broken."""
        place = 2
        while self._read_until(place + 2) and self._bytes[place] == 0xFF:
            marker = self._bytes[place + 1]
            if marker == END:
                return place + 2
            if marker == BEGIN:
                return None
            if marker == 0xFF:  # fills
                place += 1
                continue
            if not self._read_until(place + 4):
                return None
            place += 2 + int.from_bytes(self._bytes[place + 2 : place + 4], "big")
            if marker == SCAN:
                place = self._scan_end(place)
        return None

    def _scan_end(self, place: int) -> int:
        """Where the pixels that begin at `place` end: at a marker, or with the stream."""
        while self._read_until(place + 2):
            found = self._bytes.find(0xFF, place, -1)
            if found < 0:
                place = len(self._bytes) - 1
            elif self._bytes[found + 1] in (0, *RESTARTS):
                place = found + 2
            else:
                return found
        return place


def decoded(data: bytes, title: str) -> Image.Image:
    """An image of its bytes. Raises UserError for a damaged one."""
    try:
        with Image.open(checked(data)) as file:
            if math.prod(file.size) <= MAX_PIXELS:
                return first_page(file)
    except Exception:  # Pillow's decoders raise nearly anything on damaged bytes
        pass
    raise UserError(f"{title} is cut off or damaged; look at what sends it")


def luma(image: Image.Image) -> np.ndarray:
    """The gray values of an image, of one in colour the luma."""
    return gray_pixels(image.convert("L") if image.mode.startswith("RGB") else image)
