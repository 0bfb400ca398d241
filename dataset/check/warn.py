"""What train.py and test.py say of their data before they start."""

import json
from collections.abc import Iterator
from collections.abc import Sequence as Items
from pathlib import Path

from dataset.check.findings import KINDS, Finding, by_severity
from dataset.check.names import check_annotations, check_names, check_shared, fingerprint
from dataset.sequence import SequenceSet

CHECKS = "checks"  # the folder of checks in the folder of runs
REPORT, PAGE = "check.json", "check.txt"
SHOWN = 4  # lines of a split


def tell(sets: Items[SequenceSet], log_dir: Path) -> None:
    """Print the notes of the readers, and warn of what is wrong as far as it shows without reading frames.

    sets: the splits that a command reads
    """
    for note in dict.fromkeys(note for data in sets for note in data.notes):
        print(f"note: {note}")
    for line in warnings(sets, log_dir):
        print(f"warning: {line}", flush=True)


def warnings(sets: Items[SequenceSet], log_dir: Path) -> Iterator[str]:
    """Yields a line for each kind of finding, and one for what an earlier check of the data has found."""
    for data in sets:
        findings = [*check_names(data), *check_annotations(data)]
        for train in sets:
            if (train.name, train.split, data.split) == (data.name, "train", "test") and not same(
                train, data
            ):
                findings += check_shared(train, data)
        lines = list(summaries(findings))
        yield from (f"{data.name}, {data.split} split: {line}" for line in lines[:SHOWN])
        if lines:
            yield f"`python tools/check_dataset.py --dataset_names {data.name}` tells all, frame by frame"
        yield from earlier_check(data, log_dir)


def same(one: SequenceSet, other: SequenceSet) -> bool:
    """Whether two splits are the same sequences, as those of a folder without lists."""
    return [sequence.images for sequence in one] == [sequence.images for sequence in other]


def summaries(findings: list[Finding]) -> Iterator[str]:
    """Yields one line for each kind of finding that changes figures, and for sequences without targets."""
    findings = by_severity(findings)
    for kind in dict.fromkeys(finding.kind for finding in findings):
        found = [finding for finding in findings if finding.kind == kind]
        if KINDS[kind].changes_figures or kind == "without targets":
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            yield f"{KINDS[kind].title}: {found[0].text}{more}"


def earlier_check(data: SequenceSet, log_dir: Path) -> Iterator[str]:
    """Yields what the newest check found, if it changes figures and the data is still the same."""
    reports = sorted(Path(log_dir, CHECKS, data.name).glob(f"*/{REPORT}"))
    if not reports:
        return
    try:
        facts = json.loads(reports[-1].read_text(encoding="utf-8"))
        findings, checked = facts["findings"], facts["fingerprints"].get(data.split)
        found = [f["kind"] for f in findings if f["changes_figures"] and f["split"] == data.split]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # half a report, or that of another version, is no reason not to start
    if found and checked == fingerprint(data):
        counts = ", ".join(
            f"{KINDS[k].title if k in KINDS else k}: {found.count(k)}" for k in dict.fromkeys(found)
        )
        page = reports[-1].with_name(PAGE)
        yield f"a check of this data found what changes figures of the {data.split} split ({counts}): {page}"
