"""What is found in a video, frame by frame, while it is read."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import cv2
import torch
from torch import nn

from utils.detections import Detections, Found
from utils.engine.candidates import Candidate
from utils.engine.runtime import Runtime
from utils.recipe.resolve import check_use
from utils.signals import StopRequest
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


class Detector:
    """A model with its weights on a device, for any number of videos of one data set.

    dataset: its name; "" where they are of none
    typed:   what the user typed of the recipe, by whole keys
    Raises UserError where the weights do not fit the model, and for a key that has no effect.
    """

    def __init__(
        self,
        candidate: Candidate,
        dataset: str,
        typed: dict[str, Any],
        create_model: Callable[..., nn.Module],
    ):
        self.candidate, self.create_model = candidate, create_model
        parts = ("model", "view", "scoring.threshold", "scoring.confirm", "runtime")  # the rest needs truth
        check_use(typed, parts, f"what {candidate.title} detects")
        self.recipe = candidate.recipe(dataset, typed)
        self.runtime = Runtime.of(self.recipe.runtime)
        self.predict = candidate.predictor(self.recipe, create_model, self.runtime)

    @property
    def facts(self) -> dict[str, Any]:
        """What detects, and how."""
        facts = {"model": self.candidate.name, "weights": self.candidate.source}
        return {**facts, "recipe": self.recipe.to_dict(), "device": self.runtime.name}


class Stages:
    """Finds targets in a video of any source, and tells how long each stage took.

    video:  a dataset.stream.StreamedVideo that keeps its frames
    tracks: how detections are linked to tracks; None: they are not
    stop:   handles signals: no more is read, and what was read is found and given
    is_complete: whether all frames of the video were given
    Raises UserError where the model does not fit the frames.
    """

    def __init__(self, video: Any, detector: Detector, tracks: TrackSettings | None):
        detector.candidate.try_size(detector.recipe, detector.create_model, video.input_size)
        self.video, self.detector, self.tracks = video, detector, tracks
        self.stop = StopRequest("after the frames that were read", video.end)
        self.is_complete = False
        self.spent = {"detect": 0.0, "track": 0.0}  # with what comes before each

    def __iter__(self) -> Iterator[Found]:
        """All of each frame, in order; with tracks, `tracks.lag` frames late.

        Raises UserError for a frame that is none of this video, as of another size, after those before it.
        """
        found = self._timed(self._detected(), "detect")
        if self.tracks:
            found = self._timed(link(found, self.tracks), "track")
        with few_threads(self.detector.candidate.is_light), closing(found):
            yield from found
        self.video.check_end()
        self.is_complete = self.video.is_whole

    @property
    def facts(self) -> dict[str, Any]:
        """What is found in what, and how."""
        tracks = self.tracks and asdict(self.tracks)
        return {"source": self.video.source.title, **self.detector.facts, "tracks_by": tracks}

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage, so far. Reading and registering run beside detection, in a thread of their own."""
        seconds = {stage: self.video.seconds[stage] for stage in ("read", "register")}
        seconds["detect"] = self.spent["detect"] - self.video.seconds["wait"]
        if self.tracks:
            seconds["track"] = self.spent["track"] - self.spent["detect"]
        return seconds

    def _detected(self) -> Iterator[Found]:
        threshold = self.detector.recipe.scoring.threshold
        with closing(self.detector.predict(self.video)) as predictions:
            for index, prediction in predictions:
                frame, motion = self.video.take(index)
                if frame.pixels is None:  # its place in the clips was taken by another frame
                    prediction = None
                yield Found(frame, motion, Detections.of(prediction, threshold), prediction)

    def _timed(self, items: Iterator[T], stage: str) -> Iterator[T]:
        with closing(items):
            while True:
                begin = time.perf_counter()
                item = next(items, None)
                self.spent[stage] += time.perf_counter() - begin
                if item is None:
                    return
                yield item
