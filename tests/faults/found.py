"""predict.py that is killed, or asked to end, at random moments, and the same call once more.

Held means that no file under its own name is half of one; who is asked to end leaves files that agree with
each other and say that they are not all; and that the next call removes what a kill has left, and writes what
a call writes that nothing interrupts.
"""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import cv2

from tests.faults.campaign import Case, FaultClass, NotHeld
from tests.faults.judges import complaint, refusal
from tests.faults.training import wait_until
from tests.moving import Target, moving_video
from utils.errors import INTERRUPTED
from utils.report.overlay_video import has_index

FRAMES = 120
TABLES = ("detections.csv", "tracks.csv", "motion.csv")


def images(case: Case) -> Path:
    """A video of a moving camera."""

    def make(folder: Path) -> None:
        video = moving_video(FRAMES, (48, 64), targets=[Target((20, 30), (0.3, -0.1), 60)])
        for number, frame in enumerate(video.frames):
            cv2.imwrite(str(folder / f"{number}.png"), frame)

    return case.once("images", make)


def prediction(case: Case, out: Path) -> tuple[Any, ...]:
    """The command."""
    return ("predict.py", images(case), "--out", out, "--save_maps", "npz", "--device", "cpu")


def reference(case: Case) -> tuple[Path, float]:
    """(folder, seconds) of a call that nothing interrupts."""

    def make(folder: Path) -> None:
        ended = case.call(*prediction(case, folder / "out"))
        case.hold(complaint(ended, (0,)))
        (folder / "seconds").write_text(str(ended.seconds))

    folder = case.once("predicted", make)
    return folder / "out", float((folder / "seconds").read_text())


def check_whole(folder: Path) -> None:
    """Raises NotHeld for a file that is half of one."""
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".csv":
                with path.open(newline="") as file:
                    rows = list(csv.reader(file))
                if len(set(map(len, rows))) != 1 or not path.read_text().endswith("\n"):
                    raise ValueError("a line is not whole")
            elif path.suffix == ".mp4" and not has_index(path):
                raise ValueError("it has no index")
        except ValueError as error:
            raise NotHeld(f"{path.name}: {error}") from None


def check_agreement(folder: Path) -> None:
    """Raises NotHeld unless the files of a call that was asked to end tell of the same frames."""
    summary = json.loads((folder / "summary.json").read_text())
    counts = {name: len((folder / name).read_text().splitlines()) - 1 for name in TABLES}
    if counts["motion.csv"] != summary["frames"] or counts["detections.csv"] != summary["detections"]:
        raise NotHeld(f"summary.json tells of {summary['frames']} frames, the files of {counts}")
    if summary["is_complete"] != (summary["frames"] == FRAMES):
        raise NotHeld(f"{summary['frames']} frames are called complete: {summary['is_complete']}")


def try_found(case: Case) -> None:
    """One end of one call, then the same call."""
    number = case.chosen([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
    expected, seconds = reference(case)
    out, moment = case.folder / "out", float(case.draw.uniform(0.05, 1.1 * seconds))
    case.about = f"{signal.Signals(number).name} after {moment:.2f} s of {seconds:.2f} s"
    command = case.start(*prediction(case, out))
    if wait_until(command, moment):
        command.signal(number)
    ended = case.wait(command)
    if number != signal.SIGKILL:
        case.hold(complaint(ended, (INTERRUPTED, 0)))
    check_whole(out)
    if (out / "summary.json").exists():
        check_agreement(out)
    if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        case.hold(refusal(case.call(*prediction(case, out)), "holds"))
        return
    case.hold(complaint(case.call(*prediction(case, out)), (0,)))
    if left := [path.name for path in out.iterdir() if path.name.startswith(".")]:
        raise NotHeld(f"{', '.join(left)} was never removed")
    for name in TABLES:
        if (out / name).read_bytes() != (expected / name).read_bytes():
            raise NotHeld(f"{name} is another one than without an interruption")


FOUND = FaultClass(
    "found",
    "predict.py killed or asked to end: whole files, and the next call as if nothing had been",
    {"full": 60, "short": 16, "ci": 4},
    try_found,
)
