"""CentroidPdFa against a slow form that scores every threshold anew, and by hand."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from test_boxes import covered_by, random_boxes
from test_component_metrics import components_by_flooding, random_frame

from metrics import create_metric
from metrics.target_rules import THRESHOLDS
from utils.boxes import BoxPrediction, MapPrediction, component_centroids
from utils.errors import UserError

SHAPE = (20, 40)


def scored(frames, **options):
    """The figures of (prediction, truth [N, 2]) pairs."""
    metric = create_metric("CentroidPdFa", **options)
    for prediction, truth in frames:
        metric.update(prediction.responses, truth)
    return metric.compute()


def boxes_of(*rows):
    return BoxPrediction(np.array(rows, float).reshape(-1, 5), SHAPE)


def at_half(*frames):
    """true, false, false boxes at the threshold 0.5, for frames of (boxes, truth)."""
    scores = scored(frames, thresholds=[0.5])
    false_boxes = scores["false_boxes_per_frame"][0] * len(frames)
    return scores["true"][0], scores["false"][0], false_boxes


# ---- against the slow version ----


def counts_by_loops(responses, targets, threshold):
    """true, false pixels, false responses; responses are (score, centre, pixels)."""
    kept = sorted((r for r in responses if r[0] >= threshold), key=lambda r: -r[0])
    free = [tuple(target) for target in targets]
    false_pixels, num_true, num_false = set(), 0, 0
    for _, centre, pixels in kept:
        nearest = min(free, key=lambda target: math.dist(target, centre), default=None)
        if nearest is not None and math.dist(nearest, centre) < 3:
            free.remove(nearest)
            num_true += 1
        else:
            num_false += 1
            false_pixels |= set(pixels)
    return num_true, len(false_pixels), num_false


def assert_equals_loops(prediction, responses, targets, thresholds):
    scores = scored([(prediction, targets)], thresholds=thresholds)
    counted = np.stack([scores[k] for k in ("true", "false", "false_boxes_per_frame")], axis=1)
    expected = [counts_by_loops(responses, targets, threshold) for threshold in thresholds]
    np.testing.assert_array_equal(counted, expected)
    return counted[:, 0].sum()


def test_random_boxes_equal_the_slow_version():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(120):
        shape = tuple(rng.integers(5, 15, 2).tolist())
        boxes = random_boxes(rng, shape, rng.integers(0, 10))
        targets = rng.uniform(0, shape, (rng.integers(0, 5), 2))
        responses = [
            (s, ((y1 + y2 - 1) / 2, (x1 + x2 - 1) / 2), covered_by((x1, y1, x2, y2), shape))
            for x1, y1, x2, y2, s in boxes.tolist()
        ]
        thresholds = np.unique([0, 0.2, 0.5, 0.9, *boxes[:2, 4]])
        found += assert_equals_loops(BoxPrediction(boxes, shape), responses, targets, thresholds)
    assert found > 100


def test_random_maps_equal_the_slow_version():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(60):
        probability, mask = random_frame(rng)
        components = components_by_flooding(probability > 0.5)
        responses = [
            (float(max(probability[p] for p in pixels)), np.mean(pixels, axis=0), pixels)
            for pixels in components
        ]
        prediction = MapPrediction(probability, 0.5)
        found += assert_equals_loops(prediction, responses, component_centroids(mask), [0, 0.6, 0.8, 0.95])
    assert found > 100


# ---- by hand ----


def test_of_two_boxes_on_one_target_the_one_with_the_lower_score_is_false():
    two = boxes_of([4, 4, 7, 7, 0.9], [3, 3, 8, 8, 0.95])
    scores = scored([(two, [[5, 5]])], thresholds=[0.5, 0.92, 0.99])
    assert scores["true"].tolist() == [1, 1, 0]
    assert scores["false"].tolist() == [9, 0, 0]
    assert scores["false_boxes_per_frame"].tolist() == [1, 0, 0]


def test_a_box_over_two_targets_finds_the_nearest_alone():
    over_both = [3, 3, 9, 8, 0.9]  # centre (5, 5.5)
    beside_the_farther = [7, 3, 10, 8, 0.8]  # centre (5, 8), too far from the nearer
    targets = [[5, 7.25], [5, 4.75]]
    assert at_half((boxes_of(over_both), targets)) == (1, 0, 0)
    assert at_half((boxes_of(over_both, beside_the_farther), targets)) == (2, 0, 0)
    only_the_first_is_near = [[5, 4.75], [5, 20]]
    assert at_half((boxes_of(over_both, beside_the_farther), only_the_first_is_near)) == (1, 15, 1)


def test_of_equal_scores_the_first_box_is_matched_first():
    small, large = [5, 5, 6, 6, 0.7], [3, 3, 8, 8, 0.7]
    assert at_half((boxes_of(small, large), [[5, 5]])) == (1, 25, 1)
    assert at_half((boxes_of(large, small), [[5, 5]])) == (1, 1, 1)


def test_false_boxes_are_clipped_to_the_frame_and_joined():
    beyond, overlapping = [-4, -2, 3, 2, 0.9], [1, 0, 5, 2, 0.8]
    outside = [100, 100, 108, 108, 0.9]
    assert at_half((boxes_of(beyond, overlapping, outside), np.zeros((0, 2)))) == (0, 2 * 5, 3)


def test_a_matched_box_makes_no_pixel_false_but_forgives_none():
    matched, false = [4, 4, 7, 7, 0.9], [5, 5, 12, 8, 0.8]  # centres (5, 5) and (6, 8)
    assert at_half((boxes_of(matched, false), [[5, 5]])) == (1, 21, 1)


@pytest.mark.parametrize(("left", "true"), [(7, 1), (8, 0)])
def test_a_distance_of_exactly_3_is_no_match(left, true):
    assert at_half((boxes_of([left, 5, left + 1, 6, 0.9]), [[5, 5]])) == (true, 1 - true, 1 - true)


def test_nor_is_it_once_a_nearer_target_is_taken():
    first, second = [5, 5, 6, 6, 0.9], [6, 5, 7, 6, 0.8]  # centres (5, 5) and (5, 6)
    assert at_half((boxes_of(first, second), [[5, 5], [5, 9]])) == (1, 1, 1)


def test_a_score_on_the_threshold_counts_and_is_compared_in_float64():
    below_as_float64 = float(np.float32(0.35))
    boxes = boxes_of([4, 4, 7, 7, below_as_float64], [24, 4, 27, 7, 0.5])
    scores = scored([(boxes, [[5, 5]])])
    reached = dict(zip(scores["thresholds"], zip(scores["true"], scores["false"], strict=True), strict=True))
    assert [reached[t] for t in (0, 0.3, 0.35, 0.5, 0.55)] == [(1, 9), (1, 9), (0, 9), (0, 9), (0, 0)]


def test_rates_over_several_frames():
    hit_and_false = boxes_of([4, 4, 7, 7, 0.9], [20, 10, 24, 14, 0.6])
    frames = [(hit_and_false, [[5, 5], [15, 30]]), (boxes_of(), np.zeros((0, 2))), (boxes_of(), [[1, 1]])]
    scores = scored(frames)
    assert np.array_equal(scores["thresholds"], THRESHOLDS)
    assert scores["targets"].tolist() == [3] * 27
    assert scores["pixels"] == 3 * 800
    at = THRESHOLDS.index(0.5)
    assert scores["pd"][at] == pytest.approx(1 / 3)
    assert scores["fa"][at] == pytest.approx(16 / 2400)
    assert scores["false_boxes_per_frame"][at] == pytest.approx(1 / 3)
    assert scores["auc"] == pytest.approx(16 / 2400 * 1 / 3)  # pd is 1/3 wherever fa falls
    assert scores["auc_normalised"] == pytest.approx(1 / 3)


# ---- as a metric ----


def test_merged_metrics_equal_one_that_saw_all_frames():
    rng = np.random.default_rng(2)
    frames = [
        (BoxPrediction(random_boxes(rng, SHAPE, 12), SHAPE), rng.uniform(0, SHAPE, (4, 2))) for _ in range(6)
    ]
    parts = [create_metric("CentroidPdFa"), create_metric("CentroidPdFa")]
    for index, (prediction, truth) in enumerate(frames):
        parts[index % 2].update(prediction.responses, truth)
    merged = pickle.loads(pickle.dumps(parts[0]))
    merged.merge(parts[1])
    np.testing.assert_equal(merged.compute(), scored(frames))
    merged.reset()
    np.testing.assert_equal(merged.compute(), create_metric("CentroidPdFa").compute())
    with pytest.raises(ValueError, match="does not count"):
        merged.merge(create_metric("CentroidPdFa", thresholds=[0.5]))


def test_without_targets_or_frames_figures_are_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without_targets = scored([(boxes_of([4, 4, 7, 7, 0.9]), torch.zeros(0, 2))])
        without_frames = create_metric("CentroidPdFa").compute()
    assert np.isnan(without_targets["pd"]).all()
    assert without_targets["fa"][0] == 9 / 800
    assert np.isnan(without_frames["fa"]).all()
    assert np.isnan(without_frames["false_boxes_per_frame"]).all()


def test_a_score_that_is_nan_is_refused():
    with pytest.raises(UserError, match="nan"):
        scored([(boxes_of([4, 4, 7, 7, np.nan]), [[5, 5]])])


@pytest.mark.parametrize("thresholds", [[], [0.5, 0.1], [0.5, 0.5]])
def test_wrong_thresholds_are_refused(thresholds):
    with pytest.raises(UserError, match="ascending"):
        create_metric("CentroidPdFa", thresholds=thresholds)


def test_components_of_one_threshold_have_no_area_under_their_curve():
    """Of a map the responses below its threshold are not known; those of boxes are."""
    probability = np.zeros(SHAPE, np.float32)
    probability[5, 5], probability[15, 30] = 0.9, 0.7
    targets = [[5, 5]]
    assert np.isnan(scored([(MapPrediction(probability, 0.5), targets)])["auc"])
    assert scored([(MapPrediction(probability, 0.5), targets)], thresholds=[0.5])["pd"][0] == 1
    boxes = boxes_of([5, 5, 6, 6, 0.9], [30, 15, 31, 16, 0.7])
    assert scored([(boxes, targets)])["auc"] == pytest.approx(1 / 800)
    mixed = scored([(boxes, targets), (MapPrediction(probability, 0.5), targets)])
    assert np.isnan(mixed["auc"])
