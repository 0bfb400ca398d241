"""Pictures of results: curves, and frames with what was there and what was found drawn on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.files import write_atomically

TRUTH, HIT, FALSE_ALARM = (0, 230, 0), (255, 215, 0), (255, 60, 60)  # RGB
INK, PAPER = (235, 235, 235), (24, 24, 24)
CIRCLE = 6  # radius of a target's circle, in frame pixels
ZOOM, ZOOM_SCALE = 19, 8  # an inset shows 19x19 frame pixels, each as up to 8x8
TILE_WIDTH = 480  # about; frames are enlarged by whole numbers only
GAP, LINE = 8, 24  # between tiles, and of a line of text, in sheet pixels
NEIGHBOURS = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame of a contact sheet.

    number: what the caption calls it
    image:  gray values [H, W]
    found:  probabilities [H, W] in 0..1, or boxes [N, 5] of x1, y1, x2, y2 and score
    truth:  row and column of each target [N, 2], or a mask [H, W] with targets above 0
    """

    number: int
    image: np.ndarray
    found: np.ndarray
    truth: np.ndarray

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
class Verdict:
    """What was found in a frame: the pixels of hits and false alarms, bool [H, W], and how many there are.

    centres:     row and column of the targets, [N, 2]
    hit_boxes:   where boxes were found instead of pixels, x1 y1 x2 y2 [N, 4]
    false_boxes: likewise
    """

    hits: np.ndarray
    false_alarms: np.ndarray
    centres: np.ndarray
    num_found: int
    num_false: int
    hit_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    false_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))


def overlay(
    image: np.ndarray, found: np.ndarray, truth: np.ndarray, threshold: float = 0.5, scale: int = 1
) -> np.ndarray:
    """A frame with its targets circled in green and the detected components (p > threshold) outlined.

    An outline is yellow where the component touches a target or a pixel next to one, red elsewhere; so are
    boxes with a score above the threshold. Gray values are stretched to the frame's own range.
    image, found, truth: as in `Shot`. Returns RGB, uint8 [scale * H, scale * W, 3].
    """
    return draw(image, judge(found, truth, threshold, image.shape), scale)


def overlay_sheet(
    shots: Sequence[Shot], path: str | Path, title: str, threshold: float = 0.5, columns: int = 3
) -> None:
    """Write a contact sheet (PNG) of a few frames of one sequence, all of one size.

    Each tile is an `overlay`, enlarged to a width of about 480 pixels, with the surroundings of the first
    target (without target: of the strongest response) magnified in a corner. Captions count the targets found
    and the components that are false alarms.
    """
    tiles = [make_tile(shot, threshold) for shot in shots]
    height, width = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.full((2 * LINE + rows * (height + GAP), columns * (width + GAP) + GAP, 3), PAPER, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = 2 * LINE + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = tile
    above = f"p > {threshold:g}"
    sheet = write_line(sheet, 0, [(title, INK)])
    sheet = write_line(
        sheet, LINE, [("target", TRUTH), (f"{above}, hit", HIT), (f"{above}, false alarm", FALSE_ALARM)]
    )
    _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    write_atomically(path, png.tobytes())


def make_tile(shot: Shot, threshold: float) -> np.ndarray:
    """Overlay, magnified inset and caption of one frame; RGB."""
    verdict = judge(shot.found, shot.truth, threshold, shot.image.shape)
    scale = max(1, round(TILE_WIDTH / shot.image.shape[1]))
    picture = draw(shot.image, verdict, scale)
    add_inset(picture, shot, verdict, scale)
    caption = (
        f"frame {shot.number}    found {verdict.num_found} of {len(verdict.centres)}"
        f"    false alarms {verdict.num_false}    highest p {shot.highest:.2g}"
    )
    picture = cv2.copyMakeBorder(picture, 0, LINE, 0, 0, cv2.BORDER_CONSTANT, value=PAPER)
    return write_line(picture, len(picture) - LINE, [(caption, INK)])


def add_inset(picture: np.ndarray, shot: Shot, verdict: Verdict, scale: int) -> None:
    """Magnify the first target, or else the strongest response, in the corner that hides least.

    Small or narrow pictures, in which an inset would magnify no more than the picture does, get none.
    """
    zoom = min(ZOOM_SCALE, min(picture.shape[:2]) // (2 * ZOOM))
    if zoom <= scale:
        return
    height, width = shot.image.shape
    row, col = verdict.centres[0].round().astype(int) if len(verdict.centres) else shot.peak
    top, left = max(0, min(row - ZOOM // 2, height - ZOOM)), max(0, min(col - ZOOM // 2, width - ZOOM))
    crop = np.s_[top : top + ZOOM, left : left + ZOOM]
    close_up = replace(
        verdict,
        hits=verdict.hits[crop],
        false_alarms=verdict.false_alarms[crop],
        centres=verdict.centres - (top, left),
        hit_boxes=verdict.hit_boxes - (left, top, left, top),
        false_boxes=verdict.false_boxes - (left, top, left, top),
    )
    inset = draw(shot.image[crop], close_up, zoom)
    inset = cv2.copyMakeBorder(inset, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=INK)

    drawn = np.ptp(picture, axis=2) > 0  # what is not gray is a circle or an outline
    drawn[top * scale : (top + ZOOM) * scale, left * scale : (left + ZOOM) * scale] = True
    cv2.rectangle(picture, (left * scale, top * scale), ((left + ZOOM) * scale, (top + ZOOM) * scale), INK, 1)
    rows, cols = len(inset), inset.shape[1]
    corners = [np.s_[:rows, -cols:], np.s_[:rows, :cols], np.s_[-rows:, -cols:], np.s_[-rows:, :cols]]
    picture[min(corners, key=lambda corner: np.count_nonzero(drawn[corner]))] = inset


def is_map(found: np.ndarray, shape: tuple[int, int]) -> bool:
    """Whether `found` of a `Shot` is a map, not boxes."""
    return found.shape == shape


def judge(found: np.ndarray, truth: np.ndarray, threshold: float, shape: tuple[int, int]) -> Verdict:
    """Sort what was found in a frame of that shape into hits and false alarms; arguments as in `Shot`."""
    if is_map(found, shape):
        return judge_map(found, truth, threshold)
    return judge_boxes(found[found[:, 4] > threshold, :4], truth, shape)


def judge_boxes(boxes: np.ndarray, truth: np.ndarray, shape: tuple[int, int]) -> Verdict:
    """Boxes [N, 4] by whether a pixel in or beside them belongs to a target."""
    _, labels, _, centroids = cv2.connectedComponentsWithStats(target_mask(truth, shape), connectivity=8)
    corners = np.hstack([np.floor(boxes[:, :2]) - 1, np.ceil(boxes[:, 2:]) + 1]).clip(0).astype(int)
    touched = [np.unique(labels[y1:y2, x1:x2]) for x1, y1, x2, y2 in corners]
    is_hit = np.array([np.any(found > 0) for found in touched], bool)
    nothing = np.zeros(shape, bool)
    return Verdict(
        hits=nothing,
        false_alarms=nothing,
        centres=centroids[1:, ::-1],  # without the background; OpenCV has x, y
        num_found=len({label for found in touched for label in found.tolist()} - {0}),
        num_false=int((~is_hit).sum()),
        hit_boxes=boxes[is_hit],
        false_boxes=boxes[~is_hit],
    )


def judge_map(probability: np.ndarray, truth: np.ndarray, threshold: float) -> Verdict:
    """The 8-connected components of p > threshold by whether they touch a target or a pixel beside one."""
    detected = (probability > threshold).astype(np.uint8)
    targets = target_mask(truth, detected.shape)
    _, target_labels, _, centroids = cv2.connectedComponentsWithStats(targets, connectivity=8)
    num_components, labels = cv2.connectedComponents(detected, connectivity=8)
    near_target = cv2.dilate(targets, NEIGHBOURS) & detected
    near_detected = cv2.dilate(detected, NEIGHBOURS) & targets
    hit_labels = np.unique(labels[near_target > 0])
    hits = np.isin(labels, hit_labels)
    return Verdict(
        hits=hits,
        false_alarms=(detected > 0) & ~hits,
        centres=centroids[1:, ::-1],  # without the background; OpenCV has x, y
        num_found=len(np.unique(target_labels[near_detected > 0])),
        num_false=num_components - 1 - len(hit_labels),
    )


def target_mask(truth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W], 1 on the targets of a mask of that shape or of points [N, 2]."""
    truth = np.asarray(truth)
    if truth.shape == shape:
        return (truth > 0).astype(np.uint8)
    mask = np.zeros(shape, np.uint8)
    pixels = np.clip(np.rint(truth.reshape(-1, 2)).astype(int), 0, np.subtract(shape, 1))
    mask[tuple(pixels.T)] = 1
    return mask


def draw(image: np.ndarray, verdict: Verdict, scale: int) -> np.ndarray:
    """The stretched and enlarged frame under circles and outlines; RGB, uint8 [scale * H, scale * W, 3]."""
    low, high = np.percentile(image, (0.5, 99.9))
    gray = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    picture = cv2.cvtColor(enlarge(gray, scale), cv2.COLOR_GRAY2RGB)
    margin = -(-3 // scale)  # frame pixels from a response to its outline, to leave the response visible
    square = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    for pixels, colour in ((verdict.hits, HIT), (verdict.false_alarms, FALSE_ALARM)):
        around = enlarge(cv2.dilate(pixels.astype(np.uint8), square), scale)
        outlines, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 1)
    for boxes, colour in ((verdict.hit_boxes, HIT), (verdict.false_boxes, FALSE_ALARM)):
        for x1, y1, x2, y2 in np.rint(scale * boxes).astype(int).tolist():
            cv2.rectangle(picture, (x1 - 1, y1 - 1), (x2, y2), colour, 1)  # around the pixels in the box
    for row, col in verdict.centres:
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
