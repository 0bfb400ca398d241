"""Damage to one data set: what became of its files, and what may be made of them.

Each function takes the random numbers of its case, a layout and its scene, and returns a `Mutated`, or None
where the layout has nothing of the kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.faults.sets import Files, Layout, Scene

REFUSED, SAME, EITHER = "must be refused", "must be accepted", "may be refused or accepted"


@dataclass(frozen=True)
class Mutated:
    """A damaged data set.

    expects: REFUSED, SAME or EITHER
    equals:  data sets in order: what is accepted must give what one of these gives; none: the original
    named:   a refusal has to name one of these
    flags:   with which the damaged data set is read
    """

    about: str
    files: Files
    expects: str
    named: tuple[str, ...] = ()
    equals: tuple[Files, ...] = ()
    flags: tuple[str, ...] = ()


Mutation = Callable[[np.random.Generator, Layout, Scene], Mutated | None]


@dataclass(frozen=True)
class Chosen:
    """A file of a data set: its path, and the sequence, place and kind of what is in it."""

    path: str
    sequence: str
    place: int
    kind: str

    @property
    def named(self) -> tuple[str, ...]:
        return Path(self.path).name, self.sequence


def choose(draw: np.random.Generator, layout: Layout, scene: Scene, *kinds: str) -> Chosen | None:
    """A file of one of the kinds that the layout has."""
    kinds = [kind for kind in kinds if getattr(layout, kind)]
    if not kinds:
        return None
    kind, sequence = str(draw.choice(kinds)), str(draw.choice(list(scene)))
    place = int(draw.integers(len(scene[sequence].numbers)))
    paths = layout.paths(kind, sequence, scene[sequence].numbers[place])
    return Chosen(str(draw.choice(paths)), sequence, place, kind)


def changed(files: Files, path: str, content: object, new_path: str = "") -> Files:
    """The files with other content in one of them, under another path if one is given."""
    return {**{key: value for key, value in files.items() if key != path}, new_path or path: content}


def without(files: Files, *paths: str) -> Files:
    return {key: value for key, value in files.items() if key not in paths}


# ---------------------------------------------------------------- bytes


def flipped(draw: np.random.Generator, content: bytes, bits: int) -> bytes:
    data = bytearray(content)
    for _ in range(bits):
        data[draw.integers(len(data))] ^= 1 << int(draw.integers(8))
    return bytes(data)


def damaged(draw: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """What happens to files: bits flip, ends and parts are lost, bytes are put in."""
    how = str(
        draw.choice(["one bit flipped", "five bits flipped", "cut", "a byte lost", "bytes put in", "zeros"])
    )
    at, size = int(draw.integers(len(content))), int(draw.integers(1, 20))
    return how, {
        "one bit flipped": lambda: flipped(draw, content, 1),
        "five bits flipped": lambda: flipped(draw, content, 5),
        "cut": lambda: content[:at],
        "a byte lost": lambda: content[:at] + content[at + 1 :],
        "bytes put in": lambda: content[:at] + draw.bytes(size) + content[at:],
        "zeros": lambda: content[:at] + bytes(len(content[at : at + size])) + content[at + size :],
    }[how]()
