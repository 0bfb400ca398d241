"""Protocols: "published" and "clean" against a slow form of both, on RPRNet's way there and back."""

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from recipes import recipe_of
from scipy import ndimage

import test
import train
from dataset.sequence import Sequence, SequenceSet
from dataset.video import TestVideo
from metrics.protocols import PROTOCOLS, protocol_lines
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime
from utils.engine.score import score_set
from utils.errors import UserError, run_command
from utils.registry import MODELS
from utils.task import TASKS

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 64
VIEW = recipe_of(frames=1, key=0, letterbox=SIDE, gray_scale=255.0, mean=0.0, std=1.0).view
EIGHT = np.ones((3, 3))


class Brightness(torch.nn.Module):
    """The gray value of the input as probability: what is scored is then known without a network."""

    name = "Brightness"

    def forward(self, clip):
        return {"logits": clip[:, 0]}

    def decode(self, raw):
        return raw["logits"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> SequenceSet:
    """Frames of 48x80 with targets of 3x3; responses are bright spots on, beside and far from them."""
    folder, draw = tmp_path_factory.mktemp("scene"), np.random.default_rng(5)
    images, masks = [], []
    for index in range(6):
        image, mask = draw.integers(0, 60, (48, 80)).astype(np.uint8), np.zeros((48, 80), np.uint8)
        for target in range(3):
            row, col = 8 + 14 * target, 10 + int(draw.integers(0, 60))
            mask[row : row + 3, col : col + 3] = 255
            shift = int(draw.integers(0, 5))
            image[row + shift : row + shift + 3, col : col + 3] = 255
        image[40:43, 2:5] = 250
        for files, name, pixels in ((images, "image", image), (masks, "mask", mask)):
            files.append(folder / f"{name}{index}.png")
            Image.fromarray(pixels).save(files[-1])
    return SequenceSet("Scene", folder, "test", (Sequence("a", tuple(images), masks=tuple(masks)),))


def there(image: Image.Image, padding: int) -> np.ndarray:
    """RPRNet's letterbox, written out."""
    scale = min(SIDE / image.width, SIDE / image.height)
    size = int(image.width * scale), int(image.height * scale)
    square = Image.new("L", (SIDE, SIDE), padding)
    square.paste(image.resize(size, Image.Resampling.BICUBIC), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.array(square)


def and_back(square: np.ndarray) -> np.ndarray:
    rows = slice((SIDE - 38) // 2, (SIDE - 38) // 2 + 38)  # int(48 * 64 / 80) = 38 rows, 64 columns
    inside = torch.from_numpy(square[rows].astype(np.float32))[None, None]
    return F.interpolate(inside, (48, 80), mode="bilinear", align_corners=False)[0, 0].numpy()


def components(mask: np.ndarray) -> list[tuple[np.ndarray, int, np.ndarray]]:
    """(centroid, area, pixels) of each 8-connected component in raster order."""
    labels, count = ndimage.label(mask, EIGHT)
    found = [labels == k + 1 for k in range(count)]
    found.sort(key=lambda pixels: tuple(np.argwhere(pixels)[0]))
    return [(np.argwhere(pixels).mean(0), int(pixels.sum()), pixels) for pixels in found]


def slow_scores(scene: SequenceSet, protocol: str) -> dict[str, float]:
    """Pd, Fa, IoU and nIoU as the description words them, frame by frame."""
    found = targets = false = pixels = inter = union = 0
    frame_ious = []
    for image, mask in zip(scene[0].images, scene[0].masks, strict=True):
        table = np.arange(256, dtype=np.float32) / np.float32(255)
        p = and_back(table[there(Image.open(image), 128)])
        truth = np.array(Image.open(mask)) / 255
        if protocol == "published":
            truth = and_back(there(Image.open(mask), 0) > 0)
        hits, gt = p > 0.5, truth > 0
        one = truth.astype(int) == 1 if protocol == "published" else gt
        frame_ious.append((hits & one).sum() / max((hits | one).sum(), 1))
        inter, union = inter + (hits & gt).sum(), union + (hits | gt).sum()
        free, areas, matched = components(hits), [], []
        for centre, _, _ in components(gt):
            targets += 1
            match = next((r for r in free if np.hypot(*(r[0] - centre)) < 3), None)
            if match:
                found += 1
                free = [r for r in free if r is not match]
                areas.append(match[1])
                matched.append(match[2])
        if protocol == "published":
            false += sum(area for _, area, _ in components(hits) if area not in areas)
        else:
            false += int((hits & ~np.any([*matched, np.zeros_like(hits)], axis=0)).sum())
        pixels += hits.size
    return {"pd": found / targets, "fa": false / pixels, "iou": inter / union, "niou": np.mean(frame_ious)}


@pytest.mark.parametrize("protocol", ["published", "clean"])
def test_figures_are_those_of_the_slow_form(scene, protocol):
    lines = protocol_lines(["published", "clean"], "RPRNet", 0.5, 1, 4)
    videos = [TestVideo(scene[0], scene, VIEW)]
    predict = partial(predict_video, Brightness(), TASKS["masks"], Runtime(torch.device("cpu")), 0.5)
    groups, _ = score_set(predict, videos, {}, lines)
    (line,) = [line for line in lines if (line.protocol, line.targets) == (protocol, "PdFa")]
    figures = groups["all"].figures(line)
    expected = slow_scores(scene, protocol)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert 0 < expected["pd"] < 1
    assert expected["fa"] > 0


def test_the_two_protocols_differ_on_this_scene(scene):
    published, clean = (slow_scores(scene, protocol) for protocol in ("published", "clean"))
    assert all(published[name] != clean[name] for name in ("fa", "iou", "niou"))


def test_a_rule_whose_truth_is_missing_is_said(scene):
    """Points can be scored by the rules that take them alone."""
    points = tuple(np.array([[20.0, 30.0]]) for _ in scene[0].images)
    sequence = Sequence("a", scene[0].images, points=points)

    lines = protocol_lines(["clean"], "RPRNet", 0.5, 1, 4)
    videos = [TestVideo(sequence, SequenceSet("Points", scene.root, "test", (sequence,)), VIEW)]
    predict = partial(predict_video, Brightness(), TASKS["masks"], Runtime(torch.device("cpu")), 0.5)
    groups, _ = score_set(predict, videos, {}, lines)
    found, (shooting, by_components, by_centroids) = groups["all"], lines
    assert found.figures(shooting)["targets"] == 6
    assert found.figures(by_centroids)["targets"] == 6
    assert found.figures(by_components) == {}
    assert found.curves(by_components) == {}
    assert found.rule(by_components) == ("PdFa: not scored, the data has no mask")


def test_every_model_names_a_protocol_that_exists():
    names = {
        MODELS.entry(name).facts["recipe"].get("scoring", {}).get("paper", "DeepPro")
        for name in MODELS.names()
    }
    assert names <= set(PROTOCOLS)
    with pytest.raises(UserError, match="scoring.paper names no paper 'clean'"):
        protocol_lines(["published"], "clean", 0.5, 1, 4)
    with pytest.raises(UserError, match="scoring.paper names no paper 'RPRNot'; did you mean RPRNet"):
        protocol_lines(["published"], "RPRNot", 0.5, 1, 4)


def test_the_clean_protocol_asks_for_no_mask_that_was_changed():
    lines = protocol_lines(["clean"], "RPRNet", 0.5, 1, 4)
    assert {metric.empty.truth for line in lines for metric in line.metrics} == {
        "centroid_map",
        "mask",
        "centroids",
        "boxes",
    }


def test_rprnet_from_files_to_both_protocols_side_by_side(tiny_data, tmp_path, capsys):
    """One short epoch, then one test whose lines, files and figures all say by which protocol they came."""

    def run(command, *args) -> str:
        with pytest.raises(SystemExit) as end:
            run_command(lambda: command.main([str(a) for a in (*args, "--device", "cpu")]))
        captured = capsys.readouterr()
        assert end.value.code == 0, captured.err
        return captured.out

    data = ("--dataset_names", "Synthetic", "--dataset_dir", tiny_data, "--log_dir", tmp_path)
    short = ("--patch_size", 16, "--epochs", 1, "--sample_rate", 0.06, "--num_workers", 0)
    said = run(train, "--model_names", "RPRNet", *data, *short)
    assert "published protocol" in said
    (folder,) = (tmp_path / "Synthetic" / "RPRNet").iterdir()
    recipe = json.loads((folder / "recipe.json").read_text())["recipe"]
    assert recipe["view"]["letterbox"] == 16
    assert json.loads((folder / "train.jsonl").read_text())["learning_rate"] == 0  # published

    flags = ("--checkpoint", folder / "last.pth", "--protocol", "published", "clean", "--save_overlays")
    said = run(test, *flags, *data)
    assert "published protocol: PdFa threshold=0.5 rule=areas" in said
    assert "clean protocol: ShootingRules" in said
    tested = max((tmp_path / "Synthetic" / "RPRNet").iterdir())
    scores = json.loads((tested / "eval.json").read_text())["scores"]
    kinds = [(s["protocol"], s["targets_by"]) for s in scores]
    clean = [("clean", rule) for rule in ("ShootingRules", "PdFa", "CentroidPdFa")]
    assert kinds == [("published", "PdFa"), *clean]
    with (tested / "table.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "all"]
    assert [(row["protocol"], row["targets by"]) for row in rows] == kinds
    for row, score in zip(rows, scores, strict=True):
        assert float(row["Pd %"]) == pytest.approx(100 * score["groups"]["all"]["pd"])
        assert float(row["AUC"] or "nan") == pytest.approx(
            score["groups"]["all"]["auc"] or np.nan, nan_ok=True
        )
        assert row["rule"] == score["rule"]
    for protocol, rule in kinds[:3]:  # components of one threshold have no curve
        assert Image.open(tested / f"roc_{protocol}_{rule}.png").size[0] > 100
    assert len(list((tested / "overlays").iterdir())) == 2


def test_an_unknown_protocol_is_refused(capsys):
    for command, flags in ((test, ()), (train, ("--model_names", "TopHat"))):
        with pytest.raises(SystemExit) as end:
            run_command(lambda c=command, f=flags: c.main([*f, "--protocol", "dirty"]))
        assert end.value.code == 2
    assert "dirty" in capsys.readouterr().err


def test_files_of_another_size_than_the_letterbox(tmp_path):
    """A prediction returns to exactly the size of the files."""
    path = tmp_path / "frame.png"
    Image.fromarray(np.zeros((33, 98), np.uint8)).save(path)
    sequence = Sequence("a", (path,))
    video = TestVideo(sequence, SequenceSet("One", Path(tmp_path), "test", (sequence,)), VIEW)
    assert video.restore(np.zeros((SIDE, SIDE), np.float32)).shape == (33, 98)
