"""Clips around a key frame: against the stored items of RPRNet's published loader, and its rules in words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipes import clips_of, video_of, view_of

from dataset import sampling
from dataset.clips import EpochBatches
from dataset.io import read_gray
from dataset.normalisation import Normalisation
from dataset.sampling import frame_numbers, key_frame_clip
from dataset.sequence import Sequence, SequenceSet
from utils.errors import UserError

STORED = np.load(Path(__file__).parent / "data" / "rprnet_data.npz")
SIDE = int(STORED["patch_size"])
PUBLISHED = {"frames": 6, "key": 2, "channels": 3, "letterbox": SIDE}
PUBLISHED |= {"gray_scale": 255, "mean": 0.28, "std": 0.23}
CASES = ["up", "down", "left"]


def stored_sequence(folder: Path, case: str) -> SequenceSet:
    """The frames and masks of a stored case, written as files."""
    paths = {"frames": [], "masks": []}
    for kind, files in paths.items():
        (folder / kind).mkdir()
        for number, pixels in zip(STORED[f"{case}/frame_ids"], STORED[f"{case}/{kind}_u8"], strict=True):
            files.append(folder / kind / f"{number:05d}.png")
            Image.fromarray(pixels).save(files[-1])
    sequence = Sequence(case, tuple(paths["frames"]), masks=tuple(paths["masks"]))
    return SequenceSet("Stored", folder, "train", (sequence,))


def small_set(folder: Path, frames: int, size: tuple[int, int] = (12, 16)) -> SequenceSet:
    """Frames of one gray value each, 10, 11, ...; the mask has one pixel, a column further in each frame."""
    folder.mkdir(exist_ok=True)
    images, masks = [], []
    for index in range(frames):
        mask = np.zeros(size, np.uint8)
        mask[5, index % size[1]] = 255
        for files, kind, pixels in (
            (images, "image", np.full(size, 10 + index, np.uint8)),
            (masks, "mask", mask),
        ):
            files.append(folder / f"{kind}{index}.png")
            Image.fromarray(pixels).save(files[-1])
    return SequenceSet(
        "Small", folder, "train", (Sequence("a", tuple(images), masks=tuple(masks)),), mean=0.0, std=1.0
    )


# ---- against the published loader ----


@pytest.mark.parametrize("case", CASES)
def test_frames_of_a_clip_are_the_published_ones(case):
    ids = STORED[f"{case}/frame_ids"].tolist()
    for place, published in enumerate(STORED[f"{case}/clip_ids"]):
        chosen = key_frame_clip(ids, place, frames=6, key=2)
        assert [ids[i] for i in chosen] == published.tolist()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_items_are_the_published_ones_bit_for_bit(tmp_path, case, cached):
    data = stored_sequence(tmp_path, case)
    cache = tmp_path / "cache" if cached else None
    clips = clips_of(data, cache=cache, **PUBLISHED)
    quirky = clips_of(data, column_quirk=True, **PUBLISHED)
    video = video_of(data[0], data, cache, **PUBLISHED)
    test_clips = {frames.first: clip for frames, clip in video if frames.count == 1}
    assert len(clips) == len(test_clips) == len(data[0])
    for index in STORED[f"{case}/item_indices"].tolist():
        item, key = clips[0, index], f"{case}/item{index}"
        clip = item["clip"].numpy()
        assert clip.shape == (3, 6, SIDE, SIDE)
        assert clip.dtype == np.float32
        assert (clip == clip[:1]).all()
        pixels = STORED[f"{key}_letterboxed_u8"]
        fractions = (pixels / np.float32(255)).astype(np.float32)  # published: in place, in this order
        centred = (fractions - np.float64(0.28)).astype(np.float32)
        assert np.array_equal(clip[0], (centred / np.float64(0.23)).astype(np.float32))
        checksum = [clip.astype(np.float64).sum(), (clip.astype(np.float64) ** 2).sum()]
        np.testing.assert_allclose(checksum, STORED[f"{key}_normalised_checksum_sum_sumsq"], rtol=1e-14)
        assert torch.equal(test_clips[index][0], item["clip"])
        assert np.array_equal(255 * item["target"][0].numpy(), STORED[f"{key}_mask_before_column_quirk"])
        assert np.array_equal(255 * quirky[0, index]["target"][0].numpy(), STORED[f"{key}_mask"])


def test_the_column_quirk_changes_the_case_that_was_stored_for_it():
    """Otherwise the comparison above would not show that it is off by default."""
    assert not np.array_equal(STORED["left/item0_mask"], STORED["left/item0_mask_before_column_quirk"])


# ---- neighbours ----


@pytest.mark.parametrize(
    ("numbers", "key_number", "published"),
    [
        (range(1, 9), 1, [1, 1, 1, 2, 3, 4]),
        (range(1, 9), 8, [6, 7, 8, 8, 8, 8]),
        ([1, 2, 3, 6, 7, 8, 12], 3, [1, 2, 3, 6, 6, 6]),
    ],
)
def test_the_examples_of_the_description(numbers, key_number, published):
    numbers = list(numbers)
    chosen = key_frame_clip(numbers, numbers.index(key_number), frames=6, key=2)
    assert [numbers[i] for i in chosen] == published


def test_a_key_frame_at_the_end_of_its_clip():
    """Five frames up to the key frame, the first one repeated, as the box detectors and TSMSA have it."""
    assert [key_frame_clip(range(10), i, frames=5, key=4) for i in (0, 2, 9)] == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 1, 2],
        [5, 6, 7, 8, 9],
    ]


def test_numbers_come_from_names_or_places():
    names = [Path("00001.png"), Path("00002.png"), Path("00007.png")]
    assert frame_numbers(names) == [1, 2, 7]
    assert frame_numbers(names, "position") == [0, 1, 2]
    assert frame_numbers([Path("a7.png"), Path("a9.png")]) == [7, 9]
    assert frame_numbers([Path("1.png"), Path("b.png")]) == [0, 1]
    assert frame_numbers([Path("a2.png"), Path("b1.png")]) == [0, 1]


@pytest.mark.parametrize(
    ("neighbours", "grays"), [("number", [10, 11, 12, 12]), ("position", [10, 11, 12, 13])]
)
def test_neighbours_go_by_number_or_by_position_in_training_and_test(tmp_path, neighbours, grays):
    """Around frame 2 of the frames 1, 2, 4 and 5, which are gray 10, 11, 12 and 13; 4 stands for 3."""
    images = tuple(tmp_path / f"{number}.png" for number in (1, 2, 4, 5))
    for path, gray in zip(images, range(10, 14), strict=True):
        Image.fromarray(np.pad(np.full((5, 5), gray, np.uint8), (0, 1))).save(path)  # also a mask
    data = SequenceSet("Gap", tmp_path, "train", (Sequence("a", images, masks=images),), mean=0.0, std=1.0)
    one = {"frames": 4, "key": 1, "neighbours": neighbours}
    found = clips_of(data, **one)[0, 1]["clip"], list(video_of(data[0], data, **one))[1][1][0]
    assert [clip[0, :, 0, 0].tolist() for clip in found] == [grays] * 2


# ---- clips ----


@pytest.mark.parametrize(("frames", "key"), [(5, 4), (1, 0), (6, 2)])
def test_every_frame_is_a_key_frame_once_in_training_and_test(tmp_path, frames, key):
    data = small_set(tmp_path, 7)
    clips = clips_of(data, frames=frames, key=key, seed=3)
    batches = EpochBatches(len(clips), 1, seed=3)
    seen = []
    for ((epoch, index),) in batches:
        item = clips[epoch, index]
        assert item["clip"].shape == (1, frames, 12, 16)
        assert item["target"].shape == (1, 12, 16)
        place = int(item["clip"][0, key, 0, 0]) - 10
        assert item["name"] == f"a[{place}]"
        assert item["target"][0].nonzero().tolist() == [[5, place]]
        seen.append(place)
    assert sorted(seen) == list(range(7))
    assert seen != sorted(seen)
    found = [
        (part.first, part.count, clip[0, 0, key, 0, 0].item() - 10)
        for part, clip in video_of(data[0], data, frames=frames, key=key)
    ]
    assert found == [(i, 1, i) for i in range(7)]


def test_a_part_of_the_key_frames_is_drawn_anew_in_each_epoch(tmp_path):
    clips = clips_of(small_set(tmp_path, 12), frames=1, key=0, sample_rate=0.5, seed=1)
    epochs = [[clips[epoch, i]["name"] for i in range(len(clips))] for epoch in range(4)]
    assert all(len(set(names)) == 6 for names in epochs)
    assert len({tuple(sorted(names)) for names in epochs}) > 1
    assert epochs[2] == [clips[2, i]["name"] for i in range(6)]
    for epoch, names in enumerate(epochs):
        order = np.random.default_rng([1, epoch]).permutation(12)
        assert names == [f"a[{place}]" for place in order[:6]]


def test_the_key_frames_of_an_epoch_are_drawn_once(monkeypatch):
    """Otherwise an epoch takes time that grows with the square of the data set."""
    drawn = []
    original = sampling.permutation
    monkeypatch.setattr(sampling, "permutation", lambda *a: drawn.append(a) or original(*a))
    sampler = sampling.KeyFrameSampler([range(50), range(30)], frames=5, key=4, sample_rate=0.5, seed=7)
    for epoch in (0, 1, 0):
        for index in range(40):
            sampler(epoch, index)
    assert drawn == [([7, 0], 80), ([7, 1], 80), ([7, 0], 80)]
    complete = sampling.KeyFrameSampler([range(50)], frames=5, key=4, sample_rate=1.0, seed=7)
    assert complete(0, 3).frames.first == 3 and len(drawn) == 3


def test_patches_of_key_frame_clips_hold_one_place_of_all_frames(tmp_path):
    data = small_set(tmp_path, 5)
    clips = clips_of(data, frames=3, key=1, patch=7, target_crops=1.0)
    for index in range(5):
        item = clips[0, index]
        assert item["clip"].shape == (1, 3, 7, 7)
        assert item["target"].sum() == 1


def test_every_frame_is_decoded_once_in_a_test(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "dataset.frames.read_gray", lambda path, *args: (read.append(path.name), read_gray(path, *args))[1]
    )
    data = small_set(tmp_path, 9)
    for _ in video_of(data[0], data, frames=6, key=2, letterbox=32):
        pass
    assert sorted(read) == [f"image{i}.png" for i in range(9)]


@pytest.mark.parametrize("key", [-1, 6, "middle", 2.5, True])
def test_a_key_frame_outside_its_clip_is_refused(key):
    with pytest.raises(UserError, match=r"view\.key|option key of view"):
        view_of(frames=6, key=key)


@pytest.mark.parametrize("resize", ["train_resize", "test_resize"])
def test_a_letterbox_leaves_nothing_to_resize(resize):
    with pytest.raises(UserError, match=r"view\.letterbox fits whole frames"):
        view_of(letterbox=64, **{resize: (32, 32)})


# ---- letterbox and truth ----


@pytest.mark.parametrize("width", [98, 103, 107, 161, 187])
def test_sizes_that_the_published_code_truncates(width):
    assert view_of(letterbox=256).placement((width // 2, width)).scaled[1] == 255


@pytest.mark.parametrize("size", [(60, 80), (128, 160), (96, 96), (33, 47), (400, 30)])
def test_what_was_letterboxed_returns_to_its_place(size):
    """A smooth ramp comes back to within a pixel of the smaller of both images: not shifted, not mirrored."""
    rows, cols = np.mgrid[: size[0], : size[1]]
    ramp = np.rint(40 + 150 * (0.3 * rows / size[0] + 0.7 * cols / size[1])).astype(np.uint8)
    view = view_of(letterbox=96)
    square = view.fit(ramp, "images")
    assert square.shape == (96, 96)
    back = view.invert(square.astype(np.float32), size)
    assert back.shape == size
    steepest = max(45 / size[0], 105 / size[1])
    assert np.abs(back - ramp).max() < 1 + steepest * max(1, max(size) / 96)


def test_sixteen_bit_frames_are_letterboxed_in_eight():
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    eight = np.rint(pixels / 257).astype(np.uint8)
    view = view_of(letterbox=24)
    assert np.array_equal(view.fit(pixels, "images"), view.fit(eight, "images"))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((512, 512), 64), ((150, 200), 25), ((256, 256), 9)],
)
def test_the_round_trip_of_a_3x3_target(tmp_path, shape, expected):
    """The sizes that the description gives for RPRNet's evaluation at 256."""
    mask = np.zeros(shape, np.uint8)
    mask[60:63, 80:83] = 255
    for name, pixels in (("image.png", np.zeros(shape, np.uint8)), ("mask.png", mask)):
        Image.fromarray(pixels).save(tmp_path / name)
    sequence = Sequence("a", (tmp_path / "image.png",), masks=(tmp_path / "mask.png",))
    data = SequenceSet("One", tmp_path, "test", (sequence,), mean=0.0, std=1.0)
    video = video_of(sequence, data, frames=1, key=0, letterbox=256)
    truth = video.truth(0, {"round_trip_mask"})
    assert truth["mask"].sum() == 9
    assert truth["round_trip_mask"].shape == shape
    assert truth["round_trip_mask"].dtype == np.float32
    assert np.count_nonzero(truth["round_trip_mask"] > 0) == expected
    assert "round_trip_mask" not in video.truth(0)


# ---- normalisation ----


def test_tabulated_values_are_the_computed_ones():
    pixels = np.arange(256, dtype=np.uint8)
    for normalisation in (Normalisation(105.4025, 26.6452), Normalisation(0.28, 0.23, 255)):
        fine = pixels.astype(np.uint16) * 257  # the same gray values with 16 bit are computed, not looked up
        assert np.array_equal(normalisation(pixels), normalisation(fine))
        assert normalisation(pixels).dtype == np.float32
    assert Normalisation(0.28, 0.23, 255)(np.uint8([[0, 255]])) == pytest.approx(
        np.array([[-1.2174, 3.1304]]), abs=1e-4
    )
