"""Trainings that are killed at random times and resumed, several times each, until they are done.

Held means that train.jsonl (without seconds), last.pth and best.pth (weights, averaged weights, optimizer,
random state) are those of a run that nothing interrupted, to the bit, and that no temporary file and no
process is left.
"""

import signal

from tests.faults.campaign import Case, FaultClass, NotHeld
from tests.faults.harness import Command, Ended
from tests.faults.judges import complaint
from tests.faults.training import (
    SETUPS,
    Setup,
    check_same_run,
    command_line,
    epochs_of,
    reference,
    resume_flags,
    run_to_resume,
    wait_until,
)
from utils.checkpoint import read_checkpoint
from utils.errors import INTERRUPTED, UserError

GRACE = 30.0  # seconds between the signal and the kill of a cluster
ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def random_moment(case: Case, setup: Setup, log) -> float:
    """Seconds from the start of a training at which it is interrupted, with most of its work still to do."""
    _, seconds = reference(case, setup)
    run = run_to_resume(log, setup.model)
    done = 0.0
    if run:
        steps = [read_checkpoint(folder / "last.pth")["progress"]["steps"] for folder in
                 (run, reference(case, setup)[0])]  # fmt: skip
        done = steps[0] / steps[1]
    return float(case.draw.uniform(0.15, 0.3 + (1 - done) * seconds))


def begin(case: Case, setup: Setup, log, workers: int) -> Command:
    """Start or resume the training."""
    return case.start(*command_line(case, setup, log, workers), *resume_flags(log, setup.model))


def try_kills(case: Case) -> None:
    """Three to five interruptions of one training, the last start runs to its end."""
    setup, log = case.chosen(SETUPS), case.folder / "log"
    expected, _ = reference(case, setup)
    case.tried, wanted = 0, int(case.draw.integers(3, 6))
    how = []
    for _ in range(wanted):
        workers, moment = int(case.draw.integers(3)), random_moment(case, setup, log)
        number = case.draw.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
        group = bool(case.draw.integers(2)) or number != signal.SIGKILL
        how.append(f"{signal.Signals(number).name} {'to all' if group else 'to the main process'} after "
                   f"{moment:.2f} s with {workers} workers")  # fmt: skip
        case.about = f"{setup.name} ({setup.draws}): {'; '.join(how)}"
        command = begin(case, setup, log, workers)
        if not wait_until(command, moment):
            break
        command.signal(number, group)
        case.tried += 1
        ended = case.wait(command, GRACE)
        if number == signal.SIGTERM:
            check_interrupted(case, ended, setup, log)
        elif ended.left:
            raise NotHeld(f"{ended.left} processes outlived a killed training")
    ended = case.wait(begin(case, setup, log, int(case.draw.integers(3))))
    case.hold(complaint(ended, (0,)))
    check_same_run(run_to_resume(log, setup.model), expected)


def check_interrupted(case: Case, ended: Ended, setup: Setup, log) -> None:
    """Raises NotHeld unless a command that was asked to end did so in time and saved its last batch."""
    run = run_to_resume(log, setup.model)
    if run and ended.code < 0 and read_checkpoint(run / "last.pth")["progress"]["epoch"] == epochs_of(setup):
        return  # the training was over
    case.hold(complaint(ended, (INTERRUPTED, 0)))  # 0: it was at its end
    said = ended.out.rpartition("stopped after ")[2]
    if ended.code == INTERRUPTED and "stopped after " in ended.out:
        told = int(said.split(" ")[0])
        try:
            saved = read_checkpoint(run / "last.pth")["progress"]["steps"]
        except UserError as error:
            raise NotHeld(f"last.pth after the interruption: {error}") from None
        if saved != told:
            raise NotHeld(f"it stopped after {told} steps, and last.pth has {saved}")


def try_group(case: Case) -> None:
    """One interruption of the whole group, then a resume to the end."""
    setup, log = case.chosen(SETUPS[:5]), case.folder / "log"
    expected, seconds = reference(case, setup)
    number, workers = case.draw.choice(ASKED), case.number % 3
    moment = float(case.draw.uniform(0.05, seconds + 0.3))
    case.about = f"{setup.name}: {signal.Signals(number).name} to all after {moment:.2f} s, {workers} workers"
    flags = ("--save_every", 1000)  # so that nothing but the interruption saves
    command = case.start(*command_line(case, setup, log, workers), *flags)
    if wait_until(command, moment):
        command.signal(number, group=True)
        if case.draw.random() < 0.2:  # clusters and impatient people send it twice
            wait_until(command, moment + 0.05)
            command.signal(signal.SIGTERM, group=True)
    check_interrupted(case, case.wait(command, GRACE), setup, log)
    ended = case.wait(begin(case, setup, log, 0))
    case.hold(complaint(ended, (0,)))
    check_same_run(run_to_resume(log, setup.model), expected)


KILLS = FaultClass(
    "kills",
    "random kills of trainings, each resumed: bit-identical to the end",
    {"full": 100, "short": 10, "ci": 2},
    try_kills,
)
GROUPS = FaultClass(
    "groups",
    "SIGTERM, SIGINT, SIGHUP to all processes: code 130, the last batch saved, resumed bit-identically",
    {"full": 40, "short": 15, "ci": 3},
    try_group,
)
