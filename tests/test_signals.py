"""How commands and training runs are asked to end, in real groups of processes where that is the point."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import assert_same_run, last, record_of
from toys import registered_toys

import train
from tests.conftest import ROOT
from utils.errors import run_command
from utils.signals import Interruption, Stopped, StopRequest, handling, shielding_children

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals"),
    pytest.mark.usefixtures("one_thread"),
]

SETTINGS = ("--model_names", "Toy", "--device", "cpu", "--set", "epochs=3", "--set", "ema=0.9")
STEPS = 4  # of an epoch

# train.py with the toys; `send` has somebody else signal the group.
PREAMBLE = """
import os, subprocess, sys, time
import train
from tests.toys import registered_toys
from utils.engine.validation import Validation
from utils.errors import run_command

def send(*names, after=0.0):
    kills = "; ".join(f"kill -{name} -{os.getpgid(0)}" for name in names)
    sender = subprocess.Popen(["sh", "-c", f"sleep {after}; {kills}"], start_new_session=True)
    if not after:
        sender.wait()
"""
AT_A_STEP = """
after_batch = train.TrainingRun.after_batch
def accident(run, terms):
    if run.progress.steps == STEP:
        ACT
    after_batch(run, terms)
train.TrainingRun.after_batch = accident
"""
IN_A_VALIDATION = """
score = Validation.score
def slow(validation, model, runtime, on_frame, loader):
    send("TERM", after=1.0)
    def wait(*frame):
        print("a frame", flush=True)
        time.sleep(0.8)  # 48 frames take 38 seconds, longer than a grace of 30
        on_frame(*frame)
    return score(validation, model, runtime, wait, loader)
Validation.score = slow
"""
WAITING_FOR_A_CLIP = """
load = train.TrainingClips.__getitem__
def hang(clips, key):
    if key[0] == 1:  # in the second epoch
        if WORKERS == 0:
            send("TERM", after=0.5)
        time.sleep(600)
    return load(clips, key)
train.TrainingClips.__getitem__ = hang
if WORKERS:
    step = train.TrainingRun.after_epoch
    def after_epoch(run, *results):
        step(run, *results)
        send("TERM", after=1.0)
    train.TrainingRun.after_epoch = after_epoch
"""
RUN = """
with registered_toys():
    run_command(train.main)
"""


@pytest.fixture(scope="module")
def reference(one_thread, tiny_data, tmp_path_factory) -> Path:
    log = tmp_path_factory.mktemp("reference")
    with registered_toys():
        train.main(
            [str(word) for word in (*SETTINGS, "--dataset_dir", tiny_data, "--log_dir", log, *WORKERS[0])]
        )
    return run_folder(log)


WORKERS = {count: ("--num_workers", count) for count in (0, 1, 2)}


def run_folder(log: Path) -> Path:
    (folder,) = (log / "Synthetic" / "Toy").iterdir()
    return folder


@pytest.fixture(scope="module")
def train_with(run_python):
    """train_with(accident, *flags): the finished process of train.py, at the head of a group of its own."""

    def run(accident: str, *flags):
        return run_python("-c", PREAMBLE + accident + RUN, *flags, start_new_session=True)

    return run


def at_a_step(step: int, act: str) -> str:
    return AT_A_STEP.replace("STEP", str(step)).replace("ACT", act)


def assert_stopped(done, folder: Path, steps: int) -> None:
    """Saved, told how to go on, and nothing else said."""
    assert done.returncode == 130, done.stderr
    told = done.stderr.splitlines()
    assert told[0].startswith("stopping as soon as the weights are saved") and told[1:] == ["interrupted"]
    assert done.stdout.splitlines()[-2] == f"stopped after {steps} steps; continue with:"
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:2] == ["python", "train.py"] and words[-2:] == ["--resume", str(folder)]
    assert last(folder)["progress"]["steps"] == steps


def test_a_group_that_is_stopped_twice_goes_on_to_the_same_bits(train_with, reference, tiny_data, tmp_path):
    """With two workers, as `timeout` does it; then once in a slow validation; then to the end."""
    data = ("--dataset_dir", tiny_data)
    act = at_a_step(2, "send('TERM', 'TERM')")
    done = train_with(act, *SETTINGS, *data, "--log_dir", tmp_path, *WORKERS[2])
    folder = run_folder(tmp_path)
    assert_stopped(done, folder, 2)

    go_on = ("--model_names", "Toy", *data, "--device", "cpu", "--resume", folder)
    done = train_with(IN_A_VALIDATION, *go_on, *WORKERS[1])
    assert 1 <= done.stdout.splitlines().count("a frame") < 12
    assert_stopped(done, folder, STEPS)
    assert (last(folder)["progress"]["epoch"], last(folder)["progress"]["batch"]) == (0, STEPS)
    assert record_of(folder) == []

    with registered_toys():
        train.main([str(word) for word in (*go_on, *WORKERS[0])])
    assert_same_run(folder, reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "workers"),
    [("TERM", 0), ("TERM", 1), ("TERM", 2), ("HUP", 2), ("USR1 TERM", 1), ("INT INT", 2)],
)
def test_each_signal_to_a_group_saves(train_with, reference, tiny_data, tmp_path, workers, names):
    data = ("--dataset_dir", tiny_data)
    act = at_a_step(6, f"send(*{names.split()})")
    done = train_with(act, *SETTINGS, *data, "--log_dir", tmp_path, *WORKERS[workers])
    folder = run_folder(tmp_path)
    assert_stopped(done, folder, 6)
    with registered_toys():
        flags = ("--model_names", "Toy", *data, "--device", "cpu", "--resume", folder, *WORKERS[0])
        train.main([str(word) for word in flags])
    assert_same_run(folder, reference)


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_a_stop_does_not_wait_for_a_batch_that_does_not_come(train_with, tiny_data, tmp_path, workers):
    flags = (*SETTINGS, "--dataset_dir", tiny_data, "--log_dir", tmp_path, *WORKERS[workers])
    started = time.monotonic()
    done = train_with(WAITING_FOR_A_CLIP.replace("WORKERS", str(workers)), *flags)
    assert time.monotonic() - started < 200
    assert_stopped(done, run_folder(tmp_path), STEPS)


@pytest.mark.slow
def test_no_worker_outlives_a_killed_run(tiny_data, tmp_path):
    program = PREAMBLE + at_a_step(2, "time.sleep(100)") + RUN
    flags = (*SETTINGS, "--dataset_dir", tiny_data, "--log_dir", tmp_path, *WORKERS[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *map(str, flags)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while len(members(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(members(process.pid)) == 3
    time.sleep(1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 15
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert members(process.pid) == []


def members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    listed = subprocess.run(
        ["ps", "-eo", "pid,pgid,stat"], capture_output=True, text=True
    ).stdout.splitlines()
    rows = [line.split() for line in listed[1:]]
    return [int(pid) for pid, of_group, state in rows if int(of_group) == group and "Z" not in state]


@pytest.mark.slow
def test_a_run_whose_terminal_closes_saves(tiny_data, tmp_path):
    program = PREAMBLE + at_a_step(6, "os.write(1, b'READY'); time.sleep(2)") + RUN
    flags = (*SETTINGS, "--dataset_dir", tiny_data, "--log_dir", tmp_path, *WORKERS[1])
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
        os.execv(sys.executable, [sys.executable, "-c", program, *map(str, flags)])
    seen = b""
    while b"READY" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    os.waitpid(child, 0)
    assert last(run_folder(tmp_path))["progress"]["steps"] == 6


# ---------------------------------------------------------------- within this process


def raise_all(*names: str) -> None:
    for name in names:
        signal.raise_signal(getattr(signal, name))


@pytest.mark.parametrize(
    "names", [("SIGINT",), ("SIGTERM",), ("SIGHUP",), ("SIGUSR1",), ("SIGINT", "SIGINT"), ("SIGTERM",) * 3]
)
def test_a_command_that_is_asked_to_end_has_the_code_130(capfd, names):
    """Before a run begins, or in a test; handlers are what they were afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def main():
        try:
            raise_all(*names)
        finally:
            raise_all(*names[1:])  # while it cleans up

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert (end.value.code, capfd.readouterr().err) == (130, "interrupted\n")
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling(StopRequest()) as _:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_process_ends_by_the_signal_itself():
    with handling(Interruption()):
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM


def test_a_later_ctrl_c_ends_at_once(monkeypatch, capfd):
    clock = iter([10.0, 10.2, 10.9, 11.5, 12.0])
    monkeypatch.setattr("utils.signals.time.monotonic", lambda: next(clock))
    stop = StopRequest()
    with handling(stop):
        raise_all("SIGTERM", "SIGINT", "SIGTERM")
        assert stop.asked
        with pytest.raises(KeyboardInterrupt) as end:
            raise_all("SIGINT")
    assert not isinstance(end.value, Stopped)
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_stop_ends_the_waiting(when):
    stop = StopRequest()
    with handling(stop), pytest.raises(Stopped):
        if when == "before":
            raise_all("SIGTERM")
        with stop.waiting():
            if when == "within":
                raise_all("SIGTERM")
                pytest.fail("it went on")
            pytest.fail("it began")


def test_a_shielded_child_never_meets_a_stop():
    stop = StopRequest()
    with handling(stop):
        with shielding_children():
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        raise_all("SIGTERM")
        assert stop.asked  # outside it is met again
