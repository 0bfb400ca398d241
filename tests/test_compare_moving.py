"""tools/compare_moving.py: its figures are those of test.py, whatever the sequence and the detector."""

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import test
from metrics import tracks
from model import create_model
from tests.moving import Camera, Target, moving_video
from utils.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import compare_moving  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (56, 72)
CAMERA = Camera((0.4, -0.1))  # the ends of a window still see most of its middle
COUNT = 22


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Two folders with a target each and boxes of 11x11 around it, 4 pixels beside it in "loose"."""
    root = tmp_path_factory.mktemp("scenes")
    for number, (name, beside) in enumerate((("tight", 0), ("loose", 4))):
        video = moving_video(COUNT, SIZE, CAMERA, [Target((40, 25), (-1.3, 0.4), 70)], seed=number)
        (root / name / "images").mkdir(parents=True)
        for place, pixels in enumerate(video.frames):
            cv2.imwrite(str(root / name / "images" / f"{place:03d}.png"), pixels)
        with (root / name / "boxes.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["frame", *"xywh"])
            for place, (x, y) in enumerate(video.places[:, 0]):
                rows.writerow([f"{place:03d}.png", round(x) - 5 + beside, round(y) - 5, 11, 11])
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A DeepPro that finds half of the pixels in noise, as a published file."""
    torch.manual_seed(0)
    model, path = create_model("DeepPro").eval(), tmp_path_factory.mktemp("weights") / "deeppro.pth"
    with torch.inference_mode():
        model.head.bias -= model(torch.randn(1, 1, 40, 16, 16))["logits"].median()
    torch.save({"model_state_dict": model.state_dict()}, path)
    return path


def compared(out: Path, *flags) -> dict[tuple[str, str], dict]:
    """The rows of the file that a call wrote, by sequence and detector."""
    compare_moving.main([str(flag) for flag in (*flags, "--out", out)])
    return {(row["sequence"], row["detector"]): row for row in json.loads(out.read_text())["rows"]}


def scored(log: Path, scene: Path, *flags) -> dict:
    """The figures of test.py on a sequence, by CentroidPdFa and of tracks."""
    flags = (*flags, "--dataset_names", "Folder", "--dataset_dir", scene, "--tracks", "--protocol", "clean")
    test.main([str(flag) for flag in (*flags, "--log_dir", log)])
    (file,) = log.rglob("eval.json")
    found: dict = {}
    for scores in json.loads(file.read_text())["scores"]:
        if scores["targets_by"] == "CentroidPdFa" or scores["protocol"] == "tracks":
            found[scores["protocol"]] = scores["groups"]["all"]
    return found


@pytest.mark.parametrize(
    ("detector", "flags"),
    [
        ("TopHat", ()),
        ("TemporalMedian", ()),
        ("DeepPro+register+confirm", ("--register", "auto", "--confirm", "TopHat")),
    ],
)
def test_the_figures_are_those_of_test_py(scenes, weights, tmp_path, detector, flags):
    model = detector.split("+")[0]
    official = ("--official", weights) * (model == "DeepPro")
    rows = compared(tmp_path / "a.json", "--sequences", scenes / "tight", "--detectors", detector, *official)
    found = scored(tmp_path / "log", scenes / "tight", "--model_names", model, *official, *flags)
    (row,) = rows.values()
    clean = found["clean"]
    assert {name: row[name] for name in ("true", "targets", "pd", "fa")} == {
        name: clean[name] for name in ("true", "targets", "pd", "fa")
    }
    assert row["false"] == pytest.approx(COUNT * clean["false_boxes_per_frame"])
    assert row["true"] + row["false"] > 0  # there is something to compare
    precision, recall = row["true"] / (row["true"] + row["false"]), row["true"] / row["targets"]
    harmonic = 2 * precision * recall / (precision + recall) if row["true"] else 0
    assert row["f1"] == pytest.approx(harmonic)
    for name in ("tracks", "false_tracks", "on_track", "hota", "idf1", "mota"):
        assert row[name] == found["tracks"][name]
    assert row["seconds"] > 0 and row["frames"] == COUNT


def test_the_table_says_what_was_found_and_registered(scenes, weights, tmp_path, capsys):
    names = ["TopHat", "DeepPro+register", "TemporalMedian"]
    flags = ("--sequences", scenes / "tight", "--official", weights, "--detectors", *names)
    rows = compared(tmp_path / "a.json", *flags)
    median = rows["tight", "TemporalMedian"]
    assert [rows["tight", name]["registered"] for name in names[:2]] == [None, 1]
    assert 0.8 < median["registered"] <= (COUNT - 1) / COUNT  # the first frame moves against none
    assert median["pd"] > 0.9 and median["tracks"] == 1 and not median["false_tracks"]
    printed, written = capsys.readouterr().out, (tmp_path / "a.md").read_text()
    assert written in printed
    header, _, *lines = [line for line in written.splitlines() if line.startswith("|")]
    assert "found" in header and [line.split("|")[2].strip() for line in lines] == names
    assert f"{median['true']}/{COUNT}" in lines[-1] and "{" not in written


def test_of_a_loose_box_the_peak_may_be_the_target(scenes, tmp_path):
    places = [scenes / "loose", f"{scenes / 'loose'},truth=peak"]
    rows = compared(tmp_path / "a.json", "--sequences", *places, "--detectors", "TemporalMedian")
    given, peak = (rows[name, "TemporalMedian"] for name in ("loose", "loose (peaks in boxes)"))
    assert given["pd"] == 0 and peak["pd"] > 0.9
    assert (given["truth"], peak["truth"]) == ("given", "peak")


def test_options_of_a_sequence_reach_its_reader(scenes, tmp_path):
    places = [scenes / "tight", f"Folder={scenes / 'loose'},box_origin=1,split=train"]
    scene = compare_moving.scenes_of(str(places[1]))[0]
    (plain,) = compare_moving.scenes_of(str(scenes / "loose"))
    assert np.array_equal(scene.sequence.boxes[0], plain.sequence.boxes[0] - 1)
    assert scene.data.split == "train"


def test_rows_are_added_to_those_before_or_take_their_place(scenes, tmp_path):
    out, of = tmp_path / "a.json", ("--detectors", "TopHat")
    first = compared(out, "--sequences", scenes / "tight", *of)
    both = compared(out, "--sequences", scenes / "loose", scenes / "tight", *of, "--add")
    assert list(both) == [("tight", "TopHat"), ("loose", "TopHat")]
    assert both["tight", "TopHat"]["seconds"] != first["tight", "TopHat"]["seconds"]
    assert list(compared(out, "--sequences", scenes / "loose", *of)) == [("loose", "TopHat")]


def refusal(*flags) -> str:
    with pytest.raises(UserError) as raised:
        compare_moving.main([str(flag) for flag in flags])
    return str(raised.value)


def test_what_cannot_be_compared_is_told_in_a_sentence(scenes, weights, tmp_path):
    (tmp_path / "bare" / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "bare" / "images" / "0.png"), np.zeros(SIZE, np.uint8))
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "b.json").write_text('{"machine": {}, "rows": []}')
    out = ("--out", tmp_path / "c.json", "--detectors", "TopHat", "--sequences")
    assert f"there is no folder {tmp_path / 'none'}" in refusal(*out, tmp_path / "none")
    assert "bare has no" in refusal(*out, tmp_path / "bare")
    assert "bare in" in refusal(*out, f"{tmp_path / 'bare'},truth=peak")
    assert "truth=peek" in refusal(*out, f"{scenes / 'tight'},truth=peek")
    assert "takes key=value, not 'box'" in refusal(*out, f"{scenes / 'tight'},box")
    assert "DAUBB" in refusal(*out, f"DAUBB={scenes / 'tight'}")
    assert not (tmp_path / "c.json").exists()
    of = ("--sequences", scenes / "tight", "--detectors")
    assert "there is no +registered; did you mean register" in refusal(*of, "DeepPro+registered")
    assert "DeepPro needs weights" in refusal("--out", tmp_path / "c.json", *of, "DeepPro")
    add = ("--add", *of, "TopHat", "--out")
    assert "is no file of this tool" in refusal(*add, tmp_path / "a.json")
    assert "another machine" in refusal(*add, tmp_path / "b.json")


def test_without_trackeval_there_is_one_sentence(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(tracks, "require_trackeval", lambda: (_ for _ in ()).throw(UserError("no trackeval")))
    flags = ("--sequences", scenes / "tight", "--detectors", "TopHat", "--out", tmp_path / "a.json")
    assert refusal(*flags) == "no trackeval"
