"""The overlay video: what is drawn where, files that play, broken frames, disks that fill up."""

import cv2
import numpy as np
import pytest

from tests.founds import Frame, found_in, founds_of
from tests.moving import Camera, Target, moving_video
from tests.test_flags import small_disk
from utils.detections import TrackPoint
from utils.errors import UserError
from utils.motion import Motion
from utils.report import overlay_video
from utils.report.drawing import DETECTION, DISTANCE, PAPER, TRACK
from utils.report.overlay_picture import Canvas, Layout, SteadyStretch, clock
from utils.report.overlay_video import OverlayVideo
from utils.report.traces import Traces


def frames_of(path):
    """The pictures of a video, BGR."""
    video, pictures = cv2.VideoCapture(str(path)), []
    while True:
        is_read, picture = video.read()
        if not is_read:
            return pictures
        pictures.append(picture)


def pixels_of(picture, colour):
    """Rows and columns of the pixels of a BGR picture that have an RGB colour."""
    return np.argwhere((picture == colour[::-1]).all(axis=2))


def drawn(found, size=(64, 100), rate=None, title=""):
    layout = Layout.of(*size)
    traces = Traces().add(found)
    return Canvas(layout, rate, title).draw(np.full(size, 90, np.uint8), found, traces), layout


def test_boxes_are_around_what_was_detected():
    frame = Frame(3, "c.png", np.zeros((64, 100), np.uint8))
    box, tracked = (20.0, 10.0, 23.0, 12.0), (60.0, 40.0, 62.0, 43.0)
    tracks = [TrackPoint(5, 60.5, 41, tracked, 0.75)]
    picture, layout = drawn(found_in(frame, [[*box, 0.75, 0], [*tracked, 0.75, 5]], tracks))
    assert layout.scale == 6 and picture.shape == (64 * 6 + 40, 600, 3)
    for colour, (x1, y1, x2, y2) in ((DETECTION, box), (TRACK, tracked)):
        rows, cols = pixels_of(picture[: 64 * 6], colour).T
        frame = np.s_[6 * y1 - DISTANCE, 6 * y2 + DISTANCE - 1, 6 * x1 - DISTANCE, 6 * x2 + DISTANCE - 1]
        top, bottom, left, right = map(int, frame)
        assert (rows.min(), cols.min()) == (top, left)
        sides = [(picture[row, left : right + 1] == colour[::-1]).all() for row in (top, bottom)]
        sides += [(picture[top : bottom + 1, col] == colour[::-1]).all() for col in (left, right)]
        assert all(sides)
        assert (picture[top + 1 : bottom, left + 1 : right] == 90).all()  # what was detected stays visible


def test_a_track_that_was_carried_on_has_corners_alone():
    frame, box = Frame(0, "", np.zeros((64, 100), np.uint8)), (20.0, 10.0, 23.0, 12.0)
    seen, unseen = (
        len(pixels_of(drawn(found_in(frame, tracks=[TrackPoint(1, 21, 11, box, s)]))[0][:100], TRACK))
        for s in (0.75, None)
    )
    assert 20 < unseen < 0.7 * seen


def test_the_legend_has_the_number_the_time_the_name_and_the_counts(monkeypatch):
    texts = []
    monkeypatch.setattr(cv2, "putText", lambda _picture, text, *_: texts.append(text))
    frame = Frame(1510, "a" * 150 + "end.png", np.zeros((64, 100), np.uint8))
    found = found_in(frame, [[20, 10, 23, 12, 0.75, 0]])
    picture, layout = drawn(found, rate=25.0, title="TopHat on data11")
    assert texts[0] == "frame 1510   1:00.40" and texts[1].endswith("aend.png")
    assert texts[1].startswith("...a") and len(texts[1]) < 120
    assert texts[2:] == ["detections 1", "tracks 0", "TopHat on data11"]
    drawn(found)
    assert texts[5] == "frame 1510"  # without a rate there is no time


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.00"), (59.999, "1:00.00"), (61.5, "1:01.50"), (3661, "1:01:01.00")]
)
def test_times(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("size", "scale", "picture"),
    [
        ((256, 256), 2, (552, 512)),
        ((512, 640), 1, (552, 640)),
        ((33, 47), 14, (502, 658)),
        ((77, 213), 3, (272, 640)),  # 231 rows and 639 columns
        ((300, 1), 6, (1840, 320)),
        ((1, 300), 2, (42, 600)),
        ((1, 1), 640, (680, 640)),
        ((3000, 4000), 1 / 3, (1040, 1334)),
    ],
)
def test_pictures_of_any_size_have_even_sides_and_become_a_video(size, scale, picture, tmp_path):
    layout = Layout.of(*size)
    assert layout.scale == pytest.approx(scale) and layout.size == picture
    video = OverlayVideo(tmp_path, 30)
    pixels = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    for number in range(3):
        video.add(found_in(Frame(number, "x", pixels), [[0, 0, 1, 1, 0.75, 0]]))
    video.close()
    pictures = frames_of(tmp_path / "overlay.mp4")
    assert [shown.shape for shown in pictures] == [(*picture, 3)] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.mp4"] and video.notes == []


@pytest.mark.parametrize(
    ("rate", "played"), [(None, 25), (29.97, 29.97), (0.2, 1), (1e5, 240), (float("nan"), 25)]
)
def test_the_rate_is_that_of_the_source(rate, played, tmp_path):
    video = OverlayVideo(tmp_path, rate)
    video.add(found_in(Frame(0, "x", np.zeros((20, 30), np.uint8))))
    video.close()
    assert cv2.VideoCapture(str(tmp_path / "overlay.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(played)


def test_a_broken_frame_shows_the_picture_before_with_a_note(tmp_path):
    video = OverlayVideo(tmp_path)
    clip = moving_video(5, (40, 48), noise=0)
    for found in founds_of(clip, unreadable=(0, 1, 3)):
        video.add(found)
    video.close()
    pictures = [picture[: 40 * 13].astype(int) for picture in frames_of(tmp_path / "overlay.mp4")]
    assert len(pictures) == 5
    assert pictures[0][60:].max() < 20 and pictures[1][60:].max() < 20  # black but for the note
    assert abs(pictures[3] - pictures[2])[60:].mean() < 3 < abs(pictures[4] - pictures[2])[60:].mean()
    assert all((pictures[n][:30, :200].max() > 150) for n in (0, 1))
    assert abs(pictures[3] - pictures[2])[:30, :200].mean() > 10


def test_without_a_frame_that_can_be_read_there_is_no_video(tmp_path):
    video = OverlayVideo(tmp_path)
    video.add(found_in(Frame(0, "x", None)))
    video.close()
    assert list(tmp_path.iterdir()) == []


def test_tails_lie_on_the_scene_while_the_camera_moves():
    camera = Camera((1.5, -0.8), 0.3, 1.004, (1e-5, 0), 0.5)
    clip = moving_video(40, (128, 160), camera, [Target((60, 70)), Target((80, 60), (0.5, 0.2))], noise=0)
    traces, steps = Traces(), []
    for found in founds_of(clip):
        steps.append(traces.add(found))
    still, moving = steps[35]
    assert len(still.places) == 20 and (still.track, moving.track) == (1, 2)
    np.testing.assert_allclose(still.places, np.tile(clip.places[35, 0], (20, 1)), atol=1e-6)
    np.testing.assert_allclose(moving.places[-1], clip.places[35, 1])
    assert np.hypot(*np.ptp(moving.places, axis=0)) > 8


def test_tails_forget_what_is_gone():
    traces, pixels = Traces(), np.zeros((8, 8))
    point = TrackPoint(1, 2, 3, (1, 2, 3, 4), 0.5)
    for number in range(30):
        found = traces.add(
            found_in(Frame(number, "", pixels), tracks=[point] if number in (0, 5, 23, 29) else [])
        )
        assert [len(trace.places) for trace in found] == {0: [1], 5: [2], 23: [2], 29: [2]}.get(number, [])
    flat = Motion(np.array([[1, 0, 0], [0, 1, 0], [-0.5, 0, 1.0]]))  # takes x = 2 to infinity
    (trace,) = traces.add(found_in(Frame(30, "", pixels), tracks=[point], motion=flat))
    assert trace.places.tolist() == [[2, 3]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gray_values_are_stretched_steadily(dtype):
    draw, stretch, means = np.random.default_rng(0), SteadyStretch(), []
    scale = 100 if dtype == np.uint16 else 1
    background = draw.uniform(60, 140, (64, 64))
    for number in range(50):
        flash = np.where(number % 2, 30, 0)  # the brightest percent of every other frame
        pixels = background + flash * (background > 138)
        shown = stretch((scale * pixels).astype(dtype))
        if number > 30:
            assert shown.min() < 20 and shown.max() > 200
        means.append(float(shown.mean()))
    assert max(np.abs(np.diff(means[30:]))) < 4 and shown.dtype == np.uint8


def test_noise_alone_is_not_stretched_to_black_and_white():
    pixels = np.random.default_rng(0).integers(100, 103, (64, 64)).astype(np.uint8)
    assert np.ptp(SteadyStretch()(pixels)) <= 2 * 16


def test_where_no_mp4_can_be_written_it_is_an_avi_and_a_note_says_so(tmp_path, monkeypatch):
    avi = overlay_video.CODECS[1]
    monkeypatch.setattr(overlay_video, "CODECS", ((".mp4", cv2.CAP_OPENCV_MJPEG, "mp4v"), avi))
    video = OverlayVideo(tmp_path)
    for number in range(3):
        video.add(found_in(Frame(number, "x", np.zeros((20, 30), np.uint8))))
    video.close()
    assert len(frames_of(tmp_path / "overlay.avi")) == 3 and len(list(tmp_path.iterdir())) == 1
    assert video.notes == ["this build of OpenCV can write no mp4; the overlay is overlay.avi"]


def noise(number):
    return found_in(Frame(number, "x", np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)))


def test_a_full_disk_is_noticed_while_the_end_of_the_file_still_fits(tmp_path, monkeypatch):
    video = OverlayVideo(tmp_path)
    for number in range(64):
        video.add(noise(number))
    usage = type("Usage", (), {"free": 50_000})
    monkeypatch.setattr(overlay_video.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        UserError, match="cannot write .*overlay.mp4: No space left on device; free some space"
    ):
        video.add(noise(64))
    video.close()
    assert len(frames_of(tmp_path / "overlay.mp4")) == 64


def test_a_file_that_is_not_whole_is_told_and_removed(tmp_path):
    video = OverlayVideo(tmp_path)
    with small_disk(200_000):  # OpenCV says nothing
        for number in range(40):
            video.add(noise(number))
        with pytest.raises(
            UserError, match="cannot write .*overlay.mp4: of 40 frames the file holds 0; free"
        ):
            video.close()
    assert list(tmp_path.iterdir()) == []


def test_the_ground_of_the_legend_is_clean_in_every_picture():
    canvas = Canvas(Layout.of(40, 48), None, "")
    pixels = np.zeros((40, 48), np.uint8)
    canvas.draw(pixels, found_in(Frame(123456, "a long name.png", pixels)), [])
    again = canvas.draw(pixels, found_in(Frame(1, "b", pixels)), []).copy()
    fresh = Canvas(Layout.of(40, 48), None, "").draw(pixels, found_in(Frame(1, "b", pixels)), [])
    assert (again == fresh).all() and (fresh[-1] == PAPER[::-1]).all()
