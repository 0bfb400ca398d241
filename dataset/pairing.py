"""Frames and their files of truth are matched by name, never by place.

The published layouts name a frame and its mask alike, but for the suffix (`0.jpg` and `0.png` in MWIRSTD). A
reader of one that does not must say by which function of the names they belong together.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dataset.files import Files, stems_of
from utils.errors import UserError


def frame_name(path: Path) -> str:
    """What files of one frame have in common: the stem, without zeros before numbers.

    "images/0007.bmp" and "masks/7.png" belong together.
    """
    return re.sub(r"(?<!\d)0+(?=\d)", "", path.stem)


def few(names: Iterable[str], shown: int = 3) -> str:
    """The first of some names: "3.png, 5.png, 7.png and 9 more"."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def pair(frames: Sequence[Path], others: Sequence[Path], content: str = "mask") -> Sequence[Path]:
    """For every frame the file of its name: of its stem, else of its `frame_name` where that is clear.

    Raises UserError naming the first files on both sides that have no partner.
    """
    wanted, found = stems_of(frames), stems_of(others)
    if wanted == found and len(set(wanted)) == len(wanted):
        of_folders = isinstance(frames, Files) and isinstance(others, Files)
        return others.named_as(frames) if of_folders else others
    for name_of in (lambda path: path.stem, frame_name):
        wanted, named = [name_of(frame) for frame in frames], {name_of(path): path for path in others}
        if named.keys() == set(wanted) and len(wanted) == len(named) == len(others):
            return tuple(named[name] for name in wanted)
    lone = lone_files(frames, others, frame_name) or lone_files(frames, others, lambda path: path.stem)
    lacks = [lacking(lone[0], "frame", content)] if lone[0] else []
    lacks += [lacking(lone[1], content, "frame")] if lone[1] else []
    raise UserError(f"{', '.join(lacks)}; name them alike, add what is missing or take away what is too much")


def lone_files(
    frames: Iterable[Path], others: Iterable[Path], name_of: Callable[[Path], str]
) -> tuple[list[Path], list[Path]] | None:
    """Those of each side whose names the other one has not; None where all have a partner."""
    names = [{name_of(path) for path in paths} for paths in (frames, others)]
    lone = [path for path in frames if name_of(path) not in names[1]]
    strays = [path for path in others if name_of(path) not in names[0]]
    return (lone, strays) if lone or strays else None


def lacking(paths: list[Path], content: str, partner: str) -> str:
    if len(paths) == 1:
        return f"the {content} {paths[0]} has no {partner} of its name"
    names = few(path.name for path in paths)
    return f"{len(paths)} {content}s in {paths[0].parent} have no {partner} of their name ({names})"
