"""What is found in a video frame by frame: detections, their confirmation, tracks, and the time of each."""

import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from predicted import dots, more_toys
from recipes import recipe_of
from test_stream import Arrays
from torch import nn

from dataset.stream import StreamedVideo
from model import create_model
from utils.boxes import MapPrediction
from utils.engine.candidates import Candidate
from utils.engine.detect import Detector, Stages, few_threads
from utils.engine.stages import Confirmation, confirmed
from utils.errors import UserError
from utils.registry import MODELS, register_model
from utils.tracking import TrackSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def toys():
    with more_toys():
        yield


# ---------------------------------------------------------------- confirmation


class ToyShares(nn.Module):
    """Of a single frame in three channels: how bright a pixel is."""

    def forward(self, clip):
        assert clip.shape[1:3] == (3, 1)
        return {"logits": clip.mean(1)}

    def decode(self, raw):
        return raw["logits"] / 255


@pytest.fixture
def confirmation(toys):
    register_model("ToyShares", recipe={"view": {"frames": 1, "channels": 3}}, rename={})(ToyShares)
    return Confirmation(create_model("ToyShares"))


def test_a_map_is_bounded_pixel_by_pixel(confirmation):
    draw = np.random.default_rng(0)
    gray = draw.uniform(0, 255, (6, 7)).astype(np.float32)
    before = MapPrediction(draw.random((6, 7)).astype(np.float32), 0.3)
    after = confirmation(before, gray)
    np.testing.assert_allclose(after.map, np.minimum(before.map, gray / 255), rtol=1e-6)
    assert after.threshold == 0.3 and after.map.dtype == np.float32
    assert (after.map < before.map).any() and (after.map == before.map).any()
    assert before.fault((6, 7)) is None


def test_a_confirmed_prediction_is_that_of_its_own_frame(confirmation):
    pictures = [np.full((4, 5), level, np.float32) for level in (0, 51, 255)]
    video = SimpleNamespace(picture=pictures.__getitem__)
    given = [(index, MapPrediction(np.full((4, 5), 0.5, np.float32), 0.1)) for index in range(3)]
    recipe = recipe_of(confirm="ToyShares")
    found = list(confirmed(lambda _: iter(given), recipe, create_model)(video))
    assert [index for index, _ in found] == [0, 1, 2]
    assert [float(prediction.map.max()) for _, prediction in found] == pytest.approx([0, 0.2, 0.5])


def test_without_a_name_nothing_is_confirmed():
    def predict(video):
        raise AssertionError

    assert confirmed(predict, recipe_of(), create_model) is predict


@pytest.mark.parametrize(
    "name", ["Toy", "ToyBoxes", "ToyKey", "ToyWindow", "ToyStream", "TemporalMedian", "ACM"]
)
def test_what_cannot_confirm(name):
    told = f"recipe key scoring.confirm names {name}, but takes a model of single frames without weights"
    with pytest.raises(UserError, match=told):
        confirmed(lambda video: iter(()), recipe_of(confirm=name), create_model)


# ---------------------------------------------------------------- stages


def detector(name: str, **typed) -> Detector:
    return Detector(Candidate(MODELS.entry(name).name), "", {"view.register": "off", **typed}, create_model)


def stages_of(name: str, frames: list, tracks=None, **typed) -> Stages:
    by = detector(name, **typed)
    return Stages(StreamedVideo(Arrays(frames), by.recipe.view, keeps=True), by, tracks)


def test_every_frame_comes_once_with_its_motion_and_its_prediction():
    frames = dots()
    frames[4] = None
    stages = stages_of("TopHat", frames)
    found = list(stages)
    assert [one.frame.number for one in found] == list(range(12)) and stages.is_complete
    for one in found:
        assert (one.prediction is None) == (one.frame.pixels is None) == (one.frame.number == 4)
        assert len(one.detections) == (one.frame.number != 4)
        assert one.prediction is None or one.prediction.map.shape == (32, 40)
        assert one.tracks == () and not one.motion.measured


@pytest.mark.parametrize("lag", [0, 4, 30])
def test_tracks_come_late_by_their_lag(lag):
    read = []
    stages = stages_of("TopHat", dots(40, (32, 60)), TrackSettings(lag=lag, hits=3))
    stages.video.on_frame = lambda frame: read.append(frame.number)
    for number, one in enumerate(stages):
        assert one.frame.number == number
        assert len(read) >= min(number + lag + 1, 40)
        assert len(one.tracks) == (lag > 2 or number >= 2)


def test_the_seconds_of_slow_stages():
    class Slow(Arrays):
        def _frames(self):
            for frame in super()._frames():
                time.sleep(0.01)
                yield frame

    by = detector("TopHat", **{"view.mean": 0.0, "view.std": 1.0})
    predict = by.predict

    def slow_predict(video):
        for frame in predict(video):
            time.sleep(0.02)
            yield frame

    by.predict = slow_predict
    stages = Stages(StreamedVideo(Slow(dots()), by.recipe.view, keeps=True), by, TrackSettings())
    begin = time.perf_counter()
    list(stages)
    spent, seconds = time.perf_counter() - begin, stages.seconds
    assert list(seconds) == ["read", "register", "detect", "track"]
    assert seconds["read"] >= 0.12 and seconds["detect"] >= 0.24
    assert seconds["register"] < 0.05 and 0 < seconds["track"] < seconds["detect"]
    assert seconds["detect"] + seconds["track"] <= spent


def test_waiting_for_frames_is_no_detection():
    class Slow(Arrays):
        def _frames(self):
            for frame in super()._frames():
                time.sleep(0.03)
                yield frame

    by = detector("TopHat", **{"view.mean": 0.0, "view.std": 1.0})
    stages = Stages(StreamedVideo(Slow(dots()), by.recipe.view, keeps=True), by, None)
    list(stages)
    assert "track" not in stages.seconds
    assert stages.seconds["read"] >= 0.36 and stages.seconds["detect"] < 0.3


def test_keys_that_need_truth_or_training_have_no_effect():
    for key, value in (("scoring.match", 3), ("scoring.paper", "RPRNet"), ("optimisation.epochs", 3)):
        with pytest.raises(UserError, match=f"recipe key {key} has no effect on what TopHat"):
            detector("TopHat", **{key: value})


def test_the_threshold_is_that_of_the_recipe():
    counts = {t: sum(len(f.detections) for f in stages_of("TopHat", dots(), **{"scoring.threshold": t}))
              for t in (0.007, 0.5, 1.0)}  # fmt: skip
    assert counts[0.007] > counts[0.5] == 12 and counts[1.0] == 0


@pytest.mark.parametrize("is_light", [True, False])
def test_threads_are_as_many_as_before(is_light):
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(4)
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError), few_threads(is_light):
            assert (cv2.getNumThreads(), torch.get_num_threads()) == (2, 1 if is_light else 2)
            raise ZeroDivisionError
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (4, 2)
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
