"""Every flag and every key of a recipe with wrong values: one sentence each, and nothing is written."""

import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataset.scene import SceneSettings
from dataset.synthetic import write_dataset
from tests.wrong_flags import CONTRADICTIONS, commands, is_told, wrong_calls
from utils.errors import UserError, run_command
from utils.files import temporary_beside

pytestmark = pytest.mark.usefixtures("one_thread")

SEED, EVERY = 0, 50  # the default run takes every so many of the calls


def fault_of(command: str, argv: list[str], folder: Path, capfd) -> str:
    """What is wrong with how a call ends; "" for a sentence about its last flag."""
    before = set(folder.iterdir())
    with pytest.raises(SystemExit) as end:
        run_command(lambda: commands()[command](argv))
    told = capfd.readouterr().err
    if end.value.code != 2 or not told.startswith("error: ") or told.count("\n") != 1:
        return f"ended with {end.value.code}: {told[-500:]}"
    if not is_told(argv, told):
        return f"tells something else: {told}"
    written = set(folder.iterdir()) - before
    return f"has written {written}" if written else ""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flags")
    return folder, wrong_calls(SEED, folder)


def check(calls, folder, capfd):
    faults = []
    for command, argv in calls:
        if fault := fault_of(command, argv, folder, capfd):
            shown = [word if len(word) < 100 else f"{word[:97]}..." for word in argv]
            faults.append(f"{command} {shown}: {fault}")
    assert not faults, f"{len(faults)} of {len(calls)} calls:\n" + "\n".join(faults[:20])


def test_a_part_of_the_wrong_flags_is_told_in_a_sentence_each(calls, capfd):
    folder, every = calls
    assert len(every) >= 1000
    check(every[::EVERY], folder, capfd)


def test_what_contradicts_itself_is_told_in_a_sentence(calls, capfd):
    folder, every = calls
    chosen = [call for call in every if any(call[1][-len(flags) :] == flags for flags in CONTRADICTIONS)]
    assert len(chosen) >= len(CONTRADICTIONS)
    check(chosen, folder, capfd)


@pytest.mark.slow
def test_every_wrong_flag_is_told_in_a_sentence(calls, capfd):
    folder, every = calls
    check(every, folder, capfd)


# ---------------------------------------------------------------- disks


@contextmanager
def small_disk(size: int):
    """Inside `with`, no file can be written beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def tools(tmp_path, tiny_data) -> dict[str, list[str]]:
    """A call of each tool that writes files, but for `--out`."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "list.txt").write_text("".join(f"images/{n}.png 1,1,3,3,0\n" for n in range(200)))
    (tmp_path / "in" / "NUDT-MIRSDT").symlink_to(tiny_data / "Synthetic")
    convert = ["--source", str(tmp_path / "in" / "list.txt"), "--size", "200x300"]
    small = ["--train_sequences", "1", "--test_sequences", "1", "--frames", "5"]
    return {
        "make_synthetic": ["tools/make_synthetic.py", *small],
        "add_noise": ["tools/add_noise.py", "--dataset_dir", str(tmp_path / "in")],
        "masks": ["tools/convert_annotations.py", *convert, "--to", "masks"],
        "centroids": ["tools/convert_annotations.py", *convert, "--to", "centroids"],
        "coco": ["tools/convert_annotations.py", *convert, "--to", "coco"],
    }


@pytest.mark.parametrize("tool", ["make_synthetic", "add_noise", "masks", "centroids", "coco"])
def test_a_tool_on_a_full_disk_ends_in_a_sentence(tools, tool, tmp_path):
    """What it leaves holds no half-written file, and is not taken for a whole result."""
    command, *argv = tools[tool]
    out = tmp_path / "new" / "out"
    main, told = commands()[command], "cannot write .*new/out.*: File too large; free some space or choose"
    with pytest.raises(UserError, match=told), small_disk(100):
        main([*argv, "--out", str(out)])
    left = [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert not [path for path in left if path.name.endswith(".tmp") or path.stat().st_size == 100]
    assert not [path for path in left if path.name in ("synthetic.json", "noise.json", "train.txt", "out")]


@pytest.mark.parametrize("tool", ["make_synthetic", "add_noise", "masks", "centroids", "coco"])
def test_a_tool_without_a_place_to_write_ends_in_a_sentence(tools, tool, capfd):
    command, *argv = tools[tool]
    with pytest.raises(SystemExit) as end:
        run_command(lambda: commands()[command]([*argv, "--out", "/proc/no/place"]))
    told = capfd.readouterr().err
    assert (end.value.code, told.count("\n")) == (2, 1), told
    assert told.startswith("error: cannot write ") and "/proc/no" in told


def test_a_set_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    """The earlier set comes back when the new one cannot take its place."""
    settings = SceneSettings(height=16, width=16, frames=2, border=2)
    write_dataset(tmp_path / "set", settings, 1, 0)
    rename = Path.rename

    def refuse(path, target):
        if path.name == "new":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match="cannot write the data set .*set: Disk quota exceeded"):
        write_dataset(tmp_path / "set", settings, 2, 0, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "set").iterdir() if path.is_dir()) == ["Sequence1"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_a_killed_make_synthetic_left_is_removed_by_the_next(tmp_path):
    settings = SceneSettings(height=16, width=16, frames=2, border=2)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = temporary_beside(tmp_path / "set")
    left = left.with_name(left.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    (left / "new").mkdir(parents=True)
    write_dataset(tmp_path / "set", settings, 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_conversion_with_a_target_outside_writes_nothing(tmp_path, capfd):
    source = tmp_path / "list.txt"
    source.write_text("images/0.png 1,1,3,3,0\nimages/1.png 100,100,110,110,0\n")
    for to in ("masks", "centroids"):
        argv = ["--source", str(source), "--to", to, "--out", str(tmp_path / "out"), "--size", "50x50"]
        with pytest.raises(UserError, match=r"a target of images/1.png lies outside its 50 rows"):
            commands()["tools/convert_annotations.py"](argv)
    assert not (tmp_path / "out").exists()
