"""Pictures of frames with what was there and what was found drawn on them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.boxes import Prediction
from utils.engine.score import lack_of
from utils.files import write_atomically
from utils.grid import EXACT

TRUTH, TOUCHING, APART = (0, 230, 0), (255, 215, 0), (255, 60, 60)  # RGB
INK, PAPER = (235, 235, 235), (24, 24, 24)
CIRCLE = 6  # radius of a target's circle, in frame pixels
ZOOM, ZOOM_SCALE = 19, 8  # an inset shows 19x19 frame pixels, each as up to 8x8
TILE_WIDTH = 480  # about; frames are enlarged by whole numbers only
GAP, LINE = 8, 24  # between tiles, and of a line of text, in sheet pixels
SHEET_FRAMES = 6
DRAWN = {"maps": "map", "boxes": "boxes"}  # what is drawn of a prediction, by its kind
NEIGHBOURS = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Tile:
    """One frame of a contact sheet.

    number:  what the caption calls it
    image:   gray values [H, W]
    found:   probabilities [H, W] in 0..1, or boxes [N, 5] of x1, y1, x2, y2 and score
    truth:   row and column of each target [N, 2], or a mask [H, W] with targets above 0; None: unknown
    caption: what a rule for targets counted in the frame; without it the caption counts the detections
    """

    number: int
    image: np.ndarray
    found: np.ndarray
    truth: np.ndarray | None
    caption: str = ""

    @property
    def highest(self) -> float:
        """The largest probability or score."""
        values = self.found if is_map(self.found, self.image.shape) else self.found[:, 4]
        return values.max(initial=0)

    @property
    def peak(self) -> tuple[int, int]:
        """Row and column of it."""
        if is_map(self.found, self.image.shape):
            return np.unravel_index(self.found.argmax(), self.image.shape)
        if not len(self.found):
            return 0, 0
        x1, y1, x2, y2, _ = self.found[self.found[:, 4].argmax()]
        return int((y1 + y2) / 2), int((x1 + x2) / 2)


@dataclass(frozen=True, eq=False)
class Detections:
    """What was detected in a frame, by whether it touches a target: pixels, bool [H, W], or boxes.

    centres:                    row and column of the targets [N, 2]
    count:                      how many components or boxes were detected
    touching_boxes, apart_boxes: where boxes were detected instead of pixels, x1 y1 x2 y2 [N, 4]
    """

    touching: np.ndarray
    apart: np.ndarray
    centres: np.ndarray
    count: int
    touching_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    apart_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))


def overlay(
    image: np.ndarray, found: np.ndarray, truth: np.ndarray | None, threshold: float = 0.5, scale: int = 1
) -> np.ndarray:
    """A frame with its targets circled in green and the detected components (p > threshold) outlined.

    An outline is yellow where the component touches a target or a pixel next to one, red elsewhere; so are
    boxes with a score above the threshold. Gray values are stretched to the frame's own range.
    image, found, truth: as in `Tile`. Returns RGB, uint8 [scale * H, scale * W, 3].
    """
    return draw(image, sort_detections(found, truth, threshold, image.shape), scale)


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
    tiles: Sequence[Tile], path: str | Path, title: str, threshold: float = 0.5, columns: int = 3
) -> None:
    """Write a contact sheet (PNG) of a few frames of one sequence, all of one size.

    Each tile is an `overlay`, enlarged to a width of about 480 pixels, with the surroundings of the first
    target (without target: of the strongest response) magnified in a corner, and its caption below.
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
    above = f"p > {threshold:g}"
    legend = [(above, APART)]
    if any(tile.truth is not None for tile in tiles):
        touching, apart = f"{above}, touches a target", f"{above}, touches none"
        legend = [("target", TRUTH), (touching, TOUCHING), (apart, APART)]
    sheet = write_line(write_line(sheet, 0, [(title, INK)]), LINE, legend)
    _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    write_atomically(path, png.tobytes())


def draw_tile(tile: Tile, threshold: float) -> np.ndarray:
    """Overlay, magnified inset and caption of one frame; RGB."""
    detections = sort_detections(tile.found, tile.truth, threshold, tile.image.shape)
    scale = max(1, round(TILE_WIDTH / tile.image.shape[1]))
    picture = draw(tile.image, detections, scale)
    add_inset(picture, tile, detections, scale)
    counted = tile.caption or f"detections {detections.count}"
    caption = f"frame {tile.number}    {counted}    highest p {tile.highest:.2g}"
    picture = cv2.copyMakeBorder(picture, 0, LINE, 0, 0, cv2.BORDER_CONSTANT, value=PAPER)
    return write_line(picture, len(picture) - LINE, [(caption, INK)])


def add_inset(picture: np.ndarray, tile: Tile, detections: Detections, scale: int) -> None:
    """Magnify the first target, or else the strongest response, in the corner that hides least.

    Small or narrow pictures, in which an inset would magnify no more than the picture does, get none.
    """
    zoom = min(ZOOM_SCALE, min(picture.shape[:2]) // (2 * ZOOM))
    if zoom <= scale:
        return
    height, width = tile.image.shape
    row, col = detections.centres[0].round().astype(int) if len(detections.centres) else tile.peak
    top, left = max(0, min(row - ZOOM // 2, height - ZOOM)), max(0, min(col - ZOOM // 2, width - ZOOM))
    crop = np.s_[top : top + ZOOM, left : left + ZOOM]
    close_up = replace(
        detections,
        touching=detections.touching[crop],
        apart=detections.apart[crop],
        centres=detections.centres - (top, left),
        touching_boxes=detections.touching_boxes - (left, top, left, top),
        apart_boxes=detections.apart_boxes - (left, top, left, top),
    )
    inset = draw(tile.image[crop], close_up, zoom)
    inset = cv2.copyMakeBorder(inset, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=INK)

    drawn = np.ptp(picture, axis=2) > 0  # what is not gray is a circle or an outline
    drawn[top * scale : (top + ZOOM) * scale, left * scale : (left + ZOOM) * scale] = True
    cv2.rectangle(picture, (left * scale, top * scale), ((left + ZOOM) * scale, (top + ZOOM) * scale), INK, 1)
    rows, cols = len(inset), inset.shape[1]
    corners = [np.s_[:rows, -cols:], np.s_[:rows, :cols], np.s_[-rows:, -cols:], np.s_[-rows:, :cols]]
    picture[min(corners, key=lambda corner: np.count_nonzero(drawn[corner]))] = inset


def is_map(found: np.ndarray, shape: tuple[int, int]) -> bool:
    """Whether `found` of a `Tile` is a map, not boxes."""
    return found.shape == shape


def sort_detections(
    found: np.ndarray, truth: np.ndarray | None, threshold: float, shape: tuple[int, int]
) -> Detections:
    """What was detected in a frame of that shape, by whether it touches a target; arguments as in `Tile`."""
    targets = target_mask(truth, shape)
    _, _, _, centroids = cv2.connectedComponentsWithStats(targets, connectivity=8)
    centres = centroids[1:, ::-1]  # without the background; OpenCV has x, y
    if is_map(found, shape):
        return sort_components((found > threshold).astype(np.uint8), targets, centres)
    return sort_boxes(found[found[:, 4] > threshold, :4], targets, centres)


def sort_boxes(boxes: np.ndarray, targets: np.ndarray, centres: np.ndarray) -> Detections:
    """Boxes [N, 4] by whether a pixel in or beside them belongs to a target."""
    corners = np.hstack([np.floor(boxes[:, :2]) - 1, np.ceil(boxes[:, 2:]) + 1]).clip(0).astype(int)
    touches = np.array([targets[y1:y2, x1:x2].any() for x1, y1, x2, y2 in corners], bool)
    nothing = np.zeros(targets.shape, bool)
    return Detections(nothing, nothing, centres, len(boxes), boxes[touches], boxes[~touches])


def sort_components(detected: np.ndarray, targets: np.ndarray, centres: np.ndarray) -> Detections:
    """The 8-connected components of a map by whether they touch a target or a pixel beside one."""
    num_components, labels = cv2.connectedComponents(detected, connectivity=8)
    near_target = cv2.dilate(targets, NEIGHBOURS) & detected
    touching = np.isin(labels, np.unique(labels[near_target > 0]))
    return Detections(touching, (detected > 0) & ~touching, centres, num_components - 1)


def target_mask(truth: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W], 1 on the targets of a mask of that shape, of points [N, 2], or of none."""
    truth = np.zeros((0, 2)) if truth is None else np.asarray(truth)
    if truth.shape == shape:
        return (truth > 0).astype(np.uint8)
    mask = np.zeros(shape, np.uint8)
    pixels = np.clip(np.rint(truth.reshape(-1, 2)).astype(int), 0, np.subtract(shape, 1))
    mask[tuple(pixels.T)] = 1
    return mask


def draw(image: np.ndarray, detections: Detections, scale: int) -> np.ndarray:
    """The stretched and enlarged frame under circles and outlines; RGB, uint8 [scale * H, scale * W, 3]."""
    low, high = np.percentile(image, (0.5, 99.9))
    gray = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    picture = cv2.cvtColor(enlarge(gray, scale), cv2.COLOR_GRAY2RGB)
    margin = -(-3 // scale)  # frame pixels from a response to its outline, to leave the response visible
    square = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    for pixels, colour in ((detections.touching, TOUCHING), (detections.apart, APART)):
        around = enlarge(cv2.dilate(pixels.astype(np.uint8), square), scale)
        outlines, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 1)
    for boxes, colour in ((detections.touching_boxes, TOUCHING), (detections.apart_boxes, APART)):
        for x1, y1, x2, y2 in np.rint(scale * boxes).astype(int).tolist():
            cv2.rectangle(picture, (x1 - 1, y1 - 1), (x2, y2), colour, 1)  # around the pixels in the box
    for row, col in detections.centres:
        centre = (round((col + 0.5) * scale), round((row + 0.5) * scale))
        cv2.circle(picture, centre, max(CIRCLE * scale, 8), TRUTH, 1, cv2.LINE_AA)
    return picture


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel as a square of `scale` pixels."""
    return image.repeat(scale, 0).repeat(scale, 1)


def write_line(
    picture: np.ndarray, top: int, parts: Sequence[tuple[str, tuple[int, int, int]]]
) -> np.ndarray:
    """The picture with a line of coloured texts below row `top`."""
    canvas = Image.fromarray(picture)
    pen, font, left = ImageDraw.Draw(canvas), ImageFont.load_default(14), GAP
    for text, colour in parts:
        pen.text((left, top + 3), text, colour, font)
        left += pen.textlength(text, font) + 3 * GAP
    return np.asarray(canvas)
