"""What was found in a video, made up for tests of the writers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.moving import MovingVideo
from utils.boxes import MapPrediction
from utils.detections import Detections, Found, TrackPoint
from utils.motion import Motion


@dataclass(eq=False)
class Frame:
    """As much of dataset.source.Frame as the writers ask for."""

    number: int
    name: str
    pixels: np.ndarray | None


def found_in(
    frame: Frame, boxes: Sequence[Sequence[float]] = (), tracks: Sequence[TrackPoint] = (), motion=None
) -> Found:
    """A frame with boxes x1, y1, x2, y2, score and track; its map has the scores in them."""
    rows = np.reshape(np.asarray(boxes, np.float64), (-1, 6))
    centres = (rows[:, :2] + rows[:, 2:4] - 1) / 2
    detections = Detections(centres, rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
    prediction = None
    if frame.pixels is not None:
        probability = np.zeros(frame.pixels.shape, np.float32)
        for x1, y1, x2, y2 in rows[:, :4].astype(int):
            probability[y1:y2, x1:x2] = 0.75
        prediction = MapPrediction(probability, 0.5)
    return Found(frame, motion or Motion(), detections, prediction, tuple(tracks))


def founds_of(video: MovingVideo, unreadable: Sequence[int] = ()) -> Iterator[Found]:
    """Each target of a video detected in each frame, in a box of 3x3 pixels, as the track of its number."""
    for number, (pixels, motion) in enumerate(zip(video.frames, video.motions, strict=True)):
        boxes, tracks = [], []
        for track, (x, y) in video.targets(number).items():
            box = (round(x) - 1.0, round(y) - 1.0, round(x) + 2.0, round(y) + 2.0)
            boxes.append([*box, 0.75, track])
            tracks.append(TrackPoint(track, x, y, box, 0.75))
        readable = number not in unreadable
        frame = Frame(number, f"{number:05d}.png", pixels if readable else None)
        yield found_in(frame, boxes * readable, tracks, motion)
