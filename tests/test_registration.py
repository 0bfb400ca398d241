"""Registration against videos whose homographies are known exactly, and defects of the sensor."""

import numpy as np
import pytest
from moving import Camera, Target, moving_video

from utils.defects import DefectFinder, repaired
from utils.motion import moved
from utils.registration import (
    MODES,
    Registrar,
    enlarged,
    footprint,
    is_plausible,
    largest_shift,
    likeness,
    positions,
    warped,
)

CAMERAS = {
    "pan": Camera((2.3, -1.2)),
    "slow pan": Camera((0.15, 0.05)),
    "rotation": Camera(turn=0.4),
    "zoom": Camera(zoom=1.006),
    "tilt": Camera((0.5, 0.0), tilt=(4e-5, -3e-5)),
    "all": Camera((1.3, -0.25), 0.15, 1.002, (4e-6, -2e-6), 0.3),
    "shake": Camera(jitter=2.0),
    "fast pan": Camera((9.0, 0.0)),
}


def errors(video, motions, lag: int) -> np.ndarray:
    """Root mean square, over the picture, of how far the measured homography from each frame to the one `lag`
    later takes a point from where it belongs."""
    height, width = video.frames.shape[1:]
    across, down = np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9))
    points = np.stack([across.ravel(), down.ravel()], axis=1)
    found, true = positions(motions), positions(video.motions)
    misses = [
        moved(points, found[i + lag] @ np.linalg.inv(found[i]))
        - moved(points, true[i + lag] @ np.linalg.inv(true[i]))
        for i in range(len(found) - lag)
    ]
    return np.sqrt(np.mean(np.square(misses), axis=(1, 2)))


@pytest.mark.parametrize("name", CAMERAS)
def test_the_homographies_of_a_moving_camera_are_found(name):
    video = moving_video(30, (128, 160), CAMERAS[name], seed=3)
    registrar = Registrar()
    motions = [registrar(frame) for frame in video.frames]
    assert np.median(errors(video, motions, 8)) < 0.2 and errors(video, motions, 8).max() < 0.5
    assert errors(video, motions, 29)[0] < 2  # over the whole video, and ten anchors of the fast pan
    found = [motion for motion in motions[1:] if motion.measured]
    assert len(found) > 20 and all(motion.residual < 0.9 * motion.still for motion in found)


def test_a_camera_that_stands_still_has_no_motion():
    video = moving_video(80, (96, 128), Camera(), seed=1)
    registrar = Registrar()
    motions = [registrar(frame) for frame in video.frames]
    assert not any(motion.measured for motion in motions)
    assert all(np.array_equal(motion.homography, np.eye(3)) for motion in motions)


def test_a_nearer_plane_does_not_mislead_it():
    video = moving_video(24, (128, 160), Camera((1.5, 0.0)), parallax=2.0, seed=2)
    registrar = Registrar()
    motions = [registrar(frame) for frame in video.frames]
    errors = [np.abs(m.homography[:2, 2] - [1.5, 0]).max() for m in motions[1:]]
    assert np.median(errors) < 1.6  # one of the planes, or between them


def test_frames_without_any_structure_have_no_motion_and_raise_nothing():
    registrar = Registrar()
    for level in (0, 0, 128, 255):
        motion = registrar(np.full((64, 80), level, np.uint8))
        assert not motion.measured and np.array_equal(motion.homography, np.eye(3))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (16, 16), (63, 65), (129, 1281)])
def test_frames_of_any_size_are_taken(size):
    registrar = Registrar()
    noise = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    for shift in range(4):
        motion = registrar(np.roll(noise, shift, 1))
        assert np.isfinite(motion.homography).all()


def test_sixteen_bit_frames_move_as_those_of_eight_bit_do():
    cameras = {"size": (96, 128), "camera": CAMERAS["pan"], "seed": 5}
    for sixteen_bit in (False, True):
        video = moving_video(12, sixteen_bit=sixteen_bit, **cameras)
        registrar = Registrar()
        assert errors(video, [registrar(frame) for frame in video.frames], 4).max() < 0.3


def test_registration_never_writes_into_the_frames():
    video = moving_video(6, (128, 128), CAMERAS["pan"], seed=5)
    before, registrar = video.frames.copy(), Registrar()
    for frame in video.frames:
        registrar(frame)
    assert np.array_equal(video.frames, before)


def test_what_is_always_registered_follows_a_drift_that_is_not_believed():
    video = moving_video(10, (96, 128), Camera((0.02, 0.0)), noise=6, seed=1)
    believed, always = Registrar(), Registrar(MODES["on"])
    assert not any(believed(frame).measured for frame in video.frames)
    assert any(always(frame).measured for frame in video.frames)


def test_another_size_starts_anew():
    registrar = Registrar()
    video = moving_video(4, (96, 128), CAMERAS["pan"], seed=5)
    for frame in (*video.frames, *video.frames[:, :64, :64]):
        motion = registrar(frame)
    assert motion.measured


# ---------------------------------------------------------------- another scene


def scene(name: str, seed: int, count: int = 20, **more) -> np.ndarray:
    camera = Camera() if name == "still" else CAMERAS[name]
    return moving_video(count, (128, 160), camera, seed=seed, **more).frames


def motions_of(frames, mode: str = "auto") -> list:
    registrar = Registrar(MODES[mode])
    return [registrar(frame) for frame in frames]


def cuts_of(frames, mode: str = "auto") -> list[int]:
    return [number for number, motion in enumerate(motions_of(frames, mode)) if motion.is_cut]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("after", ["still", "pan", "fast pan", "shake"])
@pytest.mark.parametrize("before", ["still", "pan", "fast pan", "shake"])
def test_a_cut_is_noticed_and_has_no_motion(before, after, mode):
    frames = np.concatenate([scene(before, 1), scene(after, 2)])
    motions = motions_of(frames, mode)
    assert [number for number, motion in enumerate(motions) if motion.is_cut] == [20]
    cut = motions[20]
    assert not cut.measured and np.array_equal(cut.homography, np.eye(3)) and cut.residual == cut.still > 10
    alone = motions_of(frames[20:], mode)  # nothing of the scene before is left
    for found, expected in zip(motions[21:], alone[1:], strict=True):
        assert np.array_equal(found.homography, expected.homography)


@pytest.mark.parametrize("name", CAMERAS)
def test_a_moving_camera_makes_no_cuts(name):
    for noise in (0, 1.5, 8):
        assert cuts_of(scene(name, 4, 30, noise=noise)) == []


def test_neither_flashes_nor_gain_nor_noise_nor_stops_are_cuts():
    still, stop = scene("still", 1, 30).astype(np.float32), scene("pan", 1, 30)
    flash, gain = still.copy(), still.copy()
    flash[15] += 60
    gain[15:] = 1.6 * gain[15:] - 40
    stop[12:20] = stop[12]  # frames that are repeated
    for frames in (flash, gain, stop):
        assert cuts_of(frames) == []
    draw = np.random.default_rng(0)
    assert cuts_of(120 + 3 * draw.standard_normal((40, 96, 128))) == []  # the clear sky
    assert cuts_of(np.zeros((20, 96, 128), np.uint8)) == []


def test_a_closed_shutter_is_a_scene_of_its_own():
    frames = scene("still", 1, 40)
    frames[20:24] = 128 + np.random.default_rng(0).integers(-2, 3, frames[20:24].shape)
    assert cuts_of(frames) == [20, 24]


def test_text_over_the_picture_does_not_hide_a_cut():
    frames = np.concatenate([scene("pan", 1), scene("pan", 2)])
    frames[:, 4:9, 4:60:3] = 255
    frames[:, 110:116, 60:90:4] = 0
    assert cuts_of(frames) == [20]


@pytest.mark.parametrize(("speed", "step"), [(1.0, 5), (2.0, 3), (2.0, 5), (3.0, 5)])
def test_a_pan_that_text_over_the_picture_hides_is_no_cut(speed, step):
    """The text stands still, and so registration follows the pan late or never."""
    frames = moving_video(30, (128, 160), Camera((speed, 0.3)), seed=1).frames.astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 1, (12, *frames.shape[1:]))
    frames = np.concatenate([frames[:1] + noise, frames])
    frames[:, 4:40:step, 4:150:step] = 255
    frames[:, 4:40:step, 5:150:step] = 0
    assert cuts_of(frames) == []


def test_a_scene_of_more_noise_than_the_one_before_is_one_scene():
    draw = np.random.default_rng(0)
    noisy = 120 + 20 * draw.standard_normal((20, 128, 160))
    assert cuts_of(np.concatenate([scene("still", 1), noisy])) == [20]


def test_the_likeness_of_two_frames_is_of_their_detail():
    first, second = (scene("still", seed, 1, noise=0)[0].astype(np.float32) for seed in (1, 2))
    seen = np.ones(first.shape, np.uint8)
    ramp = np.linspace(0, 100, 160, dtype=np.float32)
    assert likeness(first, 0.5 * first + 30, seen) == pytest.approx(1, abs=0.01)
    assert likeness(first, -first, seen) == pytest.approx(-1, abs=0.01)
    assert abs(likeness(first + ramp, second + ramp, seen)) < 0.25
    assert likeness(first, first, np.zeros_like(seen)) == 0
    half = np.where(np.arange(160) < 80, first, second)
    seen[:, 72:] = 0
    assert likeness(first, half, seen) > 0.99


def test_which_homographies_may_lie_between_two_frames():
    shift = np.array([[1, 0, 900.0], [0, 1, 0], [0, 0, 1]])
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    folded = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    for homography, expected in (
        (np.eye(3), True),
        (shift, True),
        (turn, True),
        (np.diag([1.9, 1.9, 1]), True),
        (np.diag([2.1, 2.1, 1]), False),
        (np.diag([0.55, 0.55, 1]), True),
        (np.diag([0.45, 0.45, 1]), False),
        (np.diag([-1.0, 1, 1]), False),
        (folded, False),
        (np.full((3, 3), np.nan), False),
    ):
        assert is_plausible(homography, (128, 160)) == expected


# ---------------------------------------------------------------- what is not the background


@pytest.mark.parametrize("noise", [0.5, 2])
@pytest.mark.parametrize("mode", MODES)
def test_a_large_target_before_a_faint_sky_is_not_followed(noise, mode):
    sky = moving_video(20, (192, 256), Camera(), noise=0, seed=1).frames.astype(np.float32)
    sky = 128 + 0.1 * (sky - 100) + noise * np.random.default_rng(0).standard_normal(sky.shape)
    for number, frame in enumerate(sky):
        row, col = 90 + number, 40 + 3 * number
        frame[row : row + 14, col : col + 18] -= 60
    moves = [largest_shift(motion.homography, sky.shape[1:]) for motion in motions_of(sky, mode)]
    assert max(moves) < (1e-9 if mode == "auto" else 1)


def test_a_bright_target_before_a_standing_camera_is_not_followed():
    target = Target((60, 50), (0.6, 0.4), 110, 1.2)
    for noise in (0.5, 2):
        for seed in range(2):
            video = moving_video(30, (96, 128), Camera(), [target], noise=noise, seed=seed)
            assert not any(motion.measured for motion in motions_of(video.frames))


# ---------------------------------------------------------------- parts


def test_a_homography_of_half_frames_is_one_of_the_frames():
    shift = np.array([[1, 0, 2], [0, 1, -1], [0, 0, 1.0]])
    assert np.allclose(enlarged(shift, 2), [[1, 0, 4], [0, 1, -2], [0, 0, 1]])
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])  # about the middle of the first half pixel
    assert np.allclose(moved([[0.5, 0.5]], enlarged(turn, 2)), [[0.5, 0.5]])


def test_warping_and_what_is_seen_agree():
    frame = np.arange(12 * 16, dtype=np.float32).reshape(12, 16)
    shift = np.array([[1, 0, 3], [0, 1, -2], [0, 0, 1.0]])
    out, seen = warped(frame, shift), footprint(shift, frame.shape)
    assert np.array_equal(seen, np.pad(np.ones((10, 13), np.uint8), ((2, 0), (0, 3))))
    assert np.array_equal(out[2:, :13], frame[:10, 3:])
    box = np.s_[4:9, 2:11]
    assert np.array_equal(warped(frame, shift, box), out[box])
    assert np.array_equal(footprint(np.eye(3), (5, 6), 1), np.pad(np.ones((3, 4), np.uint8), 1))
    assert largest_shift(shift, frame.shape) == 3


def test_hot_pixels_are_found_where_the_camera_moved():
    video = moving_video(40, (96, 128), CAMERAS["pan"], hot_pixels=12, seed=4)
    finder = DefectFinder()
    for frame in video.frames[:7]:
        finder.add(frame.astype(np.float32))
    assert finder.defects is None  # too few views
    for frame in video.frames[7:]:
        finder.add(frame.astype(np.float32))
    found, true = set(zip(*finder.defects, strict=True)), set(map(tuple, video.hot_pixels))
    assert true <= found and len(found) <= len(true) + 3
    clean = moving_video(40, (96, 128), CAMERAS["pan"], seed=4)
    error = np.abs(
        repaired(video.frames[9].astype(np.float32), finder.defects).astype(float) - clean.frames[9]
    )
    assert error[tuple(video.hot_pixels.T)].max() < 15  # they were 15 to 60 too bright


def test_a_line_at_the_border_is_a_defect_and_a_line_within_the_scene_is_none():
    video = moving_video(20, (64, 80), CAMERAS["pan"], seed=4)
    frames = video.frames.astype(np.float32)
    frames[:, :, 0] = 250
    frames[:, 30] = 250  # such as a horizon along which the camera pans
    finder = DefectFinder()
    for frame in frames:
        finder.add(frame)
    rows, cols = finder.defects
    assert set(rows[cols == 0]) >= set(range(64)) - {29, 30, 31} and 30 not in rows[(cols > 1) & (cols < 79)]


def test_the_median_of_mirrored_surroundings_replaces_a_defect_at_the_corner():
    frame = np.arange(30, dtype=np.float32).reshape(5, 6)
    frame[0, 0] = 999
    around = np.pad(frame, 2, mode="reflect")[:5, :5]
    assert repaired(frame, (np.array([0]), np.array([0])))[0, 0] == np.median(around)
    assert repaired(frame, None) is frame
