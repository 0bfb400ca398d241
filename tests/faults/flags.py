"""Wrong flags and recipe keys: wrong types, out of their limits, unknown, or of no effect.

They come from the parsers and the settings themselves, see tests/wrong_flags.py. Held means one sentence and
exit code 2, before anything is written.
"""

import json
import os
from pathlib import Path

from tests.faults.campaign import Case, FaultClass, NotHeld, NotPossible
from tests.faults.judges import refusal
from tests.wrong_flags import wrong_calls

CALLS: list[tuple[str, list[str]]] = []
FOLDER: list[Path] = []


def find_calls(seed: int, work: Path) -> None:
    """All wrong calls, before the first case."""
    folder, found = work / "flags", work / "flags.json"
    folder.mkdir(parents=True)
    pid = os.fork()
    if pid == 0:  # what draws a data set may start threads, and this process forks
        try:
            found.write_text(json.dumps(wrong_calls(seed, folder)))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    FOLDER.append(folder)
    CALLS.extend((command, argv) for command, argv in json.loads(found.read_text()))


def try_flags(case: Case) -> None:
    """One wrong call."""
    if case.number >= len(CALLS):
        raise NotPossible(f"there are {len(CALLS)} wrong calls only")
    command, argv = case.chosen(CALLS)
    before = set(FOLDER[0].rglob("*"))
    case.about = f"{command} {' '.join(map(str, argv))}"
    case.hold(refusal(case.call(command, *argv, seconds=60)))
    if new := set(FOLDER[0].rglob("*")) - before:
        raise NotHeld(f"it refused after it had written {min(new)}")


FLAGS = FaultClass(
    "flags",
    "wrong flags and recipe keys: one sentence each, nothing written",
    {"full": 1100, "short": 300, "ci": 40},
    try_flags,
    find_calls,
)
