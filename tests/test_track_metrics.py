"""The figures of tracks against values by hand, and tracks in a test from the truth to the tables."""

import csv
import json
import sys

import cv2
import numpy as np
import pytest

import test
from dataset import create_dataset
from dataset.video import TestVideo
from metrics import create_metric
from metrics.protocols import protocol_lines, table_figures
from metrics.tracks import require_trackeval
from utils.detections import TrackPoint
from utils.engine.score import merge_groups, score_set
from utils.errors import UserError
from utils.recipe.schema import ViewSettings


def point(track, x, y, confirmed=True):
    return TrackPoint(track, x, y, (x - 1, y - 1, x + 2, y + 2), 0.9, confirmed)


def target(x, y, identity=0):
    return [y, x, identity]


def counted(frames, **options):
    """The metric after frames of (points, targets)."""
    metric = create_metric("Tracks", **options)
    for points, targets in frames:
        metric.update(points, np.array(targets, np.float64).reshape(-1, 3))
    return metric


def straight(tracks, off=0.0):
    """A target along a row, `off` pixels beside the points of one track a frame; 0: none."""
    return [
        ([point(track, 10 * t, 5 + off)] if track else [], [target(10 * t, 5)])
        for t, track in enumerate(tracks)
    ]


# ---------------------------------------------------------------- by hand


def test_a_perfect_track():
    figures = counted(straight([7, 7, 7])).compute()
    assert figures == {
        "hota": 1,
        "idf1": 1,
        "mota": 1,
        "track_error": 0,
        "on_track": 1,
        "false_tracks_per_minute": 0,
        "confirmed_after": 0,
        "targets": 1,
        "confirmed": 1,
        "tracks": 1,
        "false_tracks": 0,
    }


def test_a_track_in_two_halves():
    """A pair of target and track is together in 2 frames, of 4 + 2 - 2 in which either is: AssA is 1/2."""
    figures = counted(straight([1, 1, 2, 2])).compute()
    assert figures["hota"] == pytest.approx(np.sqrt(1 / 2))
    assert figures["idf1"] == pytest.approx(2 * 2 / (2 * 2 + 2 + 2))
    assert figures["mota"] == pytest.approx((4 - 1) / 4)  # one switch
    assert figures["on_track"] == 0.5 and figures["false_tracks"] == 0


def test_missed_frames():
    """Of 5 frames 4 are matched: DetA 4/5, and AssA 4/5."""
    figures = counted(straight([1, 1, 0, 1, 1])).compute()
    assert figures["hota"] == pytest.approx(0.8)
    assert figures["idf1"] == pytest.approx(8 / 9)
    assert figures["mota"] == pytest.approx(0.8)
    assert figures["on_track"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("off", "alphas", "right"), [(0.29, 19, 1), (1.51, 14, 1), (3, 10, 1), (3.01, 9, 0), (5.8, 0, 0)]
)
def test_three_pixels_are_a_similarity_of_one_half(off, alphas, right):
    """HOTA counts the similarities 0.05, 0.1, ... that are reached, of 19."""
    figures = counted(straight([1, 1, 1, 1], off)).compute()
    assert figures["hota"] == pytest.approx(alphas / 19)
    assert figures["idf1"] == right and figures["on_track"] == right
    assert figures["mota"] == (1 if right else -1)
    assert figures["false_tracks"] == 1 - right
    if right:
        assert figures["track_error"] == pytest.approx(off)
    else:
        assert np.isnan(figures["track_error"])
    wide = counted(straight([1, 1, 1, 1], off), reach=12).compute()
    assert wide["idf1"] == 1 and wide["track_error"] == pytest.approx(off)


def test_false_tracks_are_on_targets_in_no_more_than_half_of_their_points():
    frames = straight([1] * 12)
    for t in range(12):
        points, targets = frames[t]
        points.append(point(2, 200, 200))
        points.append(point(3, 10 * t, 5 if t < 6 else 90))  # half of them
        points.append(point(4, 10 * t, 5 if t < 7 else 90))
        if t == 0:
            points.append(point(5, 90, 90))
    figures = counted(frames).compute()
    assert figures["tracks"] == 5 and figures["false_tracks"] == 3
    assert figures["false_tracks_per_minute"] == pytest.approx(3 / (12 / 25 / 60))
    slow = counted(frames, frames_per_second=2.0)
    assert slow.compute()["false_tracks_per_minute"] == pytest.approx(3 / (12 / 2 / 60))
    assert slow.description(0.5) == "reach=6 at 2 frames/s"


def test_false_alarms_count_in_mota():
    frames = straight([1, 1, 1, 1])
    for points, _ in frames[:3]:
        points.append(point(2, 200, 200))
    figures = counted(frames).compute()
    assert figures["mota"] == pytest.approx((4 - 3) / 4)
    assert figures["idf1"] == pytest.approx(2 * 4 / (2 * 4 + 3))


def test_the_delay_is_counted_from_the_first_frame_of_a_target_to_the_confirmation():
    frames = [([], [])] * 2
    for t in range(6):
        points = [point(1, 10 * t, 5, confirmed=t >= 3)] if t else []
        frames.append((points, [target(10 * t, 5, 4), target(150, 150, 9)]))
    figures = counted(frames).compute()
    assert figures["confirmed_after"] == 3 and figures["confirmed"] == 1 and figures["targets"] == 2
    assert figures["on_track"] == pytest.approx(5 / 12)


def test_identities_that_change_places_are_switches():
    frames = [([point(1, 50, 5), point(2, 50, 90)], [target(50, 5, 0), target(50, 90, 1)])] * 3
    frames += [([point(2, 50, 5), point(1, 50, 90)], [target(50, 5, 0), target(50, 90, 1)])] * 3
    figures = counted(frames).compute()
    assert figures["mota"] == pytest.approx((12 - 2) / 12)
    assert figures["idf1"] == pytest.approx(0.5) and figures["on_track"] == pytest.approx(0.5)


def test_without_frames_targets_or_tracks():
    figures = create_metric("Tracks").compute()
    assert all(np.isnan(figures[figure.name]) for figure in create_metric("Tracks").figures)
    nothing = counted([([], [])] * 5).compute()
    assert np.isnan(nothing["hota"]) and nothing["false_tracks_per_minute"] == 0
    missed = counted([([], [target(5, 5)])] * 5).compute()
    assert missed["hota"] == missed["idf1"] == missed["mota"] == missed["on_track"] == 0
    false = counted([([point(1, 5, 5)], [])] * 5).compute()
    assert false["hota"] == 0 and np.isnan(false["mota"]) and false["false_tracks"] == 1


# ---------------------------------------------------------------- sums


def random_sequence(seed):
    random, frames = np.random.default_rng(seed), []
    for t in range(30):
        targets = [target(20 + 3 * t, 40, 0), target(150, 20 + 4 * t, 1)]
        near = [point(1 + k + 2 * (t > 17), x, y) for k, (y, x, _) in enumerate(targets)]
        near = [point(p.track, p.x + random.normal(0, 2), p.y) for p in near if random.random() > 0.2]
        false = [point(9, *random.uniform(0, 200, 2))] * (random.random() < 0.3)
        frames.append((near + false, targets if random.random() > 0.1 else []))
    return frames


def test_sums_over_sequences_are_those_of_trackeval():
    sequences = [random_sequence(seed) for seed in (0, 1, 2)]
    total = create_metric("Tracks")
    for frames in sequences:
        total.merge(counted(frames))
    trackeval, found = require_trackeval(), {}
    options = {"THRESHOLD": 0.5, "PRINT_CONFIG": False}
    kinds = [trackeval.metrics.HOTA(), trackeval.metrics.Identity(options), trackeval.metrics.CLEAR(options)]
    for number, frames in enumerate(sequences):
        tracks = [np.array([p.track - 1 for p in points], int) for points, _ in frames]
        _, known = np.unique(np.concatenate(tracks), return_inverse=True)
        data = {
            "num_timesteps": len(frames),
            "tracker_ids": np.split(known, np.cumsum([len(t) for t in tracks])[:-1]),
            "gt_ids": [np.array([row[2] for row in targets], int) for _, targets in frames],
            "num_tracker_ids": known.max() + 1,
            "num_gt_ids": 2,
            "num_tracker_dets": len(known),
            "num_gt_dets": sum(len(targets) for _, targets in frames),
            "similarity_scores": [
                np.array(
                    [[max(0, 1 - np.hypot(p.y - r, p.x - c) / 6) for p in points] for r, c, _ in targets]
                ).reshape(len(targets), len(points))
                for points, targets in frames
            ],
        }
        found[number] = [kind.eval_sequence(data) for kind in kinds]
    hota, identity, clear = (
        kind.combine_sequences({number: results[place] for number, results in found.items()})
        for place, kind in enumerate(kinds)
    )
    figures = total.compute()
    assert 0.2 < figures["hota"] < 0.9
    assert figures["hota"] == pytest.approx(hota["HOTA"].mean())
    assert figures["idf1"] == pytest.approx(identity["IDF1"])
    assert figures["mota"] == pytest.approx(clear["MOTA"])
    assert figures["track_error"] == pytest.approx(6 * (1 - clear["MOTP"]))


def test_sequences_that_are_merged_in_any_order_give_the_same():
    first, second = straight([1, 1, 2, 2]), straight([1, 1, 1, 0, 0, 0, 0, 0])
    both, back = counted(first), counted(second)
    both.compute()
    both.merge(counted(second))
    back.merge(counted(first))
    assert both.compute() == back.compute()
    assert both.compute()["on_track"] == pytest.approx((2 + 3) / 12)
    assert both.compute()["tracks"] == 3 and both.compute()["targets"] == 2
    with pytest.raises(ValueError, match="does not count what"):
        both.merge(create_metric("Tracks", reach=3))
    with pytest.raises(ValueError, match="does not count what"):
        both.merge(create_metric("IoU"))


def test_figures_that_are_asked_for_on_the_way_change_nothing():
    metric = create_metric("Tracks")
    for points, targets in straight([1, 1, 2, 2]):
        metric.update(points, np.array(targets))
        metric.compute()
    assert metric.compute() == counted(straight([1, 1, 2, 2])).compute()
    metric.reset()
    assert np.isnan(metric.compute()["hota"])


# ---------------------------------------------------------------- the package


def test_without_trackeval_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackeval", None)
    require_trackeval.cache_clear()
    with pytest.raises(UserError, match="the package trackeval, which cannot be imported .*pip install"):
        protocol_lines(["tracks"], "DeepPro", 0.5, 1, 4)
    assert protocol_lines(["clean"], "DeepPro", 0.5, 1, 4)
    assert "hota" in {figure.name for figure in table_figures()}
    monkeypatch.undo()
    require_trackeval.cache_clear()


def test_the_package_says_nothing(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "trackeval"]:
        monkeypatch.delitem(sys.modules, name)
    require_trackeval.cache_clear()
    counted(straight([1, 1])).compute()
    require_trackeval.cache_clear()
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------- truth


def write_frames(folder, count, places):
    """Frames with a bright dot at each of places(t)."""
    (folder / "images").mkdir(parents=True)
    for t in range(count):
        frame = np.random.default_rng(t).normal(90, 1.5, (48, 64))
        for x, y in places(t):
            frame[y - 1 : y + 1, x - 1 : x + 1] = 200
        cv2.imwrite(str(folder / f"images/{t:03}.png"), frame.clip(0, 255).astype(np.uint8))


def boxes_csv(folder, rows, header="frame,x,y,w,h,id"):
    (folder / "boxes.csv").write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))


def identities(folder, **options):
    """The truth "identities" of each frame of a Folder."""
    data = create_dataset("Folder", folder, "test", **options)
    video = TestVideo(data[0], data, ViewSettings())
    return [video.truth(index, ["identities"])["identities"] for index in range(len(data[0]))], data


def test_boxes_csv_tells_targets_apart_by_their_ids(tmp_path):
    write_frames(tmp_path / "a", 3, lambda t: [])
    rows = [("000", 10, 20, 4, 2, "b"), ("000", 30, 20, 1, 1, "a"), ("002", 31, 20, 1, 1, "a")]
    boxes_csv(tmp_path / "a", rows)
    found, _ = identities(tmp_path)
    assert [frame.tolist() for frame in found] == [[[20.5, 11.5, 0], [20, 30, 1]], [], [[20, 31, 1]]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("000", 1, 1, 2, 2, "")], "boxes.csv, line 2: there is no id; correct it, or take"),
        ([("000", 1, 1, 2, 2, 7), ("000", 9, 9, 2, 2, 7)], "line 3: 000 has two boxes of the id 7; correct"),
    ],
)
def test_ids_that_tell_nothing_are_refused(tmp_path, rows, said):
    write_frames(tmp_path / "a", 1, lambda t: [])
    boxes_csv(tmp_path / "a", rows)
    with pytest.raises(UserError, match=said):
        create_dataset("Folder", tmp_path, "test")


def test_a_box_that_is_dropped_takes_its_id_along(tmp_path):
    write_frames(tmp_path / "a", 2, lambda t: [])
    boxes_csv(tmp_path / "a", [("000", 900, 1, 2, 2, 1), ("000", 4, 4, 1, 1, 2), ("001", 6, 4, 1, 1, 2)])
    found, _ = identities(tmp_path, on_bad_truth="drop")
    assert [frame.tolist() for frame in found] == [[[4, 4, 0]], [[4, 6, 0]]]


def coco(folder, annotations):
    images = [{"id": t, "file_name": f"{t:03}.png", "width": 64, "height": 48} for t in range(2)]
    entries = [
        {"id": n, "image_id": image, "bbox": [x, 4, 1, 1], "category_id": 1, **({"track_id": k} if k else {})}
        for n, (image, x, k) in enumerate(annotations)
    ]
    (folder / "truth.json").write_text(
        json.dumps({"images": images, "annotations": entries, "categories": []})
    )


def test_coco_tells_targets_apart_by_track_id(tmp_path):
    write_frames(tmp_path / "a", 2, lambda t: [])
    coco(tmp_path / "a", [(0, 8, 41), (0, 20, 12), (1, 21, 12)])
    found, data = identities(tmp_path)
    assert [frame.tolist() for frame in found] == [[[4, 8, 0], [4, 20, 1]], [[4, 21, 1]]]
    assert not [note for note in data.notes if "track_id" in note]


@pytest.mark.parametrize("annotations", [[(0, 8, 41), (0, 20, None)], [(0, 8, 5), (0, 20, 5)]])
def test_track_ids_that_tell_nothing_are_not_used(tmp_path, annotations):
    write_frames(tmp_path / "a", 2, lambda t: [])
    coco(tmp_path / "a", annotations)
    found, data = identities(tmp_path)
    assert found[0] is None and data[0].identities is None and len(data[0].boxes[0]) == 2
    assert any("are not used: one is missing, is no whole number, or is twice" in note for note in data.notes)


def test_a_single_target_needs_no_identity(tmp_path):
    write_frames(tmp_path / "a", 3, lambda t: [])
    (tmp_path / "a/centroids.txt").write_text("4,5\n\n6,7\n")
    assert [frame.tolist() for frame in identities(tmp_path)[0]] == [[[4, 5, 0]], [], [[6, 7, 0]]]
    (tmp_path / "a/centroids.txt").write_text("4,5\n\n6,7;8,9\n")
    assert identities(tmp_path)[0][2] is None
    (tmp_path / "a/centroids.txt").unlink()
    assert identities(tmp_path)[0] == [None] * 3
    masks = tmp_path / "a/masks"
    masks.mkdir()
    for t in range(3):
        mask = np.zeros((48, 64), np.uint8)
        mask[10:12, 20 + t : 23 + t] = 255
        cv2.imwrite(str(masks / f"{t:03}.png"), mask)
    assert [frame.tolist() for frame in identities(tmp_path)[0]] == [[[10.5, 21 + t, 0]] for t in range(3)]


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One target; two with ids; two without; none that moves, and no truth."""
    root = tmp_path_factory.mktemp("data")
    one, two = (lambda t: [(6 + 2 * t, 20)]), (lambda t: [(6 + 2 * t, 10), (60 - 2 * t, 36)])
    for name, places in (("one", one), ("pair", two), ("unnamed", two), ("unknown", one)):
        write_frames(root / name, 20, places)
        rows = [
            (f"{t:03}", x - 1, y - 1, 2, 2, k) for t in range(20) for k, (x, y) in enumerate(places(t), 1)
        ]
        if name == "pair":
            boxes_csv(root / name, rows)
        elif name != "unknown":
            boxes_csv(root / name, [row[:5] for row in rows], "frame,x,y,w,h")
    return root


def run(folder, log, *flags):
    """(eval.json of the one test of a call of test.py, its tables as rows)."""
    words = ["--dataset_names", "Folder", "--dataset_dir", str(folder), "--log_dir", str(log)]
    models = [] if "--predictions" in flags else ["--model_names", "TopHat"]
    test.main([*words, *models, "--protocol", "clean", *flags])
    (path,) = log.glob("Folder/TopHat/*/eval.json")
    with (path.parent / "sequences.csv").open() as lines:
        return json.loads(path.read_text()), list(csv.DictReader(lines)), path.parent


def test_tracks_are_scored_where_targets_are_told_apart(folder, tmp_path, capsys):
    facts, rows, made = run(folder, tmp_path / "first", "--tracks", "--save_predictions")
    (entry,) = [entry for entry in facts["scores"] if entry["protocol"] == "tracks"]
    assert entry["rule"].startswith("Tracks reach=6 at 25 frames/s truth=identities; counted at")
    total = entry["groups"]["all"]
    assert (total["sequences"], total["frames"]) == (2, 40)
    assert total["hota"] > 0.9 and total["idf1"] == total["mota"] == total["on_track"] == 1
    assert total["false_tracks_per_minute"] == 0 and total["confirmed_after"] == 4 and total["targets"] == 3
    assert total["curve"] is None and facts["tracks"]["hits"] == 5
    shown = {(row["group"]): row for row in rows if row["protocol"] == "tracks"}
    assert float(shown["pair"]["IDF1 %"]) == 100 and shown["unnamed"]["IDF1 %"] == ""
    assert shown["unnamed"]["rule"] == "Tracks: not scored, the data has no identities"
    assert "unknown" not in shown  # which has no truth at all
    assert "on right track %" in capsys.readouterr().out
    again, _, _ = run(folder, tmp_path / "second", "--tracks", "--predictions", str(made))
    (kept,) = [entry for entry in again["scores"] if entry["protocol"] == "tracks"]
    assert kept == entry
    capsys.readouterr()
    plain, _, _ = run(folder, tmp_path / "third", "--predictions", str(made))
    clean = [one for one in facts["scores"] if one["protocol"] == "clean"]
    assert json.dumps(plain["scores"]) == json.dumps(clean)  # nan is not equal to itself
    assert plain["tracks"] is None and "HOTA" not in capsys.readouterr().out


def test_options_of_tracks(folder, tmp_path):
    facts, *_ = run(
        folder / "one", tmp_path, "--tracks", "--track_option", "hits=3", "--track_option", "lag=0"
    )
    (entry,) = [entry for entry in facts["scores"] if entry["protocol"] == "tracks"]
    assert facts["tracks"]["hits"] == 3 and facts["tracks"]["lag"] == 0
    assert entry["groups"]["all"]["confirmed_after"] == 2
    assert entry["groups"]["all"]["on_track"] == pytest.approx(18 / 20)  # from the confirmation on


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tracks", "--track_option", "hit=3"], "--tracks has no option 'hit'; .*hits"),
        (["--tracks", "--track_option", "hits=0"], "option hits of --tracks cannot be 0: it takes"),
        (["--tracks", "--track_option", "hits"], "--track_option takes key=value, not 'hits'"),
        (["--tracks", "--track_option", "hits=10"], "no track has 10 hits in 8 frames; give"),
        (["--track_option", "hits=3"], "--track_option has no effect without --tracks; add it or"),
    ],
)
def test_wrong_options_of_tracks_are_refused(flags, said):
    with pytest.raises(UserError, match=said):
        test.parse(flags)


def test_groups_are_summed_over_sequences(folder):
    lines = protocol_lines(["tracks"], "DeepPro", 0.5, 1, 4)
    metrics = {
        name: counted(straight(tracks)) for name, tracks in {"a": [1, 1, 2, 2], "b": [1, 1, 1]}.items()
    }

    class Video:
        def __init__(self, name):
            self.name = name

        def expect(self, _kinds):
            pass

        def truth(self, index, _kinds):
            return {"identities": metrics[self.name].sequence[index][1]}

    class Prediction:
        def __init__(self, points):
            self.tracks = [point(int(n), x, y) for y, x, n, _ in points]

    def predict(video):
        for index, (points, _) in enumerate(metrics[video.name].sequence):
            yield index, Prediction(points)

    groups, sequences = score_set(predict, [Video("a"), Video("b")], {"b": ["b"]}, lines)
    assert groups["all"].figures(lines[0])["on_track"] == pytest.approx((2 + 3) / 7)
    assert groups["b"].figures(lines[0]) == sequences["b"].figures(lines[0])
    total = metrics["a"]
    total.merge(metrics["b"])
    assert groups["all"].figures(lines[0]) == total.figures_at(0.5)
    assert merge_groups(sequences.values(), lines).figures(lines[0]) == total.figures_at(0.5)
