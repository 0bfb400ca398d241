"""One frame and its truth, read once, as the numbers and the targets that a check needs of it.

A target is an 8-connected component of the mask, or an annotated box, or the pixel of an annotated point. Its
SNR is (mean over its pixels - mean over a ring around it) / standard deviation over the ring. The ring holds
the pixels that are 4 to 8 pixels away from the box around the target, in rows or columns, and belong to no
target. It is the ring of dataset/scene.py, around boxes instead of pixels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dataset.io import gray_values, read_gray
from dataset.masks import STRICT, MaskRule, read_centroid_map, read_mask
from dataset.scene import RING_INNER, RING_OUTER
from utils.errors import UserError

BLOCKS = 16  # a frame is described by the means of 16x16 blocks


@dataclass(frozen=True, eq=False)
class Task:
    """Which files to read. Every truth is None where the data set has none of its kind."""

    image: Path
    mask: Path | None = None
    centroids: Path | None = None
    boxes: np.ndarray | None = None
    points: np.ndarray | None = None
    rule: MaskRule = STRICT


@dataclass(eq=False, slots=True)
class Targets:
    """The targets of one frame: pixels, row and column of the centroid [N, 2], SNR (nan: no ring).

    Of points also the SNR of the place one row above and one column to the left.
    """

    area: np.ndarray = field(default_factory=lambda: np.zeros(0))
    centres: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    snr: np.ndarray = field(default_factory=lambda: np.zeros(0))
    snr_before: np.ndarray | None = None


@dataclass(eq=False, slots=True)
class MaskFacts:
    """What a mask file is: (height, width), how many gray values, how much is target, why it is refused."""

    size: tuple[int, int]
    values: int
    covered: float
    refused: str = ""


@dataclass(eq=False, slots=True)
class Record:
    """What was read of one frame. Fields that could not be read are None.

    errors: by kind of file ("image", "mask", "centroids"), the sentence that says what is wrong
    depth:  8 or 16
    digest: of the decoded pixels
    mean, std, lowest, highest: of gray values 0..255
    blocks: float32 [256], means of 16x16 blocks, normalised to mean 0 and length 1; zeros of a constant frame
    marked: centroids [N, 2] of what the centroid map marks
    """

    image: Path
    errors: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    depth: int | None = None
    coloured: bool = False
    digest: bytes | None = None
    mean: float | None = None
    std: float | None = None
    lowest: float | None = None
    highest: float | None = None
    blocks: np.ndarray | None = None
    mask: MaskFacts | None = None
    marked: np.ndarray | None = None
    targets: Targets | None = None

    @property
    def is_constant(self) -> bool:
        return self.lowest is not None and self.lowest == self.highest


def read_record(task: Task) -> Record:
    """Read one frame with its truth. What cannot be read is in the record's errors."""
    record = Record(task.image)
    gray = mask = None
    try:
        pixels = read_gray(task.image)
        gray = gray_values(pixels)
        describe_frame(record, pixels, gray)
        with Image.open(task.image) as file:
            record.coloured = channels_differ(file)
    except UserError as error:
        record.errors["image"] = str(error)
    if task.mask is not None:
        try:
            record.mask, mask = describe_mask(task.mask, task.rule)
        except UserError as error:
            record.errors["mask"] = str(error)
    if task.centroids is not None:
        try:
            record.marked = find_targets(read_centroid_map(task.centroids, task.rule) > 0).centres
        except UserError as error:
            record.errors["centroids"] = str(error)
    fits = gray is not None and (mask is None or mask.shape == gray.shape)
    if mask is not None:
        record.targets = find_targets(mask, gray if fits else None)
    elif gray is not None and task.mask is None:
        record.targets = annotated_targets(task, gray)
    return record


def describe_frame(record: Record, pixels: np.ndarray, gray: np.ndarray) -> None:
    """Fill in what is known of the frame's own pixels."""
    record.size, record.depth = pixels.shape, 8 * pixels.dtype.itemsize
    shape = f"{pixels.shape} {pixels.dtype}".encode()
    record.digest = hashlib.blake2b(shape + pixels.tobytes(), digest_size=16).digest()
    record.mean, record.std = (float(value[0, 0]) for value in cv2.meanStdDev(gray))
    record.lowest, record.highest, _, _ = cv2.minMaxLoc(gray)
    record.blocks = block_means(gray)


def block_means(gray: np.ndarray) -> np.ndarray:
    """The frame in 16x16 blocks, less their mean, of length 1: float32 [256]. Zeros of a constant frame."""
    blocks = cv2.resize(gray, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
    blocks = blocks - blocks.mean()
    length = np.linalg.norm(blocks)
    return (blocks / length if length > 1e-3 else 0 * blocks).astype(np.float32).ravel()


def channels_differ(file: Image.Image) -> bool:
    """Whether an image is coloured: it has several channels and they are not equal. Alpha does not count."""
    if file.mode not in ("RGB", "RGBA", "P", "PA", "YCbCr"):
        return False
    red, *others = file.convert("RGB").split()
    return any(np.not_equal(red, other).any() for other in others)


# ---------------------------------------------------------------- truth


def describe_mask(path: Path, rule: MaskRule) -> tuple[MaskFacts, np.ndarray]:
    """What a mask file is, and its targets, uint8 [H, W] of 0 and 1; of one that is no mask what is above 0.

    Raises UserError for a file that cannot be read.
    """
    pixels, refused = read_gray(path), ""
    try:
        mask = read_mask(path, rule) > 0
    except UserError as error:
        mask, refused = pixels > 0, str(error)
    facts = MaskFacts(pixels.shape, len(np.unique(pixels)), np.count_nonzero(mask) / mask.size, refused)
    return facts, mask.astype(np.uint8)


def find_targets(mask: np.ndarray, gray: np.ndarray | None = None) -> Targets:
    """The components of a mask; without gray values their SNR is nan."""
    count, labels, stats, centres = cv2.connectedComponentsWithStats(
        np.asarray(mask, np.uint8), connectivity=8
    )
    if count == 1:
        return Targets()
    snr = np.full(count - 1, np.nan)
    if gray is not None:
        occupied = labels > 0
        for number in range(1, count):
            left, top, width, height, _ = stats[number].tolist()
            inside = labels[top : top + height, left : left + width] == number
            snr[number - 1] = snr_of(gray, occupied, (left, top, left + width, top + height), inside)
    return Targets(stats[1:, cv2.CC_STAT_AREA].astype(float), centres[1:, ::-1].copy(), snr)


def annotated_targets(task: Task, gray: np.ndarray) -> Targets | None:
    """The targets of boxes or points. None without truth. Those outside the frame have no SNR."""
    if task.points is not None:
        centres = task.points.reshape(-1, 2)
        pixel = np.rint(np.nan_to_num(centres[:, ::-1], nan=-1e6))
        here, before = (snr_of_boxes(gray, np.hstack([pixel, pixel + 1]) - shift) for shift in (0, 1))
        return Targets(np.full(len(centres), np.nan), centres, here, before)
    if task.boxes is not None:
        boxes = task.boxes.reshape(-1, 4)
        area = ((boxes[:, 2:] - boxes[:, :2]).clip(0)).prod(1)
        centres = np.stack([boxes[:, 1] + boxes[:, 3] - 1, boxes[:, 0] + boxes[:, 2] - 1], axis=1) / 2
        return Targets(area, centres, snr_of_boxes(gray, boxes))
    return None


def snr_of_boxes(gray: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The SNR of each box x1, y1, x2, y2 of [N, 4], rounded to pixels."""
    height, width = gray.shape
    limits = np.array([width, height, width, height])
    corners = np.nan_to_num(np.rint(boxes), nan=0).clip(0, limits).astype(int)
    occupied = np.zeros(gray.shape, bool)
    for x1, y1, x2, y2 in corners:
        occupied[y1:y2, x1:x2] = True
    return np.array([snr_of(gray, occupied, box) for box in corners.tolist()])


def snr_of(
    gray: np.ndarray, occupied: np.ndarray, box: Sequence[int], inside: np.ndarray | None = None
) -> float:
    """The SNR of the target in a box x1, y1, x2, y2; nan where there is no target or no ring in the frame.

    occupied: pixels of any target, bool [H, W]
    inside:   the target's own pixels in its box; None: all
    """
    x1, y1, x2, y2 = box
    pixels = gray[y1:y2, x1:x2]
    pixels = pixels.ravel() if inside is None else pixels[inside]
    top, left = max(0, y1 - RING_OUTER), max(0, x1 - RING_OUTER)
    around = np.s_[top : y2 + RING_OUTER, left : x2 + RING_OUTER]
    free = ~occupied[around]
    free[
        max(0, y1 - RING_INNER - top) : y2 + RING_INNER - top,
        max(0, x1 - RING_INNER - left) : x2 + RING_INNER - left,
    ] = False
    ring = gray[around][free]
    if not (len(pixels) and len(ring)):
        return np.nan
    std = ring.std(dtype=np.float64)
    return float((pixels.mean(dtype=np.float64) - ring.mean(dtype=np.float64)) / std) if std > 0 else np.nan
