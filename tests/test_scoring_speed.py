"""What is labelled once equals what was labelled for each metric and component, and is many times faster."""

import time
from pathlib import Path

import cv2
import naive_scoring
import numpy as np
import pytest
from skimage.measure import label

from metrics import create_metric
from utils.boxes import MapPrediction, component_boxes, component_centroids
from utils.components import Components

DATA = Path(__file__).parent / "data"


def noisy_map(rng, size):
    """Probabilities of which some percent lie above a half, in thousands of components."""
    return (1 / (1 + np.exp(-rng.normal(-4, 2.5, size)))).astype(np.float32)


def random_maps(rng, count):
    """(probabilities, mask): of no, few, many and only responses, at the borders as well."""
    for _ in range(count):
        size = tuple(rng.integers(1, 60, 2))
        detected = rng.random(size) < rng.choice([0, 0.01, 0.1, 0.3, 0.5, 0.9, 1])
        probability = np.where(detected, rng.uniform(0.5, 1, size), rng.uniform(0, 0.5, size))
        yield probability.astype(np.float32), rng.random(size) < rng.choice([0, 0.01, 0.05])


def stored_maps():
    shooting, rprnet = (np.load(DATA / f"metrics_{name}.npz") for name in ("shooting", "rprnet"))
    yield from zip(shooting["predictions"], shooting["centroids"] > 0, strict=True)
    yield from zip(rprnet["preds"], rprnet["masks"] > 0, strict=True)


def all_maps():
    rng = np.random.default_rng(0)
    yield from stored_maps()
    yield from random_maps(rng, 150)
    yield noisy_map(rng, (256, 256)), rng.random((256, 256)) < 0.001


@pytest.mark.parametrize("threads", [1, 2])
def test_components_are_in_the_raster_order_of_their_first_pixels(threads):
    rng, before = np.random.default_rng(1), cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        for size in [(1, 1), (1, 50), (50, 1), (37, 41), (700, 800)]:
            for part in (0, 0.05, 0.3, 0.6, 1):
                mask = rng.random(size) < part
                found, labels = Components.of(mask), label(mask, connectivity=2)
                np.testing.assert_array_equal(labels[found.rows, found.columns], found.number + 1)
                assert found.areas.tolist() == np.bincount(labels.ravel())[1:].tolist()
    finally:
        cv2.setNumThreads(before)


def test_boxes_and_centroids_are_those_of_each_component_alone():
    for _, mask in all_maps():
        np.testing.assert_array_equal(component_boxes(mask), naive_scoring.component_boxes(mask))
        np.testing.assert_array_equal(component_centroids(mask), naive_scoring.component_centroids(mask))


def test_metrics_count_as_when_each_labelled_for_itself():
    found = 0
    for probability, mask in all_maps():
        metric, expected = create_metric("CentroidPdFa"), create_metric("CentroidPdFa")
        centroids = component_centroids(mask)
        metric.update(MapPrediction(probability, 0.5).responses, centroids)
        naive_scoring.update_centroid_pd_fa(expected, probability, 0.5, centroids)
        np.testing.assert_equal(metric.counts, expected.counts)
        found += metric.counts["true"][0]
        for options in ({"rule": "pixels"}, {"rule": "areas"}, {"target": "one"}):
            metric, expected = create_metric("PdFa", **options), create_metric("PdFa", **options)
            metric.update(probability, mask)
            naive_scoring.update_pd_fa(expected, probability, mask)
            assert metric.counts == expected.counts
    assert found > 100


def test_a_noisy_frame_is_counted_ten_times_faster():
    rng = np.random.default_rng(2)
    probability, centroids = noisy_map(rng, (256, 256)), np.array([[100.0, 100.0]])
    metric = create_metric("CentroidPdFa")
    slow, fast = [], []
    for _ in range(5):  # in turn, so that both meet the same load of the machine
        begin = time.process_time()
        naive_scoring.update_centroid_pd_fa(metric, probability, 0.5, centroids)
        slow.append(time.process_time() - begin)
        begin = time.process_time()
        metric.update(MapPrediction(probability, 0.5).responses, centroids)
        fast.append(time.process_time() - begin)
    assert min(slow) > 10 * min(fast)
