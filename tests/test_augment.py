"""TSMSA's augmentations against stored published outputs and the description's rules, written as loops."""

import random

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import DATA
from skimage.measure import label, regionprops

from dataset.augment import augment_targets, draw_clones, pair_halves, paste_clones, room_of
from utils.boxes import component_boxes


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "tsmsa_augment.npz")


def boxes_of(masks: np.ndarray) -> list[np.ndarray]:
    return [component_boxes(mask).astype(int) for mask in masks]


# ---------------------------------------------------------------- clones of targets


def test_stored_draws_give_the_published_clip(stored):
    images, masks = stored["ta/image"], stored["ta/mask"]
    before = images.copy(), masks.copy()
    clones = list(zip(stored["ta/dy"], stored["ta/dx"], stored["ta/scale"], strict=True))
    room = room_of(boxes_of(masks))
    assert room == stored["ta/max_target_side_start"] == stored["ta/max_target_side_after_frame"].max()
    new_images, new_masks = paste_clones(images, masks, boxes_of(masks), room, clones)
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
    own, expected = paste_clones(images, masks, boxes, 50, clones), by_loops(images, masks, clones, 50)
    np.testing.assert_array_equal(own, expected)
    assert (own[1] > 0).sum() > (masks > 0).sum()


def test_a_clip_of_a_target_gets_three_clones_that_move_with_it():
    images = np.full((5, 512, 512), 20, np.uint8)
    masks = np.zeros_like(images)
    for t in range(5):
        masks[t, 250 + 2 * t : 256 + 2 * t, 240 + 3 * t : 247 + 3 * t] = 1
    images[masks > 0] = 200
    new_images, new_masks = augment_targets(images, masks, np.random.default_rng(1))
    centres = [[r.centroid for r in regionprops(label(mask, connectivity=2))] for mask in new_masks]
    assert [len(c) for c in centres] == [4] * 5
    np.testing.assert_allclose(np.diff(centres, axis=0), np.broadcast_to((2, 3), (4, 4, 2)))
    assert (new_images[new_masks > 0] == 200).all() and (new_images[new_masks == 0] == 20).all()


def test_the_generator_decides():
    images, masks = scene(3, 160, 160, [5, 8])
    first, again, other = (augment_targets(images, masks, np.random.default_rng(s)) for s in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first[1] != other[1]).any()


def test_a_clip_without_target_stays_as_it_is():
    images, masks = scene(0, 40, 50, [])
    new_images, new_masks = augment_targets(images, masks, np.random.default_rng(0))
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
    new_clips, new_masks = pair_halves(clips, masks, number)
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
        new_clips, new_targets = pair_halves(clips, clips[:, 0, :1], number)
        torch.testing.assert_close(new_clips, torch.cat([clips, expected]), rtol=0, atol=0)
        assert torch.equal(new_targets, new_clips[:, 0, :1])


def test_a_single_clip_stays_alone():
    clips, targets = torch.rand(1, 1, 5, 8, 8), torch.rand(1, 1, 8, 8)
    new_clips, new_targets = pair_halves(clips, targets, 0)
    assert torch.equal(new_clips, clips) and torch.equal(new_targets, targets)
