"""How the papers count targets and false pixels, in loops as their own code has them, defects included."""

from collections.abc import Iterable

import numpy as np

Pixel = tuple[int, int]
EPS = np.spacing(1)  # what the papers add to what they divide by


# ---------------------------------------------------------------- components


def components(pixels: np.ndarray) -> list[list[Pixel]]:
    """The 8-connected components of what is not 0 in [H, W], in the raster order of their first pixels."""
    free = {(int(row), int(col)): None for row, col in np.argwhere(pixels)}  # in raster order
    found = []
    for start in list(free):
        if start not in free:
            continue
        del free[start]
        component = [start]
        for row, col in component:  # grows meanwhile
            for near in ((row + i, col + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if near in free:
                    del free[near]
                    component.append(near)
        found.append(component)
    return found


def centroid(component: list[Pixel]) -> tuple[float, float]:
    rows, cols = zip(*component, strict=True)
    return sum(rows) / len(rows), sum(cols) / len(cols)


def distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


# ---------------------------------------------------------------- Pd and Fa by components (BasicIRSTD)


def centroid_matching(maps: Iterable, truths: Iterable, rule: str) -> dict[str, float]:
    """Pd and Fa of predictions [H, W] of 0 and 1 against truths of 0 and 1.

    A target takes the first response not yet taken whose centroid is nearer than 3 pixels.
    rule: "pixels": false are the pixels of responses that were not taken; "areas": of those whose area is not
          among the areas of the ones that were taken
    """
    true = targets = false = pixels = 0
    for detected, truth in zip(maps, truths, strict=True):
        responses = components(detected)
        taken = []
        for target in components(truth):
            targets += 1
            for response in responses:
                if response in taken:
                    continue
                if distance(centroid(response), centroid(target)) < 3:
                    taken.append(response)
                    true += 1
                    break
        for response in responses:
            if rule == "areas":
                is_false = len(response) not in [len(other) for other in taken]
            else:
                is_false = response not in taken
            false += len(response) if is_false else 0
        pixels += detected.size
    counts = {"true": true, "targets": targets, "false": false, "pixels": pixels}
    return {**counts, "pd": true / targets, "fa": false / pixels}


def pooled_iou(maps: Iterable, truths: Iterable) -> float:
    """mIoU: one ratio over all frames, of predictions and truths of 0 and 1."""
    intersection = union = 0
    for detected, truth in zip(maps, truths, strict=True):
        both = int(((detected == 1) & (truth == 1)).sum())
        intersection += both
        union += int(detected.sum()) + int(truth.sum()) - both
    return intersection / (union + EPS)


def area_under(x: list[float], y: list[float]) -> float:
    """Trapezoids, x falling."""
    area = 0.0
    for k in range(len(x) - 1):
        area += (x[k] - x[k + 1]) * (y[k] + y[k + 1]) / 2
    return area


# ---------------------------------------------------------------- shooting rules (DTUM, DeepPro)

DTUM_THRESHOLDS = [0, 1e-30, *(float(f"1e-{power}") for power in range(20, 0, -1))]
DTUM_THRESHOLDS += [*(hundredths / 100 for hundredths in range(15, 100, 5)), 0.975, 0.98, 0.99, 0.995, 0.999]
DTUM_THRESHOLDS += [0.9995, 0.9999, 0.99999, 0.999999, 0.9999999, 1]
DEEPPRO_THRESHOLDS = [0, 1e-20, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.3, 0.35, 0.4]
DEEPPRO_THRESHOLDS += [0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1]


def shooting_rules(p: np.ndarray, centroid_map: np.ndarray, threshold: float) -> tuple[int, int, int]:
    """(false pixels, found targets, targets) of one frame. A slice whose start is negative is left so."""
    detected = np.where(p < np.float64(threshold), 0, 1)
    outside = np.ones_like(detected)
    targets = components(centroid_map.astype(int))
    found = 0
    for target in targets:
        is_found = False
        for row, col in target:
            outside[row - 4 : row + 5, col - 4 : col + 5] = 0
            is_found = is_found or bool(detected[row - 1 : row + 2, col - 1 : col + 2].sum() >= 1)
        found += is_found
    return int((detected * outside).sum()), found, len(targets)


def shooting_figures(
    maps: list[np.ndarray], centroid_maps: list[np.ndarray], thresholds: list[float]
) -> dict[str, float | list[int]]:
    """Pd and Fa at 0.5 and the area under the curve of all thresholds, without end points."""
    pixels = sum(p.size for p in maps)
    false, true = [], []
    for threshold in thresholds:
        counts = [shooting_rules(*frame, threshold) for frame in zip(maps, centroid_maps, strict=True)]
        false.append(sum(count[0] for count in counts))
        true.append(sum(count[1] for count in counts))
    targets = sum(count[2] for count in counts)
    fa, pd = [count / pixels for count in false], [count / targets for count in true]
    at = thresholds.index(0.5)
    figures = {"pd": pd[at], "fa": fa[at], "auc": area_under(fa, pd), "true": true[at], "false": false[at]}
    return {**figures, "targets": targets, "pixels": pixels, "curve_true": true, "curve_false": false}
