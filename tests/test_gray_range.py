"""Which counts of 16-bit frames become gray values 0 and 255."""

import numpy as np
import pytest

from dataset.gray_range import Stretch, parse_range
from dataset.io import gray_values
from utils.errors import UserError


def scene(spread: float = 50, offset: int = 20000, seed: int = 0) -> np.ndarray:
    """A background of counts from `offset` to `offset + spread`, uint16."""
    draw = np.random.default_rng(seed)
    return (offset + spread * draw.random((64, 80))).round().astype(np.uint16)


def scenes(count: int = 8, **facts) -> list[np.ndarray]:
    return [scene(seed=seed, **facts) for seed in range(count)]


def test_a_dim_target_keeps_its_contrast():
    stretch = Stretch.of(scenes(), "these")
    frame = scene(seed=99)
    frame[30:32, 40:42] = 20050 + 30  # which 257 counts to a gray value would leave at 0.1
    gray = gray_values(stretch(frame))
    assert stretch(frame).dtype == np.uint16
    contrast = (gray[30, 40] - gray.mean()) / gray.std()
    plain = (frame[30, 40] - frame.mean(dtype=float)) / frame.std(dtype=float)
    assert contrast == pytest.approx(plain, rel=1e-3)
    assert gray[30, 40] - np.delete(gray, [30, 31], 0).max() > 55
    assert gray.min() > 40 and gray.max() < 230


def test_it_is_linear_and_keeps_every_count_apart():
    stretch = Stretch(1000, 2000, "chosen")
    counts = np.arange(900, 2101, dtype=np.uint16).reshape(1, -1)
    gray = gray_values(stretch(counts))[0]
    inside = slice(100, 1101)
    np.testing.assert_allclose(gray[inside], np.arange(1001) * 0.255, atol=0.002)
    assert (np.diff(gray[inside]) > 0).all()
    assert (gray[:100] == 0).all() and (gray[1101:] == 255).all()
    eight_bit = stretch(np.full((2, 2), 255, np.uint8))
    assert eight_bit.dtype == np.uint16 and not eight_bit.any()


@pytest.mark.parametrize("bright", [200, 140, 40])
def test_bright_targets_and_dark_pixels_are_not_cut(bright):
    frames = scenes()
    for frame in frames:
        frame[10:13, 20:23] = 20050 + bright
        frame[50:53, 20:23] = 20000 - bright
    stretch = Stretch.of(frames, "these")
    assert stretch.cut(frames[0]) == 0
    gray = gray_values(stretch(frames[0]))
    assert gray[10, 20] < 250 and gray[50, 20] > 5  # with some room beyond


def test_hot_and_dead_pixels_do_not_widen_the_range():
    clean, frames = Stretch.of(scenes(), "these"), scenes()
    for frame in frames:
        frame[5, 5], frame[6, 60], frame[40, 7] = 65535, 65000, 0
    found = Stretch.of(frames, "these")
    assert found.high - found.low == pytest.approx(clean.high - clean.low, rel=0.05)


def test_something_very_hot_takes_most_of_the_range_but_not_all():
    frames = scenes()
    for frame in frames:
        frame[10:14, 20:30] = 60000
    stretch = Stretch.of(frames, "these")
    spread = np.ptp(gray_values(stretch(scene()))[20:])
    assert spread > 30  # gray values are left to the background
    assert gray_values(stretch(frames[0]))[10, 20] == 255


def test_frames_of_one_count():
    stretch = Stretch.of([np.full((8, 8), 20000, np.uint16)], "this")
    assert stretch.low < 20000 < stretch.high
    assert 50 < gray_values(stretch(np.full((8, 8), 20000, np.uint16)))[0, 0] < 155


def test_tiny_frames():
    stretch = Stretch.of([np.array([[100, 200]], np.uint16)], "this")
    assert stretch.low <= 100 and stretch.high >= 200


def test_which_part_is_cut():
    frame = np.array([[0, 100, 200, 300]], np.uint16)
    assert Stretch(100, 200, "chosen").cut(frame) == 0.5


def test_it_says_what_was_chosen():
    assert str(Stretch(1000, 2000, "as --range says")) == (
        "counts from 1000 to 2000 become gray values 0 to 255 (as --range says)"
    )
    assert "98 % of the counts of these frames lie from 20000 to 20050)" in str(
        Stretch.of(scenes(), "these frames")
    )


def test_what_the_flag_takes():
    assert parse_range(["auto"]) == "auto"
    assert parse_range(["file"]) == "file"
    assert parse_range(["19000", "2.1e4"]) == (19000.0, 21000.0)


@pytest.mark.parametrize(
    "words",
    [["Auto"], ["5"], ["5", "5"], ["9", "1"], ["1", "2", "3"], ["a", "b"], ["nan", "4"], ["0", "inf"], []],
)
def test_what_the_flag_does_not_take(words):
    with pytest.raises(UserError, match="it takes auto, file, or two counts, the lower of which becomes"):
        parse_range(words)
