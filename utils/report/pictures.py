"""Contact sheets: a few frames of a sequence with what was there and what was found drawn on them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.boxes import Prediction
from utils.engine.score import lack_of
from utils.files import write_atomically
from utils.grid import EXACT
from utils.report.drawing import (
    APART,
    DETECTION,
    GAP,
    INK,
    LINE,
    PAPER,
    TOUCHING,
    TRACK,
    TRUTH,
    Colour,
    SortedDetections,
    draw,
    draw_boxes,
    draw_traces,
    is_map,
    sort_detections,
    widened,
    write_line,
)
from utils.report.traces import Trace

ZOOM, ZOOM_SCALE = 19, 8  # an inset shows 19x19 frame pixels, each as up to 8x8
TILE_WIDTH, TILE_HEIGHT = 480, 1200  # about; at most. Frames are enlarged by whole numbers only
SHEET_FRAMES = 6
DRAWN = {"maps": "map", "boxes": "boxes"}  # what is drawn of a prediction, by its kind


@dataclass(frozen=True, eq=False)
class Tile:
    """One frame of a contact sheet.

    number:  what the caption calls it, with the name if it has one
    image:   gray values [H, W]
    found:   probabilities [H, W] in 0..1, or boxes [N, 5] of x1, y1, x2, y2 and score
    truth:   row and column of each target [N, 2], or a mask [H, W] with targets above 0; None: unknown
    caption: what a rule for targets counted in the frame; without it the caption counts the detections
    traces:  the tracks that are there
    """

    number: int | str
    image: np.ndarray
    found: np.ndarray
    truth: np.ndarray | None
    caption: str = ""
    traces: Sequence[Trace] = ()

    @property
    def highest(self) -> float | None:
        """The largest probability or score; None where there is no box."""
        values = self.found if is_map(self.found, self.image.shape) else self.found[:, 4]
        return values.max() if values.size else None

    @property
    def peak(self) -> tuple[int, int] | None:
        """Row and column of it."""
        if is_map(self.found, self.image.shape):
            return np.unravel_index(self.found.argmax(), self.image.shape)
        if not len(self.found):
            return None
        x1, y1, x2, y2, _ = self.found[self.found[:, 4].argmax()]
        return int((y1 + y2) / 2), int((x1 + x2) / 2)


def tile_of(video, index: int, prediction: Prediction, truth: dict, caption: str = "") -> Tile:
    """What there is to draw of a frame that `utils.engine.score.evaluate` has come to."""
    image = video.originals.images(index, index + 1)[0]
    marks = truth["mask"] if truth["mask"] is not None else truth["centroid_map"]
    found = getattr(prediction, DRAWN[prediction.kind])
    return Tile(index + 1, image, found, marks, caption)


class SheetWriter:
    """An on_frame that writes <folder>/<sequence>.png, a contact sheet of a few evenly spaced frames.

    Captions count each frame by the rule for targets of the first of the `lines` that can score it.
    """

    def __init__(self, folder: Path, model: str, lines: Iterable[Any], threshold: float):
        self.folder, self.model, self.threshold = folder, model, threshold
        self.lines = [line for line in lines if line.rule and not line.misfit]
        self.tiles: list[Tile] = []

    def __call__(self, video, index: int, prediction: Prediction, truth: dict) -> None:
        last = len(video.frames) - 1
        if index not in np.linspace(0, last, SHEET_FRAMES).round().astype(int):
            return
        line, caption = self.caption(video, prediction, truth)
        self.tiles.append(tile_of(video, index, prediction, truth, caption))
        if index == last:
            title = f"{self.model} on {video.name}"
            if line:
                title += f", counted by {line.targets} ({line.protocol} protocol)"
            path = self.folder / f"{video.name.replace('/', '_')}.png"
            overlay_sheet(self.tiles, path, title, self.threshold)
            self.tiles = []

    def caption(self, video, prediction: Prediction, truth: dict) -> tuple[Any, str]:
        """(the first line whose rule for targets can score a frame, what it counts there); (None, "") else.

        The frame is counted in the pixels of the line.
        """
        for line in self.lines:
            rule = line.rule
            found = prediction.on(rule.grid)
            there = truth if rule.grid == EXACT else video.truth_on(rule.grid, truth, {rule.empty.truth})
            if not lack_of(rule.empty, found, there):
                metric = rule.create()
                metric.update(getattr(found, metric.takes), there[metric.truth])
                return line, metric.caption(rule.threshold)
        return None, ""


def overlay_sheet(
    tiles: Sequence[Tile], path: str | Path, title: str, threshold: float | None = 0.5, columns: int = 3
) -> None:
    """Write a contact sheet (PNG) of a few frames of one sequence, all of one size.

    Each tile is an `overlay`, enlarged to a width of about 480 pixels, with the surroundings of the first
    target (of the first track; of the strongest response) magnified in a corner, and its caption below.
    threshold: above which a probability or score counts as detected; None: all boxes do
    """
    drawn = [draw_tile(tile, threshold) for tile in tiles]
    height, width = drawn[0].shape[:2]
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    sheet = np.full((2 * LINE + rows * (height + GAP), columns * (width + GAP) + GAP, 3), PAPER, np.uint8)
    for index, picture in enumerate(drawn):
        row, column = divmod(index, columns)
        top, left = 2 * LINE + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    sheet = write_line(write_line(sheet, 0, [(title, INK)]), LINE, legend_of(tiles, threshold))
    _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    write_atomically(path, png.tobytes())


def legend_of(tiles: Sequence[Tile], threshold: float | None) -> list[tuple[str, Colour]]:
    """What the colours on some tiles say."""
    above, legend = "" if threshold is None else f"p > {threshold:g}", []
    if any(tile.truth is not None for tile in tiles):
        touching, apart = f"{above}, touches a target", f"{above}, touches none"
        legend += [("target", TRUTH), (touching, TOUCHING), (apart, APART)]
    if any(tile.truth is None for tile in tiles):
        legend.append(("detection" if threshold is None else f"detection ({above})", DETECTION))
    if any(tile.traces for tile in tiles):
        legend.append(("track", TRACK))
    return legend


def draw_tile(tile: Tile, threshold: float | None) -> np.ndarray:
    """Overlay, magnified inset and caption of one frame; RGB."""
    detections = sort_detections(
        tile.found, tile.truth, -np.inf if threshold is None else threshold, tile.image.shape
    )
    scale = tile_scale(*tile.image.shape)
    picture = draw(tile.image, detections, scale)
    area = magnified_area(tile, detections, scale)
    if area:
        first, last = (scale * np.array(area)).tolist()
        cv2.rectangle(picture, first, last, INK, 1)
    draw_traces(picture, tile.traces, scale)  # above that, so that numbers can be read
    if area:
        add_inset(picture, tile, detections, scale, area)
    caption = f"frame {tile.number}    {tile.caption or f'detections {detections.count}'}"
    if tile.highest is not None:
        caption += f"    highest p {tile.highest:.2g}"
    picture = cv2.copyMakeBorder(picture, 0, LINE, 0, 0, cv2.BORDER_CONSTANT, value=PAPER)
    return write_line(picture, len(picture) - LINE, [(caption, INK)])


def tile_scale(height: int, width: int) -> int:
    """How many pixels of a tile a pixel of a frame has, across and down."""
    return max(1, min(round(TILE_WIDTH / width), TILE_HEIGHT // height))


def zoom_of(shape: tuple[int, int], scale: int) -> int:
    """How many pixels of an inset a pixel of a frame [H, W] has."""
    return min(ZOOM_SCALE, scale * min(shape) // (2 * ZOOM))


def magnified_area(
    tile: Tile, detections: SortedDetections, scale: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """x and y of the first pixel that is magnified, and of the one after the last.

    Around the first target, else the first track, else the strongest response. None where there is none, and
    for small or narrow frames, of which an inset would magnify no more than the picture does.
    """
    middle = middle_of_interest(tile, detections)
    if zoom_of(tile.image.shape, scale) <= scale or middle is None:
        return None
    height, width = tile.image.shape
    row, col = np.rint(middle).astype(int).tolist()
    top, left = max(0, min(row - ZOOM // 2, height - ZOOM)), max(0, min(col - ZOOM // 2, width - ZOOM))
    return (left, top), (left + ZOOM, top + ZOOM)


def add_inset(
    picture: np.ndarray,
    tile: Tile,
    detections: SortedDetections,
    scale: int,
    area: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    """Put the magnified area of a tile into the corner of its picture that hides least."""
    zoom, ((left, top), (right, bottom)) = zoom_of(tile.image.shape, scale), area
    crop = np.s_[top:bottom, left:right]
    close_up = replace(
        detections,
        touching=detections.touching[crop],
        apart=detections.apart[crop],
        centres=detections.centres - (top, left),
        touching_boxes=detections.touching_boxes - (left, top, left, top),
        apart_boxes=detections.apart_boxes - (left, top, left, top),
    )
    inset = draw(tile.image[crop], close_up, zoom)
    tracked = np.reshape([trace.box for trace in tile.traces], (-1, 4)) - (left, top, left, top)
    draw_boxes(inset, widened(tracked, scale), zoom, TRACK)
    inset = cv2.copyMakeBorder(inset, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=INK)

    drawn = np.ptp(picture, axis=2) > 0  # what is not gray is a circle or an outline
    drawn[top * scale : bottom * scale, left * scale : right * scale] = True
    rows, cols = inset.shape[:2]
    corners = [np.s_[:rows, -cols:], np.s_[:rows, :cols], np.s_[-rows:, -cols:], np.s_[-rows:, :cols]]
    picture[min(corners, key=lambda corner: np.count_nonzero(drawn[corner]))] = inset


def middle_of_interest(tile: Tile, detections: SortedDetections) -> Sequence[float] | None:
    """Row and column of what an inset shows; None where there is nothing to show."""
    if len(detections.centres):
        return detections.centres[0]
    if tile.traces:
        return tile.traces[0].places[-1][::-1]
    return tile.peak
