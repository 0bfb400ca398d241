"""Patches that are read for themselves equal those that are cut from whole frames, value by value."""

import cv2
import numpy as np
import pytest
from recipes import clips_of
from test_frames import sequence_of

from dataset.clips import TrainingClips
from dataset.frames import SequenceFrames
from dataset.sample import outlined
from dataset.sequence import SequenceSet

SIZE = (31, 42)


def targets_of(rng, frames):
    """Masks of some rectangles, in some frames none."""
    masks = np.zeros((frames, *SIZE), np.uint8)
    for mask in masks:
        for row, col in rng.integers(0, SIZE, (rng.integers(0, 4), 2)):
            mask[row : row + 3, col : col + 3] = 255
    return list(masks)


def data_of(tmp_path, seed, kind):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, SIZE).astype(np.uint8) for _ in range(9)]
    if kind == "masks":
        truth = {"masks": targets_of(rng, 9)}
    else:
        corners = [rng.uniform(0, 30, (rng.integers(0, 4), 2)) for _ in range(9)]
        truth = {"boxes": tuple(np.hstack([c, c + rng.uniform(1, 9, c.shape)]) for c in corners)}
    return SequenceSet("Folder", tmp_path, "train", (sequence_of(tmp_path / str(seed), images, **truth),))


@pytest.fixture
def areas_read(monkeypatch):
    """What of its frames each clip has read."""
    areas, pixels = [], SequenceFrames.pixels

    def read(self, places, *area):
        areas.append(area)
        return pixels(self, places, *area)

    monkeypatch.setattr(SequenceFrames, "pixels", read)
    return areas


CASES = {
    "window": ("masks", "masks", {"frames": 5, "key": "all", "target_crops": 0.5}),
    "last": ("masks", "masks", {"frames": 5, "key": "all", "include_last": True, "target_crops": 1.0}),
    "key frame": ("masks", "masks", {"frames": 3, "key": 1, "crops": "dtum", "target_crops": 0.9}),
    "filled boxes": ("masks", "boxes", {"frames": 3, "key": 2, "box_masks": True, "target_crops": 0.5}),
    "flips": ("masks", "masks", {"frames": 3, "key": 1, "augment": ("flip_rows", "transpose")}),
    "resized": ("masks", "masks", {"frames": 3, "key": 1, "train_resize": (50, 40)}),
    "boxes": ("boxes", "boxes", {"frames": 3, "key": 2, "target_crops": 0.5}),
    "boxes of masks": ("boxes", "masks", {"frames": 3, "key": 2, "target_crops": 0.5}),
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_patch_equals_that_of_whole_frames(tmp_path, monkeypatch, areas_read, case, cached):
    task, kind, settings = CASES[case]
    data = data_of(tmp_path, 0, kind)
    clips = clips_of(data, task, tmp_path / "cache" if cached else None, patch=16, **settings)
    keys = [(epoch, index) for epoch in range(4) for index in range(len(clips))]
    found = [clips[key] for key in keys]
    assert all(area and area[0].stop - area[0].start == 16 for (area,) in areas_read)
    del areas_read[:]
    monkeypatch.setattr(TrainingClips, "_reads_patches", False)
    for key, item in zip(keys, found, strict=True):
        expected = clips[key]
        for part in ("clip", "target"):
            np.testing.assert_array_equal(item[part].numpy(), expected[part].numpy())
            assert item[part].dtype == expected[part].dtype
        assert item["name"] == expected["name"]
    assert areas_read == [()] * len(keys)
    targets = [item["target"] for item in found]
    assert any(len(t) if task == "boxes" else t.any() for t in targets), "else nothing is compared"


@pytest.mark.parametrize(
    "settings",
    [{"patch": None}, {"column_quirk": True}, {"register": "auto"}, {"augment": ("clones",)}],
)
def test_whole_frames_are_read_where_they_are_needed(tmp_path, areas_read, settings):
    data = data_of(tmp_path, 0, "masks")
    clips = clips_of(data, **{"patch": 16, "frames": 3, "key": 1, **settings})
    clips[0, 0]
    assert areas_read == [()]


@pytest.mark.parametrize("threads", [1, 2])
def test_targets_are_outlined_as_opencv_does_it_with_whole_masks(threads):
    rng, before = np.random.default_rng(0), cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        for size in [*rng.integers(1, 40, (300, 2)).tolist(), [700, 800]]:
            mask = rng.random(size) < rng.choice([0, 0.002, 0.01, 0.1, 0.5])
            statistics, centres = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)[2:]
            left, top, width, height = statistics[1:, :4].T
            boxes = np.stack([left, top, left + width, top + height], axis=1)
            for found, expected in zip(outlined(mask), (boxes, centres[1:, ::-1]), strict=True):
                np.testing.assert_array_equal(found, expected)
    finally:
        cv2.setNumThreads(before)
