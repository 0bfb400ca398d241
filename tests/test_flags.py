"""Every flag and every key of a recipe with wrong values: one sentence each, and nothing is written."""

from pathlib import Path

import pytest

from tests.wrong_flags import commands, is_told, wrong_calls
from utils.errors import run_command

pytestmark = pytest.mark.usefixtures("one_thread")

SEED, EVERY = 0, 40  # the default run takes every so many of the calls


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


@pytest.mark.slow
def test_every_wrong_flag_is_told_in_a_sentence(calls, capfd):
    folder, every = calls
    check(every, folder, capfd)
