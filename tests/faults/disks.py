"""Disks that fill up: files limited in size (RLIMIT_FSIZE), and tiny file systems where that is allowed.

Held means that a command ends on one sentence, or does all of its work; it is not ended by a signal; what lay
there before is whole; and what was half written is refused or made anew by the next command, which has room.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dataset import create_dataset
from dataset.io import read_gray
from tests.faults.campaign import Case, FaultClass, NotHeld, NotPossible
from tests.faults.found import check_whole, prediction
from tests.faults.harness import grow_disk, limit_files, small_disk
from tests.faults.judges import complaint
from tests.faults.observe import without_pictures
from tests.faults.saves import figures_expected, figures_of
from tests.faults.toy_runs import continued_run, copied, toy_run, toy_training
from tests.faults.training import comparable, difference, record_of, training_data
from utils.checkpoint import read_checkpoint
from utils.errors import UserError

Check = Callable[[], None]


def smaller_data(case: Case, root: Path) -> Path:
    """A copy of the data, under the name that a tool reads."""
    return copied(training_data(case) / "Synthetic", root)


def training(case: Case, disk: Path) -> tuple[tuple, Check]:
    """A run of one epoch goes on for another."""
    run = copied(toy_run(case, "Toy"), disk / "Synthetic" / "Toy" / "run")
    before = comparable(run / "last.pth")
    argv = (*toy_training(case, "Toy", disk, 2), "--resume", run)

    def check() -> None:
        told = [difference(comparable(run / "last.pth"), other) for other in
                (before, comparable(continued_run(case, "Toy") / "last.pth"))]  # fmt: skip
        if all(told):
            raise NotHeld(f"last.pth is neither the old nor the new one: {told}")
        read_checkpoint(run / "best.pth")

    return argv, check


def resumed(case: Case, disk: Path) -> None:
    """With room, the run goes on to the same bits."""
    run = disk / "Synthetic" / "Toy" / "run"
    case.hold(complaint(case.call(*toy_training(case, "Toy", disk, 2), "--resume", run), (0,)))
    expected = continued_run(case, "Toy")
    told = difference(comparable(run / "last.pth"), comparable(expected / "last.pth"))
    told = told or difference(record_of(run), record_of(expected))
    left = [path.name for path in run.glob(".*.tmp")]
    case.hold(told or (f"{left} was never removed" if left else ""))


def new_training(case: Case, disk: Path) -> tuple[tuple, Check]:
    """A new run."""

    def check() -> None:
        for path in disk.rglob("*.pth"):
            read_checkpoint(path)

    return toy_training(case, "Toy", disk, 1), check


def tophat(case: Case, disk: Path, *more: Any) -> tuple:
    data = ("--model_names", "TopHat", "--dataset_dir", training_data(case))
    return ("test.py", *data, "--log_dir", disk / "log", "--device", "cpu", *more)


def check_json(disk: Path) -> None:
    """Raises where a JSON file is half of one."""
    for path in disk.rglob("*.json"):
        json.loads(path.read_text())


def test(case: Case, disk: Path) -> tuple[tuple, Check]:
    """A test with its tables."""
    return tophat(case, disk), lambda: check_json(disk)


def test_predictions(case: Case, disk: Path) -> tuple[tuple, Check]:
    """A test that keeps its maps."""

    def check() -> None:
        check_json(disk)
        for folder in (disk / "log" / "Synthetic" / "TopHat").glob("*/predictions"):
            again = case.folder / f"again{len(case.calls)}"
            argv = (
                "test.py",
                "--predictions",
                folder,
                "--dataset_dir",
                training_data(case),
                "--log_dir",
                again,
            )
            ended = case.call(*argv, "--device", "cpu", before=without_pictures)
            case.hold(complaint(ended))
            if ended.code == 0 and figures_of(again) != figures_expected(case):
                raise NotHeld("half-written predictions give other figures")

    return tophat(case, disk, "--save_predictions"), check


def test_overlays(case: Case, disk: Path) -> tuple[tuple, Check]:
    """A test that draws contact sheets."""

    def check() -> None:
        check_json(disk)
        for path in disk.rglob("overlays/*.png"):
            read_gray(path)

    return tophat(case, disk, "--save_overlays"), check


def test_cache(case: Case, disk: Path) -> tuple[tuple, Check]:
    """A test that caches frames: the same figures afterwards, from what is left of the cache."""
    flags = ("--cache", "--cache_dir", disk / "cache")

    def check() -> None:
        again = case.folder / f"again{len(case.calls)}"
        argv = (*tophat(case, disk)[:5], "--log_dir", again, "--device", "cpu")
        ended = case.call(*argv, "--cache", "--cache_dir", disk / "cache", before=without_pictures)
        case.hold(complaint(ended))
        if ended.code == 0 and figures_of(again) != figures_expected(case):
            raise NotHeld("a half-written cache gives other figures")

    return (*tophat(case, disk)[:5], "--log_dir", case.folder / "log", "--device", "cpu", *flags), check


def make_synthetic(case: Case, disk: Path) -> tuple[tuple, Check]:
    """A synthetic data set replaces an earlier one."""
    root = smaller_data(case, disk / "Synthetic")
    before = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    size = ("--height", 32, "--width", 32, "--frames", 4, "--train_sequences", 1, "--test_sequences", 1)

    def check() -> None:
        now = sorted(path.relative_to(root) for path in root.rglob("*.png"))
        if now != before and len(now) != 2 * 4 * 3:
            raise NotHeld(f"{len(now)} images are there, before it were {len(before)}")
        for split in ("train", "test"):
            for sequence in create_dataset("Synthetic", root, split):
                for path in sequence.images:
                    read_gray(path)
        if left := [path.name for path in disk.iterdir() if path.name != "Synthetic"]:
            raise NotHeld(f"{', '.join(left)} was left behind")

    return ("tools/make_synthetic.py", "--out", root, *size, "--overwrite"), check


def add_noise(case: Case, disk: Path) -> tuple[tuple, Check]:
    """A noisy copy of a data set."""
    root = smaller_data(case, case.folder / "NUDT-MIRSDT")
    out = disk / "noisy"

    def check() -> None:
        if not (out / "noise.json").exists():
            return  # written last
        for path in sorted(out.rglob("*.png")):
            read_gray(path)

    return ("tools/add_noise.py", "--dataset_dir", root, "--out", out), check


def convert(case: Case, disk: Path) -> tuple[tuple, Check]:
    """Masks to COCO, over an earlier file."""
    source = copied(training_data(case) / "Synthetic", case.folder / "source")
    out = disk / "boxes.json"
    out.write_text('{"old": 1}')

    def check() -> None:
        content = json.loads(out.read_text())
        if content != {"old": 1} and len(content["images"]) != 30:
            raise NotHeld("the file is neither the old nor the new one")

    argv = ("tools/convert_annotations.py", "--source", source, "--to", "coco", "--out", out, "--overwrite")
    return argv, check


def predict(case: Case, disk: Path) -> tuple[tuple, Check]:
    """What is found in a video, with everything that predict.py can write."""
    return (*prediction(case, disk / "out"), "--model_names", "TopHat"), lambda: check_whole(disk / "out")


KINDS = (
    training,
    new_training,
    test,
    test_predictions,
    test_overlays,
    test_cache,
    make_synthetic,
    add_noise,
    convert,
    predict,
)


def blocks(folder: Path) -> int:
    """Bytes that the files and folders of `folder` take on a disk of 4096-byte blocks."""
    return sum(max(-(-path.stat().st_size // 4096), 1) * 4096 for path in folder.rglob("*"))


def pictures(prepare: Callable) -> Callable[[], None] | None:
    """For `before`: curves are drawn in the one case that is about pictures."""
    return None if prepare is test_overlays else without_pictures


def room(case: Case, prepare: Callable) -> dict[str, int]:
    """Bytes that a command finds and leaves on its disk, and in its largest file, where there is room."""

    def make(folder: Path) -> None:
        disk = folder / "disk"
        disk.mkdir()
        argv, check = prepare(case, disk)
        found = blocks(disk)
        case.hold(complaint(case.call(*argv, before=pictures(prepare)), (0,)))
        check()
        largest = max(path.stat().st_size for path in disk.rglob("*") if path.is_file())
        (folder / "room.json").write_text(
            json.dumps({"found": found, "left": blocks(disk), "largest": largest})
        )

    return json.loads((case.once(f"room_{prepare.__name__}", make) / "room.json").read_text())


def try_disk(case: Case) -> None:
    """One command on one disk that is too small, or nearly."""
    prepare, is_disk = case.chosen([(kind, is_disk) for kind in KINDS for is_disk in (False, True)])
    disk = case.folder / "disk"
    disk.mkdir()
    toy_run(case, "Toy"), continued_run(case, "Toy"), figures_expected(case)  # outside of the disk
    bytes_of = room(case, prepare)
    with ExitStack() as stack:
        if is_disk:
            added = bytes_of["left"] - bytes_of["found"]
            added = added if added > 0 else bytes_of["left"]  # the new beside the old
            size = bytes_of["found"] + 4096 + int(case.draw.uniform(0, 1.3) * added)
            try:
                stack.enter_context(small_disk(disk, str(size)))
            except OSError as error:
                raise NotPossible(f"no small disk can be mounted here ({error.strerror})") from None
            argv, check = prepare(case, disk)
            before = pictures(prepare)
            case.about = f"{prepare.__name__} on a disk of {size} bytes, {added} of which it needs"
        else:
            limit = int(log_uniform(case, 100, 1.1 * bytes_of["largest"]))
            argv, check = prepare(case, disk)
            before = limited(limit, pictures(prepare))
            case.about = f"{prepare.__name__}, no file beyond {limit} bytes of {bytes_of['largest']}"
        ended = case.call(*argv, before=before)
        case.hold(complaint(ended))
        try:
            check()
        except (UserError, OSError, ValueError, KeyError) as error:
            raise NotHeld(f"afterwards: {error}") from None
        if prepare is training:
            if is_disk:
                grow_disk(disk)
            resumed(case, disk)


def log_uniform(case: Case, low: int, high: int) -> float:
    """A number whose logarithm is uniform."""
    return low * (high / low) ** float(case.draw.random())


def limited(limit: int, first: Callable[[], None] | None) -> Callable[[], None]:
    """For `before`: a limit for files, after another preparation."""

    def prepare() -> None:
        if first:
            first()
        limit_files(limit)()

    return prepare


DISKS = FaultClass(
    "disks",
    "full disks and limited files: one sentence or success, what was there is whole",
    {"full": 180, "short": 54, "ci": 9},
    try_disk,
)
