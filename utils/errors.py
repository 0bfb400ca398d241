"""The one exception for a user's mistake, and how a command ends on it."""

import difflib
import sys
from collections.abc import Callable, Iterable


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


def sentence(error: UserError) -> str:
    """The text of the error without the traceback that a DataLoader worker writes in front of it."""
    return str(error).rpartition("UserError: ")[2].strip()


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's main; a UserError becomes one line on standard error and exit code 2."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        code = 2
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        operation = str(error).split(" ", 1)[0]
        print(
            f"error: {operation}, which this model needs, has no deterministic form on this device; "
            "leave --deterministic out",
            file=sys.stderr,
        )
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
