"""With a cache the statistics of a sequence are measured once, ever, and kept in a file that is checked."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from recipes import clips_of, video_of
from test_frames import random_frames, random_masks, saved, sequence_of

import dataset.frames
from dataset.cache import UNUSED, cache_folder, fill_caches
from dataset.frames import SequenceFrames
from dataset.sequence import SequenceSet


@pytest.fixture
def measured(monkeypatch):
    """The numbers of frames of each measurement."""
    seen = []
    measure = dataset.frames.gray_statistics
    monkeypatch.setattr(
        dataset.frames, "gray_statistics", lambda frames: seen.append(len(frames)) or measure(frames)
    )
    return seen


def kept_file(cache):
    (path,) = cache.glob("*.statistics.json")
    return path


def test_they_are_measured_once_for_all_processes(tmp_path, measured):
    sequence = sequence_of(tmp_path, random_frames(5))
    plain = SequenceFrames(sequence).statistics()
    for _ in range(3):  # objects that share nothing, as those of processes
        assert SequenceFrames(sequence, cache=tmp_path / "cache").statistics() == plain
    assert measured == [5, 5]


@pytest.mark.parametrize("change", ["cut", "nothing", "number", "list", "gone", "other", "folder"])
def test_a_damaged_file_is_measured_anew(tmp_path, measured, change):
    sequence, cache = sequence_of(tmp_path / "a", random_frames(5)), tmp_path / "cache"
    expected = SequenceFrames(sequence, cache=cache).statistics()
    path = kept_file(cache)
    text = path.read_text()
    if change == "other":
        SequenceFrames(sequence_of(tmp_path / "b", random_frames(4)), cache=cache).statistics()
        (other,) = (file for file in cache.glob("*.statistics.json") if file != path)
        shutil.copy(other, path)
    elif change == "folder":
        path.unlink()
        path.mkdir()
    elif change == "gone":
        path.unlink()
    else:
        number = str(json.loads(text)["value"][0])
        damaged = {"cut": text[:-9], "nothing": "", "number": text.replace(number, "50.5"), "list": "[1]"}
        path.write_text(damaged[change])
    del measured[:]
    assert SequenceFrames(sequence, cache=cache).statistics() == expected
    assert measured == [5]
    if change != "folder":
        assert path.read_text() == text


def test_changed_images_are_measured_anew(tmp_path):
    sequence, cache = sequence_of(tmp_path, random_frames(5)), tmp_path / "cache"
    before = SequenceFrames(sequence, cache=cache).statistics()
    saved(sequence.images[2], np.full((6, 7), 255, np.uint8))
    after = SequenceFrames(sequence, cache=cache).statistics()
    assert after == SequenceFrames(sequence).statistics() != before


def test_they_are_given_where_the_cache_cannot_be_written(tmp_path, measured, monkeypatch):
    sequence, cache = sequence_of(tmp_path, random_frames(5)), tmp_path / "cache"
    SequenceFrames(sequence, cache=cache).image(0)

    def refuse(*_):
        raise OSError(30, "read-only")

    monkeypatch.setattr("os.replace", refuse)
    for _ in range(2):
        assert SequenceFrames(sequence, cache=cache).statistics() == SequenceFrames(sequence).statistics()
    assert len(measured) == 4
    assert len(os.listdir(cache)) == 1


def test_the_file_is_removed_when_it_is_not_used(tmp_path):
    sequence, cache = sequence_of(tmp_path, random_frames(5)), tmp_path / "cache"
    SequenceFrames(sequence, cache=cache).statistics()
    path = kept_file(cache)
    mine = path.with_name("notes.json")
    mine.write_text("{}")
    for file in (path, mine):
        os.utime(file, (0, 0))
    SequenceFrames(sequence, cache=cache).statistics()
    assert path.stat().st_mtime > UNUSED, "it is in use"
    os.utime(path, (0, 0))
    cache_folder(cache)
    assert not path.exists() and mine.exists()


@pytest.mark.parametrize("constants", [{}, {"mean": 100.0, "std": 20.0}])
def test_caches_are_filled_with_statistics_where_nobody_gives_them(tmp_path, measured, constants):
    sequence = sequence_of(tmp_path, random_frames(6), masks=random_masks(6, seed=1))
    data, cache = SequenceSet("Folder", tmp_path, "train", (sequence,), **constants), tmp_path / "cache"
    clips, video = clips_of(data, cache=cache, frames=2), video_of(sequence, data, cache, frames=2)
    fill_caches([clips, video])
    assert measured == ([] if constants else [6])
    sent = pickle.loads(pickle.dumps(clips))  # as to a process that loads clips
    shutil.rmtree(tmp_path / "cache")
    assert sent[0, 0]["clip"].shape[1] == 2
    assert len(measured) == (0 if constants else 1), "workers measure nothing"
