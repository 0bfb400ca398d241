"""Sources of frames: what a user names, and every frame of it once, in order, with its number and name."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from test_bad_data import refused
from test_frames import saved
from videos import cut_file, noise, smooth, spoil_frame, write_video

import dataset.sources.video
from dataset import Sequence
from dataset.io import gray_values
from dataset.source import Frame, Source
from dataset.sources import open_sources
from dataset.sources.images import SequenceSource
from dataset.sources.video import FrameClock, LiveVideo


def opened(*words, **options) -> Source:
    (source,) = open_sources(map(str, words), **options)
    return source


def pixels_of(source: Source) -> list[np.ndarray]:
    return [frame.pixels for frame in source]


def assert_frames(source: Source, expected: list[np.ndarray], names: list[str]) -> None:
    """All about frames that can be read; twice, as files can be."""
    for _ in range(1 if source.is_live else 2):
        found = list(source)
        assert [frame.number for frame in found] == list(range(len(expected)))
        assert [frame.name for frame in found] == names
        assert all(frame.note == "" for frame in found)
        for frame, pixels in zip(found, expected, strict=True):
            assert frame.pixels.dtype == pixels.dtype
            np.testing.assert_array_equal(frame.pixels, pixels)


def counted(count: int) -> list[str]:
    return [f"{number:06d}" for number in range(count)]


def write_images(folder: Path, frames: list[np.ndarray], suffix: str = ".png", first: int = 0) -> list[Path]:
    return [saved(folder / f"{number}{suffix}", frame) for number, frame in enumerate(frames, first)]


def write_pages(path: Path, frames: list[np.ndarray], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, **options)
    return path


# ---- video files ----


@pytest.mark.parametrize("name", ["a.avi", "b.mkv", "C.MKV"])
def test_a_gray_video(tmp_path, name):
    frames = noise(12)
    source = opened(write_video(tmp_path / name, frames, fps=30))
    assert (source.name, source.length, source.size, source.fps) == (name[0], 12, (24, 32), 30)
    assert not source.is_live and source.notes == []
    assert_frames(source, frames, counted(12))


def test_a_video_of_16_bit(tmp_path):
    frames = noise(3, dtype=np.uint16)
    source = opened(write_video(tmp_path / "a.mkv", frames), gray_range="file")
    assert_frames(source, frames, counted(3))
    (note,) = source.notes
    assert note == f"the 16-bit counts of {tmp_path / 'a.mkv'} are divided by 257 (--range file)"


def test_a_video_of_equal_channels_is_any_of_them(tmp_path):
    frames = smooth(5)
    source = opened(write_video(tmp_path / "a.avi", [cv2.merge([frame] * 3) for frame in frames]))
    assert_frames(source, frames, counted(5))
    assert source.notes == []


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG")])
def test_a_compressed_video_is_what_opencv_makes_of_it(tmp_path, name, codec):
    path = write_video(tmp_path / name, [cv2.merge([frame] * 3) for frame in smooth(5)], codec)
    capture = cv2.VideoCapture(str(path))
    source = opened(path)
    decoded = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2GRAY) for _ in range(5)]
    assert_frames(source, decoded, counted(5))
    assert source.notes == []  # the channels differ by rounding alone


def test_of_a_video_in_colour_the_luma_is_taken(tmp_path):
    """As of overlaid text in red, of which the first channel, blue, has nothing."""
    frames = [cv2.merge([frame] * 3) for frame in smooth(3)]
    for frame in frames:
        frame[5:9, 10:30] = (0, 0, 250)
    source = opened(write_video(tmp_path / "a.avi", frames))
    assert {int(frame.pixels[6, 20]) for frame in source} == {75}  # 0.299 * 250
    assert source.notes == [f"{tmp_path / 'a.avi'} is in colour; of each frame the luma is taken"]


def test_a_broken_frame_of_a_video_keeps_its_number(tmp_path):
    path = write_video(tmp_path / "a.avi", [cv2.merge([frame] * 3) for frame in smooth(40)], "MJPG")
    for number in (14, 15, 30):
        spoil_frame(path, number)
    found = list(source := opened(path))
    assert [frame.number for frame in found] == list(range(40))
    assert [frame.number for frame in found if frame.pixels is None] == [14, 15, 30]
    assert [frame.note for frame in found if frame.note][0] == f"frame 000014 of {path} cannot be decoded"
    means = [frame.pixels.mean() for frame in found if frame.pixels is not None]
    numbers = [frame.number for frame in found if frame.pixels is not None]
    assert np.rint(np.subtract(means, means[0])).tolist() == numbers  # each is the one it says
    assert source.notes == [f"3 frames of {path} cannot be read, the first one because: {found[14].note}"]
    list(source)
    assert len(source.notes) == 1  # which is said anew, not again


def test_a_video_whose_first_frame_is_broken(tmp_path):
    path = write_video(tmp_path / "a.avi", [cv2.merge([frame] * 3) for frame in smooth(5)], "MJPG")
    spoil_frame(path, 0)
    found = list(source := opened(path))
    assert [frame.pixels is None for frame in found] == [True, False, False, False, False]
    np.testing.assert_array_equal(source.first, found[1].pixels)


def test_a_video_without_a_frame_that_can_be_read(tmp_path):
    path = write_video(tmp_path / "a.avi", [cv2.merge([frame] * 3) for frame in smooth(3)], "MJPG")
    for number in range(3):
        spoil_frame(path, number)
    refused(f"no frame of {path} can be read; give a video that has some, or convert it", opened, path)


def test_a_video_that_is_cut_off(tmp_path):
    path = write_video(tmp_path / "a.avi", noise(30))
    cut_file(path, 0.5)
    source = opened(path)
    assert source.length == 30
    came = len(list(source))
    assert 10 < came < 20
    (note,) = source.notes
    assert note.startswith(f"{path} announces 30 frames, of which {came} came: it is cut off or damaged")


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n", bytes(range(256)) * 20])
@pytest.mark.parametrize("name", ["a.mp4", "a.txt"])
def test_a_file_that_is_no_video(tmp_path, name, content, capfd):
    path = tmp_path / name
    path.write_bytes(content)
    refused(
        f"{path} is no image, and no video that OpenCV can open; convert it or leave it out", opened, path
    )
    assert capfd.readouterr() == ("", "")  # the sentence says it, not FFmpeg as well


def test_a_video_of_changing_size_is_refused_where_it_changes(tmp_path, monkeypatch):
    source = opened(write_video(tmp_path / "a.avi", noise(4)))
    other = Frame(1, "000001", np.zeros((24, 30), np.uint8))
    monkeypatch.setattr(source, "_frames", lambda: iter_closing([Frame(0, "000000", noise(1)[0]), other]))
    refused(
        f"frame 000001 of {tmp_path / 'a.avi'} is 30x24, the first one 32x24; give frames of one size",
        list,
        source,
    )


def iter_closing(items):
    yield from items


# ---- the times of frames ----


def test_gaps_are_counted_by_the_times_of_frames():
    clock = FrameClock(25, 100)
    assert [clock.missing(40 * i, i, 0) for i in range(12)] == [0] * 12
    assert clock.missing(40 * 14, 12, 0) == 2
    assert clock.missing(40 * 15, 15, 0) == 0
    assert clock.missing(40 * 17, 16, 1) == 1


def test_times_that_are_rounded_to_milliseconds():
    clock = FrameClock(60, 1000)
    assert sum(clock.missing(round(i * 1000 / 60), i, 0) for i in range(500)) == 0
    assert clock.missing(round(502 * 1000 / 60), 500, 0) == 2


def test_a_step_between_two_numbers_of_frames_is_no_gap():
    clock = FrameClock(25, 100)
    assert [clock.missing(40 * i, i, 0) for i in range(12)] == [0] * 12
    assert clock.missing(40 * 11 + 64, 12, 0) == 0
    assert clock.missing(40 * 11 + 184, 13, 0) == 0  # it is not believed any more
    assert clock.missing(40 * 11 + 304, 14, 1) == 1  # but for a failure
    clock = FrameClock(25, 100)
    assert [clock.missing(0, 0, 0), clock.missing(64, 1, 1)] == [0, 1]


def test_without_a_steady_rate_a_longer_step_is_no_gap():
    for times in (
        [0, 40, 120, 160, 280],
        [0, 40, 95, 135, 255],
        [0] * 20 + [400],
    ):  # 400: a jump beyond the end
        clock = FrameClock(25, 22)
        assert [clock.missing(time, i, 0) for i, time in enumerate(times)] == [0] * len(times)
    clock = FrameClock(25, 22)
    steady = [clock.missing(40 * i, i, 0) for i in range(20)]
    assert steady == [0] * 20 and clock.missing(40 * 400, 20, 0) == 0  # beyond the end


@pytest.mark.parametrize(("fps", "length"), [(None, 100), (25, None)])
def test_without_times_each_failure_is_a_frame(fps, length):
    clock = FrameClock(fps, length)
    assert [clock.missing(0, 0, 0), clock.missing(0, 1, 2), clock.missing(0, 4, 0)] == [0, 2, 0]


def test_a_gap_may_come_early_where_decoding_failed():
    clock = FrameClock(25, 100)
    assert [clock.missing(0, 0, 0), clock.missing(200, 1, 1)] == [0, 4]


# ---- images ----


def test_a_folder_of_images_in_natural_order(tmp_path):
    frames = noise(12)
    write_images(tmp_path / "run", frames)
    source = opened(tmp_path / "run")
    assert (source.name, source.length, source.size, source.fps) == ("run", 12, (24, 32), None)
    assert_frames(source, frames, [f"{number}.png" for number in range(12)])
    assert source.notes == []


@pytest.mark.parametrize(
    "words", [["*.png"], ["1*.png", "[02-9].png"], ["2.png", "0.png", "1.png", "[3-9].png", "1?.png"]]
)
def test_images_by_patterns_and_names_are_one_source(tmp_path, words):
    frames = noise(12)
    write_images(tmp_path / "run", frames)
    source = opened(*(tmp_path / "run" / word for word in words))
    assert source.name == "run"
    assert_frames(source, frames, [f"{number}.png" for number in range(12)])


def test_images_of_several_folders_are_a_source_each(tmp_path):
    for name in ("b", "a10", "a9"):
        write_images(tmp_path / name / "images", noise(2))
    assert [source.name for source in open_sources([f"{tmp_path}/*/images/*.png"])] == ["a9", "a10", "b"]
    sources = open_sources([f"{tmp_path}/b", f"{tmp_path}/a*", f"{tmp_path}/b/images/0.png"])
    assert [source.name for source in sources] == ["b", "a9", "a10"]
    assert [source.length for source in sources] == [2, 2, 2]


def test_an_image_that_is_named_in_two_ways(tmp_path, monkeypatch):
    write_images(tmp_path, noise(2))
    monkeypatch.chdir(tmp_path)
    assert opened("0.png", "./0.png", tmp_path / "0.png", tmp_path).length == 2


def test_one_image(tmp_path):
    (frame,) = noise(1)
    source = opened(saved(tmp_path / "shot.png", frame))
    assert (source.name, source.length) == ("shot", 1)
    assert_frames(source, [frame], ["shot.png"])


def test_a_folder_named_relatively(tmp_path, monkeypatch):
    write_images(tmp_path / "run" / "images", noise(2))
    monkeypatch.chdir(tmp_path / "run")
    assert opened(".").name == "run"
    monkeypatch.chdir(tmp_path / "run" / "images")
    assert opened(".").name == opened("0.png", "1.png").name == "run"


def test_of_images_in_colour_the_first_channel_is_taken(tmp_path):
    frames = [np.dstack(noise(3, seed=seed)) for seed in range(2)]
    write_images(tmp_path / "run", frames, ".bmp")
    source = opened(tmp_path / "run")
    assert_frames(source, [frame[..., 0] for frame in frames], ["0.bmp", "1.bmp"])
    assert source.notes == [
        f"{tmp_path / 'run' / '0.bmp'} is in colour; of such images the first channel is read, red"
    ]


def test_images_of_equal_channels_are_not_in_colour(tmp_path):
    frames = noise(2)
    opaque, nearly = np.full_like(frames[0], 255), [frame - (frame > 5) * np.uint8(5) for frame in frames]
    write_images(
        tmp_path / "run", [np.dstack([*both, both[0], opaque]) for both in zip(frames, nearly, strict=True)]
    )
    source = opened(tmp_path / "run")
    assert_frames(source, frames, ["0.png", "1.png"])
    assert source.notes == []


def test_images_of_a_palette(tmp_path):
    (frame,) = noise(1)
    path = tmp_path / "a.png"
    image = Image.fromarray(255 - frame).convert("P")
    image.putpalette([255 - value // 3 for value in range(768)])
    image.save(path)
    assert_frames(opened(path), [frame], ["a.png"])


def test_damaged_images_are_told_and_keep_their_numbers(tmp_path):
    frames = noise(6)
    paths = write_images(tmp_path, frames)
    cut_file(paths[0], 0.5)
    paths[3].write_bytes(b"no image")
    found = list(source := opened(tmp_path))
    assert [frame.number for frame in found] == list(range(6))
    assert [frame.name for frame in found] == [path.name for path in paths]
    assert [frame.pixels is None for frame in found] == [True, False, False, True, False, False]
    assert found[0].note == f"the image {paths[0]} is truncated or damaged; copy it again"
    assert found[3].note == f"{paths[3]} is not an image; remove it or copy it again"
    assert source.notes == [f"2 frames of {tmp_path} cannot be read, the first one because: {found[0].note}"]
    np.testing.assert_array_equal(source.first, frames[1])
    assert len(source.samples()) == 4


def test_images_none_of_which_can_be_read(tmp_path):
    paths = write_images(tmp_path, noise(3))
    for path in paths:
        cut_file(path, 0.5)
    refused(
        f"no frame of {tmp_path} can be read; of the first one: the image {paths[0]} is truncated",
        opened,
        tmp_path,
    )


def test_images_of_several_sizes_or_depths(tmp_path):
    write_images(tmp_path / "a", [*noise(2), *noise(1, (24, 30))])
    told = f"frame 2.png of {tmp_path}/a is 30x24, the first one 32x24; give frames of one size as one source"
    refused(told, list, opened(tmp_path / "a"))
    write_images(tmp_path / "b", [*noise(2), *noise(1, dtype=np.uint16)])
    told = f"frame 2.png of {tmp_path}/b has pixels of 16 bit, the first one of 8; give frames of one depth"
    refused(told, list, opened(tmp_path / "b"))


def test_two_images_of_one_name(tmp_path):
    write_images(tmp_path, noise(1))
    write_images(tmp_path, noise(1), ".bmp")
    for word in (tmp_path, tmp_path / "*"):
        refused(f"{tmp_path} holds both 0.", opened, word)


# ---- pages of a TIFF ----


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pages_of_a_tiff(tmp_path, dtype, options):
    frames = noise(12, dtype=dtype)
    source = opened(write_pages(tmp_path / "stack.tif", frames, **options), gray_range="file")
    assert (source.name, source.length, source.size) == ("stack", 12, (24, 32))
    assert_frames(source, frames, counted(12))


def test_a_folder_of_tiffs_with_pages_is_a_source_each(tmp_path):
    for name in ("2.tif", "10.TIFF"):
        write_pages(tmp_path / name, noise(3))
    assert [(s.name, s.length) for s in open_sources([str(tmp_path)])] == [("2", 3), ("10", 3)]
    saved(tmp_path / "3.png", noise(1)[0])
    refused(
        f"{tmp_path / '2.tif'} has several pages, and 3.png beside it are images of one", opened, tmp_path
    )


def test_a_folder_of_tiffs_with_a_page_each_is_one_source(tmp_path):
    frames = noise(3, dtype=np.uint16)
    write_images(tmp_path, frames, ".tif")
    assert_frames(opened(tmp_path, gray_range="file"), frames, ["0.tif", "1.tif", "2.tif"])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_tiff_that_is_cut_off(tmp_path):
    frames = noise(12)
    path = write_pages(tmp_path / "stack.tif", frames)
    cut_file(path, 0.6)
    source = opened(path)
    assert 5 <= source.length <= 8
    assert source.notes == [f"{path} is cut off or damaged after page {source.length}; copy it again"]
    assert len(list(source)) == source.length


def test_a_damaged_page(tmp_path):
    frames = noise(5)
    path = write_pages(tmp_path / "stack.tif", frames, compression="tiff_adobe_deflate")
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        image.seek(2)
        (place,) = image.tag_v2[273]  # of its pixels
    data[place : place + 200] = bytes(200)
    path.write_bytes(data)
    found = list(source := opened(path))
    assert [frame.pixels is None for frame in found] == [False, False, True, False, False]
    assert found[2].note == f"page 3 of {path} is damaged; copy the file again"
    np.testing.assert_array_equal(found[4].pixels, frames[4])
    assert len(source.samples()) == 4


def test_a_tiff_of_floats_is_refused(tmp_path):
    path = write_pages(tmp_path / "stack.tif", [np.ones((4, 4), np.float32)] * 2)
    refused(f"page 1 of {path} has pixels of type float32; convert it to 8 or 16 bit gray", opened, path)


# ---- folders, patterns, and what is not there ----


def test_a_folder_of_videos_is_a_source_each(tmp_path):
    for name in ("2.avi", "10.AVI", "1.mkv"):
        write_video(tmp_path / name, noise(2))
    (tmp_path / "README.md").write_text("about them")
    assert [source.name for source in open_sources([str(tmp_path)])] == ["1", "2", "10"]


def test_sources_get_different_names(tmp_path):
    for name in ("x/a.avi", "y/a.avi", "a.mkv", "z/A.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, noise(2))
    words = [str(tmp_path / name) for name in ("x", "y/*", "a.mkv", "z/A.mkv", "x/a.avi")]
    assert [source.name for source in open_sources(words)] == ["a", "a-2", "a-3", "A-4"]
    assert [source.name for source in open_sources([words[3], words[2]])] == ["A", "a-2"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ["a.avi", "1.png", "2.png"],
            "holds 1.png, 2.png and a.avi; name one of these instead of the folder",
        ),
        (["a.avi", "images/1.png"], "holds a.avi and images; name one of these"),
        (["1.png", "images/1.png"], "holds 1.png and images; name one of these"),
        (["notes.txt"], "there are no images (.png, .bmp, .jpg, .jpeg, .tif, .tiff) and no videos in"),
        (["b/1.png", "a/1.png"], "it has the folders a, b: name these, or all by"),
        (["images/b/1.png"], "images; it has the folders b: name these, or all by"),
        ([".hidden.png"], "and no videos in"),
    ],
)
def test_folders_that_may_mean_several_things_or_none(tmp_path, names, told):
    for name in names:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    message = refused(told, opened, tmp_path / "run")
    assert str(tmp_path / "run") in message


def test_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("there is no a.mp4; name a video, an image, a folder or a pattern of these", opened, "a.mp4")
    refused("nothing matches *.png; name a video", opened, "*.png")
    os.symlink("nowhere", "gone.mp4")
    refused("cannot read gone.mp4: No such file or directory; put that right", opened, "gone.mp4")
    os.mkfifo("pipe")
    refused("pipe is neither a file nor a folder; name a video", opened, "pipe")


def test_what_may_not_be_read(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", noise(2))

    def refuse(self, *_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # a superuser may read everything
    refused(f"cannot read {path}: Permission denied; put that right", opened, path)


def test_a_file_that_looks_like_a_pattern_or_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(Path("a[1].avi"), noise(2))
    assert opened("a[1].avi").name == "a[1]"
    write_images(Path("0"), noise(2))
    assert opened("0").name == "0"


# ---- cameras and streams ----


class Camera:
    """As much of cv2.VideoCapture as a camera needs; frames are given one by one."""

    opened: list["Camera"] = []
    frames: list[np.ndarray | None] = []

    def __init__(self, where):
        self.where, self.coming, self.released = where, iter(self.frames), False
        self.opened.append(self)

    def isOpened(self):
        return True

    def get(self, which):
        return {cv2.CAP_PROP_FPS: 50.0}.get(which, -1.0)

    def grab(self):
        self.frame = next(self.coming, "end")
        return not isinstance(self.frame, str)

    def retrieve(self):
        return self.frame is not None, self.frame

    def release(self):
        self.released = True


@pytest.fixture
def camera(monkeypatch):
    monkeypatch.setattr(Camera, "opened", [])
    monkeypatch.setattr(dataset.sources.video.cv2, "VideoCapture", Camera)
    return Camera


def test_a_camera(camera, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = noise(40)
    camera.frames = [cv2.merge([frame] * 3) for frame in frames]
    source = opened("0")
    assert camera.opened == []  # nothing is read before it is asked for
    assert (source.name, source.is_live, source.length, source.size) == ("camera-0", True, None, (24, 32))
    assert source.fps == 50 and camera.opened[0].where == 0
    np.testing.assert_array_equal(source.samples(), frames[:32])
    assert_frames(source, frames, counted(40))  # those that were read ahead too
    assert len(camera.opened) == 1 and camera.opened[0].released


def test_a_camera_that_is_left_early_is_released(camera):
    camera.frames = noise(40)
    source = LiveVideo(0)
    for frame in source:
        if frame.number == 3:
            break
    assert camera.opened[0].released and list(source) == []


def test_a_camera_that_is_stopped_gives_no_more(camera):
    camera.frames = noise(40)
    source = LiveVideo(0)
    found = []
    for frame in source:
        found.append(frame.number)
        if frame.number == 3:
            source.stop()
    assert found == [0, 1, 2, 3] and camera.opened[0].released


def test_what_a_camera_has_read_ahead_is_not_given_after_a_stop(camera):
    camera.frames = noise(40)
    source = LiveVideo(0)
    assert len(source.samples()) == 32
    frames = iter(source)
    next(frames)
    source.stop()
    assert list(frames) == []


def test_a_camera_of_changing_size(camera):
    camera.frames = [*noise(1, (24, 30)), *noise(3)]
    told = "frame 000001 of camera 0 is 32x24, the first one 30x24; give frames of one size as one source"
    refused(told, list, LiveVideo(0, gray_range=(0.0, 100.0)))


def test_frames_of_a_camera_that_cannot_be_decoded(camera):
    camera.frames = [None, *noise(1), None, *noise(1)]
    source = LiveVideo(0)
    assert source.size == (24, 32)
    assert [frame.pixels is None for frame in source] == [True, False, True, False]
    camera.frames = []
    refused("no frame of camera 0 can be read; give a video that has some", LiveVideo(0).check)


def test_a_stream_is_named_without_its_password(camera):
    camera.frames = noise(2)
    source = opened("rtsp://user:secret@host:554/live/1?token=secret")
    assert (source.name, source.title, source.is_live) == ("host-554-live-1", "rtsp://host:554/live/1", True)
    assert len(list(source)) == 2
    assert camera.opened[0].where == "rtsp://user:secret@host:554/live/1?token=secret"


def test_a_camera_that_is_not_there(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    source = opened("97")
    refused("there is no camera 97 that OpenCV can open; look whether it is there", source.check)
    assert capfd.readouterr() == ("", "")


# ---- gray values ----


def counts(number: int = 40) -> list[np.ndarray]:
    """16-bit frames of counts from 20000 to 20050."""
    return [20000 + frame % 52 for frame in noise(number, dtype=np.uint16)]


def test_8_bit_stays_as_it_is_and_16_bit_is_stretched(tmp_path):
    write_images(tmp_path / "8", noise(3))
    assert opened(tmp_path / "8").stretch is None
    write_images(tmp_path / "16", counts(3))
    source = opened(tmp_path / "16")
    gray = gray_values(np.stack(pixels_of(source)))
    assert gray.min() < 60 and 140 < gray.max() < 200 and gray.std() > 20
    np.testing.assert_array_equal(source.first, pixels_of(source)[0])
    np.testing.assert_array_equal(source.samples(), pixels_of(source))
    (note,) = source.notes
    assert note.startswith(
        f"{tmp_path / '16'}: counts from {source.stretch.low:g} to {source.stretch.high:g} become"
    )
    assert "evenly spaced frames lie from 20000 to 20051); --range LOW HIGH sets others" in note


def test_a_range_that_is_given(tmp_path):
    write_images(tmp_path / "8", noise(3))
    write_images(tmp_path / "16", counts(3))
    eight, sixteen = open_sources([str(tmp_path / "8"), str(tmp_path / "16")], gray_range=(20000, 20051))
    np.testing.assert_array_equal(pixels_of(sixteen), [(frame - 20000) * 1285 for frame in counts(3)])
    assert not np.any(pixels_of(eight))
    assert "counts from 20000 to 20051 become gray values 0 to 255 (as --range says)" in sixteen.notes[0]


def test_the_range_is_measured_in_frames_of_the_whole_video(tmp_path):
    frames = [np.full((8, 8), 1000 + 100 * number, np.uint16) for number in range(50)]
    source = opened(write_video(tmp_path / "a.mkv", frames))
    assert source.stretch.low < 1000 and source.stretch.high > 5900
    assert len(source.samples()) == 32
    pages = opened(write_pages(tmp_path / "a.tif", frames))
    assert (pages.stretch.low, pages.stretch.high) == (source.stretch.low, source.stretch.high)


def test_the_range_of_live_frames_is_that_of_the_first_ones(camera):
    camera.frames = [*counts(32), *(frame + np.uint16(500) for frame in counts(2))]
    source = LiveVideo(0)
    found = list(source)
    assert len(found) == 34 and (found[33].pixels == 65535).all()
    assert "98 % of the counts of the first 32 frames lie from 20000 to 20051" in source.notes[0]
    assert source.notes[1].startswith(
        "100 % of frame 000032 of camera 0, and maybe more of later ones, has counts"
    )
    assert "set one that holds them by --range LOW HIGH" in source.notes[1] and len(source.notes) == 2


# ---- samples, and a data set's sequences ----


def test_samples_are_evenly_spaced(tmp_path):
    frames = smooth(100)
    paths = write_images(tmp_path / "run", frames)
    video = write_video(tmp_path / "a.avi", frames)
    pages = write_pages(tmp_path / "a.tif", frames)
    places = np.linspace(0, 99, 32).round().astype(int)
    for word in (tmp_path / "run", video, pages):
        np.testing.assert_array_equal(opened(word).samples(), np.stack(frames)[places])
    assert len(opened(*paths[:5]).samples()) == 5


def test_the_sequence_of_a_data_set(tmp_path):
    paths = write_images(tmp_path, noise(3, dtype=np.uint16), first=7)
    source = SequenceSource(Sequence("test/a", tuple(paths)))
    assert (source.name, source.length) == ("test/a", 3)
    assert_frames(source, noise(3, dtype=np.uint16), ["7.png", "8.png", "9.png"])  # as test.py reads them
    assert source.numbers("number") == [7, 8, 9]
    assert source.numbers("position") == [0, 1, 2]
    assert opened(tmp_path).numbers("number") is None
