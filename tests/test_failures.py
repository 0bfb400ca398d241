"""How commands fail: one sentence for what a user can put right, the traceback for a fault of ours."""

import errno
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.conftest import ROOT
from utils.errors import UserError, run_command
from utils.files import read_json, read_text, remove_abandoned, replacing, temporary_beside, write_atomically


def ended(main, capfd) -> tuple[int, str]:
    """(exit code, standard error) of a command."""
    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code, capfd.readouterr().err


LESS = "lower --batch_size, --patch_size, --seq_len or --num_workers, or end other programs that hold it"


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("a.png is missing; copy it"), "a.png is missing; copy it"),
        (UserError("two\nlines"), "two lines"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/x"),
            "/data/x: Permission denied; put that right and start again",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "a file: No space left on device; put that right and start again",
        ),
        (
            OSError(errno.EXDEV, os.strerror(errno.EXDEV), "a", None, "b"),
            "a to b: Invalid cross-device link; put that right and start again",
        ),
        (
            MemoryError(),
            f"there is too little memory; {LESS}",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: not enough memory: 8\nat 1"
            ),
            f"there is too little memory (DefaultCPUAllocator: not enough memory: 8); {LESS}",
        ),
        (
            OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
            f"there is too little memory ([Errno 12] Cannot allocate memory); {LESS}",
        ),
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of "
                "which 1.00 GiB is free. Including non-PyTorch memory, this process has 78 GiB in use."
            ),
            "there is too little memory (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
            f"capacity of 79.10 GiB of which 1.00 GiB is free); {LESS}",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "there is too little memory (CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling "
            f"`cublasCreate(handle)`); {LESS}",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_put_right_is_one_line(error, told, capfd):
    assert ended(raising(error), capfd) == (2, f"error: {told}\n")


@pytest.mark.parametrize(
    ("allocate", "told"),
    [
        (lambda: torch.empty(10**15), "DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        (lambda: np.empty(10**15), "Unable to allocate 7.11 PiB for an array with shape"),
        (lambda: bytearray(10**16), "there is too little memory; "),
    ],
    ids=["torch", "numpy", "python"],
)
def test_a_lack_of_memory_is_told_as_such(allocate, told, capfd):
    code, said = ended(allocate, capfd)
    assert code == 2 and said.startswith("error: there is too little memory")
    assert told in said and said.endswith(f"{LESS}\n") and said.count("\n") == 1


@pytest.mark.parametrize(
    "error", [KeyError("key"), ValueError("no"), OSError("no errno"), RuntimeError("odd")]
)
def test_a_fault_of_the_program_keeps_its_traceback_and_says_where_to_report_it(error, capfd):
    code, said = ended(raising(error), capfd)
    assert code == 1
    assert said.startswith("Traceback (most recent call last)")
    assert said.splitlines()[-1].startswith(
        "error: this is a fault of the program, not yours: please report it"
    )


def test_an_interruption_has_the_code_of_one(capfd):
    assert ended(raising(KeyboardInterrupt()), capfd) == (130, "interrupted\n")


def test_readme_says_where_to_report_a_fault():
    assert re.search(r"^#+ Reporting a fault$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)


class Unreadable(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise UserError("the frame 7.png is damaged; copy it again")


def test_the_sentence_of_a_loader_worker_arrives_alone(capfd):
    def main():
        list(DataLoader(Unreadable(), num_workers=1))

    assert ended(main, capfd) == (2, "error: the frame 7.png is damaged; copy it again\n")


def test_a_reader_that_goes_away_ends_a_command_quietly():
    program = "from utils.errors import run_command\nrun_command(lambda: print('x\\n' * 999_999))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


# ---------------------------------------------------------------- files


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "kept.txt"
    write_atomically(path, b"old")
    told = "No space left on device; what was saved there before is untouched"
    with pytest.raises(UserError, match=told), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_files_of_processes_that_have_ended_are_removed(tmp_path):
    ended_process = subprocess.Popen([sys.executable, "-c", ""])
    ended_process.wait()
    own = temporary_beside(tmp_path / "last.pth")
    dead = own.with_name(own.name.replace(f".{os.getpid()}.", f".{ended_process.pid}."))
    elsewhere, long_ago = (tmp_path / f".last.pth.{name}.{os.getpid()}.tmp" for name in ("node1", "node2"))
    foreign = tmp_path / "mine.tmp"
    for path in (own, dead, elsewhere, long_ago, foreign):
        path.write_bytes(b"half")
    os.utime(long_ago, (time.time() - 25 * 3600,) * 2)
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([own, elsewhere, foreign])
    remove_abandoned(tmp_path / "missing")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no .*list.txt with names; put it there"),
        ("folder", "list.txt, which should hold names, is no file"),
        (b"a\nb\xff", r"list.txt, line 2: byte 0xff is not UTF-8 text; save names as UTF-8"),
    ],
)
def test_text_that_cannot_be_read_is_refused(tmp_path, content, told):
    path = tmp_path / "list.txt"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_text(path, "names")


def test_a_loop_of_links_is_told(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="cannot read .*a with text: Too many levels of symbolic links"):
        read_text(tmp_path / "a")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "", "{'a': 1}"])
def test_json_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(UserError, match="list.json is no JSON with boxes .*; correct it or take it away"):
        read_json(path, "boxes")


def test_text_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a", encoding="utf-8-sig")
    assert read_text(path) == "a"
