"""TemporalMedian against its formulas written down slowly, and on videos of which all is known."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from moving import Camera, Target, moving_video

from metrics import create_metric
from model import create_model
from model.temporal_median import median_network, median_of
from utils.boxes import MapPrediction
from utils.errors import UserError
from utils.motion import Motion
from utils.registration import Registrar

MARGIN = 8  # pixels at the border that the tests leave out


def logits_of(frames: np.ndarray, motions=None, **options) -> np.ndarray:
    """The stream's logits [T, H, W], frame by frame."""
    stream, registrar = create_model("TemporalMedian", **options).stream(), Registrar()
    found = []
    for place, frame in enumerate(frames):
        motion = motions[place] if motions else registrar(frame)
        clip = torch.from_numpy(frame.astype(np.float32))[None, None, None]
        found.append(stream(clip, [place], [motion])["logits"])
    return torch.cat([*found, stream.finish()["logits"]], dim=1)[0].numpy()


def figures(video, logits: np.ndarray) -> dict:
    """Pd and Fa by points within 3 pixels."""
    metric = create_metric("CentroidPdFa")
    for number, frame in enumerate(logits):
        places = video.places[number]
        points = places[np.isfinite(places).all(1)][:, ::-1]
        probability = 1 / (1 + np.exp(-frame.astype(np.float64)))
        metric.update(MapPrediction(probability, 0.5).responses, points)
    return metric.figures_at(0.5)


def literal_score(frames: np.ndarray, number: int, lags) -> np.ndarray:
    """The deviation in noise units of a frame of a camera that stands still, by the formulas."""
    others = [number + s * lag for lag in lags for s in (-1, 1) if 0 <= number + s * lag < len(frames)]
    frame, others = frames[number].astype(np.float64), frames[others].astype(np.float64)
    median = np.median(others, axis=0)
    mad = 1.48 * np.median(np.abs(others - median), axis=0)
    difference = cv2.GaussianBlur(frame - median, (0, 0), 0.6)
    rows, cols = (cv2.Sobel(median, cv2.CV_64F, *order) / 8 for order in ((0, 1), (1, 0)))
    noise = cv2.GaussianBlur(mad, (0, 0), 2) ** 2 + 1 + 0.25**2 * (rows**2 + cols**2)
    score = difference / np.sqrt(noise)
    local = cv2.blur(np.minimum(score**2, 16), (65, 65))
    return score / np.sqrt(np.maximum(local, 1))


def literal_detail(frame: np.ndarray) -> np.ndarray:
    """The white top-hat in units of its local standard deviation."""
    frame = frame.astype(np.float64)
    detail = frame - cv2.dilate(cv2.erode(frame, np.ones((5, 5))), np.ones((5, 5)))
    mean = cv2.blur(detail, (33, 33))
    return (detail - mean) / np.sqrt(np.maximum(cv2.blur(detail**2, (33, 33)) - mean**2, 0.25))


@pytest.mark.parametrize("number", [0, 5, 20, 39])
def test_the_logits_of_a_standing_camera_are_those_of_the_formulas(number):
    video = moving_video(40, (80, 96), Camera(), [Target((40, 40), (1.0, 0.5))], noise=2, seed=1)
    found = logits_of(video.frames, [Motion()] * 40)[number]
    near, far = (4, 6, 8, 10, 12), (15, 21, 27, 33, 39)
    score = np.maximum(*(literal_score(video.frames, number, lags) for lags in (near, near + far)))
    expected = np.minimum(score - 5, 2 * (literal_detail(video.frames[number]) - 3))
    np.testing.assert_allclose(found, expected, atol=0.02)  # gray levels are held as integers of 1/128


@pytest.mark.parametrize("count", range(1, 23))
def test_the_network_gives_the_median(count):
    planes = np.random.default_rng(count).integers(-(2**15), 2**15, (count, 7, 9)).astype(np.int16)
    ordered = np.sort(planes.astype(int), axis=0)
    expected = (ordered[(count - 1) // 2] + ordered[count // 2]) >> 1
    assert np.array_equal(median_of(list(planes.copy())), expected)


def test_the_network_of_ten_needs_no_more_than_29_exchanges():
    assert len(median_network(10)) <= 29


@pytest.mark.parametrize(
    "camera",
    [
        Camera((1.3, -0.25), 0.15, 1.002, (4e-6, -2e-6), 0.3),
        Camera((4.0, 0.0)),
        Camera(jitter=1.5),
        Camera(zoom=1.004, turn=0.2),
        Camera(),
    ],
    ids=["all", "fast pan", "shake", "zoom", "still"],
)
def test_targets_are_found_whatever_the_camera_does(camera):
    targets = [Target((60, 60), (0.8, -0.4), 60), Target((90, 70), (-1.0, 0.3), 60)]
    video = moving_video(60, (128, 160), camera, targets, noise=1.5, hot_pixels=8, seed=6)
    found = figures(video, logits_of(video.frames))
    assert found["pd"] > 0.97 and found["fa"] < 3e-5


@pytest.mark.parametrize("cameras", [("still", "still"), ("pan", "still"), ("fast", "pan"), ("shake", "pan")])
def test_a_cut_makes_no_false_alarms(cameras):
    moves = {
        "still": Camera(),
        "pan": Camera((1.3, -0.4)),
        "fast": Camera((4.0, 1.0)),
        "shake": Camera(jitter=1.5),
    }
    targets = [Target((60, 60), (0.8, -0.4), 60)], [Target((70, 50), (-0.7, 0.4), 60)]
    first, second = (
        moving_video(30, (128, 160), moves[name], target, seed=seed)
        for name, target, seed in zip(cameras, targets, (1, 2), strict=True)
    )
    logits = logits_of(np.concatenate([first.frames, second.frames]))
    for video, found in ((first, logits[:30]), (second, logits[30:])):
        assert figures(video, found)["fa"] == 0 and figures(video, found)["pd"] > 0.9


def test_a_closed_shutter_makes_no_false_alarms():
    video = moving_video(60, (128, 160), Camera(), [Target((60, 60), (0.8, -0.4), 60)], seed=1)
    frames = video.frames.copy()
    frames[25:31] = 128 + np.random.default_rng(0).integers(-2, 3, frames[25:31].shape)
    logits = logits_of(frames)
    assert not (logits[25:31] > 0).any()
    seen = np.r_[0:25, 31:60]
    assert figures(replace(video, places=video.places[seen]), logits[seen])["fa"] == 0


def test_frames_beyond_a_cut_are_no_neighbours():
    """Frames of two scenes in turn: each is judged by those of its own, on a camera that stands still."""
    video = moving_video(60, (64, 80), Camera(), [Target((20, 30), (0.5, 0.2), 60)], seed=1)
    whole = logits_of(video.frames, [Motion()] * 60)
    parts = [logits_of(video.frames[part], [Motion()] * 30) for part in (slice(30), slice(30, 60))]
    motions = [Motion(is_cut=number == 30) for number in range(60)]
    assert np.array_equal(logits_of(video.frames, motions), np.concatenate(parts))
    assert not np.array_equal(whole, np.concatenate(parts))


def test_without_registration_edges_of_a_moving_camera_are_false_alarms():
    video = moving_video(40, (128, 160), Camera((1.5, 0.5)), [Target((70, 70), (0.5, 0.5), 60)], seed=6)
    still = figures(video, logits_of(video.frames, [Motion()] * 40))
    registered = figures(video, logits_of(video.frames, video.motions))
    assert registered["fa"] < 1e-5 and registered["pd"] == 1
    assert still["pd"] < 0.9 or still["fa"] > 20 * registered["fa"]


def test_a_slow_target_needs_the_far_frames_of_a_standing_camera():
    video = moving_video(90, (96, 96), Camera(), [Target((40, 40), (0.15, 0.0), 50)], noise=1, seed=2)
    assert figures(video, logits_of(video.frames))["pd"] > 0.95
    without = {"far_lags": (14,)}  # two more frames change little
    assert figures(video, logits_of(video.frames, **without))["pd"] < 0.8


def test_a_fast_pan_is_judged_at_its_border_by_near_frames():
    """In its first columns later frames have panned off; a lag of four and more sees little there."""
    camera, speed = Camera((-9.0, 0.0)), 1.0
    targets = [Target((20 + 60 * k, 30 + 12 * k), (0.5, speed), 80) for k in range(6)]
    video = moving_video(30, (112, 144), camera, targets, noise=1, seed=3)
    logits = {
        near: logits_of(video.frames, video.motions, near_lags=near) for near in ((1, 2, 3, 4, 5), (4,))
    }
    shares = {}
    for near, found in logits.items():
        hits = []
        for frame, places in zip(found, video.places, strict=True):
            for x, y in places[np.isfinite(places).all(1)]:
                if 4 < x < 48:  # in these columns few frames with a lag of 4 and more see it
                    row, col = round(y), round(x)
                    hits.append(frame[row - 2 : row + 3, col - 2 : col + 3].max() > 0)
        shares[near] = np.mean(hits)
    assert shares[1, 2, 3, 4, 5] > shares[(4,)] + 0.1


def test_hot_pixels_are_no_targets_of_a_moving_camera():
    video = moving_video(60, (96, 128), Camera((1.3, 0.4)), [], hot_pixels=20, seed=8)
    assert figures(video, logits_of(video.frames))["fa"] < 1e-5
    assert (
        not logits_of(video.frames)[:, tuple(video.hot_pixels.T)[0], tuple(video.hot_pixels.T)[1]].max() > 0
    )


def test_one_clip_is_one_video_and_equals_its_stream():
    video = moving_video(20, (64, 80), Camera((1.0, 0.0)), [Target((40, 30), (0.5, 0.5))], seed=1)
    clip = torch.from_numpy(video.frames.astype(np.float32))[None, None]
    whole = create_model("TemporalMedian")(clip)["logits"][0].numpy()
    assert np.array_equal(whole, logits_of(video.frames))


def test_frames_that_were_there_before_are_passed_over():
    video = moving_video(50, (48, 48), Camera(), seed=1)
    frames = torch.from_numpy(video.frames.astype(np.float32))[None, None]
    stream = create_model("TemporalMedian").stream()
    parts = []
    for start in range(0, 50, 8):
        places = range(max(start - 2, 0), min(start + 8, 50))
        clip = frames[:, :, places.start : places.stop]
        parts.append(stream(clip, places, [Motion()] * len(places))["logits"])
    parts.append(stream.finish()["logits"])
    assert np.array_equal(torch.cat(parts, 1)[0].numpy(), logits_of(video.frames, [Motion()] * 50))


def test_a_stream_holds_a_bounded_number_of_frames_and_lags_by_the_largest_lag():
    stream = create_model("TemporalMedian").stream()
    given = 0
    for place in range(200):
        given += stream(torch.zeros(1, 1, 1, 8, 8), [place], [Motion()])["logits"].shape[1]
        assert len(stream.held) <= 2 * 39 + 1 and given == max(place - 38, 0)
    assert stream.finish()["logits"].shape == (1, 39, 8, 8)
    assert create_model("TemporalMedian").stream().finish()["logits"].shape[1] == 0


def test_a_single_frame_has_no_targets():
    assert not (create_model("TemporalMedian")(torch.rand(1, 1, 1, 16, 16) * 255)["logits"] > 0).any()


def test_sixteen_bit_gray_levels_keep_their_fractions():
    video = moving_video(40, (96, 96), Camera(), [Target((40, 40), (0.7, 0.3), 60)], sixteen_bit=True, seed=1)
    gray = video.frames.astype(np.float32) / 64
    assert figures(video, logits_of(gray, [Motion()] * 40))["pd"] == 1


def test_another_number_of_channels_is_refused():
    with pytest.raises(UserError, match="TemporalMedian takes clips"):
        create_model("TemporalMedian")(torch.zeros(1, 3, 2, 8, 8))
