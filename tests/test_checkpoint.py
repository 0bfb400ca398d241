"""Checkpoints survive interruptions, run nobody's code, and bring the random state back."""

import contextlib
import errno
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import fill

from model import create_model
from utils.checkpoint import (
    FORMAT,
    WITHOUT_CHECKSUM,
    load_official,
    load_weights,
    read_checkpoint,
    read_torch_file,
    save_checkpoint,
)
from utils.errors import UserError
from utils.seed import random_state, restore_random_state, set_seed

CONTENT = {
    "weights": {"head.weight": torch.arange(6.0).view(2, 3), "norm.num_batches_tracked": torch.tensor(7)},
    "optimizer": {
        "state": {0: {"exp_avg": torch.ones(3)}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}],
    },
    "model": "DeepPro",
    "best": None,
    "epoch": 4,
}


# ---------------------------------------------------------------- our own checkpoints


def test_what_is_saved_is_read_back(tmp_path):
    path = tmp_path / "new" / "folder" / "last.pth"
    save_checkpoint(path, CONTENT)
    back = read_checkpoint(path)
    for key in ("model", "best", "epoch"):
        assert back[key] == CONTENT[key]
    assert back["optimizer"]["param_groups"] == CONTENT["optimizer"]["param_groups"]
    torch.testing.assert_close(back["weights"], CONTENT["weights"], rtol=0, atol=0)
    assert torch.equal(back["optimizer"]["state"][0]["exp_avg"], torch.ones(3))
    assert os.listdir(path.parent) == ["last.pth"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_previous_file(tmp_path, monkeypatch, step):
    path = tmp_path / "last.pth"
    save_checkpoint(path, CONTENT)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(UserError, match="last.pth.*No space.*untouched"):
        patch.setattr(os, step, full)
        save_checkpoint(path, {**CONTENT, "epoch": 5})
    assert os.listdir(tmp_path) == ["last.pth"]
    assert read_checkpoint(path)["epoch"] == 4


def test_a_save_that_is_interrupted_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    save_checkpoint(path, CONTENT)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", interrupt)
        save_checkpoint(path, {**CONTENT, "epoch": 5})
    assert os.listdir(tmp_path) == ["last.pth"]
    assert read_checkpoint(path)["epoch"] == 4


FILL_THE_DISK = """
import resource, sys, torch
from utils.checkpoint import save_checkpoint
from utils.errors import UserError

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(sys.argv[1], {"epoch": 5, "weights": torch.zeros(1_000_000)})
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_a_write_that_the_system_cuts_off_leaves_the_previous_file(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint(path, CONTENT)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, path], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith(f"cannot write {path}")
    assert os.listdir(tmp_path) == ["last.pth"]
    assert read_checkpoint(path)["epoch"] == 4


@pytest.mark.parametrize("name", ["file/last.pth", "n" * 300 + ".pth", "folder"])
def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        save_checkpoint(tmp_path / name, CONTENT)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_checkpoint_has_the_permissions_of_any_new_file(tmp_path):
    save_checkpoint(tmp_path / "last.pth", CONTENT)
    (tmp_path / "other").touch()
    assert (tmp_path / "last.pth").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_our_weights_fill_the_model_or_nothing(tmp_path):
    source, model = create_model("DeepPro"), create_model("DeepPro")
    fill(source, seed=1)
    save_checkpoint(tmp_path / "best.pth", {"weights": source.state_dict()})
    weights = read_checkpoint(tmp_path / "best.pth")["weights"]
    load_weights(model, weights, "best.pth")
    torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)
    for other in (create_model("DeepPro-Plus"), create_model("DeepPro", seq_len=20)):
        before = {k: v.clone() for k, v in other.state_dict().items()}
        with pytest.raises(UserError, match="best.pth holds the weights of another model or size"):
            load_weights(other, weights, "best.pth")
        torch.testing.assert_close(dict(other.state_dict()), before, rtol=0, atol=0)


# ---------------------------------------------------------------- damaged and foreign files


def in_memory(content, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_checkpoint_is_a_user_error(tmp_path, zipped):
    path = tmp_path / "last.pth"
    save_checkpoint(path, CONTENT)
    whole = in_memory(read_checkpoint(path), zipped)
    for length in [*range(0, len(whole), len(whole) // 200), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="last.pth"):
            read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damage_to_the_form_without_checksums_is_no_crash(tmp_path):
    """A changed weight of a file of torch before 1.6 passes unseen; no other exception may come."""
    path = tmp_path / "last.pth"
    whole = in_memory({**CONTENT, "iou": np.float64(0.8)}, zipped=False)
    rng = random.Random(0)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            read_torch_file(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"epoch 3\n", b"\x89PNG\r\n\x1a\n" * 9, pickle.dumps([1, 2]) * 3])
def test_a_file_that_is_no_checkpoint_is_a_user_error(tmp_path, content):
    path = tmp_path / "best.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="best.pth"):
        read_checkpoint(path)


def not_there(path: Path) -> None:
    path.unlink(missing_ok=True)


def beside_itself(path: Path) -> None:
    path.symlink_to(path)


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


def script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", pickle.dumps(()))


@pytest.mark.skipif(sys.platform == "win32", reason="files of POSIX")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (not_there, "there is no checkpoint .*best.pth; give the path of a .pth file"),
        (Path.mkdir, "best.pth is a folder and no checkpoint; give a .pth file in it"),
        (os.mkfifo, "best.pth, which should hold a checkpoint, is no file"),
        (beside_itself, "cannot read the checkpoint .*best.pth: Too many levels of symbolic links"),
        (below_a_file, "cannot read the checkpoint .*best.pth: Not a directory"),
        (Path.touch, "best.pth is empty; get it or write it again"),
        (lambda path: path.write_bytes(in_memory(CONTENT)[:-1]), "best.pth is cut off: its end is missing"),
        (lambda path: path.write_text("epoch 3"), "best.pth is no torch file"),
        (script, "best.pth holds a TorchScript program"),
    ],
)
def test_what_cannot_be_read_is_told_by_its_reason(tmp_path, make, said):
    path = tmp_path / "run" / "best.pth"
    path.parent.mkdir()
    make(path)
    with pytest.raises(UserError, match=said):
        read_checkpoint(path)


def test_a_refused_read_is_told_by_its_reason(tmp_path, monkeypatch):
    path = tmp_path / "best.pth"
    save_checkpoint(path, CONTENT)

    def refuse(_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match="best.pth with a checkpoint: Permission denied"):
        read_checkpoint(path)


class Trap:
    """Writes a file when it is unpickled by an unsafe reader."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.write_text, (self.marker, "sprung"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_malicious_file_runs_no_code(tmp_path, form, hidden):
    path, marker = tmp_path / "best.pth", tmp_path / "marker"
    content = {**CONTENT, "extra": [Trap(marker)]} if hidden else Trap(marker)
    path.write_bytes(pickle.dumps(content) if form == "pickle" else in_memory(content, form == "zip"))
    for read in (read_checkpoint, lambda p: load_official(create_model("DeepPro"), p)):
        with pytest.raises(UserError, match="best.pth"):
            read(path)
        assert not marker.exists()
    torch.load(io.BytesIO(in_memory(content)), weights_only=False)
    assert marker.exists()  # the trap works


def test_the_error_names_the_object_that_was_refused(tmp_path):
    path = tmp_path / "best.pth"
    path.write_bytes(in_memory({"args": random.Random(0)}))
    with pytest.raises(UserError, match="random.Random"):
        read_checkpoint(path)


@pytest.mark.parametrize("scalar", [np.float32(0.5), np.int64(-3), np.bool_(True), np.float16(2)])
def test_numpy_scalars_are_read_as_numbers(tmp_path, scalar):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"value": scalar})
    assert read_checkpoint(path)["value"] == scalar.item()


def test_numpy_arrays_and_object_scalars_are_refused(tmp_path):
    path = tmp_path / "last.pth"
    path.write_bytes(in_memory({"value": np.zeros(3)}))
    with pytest.raises(UserError, match="numpy"):
        read_torch_file(path)
    path.write_bytes(in_memory({"value": np.float64(0)}).replace(b"f8", b"O8"))
    with pytest.raises(UserError, match="last.pth"):
        read_torch_file(path)


def test_a_damaged_numpy_type_does_not_end_the_process(tmp_path):
    """numpy.dtype.__setstate__ would, on a tuple where it expects None."""
    path = tmp_path / "last.pth"
    whole = in_memory({"value": np.float64(0.5)}, zipped=False)  # without checksums
    damaged = whole.replace(b"NNNJ", b"NN\x86J")
    assert damaged != whole
    path.write_bytes(damaged)
    assert read_torch_file(path) == ({"value": 0.5}, False, False)


# ---------------------------------------------------------------- random state


def draws() -> list[float]:
    """Three numbers from each global generator; a normal draw leaves NumPy and Python one cached."""
    return [
        *(random.gauss(0, 1) for _ in range(3)),
        *np.random.normal(size=3),  # noqa: NPY002
        *torch.randn(3).tolist(),
    ]


def test_a_restored_random_state_continues_with_the_same_draws(tmp_path):
    set_seed(5)
    draws()
    save_checkpoint(tmp_path / "last.pth", {"random": random_state()})
    expected = draws()
    set_seed(6)
    assert draws() != expected
    restore_random_state(read_checkpoint(tmp_path / "last.pth")["random"])
    assert draws() == expected


def test_one_seed_gives_the_same_draws():
    set_seed(5)
    first = draws()
    set_seed(5)
    assert draws() == first


def test_a_checkpoint_that_has_lost_its_checksum_is_refused(tmp_path):
    """As when its records were taken out and put together again, perhaps with those of another run."""
    path = tmp_path / "last.pth"
    save_checkpoint(path, CONTENT)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "again.pth", "w") as again:
        for record in whole.infolist():
            again.writestr(record.filename, whole.read(record))
    assert torch.load(tmp_path / "again.pth", weights_only=True)["epoch"] == CONTENT["epoch"]
    with pytest.raises(UserError, match="again.pth has lost the checksum that it was written with"):
        read_checkpoint(tmp_path / "again.pth")


def test_a_checkpoint_of_ours_in_the_form_without_any_checksums_is_refused(tmp_path):
    """No version of train.py has written it."""
    for version in (FORMAT, WITHOUT_CHECKSUM):
        path = tmp_path / "last.pth"
        torch.save({"format": version, **CONTENT}, path, _use_new_zipfile_serialization=False)
        with pytest.raises(UserError, match="last.pth has lost the checksum that it was written with"):
            read_checkpoint(path)
        torch.save({"format": version, **CONTENT}, path)
        if version == WITHOUT_CHECKSUM:
            assert read_checkpoint(path)["epoch"] == CONTENT["epoch"]
