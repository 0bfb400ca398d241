"""The pictures: what is drawn where, in which colour, and that a file appears whole or not at all."""

import cv2
import numpy as np
import pytest

from metrics.protocols import PROTOCOLS, Protocol, protocol_lines
from utils.boxes import BoxPrediction, MapPrediction
from utils.errors import UserError
from utils.report import curves as curve_pictures
from utils.report import pictures
from utils.report.curves import pr_picture, roc_picture
from utils.report.drawing import APART, DETECTION, TOUCHING, TRACK, draw_traces, overlay, widened
from utils.report.pictures import SheetWriter, Tile, overlay_sheet
from utils.report.traces import Trace


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
    hit, false_alarm = pixels_of(picture, TOUCHING), pixels_of(picture, APART)
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


@pytest.mark.parametrize(("offset", "colour"), [(1, TOUCHING), (2, APART)])
def test_a_response_one_pixel_off_is_a_hit_and_two_pixels_off_is_not(offset, colour):
    probability = np.zeros((30, 30))
    probability[10 + offset, 10 + offset] = 1
    picture = overlay(np.zeros((30, 30)), probability, np.array([[10, 10]]))
    found = [c for c in (TOUCHING, APART) if len(pixels_of(picture, c))]
    assert found == [colour]


def test_nothing_is_coloured_without_targets_and_responses(frame):
    picture = overlay(frame[0], np.zeros((60, 80)), np.zeros((0, 2)))
    assert (np.ptp(picture, axis=2) == 0).all()


@pytest.mark.parametrize("boxes", [False, True])
def test_of_unknown_truth_no_detection_is_drawn_as_a_false_alarm(frame, boxes):
    image, probability, _ = frame
    found = MapPrediction(probability, 0.5).boxes if boxes else probability
    picture = overlay(image, found, None, scale=2)
    drawn = pixels_of(picture, DETECTION)
    for centre in ((41, 61), (92, 121)):
        assert (np.hypot(*(drawn - centre).T) < 12).any()
    assert len(drawn) == np.count_nonzero(np.ptp(picture, axis=2))
    known_to_be_empty = overlay(image, found, np.zeros((0, 2)), scale=2)
    assert len(pixels_of(known_to_be_empty, APART)) == len(drawn)


def test_tracks_are_drawn_with_their_numbers_and_magnified(frame, tmp_path, texts):
    image, probability, _ = frame
    places = np.array([[20.0, 40.0], [40.0, 45.0], [60.0, 45.0]])
    trace = Trace(7, places, (58.0, 43.0, 63.0, 48.0))
    tile = Tile("3  a.png", image, probability, None, "detections 2    tracks 1", [trace])
    picture = pictures.draw_tile(tile, 0.5)
    orange = np.argwhere(picture[..., 0].astype(int) > picture[..., 2] + 60)  # its edge is smoothed
    inside = orange[(orange[:, 0] < 360) & (orange[:, 1] > 110)]  # without the inset
    way = [np.hypot(*(inside - (6 * y + 3, 6 * x + 3)).T).min() for x, y in ((30, 42.5), (50, 45), (60, 45))]
    assert max(way[:2]) < 3 and way[2] > 6  # the way ends at the box
    mark = pixels_of(picture, pictures.INK)  # of what is magnified: the track's end, not the peak at (20, 30)
    assert [6 * (45 - 9), 6 * (60 - 9)] in mark.tolist()
    overlay_sheet([tile], tmp_path / "sheet.png", "")
    assert "frame 3  a.png    detections 2    tracks 1    highest p 0.9" in texts and "track" in texts


@pytest.mark.parametrize("size", [(60, 80), (240, 320)])  # enlarged, and as they are
def test_a_track_looks_the_same_where_it_is_magnified(size):
    box = np.array([58.0, 43.0, 61.0, 46.0])
    trace = Trace(7, np.array([[59.0, 44.0]]), tuple(box))
    scale = pictures.tile_scale(*size)
    found = np.append(widened(box, scale), 1)[None]
    tile = Tile(0, np.zeros(size), found, None, "", [trace])
    picture = pictures.draw_tile(tile, None)
    assert not len(pixels_of(picture, DETECTION))  # it is a track's, in both places
    inset = pixels_of(picture[:156, -156:], TRACK)
    across, down = (np.ptp(inset, axis=0) + 1).tolist()
    assert across == down == pytest.approx(8 * (3 + 2 * 4 / scale), abs=3)


def test_the_number_of_a_track_lies_above_the_mark_of_what_is_magnified():
    trace = Trace(888, np.array([[100.0, 100.0]]), (98.0, 98.0, 103.0, 103.0))
    picture = pictures.draw_tile(Tile(0, np.zeros((512, 640)), np.zeros((0, 5)), None, "", [trace]), None)
    alone = np.zeros_like(picture)
    draw_traces(alone, [trace], 1)
    number = np.s_[95:106, 108:134]  # beside the box, where the right side of the mark is at x = 110
    assert alone[number].any() and (pixels_of(picture, pictures.INK)[:, 1] == 110).any()
    written = alone[number].any(axis=2)
    assert np.array_equal(picture[number][written], alone[number][written])


def test_sheet_has_a_tile_per_frame_and_does_not_hide_a_target(frame, tmp_path):
    image, probability, _ = frame
    corners = np.array([[3, 3], [3, 76], [56, 3]])  # the inset must take the corner that is left
    tiles = [Tile(number, image, probability, corners) for number in range(4)]
    path = tmp_path / "sheet.png"
    overlay_sheet(tiles, path, "a title", columns=2)
    sheet = cv2.imread(str(path))[..., ::-1]
    assert sheet.shape == (48 + 2 * (360 + 24 + 8), 2 * (480 + 8) + 8, 3)
    inset = pictures.ZOOM * pictures.ZOOM_SCALE + 4
    bottom, right = 48 + 360, 8 + 480
    frame_of_inset = sheet[bottom - inset : bottom, right - inset : right]
    assert (frame_of_inset[:2] == pictures.INK).all()


@pytest.mark.parametrize("shape", [(8, 8), (30, 500), (300, 20)])
def test_sheet_of_any_frame_size(shape, tmp_path):
    tile = Tile(1, np.eye(*shape), np.eye(*shape), np.zeros(shape))
    overlay_sheet([tile], tmp_path / "sheet.png", "")
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


@pytest.mark.parametrize("lowest_fa", [0, 1e-6])
def test_roc_picture_shows_all_points(lowest_fa, tmp_path, monkeypatch):
    drawn = []
    scale_fa = curve_pictures.scale_fa
    monkeypatch.setattr(curve_pictures, "scale_fa", lambda axes, fa: (drawn.append(axes), scale_fa(axes, fa)))
    fa, pd = np.array([0.9, 1e-3, 1e-5, lowest_fa]), np.array([1, 0.9, 0.8, 0.4])
    roc_picture({"A": (fa, pd)}, tmp_path / "roc.png", "ROC", {"A": (1e-5, 0.8)})
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
    found = pictures.sort_detections(np.array([on, beside, away, below]), mask, 0.5, image.shape)
    assert found.count == 3
    assert found.touching_boxes.tolist() == [on[:4], beside[:4]]
    assert found.apart_boxes.tolist() == [away[:4]]
    picture = overlay(image, np.array([away]), np.zeros((0, 2)), scale=2)
    assert (picture[59:69, 79:89][0] == APART).all()  # around the pixels of the box
    assert (picture[60:68, 80:88] == 0).all()


def test_a_sheet_of_frames_with_boxes_and_without(tmp_path):
    image = np.random.default_rng(0).normal(100, 9, (60, 80))
    tiles = [
        Tile(1, image, np.array([[10.0, 20, 18, 28, 0.9], [50, 30, 58, 38, 0.6]]), np.array([[24, 14]])),
        Tile(2, image, np.zeros((0, 5)), np.zeros((0, 2))),
    ]
    assert (tiles[0].highest, tiles[0].peak) == (0.9, (24, 14))
    assert (tiles[1].highest, tiles[1].peak) == (None, None)
    overlay_sheet(tiles, tmp_path / "sheet.png", "boxes")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert (sheet == TOUCHING).all(-1).any() and (sheet == APART).all(-1).any()


# ---------------------------------------------------------------- captions


class Video:
    """As much of a TestVideo as a contact sheet asks for: one frame of noise."""

    name = "some/video"
    frames = (0,)

    def __init__(self):
        self.originals = self

    def images(self, start, stop):
        return np.random.default_rng(0).normal(100, 3, (stop - start, 30, 40))


@pytest.fixture
def sheets(monkeypatch):
    """What SheetWriter hands to the drawing: (tiles, path, title, threshold) of each sheet."""
    drawn = []
    monkeypatch.setattr(pictures, "overlay_sheet", lambda *sheet: drawn.append(sheet))
    return drawn


@pytest.fixture
def texts(monkeypatch):
    """All that is written on pictures."""
    written, write_line = [], pictures.write_line

    def listen(picture, top, parts):
        written.extend(text for text, _ in parts)
        return write_line(picture, top, parts)

    monkeypatch.setattr(pictures, "write_line", listen)
    return written


TOUCHED, FAR = np.s_[10:12, 22:29], np.s_[25:27, 5]  # a response beside the target, and one of two pixels


def a_frame(folder, protocols, paper="BasicIRSTD", boxes=False, kinds=("mask", "centroid_map", "centroids")):
    """A frame whose target, of 2x2 pixels, a long response touches without being near by its centre."""
    mask = np.zeros((30, 40), np.uint8)
    mask[10:12, 20:22] = 1
    p = np.full(mask.shape, 0.1, np.float32)
    p[TOUCHED], p[FAR] = 0.9, 0.8
    prediction = MapPrediction(p, 0.5)
    if boxes:
        prediction = BoxPrediction(prediction.boxes, mask.shape)
    every = {"mask": mask, "centroid_map": mask, "centroids": np.array([[10.5, 20.5]])}
    truth = {kind: value if kind in kinds else None for kind, value in every.items()}
    lines = protocol_lines(protocols, paper, threshold=0.5, match=1, exclude=4)
    SheetWriter(folder, "Model", lines, 0.5)(Video(), 0, prediction, truth)


@pytest.mark.parametrize(
    ("protocols", "paper", "boxes", "caption", "title"),
    [
        # The centre of the long response is 4 pixels from the target's: not found, and 14 + 2 false pixels.
        (["published"], "BasicIRSTD", False, "found 0 of 1    false pixels 16", "PdFa (published protocol)"),
        # By area, as RPRNet and RFR count, the same: no response has the area of one that found a target.
        (["published"], "RFR", False, "found 0 of 1    false pixels 16", "PdFa (published protocol)"),
        # A response within a pixel finds it; in columns 22 to 25 it is not false, in 26 to 28 it is.
        (["clean"], "RFR", False, "found 1 of 1    false pixels 8", "ShootingRules (clean protocol)"),
        (["published", "clean"], "STMENet", True, "found 1 of 1    false pixels 8", "ShootingRules (clean"),
    ],
)
def test_captions_count_by_the_rule_of_the_first_line(
    protocols, paper, boxes, caption, title, sheets, tmp_path
):
    a_frame(tmp_path, protocols, paper, boxes)
    (((tile,), path, said, threshold),) = sheets
    assert (tile.caption, path, threshold) == (caption, tmp_path / "some_video.png", 0.5)
    assert said.startswith(f"Model on some/video, counted by {title}")
    found = pictures.sort_detections(tile.found, tile.truth, 0.5, tile.image.shape)
    assert found.touching[TOUCHED].all() or len(found.touching_boxes) == 1  # yellow all the same
    assert found.apart[FAR].all() or len(found.apart_boxes) == 1


def test_a_line_that_cannot_score_the_frame_gives_way_to_the_next(sheets, tmp_path):
    """Boxes are no map: PdFa counts none of them."""
    a_frame(tmp_path, ["published", "clean"], "BasicIRSTD", boxes=True)
    assert "counted by ShootingRules (clean protocol)" in sheets[0][2]


def test_centres_are_captioned_with_their_false_responses(sheets, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "BasicIRSTD", Protocol(({"CentroidPdFa": {}},)))
    a_frame(tmp_path, ["published"])
    assert sheets[0][0][0].caption == "found 0 of 1    false pixels 16 in 2 responses"


@pytest.mark.parametrize(
    ("paper", "kinds"), [("BasicIRSTD", ()), ("STMENet", ("mask", "centroid_map", "centroids"))]
)
def test_without_truth_or_rule_nothing_is_called_found_or_false(paper, kinds, sheets, texts, tmp_path):
    a_frame(tmp_path, ["published"], paper, kinds=kinds)
    (((tile,), _, title, _),) = sheets
    assert (tile.caption, title) == ("", "Model on some/video")
    overlay_sheet([tile], tmp_path / "sheet.png", title)
    assert "frame 1    detections 2    highest p 0.9" in texts
    assert ("target" in texts) == bool(kinds)
    assert ("detection (p > 0.5)" in texts) == (not kinds)
    assert not any("found" in text or "false" in text for text in texts)


def test_what_the_rule_counted_is_written_below_the_frame(texts, tmp_path):
    a_frame(tmp_path, ["published"])
    assert texts == [
        "frame 1    found 0 of 1    false pixels 16    highest p 0.9",
        "Model on some/video, counted by PdFa (published protocol)",
        "target",
        "p > 0.5, touches a target",
        "p > 0.5, touches none",
    ]


def test_shared_curves_are_named_by_model_or_by_weights():
    """Only pictures of two or more curves are shared."""
    tests = [("A", "a1.pth", {"roc.png": 1, "pr.png": 2}), ("A", "a2.pth", {"roc.png": 3})]
    assert curve_pictures.shared_curves(tests) == {"roc.png": {"a1.pth": 1, "a2.pth": 3}}
    assert curve_pictures.shared_curves([*tests[1:], ("B", "b.pth", {"roc.png": 4})]) == {
        "roc.png": {"A": 3, "B": 4}
    }
