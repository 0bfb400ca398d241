"""Box and mask detectors by the same commands, in one table; predictions that are kept and scored again."""

import csv
import errno
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import test
import train
from utils.checkpoint import read_checkpoint
from utils.errors import run_command
from utils.report import evaluation

CPU = ("--device", "cpu")


@pytest.fixture
def run(capsys):
    """Runs a command; returns (exit code, what it printed, what it complained about)."""

    def call(command, *args) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            run_command(lambda: command.main([str(a) for a in (*args, *CPU)]))
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory) -> Path:
    """A run of STMENet on masks: one epoch of a few clips."""
    folder = tmp_path_factory.mktemp("trained")
    flags = ("--model_names", "STMENet", "--dataset_dir", tiny_data, "--log_dir", folder, "--epochs", 1)
    few = ("--patch_size", 64, "--sample_rate", 0.12, "--num_workers", 0, "--set", "ema=0.5")
    train.main([str(a) for a in (*flags, *few, *CPU)])
    (run_folder,) = (folder / "Synthetic" / "STMENet").iterdir()
    return run_folder


@pytest.fixture(scope="module")
def tested(trained, tiny_data, tmp_path_factory) -> Path:
    """Both kinds of detectors tested in one run, their predictions kept."""
    folder = tmp_path_factory.mktemp("tested")
    flags = ("--model_names", "STMENet", "TopHat", "--checkpoint", trained / "last.pth", "--save_predictions")
    places = ("--save_overlays", "--dataset_dir", tiny_data, "--log_dir", folder)
    test.main([str(a) for a in (*flags, *places, *CPU)])
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    (place,) = (folder / "tables").iterdir()
    with (place / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def only(folder: Path) -> Path:
    (place,) = folder.iterdir()
    return place


def test_a_box_model_trains_on_masks_and_keeps_its_average(trained):
    (line,) = [json.loads(text) for text in (trained / "train.jsonl").read_text().splitlines()]
    assert 0 <= line["ap50"] <= 1
    assert line["learning_rate"] == pytest.approx(6.25e-5)
    saved = read_checkpoint(trained / "last.pth")
    weights, steps = saved["weights"], saved["progress"]["steps"]
    assert steps == 2
    moved = [k for k in weights if not torch.equal(weights[k], saved["trained_weights"][k])]
    assert len(moved) > 400
    assert saved["scores"]["ap50"] == line["ap50"]


def test_one_table_has_boxes_and_masks_by_the_same_rules(tested):
    rows = {(r["model"], r["protocol"], r["targets by"]): r for r in table(tested) if r["group"] == "all"}
    figures = {key: {c for c, value in row.items() if value} for key, row in rows.items()}
    assert "AP50 %" in figures["STMENet", "published", ""]
    assert "Pd %" not in figures["STMENet", "published", ""]
    for model in ("STMENet", "TopHat"):
        assert {"Pd %", "Fa 1e-5", "AP50 %"} <= figures[model, "clean", "CentroidPdFa"]
        assert {"Pd %", "Fa 1e-5", "AUC"} <= figures[model, "clean", "ShootingRules"]
    assert "AUC" in figures["STMENet", "clean", "CentroidPdFa"]
    assert "AUC" not in figures["TopHat", "clean", "CentroidPdFa"]  # components of one threshold: no curve
    assert "IoU" in figures["TopHat", "clean", "PdFa"]
    assert not {"IoU", "Pd %"} & figures["STMENet", "clean", "PdFa"]
    assert "PdFa: not scored, the model predicts no map" in rows["STMENet", "clean", "PdFa"]["rule"]


def test_pictures_and_curves_of_boxes(tested):
    folder = only(tested / "Synthetic" / "STMENet")
    for name in ("pr_published.png", "pr_clean.png", "overlays/Sequence4.png"):
        assert min(Image.open(folder / name).size) > 100
    with (folder / "pr_clean.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    scores = json.loads((folder / "eval.json").read_text())["scores"]
    (boxes,) = [s for s in scores if (s["protocol"], s["targets_by"]) == ("clean", "CentroidPdFa")]
    assert len(curve) == 101
    mean = np.mean([float(point["precision of all"]) for point in curve])
    assert mean == pytest.approx(boxes["groups"]["all"]["ap50"])


def test_kept_predictions_give_the_same_table_without_a_network(tested, tmp_path, run, monkeypatch):
    monkeypatch.setattr(test, "create_model", None)
    folders = [only(tested / "Synthetic" / model) for model in ("STMENet", "TopHat")]
    code, _, complaint = run(test, "--predictions", *folders, "--log_dir", tmp_path)
    assert (code, complaint) == (0, "")
    assert table(tmp_path) == table(tested)


def test_kept_boxes_are_coco_results(tested):
    folder = only(tested / "Synthetic" / "STMENet") / "predictions"
    index = json.loads((folder / "predictions.json").read_text())
    results = json.loads((folder / "boxes.json").read_text())
    ids = [image["id"] for image in index["images"]]
    assert len(set(ids)) == len(ids) == 48
    assert {(i["sequence"], i["frame"]) for i in index["images"]} == {
        (name, frame) for name in ("Sequence4", "Sequence5") for frame in range(24)
    }
    assert results and {r["image_id"] for r in results} <= set(ids)
    assert all(set(r) == {"image_id", "category_id", "bbox", "score"} for r in results)
    assert all(r["bbox"][2] > 0 and r["bbox"][3] > 0 and r["score"] >= 0.001 for r in results)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "predictions.json").unlink(), "there is no predictions.json in"),
        (lambda f: (f / "boxes.json").unlink(), "boxes.json is missing, though predictions.json"),
        (lambda f: (f / "boxes.json").write_text("["), "boxes.json is no JSON with boxes"),
        (
            lambda f: (f / "boxes.json").write_text("[ ]"),
            "boxes.json is not what was written there: its SHA-256",
        ),
        (lambda f: (f / "predictions.json").write_text("{}"), "was not written by test.py"),
    ],
)
def test_spoilt_predictions_are_refused_in_a_sentence(tested, tmp_path, run, spoil, message):
    source = only(tested / "Synthetic" / "STMENet") / "predictions"
    copy = tmp_path / "predictions"
    copy.mkdir()
    for path in source.glob("*.json"):
        (copy / path.name).write_bytes(path.read_bytes())
    spoil(copy)
    code, _, complaint = run(test, "--predictions", copy, "--log_dir", tmp_path / "log")
    assert code == 2
    assert message in complaint and complaint.count("\n") == 1
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "Sequence5.npz is cut off or damaged"),
        (
            lambda p: p.write_bytes(p.read_bytes().replace(b"00007.npy", b"00008.npy")),
            "Sequence5.npz has 24 maps",
        ),
        (
            lambda p: p.write_bytes(p.read_bytes()[:500] + b"." + p.read_bytes()[501:]),
            "Sequence5.npz is not what was",
        ),
    ],
)
def test_damaged_maps_are_refused_before_anything_is_scored(tested, tmp_path, run, spoil, message):
    copy = shutil.copytree(only(tested / "Synthetic" / "TopHat") / "predictions", tmp_path / "predictions")
    spoil(copy / "Sequence5.npz")
    code, said, complaint = run(test, "--predictions", copy, "--log_dir", tmp_path / "log")
    assert (code, complaint.count("\n")) == (2, 1), complaint
    assert message in complaint and "IoU" not in said
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "TopHta"}, "predictions.json: there is no model 'TopHta'; did you mean TopHat"),
        ({"model": "STMENet"}, "has predictions of kind maps, but STMENet predicts boxes"),
        ({"dataset": "Nowhere"}, "predictions.json: there is no data set 'Nowhere'"),
        ({"dataset_options": ["one"]}, "predictions.json: dataset_options: "),
        ({"recipe": {"version": 2}}, "the recipe in .*predictions.json has no entry 'model'"),
    ],
)
def test_edited_facts_of_predictions_are_refused(tested, tmp_path, run, change, message):
    copy = shutil.copytree(only(tested / "Synthetic" / "TopHat") / "predictions", tmp_path / "predictions")
    index = json.loads((copy / "predictions.json").read_text())
    del index["sha256"]
    (copy / "predictions.json").write_text(json.dumps(index | change))
    code, _, complaint = run(test, "--predictions", copy, "--log_dir", tmp_path / "log")
    assert (code, complaint.count("\n")) == (2, 1), complaint
    assert re.search(message, complaint), complaint
    assert not (tmp_path / "log").exists()


def test_predictions_without_sums_are_scored_and_a_damaged_map_leaves_no_result(tested, tmp_path, run):
    """As an earlier program has written them."""
    copy = shutil.copytree(only(tested / "Synthetic" / "TopHat") / "predictions", tmp_path / "predictions")
    index = json.loads((copy / "predictions.json").read_text())
    del index["sha256"], index["files"]
    (copy / "predictions.json").write_text(json.dumps(index))
    assert run(test, "--predictions", copy, "--log_dir", tmp_path / "log")[0] == 0
    with zipfile.ZipFile(copy / "Sequence5.npz") as archive:
        place = archive.getinfo("00003.npy").header_offset + 60
    data = bytearray((copy / "Sequence5.npz").read_bytes())
    data[place] ^= 1
    (copy / "Sequence5.npz").write_bytes(data)
    code, _, complaint = run(test, "--predictions", copy, "--log_dir", tmp_path / "damaged")
    assert code == 2 and "Sequence5.npz: 00003.npy is no map, or damaged" in complaint
    assert not list((tmp_path / "damaged").rglob("*.*"))


def test_the_evaluation_is_written_last(tested, tmp_path, run, monkeypatch):
    """Where it is, all the other files of the test are there too."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "roc.png")

    monkeypatch.setattr(evaluation, "write_curves", full)
    source = only(tested / "Synthetic" / "TopHat")
    code, _, complaint = run(test, "--predictions", source, "--log_dir", tmp_path)
    assert code == 2 and "roc.png: No space left on device" in complaint
    assert list(tmp_path.rglob("table.md")) and not list(tmp_path.rglob("eval.json"))


def test_a_path_of_another_flag_is_refused_with_the_right_one(trained, tested, tmp_path, run):
    predictions = only(tested / "Synthetic" / "TopHat")
    cases = [
        (("--checkpoint", trained), "is a folder; give a .pth file in it"),
        (("--checkpoint", predictions), f"use --predictions {predictions}"),
        (("--checkpoint", predictions / "eval.json"), "eval.json is no torch file"),
        (
            ("--checkpoint", predictions / "predictions/Sequence5.npz"),
            "Sequence5.npz is damaged or was not written by",
        ),
        (("--official", trained), "is a folder; give a .pth file in it"),
        (("--official", trained / "best.pth"), "use --checkpoint for it"),
        (("--predictions", trained), f"use --checkpoint {trained / 'best.pth'}"),
        (("--predictions", trained / "best.pth"), "weights are given by --checkpoint or --official"),
        (("--predictions", tmp_path), "there is no predictions.json in"),
        (("--predictions", trained / "best.pth" / "x"), "Not a directory; give a path that can be read"),
    ]
    for flags, said in cases:
        code, _, complaint = run(test, "--model_names", "STMENet", *flags, "--log_dir", tmp_path / "log")
        assert (code, complaint.count("\n")) == (2, 1), complaint
        assert said in complaint, complaint


def test_predictions_of_other_frames_are_refused(tested, tiny_data, tmp_path, run):
    source = only(tested / "Synthetic" / "TopHat")
    flags = ("--split", "train", "--log_dir", tmp_path)
    code, _, complaint = run(test, "--predictions", source, *flags)
    assert code == 2
    assert "has 0 predictions of" in complaint
