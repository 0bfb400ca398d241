"""What was published of a data set, by the shipped lists, and how the set on the disk differs from it."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from dataset.layout import SHIPPED_LISTS, read_names
from dataset.sequence import Published, SequenceSet

AS_PUBLISHED = "published"


def read_published(shipped: str, frames: int | None = None, targets: int | None = None) -> Published:
    """What the list `shipped` in dataset/splits says.

    frames:  of every sequence, for a list that has no column of them; None: unknown
    targets: of the whole split, where it is known
    """
    path = SHIPPED_LISTS / shipped
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return Published({row["sequence"]: int(row["frames"]) for row in csv.DictReader(file)}, targets)
    return Published(dict.fromkeys(read_names(path), frames), targets)


@dataclass(frozen=True)
class Difference:
    """What is not as published, of one sequence or of the whole split (then `sequence` is empty)."""

    sequence: str
    text: str


def differences(data: SequenceSet, targets: int | None = None) -> Iterator[Difference]:
    """Yields what is missing, extra or of another length; nothing where no list is known.

    Targets are compared where sequences and frames agree.
    targets: how many the split has, where that was counted; of a set with boxes they are counted here
    """
    if data.published is None:
        return
    known = {name.casefold(): (name, frames) for name, frames in data.published.frames.items()}
    found = {sequence.name.casefold(): sequence for sequence in data}
    as_listed = True
    for key, (name, frames) in known.items():
        if key not in found:
            yield Difference(name, f"the published sequence {name} is missing")
        elif frames is not None and len(found[key]) != frames:
            yield Difference(found[key].name, f"{name} has {len(found[key])} frames, published are {frames}")
        else:
            continue
        as_listed = False
    for key, sequence in found.items():
        if key not in known:
            as_listed = False
            yield Difference(sequence.name, f"the sequence {sequence.name} is not in the published list")
    count, wanted = count_boxes(data) if targets is None else targets, data.published.targets
    if as_listed and None not in (count, wanted) and count != wanted:
        yield Difference("", f"the split has {count} targets, published are {wanted}")


def count_boxes(data: SequenceSet) -> int | None:
    """How many boxes the split has; None where its truth is of another kind."""
    if not all(sequence.boxes is not None for sequence in data):
        return None
    return sum(len(boxes.reshape(-1, 4)) for sequence in data for boxes in sequence.boxes)


def standing(data: SequenceSet) -> str:
    """Whether figures on this data may stand beside published ones: "published", or "other data: ...".

    It is other data when it is not the test split, when its masks are read by another rule than the published
    one, when no list of it is known, and when sequences, frames or boxes are not those of the published list.
    """
    if data.split != "test":
        return f"other data: the {data.split} split"
    if threshold := data.options.get("mask_threshold"):  # above 0 is the published rule
        return f"other data: pixels of masks above {threshold:g} are targets"
    if data.published is None:
        return "other data: no published list to compare it with"
    if not any(differences(data)):
        return AS_PUBLISHED
    frames = data.published.frames
    listed = {name.casefold(): count for name, count in frames.items()}
    kept = [sequence for sequence in data if sequence.name.casefold() in listed]
    parts = [f"{len(kept)} of {len(frames)} sequences"]
    if len(kept) < len(data):
        parts.append(f"{len(data) - len(kept)} others")
    if None not in frames.values():
        parts.append(f"{sum(map(len, kept))} of {sum(frames.values())} frames")
    if data.published.targets is not None and (boxes := count_boxes(data)) is not None:
        parts.append(f"{boxes} of {data.published.targets} boxes")
    return f"other data: {', '.join(parts)}"
