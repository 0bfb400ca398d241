"""Tracks: which detections of the frames of a video are one thing that moves against the ground.

Every detection may be the beginning of a track, and few become one: those that are seen often enough, that
move against the ground by more than their places jitter, and that are not fixed in the sensor.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from utils.detections import Detections, Found, TrackPoint
from utils.errors import UserError
from utils.kalman import Filters
from utils.motion import Motion
from utils.recipe.fields import setting
from utils.trails import Trails

STILL = np.eye(3)


@dataclass(frozen=True)
class TrackSettings:
    """What becomes a track, and when it ends. Lengths are in pixels of the source."""

    hits: int = setting(5, "frames with a detection that confirm a track", at_least=1, at_most=100)
    frames: int = setting(8, "last frames among which the hits are counted", at_least=1, at_most=100)
    motion: float = setting(1.2, "least motion against the ground", at_least=0, at_most=1000)
    certainty: float = setting(6, "least motion in its standard deviations", at_least=0, at_most=100)
    fixed: float = setting(0.7, "how near to one place in the sensor is fixed in it", at_least=0, at_most=100)
    misses: int = setting(6, "frames in a row without a detection that end a track", at_least=1, at_most=1000)
    gate: float = setting(13.8, "largest squared distance of a hit in variances", above=0, at_most=1000)
    merge: float = setting(4, "within this a detection is one with a stronger one", at_least=0, at_most=1000)
    noise: float = setting(0.7, "standard deviation of a detection's place", above=0, at_most=100)
    agility: float = setting(0.5, "standard deviation of the acceleration a frame", above=0, at_most=100)
    speed: float = setting(3, "standard deviation of the first speed, a frame", above=0, at_most=1000)
    most: int = setting(100, "detections of a frame that are followed, by score", at_least=1, at_most=1000)
    lag: int = setting(30, "frames held back for tracks confirmed later", at_least=0, at_most=1000)

    def __post_init__(self):
        if self.hits > self.frames:
            raise UserError(
                f"no track has {self.hits} hits in {self.frames} frames; give the tracks' option frames "
                "more of them, or hits less"
            )


@dataclass(eq=False)
class Track:
    """One thing that is followed.

    number: from 1 in the order of confirmation; 0: it is not confirmed
    since:  the frame in which it was confirmed, counted from 0
    last:   the frame of its last hit
    box:    around its last hit, relative to the place
    seen:   whether it was hit, of the last frames
    gap:    where it was expected in the frames since its last hit
    """

    seen: deque[bool]
    number: int = 0
    since: int = 0
    last: int = 0
    box: np.ndarray = field(default_factory=lambda: np.zeros(4))
    gap: list["Sighting"] = field(default_factory=list)


@dataclass(eq=False)
class Sighting:
    """Where a thing is in a frame, float64 [2]; x, y, its box and score as in `TrackPoint`."""

    track: Track
    place: np.ndarray
    box: np.ndarray
    score: float | None

    def point(self, frame: int) -> TrackPoint:
        """The same, in that frame, under the number that its track has now."""
        (x, y), box = self.place.tolist(), (self.box + np.tile(self.place, 2)).tolist()
        return TrackPoint(self.track.number, x, y, tuple(box), self.score, frame >= self.track.since)


@dataclass(frozen=True, eq=False)
class Step:
    """What became of the detections of a frame.

    frame:     its number, counted from 0
    owners:    of each detection, the thing that it belongs to; None: none
    sightings: of all that is followed
    """

    frame: int
    owners: list[Track | None]
    sightings: list[Sighting]

    def found(self, found: Found) -> Found:
        """The frame with what is a track by now and goes on in this frame, or in a later one."""
        going = [s for s in self.sightings if s.track.number and s.track.last >= self.frame]
        points = sorted((sighting.point(self.frame) for sighting in going), key=lambda point: point.track)
        numbers = [owner.number if owner else 0 for owner in self.owners]
        return replace(found, detections=found.detections.tracked(numbers), tracks=tuple(points))


class Tracker:
    """Follows what is detected from frame to frame; `step` takes the frames in turn.

    A frame costs time and memory by what is followed, which `settings.most` bounds.
    """

    def __init__(self, settings: TrackSettings | None = None):
        self.settings = settings or TrackSettings()
        self.tracks: list[Track] = []
        self.frame = self.confirmed = 0  # frames and tracks so far
        self.filters = Filters(self.settings.noise, self.settings.agility, self.settings.speed)
        self.trails = Trails()

    def step(self, detections: Detections, motion: Motion) -> Step:
        """Follow everything to the next frame.

        motion: how the ground moved since the frame before; that of the first frame does not matter
        """
        if not np.array_equal(motion.homography, STILL):
            self.trails.carry(motion.homography)
        self.filters.advance(motion.homography)
        self._keep(np.isfinite(self.filters.states).all(axis=1))  # none is beyond the horizon
        strongest, groups = merged(detections, self.settings.merge, self.settings.most)
        places = detections.centres[strongest]
        hits = self._take(self._assign(places), places)
        sightings = self._see(hits, places, detections.boxes[strongest], detections.scores[strongest])
        owners = [self.tracks[hits[group]] if group >= 0 else None for group in groups]
        self._confirm()
        self._keep(np.array([self._goes_on(track) for track in self.tracks], bool))
        self.frame += 1
        return Step(self.frame - 1, owners, sightings)

    def _assign(self, places: np.ndarray) -> np.ndarray:
        """For each place [N, 2] the row of its thing, int [N], -1: none; tracks choose before all others."""
        hits = np.full(len(places), -1)
        squared, widths = self.filters.distances(places)
        is_track = np.array([track.number > 0 for track in self.tracks], bool)
        for rows in (np.flatnonzero(is_track), np.flatnonzero(~is_track)):
            free = np.flatnonzero(hits < 0)
            near = squared[rows][:, free] <= self.settings.gate
            rows, free = rows[near.any(axis=1)], free[near.any(axis=0)]
            if len(rows):
                # A miss costs as much as a hit on the border of the gate.
                off = squared[rows][:, free]
                chosen_rows, chosen = linear_sum_assignment(
                    np.minimum(off, self.settings.gate) + widths[rows, None]
                )
                is_near = off[chosen_rows, chosen] <= self.settings.gate
                hits[free[chosen[is_near]]] = rows[chosen_rows[is_near]]
        return hits

    def _take(self, hits: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Move what is hit to its places [N, 2], and begin with what belongs to nothing.

        hits: as from `_assign`
        Returns the row of the thing of each place.
        """
        old = hits >= 0
        self._fill_gaps(hits[old], places[old])
        self.filters.update(hits[old], places[old])
        count = len(self.tracks) + np.count_nonzero(~old)
        hits = np.where(old, hits, len(self.tracks) + np.cumsum(~old) - 1)
        self.filters.add(places[~old])
        self.trails.add(hits, places, count, self.frame)
        for _ in range(count - len(self.tracks)):
            self.tracks.append(Track(deque(maxlen=self.settings.frames)))
        return hits

    def _fill_gaps(self, rows: np.ndarray, places: np.ndarray) -> None:
        """Draw the line from the last hit to this one: the error now has grown evenly since then."""
        errors = places - self.filters.places[rows]
        for track, error in zip([self.tracks[row] for row in rows], errors, strict=True):
            for number, sighting in enumerate(track.gap, 1):
                sighting.place += error * number / (len(track.gap) + 1)
            track.gap = []

    def _see(
        self, hits: np.ndarray, places: np.ndarray, boxes: np.ndarray, scores: np.ndarray
    ) -> list[Sighting]:
        """Where everything is: at its place [N, 2], or else where it is expected."""
        taken = dict(zip(hits.tolist(), range(len(hits)), strict=True))
        expected, boxes, scores = self.filters.places.copy(), boxes - np.tile(places, 2), scores.tolist()
        sightings = []
        for row, track in enumerate(self.tracks):
            place = taken.get(row)
            track.seen.append(place is not None)
            if place is None:
                sighting = Sighting(track, expected[row], track.box, None)
                track.gap.append(sighting)
            else:
                track.last, track.box = self.frame, boxes[place]
                sighting = Sighting(track, places[place], track.box, scores[place])
            sightings.append(sighting)
        return sightings

    def _confirm(self) -> None:
        """Give numbers to the things that are tracks now, in the order in which they began."""
        s = self.settings
        ready = [
            row
            for row, track in enumerate(self.tracks)
            if not track.number and track.last == self.frame and sum(track.seen) >= s.hits
        ]
        if ready:
            moves = self.trails.move(ready, s.motion, s.certainty)
            moves &= ~self.trails.stay(ready, s.motion, s.certainty, s.fixed)
            for row in np.array(ready)[moves]:
                self.confirmed += 1
                self.tracks[row].number, self.tracks[row].since = self.confirmed, self.frame

    def _goes_on(self, track: Track) -> bool:
        """Whether a thing is followed to the next frame; what is no track, as long as it may become one."""
        if track.number:
            return self.frame - track.last < self.settings.misses
        return track.seen.count(False) <= self.settings.frames - self.settings.hits

    def _keep(self, chosen: np.ndarray) -> None:
        if not chosen.all():
            self.filters.keep(chosen)
            self.trails.keep(chosen)
            self.tracks = [track for track, stays in zip(self.tracks, chosen, strict=True) if stays]


def merged(detections: Detections, distance: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(the strongest detections [M], for each of the N detections its place among them, -1: none).

    From the strongest one on, each takes what lies within the distance and is not taken yet.
    """
    centres, strongest = detections.centres, []
    groups = np.full(len(centres), -1)
    tree = cKDTree(centres) if len(centres) else None
    for place in np.argsort(-detections.scores, kind="stable").tolist():
        if groups[place] < 0:
            if len(strongest) == most:
                break
            near = np.array(tree.query_ball_point(centres[place], distance))
            groups[near[groups[near] < 0]] = len(strongest)
            strongest.append(place)
    return np.array(strongest, int), groups


def link(found: Iterable[Found], settings: TrackSettings | None = None) -> Iterator[Found]:
    """The same frames with their tracks, and with the numbers of the tracks at their detections.

    Each frame is held back for `settings.lag` frames: a track that is confirmed meanwhile has it too, and one
    that was not hit in it but later goes on through it. A frame without detections, such as one that cannot
    be read, is one without a hit.
    """
    tracker = Tracker(settings)
    held: deque[tuple[Found, Step]] = deque()
    for one in found:
        held.append((one, tracker.step(one.detections, one.motion)))
        if len(held) > tracker.settings.lag:
            first, step = held.popleft()
            yield step.found(first)
    for first, step in held:
        yield step.found(first)
