"""Over what figures are counted: mixed truth is never one line, and new metrics enter the tables."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import metrics
import test
from metrics import protocols
from metrics.counting import CountingMetric, Figure, ratio
from metrics.protocols import better, protocol_lines, table_figures
from utils.boxes import BoxPrediction, MapPrediction
from utils.engine.score import figure_names, score_set
from utils.errors import UserError
from utils.registry import METRICS, register_metric
from utils.report.rows import Table, score_entries

FRAMES, SIZE = 4, (30, 40)


class Video:
    """As much of a TestVideo as scoring asks for: frames of one target at row 10 + frame, column 20."""

    def __init__(self, name: str, kinds: tuple[str, ...], frames: int = FRAMES):
        self.name, self.kinds, self.num_frames = name, kinds, frames

    def expect(self, _kinds) -> None:
        pass

    def truth(self, index: int, _kinds) -> dict:
        mask = np.zeros(SIZE, np.uint8)
        mask[10 + index, 20:22] = 1
        centre = np.array([[10.0 + index, 20.5]])
        box = np.array([[20.0, 10 + index, 22, 11 + index]])
        every = {"mask": mask, "round_trip_mask": mask.astype(np.float32), "centroid_map": mask}
        every |= {"centroids": centre, "boxes": box}
        return {kind: value if kind in self.kinds else None for kind, value in every.items()}

    def truth_on(self, _grid, truth: dict, _kinds) -> dict:
        return truth

    def restore(self, probability: np.ndarray, _grid) -> np.ndarray:
        return probability


MASKED = ("mask", "round_trip_mask", "centroid_map", "centroids", "boxes")
POINTED = ("centroid_map", "centroids")


def predict_maps(video: Video):
    """The target in all but the first frame, and a false pixel in each."""
    for index in range(video.num_frames):
        p = np.full(SIZE, 0.2, np.float32)
        p[10 + index, 20:22] = 0.9 if index else 0.1
        p[25, 5] = 0.8
        yield index, MapPrediction(p, 0.5, p, video)


def predict_boxes(video: Video):
    for index in range(video.num_frames):
        yield index, BoxPrediction(np.array([[20.0, 10 + index, 22, 11 + index, 0.9]]), SIZE)


def clean_lines(protocol="clean", paper="RPRNet"):
    return protocol_lines([protocol], paper, threshold=0.5, match=1, exclude=4)


def counted(videos, subsets=None, lines=None, predict=predict_maps):
    """(groups, sequences, the parts of each line, the rows of the groups)."""
    lines = clean_lines() if lines is None else lines
    groups, sequences = score_set(predict, videos, subsets or {}, lines)
    parts = [groups["all"].split(line) for line in lines]
    rows = Table(table_figures()).measured(("set", "model", "weights"), groups, parts)
    return groups, sequences, parts, rows


@pytest.fixture
def mixed():
    return [Video("masked", MASKED), Video("pointed", POINTED, frames=3)]


# ---------------------------------------------------------------- coverage


def test_a_line_of_mixed_coverage_is_split(mixed):
    _, _, _, rows = counted(mixed)
    shown = [
        (r["targets by"], r["sequences"], r["frames"], r["Pd %"] is None, r["IoU"] is None) for r in rows
    ]
    assert shown == [
        ("ShootingRules", 2, 7, False, True),
        ("", 1, 4, True, False),
        ("PdFa", 1, 4, False, False),
        ("CentroidPdFa", 2, 7, False, True),
        ("", 1, 4, True, True),
    ]
    assert rows[0]["Pd %"] == pytest.approx(100 * 5 / 7)  # all frames but the first of each
    assert rows[1]["IoU"] == pytest.approx(6 / (6 + 2 + 4))  # hits, a target missed, false pixels
    assert rows[0]["AUC"] is not None and rows[1]["AUC"] is None  # the line's is that of ShootingRules
    assert rows[0]["rule"].startswith("ShootingRules match=1") and "IoU" not in rows[0]["rule"]
    assert rows[1]["rule"].startswith("IoU threshold=0.5") and "ShootingRules" not in rows[1]["rule"]
    assert rows[4]["AP50 %"] is not None


def test_the_order_of_the_sequences_does_not_matter(mixed):
    assert counted(mixed[::-1])[3] == counted(mixed)[3]


def test_equal_coverage_is_one_line(mixed):
    *_, rows = counted(mixed[:1])
    assert [(r["targets by"], r["sequences"], r["frames"]) for r in rows] == [
        ("ShootingRules", 1, 4),
        ("PdFa", 1, 4),
        ("CentroidPdFa", 1, 4),
    ]


def test_subsets_and_sequences_are_split_like_all(mixed):
    groups, sequences, parts, rows = counted(mixed, {"points": ["pointed"], "none": ["elsewhere"]})
    of_points = [(r["targets by"], r["sequences"], r["frames"]) for r in rows if r["group"] == "points"]
    assert of_points == [("ShootingRules", 1, 3), ("PdFa", 0, 0), ("CentroidPdFa", 1, 3)]
    (not_scored,) = [r["rule"] for r in rows if (r["group"], r["targets by"]) == ("points", "PdFa")]
    assert not_scored == "PdFa: not scored, the data has no mask"
    entries = score_entries(groups, sequences, parts)
    assert [(e["protocol"], e["targets_by"]) for e in entries] == [
        ("clean", "ShootingRules"),
        ("clean", ""),
        ("clean", "PdFa"),
        ("clean", "CentroidPdFa"),
        ("clean", ""),
    ]
    pixels = entries[1]
    assert {g: (f["sequences"], f["frames"]) for g, f in pixels["groups"].items()} == {
        "all": (1, 4),
        "points": (0, 0),
        "none": (0, 0),
    }
    assert "iou" in pixels["sequences"]["masked"] and "iou" not in pixels["sequences"]["pointed"]
    assert all("curve" in figures for entry in entries for figures in entry["groups"].values())


def test_a_subset_without_members_is_an_empty_line_that_says_so(mixed):
    *_, rows = counted(mixed, {"none": ["elsewhere"]})
    empty = [r for r in rows if r["group"] == "none"]
    assert [r["sequences"] for r in empty] == [0, 0, 0]
    assert {r["rule"] for r in empty} == {"no sequence of this group was tested"}
    assert all(r["Pd %"] is None and r["IoU"] is None for r in empty)


def test_nothing_tested_is_no_crash():
    groups, _, _, rows = counted([])
    assert [r["frames"] for r in rows] == [0, 0, 0]
    assert np.isnan(groups["all"].figure(clean_lines(), "pd"))


def test_a_mixed_folder_from_files_to_tables(tmp_path):
    """test.py on a sequence with masks and one with points: IoU and Pd are recomputed from what it keeps."""
    draw = np.random.default_rng(3)
    masks = np.zeros((6, 40, 48), np.uint8)
    for name in ("masked", "pointed"):
        (tmp_path / "data" / name / "images").mkdir(parents=True)
        for index in range(6):
            frame = draw.normal(60, 4, masks[0].shape)
            frame[12 + index : 14 + index, 20:22] += 90
            frame[30:32, 8:10] += 90  # no target
            masks[index, 12 + index : 14 + index, 20:22] = 255
            image = Image.fromarray(frame.clip(0, 255).astype(np.uint8))
            image.save(tmp_path / "data" / name / "images" / f"{index}.png")
    (tmp_path / "data/masked/masks").mkdir()
    for index, mask in enumerate(masks):
        Image.fromarray(mask).save(tmp_path / "data/masked/masks" / f"{index}.png")
    points = "".join(f"{12.5 + index},20.5\n" for index in range(6))
    (tmp_path / "data/pointed/centroids.txt").write_text(points)

    flags = ("--model_names", "TopHat", "--dataset_names", "Folder", "--dataset_dir", tmp_path / "data")
    places = ("--save_predictions", "--save_overlays", "--log_dir", tmp_path / "log", "--device", "cpu")
    test.main([str(flag) for flag in (*flags, *places)])
    (folder,) = (tmp_path / "log/Folder/TopHat").iterdir()
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert not (row["IoU"] and row["targets by"] == "ShootingRules"), row  # Pd of two, IoU of one
    pixels = [row for row in rows if row["IoU"]]
    assert pixels and {(row["sequences"], row["frames"]) for row in pixels} == {("1", "6")}
    assert {r["sequences"] for r in rows if r["targets by"] in ("ShootingRules", "CentroidPdFa")} == {"2"}
    with np.load(folder / "predictions/masked.npz") as maps:
        hits = np.stack([maps[name] for name in sorted(maps)]) > 0.5
    iou = (hits & (masks > 0)).sum() / (hits | (masks > 0)).sum()
    assert [float(row["IoU"]) for row in pixels] == pytest.approx([iou] * len(pixels))
    scores = json.loads((folder / "eval.json").read_text())["scores"]
    targets = {s["groups"]["all"]["targets"] for s in scores if s["targets_by"] == "ShootingRules"}
    assert targets == {12}


# ---------------------------------------------------------------- declarations


@pytest.fixture
def toy(monkeypatch):
    """A metric of a plug-in, as the second one of the clean protocol's first line."""
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    monkeypatch.setattr(METRICS, "_folded", dict(METRICS._folded))

    @register_metric("Brightest")
    class Brightest(CountingMetric):
        takes, truth = "score_map", "centroids"
        figures = (Figure("brightest", "brightest ‰", 1000, ".1f", better="lower"),)

        def __init__(self, threshold: float = 0.0, exclude: int = 1):
            super().__init__(threshold=threshold, exclude=exclude)

        def zero_counts(self):
            return {"sum": 0.0, "frames": 0}

        def update(self, prediction, truth):
            self.counts["sum"] += float(prediction.max())
            self.counts["frames"] += 1

        def compute(self):
            return {"brightest": ratio(self.counts["sum"], self.counts["frames"])}

    first, *others = protocols.PROTOCOLS["clean"].lines
    lines = ({**first, "Brightest": {"exclude": 7}}, *others)
    monkeypatch.setitem(protocols.PROTOCOLS, "clean", protocols.Protocol(lines))


def test_a_metric_of_a_plug_in_is_a_column_of_the_table(toy, mixed):
    lines = clean_lines()
    groups, _, _, rows = counted(mixed, lines=lines)
    assert rows[0]["brightest ‰"] == pytest.approx(1000 * (2 * 0.8 + 5 * 0.9) / 7)
    assert rows[1]["brightest ‰"] is None
    # The protocol's own option wins.
    assert "; Brightest threshold=0.5 exclude=7 truth=centroids; counted at" in rows[0]["rule"]
    assert groups["all"].figure(lines, "brightest") == pytest.approx((2 * 0.8 + 5 * 0.9) / 7)
    assert "brightest" in figure_names(lines)
    assert better("brightest") == "lower"
    text = Table(table_figures()).text(rows, ("rule",))
    assert "871.4" in text and text.splitlines()[0].split("AUC")[1].split()[:2] == ["IoU", "nIoU"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: delattr(c, "takes"), "Brightest does not declare takes"),
        (lambda c: delattr(c, "truth"), "Brightest does not declare truth"),
        (lambda c: delattr(c, "figures"), "Brightest does not declare figures"),
        (lambda c: setattr(c, "curves", None), r"Brightest does not declare curves\(\)"),
        (lambda c: setattr(c, "finds_targets", True), r"Brightest does not declare caption\(\)"),
        (lambda c: setattr(c, "takes", "maps"), "declares takes='maps'; known: map, score_map"),
        (lambda c: setattr(c, "truth", "masks"), "declares truth='masks'; known: mask, round_trip_mask"),
        (lambda c: setattr(c, "figures", ("pd",)), "declares figures that are no"),
    ],
)
def test_a_metric_that_does_not_declare_itself_is_refused(toy, spoil, message):
    spoil(METRICS.entry("Brightest").build)
    with pytest.raises(UserError, match=message):
        metrics.create_metric("Brightest")


def test_every_metric_declares_itself():
    for name in metrics.list_metrics():
        metric = metrics.create_metric(name)
        assert {figure.name for figure in metric.figures} <= set(metric.figures_at(0.5)), name


def test_the_columns_are_in_the_order_of_the_clean_protocol():
    assert [(f.name, f.label, f.factor, f.format) for f in table_figures()] == [
        ("pd", "Pd %", 100, ".2f"),
        ("fa", "Fa 1e-5", 1e5, ".2f"),
        ("auc", "AUC", 1, ".4f"),
        ("iou", "IoU", 1, ".4f"),
        ("niou", "nIoU", 1, ".4f"),
        ("ap50", "AP50 %", 100, ".2f"),
        ("published_precision", "P % (published)", 100, ".2f"),
        ("published_recall", "R % (published)", 100, ".2f"),
        ("published_f1", "F1 % (published)", 100, ".2f"),
        ("box_f1", "F1 % at 0.5", 100, ".2f"),
        ("curve_best_f1", "best F1 %", 100, ".2f"),
        ("hota", "HOTA %", 100, ".2f"),
        ("idf1", "IDF1 %", 100, ".2f"),
        ("mota", "MOTA %", 100, ".2f"),
        ("track_error", "track error px", 1, ".2f"),
        ("on_track", "on right track %", 100, ".2f"),
        ("false_tracks_per_minute", "false tracks/min", 1, ".2f"),
        ("confirmed_after", "confirmed after frames", 1, ".1f"),
    ]
    lower = ["fa", "track_error", "false_tracks_per_minute", "confirmed_after"]
    assert [f.name for f in table_figures() if f.better == "lower"] == lower
    with pytest.raises(UserError, match="no figure 'iuo'.*iou"):
        better("iuo")


# ---------------------------------------------------------------- lines


def test_the_first_metric_that_gives_a_figure_wins(mixed):
    """nIoU's own line between target and background counts, not IoU's; the curve is that of AUC."""
    (line,) = clean_lines("published", "RPRNet")
    groups, *_ = counted(mixed[:1], lines=[line])
    by_name = {chosen.name: count.metric.compute() for chosen, count in groups["all"].counted(line)}
    figures = groups["all"].figures(line)
    assert figures["niou"] == by_name["nIoU"]["niou"]
    assert figures["auc"] == by_name["ROC"]["auc"]
    shooting, pdfa, _ = clean_lines()
    groups, *_ = counted(mixed[:1])
    assert groups["all"].figures(shooting)["auc"] != groups["all"].figures(pdfa)["auc"]
    assert groups["all"].curves(shooting)["roc"].y_label.startswith("Pd")
    assert groups["all"].curves(pdfa)["roc"].y_label.startswith("true positive rate")


def test_a_metric_in_two_lines_is_counted_once(mixed, monkeypatch):
    calls = []
    update = metrics.iou.IoU.update
    monkeypatch.setattr(
        metrics.iou.IoU, "update", lambda self, *frame: (calls.append(1), update(self, *frame))
    )
    counted(mixed[:1])
    assert len(calls) == FRAMES


def test_the_figure_that_chooses_the_best_may_stand_in_any_line(mixed):
    lines = clean_lines()
    groups, *_ = counted(mixed[:1], predict=predict_boxes)
    assert groups["all"].figure(lines, "ap50") == pytest.approx(1)
    assert np.isnan(groups["all"].figure(lines, "iou"))
    assert figure_names(lines)[:5] == ["pd", "fa", "auc", "iou", "niou"]
    possible = figure_names(lines, lambda metric: metric.takes != "map")
    assert possible[:4] == ["pd", "fa", "auc", "ap50"] and "iou" not in possible


def test_an_uncounted_threshold_is_refused_before_the_work():
    with pytest.raises(UserError, match="not counted at the threshold 0.51; choose one of 0, 1e-20"):
        protocol_lines(["clean"], "RPRNet", 0.51, 1, 4)
    (line,) = protocol_lines(["published"], "TSMSA", 0.51, 1, 4)  # PdFa counts at any one
    assert line.text.startswith("PdFa threshold=0.51")
    with pytest.raises(UserError, match="scoring.paper names no paper 'RPRNot'; did you mean RPRNet"):
        protocol_lines(["published"], "RPRNot", 0.5, 1, 4)


def test_recipe_options_reach_the_metrics_that_have_them():
    shooting, pdfa, centroid = protocol_lines(["clean"], "RPRNet", 0.7, 3, 6)
    assert shooting.text.startswith(
        "ShootingRules match=3 exclude=6 border=clip thresholds=27 at p >= 0.7 truth=centroid_map; IoU"
    )
    assert "threshold=0.7" in pdfa.text and "IoU threshold=0.7" in pdfa.text
    assert centroid.text.startswith(
        "CentroidPdFa thresholds=27 at p >= 0.7 truth=centroids; AveragePrecision images=all"
    )


def test_a_roc_curve_marks_its_point_at_one_half(mixed):
    groups, *_ = counted(mixed[:1])
    curve = groups["all"].curves(clean_lines()[0])["roc"]
    figures = groups["all"].figures(clean_lines()[0])
    assert curve.point == (figures["fa"], figures["pd"])
    metric = metrics.create_metric("CentroidPdFa", thresholds=[0.2, 0.8])
    metric.update(MapPrediction(np.eye(9, dtype=np.float32), 0.005).responses, np.array([[4.0, 4.0]]))
    assert metric.curves()["roc"].point is None
