"""The synthetic moving camera: what it says of its frames holds in their pixels."""

import time

import cv2
import numpy as np
import pytest

from tests.moving import Camera, Target, moving_video

SIZE = (128, 160)
QUIET = {"noise": 0.0, "sixteen_bit": True}  # rounded to 1/64 gray level of 8 bit
TURNING = Camera((1.3, -0.25), 0.15, 1.002, (4e-6, -2e-6), 0.3)


def gray(frames):
    """16-bit frames in gray levels of 8 bit."""
    return frames.astype(np.float32) / 64


def differences(before, after, homography):
    """`after` minus `before` where the homography takes it, nan where that lies outside; [H, W]."""
    warped = cv2.warpPerspective(before, homography, before.shape[::-1], flags=cv2.INTER_CUBIC)
    inner = np.pad(np.ones_like(before[3:-3, 3:-3]), 3)  # what the interpolation knows all neighbours of
    inside = cv2.warpPerspective(inner, homography, before.shape[::-1]) > 0.999
    return np.where(inside, after - warped, np.nan)


def rms(values):
    return float(np.sqrt(np.nanmean(np.square(values))))


@pytest.mark.parametrize(
    "camera",
    [
        Camera((2.4, -1.7)),
        Camera(turn=1.5),
        Camera(zoom=1.02),
        Camera(tilt=(2e-4, -1.5e-4)),
        Camera(jitter=1.2),
        TURNING,
    ],
)
def test_the_homographies_take_each_frame_to_the_next(camera):
    video = moving_video(12, SIZE, camera, **QUIET)
    frames = gray(video.frames)
    assert (video.homographies[0] == np.eye(3)).all() and video.homographies[11][2, 2] == 1
    for number in (1, 6, 11):
        found = differences(frames[number - 1], frames[number], video.homographies[number])
        assert np.isfinite(found).mean() > 0.7
        assert rms(found) < 0.2  # of gray levels; the interpolation of frames
        assert rms(differences(frames[number - 1], frames[number], np.eye(3))) > 6 * rms(found)


def test_a_standing_camera_sees_one_picture():
    video = moving_video(3, SIZE, Camera(), **QUIET)
    assert (video.frames == video.frames[0]).all() and (video.homographies == np.eye(3)).all()


def test_the_nearer_plane_moves_by_its_own_homographies():
    video = moving_video(20, SIZE, Camera((1.5, 0.2), 0.1), parallax=1.8, **QUIET)
    frames = gray(video.frames)
    border = cv2.dilate(video.near[10].astype(np.uint8), np.ones((9, 9)))
    near, far = cv2.erode(video.near[10].astype(np.uint8), np.ones((9, 9))) > 0, border == 0
    assert near.mean() > 0.15 and far.mean() > 0.4
    ground, plane = (
        differences(frames[9], frames[10], steps[10])
        for steps in (video.homographies, video.near_homographies)
    )
    assert rms(ground[far]) < 0.15 and rms(plane[near]) < 0.15
    assert rms(ground[near]) > 1 and rms(plane[far]) > 1


def test_targets_lie_where_it_says():
    targets = [
        Target((80, 60), (-1.5, 0.5)),
        Target((40, 40), (0.4, 0.3), -35.0, 1.0),
        Target((2, 3), (-1, 0)),
    ]
    with_targets = moving_video(30, SIZE, TURNING, targets, **QUIET)
    light = gray(with_targets.frames) - gray(moving_video(30, SIZE, TURNING, **QUIET).frames)
    seen = np.isfinite(with_targets.places).all(axis=2)
    assert seen[:, :2].all() and seen[0, 2] and not seen[29, 2]
    for number in range(30):
        assert with_targets.targets(number).keys() == set(np.flatnonzero(seen[number]) + 1)
        for target in (1, 2):
            x, y = with_targets.targets(number)[target]
            rows, cols = np.s_[round(y) - 5 : round(y) + 6], np.s_[round(x) - 5 : round(x) + 6]
            weights = light[number][rows, cols]
            down, across = np.mgrid[rows, cols]
            found = (weights * across).sum() / weights.sum(), (weights * down).sum() / weights.sum()
            np.testing.assert_allclose(found, (x, y), atol=0.03)
    assert abs(light[0]).max() > 25 and abs(light[29][:8, :8]).max() == 0


def test_a_target_on_the_ground_stands_still_on_it():
    video = moving_video(20, SIZE, TURNING, [Target((70, 60))], **QUIET)
    for number in range(1, 20):
        x, y, scale = video.homographies[number] @ [*video.places[number - 1, 0], 1]
        np.testing.assert_allclose([x / scale, y / scale], video.places[number, 0])


def test_a_target_is_there_for_its_frames_alone():
    video = moving_video(8, SIZE, targets=[Target((70, 60), frames=(2, 5))], **QUIET)
    assert [bool(video.targets(number)) for number in range(8)] == [n in (2, 3, 4) for n in range(8)]


def test_hot_pixels_stand_still_in_the_sensor():
    plain, hot = (moving_video(6, SIZE, hot_pixels=k, **QUIET) for k in (0, 7))
    added = gray(hot.frames) - gray(plain.frames)
    rows, cols = hot.hot_pixels.T
    assert len(rows) == 7 and (added[:, rows, cols] > 14.9).all() and np.ptp(added, axis=0).max() < 0.02
    assert np.count_nonzero(added[0]) == 7


def test_noise_is_as_strong_as_asked_for():
    noisy, plain = (moving_video(6, SIZE, noise=noise, sixteen_bit=True) for noise in (3.0, 0.0))
    assert np.std(gray(noisy.frames) - gray(plain.frames)) == pytest.approx(3, rel=0.02)


def test_the_same_arguments_give_the_same_frames_and_another_seed_gives_others():
    first, same, other = (moving_video(3, (40, 50), seed=seed) for seed in (1, 1, 2))
    assert first.frames.dtype == np.uint8 and (first.frames == same.frames).all()
    assert (first.frames != other.frames).any()
    assert first.frames.min() > 20 and first.frames.max() < 230  # nothing is cut off


def test_motions_are_those_of_a_registration_without_errors():
    video = moving_video(3, (40, 50))
    assert [motion.measured for motion in video.motions] == [False, True, True]
    assert (video.motions[2].homography == video.homographies[2]).all()


def test_a_video_is_made_fast_enough_for_tests():
    begin = time.process_time()
    moving_video(60, SIZE, targets=[Target((80, 60))] * 3, hot_pixels=5, parallax=1.6)
    assert time.process_time() - begin < 3  # 0.15 s
