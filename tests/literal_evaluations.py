"""The published evaluations of the mask models, step by step as the papers' own code goes.

Each paper: which files make a clip, the network's input, the way back to what is scored, and the line between
target and background. Loops and slices are kept as published, defects included; nothing here is fast, and
nothing is shared with the readers, views and metrics that it is compared with.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from literal_counting import (
    DEEPPRO_THRESHOLDS,
    DTUM_THRESHOLDS,
    EPS,
    area_under,
    centroid_matching,
    pooled_iou,
    shooting_figures,
)
from PIL import Image
from torch import Tensor

Clip = tuple[Tensor, list[int]]  # the network's input [1, C, T, H, W], and the places of its frames


# ---------------------------------------------------------------- TSMSA, and the networks in its tables

TSMSA_SIZE = 512
TSMSA_STATISTICS = {"NUDT-MIRSDT": (105.98960876464844, 25.601680755615234)}


def tsmsa_gray(path: Path) -> np.ndarray:
    """A frame at 512x512: 32-bit gray, Pillow's bilinear filter, which rounds to whole numbers."""
    image = Image.open(path).convert("I")
    return np.array(image.resize((TSMSA_SIZE, TSMSA_SIZE), Image.Resampling.BILINEAR))


def tsmsa_clips(folder: Path, frames: int, mean: float, std: float) -> Iterator[Clip]:
    """The clip of each frame 0.png, 1.png, ... of a sequence: it and those before it, the first repeated.

    frames: 5, or 1 for the single-frame networks
    """
    paths = {int(path.stem): path for path in folder.iterdir()}
    for number in range(len(paths)):
        history = [max(number - back, 0) for back in range(frames - 1, -1, -1)]
        images = [tsmsa_gray(paths[n]).astype(np.float32) for n in history]
        images = [(image - mean) / std for image in images]
        # 512 is a multiple of what the networks ask for: nothing is padded, and nothing cut off afterwards.
        yield torch.from_numpy(np.stack(images))[None, None], history


def tsmsa_statistics(paths: Iterable[Path]) -> tuple[float, float]:
    """Of MWIRSTD, from all training frames: the means of the frames' own means and deviations."""
    grays = [tsmsa_gray(path) for path in paths]
    return float(np.mean([gray.mean() for gray in grays])), float(np.mean([gray.std() for gray in grays]))


def tsmsa_truth(path: Path) -> np.ndarray:
    mask = Image.open(path).resize((TSMSA_SIZE, TSMSA_SIZE), Image.Resampling.NEAREST)
    mask = np.array(mask, dtype=np.float32) / 255.0
    return mask[:, :, 0] if mask.ndim == 3 else mask


def tsmsa_figures(
    maps: list[np.ndarray], truths: list[np.ndarray], size: tuple[int, int] = (TSMSA_SIZE, TSMSA_SIZE)
) -> dict[str, float]:
    """Of probabilities and truths [512, 512].

    size: that the script takes all frames to have, by which it cuts both and counts the pixels of Fa
    """
    height, width = size
    detected = [(p > 0.5).astype(int)[:height, :width] for p in maps]
    truths = [truth.astype(int)[:height, :width] for truth in truths]
    found = {**centroid_matching(detected, truths, "pixels"), "iou": pooled_iou(detected, truths)}
    pixels = height * width * len(maps)
    return {**found, "pixels": pixels, "fa": found["false"] / pixels}


# ---------------------------------------------------------------- RPRNet


def rprnet_clips(folder: Path, side: int) -> Iterator[Clip]:
    """The clip of each frame 00001.png, ...: two before it, itself, three after it.

    A number that is not there becomes the next larger one that is, above the last one the next smaller.
    """
    there = sorted(int(path.stem) for path in folder.iterdir())
    for key in there:
        numbers = []
        for wanted in range(key - 2, key + 4):
            larger = [number for number in there if number >= wanted]
            numbers.append(min(larger) if larger else max(there))
        images = [rprnet_input(folder / f"{number:05d}.png", side) for number in numbers]
        clip = np.stack(images).transpose(3, 0, 1, 2)  # [T, H, W, C] -> [C, T, H, W]
        yield torch.from_numpy(np.ascontiguousarray(clip))[None], [there.index(n) for n in numbers]


def letterboxed(image: Image.Image, side: int, around: int | tuple[int, int, int]) -> Image.Image:
    """Fitted into a square; the box models' loader is the same."""
    width, height = image.size
    scale = min(side / width, side / height)
    new_width, new_height = int(width * scale), int(height * scale)
    image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    square = Image.new(image.mode, (side, side), around)
    square.paste(image, ((side - new_width) // 2, (side - new_height) // 2))
    return square


def rprnet_input(path: Path, side: int) -> np.ndarray:
    """A frame [S, S, 3], float32."""
    pixels = np.array(letterboxed(Image.open(path).convert("RGB"), side, (128, 128, 128)), dtype=np.float32)
    pixels /= 255.0
    pixels -= np.array([0.28, 0.28, 0.28])
    pixels /= np.array([0.23, 0.23, 0.23])
    return pixels


def rprnet_truth(path: Path, side: int) -> np.ndarray:
    """A mask in the letterbox, float32 [S, S]: 0 and 1, but for what columns 0 to 3 do to each other."""
    mask = np.array(letterboxed(Image.open(path).convert("L"), side, 0), dtype=np.float32)
    mask[mask > 0] = 255
    mask[:, 2:4] -= mask[:, 0:2]
    mask[:, 0:2] += mask[:, 2:4] / 2
    return mask / 255


def rprnet_rectangle(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """dx, dy, new width and new height as the test computes them: the size comes as int64 tensors, so that
    the scale and the products are float32. The loader's are float64."""
    ori_w, ori_h = torch.tensor(width), torch.tensor(height)
    scale = min(side / ori_w, side / ori_h)
    new_width, new_height = int(ori_w * scale), int(ori_h * scale)
    return (side - new_width) // 2, (side - new_height) // 2, new_width, new_height


def rprnet_way_back(square: np.ndarray, width: int, height: int) -> np.ndarray:
    """What lies in the letterbox [S, S] at the size of the file; predictions and truth alike."""
    dx, dy, new_width, new_height = rprnet_rectangle(width, height, square.shape[0])
    inside = torch.from_numpy(square)[None, None, dy : dy + new_height, dx : dx + new_width]
    return F.interpolate(inside, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


def rprnet_figures(maps: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    """Of probabilities and soft truths at the size of the files. Each figure binarises the truth its way."""
    detected = [(p > 0.5).astype(int) for p in maps]
    positive = [(truth > 0).astype(int) for truth in truths]
    frame_ious = []
    for hits, truth in zip(detected, truths, strict=True):
        one = truth.astype(int) == 1  # truncated to whole numbers
        both = int((hits & one).sum())
        frame_ious.append(both / (int(hits.sum()) + int(one.sum()) - both + EPS))
    return {
        **centroid_matching(detected, positive, "areas"),
        "iou": pooled_iou(detected, positive),
        "niou": sum(frame_ious) / len(frame_ious),
        **rprnet_roc(maps, truths),
    }


def rprnet_roc(maps: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    """F1 as published, at the threshold 1/6, and the area under the published rates.

    The published code compares a soft truth for equality and draws no area; that is the trapezoids' from
    (1, 1) over the rates of its 31 thresholds to (0, 0).
    """
    true_rates, false_rates, f1 = [1.0], [1.0], []
    for index in range(31):
        tp = fp = tn = fn = 0
        for p, truth in zip(maps, truths, strict=True):
            hit = p > np.float32(index / 30)
            tp += int((hit & (truth == 1)).sum())
            fp += int((hit & (truth != 1)).sum())
            tn += int((~hit & (truth == 0)).sum())
            fn += int((~hit & (truth != 0)).sum())
        recall, precision = tp / (tp + fn + 0.001), tp / (tp + fp + 0.001)
        true_rates.append(recall)
        false_rates.append(fp / (fp + tn + 0.001))
        f1.append(2 * recall * precision / (recall + precision + 1e-5))
    area = area_under([*false_rates, 0.0], [*true_rates, 0.0])
    return {"f1_published": f1[5], "auc": area}


# ---------------------------------------------------------------- DTUM

NUDT_MEAN, NUDT_STD = 105.4025, 26.6452  # DTUM's and DeepPro's


def gray(path: Path, mean: float, std: float) -> np.ndarray:
    return (np.array(Image.open(path), dtype=np.float32) - mean) / std


def dtum_clips(folder: Path, canvas: int) -> Iterator[Clip]:
    """The clip of each frame 00001.png, ...: four before it and itself, on a canvas of zeros, three times.

    What the .mat files of the authors have before the first frame is not there: it is repeated.
    """
    paths = sorted(folder.iterdir())
    for key in range(len(paths)):
        history = [max(key - back, 0) for back in (4, 3, 2, 1, 0)]
        images = np.stack([gray(paths[n], NUDT_MEAN, NUDT_STD) for n in history])
        _, height, width = images.shape
        padded = np.zeros((5, canvas, canvas), np.float32)
        padded[:, :height, :width] = images
        yield torch.from_numpy(padded)[None, None].repeat(1, 3, 1, 1, 1), history


def dtum_satvideo_clips(folder: Path) -> Iterator[Clip]:
    """The same of SatVideoIRSDT: no canvas; before each of the first four come those after it, reversed."""
    paths = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    for key in range(len(paths)):
        others = [key - back for back in (4, 3, 2, 1)] if key >= 4 else [key + on for on in (4, 3, 2, 1)]
        images = np.stack([gray(paths[n], 105.31, 26.08) for n in (*others, key)])
        yield torch.from_numpy(images)[None, None].repeat(1, 3, 1, 1, 1), [*others, key]


def centroid_truth(path: Path) -> np.ndarray:
    """A map of the targets' centroids; not binarised."""
    return np.array(Image.open(path), dtype=np.float64) / 255.0


def dtum_figures(maps: list[np.ndarray], centroid_maps: list[np.ndarray]) -> dict[str, float | list[int]]:
    """Of probabilities and centroid maps at the size of the files."""
    return shooting_figures(maps, centroid_maps, DTUM_THRESHOLDS)


# ---------------------------------------------------------------- DeepPro


def deeppro_windows(folder: Path, length: int) -> Iterator[tuple[Tensor, int, int]]:
    """(clip [1, 1, L, H, W], its first frame, the one after its last)."""
    paths = sorted(folder.iterdir())
    shared = int(length * 0.1)
    count = int(np.ceil((len(paths) - shared) / (length - shared)))
    for i in range(count):
        end = min(len(paths), (i + 1) * (length - shared) + shared)
        start = max(0, end - length)
        images = np.stack([gray(path, NUDT_MEAN, NUDT_STD) for path in paths[start:end]])
        yield torch.from_numpy(images)[None, None], start, end


def deeppro_fusion(windows: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
    """Probabilities [N, H, W] of a sequence, of those [L, H, W] of its windows and their first frames."""
    fused = None
    for p, start in windows:
        if fused is None:
            fused = p
            continue
        known = len(fused) - start
        fused[start:] = np.maximum(fused[start:], p[:known])
        fused = np.concatenate([fused, p[known:]])
    return fused


def deeppro_figures(
    maps: list[np.ndarray], centroid_maps: list[np.ndarray], masks: list[np.ndarray]
) -> dict[str, float | list[int]]:
    """Of the fused probabilities of all frames; masks of 0 and 1."""
    intersection = sum(int(((p > 0.5) * mask).sum()) for p, mask in zip(maps, masks, strict=True))
    union = sum(int(((p > 0.5) | (mask > 0)).sum()) for p, mask in zip(maps, masks, strict=True))
    figures = shooting_figures(maps, centroid_maps, DEEPPRO_THRESHOLDS)
    return {**figures, "iou": intersection / union}


def binary_mask(path: Path) -> np.ndarray:
    return (np.array(Image.open(path), dtype=np.float64) / 255.0 > 0).astype(int)


# ---------------------------------------------------------------- RFR

LEO_MEAN, LEO_STD = 72.1040267944336, 12.302865028381348  # of IRSatVideo-LEO


def rfr_maps(folder: Path, step: Callable[[Tensor, int], Tensor]) -> list[np.ndarray]:
    """Probabilities of the frames of a video in order, whose state `step` carries on from frame 0.

    step: probabilities [1, 1, H, W] of (frame [1, 1, H, W], its place)
    """
    maps = []
    for place, path in enumerate(sorted(folder.iterdir())):
        image = gray(path, LEO_MEAN, LEO_STD)
        height, width = image.shape
        padded = np.pad(image, ((0, -height % 32), (0, -width % 32)))  # after normalisation
        maps.append(step(torch.from_numpy(padded)[None, None], place)[0, 0, :height, :width].numpy())
    return maps


def rfr_truth(path: Path) -> np.ndarray:
    return np.array(Image.open(path), dtype=np.float32) / 255.0


def rfr_figures(maps: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    """Of probabilities and truths at the size of the files."""
    detected = [(p > 0.5).astype(int) for p in maps]
    truths = [truth.astype(int) for truth in truths]  # what is not 1 vanishes
    return {**centroid_matching(detected, truths, "areas"), "iou": pooled_iou(detected, truths)}
