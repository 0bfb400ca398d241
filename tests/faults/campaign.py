"""The classes of faults, their forms, and the table of what was tried and what held."""

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import harness
from tests.faults.harness import Command, Ended

FORMS = ("full", "short", "ci")


class NotHeld(Exception):
    """A case in which the project did not behave. Its text says how."""


class NotPossible(Exception):
    """A case that this machine cannot try. Its text says why."""


@dataclass(frozen=True, eq=False)
class FaultClass:
    """A class of faults.

    name:   as the user types it
    text:   what is tried, and what "held" means
    counts: the number of cases of each form
    run:    tries one case; raises NotHeld, or NotPossible
    before: called once with the seed and the shared folder, in the process that the cases are forked from
    """

    name: str
    text: str
    counts: dict[str, int]
    run: Callable[["Case"], None]
    before: Callable[[int, Path], Any] | None = None


@dataclass
class Case:
    """One case, and what it works with.

    draw:   its own random numbers: the same for the same class, seed and number
    folder: its own, removed when the case held
    shared: what several cases use, see `once`
    tried:  the faults that were injected
    about:  what was tried, for the report
    """

    cls: str
    number: int
    seed: int
    folder: Path
    shared: Path
    commands: dict[str, Any] = field(repr=False, default_factory=dict)
    tried: int = 1
    about: str = ""
    calls: list[Ended] = field(default_factory=list, repr=False)

    def __post_init__(self):
        self.draw = np.random.default_rng([self.seed, zlib.crc32(self.cls.encode()), self.number])

    def chosen(self, options: Sequence[Any]) -> Any:
        """One of `options`: over many cases each comes up equally often, in an order drawn from the seed."""
        order = np.random.default_rng([self.seed, zlib.crc32(self.cls.encode())]).permutation(len(options))
        return options[order[self.number % len(options)]]

    def start(
        self, *argv: Any, main: Callable | None = None, before: Callable[[], Any] | None = None
    ) -> Command:
        """Start a command: `start("train.py", "--epochs", 1)`; with `main`, one that is no file."""
        return harness.start(list(argv), main or self.commands[argv[0]].main, before)

    def wait(self, command: Command, seconds: float = 120.0) -> Ended:
        """Its end, which the report of a failure quotes."""
        self.calls.append(command.wait(seconds))
        return self.calls[-1]

    def call(self, *argv: Any, seconds: float = 120.0, **options: Any) -> Ended:
        """A command from start to end; options as of `start`."""
        return self.wait(self.start(*argv, **options), seconds)

    def hold(self, wrong: str) -> None:
        """Raises NotHeld where there is something wrong."""
        if wrong:
            raise NotHeld(wrong)

    def once(self, name: str, make: Callable[[Path], Any]) -> Path:
        """The folder `name` that all cases share; the first one that asks makes it."""
        path, new = self.shared / name, self.shared / f"{name}.new"
        path.parent.mkdir(parents=True, exist_ok=True)
        with (self.shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir()
                make(new)
                new.rename(path)
        return path


@dataclass(frozen=True)
class Outcome:
    """What became of a case; "held", "failed" or "skipped"."""

    state: str
    cls: str
    number: int
    tried: int
    why: str
    about: str
    seconds: float
    commands: list[str]
    output: str
    folder: str


class Campaign:
    """Runs cases, each in a process forked from this one, `jobs` at a time."""

    def __init__(self, seed: int, work: Path, jobs: int = 2):
        self.seed, self.work, self.jobs = seed, work, jobs
        self.commands = harness.load_commands()
        self.todo: list[tuple[FaultClass, int]] = []
        self.running: dict[int, tuple[FaultClass, int, float]] = {}
        harness.prepare()

    def outcomes(self, cases: Sequence[tuple[FaultClass, int]]) -> Iterator[Outcome]:
        """What becomes of the cases, in the order of their ends."""
        for cls in dict.fromkeys(cls for cls, _ in cases):
            if cls.before:
                cls.before(self.seed, self.work / "shared")
        harness.check_alone()
        self.todo = list(reversed(cases))
        while self.todo or self.running:
            while self.todo and len(self.running) < self.jobs:
                self._fork(*self.todo.pop())
            pid, _ = os.wait()
            if pid in self.running:
                yield self._outcome(*self.running.pop(pid))

    def stop(self) -> None:
        """Begin no further case; those that run are finished."""
        self.todo.clear()

    def _place(self, cls: FaultClass, number: int) -> Path:
        return self.work / "cases" / f"{cls.name}_{number}"

    def _fork(self, cls: FaultClass, number: int) -> None:
        place = self._place(cls, number)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            self.running[pid] = cls, number, time.monotonic()
            return
        case = Case(cls.name, number, self.seed, place, self.work / "shared", self.commands)
        try:
            result = judged(cls, case)
            (place / "verdict.json").write_text(json.dumps(result))
        finally:
            os._exit(0)

    def _outcome(self, cls: FaultClass, number: int, begin: float) -> Outcome:
        place = self._place(cls, number)
        verdict = place / "verdict.json"
        lost = {"state": "failed", "tried": 1, "why": "the campaign's own process died", "about": ""}
        found = json.loads(verdict.read_text()) if verdict.exists() else lost | {"commands": [], "output": ""}
        if found["state"] != "failed":
            shutil.rmtree(place, ignore_errors=True)
        return Outcome(
            cls=cls.name, number=number, seconds=time.monotonic() - begin, folder=str(place), **found
        )


def judged(cls: FaultClass, case: Case) -> dict[str, Any]:
    """The verdict on a case, in plain values."""
    state, why = "held", ""
    try:
        cls.run(case)
    except NotHeld as error:
        state, why = "failed", str(error)
    except NotPossible as error:
        state, why = "skipped", str(error)
    except Exception:  # a fault of the campaign itself is no fault that held
        state, why = "failed", f"the campaign itself: {traceback.format_exc()}"
    commands = [" ".join(ended.argv) for ended in case.calls]
    ends = [f"code {ended.code}: {ended.err[-3000:]}" for ended in case.calls]
    return {
        "state": state,
        "tried": case.tried,
        "why": why,
        "about": case.about,
        "commands": commands,
        "output": "\n".join(ends),
    }


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for all that a campaign writes; what failed stays in it."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder / "shared", ignore_errors=True)
        if not any((folder / "cases").glob("*")):
            shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- the report


def table(outcomes: Sequence[Outcome], classes: Sequence[FaultClass], seed: int) -> str:
    """The table of what was tried and what held, a line per class."""
    lines = [f"{'class':<12} {'tried':>6} {'held':>6} {'skipped':>8} {'seconds':>8}  seed {seed}"]
    for cls in classes:
        own = [outcome for outcome in outcomes if outcome.cls == cls.name]
        tried, held, skipped = (
            sum(o.tried for o in own if o.state in states)
            for states in (("held", "failed"), ("held",), ("skipped",))
        )
        seconds = sum(outcome.seconds for outcome in own)
        lines.append(f"{cls.name:<12} {tried:>6} {held:>6} {skipped:>8} {seconds:>8.0f}  {cls.text}")
    return "\n".join(lines)


def told(outcome: Outcome, seed: int) -> str:
    """A case that did not hold: what was tried, how it ended, and how to try it again."""
    commands = "".join(f"\n  {command}" for command in outcome.commands[-4:])
    output = "".join(f"\n  | {line}" for line in outcome.output.splitlines()[-12:])
    return (
        f"{outcome.cls}:{outcome.number} did not hold: {outcome.why}\n  {outcome.about}{commands}{output}\n"
        f"  what it left: {outcome.folder}\n"
        f"  again: python -m tests.faults --seed {seed} --case {outcome.cls}:{outcome.number}"
    )


def written(outcomes: Sequence[Outcome], seed: int, form: str, path: Path | None) -> Path:
    """Write all outcomes as JSON; returns where."""
    path = path or harness.ROOT / "log" / "faults" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{key: value for key, value in vars(outcome).items() if value} for outcome in outcomes]
    path.write_text(json.dumps({"seed": seed, "form": form, "cases": entries}, indent=1) + "\n")
    return path
