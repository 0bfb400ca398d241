"""Any video as frames: what a source of frames is, whatever they come from.

`dataset.sources.open_sources` makes sources of what a user names.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np

from dataset.gray_range import AUTO, FILE, RangeChoice, Stretch
from dataset.sampling import STATISTICS_FRAMES
from utils.errors import UserError

CUT = 0.01  # of a frame's pixels beyond the stretched range, which a note tells


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    number: from 0 in reading order; a frame that cannot be read has one too
    name:   as in the source: "0012.png" of an image file; "000012", the number, of a video, of a TIFF with
            several pages and of what is piped
    pixels: gray values, uint8 or uint16 [H, W], not to be changed, for clips share them; None where it cannot
            be read
    note:   why not
    """

    number: int
    name: str
    pixels: np.ndarray | None
    note: str = ""


def counted_name(number: int) -> str:
    """The name of a frame that has none of its own."""
    return f"{number:06d}"


class Source(ABC):
    """The frames of one video.

    Iterating gives every frame once, in order; it reads anew each time, and holds one frame at a time.

    name:       names the folder of what is written
    title:      names the source in sentences: a path, "standard input", "camera 0"
    gray_range: what becomes gray values 0..255: "auto", "file", or the counts that become 0 and 255. With
                "auto", 8 bit stays as it is and 16 bit is stretched, see `Stretch`. Stretched frames are
                uint16, of which `gray_values` gives 0..255.
    fps:        frames per second, None where unknown
    dataset, constants: the name of the data set that it is of, with mean and std of that; "" and None else
    """

    is_live = False
    fps: float | None = None
    dataset = ""
    constants: tuple[float, float] | None = None

    def __init__(self, name: str, title: str, gray_range: RangeChoice = AUTO):
        self.name, self.title, self.gray_range = name, title, gray_range
        self._notes: dict[str, str] = {}  # by what they are about

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Number of frames, as far as the source tells; None where it does not."""

    @abstractmethod
    def _frames(self) -> Generator[Frame, None, None]:
        """The frames as they are, from the first one."""

    @abstractmethod
    def _samples(self, most: int) -> Iterator[np.ndarray]:
        """The pixels as they are of up to so many frames, none that cannot be read."""

    sampled = f"up to {STATISTICS_FRAMES} evenly spaced frames"

    @property
    def notes(self) -> list[str]:
        """What the user should know of how its frames are read; grows while they are."""
        return list(self._notes.values())

    def tell(self, about: str, note: str) -> None:
        """Add a note, which takes the place of an earlier one about the same."""
        self._notes[about] = note

    def check(self) -> None:
        """Raises UserError where no frame can be read."""
        self._first  # noqa: B018 - reads it

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames. Raises UserError where no frame can be read."""
        return self._first.shape

    @property
    def first(self) -> np.ndarray:
        """Pixels of the first frame that can be read, as iterating gives them."""
        return self._first if self.stretch is None else self.stretch(self._first)

    def samples(self) -> list[np.ndarray]:
        """Pixels of up to 32 evenly spaced frames, of a live source the first ones, as iterating gives it.

        Without those of another size or depth than the first one, which iterating refuses.
        """
        found = list(self._fitting_samples()) or [self._first]
        return found if self.stretch is None else [self.stretch(pixels) for pixels in found]

    def numbers(self, _neighbours: str) -> Sequence[int] | None:
        """By which its frames are neighbours, see `frame_numbers`; None: by their places."""
        return None

    def __iter__(self) -> Generator[Frame, None, None]:
        """Raises UserError for a frame of another size or depth than the first one."""
        self.check()  # before frames of a live source are taken
        stretch, unreadable = self.stretch, []
        with closing(self._frames()) as frames:
            for frame in frames:
                if frame.pixels is None:
                    unreadable = unreadable or [frame.note, 0]
                    unreadable[1] += 1
                    self._tell_unreadable(*unreadable)
                    yield frame
                else:
                    self._check(frame)
                    yield frame if stretch is None else self._stretched(frame, stretch)

    @cached_property
    def stretch(self) -> Stretch | None:
        """How counts become gray values, None: as they are; measured on first use."""
        if isinstance(self.gray_range, tuple):
            stretch = Stretch(*self.gray_range, "as --range says")
        elif self._first.dtype == np.uint8:
            return None
        elif self.gray_range == FILE:
            self.tell("range", f"the 16-bit counts of {self.title} are divided by 257 (--range {FILE})")
            return None
        else:
            stretch = Stretch.of(self._fitting_samples(), self.sampled)
        self.tell("range", f"{self.title}: {stretch}; --range LOW HIGH sets others")
        return stretch

    # ---------------------------------------------------------------- private

    @cached_property
    def _first(self) -> np.ndarray:
        """Pixels of the first frame that can be read, as they are. Raises UserError where there is none."""
        reason = f"no frame of {self.title} can be read; give a video that has some, or convert it"
        with closing(self._glimpsed()) as frames:
            for frame in frames:
                if frame.pixels is not None:
                    return frame.pixels
                if frame.number == 0:
                    reason = f"no frame of {self.title} can be read; of the first one: {frame.note}"
        raise UserError(reason)

    def _glimpsed(self) -> Generator[Frame, None, None]:
        """The frames as they are, from the first one; iterating gives them again."""
        return self._frames()

    def _fitting_samples(self) -> Iterator[np.ndarray]:
        kind = self._first.shape, self._first.dtype
        return (p for p in self._samples(STATISTICS_FRAMES) if (p.shape, p.dtype) == kind)

    def _check(self, frame: Frame) -> None:
        height, width = self.size
        if frame.pixels.shape != (height, width):
            raise UserError(
                f"frame {frame.name} of {self.title} is {frame.pixels.shape[1]}x{frame.pixels.shape[0]}, the "
                f"first one {width}x{height}; give frames of one size as one source"
            )
        if frame.pixels.dtype != self._first.dtype:
            raise UserError(
                f"frame {frame.name} of {self.title} has pixels of {8 * frame.pixels.itemsize} bit, the "
                f"first one of {8 * self._first.itemsize}; give frames of one depth as one source"
            )

    def _stretched(self, frame: Frame, stretch: Stretch) -> Frame:
        is_chosen = isinstance(self.gray_range, tuple)
        if not is_chosen and "cut" not in self._notes and (cut := stretch.cut(frame.pixels)) > CUT:
            self.tell(
                "cut",
                f"{100 * cut:.0f} % of frame {frame.name} of {self.title}, and maybe more of later ones, has "
                "counts beyond the range; set one that holds them by --range LOW HIGH",
            )
        return replace(frame, pixels=stretch(frame.pixels))

    def _tell_unreadable(self, note: str, count: int) -> None:
        which = "1 frame" if count == 1 else f"{count} frames"
        self.tell("unreadable", f"{which} of {self.title} cannot be read, the first one because: {note}")


class LiveSource(Source):
    """Frames that come once, nobody knows how many. What is asked of the first ones is read ahead and kept.

    It can be iterated once; whoever leaves that early ends it.
    """

    is_live = True
    length = None
    sampled = f"the first {STATISTICS_FRAMES} frames"

    def __init__(self, name: str, title: str, gray_range: RangeChoice = AUTO):
        super().__init__(name, title, gray_range)
        self._coming = self._received()
        self._ahead: deque[Frame] = deque()
        self._is_stopped = False  # no Event, whose lock a signal might find taken

    @abstractmethod
    def _received(self) -> Generator[Frame, None, None]:
        """The frames as they come."""

    def stop(self) -> None:
        """End a wait for frames, from another thread or a signal; no more frames come."""
        self._is_stopped = True

    def _frames(self) -> Generator[Frame, None, None]:
        with closing(self._coming):
            while self._read_ahead(1) and not self._is_stopped:
                yield self._ahead.popleft()

    def _glimpsed(self) -> Generator[Frame, None, None]:
        for place in range(STATISTICS_FRAMES):
            if self._read_ahead(place + 1):
                yield self._ahead[place]

    def _samples(self, most: int) -> Iterator[np.ndarray]:
        self._read_ahead(most)
        return (frame.pixels for frame in islice(self._ahead, most) if frame.pixels is not None)

    def _read_ahead(self, count: int) -> bool:
        """Whether so many frames are there, read and not yet taken."""
        while len(self._ahead) < count and not self._is_stopped:
            if (frame := next(self._coming, None)) is None:
                break
            self._ahead.append(frame)
        return len(self._ahead) >= count
