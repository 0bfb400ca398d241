"""tools/measure_predict.py: the video that it makes, and what it takes from a real run."""

import json
import sys
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset.sources import open_sources
from tests.videos import smooth
from utils.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import measure_predict  # noqa: E402


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of 5 images of 48x64."""
    (tmp_path / "scene").mkdir()
    for place, pixels in enumerate(smooth(5)):
        cv2.imwrite(str(tmp_path / "scene" / f"{place}.png"), pixels)
    return tmp_path / "scene"


def test_frames_are_played_forth_and_back(images):
    (source,) = open_sources([str(images)])
    frames = [cv2.imread(str(images / f"{place}.png"), cv2.IMREAD_GRAYSCALE) for place in range(5)]
    expected = [frames[place] for place in (0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2)]
    np.testing.assert_array_equal(list(measure_predict.played(source, 11)), expected)


def test_runs_take_turns_and_are_added_to_earlier_ones(images, tmp_path, monkeypatch, capsys):
    calls, seconds = [], count(1)

    def measured(video, folder, flags):
        reader = cv2.VideoCapture(str(video))
        calls.append((video.name, flags, [reader.get(i) for i in (cv2.CAP_PROP_FRAME_COUNT, 3, 4)]))
        spent = next(seconds)
        of_stages = {"read": 0.06, "detect": 0.6, "all": spent}
        return {"seconds": of_stages, "frames/s": 12 / spent, "peak MiB": 100.0 * spent, "load before": 0.5}

    monkeypatch.setattr(measure_predict, "measured", measured)
    out = tmp_path / "a.json"
    (tmp_path / "other").symlink_to(images)
    flags = ["--frames", "12", "--rounds", "2", "--flag=--no-overlay", "--out", str(out)]
    measure_predict.main([str(images), str(tmp_path / "other"), *flags])
    assert [name for name, *_ in calls] == ["0.mp4", "1.mp4"] * 2
    assert all(rest == (["--no-overlay"], [12, 64, 48]) for _, *rest in calls for rest in [tuple(rest)])
    said = "scene (64x48, 12 frames): 8.0 frames/s; ms per frame: read 5.0, detect 50.0; 300 MiB"
    assert said in capsys.readouterr().out  # of seconds 1 and 3: 12 and 4 frames a second
    measure_predict.main([str(images), *flags])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["source"], len(row["runs"])) for row in rows] == [("scene", 2), ("other", 2), ("scene", 2)]
    out.write_text('{"machine": {}, "rows": []}')
    with pytest.raises(UserError, match="holds no measurements of this machine"):
        measure_predict.main([str(images), *flags])


@pytest.mark.slow
def test_a_real_run_is_measured(images, tmp_path):
    out = tmp_path / "a.json"
    measure_predict.main([str(images), "--frames", "30", "--rounds", "1", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    (run,) = row["runs"]
    assert run["seconds"].keys() == {"read", "register", "detect", "track", "all"}
    assert run["frames/s"] > 0 and 50 < run["peak MiB"] < 5000
