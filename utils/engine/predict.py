"""Predictions of a model, frame by frame of a video."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from utils.boxes import Geometry, Prediction
from utils.engine.runtime import Runtime
from utils.errors import UserError
from utils.motion import Motion
from utils.task import Task


class Video(Geometry, Protocol):
    """A sequence at test time, as dataset.video.TestVideo."""

    name: str
    device: torch.device

    def motion(self, index: int) -> Motion:
        """How the background moved from the frame before to one."""

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """(frames, clip [1, C, T, H, W]) per clip: `frames.count` frames from `frames.first` on are predicted
        from it, `frames.places` are the frames that it is made of, and `frames.alignment` brings maps of
        aligned frames back, where it is not None."""


class WindowFusion:
    """Joins per-frame predictions of overlapping windows by their elementwise maximum, frame after frame.

    Holds no more than the frames that a later window may still change.
    """

    def __init__(self):
        self._first = 0  # number of the first frame held
        self._held: list[np.ndarray] = []

    def add(self, start: int, predictions: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Take the predictions of a window's frames and yield (frame, prediction) of those that are final.

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
    model: nn.Module,
    task: Task,
    runtime: Runtime,
    threshold: float,
    video: Video,
    on_clip: Callable[[Video, Any, Any], None] | None = None,
) -> Iterator[tuple[int, Prediction]]:
    """(frame, prediction at the frame's original size) of every frame of a video, in order.

    threshold: above which a pixel of a probability map belongs to a target
    on_clip(video, frames, outputs): sees what the network gives for each clip's frames, in its own size
    Overlapping windows are joined by their maximum. A model with `stream()` computes what neighbouring clips
    have in common once, or carries a state through the video.
    """
    model.eval()
    if runtime.device.type == "cuda":
        video.device = runtime.device  # its frames are sent as they are, and normalised there
    step = model.stream() if hasattr(model, "stream") else lambda clip, _: model(clip)
    by_clip = late_outputs if getattr(model, "streams_late", False) else clip_outputs
    fusion = WindowFusion()
    for first, outputs in by_clip(model, step, task, runtime, video, on_clip):
        for index, output in fusion.add(first, outputs):
            yield index, checked(task.prediction(output, video, threshold), index, video)
    for index, output in fusion.finish():
        yield index, checked(task.prediction(output, video, threshold), index, video)


def clip_outputs(
    model: nn.Module, step: Callable, task: Task, runtime: Runtime, video: Video, on_clip: Callable | None
) -> Iterator[tuple[int, Any]]:
    """(first frame, what the network gives of it and of those after it) per clip.

    An aligned clip shows its frames as no other clip does, so that a stream has nothing to reuse.
    """

    def outputs_of(clip: Tensor) -> Any:
        with runtime.computing():
            clip = runtime.place(clip)
            raw = model(clip) if frames.is_aligned else step(clip, frames.places)
        return task.outputs(model.decode(runtime.widened(raw)), frames.count)

    for frames, clip in video:
        outputs = outputs_of(clip)
        if frames.alignment:
            outside = None if frames.as_it_is is None else outputs_of(frames.as_it_is)
            outputs = frames.alignment.back(outputs, outside)
        if on_clip:
            on_clip(video, frames, outputs)
        yield frames.first, outputs


def late_outputs(
    model: nn.Module, step: Any, task: Task, runtime: Runtime, video: Video, _on_clip: Callable | None
) -> Iterator[tuple[int, Any]]:
    """The same of a stream that waits for the frames after one: of those in turn that are complete by then.

    Such a stream takes the motion of the background too, and gives in `finish()` what is left at the end.
    """
    done = 0
    for raw in late_steps(step, runtime, video):
        decoded = model.decode(runtime.widened(raw))
        yield done, task.outputs(decoded, decoded.shape[1])
        done += decoded.shape[1]


def late_steps(step: Any, runtime: Runtime, video: Video) -> Iterator[dict[str, Tensor]]:
    for frames, clip in video:
        motions = [video.motion(place) for place in frames.places]
        with runtime.computing():
            yield step(runtime.place(clip), frames.places, motions)
    yield step.finish()


def checked(prediction: Prediction, index: int, video: Video) -> Prediction:
    """The prediction of a frame. Raises UserError where it is none, which no metric would notice."""
    if fault := prediction.fault(video.size):
        raise UserError(
            f"the network predicts {fault}, in frame {index + 1} of {video.name}: its weights are of no "
            "use, take others"
        )
    return prediction
