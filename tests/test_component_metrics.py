"""PdFa, ROC, IoU and nIoU against stored counts of the published code and against slow forms of the rules."""

import math
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from metrics import create_metric
from utils.errors import UserError

STORED = np.load(Path(__file__).parent / "data" / "metrics_rprnet.npz")
FRAMES = list(zip(STORED["preds"], STORED["masks"], strict=True))


def scored(name, frames, **options):
    metric = create_metric(name, **options)
    for probability, mask in frames:
        metric.update(probability, mask)
    return metric.compute()


def blobs(rng, shape, count):
    """A bool map with `count` rectangles and diagonals of up to 4 pixels a side."""
    out = np.zeros(shape, bool)
    for _ in range(count):
        row, col = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        height, width = rng.integers(1, 5, 2)
        if rng.random() < 0.3:
            for step in range(height):
                out[min(row + step, shape[0] - 1), min(col + step, shape[1] - 1)] = True
        else:
            out[row : row + height, col : col + width] = True
    return out


def random_frame(rng):
    """Targets, and responses of which some lie near a target; the mask has soft values too."""
    shape = tuple(rng.integers(1, 30, 2))
    target = blobs(rng, shape, rng.integers(0, 6))
    response = blobs(rng, shape, rng.integers(0, 6)) | np.roll(target, rng.integers(-3, 4, 2), (0, 1))
    soft = np.where(rng.random(shape) < 0.2, rng.choice([0.25, 0.5, 0.999], shape), 1)
    probability = np.where(response, rng.uniform(0.5, 1, shape), rng.uniform(0, 0.5, shape))
    probability = np.where(rng.random(shape) < 0.1, rng.integers(0, 31, shape) / 30, probability)
    return probability.astype(np.float32), (target * soft).astype(np.float32)


# ---- PdFa ----


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("test_py", {"rule": "areas"}),
        ("binary", {"rule": "areas"}),
        ("metrics_py", {"rule": "areas", "target": "one"}),
        ("basicirstd_maskgt0", {"rule": "pixels"}),
    ],
)
def test_pd_fa_of_the_published_code_after_every_frame(key, options):
    metric = create_metric("PdFa", **options)
    cumulative = STORED[f"{key}/pdfa_cumulative_target_matched_fapix_allpix"]
    for name, frame, counts in zip(STORED["names"], FRAMES, cumulative, strict=True):
        metric.update(*frame)
        scores = metric.compute()
        assert [scores[k] for k in ("targets", "true", "false", "pixels")] == counts.tolist(), name
    assert [scores["pd"], scores["fa"]] == pytest.approx(STORED[f"{key}/Pd_Fa"], rel=1e-12)


def components_by_flooding(pixels):
    """Lists of (row, column), in the raster order of their first pixels."""
    left = {(int(row), int(col)) for row, col in np.argwhere(pixels)}
    found = []
    while left:
        component = [min(left)]
        left.remove(component[0])
        for row, col in component:
            around = {(row + y, col + x) for y in (-1, 0, 1) for x in (-1, 0, 1)} & left
            component += around
            left -= around
        found.append(component)
    return found


def pd_fa_by_loops(probability, mask, rule, target):
    """Targets found, targets, false pixels."""
    targets = components_by_flooding(mask.astype(int) == 1 if target == "one" else mask > 0)
    responses = components_by_flooding(probability > 0.5)
    taken = []
    for wanted in targets:
        for place, response in enumerate(responses):
            centres = (np.mean(wanted, axis=0), np.mean(response, axis=0))
            if place not in taken and math.dist(*centres) < 3:
                taken.append(place)
                break
    forgiven = {len(responses[place]) for place in taken} if rule == "areas" else set()
    free = [r for place, r in enumerate(responses) if place not in taken]
    return len(taken), len(targets), sum(len(r) for r in free if len(r) not in forgiven)


@pytest.mark.parametrize("rule", ["areas", "pixels"])
@pytest.mark.parametrize("target", ["positive", "one"])
def test_pd_fa_of_random_frames_equals_the_slow_version(rule, target):
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(150):
        frame = random_frame(rng)
        scores = scored("PdFa", [frame], rule=rule, target=target)
        expected = pd_fa_by_loops(*frame, rule, target)
        assert (scores["true"], scores["targets"], scores["false"]) == expected
        found += expected[0]
    assert found > 100


def map_of(*boxes):
    """A map of 20x40 with 1 in each box (top, left, height, width)."""
    out = np.zeros((20, 40), np.float32)
    for top, left, height, width in boxes:
        out[top : top + height, left : left + width] = 1
    return out


def test_a_false_component_with_the_area_of_a_match_is_forgiven_by_areas_alone():
    target = map_of((5, 5, 3, 3))
    response = map_of((5, 6, 3, 3), (14, 30, 1, 9), (15, 5, 2, 2))
    assert scored("PdFa", [(response, target)], rule="areas")["false"] == 4
    assert scored("PdFa", [(response, target)], rule="pixels")["false"] == 9 + 4


@pytest.mark.parametrize(("left", "true"), [(7, 1), (8, 0)])
def test_a_distance_of_exactly_3_is_no_match(left, true):
    scores = scored("PdFa", [(map_of((5, left, 1, 1)), map_of((5, 5, 1, 1)))])
    assert (scores["true"], scores["false"]) == (true, 1 - true)


def test_one_response_finds_one_target():
    between = map_of((5, 7, 1, 1))
    two = map_of((5, 5, 1, 1), (5, 9, 1, 1))
    assert scored("PdFa", [(between, two)])["true"] == 1
    one_false = {"pd": 1, "fa": 1 / 800, "true": 1, "targets": 1, "false": 1, "pixels": 800}
    assert scored("PdFa", [(two, between)]) == one_false


def test_a_target_takes_the_first_response_in_raster_order_not_the_nearest():
    targets = map_of((6, 7, 1, 1), (9, 4, 1, 1))
    responses = map_of((7, 5, 1, 1), (7, 7, 1, 1))  # the left one is in reach of both targets
    assert scored("PdFa", [(responses, targets)])["true"] == 1


def test_the_threshold_is_exclusive_and_compared_in_float64():
    on_threshold = map_of((5, 5, 1, 1)) * np.float32(0.35)  # below 0.35 as float64
    above = map_of((5, 5, 1, 1)) * np.float32(0.36)
    frames = [(on_threshold, map_of((5, 5, 1, 1))), (above, map_of((5, 5, 1, 1)))]
    assert scored("PdFa", frames, threshold=0.35)["true"] == 1
    assert scored("PdFa", frames[1:], threshold=float(np.float32(0.36)))["true"] == 0


# ---- ROC ----


@pytest.mark.parametrize(("key", "target"), [("test_py", "soft"), ("binary", "positive")])
def test_roc_of_the_published_code(key, target):
    scores = scored("ROC", FRAMES, target=target)
    for name in ("tp", "pos", "fp", "neg", "class_pos"):
        assert np.array_equal(scores[name], STORED[f"{key}/roc30_{name}"]), name
    for name, stored in (("tpr", "tp_rate"), ("fpr", "fp_rate"), ("precision", "precision")):
        np.testing.assert_allclose(scores[name], STORED[f"{key}/roc30_{stored}"], rtol=1e-12)
    assert scores["f1_published"] == pytest.approx(float(STORED[f"{key}/F1_index5"]), rel=1e-12)


def roc_by_loops(probability, mask, target, bins):
    """tp, fp, tn, fn per threshold, [4, bins + 1], as the description defines them."""
    truth = mask if target == "soft" else (mask > 0).astype(np.float32)
    counts = []
    for i in range(bins + 1):
        detected = (torch.tensor(probability) > i / bins).numpy()  # torch compares in float32
        tp, fp = (detected & (truth == 1)).sum(), (detected & (truth != 1)).sum()
        tn, fn = (~detected & (truth == 0)).sum(), (~detected & (truth != 0)).sum()
        counts.append((tp, fp, tn, fn))
    return np.array(counts).T


@pytest.mark.parametrize("target", ["soft", "positive"])
@pytest.mark.parametrize("bins", [30, 6])
def test_roc_of_random_frames_equals_the_slow_version(target, bins):
    rng = np.random.default_rng(1)
    for _ in range(40):
        frame = random_frame(rng)
        tp, fp, tn, fn = roc_by_loops(*frame, target, bins)
        scores = scored("ROC", [frame], bins=bins, target=target)
        assert np.array_equal(scores["thresholds"], [i / bins for i in range(bins + 1)])
        for name, expected in {"tp": tp, "fp": fp, "pos": tp + fn, "neg": fp + tn}.items():
            assert np.array_equal(scores[name], expected), name
        precision, recall = tp / (tp + fp + 0.001), tp / (tp + fn + 0.001)
        f1 = 2 * precision * recall / (precision + recall + 1e-5)
        assert scores["f1_at_half"] == pytest.approx(f1[bins // 2], rel=1e-12)


def test_auc_is_the_chance_that_a_target_pixel_exceeds_more_thresholds_than_background():
    rng = np.random.default_rng(2)
    mask = rng.random((60, 70)) < 0.4
    level = np.clip(rng.integers(0, 25, mask.shape) + 5 * mask, 0, 29)
    difference = level[mask][:, None] - level[~mask][None]
    expected = (difference > 0).mean() + (difference == 0).mean() / 2
    scores = scored("ROC", [((level + 0.5) / 30, mask)])
    assert scores["auc"] == pytest.approx(expected, abs=1e-5)


def test_auc_of_a_perfect_detector_is_1():
    mask = np.zeros((200, 200), np.uint8)
    mask[50:150, 50:150] = 1
    assert scored("ROC", [(mask.astype(np.float32), mask)])["auc"] == pytest.approx(1, abs=1e-6)


# ---- IoU, nIoU ----


@pytest.mark.parametrize(
    ("key", "target"), [("test_py", "positive"), ("basicirstd_maskgt0", "positive"), ("metrics_py", "soft")]
)
def test_iou_and_pixacc_of_the_published_code_after_every_frame(key, target):
    metric = create_metric("mIoU", target=target)
    cumulative = STORED[f"{key}/iou_cumulative_correct_labelled_inter_union"]
    for name, frame, (hits, labelled, intersection, union) in zip(
        STORED["names"], FRAMES, cumulative, strict=True
    ):
        metric.update(*frame)
        scores = metric.compute()
        assert scores["pixacc"] == pytest.approx(hits / labelled, rel=1e-12), name
        assert scores["iou"] == pytest.approx(intersection / union, rel=1e-12), name


@pytest.mark.parametrize(("key", "target"), [("test_py", "one"), ("binary", "positive")])
def test_niou_of_the_published_code_after_every_frame(key, target):
    metric = create_metric("nIoU", target=target)
    frame_ious = STORED[f"{key}/niou_inter"] / np.maximum(STORED[f"{key}/niou_union"], 1)
    for number, frame in enumerate(FRAMES, 1):
        metric.update(*frame)
        assert metric.compute() == {"niou": pytest.approx(frame_ious[:number].mean(), rel=1e-12)}
    assert metric.compute()["niou"] == pytest.approx(float(STORED[f"{key}/nIoU"]), rel=1e-12)


# ---- all of them ----

NAMES = ("PdFa", "ROC", "IoU", "nIoU")


@pytest.mark.parametrize("name", NAMES)
def test_merged_metrics_equal_one_that_saw_all_frames(name):
    parts = [create_metric(name), create_metric(name)]
    for index, frame in enumerate(FRAMES):
        parts[index % 2].update(*frame)
    parts[0].merge(parts[1])
    merged, whole = parts[0].compute(), scored(name, FRAMES)
    assert merged.keys() == whole.keys()
    for figure in whole:
        np.testing.assert_allclose(merged[figure], whole[figure], rtol=1e-12)
    parts[0].reset()
    np.testing.assert_equal(parts[0].compute(), create_metric(name).compute())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PdFa", {"rule": "areas"}),
        ("PdFa", {"truth": "round_trip_mask"}),
        ("ROC", {"bins": 10}),
        ("IoU", {"target": "one"}),
        ("nIoU", {"target": "one"}),
    ],
)
def test_merge_refuses_other_options(name, options):
    with pytest.raises(ValueError, match="does not count"):
        create_metric(name).merge(create_metric(name, **options))


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_that_a_metric_asks_for_is_an_option(name):
    assert create_metric(name).truth == "mask"
    assert create_metric(name, truth="round_trip_mask").truth == "round_trip_mask"


def test_without_targets_or_frames_figures_are_nan_without_a_warning():
    nothing, something = np.zeros((9, 9), np.float32), np.full((9, 9), 0.7, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without_targets = {name: scored(name, [(something, nothing)]) for name in NAMES}
        without_responses = scored("PdFa", [(nothing, something)], rule="areas")
        without_frames = {name: create_metric(name).compute() for name in NAMES}
    assert np.isnan(without_targets["PdFa"]["pd"])
    assert without_targets["PdFa"]["fa"] == 1
    assert (without_responses["pd"], without_responses["fa"]) == (0, 0)
    assert np.isnan(without_targets["ROC"]["auc"])
    assert without_targets["ROC"]["tpr"][0] == 0
    assert without_targets["nIoU"]["niou"] == 0
    for name, figure in (("PdFa", "fa"), ("ROC", "auc"), ("IoU", "iou"), ("nIoU", "niou")):
        assert np.isnan(without_frames[name][figure])


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_dtypes_and_tensors_are_taken(name):
    probability, mask = FRAMES[0]
    doubled = np.kron(mask, np.ones((2, 2)))
    resized = cv2.resize(probability, (128, 128), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_equal(scored(name, [(probability, doubled)]), scored(name, [(resized, doubled)]))
    half = probability.astype(np.float16)
    as_tensors = (torch.tensor(half, requires_grad=True), torch.tensor(mask > 0))
    np.testing.assert_equal(scored(name, [as_tensors]), scored(name, [(half.astype(float), mask > 0)]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PdFa", {"rule": "area"}),
        ("PdFa", {"target": "soft"}),
        ("PdFa", {"truth": "centroid_map"}),
        ("ROC", {"target": "one"}),
        ("ROC", {"bins": 15}),
        ("ROC", {"bins": 4}),
        ("IoU", {"target": "zero"}),
    ],
)
def test_wrong_options_are_refused(name, options):
    (option,) = options
    with pytest.raises(UserError, match=option):
        create_metric(name, **options)
