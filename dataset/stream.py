"""Any source of frames to the clips of a model, without knowing how many frames will come."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import cached_property

import numpy as np
from torch import Tensor

from dataset.frames import gray_statistics
from dataset.io import gray_values
from dataset.normalisation import Normalisation
from dataset.sampling import ClipFrames, endless_windows
from dataset.source import Frame, Source
from dataset.video import VideoGeometry, one_ahead
from utils.errors import UserError
from utils.motion import Motion
from utils.recipe.schema import ViewSettings
from utils.registration import MODES, Registrar

Clips = Iterator[tuple[ClipFrames, Tensor]]


class StreamedVideo(VideoGeometry):
    """What dataset.video.TestVideo is for a sequence, for a source: the clips to predict, in order.

    Iterating gives (frames, clip [1, C, T, h, w]) as a TestVideo of the same frames does. At most two windows
    of frames are held, or clips, however many come. A frame that cannot be read is replaced by the one before
    it, at the beginning by the first one that can be read.

    source:    frames; one that is live can be iterated once
    constants: mean and std of the data set, if it has such; where the recipe has none either, they are
               measured in up to 32 evenly spaced frames, of a live source in its first 32
    on_frame:  called with every frame of the source, in order and before it is in a clip, also with those
               that cannot be read (pixels None); in the thread that reads ahead
    keeps:     whether it keeps each frame with its motion until `take` is called for it; then what is wrong
               with a frame, as another size, ends the video as its last frame does, and `check_end` tells it
    is_whole:  whether its last frame was read, and nobody has ended it before
    seconds:   spent so far on reading, on registering, and on waiting for both
    """

    def __init__(
        self,
        source: Source,
        settings: ViewSettings,
        constants: tuple[float, float] | None = None,
        on_frame: Callable[[Frame], None] = lambda frame: None,
        keeps: bool = False,
    ):
        super().__init__(source.name, settings)
        mode = MODES.get(settings.register)
        self.registrar = mode and Registrar(mode)
        self._motions: dict[int, Motion] = {}  # of the last frames
        self.keeps = keeps
        self._kept: deque[tuple[Frame, Motion]] = deque()
        self._fault: UserError | None = None
        self._is_ended = self.is_whole = False
        self.seconds = {"read": 0.0, "register": 0.0, "wait": 0.0}
        self.source, self.constants, self.on_frame = source, constants, on_frame
        if settings.history == "simulated":
            note = f"{source.title} has no simulated frames before its first one, which is repeated instead"
            source.tell("history", note)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames. Raises UserError where none can be read."""
        return self.source.size

    @property
    def notes(self) -> list[str]:
        """What the user should know of how its frames are read; grows while they are."""
        return self.source.notes

    @cached_property
    def normalisation(self) -> Normalisation:
        """Measured on first use, where nobody gives it."""
        return self.view.normalisation(self.constants, self._statistics)

    def _statistics(self) -> tuple[float, float]:
        samples = self.source.samples()
        mean, std = gray_statistics([self.view.fit(pixels, "images") for pixels in samples])
        self.source.tell(
            "statistics",
            f"{self.source.title}: gray values have mean {mean:.1f} and standard deviation {std:.1f} in "
            f"{self.source.sampled}, by which they are normalised",
        )
        return mean, std

    def __iter__(self) -> Clips:
        """Left early, or by an error, it ends the thread that reads, and what the source has open."""
        is_stopped = threading.Event()

        def stop() -> None:
            is_stopped.set()
            if self.source.is_live:
                self.source.stop()

        with closing(one_ahead(self._clips(is_stopped), stop)) as clips:
            while True:
                with self._timed("wait"):
                    clip = next(clips, None)
                if clip is None:
                    return
                yield clip

    def motion(self, index: int) -> Motion:
        """How the background moved from the frame before to one of the frames of the last clips."""
        return self._motions[index]

    def picture(self, index: int) -> np.ndarray:
        """Gray levels of the first frame that is kept, which must be that one, float32 [H, W]."""
        frame, _ = self._first_kept(index)
        return gray_values(self.source.first if frame.pixels is None else frame.pixels)

    def take(self, index: int) -> tuple[Frame, Motion]:
        """The same frame, and how the background moved since the one before; it is let go."""
        kept = self._first_kept(index)
        self._kept.popleft()
        return kept

    def _first_kept(self, index: int) -> tuple[Frame, Motion]:
        frame, _ = self._kept[0]
        if frame.number != index:
            raise ValueError(f"frame {frame.number} is the first that is kept, not {index}")
        return self._kept[0]

    def end(self) -> None:
        """Read no further, from any thread or a signal: the video ends with the frames that were read."""
        self._is_ended = True
        if self.source.is_live:
            self.source.stop()

    def check_end(self) -> None:
        """After the last clip. Raises the UserError of the source that ended it, if one did."""
        if self._fault:
            raise self._fault

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - begin

    # ---------------------------------------------------------------- in the thread that reads ahead

    def _clips(self, is_stopped: threading.Event) -> Generator[tuple[ClipFrames, Tensor], None, None]:
        normalisation = self.normalisation  # before frames of a live source are taken
        with closing(self._placed(is_stopped)) as placed:
            held = HeldFrames(placed)
            clips = self._windows(held) if self.view.settings.key == "all" else self._key_frames(held)
            for clip in clips:
                if is_stopped.is_set():
                    return
                pixels = np.stack([held[place] for place in clip.places])
                yield self.input_of(clip, pixels, normalisation)

    def _placed(self, is_stopped: threading.Event) -> Generator[np.ndarray, None, None]:
        """Pixels of each frame as the view places them. Every new frame passes here, in order."""
        pixels = None
        with closing(iter(self.source)) as frames:
            while True:
                with self._timed("read"):
                    frame = self._next(frames)
                if frame is None:  # of a live source this may be because it was ended
                    self.is_whole = not (self._fault or self.source.is_live and self._is_ended)
                if frame is None or is_stopped.is_set() or self._is_ended:
                    return
                self._register(frame)
                self.on_frame(frame)
                if frame.pixels is not None:
                    pixels = self.view.fit(frame.pixels, "images")
                elif pixels is None:
                    pixels = self.view.fit(self.source.first, "images")
                yield pixels

    def _next(self, frames: Iterator[Frame]) -> Frame | None:
        try:
            return next(frames, None)
        except UserError as error:
            if not self.keeps:
                raise
            self._fault = error
            return None

    def _register(self, frame: Frame) -> None:
        """A frame that cannot be read counts as one in which nothing moved."""
        motion = Motion()
        if self.registrar and frame.pixels is not None:
            with self._timed("register"):
                motion = self.registrar(gray_values(frame.pixels))
        self._motions[frame.number] = motion
        self._motions.pop(frame.number - 4 * self.view.settings.frames - 8, None)
        if self.keeps:
            self._kept.append((frame, motion))

    def _windows(self, held: "HeldFrames") -> Iterator[ClipFrames]:
        """As `test_windows` gives them for the number of frames that have come in the end."""
        length, covered = self.view.settings.frames, 0
        for start, stop in endless_windows(length):
            if not held.reach(stop):
                break
            yield ClipFrames.window(start, stop)
            held.forget(start + 1)  # where the last window may begin
            covered = stop
        if covered < held.seen:
            yield ClipFrames.window(max(held.seen - length, 0), held.seen)

    def _key_frames(self, held: "HeldFrames") -> Iterator[ClipFrames]:
        """A clip around each frame, as soon as the frames after it are there."""
        chosen, place = self.view.settings, 0
        frames, key = chosen.frames, chosen.key
        history = "repeat" if chosen.history == "simulated" else chosen.history
        after = max(frames - 1 - key, key if history == "future" else 0)
        numbers = self.source.numbers(chosen.neighbours)
        while held.reach(place + 1):
            held.reach(place + 1 + after)
            yield ClipFrames.around(numbers or range(held.seen), place, frames, key, history)
            place += 1
            held.forget(place - key)


class HeldFrames:
    """The last frames of a video, by their places."""

    def __init__(self, frames: Iterator[np.ndarray]):
        self.seen = 0
        self._frames, self._held = frames, {}

    def reach(self, count: int) -> bool:
        """Read on until so many frames have been seen. False where the video ends before."""
        while self.seen < count:
            if (pixels := next(self._frames, None)) is None:
                return False
            self._held[self.seen] = pixels
            self.seen += 1
        return True

    def forget(self, before: int) -> None:
        """Drop the frames of lower places."""
        for place in [place for place in self._held if place < before]:
            del self._held[place]

    def __getitem__(self, place: int) -> np.ndarray:
        return self._held[place]
