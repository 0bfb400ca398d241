"""The view of frames: what goes into the network comes back to its place, for every kind of view and size."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recipes import view_of

from dataset.normalisation import Normalisation
from utils.errors import UserError

KINDS = {
    "native": {},
    "canvas": {"canvas": 160},
    "multiple": {"multiple": 16},
    "resize": {"test_resize": (40, 56)},
    "resize, multiple": {"test_resize": (33, 57), "multiple": 32},
    "resize, canvas": {"test_resize": (50, 30), "canvas": 64},
    "letterbox": {"letterbox": 48},
    "letterbox, odd": {"letterbox": 37},
    "letterbox, larger": {"letterbox": 96},
    "letterbox, multiple": {"letterbox": 50, "multiple": 32},
}
SIZES = [
    (48, 48),
    (40, 56),
    (17, 31),
    (98, 73),
    (103, 61),
    (128, 160),
    (96, 33),
    (5, 7),
    (1, 20),
    (25, 1),
    (1, 1),
]
AS_IT_IS = Normalisation(0.0, 1.0)


def views() -> list:
    return [
        pytest.param(view_of(frames=1, key=0, **settings), size, id=f"{kind} {size[0]}x{size[1]}")
        for kind, settings in KINDS.items()
        for size in SIZES
    ]


def draw_of(size: tuple[int, int]) -> np.random.Generator:
    return np.random.default_rng(size)


@pytest.mark.parametrize(("view", "size"), views())
def test_a_marked_pixel_comes_back_to_its_place(view, size):
    """As the maximum of a map, within half a pixel of the frame and half a pixel of the input.

    That is what is lost when its place becomes a whole number here and there. In a smaller input the rounding
    of gray values may move the maximum by a tenth of a pixel more.
    """
    place = view.placement(size)
    tolerance = [0.6 * max(1, side / inside) + 0.5 for side, inside in zip(size, place.scaled, strict=True)]
    draw = draw_of(size)
    for row, column in draw.integers(0, size, (6, 2)).tolist():
        pixels = np.zeros(size, np.uint8)
        pixels[row, column] = 255
        placed = view.fit(pixels, "images")
        assert placed.shape == place.placed
        clip = view.apply(placed[None], AS_IT_IS).numpy()
        assert clip.shape == (1, 1, *place.whole)
        top, left = place.corner
        outside = np.ones(place.whole, bool)
        outside[top : top + place.scaled[0], left : left + place.scaled[1]] = False
        output = np.where(outside, 1e6, clip[0, 0]).astype(np.float32)  # nothing of the padding comes back
        returned = view.invert(output, size)
        assert returned.shape == size and returned.dtype == np.float32
        assert 0 < returned.max() <= 255
        found = np.unravel_index(returned.argmax(), size)
        assert all(abs(a - b) <= t for a, b, t in zip(found, (row, column), tolerance, strict=True))


@pytest.mark.parametrize(("view", "size"), views())
def test_boxes_come_back_exactly(view, size):
    draw = draw_of(size)
    corners = draw.uniform(0, 0.95, (50, 2)) * size[::-1]
    boxes = np.hstack([corners, corners + draw.uniform(0.05, 9, (50, 2))]).clip(0, np.tile(size[::-1], 2))
    placed = view.fit_boxes(boxes, size)
    scored = np.hstack([placed, draw.random((50, 1))])
    returned = view.invert_boxes(scored, size)
    np.testing.assert_allclose(returned[:, :4], boxes, atol=1e-9)
    np.testing.assert_array_equal(returned[:, 4], scored[:, 4])
    whole = view.placement(size).whole
    assert (placed >= 0).all() and (placed <= np.tile(whole[::-1], 2)).all()


@pytest.mark.parametrize(("view", "size"), views())
def test_the_placed_mask_is_what_the_placed_box_covers(view, size):
    """A mask resized to the nearest has the pixels whose middles lie in the box; on its border, some."""
    view = view_of(**{**vars(view.settings), "mask_resize": "nearest"})
    draw, border, found = draw_of(size), 1e-6, 0
    rows, columns = np.mgrid[[slice(side) for side in view.placement(size).placed]] + 0.5
    for _ in range(6):
        (top, left) = corner = draw.integers(0, size)
        bottom, right = np.minimum(corner + draw.integers(1, 6, 2), size)
        mask = np.zeros(size, np.uint8)
        mask[top:bottom, left:right] = 255
        ((x1, y1, x2, y2),) = view.fit_boxes(np.array([[left, top, right, bottom]]), size)
        placed = view.fit(mask, "masks") > 0
        depth = np.minimum.reduce([columns - x1, x2 - columns, rows - y1, y2 - rows])
        assert (depth[placed] > -border).all() and placed[depth > border].all()
        found += placed.sum()
    assert found or min(view.placement(size).scaled) == 1


def test_maps_are_enlarged_by_the_published_functions():
    """To the bit: PyTorch's bilinear interpolation from a letterbox, OpenCV's from resized frames."""
    output = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    inside = torch.from_numpy(output[12:52].copy())[None, None]
    expected = F.interpolate(inside, (75, 120), mode="bilinear", align_corners=False)[0, 0].numpy()
    np.testing.assert_array_equal(view_of(letterbox=64).invert(output, (75, 120)), expected)
    resized = view_of(test_resize=(40, 64), multiple=64).invert(output, (75, 120))
    expected = cv2.resize(output[:40], (120, 75), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resized, expected)


@pytest.mark.parametrize("size", [(48, 80), (80, 48), (512, 512)])
def test_a_placement_in_numbers(size):
    view, (height, width) = view_of(letterbox=96, multiple=64), size
    place, scale = view.placement(size), 96 / max(size)
    assert place.scaled == (int(height * scale), int(width * scale))
    assert place.corner == ((96 - place.scaled[0]) // 2, (96 - place.scaled[1]) // 2)
    assert (place.placed, place.whole) == ((96, 96), (128, 128))
    native = view_of(multiple=64).placement((48, 80))
    assert (native.scaled, native.corner, native.placed, native.whole) == (
        (48, 80),
        (0, 0),
        (48, 80),
        (64, 128),
    )


def test_training_and_test_frames_differ_in_size_and_padding_alone():
    settings = {"frames": 2, "train_resize": (20, 30), "test_resize": (16, 24), "multiple": 32, "channels": 2}
    train, test = (view_of(split, **settings) for split in ("train", "test"))
    frames = np.ones((2, 12, 14), np.uint8)
    shapes = [
        tuple(view.apply(np.stack([view.fit(frame, "images") for frame in frames]), AS_IT_IS).shape)
        for view in (train, test)
    ]
    assert shapes == [(2, 2, 20, 30), (2, 2, 32, 32)]
    assert train.settings is not test.settings and train.settings == test.settings


def test_a_clip_that_is_too_short_is_padded_in_time():
    frames = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    for padding, last in (("zeros", np.zeros((3, 4))), ("repeat", frames[1])):
        clip = view_of(frames=4, padding=padding).apply(frames, AS_IT_IS).numpy()[0]
        np.testing.assert_array_equal(clip, [frames[0], frames[1], last, last])


def test_the_padding_is_zero_after_normalising():
    clip = (
        view_of(frames=1, multiple=8).apply(np.full((1, 5, 6), 7, np.uint8), Normalisation(3.0, 2.0)).numpy()
    )
    expected = np.zeros((8, 8))
    expected[:5, :6] = 2
    np.testing.assert_array_equal(clip[0, 0], expected)


def test_boxes_of_a_view_in_numbers():
    boxes = np.array([[10.0, 20, 30, 50], [-5, -5, 4, 4], [200, 200, 210, 220]])
    native = view_of().fit_boxes(boxes, (100, 200))
    np.testing.assert_array_equal(native, [[10, 20, 30, 50], [0, 0, 4, 4]])
    resized = view_of(test_resize=(50, 300)).fit_boxes(boxes, (100, 200))
    np.testing.assert_array_equal(resized, [[15, 10, 45, 25], [0, 0, 6, 2]])
    np.testing.assert_allclose(
        view_of(test_resize=(50, 300)).invert_boxes(resized[:1], (100, 200)), boxes[:1], atol=1e-12
    )
    square = view_of(letterbox=100).fit_boxes(boxes[:1], (100, 200), "published")
    np.testing.assert_array_equal(square, [[5, 35, 15, 50]])


def test_a_canvas_smaller_than_the_frames_is_refused():
    with pytest.raises(
        UserError, match=r"frames of a are 30x20, larger than the canvas of 24x24; .*view\.canvas"
    ):
        view_of(frames=1, canvas=24).apply(np.zeros((1, 20, 30), np.uint8), AS_IT_IS, "a")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_what_has_its_size_already_is_not_copied(dtype, kind):
    pixels = np.zeros((12, 13), dtype)
    assert view_of().fit(pixels, kind) is pixels
    assert view_of(test_resize=(12, 13)).fit(pixels, kind) is pixels
    assert view_of(test_resize=(6, 5)).fit(pixels, kind).dtype == dtype
