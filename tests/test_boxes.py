"""Predictions and masks as boxes, responses and score maps, against loops over pixels."""

import numpy as np
import pytest
from test_component_metrics import blobs, components_by_flooding

from utils.boxes import BoxPrediction, MapPrediction, component_boxes, component_centroids, lengthened


def box_around(pixels):
    rows, cols = zip(*pixels, strict=True)
    return [min(cols), min(rows), max(cols) + 1, max(rows) + 1]


def random_mask(rng):
    return blobs(rng, tuple(rng.integers(1, 30, 2)), rng.integers(0, 8))


# ---- masks ----


def test_boxes_and_centroids_of_random_masks_equal_the_slow_version():
    rng = np.random.default_rng(0)
    num_components = 0
    for _ in range(100):
        mask = random_mask(rng)
        found = components_by_flooding(mask)
        num_components += len(found)
        boxes, centroids = component_boxes(mask), component_centroids(mask)
        assert (boxes.shape, boxes.dtype) == ((len(found), 4), np.float64)
        assert boxes.tolist() == [box_around(pixels) for pixels in found]
        np.testing.assert_allclose(
            centroids, np.reshape([np.mean(p, axis=0) for p in found], (-1, 2)), atol=1e-12
        )
    assert num_components > 200


def test_touching_target_values_are_one_component():
    mask = np.uint8([[0, 1, 255], [0, 0, 0], [7, 0, 0]])
    assert component_boxes(mask).tolist() == [[1, 0, 3, 1], [0, 2, 1, 3]]
    assert component_centroids(mask).tolist() == [[0, 1.5], [2, 0]]


def test_short_sides_are_lengthened_about_their_middle():
    mask = np.zeros((20, 20), np.uint8)
    mask[0, 0] = 1  # reaches beyond the frame
    mask[10, 5:12] = 1
    boxes = lengthened(component_boxes(mask), 4)
    assert boxes.tolist() == [[-1.5, -1.5, 2.5, 2.5], [5, 8.5, 12, 12.5]]
    scored = np.column_stack([component_boxes(mask), [0.25, 0.75]])
    assert lengthened(scored, 4)[:, 4].tolist() == [0.25, 0.75]


# ---- a mask model's map ----


def test_components_of_a_random_map_are_scored_by_their_largest_value():
    rng = np.random.default_rng(1)
    for _ in range(50):
        mask = random_mask(rng)
        values = np.where(mask, rng.uniform(0.5, 1, mask.shape), rng.uniform(0, 0.5, mask.shape))
        probability = values.astype(np.float32)
        found = components_by_flooding(probability > 0.5)
        prediction = MapPrediction(probability, 0.5)
        expected = [[*box_around(p), float(max(probability[pixel] for pixel in p))] for p in found]
        assert (prediction.boxes.shape, prediction.boxes.dtype) == ((len(found), 5), np.float64)
        assert prediction.boxes.tolist() == expected

        responses = prediction.responses
        assert responses.scores.tolist() == [row[4] for row in expected]
        np.testing.assert_array_equal(responses.centres, component_centroids(probability > 0.5))
        chosen = rng.random(len(found)) < 0.5
        covered = [
            score
            for pixels, score, is_chosen in zip(found, responses.scores, chosen, strict=True)
            for _ in pixels
            if is_chosen
        ]
        assert sorted(responses.pixel_scores(chosen)) == sorted(covered)


def test_the_threshold_of_a_map_is_exclusive_and_compared_in_float64():
    probability = np.float32([[0.1, 0, 0.35, 0, 0.5]])  # 0.1 and 0.35 of float32 lie above and below theirs
    assert MapPrediction(probability, 0.1).boxes[:, 0].tolist() == [0, 2, 4]
    assert MapPrediction(probability, 0.35).boxes[:, 0].tolist() == [4]
    assert MapPrediction(probability, 0.5).boxes.tolist() == []


def test_the_score_map_of_a_map_is_the_map():
    probability = np.float32([[0.1, 0.9]])
    assert MapPrediction(probability, 0.5).score_map is probability


# ---- a box model's boxes ----


def random_boxes(rng, shape, count):
    """Boxes of whole and of broken numbers around and beyond the frame, some with equal scores."""
    middle = rng.uniform(-5, np.add(shape, 5)[::-1], (count, 2))
    half = rng.uniform(0, 4, (count, 2))
    corners = np.concatenate([middle - half, middle + half], axis=1)
    corners = np.where(rng.random((count, 1)) < 0.5, np.rint(2 * corners) / 2, corners)
    return np.column_stack([corners, rng.choice([0.2, 0.5, *rng.random(3)], count)])


def covered_by(box, shape):
    """The pixels of the frame whose middle lies in the box."""
    x1, y1, x2, y2 = box[:4]
    height, width = shape
    return [
        (row, col)
        for row in range(height)
        for col in range(width)
        if x1 <= col + 0.5 < x2 and y1 <= row + 0.5 < y2
    ]


def score_map_by_loops(boxes, shape, outside=0.0):
    out = np.full(shape, outside)
    for box in boxes:
        for pixel in covered_by(box, shape):
            out[pixel] = max(out[pixel], box[4])
    return out


def test_score_map_of_random_boxes_equals_the_slow_version():
    rng = np.random.default_rng(2)
    for _ in range(60):
        shape = tuple(rng.integers(1, 15, 2).tolist())
        boxes = random_boxes(rng, shape, rng.integers(0, 8))
        prediction = BoxPrediction(boxes, shape)
        assert prediction.score_map.dtype == np.float32
        expected = score_map_by_loops(boxes, shape)
        np.testing.assert_array_equal(prediction.score_map, expected.astype(np.float32))
        chosen = rng.random(len(boxes)) < 0.5
        np.testing.assert_array_equal(
            prediction.responses.score_map(chosen, outside=-np.inf),
            score_map_by_loops(boxes[chosen], shape, -np.inf),
        )


@pytest.mark.parametrize(("half_side", "pixels"), [(0.5, 1), (0.49, 1), (1.49, 9), (1.5, 9), (1.51, 9)])
def test_a_box_about_a_pixel_has_its_centre_there(half_side, pixels):
    row, col = 7, 4
    corners = [col + 0.5 - half_side, row + 0.5 - half_side, col + 0.5 + half_side, row + 0.5 + half_side]
    prediction = BoxPrediction(np.array([[*corners, 0.9]]), (20, 20))
    np.testing.assert_allclose(prediction.responses.centres, [[row, col]])
    assert np.count_nonzero(prediction.score_map) == pixels


def test_rectangles_are_the_same_responses_as_a_map_and_as_boxes():
    probability = np.zeros((30, 40), np.float32)
    probability[3:6, 4:10] = 0.75
    probability[20, 30:32] = 0.625
    of_map = MapPrediction(probability, 0.5)
    of_boxes = BoxPrediction(of_map.boxes, probability.shape)
    np.testing.assert_array_equal(of_boxes.score_map, probability)
    np.testing.assert_array_equal(of_boxes.responses.centres, of_map.responses.centres)
    np.testing.assert_array_equal(of_boxes.responses.scores, of_map.responses.scores)


def test_boxes_are_no_map_and_may_be_none():
    prediction = BoxPrediction(np.zeros((0, 5)), (4, 6))
    assert prediction.map is None
    assert (prediction.score_map == 0).all()
    assert prediction.responses.centres.shape == (0, 2)
    empty = MapPrediction(np.zeros((4, 6), np.float32), 0.5)
    assert empty.boxes.shape == (0, 5)
    assert empty.responses.centres.shape == (0, 2)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([1, 2, 3, 4, 0.5], None),
        ([1, 2, 1, 2, 0.0], None),
        ([-9, -9, 99, 99, 1.000001], None),  # as rounding gives it
        ([1, 2, 3, np.inf, 0.5], "a box that is not finite"),
        ([1, 2, 3, 4, np.nan], "a box that is not finite"),
        ([3, 2, 1, 4, 0.5], "a box whose right or lower side lies before its left or upper one"),
        ([1, 4, 3, 2, 0.5], "a box whose right or lower side lies before its left or upper one"),
        ([1, 2, 3, 4, -0.25], "a score of -0.25, where scores are from 0 to 1"),
        ([1, 2, 3, 4, 1.5], "a score of 1.5, where scores are from 0 to 1"),
    ],
)
def test_boxes_that_are_none_are_told(values, fault):
    boxes = np.array([[0, 0, 1, 1, 0.75], values])
    assert BoxPrediction(boxes, (9, 9)).fault((9, 9)) == fault
    assert BoxPrediction(np.zeros((0, 5)), (9, 9)).fault((9, 9)) is None


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (1.000001, None),
        (1.1, "values from 0 to 1.1, where probabilities are from 0 to 1"),
        (-0.1, "values from -0.1 to 0, where probabilities are from 0 to 1"),
        (np.nan, "values from nan to nan, where probabilities are from 0 to 1"),
    ],
)
def test_maps_that_are_none_are_told(value, fault):
    found = np.zeros((3, 4), np.float32)
    found[1, 2] = value
    assert MapPrediction(found, 0.5).fault((3, 4)) == fault
    assert MapPrediction(found, 0.5).fault((4, 3)) == "a map of [3, 4] pixels for a frame of [4, 3]"
