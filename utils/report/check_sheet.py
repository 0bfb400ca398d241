"""A contact sheet of what a check of a data set found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.files import write_atomically
from utils.report.drawing import APART, GAP, INK, LINE, PAPER, TOUCHING

SIDE = 280  # of a panel, pixels
COLUMNS = 2
DIM = (150, 150, 150)
CLOSE_UP = 32  # frame pixels of a magnified panel
RADIUS = 9  # of a circle, pixels of the sheet


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture: gray values [H, W] or None, what stands below, places (row, column) to circle."""

    pixels: np.ndarray | None
    caption: str
    marks: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, eq=False)
class Pair:
    """What was found, of one frame: its picture, and one beside it where there is another to compare with."""

    title: str
    is_severe: bool
    left: Panel
    right: Panel | None = None


def write_sheet(pairs: Sequence[Pair], path: Path, title: str) -> None:
    """Write the pairs, two in a row, as one PNG. Gray values are stretched to each picture's own range."""
    width, height = 2 * SIDE + GAP, SIDE + 2 * LINE
    columns, rows = min(COLUMNS, len(pairs)), -(-len(pairs) // COLUMNS)
    size = (columns * (width + 2 * GAP) + GAP, LINE + rows * (height + 2 * GAP) + GAP)
    canvas = Image.new("RGB", size, PAPER)
    write(canvas, (GAP, 3), title, INK, size[0] - GAP, 15)
    for place, pair in enumerate(pairs):
        row, column = divmod(place, columns)
        left, top = GAP + column * (width + 2 * GAP), LINE + GAP + row * (height + 2 * GAP)
        write(canvas, (left, top), pair.title, APART if pair.is_severe else TOUCHING, width, 14)
        right = pair.right or close_up(pair.left)
        for panel, start in ((pair.left, left), (right, left + SIDE + GAP)):
            if panel is not None:
                canvas.paste(Image.fromarray(draw(panel)), (start, top + LINE))
                write(canvas, (start, top + LINE + SIDE + 2), panel.caption, DIM, SIDE, 12)
    _, png = cv2.imencode(".png", cv2.cvtColor(np.asarray(canvas), cv2.COLOR_RGB2BGR))
    write_atomically(path, png.tobytes())


def close_up(panel: Panel) -> Panel | None:
    """The surroundings of the first circle, or nothing where there is none."""
    if panel.pixels is None or not panel.marks:
        return None
    height, width = panel.pixels.shape
    row, column = (int(np.clip(value, -1e6, 1e6)) for value in panel.marks[0])
    top = max(0, min(row - CLOSE_UP // 2, height - CLOSE_UP))
    left = max(0, min(column - CLOSE_UP // 2, width - CLOSE_UP))
    inside = panel.pixels[top : top + CLOSE_UP, left : left + CLOSE_UP]
    marks = [(row - top, column - left) for row, column in panel.marks]
    return Panel(inside, f"magnified at row {row}, column {column}", marks)


def draw(panel: Panel) -> np.ndarray:
    """The panel, RGB [SIDE, SIDE, 3]."""
    picture = np.full((SIDE, SIDE, 3), 40, np.uint8)
    if panel.pixels is None:
        canvas = Image.fromarray(picture)
        write(canvas, (SIDE // 2 - 45, SIDE // 2 - 8), "cannot be read", APART, SIDE, 14)
        return np.asarray(canvas)
    height, width = panel.pixels.shape
    scale = SIDE / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    gray = cv2.resize(stretched(panel.pixels), shape, interpolation=method)
    top, left = (SIDE - shape[1]) // 2, (SIDE - shape[0]) // 2
    picture[top : top + shape[1], left : left + shape[0]] = gray[..., None]
    for row, column in panel.marks:
        if np.isfinite([row, column]).all() and max(abs(row), abs(column)) < 1e4:
            centre = round(left + (column + 0.5) * scale), round(top + (row + 0.5) * scale)
            cv2.circle(picture, centre, max(RADIUS, round(2 * scale)), APART, 1, cv2.LINE_AA)
    return picture


def stretched(pixels: np.ndarray) -> np.ndarray:
    """uint8, from the darkest pixel to the brightest."""
    low, high = float(pixels.min()), float(pixels.max())
    return np.uint8((pixels - low) * (255 / (high - low))) if high > low else np.uint8(pixels.clip(0, 255))


def write(
    canvas: Image.Image,
    place: tuple[int, int],
    text: str,
    colour: tuple[int, int, int],
    width: int,
    size: int,
) -> None:
    """Write a line; of what is too long the beginning is left out."""
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size)
    shown = text
    while pen.textlength(shown, font) > width and len(text) > 1:
        text = text[1:]
        shown = f"...{text}"
    pen.text(place, shown, colour, font)
