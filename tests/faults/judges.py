"""What a well-behaved command looks like from outside, whatever was done to it."""

from tests.faults.harness import MOST_MEMORY, Ended
from utils.errors import INTERRUPTED, USER_ERROR


def complaint(ended: Ended, codes: tuple[int, ...] = (0, USER_ERROR)) -> str:
    """What is wrong with the way in which a command ended, or "".

    It ends by itself and with one of `codes`; nothing is left of it; no traceback is shown; one line on
    standard error begins with "error: " where the code is 2, none otherwise; an interruption says at most two
    lines.
    """
    lines = ended.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ") or ": error: " in line]
    if ended.timeout:
        return f"it did not end within {ended.seconds:.0f} s"
    if "Traceback (most recent call last)" in ended.out + ended.err:
        return f"traceback: {last_of_traceback(lines)}"
    if ended.code < 0:
        return f"it ended by signal {-ended.code}"
    if ended.code not in codes:
        return f"exit code {ended.code} instead of {' or '.join(map(str, codes))}"
    if ended.code == USER_ERROR and len(errors) != 1:
        return f"{len(errors)} sentences instead of one"
    if ended.code == USER_ERROR and len(lines) != 1 and not is_usage(lines):
        return f"{len(lines)} lines on standard error instead of one"
    if ended.code == INTERRUPTED and (len(lines) > 2 or errors):
        return f"{len(lines)} lines on standard error after an interruption"
    if ended.code == 0 and errors:
        return "exit code 0 beside an error"
    if ended.left:
        return f"{ended.left} processes were left behind"
    if ended.peak > MOST_MEMORY:
        return f"it held {ended.peak / 2**20:.1f} GiB"
    return ""


def refusal(ended: Ended, *named: str) -> str:
    """What is wrong with a refusal: `complaint`, or a sentence without any of the names."""
    wrong = complaint(ended, (USER_ERROR,))
    if not wrong and named and not any(name in ended.err for name in named):
        return f"the sentence does not name {' or '.join(named)}"
    return wrong


def is_usage(lines: list[str]) -> bool:
    """Whether the lines are what argparse prints: the usage, then the sentence."""
    return bool(lines) and lines[0].startswith("usage: ") and ": error: " in lines[-1]


def last_of_traceback(lines: list[str]) -> str:
    """The error that the last traceback ended on."""
    start = max((i for i, line in enumerate(lines) if line.startswith("Traceback")), default=0)
    ends = [line for line in lines[start + 1 :] if line and not line[0].isspace()]
    return ends[0] if ends else "?"
