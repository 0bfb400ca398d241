"""The figures of a split that the page shows: sizes, gray values, targets."""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from typing import Any

import numpy as np

from dataset.check.copies import Frame
from dataset.check.tracks import steps
from dataset.sequence import Sequence, SequenceSet

QUANTILES = {"least": 0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1}
SATURATED = 255.0


def split_statistics(data: SequenceSet, of_sequence: Mapping[str, Items[Frame]]) -> dict[str, Any]:
    """What was read of a split, with its constants and with what was published of it.

    of_sequence: the frames of each sequence, by its name
    """
    frames = [frame for found in of_sequence.values() for frame in found]
    read = [frame.record for frame in frames if frame.record.size]
    mean, std = pooled([(r.mean, r.std, r.size[0] * r.size[1]) for r in read])
    published = data.published
    listed = published.frames if published else {}
    return {
        "sequences": len(data),
        "frames": sum(map(len, data)),
        "published": published
        and {
            "sequences": len(listed),
            "frames": None if None in listed.values() else sum(listed.values()),
            "targets": published.targets,
        },
        "sizes": counted(f"{r.size[1]}x{r.size[0]}" for r in read),
        "depths": counted(f"{r.depth} bit" for r in read),
        "mean": mean,
        "std": std,
        "constants": [data.mean, data.std],
        "lowest": min((r.lowest for r in read), default=None),
        "highest": max((r.highest for r in read), default=None),
        **target_statistics(frames),
        "step": quantiles(
            np.concatenate([np.zeros(0), *(steps(centres_of(found)) for found in of_sequence.values())])
        ),
        "subsets": {
            label: target_statistics([f for name in names for f in of_sequence[name]])["snr"]
            for label, names in data.subsets.items()
        },
        "each": [
            sequence_statistics(sequence, of_sequence[sequence.name], listed.get(sequence.name))
            for sequence in data
        ],
    }


def sequence_statistics(sequence: Sequence, frames: Items[Frame], published: int | None) -> dict[str, Any]:
    """The same of one sequence, in short."""
    read = [frame.record for frame in frames if frame.record.size]
    mean, std = pooled([(r.mean, r.std, r.size[0] * r.size[1]) for r in read])
    found = target_statistics(frames)
    return {
        "name": sequence.name,
        "frames": len(sequence),
        "published frames": published,
        "sizes": counted(f"{r.size[1]}x{r.size[0]}" for r in read),
        "mean": mean,
        "std": std,
        **found,
        "step": quantiles(steps(centres_of(frames))),
    }


def target_statistics(frames: Items[Frame]) -> dict[str, Any]:
    """How many targets there are, how large and how bright; None where there is no truth."""
    known = [frame.record.targets for frame in frames if frame.record.targets is not None]
    marked = [len(frame.record.marked) for frame in frames if frame.record.marked is not None]
    if not known:
        return dict.fromkeys(("targets", "marked", "without targets", "per frame", "area", "snr"))
    return {
        "targets": sum(len(targets.centres) for targets in known),
        "marked": sum(marked) if marked else None,
        "without targets": sum(not len(targets.centres) for targets in known),
        "per frame": counted(len(targets.centres) for targets in known),
        "area": quantiles(np.concatenate([targets.area for targets in known])),
        "snr": quantiles(np.concatenate([targets.snr for targets in known])),
    }


def centres_of(frames: Iterable[Frame]) -> list[np.ndarray]:
    known = [frame.record.targets for frame in frames]
    return [np.zeros((0, 2)) if targets is None else targets.centres for targets in known]


def pooled(parts: Items[tuple[float, float, int]]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of all pixels, from (mean, std, pixels) of each frame."""
    if not parts:
        return None, None
    means, stds, weights = np.array(parts, np.float64).T
    mean = np.average(means, weights=weights)
    variance = np.average(stds**2 + (means - mean) ** 2, weights=weights)
    return float(mean), float(np.sqrt(variance))


def counted(values: Iterable[Any]) -> dict[str, int]:
    """How often each value comes, the most common ones first."""
    return {str(value): count for value, count in Counter(values).most_common()}


def quantiles(values: np.ndarray) -> dict[str, float] | None:
    """Least, median, most and the 5 % and 95 % quantiles of the numbers among some values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())).tolist(), strict=True))
