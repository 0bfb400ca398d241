"""What names, counts and annotated places tell without a pixel. train.py and test.py warn of it."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Items

import numpy as np

from dataset.check.findings import Finding
from dataset.files import folders_of, stems_of
from dataset.published import differences
from dataset.sequence import Sequence, SequenceSet
from dataset.truth import is_box_in_frame, is_point_in_frame

NUMBERED = re.compile(r"(.*?)(\d+)")  # the names of frames that count


def check_names(data: SequenceSet, targets: int | None = None) -> Iterator[Finding]:
    """Yields what differs from the published lists, and gaps in the numbers of frames.

    targets: how many the split has, where that was counted
    """
    for difference in differences(data, targets):
        yield Finding("unlike published", data.split, difference.sequence, difference.text)
    for sequence in data:
        yield from check_gaps(data, sequence)


def check_annotations(data: SequenceSet) -> Iterator[Finding]:
    """Yields sequences without boxes or points, and those of these that no frame of any size could have."""
    for sequence in data:
        annotated = sequence.boxes if sequence.boxes is not None else sequence.points
        if annotated is not None:
            if not any(map(len, annotated)):
                yield without_targets(data, sequence)
            for index in range(len(sequence)):
                yield from check_places(data, sequence, index)


def check_shared(train: SequenceSet, test: SequenceSet) -> Iterator[Finding]:
    """Yields the sequences of the test split that share files with the training split."""
    tested = {folder for sequence in test for folder in folders_of(sequence.images)}
    beside = [sequence for sequence in train if not tested.isdisjoint(folders_of(sequence.images))]
    trained = {path for sequence in beside for path in sequence.images}
    for sequence in test:
        shared = [path for path in sequence.images if path in trained]
        if shared:
            text = f"{sequence.name} has {len(shared)} frames that the training split lists too"
            yield Finding("shared sequence", "test", sequence.name, f"{text}, such as {shared[0]}", shared[0])


# ---------------------------------------------------------------- numbers


def frame_numbers(sequence: Sequence) -> list[int] | None:
    """The numbers at the end of the frames' names, or None where these are not one text and a number each."""
    found = [NUMBERED.fullmatch(stem) for stem in stems_of(sequence.images)]
    if not all(found) or len({match[1] for match in found}) != 1:
        return None
    return [int(match[2]) for match in found]


def usual_step(numbers: Items[int]) -> int:
    """The most common difference between neighbours; 0 where less than half of them have it."""
    if len(numbers) < 2:
        return 0
    step, count = Counter(np.diff(numbers).tolist()).most_common(1)[0]
    return step if step > 0 and 2 * count >= len(numbers) - 1 else 0


def check_gaps(data: SequenceSet, sequence: Sequence) -> Iterator[Finding]:
    """Yields where numbers are left out, such as 12 after 10 in a sequence that counts by one."""
    numbers = frame_numbers(sequence)
    step = usual_step(numbers) if numbers else 0
    if not step:
        return
    listed = data.published.frames if data.published else {}
    kind = "gap as published" if listed.get(sequence.name) == len(sequence) else "gap"
    for place, (before, number) in enumerate(zip(numbers, numbers[1:], strict=False), start=1):
        if number - before > step:
            left_out = (number - before - 1) // step
            text = f"after frame {before} comes {number}: {left_out} left out before {sequence.images[place]}"
            beside = sequence.images[place - 1 : place + 1]
            yield Finding(kind, data.split, sequence.name, text, *beside[::-1])


# ---------------------------------------------------------------- annotated places


def without_targets(data: SequenceSet, sequence: Sequence) -> Finding:
    """For a sequence in which nothing is annotated."""
    text = f"none of the {len(sequence)} frames of {sequence.name} has a target"
    return Finding("without targets", data.split, sequence.name, text, sequence.images[0])


def check_places(
    data: SequenceSet, sequence: Sequence, index: int, size: tuple[int, int] | None = None
) -> Iterator[Finding]:
    """Yields boxes and points of one frame that cannot be true.

    size: (height, width) of the frame; None: only what is impossible in a frame of any size
    """
    height, width = size or (np.inf, np.inf)
    path = sequence.images[index]

    def finding(kind: str, text: str, row: float, column: float) -> Finding:
        marks = ((row, column),) if np.isfinite([row, column]).all() else ()
        return Finding(kind, data.split, sequence.name, text, path, marks=marks)

    if sequence.boxes is not None:
        for x1, y1, x2, y2 in sequence.boxes[index].reshape(-1, 4).tolist():
            middle = (y1 + y2 - 1) / 2, (x1 + x2 - 1) / 2
            shown = f"the box {x1:g},{y1:g},{x2:g},{y2:g} of {path}"
            if not (x2 > x1 and y2 > y1):  # nan as well
                yield finding("no area", f"{shown} has no area", *middle)
            elif not is_box_in_frame((x1, y1, x2, y2), (height, width)):
                yield finding("outside", f"{shown} lies outside", *middle)
            elif x1 < 0 or y1 < 0 or x2 > width or y2 > height:
                yield finding("box at border", f"{shown} reaches over the border", *middle)
    elif sequence.points is not None:
        for row, column in sequence.points[index].reshape(-1, 2).tolist():
            if not is_point_in_frame((row, column), (height, width)):
                text = f"the point {row:g},{column:g} (row, column) of {path} lies outside"
                yield finding("outside", text, row, column)


# ---------------------------------------------------------------- the same data again


def fingerprint(data: SequenceSet) -> str:
    """Changes with the names, sizes and times of all files of the split, and with its boxes and points."""
    digest = hashlib.sha256(data.name.encode())
    for sequence in data:
        digest.update(f"\n{sequence.name} {len(sequence)}".encode())
        for kind in ("images", "masks", "centroids"):
            for path in getattr(sequence, kind) or ():
                try:
                    stat = path.stat()
                except OSError:
                    continue  # a check finds it; here it counts as changed
                digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        for kind in ("points", "boxes"):
            for places in getattr(sequence, kind) or ():
                digest.update(np.ascontiguousarray(places, np.float64).tobytes() + b"\n")
    return digest.hexdigest()
