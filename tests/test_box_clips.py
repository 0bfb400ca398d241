"""Clips and labels of box models, against what the published loader gave (box_data.npz)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dataset import Sequence, SequenceSet
from dataset.clips import EpochBatches, training_clips
from dataset.video import TestVideo
from dataset.view import Letterbox
from utils.boxes import component_boxes, component_centroids
from utils.errors import UserError
from utils.recipe.schema import ClipSpec

STORED = np.load(Path(__file__).parent / "data" / "box_data.npz")
SIDE = int(STORED["size"])
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KEYS = (0, 2, 5, 6)  # frames whose labels are stored


def spec(**changes) -> ClipSpec:
    values = {"frames": 5, "key": 4, "neighbours": "position", "channels": 3, "letterbox": SIDE}
    values |= {"gray_scale": 255.0, "target": "boxes", "labels": "published", **IMAGENET}
    return ClipSpec(**(values | changes))


def annotated() -> dict[int, np.ndarray]:
    """Boxes x1 y1 x2 y2 of the stored annotation lines, by frame."""
    boxes = {}
    for line in STORED["lines"]:
        path, *fields = str(line).split()
        rows = [[int(v) for v in field.split(",")[:4]] for field in fields]
        boxes[int(Path(path).stem)] = np.array(rows, float).reshape(-1, 4)
    return boxes


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> SequenceSet:
    folder = tmp_path_factory.mktemp("boxes")
    boxes = annotated()
    for number, frame in enumerate(STORED["frames"]):
        Image.fromarray(frame).convert("RGB").save(folder / f"{number}.bmp")
    images = tuple(folder / f"{n}.bmp" for n in range(len(STORED["frames"])))
    truth = tuple(boxes.get(n, np.zeros((0, 4))) for n in range(len(images)))
    return SequenceSet("Boxes", folder, "train", (Sequence("7", images, boxes=truth),))


def rows(target: np.ndarray) -> np.ndarray:
    return target[np.lexsort(target.T[::-1])]


def test_a_letterboxed_frame_is_the_published_one(data):
    clips = training_clips(data, spec(), 1.0)
    np.testing.assert_array_equal(clips.frames[0].image(2), STORED["letterbox_2"])
    place = Letterbox(80, 60, SIDE)
    assert [*place.size, *place.corner] == STORED["letterbox_geometry"].tolist()


@pytest.mark.parametrize("key", KEYS)
def test_clips_and_labels_are_the_published_ones_in_training_and_test(data, key):
    clips = training_clips(data, spec(), 1.0)
    tested = {read.first: (read, clip) for read, clip in TestVideo(data[0], data, spec())}
    read, clip = tested[key]
    assert read.places == tuple(STORED["clip_frame_index"][key])
    for found in (clips[0, key]["clip"], clip[0]):
        assert found.shape == (3, 5, SIDE, SIDE)
        np.testing.assert_array_equal(found.numpy()[..., ::5, ::5], STORED[f"clip_{key}_every5"])
    target = clips[0, key]["target"].numpy()
    assert target.dtype == np.float32
    np.testing.assert_array_equal(rows(target), rows(STORED[f"boxes_{key}"]))


@pytest.mark.parametrize("labels", ["float", "published"])
def test_labels_never_change_under_repeated_visits(data, labels):
    clips = training_clips(data, spec(labels=labels), 1.0)
    first = [clips[0, key]["target"].clone() for key in KEYS]
    for _ in range(3):
        for before, key in zip(first, KEYS, strict=True):
            assert torch.equal(clips[1, key]["target"], before)
    second_published = STORED["boxes_2_second_visit_published"]
    assert not np.array_equal(rows(first[1].numpy()), rows(second_published))


def test_float_labels_keep_what_truncation_loses(data):
    target = training_clips(data, spec(labels="float"), 1.0)[0, 2]["target"].numpy()
    boxes = annotated()[2] * 1.2 + (0, 12, 0, 12)  # 80x60 in a square of 96
    boxes = boxes.clip(0, SIDE)
    sides = boxes[:, 2:] - boxes[:, :2]
    expected = np.hstack([boxes[:, :2] + sides / 2, sides, np.zeros((3, 1))])
    np.testing.assert_allclose(rows(target), rows(expected), atol=1e-5)


def test_batches_keep_the_boxes_of_each_image(data):
    clips = training_clips(data, spec(), 1.0)
    loader = DataLoader(clips, batch_sampler=EpochBatches(len(clips), 3, seed=1), collate_fn=clips.collate)
    seen = 0
    for batch in loader:
        assert batch["clip"].shape == (3, 3, 5, SIDE, SIDE)
        for name, target in zip(batch["name"], batch["target"], strict=True):
            place = int(name[len("7[") : -1])
            assert torch.equal(target, clips[0, place]["target"])
            seen += 1
    assert seen == 6  # of 7 frames, whole batches


def test_masks_give_boxes_of_at_least_four_pixels(tmp_path):
    mask = np.zeros((60, 80), np.uint8)
    mask[10, 20] = 255  # one pixel, centre (20.5, 10.5)
    mask[30:36, 40:45] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask).save(tmp_path / "image.png")
    Image.fromarray(np.zeros_like(mask)).save(tmp_path / "empty.png")
    image = tmp_path / "image.png"
    sequence = Sequence("a", (image, image), masks=(tmp_path / "mask.png", tmp_path / "empty.png"))
    data = SequenceSet("Masks", tmp_path, "train", (sequence,))
    clips = training_clips(data, spec(labels="float"), 1.0)
    scaled = [[20.5, 10.5, 4, 4, 0], [42.5, 33, 5, 6, 0]] * np.array([1.2, 1.2, 1.2, 1.2, 1])
    scaled[:, 1] += 12
    np.testing.assert_allclose(rows(clips[0, 0]["target"].numpy()), rows(scaled), atol=1e-5)
    assert clips[0, 1]["target"].shape == (0, 5)  # frames without target are kept


def test_points_cannot_train_a_box_model(data):
    sequence = Sequence("a", data[0].images, points=(np.zeros((1, 2)),) * len(data[0]))
    with pytest.raises(UserError, match="a has no boxes or masks; training this model"):
        training_clips(SequenceSet("Points", data.root, "train", (sequence,)), spec(), 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "all"}, "clip.target=boxes goes with one key frame"),
        ({"letterbox": None}, "clip.target=boxes goes with one key frame and whole frames"),
        ({"std": 0.2}, "clip.mean and clip.std are one number each, or both one per channel"),
        ({"channels": 1}, "have 3 channels, clip.channels is 1"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        spec(**changes)


# ---------------------------------------------------------------- crops and flips


def square_of_targets(folder: Path) -> SequenceSet:
    """Frames of 64x64 in which exactly the boxes are white."""
    boxes = np.array([[5, 9, 11, 14], [40, 30, 44, 37], [58, 2, 64, 6]], float)
    pixels = np.zeros((64, 64), np.uint8)
    for x1, y1, x2, y2 in boxes.astype(int):
        pixels[y1:y2, x1:x2] = 255
    Image.fromarray(pixels).save(folder / "0.bmp")
    sequence = Sequence("a", (folder / "0.bmp",) * 3, boxes=(boxes,) * 3)
    return SequenceSet("Squares", folder, "train", (sequence,))


def white_boxes(clip: torch.Tensor) -> list[list[float]]:
    """The white components of the key frame as rows of a target."""
    boxes = component_boxes(clip[0, -1].numpy() > 0)
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.hstack([boxes[:, :2] + sides / 2, sides, np.zeros((len(boxes), 1))])


@pytest.mark.parametrize(("crop", "flips"), [(None, True), (32, False), (32, True)])
def test_boxes_go_with_crops_and_flips(tmp_path, crop, flips):
    exact = {"gray_scale": 1.0, "mean": (100.0,) * 3, "std": (1.0,) * 3, "labels": "float"}
    one = spec(letterbox=64, crop=crop, flips=flips, **exact)
    clips = training_clips(square_of_targets(tmp_path), one, 1.0, seed=3)
    seen, with_target = set(), 0
    for epoch in range(30):
        item = clips[epoch, 0]
        side = crop or 64
        assert item["clip"].shape == (3, 5, side, side)
        white = white_boxes(item["clip"])
        target = item["target"].numpy()
        # A box at the border may be cut to a white rest whose target lies outside.
        whole = white[
            (white[:, :2] - white[:, 2:4] / 2 > 0).all(1) & (white[:, :2] + white[:, 2:4] / 2 < side).all(1)
        ]
        for row in whole:
            assert (np.abs(target - row) < 1e-5).all(1).any()
        for row in target:
            assert (np.abs(white - row) < 1e-5).all(1).any()
        seen.add(tuple(np.round(rows(target)[:, :2].ravel(), 3)))
        with_target += bool(len(target))
        assert torch.equal(clips[epoch, 0]["clip"], item["clip"])
    assert len(seen) > 3
    assert with_target == 30 if crop is None else with_target > 20


def test_a_drift_moves_the_scene_evenly_and_leaves_the_key_frame_with_its_boxes(tmp_path):
    exact = {"gray_scale": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3, "labels": "float"}
    white = np.zeros((64, 64), np.uint8)
    white[30:34, 28:33] = 255
    Image.fromarray(white).save(tmp_path / "0.bmp")
    box = np.array([[28.0, 30, 33, 34]])
    sequence = Sequence("a", (tmp_path / "0.bmp",) * 5, boxes=(box,) * 5)
    data = SequenceSet("Still", tmp_path, "train", (sequence,))
    drifting = spec(letterbox=64, crop=40, drift=4, target_crops=1.0, **exact)
    clips, speeds = training_clips(data, drifting, 1.0), set()
    for epoch in range(30):
        item = clips[epoch, 4]
        centres = [component_centroids(frame.numpy()) for frame in item["clip"][0]]
        ((x, y, _, _, _),) = item["target"].tolist()
        assert centres[4][0].tolist() == [y - 0.5, x - 0.5]
        if all(len(c) == 1 for c in centres):
            steps = np.diff(np.concatenate(centres), axis=0)
            if np.ptp(steps, axis=0).max() <= 1:  # no frame at the border of the letterbox
                assert np.abs(steps).max() <= 5
                speeds.add(tuple(np.rint(steps.mean(0))))
    assert len(speeds) > 5


def test_a_gain_is_one_for_a_clip_and_stops_at_white(tmp_path):
    exact = {"gray_scale": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (64, 64)).astype(np.uint8)).save(tmp_path / "0.bmp")
    sequence = Sequence("a", (tmp_path / "0.bmp",) * 5, boxes=(np.array([[5.0, 5, 9, 9]]),) * 5)
    data = SequenceSet("Noise", tmp_path, "train", (sequence,))
    plain = training_clips(data, spec(letterbox=64, **exact), 1.0)[0, 0]["clip"]
    clips = training_clips(data, spec(letterbox=64, gain=0.4, **exact), 1.0)
    dark, gains = plain < 150, []
    for epoch in range(20):
        clip = clips[epoch, 0]["clip"]
        gains.append((clip[dark].sum() / plain[dark].sum()).item())
        assert (clip - (plain * gains[-1]).clamp(max=255)).abs().max() < 1
    assert 0.6 <= min(gains) < 0.75 and 1.25 < max(gains) <= 1.4


def test_a_rate_above_one_cuts_each_frame_several_times(tmp_path):
    clips = training_clips(square_of_targets(tmp_path), spec(letterbox=64, crop=32), 4.0)
    assert len(clips) == 12
    names = [clips[0, index]["name"] for index in range(12)]
    assert names == ["a[0]", "a[1]", "a[2]"] * 4
    cuts = {tuple(clips[0, index]["clip"].flatten().tolist()) for index in (0, 3, 6, 9)}
    assert len(cuts) > 1


def test_crops_are_of_box_models_and_fit_the_letterbox():
    with pytest.raises(UserError, match="clip.crop is 100, larger than clip.letterbox, 96"):
        spec(crop=100)
    with pytest.raises(UserError, match="clip.drift moves the crop of clip.crop; set both"):
        spec(drift=3)
    with pytest.raises(UserError, match="clip.crop, clip.flips and clip.gain are of box models"):
        spec(crop=32, target="masks")


# ---------------------------------------------------------------- boxes back to the frame


@pytest.mark.parametrize("size", [(256, 256), (640, 480), (720, 480), (992, 742), (640, 512), (98, 73)])
def test_the_exact_way_back_is_the_inverse(size):
    place = Letterbox(*size, 512)
    draw = np.random.default_rng(0)
    corner = draw.uniform(0, 0.9, (50, 2)) * size
    boxes = np.hstack([corner, corner + draw.uniform(1, 9, (50, 2))]).clip(0, (*size, *size))
    np.testing.assert_allclose(place.restore_boxes(place.fit_boxes(boxes)), boxes, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "worst"),
    [((256, 256), 0), ((640, 480), 0), ((720, 480), 0.70), ((992, 742), 0.97), ((640, 512), 1.25)],
)
def test_the_published_way_back_misses_by_what_was_measured(size, worst):
    """The worst error of a corner anywhere in the frame, in frame pixels."""
    place = Letterbox(*size, 512)
    corners = np.array([[0, 0, *size], [0, 0, size[0], 1], [0, 0, 1, size[1]]], float)
    error = np.abs(place.restore_boxes(place.fit_boxes(corners), "published") - corners).max()
    assert error == pytest.approx(worst, abs=0.01)
