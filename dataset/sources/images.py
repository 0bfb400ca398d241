"""Image files as the frames of a video: some of one folder, the pages of a TIFF, a data set's sequence."""

import math
from collections.abc import Generator, Iterator
from collections.abc import Sequence as Items
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from dataset.gray_range import AUTO, FILE, RangeChoice
from dataset.io import MAX_PIXELS, first_page, from_file, gray_or_refuse, gray_pixels, read_gray
from dataset.sampling import evenly_spaced, frame_numbers
from dataset.sequence import Sequence, SequenceSet
from dataset.source import Frame, Source, counted_name
from utils.errors import UserError

COLOURED = 8  # gray values by which channels differ that compression alone does not make differ
TIFF_SUFFIXES = (".tif", ".tiff")


def has_colour(image: Image.Image) -> bool:
    """Whether an image has channels of red, green and blue that differ in some pixel."""
    if not image.mode.startswith("RGB"):
        return False
    red, green, blue = image.split()[:3]
    return any(ImageChops.difference(red, other).getextrema()[1] > COLOURED for other in (green, blue))


class ImageFiles(Source):
    """Image files, a frame each; of a colour image the first channel, as the data sets are read.

    paths: in their order; the names of the files are those of the frames
    """

    def __init__(self, name: str, title: str, paths: Items[Path], gray_range: RangeChoice = AUTO):
        super().__init__(name, title, gray_range)
        self.paths = tuple(paths)

    @property
    def length(self) -> int:
        return len(self.paths)

    def _frames(self) -> Generator[Frame, None, None]:
        self._look_at_first()
        return (self._frame(number) for number in range(self.length))

    def _samples(self, most: int) -> Iterator[np.ndarray]:
        frames = map(self._frame, evenly_spaced(self.length, most))
        return (frame.pixels for frame in frames if frame.pixels is not None)

    def _frame(self, number: int) -> Frame:
        path = self.paths[number]
        try:
            return Frame(number, path.name, read_gray(path))
        except UserError as error:
            return Frame(number, path.name, None, str(error))

    def _look_at_first(self) -> None:
        """Tell what of the first image is not read: its colours, its further pages."""
        path = self.paths[0]
        try:
            is_coloured = from_file(path, lambda file: has_colour(first_page(file)))
            has_pages = from_file(path, lambda file: getattr(file, "is_animated", False), header_only=True)
        except UserError:
            return  # which reading it tells
        if is_coloured:
            self.tell("colour", f"{path} is in colour; of such images the first channel is read, red")
        if has_pages:
            self.tell("pages", f"{path} has several pages; of images among others the first page is read")


class TiffPages(Source):
    """The pages of one TIFF file, a frame each."""

    def __init__(self, name: str, path: Path, gray_range: RangeChoice = AUTO):
        """Raises UserError where the file cannot be opened; one that is cut off has fewer pages."""
        super().__init__(name, str(path), gray_range)
        self.path = path
        self._length, is_whole = from_file(path, count_pages, header_only=True)
        if not is_whole:
            self.tell("end", f"{path} is cut off or damaged after page {self._length}; copy it again")

    @property
    def length(self) -> int:
        return self._length

    def _frames(self) -> Generator[Frame, None, None]:
        return self._pages(range(self.length))

    def _samples(self, most: int) -> Iterator[np.ndarray]:
        pages = self._pages(evenly_spaced(self.length, most))
        return (frame.pixels for frame in pages if frame.pixels is not None)

    def _pages(self, numbers: Items[int]) -> Generator[Frame, None, None]:
        with Image.open(self.path) as file:
            for number in numbers:
                title = f"page {number + 1} of {self.path}"
                pixels, note = None, f"{title} is damaged; copy the file again"
                try:
                    file.seek(number)
                    if math.prod(file.size) <= MAX_PIXELS:
                        pixels = gray_or_refuse(gray_pixels(file), title)
                except UserError as error:
                    note = str(error)
                except Exception:  # Pillow's decoders raise nearly anything on a damaged file
                    pass
                yield Frame(number, counted_name(number), pixels, "" if pixels is not None else note)


def count_pages(file: Image.Image) -> tuple[int, bool]:
    """The pages of an open TIFF that can be found, and whether these are all."""
    pages = 0
    try:
        while True:
            file.seek(pages)
            pages += 1
    except EOFError:
        return pages, True
    except Exception:  # Pillow raises nearly anything where the file is cut off
        return pages, False


class SequenceSource(ImageFiles):
    """A data set's sequence; its 16-bit counts are divided by 257, as in test.py, unless a range is given.

    data: the set that it is of, whose constants then normalise it
    """

    def __init__(self, sequence: Sequence, gray_range: RangeChoice = FILE, data: SequenceSet | None = None):
        title = f"sequence {sequence.name}"
        super().__init__(sequence.name, title, sequence.images, gray_range)
        if data:
            self.dataset, self.constants = data.name, data.constants

    def numbers(self, neighbours: str) -> Items[int]:
        return frame_numbers(self.paths, neighbours)
