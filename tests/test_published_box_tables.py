"""AP50 and the papers' formula from boxes on disk and weights, by `test.py --protocol published` alone.

As test_published_tables.py, for STMENet, SMFNet and SSTNet, against literal_boxes.py.
"""

import json
from collections.abc import Callable
from pathlib import Path

import literal_boxes as boxes
import numpy as np
import pytest
import torch
from parity import DATA, published_weights
from PIL import Image
from tiny_papers import (
    RATIO,
    assert_equal,
    network_of,
    official_file,
    published_figures,
    scene,
    video_of,
    write_images,
)
from torch import Tensor

from utils.checkpoint import load_official

pytestmark = pytest.mark.usefixtures("one_thread")

WANTED = ((0.5, 0.9), (0.5, 0.9), (0.9, 0.3), (0.9, 0.3), (-1.5, 2.0), (0.5, 1.5))  # mean and std of raw
QUIET = {96: 0, 512: -6.0}  # objectness on top of it: a larger map shall not have more boxes above 0.001


def trained_head(weights: dict[str, Tensor], raw: list[np.ndarray], side: int) -> dict[str, Tensor]:
    """The weights with a head in a trained range, by its raw output [6, h, w] of frames before."""
    weights = {name: value.clone() for name, value in weights.items()}
    rows = [("head.reg_preds.0", row) for row in range(4)]
    rows += [("head.obj_preds.0", 0), ("head.cls_preds.0", 0)]
    for channel, (name, row) in enumerate(rows):
        values = np.stack([frame[channel] for frame in raw])
        mean, std = WANTED[channel]
        factor = std / float(values.std())
        weights[f"{name}.weight"][row] *= factor
        bias = weights[f"{name}.bias"]
        bias[row] = factor * (bias[row] - float(values.mean())) + mean
    weights["head.obj_preds.0.bias"] += QUIET[side]
    return weights


def raw_output(step: Callable, path: Path, side: int) -> np.ndarray:
    return step(*boxes.box_clip(path, side))["head"][0][0].numpy()


def corrected(
    kept: list[tuple[float, ...]], side: int, size: tuple[int, int], correct: Callable
) -> list[tuple[list[float], float]]:
    """(box left, top, width, height; score) in the pixels of an image of `size` (width, height)."""
    return [(correct(box, side, *size), box[4]) for box in kept]


def annotated(found: list[tuple[list[float], float]], size: tuple[int, int], frame: int) -> list[list[int]]:
    """Whole-numbered boxes on and beside some of what was found, and one anywhere; none in the frame 2."""
    if frame == 2:
        return []
    draw = np.random.default_rng(frame)
    chosen = [np.array(found[k][0]) for k in (0, 1, 2, 4, 7, 11, 16)]
    near = [np.rint(box + draw.uniform(-0.2, 0.2, 4) * box[[2, 3, 2, 3]]) for box in chosen]
    rows = [(x, y, x + w, y + h) for x, y, w, h in near] + [(8, 5, 14, 11)]
    width, height = size
    rows = [(max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)) for x1, y1, x2, y2 in rows]
    rows = [(int(x1), int(y1), int(x2 - x1), int(y2 - y1)) for x1, y1, x2, y2 in rows]
    return [list(row) for row in dict.fromkeys(rows) if min(row[2:]) >= 2]


def write_annotations(root: Path, name: str, truth: dict[str, list[list[int]]]) -> Path:
    """The published list, with the paths of its authors' machine, and the published json."""
    lines, entries = [], []
    for number, (file, rows) in enumerate(truth.items()):
        fields = [f"{x},{y},{x + w},{y + h},0" for x, y, w, h in rows]
        lines.append(" ".join([f"/home/public/{name}/{file}", *fields]) + "\n")
        for x, y, w, h in rows:
            box = {"image_id": number, "bbox": [float(x), float(y), w, h], "area": float(w * h)}
            entries.append({"id": len(entries), "category_id": 1, "iscrowd": 0, "segmentation": [[]], **box})
    sizes = [Image.open(root / file).size for file in truth]
    images = [
        {"id": number, "file_name": file, "width": width, "height": height}
        for number, (file, (width, height)) in enumerate(zip(truth, sizes, strict=True))
    ]
    (root / f"coco_val_{name}.txt").write_text("".join(lines))
    (root / "json").mkdir()
    path = root / "json" / f"{name}_instances_test2017.json"
    categories = [{"supercategory": "none", "id": 1, "name": "target"}]
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories}))
    return path


BOX_SCENES = {  # by the side of the letterbox: frames, height, width (992x742 is that of IRDST), seed
    96: ((4, 47, 61, 13), (3, 83, 50, 14)),
    512: ((4, 742, 992, 1), (2, 509, 655, 2)),
}


def write_video(root: Path, folder: str, shape: tuple[int, int, int, int]) -> list[str]:
    """The paths of its frames in the data set."""
    names = [f"{number}.bmp" for number in range(shape[0])]
    write_images(root / folder, scene(*shape), names)
    return [f"{folder}/{name}" for name in names]


@pytest.mark.parametrize(
    ("model", "stored", "dataset", "variant", "side", "folders"),
    [
        ("STMENet", "stmenet_irdst.npz", "IRDST", "IRDST", 96, ("images/2", "images/10")),
        pytest.param(
            *("SSTNet", "sstnet.npz", "DAUB", None, 96, ("images/test/data12", "images/test/data15")),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("SMFNet", "stmenet_itsdt.npz", "ITSDT-15K", "ITSDT-15K", 96, ("images/58", "images/81")),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("STMENet", "stmenet_irdst.npz", "IRDST", "IRDST", 512, ("images/2", "images/10")),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_box_models(model, stored, dataset, variant, side, folders, tmp_path):
    """From frames of sizes that the letterbox truncates and the way back rounds, to AP50 and the formula."""
    root = tmp_path / dataset
    videos = [write_video(root, *video) for video in zip(folders, BOX_SCENES[side], strict=True)]
    weights = published_weights(np.load(DATA / stored))
    network = network_of(model, weights, **({"variant": variant} if variant else {}))
    step = torch.inference_mode()(lambda clip, _: network(clip))
    weights = trained_head(weights, [raw_output(step, root / file, side) for file in videos[0]], side)
    load_official(network, weights)
    found, exact, rows = {}, {}, {}
    for video in videos:
        step = video_of(network)
        for number, file in enumerate(video):
            kept, size = boxes.suppressed(raw_output(step, root / file, side)), Image.open(root / file).size
            found[file] = corrected(kept, side, size, boxes.published_correction)
            exact[file] = corrected(kept, side, size, boxes.exact_correction)
            rows[file] = annotated(found[file], size, number)
    names, truth = boxes.annotations(write_annotations(root, dataset, rows))
    assert set(names.values()) < set(found)  # a frame without a target is not run
    assert max(map(len, found.values())) > boxes.MAX_DETECTIONS
    expected, other = (
        boxes.box_figures({number: kind[name] for number, name in names.items()}, truth)
        for kind in (found, exact)
    )
    assert 0.02 < expected["ap50"] < 0.9 and 0 < expected["published_recall"] < 1
    assert expected["ap50"] != pytest.approx(other["ap50"], abs=1e-4)  # the way back makes a difference
    flags = ("--official", official_file(tmp_path, weights), "--set", f"view.letterbox={side}")
    groups = published_figures(tmp_path, model, dataset, root, *flags)
    curve = expected.pop("curve")
    assert_equal(groups["all"], expected)
    (table,) = (tmp_path / "log" / dataset / model).glob("*/pr_published.csv")
    lines = table.read_text().splitlines()[1:]
    assert [float(line.split(",")[-1]) for line in lines] == pytest.approx(curve, abs=RATIO)
