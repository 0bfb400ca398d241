"""What the pixels of a sequence's frames and masks tell."""

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from typing import Any

import numpy as np

from dataset.check.copies import Frame
from dataset.check.findings import Finding
from dataset.check.names import check_places, frame_numbers, usual_step, without_targets
from dataset.check.tracks import distances, misplaced
from dataset.sequence import Sequence, SequenceSet

TRUTH = ("masks", "points", "boxes")
FLOODED = 0.1  # share of the frame that targets of this field never cover
ORIGIN = 1.0  # by so much the SNR must rise when points are moved by a pixel
CENTROID = 3.0  # pixels from a marked centroid to a target's centroid
MEAN_OFF, STD_OFF = 0.5, 1.5  # standard deviations, and the factor, beyond which constants do not fit


def check_pixels(data: SequenceSet, sequence: Sequence, frames: Items[Frame]) -> Iterator[Finding]:
    """Yields what is found of one sequence, from the records of its frames in order."""
    for check in (check_files, check_frames, check_masks, check_tracks, check_origin):
        for kind, frame, text, *rest in check(sequence, frames):
            file, marks = (*rest, (), ())[:2]
            yield Finding(kind, data.split, sequence.name, text, frame.path, file or None, tuple(marks))
    for frame in frames:
        yield from check_places(data, sequence, frame.index, frame.record.size)
    if sequence.has(TRUTH) and not any(has_targets(frame) for frame in frames):
        yield without_targets(data, sequence)


# Each of these yields (kind, frame, text, other file, marks), of which the last two may be left out.
Found = Iterator[tuple]


def check_files(_sequence: Sequence, frames: Items[Frame]) -> Found:
    """Files that cannot be read."""
    for frame in frames:
        for text in frame.record.errors.values():
            yield "unreadable", frame, text


def check_frames(_sequence: Sequence, frames: Items[Frame]) -> Found:
    """Sizes, depth, colour, and frames that show nothing."""
    read = [frame for frame in frames if frame.record.size]
    for frame, size, usual in unlike_most(read, lambda frame: frame.record.size):
        text = f"{frame.path} is {size[1]}x{size[0]}, most frames of its sequence are {usual[1]}x{usual[0]}"
        yield "size", frame, text
    for frame, depth, usual in unlike_most(read, lambda frame: frame.record.depth):
        text = f"{frame.path} has {depth} bits, most frames of its sequence have {usual}"
        yield "depth", frame, text
    for frame in read:
        if frame.record.is_constant:
            text = f"all pixels of {frame.path} have the gray value {frame.record.lowest:.4g}"
            yield "constant frame", frame, text
        if frame.record.coloured:
            yield "colour", frame, f"{frame.path} is coloured"


def unlike_most(frames: Items[Frame], value: Callable[[Frame], Any]) -> Iterator[tuple[Frame, Any, Any]]:
    """Yields (frame, its value, the usual value) of the frames that differ from most."""
    if frames:
        usual = Counter(map(value, frames)).most_common(1)[0][0]
        yield from ((frame, value(frame), usual) for frame in frames if value(frame) != usual)


def check_masks(sequence: Sequence, frames: Items[Frame]) -> Found:
    """What masks are, by themselves, beside their frame and beside their centroid map."""
    for frame in frames:
        mask, record = frame.record.mask, frame.record
        if mask is None:
            continue
        path = sequence.masks[frame.index]
        if mask.refused:
            yield "no mask", frame, mask.refused, path, frame.marks
        elif mask.covered > FLOODED:
            text = f"{path} marks {mask.covered:.0%} of the frame as targets"
            yield "flooded mask", frame, text, path
        elif record.size and mask.size != record.size:
            sizes = (f"{width}x{height}" for height, width in (mask.size, record.size))
            yield "size", frame, "{} is {}, its frame is {}".format(path, *sizes), path
        elif record.marked is not None and (lost := unmatched(record.marked, record.targets.centres)):
            marked = sequence.centroids[frame.index]
            places = " and ".join(f"{row:.0f},{column:.0f}" for row, column in lost[:2])
            text = f"{marked} and {path} have no common target at {places} (row,column)"
            yield "centroid map", frame, text, path, lost
        if mask.values > 2 and not mask.refused:
            yield "gray mask", frame, f"{path} has {mask.values} gray values", path, frame.marks


def unmatched(ones: np.ndarray, others: np.ndarray) -> list[tuple[float, float]]:
    """The places of either that are not near one of the other."""
    if not (len(ones) and len(others)):
        return list(map(tuple, [*ones.tolist(), *others.tolist()]))
    far = [*ones[distances(ones, others) > CENTROID], *others[distances(others, ones) > CENTROID]]
    return [tuple(place.tolist()) for place in far]


def check_tracks(sequence: Sequence, frames: Items[Frame]) -> Found:
    """Truth that lies far from that of the frames beside it."""
    centres = [targets.centres if (targets := frame.record.targets) else np.zeros((0, 2)) for frame in frames]
    numbers = frame_numbers(sequence)
    step = usual_step(numbers) if numbers else 0
    if not step:  # names that do not count: then by position
        numbers, step = range(len(sequence)), 1
    numbers = [numbers[frame.index] for frame in frames]
    for place, other in misplaced(centres, numbers, step):
        frame = frames[place]
        path = frame.path if sequence.masks is None else sequence.masks[frame.index]
        text = f"the targets of {path} are not where those of the frames before and after are"
        if other is not None:
            source = frames[other]
            swapped = source.path if sequence.masks is None else sequence.masks[source.index]
            text += f", and would fit if it were exchanged with {swapped.name}"
        yield "misplaced truth", frame, text, path if sequence.masks else None, frame.marks


def check_origin(_sequence: Sequence, frames: Items[Frame]) -> Found:
    """Points that mark the pixel to the lower right of their targets, as numbers from 1 read as from 0 do."""
    known = [targets for frame in frames if (targets := frame.record.targets) and len(targets.centres)]
    if not known or any(targets.snr_before is None for targets in known):
        return
    here = np.concatenate([targets.snr for targets in known])
    before = np.concatenate([targets.snr_before for targets in known])
    if not np.isfinite(here * before).any():
        return
    here, before = np.nanmedian(here), np.nanmedian(before)
    if before - here > ORIGIN and before > 2 * here:
        first = next(frame for frame in frames if has_targets(frame))
        text = (
            f"the points of {first.sequence.name} have a median SNR of {here:.1f}, the pixels above and left "
            f"of them {before:.1f}, from {first.path} on"
        )
        yield "origin", first, text, None, first.marks


def has_targets(frame: Frame) -> bool:
    return frame.record.targets is not None and len(frame.record.targets.centres) > 0


def check_gray_values(data: SequenceSet, mean: float | None, std: float | None) -> Iterator[Finding]:
    """Compare the gray values of a split with the constants of its data set."""
    if data.mean is None or mean is None:
        return
    if abs(mean - data.mean) > MEAN_OFF * data.std or not 1 / STD_OFF < std / data.std < STD_OFF:
        text = (
            f"mean and standard deviation of the {data.split} split are {mean:.1f} and {std:.1f}, "
            f"the constants of {data.name} are {data.mean:.1f} and {data.std:.1f}"
        )
        yield Finding("gray values", data.split, "", text)
