"""Clips that are filled up, resized and augmented, from the files to the network's input and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dataset import Sequence, SequenceSet
from dataset.augment import turned
from dataset.clips import EpochBatches, fill_up, training_clips
from dataset.video import TestVideo
from utils.errors import UserError
from utils.recipe.schema import ClipSpec

EXACT = {"mean": 100.0, "std": 2.0}


@pytest.fixture
def data(tmp_path) -> SequenceSet:
    """6 frames of 20x30: noise with a target of 3x2 that moves."""
    draw = np.random.default_rng(0)
    paths = {"image": [], "mask": []}
    for number in range(6):
        pixels = draw.integers(60, 140, (20, 30)).astype(np.uint8)
        mask = np.zeros((20, 30), np.uint8)
        pixels[8:11, 12 + number : 14 + number], mask[8:11, 12 + number : 14 + number] = 250, 255
        for kind, values in (("image", pixels), ("mask", mask)):
            paths[kind].append(tmp_path / f"{kind}{number}.png")
            Image.fromarray(values).save(paths[kind][-1])
    sequence = Sequence("a", tuple(paths["image"]), masks=tuple(paths["mask"]))
    return SequenceSet("Noise", tmp_path, "train", (sequence,))


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float32)


@pytest.mark.parametrize("key", ["all", 2])
def test_a_canvas_is_zero_after_normalising_and_cut_off_again(data, key):
    spec = ClipSpec(frames=3, key=key, canvas=40, include_last=True, **EXACT)
    clips = training_clips(data, spec, 1.0)
    item = clips[0, len(clips) - 1]
    assert item["clip"].shape == (1, 3, 40, 40)
    assert item["target"].shape == (3 if key == "all" else 1, 40, 40)
    assert (item["clip"][..., 20:, :] == 0).all() and (item["clip"][..., 30:] == 0).all()
    assert item["target"].sum() == 6 * len(item["target"])
    video = TestVideo(data[0], data, spec)
    for read, clip in video:
        assert clip.shape == (1, 1, 3, 40, 40)
        expected = (pixels_of(data[0].images[read.places[-1]]) - 100) / 2
        np.testing.assert_array_equal(clip[0, 0, -1, :20, :30], expected)
        assert (clip[..., 20:, :] == 0).all() and (clip[..., 30:] == 0).all()
    ramp = np.arange(1600, dtype=np.float32).reshape(40, 40)
    np.testing.assert_array_equal(video.restore(ramp), ramp[:20, :30])


def test_a_multiple_fills_test_frames_alone(data):
    spec = ClipSpec(frames=1, key=0, multiple=16, **EXACT)
    assert training_clips(data, spec, 1.0)[0, 0]["clip"].shape == (1, 1, 20, 30)
    assert next(iter(TestVideo(data[0], data, spec)))[1].shape == (1, 1, 1, 32, 32)


def test_a_canvas_that_is_too_small_is_refused(data):
    with pytest.raises(UserError, match="frames of a.* are 30x20, larger than the canvas of 24x24"):
        training_clips(data, ClipSpec(frames=1, key=0, canvas=24), 1.0)[0, 0]


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_images_are_resized_as_the_recipe_says(data, method):
    spec = ClipSpec(
        frames=1, key=0, train_resize=(40, 40), image_resize=method, mask_resize="nearest", **EXACT
    )
    item = training_clips(data, spec, 1.0)[0, 3]
    resampling = Image.Resampling[method.upper()]
    wanted = np.asarray(Image.open(data[0].images[3]).resize((40, 40), resampling)).astype(np.float32)
    np.testing.assert_array_equal(item["clip"][0, 0], (wanted - 100) / 2)
    mask = np.asarray(Image.open(data[0].masks[3]).resize((40, 40), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(item["target"][0], mask > 0)


@pytest.mark.parametrize("key", ["all", 1])
def test_mirrors_turn_frames_and_masks_alike(data, key):
    names = ("flip_rows", "flip_columns", "reverse_time", "transpose")
    spec = ClipSpec(frames=3, key=key, patch=16, augment=names, include_last=True, **EXACT)
    clips = training_clips(data, spec, 1.0, seed=1)
    shapes = set()
    for epoch in range(20):
        item = clips[epoch, 1]
        white = item["clip"][0] == (250 - 100) / 2
        masks = item["target"] > 0
        assert torch.equal(white if key == "all" else white[1:2], masks)
        assert torch.equal(clips[epoch, 1]["clip"], item["clip"])
        shapes.add(tuple(item["clip"].flatten().tolist()))
    assert len(shapes) > 8


def test_time_turns_only_where_each_frame_has_a_mask():
    images, masks = np.arange(24).reshape(1, 3, 2, 4), np.zeros((1, 2, 4))
    draw = np.random.default_rng(0)
    for _ in range(20):
        same, _ = turned(images, masks, ("reverse_time", "transpose"), draw)
        np.testing.assert_array_equal(same, images)


@pytest.mark.parametrize("key", ["all", 2])
def test_clones_of_targets_are_in_frames_and_masks(tmp_path, data, key):
    big = np.zeros((200, 240), np.uint8)
    big[90:96, 100:106] = 255
    image, mask = tmp_path / "big.png", tmp_path / "big_mask.png"
    Image.fromarray(np.where(big, 250, 80).astype(np.uint8)).save(image)
    Image.fromarray(big).save(mask)
    sequence = Sequence("big", (image,) * 4, masks=(mask,) * 4)
    one = SequenceSet("Big", tmp_path, "train", (sequence,))
    spec = ClipSpec(frames=3, key=key, augment=("targets",), include_last=True, **EXACT)
    item = training_clips(one, spec, 1.0)[0, 2]
    white = item["clip"][0] == (250 - 100) / 2
    masks = item["target"] > 0
    assert torch.equal(white if key == "all" else white[2:3], masks)
    assert (masks.flatten(1).sum(1) > 36 + 2 * 9).all()  # three clones of at least 4x4, some may meet


def test_pairs_of_halves_double_a_batch_and_repeat(data):
    spec = ClipSpec(frames=1, key=0, patch=16, augment=("pair_halves",), **EXACT)
    clips = training_clips(data, spec, 1.0)
    batches = [
        list(DataLoader(clips, batch_sampler=EpochBatches(6, 3, seed=2), collate_fn=clips.collate))
        for _ in range(2)
    ]
    for batch, again in zip(*batches, strict=True):
        assert batch["clip"].shape == (6, 1, 1, 16, 16) and batch["target"].shape == (6, 1, 16, 16)
        assert torch.equal(batch["clip"], again["clip"])
        halves = batch["clip"][3, 0, 0], batch["clip"][0, 0, 0]
        assert torch.equal(halves[0][:8], halves[1][::2]) or torch.equal(halves[0][:, :8], halves[1][:, ::2])


def test_unknown_augmentations_and_those_of_boxes_are_refused(data):
    with pytest.raises(UserError, match="clip.augment has 'flip_row'; .*flip_rows"):
        training_clips(data, ClipSpec(frames=1, key=0, augment=("flip_row",)), 1.0)
    with pytest.raises(UserError, match="clip.augment is of mask models"):
        ClipSpec(frames=1, key=0, letterbox=32, target="boxes", augment=("targets",))


def test_filling_up_does_not_copy_what_is_full():
    frames = np.ones((2, 4, 4))
    assert fill_up(frames, (4, 4)) is frames
