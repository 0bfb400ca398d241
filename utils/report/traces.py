"""The ways of tracks up to a frame, as they lie on the scene while the camera moves."""

from dataclasses import dataclass

import numpy as np

from utils.detections import Found
from utils.motion import moved

LENGTH = 20  # frames
FAR = 1e5  # pixels beyond which a place is given up


@dataclass(frozen=True, eq=False)
class Trace:
    """A track up to a frame.

    track:   its number
    places:  its last places in the pixels of this frame, x and y [N, 2], the newest last
    box:     x1, y1, x2, y2 around it
    is_seen: whether there is a detection; else the track was carried on
    """

    track: int
    places: np.ndarray
    box: tuple[float, float, float, float]
    is_seen: bool = True


class Traces:
    """Call `add` with every frame: the places of tracks are carried along by the frames' homographies."""

    def __init__(self):
        self._tracks, self._frames, self._places = np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2))
        self._count = 0

    def add(self, found: Found) -> list[Trace]:
        """The tracks of a frame with their last places, of 20 frames at most."""
        self._count += 1
        points = found.tracks
        with np.errstate(all="ignore"):  # of places that a homography takes to infinity
            places = moved(self._places, found.motion.homography)
            kept = (self._frames > self._count - LENGTH) & (np.abs(places) < FAR).all(axis=1)
        self._tracks = np.append(self._tracks[kept], [point.track for point in points]).astype(int)
        self._frames = np.append(self._frames[kept], [self._count] * len(points)).astype(int)
        self._places = np.concatenate([places[kept], np.reshape([(p.x, p.y) for p in points], (-1, 2))])
        return [
            Trace(point.track, self._places[self._tracks == point.track], point.box, point.score is not None)
            for point in points
        ]
