"""Sets of a million frames: what is kept of each frame is small, and orders and draws are those as before."""

import pickle
import tracemalloc
from pathlib import Path

import naive_files
import numpy as np
import pytest
from recipes import view_of
from test_clips import numbered_sequence, set_of, unread_sequence

import dataset.sampling
from dataset import create_dataset
from dataset.files import Files, folders_of, names_of, stems_of
from dataset.layout import in_order, list_images, natural_key, natural_order
from dataset.pairing import pair
from dataset.sampling import ClipFrames, EveryClip, KeyFrameSampler, WindowSampler, training_windows

NAMES = ["a.png", "b.c.bmp", "10.PNG"]
PATHS = tuple(Path("x/y") / name for name in NAMES)


# ---------------------------------------------------------------- files


def test_files_are_like_a_tuple_of_paths():
    files = Files(Path("x/y"), NAMES)
    assert tuple(files) == PATHS and list(reversed(files)) == list(PATHS[::-1])
    assert (files[0], files[-1], files[1:], files[::-2]) == (PATHS[0], PATHS[2], PATHS[1:], PATHS[::-2])
    assert files == PATHS and hash(files) == hash(PATHS)
    assert not PATHS != files  # noqa: SIM202, SIM300 - asked the other way round
    assert files == Files(Path("x/y"), NAMES) != Files(Path("x"), NAMES)
    assert files != PATHS[:2] and files != list(PATHS) and files != Files(Path("x/y"), NAMES[:2])
    assert files + PATHS == PATHS + tuple(files) == PATHS + PATHS
    assert PATHS[1] in files and Path("z") not in files and files.index(PATHS[2]) == 2
    assert pickle.loads(pickle.dumps(files)) == files
    for place in (3, -4):
        with pytest.raises(IndexError):
            files[place]
    empty = Files(Path("x"), ())
    assert (len(empty), tuple(empty), empty.names, empty == ()) == (0, (), [], True)


@pytest.mark.parametrize("paths", [PATHS, Files(Path("x/y"), NAMES)])
def test_names_of_files_and_of_paths(paths):
    assert names_of(paths) == NAMES
    assert stems_of(paths) == [path.stem for path in PATHS]
    assert folders_of(paths) == {Path("x/y")}


TEXTS = [
    ["10", "9", "009", "1"],
    ["a10", "a9", "a1"],
    ["f1_10", "f1_9", "f1_010", "f1_10"],
    ["a1", "b1", "a", "10", ""],
    ["1a", "10a", "9a"],
    ["x", "x1", "x01"],
    ["٣9", "٣12", "٣09"],
    ["²", "1", "1²"],
    ["only"],
    [],
]


@pytest.mark.parametrize("texts", TEXTS)
def test_the_natural_order_is_that_of_the_keys(texts):
    assert natural_order(texts) == sorted(texts, key=natural_key)


def test_the_natural_order_of_random_texts():
    rng = np.random.default_rng(0)
    for _ in range(300):
        texts = ["".join(rng.choice(list("ab10٣_"), rng.integers(0, 5))) for _ in range(rng.integers(0, 6))]
        begin = "".join(rng.choice(list("a10"), 2))
        texts = [begin + text for text in texts]
        assert natural_order(texts) == sorted(texts, key=natural_key)


def test_frames_are_listed_and_paired_as_before():
    rng = np.random.default_rng(1)
    for _ in range(50):
        names = [
            f"{rng.choice(['', 'a', 'b1_'])}{n:0{rng.integers(1, 4)}d}.png"
            for n in range(rng.integers(1, 20))
        ]
        expected = [naive_files.in_order(Path(kind), names) for kind in ("images", "masks")]
        found = [in_order(Path(kind), rng.permutation(names).tolist()) for kind in ("images", "masks")]
        assert found == expected and pair(*found) == naive_files.pair(*expected)


def test_frames_and_masks_of_equal_names_share_them(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for n in range(1000):
            (tmp_path / kind / f"{n:05d}.png").touch()
    frames = list_images(tmp_path / "images")
    masks = pair(frames, list_images(tmp_path / "masks"))
    assert masks == tuple(tmp_path / "masks" / f"{n:05d}.png" for n in range(1000))
    assert masks._text is frames._text


# ---------------------------------------------------------------- clips


def windows_before(lengths, frames, include_last):
    return [
        (number, *window)
        for number, length in enumerate(lengths)
        for window in training_windows(length, frames, include_last)
    ]


@pytest.mark.parametrize("include_last", [False, True])
def test_windows_are_numbered_and_drawn_as_before(include_last):
    lengths = [7, 1, 30, 0, 5, 12]
    sampler, windows = (
        WindowSampler(lengths, 10, include_last, 1.0, 3),
        windows_before(lengths, 10, include_last),
    )
    assert [sampler.window(index) for index in range(sampler.candidates)] == windows
    extents = np.array([stop - start for _, start, stop in windows], np.float64)
    chances = np.cumsum(extents) / extents.sum()
    for index in range(50):
        draw = np.random.default_rng([3, 2, index])
        number, start, stop = windows[int(np.searchsorted(chances, draw.random(), side="right"))]
        drawn = sampler(2, index)
        assert (drawn.sequence, drawn.frames) == (number, ClipFrames.window(start, stop))
        assert drawn.draw.random() == draw.random()


@pytest.mark.parametrize("rate", [1.0, 2.5, 0.4])
def test_key_frames_are_numbered_and_drawn_as_before(rate):
    numbers = [range(3, 9), [], [1, 2, 5], [7]]
    sampler = KeyFrameSampler(numbers, 3, 1, rate, seed=4)
    places = [(number, place) for number, own in enumerate(numbers) for place in range(len(own))]
    order = np.random.default_rng([4, 1]).permutation(len(places)) if rate < 1 else None
    for index in range(sampler.clips_per_epoch):
        chosen = index if order is None else int(order[index])
        number, place = places[chosen % len(places)]
        drawn = sampler(1, index)
        assert (drawn.sequence, drawn.frames) == (number, ClipFrames.around(numbers[number], place, 3, 1))
        assert drawn.draw.random() == np.random.default_rng([4, 1, chosen]).random()


def test_an_epoch_is_put_in_order_once(monkeypatch):
    drawn, permutation = [], dataset.sampling.permutation
    monkeypatch.setattr(
        dataset.sampling, "permutation", lambda seed, count: drawn.append(seed) or permutation(seed, count)
    )
    sampler = KeyFrameSampler([range(100)] * 10, 5, 2, 0.5, seed=1)
    for epoch in (0, 1):
        for index in range(sampler.clips_per_epoch):
            sampler(epoch, index)
    assert drawn == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    "settings", [{"key": 2}, {"key": 2, "neighbours": "position"}, {"history": "future"}]
)
def test_clips_of_a_test_are_those_around_each_frame(tmp_path, settings):
    sequence = numbered_sequence(tmp_path, "a", 7, (8, 8))
    view = view_of("test", **{"frames": 5, "key": 4, **settings})
    clips = view.clips(sequence)
    chosen = view.settings
    expected = [
        ClipFrames.around(range(7), place, 5, chosen.key, chosen.history) for place in range(len(sequence))
    ]
    assert list(clips) == expected and clips[-1] == expected[-1] and len(clips) == 7
    every = EveryClip([clips, [], clips], 5)
    assert [(d.sequence, d.frames) for d in (every(0, index) for index in range(every.candidates))] == [
        *((0, clip) for clip in expected),
        *((2, clip) for clip in expected),
    ]


def test_a_frame_takes_few_bytes_until_it_is_read(tmp_path):
    """100 sequences that are one folder of 100 frames, with masks: 660 bytes a frame before, a clip 360."""
    for kind in ("images", "masks"):
        (tmp_path / "real" / kind).mkdir(parents=True)
        for n in range(100):
            (tmp_path / "real" / kind / f"{n:05d}.png").touch()
    root = tmp_path / "NUDT-MIRSDT"
    root.mkdir()
    for number in range(100):
        (root / f"Sequence{number}").symlink_to(tmp_path / "real", target_is_directory=True)
    (root / "test.txt").write_text("".join(f"Sequence{number}\n" for number in range(100)))
    create_dataset("NUDT-MIRSDT", root, "test")  # what is imported and cached once
    tracemalloc.start()
    try:
        data = create_dataset("NUDT-MIRSDT", root, "test")
        indexed, _ = tracemalloc.get_traced_memory()
        view = view_of("test", frames=5, key=4)
        clips = [view.clips(sequence) for sequence in data]
        with_clips, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    frames = sum(map(len, data))
    assert sum(map(len, clips)) == frames == 10_000
    assert indexed / frames < 60
    assert (with_clips - indexed) / frames < 30


def test_sets_of_sequences_that_were_made_by_hand_are_welcome():
    data = set_of(unread_sequence("a", 4))
    assert isinstance(data[0].images, tuple) and data.fingerprint["sequences"]["a"].startswith("4 frames")
