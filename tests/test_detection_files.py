"""The text files of what was found: their contents to the character, and that they are whole at any time."""

import csv
import json

import numpy as np
import pytest

from tests.founds import Frame, found_in
from tests.test_flags import small_disk
from utils.detections import TrackPoint
from utils.errors import UserError
from utils.motion import Motion
from utils.report.detection_files import DetectionFiles, RecordFile

PIXELS = np.zeros((8, 12), np.uint8)
FOUND = [
    found_in(
        Frame(0, "a, b.png", PIXELS),
        [[3, 2, 5, 3, 0.9871654321, 7], [9, 5, 10, 7, 0.5, 0]],
        [TrackPoint(7, 3.51239, 2, (3, 2, 5, 3), 0.9871654321)],
    ),
    found_in(Frame(1, "c.png", None)),
    found_in(
        Frame(2, "d.png", PIXELS),
        tracks=[TrackPoint(7, -0.00001, 2.25, (-1, 1.5, 1, 3), None)],
        motion=Motion(np.array([[1, 0, 1.23456789012], [0, 1, -0.5], [1e-6, 0, 1]]), 4.5, 1.0625, True),
    ),
]
CONTENTS = {
    "detections.csv": """\
frame,name,x,y,score,x1,y1,x2,y2,track
0,"a, b.png",3.500,2.000,0.987165,3.000,2.000,5.000,3.000,7
0,"a, b.png",9.000,5.500,0.500000,9.000,5.000,10.000,7.000,
""",
    "tracks.csv": """\
frame,name,track,x,y,x1,y1,x2,y2,score
0,"a, b.png",7,3.512,2.000,3.000,2.000,5.000,3.000,0.987165
2,d.png,7,0.000,2.250,-1.000,1.500,1.000,3.000,
""",
    "tracks_mot.txt": """\
1,7,4.000,3.000,2.000,1.000,0.987165,-1,-1,-1
3,7,0.000,2.500,2.000,1.500,-1,-1,-1,-1
""",
    "detections.json": """\
[
{"image_id": 0, "file_name": "a, b.png", "category_id": 1, "bbox": [3.0, 2.0, 2.0, 1.0], "score": 0.987165},
{"image_id": 0, "file_name": "a, b.png", "category_id": 1, "bbox": [9.0, 5.0, 1.0, 2.0], "score": 0.5}
]
""",
    "motion.csv": """\
frame,h11,h12,h13,h21,h22,h23,h31,h32,h33,still,residual,measured
0,1,0,0,0,1,0,0,0,1,0.000,0.000,0
1,1,0,0,0,1,0,0,0,1,0.000,0.000,0
2,1,0,1.23456789,0,1,-0.5,1e-06,0,1,4.500,1.062,1
""",
}


def written(folder, founds):
    files = DetectionFiles(folder)
    for found in founds:
        files.add(found)
    files.close()
    return {path.name: path.read_bytes().decode() for path in sorted(folder.iterdir())}


def test_the_files_to_the_character(tmp_path):
    assert written(tmp_path, FOUND) == CONTENTS


def test_without_frames_the_files_have_their_heads_alone(tmp_path):
    contents = written(tmp_path, [])
    assert json.loads(contents.pop("detections.json")) == [] and contents.pop("tracks_mot.txt") == ""
    assert contents == {name: CONTENTS[name].partition("\n")[0] + "\n" for name in contents}


def test_numbers_come_back_from_a_long_file(tmp_path):
    draw = np.random.default_rng(0)
    boxes = [np.sort(draw.uniform(0, 600, (2, 2)), axis=0).ravel().tolist() for _ in range(3000)]
    scores = draw.random(3000)
    homographies = np.eye(3) + draw.normal(
        0, [[0.01, 0.01, 9], [0.01, 0.01, 9], [1e-6, 1e-6, 0]], (3000, 3, 3)
    )
    founds = (
        found_in(Frame(n, f"{n}.png", None), [[*boxes[n], scores[n], n % 3]], motion=Motion(homographies[n]))
        for n in range(3000)
    )
    contents = written(tmp_path, founds)
    rows = list(csv.DictReader(contents["detections.csv"].splitlines()))
    found = np.array([[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in rows])
    np.testing.assert_allclose(found, boxes, atol=0.0005001)
    np.testing.assert_allclose([float(row["score"]) for row in rows], scores, atol=0.5001e-6)
    assert [row["track"] for row in rows[:3]] == ["", "1", "2"]
    x, y, width, height = np.array([entry["bbox"] for entry in json.loads(contents["detections.json"])]).T
    np.testing.assert_allclose(np.stack([x, y, x + width, y + height], axis=1), boxes, atol=0.002)
    numbers = [line.split(",")[1:10] for line in contents["motion.csv"].splitlines()[1:]]
    np.testing.assert_allclose(np.array(numbers, float).reshape(-1, 3, 3), homographies, rtol=1e-8)


def test_a_name_that_is_no_text_keeps_its_bytes(tmp_path):
    name = b"caf\xe9\n.png".decode("utf-8", "surrogateescape")
    files = DetectionFiles(tmp_path)
    files.add(found_in(Frame(0, name, PIXELS), [[3, 2, 5, 3, 0.5, 0]]))
    files.close()
    assert b'0,"caf\xe9\n.png",3.500' in (tmp_path / "detections.csv").read_bytes()
    assert json.loads((tmp_path / "detections.json").read_text())[0]["file_name"] == name


@pytest.mark.parametrize("size", [100, 70_000, 200_000])
def test_a_full_disk_is_told_and_leaves_a_whole_file(tmp_path, size):
    file = RecordFile(tmp_path / "a.json", "[\n", ",\n", "\n]\n")
    entries = (json.dumps({"number": n, "text": "x" * 100}) for n in range(10_000))
    with small_disk(size):
        with pytest.raises(UserError, match="cannot write .*a.json: File too large; free some space"):
            for entry in entries:
                file.add([entry])
        file.add([json.dumps({"number": -1})])
        file.close()
    numbers = [entry["number"] for entry in json.loads((tmp_path / "a.json").read_text())]
    assert numbers[:-1] == list(range(len(numbers) - 1)) and numbers[-1] == -1
    assert len(numbers) > 1 or size < 2**16
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_memory_and_the_file_grow_together(tmp_path):
    file = RecordFile(tmp_path / "a.txt")
    for _ in range(3000):
        file.add(["x" * 99 + "\n"])
    (unfinished,) = tmp_path.iterdir()
    assert unfinished.name.endswith(".tmp") and unfinished.stat().st_size > 200_000
    file.close()
    assert (tmp_path / "a.txt").stat().st_size == 300_000
