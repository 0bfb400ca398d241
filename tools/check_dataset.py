"""Read every frame and truth file of data sets once; report what is wrong, on one page and as JSON.

The exit code is 1 when something was found that would change a figure, 0 when nothing was, and 2 when a data
set cannot be read at all.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.check import DEFINITIONS, Check, check_dataset  # noqa: E402
from dataset.check.evidence import evidence  # noqa: E402
from dataset.check.findings import KINDS  # noqa: E402
from dataset.check.warn import CHECKS, PAGE, REPORT  # noqa: E402
from utils.errors import UserError, run_command  # noqa: E402
from utils.files import write_atomically, write_json  # noqa: E402
from utils.registry import DATASETS  # noqa: E402
from utils.report.check_page import check_page  # noqa: E402
from utils.report.check_sheet import write_sheet  # noqa: E402
from utils.runlog import new_run_folder  # noqa: E402

# Other imports stand in the functions that need them: each reading process imports this file, and torch would
# take it seconds and 200 MB.

CHANGES_FIGURES = 1  # the exit code


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = {"nargs": "+", "metavar": "NAME", "default": ["Synthetic"]}
    add("--dataset_names", "--dataset", help="data sets, by name (default: Synthetic)", **names)
    text = "the data set's own folder, or the parent of several (default: data)"
    add("--dataset_dir", "--datapath", type=Path, default=Path("data"), help=text)
    text = "an option of the data set's reader, such as box_origin=1 (repeatable)"
    options = {"action": "append", "default": [], "dest": "dataset_options", "metavar": "KEY=VALUE"}
    add("--dataset_option", help=text, **options)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("--workers", type=int, default=cores, help=f"processes that read (default: {cores}, the cores)")
    add(
        "--log_dir",
        "--logpath",
        type=Path,
        default=Path("log"),
        help="where reports are written (default: log)",
    )
    flags = parser.parse_args(argv)
    if not 1 <= flags.workers <= 1024:
        raise UserError(f"--workers takes 1 to 1024, not {flags.workers}; leave it out for one per core")
    return flags


def recipe_constants(name: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of gray values 0..255 that recipes of models name for this data set."""
    import model  # noqa: F401
    from utils.registry import MODELS

    found = {}
    for entry in map(MODELS.entry, MODELS.names()):
        view = entry.facts["recipe"].get("datasets", {}).get(name, {}).get("view", {})
        if isinstance(view.get("mean"), float):
            found[entry.name] = view["mean"], view["std"]
    return found


def report(flags: argparse.Namespace, name: str, check: Check, seconds: float) -> None:
    """Write the page, the JSON and the contact sheet of a check, and print the page."""
    root = next(iter(check.sets.values())).root
    kinds = dict.fromkeys(finding.kind for finding in check.findings)
    facts: dict[str, Any] = {
        "dataset": name,
        "dataset_dir": root,
        "dataset_options": flags.dataset_options,
        "seconds": seconds,
        "changes_figures": check.changes_figures,
        "fingerprints": check.fingerprints(),
        "notes": list(dict.fromkeys(note for data in check.sets.values() for note in data.notes)),
        "kinds": {kind: vars(KINDS[kind]) for kind in kinds},
        "findings": [finding.facts() for finding in check.findings],
        "splits": check.statistics,
        "recipes": recipe_constants(name),
        "definitions": DEFINITIONS,
    }
    folder = new_run_folder(flags.log_dir, CHECKS, name)
    page = check_page(facts)
    write_json(folder / REPORT, facts)
    write_atomically(folder / PAGE, page.encode())
    pairs = evidence(check.findings, root)
    if pairs:
        write_sheet(pairs, folder / "check.png", f"{name}: the first findings of each kind")
    print(page)
    print(f"in {folder}: {PAGE}, {REPORT}{', check.png' if pairs else ''}", flush=True)


def main(argv: list[str] | None = None) -> int:
    flags = parse(argv)
    from utils.cli import reader_options

    options = reader_options(flags.dataset_options)
    refused: list[UserError] = []
    code = 0
    for name in [DATASETS.entry(name).name for name in flags.dataset_names]:
        begin = time.perf_counter()
        try:
            check = check_dataset(name, flags.dataset_dir, flags.workers, **options)
        except UserError as error:  # the other data sets are checked all the same
            refused.append(error)
            continue
        report(flags, name, check, time.perf_counter() - begin)
        code = max(code, CHANGES_FIGURES * check.changes_figures)
    for error in refused[:-1]:
        print(f"error: {error}", file=sys.stderr)
    if refused:
        raise refused[-1]
    return code


if __name__ == "__main__":
    run_command(main)
