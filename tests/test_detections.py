"""Detections of a frame, and homographies from frame to frame."""

import numpy as np

from utils.boxes import BoxPrediction, MapPrediction
from utils.detections import Detections
from utils.motion import chained, moved


def test_the_components_of_a_map_are_detections_in_the_order_of_their_scores():
    probability = np.zeros((8, 12), np.float32)
    probability[2, 3:5] = 0.625, 0.75
    probability[5:7, 9] = 0.875
    probability[0, 0] = 0.25
    found = Detections.of(MapPrediction(probability, 0.5), 0.5)
    assert found.centres.tolist() == [[9, 5.5], [3.5, 2]]  # x, y
    assert found.boxes.tolist() == [[9, 5, 10, 7], [3, 2, 5, 3]]
    assert found.scores.tolist() == [0.875, 0.75]
    assert found.tracks.tolist() == [0, 0] and found.tracked([0, 7]).tracks.tolist() == [0, 7]


def test_boxes_at_the_threshold_and_below_are_no_detections():
    boxes = np.array([[0, 0, 4, 4, 0.5], [2, 3, 4, 7, 0.75]])
    found = Detections.of(BoxPrediction(boxes, (8, 8)), 0.5)
    assert found.boxes.tolist() == [[2, 3, 4, 7]] and found.centres.tolist() == [[2.5, 4.5]]


def test_without_a_prediction_nothing_is_detected():
    assert len(Detections.of(None, 0.5)) == 0


def test_homographies_are_applied_in_their_order():
    shift, double = np.array([[1, 0, 3], [0, 1, 0], [0, 0, 1.0]]), np.diag([2, 2, 1.0])
    points = [[1, 2], [0, 0]]
    assert moved(points, chained([shift, double])).tolist() == [[8, 4], [6, 0]]
    assert moved(points, chained([double, shift])).tolist() == [[5, 4], [3, 0]]
    perspective = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0, 1]])
    assert moved([[2, 4]], perspective).tolist() == [[1, 2]]
    assert chained([2 * shift])[2, 2] == 1 and chained([]).tolist() == np.eye(3).tolist()
