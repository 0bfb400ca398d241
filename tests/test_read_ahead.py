"""The thread that reads clips reads the truth of their frames as well, and only what was asked for."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from recipes import recipe_of, video_of
from test_frames import sequence_of

import dataset.frames
from dataset.sequence import SequenceSet
from dataset.video import TestVideo
from metrics.protocols import recipe_lines
from utils.boxes import MapPrediction
from utils.engine.score import evaluate
from utils.errors import UserError

SIZE, FRAMES = (20, 24), 12
KINDS = {"mask", "centroid_map", "centroids", "boxes"}
VIEWS = [{"frames": 1}, {"frames": 5, "key": 2}, {"frames": 5, "key": "all"}, {"frames": 20, "key": "all"}]


@pytest.fixture
def readings(monkeypatch):
    """(file, whether the main thread read it) of each mask and centroid map."""
    seen = []

    def told(read):
        def tell(path, *options):
            seen.append((path, threading.current_thread() is threading.main_thread()))
            return read(path, *options)

        return tell

    for name in ("read_mask", "read_centroid_map"):
        monkeypatch.setattr(dataset.frames, name, told(getattr(dataset.frames, name)))
    return seen


def data_of(folder, **kinds):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (FRAMES, *SIZE)).astype(np.uint8)
    masks = np.zeros((FRAMES, *SIZE), np.uint8)
    for number, mask in enumerate(masks):
        mask[3:5, number : number + 3] = 255
    truth = {"masks": masks, "centroids": masks[:, ::-1]}
    sequence = sequence_of(folder, list(images), **{kind: list(truth[kind]) for kind in kinds or truth})
    return SequenceSet("Folder", folder, "test", (sequence,), 100.0, 20.0)


@pytest.mark.parametrize("settings", VIEWS)
def test_truth_that_is_expected_is_read_while_clips_are_computed(tmp_path, readings, settings):
    data = data_of(tmp_path)
    plain, video = video_of(data[0], data, **settings), video_of(data[0], data, **settings)
    video.expect(KINDS)
    for _ in range(2):  # it can be read again
        del readings[:]
        clips = [clip for clip, _ in video]
        truths = [video.truth(index, KINDS) for index in range(FRAMES)]
        of_masks = [path for path, _ in readings if "masks" in path.parts]
        assert len(of_masks) == FRAMES and not any(is_main for _, is_main in readings)
        assert sum(clip.count for clip in clips) >= FRAMES
        for index, truth in enumerate(truths):
            np.testing.assert_equal(truth, plain.truth(index, KINDS))
    assert not video._truths, "nothing is held that was taken"


def test_other_kinds_than_expected_and_a_second_time_are_read_when_asked_for(tmp_path, readings):
    data = data_of(tmp_path)
    video = video_of(data[0], data, frames=1)
    video.expect({"mask"})
    list(video)
    del readings[:]
    assert video.truth(3, KINDS)["boxes"].shape == (1, 4)
    assert video.truth(4, {"mask"})["mask"].any() and len(readings) == 2
    assert video.truth(4, {"mask"})["mask"].any() and len(readings) == 3


def test_nothing_is_read_that_nobody_expects(tmp_path, readings):
    data = data_of(tmp_path)
    list(video_of(data[0], data, frames=5, key="all"))
    assert not readings


def test_an_error_in_truth_ends_the_reading_of_clips(tmp_path):
    data = data_of(tmp_path)
    data[0].masks[5].write_bytes(b"no image")
    video = video_of(data[0], data, frames=1)
    video.expect({"mask"})
    with pytest.raises(UserError, match="is not an image"):
        list(video)


@pytest.mark.parametrize(
    ("protocol", "paper", "per_frame"),
    [("published", "DeepPro", 2), ("published", "RFR", 1), ("clean", "RFR", 2)],
)
def test_a_test_reads_what_its_metrics_need_and_once(tmp_path, readings, protocol, paper, per_frame):
    data = data_of(tmp_path)
    recipe = recipe_of(frames=5, key="all", paper=paper)
    video = TestVideo(data[0], data, recipe.view)

    def predict(video):
        done = 0
        for frames, clip in video:
            for index in range(max(done, frames.first), frames.first + frames.count):
                yield index, MapPrediction(clip[0, 0, index - frames.first].sigmoid().numpy(), 0.5)
                done = index + 1

    lines = recipe_lines(recipe, [protocol], "Folder")
    evaluate(predict, [video], lines)
    assert len(readings) == per_frame * FRAMES
    assert not any(is_main for _, is_main in readings)
    assert all(a <= b for a, b in pairwise(sorted(path for path, _ in readings)))
