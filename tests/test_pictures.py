"""The pictures: what is drawn where, in which colour, and that a file appears whole or not at all."""

import cv2
import numpy as np
import pytest

from utils import pictures
from utils.errors import UserError
from utils.pictures import FALSE_ALARM, HIT, Shot, overlay, overlay_sheet, roc_picture


@pytest.fixture
def frame():
    """A 60x80 frame with a target and a response at (20, 30) and a response at (45, 60) without target."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 3, (60, 80))
    probability = np.full((60, 80), 0.01, np.float32)
    probability[20, 30] = 0.9
    probability[45:47, 60] = 0.7
    return image, probability, np.array([[20.0, 30.0]])


def pixels_of(picture, colour):
    return np.argwhere((picture == colour).all(axis=2))


def test_overlay_circles_targets_and_outlines_hits_and_false_alarms(frame):
    picture = overlay(*frame, scale=2)
    assert (picture.shape, picture.dtype) == ((120, 160, 3), np.uint8)
    red, green, blue = np.moveaxis(picture.astype(int), 2, 0)
    circle = np.argwhere((green > red + 60) & (green > blue + 60))  # its edge is smoothed: many greens
    hit, false_alarm = pixels_of(picture, HIT), pixels_of(picture, FALSE_ALARM)
    for drawn, centre in ((circle, (41, 61)), (hit, (41, 61)), (false_alarm, (92, 121))):
        assert len(drawn) > 20
        np.testing.assert_allclose((drawn.min(0) + drawn.max(0)) / 2, centre, atol=1)


def test_overlay_leaves_the_target_itself_visible(frame):
    image, probability, points = frame
    image[20, 30] = 160
    assert (overlay(image, probability, points)[20, 30] == 255).all()


def test_points_and_masks_are_the_same_truth(frame):
    image, probability, points = frame
    mask = np.zeros(image.shape, np.uint8)
    mask[20, 30] = 255
    assert np.array_equal(overlay(image, probability, points), overlay(image, probability, mask))


@pytest.mark.parametrize(("offset", "colour"), [(1, HIT), (2, FALSE_ALARM)])
def test_a_response_one_pixel_off_is_a_hit_and_two_pixels_off_is_not(offset, colour):
    probability = np.zeros((30, 30))
    probability[10 + offset, 10 + offset] = 1
    picture = overlay(np.zeros((30, 30)), probability, np.array([[10, 10]]))
    found = [c for c in (HIT, FALSE_ALARM) if len(pixels_of(picture, c))]
    assert found == [colour]


def test_nothing_is_coloured_without_targets_and_responses(frame):
    picture = overlay(frame[0], np.zeros((60, 80)), np.zeros((0, 2)))
    assert (np.ptp(picture, axis=2) == 0).all()


def test_sheet_has_a_tile_per_shot_and_does_not_hide_a_target(frame, tmp_path):
    image, probability, _ = frame
    corners = np.array([[3, 3], [3, 76], [56, 3]])  # the inset must take the corner that is left
    shots = [Shot(number, image, probability, corners) for number in range(4)]
    path = tmp_path / "sheet.png"
    overlay_sheet(shots, path, "a title", columns=2)
    sheet = cv2.imread(str(path))[..., ::-1]
    assert sheet.shape == (48 + 2 * (360 + 24 + 8), 2 * (480 + 8) + 8, 3)
    inset = pictures.ZOOM * pictures.ZOOM_SCALE + 4
    bottom, right = 48 + 360, 8 + 480
    frame_of_inset = sheet[bottom - inset : bottom, right - inset : right]
    assert (frame_of_inset[:2] == pictures.INK).all()


@pytest.mark.parametrize("shape", [(8, 8), (30, 500), (300, 20)])
def test_sheet_of_any_frame_size(shape, tmp_path):
    shot = Shot(1, np.eye(*shape), np.eye(*shape), np.zeros(shape))
    overlay_sheet([shot], tmp_path / "sheet.png", "")
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


@pytest.mark.parametrize("lowest_fa", [0, 1e-6])
def test_roc_picture_shows_all_points(lowest_fa, tmp_path, monkeypatch):
    drawn = []
    scale_fa = pictures.scale_fa
    monkeypatch.setattr(pictures, "scale_fa", lambda axes, fa: (drawn.append(axes), scale_fa(axes, fa)))
    fa, pd = np.array([0.9, 1e-3, 1e-5, lowest_fa]), np.array([1, 0.9, 0.8, 0.4])
    roc_picture({"A": (fa, pd)}, tmp_path / "roc.png", "ROC", thresholds=[0, 0.3, 0.5, 1])
    (axes,) = drawn
    corners = axes.transData.transform(np.stack([fa, pd], axis=1))
    assert np.isfinite(corners).all()
    assert axes.get_xlim()[0] < lowest_fa
    ring = axes.lines[1]
    assert (ring.get_xdata().tolist(), ring.get_ydata().tolist()) == ([1e-5], [0.8])
    assert cv2.imread(str(tmp_path / "roc.png")) is not None


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "roc.png"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(UserError, match="disk full"):
        roc_picture({"A": (np.array([1.0, 0.1]), np.array([1.0, 0.5]))}, path, "ROC")
    assert path.read_bytes() == b"old"
