"""predict.py with every kind of model and option: detections by hand, and those of test.py on the same."""

import json

import cv2
import numpy as np
import pytest
import torch
from moving import Camera, Target, moving_video
from predicted import (
    CPU,
    FILES,
    LIGHT,
    Results,
    bright_boxes,
    bright_toy,
    checkpoint,
    dot,
    dots,
    more_toys,
    predicted,
    write_frames,
)

import predict
import test
from model import create_model
from tests.toys import probabilities_by_hand
from utils.boxes import MapPrediction
from utils.detections import Detections
from utils.errors import UserError
from utils.registry import MODELS
from utils.report.predictions import read_predictions

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = ("--no-overlay", *CPU)
PLAIN = ("--register", "off", *FAST)


@pytest.fixture(scope="module", autouse=True)
def toys():
    with more_toys():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The images of `dots`."""
    return write_frames(tmp_path_factory.mktemp("dots") / "run", dots())


@pytest.fixture(scope="module")
def toy(toys, tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("toy") / "best.pth", bright_toy())


@pytest.fixture(scope="module")
def boxes(toys, tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("boxes") / "best.pth", bright_boxes())


def places(results: Results) -> list[tuple[int, float, float]]:
    """Frame, x and y of all detections."""
    return [(int(row["frame"]), float(row["x"]), float(row["y"])) for row in results.detections]


def squares() -> list[np.ndarray]:
    """`dots` that fill the letterbox of ToyBoxes."""
    return dots(size=(48, 48))


def expected(first: int = 0, last: int = 11) -> list[tuple[int, float, float]]:
    """The same of `dots`, if nothing else is found."""
    return [(number, *dot(number)) for number in range(first, last + 1)]


# ---------------------------------------------------------------- models


def test_a_window_model_by_its_checkpoint(source, toy, tmp_path):
    results = predicted(tmp_path / "out", source, "--checkpoint", toy, "--save_maps", "npz", *PLAIN)
    results.check(12)
    assert places(results) == expected()
    assert (results.summary["model"], results.summary["weights"]) == ("Toy", str(toy))
    frames = np.stack(dots()).astype(float)
    own = probabilities_by_hand(bright_toy().state_dict(), frames, frames.mean(), frames.std())
    for number, probability in enumerate(own):
        np.testing.assert_allclose(results.maps[str(number)], probability, atol=1e-4)
        score = float(results.detections[number]["score"])
        assert score == pytest.approx(results.maps[str(number)].max(), abs=1e-6)


def test_a_key_frame_model_of_boxes_by_its_checkpoint(source, boxes, tmp_path):
    """The letterbox of 48 pixels halves the frames, and a box of 6 pixels in it has 12 in the source."""
    frames = [cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST) for frame in squares()]
    images = write_frames(tmp_path / "run", frames)
    results = predicted(tmp_path / "out", images, "--checkpoint", boxes, "--register", "off", *CPU)
    results.check(12)
    assert results.names == FILES
    cells = [np.array(dot(number)) // 8 for number in range(12)]
    own = [(number, *(16 * (cell + 0.5) - 0.5)) for number, cell in enumerate(cells)]
    np.testing.assert_allclose(places(results), own, atol=1e-3)
    for row in results.detections:
        assert float(row["x2"]) - float(row["x1"]) == pytest.approx(12, abs=0.01)
        assert float(row["y2"]) - float(row["y1"]) == pytest.approx(12, abs=0.01)
        assert 0.5 < float(row["score"]) < 1


@pytest.mark.parametrize("name", ["ToyKey", "ToyWindow"])
def test_models_without_weights(source, name, tmp_path):
    results = predicted(tmp_path / "out", source, "--model_names", name, *PLAIN)
    results.check(12)
    assert places(results) == (expected() if name == "ToyWindow" else expected(1, 10))  # which see themselves
    assert all(row["measured"] == "0" for row in results.rows("motion.csv"))


def test_published_weights(source, tmp_path):
    torch.manual_seed(0)
    weights = create_model("DeepPro", seq_len=8).state_dict()
    torch.save({"model_state_dict": weights}, tmp_path / "deeppro.pth")
    flags = ("--model_names", "DeepPro", "--official", tmp_path / "deeppro.pth", "--seq_len", 8)
    results = predicted(tmp_path / "out", source, *flags, "--threshold", "0.9", *FAST)
    results.check(12)
    assert results.summary["weights"] == str(tmp_path / "deeppro.pth")
    assert results.summary["recipe"]["view"]["frames"] == 8


# ---------------------------------------------------------------- options


def test_the_threshold_decides_what_is_detected(source, toy, tmp_path):
    flags = (source, "--checkpoint", toy, "--save_maps", "npz", *PLAIN)
    for threshold, counts in (("0.0", {12}), ("0.0001", range(100, 9999)), ("0.5", {12}), ("1.0", {0})):
        results = predicted(tmp_path / threshold, *flags, "--threshold", threshold)
        found = [MapPrediction(results.maps[str(n)], float(threshold)) for n in range(12)]
        assert results.summary["detections"] == sum(len(Detections.of(p, float(threshold))) for p in found)
        assert results.summary["detections"] in counts


def test_a_threshold_of_boxes_bounds_their_scores(source, boxes, tmp_path):
    low = predicted(tmp_path / "low", source, "--checkpoint", boxes, "--threshold", "0.0", *FAST)
    assert low.summary["detections"] == 12 * 36  # all cells
    high = predicted(tmp_path / "high", source, "--checkpoint", boxes, "--threshold", "0.999999", *FAST)
    assert high.summary["detections"] == 0
    high.check(12)


def test_tracks_can_be_left_out(source, tmp_path):
    results = predicted(tmp_path / "out", source, "--tracks", "off", *LIGHT)
    assert results.summary["tracks"] == 0 and results.summary["tracks_by"] is None
    assert {row["track"] for row in results.detections} == {""}
    assert results.rows("tracks.csv") == [] and "track" not in results.summary["seconds"]
    results.check(12)


def test_options_of_tracks(source, tmp_path):
    short = source.parent / "short"
    write_frames(short, dots(4))
    few = predicted(tmp_path / "few", short, *LIGHT)
    assert (few.summary["detections"], few.summary["tracks"]) == (4, 0)
    more = predicted(tmp_path / "more", short, "--track_option", "hits=3", *LIGHT)
    assert more.summary["tracks"] == 1 and more.summary["tracks_by"]["hits"] == 3
    assert {row["track"] for row in more.detections} == {"1"}


def test_maps_under_the_names_of_the_frames(source, tmp_path):
    results = predicted(tmp_path / "out", source, "--save_maps", "png", "npz", *LIGHT)
    images = sorted((results.folder / "maps").iterdir(), key=lambda path: int(path.stem))
    assert [path.name for path in images] == [f"{n}.png" for n in range(12)]
    for number, path in enumerate(images):
        own = results.maps[str(number)]
        assert own.dtype == np.float32 and own.shape == (32, 40)
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.floor(255 * own))
    assert results.summary["files"][-2:] != [] and "maps" in results.summary["files"]


def test_a_model_confirms_another_pixel_by_pixel(source, tmp_path):
    """ToyKey sees the dot alone, TopHat does too; of a flash that fills a square TopHat sees nothing."""
    frames = dots()
    frames[5][20:30, 20:34] = 250
    images = write_frames(tmp_path / "run", frames)
    flags = ("--model_names", "ToyKey", "--save_maps", "npz", *PLAIN)
    alone = predicted(tmp_path / "alone", images, *flags)
    both = predicted(tmp_path / "both", images, *flags, "--confirm", "TopHat")
    tophat = predicted(tmp_path / "tophat", images, "--save_maps", "npz", *LIGHT)
    assert len(alone.detections) == 11 and both.summary["recipe"]["scoring"]["confirm"] == "TopHat"
    assert places(both) == expected(1, 10)
    for number in map(str, range(12)):
        least = np.minimum(alone.maps[number], tophat.maps[number])
        np.testing.assert_allclose(both.maps[number], least, rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--confirm", "Toy"), "names Toy, but takes a model of single frames without weights, such as"),
        (("--confirm", "ToyBoxes"), "names ToyBoxes, but takes a model of single frames without"),
        (("--confirm", "ToyKey"), "names ToyKey, but takes a model of single frames without"),
        (("--confirm", "TemporalMedian"), "names TemporalMedian, but takes a model of single frames without"),
        (("--confirm", "TopHut"), "there is no model 'TopHut'; did you mean TopHat"),
    ],
)
def test_what_cannot_confirm(source, flags, told, tmp_path):
    with pytest.raises(UserError, match=told):
        predicted(tmp_path / "out", source, *flags, *FAST)
    assert not (tmp_path / "out").exists()


def test_boxes_cannot_be_confirmed(source, boxes, tmp_path):
    with pytest.raises(UserError, match="recipe key scoring.confirm has no effect on a model of boxes"):
        predicted(tmp_path / "out", source, "--checkpoint", boxes, "--confirm", "TopHat", *FAST)


# ---------------------------------------------------------------- registration


@pytest.fixture(scope="module")
def pan(tmp_path_factory):
    """(the images of a camera that pans, the video)."""
    video = moving_video(20, (64, 96), Camera((2.2, -0.3)), [Target((30, 30), (-0.8, 0.5), 70)], noise=1.0)
    return write_frames(tmp_path_factory.mktemp("pan") / "run" / "images", video.frames), video


@pytest.mark.parametrize("name", ["ToyKey", "ToyWindow", "TemporalMedian"])
def test_registration_takes_away_what_moves_with_the_ground(pan, name, tmp_path):
    images, video = pan
    others = {}
    for mode in ("off", "auto", "on"):
        flags = ("--model_names", name, "--register", mode, "--tracks", "off", *FAST)
        found = predicted(tmp_path / mode, images, *flags)
        is_measured = [row["measured"] == "1" for row in found.rows("motion.csv")]
        assert is_measured == [mode != "off" and number > 0 for number in range(20)]
        off = [np.hypot(*np.subtract(place, video.targets(frame)[1])) for frame, *place in places(found)]
        others[mode] = sum(distance > 2 for distance in off)
        assert mode == "off" or len(off) - others[mode] >= 18
    assert others["off"] > 10 and max(others["auto"], others["on"]) < others["off"] / 6


def test_registration_is_automatic_unless_something_else_is_typed(pan):
    for key in (None, "register", "view.register", "clip.register"):
        typed = ["--set", f"{key}=on"] if key else []
        args = predict.parse([str(pan[0]), "--model_names", "ToyKey", *typed])
        (stages,) = predict.stages_of(args, predict.find_sources(args))
        assert stages.facts["recipe"]["view"]["register"] == ("on" if key else "auto")


# ---------------------------------------------------------------- the same as test.py


@pytest.mark.parametrize("name", ["TemporalMedian", "ToyKey", "ToyWindow", "Toy", "ToyBoxes"])
def test_what_test_py_detects_is_the_same(pan, toy, boxes, name, tmp_path, monkeypatch):
    """The same maps to the bit, also of Toy, whose recipe knows the data set by its name."""
    images, _ = pan
    entry = MODELS.entry("Toy")
    monkeypatch.setitem(entry.facts["recipe"], "datasets", {})
    weights = {"Toy": ("--checkpoint", toy), "ToyBoxes": ("--checkpoint", boxes)}.get(name, ())
    model = ("--model_names", name, *weights, "--register", "auto", *CPU)
    data = ("--dataset_names", "Folder", "--dataset_dir", images.parent)
    argv = (*model, *data, "--log_dir", tmp_path / "log", "--save_predictions")
    test.main([str(word) for word in argv])
    (run,) = (tmp_path / "log" / "Folder" / name).iterdir()
    kept = read_predictions(run / "predictions")
    results = predicted(tmp_path / "out", images, *model, "--save_maps", "npz", "--no-overlay")
    ((sequence, frames),) = kept.frames.items()
    assert sequence == "run" and len(frames) == 20
    if name == "ToyBoxes":
        entries = json.loads((run / "predictions" / "boxes.json").read_text())
        own = [(e["image_id"] - 1, *e["bbox"], e["score"]) for e in entries if e["score"] > 0.5]
        found = json.loads((results.folder / "detections.json").read_text())
        found = [(e["image_id"], *e["bbox"], e["score"]) for e in found]
        assert len(own) > 10
        np.testing.assert_allclose(sorted(found), sorted(own), atol=2e-3)
        return
    with np.load(run / "predictions" / "run.npz") as archive:
        own = [archive[key] for key in archive.files]
    assert len(own) == 20
    for number, probability in enumerate(own):
        np.testing.assert_array_equal(results.maps[str(number)], probability)
    found = [
        (number, x, y)
        for number, probability in enumerate(own)
        for x, y in Detections.of(MapPrediction(probability, 0.5), 0.5).centres
    ]
    np.testing.assert_allclose(places(results), found, atol=1e-3)
    assert len(found) > 5


def test_a_data_set_is_predicted_as_test_py_does(tiny_data, tmp_path):
    """With its constants and its recipe, a folder of files for each sequence."""
    data = ("--dataset_names", "Synthetic", "--dataset_dir", tiny_data)
    flags = ("--model_names", "TopHat", "--register", "off", *data, *CPU)
    test.main([str(w) for w in (*flags, "--log_dir", tmp_path / "log", "--save_predictions")])
    (run,) = (tmp_path / "log" / "Synthetic" / "TopHat").iterdir()
    predicted(tmp_path / "out", *flags, "--save_maps", "npz", "--no-overlay")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Sequence4", "Sequence5"]
    for name in ("Sequence4", "Sequence5"):
        results = Results(tmp_path / "out" / name)
        results.check(24)
        assert results.summary["source"] == f"sequence {name}"
        images = sorted((tiny_data / "Synthetic" / name / "images").iterdir())
        assert set(results.maps) == {path.stem for path in images}
        with np.load(run / "predictions" / f"{name}.npz") as archive:
            for path, key in zip(images, archive.files, strict=True):
                np.testing.assert_array_equal(results.maps[path.stem], archive[key])
        assert {row["name"] for row in results.detections} <= {path.name for path in images}


def test_gray_values_of_a_picture_that_cannot_be_read(tmp_path):
    """Of a confirmed model too: the first readable frame stands in, and what is found of it is dropped."""
    images = write_frames(tmp_path / "run", dots())
    for number in (0, 6):
        (images / f"{number}.png").write_bytes(b"\x89PNG nothing")
    flags = ("--model_names", "ToyKey", "--confirm", "TopHat", *PLAIN)
    results = predicted(tmp_path / "out", images, *flags)
    results.check(12, unreadable=[0, 6])
    assert places(results) == [*expected(2, 4), *expected(7, 10)]  # 1 is 0, and 5 is 6, for the others
