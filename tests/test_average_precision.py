"""AveragePrecision against stored results of pycocotools, published curves and a slow matching."""

import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from metrics import average_precision, create_metric
from metrics.average_precision import BLOCK, COCO_FIGURES, FrameRows, curve_figures, evaluate_coco
from metrics.papers import published_rows
from utils.errors import UserError

DATA = Path(__file__).parent / "data"
STORED = np.load(DATA / "boxes.npz")
PUBLISHED = json.loads((DATA / "published_pr.json").read_text())
NOTHING = np.zeros((0, 5)), np.zeros((0, 4))


def stored_frames():
    """(boxes [N, 5], truth [M, 4]) per image; the file has left, top, width, height."""
    for image in STORED["image_ids"]:
        frame = []
        for rows in (STORED["det"], STORED["gt"]):
            boxes = rows[rows[:, 0] == image, 1:]
            boxes[:, 2:4] += boxes[:, :2]
            frame.append(boxes)
        yield tuple(frame)


FRAMES = list(stored_frames())


def metric_of(frames, **options):
    metric = create_metric("AveragePrecision", **options)
    for boxes, truth in frames:
        metric.update(boxes, truth)
    return metric


def scored(frames, **options):
    return metric_of(frames, **options).compute()


# ---- the stored results ----


@pytest.mark.parametrize(("images", "stored"), [("all", ""), ("annotated", "_annotated_images_only")])
def test_coco_figures_equal_those_of_pycocotools(images, stored):
    scores = scored(FRAMES, images=images)
    summary = STORED[f"coco_stats{stored}"]  # -1 where there are no targets of that size
    np.testing.assert_array_equal(
        [scores[name] for name in COCO_FIGURES], np.where(summary < 0, np.nan, summary)
    )
    precision = STORED["precision"][0] if images == "all" else STORED[f"precision50{stored}"]
    np.testing.assert_array_equal(scores["precision_curve"], precision)
    recall = STORED["recall"][0] if images == "all" else STORED[f"recall50{stored}"]
    assert scores["published_recall"] == recall
    np.testing.assert_allclose(scores["recall_levels"], np.linspace(0, 1, 101), atol=1e-15)


def test_precision_and_recall_at_all_ious_equal_those_of_pycocotools():
    boxes, truth = zip(*FRAMES, strict=True)
    _, precision, recall = evaluate_coco([b[np.argsort(-b[:, 4])] for b in boxes], truth)
    np.testing.assert_array_equal(precision, STORED["precision"])
    np.testing.assert_array_equal(recall, STORED["recall"])


def test_operating_points_and_the_published_formula_equal_the_stored_ones():
    scores = scored(FRAMES)
    for name in ("published_precision", "published_recall", "published_f1", "best_f1", "best_f1_score"):
        assert scores[name] == pytest.approx(float(STORED[name]), rel=1e-12), name
    assert [scores[name] for name in ("tp", "fp", "fn")] == STORED["op05"].tolist()
    at_half = [scores[f"box_{name}"] for name in ("precision", "recall", "f1")]
    assert at_half == pytest.approx(STORED["op05_prf"], rel=1e-12)
    for name in ("scores", "tp", "fp"):
        np.testing.assert_array_equal(scores[f"curve_{name}"], STORED[f"curve_{name}"])
    assert scores["false_boxes_per_frame"] == pytest.approx(99 / 30)
    at = np.flatnonzero(scores["curve_scores"] == scores["best_f1_score"])[-1]
    assert scores["best_f1_recall"] == pytest.approx(scores["curve_tp"][at] / 86)
    assert scores["best_f1_precision"] == pytest.approx(scores["curve_tp"][at] / (at + 1))


# ---- the published curves ----

CURVES = [(data, name) for data, methods in PUBLISHED["results"].items() for name in methods]


@pytest.mark.parametrize(("data", "name"), CURVES)
def test_figures_of_the_published_curves(data, name):
    stated = PUBLISHED["results"][data][name]
    figures = curve_figures(stated["curve"])
    assert 100 * figures["ap50"] == pytest.approx(stated["ap50"], abs=0.0101)  # of 4 decimals
    assert 100 * figures["published_precision"] == pytest.approx(stated["precision_mean"], abs=0.0101)
    low, high = stated["recall_interval"]
    assert figures["published_recall_low"] == pytest.approx(low)
    assert figures["published_recall_high"] == pytest.approx(high)
    low, high = stated["f1_published_style"]
    assert 100 * figures["published_f1_low"] == pytest.approx(low, abs=0.0151)
    assert 100 * figures["published_f1_high"] == pytest.approx(high, abs=0.0151)
    assert 100 * figures["curve_best_f1"] == pytest.approx(stated["f1_max"], abs=0.0101)
    recall, precision = figures["curve_best_f1_recall"], figures["curve_best_f1_precision"]
    assert precision == stated["curve"][round(100 * recall)]
    assert 2 * recall * precision / (recall + precision) == pytest.approx(figures["curve_best_f1"])
    if (data, name) not in {("ITSDT", "RDIAN"), ("IRDST", "DTUM")}:  # two maxima but for the 5th decimal
        assert [recall, precision] == pytest.approx(stated["f1_max_at"], abs=1e-4)


def test_the_published_formula_gives_the_readme_of_sstnet():
    readme = PUBLISHED["readme_table"]["SSTNet_DAUB"]
    figures = curve_figures(PUBLISHED["results"]["DAUB"]["SSTNet"]["curve"], readme["recall"] / 100)
    named = {"ap50": "mAP50", "published_precision": "precision", "published_f1": "f1"}
    for name, stated in named.items():
        assert 100 * figures[name] == pytest.approx(readme[stated], abs=0.0101)
    assert figures["published_recall"] == 0.981
    assert figures["published_f1"] - figures["curve_best_f1"] > 0.06


METHODS = {"STMENet": "Ours", "SMFNet": "Ours", "SSTNet": "SSTNet", "ResUNet-DTUM + box head": "DTUM"}
BOX_ROWS = [row for data in ("ITSDT-15K", "IRDST", "DAUB") for row in published_rows(data) if "ap50" in row]


@pytest.mark.parametrize("row", BOX_ROWS, ids=lambda row: f"{row['dataset']}-{row['model']}")
def test_published_rows_follow_from_the_published_curves(row):
    stated = PUBLISHED["results"][row["dataset"].removesuffix("-15K")][METHODS[row["model"]]]
    for name, key in {
        "ap50": "ap50",
        "published_precision": "precision_mean",
        "curve_best_f1": "f1_max",
    }.items():
        assert 100 * row[name] == pytest.approx(stated[key], abs=1e-9)
    if "published_recall" in row:
        readme = PUBLISHED["readme_table"][f"{row['model']}_{row['dataset']}"]
        assert [100 * row["published_recall"], 100 * row["published_f1"]] == pytest.approx(
            [readme["recall"], readme["f1"]]
        )
    else:
        low, high = stated["recall_interval"]
        low_f1, high_f1 = (f1 / 100 for f1 in stated["f1_published_style"])
        bounds = f"recall is {low:.2f} to {high:.2f} and F1 {low_f1:.3f} to {high_f1:.3f}"
        assert bounds in row["note"]
    assert create_metric(row["rule"]["metric"], **row["rule"]["options"]).images == "annotated"
    assert "no operating point" in row["rule"]["text"]


def test_every_published_box_figure_of_the_three_models_has_its_row():
    assert sorted((row["dataset"], row["model"]) for row in BOX_ROWS) == [
        ("DAUB", "SSTNet"),
        *(("IRDST", m) for m in sorted(METHODS)),
        *(("ITSDT-15K", m) for m in sorted(METHODS)),
    ]


# ---- the matching ----


def iou_of(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return overlap / (sum(areas) - overlap)


def true_by_loops(boxes, truth):
    """(score, is true) of the boxes in the order of falling scores, by COCO's matching at IoU 0.5."""
    free, found = list(truth), []
    for box in sorted(boxes, key=lambda box: -box[4])[:100]:
        best = None
        for target in free:
            if iou_of(box, target) >= (0.5 if best is None else iou_of(box, best)):
                best = target
        found.append((box[4], best is not None))
        if best is not None:
            free.remove(best)
    return found


def random_frame(rng):
    """Overlapping boxes of whole numbers, so that equal IoUs and an IoU of 0.5 occur, with equal scores."""
    truth = rng.integers(0, 12, (rng.integers(0, 5), 2))
    truth = np.concatenate([truth, truth + rng.integers(2, 5, truth.shape)], axis=1).tolist()
    boxes = [
        [*(np.array(target) + rng.integers(-1, 2, 4) * [1, 1, 0, 0]), rng.choice([0.2, 0.5, 0.8])]
        for target in truth
        for _ in range(3)
    ]
    return boxes + [[30, 30, 33, 33, float(rng.random())]] * int(rng.integers(0, 3)), truth


def test_the_curve_of_random_frames_equals_a_slow_matching():
    rng = np.random.default_rng(0)
    for _ in range(20):
        frames = [random_frame(rng) for _ in range(15)]
        found = [pair for frame in frames for pair in true_by_loops(*frame)]
        found.sort(key=lambda pair: -pair[0])
        scores = scored(frames)
        num_true = np.cumsum([is_true for _, is_true in found])
        assert scores["curve_scores"].tolist() == [score for score, _ in found]
        assert scores["curve_tp"].tolist() == num_true.tolist()
        assert scores["curve_fp"].tolist() == (np.arange(1, len(found) + 1) - num_true).tolist()
        recall = num_true[-1] / sum(len(truth) for _, truth in frames)
        assert scores["published_recall"] == pytest.approx(recall)  # which is COCO's
        kept = [is_true for score, is_true in found if score >= 0.5]
        assert (scores["tp"], scores["fp"]) == (sum(kept), len(kept) - sum(kept))


def test_a_box_takes_the_later_of_two_targets_with_the_same_iou():
    truth = [[0, 0, 6, 4], [3, 0, 9, 4]]
    in_the_middle, on_the_first = [1.5, 0, 7.5, 4, 0.9], [0, 0, 6, 4, 0.8]
    assert scored([([in_the_middle, on_the_first], truth)])["tp"] == 2
    assert scored([([in_the_middle, on_the_first], truth[::-1])])["tp"] == 1


def test_a_score_of_half_and_an_iou_of_half_count():
    frame = ([[0, 0, 4, 2, 0.5], [20, 0, 24, 2, 0.4999]], [[0, 0, 4, 4], [20, 0, 24, 4]])
    scores = scored([frame])
    assert (scores["tp"], scores["fp"], scores["fn"], scores["ap50"]) == (1, 0, 1, 1)
    assert (scores["best_f1"], scores["best_f1_score"]) == (1, 0.4999)


def test_a_frame_gives_its_best_100_boxes():
    rng = np.random.default_rng(1)
    boxes = np.column_stack([np.tile([50, 50, 55, 55], (150, 1)), rng.permutation(150) / 150 + 0.5])
    boxes[boxes[:, 4].argmin(), :4] = [0, 0, 5, 5]
    scores = scored([(boxes, [[0, 0, 5, 5]])])
    assert (scores["fp"], scores["fn"], len(scores["curve_scores"])) == (100, 1, 100)


# ---- nothing to count ----


def test_nothing_detected_is_0_and_no_truth_is_nan_without_a_warning():
    box, target = [[4, 4, 9, 9, 0.9]], [[4, 4, 9, 9]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without_boxes = scored([(np.zeros(0), target), NOTHING])
        without_truth = scored([(box, np.zeros(0)), NOTHING])
        without_frames = create_metric("AveragePrecision").compute()
    for name in ("ap", "ap50", "ap_small", "box_recall", "box_f1", "best_f1", "published_recall"):
        assert without_boxes[name] == 0, name
        assert np.isnan(without_truth[name]), name
        assert np.isnan(without_frames[name]), name
    assert np.isnan(without_boxes["box_precision"])
    assert np.isnan(without_boxes["published_precision"])
    assert (without_boxes["precision_curve"] == 0).all()
    assert np.isnan(without_truth["precision_curve"]).all()
    assert (without_boxes["fn"], without_boxes["false_boxes_per_frame"]) == (1, 0)
    assert (without_truth["fp"], without_truth["false_boxes_per_frame"]) == (1, 0.5)
    assert without_truth["box_precision"] == 0


def test_frames_without_targets_count_unless_only_annotated_ones_shall():
    frames = [([[4, 4, 9, 9, 0.7]], [[4, 4, 9, 9]]), ([[4, 4, 9, 9, 0.9]], np.zeros((0, 4)))]
    every, annotated = scored(frames), scored(frames, images="annotated")
    assert (every["ap50"], every["fp"], every["false_boxes_per_frame"]) == (0.5, 1, 0.5)
    assert (annotated["ap50"], annotated["fp"], annotated["false_boxes_per_frame"]) == (1, 0, 0)


# ---- as a metric ----


def test_merged_metrics_equal_one_that_saw_all_frames():
    parts = [metric_of(FRAMES[:10]), metric_of(FRAMES[10:11]), metric_of(FRAMES[11:])]
    total = create_metric("AveragePrecision")
    for part in parts:
        total.merge(pickle.loads(pickle.dumps(part)))
    np.testing.assert_equal(total.compute(), scored(FRAMES))
    np.testing.assert_equal(parts[1].compute(), scored(FRAMES[10:11]))
    with pytest.raises(ValueError, match="does not count"):
        total.merge(create_metric("AveragePrecision", images="annotated"))


def test_coco_evaluates_once_until_the_frames_change(monkeypatch):
    calls = []

    def counted(*frames):
        calls.append(frames)
        return evaluate_coco(*frames)

    monkeypatch.setattr(average_precision, "evaluate_coco", counted)
    metric = metric_of(FRAMES[:4])
    first = metric.compute()
    first["ap50"] = None  # the caller's own copy
    assert metric.compute()["ap50"] is not None
    assert len(calls) == 1
    metric.update(*FRAMES[4])
    np.testing.assert_equal(metric.compute(), scored(FRAMES[:5]))
    metric.merge(metric_of(FRAMES[5:8]))
    np.testing.assert_equal(metric.compute(), scored(FRAMES[:8]))
    metric.reset()
    assert np.isnan(metric.compute()["ap50"])


def test_the_evaluation_prints_nothing(capfd):
    scored(FRAMES[:3])
    assert capfd.readouterr() == ("", "")


def test_the_order_of_boxes_and_tensors_make_no_difference():
    rng = np.random.default_rng(2)
    frames = [(b[rng.permutation(len(b))], t) for b, t in FRAMES if len(set(b[:, 4])) == len(b)]
    tensors = [(torch.tensor(b), torch.tensor(t)) for b, t in frames]
    in_order = [(b[np.argsort(-b[:, 4])], t) for b, t in frames]
    assert len(frames) > 25
    np.testing.assert_equal(scored(tensors), scored(in_order))


@pytest.mark.parametrize(
    "frame", [(np.zeros((5, 4)), np.zeros((1, 4))), (np.zeros((1, 5)), np.zeros((4, 5))), (np.zeros(5), [])]
)
def test_other_shapes_are_refused(frame):
    with pytest.raises(ValueError, match=r"boxes are \[N, [45]\]"):
        create_metric("AveragePrecision").update(*frame)


def test_a_box_with_nan_is_refused():
    with pytest.raises(UserError, match="nan"):
        create_metric("AveragePrecision").update([[0, 0, np.nan, 5, 0.5]], [[0, 0, 5, 5]])


def test_unknown_images_are_refused():
    with pytest.raises(UserError, match="annotated"):
        create_metric("AveragePrecision", images="some")


def test_short_sides_of_boxes_and_truth_are_lengthened_alike():
    """A pixel beside the pixel that is the target: no overlap as they are, 3/5 in boxes of 4x4."""
    frame = [(np.array([[11.0, 10, 12, 11, 0.9]]), np.array([[10.0, 10, 11, 11]]))]
    assert scored(frame)["ap50"] == 0
    assert scored(frame, min_side=4)["ap50"] == pytest.approx(1)


def test_the_boxes_of_many_frames_take_little_more_than_their_rows():
    """After merges, too, the arrays of each frame come back in order."""
    rng = np.random.default_rng(0)
    frames = [rng.random((rng.integers(4), 5)) for _ in range(3 * BLOCK + 7)]
    parts = [FrameRows() for _ in range(5)]
    for number, frame in enumerate(frames):
        parts[number * len(parts) // len(frames)].append(frame)
    joined = sum(parts, FrameRows())
    for kept in (joined, joined + FrameRows()):
        assert len(kept) == len(frames)
        assert all(np.array_equal(*pair) for pair in zip(kept, frames, strict=True))
    assert len(pickle.dumps(joined)) < 1.1 * sum(frame.nbytes + 4 for frame in frames)
