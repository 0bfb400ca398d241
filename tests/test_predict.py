"""predict.py from end to end: what it finds in a video of which all is known, with every kind of model."""

import contextlib
import io
import json
import re

import cv2
import numpy as np
import pytest
from moving import Camera, Target, moving_video
from predicted import (
    CPU,
    FILES,
    LIGHT,
    Results,
    dots,
    predicted,
    write_frames,
)
from videos import write_video

from utils.motion import moved

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- a moving camera


@pytest.fixture(scope="module")
def video():
    """48 frames of a camera that pans, turns and zooms, with one target."""
    camera = Camera((0.9, -0.3), 0.1, 1.001, jitter=0.2)
    return moving_video(48, (72, 96), camera, [Target((25, 45), (0.3, -0.2), 60)], noise=1.0)


@pytest.fixture(scope="module")
def printed():
    return io.StringIO()


@pytest.fixture(scope="module", params=["v.mp4", "images"])
def found(request, video, printed, one_thread, tmp_path_factory) -> Results:
    """What is found in it, as an mp4 and as PNG images."""
    folder = tmp_path_factory.mktemp("moving")
    if request.param == "images":
        source = write_frames(folder / "images", video.frames)
    else:
        source = write_video(folder / "v.mp4", [cv2.merge([f] * 3) for f in video.frames], "mp4v", fps=30)
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        return predicted(folder / "out", source, *CPU)


def test_all_files_are_there_and_agree(found):
    assert found.names == FILES
    found.check(48)
    assert found.summary["notes"] == []
    assert (found.summary["model"], found.summary["weights"]) == ("TemporalMedian", "no parameters")
    assert found.summary["recipe"]["view"]["register"] == "auto"
    assert found.summary["tracks_by"]["hits"] == 5
    assert cv2.imread(str(found.folder / "sheet.png")).std() > 10


def test_the_target_is_found_where_it_is_by_one_track(found, video):
    place = {int(row["frame"]): (float(row["x"]), float(row["y"])) for row in found.detections}
    assert len(found.detections) == len(place) >= 46  # one in a frame
    for frame, (x, y) in place.items():
        assert np.hypot(*np.subtract((x, y), video.targets(frame)[1])) < 1
    assert {row["track"] for row in found.detections} == {"1"}
    assert all(float(row["score"]) > 0.5 for row in found.detections)
    for row in found.detections:
        x, y, x1, y1, x2, y2 = (float(row[key]) for key in ("x", "y", "x1", "y1", "x2", "y2"))
        assert x1 <= x + 0.5 <= x2 and y1 <= y + 0.5 <= y2
    tracks = found.rows("tracks.csv")
    assert {row["track"] for row in tracks} == {"1"}
    numbers = [int(row["frame"]) for row in tracks]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) >= 46
    for row in tracks:
        off = np.subtract((float(row["x"]), float(row["y"])), video.targets(int(row["frame"]))[1])
        assert np.hypot(*off) < 1.5
    names = {row["name"] for row in found.detections}
    assert all(re.fullmatch(r"\d+\.png|\d{6}", name) for name in names)
    by_name = {row["frame"]: int(row["name"].removesuffix(".png")) for row in found.detections}
    assert all(int(frame) == number for frame, number in by_name.items())


def test_the_homographies_are_those_of_the_camera(found, video):
    corners = [(0, 0), (95, 0), (0, 71), (95, 71), (48, 36)]
    rows = found.rows("motion.csv")
    assert rows[0]["measured"] == "0" and sum(row["measured"] == "1" for row in rows) >= 45
    errors = []
    for step, own, row in zip(found.homographies, video.homographies, rows, strict=True):
        if row["measured"] == "1":
            errors.append(np.hypot(*(moved(corners, step) - moved(corners, own)).T))
            assert float(row["residual"]) < float(row["still"])
    assert np.max(errors, axis=0).max() < 1.8 and np.median(np.max(errors, axis=1)) < 0.8
    assert np.max(errors, axis=0)[-1] < 0.4 and np.median(errors, axis=0)[-1] < 0.12


def test_coco_and_mot_files_say_the_same(found):
    rows = found.detections
    entries = json.loads((found.folder / "detections.json").read_text())
    for row, entry in zip(rows, entries, strict=True):
        x1, y1, x2, y2 = (float(row[key]) for key in ("x1", "y1", "x2", "y2"))
        assert entry["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=2e-3)
        assert entry["score"] == pytest.approx(float(row["score"]), abs=1e-6)
        assert entry["file_name"] == row["name"]
    first = (found.folder / "tracks_mot.txt").read_text().split(",")
    assert (first[0], first[1]) == (str(int(found.rows("tracks.csv")[0]["frame"]) + 1), "1")


def test_the_rate_of_the_overlay_is_that_of_the_video(found):
    overlay = cv2.VideoCapture(str(found.folder / "overlay.mp4"))
    assert overlay.get(cv2.CAP_PROP_FPS) == (30 if found.detections[0]["name"] == "000000" else 25)


def test_the_seconds_of_the_stages_add_up(found):
    seconds = found.summary["seconds"]
    assert list(seconds) == ["read", "register", "detect", "track", "all"]
    assert all(value > 0 for value in seconds.values())
    assert seconds["detect"] + seconds["track"] <= seconds["all"]
    assert seconds["read"] + seconds["register"] <= seconds["all"]
    rates = found.summary["frames_per_second"]
    assert rates == {stage: pytest.approx(48 / value) for stage, value in seconds.items()}


def test_nothing_is_called_a_false_alarm_or_scored(found, printed):
    texts = [printed.getvalue()]
    texts += [path.read_text() for path in found.folder.iterdir() if path.suffix in (".csv", ".json", ".txt")]
    words = re.compile(r"false.?alarm|false.?positive|\bFa\b|\bPd\b|\bAUC\b|\bIoU\b|\|", re.IGNORECASE)
    assert not [match[0] for text in texts for match in words.finditer(text)]
    assert (
        f"TemporalMedian on {found.folder.parent.name}" in printed.getvalue()
        or "on v: " in printed.getvalue()
    )


def test_what_is_printed(tmp_path, capsys):
    write_frames(tmp_path / "run", dots())
    predicted(tmp_path / "out", tmp_path / "run", *LIGHT)
    told = capsys.readouterr()
    note, line, folder = told.out.splitlines()
    assert note.startswith(f"note: {tmp_path / 'run'}: gray values have mean 44.9 and standard deviation")
    assert re.fullmatch(r"TopHat on run: 12 detections, 1 tracks in 12 frames, \d+\.\d a second", line)
    assert folder == f"in {tmp_path / 'out'}" and told.err == ""
