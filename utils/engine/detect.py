"""What is found in a video, frame by frame, while it is read."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import cv2
import torch

from utils.boxes import Prediction
from utils.detections import Detections, Found
from utils.tracking import TrackSettings, link

T = TypeVar("T")


@contextmanager
def few_threads(is_light: bool) -> Iterator[None]:
    """Inside `with`, OpenCV and torch leave cores to the threads that read and write beside them.

    On two cores TemporalMedian is a third faster by that.
    """
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(max(1, before[0] // 2))
    if is_light:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])


class Stages:
    """Finds targets in a video of any source, and tells how long each stage took.

    video:     a dataset.stream.StreamedVideo that keeps its frames
    predict:   gives (frame, prediction) of every frame of it
    threshold: above which a probability or a score is a detection
    tracks:    how detections are linked to tracks; None: they are not
    is_light:  whether the model is one without weights, whose tensors are not worth threads of their own
    """

    def __init__(
        self,
        video: Any,
        predict: Callable[[Any], Iterable[tuple[int, Prediction]]],
        threshold: float,
        tracks: TrackSettings | None,
        is_light: bool = False,
    ):
        self.video, self.predict, self.threshold, self.tracks = video, predict, threshold, tracks
        self.is_light = is_light
        self.spent = {"detect": 0.0, "track": 0.0}  # with what comes before each

    def __iter__(self) -> Iterator[Found]:
        """All of each frame, in order; with tracks, `tracks.lag` frames late."""
        found = self._timed(self._detected(), "detect")
        if self.tracks:
            found = self._timed(link(found, self.tracks), "track")
        with few_threads(self.is_light), closing(found):
            yield from found

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage, so far. Reading and registering run beside detection, in a thread of their own."""
        seconds = {stage: self.video.seconds[stage] for stage in ("read", "register")}
        seconds["detect"] = self.spent["detect"] - self.video.seconds["wait"]
        if self.tracks:
            seconds["track"] = self.spent["track"] - self.spent["detect"]
        return seconds

    def _detected(self) -> Iterator[Found]:
        with closing(self.predict(self.video)) as predictions:
            for _, prediction in predictions:
                frame, motion = self.video.take()
                if frame.pixels is None:  # its place in the clips was taken by another frame
                    prediction = None
                yield Found(frame, motion, Detections.of(prediction, self.threshold), prediction)

    def _timed(self, items: Iterator[T], stage: str) -> Iterator[T]:
        with closing(items):
            while True:
                begin = time.perf_counter()
                item = next(items, None)
                self.spent[stage] += time.perf_counter() - begin
                if item is None:
                    return
                yield item
