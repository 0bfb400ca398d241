"""How good tracks are: HOTA, IDF1 and MOTA by the package trackeval, and what a user of alarms asks for."""

import contextlib
import copy
import io
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from metrics.counting import CountingMetric, Figure, as_array, ratio
from metrics.pd_fa import MAX_DISTANCE
from utils.errors import UserError
from utils.registry import register_metric

HALF = 0.5  # the similarity from which a point is on a target
ALPHAS = 19  # similarities 0.05, 0.1, ... 0.95, over which HOTA is a mean


@register_metric("Tracks")
class Tracks(CountingMetric):
    """Tracks against targets with identities. The frames of a sequence come in order; `merge` adds others.

    The similarity of a track's point and a target is max(0, 1 - distance / reach). With a reach of 6 pixels
    it is 0.5 at 3 pixels, the distance of the rules for Pd: there IDF1 and MOTA are counted, and a point is
    on a target within it. HOTA is the mean over similarities of 0.05 to 0.95, that is 5.7 to 0.3 pixels.

    A false track is on targets in no more than half of its points, those of gaps included. A target's right
    track is the one that is on it in most frames.

    reach:             in pixels, where the similarity becomes 0
    frames_per_second: what a minute is
    """

    takes = "tracks"
    truth = "identities"
    figures = (
        Figure("hota", "HOTA %", 100, ".2f"),
        Figure("idf1", "IDF1 %", 100, ".2f"),
        Figure("mota", "MOTA %", 100, ".2f"),
        Figure("track_error", "track error px", 1, ".2f", better="lower"),
        Figure("on_track", "on right track %", 100, ".2f"),
        Figure("false_tracks_per_minute", "false tracks/min", 1, ".2f", better="lower"),
        Figure("confirmed_after", "confirmed after frames", 1, ".1f", better="lower"),
    )

    def __init__(self, reach: float = 2 * MAX_DISTANCE, frames_per_second: float = 25.0):
        super().__init__(reach=reach, frames_per_second=frames_per_second)

    def zero_counts(self) -> dict[str, Any]:
        sums = ("ass_sum", "hota_true", "hota_missed", "hota_false")
        whole = ("id_true", "id_missed", "id_false", "true", "missed", "false", "switches", "similarity")
        own = (
            "frames",
            "tracks",
            "false_tracks",
            "targets",
            "confirmed",
            "delay",
            "on_track",
            "target_frames",
        )
        return {**{name: np.zeros(ALPHAS) for name in sums}, **dict.fromkeys((*whole, *own), 0)}

    def require(self) -> None:
        """Raises UserError where the package trackeval is not installed."""
        require_trackeval()

    def reset(self) -> None:
        """Forget every frame."""
        super().reset()
        self.sequence: list[tuple[np.ndarray, np.ndarray]] = []  # that goes on
        self.whole: Tracks | None = None

    def update(self, points: Sequence[Any], targets: Any) -> None:
        """Count one frame, the next one of its sequence.

        points:  of the tracks, utils.detections.TrackPoint
        targets: row, column and identity of each target [N, 3]
        """
        tracks = np.array([(p.y, p.x, p.track, p.confirmed) for p in points], np.float64).reshape(-1, 4)
        self.sequence.append((tracks, as_array(targets).astype(np.float64).reshape(-1, 3)))
        self.whole = None

    def merge(self, other: CountingMetric) -> None:
        """Add the sequences of another metric. Raises ValueError for another metric or other options."""
        super().merge(other.finished() if type(other) is type(self) else other)
        self.whole = None

    def finished(self) -> "Tracks":
        """The same counts, in which those of the sequence that goes on are taken in.

        Raises UserError where the package that counts tracks is not installed.
        """
        if self.whole is None:
            self.whole = copy.copy(self)
            self.whole.sequence = []
            self.whole.counts = dict(self.counts)
            if self.sequence:
                found = self._count()
                self.whole.counts = {name: count + found[name] for name, count in self.counts.items()}
        return self.whole

    def compute(self) -> dict[str, Any]:
        """The figures of all sequences so far; nan where there was nothing to count.

        hota, idf1, mota: as fractions
        track_error:      mean distance of the points on a target, in pixels
        on_track:         of the frames of all targets, the part in which they are on their right track
        false_tracks_per_minute: false tracks a minute of video
        confirmed_after:  mean number of frames from the first one of a target to the first one in which a
                          track on it is confirmed, of those targets for which there is one
        Also the numbers of targets, of those confirmed, of tracks and of false_tracks.
        """
        n = self.finished().counts
        accuracy = n["hota_true"] / np.maximum(1, n["hota_true"] + n["hota_missed"] + n["hota_false"])
        association = n["ass_sum"] / np.maximum(1, n["hota_true"])
        minutes = n["frames"] / (60 * self.options["frames_per_second"])
        counted = bool(n["target_frames"] or n["tracks"])
        return {
            "hota": float(np.sqrt(accuracy * association).mean()) if counted else np.nan,
            "idf1": ratio(2 * n["id_true"], 2 * n["id_true"] + n["id_missed"] + n["id_false"]),
            "mota": ratio(n["true"] - n["false"] - n["switches"], n["true"] + n["missed"]),
            "track_error": (1 - ratio(n["similarity"], n["true"])) * self.options["reach"],
            "on_track": ratio(n["on_track"], n["target_frames"]),
            "false_tracks_per_minute": ratio(n["false_tracks"], minutes),
            "confirmed_after": ratio(n["delay"], n["confirmed"]),
            "targets": n["targets"],
            "confirmed": n["confirmed"],
            "tracks": n["tracks"],
            "false_tracks": n["false_tracks"],
        }

    def description(self, threshold: float) -> str:
        """The options by which it counts, in words."""
        return f"reach={self.options['reach']:g} at {self.options['frames_per_second']:g} frames/s"

    def _count(self) -> dict[str, Any]:
        """The counts of the sequence that goes on."""
        near = [
            np.maximum(
                0, 1 - np.linalg.norm(targets[:, None, :2] - tracks[:, :2], axis=2) / self.options["reach"]
            )
            for tracks, targets in self.sequence
        ]
        return {**count_standard(self.sequence, near), **count_own(self.sequence, near)}


Frames = list[tuple[np.ndarray, np.ndarray]]  # tracks [M, 4] and targets [N, 3] of each frame


def count_standard(frames: Frames, near: list[np.ndarray]) -> dict[str, Any]:
    """What HOTA, IDF1 and MOTA are made of; near: similarities [N, M] of each frame."""
    trackeval = require_trackeval()
    tracks, track_ids = places([tracks[:, 2] for tracks, _ in frames])
    targets, target_ids = places([targets[:, 2] for _, targets in frames])
    data = {
        "num_timesteps": len(frames),
        "num_tracker_dets": sum(map(len, track_ids)),
        "num_gt_dets": sum(map(len, target_ids)),
        "num_tracker_ids": tracks,
        "num_gt_ids": targets,
        "tracker_ids": track_ids,
        "gt_ids": target_ids,
        "similarity_scores": near,
    }
    options = {"THRESHOLD": HALF, "PRINT_CONFIG": False}
    hota = trackeval.metrics.HOTA().eval_sequence(data)
    identity = trackeval.metrics.Identity(options).eval_sequence(data)
    clear = trackeval.metrics.CLEAR(options).eval_sequence(data)
    return {
        "ass_sum": hota["AssA"] * hota["HOTA_TP"],
        "hota_true": hota["HOTA_TP"],
        "hota_missed": hota["HOTA_FN"],
        "hota_false": hota["HOTA_FP"],
        "id_true": int(identity["IDTP"]),
        "id_missed": int(identity["IDFN"]),
        "id_false": int(identity["IDFP"]),
        "true": int(clear["CLR_TP"]),
        "missed": int(clear["CLR_FN"]),
        "false": int(clear["CLR_FP"]),
        "switches": int(clear["IDSW"]),
        "similarity": float(clear["MOTP_sum"]),
    }


def count_own(frames: Frames, near: list[np.ndarray]) -> dict[str, Any]:
    """What the other figures are made of; near: as of `count_standard`."""
    tracks, track_ids = places([tracks[:, 2] for tracks, _ in frames])
    targets, target_ids = places([targets[:, 2] for _, targets in frames])
    together = np.zeros((targets, tracks), int)  # frames in which a track is on a target
    points, true_points, present = np.zeros(tracks, int), np.zeros(tracks, int), np.zeros(targets, int)
    first, confirmed = np.full(targets, -1), np.full(targets, -1)  # frames
    for number, ((found, _), rows, columns, similar) in enumerate(
        zip(frames, target_ids, track_ids, near, strict=True)
    ):
        is_on = similar >= HALF
        together[np.ix_(rows, columns)] += is_on
        points[columns] += 1
        true_points[columns] += is_on.any(axis=0)
        present[rows] += 1
        first[rows[first[rows] < 0]] = number
        told = rows[(is_on & (found[:, 3] > 0)).any(axis=1)]
        confirmed[told[confirmed[told] < 0]] = number
    is_confirmed = confirmed >= 0
    return {
        "frames": len(frames),
        "tracks": tracks,
        "false_tracks": int((2 * true_points <= points).sum()),
        "targets": targets,
        "confirmed": int(is_confirmed.sum()),
        "delay": int((confirmed - first)[is_confirmed].sum()),
        "on_track": int(together.max(axis=1, initial=0).sum()),
        "target_frames": int(present.sum()),
    }


def places(numbers: list[np.ndarray]) -> tuple[int, list[np.ndarray]]:
    """(how many different numbers there are, for each list the places of its numbers among them)."""
    known = np.unique(np.concatenate(numbers))
    return len(known), [np.searchsorted(known, some) for some in numbers]


@cache
def require_trackeval() -> ModuleType:
    """The package trackeval. Raises UserError where it is not installed."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which of its data sets it cannot read
            import trackeval
    except ImportError as error:
        raise UserError(
            f"tracks are scored by the package trackeval, which cannot be imported ({error}); install it by "
            "pip install --no-deps trackeval, or leave --tracks out"
        ) from None
    return trackeval
