"""predict.py on every kind of source, under its names, and what it refuses."""

import io
import re
import shutil
import sys

import cv2
import numpy as np
import pytest
from predicted import CPU, LIGHT, Results, dot, dots, more_toys, predicted, write_frames
from test_commands import refusal  # noqa: F401 - a fixture
from test_pipe import encoded
from test_source import Camera, camera, write_pages  # noqa: F401 - a fixture
from videos import write_video

import predict

pytestmark = pytest.mark.usefixtures("one_thread")


def check_dots(results: Results, names: list[str]) -> None:
    """Each frame of `dots` has its detection, under its name."""
    results.check(12)
    rows = [(row["name"], float(row["x"]), float(row["y"])) for row in results.detections]
    assert rows == [(name, *dot(number)) for number, name in enumerate(names)]


NUMBERS = [f"{number:06d}" for number in range(12)]
IMAGES = [f"{number}.png" for number in range(12)]


# ---------------------------------------------------------------- kinds of sources


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_a_video_file(name, tmp_path):
    write_video(tmp_path / name, dots())
    results = predicted(tmp_path / "out", tmp_path / name, *LIGHT)
    check_dots(results, NUMBERS)
    assert results.summary["source"] == str(tmp_path / name)


def test_an_mp4_in_colour(tmp_path):
    frames = [cv2.merge([np.uint8(frame * share) for share in (0.5, 1, 0.9)]) for frame in dots()]
    write_video(tmp_path / "a.mp4", frames, "mp4v")
    results = predicted(tmp_path / "out", tmp_path / "a.mp4", *LIGHT)
    results.check(12)
    assert any("is in colour; of each frame the luma is taken" in note for note in results.summary["notes"])
    assert {row["frame"] for row in results.detections} == set(map(str, range(12)))


def test_pages_of_16_bit_are_stretched_and_the_notes_say_how(tmp_path, capsys):
    counts = [np.uint16(21000 + 3 * frame.astype(int)) for frame in dots()]
    write_pages(tmp_path / "scan.tif", counts)
    results = predicted(tmp_path / "out", tmp_path / "scan.tif", *LIGHT)
    check_dots(results, NUMBERS)
    (note,) = [note for note in results.summary["notes"] if "become gray values" in note]
    low, high = map(int, re.search(r"counts from (\d+) to (\d+) become gray values 0 to 255", note).groups())
    assert 20900 < low < 21120 < 21160 < high < 22000
    assert note.endswith("; --range LOW HIGH sets others") and f"note: {note}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("21000", "21765"), "counts from 21000 to 21765 become gray values 0 to 255 (as --range says)"),
        (("file",), "the 16-bit counts of {} are divided by 257 (--range file)"),
    ],
)
def test_the_range_that_is_typed(tmp_path, words, told):
    counts = [np.uint16(21000 + 3 * frame.astype(int)) for frame in dots()]
    write_pages(tmp_path / "scan.tif", counts)
    flags = (tmp_path / "scan.tif", "--range", *words, "--model_names", "ToyWindow", "--register", "off")
    with more_toys():
        results = predicted(tmp_path / "out", *flags, "--save_maps", "npz", "--no-overlay", *CPU)
    results.check(12)
    assert any(told.format(tmp_path / "scan.tif") in note for note in results.summary["notes"])
    levels = np.stack(counts) / 257 if words == ("file",) else np.stack(dots()).astype(float)
    x, y = dot(3)
    own = 1 / (1 + np.exp(-(levels[3, y, x] - levels[[0, 1, 2, 4, 5], y, x].max() - 4) / 4))
    assert results.maps["000003"][y, x] == pytest.approx(own, abs=2e-3)


def test_a_folder_a_pattern_and_the_files_themselves(tmp_path, monkeypatch):
    images = write_frames(tmp_path / "run", dots())
    write_frames(tmp_path / "run", dots(1)).joinpath("notes.txt").write_text("no image")
    check_dots(predicted(tmp_path / "a", images, *LIGHT), IMAGES)
    check_dots(predicted(tmp_path / "b", images / "*.png", *LIGHT), IMAGES)
    check_dots(predicted(tmp_path / "c", *[images / name for name in IMAGES], *LIGHT), IMAGES)
    monkeypatch.chdir(images)
    assert predicted(tmp_path / "d", ".", *LIGHT).summary["source"] == "."
    some = predicted(tmp_path / "e", images / "1*.png", *LIGHT)
    assert {(row["frame"], row["name"]) for row in some.detections} == {
        *(("0", "1.png"), ("1", "10.png"), ("2", "11.png"))
    }


def test_a_single_image(tmp_path):
    write_frames(tmp_path, dots(1))
    results = predicted(tmp_path / "out", tmp_path / "0.png", *LIGHT)
    results.check(1)
    assert [(row["frame"], row["name"]) for row in results.detections] == [("0", "0.png")]
    trained = predicted(tmp_path / "median", tmp_path / "0.png", *CPU)  # has nothing to compare with
    trained.check(1)
    assert trained.detections == []


def test_a_folder_of_videos_is_a_folder_each(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    for name in ("2.avi", "10.avi"):
        write_video(tmp_path / "videos" / name, dots())
    predicted(tmp_path / "out", tmp_path / "videos", *LIGHT)
    for name in ("2", "10"):
        check_dots(Results(tmp_path / "out" / name), NUMBERS)
    told = capsys.readouterr().out
    assert told.index("TopHat on 2: ") < told.index("TopHat on 10: ")


def test_sources_of_one_name_get_folders_of_their_own(tmp_path):
    for place in ("a", "b"):
        write_frames(tmp_path / place / "run", dots())
    predicted(tmp_path / "out", tmp_path / "a" / "run", tmp_path / "b" / "run", *LIGHT)
    for name, place in (("run", "a"), ("run-2", "b")):
        check_dots(Results(tmp_path / "out" / name), IMAGES)
        assert Results(tmp_path / "out" / name).summary["source"] == str(tmp_path / place / "run")


@pytest.fixture
def two_sets(tiny_data, tmp_path):
    """The flags of two data sets of the same sequences."""
    for name in ("Synthetic", "NUDT-MIRSDT"):
        shutil.copytree(tiny_data / "Synthetic", tmp_path / "data" / name)
    return ("--dataset_names", "Synthetic", "NUDT-MIRSDT", "--dataset_dir", tmp_path / "data")


def test_sequences_of_one_name_of_two_data_sets_get_folders_of_their_own(two_sets, tmp_path):
    predicted(tmp_path / "out", *two_sets, "--tracks", "off", *LIGHT)
    folders = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in folders] == ["Sequence4", "Sequence4-2", "Sequence5", "Sequence5-2"]
    assert all(Results(path).summary["is_complete"] for path in folders)


def test_one_network_serves_all_sequences_of_a_data_set(two_sets, monkeypatch):
    """Whose recipe is that of the set; all are there before the first one is predicted."""
    made = []
    monkeypatch.setattr(predict, "Detector", recording(predict.Detector, made))
    args = predict.parse([str(word) for word in (*two_sets, *CPU)])
    stages = predict.stages_of(args, predict.find_sources(args))
    assert len(made) == 2 and len(stages) == 4
    for one in stages:
        same = [other.detector is one.detector for other in stages]
        assert same == [other.video.source.dataset == one.video.source.dataset for other in stages]
        assert (one.video.constants is None) == (one.video.source.dataset == "Synthetic")


def test_images_by_standard_input(tmp_path, monkeypatch):
    (tmp_path / "frames").write_bytes(b"".join(encoded(dots())))
    with open(tmp_path / "frames", "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        results = predicted(tmp_path / "out", "-", *LIGHT)
    check_dots(results, NUMBERS)
    assert results.summary["source"] == "standard input"


def test_a_camera(camera, tmp_path, monkeypatch):  # noqa: F811 - the fixture
    monkeypatch.chdir(tmp_path)
    camera.frames = [cv2.merge([frame] * 3) for frame in dots()]
    results = predicted(tmp_path / "out", "0", *LIGHT)
    check_dots(results, NUMBERS)
    assert results.summary["source"] == "camera 0"
    (opened,) = Camera.opened
    assert opened.where == 0 and opened.released


def recording(kind: type, made: list) -> type:
    """A class whose objects are put into a list."""

    class Recorded(kind):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    return Recorded


def test_sequences_to_train_on(tiny_data):
    data = ("--dataset_names", "Synthetic", "--dataset_dir", str(tiny_data))
    names = {split: find_names(*data, "--split", split) for split in ("train", "test")}
    assert names == {"train": ["Sequence1", "Sequence2", "Sequence3"], "test": ["Sequence4", "Sequence5"]}
    assert find_names(*data) == names["test"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "the 16-bit counts of sequence data are divided by 257 (--range file)"),
        (("auto",), "the 16-bit counts of sequence data are divided by 257 (--range file)"),
        (("21000", "21765"), "counts from 21000 to 21765 become gray values 0 to 255 (as --range says)"),
    ],
)
def test_counts_of_a_data_set_are_those_of_its_files_unless_a_range_is_typed(tmp_path, words, told):
    write_frames(tmp_path / "data" / "images", [np.uint16(21000 + 3 * frame.astype(int)) for frame in dots()])
    data = ("--dataset_names", "Folder", "--dataset_dir", tmp_path / "data")
    flags = ("--range", *words) if words else ()
    results = predicted(tmp_path / "out", *data, *flags, *LIGHT)
    assert any(told in note for note in results.summary["notes"])
    check_dots(results, IMAGES)


def find_names(*argv: str) -> list[str]:
    return [source.name for source in predict.find_sources(predict.parse(list(argv)))]


# ---------------------------------------------------------------- where the results go


def test_without_out_the_results_are_in_the_log(tmp_path, capsys):
    images = write_frames(tmp_path / "run", dots())
    for _ in range(2):
        assert predict.main([str(images), "--log_dir", str(tmp_path / "log"), *LIGHT]) is None
    folders = sorted((tmp_path / "log" / "predict" / "run").iterdir())
    assert len(folders) == 2
    for folder in folders:
        check_dots(Results(folder), IMAGES)
        assert f"in {folder}\n" in capsys.readouterr().out or folder != folders[0]


def test_results_are_not_mixed_with_earlier_ones(tmp_path, refusal):  # noqa: F811 - the fixture
    images = write_frames(tmp_path / "run", dots())
    predicted(tmp_path / "out", images, *LIGHT)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    told = refusal(predict, images, "--out", tmp_path / "out", *LIGHT[:-2])
    assert (
        told
        == f"{tmp_path / 'out'} holds detections.csv already; name another folder, or take the old files away"
    )
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "two").mkdir()
    shutil.copytree(tmp_path / "out", tmp_path / "two" / "0")
    flags = (images, images / "0.png", "--out", tmp_path / "two", *LIGHT[:-2])
    write_frames(tmp_path / "other" / "0", dots())
    told = refusal(predict, images, tmp_path / "other" / "0", *flags[2:])
    assert told.startswith(f"{tmp_path / 'two' / '0'} holds detections.csv already")
    assert not (tmp_path / "two" / "run").exists()  # nothing was begun


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "name either sources or --dataset_names"),
        (("run", "--dataset_names", "Synthetic"), "name either sources or --dataset_names"),
        (("run", "--dataset_dir", "x"), "--dataset_dir has no effect without --dataset_names; leave it out"),
        (
            ("run", "--dataset_option", "box_origin=1"),
            "--dataset_option has no effect without --dataset_names",
        ),
        (("run", "--split", "train"), "--split has no effect without --dataset_names; leave it out"),
        (("run", "--log_dir", "x", "--out", "y"), "--log_dir has no effect beside --out; leave one of them"),
        (("run", "--model_names", "TopHat", "TemporalMedian"), "one model at a time finds targets; name one"),
        (("run", "--checkpoint", "a.pth", "b.pth"), "one model at a time finds targets; name one"),
        (("run", "--model_names", "DeepPro"), "DeepPro needs weights; give --checkpoint (from train.py) or"),
        (("run", "--official", "a.pth"), "--official a.pth belongs to no model; name its model in"),
        (("run", "--checkpoint", "a.pth"), "there is no checkpoint a.pth; give the path of a .pth file"),
        (
            ("run", "--tracks", "off", "--track_option", "hits=3"),
            "--track_option has no effect without --tracks",
        ),
        (("run", "--track_option", "hits=9"), "no track has 9 hits in 8 frames"),
        (("run", "--tracks", "of"), "it takes on or off, not 'of'"),
        (("run", "--range", "5"), "--range is 5; it takes auto, file, or two counts"),
        (("run", "--range", "9", "5"), "--range is 9 5; it takes auto, file, or two counts"),
        (("run", "--range", "auto", "file"), "--range is auto file; it takes auto, file, or two counts"),
        (("run", "--save_maps", "jpg"), "argument --save_maps: invalid choice: 'jpg'"),
        (("run", "--register", "maybe"), "--register takes off or auto or on, not 'maybe'"),
        (
            ("run", "--threshold", "2"),
            "--threshold cannot be 2.0: it takes a number, at least 0 and at most 1",
        ),
        (("run", "--set", "view.letterbox=64"), "TemporalMedian takes frames as they are"),
        (("run", "--set", "view.multiple=64"), "TemporalMedian takes frames as they are"),
        (("run", "--set", "view.channels=3"), "set view.channels to 1"),
        (("run", "--set", "view.frames=3", "--set", "view.key=1"), "the network predicts 3 frames of"),
        (("run", "--set", "epochs=3"), "recipe key optimisation.epochs has no effect on what TemporalMedian"),
        (
            ("run", "--set", "scoring.match=3"),
            "recipe key scoring.match has no effect on what TemporalMedian",
        ),
        (("run", "--set", "scoring.paper=RPRNet"), "recipe key scoring.paper has no effect on what Temporal"),
        (("run", "--set", "scoring.protocol=clean"), "recipe key scoring.protocol has no effect on what"),
        (("run", "--set", "register=on", "--register", "off"), "register"),
        (("nothing",), "there is no nothing; name a video, an image, a folder"),
        (("run", "nothing/*.png"), "nothing matches nothing/*.png; name a video, an image"),
        (("empty",), "there are no images"),
        (("text.mp4",), "text.mp4 is no image, and no video that OpenCV can open"),
        (("run", "--out", "text.mp4"), "text.mp4 is a file; name a folder for what is found"),
        (("run", "--out", "text.mp4/x"), "text.mp4/x"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(flags, told, tmp_path, monkeypatch, refusal):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "run", dots(2))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    before = sorted(tmp_path.rglob("*"))
    assert told in refusal(predict, *flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_does_not_fit_is_told_before_any_source_is_predicted(tmp_path, refusal):  # noqa: F811
    write_frames(tmp_path / "a", dots(3))
    write_frames(tmp_path / "b", dots(3, (50, 40)))
    flags = ("--model_names", "TopHat", "--set", "view.canvas=48", "--out", tmp_path / "out")
    told = refusal(predict, tmp_path / "a", tmp_path / "b", *flags)
    assert "frames of b are 40x50, larger than the canvas of 48x48" in told
    assert not (tmp_path / "out").exists()
