"""What follows a detector, frame by frame: another one confirms it, detections are linked to tracks."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.boxes import MapPrediction, Prediction, with_tracks
from utils.detections import Detections, Found
from utils.errors import UserError
from utils.recipe.resolve import resolve_recipe
from utils.recipe.schema import Recipe
from utils.registry import MODELS
from utils.task import task_of
from utils.tracking import TrackSettings, link

Predict = Callable[[Any], Iterable[tuple[int, Prediction]]]


def confirmed(predict: Predict, recipe: Recipe, create_model: Callable[..., nn.Module]) -> Predict:
    """What gives the same with the maps bounded by those of the recipe's `scoring.confirm`, if it has one.

    Raises UserError for a model that needs weights, or more than one frame.
    """
    if not recipe.scoring.confirm:
        return predict
    confirm = Confirmation(create_model(recipe.scoring.confirm))

    def predict_both(video: Any) -> Iterator[tuple[int, Prediction]]:
        for index, prediction in predict(video):
            yield index, confirm(prediction, video.picture(index))

    return predict_both


class Confirmation:
    """Bounds a map by that of a model of single frames without weights."""

    def __init__(self, model: nn.Module):
        view = resolve_recipe(model.recipe, "", {}).view
        has_weights = next(model.parameters(), None) is not None
        gives_maps = "map" in task_of(MODELS.entry(model.name)).predicts
        if has_weights or not gives_maps or view.frames > 1 or hasattr(model, "stream"):
            raise UserError(
                f"recipe key scoring.confirm names {model.name}, but takes a model of single frames without "
                "weights, such as TopHat"
            )
        self.model, self.channels = model.eval(), view.channels

    @torch.inference_mode()
    def __call__(self, prediction: MapPrediction, gray: np.ndarray) -> MapPrediction:
        """gray: gray levels of the frame, float32 [H, W]"""
        clip = torch.from_numpy(gray).expand(1, self.channels, 1, -1, -1)
        other = self.model.decode(self.model(clip))[0, 0].numpy()
        return MapPrediction(np.minimum(prediction.map, other), prediction.threshold)


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
    return Found(index, video.motion(index), Detections.of(prediction, threshold), prediction)
