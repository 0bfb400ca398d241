"""How a command fails: one sentence for what the user can put right, the traceback for a fault of ours."""

import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable

from utils.signals import Interruption, handling

USER_ERROR, INTERRUPTED, FAULT = 2, 130, 1  # exit codes
BROKEN_PIPE = 141  # as a shell counts a program whose reader has gone
REPORT = (
    "this is a fault of the program, not yours: please report it, with these lines and the command, as "
    "README.md says under 'Reporting a fault'"
)
NO_MEMORY = re.compile(
    "out of memory|not enough memory|can't allocate memory|insufficient memory|ALLOC_FAILED", re.IGNORECASE
)


class UserError(Exception):
    """Something the user can put right. Its text is one sentence: what is wrong, where, what to do."""


def near_matches(name: str, known: Iterable[str]) -> str:
    """'did you mean X, Y?' for the known names that resemble `name`, or the list of all of them."""
    known = sorted(known)
    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(folded[c] for c in close)}?"
    return f"known: {', '.join(known) or 'none'}"


def reason(error: OSError) -> str:
    """Why the system refused, in its own words: "Permission denied", "No space left on device"."""
    return error.strerror or str(error) or type(error).__name__


def sentence(error: BaseException) -> str | None:
    """What to tell the user of an error, in one line; None for a fault of the program.

    A UserError says it itself; what a loader worker writes around it is left out. Errors of the file system
    that nobody has met before, a lack of memory, and an operation without deterministic form are said here.
    """
    text = str(error)
    if isinstance(error, UserError):
        return " ".join(text.rpartition("UserError: ")[2].split())
    is_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if is_memory or NO_MEMORY.search(text):
        return (
            f"there is too little memory{what_was_wanted(text)}; lower --batch_size, --patch_size, --seq_len "
            "or --num_workers, or end other programs that hold it"
        )
    if isinstance(error, OSError) and error.errno is not None:
        files = " to ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{files or 'a file'}: {reason(error)}; put that right and start again"
    if isinstance(error, RuntimeError) and "does not have a deterministic implementation" in text:
        operation = text.split(" ", 1)[0]
        return (
            f"{operation}, which this model needs, has no deterministic form on this device; leave "
            "--deterministic out"
        )
    return None


def what_was_wanted(text: str) -> str:
    """The start of what torch, NumPy or the system say when memory is used up, in brackets, if anything."""
    line = re.sub(r"^\[enforce fail.*?\][^.]*\. ", "", text.partition("\n")[0])  # torch's place in its code
    return f" ({'. '.join(line.split('. ')[:3])})" if line else ""


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's main and end the process with its exit code.

    What the user can put right becomes one line on standard error and code 2, an interruption code 130. A
    fault of the program keeps its traceback, says where to report it, and has code 1.
    """
    with handling(Interruption()):
        try:
            code = main() or 0
            sys.stdout.flush()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            code = INTERRUPTED
        except BrokenPipeError:  # as in `python test.py ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = BROKEN_PIPE
        except Exception as error:
            told = sentence(error)
            code = FAULT if told is None else USER_ERROR
            if told is None:
                traceback.print_exc()
            print(f"error: {told or REPORT}", file=sys.stderr)
    sys.exit(code)
