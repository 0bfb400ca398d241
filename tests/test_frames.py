"""Image files, frames with their truth, and the cache of decoded frames."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import view_of

import dataset.frames
from dataset.frames import SequenceFrames
from dataset.io import gray_values, read_gray, read_size
from dataset.sequence import Sequence
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
GRAY8 = np.arange(6 * 7, dtype=np.uint8).reshape(6, 7) * 5
GRAY16 = GRAY8.astype(np.uint16) * 257


def saved(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def sequence_of(folder: Path, images: list, **truth: list) -> Sequence:
    """A sequence of PNG files; masks and centroids are arrays, points and boxes stay as they are."""
    files = {
        kind: tuple(saved(folder / kind / f"{i}.png", array) for i, array in enumerate(arrays))
        for kind, arrays in {"images": images, **truth}.items()
        if kind in ("images", "masks", "centroids")
    }
    annotations = {kind: tuple(truth[kind]) for kind in ("points", "boxes") if kind in truth}
    return Sequence("a", **files, **annotations)


def pixels_of(frames: SequenceFrames, kind: str) -> np.ndarray:
    return frames.masks(range(3)) if kind == "masks" else frames.images(0, 3)


def random_frames(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 6, 7), dtype=np.uint8))


def random_masks(count: int, seed: int = 0) -> list[np.ndarray]:
    return [np.uint8(255) * (frame > 200) for frame in random_frames(count, seed)]


# ---- image files ----


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.tiff", "a.PNG"])
def test_lossless_files_of_8_bit(tmp_path, name):
    pixels = read_gray(saved(tmp_path / name, GRAY8))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, GRAY8)


def test_jpeg_is_nearly_the_same(tmp_path):
    smooth = np.arange(16, dtype=np.uint8).repeat(16).reshape(16, 16) * 10
    pixels = read_gray(saved(tmp_path / "a.jpg", smooth, quality=95))
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_files_are_scaled_to_the_same_gray_values(tmp_path, name):
    pixels = read_gray(saved(tmp_path / name, GRAY16))
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, GRAY16)
    values = gray_values(pixels)
    assert values.dtype == np.float32
    assert np.array_equal(values, GRAY8)
    assert gray_values(np.array([[65535]], np.uint16)) == 255


def test_of_a_colour_file_the_first_channel_counts(tmp_path):
    for channels in (3, 4):
        colour = np.stack([GRAY8] + [255 - GRAY8] * (channels - 1), axis=-1)
        assert np.array_equal(read_gray(saved(tmp_path / f"{channels}.png", colour)), GRAY8)


def test_palette_and_black_and_white_files(tmp_path):
    palette = Image.fromarray(GRAY8).convert("P")
    palette.putpalette([255 - value for value in range(256) for _ in range(3)])
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_gray(tmp_path / "palette.png"), 255 - GRAY8)
    saved(tmp_path / "bits.png", GRAY8 > 100)
    assert np.array_equal(read_gray(tmp_path / "bits.png"), np.where(GRAY8 > 100, 255, 0))


def test_of_a_tiff_the_first_page_counts(tmp_path):
    pages = [Image.fromarray(GRAY8), Image.fromarray(255 - GRAY8)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_gray(tmp_path / "a.tif"), GRAY8)


def test_float_pixels_are_refused(tmp_path):
    path = saved(tmp_path / "a.tif", GRAY8.astype(np.float32))
    with pytest.raises(UserError, match=r"a\.tif has pixels of type float32; convert it to 8 or 16 bit gray"):
        read_gray(path)


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "tif"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, suffix, fraction):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    path = saved(tmp_path / f"cut.{suffix}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(UserError, match=f"cut.{suffix}"):
        read_gray(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png is missing"):
        read_gray(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png is not an image"):
        read_gray(tmp_path / "text.png")


def test_resizing_is_pillows(tmp_path):
    path = saved(tmp_path / "a.png", GRAY8)
    for method, filter_ in (("bicubic", Image.Resampling.BICUBIC), ("nearest", Image.Resampling.NEAREST)):
        expected = np.asarray(Image.fromarray(GRAY8).resize((11, 9), filter_))
        view = view_of("train", train_resize=(9, 11), mask_resize=method)
        assert np.array_equal(view.fit(read_gray(path), "masks"), expected)


def test_the_size_of_a_file_is_read_from_its_header(tmp_path):
    path = saved(tmp_path / "a.png", GRAY8)
    assert read_size(path) == (6, 7)
    path.write_bytes(path.read_bytes()[:-20])  # the pixels are lost
    assert read_size(path) == (6, 7)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png is not an image"):
        read_size(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"gone\.png is missing"):
        read_size(tmp_path / "gone.png")


# ---- frames and their truth ----


def test_frames_and_masks(tmp_path):
    images = random_frames(3)
    masks = [np.uint8(255) * (level < GRAY8) for level in (0, 60, 255)]
    masks[1][masks[1] > 0] = 1  # any value above 0 is target
    frames = SequenceFrames(sequence_of(tmp_path, images, masks=masks))
    assert (len(frames), frames.size) == (3, (6, 7))
    assert frames.images(1, 3).dtype == np.float32
    assert np.array_equal(frames.images(1, 3), images[1:])
    assert frames.masks(range(3)).dtype == np.uint8
    assert np.array_equal(frames.masks(range(3)), np.stack(masks) > 0)


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("cached", [False, True])
def test_files_of_another_size_are_named(tmp_path, kind, cached):
    arrays = {"images": random_frames(3), "masks": random_masks(3)}
    arrays[kind][2] = arrays[kind][2][:, :5]
    frames = SequenceFrames(sequence_of(tmp_path, **arrays), cache=tmp_path / "cache" if cached else None)
    with pytest.raises(UserError, match=rf"{kind}.2\.png is .*; all frames .* one size"):
        frames.images(0, 3), frames.masks(range(3))


def test_centroid_map_of_centroid_files_keeps_their_values(tmp_path):
    centroids = np.zeros((6, 7), np.uint8)
    centroids[2, 3], centroids[4, 5] = 255, 254
    truth = {"masks": random_masks(1), "centroids": [centroids]}
    found = SequenceFrames(sequence_of(tmp_path, random_frames(1), **truth)).centroid_map(0)
    assert found[2, 3] == 1
    assert found[4, 5] == 254 / 255
    assert np.count_nonzero(found) == 2


def test_centroid_map_of_masks_is_the_mask(tmp_path):
    frames = SequenceFrames(sequence_of(tmp_path, random_frames(1), masks=[np.uint8(9) * (GRAY8 > 60)]))
    assert np.array_equal(frames.centroid_map(0), GRAY8 > 60)


def test_centroid_map_of_points_and_boxes_marks_the_nearest_pixels(tmp_path):
    points = [np.array([[1.2, 4.6], [9.0, -2.0]]), np.zeros((0, 2))]  # the second lies outside
    frames = SequenceFrames(sequence_of(tmp_path, random_frames(2), points=points))
    assert np.argwhere(frames.centroid_map(0)).tolist() == [[1, 5], [5, 0]]
    assert not frames.centroid_map(1).any()
    boxes = [np.array([[2.0, 1.0, 5.0, 4.0]]), np.zeros((0, 4))]  # columns 2 to 4, rows 1 to 3
    frames = SequenceFrames(sequence_of(tmp_path / "boxes", random_frames(2), boxes=boxes))
    assert np.argwhere(frames.centroid_map(0)).tolist() == [[2, 3]]
    assert not frames.centroid_map(1).any()


def test_there_is_no_centroid_map_without_truth(tmp_path):
    assert SequenceFrames(sequence_of(tmp_path, random_frames(1))).centroid_map(0) is None


# ---- the cache ----


@pytest.fixture
def count_decoded(monkeypatch):
    decoded = []

    def count(read):
        return lambda path, *options: decoded.append(path) or read(path, *options)

    for name in ("read_gray", "read_mask"):
        monkeypatch.setattr(dataset.frames, name, count(getattr(dataset.frames, name)))
    return decoded


@pytest.mark.parametrize("resize", [None, (9, 11)])
@pytest.mark.parametrize("depth", [1, 257])
def test_the_cache_changes_no_value(tmp_path, resize, depth):
    images = [frame * np.array(depth, np.uint16 if depth > 1 else np.uint8) for frame in random_frames(4)]
    sequence = sequence_of(tmp_path, images, masks=random_masks(4, seed=1))
    view = view_of("train", train_resize=resize)
    plain = SequenceFrames(sequence, view)
    cached = SequenceFrames(sequence, view, cache=tmp_path / "cache")
    assert np.array_equal(cached.images(0, 4), plain.images(0, 4))
    assert np.array_equal(cached.masks(range(4)), plain.masks(range(4)))
    assert cached.statistics() == plain.statistics()


def test_one_cache_serves_several_views(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(2), masks=random_masks(2, seed=1))
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
    sequence = sequence_of(tmp_path, random_frames(5), masks=random_masks(5))
    for _ in range(2):
        frames = SequenceFrames(sequence, cache=tmp_path / "cache")
        for _epoch in range(2):
            frames.images(0, 4), frames.masks(range(1, 5)), frames.statistics()
    assert sorted(count_decoded) == sorted(sequence.images + sequence.masks)


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("differs", ["time", "size"])
def test_a_changed_file_is_decoded_anew(tmp_path, kind, differs):
    sequence = sequence_of(tmp_path, random_frames(3), masks=random_masks(3))
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
