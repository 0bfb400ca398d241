"""The folder of a run: what is in it after an error, who may use it, on which data it goes on."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import assert_same_run, last, record_of
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from toys import WATCHED, registered_toys

import train
from dataset import create_dataset
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.engine.loading import ClipLoader
from utils.engine.resume import changed_data
from utils.errors import UserError, sentence
from utils.files import temporary_beside
from utils.runlog import Record, RunLock, latest_run, new_run_folder
from utils.signals import STOPS

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="kills processes by POSIX signals"),
    pytest.mark.usefixtures("one_thread"),
]

SETTINGS = ("--set", "epochs=2", "--set", "ema=0.9", "--set", "seed=5")  # of 4 steps each


@pytest.fixture(scope="module", autouse=True)
def watched(one_thread):
    with registered_toys() as toys:
        yield toys


@pytest.fixture(scope="module")
def begin(tiny_data):
    """begin(log, *flags): train the toy, which has a batch norm and a dropout; gives its folder."""

    def run(log: Path, *flags) -> Path:
        places = ("--dataset_dir", tiny_data, "--log_dir", log, "--device", "cpu", "--num_workers", 0)
        train.main([str(word) for word in ("--model_names", "Toy", *places, *SETTINGS, *flags)])
        return run_folder(log)

    return run


@pytest.fixture(scope="module")
def go_on(tiny_data):
    """go_on(folder, *flags): continue a run."""

    def run(folder: Path, *flags) -> None:
        places = ("--dataset_dir", tiny_data, "--device", "cpu", "--num_workers", 0, "--resume", folder)
        train.main([str(word) for word in ("--model_names", "Toy", *places, *flags)])

    return run


@pytest.fixture(scope="module")
def reference(begin, tmp_path_factory) -> Path:
    return begin(tmp_path_factory.mktemp("reference"))


@pytest.fixture
def finished(reference, tmp_path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(reference, tmp_path / "finished"))


def run_folder(log: Path) -> Path:
    (folder,) = (log / "Synthetic" / "Toy").iterdir()
    return folder


def at_step(monkeypatch, step: int, act) -> None:
    """Call `act(run)` once, after a step of the run and before what the run does then."""
    after_batch, done = train.TrainingRun.after_batch, []

    def accident(run, terms):
        if run.progress.steps == step and not done:
            done.append(step)
            act(run)
        after_batch(run, terms)

    monkeypatch.setattr(train.TrainingRun, "after_batch", accident)


# ---------------------------------------------------------------- what an error leaves


def damaged_clip(monkeypatch, patch):
    load = train.TrainingClips.__getitem__

    def item(clips, key):
        if key[0] == 1:  # the second epoch
            raise PermissionError(errno.EACCES, "Permission denied", "7.png")
        return load(clips, key)

    patch.setattr(train.TrainingClips, "__getitem__", item)


def failing_loss(monkeypatch, patch):
    """After the network has drawn its dropout and changed its running statistics."""
    monkeypatch.setattr(WATCHED, "fail_at", 6)


def failing_gradient(monkeypatch, patch):
    backward, calls = torch.Tensor.backward, []

    def used_up(*arguments, **options):
        calls.append(1)
        if len(calls) == 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. And so on.")
        return backward(*arguments, **options)

    patch.setattr(torch.Tensor, "backward", used_up)


@pytest.mark.parametrize(
    ("accident", "steps", "told"),
    [
        (damaged_clip, 4, "7.png: Permission denied"),
        (failing_loss, 5, "the test ends this run"),
        (failing_gradient, 5, "out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_an_error_saves_the_last_finished_batch(
    monkeypatch, capsys, watched, begin, go_on, reference, tmp_path, accident, steps, told
):
    watched.restart()
    with monkeypatch.context() as patch, pytest.raises((UserError, RuntimeError)) as failure:
        accident(monkeypatch, patch)
        begin(tmp_path)
    assert told in sentence(failure.value)
    watched.restart()
    folder = run_folder(tmp_path)
    assert last(folder)["progress"]["steps"] == steps
    assert f"last.pth holds the first {steps} steps; continue with:\n" in capsys.readouterr().out
    go_on(folder)
    assert_same_run(folder, reference)


def test_a_step_that_is_half_taken_is_not_saved(monkeypatch, begin, go_on, reference, tmp_path):
    step, calls = torch.optim.SGD.step, []

    def half(optimizer, *arguments):
        calls.append(1)
        if len(calls) == 3:
            optimizer.param_groups[0]["params"][0].data.add_(1)
            raise MemoryError
        return step(optimizer, *arguments)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(torch.optim.SGD, "step", half)
        begin(tmp_path)
    folder = run_folder(tmp_path)
    assert last(folder)["progress"]["steps"] == 0
    go_on(folder)
    assert_same_run(folder, reference)


def test_what_a_failed_step_held_is_free_when_the_rest_is_saved(monkeypatch, begin, tmp_path):
    rescue, made, alive = train.TrainingRun.rescue, [], []

    class Large:
        pass

    def fail(*_):
        large = Large()
        made.append(weakref.ref(large))
        raise UserError("damaged")

    def watched_rescue(run):
        alive.extend(reference() for reference in made)
        rescue(run)

    monkeypatch.setattr("utils.engine.loop.check_finite", fail)
    monkeypatch.setattr(train.TrainingRun, "rescue", watched_rescue)
    with pytest.raises(UserError, match="damaged"):
        begin(tmp_path)
    assert alive == [None]


@pytest.mark.parametrize("is_emptied", [False, True])  # the next file may have made it anew
@pytest.mark.parametrize("when", ["training", "validation"])
def test_a_run_whose_folder_is_removed_is_saved_there_again(
    monkeypatch, begin, go_on, reference, tmp_path, when, is_emptied
):
    validate = train.TrainingRun.validate

    def remove(run):
        shutil.rmtree(run.folder)
        if is_emptied:
            run.folder.mkdir()

    def removed(run):
        remove(run)
        return validate(run)

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match="was removed while its run was going on"),
    ):
        if when == "training":
            at_step(patch, 2, remove)
        else:
            patch.setattr(train.TrainingRun, "validate", removed)
        begin(tmp_path)
    folder = run_folder(tmp_path)
    assert last(folder)["progress"]["epoch"] == (when == "validation")
    go_on(folder)
    assert_same_run(folder, reference)


def test_a_full_disk_in_the_record_leaves_the_epoch_to_be_done_again(
    monkeypatch, begin, go_on, reference, tmp_path
):
    replace = os.replace

    def full(source, target):
        if Path(target).name == "train.jsonl" and Path(source).stat().st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"cannot write .*train.jsonl: No space"),
    ):
        patch.setattr("utils.files.os.replace", full)
        begin(tmp_path)
    folder = run_folder(tmp_path)
    assert (last(folder)["progress"]["epoch"], last(folder)["progress"]["batch"]) == (0, 4)
    go_on(folder)
    assert_same_run(folder, reference)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_goes_on_without_curves(monkeypatch, capfd, begin, reference, tmp_path):
    """On a full disk the thread that writes them ends first."""
    append, calls = LocalFileSystem.append, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return append(*arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "append", full)
    folder = begin(tmp_path)
    out, err = capfd.readouterr()
    assert err == ""
    assert out.count(f"note: cannot write the curves in {folder}: No space left on device") == 1
    assert_same_run(folder, reference)


def test_a_best_checkpoint_that_is_gone_is_chosen_anew(capsys, go_on, finished):
    (finished / "best.pth").unlink()
    go_on(finished, "--epochs", 3)
    assert f"there is no best.pth in {finished}" in capsys.readouterr().out
    assert read_checkpoint(finished / "best.pth")["progress"]["epoch"] == 3


# ---------------------------------------------------------------- train.jsonl


def test_the_record_keeps_each_finished_epoch_once(capsys, tmp_path):
    path = tmp_path / "train.jsonl"
    lines = [
        '{"epoch": 1, "loss": 3.0}',
        "# my own remark",
        '{"epoch": 2, "loss": 2.5}',
        '{"epoch": 2, "loss": 2.0}',
        '{"loss": 1.0}',
        '{"epoch": "3"}',
        '{"epoch": true}',
        '["epoch"]',
        "7",
        "",
        "[" * 50_000,
        '{"epoch": 3, "loss": 1.0}',
        '{"epoch": 4, "lo',
    ]
    path.write_bytes("\n".join(lines).encode() + b"\xff")
    Record(path, 2).add({"epoch": 3, "loss": 1.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"epoch": 1, "loss": 3.0},
        {"epoch": 2, "loss": 2.0},
        {"epoch": 3, "loss": 1.5},
    ]
    notes = capsys.readouterr().out.splitlines()
    assert notes[0] == f"note: line 2 of {path} is no epoch's and is left out: # my own remark"
    assert [note.split()[2] for note in notes] == ["2", "5", "6", "7", "8", "9", "11"]
    assert all(len(note) < 250 for note in notes)


def test_what_a_crash_of_the_system_puts_into_the_record_loses_no_epoch(capsys, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'\0\0\0{"epoch": 1, "loss": 3.0}\n{"epoch": 2, "loss": 2.0}\0\0\n\0\0\0\0')
    assert list(Record(path, 2).lines) == [1, 2]
    assert b"\0" not in path.read_bytes()
    assert capsys.readouterr().out == ""


def test_a_record_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot read .*train.jsonl: Is a directory"):
        Record(tmp_path / "train.jsonl", 1)


# ---------------------------------------------------------------- one process at a time


def hold(folder: Path, ready) -> None:
    """Use a run, with a child as a process that loads clips is one; its number is sent."""
    lock = RunLock(folder)
    child = os.fork()
    if child == 0:
        time.sleep(600)
    ready.send(child)
    time.sleep(600)
    lock.release()


def test_a_run_is_used_by_one_process_at_a_time(go_on, finished):
    ready, sender = multiprocessing.Pipe(duplex=False)
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(finished, sender), daemon=True)
    holder.start()
    child = ready.recv()
    try:
        with pytest.raises(UserError, match=rf"finished is in use by process {holder.pid} on \S+; stop it"):
            go_on(finished, "--epochs", 3)
        holder.kill()
        holder.join()
        go_on(finished, "--epochs", 3)  # though the child of the killed process lives
    finally:
        os.kill(child, signal.SIGKILL)
    assert len(record_of(finished)) == 3


def is_free(folder: Path) -> bool:
    """Whether another process could use a run."""
    child = os.fork()
    if child == 0:
        try:
            RunLock(folder)
        except UserError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_a_new_run_is_locked_until_its_end(monkeypatch, begin, tmp_path):
    free = []
    at_step(monkeypatch, 2, lambda run: free.append(is_free(run.folder)))
    folder = begin(tmp_path)
    assert free == [False]
    assert is_free(folder)


def test_a_file_system_without_locks_is_noted(monkeypatch, capsys, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("utils.runlog.fcntl.lockf", refuse)
    RunLock(tmp_path).release()
    assert f"note: {tmp_path} cannot be locked (No locks available)" in capsys.readouterr().out


def test_files_of_a_killed_process_are_removed(go_on, finished):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = temporary_beside(finished / "last.pth")
    left = own.with_name(own.name.replace(f".{os.getpid()}.", f".{dead.pid}."))
    left.write_bytes(b"half")
    go_on(finished)
    assert not left.exists()


# ---------------------------------------------------------------- processes that load clips


class FakeClips:
    def __init__(self, act):
        self.act = act

    def __getitem__(self, key):
        return self.act()

    def collate(self, items):
        return {"clip": torch.stack(items), "target": [torch.empty(0, 5)], "name": ["a"]}


def raising(error):
    def act():
        raise error

    return act


def batches_of(act, workers: int = 1) -> list:
    loader = ClipLoader(FakeClips(act), [[0, 1], [2, 3]], workers, pins_memory=False)
    try:
        return list(loader)
    finally:
        loader.close()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("7.png is damaged; copy it again"), "7.png is damaged; copy it again"),
        (
            PermissionError(errno.EACCES, "Permission denied", "7.png"),
            "7.png: Permission denied; put that right",
        ),
        (MemoryError(), "there is too little memory; lower --batch_size"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_one_sentence(error, told, workers):
    with pytest.raises(UserError) as failure:
        batches_of(raising(error), workers)
    assert sentence(failure.value).startswith(told)


def test_a_fault_in_a_worker_keeps_its_traceback():
    with pytest.raises(KeyError, match="in raising_here") as failure:
        batches_of(lambda: raising_here(), 1)
    assert sentence(failure.value) is None


def raising_here():
    raise KeyError("key")


def test_batches_of_a_worker_are_those_of_this_process():
    (one, _), (other, _) = (batches_of(lambda: torch.arange(3.0), workers) for workers in (0, 1))
    assert torch.equal(one["clip"], other["clip"]) and one["name"] == other["name"]


def test_a_full_shared_memory_is_told_and_waits_for_nobody(monkeypatch):
    def full(_):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(
        UserError, match=r"cannot hand them over \(No space left on device \(28\)\); enlarge /dev/shm"
    ):
        batches_of(lambda: torch.zeros(3))


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_processes_that_cannot_be_started_are_told(monkeypatch, capfd):
    start, started = multiprocessing.Process.start, []

    def refuse(process):
        if len(started) == 2:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        start(process)
        started.append(process)

    monkeypatch.setattr(multiprocessing.Process, "start", refuse)
    with pytest.raises(
        UserError, match="cannot start 3 processes that load clips: Resource temporarily unavail"
    ):
        batches_of(lambda: torch.zeros(3), 3)
    assert "Traceback" not in capfd.readouterr().err
    assert [process.exitcode for process in started] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "was killed (SIGKILL), most likely because the machine ran out of memory"),
        (signal.SIGBUS, "too little shared memory; enlarge /dev/shm"),
        (signal.SIGSEGV, "has ended (SIGSEGV); --num_workers 0"),
    ],
)
def test_a_worker_that_is_killed_ends_in_a_sentence_with_all_steps_saved(
    monkeypatch, begin, go_on, reference, tmp_path, number, told
):
    def kill(run):
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, number)
        worker.join()

    steps = []
    with monkeypatch.context() as patch, pytest.raises(UserError) as failure:
        patch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))  # not 5 seconds
        at_step(patch, 2, kill)
        save = train.TrainingRun.save
        patch.setattr(
            train.TrainingRun, "save", lambda run, *a: (save(run, *a), steps.append(run.progress.steps))
        )
        begin(tmp_path, "--num_workers", 1)
    assert told in str(failure.value)
    folder = run_folder(tmp_path)
    assert last(folder)["progress"]["steps"] == steps[-1] >= 2
    assert not multiprocessing.active_children()
    go_on(folder)
    assert_same_run(folder, reference)


def test_a_worker_leaves_stops_to_the_main_process_and_ends_with_its_work():
    loader = ClipLoader(FakeClips(lambda: torch.zeros(3)), [[0, 1], [2, 3]], 1, pins_memory=False)
    served = iter(loader)
    next(served)
    (worker,) = loader.processes
    for number in STOPS:
        os.kill(worker.pid, number)
    worker.join(0.3)
    assert worker.is_alive()
    assert len(list(served)) == 1 and len(list(loader)) == 2
    loader.close()
    assert worker.exitcode == 0


def test_a_worker_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # not 5 seconds
    loader = ClipLoader(FakeClips(lambda: time.sleep(600)), [[0]], 1, pins_memory=False)
    loader.start()
    (worker,) = loader.processes
    time.sleep(0.3)
    loader.close()
    worker.join(5)
    assert worker.exitcode == -signal.SIGKILL


# ---------------------------------------------------------------- the same data


def test_the_data_may_have_moved(go_on, finished, tiny_data, tmp_path):
    moved = shutil.copytree(tiny_data, tmp_path / "moved")
    go_on(finished, "--dataset_dir", moved)


def test_other_data_is_refused(go_on, finished, tiny_data, tmp_path):
    other = shutil.copytree(tiny_data, tmp_path / "other")
    before = (finished / "last.pth").read_bytes()
    for kind in ("images", "masks", "masks_centroid"):
        sorted((other / "Synthetic/Sequence4" / kind).iterdir())[-1].unlink()
    with pytest.raises(
        UserError,
        match=r"began with other validation data: the sequence Sequence4 had 24 frames \(names \w{8}\), "
        r"24 masks, 24 centroids, now it has 23 frames \(names \w{8}\), 23 masks, 23 centroids; give",
    ):
        go_on(finished, "--dataset_dir", other)
    assert (finished / "last.pth").read_bytes() == before


def test_a_missing_reader_option_is_refused(go_on, finished):
    saved = last(finished)
    saved["data"]["training"]["options"] = {"box_origin": 1}
    save_checkpoint(finished / "last.pth", saved)
    with pytest.raises(
        UserError, match="reader's options were box_origin=1, now they are none; give it the same"
    ):
        go_on(finished)


def test_a_run_that_does_not_tell_its_data_goes_on_with_a_note(capsys, go_on, finished):
    saved = last(finished)
    del saved["data"]
    save_checkpoint(finished / "last.pth", saved)
    go_on(finished, "--epochs", 3)
    assert f"note: {finished} does not tell which data it began with" in capsys.readouterr().out
    assert set(last(finished)["data"]) == {"training", "validation"}


def test_the_recipe_file_tells_the_data(reference):
    data = json.loads((reference / "recipe.json").read_text())["data"]
    assert data == last(reference)["data"]
    assert list(data["training"]["sequences"]) == ["Sequence1", "Sequence2", "Sequence3"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s, None),
        (lambda s: s[:2], "the sequence Sequence3 is missing"),
        (lambda s: (*s, replace(s[0], name="new")), "the sequence new was not there"),
        (lambda s: s[::-1], "its sequences are in another order"),
        (
            lambda s: (replace(s[0], masks=None), *s[1:]),
            "Sequence1 had .* 24 masks, 24 cen.* now it has .*\\), 24 cen",
        ),
        (
            lambda s: (replace(s[0], images=s[0].images[::-1]), *s[1:]),
            "Sequence1 had 24 frames .* now it has 24",
        ),
        (
            lambda s: (*s[:2], replace(s[2], boxes=(np.zeros((2, 4)),) * 24)),
            "Sequence3 had .* 24 centroids, now it has .* 24 centroids, 48 boxes",
        ),
    ],
)
def test_what_a_fingerprint_tells_apart(tiny_data, change, told):
    data = create_dataset("Synthetic", tiny_data, "train")
    other = replace(data, sequences=tuple(change(data.sequences)), root=Path("elsewhere"))
    found = changed_data(data.fingerprint, other.fingerprint)
    assert re.search(told, found) if told else found is None


def test_options_of_a_reader_are_part_of_its_data(tiny_data):
    folder = tiny_data / "Synthetic"
    options = [{}, {"box_origin": 0}, {"box_origin": 1}]
    found = [create_dataset("Folder", folder, "train", **chosen).fingerprint["options"] for chosen in options]
    assert found == [{}, {}, {"box_origin": 1}]
    data = create_dataset("Synthetic", tiny_data, "train", mask_threshold=127)
    assert data.fingerprint["options"] == {"mask_threshold": 127}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (3, "the data of .*last.pth holds 3 instead of entries by name"),
        ({"training": {"options": {}, "sequences": {}}}, "the data of .*last.pth has no entry 'validation'"),
        ({"training": {"options": {}}, "validation": {}}, "last.pth, training has no entry 'sequences'"),
        ({"training": [], "validation": {}}, "has training = .* instead of entries by name"),
    ],
)
def test_a_damaged_fingerprint_is_told(go_on, finished, data, told):
    save_checkpoint(finished / "last.pth", {**last(finished), "data": data})
    with pytest.raises(UserError, match=told):
        go_on(finished)


def test_a_key_of_the_other_task_is_refused_in_a_run_that_goes_on(go_on, finished):
    with pytest.raises(UserError, match="labels has no effect on a model of masks"):
        go_on(finished, "--set", "labels=float")


# ---------------------------------------------------------------- places


def test_the_latest_run_is_the_newest_by_its_name(tmp_path):
    names = [
        "2026-01-02_10-00-00_2",
        "2026-01-02_10-00-00_10",
        "2026-01-02_10-00-00",
        "2025-12-31_23-59-59",
        "z",
    ]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.pth").touch()
    (tmp_path / "2027-01-01_00-00-00/last.pth").mkdir(parents=True)
    (tmp_path / "2028-01-01_00-00-00").touch()
    assert latest_run(tmp_path).name == "2026-01-02_10-00-00_10"


@pytest.mark.parametrize("act", [latest_run, lambda folder: new_run_folder(folder.parent, "Toy")])
def test_places_that_cannot_be_used_are_told(tmp_path, act):
    loop = tmp_path / "Toy"
    loop.symlink_to(loop)
    with pytest.raises(UserError, match="(no run to resume in|cannot make a folder in) .*Toy"):
        act(loop)


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "log").touch()
    with pytest.raises(UserError, match="cannot make a folder in .*; choose another --log_dir"):
        new_run_folder(tmp_path / "log", "Synthetic", "Toy")


def end_slowly():
    os.closerange(3, 4096)  # the system closes the files of a process before it tells of its end
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_whose_end_shows_after_its_silence_is_told_as_well(monkeypatch):
    loader = ClipLoader([], [], workers=0, pins_memory=False)
    worker = multiprocessing.get_context("fork").Process(target=end_slowly)
    worker.start()

    def silent():
        loader.processes = [worker]
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        yield

    monkeypatch.setattr(loader, "start", silent)
    with pytest.raises(UserError, match="was killed .SIGKILL., most likely because the machine ran"):
        next(iter(loader))
