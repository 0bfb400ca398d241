"""Runs that were stopped, killed or could not save: going on from last.pth gives the same bits."""

import shlex
import signal
import sys
from pathlib import Path

import pytest
import torch
from runs import assert_same, assert_same_run, comparable, last, record_of

import train
from utils.errors import UserError

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="kills processes by POSIX signals"),
    pytest.mark.usefixtures("one_thread"),
]

TINY = ("--seq_len", 8, "--patch_size", 16, "--batch_size", 2, "--sample_rate", 0.12, "--epochs", 3)
TINY = (*TINY, "--learning_rate", 0.05)  # three epochs then differ, and the second is the best
STEPS = 12  # an epoch has int(69 windows x 0.12) = 8 clips in 4 batches

# Each driver is train.py with one accident; the first argument says when.
PREAMBLE = """
import os, signal, sys
import torch
import train, utils.files
when = int(sys.argv.pop(1))
"""
AT_A_BATCH = """
after_batch = train.TrainingRun.after_batch
def accident(run, terms):
    if run.progress.steps == when:
        {}
    after_batch(run, terms)
train.TrainingRun.after_batch = accident
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
CTRL_C = "os.killpg(0, signal.SIGINT)"  # the terminal sends it to the workers, too
KILL_WHILE_SAVING = """
replace, saves = os.replace, []
def accident(source, target):
    saves.extend([target] if str(target).endswith("last.pth") else [])
    if len(saves) == when:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
utils.files.os.replace = accident
"""
FULL_DISK = AT_A_BATCH.format(
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))"
)
RUN = "train.run_command(train.main)"


@pytest.fixture(scope="module")
def flags(tiny_data) -> tuple:
    return (*TINY, "--dataset_dir", tiny_data, "--device", "cpu")


@pytest.fixture(scope="module")
def train_with(run_python):
    """train_with(accident, when, *flags): the finished process of train.py in which it happened."""

    def run(accident: str, when: int, *flags):
        program = "\n".join([PREAMBLE, accident, RUN])
        return run_python("-c", program, when, *flags, start_new_session=True)

    return run


@pytest.fixture(scope="module")
def reference(run_python, flags, tmp_path_factory) -> Path:
    """The run folder of a training that nothing interrupted."""
    log = tmp_path_factory.mktemp("reference")
    done = run_python("train.py", *flags, "--log_dir", log, "--num_workers", 0)
    assert done.returncode == 0, done.stderr
    return run_folder(log)


def run_folder(log: Path) -> Path:
    (folder,) = (log / "Synthetic" / "DeepPro").iterdir()
    return folder


def resumed(run_python, folder: Path, flags, *more) -> None:
    done = run_python("train.py", *flags, "--resume", folder, *more)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_reference_learns_something(reference):
    assert last(reference)["progress"]["steps"] == STEPS
    losses = [line["loss"] for line in record_of(reference)]
    assert len(set(losses)) == 3


def test_the_recorded_loss_is_the_mean_of_the_batches(monkeypatch, flags, tmp_path):
    after_batch, losses = train.TrainingRun.after_batch, []

    def noted(run, terms):
        losses.append(terms["loss"])
        after_batch(run, terms)

    monkeypatch.setattr(train.TrainingRun, "after_batch", noted)
    log = ("--log_dir", tmp_path, "--num_workers", 0)
    train.main([str(flag) for flag in (*flags, *log)])
    recorded = [line["loss"] for line in record_of(run_folder(tmp_path))]
    assert recorded == pytest.approx([sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)])


def test_killed_within_an_epoch(train_with, run_python, reference, flags, tmp_path):
    """Killed after 7 batches, of which 6 are saved; with a worker, then without."""
    log = ("--log_dir", tmp_path, "--save_every", 1)
    done = train_with(AT_A_BATCH.format(KILL), 7, *flags, *log, "--num_workers", 1)
    assert done.returncode == -9
    folder = run_folder(tmp_path)
    progress = last(folder)["progress"]
    assert (progress["epoch"], progress["batch"], progress["steps"]) == (1, 2, 6)
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')  # a line that was being written
    resumed(run_python, folder, flags, "--num_workers", 0)
    assert_same_run(folder, reference)


SLOW_SAVES = [pytest.param(save, marks=pytest.mark.slow) for save in (1, 2, 4, 7)]


@pytest.mark.parametrize("save", [3, *SLOW_SAVES])
def test_killed_while_saving(train_with, run_python, reference, flags, tmp_path, save):
    """last.pth is saved at the start, and before and after each validation; save 7 is the last."""
    done = train_with(KILL_WHILE_SAVING, save, *flags, "--log_dir", tmp_path, "--num_workers", 0)
    assert done.returncode == -9
    folder = run_folder(tmp_path)
    if save == 1:
        assert not (folder / "last.pth").exists()
        return
    epoch, is_to_be_scored = divmod(save - 2, 2)  # of the save before
    progress = last(folder)["progress"]
    assert (progress["epoch"], progress["batch"]) == (epoch, 4 * is_to_be_scored)
    assert len(record_of(folder)) == (save - 1) // 2  # with the line of an epoch whose checkpoint is lost
    assert list(folder.glob(".last.pth.*.tmp"))
    resumed(run_python, folder, flags, "--num_workers", 0)
    assert not list(folder.glob(".*.tmp"))
    assert_same_run(folder, reference)


def test_ctrl_c_prints_the_command_that_goes_on(train_with, run_python, reference, flags, tmp_path):
    log = tmp_path / "a folder with blanks"
    done = train_with(AT_A_BATCH.format(CTRL_C), 7, *flags, "--log_dir", log, "--num_workers", 1)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[1:] == ["interrupted"]  # nothing from the worker
    folder = run_folder(log)
    assert last(folder)["progress"]["steps"] == 7
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:2] == ["python", "train.py"]
    again = run_python(*words[1:])
    assert (again.returncode, again.stderr) == (0, "")
    assert_same_run(folder, reference)


def test_ctrl_c_during_the_validation_stops_in_it(monkeypatch, capsys, reference, flags, tmp_path):
    """Its epoch is not over: the run that goes on does it again, from the first frame on."""
    validate, flags = train.TrainingRun.validate, [str(flag) for flag in (*flags, "--num_workers", 0)]

    def interrupted(run):
        signal.raise_signal(signal.SIGINT)
        return validate(run)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.TrainingRun, "validate", interrupted)
        train.main([*flags, "--log_dir", str(tmp_path)])
    folder = run_folder(tmp_path)
    assert (last(folder)["progress"]["epoch"], last(folder)["progress"]["batch"]) == (0, 4)
    assert record_of(folder) == []
    assert f'--resume "{folder}"' in capsys.readouterr().out
    train.main([*flags, "--resume", str(folder)])
    assert_same_run(folder, reference)


def test_a_loss_that_draws_random_numbers(train_with, run_python, flags, tmp_path):
    flags = (*flags, "--loss", "HAM", "--num_workers", 0)
    done = run_python("train.py", *flags, "--log_dir", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    log = ("--log_dir", tmp_path / "cut", "--save_every", 1)
    assert train_with(AT_A_BATCH.format(KILL), 7, *flags, *log).returncode == -9
    folder = run_folder(tmp_path / "cut")
    resumed(run_python, folder, flags)
    assert_same_run(folder, run_folder(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("loss", lambda value, logits: value * torch.nan),
        ("gradient", lambda value, logits: value + (0 * logits).sum().sqrt()),  # of a finite loss
    ],
    ids=["loss", "gradient"],
)
def test_training_stops_when_it_diverges(monkeypatch, flags, tmp_path, what, spoil):
    create_loss, calls = train.create_loss, []

    def spoilt_loss(name):
        def loss(raw, target):
            calls.append(name)
            terms = create_loss(name)(raw, target)
            return {"loss": spoil(terms["loss"], raw["logits"])} if len(calls) == 7 else terms

        loss.task = "masks"
        return loss

    monkeypatch.setattr(train, "create_loss", spoilt_loss)
    log = ("--log_dir", tmp_path, "--save_every", 1, "--num_workers", 0)
    with pytest.raises(UserError, match=rf"the {what} is nan on the batch Sequence\d\[\d+:\d+\], Sequence"):
        train.main([str(flag) for flag in (*flags, *log)])
    saved = last(run_folder(tmp_path))
    assert saved["progress"]["steps"] == 6
    assert all(value.isfinite().all() for value in saved["weights"].values())


def test_a_full_disk_keeps_the_last_checkpoint(train_with, run_python, reference, flags, tmp_path):
    log = ("--log_dir", tmp_path, "--save_every", 1, "--num_workers", 0)
    done = train_with(FULL_DISK, 7, *flags, *log)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: cannot write")
    assert "what was saved there before is untouched" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    folder = run_folder(tmp_path)
    assert last(folder)["progress"]["steps"] == 6
    assert not list(folder.glob(".*.tmp"))
    resumed(run_python, folder, flags, "--num_workers", 0)
    assert_same_run(folder, reference)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--batch_size", 3), "has sampling.batch_size=2, which --resume cannot change to 3"),
        (("--set", "clip.padding=repeat"), "has view.padding=zeros, which --resume cannot change to repeat"),
    ],
)
def test_a_run_does_not_change_its_recipe(reference, flags, more, said):
    arguments = [str(flag) for flag in (*flags, "--resume", reference, *more)]
    with pytest.raises(UserError, match=said):
        train.main(arguments)


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_epochs(run_python, reference, flags, tmp_path):
    """`--resume` without a value takes the newest run of the model and data set."""
    flags = (*flags, "--log_dir", tmp_path, "--num_workers", 0)
    assert run_python("train.py", *flags, "--epochs", 2).returncode == 0
    assert run_python("train.py", *flags, "--epochs", 3, "--resume").returncode == 0
    assert_same_run(run_folder(tmp_path), reference)


@pytest.mark.slow
def test_rprnet_killed_in_an_epoch_goes_on_to_the_same_bits(run_python, train_with, tiny_data, tmp_path):
    """Its loss draws random pixels, so that the generators' state decides the weights as well."""
    rprnet = ("--model_names", "RPRNet", "--patch_size", 16, "--epochs", 2, "--sample_rate", 0.1)
    schedule = ("--set", "schedule=constant", "--num_workers", 0, "--save_every", 1)
    flags = (*rprnet, *schedule, "--dataset_dir", tiny_data, "--device", "cpu")
    done = run_python("train.py", *flags, "--log_dir", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    killed = train_with(AT_A_BATCH.format(KILL), 5, *flags, "--log_dir", tmp_path / "killed")
    assert killed.returncode == -signal.SIGKILL
    (whole,), (folder,) = ((tmp_path / name / "Synthetic/RPRNet").iterdir() for name in ("whole", "killed"))
    assert last(folder)["progress"]["steps"] == 4
    resumed(run_python, folder, flags)
    assert_same(comparable(folder), comparable(whole))
    assert record_of(folder) == record_of(whole)
    assert last(whole)["progress"]["steps"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("model", ["STMENet", "SSTNet"])
def test_a_box_model_killed_in_an_epoch_goes_on_to_the_same_bits(
    model, run_python, train_with, tiny_data, tmp_path
):
    """The published recipe, with its averaged weights; crops and flips are drawn, so is the dropout."""
    names = ("--model_names", model, "--patch_size", 64, "--epochs", 2, "--sample_rate", 0.2)
    draws = ("--set", "clip.crop=32", "--set", "clip.flips=True", "--num_workers", 0, "--save_every", 1)
    flags = (*names, *draws, "--dataset_dir", tiny_data, "--device", "cpu")
    done = run_python("train.py", *flags, "--log_dir", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    killed = train_with(AT_A_BATCH.format(KILL), 5, *flags, "--log_dir", tmp_path / "killed")
    assert killed.returncode == -signal.SIGKILL
    whole, folder = (next((tmp_path / name / "Synthetic" / model).iterdir()) for name in ("whole", "killed"))
    assert last(folder)["progress"]["steps"] == 4
    assert not same_weights(last(folder)["weights"], last(folder)["trained_weights"])
    resumed(run_python, folder, flags)
    assert_same(comparable(folder), comparable(whole))
    assert record_of(folder) == record_of(whole)


def same_weights(one: dict, other: dict) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)
