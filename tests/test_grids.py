"""In which pixels each paper counts: against slow literal forms of the published way there and back."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from recipes import clips_of, recipe_of, video_of, view_of
from scipy import ndimage

import test
import train
from dataset.sequence import Sequence, SequenceSet
from dataset.video import TestVideo
from metrics import create_metric
from metrics.protocols import PROTOCOLS, protocol_lines, recipe_lines
from utils.boxes import BoxPrediction, MapPrediction
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime
from utils.engine.score import evaluate, score_set
from utils.errors import UserError
from utils.grid import EXACT, Grid
from utils.recipe.resolve import recipe_from_dict, resolve_recipe
from utils.registry import MODELS
from utils.report import pictures
from utils.task import TASKS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Runtime(torch.device("cpu"))
EIGHT = np.ones((3, 3))
TSMSA = {
    "frames": 1,
    "key": 0,
    "test_resize": (512, 512),
    "image_resize": "bilinear",
    "mask_resize": "nearest",
    "mean": 0.0,
    "std": 1.0,
    "gray_scale": 255.0,
    "paper": "TSMSA",
}
RPRNET = {
    **TSMSA,
    "test_resize": None,
    "image_resize": "bicubic",
    "mask_resize": "bicubic",
    "paper": "RPRNet",
}


class Brightness(torch.nn.Module):
    """The gray value of the input as probability."""

    def forward(self, clip):
        return {"logits": clip[:, 0]}

    def decode(self, raw):
        return raw["logits"]


def scene_of(folder: Path, images: list[np.ndarray], masks: list[np.ndarray]) -> SequenceSet:
    paths = {"image": [], "mask": []}
    for index, pair in enumerate(zip(images, masks, strict=True)):
        for name, pixels in zip(paths, pair, strict=True):
            paths[name].append(folder / f"{name}{index}.png")
            Image.fromarray(pixels.astype(np.uint8)).save(paths[name][-1])
    sequence = Sequence("a", tuple(paths["image"]), masks=tuple(paths["mask"]))
    return SequenceSet("Scene", folder, "test", (sequence,))


def random_scene(folder: Path, size: tuple[int, int], frames: int = 3, seed: int = 0) -> SequenceSet:
    """Targets of 3x3 anywhere, at the left border too; responses on, beside and far from them."""
    draw, images, masks = np.random.default_rng([seed, *size]), [], []
    for _ in range(frames):
        image, mask = draw.integers(0, 90, size).astype(np.uint8), np.zeros(size, np.uint8)
        columns = [0, 2, *draw.integers(4, size[1] - 6, 4)]
        for row, column in zip(draw.permutation(np.arange(2, size[0] - 8, 8))[:6], columns, strict=False):
            mask[row : row + 3, column : column + 3] = 255
            shift = int(draw.integers(0, 4))
            image[row + shift : row + shift + 3, column : column + 3] = 255
        image[-3:, -4:-1] = 250
        images.append(image)
        masks.append(mask)
    return scene_of(folder, images, masks)


def scored(data: SequenceSet, settings: dict, protocols=("published", "clean"), dataset: str = "Scene"):
    """(lines, the group of all sequences) of what `Brightness` finds."""
    recipe = recipe_of(**settings)
    lines = recipe_lines(recipe, protocols, dataset)
    predict = partial(predict_video, Brightness(), TASKS["masks"], CPU, 0.5)
    groups, _ = score_set(predict, [TestVideo(data[0], data, recipe.view)], {}, lines)
    return lines, groups["all"]


def regions(pixels: np.ndarray) -> list[np.ndarray]:
    """The 8-connected components in raster order, each as its pixels [N, 2]."""
    labels, count = ndimage.label(pixels, EIGHT)
    found = [np.argwhere(labels == k + 1) for k in range(count)]
    return sorted(found, key=lambda places: tuple(places[0]))


# ---------------------------------------------------------------- TSMSA: resized frames, no way back


def literal_tsmsa(data: SequenceSet, height: int = 512, width: int = 512) -> dict[str, float]:
    """TSMSA's test(): frames in mode I and masks at 512x512, cut to its "size" pair, counted there."""
    found = targets = false = all_pixels = inter = union = 0
    for image, mask in zip(data[0].images, data[0].masks, strict=True):
        gray = Image.open(image).convert("I").resize((512, 512), Image.Resampling.BILINEAR)
        truth = Image.open(mask).resize((512, 512), Image.Resampling.NEAREST)
        p = (np.array(gray, dtype=np.float32) / np.float32(255) > 0.5)[:height, :width]
        y = (np.array(truth, dtype=np.float32) / 255)[:height, :width]
        inter, union = inter + (p * y).sum(), union + p.sum() + y.sum() - (p * y).sum()
        free, matched = regions(p), []
        for target in regions(y.astype(int)):
            targets += 1
            for place, response in enumerate(free):
                if np.linalg.norm(response.mean(0) - target.mean(0)) < 3:
                    found += 1
                    matched.append(len(response))
                    del free[place]
                    break
        false += p.sum() - sum(matched)
        all_pixels += height * width
    return {"pd": found / targets, "fa": false / all_pixels, "iou": inter / union}


@pytest.mark.parametrize("size", [(48, 80), (200, 150), (256, 256), (300, 400)])
def test_tsmsa_counts_in_its_resized_frames(tmp_path, size):
    data = random_scene(tmp_path, size)
    (published, _, by_pixels, _), group = scored(data, TSMSA)
    figures, clean = group.figures(published), group.figures(by_pixels)
    expected = literal_tsmsa(data)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert figures["iou"] != clean["iou"]
    assert group.rule(published).endswith("; counted at 512x512 (masks resized by nearest)")
    assert group.rule(by_pixels).endswith("; counted at the frames' size")


def test_responses_a_pixel_and_a_half_away_are_far_in_resized_frames(tmp_path):
    """Of 256x256: they miss at 512x512, and are hits with no false pixel where the frames are as they are."""
    draw, images, masks = np.random.default_rng(3), [], []
    for index in range(4):
        image, mask = np.full((256, 256), 20, np.uint8), np.zeros((256, 256), np.uint8)
        for row in range(20, 220, 20):
            column = int(draw.integers(10, 240))
            mask[row : row + 3, column : column + 3] = 255
            # Two or, of one in ten, one columns of three; 1.5 pixels to the right of the target, or 0.5.
            shift = 1 if (row // 20 + index) % 5 == 0 else 2
            image[row : row + 3, column + shift : column + shift + 2] = 255
        images.append(image)
        masks.append(mask)
    data = scene_of(tmp_path, images, masks)
    (published, _, by_pixels, _), group = scored(data, TSMSA)
    at_512, native = group.figures(published), group.figures(by_pixels)
    expected = literal_tsmsa(data)
    assert (at_512["pd"], at_512["fa"]) == pytest.approx((expected["pd"], expected["fa"]), abs=1e-12)
    assert at_512["pd"] == pytest.approx(0.2) and at_512["fa"] > 5e-4
    assert (native["pd"], native["fa"]) == (1, 0)


def test_tsmsa_cuts_mwirstd_and_divides_by_the_pixels_of_its_files(tmp_path):
    """512x512 maps to 509x655, which leaves 509x512; false pixels over 509 * 655."""
    data = random_scene(tmp_path, (64, 80))  # the last rows hold a response
    (line,), group = scored(data, TSMSA, ["published"], "MWIRSTD")
    expected = literal_tsmsa(data, 509, 655)
    figures = group.figures(line)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert figures["pixels"] == 3 * 333_395
    assert figures["fa"] != literal_tsmsa(data)["fa"] * 512**2 / 333_395  # the rows do matter
    assert "frame_pixels=333395" in group.rule(line)
    assert group.rule(line).endswith("in the first 509 rows and 655 columns")


def test_the_commands_know_the_data_set(tmp_path, capsys):
    """In the validation of train.py and in test.py."""
    for name, split in (("1", "train"), ("15", "test")):
        for index in range(2):
            for kind in ("images", "masks"):
                (tmp_path / "MWIRSTD" / kind / name).mkdir(parents=True, exist_ok=True)
                pixels = np.zeros((34, 40), np.uint8)
                pixels[9:12, 9:12] = 255
                Image.fromarray(pixels).save(tmp_path / "MWIRSTD" / kind / name / f"{index}.png")
        (tmp_path / f"MWIRSTD/{split}.txt").write_text(f"{name}\n")
    data = ("--dataset_names", "MWIRDST", "--dataset_dir", tmp_path, "--log_dir", tmp_path / "log")
    flags = (*data, "--protocol", "published", "--device", "cpu")
    few = ("--epochs", 0, "--num_workers", 0, "--patch_size", 32, "--sample_rate", 1, "--batch_size", 2)
    train.main([str(f) for f in ("--model_names", "ACM", *flags, *few)])
    assert "frame_pixels=333395" in capsys.readouterr().out
    (run,) = tmp_path.glob("log/MWIRSTD/ACM/*/last.pth")
    test.main([str(f) for f in ("--checkpoint", run, *flags)])
    assert "frame_pixels=333395" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(509, 655), (480, 640), (512, 640)])
def test_frames_are_resized_in_32_bit(size):
    """As published; Pillow's 8-bit form is another one by a gray value here and there."""
    pixels = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    image = Image.fromarray(pixels).convert("I").resize((512, 512), Image.Resampling.BILINEAR)
    fitted = view_of(test_resize=(512, 512), image_resize="bilinear").fit(pixels, "images")
    np.testing.assert_array_equal(fitted, np.array(image))
    assert fitted.dtype == np.uint8


def test_padding_is_cut_off_in_resized_frames():
    view = view_of(test_resize=(40, 56), multiple=32)
    output = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    np.testing.assert_array_equal(view.invert(output, (20, 28), Grid("resized")), output[:40, :56])
    assert view.size_on((20, 28), Grid("resized")) == (40, 56)
    assert view.size_on((20, 28), Grid("resized", crop=(30, 90))) == (30, 56)
    assert view.size_on((20, 28), EXACT) == (20, 28)


@pytest.mark.parametrize("name", ["TSMSA", "ACM", "DNANet", "RDIAN", "MSHNet"])
def test_tsmsa_and_the_single_frame_networks_of_its_tables_are_scored_at_512(name):
    recipe = resolve_recipe(MODELS.entry(name).facts["recipe"], "NUDT-MIRSDT", {})
    view, (line,) = recipe.view, recipe_lines(recipe, ["published"], "NUDT-MIRSDT")
    assert (view.test_resize, view.image_resize, view.mask_resize) == ((512, 512), "bilinear", "nearest")
    assert line.pixels == "counted at 512x512 (masks resized by nearest)"
    typed = {"scoring.paper": "BasicIRSTD", "view.test_resize": None}
    native = resolve_recipe(MODELS.entry(name).facts["recipe"], "NUDT-MIRSDT", typed)
    (line,) = recipe_lines(native, ["published"], "NUDT-MIRSDT")
    assert (line.misfit, line.pixels) == ("", "counted at the frames' size")


# ---------------------------------------------------------------- RPRNet: a rectangle in float32


def float32_rectangle(side: int, ori_w: int, ori_h: int) -> tuple[int, int, int, int]:
    """RPRNet's test.py: the sizes arrive as int64 tensors."""
    ori_w, ori_h = torch.tensor([ori_w]), torch.tensor([ori_h])
    scale = min(side / ori_w, side / ori_h)
    assert scale.dtype == torch.float32
    nw, nh = int(ori_w * scale), int(ori_h * scale)
    return nw, nh, (side - nw) // 2, (side - nh) // 2


def literal_back(square: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    nw, nh, dx, dy = float32_rectangle(len(square), size[1], size[0])
    inside = torch.from_numpy(square[dy : dy + nh, dx : dx + nw].astype(np.float32))[None, None]
    return F.interpolate(inside, size, mode="bilinear", align_corners=False)[0, 0].numpy()


def literal_there(image: Image.Image, side: int, padding: int) -> np.ndarray:
    scale = min(side / image.width, side / image.height)
    nw, nh = int(image.width * scale), int(image.height * scale)
    square = Image.new("L", (side, side), padding)
    square.paste(image.resize((nw, nh), Image.Resampling.BICUBIC), ((side - nw) // 2, (side - nh) // 2))
    return np.array(square)


def literal_mask(path: Path, side: int) -> np.ndarray:
    """RPRNet's loader: letterbox, everything above 0 to 255, then what was left over of a loader of boxes."""
    mask = literal_there(Image.open(path), side, 0).astype(np.float32)
    mask[mask > 0] = 255
    mask[:, 2:4] = mask[:, 2:4] - mask[:, 0:2]
    mask[:, 0:2] = mask[:, 0:2] + mask[:, 2:4] / 2
    return mask / 255


def literal_rprnet(data: SequenceSet, side: int) -> dict[str, float]:
    """RPRNet's test.py on what `Brightness` predicts; of its ROC the counts at the threshold 15/30."""
    found = targets = false = pixels = inter = union = hits = truths = 0
    frame_ious, roc = [], np.zeros(4, int)
    for image, mask in zip(data[0].images, data[0].masks, strict=True):
        values = literal_there(Image.open(image), side, 128).astype(np.float32)
        p = literal_back(values / np.float32(255), Image.open(image).size[::-1])
        gt = literal_back(literal_mask(mask, side), p.shape)
        predicted, target, one = p > 0.5, gt > 0, gt.astype(int) == 1
        inter, union = inter + (predicted & target).sum(), union + (predicted | target).sum()
        hits, truths = hits + (predicted & target).sum(), truths + target.sum()
        frame_ious.append((predicted & one).sum() / max((predicted | one).sum(), 1))
        roc += [
            (predicted & (gt == 1)).sum(),
            (predicted & (gt != 1)).sum(),
            (~predicted & (gt == 0)).sum(),
            (~predicted & (gt != 0)).sum(),
        ]
        free, areas = regions(predicted), []
        responses = [len(response) for response in free]
        for region in regions(target):
            targets += 1
            for place, response in enumerate(free):
                if np.linalg.norm(response.mean(0) - region.mean(0)) < 3:
                    found += 1
                    areas.append(len(response))
                    del free[place]
                    break
        false += sum(area for area in responses if area not in areas)
        pixels += p.size
    return {
        "pd": found / targets,
        "fa": false / pixels,
        "iou": inter / union,
        "niou": float(np.mean(frame_ious)),
        "roc": roc.tolist(),
    }


# 98x71 at 64 and 347x210 at 256 have another rectangle on the way back than on the way there.
@pytest.mark.parametrize(
    ("side", "size"), [(64, (71, 98)), (256, (210, 347)), (64, (48, 80)), (64, (64, 64))]
)
def test_rprnet_comes_back_by_a_float32_rectangle(tmp_path, side, size):
    data = random_scene(tmp_path, size, frames=2)
    (published, *_), group = scored(data, {**RPRNET, "letterbox": side})
    expected = literal_rprnet(data, side)
    roc = expected.pop("roc")
    figures = group.figures(published)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    (pixels,) = [count.metric for chosen, count in group.counted(published) if chosen.name == "ROC"]
    assert [int(pixels.counts[name][15]) for name in ("tp", "fp", "tn", "fn")] == roc
    assert "counted at the frames' size, maps and masks back from the letterbox of" in group.rule(published)
    assert group.rule(published).endswith("masks with RPRNet's column quirk")


@pytest.mark.parametrize(("side", "size"), [(64, (71, 98)), (256, (210, 347))])
def test_the_rectangle_of_some_sizes_is_another_one(side, size):
    view, output = view_of(letterbox=side), np.random.default_rng(1).random((side, side)).astype(np.float32)
    published, exact = (view.invert(output, size, grid) for grid in (Grid("float32"), EXACT))
    np.testing.assert_array_equal(published, literal_back(output, size))
    assert np.abs(published - exact).max() > 0.01


def test_the_rectangle_of_every_size_is_that_of_the_published_code():
    for side in (64, 256):
        for size in np.random.default_rng(side).integers(20, 1100, (300, 2)).tolist():
            (height, width), (top, left) = view_of(letterbox=side)._placed(tuple(size), Grid("float32"))
            assert (width, height, left, top) == float32_rectangle(side, size[1], size[0])


def test_the_column_quirk_is_in_published_truth_and_never_in_clean(tmp_path):
    image, mask = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    mask[10:13, 1:4] = 255
    data = scene_of(tmp_path, [image], [mask])
    video = video_of(data[0], data, letterbox=64)
    kinds = {"round_trip_mask"}
    clean = video.truth(0, kinds)
    published = video.truth_on(PROTOCOLS["RPRNet"].grid, clean, kinds)
    np.testing.assert_array_equal(clean["mask"], mask > 0)
    np.testing.assert_array_equal(clean["round_trip_mask"], mask > 0)
    assert published["round_trip_mask"][11, :5].tolist() == [0.5, 1, 1, 0, 0]
    np.testing.assert_array_equal(published["round_trip_mask"], literal_mask(data[0].masks[0], 64))


def test_rprnet_trains_with_the_column_quirk_unless_told_otherwise(tmp_path):
    image, mask = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    mask[10:13, 1:4] = 255
    data = scene_of(tmp_path, [image], [mask])
    for typed, expected in (({}, [0.5, 1, 1, 0, 0]), ({"sampling.column_quirk": False}, [0, 1, 1, 1, 0])):
        recipe = resolve_recipe(MODELS.entry("RPRNet").facts["recipe"], "Scene", {**typed, "letterbox": 64})
        chosen = {**vars(recipe.view), "column_quirk": recipe.sampling.column_quirk}
        assert clips_of(data, **chosen)[0, 0]["target"][0, 11, :5].tolist() == expected


def test_soft_truth_below_zero_is_missed_not_rightly_silent():
    """ROCMetric compares with 0 for equality; the column quirk makes values below."""
    metric = create_metric("ROC", target="soft")
    metric.update(np.zeros((1, 4), np.float32), np.array([[-1, 0, 0.5, 1]], np.float32))
    assert (metric.counts["fn"][15], metric.counts["tn"][15]) == (3, 1)


# ---------------------------------------------------------------- box papers: rounded sizes


def literal_boxes(rows: np.ndarray, side: int, height: int, width: int) -> np.ndarray:
    """yolo_correct_boxes of boxes x1 y1 x2 y2 in input pixels; written as published, in 0..1 and y first."""
    image, square = np.array([height, width]), np.array([side, side])
    new = np.round(image * np.min(square / image))
    offset, scale = (square - new) / 2.0 / square, square / new
    xy, wh = (rows[:, :2] + rows[:, 2:4]) / 2 / side, (rows[:, 2:4] - rows[:, :2]) / side
    yx, hw = (xy[:, ::-1] - offset) * scale, wh[:, ::-1] * scale
    corners = np.concatenate([yx - hw / 2, yx + hw / 2], -1) * np.concatenate([image, image])
    return corners[:, [1, 0, 3, 2]]


@pytest.mark.parametrize("size", [(256, 256), (480, 720), (742, 992), (512, 640)])
def test_boxes_come_back_by_rounded_sizes(tmp_path, size):
    corners = np.random.default_rng(0).uniform(70, 400, (20, 2))
    rows = np.hstack([corners, corners + 9, np.full((20, 1), 0.7)]).astype(np.float32)
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "0.png")
    sequence = Sequence("a", (tmp_path / "0.png",), boxes=(np.zeros((0, 4)),))
    video = video_of(sequence, SequenceSet("One", tmp_path, "test", (sequence,)), letterbox=512)
    found = TASKS["boxes"].prediction(rows, video, 0.5)
    published = found.on(PROTOCOLS["STMENet"].grid)
    np.testing.assert_allclose(published.boxes[:, :4], literal_boxes(rows, 512, *size), rtol=0, atol=1e-3)
    assert (np.abs(published.boxes - found.boxes).max() > 0.3) == (size != (256, 256))
    assert published.shape == found.shape == size


def test_published_ap_is_that_of_the_rounded_way_back(tmp_path):
    """Boxes of 4 pixels that are exact by the one way miss by the other, and the other way round."""
    size, side = (512, 640), 512  # 512 x 409 instead of 410
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "0.png")
    rows = np.array([[100.2, 460.2, 103.6, 463.6, 0.9]], np.float32)
    view = view_of(letterbox=side)
    for restore, right in (("rounded", "published"), ("exact", "clean")):
        truth = view.invert_boxes(rows, size, Grid(restore))[:, :4]
        sequence = Sequence("a", (tmp_path / "0.png",), boxes=(truth,))
        data = SequenceSet("One", tmp_path, "test", (sequence,))
        lines = protocol_lines(["published", "clean"], "STMENet", 0.5, 1, 4, view.settings)
        lines = [line for line in lines if "AveragePrecision" in line.text]
        videos = [video_of(sequence, data, letterbox=side)]
        groups, _ = score_set(
            lambda video: [(0, TASKS["boxes"].prediction(rows, video, 0.5))], videos, {}, lines
        )
        for line in lines:
            assert groups["all"].figures(line)["ap75"] == pytest.approx(float(line.protocol == right))
        assert groups["all"].rule(lines[0]).endswith("of 512 by rounded sizes (of maps, exactly)")


def test_published_lines_alone_give_the_same_figures(tmp_path):
    """As the validation between epochs has them."""
    data = random_scene(tmp_path, (48, 80), frames=2)
    for settings in (TSMSA, {**RPRNET, "letterbox": 64}, {**RPRNET, "letterbox": 64, "paper": "STMENet"}):
        (line, *_), both = scored(data, settings)
        (alone,), group = scored(data, settings, ["published"])
        assert group.figures(alone) == pytest.approx(both.figures(line), rel=0, abs=0, nan_ok=True)
        assert len(group.figures(alone)) > 5


def test_captions_are_counted_in_the_pixels_of_their_line(tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(pictures, "overlay_sheet", lambda tiles, *_: sheets.extend(tiles))
    data = random_scene(tmp_path, (200, 150), frames=2)
    recipe = recipe_of(**TSMSA)
    lines = recipe_lines(recipe, ["published"], "Scene")
    predict = partial(predict_video, Brightness(), TASKS["masks"], CPU, 0.5)
    writer = pictures.SheetWriter(tmp_path / "sheets", "Brightness", lines, 0.5)
    evaluated = evaluate(predict, [TestVideo(data[0], data, recipe.view)], lines, writer)
    figures = evaluated["a"].figures(lines[0])
    counted = [[int(word) for word in tile.caption.split() if word.isdigit()] for tile in sheets]
    assert [tile.found.shape for tile in sheets] == [(200, 150)] * 2  # drawn in the frame's own
    assert np.sum(counted, axis=0).tolist() == [figures[name] for name in ("true", "targets", "false")]


@pytest.mark.parametrize("name", ["STMENet", "SMFNet", "SSTNet"])
def test_the_box_models_train_on_published_labels_unless_told_otherwise(name, tmp_path):
    """Whole pixels of the letterbox, of a frame whose own pixels are no multiple of them."""
    Image.fromarray(np.zeros((70, 99), np.uint8)).save(tmp_path / "0.png")
    sequence = Sequence("a", (tmp_path / "0.png",), boxes=(np.array([[11.0, 20, 19, 29]]),))
    data = SequenceSet("One", tmp_path, "train", (sequence,))
    for typed, is_whole in (({}, True), ({"sampling.labels": "float"}, False)):
        recipe = resolve_recipe(MODELS.entry(name).facts["recipe"], "DAUB", typed)
        target = clips_of(data, "boxes", **vars(recipe.view), labels=recipe.sampling.labels)[0, 0]["target"]
        cx, cy, w, h = target[0, :4].tolist()
        corners = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        assert all(value == int(value) for value in corners) == is_whole


# ---------------------------------------------------------------- what the rule says, and what it refuses


def test_a_recipe_that_makes_the_published_rule_impossible_is_not_scored(tmp_path):
    data = random_scene(tmp_path, (48, 80), frames=1)
    lines, group = scored(data, {**TSMSA, "test_resize": None})
    assert group.figures(lines[0]) == {}
    said = "PdFa: not scored, TSMSA's rule does not fit the recipe, its frames are not resized: set view."
    assert group.rule(lines[0]).startswith(said)
    assert group.figures(lines[1])["targets"] > 0  # clean


def test_such_a_recipe_does_not_validate(tiny_data, tmp_path):
    flags = ("--model_names", "ACM", "--dataset_dir", tiny_data, "--log_dir", tmp_path, "--device", "cpu")
    with pytest.raises(UserError, match=r"published protocol cannot validate: TSMSA's rule .* or --protocol"):
        train.main([str(flag) for flag in (*flags, "--set", "test_resize=None")])
    assert not list(tmp_path.iterdir())


def test_every_line_names_its_pixels_and_each_metric_its_truth():
    for name in MODELS.names():
        recipe = resolve_recipe(MODELS.entry(name).facts["recipe"], "NUDT-MIRSDT", {})
        for line in recipe_lines(recipe, ["published", "clean"], "NUDT-MIRSDT"):
            assert "; counted at " in line.text and not line.misfit
            for metric in line.metrics:
                assert f"truth={metric.empty.truth}" in metric.text
                assert any(word in metric.text for word in ("threshold", "p >", "bins=")), metric.text


def test_recipes_of_version_2_keep_their_meaning():
    """ACM was then scored on frames as they are, which is BasicIRSTD's rule."""
    today = recipe_of(multiple=32, paper="TSMSA").to_dict()
    saved = {**today, "version": 2, "view": {**today["view"], "box_restore": "published"}}
    recipe = recipe_from_dict(saved)
    assert recipe.scoring.paper == "BasicIRSTD" and recipe.view.multiple == 32
    resized = {**saved, "view": {**saved["view"], "test_resize": [512, 512]}}
    assert recipe_from_dict(resized).scoring.paper == "TSMSA"
    assert recipe_from_dict(today).scoring.paper == "TSMSA"


# ---------------------------------------------------------------- one prediction for several protocols


def test_the_network_runs_once_for_all_protocols(tmp_path):
    data, calls = random_scene(tmp_path, (48, 80), frames=2), []
    network = Brightness()
    network.register_forward_hook(lambda *_: calls.append(1))
    recipe = recipe_of(**RPRNET, letterbox=64)
    lines = recipe_lines(recipe, ["published", "clean"], "Scene")
    videos = [TestVideo(data[0], data, recipe.view)]
    predict = partial(predict_video, network, TASKS["masks"], CPU, 0.5)
    seen = []
    evaluate(predict, videos, lines, lambda _v, _i, p, truth: seen.append((p.map.shape, truth["mask"].shape)))
    assert len(calls) == 2 and seen == [((48, 80), (48, 80))] * 2


def test_predictions_without_what_the_network_gave_are_in_no_other_pixels():
    assert MapPrediction(np.zeros((3, 4)), 0.5).on(Grid("float32")) is None
    assert BoxPrediction(np.zeros((0, 5)), (3, 4)).on(Grid("rounded")) is None
    plain = MapPrediction(np.zeros((3, 4)), 0.5)
    assert plain.on(EXACT) is plain


# ---------------------------------------------------------------- kept predictions

WAYS = {  # model, flags: small frames in a letterbox or resized, to sizes that are not whole
    "TSMSA": ("--set", "test_resize=(56,72)"),
    "RPRNet": ("--patch_size", 56),
    "STMENet": ("--patch_size", 64),
    "TopHat": (),
}


@pytest.fixture(scope="module")
def narrow_data(tmp_path_factory) -> Path:
    """Two sequences of 49x41, whose letterbox of 56 comes back by another rectangle than it came in."""
    root, draw = tmp_path_factory.mktemp("narrow") / "Synthetic", np.random.default_rng(2)
    for number in (4, 5):
        for index in range(1, 4):
            image, mask = draw.integers(0, 200, (41, 49)).astype(np.uint8), np.zeros((41, 49), np.uint8)
            mask[10:13, 0:3] = mask[20:23, 30:33] = 255
            image[mask > 0] = 255
            for name, pixels in (("images", image), ("masks", mask)):
                (root / f"Sequence{number}" / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / f"Sequence{number}" / name / f"{index:05d}.png")
    for split in ("train", "test"):
        (root / f"{split}.txt").write_text("Sequence4\nSequence5\n")
    return root


@pytest.fixture(scope="module", params=WAYS)
def kept(request, one_thread, narrow_data, tmp_path_factory) -> Path:
    """The folder of a test that has kept its predictions, of a network that was trained for no epoch."""
    folder, name = tmp_path_factory.mktemp("kept"), request.param
    data = ("--dataset_names", "Synthetic", "--dataset_dir", narrow_data, "--log_dir", folder)
    flags, chosen = ("--device", "cpu", "--num_workers", 0), ("--model_names", name)
    if name != "TopHat":
        torch.manual_seed(0)
        train.main([str(f) for f in (*chosen, *data, *flags, "--epochs", 0, *WAYS[name])])
        (run,) = (folder / "Synthetic" / name).iterdir()
        chosen = ("--checkpoint", run / "last.pth")
    save = ("--save_predictions", "--log_dir", folder / "tested", "--device", "cpu")
    test.main([str(f) for f in (*chosen, *data[:4], *save)])
    (tested,) = (folder / "tested/Synthetic" / name).iterdir()
    return tested


def scores_of(folder: Path, log: Path) -> list[dict]:
    test.main([str(f) for f in ("--predictions", folder, "--log_dir", log, "--device", "cpu")])
    (path,) = log.glob("Synthetic/*/*/eval.json")
    return json.loads(path.read_text())["scores"]


def test_kept_predictions_give_the_figures_of_the_test_by_every_protocol(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(test, "create_model", None)
    expected = json.loads((kept / "eval.json").read_text())["scores"]
    assert scores_of(kept, tmp_path) == expected
    assert all("; counted at" in score["rule"] for score in expected if "not scored" not in score["rule"])


def test_kept_predictions_of_earlier_programs_are_not_scored_where_they_lack_something(kept, tmp_path):
    """They had the frames' pixels alone; every other line is scored as before."""
    expected = json.loads((kept / "eval.json").read_text())["scores"]
    folder = shutil.copytree(kept / "predictions", tmp_path / "predictions")
    index = json.loads((folder / "predictions.json").read_text())
    needed = index.pop("inputs")
    del index["sha256"]
    index["files"] = {name: sha for name, sha in index["files"].items() if "input" not in name}
    (folder / "predictions.json").write_text(json.dumps(index))
    for path in [*folder.rglob("*.input.npz"), *folder.glob("input_*")]:
        path.unlink()
    found = scores_of(folder, tmp_path / "log")
    (published,) = [score for score in found if score["protocol"] == "published"]
    assert [s for s in found if s["protocol"] == "clean"] == [s for s in expected if s["protocol"] == "clean"]
    if needed:
        assert "not scored, what the network gave in its own input is not known" in published["rule"]
        assert not {"pd", "iou", "ap50"} & published["groups"]["all"].keys()
    else:
        assert found == expected


def test_a_promised_file_of_the_networks_own_pixels_that_is_missing_is_refused(kept, tmp_path):
    folder = shutil.copytree(kept / "predictions", tmp_path / "predictions")
    for path in [*folder.rglob("*.input.npz"), *folder.glob("input_*")]:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(UserError, match=f"{path.name} is missing, though predictions.json"):
            scores_of(folder, tmp_path / "log")
        path.write_bytes(content)
