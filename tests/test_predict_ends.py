"""How predict.py ends: at damaged frames, when it is asked to, on a full disk; what it holds meanwhile."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch
from predicted import CPU, LIGHT, Results, dot, dots, more_toys, predicted, write_frames
from test_commands import exit_code, refusal  # noqa: F401 - a fixture
from test_flags import small_disk
from test_source import camera  # noqa: F401 - a fixture
from test_stream import wait_for_threads

import predict
from dataset.source import Frame
from dataset.sources.images import ImageFiles
from model import create_model
from tests.conftest import ROOT
from utils.errors import UserError
from utils.files import temporary_beside
from utils.report.found_writer import FoundWriter

pytestmark = pytest.mark.usefixtures("one_thread")


def found_in(results: Results) -> list[int]:
    """The frames with a detection where the dot is."""
    rows = [(int(row["frame"]), float(row["x"]), float(row["y"])) for row in results.detections]
    return [number for number, *place in rows if tuple(place) == dot(number)]


def threads() -> int:
    gc.collect()
    return threading.active_count()


# ---------------------------------------------------------------- frames that cannot be read


def test_frames_that_cannot_be_read_keep_their_numbers(tmp_path):
    images = write_frames(tmp_path / "run", dots())
    for number in (0, 4, 5, 11):
        (images / f"{number}.png").write_bytes(b"\x89PNG nothing")
    results = predicted(tmp_path / "out", images, "--save_maps", "png", *LIGHT[:4], *CPU)
    results.check(12, unreadable=[0, 4, 5, 11])
    readable = [number for number in range(12) if number not in (0, 4, 5, 11)]
    assert found_in(results) == readable and len(results.detections) == len(readable)
    assert [row["name"] for row in results.detections] == [f"{number}.png" for number in readable]
    assert len(list((results.folder / "maps").iterdir())) == 8
    (note,) = [note for note in results.summary["notes"] if "cannot be read" in note]
    assert note.startswith(f"4 frames of {images} cannot be read, the first one because: {images / '0.png'}")
    rows = results.rows("motion.csv")
    assert all(rows[number]["measured"] == "0" for number in (0, 4, 5, 11))


def test_the_track_goes_on_through_a_frame_that_cannot_be_read(tmp_path):
    images = write_frames(tmp_path / "run", dots())
    (images / "7.png").write_bytes(b"")
    results = predicted(tmp_path / "out", images, *LIGHT)
    points = {row["frame"]: row for row in results.rows("tracks.csv")}
    assert len(points) == 12 and points["7"]["score"] == "" and points["7"]["name"] == "7.png"
    assert float(points["7"]["x"]) == pytest.approx(dot(7)[0], abs=0.5)


# ---------------------------------------------------------------- an end before the end


@pytest.mark.parametrize("model", ["TopHat", "ToyKey", "ToyWindow", "TemporalMedian"])
def test_a_size_that_changes_ends_with_all_frames_before(tmp_path, model, refusal):  # noqa: F811
    """Also those that the windows, the median and the tracks hold back."""
    images = write_frames(tmp_path / "run", dots(12))
    write_frames(images, dots(3, (32, 41)), first=12)
    before = threads()
    with more_toys():
        flags = ("--model_names", model, "--register", "off", "--no-overlay")
        told = refusal(predict, images, "--out", tmp_path / "out", *flags)
    assert told == (
        f"frame 12.png of {images} is 41x32, the first one 40x32; give frames of one size as one source"
    )
    results = Results(tmp_path / "out")
    results.check(12, is_complete=False)
    assert model == "TemporalMedian" or len(found_in(results)) >= 10
    assert results.summary["seconds"]["all"] > 0
    wait_for_threads(before)


def interrupted_at(number: int, act) -> type:
    """Image files of which `act` is called when that frame is read, in the thread that reads."""

    class Interrupted(ImageFiles):
        def _frames(self):
            for frame in super()._frames():
                if frame.number == number:
                    act()
                yield frame

    return Interrupted


def raise_interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def interrupted(monkeypatch, tmp_path):
    """interrupted(number, act, count): a folder of images, of which a frame is read so."""

    def make(number: int, act, count: int = 60):
        import dataset.sources.find

        monkeypatch.setattr(dataset.sources.find, "ImageFiles", interrupted_at(number, act))
        return write_frames(tmp_path / "run", dots(count, (32, 90)))

    return make


@pytest.mark.parametrize("model", ["TopHat", "TemporalMedian"])
def test_an_interruption_leaves_whole_files(interrupted, model, tmp_path, capfd):
    before = threads()
    images = interrupted(50, raise_interrupt)
    argv = [str(images), "--model_names", model, "--out", str(tmp_path / "out"), *CPU]
    assert predict.main(argv) == 130
    told = capfd.readouterr()
    assert told.err == "interrupted: the files hold what was found until then\n"
    results = Results(tmp_path / "out")
    frames = results.summary["frames"]
    results.check(frames, is_complete=False)
    assert f" in {frames} frames, " in told.out and str(tmp_path / "out") in told.out
    assert results.summary["seconds"]["all"] > 0
    wait_for_threads(before)


@pytest.mark.parametrize(
    ("model", "name"),
    [("TopHat", "SIGINT"), ("TopHat", "SIGTERM"), ("ToyWindow", "SIGINT"), ("TemporalMedian", "SIGTERM")],
)
def test_who_asks_for_an_end_gets_all_that_was_read(interrupted, model, name, tmp_path, capfd):
    """As with a camera, which ends in no other way: nothing that was seen is lost."""
    before = threads()
    images = interrupted(30, lambda: os.kill(os.getpid(), getattr(signal, name)) or time.sleep(0.05))
    argv = [images, "--model_names", model, "--register", "off", "--no-overlay", "--out", tmp_path / "out"]
    with more_toys():
        assert exit_code(predict, *argv, *CPU) == 130
    told = capfd.readouterr().err.splitlines()
    assert told[0] == "stopping after the frames that were read; press Ctrl-C again to end at once"
    assert told[1:] == ["interrupted: the files hold what was found until then"]
    results = Results(tmp_path / "out")
    results.check(results.summary["frames"], is_complete=False)
    assert 30 <= results.summary["frames"] <= 40
    if model != "TemporalMedian":
        assert found_in(results) == list(range(results.summary["frames"]))
    wait_for_threads(before)


def test_who_asks_twice_does_not_wait(interrupted, tmp_path, monkeypatch, capfd):
    """A network may take long for what was read; the files are whole all the same."""
    monkeypatch.setattr("utils.signals.TWICE", 0.0)
    before, begin = threads(), time.monotonic()

    def slow(results, found, add=FoundWriter.add):
        add(results, found)
        if found.frame.number == 20:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)

    monkeypatch.setattr(FoundWriter, "add", slow)
    images = interrupted(999, raise_interrupt)
    argv = [images, "--tracks", "off", "--out", tmp_path / "out", *LIGHT]
    assert exit_code(predict, *argv) == 130 and time.monotonic() - begin < 10
    assert len(capfd.readouterr().err.splitlines()) == 2
    Results(tmp_path / "out").check(21, is_complete=False)
    wait_for_threads(before)


def test_a_signal_after_the_last_frame_leaves_a_complete_result(interrupted, tmp_path):
    def late(results, found, add=FoundWriter.add):
        add(results, found)
        if found.frame.number == 59:
            os.kill(os.getpid(), signal.SIGTERM)

    images = interrupted(999, raise_interrupt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FoundWriter, "add", late)
        assert exit_code(predict, images, "--out", tmp_path / "out", *LIGHT) == 130
    Results(tmp_path / "out").check(60)


def test_no_further_source_is_predicted_after_an_interruption(interrupted, tmp_path):
    images = interrupted(5, raise_interrupt, 12)
    write_frames(tmp_path / "other", dots(3))
    argv = [images, tmp_path / "other", "--out", tmp_path / "out", *LIGHT]
    assert predict.main([str(word) for word in argv]) == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run"]


def test_a_camera_ends_by_ctrl_c(camera, tmp_path, monkeypatch):  # noqa: F811 - the fixture
    monkeypatch.chdir(tmp_path)

    def endless() -> Iterator[np.ndarray]:
        for frame in dots(70, (32, 90)):
            yield frame
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            time.sleep(0.01)
            yield frame

    camera.frames = endless()
    assert exit_code(predict, "0", "--out", tmp_path / "out", *LIGHT) == 130
    results = Results(tmp_path / "out")
    assert results.summary["frames"] >= 70
    assert found_in(results)[:70] == list(range(70))
    assert all(capture.released for capture in camera.opened)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_a_process_that_is_asked_to_end(tmp_path):
    images = write_frames(tmp_path / "run", dots(200, (32, 220)))
    program = (
        "import os, signal, sys, time, predict\n"
        "from dataset.stream import StreamedVideo\n"
        "from utils.errors import run_command\n"
        "take = StreamedVideo.take\n"
        "def slow(video, index):\n"
        "    if index == 40: print('half', flush=True)\n"
        "    time.sleep(0.01)\n"
        "    return take(video, index)\n"
        "StreamedVideo.take = slow\n"
        "run_command(predict.main)\n"
    )
    argv = [images, "--out", tmp_path / "out", *LIGHT[:4], *CPU]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, argv)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "half" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and len(told.splitlines()) == 2
    results = Results(tmp_path / "out")
    results.check(results.summary["frames"], is_complete=False)
    assert 40 <= results.summary["frames"] < 120
    assert found_in(results) == list(range(results.summary["frames"]))


def test_what_a_killed_call_has_left_is_removed_by_the_next(tmp_path):
    images = write_frames(tmp_path / "run", dots())
    (tmp_path / "out").mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in ("detections.csv", "overlay.mp4", "summary.json"):
        left = temporary_beside(tmp_path / "out" / name)
        left = left.with_name(left.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
        left.mkdir() if name == "overlay.mp4" else left.write_text("half")
    predicted(tmp_path / "out", images, *LIGHT).check(12)


@pytest.mark.parametrize("size", [300, 3000])
def test_a_full_disk_ends_in_a_sentence(tmp_path, size, refusal):  # noqa: F811 - the fixture
    images = write_frames(tmp_path / "run", dots(40, (32, 90)))
    before = threads()
    with small_disk(size):
        told = refusal(predict, images, "--out", tmp_path / "out", *LIGHT[:-2])
    assert told.startswith(f"cannot write {tmp_path / 'out'}") and "File too large" in told
    assert "free some space or choose another folder" in told
    left = list((tmp_path / "out").iterdir())
    assert not [path for path in left if path.name.endswith(".tmp")]
    for path in left:
        if path.suffix == ".csv":
            assert path.read_text().endswith("\n")
    wait_for_threads(before)


def test_a_network_that_predicts_no_probabilities_is_told(tmp_path, refusal):  # noqa: F811 - the fixture
    images = write_frames(tmp_path / "run", dots())
    weights = create_model("DeepPro", seq_len=8).state_dict()
    broken = {name: value * (1e30 if value.is_floating_point() else 1) for name, value in weights.items()}
    torch.save({"model_state_dict": broken}, tmp_path / "deeppro.pth")
    flags = ("--model_names", "DeepPro", "--official", tmp_path / "deeppro.pth", "--seq_len", 8)
    told = refusal(predict, images, "--out", tmp_path / "out", *flags)
    assert "the network predicts values from nan to nan" in told and "frame 1 of run" in told
    Results(tmp_path / "out").check(0, is_complete=False)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(("model", "most"), [("ToyWindow", 60), ("TemporalMedian", 150)])
def test_no_frames_are_kept_of_a_long_video(model, most, tmp_path, monkeypatch):
    """At most those of the lags of the tracks and of the median."""
    living: list[weakref.ref] = []
    largest = []

    class Endless(ImageFiles):
        def _frames(self):
            frames = dots(30)
            for number in range(600):
                frame = Frame(number, f"{number}.png", frames[number % 20].copy())
                living.append(weakref.ref(frame))
                if number % 50 == 49:
                    largest.append(sum(one() is not None for one in living))
                yield frame

    import dataset.sources.find

    monkeypatch.setattr(dataset.sources.find, "ImageFiles", Endless)
    images = write_frames(tmp_path / "run", dots(2))
    with more_toys():
        flags = ("--model_names", model, "--register", "off", "--no-overlay", *CPU)
        results = predicted(tmp_path / "out", images, *flags)
    assert results.summary["frames"] == 600 and len(largest) == 12
    assert max(largest) <= most and largest[-1] <= largest[4] + 10
    gc.collect()
    assert sum(one() is not None for one in living) <= 2


# ---------------------------------------------------------------- from Python


def test_frames_detections_and_tracks_from_python(tmp_path):
    images = write_frames(tmp_path / "run", dots())
    counts = cv2.getNumThreads(), torch.get_num_threads()
    given = list(predict.predict(images, "TopHat", "--register", "off", *CPU))
    assert [frame.number for frame, _, _ in given] == list(range(12))
    for frame, detections, tracks in given:
        assert frame.name == f"{frame.number}.png" and frame.pixels.shape == (32, 40)
        np.testing.assert_array_equal(detections.centres, [dot(frame.number)])
        (track,) = tracks
        assert (track.track, track.x, track.y) == (1, *dot(frame.number))
        assert detections.tracks.tolist() == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]  # nothing is written
    assert counts == (cv2.getNumThreads(), torch.get_num_threads())


def test_the_model_is_the_one_without_training_unless_one_is_named(tmp_path):
    images = write_frames(tmp_path / "run", dots(3))
    found = predict.predict(str(images), predict.TRAINING_FREE, *CPU)
    plain = predict.predict(images)
    for (frame, one, _), (other, two, _) in zip(found, plain, strict=True):
        assert frame.number == other.number
        np.testing.assert_array_equal(one.centres, two.centres)


@pytest.mark.parametrize("how", ["break", "error", "close"])
def test_who_leaves_early_leaves_nothing_behind(tmp_path, how):
    images = write_frames(tmp_path / "run", dots(60, (32, 90)))
    before = threads(), cv2.getNumThreads(), torch.get_num_threads()
    given = predict.predict(images, "TemporalMedian", "--tracks", "off", *CPU)
    if how == "break":
        for frame, _, _ in given:
            if frame.number == 3:
                break
        del given, frame
    elif how == "error":
        next(given)
        with pytest.raises(ZeroDivisionError):
            given.throw(ZeroDivisionError())
        del given
    else:
        next(given)
        given.close()
    gc.collect()
    wait_for_threads(before[0])
    assert before[1:] == (cv2.getNumThreads(), torch.get_num_threads())


def test_threads_are_left_to_the_model_without_weights(tmp_path, monkeypatch):
    """While it runs; afterwards there are as many as before."""
    images = write_frames(tmp_path / "run", dots(5))
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    try:
        given = predict.predict(images, "TopHat", *CPU)
        next(given)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        list(given)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    finally:
        torch.set_num_threads(1)


def test_errors_reach_the_caller(tmp_path):
    with pytest.raises(UserError, match="there is no .*nothing; name a video"):
        next(predict.predict(tmp_path / "nothing"))
    images = write_frames(tmp_path / "run", dots(3))
    write_frames(images, dots(1, (30, 30)), first=3)
    numbers = []
    with pytest.raises(UserError, match="frame 3.png of .* is 30x30, the first one 40x32"):
        for frame, _, _ in predict.predict(images, "TopHat", *CPU):
            numbers.append(frame.number)
    assert numbers == [0, 1, 2]
