"""The pictures: what is drawn where, in which colour, and that a file appears whole or not at all."""

import cv2
import numpy as np
import pytest

from utils.errors import UserError
from utils.report import curves as curve_pictures
from utils.report import pictures
from utils.report.curves import pr_picture, roc_picture
from utils.report.pictures import FALSE_ALARM, HIT, Shot, overlay, overlay_sheet


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
    scale_fa = curve_pictures.scale_fa
    monkeypatch.setattr(curve_pictures, "scale_fa", lambda axes, fa: (drawn.append(axes), scale_fa(axes, fa)))
    fa, pd = np.array([0.9, 1e-3, 1e-5, lowest_fa]), np.array([1, 0.9, 0.8, 0.4])
    roc_picture({"A": (fa, pd)}, tmp_path / "roc.png", "ROC", thresholds=[0, 0.3, 0.5, 1])
    (axes,) = drawn
    corners = axes.transData.transform(np.stack([fa, pd], axis=1))
    assert np.isfinite(corners).all()
    assert axes.get_xlim()[0] < lowest_fa
    ring = axes.lines[1]
    assert (ring.get_xdata().tolist(), ring.get_ydata().tolist()) == ([1e-5], [0.8])
    assert cv2.imread(str(tmp_path / "roc.png")) is not None


def test_pr_picture_ends_curves_at_their_last_recall_and_circles_points(tmp_path, monkeypatch):
    drawn = []
    write_figure = curve_pictures.write_figure
    monkeypatch.setattr(
        curve_pictures,
        "write_figure",
        lambda figure, path: (drawn.append(figure), write_figure(figure, path)),
    )
    recall = np.linspace(0, 1, 101)
    reaching_70 = np.where(recall < 0.705, 0.9 - recall / 2, 0)
    curves = {"A": (recall, reaching_70), "B": (recall, np.zeros(101)), "C": (recall, np.full(101, np.nan))}
    pr_picture(curves, tmp_path / "pr.png", "PR", {"A": (0.5, 0.65), "C": (np.nan, np.nan)})
    (axes,) = drawn[0].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["A"].get_xdata().tolist() == recall[:71].tolist()
    assert lines["A"].get_ydata().tolist() == reaching_70[:71].tolist()
    assert len(lines["B"].get_xdata()) == 0
    (ring,) = (line for line in axes.lines if line.get_marker() == "o" and line.get_xdata().tolist() == [0.5])
    assert (ring.get_ydata().tolist(), ring.get_color()) == ([0.65], lines["A"].get_color())
    assert "score 0.5" in lines
    of_equal_f1 = [line for line in axes.lines if line.get_linestyle() == ":"]
    for line, f1 in zip(of_equal_f1, (0.5, 0.6, 0.7, 0.8, 0.9), strict=True):
        x, y = line.get_xdata(), line.get_ydata()
        np.testing.assert_allclose(2 * x * y / (x + y), f1)
        assert y.max() == pytest.approx(1)
    assert cv2.imread(str(tmp_path / "pr.png")) is not None


def test_pr_picture_without_points_explains_none(tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(
        curve_pictures,
        "write_figure",
        lambda figure, _: labels.extend(figure.axes[0].get_legend_handles_labels()[1]),
    )
    pr_picture({"A": (np.array([0, 1]), np.array([1, 0.5]))}, tmp_path / "pr.png", "PR")
    assert labels == ["A"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "roc.png"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(UserError, match="disk full"):
        roc_picture({"A": (np.array([1.0, 0.1]), np.array([1.0, 0.5]))}, path, "ROC")
    assert path.read_bytes() == b"old"


def test_boxes_are_hits_where_they_touch_a_target():
    image = np.zeros((40, 50))
    mask = np.zeros((40, 50), np.uint8)
    mask[10:12, 20:22] = 1
    on, beside, away = [19, 9, 23, 13, 0.9], [22, 12, 26, 16, 0.8], [40, 30, 44, 34, 0.7]
    below = [0, 0, 8, 8, 0.4]
    verdict = pictures.judge(np.array([on, beside, away, below]), mask, 0.5, image.shape)
    assert (verdict.num_found, verdict.num_false) == (1, 1)
    assert verdict.hit_boxes.tolist() == [on[:4], beside[:4]]
    assert verdict.false_boxes.tolist() == [away[:4]]
    picture = overlay(image, np.array([away]), np.zeros((0, 2)), scale=2)
    assert (picture[59:69, 79:89][0] == FALSE_ALARM).all()  # around the pixels of the box
    assert (picture[60:68, 80:88] == 0).all()


def test_a_sheet_of_frames_with_boxes_and_without(tmp_path):
    image = np.random.default_rng(0).normal(100, 9, (60, 80))
    shots = [
        Shot(1, image, np.array([[10.0, 20, 18, 28, 0.9], [50, 30, 58, 38, 0.6]]), np.array([[24, 14]])),
        Shot(2, image, np.zeros((0, 5)), np.zeros((0, 2))),
    ]
    assert (shots[0].highest, shots[0].peak) == (0.9, (24, 14))
    assert (shots[1].highest, shots[1].peak) == (0, (0, 0))
    overlay_sheet(shots, tmp_path / "sheet.png", "boxes")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert (sheet == HIT).all(-1).any() and (sheet == FALSE_ALARM).all(-1).any()
