"""AP of boxes as COCO counts it, with true operating points and the formula that the box papers print."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster, mask

from metrics.counting import CountingMetric, Curve, Figure, as_array, ratio
from metrics.iou import check_choice
from utils.boxes import lengthened
from utils.errors import UserError
from utils.registry import register_metric

MAX_BOXES = 100  # per frame, the best ones; COCO's maxDets
BLOCK = 32  # frames whose boxes are kept in one array
MIN_IOU = 0.5
AT_SCORE = 0.5
RECALL_LEVELS = np.arange(101) / 100
COCO_FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)  # in the order of COCO's summary


@register_metric("AveragePrecision")
class AveragePrecision(CountingMetric):
    """Average precision of the boxes of all frames together, of which each frame gives its best 100.

    images:   "all", or "annotated": frames without a target, and so their false boxes, do not count
    min_side: pixels to which shorter sides of boxes and truth are lengthened about their middles
    Source: COCO; STMENet, SMFNet and SSTNet score so, with "annotated" (vid_map_coco_*.py of their code).
    """

    takes = "boxes"
    truth = "boxes"
    figures = (
        Figure("ap50", "AP50 %", 100, ".2f"),
        Figure("published_precision", "P % (published)", 100, ".2f"),  # these three are no operating point
        Figure("published_recall", "R % (published)", 100, ".2f"),
        Figure("published_f1", "F1 % (published)", 100, ".2f"),
        Figure("box_f1", "F1 % at 0.5", 100, ".2f"),
        Figure("curve_best_f1", "best F1 %", 100, ".2f"),
    )

    def __init__(self, images: str = "all", min_side: float = 0):
        check_choice("AveragePrecision", "images", images, ("all", "annotated"))
        self.images, self.min_side = images, min_side
        super().__init__(images=images, min_side=min_side)

    def zero_counts(self) -> dict[str, "FrameRows"]:
        """Per frame: boxes [N, 5] in the order of falling scores, which are true [N], truth [M, 4]."""
        return {"boxes": FrameRows(), "true": FrameRows(), "truth": FrameRows()}

    def reset(self) -> None:
        super().reset()
        self._computed = None

    def description(self, threshold: float) -> str:
        return f"{super().description(threshold)} boxes of all scores, of maps those of p > {threshold:g}"

    def merge(self, other: "AveragePrecision") -> None:
        super().merge(other)
        self._computed = None

    def update(self, boxes: Any, truth: Any) -> None:
        """Count one frame.

        boxes: [N, 5], x1, y1, x2, y2 in pixels and the score, in any order
        truth: [M, 4], x1, y1, x2, y2
        Raises ValueError for other shapes, UserError for a box with nan.
        """
        boxes, truth = (lengthened(box_rows(b, n), self.min_side) for b, n in ((boxes, 5), (truth, 4)))
        if np.isnan(boxes).any():
            raise UserError("a box holds nan: check the checkpoint and the input frames")
        if self.images == "annotated" and not len(truth):
            return
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")[:MAX_BOXES]]
        self.counts["boxes"].append(boxes)
        self.counts["true"].append(find_true(boxes, truth))
        self.counts["truth"].append(truth)
        self._computed = None

    def compute(self) -> dict[str, Any]:
        """The figures of all frames so far, computed once; nan where there was nothing to count.

        ap, ap50, ap75, ap_small, ap_medium, ap_large, ar_1, ar_10, ar_100, ar_small, ar_medium, ar_large:
            COCO's summary
        published_precision, published_recall, published_f1, curve_best_f1, curve_best_f1_recall,
            curve_best_f1_precision: see `curve_figures`; what to compare with the papers
        tp, fp, fn, box_precision, box_recall, box_f1, false_boxes_per_frame: of the boxes with a
            score of 0.5 or more, at IoU 0.5
        best_f1, best_f1_score, best_f1_precision, best_f1_recall: where F1 is largest at IoU 0.5, among the
            beginnings of all boxes in the order of falling scores

        Arrays, at IoU 0.5: recall_levels and precision_curve [101], COCO's interpolated precision; and of all
        N boxes in the order of falling scores curve_scores, curve_tp and curve_fp [N], counts up to each.
        """
        if self._computed is None:
            self._computed = self._figures()
        return dict(self._computed)

    def curves(self) -> dict[str, Curve | None]:
        """COCO's interpolated precision over recall at IoU 0.5 as "pr", where there were targets."""
        computed = self.compute()
        if np.isnan(computed["ap50"]):
            return {"pr": None}
        point = computed["box_recall"], computed["box_precision"]
        labels = "recall (true boxes / targets)", "precision (true boxes / boxes)"
        return {
            "pr": Curve(
                "pr", computed["recall_levels"], computed["precision_curve"], *labels, point, computed
            )
        }

    def _figures(self) -> dict[str, Any]:
        boxes, true, truth = self.counts["boxes"], self.counts["true"], self.counts["truth"]
        scores = np.concatenate([np.zeros(0), *(b[:, 4] for b in boxes)])
        order = np.argsort(-scores, kind="stable")
        scores, is_true = scores[order], np.concatenate([np.zeros(0, bool), *true])[order]
        tp, fp, num_truth = np.cumsum(is_true), np.cumsum(~is_true), sum(map(len, truth))
        kept = scores >= AT_SCORE
        num_kept, tp_kept = int(np.count_nonzero(kept)), int(np.count_nonzero(kept & is_true))

        summary, precision, recall = evaluate_coco(boxes, truth)
        figures = {
            **curve_figures(precision[0], recall[0]),
            **dict(zip(COCO_FIGURES, summary, strict=True)),
            **best_rank(scores, tp, num_truth),
            "box_recall": ratio(tp_kept, num_truth),
            "box_f1": f1_of(tp_kept, num_kept, num_truth),
        }
        if not num_truth:
            figures = dict.fromkeys(figures, np.nan)
        return {
            **{name: float(value) for name, value in figures.items()},
            "box_precision": float(ratio(tp_kept, num_kept)),
            "tp": tp_kept,
            "fp": num_kept - tp_kept,
            "fn": num_truth - tp_kept,
            "false_boxes_per_frame": float(ratio(num_kept - tp_kept, len(truth))),
            "recall_levels": RECALL_LEVELS.copy(),
            "precision_curve": precision[0] if num_truth else np.full(RECALL_LEVELS.size, np.nan),
            "curve_scores": scores,
            "curve_tp": tp,
            "curve_fp": fp,
        }


class FrameRows:
    """Arrays [n, ...] of frames, in order; those of many frames lie in one block.

    An array of its own would take hundreds of bytes for a frame, most of them not for its rows.
    """

    def __init__(self, blocks: tuple[tuple[np.ndarray, np.ndarray], ...] = ()):
        self._blocks = list(blocks)  # rows of several frames, and how many of them are of each
        self._recent: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(lengths) for _, lengths in self._blocks) + len(self._recent)

    def __iter__(self) -> Iterator[np.ndarray]:
        for rows, lengths in self._blocks:
            yield from np.split(rows, np.cumsum(lengths)[:-1])
        yield from self._recent

    def __add__(self, other: "FrameRows") -> "FrameRows":
        return FrameRows((*self._packed(), *other._packed()))

    def append(self, rows: np.ndarray) -> None:
        """Add those of one more frame."""
        self._recent.append(rows)
        if len(self._recent) == BLOCK:
            self._blocks, self._recent = self._packed(), []

    def _packed(self) -> list[tuple[np.ndarray, np.ndarray]]:
        if not self._recent:
            return self._blocks
        lengths = np.array([len(rows) for rows in self._recent], np.int32)
        return [*self._blocks, (np.concatenate(self._recent), lengths)]


def curve_figures(precision: np.ndarray, recall: float | None = None) -> dict[str, float]:
    """What follows from a precision curve at IoU 0.5, as the papers publish them.

    precision: [101], COCO's interpolated precision at the recalls 0, 0.01, ..., 1; 0 beyond the final recall
    recall:    the final recall R, of all boxes

    ap50: mean of the curve
    published_precision, published_recall, published_f1: the mean of the first int(100 R) values, R, and their
        harmonic mean. This is no operating point: the precision is a mean over recalls, R holds at the lowest
        score. Without R, which lies between the last recall with precision above 0 and the next one,
        published_recall_low, published_recall_high, published_f1_low and published_f1_high take the place of
        the last two. nan where the curve has no such values.
    curve_best_f1, curve_best_f1_recall, curve_best_f1_precision: where F1 is largest on the curve
    Source: vid_map_coco_*.py in the code of STMENet, SMFNet and SSTNet.
    """
    precision = np.asarray(precision, np.float64)
    f1 = harmonic_mean(precision, RECALL_LEVELS)
    best = f1.argmax()
    if recall is None:
        reached = max(np.count_nonzero(precision) - 1, 0)
        recalls = {"_low": reached / 100, "_high": min((reached + 1) / 100, 1)}
    else:
        reached = int(100 * recall)
        recalls = {"": recall}
    mean = precision[:reached].mean() if reached else np.nan
    figures = {"ap50": precision.mean(), "published_precision": mean}
    for suffix, value in recalls.items():
        figures[f"published_recall{suffix}"] = value
        figures[f"published_f1{suffix}"] = harmonic_mean(mean, value)
    figures["curve_best_f1"] = f1[best]
    figures["curve_best_f1_recall"], figures["curve_best_f1_precision"] = RECALL_LEVELS[best], precision[best]
    return {name: float(value) for name, value in figures.items()}


def harmonic_mean(a: Any, b: Any) -> Any:
    """2 a b / (a + b), and 0 of two zeros."""
    return 2 * a * b / np.maximum(a + b, np.finfo(np.float64).tiny)


def f1_of(tp: Any, num_boxes: Any, num_truth: int) -> Any:
    """F1 of `tp` hits among the boxes; 0 where there are neither boxes nor truth."""
    return 2 * tp / np.maximum(num_boxes + num_truth, 1)


def best_rank(scores: np.ndarray, tp: np.ndarray, num_truth: int) -> dict[str, float]:
    """The number of boxes to keep at which F1 is largest: scores [N] falling, tp [N] hits up to each."""
    tp, scores = np.r_[0, tp], np.r_[np.nan, scores]  # from none to all
    f1 = f1_of(tp, np.arange(tp.size), num_truth)
    best = f1.argmax()
    return {
        "best_f1": f1[best],
        "best_f1_score": scores[best],
        "best_f1_precision": ratio(tp[best], best),
        "best_f1_recall": ratio(tp[best], num_truth),
    }


def box_rows(boxes: Any, columns: int) -> np.ndarray:
    """Boxes as float64 [N, columns]; an empty array may have any shape."""
    boxes = as_array(boxes).astype(np.float64)
    if boxes.size == 0:
        return np.zeros((0, columns))
    if boxes.ndim != 2 or boxes.shape[1] != columns:
        raise ValueError(f"boxes are [N, {columns}], not {list(boxes.shape)}")
    return boxes


def find_true(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which boxes [N, 5], in the order of falling scores, are true at IoU 0.5 by COCO's matching, bool [N].

    Each box takes the target not yet taken with which its IoU is largest, of several the last.
    """
    true = np.zeros(len(boxes), bool)
    if not len(boxes) or not len(truth):
        return true
    overlaps = mask.iou(left_top_size(boxes)[:, :4], left_top_size(truth), [0] * len(truth))  # [N, M]
    for place in np.flatnonzero(overlaps.max(axis=1) >= MIN_IOU):
        best = len(truth) - 1 - overlaps[place, ::-1].argmax()
        if overlaps[place, best] >= MIN_IOU:
            true[place] = True
            overlaps[:, best] = 0
    return true


def left_top_size(boxes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4 or 5] with width and height in place of x2 and y2."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:4] - boxes[:, :2], boxes[:, 4:]], axis=1)


def evaluate_coco(
    boxes: Iterable[np.ndarray], truth: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """COCO's evaluation of the boxes [N, 5] and the truth [M, 4] of each frame.

    Returns its summary [12], nan where it is undefined, and at the IoUs 0.5, 0.55, ..., 0.95 the precision
    [10, 101] and the final recall [10], which are 0 without any truth.
    """
    evaluation = COCOeval_faster(coco_set(truth), coco_set(boxes), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, 0, 0, -1]  # [IoU, recall, class, area, maxDets]
    recall = evaluation.eval["recall"][:, 0, 0, -1]
    summary = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    return summary, np.maximum(precision, 0), np.maximum(recall, 0)


def coco_set(frames: Iterable[np.ndarray]) -> COCO:
    """The boxes [N, 5], or the truth [N, 4], of each frame as a set of one class."""
    annotations, image = [], 0
    for image, boxes in enumerate(frames, start=1):
        for left, top, width, height, *score in left_top_size(boxes).tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would mean "no match"
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": score[0] if score else 1,
                }
            )
    images = [{"id": number} for number in range(1, image + 1)]
    return COCO({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "target"}]})
