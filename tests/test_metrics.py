"""The metrics against stored counts of the published code, published tables and a slow form of the rules."""

import json
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.measure import label

from metrics import create_metric
from metrics.papers import published_rows
from metrics.target_rules import THRESHOLDS, area_under_curve
from utils.errors import UserError
from utils.report.table import format_table

DATA = Path(__file__).parent / "data"


def counts_of(metric):
    """[thresholds, 3]: false, true, targets; the order of the stored counts."""
    scores = metric.compute()
    return np.stack([scores["false"], scores["true"], scores["targets"]], axis=1)


def scored(probability, centroid_map, **options):
    metric = create_metric("ShootingRules", **options)
    metric.update(probability, centroid_map)
    return metric


def shooting_rules_one_threshold_at_a_time(
    probability, target, thresholds, match, exclude, border="published"
):
    """The rules as the publication writes them: label, then loop over pixels, anew for each threshold."""
    counts = []
    for threshold in thresholds:
        detected = (probability.astype(np.float64) >= threshold).astype(np.int64)
        labels = label(target, connectivity=2)
        allowed = np.ones(target.shape, np.int64)
        num_found = 0
        for component in range(1, labels.max() + 1):
            is_found = False
            for row, col in np.argwhere(labels == component):
                boxes = []
                for half in (match, exclude):
                    top, left = row - half, col - half
                    if border == "clip":
                        top, left = max(top, 0), max(left, 0)
                    boxes.append((slice(top, row + half + 1), slice(left, col + half + 1)))
                is_found |= bool(detected[boxes[0]].sum() >= 1)
                allowed[boxes[1]] = 0
            num_found += is_found
        counts.append((np.count_nonzero(detected * allowed), num_found, labels.max()))
    return np.array(counts)


# ---- ShootingRules: the published counts ----


@pytest.mark.parametrize(("match", "exclude"), [(1, 4), (2, 5)])
def test_counts_and_auc_of_the_published_deeppro_code(match, exclude):
    stored = np.load(DATA / "metrics_shooting.npz")
    total = create_metric("ShootingRules", match=match, exclude=exclude)
    assert np.array_equal(total.thresholds, stored["thresholds"])
    expected = stored[f"counts_half_{match}_{exclude}"]
    for name, probability, centroids, counts in zip(
        stored["names"], stored["predictions"], stored["centroids"], expected, strict=True
    ):
        metric = scored(probability, centroids, match=match, exclude=exclude)
        assert np.array_equal(counts_of(metric), counts), name
        total.merge(metric)
    assert np.array_equal(counts_of(total), stored[f"total_half_{match}_{exclude}"])
    assert total.compute()["auc"] == pytest.approx(float(stored[f"auc_half_{match}_{exclude}"]), abs=1e-12)
    assert total.compute()["pixels"] == stored["predictions"].size


def test_counts_and_auc_of_the_published_dtum_code():
    stored = np.load(DATA / "dtum_shooting_rules.npz")
    total = create_metric("ShootingRules", thresholds=stored["thresholds"])
    for score, target, counts in zip(
        stored["scores"][:, 0], stored["target"][:, 0], stored["false_true_target"], strict=True
    ):
        assert np.array_equal(counts_of(scored(score, target, thresholds=stored["thresholds"])), counts)
        total.update(score, target)
    assert total.compute()["auc"] == pytest.approx(float(stored["auc"]), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_on_a_threshold_are_compared_in_float64(dtype):
    stored = np.load(DATA / "metrics_shooting.npz")
    probability = stored["tie_predictions"][0].astype(dtype)
    metric = scored(probability, np.zeros(probability.shape, np.uint8))
    assert np.array_equal(metric.compute()["false"], stored["tie_false_compared_in_float64"])


# ---- ShootingRules: against the slow version ----


def random_case(rng):
    """A frame of 1 to 14 pixels a side with scores on, just beside and far from the thresholds."""
    shape = tuple(rng.integers(1, 15, 2))
    levels = np.float32([0, 1e-20, 1e-8, 1e-4, 0.01, 0.35, 0.5, 0.7, 0.95, 1])
    levels = np.concatenate([levels, np.nextafter(levels, np.float32(0)), rng.random(5, np.float32)])
    probability = rng.choice(levels, shape)
    target = rng.random(shape) < rng.choice([0, 0.02, 0.1, 0.4])
    options = {
        "match": int(rng.integers(0, 3)),
        "exclude": int(rng.integers(0, 7)),
        "border": str(rng.choice(["published", "clip"])),
        "thresholds": np.sort(rng.choice(THRESHOLDS, 5, replace=False)),
    }
    return probability, target, options


def test_random_small_frames_equal_the_slow_version():
    rng = np.random.default_rng(0)
    for _ in range(400):
        probability, target, options = random_case(rng)
        expected = shooting_rules_one_threshold_at_a_time(probability, target, **options)
        assert np.array_equal(counts_of(scored(probability, target, **options)), expected), options


def test_a_large_frame_equals_the_slow_version():
    rng = np.random.default_rng(1)
    probability = (1 / (1 + np.exp(-rng.normal(-6, 4, (120, 90))))).astype(np.float32)
    target = rng.random((120, 90)) < 0.003
    expected = shooting_rules_one_threshold_at_a_time(probability, target, THRESHOLDS, 1, 4)
    assert np.array_equal(counts_of(scored(probability, target)), expected)


def test_one_pass_is_50_times_faster_than_one_pass_per_threshold():
    rng = np.random.default_rng(2)
    probability = (1 / (1 + np.exp(-rng.normal(-12, 3, (256, 256))))).astype(np.float32)
    probability[100:103, 120:123] = 0.99
    target = np.zeros((256, 256), np.uint8)
    target[101, 121] = 255
    metric = create_metric("ShootingRules")
    fast, slow = [], []
    for _ in range(9):  # in turn, so that both meet the same load of the machine
        start = time.perf_counter()
        for _ in range(20):
            metric.update(probability, target)
        middle = time.perf_counter()
        shooting_rules_one_threshold_at_a_time(probability, target, THRESHOLDS, 1, 4)
        fast.append((middle - start) / 20)
        slow.append(time.perf_counter() - middle)
    assert np.median(slow) > 50 * np.median(fast)


# ---- ShootingRules: inputs, options, edges ----


@pytest.mark.parametrize(
    ("values", "num_targets"),
    [
        (np.uint8([0, 255, 0, 254, 0, 1]), 1),  # file values: only 255 counts
        (np.uint8([0, 1, 0, 1, 0, 0]), 2),  # a 0/1 map
        (np.array([False, True, False, True, False, True]), 3),
        (np.float64([0, 255, 0, 254, 0, 0]) / 255, 1),  # truncation takes 254 / 255 to 0
        (np.float32([0, 1, 2, 0, 1, 1]), 3),  # components are of one value
        (np.zeros(6, np.uint8), 0),
    ],
)
def test_what_counts_as_a_target(values, num_targets):
    centroid_map = np.zeros((3, 6), values.dtype)
    centroid_map[1] = values
    assert scored(np.zeros((3, 6), np.float32), centroid_map).compute()["targets"][0] == num_targets


def test_border_rules_for_a_target_in_the_corner():
    probability = np.zeros((30, 30), np.float32)
    probability[0:2, 0:2] = 1
    target = np.zeros((30, 30), np.uint8)
    target[0, 0] = 255
    published = scored(probability, target, thresholds=[0.5]).compute()
    clipped = scored(probability, target, thresholds=[0.5], border="clip").compute()
    assert (published["true"][0], published["false"][0]) == (0, 4)
    assert (clipped["true"][0], clipped["false"][0]) == (1, 0)


def test_a_prediction_of_another_size_is_resized_to_the_map():
    rng = np.random.default_rng(4)
    probability = rng.random((16, 20), np.float32)
    target = np.zeros((40, 50), np.uint8)
    target[20, 25] = 255
    resized = cv2.resize(probability, (50, 40), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(counts_of(scored(probability, target)), counts_of(scored(resized, target)))
    assert scored(probability, target).compute()["pixels"] == 40 * 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_count_as_arrays_do(dtype):
    rng = np.random.default_rng(5)
    probability = torch.tensor(rng.random((20, 20)), dtype=dtype, requires_grad=True)
    target = torch.tensor(rng.random((20, 20)) < 0.05)
    as_array = probability.detach().double().numpy()
    assert np.array_equal(counts_of(scored(probability, target)), counts_of(scored(as_array, target.numpy())))


def test_figures_without_targets_or_frames_are_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without_targets = scored(np.full((9, 9), 0.2), np.zeros((9, 9), np.uint8)).compute()
        without_frames = create_metric("ShootingRules").compute()
    assert np.isnan(without_targets["pd"]).all()
    assert without_targets["fa"][0] == 1
    assert np.isnan(without_targets["auc"])
    assert np.isnan(without_frames["fa"]).all()


def test_auc_stays_below_1_for_a_perfect_detector_and_its_normalised_form_does_not():
    target = np.zeros((40, 40), np.uint8)
    target[20, 20] = 255
    scores = scored((target / 255).astype(np.float32), target).compute()
    assert scores["auc"] == pytest.approx(1 - 81 / 1600)
    assert scores["auc_normalised"] == pytest.approx(1)


def test_one_threshold_has_no_auc():
    assert np.isnan(scored(np.ones((5, 5)), np.eye(5), thresholds=[0.5]).compute()["auc"])


@pytest.mark.parametrize(
    "options",
    [{"thresholds": [0.5, 0.1]}, {"thresholds": [0.5, 0.5]}, {"thresholds": []}, {"border": "wrap"}],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError):
        create_metric("ShootingRules", **options)


# ---- all metrics ----


@pytest.mark.parametrize("name", ["ShootingRules", "IoU"])
def test_merged_metrics_equal_one_that_saw_all_frames(name):
    rng = np.random.default_rng(6)
    frames = [(rng.random((12, 12)), rng.random((12, 12)) < 0.05) for _ in range(6)]
    whole, parts = create_metric(name), [create_metric(name), create_metric(name)]
    for index, frame in enumerate(frames):
        whole.update(*frame)
        parts[index % 2].update(*frame)
    parts[0].merge(parts[1])
    np.testing.assert_equal(parts[0].compute(), whole.compute())
    whole.reset()
    np.testing.assert_equal(whole.compute(), create_metric(name).compute())


def test_merge_refuses_what_counts_otherwise():
    metric = create_metric("ShootingRules")
    for other in (create_metric("IoU"), create_metric("ShootingRules", exclude=5)):
        with pytest.raises(ValueError, match="does not count"):
            metric.merge(other)
    with pytest.raises(ValueError, match="does not count"):
        create_metric("IoU").merge(create_metric("IoU", threshold=0.3))


@pytest.mark.parametrize("name", ["ShootingRules", "IoU"])
def test_broken_frames_are_refused(name):
    broken = np.zeros((5, 5))
    broken[2, 2] = np.nan
    with pytest.raises(UserError, match="nan"):
        create_metric(name).update(broken, np.zeros((5, 5)))
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        create_metric(name).update(np.zeros((1, 5, 5)), np.zeros((1, 5, 5)))


# ---- IoU ----


def test_pixel_figures_of_the_published_rprnet_code():
    stored = np.load(DATA / "metrics_rprnet.npz")
    metric = create_metric("IoU")
    for probability, mask in zip(stored["preds"], stored["masks"], strict=True):
        metric.update(probability, mask)
    scores = metric.compute()
    pixacc, iou = stored["test_py/pixAcc_mIoU"]
    assert scores["pixacc"] == scores["recall"] == pytest.approx(pixacc)
    assert scores["iou"] == pytest.approx(iou)
    assert scores["niou"] == pytest.approx(float(stored["binary/nIoU"]))


def test_pooled_iou_of_the_published_deeppro_code():
    stored = np.load(DATA / "metrics_shooting.npz")
    metric = create_metric("IoU")
    for probability, mask in zip(stored["predictions"], stored["centroids"], strict=True):
        metric.update(probability, mask)
    intersection, union = stored["iou_at_0.5"]
    assert metric.compute()["iou"] == pytest.approx(intersection / union)


def test_pixel_figures_by_hand():
    metric = create_metric("IoU", threshold=0.35)
    on_threshold = np.float32(0.35)  # below 0.35 as float64
    metric.update(np.float32([[0.9, 0.9, on_threshold], [0.8, 0, 0]]), np.uint8([[7, 0, 255], [1, 1, 0]]))
    metric.update(np.zeros((2, 3)), np.zeros((2, 3)))
    scores = metric.compute()
    assert scores["iou"] == pytest.approx(2 / 5)
    assert scores["niou"] == pytest.approx((2 / 5 + 0) / 2)
    assert scores["precision"] == pytest.approx(2 / 3)
    assert scores["recall"] == pytest.approx(2 / 4)
    assert scores["f1"] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_pixel_figures_without_anything_are_nan():
    assert all(np.isnan(value) for value in create_metric("IoU").compute().values())


# ---- published figures ----

LOGS = {
    "NUDT-MIRSDT/DeepPro": ("NUDT-MIRSDT", "DeepPro"),
    "NUDT-MIRSDT/DeepPro-Plus": ("NUDT-MIRSDT", "DeepPro-Plus"),
    "NUDT-MIRSDT-Noise/DeepPro": ("NUDT-MIRSDT-Noise", "DeepPro"),
    "NUDT-MIRSDT-Noise/DeepPro-Plus": ("NUDT-MIRSDT-Noise", "DeepPro-Plus"),
    "RGB-T/DeepPro-Plus": ("RGBT-Tiny", "DeepPro-Plus"),
    "NUDT-MIRSDT/ResUNet_DTUM": ("NUDT-MIRSDT", "ResUNet-DTUM"),
}
GROUPS = {"all": "all", "low_snr": "SNR<=3", "high_snr": "SNR>3"}


@pytest.mark.parametrize("log", LOGS)
def test_published_rows_follow_from_the_logged_counts(log):
    table = json.loads((DATA / "published_counts.json").read_text())[log]
    at_half = table["thresholds"].index(0.5)
    rows = {row["group"]: row for row in published_rows(*LOGS[log]) if "log" in row["source"]}
    for group, counts in table["groups"].items():
        pd = np.array(counts["true"]) / counts["targets"]
        fa = np.array(counts["false"]) / counts["pixels"]
        auc = area_under_curve(fa, pd)
        row = rows[GROUPS[group]]
        assert auc == pytest.approx(counts["auc_from_counts"], abs=1e-9)
        assert row["pd_percent"] == pytest.approx(100 * pd[at_half], abs=0.005 + 1e-9)
        assert row["fa"] == pytest.approx(fa[at_half], abs=0.5e-7 + 1e-12)
        assert row["auc"] == pytest.approx(auc, abs=0.55e-4)  # rounded to 5 digits, then to 4


def test_the_rule_of_a_row_builds_its_metric():
    for dataset in ("NUDT-MIRSDT", "NUDT-MIRSDT-Noise"):
        for row in published_rows(dataset):
            if row["rule"]["options"] is not None:
                assert create_metric(row["rule"]["metric"], **row["rule"]["options"]).compute()["pixels"] == 0
    (row,) = (row for row in published_rows("nudt_mirsdt", "deeppro") if row["group"] == "all")
    assert (row["rule"]["options"], row["iou"]) == ({"match": 2, "exclude": 5}, 0.8371)


@pytest.mark.parametrize(
    ("dataset", "model", "expected"),
    [
        ("IRDST-simulation", "DeepPro", {"pd_percent": 99.85, "fa": 0.13e-5, "auc": 0.9993}),
        ("IRSatVideo-LEO", "DeepPro-Plus", {"pd_percent": 96.37, "fa": 1e-5, "auc": 0.9925}),
        ("SatVideoIRSDT", "DeepPro-Plus", {"precision": 0.4956, "recall": 0.5782, "f1": 0.5337}),
        ("TSIRMT", "RPRNet", {"pd_percent": 87.0, "fa": 140.5e-6}),
    ],
)
def test_rows_that_have_no_counts(dataset, model, expected):
    (row,) = published_rows(dataset, model)
    assert {key: row[key] for key in expected} == expected


def test_a_data_set_without_published_figures_has_no_rows():
    assert published_rows("my-own-videos") == []


# ---- tables ----

ROWS = [
    {"model": "DeepPro", "Pd": 98.4962, "Fa": 7.17e-6, "frames": 2000},
    {"model": "A|B, C", "Pd": float("nan"), "note": "x"},
]


def test_text_table():
    assert format_table(ROWS, formats={"Pd": ".2f"}) == (
        "model       Pd        Fa  frames  note\n"
        "DeepPro  98.50  7.17e-06    2000\n"
        "A|B, C     nan                    x\n"
    )


def test_markdown_table():
    assert format_table(ROWS, ["model", "Pd"], style="markdown") == (
        "| model   |   Pd |\n| ------- | ---: |\n| DeepPro | 98.5 |\n| A\\|B, C |  nan |\n"
    )


def test_csv_table_keeps_all_digits():
    assert format_table(ROWS, ["model", "Pd", "frames"], style="csv") == (
        'model,Pd,frames\nDeepPro,98.4962,2000\n"A|B, C",nan,\n'
    )


def test_unknown_table_style_is_refused():
    with pytest.raises(UserError, match="latex"):
        format_table(ROWS, style="latex")
