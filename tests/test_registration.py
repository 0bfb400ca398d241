"""Registration against videos whose homographies are known exactly, and defects of the sensor."""

import numpy as np
import pytest
from moving import Camera, moving_video

from utils.defects import DefectFinder, repaired
from utils.motion import moved
from utils.registration import MODES, Registrar, enlarged, footprint, largest_shift, positions, warped

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
