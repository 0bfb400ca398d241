"""Augmentations: TSMSA's against stored published outputs and its rules written as loops, and the others."""

import random

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import DATA
from skimage.measure import label, regionprops

from dataset.augment import create_augmentation, create_augmentations
from dataset.augment.clones import draw_clones, paste_clones, room_of
from dataset.augment.crop import Crop
from dataset.augment.pair_halves import join_halves, pair_halves
from dataset.sample import Batch, Sample
from utils.boxes import component_boxes
from utils.errors import UserError
from utils.registry import AUGMENTATIONS


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "tsmsa_augment.npz")


def boxes_of(masks: np.ndarray) -> list[np.ndarray]:
    return [component_boxes(mask).astype(int) for mask in masks]


def augmented(word: str, sample: Sample, seed: int = 0) -> Sample:
    return create_augmentation(word)(sample, np.random.default_rng(seed))


def with_clones(images: np.ndarray, masks: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    sample = augmented("clones", Sample(images, tuple(range(len(images))), 0, masks), seed)
    return sample.images, sample.masks


# ---------------------------------------------------------------- clones of targets


def test_stored_draws_give_the_published_clip(stored):
    images, masks = stored["ta/image"], stored["ta/mask"]
    before = images.copy(), masks.copy()
    clones = list(zip(stored["ta/dy"], stored["ta/dx"], stored["ta/scale"], strict=True))
    room = room_of(boxes_of(masks))
    assert room == stored["ta/max_target_side_start"] == stored["ta/max_target_side_after_frame"].max()
    new_images, new_masks, _ = paste_clones(images, masks, boxes_of(masks), room, clones)
    np.testing.assert_array_equal(new_images, stored["ta/out_image"])
    np.testing.assert_array_equal(new_masks, stored["ta/out_mask"])
    assert new_images.dtype == new_masks.dtype == np.uint8
    np.testing.assert_array_equal((images, masks), before)


def test_draws_are_the_published_ones(stored):
    clones = draw_clones((512, 512), 32, random.Random(int(stored["seed"])))
    np.testing.assert_allclose(clones, stored["draws/size_512_512_y_x_scale"], rtol=1e-15)


def test_reach_of_the_draws():
    """The description's limits of 509 x 655 pixels; none is left where the room is larger."""
    draw = random.Random(0)
    clones = [clone for _ in range(4000) for clone in draw_clones((509, 655), 32, draw)]
    down, right, scale = zip(*clones, strict=True)
    assert (min(down), max(down), min(right), max(right)) == (-95, 95, -131, 131)
    assert 0.6 <= min(scale) < 0.605 and 0.895 < max(scale) <= 0.9
    small = draw_clones((100, 200), 32, draw)
    assert all(clone.down == 0 for clone in small) and any(clone.right for clone in small)


def by_loops(images, masks, clones, room):
    """The steps of the description, one pixel at a time."""
    height, width = masks.shape[1:]
    new_images, new_masks = images.copy(), masks.copy()
    for t in range(len(masks)):
        targets = regionprops(label(masks[t] != 0, connectivity=2))
        for down, right, scale in clones:
            for target in targets:
                top, left, bottom, end = target.bbox
                patches = []
                for frames, method in ((images, cv2.INTER_LINEAR), (masks, cv2.INTER_NEAREST)):
                    patch = np.ascontiguousarray(frames[t, top:bottom, left:end])
                    patches.append(cv2.resize(patch, None, fx=scale, fy=scale, interpolation=method))
                y = max(min(top + down, height - 2 * room), 0)
                x = max(min(left + right, width - 2 * room), 0)
                for row, column in np.argwhere(patches[1] > 0):
                    new_images[t, y + row, x + column] = patches[0][row, column]
                    new_masks[t, y + row, x + column] = patches[1][row, column]
    return new_images, new_masks


def scene(seed: int, height: int, width: int, sides: list[int], dtype=np.uint8) -> tuple:
    """Noise and round targets of these sides anywhere, also on the borders and over each other."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, np.iinfo(dtype).max, (3, height, width), dtype)
    masks = np.zeros((3, height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for mask in masks:
        for side in sides:
            y, x = rng.uniform(0, height), rng.uniform(0, width)
            mask[(rows - y) ** 2 + (columns - x) ** 2 <= side**2 / 4] = 255
    return images, masks


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_clones_against_loops(seed, dtype):
    """Among them clones that meet the borders, each other and targets, and masks of one pixel."""
    images, masks = scene(seed, 150, 180, [1, 2, 3, 5, 8, 13, 21], dtype)
    masks[0] = 0
    room = room_of(boxes_of(masks))
    clones = draw_clones((400, 400), room, random.Random(seed))  # farther than in these frames
    own = paste_clones(images, masks, boxes_of(masks), room, clones)
    expected = by_loops(images, masks, clones, room)
    np.testing.assert_array_equal(own[0], expected[0])
    np.testing.assert_array_equal(own[1], expected[1])
    np.testing.assert_array_equal(own[0][0], images[0])
    assert (own[1] > 0).sum() > (masks > 0).sum() * 1.1


def test_targets_larger_than_the_usual_room():
    images, masks = scene(0, 100, 120, [])
    masks[1, 10:60, 70:100] = 1
    boxes = boxes_of(masks)
    assert room_of(boxes) == 50
    clones = [(0, 20, 0.6), (40, 0, 0.9)]
    own, expected = paste_clones(images, masks, boxes, 50, clones)[:2], by_loops(images, masks, clones, 50)
    np.testing.assert_array_equal(own, expected)
    assert (own[1] > 0).sum() > (masks > 0).sum()


def test_a_clip_of_a_target_gets_three_clones_that_move_with_it():
    images = np.full((5, 512, 512), 20, np.uint8)
    masks = np.zeros_like(images)
    for t in range(5):
        masks[t, 250 + 2 * t : 256 + 2 * t, 240 + 3 * t : 247 + 3 * t] = 1
    images[masks > 0] = 200
    new_images, new_masks = with_clones(images, masks, 1)
    centres = [[r.centroid for r in regionprops(label(mask, connectivity=2))] for mask in new_masks]
    assert [len(c) for c in centres] == [4] * 5
    np.testing.assert_allclose(np.diff(centres, axis=0), np.broadcast_to((2, 3), (4, 4, 2)))
    assert (new_images[new_masks > 0] == 200).all() and (new_images[new_masks == 0] == 20).all()


def test_the_generator_decides():
    images, masks = scene(3, 160, 160, [5, 8])
    first, again, other = (with_clones(images, masks, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first[1] != other[1]).any()


def test_a_clip_without_target_stays_as_it_is():
    images, masks = scene(0, 40, 50, [])
    new_images, new_masks = with_clones(images, masks, 0)
    np.testing.assert_array_equal(new_images, images)
    assert not new_masks.any()


# ---------------------------------------------------------------- halves of two clips


@pytest.mark.parametrize("batch", [4, 3, 2])
@pytest.mark.parametrize("axis", ["axis2", "axis3"])
def test_stored_numbers_give_the_published_batch(stored, batch, axis):
    clips = torch.from_numpy(stored[f"ba{batch}/clip"])[:, None]
    masks = torch.from_numpy(stored[f"ba{batch}/mask"])
    prefix = f"ba{batch}/{axis}"
    number = int(stored[f"{prefix}/draw"])
    assert number == random.Random(int(stored[f"{prefix}/random_seed"])).randint(0, batch - 1)
    new = pair_halves(Batch(clips, masks), number)
    new_clips, new_masks = new.clips, new.masks
    assert torch.equal(new_clips[:batch], clips) and torch.equal(new_masks[:batch], masks)
    np.testing.assert_array_equal(new_clips[batch:, 0], stored[f"{prefix}/out_clip_new"])
    np.testing.assert_array_equal(new_masks[batch:], stored[f"{prefix}/out_mask_new"])


@pytest.mark.parametrize(("batch", "columns"), [(2, {1}), (3, {1, 2}), (4, {2, 3}), (5, {2, 3, 4})])
def test_halves_of_any_batch_and_size(batch, columns):
    """As published, by a resizing to the nearest pixel; here of odd sizes."""
    clips = torch.rand(batch, 2, 3, 7, 9, generator=torch.Generator().manual_seed(batch))
    for number in range(batch):
        pairs = torch.cat([clips, clips[[*range(1, batch), 0]]], dim=-1 if number in columns else -2)
        expected = F.interpolate(pairs.flatten(1, 2), (7, 9)).view_as(clips)
        new = pair_halves(Batch(clips, clips[:, 0, :1]), number)
        torch.testing.assert_close(new.clips, torch.cat([clips, expected]), rtol=0, atol=0)
        assert torch.equal(new.masks, new.clips[:, 0, :1])


def test_a_single_clip_stays_alone():
    batch = Batch(torch.rand(1, 1, 5, 8, 8), torch.rand(1, 1, 8, 8))
    assert pair_halves(batch, 0) is batch


def test_boxes_of_halves_lose_what_no_line_shows():
    """Of the columns 0, 2, 4, ... of both clips, boxes keep those that they cover."""
    rows = torch.tensor([[3.5, 5, 1, 2, 0], [4.5, 5, 1, 2, 0], [10, 6, 4, 4, 0]])  # columns 3, 4, 8 to 11
    joined = join_halves(rows, rows[:1], -1, 16)
    torch.testing.assert_close(joined, torch.tensor([[2.25, 5, 0.5, 2, 0], [5, 6, 2, 4, 0]]), rtol=0, atol=0)
    odd = join_halves(rows[:0], rows[:1], -1, 15)  # column 3 of the second is column 18 of both
    torch.testing.assert_close(odd, torch.tensor([[9.25, 5, 0.5, 2, 0]]), rtol=0, atol=0)
    above = join_halves(rows[:1], rows[2:], -2, 16)
    torch.testing.assert_close(above, torch.tensor([[3.5, 2.5, 1, 1, 0], [10, 11, 4, 2, 0]]), rtol=0, atol=0)
    assert rows[2].tolist() == [10, 6, 4, 4, 0]


# ---------------------------------------------------------------- words of a recipe


def test_a_word_has_its_options_in_any_spelling():
    assert create_augmentation("crop(192, drift=10)") == Crop(192, drift=10.0)
    assert create_augmentation(" Crop( side = 192 ,drift=10,) ") == Crop(192, 10.0, 0.75)
    assert create_augmentation("flip-rows") == create_augmentation("flip_rows()")
    assert create_augmentation("targets") == create_augmentation("clones")
    names = (
        "clones",
        "crop",
        "flip_columns",
        "flip_rows",
        "gain",
        "pair_halves",
        "reverse_time",
        "transpose",
    )
    assert AUGMENTATIONS.names() == list(names)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("flip_row", r"'flip_row': there is no augmentation 'flip_row'; did you mean .*flip_rows"),
        ("crop(sid=3)", r"crop has no option 'sid'; did you mean side\?"),
        ("crop", r"crop needs side; write crop\(side=...\)"),
        ("crop(0)", r"option side of crop cannot be 0: it takes a whole number, at least 1"),
        ("crop(2.5)", r"option side of crop takes a whole number, at least 1 and at most 8192, not 2.5"),
        (
            "crop(8, target_chance=1.5)",
            r"option target_chance of crop cannot be 1.5: it takes .*at least 0 and at most 1",
        ),
        ("crop(8, drift=-1)", r"option drift of crop cannot be -1"),
        ("crop(8, 1, 0.5, 3)", "crop takes at most 3 options"),
        ("crop(8, side=8)", "crop has side twice"),
        ("gain(0)", r"option limit of gain cannot be 0: it takes a number, above 0 and at most 1"),
        ("gain(1.1)", r"option limit of gain cannot be 1.1"),
        ("flip_rows(0.3)", "flip_rows takes at most 0 options"),
        ("crop(side=", r"'crop\(side='; write name or name\(option=value, ...\)"),
        ("crop(side=x)", "write name or name"),
        ("crop(**{})", "write name or name"),
        ("", "write name or name"),
        ("flip rows", "write name or name"),
    ],
)
def test_words_that_cannot_be_are_refused(word, message):
    with pytest.raises(UserError, match=f"^recipe key sampling.augment has .*{message}"):
        create_augmentations(("flip_rows", word))


# ---------------------------------------------------------------- on masks and boxes alike


def scene_of_boxes(frames: int = 5, size: tuple[int, int] = (64, 64)) -> tuple[Sample, Sample]:
    """A clip with targets that move, once with masks and once with boxes, both in raster order."""
    draw = np.random.default_rng(2)
    images = draw.integers(20, 90, (frames, *size)).astype(np.uint8)
    masks, boxes = np.zeros((frames, *size), np.uint8), []
    for t in range(frames):
        boxes.append(np.array([[40 + t, 5, 46 + t, 9], [8, 20 + t, 11, 25 + t], [50, 50, 51, 51]], float))
        for x1, y1, x2, y2 in boxes[-1].astype(int):
            masks[t, y1:y2, x1:x2], images[t, y1:y2, x1:x2] = 1, 200 + t
    every = tuple(range(frames))
    return Sample(images, every, 2, masks), Sample(images, every, 2, boxes=tuple(boxes))


WORDS = ["clones", "gain(0.4)", "flip_rows", "flip_columns", "transpose", "reverse_time", "crop(40)"]
WORDS += ["crop(30, drift=2.5)"]


@pytest.mark.parametrize("word", WORDS)
def test_masks_and_boxes_of_a_clip_are_augmented_alike(word):
    """The same draws, the same frames, and boxes around the targets of the masks, in every frame."""
    masked, boxed = scene_of_boxes()
    before = masked.images.copy(), masked.masks.copy(), [boxes.copy() for boxes in boxed.boxes]
    changes = 0
    for seed in range(20):
        one, other = augmented(word, masked, seed), augmented(word, boxed, seed)
        np.testing.assert_array_equal(one.images, other.images)
        assert (one.truth, one.key) == (other.truth, other.key)
        changes += one.images.shape != masked.images.shape or (one.images != masked.images).any()
        for mask, boxes in zip(one.masks, other.boxes, strict=True):
            own = painted(boxes, mask.shape)
            assert (own <= (mask > 0)).all()
            if "crop" not in word:
                np.testing.assert_array_equal(own, mask > 0)
            whole = [b for b in component_boxes(mask).tolist() if min(b) > 0 and max(b) < len(mask)]
            assert "crop" not in word or all(box in boxes.tolist() for box in whole)
    assert changes >= 5
    np.testing.assert_array_equal(masked.images, before[0])
    np.testing.assert_array_equal(masked.masks, before[1])
    np.testing.assert_array_equal(boxed.boxes, before[2])


def painted(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    out = np.zeros(size, bool)
    for x1, y1, x2, y2 in boxes.astype(int):
        out[y1:y2, x1:x2] = True
    return out


def test_clones_of_boxes_between_pixels_keep_their_place_in_the_clone():
    """Half a pixel beside the target's left edge is as much of the clone's width beside the clone's."""
    box = np.array([[10.5, 20.0, 16.0, 24.0]])  # its pixels are columns 10 to 15, rows 20 to 23
    sample = Sample(np.full((1, 200, 200), 9, np.uint8), (0,), 0, boxes=(box,))
    (boxes,) = augmented("clones", sample).boxes
    assert len(boxes) == 4
    np.testing.assert_array_equal(boxes[:1], box)
    for x1, y1, x2, y2 in boxes[1:]:
        width = (x2 - x1) * 6 / 5.5
        assert width == pytest.approx(round(width)) and y2 - y1 == pytest.approx(round(y2 - y1))
        assert x1 % 1 == pytest.approx(width / 12 % 1) and y1 % 1 == 0


@pytest.mark.parametrize("word", ["flip_rows", "flip_columns", "transpose", "reverse_time"])
def test_a_flip_happens_in_half_of_the_clips(word):
    masked, _ = scene_of_boxes()
    flip, draw = create_augmentation(word), np.random.default_rng(0)
    flips = sum((flip(masked, draw).images != masked.images).any() for _ in range(1000))
    assert flips == pytest.approx(500, abs=4 * 250**0.5)


def test_reversed_time_keeps_the_place_by_which_crops_are_placed():
    masked, _ = scene_of_boxes(frames=4)
    images = {
        augmented("reverse_time", masked, seed).key: augmented("reverse_time", masked, seed).images
        for seed in range(20)
    }
    assert set(images) == {1, 2}
    np.testing.assert_array_equal(images[1][1], images[2][2])


def test_a_crop_holds_a_target_of_the_key_frame_as_often_as_it_says():
    masked, _ = scene_of_boxes(frames=3, size=(300, 300))
    for chance, least, most in ((1.0, 400, 400), (0.5, 160, 260), (0.0, 0, 40)):
        crop, draw = Crop(30, target_chance=chance), np.random.default_rng(1)
        hits = sum(any(crop(masked, draw).masks[2].any(axis=0)) for _ in range(400))
        assert least <= hits <= most, chance


def test_a_gain_serves_frames_of_16_bit():
    pixels = np.array([[[0, 1000, 60000, 65535]]], np.uint16)
    found = augmented("gain(0.4)", Sample(pixels, (0,), 0), seed=3).images
    factor = np.random.default_rng(3).uniform(0.6, 1.4)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, np.minimum(np.rint(pixels * factor), 65535))
