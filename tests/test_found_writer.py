"""All files of a video's findings together: complete, interrupted, killed, on a full disk; and the sheet."""

import contextlib
import csv
import gc
import json
import math
import platform
import weakref

import cv2
import numpy as np
import pytest

from tests.founds import Frame, found_in, founds_of
from tests.moving import Target, moving_video
from tests.test_flags import small_disk
from utils.boxes import BoxPrediction
from utils.detections import Detections, Found, TrackPoint
from utils.errors import UserError
from utils.files import temporary_beside
from utils.motion import Motion
from utils.report import found_sheet
from utils.report.found_sheet import FoundSheet
from utils.report.found_writer import FoundWriter
from utils.report.map_files import MapFiles

FILES = [
    "detections.csv",
    "detections.json",
    "motion.csv",
    "overlay.mp4",
    "sheet.png",
    "summary.json",
    "tracks.csv",
    "tracks_mot.txt",
]


@pytest.fixture(scope="module")
def founds():
    """20 frames with two targets, of which frame 4 cannot be read."""
    targets = [Target((30, 20)), Target((20, 30), (0.5, 0))]
    return list(founds_of(moving_video(20, (48, 64), targets=targets), unreadable=[4]))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def frames_in(path):
    video = cv2.VideoCapture(str(path))
    return int(video.get(cv2.CAP_PROP_FRAME_COUNT))


def check_whole(folder, frames):
    """All files are of the first `frames` frames."""
    assert len((folder / "motion.csv").read_text().splitlines()) == frames + 1
    rows = list(csv.DictReader((folder / "detections.csv").open()))
    of = [row["frame"] for row in rows]
    assert of == [str(n) for n in range(frames) if n != 4 for _ in range(2)]
    assert [e["image_id"] for e in json.loads((folder / "detections.json").read_text())] == list(map(int, of))
    assert len((folder / "tracks.csv").read_text().splitlines()) == 2 * frames + 1
    assert frames_in(folder / "overlay.mp4") == frames
    assert cv2.imread(str(folder / "sheet.png")) is not None
    return json.loads((folder / "summary.json").read_text())


def test_all_files_of_a_video(founds, tmp_path):
    with FoundWriter(
        tmp_path / "a" / "b", {"source": "x.mp4", "notes": ["one"]}, 25, "TopHat on x"
    ) as writer:
        for found in founds:
            writer.add(found)
        writer.finish({"seconds": {"read": 0.5, "detect": 4, "write": 0}})
    assert names_in(tmp_path / "a" / "b") == FILES
    summary = check_whole(tmp_path / "a" / "b", 20)
    versions = summary.pop("versions")
    assert summary == {
        "is_complete": True,
        "frames": 20,
        "unreadable_frames": 1,
        "detections": 38,
        "tracks": 2,
        "source": "x.mp4",
        "notes": ["one"],
        "seconds": {"read": 0.5, "detect": 4, "write": 0},
        "frames_per_second": {"read": 40, "detect": 5, "write": None},
        "files": [name for name in FILES if name != "summary.json"],
    }
    assert versions["python"] == platform.python_version() and versions["opencv"] == cv2.__version__
    assert versions["numpy"] == np.__version__ and versions["program"] and versions["torch"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_leaves_whole_files_of_all_frames_so_far(founds, tmp_path, error):
    facts = {"source": "x.mp4"}
    with pytest.raises(error), FoundWriter(tmp_path, facts, maps=["npz"]) as writer:
        for found in founds:
            if found.frame.number == 7:
                facts["seconds"] = {"read": 2}
                raise error
            writer.add(found)
    assert names_in(tmp_path) == sorted([*FILES, "maps.npz"])
    summary = check_whole(tmp_path, 7)
    assert (summary["is_complete"], summary["frames"], summary["source"]) == (False, 7, "x.mp4")
    assert summary["frames_per_second"] == {"read": 3.5}  # facts are read at the end
    assert len(np.load(tmp_path / "maps.npz").files) == 6


def test_without_overlay_and_without_frames(tmp_path):
    with FoundWriter(tmp_path, overlay=False) as writer:
        writer.finish()
    assert names_in(tmp_path) == [n for n in FILES if n not in ("overlay.mp4", "sheet.png")]
    assert json.loads((tmp_path / "summary.json").read_text())["frames"] == 0


def test_what_a_killed_program_has_left_is_removed(founds, tmp_path):
    gone = 2**22 + 1  # beyond what Linux numbers processes by
    for name in ("detections.csv", "overlay.mp4"):
        left = temporary_beside(tmp_path / name)
        left = left.with_name(left.name.replace(left.name.split(".")[-2], str(gone)))
        left.mkdir() if name == "overlay.mp4" else left.touch()
    assert len(names_in(tmp_path)) == 2
    with FoundWriter(tmp_path) as writer:
        writer.add(founds[0])
        writer.finish()
    assert names_in(tmp_path) == FILES


def test_files_of_an_earlier_video_are_not_mixed_with_new_ones(tmp_path):
    (tmp_path / "tracks.csv").touch()
    with pytest.raises(UserError, match="holds tracks.csv already; name another folder, or take the old"):
        FoundWriter(tmp_path)
    with pytest.raises(UserError, match="tracks.csv is a file; name a folder for what is found"):
        FoundWriter(tmp_path / "tracks.csv")
    assert names_in(tmp_path) == ["tracks.csv"]


def endless(count):
    """Frames of noise with a box and a track each, made one by one."""
    draw = np.random.default_rng(0)
    for number in range(count):
        pixels = draw.integers(0, 255, (16, 16), np.uint8)
        point = TrackPoint(number // 100 + 1, 5, 5, (4, 4, 6, 6), 0.75)
        yield found_in(Frame(number, f"{number:06d}.png", pixels), [[4, 4, 6, 6, 0.75, 1]], [point])


@pytest.mark.parametrize(
    ("size", "frames", "overlay"),
    [(60, 9, False), (5_000, 200, False), (70_000, 2000, False), (50_000, 60, True)],
)
def test_a_full_disk_is_told_in_a_sentence_and_every_line_is_whole(size, frames, overlay, tmp_path):
    with (
        small_disk(size),
        pytest.raises(UserError, match=r"cannot write .*: (File too large|of \d+ frames the file holds)"),
        FoundWriter(tmp_path / "out", overlay=overlay) as writer,
    ):
        for found in endless(frames):
            writer.add(found)
        writer.finish()
    assert not any(path.name.endswith(".tmp") for path in tmp_path.rglob("*"))
    with contextlib.suppress(FileNotFoundError):  # where not even its first line had a place
        assert all(
            line.count(",") == 9 for line in (tmp_path / "out/detections.csv").read_text().splitlines()
        )
        json.loads((tmp_path / "out" / "detections.json").read_text())
    with contextlib.suppress(FileNotFoundError):
        assert not json.loads((tmp_path / "out" / "summary.json").read_text())["is_complete"]


def test_what_could_not_be_written_is_told_by_add(founds, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("cannot write it")

    monkeypatch.setattr(FoundSheet, "add", fail)
    with pytest.raises(UserError, match="cannot write it"), FoundWriter(tmp_path) as writer:
        for number in range(1000):
            writer.add(founds[number % 20])
    assert number < 50
    assert not json.loads((tmp_path / "summary.json").read_text())["is_complete"]


def test_memory_does_not_grow_with_the_length(tmp_path):
    """Hardly any frames are kept: those that wait, and those of the sheet."""
    alive, most = weakref.WeakSet(), 0
    with FoundWriter(tmp_path, overlay=False) as writer:
        for found in endless(4000):
            alive.add(found.frame)
            alive.add(found)
            writer.add(found)
            most = max(most, len(alive))
        writer.finish()
    del found
    gc.collect()
    assert most < 2 * 16
    assert json.loads((tmp_path / "summary.json").read_text())["tracks"] == 40


# ---------------------------------------------------------------- maps


def test_maps_have_the_names_of_the_frames(tmp_path):
    names = ["a/1.png", "../2.BMP", "clip.mp4#3", "clip.mp4#4", "a/1.bmp", "/"]
    files = MapFiles(tmp_path, ("png", "npz"))
    for number, name in enumerate(names):
        frame = Frame(number, name, np.zeros((4, 5), np.uint8))
        files.add(found_in(frame, [[1, 1, 2, 2, 0.75, 0]]))
    files.add(found_in(Frame(9, "unreadable.png", None)))
    with pytest.raises(UserError, match="two frames would have their map in .*clip.mp4#4.png; rename one of"):
        files.add(found_in(frame.__class__(10, "clip.mp4#4", frame.pixels)))
    files.close()
    maps = sorted(path.relative_to(tmp_path / "maps").as_posix() for path in tmp_path.rglob("maps/**/*.png"))
    assert maps == ["2.png", "a/1.bmp.png", "a/1.png", "clip.mp4#3.png", "clip.mp4#4.png", "frame.png"]
    picture = cv2.imread(str(tmp_path / "maps" / "a" / "1.png"), cv2.IMREAD_UNCHANGED)
    assert picture[1, 1] == math.floor(255 * 0.75) and picture.sum() == picture[1, 1]
    archive = np.load(tmp_path / "maps.npz")
    assert set(archive.files) == {"2", "a/1", "a/1.bmp", "clip.mp4#3", "clip.mp4#4", "frame"}
    assert archive["a/1"].dtype == np.float32 and archive["a/1"][1, 1] == 0.75
    assert names_in(tmp_path) == ["maps", "maps.npz"]


def test_boxes_become_maps_of_their_scores(tmp_path):
    boxes = BoxPrediction(np.array([[1, 1, 3, 2, 0.5]]), (4, 5))
    files = MapFiles(tmp_path, ["png"])
    frame = Frame(0, "0.png", np.zeros((4, 5), np.uint8))
    files.add(Found(frame, Motion(), Detections.of(boxes, 0.25), boxes))
    files.close()
    picture = cv2.imread(str(tmp_path / "maps" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert picture[1].tolist() == [0, 127, 127, 0, 0] and picture.sum() == 2 * 127


# ---------------------------------------------------------------- the sheet


@pytest.mark.parametrize("count", [1, 2, 6, 13, 14, 100, 1000])
def test_the_frames_of_a_sheet_are_evenly_spaced(count, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(found_sheet, "overlay_sheet", lambda tiles, *_, **__: sheets.append(tiles))
    sheet = FoundSheet(tmp_path / "sheet.png", "")
    for found in endless(count):
        sheet.add(found)
        assert len(sheet._tiles) <= 12
    sheet.close()
    numbers = [int(tile.number.split()[0]) for tile in sheets[0]]
    assert len(numbers) == min(count, 6) and numbers[0] == 0 and numbers[-1] == count - 1
    if count > 12:
        steps = np.diff(numbers) / (count / 5)
        assert steps.min() > 0.5 and steps.max() < 2


def test_a_sheet_counts_detections_and_tracks_and_calls_nothing_false(founds, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(found_sheet, "overlay_sheet", lambda tiles, *_, **__: sheets.append(tiles))
    sheet = FoundSheet(tmp_path / "sheet.png", "")
    for found in founds:
        sheet.add(found)
    sheet.close()
    assert [tile.caption for tile in sheets[0]] == ["detections 2    tracks 2"] * 6
    assert sheets[0][0].number == "0  00000.png" and all(tile.truth is None for tile in sheets[0])
    assert all(int(tile.number.split()[0]) != 4 for tile in sheets[0])  # it cannot be read
