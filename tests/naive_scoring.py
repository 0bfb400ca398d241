"""How responses were counted before: a labelling for each metric, and a loop over components.

tests/test_scoring_speed.py and tools/speed_data.py compare with it.
"""

import numpy as np
from scipy.ndimage import find_objects
from skimage.measure import label

from metrics.centroid_pd_fa import MOST_CUT, find_targets
from metrics.iou import TARGETS, exceeds
from metrics.pd_fa import match
from metrics.shooting_rules import count_reaching


def components(mask):
    """(rows, columns) of the pixels of each component of a bool map [H, W]."""
    labels = label(mask, connectivity=2)
    found = []
    for number, (rows, cols) in enumerate(find_objects(labels), start=1):
        inside = np.nonzero(labels[rows, cols] == number)
        found.append((inside[0] + rows.start, inside[1] + cols.start))
    return found


def component_boxes(mask):
    corners = [(cols.min(), rows.min(), cols.max() + 1, rows.max() + 1) for rows, cols in components(mask)]
    return np.array(corners, np.float64).reshape(-1, 4)


def component_centroids(mask):
    return centroids_of(components(mask))


def centroids_of(pixels):
    return np.array([(rows.mean(), cols.mean()) for rows, cols in pixels], np.float64).reshape(-1, 2)


def update_centroid_pd_fa(metric, probability, threshold, centroids):
    """One frame of a metric CentroidPdFa; probability [H, W], centroids [N, 2]."""
    pixels = components(probability > np.float64(threshold))
    scores = np.array([probability[p].max() for p in pixels], np.float64)
    found = find_targets(scores, centroids_of(pixels), centroids)
    false_scores = np.full(probability.shape, -np.inf, np.float64)
    order = np.argsort(scores, kind="stable")
    for place in order[~found[order]]:
        false_scores[pixels[place]] = scores[place]
    metric.counts["true"] += count_reaching(scores[found], metric.thresholds)
    metric.counts["false"] += count_reaching(false_scores.ravel(), metric.thresholds)
    metric.counts["false_responses"] += count_reaching(scores[~found], metric.thresholds)
    metric.counts["targets"] += len(centroids)
    metric.counts["pixels"] += false_scores.size
    metric.counts["frames"] += 1
    metric.counts["cut_frames"] += threshold > MOST_CUT


def areas_and_centroids(pixels):
    """Areas [N] and centroids [N, 2] (row, column) of the components of a bool map [H, W]."""
    rows, cols = np.divmod(np.flatnonzero(pixels), pixels.shape[1])
    component = label(pixels, connectivity=2)[rows, cols] - 1
    areas = np.bincount(component)
    sums = np.stack([np.bincount(component, rows), np.bincount(component, cols)], axis=1)
    return areas, sums / areas[:, None]


def update_pd_fa(metric, probability, mask):
    """One frame of a metric PdFa; both [H, W]."""
    _, targets = areas_and_centroids(TARGETS[metric.target](mask))
    areas, responses = areas_and_centroids(exceeds(probability, metric.threshold))
    found = match(targets, responses)
    if metric.rule == "areas":
        false = areas[~np.isin(areas, areas[found])].sum()
    else:
        false = areas.sum() - areas[found].sum()
    metric.counts["true"] += len(found)
    metric.counts["targets"] += len(targets)
    metric.counts["false"] += int(false)
    metric.counts["pixels"] += mask.size
