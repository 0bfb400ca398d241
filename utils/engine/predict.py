"""Predictions of a model, frame by frame of a video."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from utils.boxes import BoxPrediction, MapPrediction, Prediction


class WindowFusion:
    """Joins per-frame predictions of overlapping windows by their elementwise maximum, frame after frame.

    Holds no more than the frames that a later window may still change.
    """

    def __init__(self):
        self._first = 0  # number of the first frame held
        self._held: list[np.ndarray] = []

    def add(self, start: int, predictions: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the window's predictions [n, ...] and yield (frame, prediction) of those that are final.

        Windows come in order of their start; all frames before `start` are final.
        """
        while self._held and self._first < start:
            yield self._first, self._held.pop(0)
            self._first += 1
        if not self._held:
            self._first = start
        for offset, prediction in enumerate(predictions):
            place = start + offset - self._first
            if place < len(self._held):
                self._held[place] = np.maximum(self._held[place], prediction)
            else:
                self._held.append(prediction)

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield what is left after the last window."""
        for offset, prediction in enumerate(self._held):
            yield self._first + offset, prediction
        self._held = []


@torch.inference_mode()
def predict_video(
    model: nn.Module, device: torch.device, threshold: float, video
) -> Iterator[tuple[int, Prediction]]:
    """(frame, prediction at the frame's original size) of every frame of a video, in order.

    threshold: above which a pixel of a probability map belongs to a target
    video:     as dataset.video.TestVideo. Overlapping windows are joined by their maximum. A model with
               `stream()` computes what neighbouring clips share once, or carries a state through the video.
    """
    model.eval()
    step = model.stream() if hasattr(model, "stream") else lambda clip, _: model(clip)
    fusion = WindowFusion()
    for read, clip in video:
        decoded = model.decode(step(clip.to(device, non_blocking=True), read.places))
        if isinstance(decoded, list):
            yield read.first, BoxPrediction(video.restore_boxes(decoded[0].cpu().numpy()), video.size)
            continue
        probabilities = decoded[0, : read.count].float().cpu().numpy()
        for index, probability in fusion.add(read.first, probabilities):
            yield index, MapPrediction(video.restore(probability), threshold)
    for index, probability in fusion.finish():
        yield index, MapPrediction(video.restore(probability), threshold)
