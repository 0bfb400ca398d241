"""What is refused before any work, and the wiring of test.py: figures by hand, tables after each model."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from toys import Toy, ToyBoxes, files_of, iou_by_hand, probabilities_by_hand, registered_toys

import test
import train
from metrics.protocols import table_figures
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.recipe.schema import RuntimeSettings
from utils.registry import DATASETS, MODELS
from utils.report import evaluation

pytestmark = pytest.mark.usefixtures("one_thread")

TESTED = ["Sequence4", "Sequence5"]
VERSION_1 = Path(__file__).parent / "data/version1_deeppro.pth"  # a trained DeepPro


@pytest.fixture(scope="module", autouse=True)
def watched(one_thread):
    with registered_toys() as toys:
        yield toys


@pytest.fixture(autouse=True)
def pictures(monkeypatch) -> list[tuple[Path, list[str]]]:
    """(path, names of the curves) of what would be drawn, which takes most of the time."""
    drawn = []
    monkeypatch.setattr(evaluation, "write_curves", lambda path, curves, _: drawn.append((path, [*curves])))
    return drawn


def run(command, data: Path, log: Path, *flags) -> None:
    words = (*flags, "--dataset_dir", data, "--log_dir", log, "--device", "cpu")
    command.main([str(word) for word in words])


def trained(data: Path, log: Path, model: str, *flags) -> Path:
    """The folder of a finished run."""
    run(train, data, log, "--model_names", model, "--num_workers", 0, *flags)
    return only(log / "Synthetic" / model)


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def toy(tiny_data, tmp_path_factory) -> Path:
    """The best.pth of a Toy that was trained on frames resized to 32x36, by a recipe of its own."""
    flags = ("--set", "test_resize=(32,36)", "--set", "deterministic=False", "--seed", 3, "--threshold", 0.4)
    return trained(tiny_data, tmp_path_factory.mktemp("toy"), "Toy", *flags) / "best.pth"


@pytest.fixture(scope="module")
def plain(tiny_data, tmp_path_factory) -> Path:
    """The best.pth of a Toy on frames as they are."""
    return trained(tiny_data, tmp_path_factory.mktemp("plain"), "Toy") / "best.pth"


@pytest.fixture(scope="module")
def boxes(tiny_data, tmp_path_factory) -> Path:
    """The run of a box model that validates by the clean protocol."""
    return trained(tiny_data, tmp_path_factory.mktemp("boxes"), "ToyBoxes", "--protocol", "clean")


# ---------------------------------------------------------------- plans that cannot work


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("DeepPro", "STMENet", "--set", "model.seq_len=40", "--patch_size", "32"),
            "STMENet has no option 'seq_len'",
        ),
        (("DeepPro", "STMENet", "--seq_len", "6", "--patch_size", "32"), "STMENet takes clips"),
        (("DeepPro", "--set", "model.seq_len=6", "--patch_size", "32"), "DeepPro takes clips .*1, 6, H, W"),
        (("Toy", "--set", "key=1"), "predicts 4 frames of .* the recipe wants 1 of .*set view.key to all"),
        (("Toy", "DeepPrro"), "no model 'DeepPrro'"),
        (("Toy", "ToyBoxes", "--loss", "Scaled"), "loss Scaled takes masks but ToyBoxes predicts boxes"),
        (("Toy", "ToyBoxes", "--loss", "YOLOX"), "loss YOLOX takes boxes but Toy predicts masks"),
        (("Toy", "TopHat"), "TopHat has no parameters to train"),
        (("Toy", "--dataset_names", "Synthetic", "IRDST-simulation"), "IRDST-simulation"),
        (("Toy", "ToyBoxes", "--set", "best=iou"), "does not score iou for models of boxes"),
        (("Toy", "--set", "letterbox=64", "--set", "labels=published"), "no effect on a model of masks"),
        (("Toy", "--set", "box_restore=published"), "view.box_restore is gone: the published protocol"),
        (("Toy", "--patch_size", "41"), "48x40, smaller than the patch of 41"),
        (("Toy", "--set", "canvas=47"), "larger than the canvas of 47x47"),
        (("Toy", "--set", "freeze=neck", "--set", "freeze_epochs=1"), "Toy has no part 'neck' to freeze"),
    ],
)
def test_a_plan_that_cannot_work_trains_and_writes_nothing(tiny_data, tmp_path, watched, flags, sentence):
    watched.restart()
    with pytest.raises(UserError, match=sentence):
        run(train, tiny_data, tmp_path / "log", "--num_workers", 0, "--model_names", *flags)
    assert not (tmp_path / "log").exists()
    assert not watched.clips


def other_width(path: Path, source: Path) -> Path:
    """The checkpoint `source` with the weights of a wider Toy."""
    save_checkpoint(path, {**read_checkpoint(source), "weights": Toy(width=6).state_dict()})
    return path


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (other_width, r"second\.pth holds the weights of another model or size"),
        (lambda path, _: path, r"no checkpoint .*second\.pth"),
        (lambda path, source: path.write_bytes(source.read_bytes()[:999]) and path, "cut off"),
    ],
    ids=["weights", "missing", "cut"],
)
def test_a_wrong_second_checkpoint_is_refused_before_the_first_is_tested(
    plain, tiny_data, tmp_path, spoil, sentence
):
    second = spoil(tmp_path / "second.pth", plain)
    with pytest.raises(UserError, match=sentence):
        run(test, tiny_data, tmp_path / "log", "--checkpoint", plain, second)
    assert not (tmp_path / "log").exists()


def test_a_missing_second_data_set_is_refused_before_the_first_is_tested(plain, tiny_data, tmp_path):
    with pytest.raises(UserError, match="IRDST-simulation"):
        names = ("--dataset_names", "Synthetic", "IRDST-simulation")
        run(test, tiny_data, tmp_path / "log", "--checkpoint", plain, *names)
    assert not (tmp_path / "log").exists()


TRAINING = ["sampling.patch=8", "batch_size=2", "epochs=3", "loss=Scaled"]


@pytest.mark.parametrize(
    ("is_trained", "key"),
    [(True, key) for key in ("model.seq_len=3", "model.width=4", *TRAINING)]
    + [(False, key) for key in TRAINING],  # a model without a checkpoint is built by its options
)
def test_a_key_that_a_test_ignores_is_refused(plain, tiny_data, tmp_path, is_trained, key):
    chosen = ("--checkpoint", plain) if is_trained else ("--model_names", "TopHat")
    with pytest.raises(UserError, match=f"{key.partition('=')[0]} has no effect on a test of"):
        run(test, tiny_data, tmp_path / "log", *chosen, "--set", key)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("neighbours=position", "view.neighbours has no effect here; it acts where view.key names"),
        ("box_restore=published", "view.box_restore is gone: the published protocol .* leave it out"),
    ],
)
def test_a_key_that_the_others_ignore_is_refused(plain, tiny_data, tmp_path, is_trained, key, sentence):
    chosen = ("--checkpoint", plain) if is_trained else ("--model_names", "TopHat")
    with pytest.raises(UserError, match=sentence):
        run(test, tiny_data, tmp_path / "log", *chosen, "--set", key)


# ---------------------------------------------------------------- boxes


def test_a_box_model_validates_by_a_figure_of_a_later_line(boxes, tiny_data, tmp_path):
    lines = [json.loads(line) for line in (boxes / "train.jsonl").read_text().splitlines()]
    found = [line["ap50"] for line in lines]
    best = read_checkpoint(boxes / "best.pth")
    assert best["scores"]["ap50"] == max(found) == best["progress"]["best"]
    assert best["progress"]["epoch"] == max(epoch for epoch, ap in enumerate(found, 1) if ap == max(found))
    assert {"pd", "fa", "auc", "ap50"} <= lines[0].keys() and "iou" not in lines[0]
    run(test, tiny_data, tmp_path, "--checkpoint", boxes / "best.pth", "--protocol", "clean")
    rows = rows_of(only(tmp_path / "Synthetic/ToyBoxes") / "table.csv")
    scored = {row["targets by"]: row for row in rows if row["group"] == "all"}
    assert float(scored["CentroidPdFa"]["AP50 %"]) == pytest.approx(100 * max(found))
    epoch = best["progress"]["epoch"] - 1
    assert float(scored["ShootingRules"]["Pd %"]) == pytest.approx(
        100 * lines[epoch]["pd"]
    )  # of the first line


@pytest.mark.parametrize("protocol", ["published", "clean"])
def test_the_figures_that_a_refusal_names_are_accepted(tiny_data, tmp_path, protocol):
    flags = ("--model_names", "ToyBoxes", "--protocol", protocol, "--epochs", 0, "--num_workers", 0)
    with pytest.raises(UserError, match="--set best= takes one of ") as refused:
        run(train, tiny_data, tmp_path, *flags, "--set", "best=iou")
    figures = str(refused.value).rpartition("takes one of ")[2].split(", ")
    assert "ap50" in figures
    for figure in figures:
        run(train, tiny_data, tmp_path, *flags, "--set", f"best={figure}")
    others = {figure.name for figure in table_figures()} - set(figures)
    for figure in others:
        with pytest.raises(UserError, match="--set best= takes one of "):
            run(train, tiny_data, tmp_path / "others", *flags, "--set", f"best={figure}")
    assert "iou" in others and not (tmp_path / "others").exists()


@pytest.mark.parametrize(
    ("model", "truth", "figures"),
    [
        ("Toy", "0,0\n" * 24, "pd, fa, auc, last"),
        ("Toy", None, "last"),
        ("ToyBoxes", "0,0\n" * 24, "last"),
    ],
    ids=["points", "nothing", "boxes"],
)
def test_a_validation_without_its_truth_offers_figures_that_it_accepts(
    tiny_data, tmp_path, model, truth, figures
):
    """It trains on Sequence1, which has masks; Sequence2 has points or nothing."""
    root = tmp_path / "own"
    for number, kinds in ((1, ("images", "masks")), (2, ("images",))):
        for kind in kinds:
            shutil.copytree(
                tiny_data / f"Synthetic/Sequence{number}" / kind, root / f"Sequence{number}" / kind
            )
    (root / "train.txt").write_text("Sequence1\n")
    (root / "test.txt").write_text("Sequence2\n")
    if truth:
        (root / "Sequence2/centroids.txt").write_text(truth)
    names = ("--model_names", model, "--dataset_names", "Folder", "--epochs", 0, "--num_workers", 0)
    with pytest.raises(UserError, match="Sequence2 has no .*, so it cannot validate by") as refused:
        run(train, root, tmp_path / "log", *names)
    offered = str(refused.value).partition("--set best=")[2]
    assert offered.removeprefix(" one of ") == figures
    for figure in figures.split(", "):
        run(train, root, tmp_path / "log", *names, "--set", f"best={figure}")


# ---------------------------------------------------------------- the figures of test.py


@pytest.mark.parametrize("length", [4, 7, 30])
def test_a_test_gives_the_figures_of_the_network_at_rest(plain, tiny_data, tmp_path, length):
    """Without dropout and by the running statistics: IoU by hand, of all frames and of each sequence.

    The windows overlap by a frame, by more at the end, or are longer than a sequence.
    """
    flags = ("--seq_len", length, "--protocol", "published")
    run(test, tiny_data, tmp_path, "--checkpoint", plain, *flags)
    folder = only(tmp_path / "Synthetic/Toy")
    (scores,) = json.loads((folder / "eval.json").read_text())["scores"]
    weights, root = read_checkpoint(plain)["weights"], tiny_data / "Synthetic"
    expected = {name: iou_by_hand(weights, root, [name]) for name in TESTED}
    assert {n: s["iou"] for n, s in scores["sequences"].items()} == pytest.approx(expected, rel=1e-3)
    assert min(expected.values()) > 0
    assert scores["groups"]["all"]["iou"] == pytest.approx(iou_by_hand(weights, root, TESTED), rel=1e-3)
    summary = json.loads((plain.parent / "train.jsonl").read_text())
    assert scores["groups"]["all"]["iou"] == pytest.approx(summary["iou"], rel=1e-3)
    assert scores["groups"]["all"]["frames"] == 48


def test_each_video_has_a_stream_of_its_own(watched, tiny_data, tmp_path):
    """It is told the places of the frames: windows of four that share one, the last one moved back."""
    watched.restart()
    run(test, tiny_data, tmp_path, "--model_names", "ToyStream", "--protocol", "published")
    windows = [tuple(range(first, first + 4)) for first in (0, 3, 6, 9, 12, 15, 18, 20)]
    assert watched.streams == [windows, windows]


def test_boxes_lie_where_the_network_sees_them_in_the_frame(boxes, tiny_data, tmp_path):
    """Frames of 40x48 lie in the letterbox of 48x48 four rows below its upper edge."""
    flags = ("--set", "mean=100", "--set", "std=20", "--protocol", "published", "--save_predictions")
    run(test, tiny_data, tmp_path, "--checkpoint", boxes / "best.pth", *flags)
    kept = only(tmp_path / "Synthetic/ToyBoxes") / "predictions"
    images = {
        image["id"]: (image["sequence"], image["frame"])
        for image in json.loads((kept / "predictions.json").read_text())["images"]
    }
    found = {place: [] for place in images.values()}
    for entry in json.loads((kept / "boxes.json").read_text()):
        found[images[entry["image_id"]]].append([*entry["bbox"], entry["score"]])
    weights = read_checkpoint(boxes / "best.pth")["weights"]
    kernel, bias = weights["head.weight"].double(), weights["head.bias"].double()
    rows, columns = np.mgrid[:6, :6]
    for name in TESTED:
        square = np.full((24, 1, 48, 48), 128.0)
        square[:, 0, 4:44] = files_of(tiny_data / "Synthetic" / name / "images")
        maps = F.conv2d(torch.from_numpy((square - 100) / 20), kernel, bias, stride=8).numpy()
        for frame, (x, y, w, h, *logits) in enumerate(maps):
            scores = 1 / (1 + np.exp(-logits[0])) / (1 + np.exp(-logits[1]))
            width, height = 8 * np.exp(w), 8 * np.exp(h)
            left, top = 8 * (x + columns) - width / 2, 8 * (y + rows) - height / 2 - 4
            expected = np.stack([left, top, width, height, scores], -1).reshape(-1, 5)
            order = [
                np.array(sorted(table, key=lambda row: row[-1])) for table in (expected, found[name, frame])
            ]
            np.testing.assert_allclose(order[1], order[0], rtol=1e-4, atol=1e-3)


def test_tables_and_json_say_how_many_sequences_and_frames(plain, tiny_data, tmp_path):
    run(test, tiny_data, tmp_path, "--checkpoint", plain)
    folder = only(tmp_path / "Synthetic/Toy")
    expected = {"all": ("2", "48"), "SNR<=3": ("1", "24"), "SNR>3": ("1", "24")}
    for table in (folder / "table.csv", only(tmp_path / "tables") / "table.csv"):
        rows = rows_of(table)
        assert {row["group"] for row in rows} == set(expected)
        assert all((row["sequences"], row["frames"]) == expected[row["group"]] for row in rows)
        header, _, *lines = table.with_suffix(".md").read_text().splitlines()
        place = [cell.strip() for cell in header.split("|")].index("frames")
        assert {line.split("|")[place].strip() for line in lines} == {"24", "48"}
    tested = json.loads((folder / "eval.json").read_text())
    assert tested["frames"] == 48
    rows = rows_of(folder / "sequences.csv")
    assert list(dict.fromkeys(row["group"] for row in rows)) == TESTED
    assert {(row["sequences"], row["frames"]) for row in rows} == {("1", "24")}
    for scores in tested["scores"]:
        counts = {n: (str(s["sequences"]), str(s["frames"])) for n, s in scores["groups"].items()}
        assert counts == expected
        assert all((s["sequences"], s["frames"]) == (1, 24) for s in scores["sequences"].values())


def test_the_split_protocol_and_threshold_that_were_typed_are_used(plain, tiny_data, tmp_path):
    flags = ("--split", "train", "--protocol", "clean", "clean", "--threshold", 0.4)
    run(test, tiny_data, tmp_path, "--checkpoint", plain, *flags)
    tested = json.loads((only(tmp_path / "Synthetic/Toy") / "eval.json").read_text())
    assert (tested["split"], tested["recipe"]["scoring"]["threshold"]) == ("train", 0.4)
    assert [scores["protocol"] for scores in tested["scores"]] == 3 * ["clean"]  # its lines, once
    names = ["Sequence1", "Sequence2", "Sequence3"]
    expected = iou_by_hand(read_checkpoint(plain)["weights"], tiny_data / "Synthetic", names, threshold=0.4)
    first = tested["scores"][0]
    assert set(first["sequences"]) == set(names)
    assert first["groups"]["all"]["iou"] == pytest.approx(expected, rel=1e-3)


# ---------------------------------------------------------------- on another data set


@pytest.fixture(scope="module")
def own_folder(tiny_data, tmp_path_factory) -> Path:
    """Sequence5 as a data set of one's own."""
    root = tmp_path_factory.mktemp("own")
    shutil.copytree(tiny_data / "Synthetic/Sequence5/images", root / "mine/images")
    shutil.copytree(tiny_data / "Synthetic/Sequence5/masks", root / "mine/masks")
    return root


def test_a_checkpoint_keeps_its_view_and_scoring_on_another_data_set(toy, own_folder, tmp_path, capsys):
    """Not those that its model has for that data set, and not where it was computed."""
    run(test, own_folder, tmp_path, "--checkpoint", toy, "--dataset_names", "Folder")
    tested = json.loads((only(tmp_path / "Folder/Toy") / "eval.json").read_text())
    before = json.loads(json.dumps(read_checkpoint(toy)["recipe"]))
    assert before["runtime"]["seed"] == 3
    runtime = {**vars(RuntimeSettings()), "device": "cpu"}
    assert tested["recipe"] == {**before, "runtime": runtime}
    assert tested["recipe"]["view"]["test_resize"] == [32, 36]
    assert (tested["dataset"], tested["trained_on"]) == ("Folder", "Synthetic")
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "was trained on" in line]
    assert note == (
        f"note: {toy} was trained on Synthetic; on Folder it keeps the view of its training "
        "(frames=4, test_resize=(32, 36)), and gray values are normalised by the statistics of Folder, "
        "or of each sequence where it has none"
    )

    weights, place = read_checkpoint(toy)["weights"], own_folder / "mine"
    images = [Image.open(path).resize((36, 32), Image.Resampling.BICUBIC) for path in sorted_images(place)]
    frames = np.stack([np.asarray(image, np.float64) for image in images])
    maps = probabilities_by_hand(weights, frames, frames.mean(), frames.std())
    hits = np.stack([cv2.resize(p, (48, 40), interpolation=cv2.INTER_LINEAR) for p in maps]) > 0.4
    masks = files_of(place / "masks") > 0
    expected = (hits & masks).sum() / (hits | masks).sum()
    assert tested["scores"][0]["groups"]["all"]["iou"] == pytest.approx(expected, rel=0.01)
    assert expected > 0


def sorted_images(sequence: Path) -> list[Path]:
    return sorted((sequence / "images").iterdir())


def test_the_note_names_the_mean_and_deviation_that_stay(tiny_data, own_folder, tmp_path, capsys):
    flags = ("--set", "mean=100", "--set", "std=20", "--epochs", 0)
    folder = trained(tiny_data, tmp_path / "log", "Toy", *flags)
    run(test, own_folder, tmp_path, "--checkpoint", folder / "last.pth", "--dataset_names", "Folder")
    tested = json.loads((only(tmp_path / "Folder/Toy") / "eval.json").read_text())
    assert tested["normalisation"] == {"mine": {"mean": 100, "std": 20, "scale": None}}
    assert (
        "(frames=4, mean=100.0, std=20.0), and gray values are normalised by the mean and std of"
        in capsys.readouterr().out
    )


def test_on_its_own_data_set_there_is_no_note(toy, tiny_data, tmp_path, capsys):
    run(test, tiny_data, tmp_path, "--checkpoint", toy)
    assert "was trained on" not in capsys.readouterr().out


# ---------------------------------------------------------------- several models


def test_the_common_table_has_the_first_model_when_the_second_one_fails(
    monkeypatch, plain, boxes, tiny_data, tmp_path
):
    forward, calls = ToyBoxes.forward, []

    def fails(model, clip):
        calls.append(clip)
        if len(calls) == 30:  # in its second sequence
            raise RuntimeError("out of memory")
        return forward(model, clip)

    monkeypatch.setattr(ToyBoxes, "forward", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(test, tiny_data, tmp_path, "--checkpoint", plain, boxes / "best.pth")
    rows = rows_of(only(tmp_path / "tables") / "table.csv")
    assert rows == rows_of(only(tmp_path / "Synthetic/Toy") / "table.csv")
    assert len(rows) == 12 and {row["model"] for row in rows} == {"Toy"}  # 4 lines of 3 groups


def test_the_common_table_has_every_model_of_every_data_set(
    plain, boxes, tiny_data, own_folder, tmp_path, pictures
):
    both = tmp_path / "data"
    shutil.copytree(tiny_data / "Synthetic", both / "Synthetic")
    (both / "Folder").mkdir()
    flags = ("--checkpoint", boxes / "best.pth", plain, "--dataset_names", "Synthetic", "Folder")
    shutil.copytree(own_folder / "mine", both / "mine")
    run(test, both, tmp_path / "log", *flags, "--protocol", "clean")
    rows = rows_of(only(tmp_path / "log/tables") / "table.csv")
    found = dict.fromkeys((row["data set"], row["model"], row["weights"]) for row in rows)
    expected = [
        (data, model, str(weights))
        for data in ("Synthetic", "Folder")
        for model, weights in (("ToyBoxes", boxes / "best.pth"), ("Toy", plain))
    ]
    assert list(found) == expected
    single = [rows_of(only(tmp_path / "log" / data / model) / "table.csv") for data, model, _ in expected]
    assert rows == [row for table in single for row in table]
    shared = {path.name: curves for path, curves in pictures if path.parent.parent.name == "tables"}
    for data in ("Synthetic", "Folder"):
        assert shared[f"{data}_pr_clean.png"] == ["ToyBoxes", "Toy"]
        assert shared[f"{data}_roc_clean_ShootingRules.png"] == ["ToyBoxes", "Toy"]


def test_kept_predictions_stand_beside_a_network_on_their_own_data_set(plain, tiny_data, tmp_path):
    flags = ("--model_names", "TopHat", "--save_predictions", "--protocol", "clean", "--threshold", 0.4)
    run(test, tiny_data, tmp_path / "first", *flags)
    kept = only(tmp_path / "first/Synthetic/TopHat")
    both = tmp_path / "data"
    shutil.copytree(tiny_data / "Synthetic", both / "Synthetic")
    flags = ("--predictions", kept, "--checkpoint", plain, "--dataset_names", "Synthetic", "Folder")
    run(test, both, tmp_path / "log", *flags, "--protocol", "clean")
    rows = rows_of(only(tmp_path / "log/tables") / "table.csv")
    found = list(dict.fromkeys((row["data set"], row["model"]) for row in rows))
    assert found == [("Synthetic", "TopHat"), ("Synthetic", "Toy"), ("Folder", "Toy")]
    assert [row for row in rows if row["model"] == "TopHat"] == rows_of(kept / "table.csv")


def test_what_is_published_stands_below_what_was_measured(tiny_data, tmp_path):
    """Once, also below two tests of one model; in the order of the data sets."""
    shutil.copytree(tiny_data / "Synthetic", tmp_path / "data/NUDT-MIRSDT")
    papers = json.loads((Path(__file__).parents[1] / "metrics/papers.json").read_text())["rows"]
    published = [row for row in papers if (row["dataset"], row["model"]) == ("NUDT-MIRSDT", "DeepPro")]
    other = shutil.copy(VERSION_1, tmp_path / "other.pth")
    flags = ("--checkpoint", VERSION_1, other, "--dataset_names", "NUDT-MIRSDT", "--protocol", "published")
    run(test, tmp_path / "data", tmp_path / "log", *flags)
    first, second = sorted((tmp_path / "log/NUDT-MIRSDT/DeepPro").iterdir())
    for folder in (first, second):
        rows = rows_of(folder / "table.csv")
        below = [row for row in rows if "(published: " in row["weights"]]
        assert below == rows[-len(published) :] and len(published) > 0
        assert [row["group"] for row in below] == [row["group"] for row in published]
    rows = rows_of(only(tmp_path / "log/tables") / "table.csv")
    own = [row for row in rows if "(published: " not in row["weights"]]
    assert rows == own + below
    assert list(dict.fromkeys(row["weights"] for row in own)) == [str(VERSION_1), str(other)]


# ---------------------------------------------------------------- memory


def arrays_below(thing, seen: set[int]) -> list:
    """The arrays and tensors that can be reached from a thing."""
    if id(thing) in seen or isinstance(thing, type):
        return []
    seen.add(id(thing))
    if isinstance(thing, np.ndarray | torch.Tensor):
        return [thing]
    below = list(thing.values()) if isinstance(thing, dict) else []
    below += list(thing) if isinstance(thing, list | tuple | set) else []
    below += list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    return [array for part in below for array in arrays_below(part, seen)]


def test_a_tested_video_holds_no_frames(monkeypatch, toy, boxes, tiny_data, tmp_path):
    videos = []

    class Noted(test.TestVideo):
        def __init__(self, *args):
            super().__init__(*args)
            videos.append(self)

    monkeypatch.setattr(test, "TestVideo", Noted)
    for number, checkpoint in enumerate((toy, boxes / "best.pth")):
        run(test, tiny_data, tmp_path / str(number), "--checkpoint", checkpoint, "--save_overlays")
    assert [video.name for video in videos] == 2 * TESTED
    for video in videos:
        sizes = [array.size for array in arrays_below(video, set())]
        assert all(size < 32 * 36 for size in sizes), sizes


# ---------------------------------------------------------------- what was typed arrives


def test_the_rules_that_were_typed_reach_the_metrics(tiny_data, tmp_path, capsys):
    """In the validation and in the test; components of a map are those above the typed threshold."""
    flags = ("--set", "match=2", "--set", "exclude=5", "--threshold", 0.4)
    folder = trained(tiny_data, tmp_path / "log", "Toy", *flags, "--protocol", "clean")
    rule = "ShootingRules match=2 exclude=5 border=clip thresholds=27 at p >= 0.4 truth=centroid_map; IoU"
    assert f"validation: clean protocol, {rule}" in capsys.readouterr().out
    run(test, tiny_data, tmp_path, "--checkpoint", folder / "best.pth", "--protocol", "clean")
    tested = json.loads((only(tmp_path / "Synthetic/Toy") / "eval.json").read_text())
    assert tested["scores"][0]["rule"].startswith(rule)
    validated = json.loads((folder / "train.jsonl").read_text())
    figures = {name: v for s in reversed(tested["scores"]) for name, v in s["groups"]["all"].items()}
    for name in ("pd", "fa", "auc", "iou", "ap50", "box_f1"):
        assert validated[name] == pytest.approx(figures[name]), name
    scores = tested["scores"][0]["groups"]["all"]
    curve = scores["curve"]
    at = curve["thresholds"].index(0.4)
    assert scores["pd"] == curve["true"][at] / curve["targets"][at]
    assert scores["fa"] == curve["false"][at] / curve["pixels"]
    assert curve["false"][at] != curve["false"][curve["thresholds"].index(0.5)]
    maps = iou_by_hand(read_checkpoint(folder / "best.pth")["weights"], tiny_data / "Synthetic", TESTED, 0.4)
    assert validated["iou"] == pytest.approx(maps, rel=1e-3)


@pytest.fixture
def boxed(tiny_data, tmp_path) -> Path:
    """A folder of one training and one test sequence, whose boxes are counted from 1, as MATLAB does."""
    root = tmp_path / "boxed"
    for name in ("a", "b"):
        shutil.copytree(tiny_data / "Synthetic/Sequence1/images", root / name / "images")
        rows = [f"{path.name},{11 + i},21,4,5" for i, path in enumerate(sorted_images(root / name))]
        (root / name / "boxes.csv").write_text("\n".join(["frame,x,y,w,h", *rows]))
        (root / f"{'train' if name == 'a' else 'test'}.txt").write_text(f"{name}\n")
    return root


def test_options_of_the_reader_reach_training_and_validation(boxed):
    flags = ("--model_names", "ToyBoxes", "--dataset_names", "Folder", "--dataset_option", "box_origin=1")
    args = train.parse([*flags, "--dataset_dir", str(boxed), "--device", "cpu", "--tf32"])
    built = train.build_run(args, MODELS.entry("ToyBoxes"), DATASETS.entry("Folder"))
    (training,), (video,) = built.clips.data, built.validation.videos
    for sequence, name in ((training, "a"), (video.frames.sequence, "b")):
        assert sequence.name == name
        assert sequence.boxes[3].tolist() == [[13, 20, 17, 25]]
    assert built.resume == (
        f'python train.py --model_names ToyBoxes --dataset_names Folder --dataset_dir "{boxed}" '
        '--dataset_option "box_origin=1"'  # device and tf32 are in the saved recipe
    )


def test_kept_predictions_remember_what_was_tested(boxes, boxed, tmp_path):
    """The data set's place, its split and its options; the network is not needed again."""
    names = ("--dataset_names", "Folder", "--split", "train", "--dataset_option", "box_origin=1")
    flags = ("--checkpoint", boxes / "best.pth", *names, "--save_predictions", "--set", "match=2")
    run(test, boxed, tmp_path / "first", *flags)
    kept = only(tmp_path / "first/Folder/ToyBoxes")
    cache = ("--cache", "--cache_dir", tmp_path / "cache")
    test.main([str(word) for word in ("--predictions", kept, "--log_dir", tmp_path / "again", *cache)])
    again = only(tmp_path / "again/Folder/ToyBoxes")
    assert rows_of(again / "table.csv") == rows_of(kept / "table.csv")
    assert not list((tmp_path / "cache").iterdir())  # no frame was decoded
    one, other = (json.loads((folder / "eval.json").read_text()) for folder in (kept, again))
    assert list(one["scores"][0]["sequences"]) == ["a"]
    for key in (
        "model",
        "weights",
        "trained_on",
        "dataset",
        "dataset_dir",
        "dataset_options",
        "split",
        "scores",
    ):
        assert other[key] == one[key], key
    assert (one["trained_on"], one["dataset_options"]) == ("Synthetic", ["box_origin=1"])
    assert (one["frames"], one["device"]) == (24, "CPU")
    assert list(one["normalisation"]) == ["a"] and not other["normalisation"]


@pytest.mark.parametrize("command", [train, test])
def test_frames_are_cached_where_it_was_asked_for(tiny_data, tmp_path, command):
    model = ("--model_names", "Toy", "--epochs", 0) if command is train else ("--model_names", "TopHat")
    place = ("--cache_dir", tmp_path / "cache")
    with pytest.raises(UserError, match="--cache_dir has no effect without --cache; add it"):
        run(command, tiny_data, tmp_path / "log", *model, *place)
    run(command, tiny_data, tmp_path / "log", *model, *place, "--cache")
    assert list((tmp_path / "cache").glob("*.npy"))


@pytest.mark.parametrize(
    ("command", "names", "files"),  # of 3 training and 2 test sequences: images and masks for each size
    [(train, ["Toy", "ToyBoxes"], 10 + 5), (test, ["TopHat"], 4)],
)
def test_all_frames_are_cached_before_the_first_model_begins(
    tiny_data, tmp_path, monkeypatch, command, names, files
):
    cached = []

    def look(*_):
        frames, statistics = (list((tmp_path / "cache").glob(kind)) for kind in ("*.npy", "*.json"))
        assert statistics, "of frames whose mean and std nobody gives"
        cached.append(len(frames))

    monkeypatch.setattr(train.TrainingRun, "run", look)
    monkeypatch.setattr(test, "run_test", look)
    monkeypatch.setattr(test.Summary, "add", lambda *_: None)
    monkeypatch.setattr(test.Summary, "rows", lambda *_: [])
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{'0' * 32}.npy").touch()  # of an older format: removed
    flags = ("--model_names", *names, "--cache", "--cache_dir", tmp_path / "cache")
    run(command, tiny_data, tmp_path / "log", *flags)
    assert cached == [files] * len(names)


def test_the_recipe_for_the_data_set_trains(own_folder):
    flags = ("--model_names", "Toy", "--dataset_names", "Folder", "--dataset_dir", str(own_folder))
    args = train.parse([*flags, "--device", "cpu", "--set", "match=2"])
    recipe = train.build_run(args, MODELS.entry("Toy"), DATASETS.entry("Folder")).recipe
    assert (recipe.view.multiple, recipe.scoring.threshold) == (32, 0.9)  # of the data set
    assert (recipe.scoring.match, recipe.sampling.patch) == (2, 16)  # typed, and the model's


def test_both_commands_say_how_the_data_set_was_found(own_folder, tmp_path, capsys):
    """It has no lists of splits, so that all sequences train and all are tested."""
    names = ("--dataset_names", "Folder", "--model_names")
    run(train, own_folder, tmp_path, *names, "Toy", "--epochs", 0, "--set", "multiple=8")
    note = f"note: there is no train.txt or test.txt in {own_folder}; both splits are all its sequences\n"
    assert capsys.readouterr().out.count(note) == 1
    run(test, own_folder, tmp_path, *names, "TopHat", "--protocol", "published")
    assert capsys.readouterr().out.count(note) == 1
    written = {path.name for path in only(tmp_path / "Folder/TopHat").iterdir()}
    assert written == {"eval.json", "table.md", "table.csv", "sequences.md", "sequences.csv"}  # no pictures


def test_published_files_belong_to_models_in_their_order(tiny_data, tmp_path):
    files = []
    for network in (ToyBoxes(), Toy()):
        files.append(tmp_path / f"{type(network).__name__}.pth")
        torch.save(network.state_dict(), files[-1])
    names = ("--model_names", "ToyBoxes", "TopHat", "Toy", "--protocol", "published")
    run(test, tiny_data, tmp_path / "log", *names, "--official", *files)
    rows = rows_of(only(tmp_path / "log/tables") / "table.csv")
    found = dict.fromkeys((row["model"], row["weights"]) for row in rows)
    assert list(found) == [("ToyBoxes", str(files[0])), ("TopHat", "no parameters"), ("Toy", str(files[1]))]
