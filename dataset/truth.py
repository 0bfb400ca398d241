"""Boxes and points that cannot be true are refused, or dropped and counted."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from dataset.io import read_size
from dataset.layout import is_image_name, scan
from utils.errors import UserError
from utils.recipe.fields import Facts

OnBadTruth = Annotated[
    str, Facts("what happens to boxes and points that cannot be true", choices=("refuse", "drop"))
]
Size = tuple[int, int]  # height, width


class TruthCheck:
    """What annotation files of one data set may say.

    A box is possible when its numbers are finite, when it ends after it begins, and when a part of it lies in
    its frame: one that reaches over the border is, and is cut there where it is used. A point is possible
    when its numbers are finite and the pixel next to it is one of the frame.

    on_bad_truth: "refuse" raises UserError for the first that is impossible, "drop" leaves them out
    size_of:      gives the size of a frame by its name, None where there is no such frame; None: no frame
                  is at hand
    origin:       number of the first row and column in the files
    """

    def __init__(
        self,
        on_bad_truth: str = "refuse",
        size_of: Callable[[str], Size | None] | None = None,
        origin: int = 0,
    ):
        self.on_bad_truth, self.origin = on_bad_truth, origin
        self.size_of = size_of or (lambda frame: None)
        self.remedy = "correct it" + ", or leave such out by --dataset_option on_bad_truth=drop" * bool(
            size_of
        )
        self._dropped: dict[Path, list[str]] = {}

    def keeps_box(self, path: Path, place: str, frame: str, box: Sequence[float]) -> bool:
        """Whether the box x1, y1, x2, y2 stays, which the file `path` has at `place` for a frame."""
        x1, y1, x2, y2 = (value - self.origin for value in box)
        size = self.size_of(frame)
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            fault = "has numbers that are none"
        elif x2 <= x1 or y2 <= y1:
            fault = "ends before it begins, or where it begins"
        elif size and not is_box_in_frame((x1, y1, x2, y2), size):
            fault = f"lies outside its {size[1]}x{size[0]} pixels"
        else:
            return True
        return self._drop(path, f"{place}: the box {numbers(box)} (x1,y1,x2,y2) of {frame} {fault}")

    def keeps_point(self, path: Path, place: str, frame: str, point: Sequence[float]) -> bool:
        """Whether the point (row, column) stays, which the file `path` has at `place` for a frame."""
        row, col = (value - self.origin for value in point)
        size = self.size_of(frame)
        if not (math.isfinite(row) and math.isfinite(col)):
            fault = "has numbers that are none"
        elif size and not is_point_in_frame((row, col), size):
            fault = f"lies outside its {size[1]}x{size[0]} pixels"
        else:
            return True
        return self._drop(path, f"{place}: the point {numbers(point)} (row,col) of {frame} {fault}")

    def check_size(self, path: Path, place: str, frame: str, stated: Size) -> None:
        """Raises UserError where a file says that a frame has another size than it has."""
        size = self.size_of(frame)
        if size and size != stated:
            raise UserError(
                f"{path}, {place}: it says that {frame} is {stated[1]:g}x{stated[0]:g}, but the frames there "
                f"are {size[1]}x{size[0]}; put those there that it was made for, or correct its size"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was dropped, a sentence for each file."""
        return tuple(
            f"dropped {len(found)} impossible target{'s' * (len(found) > 1)} in {path}, first {found[0]}"
            for path, found in self._dropped.items()
        )

    def _drop(self, path: Path, what: str) -> bool:
        if self.on_bad_truth == "refuse":
            raise UserError(f"{path}, {what}; {self.remedy}")
        self._dropped.setdefault(path, []).append(what)
        return False


def is_box_in_frame(box: Sequence[float], size: Size) -> bool:
    """Whether a part of the box x1, y1, x2, y2 lies in a frame of `size`."""
    x1, y1, x2, y2 = box
    return x1 < size[1] and x2 > 0 and y1 < size[0] and y2 > 0


def is_point_in_frame(point: Sequence[float], size: Size) -> bool:
    """Whether the pixel next to the point (row, column) is one of a frame of `size`; none is next to nan."""
    return all(
        math.isfinite(place) and 0 <= round(place) < side for place, side in zip(point, size, strict=True)
    )


def size_of_frames(folder: Path) -> Size | None:
    """The size of the frames in a folder, from the header of one; None where there are none."""
    names = [entry.name for entry in scan(folder) if is_image_name(entry.name)] if folder.is_dir() else []
    return read_size(folder / min(names)) if names else None


def numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def parse_number(text: str) -> float:
    """float(text), without the underscores that Python allows in numbers. Raises ValueError."""
    if "_" in text:
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)
