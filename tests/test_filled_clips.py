"""Clips that are padded, resized and augmented, from the files to the network's input and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipes import clips_of, video_of, view_of
from torch.utils.data import DataLoader

from dataset import Sequence, SequenceSet
from dataset.augment import create_augmentations
from dataset.clips import EpochBatches
from dataset.sample import Sample
from utils.errors import UserError

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
    one = {"frames": 3, "key": key, "canvas": 40, **EXACT}
    clips = clips_of(data, include_last=True, **one)
    item = clips[0, len(clips) - 1]
    assert item["clip"].shape == (1, 3, 40, 40)
    assert item["target"].shape == (3 if key == "all" else 1, 40, 40)
    assert (item["clip"][..., 20:, :] == 0).all() and (item["clip"][..., 30:] == 0).all()
    assert item["target"].sum() == 6 * len(item["target"])
    video = video_of(data[0], data, **one)
    for frames, clip in video:
        assert clip.shape == (1, 1, 3, 40, 40)
        expected = (pixels_of(data[0].images[frames.places[-1]]) - 100) / 2
        np.testing.assert_array_equal(clip[0, 0, -1, :20, :30], expected)
        assert (clip[..., 20:, :] == 0).all() and (clip[..., 30:] == 0).all()
    ramp = np.arange(1600, dtype=np.float32).reshape(40, 40)
    np.testing.assert_array_equal(video.restore(ramp), ramp[:20, :30])


def test_a_multiple_pads_test_frames_alone(data):
    one = {"frames": 1, "key": 0, "multiple": 16, **EXACT}
    assert clips_of(data, **one)[0, 0]["clip"].shape == (1, 1, 20, 30)
    assert next(iter(video_of(data[0], data, **one)))[1].shape == (1, 1, 1, 32, 32)


def test_a_canvas_that_is_too_small_is_refused(data):
    with pytest.raises(UserError, match="frames of a.* are 30x20, larger than the canvas of 24x24"):
        clips_of(data, frames=1, key=0, canvas=24)[0, 0]


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_images_are_resized_as_the_recipe_says(data, method):
    one = {"train_resize": (40, 40), "image_resize": method, "mask_resize": "nearest", **EXACT}
    item = clips_of(data, frames=1, key=0, **one)[0, 3]
    resampling = Image.Resampling[method.upper()]
    wanted = np.asarray(Image.open(data[0].images[3]).resize((40, 40), resampling)).astype(np.float32)
    np.testing.assert_array_equal(item["clip"][0, 0], (wanted - 100) / 2)
    mask = np.asarray(Image.open(data[0].masks[3]).resize((40, 40), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(item["target"][0], mask > 0)


@pytest.mark.parametrize("key", ["all", 1])
def test_mirrors_turn_frames_and_masks_alike(data, key):
    names = ("flip_rows", "flip_columns", "reverse_time", "transpose")
    one = {"frames": 3, "key": key, "patch": 16, "include_last": True, **EXACT}
    clips = clips_of(data, augment=names, seed=1, **one)
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
    draw, sample = np.random.default_rng(0), Sample(images, (1,), 1, masks)
    for augmentation in create_augmentations(("reverse_time", "transpose")):
        for _ in range(20):
            np.testing.assert_array_equal(augmentation(sample, draw).images, images)


@pytest.mark.parametrize("key", ["all", 2])
def test_clones_of_targets_are_in_frames_and_masks(tmp_path, data, key):
    big = np.zeros((200, 240), np.uint8)
    big[90:96, 100:106] = 255
    image, mask = tmp_path / "big.png", tmp_path / "big_mask.png"
    Image.fromarray(np.where(big, 250, 80).astype(np.uint8)).save(image)
    Image.fromarray(big).save(mask)
    sequence = Sequence("big", (image,) * 4, masks=(mask,) * 4)
    one = SequenceSet("Big", tmp_path, "train", (sequence,))
    item = clips_of(one, frames=3, key=key, augment=("clones",), include_last=True, **EXACT)[0, 2]
    white = item["clip"][0] == (250 - 100) / 2
    masks = item["target"] > 0
    assert torch.equal(white if key == "all" else white[2:3], masks)
    assert (masks.flatten(1).sum(1) > 36 + 2 * 9).all()  # three clones of at least 4x4, some may meet


def test_pairs_of_halves_double_a_batch_and_repeat(data):
    clips = clips_of(data, frames=1, key=0, patch=16, augment=("pair_halves",), **EXACT)
    batches = [
        list(DataLoader(clips, batch_sampler=EpochBatches(6, 3, seed=2), collate_fn=clips.collate))
        for _ in range(2)
    ]
    for batch, again in zip(*batches, strict=True):
        assert batch["clip"].shape == (6, 1, 1, 16, 16) and batch["target"].shape == (6, 1, 16, 16)
        assert torch.equal(batch["clip"], again["clip"])
        halves = batch["clip"][3, 0, 0], batch["clip"][0, 0, 0]
        assert torch.equal(halves[0][:8], halves[1][::2]) or torch.equal(halves[0][:, :8], halves[1][:, ::2])


@pytest.mark.parametrize("key", ["all", 1])
@pytest.mark.parametrize(
    "words", [("crop(12)",), ("crop(12, drift=1.5, target_chance=1)", "flip_rows"), ("gain(0.2)",)]
)
def test_masks_go_with_crops_and_gains(data, key, words):
    """The target is 250 / 255 of white at least, whatever the gain, and the noise darker."""
    one = {"frames": 3, "key": key, "augment": words, "include_last": True, "mean": 0.0, "std": 1.0}
    clips, seen = clips_of(data, **one), set()
    for epoch in range(20):
        item = clips[epoch, 1]
        side = (12, 12) if "crop" in words[0] else (20, 30)
        assert item["clip"].shape == (1, 3, *side) and item["target"].shape[1:] == side
        white = item["clip"][0] >= 0.8 * 250
        assert torch.equal(white if key == "all" else white[1:2], item["target"] > 0)
        if "target_chance=1" in words[0] and key == 1:
            assert item["target"].sum() == 6  # all of it
        seen.add(item["clip"].numpy().tobytes())
    assert len(seen) > 10


def test_gray_values_are_changed_before_the_patch_and_the_normalisation(data):
    """Whatever the order of the words."""
    one = {"frames": 1, "key": 0, "patch": 12, "seed": 4}
    plain = clips_of(data, augment=("flip_rows", "gain(0.5)"), mean=0.0, std=1.0, **one)[0, 2]["clip"]
    first = clips_of(data, augment=("gain(0.5)", "flip_rows"), **one, **EXACT)[0, 2]["clip"]
    assert torch.equal(first, (plain - 100) / 2)
    assert torch.equal(plain, plain.round()) and plain.max() <= 255


def test_a_patch_of_a_letterboxed_frame(data):
    item = clips_of(data, frames=1, key=0, letterbox=40, patch=16, target_crops=1.0, **EXACT)[0, 3]
    assert item["clip"].shape == (1, 1, 16, 16) and item["target"].shape == (1, 16, 16)
    assert item["target"].any()


def test_the_seed_decides_which_halves_are_paired(data):
    def batch(seed):
        clips = clips_of(data, frames=1, key=0, augment=("pair_halves",), seed=seed, **EXACT)
        return clips.collate([clips[0, index] for index in range(4)])["clip"]

    assert torch.equal(batch(0), batch(0))
    assert any(not torch.equal(batch(0), batch(seed)) for seed in range(1, 9))


def test_padding_does_not_copy_what_is_full():
    frames = np.ones((2, 4, 4))
    assert view_of(canvas=4).pad(frames) is frames
