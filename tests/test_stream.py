"""Clips of a video of unknown length: those of a TestVideo of the same frames; what is held and left open."""

import io
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from moving import Camera as MovingCamera
from moving import moving_video
from PIL import Image
from recipes import recipe_of
from test_frames import saved
from test_source import Camera, camera  # noqa: F401 - a fixture
from videos import cut_file, noise, write_video

from dataset import Sequence, SequenceSet
from dataset.sampling import ClipFrames, endless_windows, test_windows
from dataset.source import Frame, LiveSource, Source
from dataset.sources import open_sources
from dataset.sources.images import SequenceSource
from dataset.sources.pipe import PipedImages
from dataset.sources.video import LiveVideo
from dataset.stream import StreamedVideo
from dataset.video import TestVideo, one_ahead
from model import create_model
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime
from utils.errors import UserError
from utils.recipe.resolve import resolve_recipe
from utils.recipe.schema import ViewSettings
from utils.task import TASKS

CONSTANTS = (100.0, 40.0)


class Arrays(Source):
    """Frames that are made on the way; None stands for one that cannot be read."""

    def __init__(self, frames: list[np.ndarray | None]):
        super().__init__("arrays", "arrays", "file")
        self.arrays = frames

    length = property(lambda self: len(self.arrays))

    def _frames(self):
        for number, pixels in enumerate(self.arrays):
            yield Frame(number, str(number), pixels, "" if pixels is not None else "gone")

    def _samples(self, most):
        return iter([pixels for pixels in self.arrays if pixels is not None][:most])


class Coming(LiveSource):
    """Frames of which nobody knows how many there are."""

    def __init__(self, frames):
        self.arrays = frames
        super().__init__("coming", "what comes", "file")

    def _received(self):
        for number, pixels in enumerate(self.arrays):
            yield Frame(number, str(number), pixels)


def view_settings(**settings) -> ViewSettings:
    return recipe_of(**settings).view


def data_of(folder: Path, frames: list[np.ndarray], first: int = 0, constants=None) -> SequenceSet:
    """A data set of one sequence in files."""
    paths = [saved(folder / "images" / f"{i}.png", frame) for i, frame in enumerate(frames, first)]
    mean, std = constants or (None, None)
    return SequenceSet("Own", folder, "test", (Sequence("run", tuple(paths)),), mean, std)


def assert_same_clips(found: Iterator, expected: Iterator) -> int:
    """How many clips there are."""
    count = 0
    for (frames, clip), (own_frames, own_clip) in zip(found, expected, strict=True):
        assert frames == own_frames
        assert clip.dtype == own_clip.dtype and torch.equal(clip, own_clip)
        count += 1
    return count


# ---- the clips of a TestVideo ----

MODELS = {  # and how many frames: fewer than, as many as, and more than a clip or window has
    "DeepPro": (3, 40, 41, 77, 130),
    "ResUNet-RFR": (3, 20, 21, 39),
    "TopHat": (1, 2, 9),
    "RPRNet": (1, 5, 6, 13),
    "TSMSA": (4, 5, 7),
    "STMENet": (4, 5, 7),
    "ResUNet-DTUM": (4, 5, 13),
}


@pytest.mark.parametrize(("name", "count"), [(name, count) for name in MODELS for count in MODELS[name]])
def test_clips_are_those_of_a_test_video(tmp_path, name, count):
    settings = resolve_recipe(create_model(name).recipe, "Folder", {}).view
    frames = noise(count, (18, 23))
    data = data_of(tmp_path, frames)
    expected = TestVideo(data[0], data, settings)
    video = StreamedVideo(*open_sources([str(tmp_path)]), settings)
    assert video.normalisation == expected.normalisation
    assert (video.size, video.input_size) == (expected.size, expected.input_size)
    assert assert_same_clips(video, expected) == len(expected)
    live = StreamedVideo(Coming(frames), settings, CONSTANTS)
    with_constants = SequenceSet("Own", tmp_path, "test", data.sequences, *CONSTANTS)
    assert assert_same_clips(live, TestVideo(data[0], with_constants, settings)) == len(expected)


@pytest.mark.parametrize("count", [*range(1, 8), 11, 25])
@pytest.mark.parametrize(
    "settings",
    [
        {"frames": 5, "key": "all"},
        {"frames": 1, "key": "all"},
        {"frames": 11, "key": "all", "padding": "repeat"},
        {"frames": 5, "key": 4},
        {"frames": 5, "key": 0},
        {"frames": 4, "key": 1},
        {"frames": 5, "key": 4, "history": "future"},
        {"frames": 7, "key": 2, "history": "future"},
        {"frames": 9, "key": 6, "history": "future"},
    ],
)
def test_windows_and_key_frames_of_any_length(tmp_path, settings, count):
    frames = noise(count, (4, 5))
    data = data_of(tmp_path, frames, constants=CONSTANTS)
    settings = view_settings(**settings)
    expected = list(TestVideo(data[0], data, settings))
    for source in (Coming(frames), Arrays(frames)):
        assert assert_same_clips(StreamedVideo(source, settings, CONSTANTS), expected) == len(expected)


@pytest.mark.parametrize("neighbours", ["number", "position"])
def test_a_sequence_of_a_data_set_with_gaps(tmp_path, neighbours):
    """Its files tell which frames are neighbours; those of anybody's own folder are taken as they come."""
    paths = [
        saved(tmp_path / f"{number}.png", noise(20, (4, 5))[number]) for number in (1, 2, 5, 6, 7, 11, 12)
    ]
    sequence = Sequence("run", tuple(paths))
    data = SequenceSet("Own", tmp_path, "test", (sequence,), *CONSTANTS)
    for history in ("repeat", "future"):
        settings = view_settings(frames=6, key=2, neighbours=neighbours, history=history)
        expected = list(TestVideo(sequence, data, settings))
        assert_same_clips(StreamedVideo(SequenceSource(sequence), settings, data.constants), expected)
        if neighbours == "position":
            assert_same_clips(StreamedVideo(*open_sources([str(tmp_path)]), settings, CONSTANTS), expected)


def test_frames_of_16_bit(tmp_path):
    frames = noise(9, (6, 7), np.uint16)
    data = data_of(tmp_path, frames)
    settings = view_settings(frames=4, key=2, letterbox=16)
    plain = StreamedVideo(*open_sources([str(tmp_path)], gray_range="file"), settings)
    assert assert_same_clips(plain, TestVideo(data[0], data, settings)) == 9
    stretched = StreamedVideo(*open_sources([str(tmp_path)], gray_range=(0, 20000)), settings)
    assert not torch.equal(next(iter(stretched))[1], next(iter(plain))[1])


def test_endless_windows_begin_as_those_of_any_length():
    for length in (1, 2, 9, 10, 40):
        for frames in range(length, 4 * length + 1):
            *inner, _ = test_windows(frames, length)
            assert inner == list(islice(endless_windows(length), len(inner)))


def test_predictions_are_those_of_a_test(tmp_path):
    frames = noise(12, (20, 24))
    data = data_of(tmp_path, frames)
    model = create_model("TopHat")
    settings = resolve_recipe(model.recipe, "Folder", {}).view
    predict = (model, TASKS["masks"], Runtime(torch.device("cpu")), 0.5)
    expected = list(predict_video(*predict, TestVideo(data[0], data, settings)))
    found = list(predict_video(*predict, StreamedVideo(Coming(frames), settings)))
    assert [number for number, _ in found] == list(range(12))
    for (_, prediction), (_, own) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(prediction.map, own.map)


# ---- statistics ----


def test_statistics_are_those_of_a_test(tmp_path):
    frames = [(frame // 3 + 2 * i).astype(np.uint8) for i, frame in enumerate(noise(50, (8, 10)))]
    data = data_of(tmp_path / "run", frames)
    video_file = write_video(tmp_path / "a.avi", frames)
    for settings in (
        view_settings(),
        view_settings(test_resize=(16, 16)),
        view_settings(letterbox=16, key=3),
    ):
        expected = TestVideo(data[0], data, settings).normalisation
        for word in (tmp_path / "run", video_file):
            video = StreamedVideo(*open_sources([str(word)]), settings)
            assert video.normalisation == expected
            (note,) = video.notes
            assert "standard deviation" in note and "in up to 32 evenly spaced frames, by which" in note


def test_statistics_of_live_frames_are_those_of_the_first_ones():
    frames = [np.full((4, 5), i, np.uint8) for i in range(100)]
    video = StreamedVideo(Coming(frames), view_settings(frames=3))
    values = [float(clip[0, 0, 0, 0, 0]) for _, clip in video]
    assert video.normalisation.mean == np.mean(range(32))
    assert video.normalisation.std == pytest.approx(np.std(range(32)))
    assert len(values) == len(test_windows(100, 3))
    assert "in the first 32 frames, by which they are normalised" in video.notes[0]


def test_what_the_recipe_or_the_data_set_has_is_not_measured():
    source = Arrays(noise(3))
    source.samples = None
    assert StreamedVideo(source, view_settings(mean=3.0, std=2.0), CONSTANTS).normalisation.mean == 3
    assert StreamedVideo(source, view_settings(), CONSTANTS).normalisation.mean == 100
    assert source.notes == []


def test_simulated_frames_are_not_there(tmp_path):
    frames = noise(4)
    data = data_of(tmp_path, frames, constants=CONSTANTS)
    video = StreamedVideo(Arrays(frames), view_settings(frames=5, key=4, history="simulated"), CONSTANTS)
    assert video.notes == ["arrays has no simulated frames before its first one, which is repeated instead"]
    assert_same_clips(video, TestVideo(data[0], data, view_settings(frames=5, key=4)))


# ---- frames that cannot be read ----


def test_the_frame_before_stands_in_for_one_that_cannot_be_read():
    frames = noise(8)
    broken = [None, None, frames[2], None, frames[4], frames[5], None, None]
    whole = [frames[i] for i in (2, 2, 2, 2, 4, 5, 5, 5)]
    for settings in (view_settings(frames=3), view_settings(frames=5, key=2)):
        seen: list[Frame] = []
        video = StreamedVideo(Arrays(broken), settings, CONSTANTS, seen.append)
        assert_same_clips(video, StreamedVideo(Arrays(whole), settings, CONSTANTS))
        assert [frame.number for frame in seen] == list(range(8))
        assert [frame.number for frame in seen if frame.pixels is None] == [0, 1, 3, 6, 7]
        assert seen[3].note == "gone"
        assert video.notes == ["5 frames of arrays cannot be read, the first one because: gone"]


def test_a_damaged_file_between_others(tmp_path):
    data = data_of(tmp_path, noise(6))
    cut_file(data[0].images[3], 0.5)
    seen: list[Frame] = []
    video = StreamedVideo(
        *open_sources([str(tmp_path)]), view_settings(frames=2, key=1), CONSTANTS, seen.append
    )
    clips = [clip for _, clip in video]
    assert len(clips) == 6 and [frame.pixels is None for frame in seen].index(True) == 3
    assert torch.equal(clips[3][0, 0, 1], clips[2][0, 0, 1])


# ---- order, memory, errors, an early end ----


def test_each_frame_is_seen_once_before_a_clip_has_it():
    for settings in (view_settings(frames=4), view_settings(frames=5, key=2)):
        seen: list[Frame] = []
        threads = set()

        def see(frame: Frame, seen=seen, threads=threads) -> None:
            seen.append(frame)
            threads.add(threading.current_thread())

        for clip, _ in StreamedVideo(Arrays(noise(30)), settings, CONSTANTS, see):
            assert len(seen) > max(clip.places)
        assert [frame.number for frame in seen] == list(range(30))
        assert len(threads) == 1 and threading.current_thread() not in threads


@pytest.mark.parametrize(
    "settings",
    [{"frames": 10}, {"frames": 1}, {"frames": 7, "key": 3}, {"frames": 7, "key": 6, "history": "future"}],
)
@pytest.mark.parametrize("is_live", [True, False])
def test_few_frames_are_held_however_many_come(settings, is_live):
    made: list[weakref.ref] = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(2000):
            pixels = np.full((2, 3), number % 251, np.uint8)
            made.append(weakref.ref(pixels))
            yield pixels

    class FromNowhere(Arrays):
        def _frames(self):
            yield from (Frame(number, "", pixels) for number, pixels in enumerate(frames()))

    source = Coming(frames()) if is_live else FromNowhere([])
    most = 0
    for clip, _ in StreamedVideo(source, view_settings(**settings), CONSTANTS):
        if clip.first % 9 == 0:
            most = max(most, sum(reference() is not None for reference in made))
    assert len(made) >= 2000 and most <= 2 * settings["frames"] + 4


class Sentinel(Exception):
    pass


def test_an_error_while_reading_reaches_the_consumer():
    def frames():
        yield from noise(7)
        raise Sentinel("in the thread")

    clips = iter(StreamedVideo(Coming(frames()), view_settings(frames=3), CONSTANTS))
    assert next(clips)[0] == ClipFrames.window(0, 3)
    with pytest.raises(Sentinel, match="in the thread"):
        list(clips)

    def refuse(frame: Frame) -> None:
        raise Sentinel(f"at {frame.number}")

    with pytest.raises(Sentinel, match="at 0"):
        list(StreamedVideo(Arrays(noise(3)), view_settings(frames=3), CONSTANTS, refuse))
    with pytest.raises(UserError, match="is 5x4, the first one 32x24; give frames of one size"):
        list(StreamedVideo(Arrays([*noise(3), *noise(1, (4, 5))]), view_settings(frames=3), CONSTANTS))


def test_a_video_without_frames():
    with pytest.raises(UserError, match="no frame of arrays can be read; give a video that has some"):
        list(StreamedVideo(Arrays([]), view_settings(frames=3), CONSTANTS))


def wait_for_threads(before: int) -> None:
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.parametrize("leave", ["close", "error", "forget"])
def test_a_consumer_that_leaves_early_leaves_nothing_open(camera, leave):  # noqa: F811 - the fixture
    before = threading.active_count()
    camera.frames = noise(500)
    clips = iter(StreamedVideo(LiveVideo(0), view_settings(frames=3), CONSTANTS))
    next(clips)
    if leave == "close":
        clips.close()
    elif leave == "error":
        with pytest.raises(Sentinel):
            clips.throw(Sentinel())
    else:
        del clips
    wait_for_threads(before)
    assert [capture.released for capture in Camera.opened] == [True]


@pytest.mark.parametrize("kind", [Arrays, Coming])
def test_who_is_interrupted_does_not_wait_for_the_rest_of_a_clip(kind):
    """A window of this camera, or of files on a slow disk, would take 20 s."""

    class Slow(kind):
        def _frames(self):
            for frame in super()._frames():
                time.sleep(0.02)
                yield frame

    def interrupt(*_):
        raise Sentinel

    before, begin = threading.active_count(), time.monotonic()
    clips = iter(StreamedVideo(Slow(noise(1000)), view_settings(frames=1000), CONSTANTS))
    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Sentinel):
            next(clips)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert time.monotonic() - begin < 5
    wait_for_threads(before)


def test_who_waits_for_a_pipe_can_leave():
    out, into = os.pipe()
    before = threading.active_count()
    with open(out, "rb") as pipe, open(into, "wb", buffering=0) as sender:
        for frame in noise(2):
            image = io.BytesIO()
            Image.fromarray(frame).save(image, "PNG")
            sender.write(image.getvalue())
        clips = iter(StreamedVideo(PipedImages(pipe=pipe), view_settings(frames=1), CONSTANTS))
        next(clips), next(clips)
        clips.close()
        wait_for_threads(before)


def test_one_item_is_made_ahead():
    made, left = [], []

    def items():
        try:
            for number in range(5):
                made.append(number)
                yield number
        finally:
            left.append(True)

    given = items()  # which nobody else would close
    ahead = one_ahead(given)
    assert next(ahead) == 0
    end = time.monotonic() + 5
    while made != [0, 1] and time.monotonic() < end:
        time.sleep(0.01)
    assert made == [0, 1] and not left
    assert list(ahead) == [1, 2, 3, 4] and left == [True]
    given = items()
    ahead = one_ahead(given)
    next(ahead)
    ahead.close()
    assert left == [True, True]


# ---- frames that are kept until they are taken


def test_frames_are_kept_until_they_are_taken():
    frames = noise(9)
    broken = [None, *frames[1:4], None, *frames[5:]]
    video = StreamedVideo(Arrays(broken), view_settings(frames=3), CONSTANTS, keeps=True)
    taken = 0
    for clip, _ in video:
        while taken < clip.first + clip.count:
            with pytest.raises(ValueError, match=f"frame {taken} is the first that is kept, not {taken + 1}"):
                video.take(taken + 1)
            shown = frames[1] if taken == 0 else broken[taken]  # the first one that can be read
            if shown is None:
                shown = frames[1]
            np.testing.assert_array_equal(video.picture(taken), shown.astype(np.float32))
            frame, motion = video.take(taken)
            assert (frame.number, motion.measured) == (taken, False)
            assert (frame.pixels is None) == (broken[taken] is None)
            taken += 1
    assert taken == 9 and video.is_whole
    video.check_end()


def test_the_pictures_of_stretched_frames_are_gray_levels():
    frames = noise(2, dtype=np.uint16)
    video = StreamedVideo(Arrays(frames), view_settings(frames=1), CONSTANTS, keeps=True)
    list(video)
    np.testing.assert_allclose(video.picture(0), frames[0] / 257, atol=1e-4)


@pytest.mark.parametrize("settings", [{"frames": 3}, {"frames": 5, "key": 2}, {"frames": 1}])
def test_what_is_wrong_with_a_frame_is_told_after_those_before_it(settings):
    frames = [*noise(7), *noise(1, (4, 5)), *noise(3)]
    video = StreamedVideo(Arrays(frames), view_settings(**settings), CONSTANTS, keeps=True)
    expected = StreamedVideo(Arrays(frames[:7]), view_settings(**settings), CONSTANTS)
    assert_same_clips(video, list(expected))
    assert not video.is_whole
    assert [video.take(number)[0].number for number in range(7)] == list(range(7))
    with pytest.raises(UserError, match="is 5x4, the first one 32x24; give frames of one size"):
        video.check_end()


@pytest.mark.parametrize("kind", [Arrays, Coming])
def test_a_video_that_is_ended_is_one_of_the_frames_that_were_read(kind):
    frames = noise(40)
    video = StreamedVideo(kind(frames), view_settings(frames=4), CONSTANTS, keeps=True)
    clips = []
    for clip in video:
        clips.append(clip)
        if len(clips) == 3:
            video.end()
    count = max(max(clip.places) for clip, _ in clips) + 1
    assert 8 <= count <= 14 and not video.is_whole
    expected = StreamedVideo(Arrays(frames[:count]), view_settings(frames=4), CONSTANTS)
    assert_same_clips(iter(clips), list(expected))
    video.check_end()


def test_motions_are_those_of_the_frames():
    video = moving_video(12, (48, 64), MovingCamera((2, 0)))
    settings = view_settings(frames=3, register="on")
    streamed = StreamedVideo(Arrays(list(video.frames)), settings, CONSTANTS, keeps=True)
    clips = iter(streamed)
    number = 0
    for clip, _ in clips:
        motions = [streamed.motion(place) for place in clip.places]
        while number < clip.first + clip.count:
            _, motion = streamed.take(number)
            assert motion is motions[number - clip.first]
            assert motion.measured == (number > 0)
            np.testing.assert_allclose(motion.homography[0, 2], 2 * (number > 0), atol=0.7)
            number += 1
    assert number == 12 and streamed.seconds["register"] > 0


def test_motions_of_long_ago_are_forgotten():
    streamed = StreamedVideo(Arrays(noise(200, (4, 5))), view_settings(frames=2), CONSTANTS)
    assert len(list(streamed)) > 100 and len(streamed._motions) <= 20
