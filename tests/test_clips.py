"""Windows, training clips and test videos, against stored windows and the rules of DeepPro's loader."""

import gc
import json
import math
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import clips_of, video_of
from scipy.stats import chi2
from test_frames import sequence_of

import dataset.frames
from dataset import sampling as windows
from dataset.clips import EpochBatches, TrainingClips
from dataset.sequence import Sequence, SequenceSet
from utils.engine.predict import WindowFusion
from utils.errors import UserError

STORED = np.load(Path(__file__).parent / "data" / "deeppro_windows.npz")
PUBLISHED_WINDOWS = json.loads(str(STORED["windows_json"]))
EXACT = {"mean": 0.0, "std": 1 / 257}  # clips hold the values of 16-bit frames as they are


def numbered_sequence(folder: Path, name: str, frames: int, shape: tuple[int, int], targets=()) -> Sequence:
    """Frames whose 16-bit values count all pixels of the sequence from 1: a clip tells where it comes from.

    targets: (row, column) of the mask's pixels, the same in every frame
    """
    pixels = math.prod(shape)
    mask = np.zeros(shape, np.uint8)
    for row, col in targets:
        mask[row, col] = 255
    paths = {"images": [], "masks": []}
    for kind in paths:
        (folder / name / kind).mkdir(parents=True)
    for frame in range(frames):
        values = 1 + frame * pixels + np.arange(pixels, dtype=np.uint16).reshape(shape)
        for kind, array in (("images", values), ("masks", mask)):
            path = folder / name / kind / f"{frame}.png"
            Image.fromarray(array).save(path)
            paths[kind].append(path)
    return Sequence(name, tuple(paths["images"]), masks=tuple(paths["masks"]))


def set_of(*sequences: Sequence, **facts) -> SequenceSet:
    return SequenceSet("Numbered", Path("numbered"), "train", sequences, **facts)


def unread_sequence(name: str, frames: int) -> Sequence:
    paths = tuple(Path(f"{name}/{i}.png") for i in range(frames))
    return Sequence(name, paths, masks=paths)


def source_of(clip, shape: tuple[int, int]) -> tuple[list[int], int, int]:
    """(frame numbers with -1 for padding, first row, first column) of a clip of a numbered sequence."""
    values = np.rint(clip[0].numpy()).astype(int)
    frames = [(first - 1) // math.prod(shape) if first else -1 for first in values[:, 0, 0]]
    real = next(values[i] for i, frame in enumerate(frames) if frame >= 0)
    row, col = divmod(int(real[0, 0] - 1) % math.prod(shape), shape[1])
    return frames, row, col


def corners(clips: TrainingClips, shape: tuple[int, int], count: int) -> np.ndarray:
    """Row and column of the first `count` crops of epoch 0."""
    return np.array([source_of(clips[0, index]["clip"], shape)[1:] for index in range(count)])


# ---- windows ----


@pytest.mark.parametrize("key", PUBLISHED_WINDOWS)
def test_windows_are_the_published_ones(key):
    length, frames = map(int, key.split(","))
    published = PUBLISHED_WINDOWS[key]
    assert windows.test_windows(frames, length) == [tuple(w) for w in published["test_windows"]]
    training = windows.training_windows(frames, length)
    assert len(training) == published["train_windows"]
    assert sum(stop - start for start, stop in training) == published["train_weight_sum"]
    assert training[:2] == [tuple(w) for w in published["first_train"]]
    assert training[-2:] == [tuple(w) for w in published["last_train"]]


def test_windows_of_short_sequences():
    assert windows.test_windows(39, 40) == [(0, 39)]
    assert windows.test_windows(3, 40) == [(0, 3)]
    assert windows.training_windows(4, 40) == []
    assert windows.training_windows(5, 40) == [(0, 4)]
    assert windows.training_windows(4, 40, include_last=True) == [(0, 4)]


def test_windows_of_single_frame_models():
    assert windows.test_windows(3, 1) == [(0, 1), (1, 2), (2, 3)]
    assert windows.training_windows(3, 1) == [(0, 1), (1, 2)]
    assert windows.training_windows(3, 1, include_last=True) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("case", ["fuse_10_27", "fuse_40_100", "fuse_10_19", "fuse_10_10"])
def test_fusion_is_the_published_one(case):
    spans = [tuple(span) for span in STORED[f"{case}/windows"].tolist()]
    lengths = [stop - start for start, stop in spans]
    parts = np.split(STORED[f"{case}/predictions"], np.cumsum(lengths)[:-1])
    fusion, found = WindowFusion(), []
    for (start, _), part in zip(spans, parts, strict=True):
        found += fusion.add(start, part)
        assert len(found) == start  # everything that no later window can change is out already
    found += fusion.finish()
    assert [index for index, _ in found] == list(range(len(STORED[f"{case}/fused"])))
    assert np.array_equal(np.stack([prediction for _, prediction in found]), STORED[f"{case}/fused"])


# ---- training clips ----


def test_clips_per_epoch_of_nudt_mirsdt():
    data = set_of(*(unread_sequence(f"Sequence{i}", 100) for i in range(80)))
    clips = clips_of(data, frames=40, sample_rate=0.1)
    assert clips.sampler.candidates == 80 * 96
    assert len(clips) == 768
    assert len(clips_of(data, frames=40, sample_rate=0.03)) == int(80 * 96 * 0.03)
    assert len(clips_of(data, frames=40, sample_rate=1e-6)) == 1


def test_the_last_frame_is_drawn_where_the_recipe_says_so():
    data = set_of(unread_sequence("a", 10))
    samplers = [clips_of(data, frames=4, include_last=last).sampler for last in (False, True)]
    lasts = [sampler.window(sampler.candidates - 1) for sampler in samplers]
    assert lasts == [(0, 5, 9), (0, 6, 10)]


def test_crops_look_at_the_middle_frame_of_a_padded_window(tmp_path):
    """Whichever side is padded; here a target in frame 2 alone is in the middle of the window [0:4]."""
    sequence = numbered_sequence(tmp_path, "a", 5, (60, 60))
    mask = np.zeros((60, 60), np.uint8)
    mask[40, 40] = 255
    Image.fromarray(mask).save(sequence.masks[2])
    word = "crop(15, target_chance=1.0)"
    clips = clips_of(set_of(sequence), frames=12, augment=(word,), sample_rate=40.0, **EXACT)
    items = [clips[0, index] for index in range(40)]
    places = {
        int(place) for item in items if "[0:4]" in item["name"] for place in item["target"].nonzero()[:, 0]
    }
    assert places == {2, 10}
    assert all(item["target"].any() for item in items if "[0:4]" in item["name"])


def test_sequences_too_short_for_a_clip_are_left_out():
    clips = clips_of(set_of(unread_sequence("a", 4), unread_sequence("b", 6)))
    drawn = [clips.sampler.window(index)[0] for index in range(clips.sampler.candidates)]
    assert [clips.frames[number].sequence.name for number in drawn] == ["b", "b"]
    with pytest.raises(UserError, match="too short"):
        clips_of(set_of(unread_sequence("a", 4)))


def test_training_needs_masks():
    sequence = Sequence("a", (Path("1.png"), Path("2.png")))
    with pytest.raises(UserError, match="a has no masks"):
        clips_of(set_of(sequence), frames=1)


def test_masks_are_trained_on_filled_boxes_where_the_recipe_says_so(tmp_path):
    frames = [np.full((12, 10), 100 + number, np.uint8) for number in range(3)]
    sequence = sequence_of(tmp_path, frames)
    boxes = (np.array([[2, 3, 5, 7.0], [8.4, -1, 11, 1.6]]), np.zeros((0, 4)), np.array([[0.8, 0, 1.6, 9]]))
    annotated = replace(sequence, boxes=boxes)
    with pytest.raises(UserError, match="has no masks; .* or --set box_masks=True to train on filled boxes"):
        clips_of(set_of(annotated), frames=3)
    target = clips_of(set_of(annotated), frames=3, include_last=True, box_masks=True, **EXACT)[0, 2]["target"]
    wanted = np.zeros((3, 12, 10))
    wanted[0, 3:7, 2:5] = 1
    wanted[0, 0:2, 8:10] = 1
    wanted[2, 0:9, 1] = 1
    np.testing.assert_array_equal(target.numpy(), wanted)
    small = {"frames": 3, "include_last": True, "box_masks": True, "train_resize": (24, 30), **EXACT}
    found = clips_of(set_of(annotated), **small)[0, 2]["target"][0].numpy()
    np.testing.assert_array_equal(found[6:14, 6:15], np.ones((8, 9)))
    assert found.sum() == 8 * 9 + found[0:4, 24:].sum()


def test_masks_are_taken_before_filled_boxes(tmp_path):
    masks = [np.eye(12, 10, dtype=np.uint8)] * 2
    sequence = sequence_of(tmp_path, [np.zeros((12, 10), np.uint8)] * 2, masks=masks)
    both = replace(sequence, boxes=(np.array([[2, 3, 5, 7.0]]),) * 2)
    found = clips_of(set_of(both), frames=2, box_masks=True, include_last=True, **EXACT)[0, 1]["target"]
    np.testing.assert_array_equal(found.numpy(), masks)


@pytest.mark.parametrize("padding", ["zeros", "repeat"])
def test_a_clip_is_one_patch_of_one_window(tmp_path, padding):
    shape, targets = (20, 24), [(6, 7), (6, 8)]
    sequence = numbered_sequence(tmp_path, "a", 14, shape, targets)
    clips = clips_of(set_of(sequence), frames=8, patch=9, channels=3, padding=padding, **EXACT)
    mask = np.zeros(shape)
    mask[6, 7:9] = 1
    short = 0
    for index in range(40):
        item = clips[0, index]
        start, stop = map(int, item["name"].removeprefix("a[").rstrip("]").split(":"))
        assert (start, stop) in windows.training_windows(14, 8)
        assert item["clip"].shape == (3, 8, 9, 9)
        assert (item["clip"] == item["clip"][:1]).all()
        frames, row, col = source_of(item["clip"], shape)
        real, missing = list(range(start, stop)), 8 - (stop - start)
        filled = [-1, -1] if padding == "zeros" else [start, stop - 1]
        assert frames == (real + [filled[1]] * missing if index % 2 else [filled[0]] * missing + real)
        patch = mask[row : row + 9, col : col + 9]
        first = 0 if index % 2 else missing
        for place, target in enumerate(item["target"].numpy()):
            is_real = first <= place < first + len(real)
            assert np.array_equal(target, patch if is_real else np.zeros((9, 9)))
        short += missing > 0
    assert 0 < short < 40


def test_windows_are_drawn_in_proportion_to_their_length(tmp_path):
    sequences = [numbered_sequence(tmp_path, name, n, (4, 4)) for name, n in (("a", 9), ("b", 5), ("c", 16))]
    clips = clips_of(set_of(*sequences), cache=tmp_path / "cache", frames=6, **EXACT)
    lengths = {
        f"{s.name}[{start}:{stop}]": stop - start
        for s in sequences
        for start, stop in windows.training_windows(len(s), 6)
    }
    counts, draws = dict.fromkeys(lengths, 0), 4000
    for index in range(draws):
        counts[clips[0, index]["name"]] += 1
    expected = {name: draws * length / sum(lengths.values()) for name, length in lengths.items()}
    distance = sum((counts[name] - expected[name]) ** 2 / expected[name] for name in lengths)
    assert distance < chi2.ppf(0.999, len(lengths) - 1)


def test_crops_without_a_target_are_uniform_and_leave_out_the_last_row_and_column(tmp_path):
    sequence = numbered_sequence(tmp_path, "a", 3, (12, 14))
    for include_last, places in ((False, 3 * 5), (True, 4 * 6)):
        one = {"frames": 2, "patch": 9, "include_last": include_last, **EXACT}
        clips = clips_of(set_of(sequence), cache=tmp_path / "cache", **one)
        found, counts = np.unique(corners(clips, (12, 14), 1500), axis=0, return_counts=True)
        assert len(found) == places
        assert found.min() == 0
        assert found.max(axis=0).tolist() == ([3, 5] if include_last else [2, 4])
        expected = 1500 / places
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, places - 1)


def test_three_quarters_of_the_crops_are_placed_around_a_target(tmp_path):
    sequence = numbered_sequence(tmp_path, "a", 3, (60, 60), [(30, 30)])
    clips = clips_of(set_of(sequence), frames=2, patch=15, **EXACT)
    hits = sum(bool(clips[0, index]["target"].any()) for index in range(1500))
    by_chance = (15 / 45) ** 2  # 15 of the 45 places along each axis
    assert hits / 1500 == pytest.approx(0.75 + 0.25 * by_chance, abs=4 * math.sqrt(0.78 * 0.22 / 1500))


def test_target_crops_are_shifted_by_up_to_a_sixth_of_their_side(tmp_path):
    """top-left = int(centroid + u - side / 2), u uniform in +-int(side / 6), each component as often."""
    small, large = [(30, 20)], [(30, 38), (30, 39), (31, 40)]  # centroids (30, 20) and (30.33, 39)
    sequence = numbered_sequence(tmp_path, "a", 3, (60, 60), small + large)
    clips = clips_of(set_of(sequence), frames=2, patch=15, target_crops=1.0, **EXACT)
    found = corners(clips, (60, 60), 600)
    assert set(found[:, 0]) == set(range(20, 25))
    around_small = found[:, 1] <= 14
    assert set(found[around_small, 1]) == set(range(10, 15))
    assert set(found[~around_small, 1]) == set(range(29, 34))
    assert around_small.mean() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 600))


@pytest.mark.parametrize(("target", "corner"), [((0, 0), [0, 0]), ((59, 59), [44, 44])])
def test_target_crops_stay_inside(tmp_path, target, corner):
    sequence = numbered_sequence(tmp_path, "a", 3, (60, 60), [target])
    clips = clips_of(set_of(sequence), frames=2, patch=15, target_crops=1.0, **EXACT)
    assert np.unique(corners(clips, (60, 60), 20), axis=0).tolist() == [corner]


def test_crops_look_at_the_middle_frame_of_the_window(tmp_path):
    sequence = numbered_sequence(tmp_path, "a", 9, (60, 60))
    mask = np.zeros((60, 60), np.uint8)
    mask[40, 40] = 255
    Image.fromarray(mask).save(sequence.masks[3])
    clips = clips_of(set_of(sequence), frames=6, patch=15, target_crops=1.0, **EXACT)
    around = {}
    for index in range(300):
        start, stop = map(int, clips[0, index]["name"].removeprefix("a[").rstrip("]").split(":"))
        corner = source_of(clips[0, index]["clip"], (60, 60))[1:]
        around.setdefault((start, stop), []).append(min(corner) >= 30 and max(corner) <= 35)
    for (start, stop), hits in around.items():
        assert all(hits) == (start + (stop - start) // 2 == 3), (start, stop)


def test_items_depend_on_seed_epoch_and_index_alone(tmp_path):
    data = set_of(numbered_sequence(tmp_path, "a", 14, (20, 24), [(6, 7)]))
    one = {"frames": 8, "patch": 9, **EXACT}

    def item(seed, epoch, index):
        return clips_of(data, seed=seed, **one)[epoch, index]["clip"].numpy()

    clips = clips_of(data, seed=1, **one)
    for index in (5, 3, 4):  # another order, another object
        assert np.array_equal(clips[2, index]["clip"], item(1, 2, index))
    assert not np.array_equal(item(1, 2, 3), item(1, 3, 3))
    assert not np.array_equal(item(1, 2, 3), item(2, 2, 3))
    assert not np.array_equal(item(1, 2, 3), item(1, 2, 5))


@pytest.mark.parametrize(("method", "pixels"), [("bicubic", 15), ("nearest", 12)])
def test_resized_masks_grow_by_the_published_rule(tmp_path, method, pixels):
    target = [(row, col) for row in range(90, 93) for col in range(100, 103)]
    sequence = numbered_sequence(tmp_path, "a", 2, (200, 300), target)
    one = {"frames": 1, "train_resize": (256, 256), "mask_resize": method}
    item = clips_of(set_of(sequence, mean=0.0, std=1.0), **one)[0, 0]
    assert item["clip"].shape == (1, 1, 256, 256)
    assert item["target"].sum() == pixels
    assert set(item["target"].unique().tolist()) == {0.0, 1.0}


def test_a_patch_larger_than_the_frames_is_refused(tmp_path):
    sequence = numbered_sequence(tmp_path, "a", 2, (10, 16))
    with pytest.raises(UserError, match="16x10, smaller than the patch of 11; use --patch_size 10"):
        clips_of(set_of(sequence), frames=1, patch=11, **EXACT)[0, 0]


# ---- batches ----


def batches_of(clips: int, size: int, epoch: int, start: int = 0) -> list:
    batches = EpochBatches(clips, size, seed=3)
    batches.epoch, batches.start = epoch, start
    assert len(batches) == len(list(batches))
    return list(batches)


def test_an_epoch_is_a_shuffle_in_whole_batches():
    keys = [key for batch in batches_of(23, 4, epoch=2) for key in batch]
    assert len(keys) == 20
    assert {epoch for epoch, _ in keys} == {2}
    indices = [index for _, index in keys]
    assert len(set(indices)) == 20
    assert set(indices) <= set(range(23))
    assert indices != sorted(indices)
    assert [i for batch in batches_of(23, 4, epoch=3) for _, i in batch] != indices


def test_an_interrupted_epoch_goes_on_where_it_stopped():
    assert batches_of(23, 4, epoch=2, start=2) == batches_of(23, 4, epoch=2)[2:]
    assert batches_of(23, 4, epoch=2, start=5) == []


def test_fewer_clips_than_a_batch_are_one_batch():
    (batch,) = batches_of(3, 4, epoch=0)
    assert sorted(index for _, index in batch) == [0, 1, 2]


# ---- test videos ----


def test_a_video_serves_the_published_windows_and_decodes_each_frame_once(tmp_path, monkeypatch):
    read = []
    original = dataset.frames.read_gray
    monkeypatch.setattr(dataset.frames, "read_gray", lambda path, *a: read.append(path) or original(path, *a))
    sequence = numbered_sequence(tmp_path, "a", 27, (4, 5))
    video = video_of(sequence, set_of(sequence), frames=10, channels=2, **EXACT)
    served = [(part.first, part.count, source_of(clip[0], (4, 5))[0], clip.shape) for part, clip in video]
    expected = [(0, 10), (9, 19), (17, 27)]
    assert [frames for *_, frames, _ in served] == [list(range(*window)) for window in expected]
    assert [(start, start + count) for start, count, *_ in served] == expected
    assert {shape for *_, shape in served} == {(1, 2, 10, 4, 5)}
    assert sorted(read) == sorted(sequence.images)


def test_a_video_shorter_than_the_clip_is_padded_at_the_end(tmp_path):
    sequence = numbered_sequence(tmp_path, "a", 3, (4, 5))
    for padding, last in (("zeros", -1), ("repeat", 2)):
        video = video_of(sequence, set_of(sequence), frames=5, padding=padding, **EXACT)
        ((part, clip),) = list(video)
        assert (part.first, part.count, part.places) == (0, 3, (0, 1, 2))
        assert source_of(clip[0], (4, 5))[0] == [0, 1, 2, last, last]


@pytest.mark.parametrize("key", ["all", 4])
@pytest.mark.parametrize("ending", ["complete", "closed", "dropped", "failed"])
def test_a_video_holds_no_frames_after_its_iteration(tmp_path, monkeypatch, key, ending):
    """However it ends: to the end, closed or dropped before, or with an error while a frame is read."""
    held = []
    image = dataset.frames.SequenceFrames.image

    def watched(frames, place):
        if ending == "failed" and place == 11:
            raise UserError("no frame 11")
        pixels = image(frames, place).copy()
        held.append(weakref.ref(pixels))
        return pixels

    monkeypatch.setattr(dataset.frames.SequenceFrames, "image", watched)
    sequence = numbered_sequence(tmp_path, "a", 12, (4, 5))
    video = video_of(sequence, set_of(sequence), frames=5, key=key, **EXACT)
    clips = iter(video)
    next(clips)
    _, clip = next(clips)
    held.append(weakref.ref(clip))
    if ending == "closed":
        clips.close()
    elif ending == "failed":
        with pytest.raises(UserError, match="no frame 11"):
            list(clips)
    elif ending == "complete":
        assert len(list(clips)) == len(video) - 2
    del clip
    if ending == "dropped":
        del clips
    gc.collect()
    assert len(held) > 2
    assert [ref() for ref in held] == [None] * len(held)
    if ending != "failed":
        assert len(list(video)) == len(video)  # and it can be read again


def test_the_normalisation_is_the_recipes_else_the_data_sets_else_the_sequences_own(tmp_path):
    sequence = numbered_sequence(tmp_path, "a", 100, (4, 5))
    values = np.stack([np.asarray(Image.open(path)) for path in sequence.images]) / 257

    def clip(settings, **facts):
        return next(iter(video_of(sequence, set_of(sequence, **facts), **settings)))[1][0, 0].numpy()

    constants = {"mean": 3.0, "std": 2.0}
    own = {"frames": 100}
    recipe = {**own, "mean": 1.0, "std": 4.0}
    assert clip(recipe, **constants) == pytest.approx((values - 1) / 4, abs=1e-6)
    assert clip(own, **constants) == pytest.approx((values - 3) / 2, abs=1e-6)
    chosen = values[[round(i * 99 / 31) for i in range(32)]]  # 32 frames, evenly spaced
    assert clip(own) == pytest.approx((values - chosen.mean()) / chosen.std(), abs=1e-5)


def test_predictions_and_truth_are_of_the_original_size(tmp_path):
    sequence = numbered_sequence(tmp_path, "a", 2, (30, 44), [(12, 13)])
    video = video_of(sequence, set_of(sequence), frames=2, test_resize=(16, 24), **EXACT)
    ((_, clip),) = list(video)
    assert clip.shape == (1, 1, 2, 16, 24)
    ramp = np.repeat(np.linspace(0, 1, 24, dtype=np.float32)[None], 16, axis=0)
    restored = video.restore(ramp)
    assert restored.shape == (30, 44)
    assert restored[:, 22] == pytest.approx(
        0.511, abs=0.001
    )  # (22.5 * 24 / 44 - 0.5) / 23, half-pixel centres
    assert video.truth(0)["mask"].sum() == 1
    assert video.truth(1)["mask"][12, 13] == 1
    unresized = video_of(sequence, set_of(sequence), frames=2, **EXACT)
    image = np.ones((30, 44), np.float32)
    assert unresized.restore(image) is image
