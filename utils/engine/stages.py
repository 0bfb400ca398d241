"""What follows a detector, frame by frame: detections are linked to tracks."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from utils.boxes import Prediction, with_tracks
from utils.detections import Detections, Found
from utils.motion import Motion
from utils.recipe.schema import Recipe
from utils.tracking import TrackSettings, link

Predict = Callable[[Any], Iterable[tuple[int, Prediction]]]


def linked(predict: Predict, recipe: Recipe, settings: TrackSettings | None) -> Predict:
    """What gives the same (frame, prediction) of every frame of a video, with tracks in the predictions.

    recipe:   whose threshold makes detections of predictions
    settings: how tracks are made; None: they are not
    Frames come `settings.lag` frames later than from `predict`.
    """
    if settings is None:
        return predict

    def predict_tracks(video: Any) -> Iterator[tuple[int, Prediction]]:
        found = (found_in(video, *frame, recipe.scoring.threshold) for frame in predict(video))
        for one in link(found, settings):
            yield one.frame, with_tracks(one.prediction, one.tracks)

    return predict_tracks


def found_in(video: Any, index: int, prediction: Prediction, threshold: float) -> Found:
    """What is known of a frame of a video before tracks are made; its number stands for the frame."""
    return Found(index, motion_of(video, index), Detections.of(prediction, threshold), prediction)


def motion_of(video: Any, index: int) -> Motion:
    """How the background of a video moved from the frame before to this one."""
    return Motion()  # nothing registers the frames of a TestVideo yet: the camera counts as still
