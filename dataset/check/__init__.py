"""A check of a data set: every frame and truth file of both splits read once, and what is wrong with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset import create_dataset
from dataset.check.copies import Frame, check_leaks, check_repeats, detail_likeness, near_leaks, near_pairs
from dataset.check.findings import Finding, by_severity
from dataset.check.names import check_names, check_shared, fingerprint
from dataset.check.pixels import check_gray_values, check_pixels
from dataset.check.reading import Task, read_record
from dataset.check.statistics import split_statistics
from dataset.refusals import Refusal, collected_refusals
from dataset.sequence import Sequence, SequenceSet
from utils.errors import UserError
from utils.parallel import in_parallel
from utils.registry import DATASETS

SPLITS = ("train", "test")
DROP = "on_bad_truth"  # an option of readers
DEFINITIONS = (
    "Of targets the median is shown, and the range from 5 to 95 %. Area: pixels of an 8-connected component "
    "of the mask (above 0), or width times height of a box. SNR: (mean over the target - mean over a ring) / "
    "std over the ring, which are the pixels 4 to 8 pixels away from the target's bounding box that belong "
    "to no target. A box holds background too; of a point, its pixel is taken. Step: to the nearest target "
    "of the frame before.",
    "Nearly equal frames, looked for between the splits: their 16x16 block means correlate by 0.9, and the "
    "fine structure of 64x64 pixels by 0.4. Misplaced truth: farther than 5 median steps, and 10 pixels, "
    "from all targets of the frames before and after, which agree with each other.",
)


@dataclass(frozen=True, eq=False)
class Check:
    """What was found.

    sets:       the splits that could be indexed, by name; one when both are the same sequences
    statistics: of each, see `dataset.check.statistics`
    findings:   by severity
    """

    sets: dict[str, SequenceSet]
    statistics: dict[str, dict[str, Any]]
    findings: list[Finding]

    @property
    def changes_figures(self) -> bool:
        return any(finding.changes_figures for finding in self.findings)

    def fingerprints(self) -> dict[str, str]:
        return {split: fingerprint(data) for split, data in self.sets.items()}


def check_dataset(name: str, root: str | Path, workers: int = 1, **options: Any) -> Check:
    """Read and check both splits of a data set; `options` are those of its reader.

    Raises UserError when neither split can be indexed.
    """
    sets, findings = index_splits(name, root, options)
    frames = read_frames(sets, workers)
    statistics = {split: split_statistics(data, frames[split]) for split, data in sets.items()}
    for split, data in sets.items():
        found = statistics[split]
        findings += check_names(data, found["marked"])
        findings += check_gray_values(data, found["mean"], found["std"])
        for sequence in data:
            findings += check_pixels(data, sequence, frames[split][sequence.name])
        findings += check_repeats(flat(frames[split]))
    if len(sets) == 2:
        train, test = (flat(frames[split]) for split in SPLITS)
        findings += check_shared(*(sets[split] for split in SPLITS))
        findings += check_leaks(train, test)
        pairs = near_pairs(train, test)
        paths = [(frame.path, other.path) for frame, other in pairs]
        findings += near_leaks(pairs, in_parallel(detail_likeness, paths, workers, "leaks", "pair"))
    return Check(sets, statistics, by_severity(findings))


def index_splits(name: str, root: str | Path, options: dict[str, Any]) -> tuple[dict, list[Finding]]:
    """The splits that can be indexed, and what their reader refuses.

    What is refused for truth that cannot be true is indexed without it.
    """
    sets: dict[str, SequenceSet] = {}
    findings = []
    can_drop = DROP in DATASETS.entry(name).options and DROP not in options
    for split in SPLITS:
        for more in ({}, {DROP: "drop"}) if can_drop else ({},):
            with collected_refusals() as refusals:
                try:
                    data = create_dataset(name, root, split, **options, **more)
                except UserError as error:
                    refusals.append(Refusal("", str(error)))
                    data = ()
            findings += [Finding("refused", split, refusal.sequence, refusal.text) for refusal in refusals]
            if len(data):
                sets[split] = data
                break
    if not sets:
        raise UserError(findings[0].text)
    if len(sets) == 2 and len({frozenset(p for s in data for p in s.images) for data in sets.values()}) == 1:
        del sets["train"]  # both splits are all sequences; a note of the reader says so
    return sets, findings


Frames = dict[str, list[Frame]]  # of each sequence, by its name


def read_frames(sets: dict[str, SequenceSet], workers: int) -> dict[str, Frames]:
    """Read all frames of each split with their truth."""
    every = [
        (data, sequence, index)
        for data in sets.values()
        for sequence in data
        for index in range(len(sequence))
    ]
    tasks = [task_of(sequence, index) for _, sequence, index in every]
    frames: dict[str, Frames] = {split: {} for split in sets}
    records = in_parallel(read_record, tasks, workers, next(iter(sets.values())).name)
    for (data, sequence, index), record in zip(every, records, strict=True):
        of_sequence = frames[data.split].setdefault(sequence.name, [])
        of_sequence.append(Frame(data, sequence, index, record))
    return frames


def task_of(sequence: Sequence, index: int) -> Task:
    kinds = ("masks", "centroids", "boxes", "points")
    truth = (values and values[index] for values in (getattr(sequence, kind) for kind in kinds))
    return Task(sequence.images[index], *truth, rule=sequence.mask_rule)


def flat(frames: Frames) -> list[Frame]:
    return [frame for found in frames.values() for frame in found]
