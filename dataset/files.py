"""The files of a folder as paths, of which a million take little memory."""

import os
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload


class Files(Sequence[Path]):
    """Paths of files in one folder, in order, like a tuple of them; each is made when it is asked for.

    A path object takes hundreds of bytes. Here the names are one text with a place for each.

    names: of the files, without "/"
    """

    __slots__ = ("_ends", "_text", "folder")

    def __init__(self, folder: Path, names: Iterable[str]):
        names = tuple(names)
        self.folder, self._text = folder, "/".join(names)
        self._ends = array("L", accumulate(len(name) + 1 for name in names))

    @property
    def names(self) -> list[str]:
        """The names of the files."""
        return self._text.split("/") if self._ends else []

    def named_as(self, other: "Files") -> "Files":
        """These paths, sharing the memory of the names with others of the same names."""
        if self._text == other._text:
            self._text, self._ends = other._text, other._ends
        return self

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Path, ...]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self[place] for place in range(len(self))[index])
        place = range(len(self))[index]
        begin = self._ends[place - 1] if place else 0
        return self.folder / self._text[begin : self._ends[place] - 1]

    def __len__(self) -> int:
        return len(self._ends)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Files):
            return len(self) == len(other) and self._text == other._text and self.folder == other.folder
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Iterable[Path]) -> tuple[Path, ...]:
        return (*self, *other)

    def __repr__(self) -> str:
        return f"Files({self.folder}, {len(self)} names)"


def names_of(paths: Iterable[Path]) -> list[str]:
    """The name of each file."""
    return paths.names if isinstance(paths, Files) else [path.name for path in paths]


def stems_of(paths: Iterable[Path]) -> list[str]:
    """The name of each file without its suffix."""
    return [os.path.splitext(name)[0] for name in names_of(paths)]


def folders_of(paths: Iterable[Path]) -> set[Path]:
    """The folders in which files lie."""
    return {paths.folder} if isinstance(paths, Files) else {path.parent for path in paths}
