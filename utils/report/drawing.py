"""One frame with what was there and what was found drawn on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.report.traces import Trace

Colour = tuple[int, int, int]  # RGB

TRUTH, TOUCHING, APART = (0, 230, 0), (255, 215, 0), (255, 60, 60)
DETECTION, TRACK = (86, 190, 255), (255, 160, 40)  # of unknown truth; apart for the colour-blind, too
INK, PAPER = (235, 235, 235), (24, 24, 24)
CIRCLE = 6  # radius of a target's circle, in frame pixels
GAP, LINE = 8, 24  # between tiles, and of a line of text, in sheet pixels
NEIGHBOURS = np.ones((3, 3), np.uint8)
DISTANCE = 5  # picture pixels from what was detected to its box, to leave it visible
FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42  # OpenCV's, of about 11 pixels


@dataclass(frozen=True, eq=False)
class SortedDetections:
    """What was detected in a frame, by whether it touches a target: pixels, bool [H, W], or boxes.

    centres:                    row and column of the targets [N, 2]
    count:                      how many components or boxes were detected
    touching_boxes, apart_boxes: where boxes were detected instead of pixels, x1 y1 x2 y2 [N, 4]
    colours:                    of what touches a target, and of what touches none
    """

    touching: np.ndarray
    apart: np.ndarray
    centres: np.ndarray
    count: int
    touching_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    apart_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    colours: tuple[Colour, Colour] = (TOUCHING, APART)


def overlay(
    image: np.ndarray, found: np.ndarray, truth: np.ndarray | None, threshold: float = 0.5, scale: int = 1
) -> np.ndarray:
    """A frame with its targets circled in green and the detected components (p > threshold) outlined.

    An outline is yellow where the component touches a target or a pixel next to one, red elsewhere; so are
    boxes with a score above the threshold. Where the truth is not known, all are light blue. Gray values are
    stretched to the frame's own range.
    image, found, truth: as in `utils.report.pictures.Tile`. Returns RGB, uint8 [scale * H, scale * W, 3].
    """
    return draw(image, sort_detections(found, truth, threshold, image.shape), scale)


def is_map(found: np.ndarray, shape: tuple[int, int]) -> bool:
    """Whether what was found in a frame of that shape is a map, not boxes."""
    return found.shape == shape


def sort_detections(
    found: np.ndarray, truth: np.ndarray | None, threshold: float, shape: tuple[int, int]
) -> SortedDetections:
    """What was detected in a frame of that shape, by whether it touches a target.

    found, truth: as in `utils.report.pictures.Tile`. Of unknown truth, nothing touches a target, and nothing
    is coloured as if it touched none.
    """
    targets = target_mask(truth, shape)
    _, _, _, centroids = cv2.connectedComponentsWithStats(targets, connectivity=8)
    centres = centroids[1:, ::-1]  # without the background; OpenCV has x, y
    if is_map(found, shape):
        detections = sort_components((found > threshold).astype(np.uint8), targets, centres)
    else:
        detections = sort_boxes(found[found[:, 4] > threshold, :4], targets, centres)
    return detections if truth is not None else replace(detections, colours=(DETECTION, DETECTION))


def sort_boxes(boxes: np.ndarray, targets: np.ndarray, centres: np.ndarray) -> SortedDetections:
    """Boxes [N, 4] by whether a pixel in or beside them belongs to a target."""
    corners = np.hstack([np.floor(boxes[:, :2]) - 1, np.ceil(boxes[:, 2:]) + 1]).clip(0).astype(int)
    touches = np.array([targets[y1:y2, x1:x2].any() for x1, y1, x2, y2 in corners], bool)
    nothing = np.zeros(targets.shape, bool)
    return SortedDetections(nothing, nothing, centres, len(boxes), boxes[touches], boxes[~touches])


def sort_components(detected: np.ndarray, targets: np.ndarray, centres: np.ndarray) -> SortedDetections:
    """The 8-connected components of a map by whether they touch a target or a pixel beside one."""
    num_components, labels = cv2.connectedComponents(detected, connectivity=8)
    near_target = cv2.dilate(targets, NEIGHBOURS) & detected
    touching = np.isin(labels, np.unique(labels[near_target > 0]))
    return SortedDetections(touching, (detected > 0) & ~touching, centres, num_components - 1)


def target_mask(truth: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W], 1 on the targets of a mask of that shape, of points [N, 2], or of none."""
    truth = np.zeros((0, 2)) if truth is None else np.asarray(truth)
    if truth.shape == shape:
        return (truth > 0).astype(np.uint8)
    mask = np.zeros(shape, np.uint8)
    pixels = np.clip(np.rint(truth.reshape(-1, 2)).astype(int), 0, np.subtract(shape, 1))
    mask[tuple(pixels.T)] = 1
    return mask


def draw(image: np.ndarray, detections: SortedDetections, scale: int) -> np.ndarray:
    """The stretched and enlarged frame under circles and outlines; RGB, uint8 [scale * H, scale * W, 3]."""
    low, high = np.percentile(image, (0.5, 99.9))
    gray = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    picture = cv2.cvtColor(enlarge(gray, scale), cv2.COLOR_GRAY2RGB)
    margin = -(-3 // scale)  # frame pixels from a response to its outline, to leave the response visible
    square = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    for pixels, colour in zip((detections.touching, detections.apart), detections.colours, strict=True):
        around = enlarge(cv2.dilate(pixels.astype(np.uint8), square), scale)
        outlines, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 1)
    sorted_boxes = detections.touching_boxes, detections.apart_boxes
    for boxes, colour in zip(sorted_boxes, detections.colours, strict=True):
        draw_boxes(picture, boxes, scale, colour)
    for row, col in detections.centres:
        centre = (round((col + 0.5) * scale), round((row + 0.5) * scale))
        cv2.circle(picture, centre, max(CIRCLE * scale, 8), TRUTH, 1, cv2.LINE_AA)
    return picture


def draw_boxes(picture: np.ndarray, boxes: np.ndarray, scale: int, colour: Colour) -> None:
    """Outline the pixels in boxes [N, 4] on a picture in which a frame's pixel has `scale` pixels."""
    for x1, y1, x2, y2 in np.rint(scale * boxes).astype(int).tolist():
        cv2.rectangle(picture, (x1 - 1, y1 - 1), (x2, y2), colour, 1)


def widened(boxes: np.ndarray, scale: int) -> np.ndarray:
    """Boxes [N, 4] as large as those that `draw_traces` draws around tracks."""
    return boxes + (DISTANCE - 1) / scale * np.array([-1, -1, 1, 1])


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


def draw_traces(picture: np.ndarray, traces: Sequence[Trace], scale: float, colour: Colour = TRACK) -> None:
    """Draw tracks on a picture in which a frame's pixel has `scale` pixels: way, box and number of each.

    No way covers what is in a box. Of a track that was carried on, only the corners of the box are drawn.
    """
    boxes = [corners_around(trace.box, scale, picture.shape) for trace in traces]
    insides = [picture[y1:y2, x1:x2].copy() for x1, y1, x2, y2 in boxes]
    for trace in traces:
        places = np.rint((trace.places + 0.5) * scale).astype(np.int32)
        cv2.polylines(picture, [places], False, colour, 1, cv2.LINE_AA)
    for (x1, y1, x2, y2), inside in zip(boxes, insides, strict=True):
        picture[y1:y2, x1:x2] = inside
    for trace, box in zip(traces, boxes, strict=True):
        draw_box(picture, box, colour, trace.is_seen)
        write_beside(picture, str(trace.track), (box[2] + 3, box[1]), colour)


def corners_around(box: Sequence[float], scale: float, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The first and last columns and rows, x1, y1, x2, y2, of what to draw around a box, with some distance.

    shape: of the picture, which none of them leaves
    """
    x1, y1, x2, y2 = (scale * value for value in box)
    columns = np.clip([x1 - DISTANCE, x2 + DISTANCE - 1], 0, shape[1] - 1).round().astype(int).tolist()
    rows = np.clip([y1 - DISTANCE, y2 + DISTANCE - 1], 0, shape[0] - 1).round().astype(int).tolist()
    return columns[0], rows[0], columns[1], rows[1]


def draw_box(picture: np.ndarray, box: tuple[int, int, int, int], colour: Colour, whole: bool = True) -> None:
    """Draw a box, or its corners alone; box: as from `corners_around`."""
    x1, y1, x2, y2 = box
    if whole:
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1)
        return
    across, down = max(1, (x2 - x1) // 4), max(1, (y2 - y1) // 4)
    for x, inward in ((x1, across), (x2, -across)):
        for y, further in ((y1, down), (y2, -down)):
            corner = np.array([(x + inward, y), (x, y), (x, y + further)], np.int32)
            cv2.polylines(picture, [corner], False, colour, 1)


def write_beside(picture: np.ndarray, text: str, place: tuple[int, int], colour: Colour) -> None:
    """Write a text on a dark ground whose upper left corner is at `place` (x, y), moved into the picture."""
    (width, height), _ = cv2.getTextSize(text, FONT, FONT_SIZE, 1)
    x = max(0, min(place[0], picture.shape[1] - width - 2))
    y = max(0, min(place[1], picture.shape[0] - height - 4))
    cv2.rectangle(picture, (x, y), (x + width + 1, y + height + 3), PAPER, cv2.FILLED)
    cv2.putText(picture, text, (x + 1, y + height + 1), FONT, FONT_SIZE, colour, 1, cv2.LINE_AA)
