"""The published evaluation of the box models (STMENet, SMFNet, SSTNet), step by step as their code goes.

From the annotation list and the frames to the raw output's boxes, their way back to the image, and COCO's AP
at IoU 0.5 of the images with an annotation. Nothing is shared with what it is compared with.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from literal_evaluations import letterboxed
from PIL import Image
from torch import Tensor

CONFIDENCE, NMS_IOU, MAX_DETECTIONS = 0.001, 0.65, 100


# ---------------------------------------------------------------- loader


def annotations(path: Path) -> tuple[dict[int, str], dict[int, list[list[float]]]]:
    """(file name of each image, its boxes left, top, width, height) by image id; of those with a box."""
    content = json.loads(path.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    boxes: dict[int, list[list[float]]] = {}
    for entry in content["annotations"]:
        boxes.setdefault(entry["image_id"], []).append(entry["bbox"])
    return {number: names[number] for number in sorted(boxes)}, boxes


def box_clip(path: Path, side: int) -> tuple[Tensor, list[int]]:
    """The clip [1, 3, 5, S, S] of the key frame `path`, and its frames' numbers; the first one repeats."""
    key = int(path.stem)
    numbers = [max(key - back, 0) for back in (4, 3, 2, 1, 0)]
    frames = []
    for number in numbers:
        image = Image.open(path.parent / f"{number}.bmp").convert("RGB")
        pixels = np.array(letterboxed(image, side, (128, 128, 128)), dtype=np.float32)
        pixels /= 255.0
        pixels -= np.array([0.485, 0.456, 0.406])
        pixels /= np.array([0.229, 0.224, 0.225])
        frames.append(pixels.transpose(2, 0, 1))
    return torch.from_numpy(np.stack(frames, axis=1))[None], numbers


# ---------------------------------------------------------------- raw output to boxes of the image


def decoded(raw: np.ndarray) -> Iterator[tuple[float, ...]]:
    """cx, cy, w, h as fractions of the input, objectness and class score of each cell of [6, h, w]."""
    _, rows, cols = raw.shape
    for row in range(rows):
        for col in range(cols):
            tx, ty, tw, th, objectness, score = (np.float64(v) for v in raw[:, row, col])
            yield (
                (tx + col) / cols,
                (ty + row) / rows,
                np.exp(tw) / cols,
                np.exp(th) / rows,
                1 / (1 + np.exp(-objectness)),
                1 / (1 + np.exp(-score)),
            )


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU of two boxes x1, y1, x2, y2."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def suppressed(raw: np.ndarray) -> list[tuple[float, ...]]:
    """x1, y1, x2, y2 (fractions of the input) and score of the boxes that are kept, best score first."""
    boxes = []
    for cx, cy, w, h, objectness, score in decoded(raw):
        if objectness * score >= CONFIDENCE:
            boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, objectness * score))
    boxes.sort(key=lambda box: -box[4])
    kept: list[tuple[float, ...]] = []
    for box in boxes:
        if all(overlap(box, better) <= NMS_IOU for better in kept):
            kept.append(box)
    return kept


def published_correction(box: tuple[float, ...], side: int, width: int, height: int) -> list[float]:
    """left, top, width, height in the image: the new size is rounded and the offset takes exact halves,
    whereas the loader truncates the one and floors the other."""
    shape, input_shape = np.array([height, width]), np.array([side, side])
    new = np.round(shape * np.min(input_shape / shape))
    offset, scale = (input_shape - new) / 2.0 / input_shape, input_shape / new
    x1, y1, x2, y2 = box[:4]
    centre = (np.array([(y1 + y2) / 2, (x1 + x2) / 2]) - offset) * scale
    size = np.array([y2 - y1, x2 - x1]) * scale
    top, left = (centre - size / 2) * shape
    bottom, right = (centre + size / 2) * shape
    return [left, top, right - left, bottom - top]


def exact_correction(box: tuple[float, ...], side: int, width: int, height: int) -> list[float]:
    """The inverse of the loader's letterbox, which is not what the papers have."""
    ratio = min(side / width, side / height)
    new_width, new_height = int(width * ratio), int(height * ratio)
    dx, dy = (side - new_width) // 2, (side - new_height) // 2
    left, right = ((x * side - dx) * width / new_width for x in (box[0], box[2]))
    top, bottom = ((y * side - dy) * height / new_height for y in (box[1], box[3]))
    return [left, top, right - left, bottom - top]


# ---------------------------------------------------------------- COCO's AP at IoU 0.5


def left_top_overlap(a: list[float], b: list[float]) -> float:
    """IoU of two boxes left, top, width, height."""
    return overlap((a[0], a[1], a[0] + a[2], a[1] + a[3]), (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def matched(detections: list[tuple[list[float], float]], truth: list[list[float]]) -> list[bool]:
    """Which detections, best first, find a target: each the free one with which its IoU is largest."""
    taken = [False] * len(truth)
    hits = []
    for box, _ in detections:
        best, match = min(0.5, 1 - 1e-10), None
        for place, target in enumerate(truth):
            if not taken[place] and left_top_overlap(box, target) >= best:
                best, match = left_top_overlap(box, target), place
        if match is not None:
            taken[match] = True
        hits.append(match is not None)
    return hits


def box_figures(
    found: dict[int, list[tuple[list[float], float]]], truth: dict[int, list[list[float]]]
) -> dict[str, float | list[float]]:
    """AP50 and what the papers print, of (box, score) and boxes by image id."""
    ranked = []
    for number in sorted(truth):
        best = sorted(found[number], key=lambda detection: -detection[1])[:MAX_DETECTIONS]
        ranked += [
            (detection[1], hit) for detection, hit in zip(best, matched(best, truth[number]), strict=True)
        ]
    ranked.sort(key=lambda entry: -entry[0])
    targets = sum(map(len, truth.values()))
    recalls, precisions, true = [], [], 0
    for rank, (_, hit) in enumerate(ranked, 1):
        true += hit
        recalls.append(true / targets)
        precisions.append(true / rank)
    for k in range(len(precisions) - 1, 0, -1):
        precisions[k - 1] = max(precisions[k - 1], precisions[k])
    curve = []
    for level in np.linspace(0, 1, 101):
        reached = [k for k, recall in enumerate(recalls) if recall >= level]
        curve.append(precisions[reached[0]] if reached else 0.0)
    recall = recalls[-1]
    precision = sum(curve[: int(100 * recall)]) / int(100 * recall)
    return {
        "ap50": sum(curve) / 101,
        "published_precision": precision,
        "published_recall": recall,
        "published_f1": 2 * precision * recall / (precision + recall),
        "curve": curve,
    }
