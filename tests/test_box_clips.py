"""Clips and labels of box models, against what the published loader gave (box_data.npz)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipes import clips_of, recipe_of, video_of, view_of
from torch.utils.data import DataLoader

from dataset import Sequence, SequenceSet
from dataset.clips import EpochBatches, TrainingClips
from utils.boxes import component_boxes, component_centroids
from utils.engine.candidates import Candidate
from utils.errors import UserError
from utils.grid import Grid

STORED = np.load(Path(__file__).parent / "data" / "box_data.npz")
SIDE = int(STORED["size"])
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KEYS = (0, 2, 5, 6)  # frames whose labels are stored


PUBLISHED = {"frames": 5, "key": 4, "neighbours": "position", "channels": 3, "letterbox": SIDE}
PUBLISHED |= {"gray_scale": 255.0, "labels": "published", **IMAGENET}


def box_clips(data: SequenceSet, **changes) -> TrainingClips:
    return clips_of(data, "boxes", **(PUBLISHED | changes))


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
    clips = box_clips(data)
    np.testing.assert_array_equal(clips.frames[0].image(2), STORED["letterbox_2"])
    place = clips.view.placement((60, 80))
    assert [*place.scaled[::-1], *place.corner[::-1]] == STORED["letterbox_geometry"].tolist()


@pytest.mark.parametrize("key", KEYS)
def test_clips_and_labels_are_the_published_ones_in_training_and_test(data, key):
    clips = box_clips(data)
    view_settings = {k: v for k, v in PUBLISHED.items() if k != "labels"}
    video = video_of(data[0], data, **view_settings)
    frames, clip = next((frames, clip) for frames, clip in video if frames.first == key)
    assert frames.places == tuple(STORED["clip_frame_index"][key])
    for found in (clips[0, key]["clip"], clip[0]):
        assert found.shape == (3, 5, SIDE, SIDE)
        np.testing.assert_array_equal(found.numpy()[..., ::5, ::5], STORED[f"clip_{key}_every5"])
    target = clips[0, key]["target"].numpy()
    assert target.dtype == np.float32
    np.testing.assert_array_equal(rows(target), rows(STORED[f"boxes_{key}"]))


@pytest.mark.parametrize("labels", ["float", "published"])
def test_labels_never_change_under_repeated_visits(data, labels):
    clips = box_clips(data, labels=labels)
    first = [clips[0, key]["target"].clone() for key in KEYS]
    for _ in range(3):
        for before, key in zip(first, KEYS, strict=True):
            assert torch.equal(clips[1, key]["target"], before)
    second_published = STORED["boxes_2_second_visit_published"]
    assert not np.array_equal(rows(first[1].numpy()), rows(second_published))


def test_float_labels_keep_what_truncation_loses(data):
    target = box_clips(data, labels="float")[0, 2]["target"].numpy()
    boxes = annotated()[2] * 1.2 + (0, 12, 0, 12)  # 80x60 in a square of 96
    boxes = boxes.clip(0, SIDE)
    sides = boxes[:, 2:] - boxes[:, :2]
    expected = np.hstack([boxes[:, :2] + sides / 2, sides, np.zeros((3, 1))])
    np.testing.assert_allclose(rows(target), rows(expected), atol=1e-5)


def test_batches_keep_the_boxes_of_each_image(data):
    clips = box_clips(data)
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
    clips = box_clips(data, labels="float")
    scaled = [[20.5, 10.5, 4, 4, 0], [42.5, 33, 5, 6, 0]] * np.array([1.2, 1.2, 1.2, 1.2, 1])
    scaled[:, 1] += 12
    np.testing.assert_allclose(rows(clips[0, 0]["target"].numpy()), rows(scaled), atol=1e-5)
    assert clips[0, 1]["target"].shape == (0, 5)  # frames without target are kept


def test_points_cannot_train_a_box_model(data):
    sequence = Sequence("a", data[0].images, points=(np.zeros((1, 2)),) * len(data[0]))
    with pytest.raises(UserError, match="a has no boxes or masks; training this model"):
        box_clips(SequenceSet("Points", data.root, "train", (sequence,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std": 0.2}, "view.mean and view.std are one number each, or both one per channel"),
        ({"std": None}, "view.mean and view.std go together"),
        ({"channels": 1}, "have 3 channels, view.channels is 1"),
        ({"canvas": 128}, "view.canvas and view.letterbox exclude each other"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        recipe_of(**(PUBLISHED | changes))


def test_recipes_that_do_not_fit_boxes_are_refused(data):
    with pytest.raises(UserError, match="view.key is all, but box models predict one key frame"):
        box_clips(data, key="all")
    with pytest.raises(UserError, match="sampling.column_quirk changes masks"):
        box_clips(data, column_quirk=True)


def test_a_box_model_is_not_tested_on_windows():
    """It would predict one frame of each."""
    with pytest.raises(UserError, match="view.key is all, but box models predict one key frame"):
        Candidate("STMENet", official=Path("weights.pth")).recipe("Synthetic", {"view.key": "all"})


def target_of(boxes: np.ndarray) -> np.ndarray:
    """Rows cx, cy, w, h, class of boxes x1 y1 x2 y2."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.hstack([boxes[:, :2] + sides / 2, sides, np.zeros((len(boxes), 1))])


@pytest.mark.parametrize(
    ("changes", "size", "scale"),
    [
        ({}, (60, 80), (1, 1)),
        ({"canvas": 100}, (100, 100), (1, 1)),
        ({"train_resize": (90, 40)}, (90, 40), (0.5, 1.5)),
    ],
)
def test_boxes_train_without_a_letterbox(data, changes, size, scale):
    """At the files' size, padded, and resized, where boxes are scaled with the frame."""
    clips = box_clips(data, letterbox=None, labels="float", **changes)
    item = clips[0, 2]
    assert item["clip"].shape == (3, 5, *size)
    expected = target_of(annotated()[2].clip(0, (80, 60, 80, 60)) * (*scale, *scale))
    np.testing.assert_allclose(rows(item["target"].numpy()), rows(expected), atol=1e-5)


# ---------------------------------------------------------------- augmentations


def square_of_targets(folder: Path) -> SequenceSet:
    """Frames of 64x64 in which exactly the boxes are white."""
    boxes = np.array([[58, 2, 64, 6], [5, 9, 11, 14], [40, 30, 44, 37]], float)
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
    words = ("flip_columns", "flip_rows") * flips + (f"crop({crop})",) * bool(crop)
    clips = box_clips(square_of_targets(tmp_path), letterbox=64, augment=words, seed=3, **exact)
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
    drifting = ("crop(40, drift=4, target_chance=1.0)",)
    clips, speeds = box_clips(data, letterbox=64, augment=drifting, **exact), set()
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
    plain = box_clips(data, letterbox=64, **exact)[0, 0]["clip"]
    clips = box_clips(data, letterbox=64, augment=("gain(0.4)",), **exact)
    dark, gains = plain < 150, []
    for epoch in range(20):
        clip = clips[epoch, 0]["clip"]
        gains.append((clip[dark].sum() / plain[dark].sum()).item())
        assert (clip - (plain * gains[-1]).clamp(max=255)).abs().max() < 1
    assert 0.6 <= min(gains) < 0.75 and 1.25 < max(gains) <= 1.4


def test_a_rate_above_one_cuts_each_frame_several_times(tmp_path):
    clips = box_clips(square_of_targets(tmp_path), letterbox=64, augment=("crop(32)",), sample_rate=4.0)
    assert len(clips) == 12
    names = [clips[0, index]["name"] for index in range(12)]
    assert names == ["a[0]", "a[1]", "a[2]"] * 4
    cuts = {tuple(clips[0, index]["clip"].flatten().tolist()) for index in (0, 3, 6, 9)}
    assert len(cuts) > 1


def painted(target: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels whose middles lie in the boxes of a target, bool [H, W]."""
    out = np.zeros(size, bool)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    for cx, cy, w, h, _ in target.tolist():
        out |= (abs(x - cx) < w / 2) & (abs(y - cy) < h / 2)
    return out


WORDS = ["flip_rows", "flip_columns", "transpose", "clones", "crop(48)", "gain(0.3)", "crop(40, drift=3)"]
WHITE = {"gray_scale": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}


@pytest.mark.parametrize("words", [(word,) for word in WORDS] + [tuple(WORDS)])
def test_boxes_lie_on_what_is_drawn(tmp_path, words):
    clips = box_clips(square_of_targets(tmp_path), letterbox=64, labels="float", augment=words, **WHITE)
    seen = set()
    for epoch in range(20):
        item = clips[epoch, 0]
        white, target = item["clip"][0, -1].numpy() > 0, item["target"].numpy()
        if not any(word.startswith("crop") for word in words):  # a cut target may be outside with its middle
            np.testing.assert_array_equal(painted(target, white.shape), white)
        assert (painted(target, white.shape) <= white).all()
        assert len(target) >= len(component_boxes(white[4:-4, 4:-4])) or "crop" in words[-1]
        seen.add(item["clip"].numpy().tobytes())
    assert len(seen) > 1 + 8 * ("crop" in words[0])


def test_a_patch_is_placed_around_boxes(tmp_path):
    """As around the masks of the same targets, with the same draws."""
    data = square_of_targets(tmp_path)
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"mask{number}.png")
        Image.open(tmp_path / "0.bmp").save(paths[-1])
    masks = SequenceSet("M", tmp_path, "train", (Sequence("a", data[0].images, masks=tuple(paths)),))
    one = {"letterbox": None, "patch": 24, "target_crops": 0.8, "labels": "float", **WHITE}
    boxes, masks = box_clips(data, **one), clips_of(masks, **(PUBLISHED | one))
    for epoch in range(20):
        item, same = boxes[epoch, 1], masks[epoch, 1]
        assert torch.equal(item["clip"], same["clip"])
        assert item["clip"].shape == (3, 5, 24, 24)
        np.testing.assert_array_equal(same["target"][0] > 0, item["clip"][0, 4] > 0)
        assert (painted(item["target"].numpy(), (24, 24)) <= (same["target"][0].numpy() > 0)).all()


def test_halves_of_clips_have_the_halves_of_their_boxes(tmp_path):
    clips = box_clips(
        square_of_even_targets(tmp_path),
        letterbox=64,
        labels="float",
        augment=("pair_halves", "flip_rows"),
        **WHITE,
    )
    axes = set()
    for epoch in range(8):
        order = np.random.default_rng(epoch).permutation(3)
        batch = clips.collate([clips[epoch, index] for index in order])
        assert batch["clip"].shape == (6, 3, 5, 64, 64) and len(batch["target"]) == 6
        for clip, target in zip(batch["clip"], batch["target"], strict=True):
            np.testing.assert_array_equal(painted(target.numpy(), (64, 64)), clip[0, -1] > 0)
            assert target.dtype == torch.float32
        axes.add(bool(torch.equal(batch["clip"][3, :, :, :32], batch["clip"][0, :, :, ::2])))
    assert axes == {True, False}


def square_of_even_targets(folder: Path) -> SequenceSet:
    data = square_of_targets(folder)
    boxes = 2 * np.floor(data[0].boxes[0] / 2)
    pixels = np.zeros((64, 64), np.uint8)
    for x1, y1, x2, y2 in boxes.astype(int):
        pixels[y1:y2, x1:x2] = 255
    Image.fromarray(pixels).save(folder / "0.bmp")
    return SequenceSet("Squares", folder, "train", (Sequence("a", data[0].images, boxes=(boxes,) * 3),))


def test_crops_fit_the_frames(data):
    with pytest.raises(UserError, match="crop of 100, larger than what it cuts, 96x96"):
        box_clips(data, augment=("crop(100)",))
    with pytest.raises(UserError, match="crop of 41, larger than what it cuts, 40x40"):
        box_clips(data, letterbox=None, labels="float", patch=40, augment=("crop(41)",))
    clips = box_clips(data, letterbox=None, labels="float", augment=("crop(61)",))
    with pytest.raises(UserError, match="crop of 61, larger than what it cuts, 80x60"):
        clips[0, 0]


# ---------------------------------------------------------------- boxes back to the frame


@pytest.mark.parametrize(
    ("size", "worst"),
    [((256, 256), 0), ((640, 480), 0), ((720, 480), 0.70), ((992, 742), 0.97), ((640, 512), 1.25)],
)
def test_the_published_rule_misses_by_what_was_measured(size, worst):
    """The worst error of a corner anywhere in the frame, in frame pixels."""
    view = view_of(letterbox=512)
    corners = np.array([[0, 0, *size], [0, 0, size[0], 1], [0, 0, 1, size[1]]], float)
    back = view.invert_boxes(view.fit_boxes(corners, size[::-1]), size[::-1], Grid("rounded"))
    error = np.abs(back - corners).max()
    assert error == pytest.approx(worst, abs=0.01)
