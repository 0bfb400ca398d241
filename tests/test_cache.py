"""The cache of decoded frames: the same values from files that are made once."""

import os
import subprocess
import sys

import numpy as np
import pytest
from recipes import view_of
from test_frames import pixels_of, random_frames, saved, sequence_of

import dataset.frames
from dataset.frames import SequenceFrames
from tests.conftest import ROOT
from utils.errors import UserError


@pytest.fixture
def count_decoded(monkeypatch):
    decoded = []
    original = dataset.frames.read_gray
    monkeypatch.setattr(
        dataset.frames, "read_gray", lambda path, *a: decoded.append(path) or original(path, *a)
    )
    return decoded


@pytest.mark.parametrize("resize", [None, (9, 11)])
@pytest.mark.parametrize("depth", [1, 257])
def test_the_cache_changes_no_value(tmp_path, resize, depth):
    images = [frame * np.array(depth, np.uint16 if depth > 1 else np.uint8) for frame in random_frames(4)]
    sequence = sequence_of(tmp_path, images, masks=random_frames(4, seed=1))
    view = view_of("train", train_resize=resize)
    plain = SequenceFrames(sequence, view)
    cached = SequenceFrames(sequence, view, cache=tmp_path / "cache")
    assert np.array_equal(cached.images(0, 4), plain.images(0, 4))
    assert np.array_equal(cached.masks(range(4)), plain.masks(range(4)))
    assert cached.statistics() == plain.statistics()


def test_one_cache_serves_several_views(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(2), masks=random_frames(2, seed=1))
    kinds = [
        {},
        {"train_resize": (9, 11)},
        {"letterbox": 16},
        {"train_resize": (9, 11), "mask_resize": "nearest"},
    ]
    for _ in range(2):
        for settings in kinds:
            view = view_of("train", **settings)
            plain, cached = (SequenceFrames(sequence, view, cache) for cache in (None, tmp_path / "cache"))
            assert np.array_equal(cached.images(0, 2), plain.images(0, 2))
            assert np.array_equal(cached.masks(range(2)), plain.masks(range(2)))


def test_with_the_cache_each_file_is_decoded_once_for_all_epochs(tmp_path, count_decoded):
    sequence = sequence_of(tmp_path, random_frames(5), masks=random_frames(5))
    for _ in range(2):
        frames = SequenceFrames(sequence, cache=tmp_path / "cache")
        for _epoch in range(2):
            frames.images(0, 4), frames.masks(range(1, 5)), frames.statistics()
    assert sorted(count_decoded) == sorted(sequence.images + sequence.masks)


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("differs", ["time", "size"])
def test_a_changed_file_is_decoded_anew(tmp_path, kind, differs):
    sequence = sequence_of(tmp_path, random_frames(3), masks=random_frames(3))
    cache = tmp_path / "cache"
    before = pixels_of(SequenceFrames(sequence, cache=cache), kind)
    path = getattr(sequence, kind)[1]
    stat = path.stat()
    saved(path, np.zeros((6, 7), np.uint8))
    assert path.stat().st_size < stat.st_size
    if differs == "time":
        path.write_bytes(path.read_bytes().ljust(stat.st_size, b"."))
    os.utime(path, ns=(0, stat.st_mtime_ns + (10**9 if differs == "time" else 0)))
    after = pixels_of(SequenceFrames(sequence, cache=cache), kind)
    assert not after[1].any()
    assert np.array_equal(after[::2], before[::2])


def test_a_missing_file_is_named_with_the_cache_as_well(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(2))
    sequence.images[1].unlink()
    with pytest.raises(UserError, match=r"1\.png is missing"):
        SequenceFrames(sequence, cache=tmp_path / "cache").images(0, 2)


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(3))
    sequence.images[2].write_bytes(sequence.images[2].read_bytes()[:60])
    with pytest.raises(UserError, match=r"2\.png"):
        SequenceFrames(sequence, cache=tmp_path / "cache").images(0, 1)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_the_cache_may_be_read_by_whoever_may_read_new_files(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(2))
    SequenceFrames(sequence, cache=tmp_path / "cache").images(0, 2)
    (tmp_path / "new").touch()
    (cached,) = (tmp_path / "cache").iterdir()
    assert cached.stat().st_mode == (tmp_path / "new").stat().st_mode


BUILD = """
import sys, time
from pathlib import Path
import dataset.frames as module
from dataset.sequence import Sequence

folder = Path(sys.argv[1])
read = module.read_gray
def slow_read(*args):
    time.sleep(0.03)
    return read(*args)
module.read_gray = slow_read
sequence = Sequence("a", tuple(folder / f"images/{i}.png" for i in range(10)))
(folder / f"ready{sys.argv[2]}").touch()
while len(list(folder.glob("ready*"))) < 2:
    time.sleep(0.005)
print(module.SequenceFrames(sequence, cache=folder / "cache").images(0, 10).tolist())
"""


def test_two_processes_may_build_the_cache_at_once(tmp_path):
    images = random_frames(10)
    sequence_of(tmp_path, images)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, tmp_path, str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    expected = str([frame.astype(float).tolist() for frame in images])
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == [expected] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 1
