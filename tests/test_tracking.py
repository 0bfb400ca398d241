"""Tracks of things whose paths, and whose camera, are known."""

import warnings

import numpy as np
import pytest

from utils.boxes import MapPrediction
from utils.detections import Detections, Found
from utils.errors import UserError
from utils.kalman import Filters, carried
from utils.motion import Motion, chained, moved
from utils.recipe.fields import settings_of
from utils.tracking import Tracker, TrackSettings, link, merged
from utils.trails import LENGTH, moves

SIZE = 256
MIDDLE = np.array([[1, 0, SIZE / 2], [0, 1, SIZE / 2], [0, 0, 1]])


def about_the_middle(matrix):
    return MIDDLE @ matrix @ np.linalg.inv(MIDDLE)


def turn(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


CAMERAS = {  # from one frame to the next
    "still": np.eye(3),
    "pan": np.array([[1, 0, 2.5], [0, 1, -1.2], [0, 0, 1]]),
    "turn": about_the_middle(turn(1.5)),
    "zoom": about_the_middle(np.diag([1.015, 1.015, 1])),
    "perspective": about_the_middle(np.array([[1, 0.004, 1], [-0.003, 1.004, -0.5], [1e-5, -6e-5, 1]])),
}


def detected(places, scores=None):
    """Detections at places [N, 2], in the order of their scores, with boxes of 3x3 pixels."""
    places = np.asarray(places, np.float64).reshape(-1, 2)
    scores = np.full(len(places), 0.9) if scores is None else np.asarray(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    places, scores = places[order], scores[order]
    boxes = np.concatenate([places - 1, places + 2], axis=1)
    return Detections(places, boxes, scores, np.zeros(len(scores), np.int64))


def video(frames, camera=CAMERAS["still"]):
    """Frames whose places [N, 2] are those of detections, seen by a camera that moves evenly."""
    return [
        Found(number, Motion(camera if number else np.eye(3), measured=True), detected(places))
        for number, places in enumerate(frames)
    ]


def seen_by(camera, ground):
    """Where points of the ground of frame 0 [T, 2] are in frames 0, 1, ... of a camera."""
    return np.array(
        [moved(point[None], chained([camera] * number))[0] for number, point in enumerate(ground)]
    )


def line(start, step, count):
    return np.array(start) + np.arange(count)[:, None] * np.array(step)


def tracks_of(found):
    """{track: {frame: point}} of linked frames."""
    tracks = {}
    for one in found:
        for point in one.tracks:
            tracks.setdefault(point.track, {})[one.frame] = point
    return tracks


def followed(places, camera=CAMERAS["still"], **settings):
    return tracks_of(link(video(places, camera), TrackSettings(**settings)))


def places_of(track):
    return np.array([(point.x, point.y) for _, point in sorted(track.items())])


# ---------------------------------------------------------------- what becomes a track


@pytest.mark.parametrize("name", CAMERAS)
def test_what_moves_against_the_ground_is_the_only_track(name):
    """Neither things that stand in the scene nor hot pixels are, which move where the camera moves."""
    camera, count = CAMERAS[name], 40
    random = np.random.default_rng(3)
    target = seen_by(camera, line((100, 90), (0.9, 0.7), count))
    scene = [seen_by(camera, np.tile(point, (count, 1))) for point in random.uniform(20, 230, (8, 2))]
    hot = [np.tile(point, (count, 1)) for point in ((40.0, 200.0), (210.0, 60.0))]
    noise = [path + random.normal(0, 0.25, path.shape) for path in scene]
    tracks = followed(np.stack([target, *noise, *hot], axis=1), camera)
    assert list(tracks) == [1] and list(tracks[1]) == list(range(count))
    assert np.array_equal(places_of(tracks[1]), target)
    assert all(point.score == 0.9 for point in tracks[1].values())


def test_detections_bear_the_number_of_their_track():
    target = line((20, 20), (2, 0), 12)
    frames = [[place, place + (0, 60)] for place in target]
    frames = [np.array([a, (200, 200), b]) for a, b in frames]
    found = list(link(video(frames)))
    assert all(sorted(one.detections.tracks.tolist()) == [0, 1, 2] for one in found)
    for one in found:
        for point in one.tracks:
            (place,) = one.detections.centres[one.detections.tracks == point.track]
            assert place.tolist() == [point.x, point.y]
            (box,) = one.detections.boxes[one.detections.tracks == point.track]
            assert box.tolist() == pytest.approx(list(point.box))


def test_hot_pixels_that_jitter_under_a_slow_pan_are_no_tracks():
    """The ground slides by 0.1 pixels a frame: that of a hot pixel has left it before one can be sure."""
    random = np.random.default_rng(0)
    camera = np.array([[1, 0, 0.1], [0, 1, 0.05], [0, 0, 1]])
    hot = np.array([73.0, 168.0]) + 0.5 * random.integers(0, 2, (60, 2)) * (random.random((60, 1)) < 0.2)
    assert followed(hot[:, None], camera) == {}


def test_a_target_that_the_camera_follows_is_a_track():
    """It stays within some pixels in the sensor, by which a hand or a gimbal is off."""
    random = np.random.default_rng(1)
    sensor = np.array([128.0, 128.0]) + random.normal(0, 1.5, (50, 2))
    tracks = followed(sensor[:, None], CAMERAS["pan"])
    assert list(tracks) == [1] and len(tracks[1]) > 45


def test_a_slow_target_becomes_a_track_later():
    random = np.random.default_rng(2)
    target = line((100, 100), (0.24, 0.1), 60) + random.normal(0, 0.3, (60, 2))
    (track,) = followed(target[:, None]).values()
    assert len(track) == 60  # the frames before are added
    since = next(frame for frame, point in track.items() if point.confirmed)
    assert 6 < since < 25
    assert [point.confirmed for point in track.values()] == [frame >= since for frame in range(60)]


def test_what_jitters_in_its_place_is_no_track():
    random = np.random.default_rng(4)
    places = random.uniform(20, 230, (30, 1, 2)) + random.normal(0, 0.8, (30, 200, 2))
    assert followed(places.transpose(1, 0, 2)) == {}


def test_five_hits_of_eight_frames_confirm():
    path, none = line((50, 50), (3, 0), 20), np.zeros((0, 2))
    often = [path[[t]] if t in (0, 2, 3, 5, 7) else none for t in range(20)]
    assert list(tracks_of(link(video(often)))[1]) == list(range(8))
    seldom = [path[[t]] if t in (0, 3, 6, 9, 12, 15) else none for t in range(20)]
    assert tracks_of(link(video(seldom))) == {}
    assert list(followed(seldom, hits=3, frames=9)) == [1]


def test_tracks_are_numbered_as_they_are_confirmed():
    early, late, slow = (
        line((20, 20), (2, 1), 40),
        line((20, 200), (2, -1), 40),
        line((200, 60), (0.1, 0), 40),
    )
    frames = [np.array([slow[t], early[t]] + [late[t]] * (t >= 5)) for t in range(40)]
    tracks = followed(frames)
    starts = {number: places_of(track)[0].tolist() for number, track in tracks.items()}
    assert starts == {1: [20, 20], 2: late[5].tolist(), 3: [200, 60]}


# ---------------------------------------------------------------- association


def test_targets_that_cross_keep_their_numbers():
    first, second = line((40, 100), (2.5, 0.3), 60), line((40 + 59 * 2.5, 112), (-2.5, -0.4), 60)
    frames = [np.array([a, b]) for a, b in zip(first, second, strict=True)]
    tracks = followed(frames, merge=0.5)
    assert list(tracks) == [1, 2]
    ends = sorted((places_of(track)[0].tolist(), places_of(track)[-1].tolist()) for track in tracks.values())
    assert ends[0] == (first[0].tolist(), first[-1].tolist())
    assert ends[1] == (second[0].tolist(), second[-1].tolist())


def test_targets_that_are_one_detection_where_they_cross_keep_their_numbers():
    first, second = line((40, 100), (2, 1), 60), line((40, 160), (2, -1), 60)
    frames = [np.array([a, b]) for a, b in zip(first, second, strict=True)]
    tracks = followed(frames)  # within 4 pixels they are merged, for 4 frames
    ends = sorted((places_of(track)[0].tolist(), places_of(track)[-1].tolist()) for track in tracks.values())
    assert ends == [(first[0].tolist(), first[-1].tolist()), (second[0].tolist(), second[-1].tolist())]


def test_a_thing_is_not_moved_to_where_it_cannot_be_so_that_another_one_has_a_hit():
    tracker = Tracker(TrackSettings(merge=0.5, speed=0.01, agility=0.01))
    first, second = tracker.step(detected([(50, 50), (53.6, 50)]), Motion()).owners
    owners = tracker.step(detected([(50.1, 50), (46.5, 50)]), Motion()).owners
    assert owners[0] is first and owners[1] not in (first, second)


def test_near_detections_are_one_with_the_strongest():
    found = detected([(10, 10), (13, 10), (16.5, 10), (60, 60)], [0.7, 0.9, 0.6, 0.5])
    assert found.centres.tolist() == [[13, 10], [10, 10], [16.5, 10], [60, 60]]
    strongest, groups = merged(found, 4, 10)
    assert strongest.tolist() == [0, 3] and groups.tolist() == [0, 0, 0, 1]
    assert merged(found, 3.2, 10)[1].tolist() == [0, 0, 1, 2]
    between = detected([(0, 0), (3, 0), (6, 0)], [0.9, 0.5, 0.8])  # the middle one is near both others
    assert merged(between, 4, 10)[1].tolist() == [0, 1, 0]
    strongest, groups = merged(found, 4, 1)
    assert strongest.tolist() == [0] and groups.tolist() == [0, 0, 0, -1]
    frames = [
        Found(t, Motion(), detected([(10 + 2 * t, 10), (13 + 2 * t, 10)], [0.7, 0.9])) for t in range(10)
    ]
    for one in link(frames):
        assert one.detections.tracks.tolist() == [1, 1]
        assert [(point.x, point.score) for point in one.tracks] == [(13 + 2 * one.frame, 0.9)]


def test_among_random_false_detections_the_target_is_found():
    random = np.random.default_rng(5)
    target = seen_by(CAMERAS["turn"], line((90, 100), (0.6, 0.8), 120))
    kept = random.random(120) > 0.15
    frames = [
        np.concatenate(
            [target[[t]] + random.normal(0, 0.4, 2)] * int(kept[t]) + [random.uniform(0, SIZE, (15, 2))]
        )
        for t in range(120)
    ]
    tracks = followed(frames, CAMERAS["turn"])
    main = max(tracks.values(), key=len)
    near = [np.hypot(*(target[t] - (point.x, point.y))) < 3 for t, point in main.items()]
    assert sum(near) > 112 and len(tracks) <= 3


# ---------------------------------------------------------------- gaps


@pytest.mark.parametrize("name", CAMERAS)
def test_a_gap_is_bridged_along_the_path(name):
    target = seen_by(CAMERAS[name], line((100, 100), (1.5, -1), 40))
    gap = {12, 20, 21, 22, 23, 24}
    frames = [np.zeros((0, 2)) if t in gap else target[[t]] for t in range(40)]
    (track,) = followed(frames, CAMERAS[name]).values()
    assert [t for t, point in track.items() if point.score is None] == sorted(gap)
    assert np.abs(places_of(track) - target).max() < 0.1


def test_a_gap_in_which_the_target_turns_is_a_straight_line():
    path = np.concatenate([line((50, 50), (3, 0), 15), line((92, 53), (0, 3), 15)])
    frames = [np.zeros((0, 2)) if t in (15, 16) else path[[t]] for t in range(30)]
    (track,) = followed(frames, agility=1.5).values()
    expected = path[14] + (path[17] - path[14]) * np.array([[1 / 3], [2 / 3]])
    assert places_of(track)[15:17] == pytest.approx(expected)
    x, y = places_of(track)[15]
    assert track[15].box == pytest.approx((x - 1, y - 1, x + 2, y + 2))


def test_a_track_ends_with_its_last_hit_and_one_after_six_misses_is_new():
    path, none = line((30, 30), (2, 1), 60), np.zeros((0, 2))
    frames = [path[[t]] if t < 20 or 25 <= t < 40 or t >= 46 else none for t in range(60)]
    tracks = followed(frames)
    assert {n: (min(track), max(track), len(track)) for n, track in tracks.items()} == {
        1: (0, 39, 40),
        2: (46, 59, 14),
    }
    assert len(followed(frames, misses=7)) == 1


def test_a_frame_that_cannot_be_read_is_a_frame_without_hits():
    path = line((30, 30), (2, 1), 20)
    frames = video(path[:, None])
    frames[10] = Found(10, Motion(), Detections.of(None, 0.5), None)
    found = list(link(frames))
    assert [one.frame for one in found] == list(range(20)) and found[10].prediction is None
    (point,) = found[10].tracks
    assert point.score is None and (point.x, point.y) == pytest.approx((50, 40), abs=1e-3)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_short_videos_and_empty_ones(count):
    found = list(link(video([np.zeros((0, 2))] * count)))
    assert [one.tracks for one in found] == [()] * count
    assert [one.frame for one in link(video(line((9, 9), (1, 1), count)[:, None]))] == list(range(count))


# ---------------------------------------------------------------- delay


def first_output(lag):
    """How many frames go in before the first one comes out."""
    taken = []

    def source():
        for one in video(line((30, 30), (2, 1), 50)[:, None]):
            taken.append(one)
            yield one

    next(link(source(), TrackSettings(lag=lag)))
    return len(taken)


def test_as_many_frames_are_held_back_as_the_settings_say():
    assert [first_output(lag) for lag in (0, 1, 30)] == [1, 2, 31]


@pytest.mark.parametrize("lag", [0, 2, 30])
def test_a_track_has_the_frames_that_are_held_when_it_is_confirmed(lag):
    (track,) = followed(line((30, 30), (2, 1), 50)[:, None], lag=lag).values()
    assert list(track) == list(range(max(0, 4 - lag), 50))  # confirmed by the fifth hit, in frame 4
    assert [point.confirmed for point in track.values()] == [frame >= 4 for frame in track]


def test_live_frames_have_no_track_where_nothing_is_detected():
    path = line((30, 30), (2, 1), 30)
    frames = [np.zeros((0, 2)) if t == 20 else path[[t]] for t in range(30)]
    (track,) = followed(frames, lag=0).values()
    assert list(track) == [t for t in range(4, 30) if t != 20]


# ---------------------------------------------------------------- bounds


def test_a_bad_network_costs_no_more_than_the_detections_that_are_followed():
    random = np.random.default_rng(6)
    tracker, most = Tracker(TrackSettings(most=50)), 0
    for _ in range(60):
        found = detected(random.uniform(0, 640, (3000, 2)), random.random(3000))
        step = tracker.step(found, Motion(CAMERAS["pan"]))
        owners = {owner for owner in step.owners if owner}
        assert len(owners) == 50
        assert step.owners[0] is not None  # the strongest
        most = max(most, len(tracker.tracks))
    # What is no track has a hit in every other frame or is younger than 4; a track 6 frames at most without.
    assert most <= 50 * (4 + 2 + 6)
    sizes = {len(tracker.tracks), len(tracker.filters.states), len(tracker.trails.times)}
    assert len(sizes) == 1 and tracker.trails.times.shape[1] == LENGTH


def test_nothing_is_followed_beyond_the_horizon():
    tilt = np.array([[1, 0, 0], [0, 1, 0], [0, -0.004, 1]])
    path = line((100, 100), (1, 1), 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = [
            Found(t, Motion(tilt if t == 15 else np.eye(3)), detected([place, (30, 251), (9, 250)]))
            for t, place in enumerate(path)
        ]
        tracks = tracks_of(link(frames))
        tracker = Tracker()
        for one in frames[:15]:
            tracker.step(one.detections, one.motion)
        assert len(tracker.tracks) == 3
        tracker.step(detected([]), Motion(tilt))
    assert len(tracker.tracks) == 1
    assert np.isfinite(places_of(tracks[1])).all()


@pytest.mark.parametrize("scale", [-2.0, 1e-3])
def test_a_homography_has_no_scale(scale):
    camera = CAMERAS["perspective"]
    target = seen_by(camera, line((100, 90), (0.9, 0.7), 20))[:, None]
    plain, scaled = (followed(target, some) for some in (camera, scale * camera))
    assert list(plain) == list(scaled) == [1] and len(scaled[1]) == 20


def test_settings_that_confirm_nothing_are_refused():
    with pytest.raises(UserError, match="no track has 9 hits in 8 frames; give"):
        TrackSettings(hits=9)
    known = settings_of(TrackSettings)
    assert all(one.facts.text and one.facts.limits for one in known.values())
    with pytest.raises(UserError, match="option x takes a whole number"):
        known["lag"].checked(1.5, "option x")


# ---------------------------------------------------------------- the filter


def test_a_homography_carries_places_velocities_and_their_covariances():
    camera = CAMERAS["perspective"] @ about_the_middle(turn(40) @ np.diag([1.6, 1.6, 1]))
    filters = Filters(0.5, 1e-9, 2.0)
    filters.add(np.array([[80.0, 60.0]]))
    filters.states[0, 2:] = 1.5, -0.5
    together = np.array([[0.2, 0.1], [0.0, -0.3]])
    filters.covariances[0, :2, 2:], filters.covariances[0, 2:, :2] = together, together.T
    random = np.random.default_rng(0)
    samples = random.multivariate_normal(filters.states[0], filters.covariances[0] * 1e-6, 20_000)
    filters.advance(camera)
    places = samples[:, :2] + samples[:, 2:]
    ends = moved(places, camera)
    velocities = (moved(places + 1e-4 * samples[:, 2:], camera) - ends) / 1e-4
    after = np.concatenate([ends, velocities], axis=1)
    assert filters.states[0] == pytest.approx(after.mean(axis=0), abs=1e-3)
    assert filters.covariances[0] == pytest.approx(np.cov(after.T) * 1e6, rel=0.05, abs=0.12)


def test_the_derivatives_of_a_homography():
    camera, step = CAMERAS["perspective"], 1e-5
    places = np.array([[10.0, 20.0], [200.0, 150.0]])
    found, slopes = carried(places, camera)
    assert found == pytest.approx(moved(places, camera))
    for axis in (0, 1):
        shift = step * np.eye(2)[axis]
        assert slopes[:, :, axis] == pytest.approx((moved(places + shift, camera) - found) / step, abs=1e-4)


def test_a_filter_weighs_what_it_expects_and_what_it_measures():
    """By hand: variances 4 + 1 (place + noise), so the gain is 4/5."""
    filters = Filters(1.0, 1.0, 1.0)
    filters.add(np.array([[10.0, 10.0], [50.0, 50.0]]))
    filters.covariances[0] = np.diag([4.0, 4.0, 1.0, 1.0])
    squared, widths = filters.distances(np.array([[15.0, 10.0]]))
    assert squared[0, 0] == pytest.approx(25 / 5) and widths[0] == pytest.approx(np.log(25))
    filters.update(np.array([0]), np.array([[15.0, 10.0]]))
    assert filters.places.tolist() == [[14, 10], [50, 50]]
    assert np.diag(filters.covariances[0]).tolist() == pytest.approx([0.8, 0.8, 1, 1])


def test_the_motion_of_places_is_that_of_their_line():
    times = np.array([0.0, 1, 2, 4, 5])
    places = np.stack([0.5 * times, np.zeros(5)], axis=1)  # 2.5 pixels
    assert moves(times, places, 2.5, 4) and not moves(times, places, 2.6, 4)
    assert not moves(times[:2], 10 * places[:2], 1, 0)  # nothing scatters about a line through two
    places[:, 1] = 0.5, -0.5, 0.5, -0.5, 0.5
    assert moves(times, places, 2.4, 2) and not moves(times, places, 2.4, 8)


def test_tracks_of_a_map():
    """From the map of a network to tracks, by the way that commands go."""

    def frame(t):
        probability = np.zeros((40, 60), np.float32)
        probability[10:12, 5 + 2 * t : 7 + 2 * t] = 0.8
        prediction = MapPrediction(probability, 0.5)
        return Found(t, Motion(), Detections.of(prediction, 0.5), prediction)

    (track,) = tracks_of(link(frame(t) for t in range(15))).values()
    assert places_of(track).tolist() == [[5.5 + 2 * t, 10.5] for t in range(15)]
    assert track[3].box == (11, 10, 13, 12)
