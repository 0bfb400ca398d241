"""A paper's figures from its data on disk and its weights, by `test.py --protocol published` alone.

Per paper: a tiny data set in the published layout, a file of weights in the published form, one call of the
command with the defaults, and every published figure of eval.json against the literal form of the published
evaluation in literal_evaluations.py and literal_boxes.py. Only the network is ours in both; parity tests
prove it by itself. It is called clip by clip as test.py calls it, so that no figure hangs on rounding.

Counts are equal. RATIO is for what is a quotient or a sum of the same counts: float64 in another order, and
the 2.2e-16 that the papers add to what they divide by.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

import literal_boxes as boxes
import literal_evaluations as literal
import numpy as np
import pytest
import torch
from parity import DATA, published_weights
from PIL import Image
from torch import Tensor, nn

import test
from model import create_model
from model.rprnet import RECIPE as RPRNET_RECIPE
from utils.checkpoint import load_official
from utils.engine import candidates
from utils.registry import MODELS, register_model

pytestmark = pytest.mark.usefixtures("one_thread")

RATIO = 1e-9
MARGIN = 1e-5  # of probabilities to the threshold 0.5, ten times what another order of sums changes


@pytest.fixture(autouse=True)
def no_dry_run(monkeypatch):
    """On frames this small it takes longer than all the rest, and no figure comes from it."""
    monkeypatch.setattr(candidates, "dry_run", lambda *_: None)


# ---------------------------------------------------------------- data


def scene(frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """uint8 [T, H, W]: smooth background, noise, three bright spots that move."""
    draw = np.random.default_rng(seed)
    rows, cols = np.mgrid[:height, :width]
    video = 100 + 30 * np.sin(rows / 9) * np.cos(cols / 13) + draw.normal(0, 1.5, (frames, height, width))
    for spot in range(3):
        top, left = draw.uniform(2, height - 5), draw.uniform(2, width - 5)
        speed = draw.uniform(-1, 1, 2)
        for frame in range(frames):
            row = int(np.clip(top + frame * speed[0], 0, height - 3))
            col = int(np.clip(left + frame * speed[1], 0, width - 3))
            video[frame, row : row + 3, col : col + 3] += 60 + 20 * spot
    return video.clip(0, 255).astype(np.uint8)


def write_images(folder: Path, images: Iterable[np.ndarray], names: Iterable[str]) -> None:
    folder.mkdir(parents=True)
    for pixels, name in zip(images, names, strict=True):
        Image.fromarray(pixels).save(folder / name)


def places_of_targets(
    p: np.ndarray, size: tuple[int, int], draw: np.random.Generator
) -> list[tuple[int, int]]:
    """(row, col) of targets in a frame of `size`: on the network's responses, beside them, and elsewhere.

    p: probabilities of the frame, of any size
    """
    scale = np.array(size) / p.shape
    responses = sorted(literal.components(p > 0.5), key=len)
    centres = [(np.array(literal.centroid(r)) + 0.5) * scale for r in responses]
    chosen = [centres[k] for k in draw.permutation(len(centres))[:4]]
    beside = [centre + draw.integers(-3, 4, 2) for centre in chosen[2:]]
    elsewhere = [draw.uniform(3, np.array(size) - 3)]
    return [tuple(np.floor(place).astype(int)) for place in (*chosen[:2], *beside, *elsewhere)]


def mask_of(places: Iterable[tuple[int, int]], size: tuple[int, int], side: int = 2) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for row, col in places:
        row, col = max(row - side // 2, 0), max(col - side // 2, 0)
        mask[row : row + side, col : col + side] = 255
    return mask


# ---------------------------------------------------------------- weights


def weights_of(stored: str, factors: dict[str, float], biases: dict[str, float]) -> dict[str, Tensor]:
    """Seeded weights by published names, whose last layer is brought into the range of a trained one.

    factors: of all that begins with a name; biases: values of others, added afterwards
    """
    weights = published_weights(np.load(DATA / stored))
    for start, factor in factors.items():
        for name in [name for name in weights if name.startswith(start)]:
            weights[name] = weights[name] * factor
    for name, value in biases.items():
        weights[name] = weights[name] + value
    return weights


def network_of(name: str, weights: dict[str, Tensor], **options) -> nn.Module:
    network = create_model(name, **options)
    load_official(network, weights)
    return network.eval()


def video_of(network: nn.Module) -> Callable[[Tensor, list[int]], dict]:
    """For the clips of one video, the network's raw output of (clip, the places of its frames)."""
    step = network.stream() if hasattr(network, "stream") else lambda clip, _: network(clip)
    return torch.inference_mode()(step)


def probabilities(step: Callable, clips: Iterable[literal.Clip]) -> list[np.ndarray]:
    """Of the key frames of a video's clips, each [H, W]."""
    return [torch.sigmoid(step(clip, places)["logits"])[0, 0].numpy() for clip, places in clips]


# ---------------------------------------------------------------- the command, and what it says


def published_figures(tmp_path: Path, model: str, dataset: str, root: Path, *flags) -> dict[str, dict]:
    """By group of sequences, all figures of the published protocol that test.py writes."""
    places = ("--dataset_names", dataset, "--dataset_dir", root, "--log_dir", tmp_path / "log")
    fixed = ("--model_names", model, "--protocol", "published", "--device", "cpu")
    test.main([str(flag) for flag in (*fixed, *places, *flags)])
    (folder,) = (tmp_path / "log" / dataset / model).iterdir()
    scores = json.loads((folder / "eval.json").read_text())["scores"]
    assert {entry["protocol"] for entry in scores} == {"published"}
    found: dict[str, dict] = {}
    for entry in scores:
        for group, figures in entry["groups"].items():
            curve = figures.pop("curve") or {}
            curves = {f"curve_{kind}": curve[kind] for kind in ("true", "false") if kind in curve}
            found[group] = {**figures, **curves, **found.get(group, {})}
    return found


def official_file(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    """As the published training scripts save."""
    path = tmp_path / "weights.pth.tar"
    torch.save({"epoch": 1, "state_dict": weights}, path)
    return path


def assert_equal(found: dict, expected: dict) -> None:
    counts = {name: value for name, value in expected.items() if isinstance(value, int | list)}
    ratios = {name: value for name, value in expected.items() if isinstance(value, float)}
    assert {name: found[name] for name in counts} == counts
    assert {name: found[name] for name in ratios} == pytest.approx(ratios, abs=RATIO)


def assert_telling(expected: dict, maps: Iterable[np.ndarray] = ()) -> None:
    """Something was hit, something missed, there are false alarms, and no pixel is a matter of rounding."""
    assert 0 < expected["true"] < expected["targets"]
    assert 0 < expected["false"] < expected["pixels"] / 2
    assert all(0 < expected[name] < 1 for name in ("iou", "niou", "auc") if name in expected)
    assert all(np.abs(p - 0.5).min() > MARGIN for p in maps)


# ---------------------------------------------------------------- TSMSA's tables

TSMSA_SCENES = {"sequence85": (2, 150, 200, 1), "sequence47": (1, 509, 655, 2)}  # frames, height, width, seed


@pytest.mark.parametrize(
    ("model", "stored", "head", "factor", "bias", "options"),
    [
        ("TSMSA", "tsmsa.npz", "model.head.block.4.", 0.075, -23.0927, {}),
        ("ACM", "acm_tsmsa.npz", "model.head.block.4.", 0.0017, -26.2621, {"blocks": "depthwise"}),
        pytest.param(
            *("RDIAN", "rdian.npz", "model.head.block.4.", 4.0, -5.3273, {}), marks=pytest.mark.slow
        ),
        pytest.param(
            *("DNANet", "dnanet_single.npz", "model.final.", 0.8, -23.0682, {"deep_supervision": False}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_tsmsa_and_its_single_frame_networks(model, stored, head, factor, bias, options, tmp_path):
    """NUDT-MIRSDT in TSMSA's layout, scored at 512x512, where 3 pixels are 1 or 4 of the files."""
    weights = weights_of(stored, {head: factor}, {f"{head}bias": bias})
    network = network_of(model, weights, **options)
    frames = 5 if model == "TSMSA" else 1
    root, draw = tmp_path / "NUDT-MIRSDT", np.random.default_rng(3)
    maps, truths, lines = [], [], []
    for name, (count, height, width, seed) in TSMSA_SCENES.items():
        files = [f"{number}.png" for number in range(count)]
        write_images(root / "images" / name, scene(count, height, width, seed), files)
        statistics = literal.TSMSA_STATISTICS["NUDT-MIRSDT"]
        clips = literal.tsmsa_clips(root / "images" / name, frames, *statistics)
        found = probabilities(video_of(network), clips)
        masks = [mask_of(places_of_targets(p, (height, width), draw), (height, width)) for p in found]
        write_images(root / "masks" / name, masks, files)
        maps += found
        truths += [literal.tsmsa_truth(root / "masks" / name / file) for file in files]
        lines += [f"images/{name}/{file}\n" for file in files]
    (root / "test.txt").write_text("".join(lines))
    expected = literal.tsmsa_figures(maps, truths)
    assert_telling(expected, maps)
    flags = [flag for name, value in options.items() for flag in ("--set", f"model.{name}={value}")]
    flags += ["--official", official_file(tmp_path, weights)]
    found = published_figures(tmp_path, model, "NUDT-MIRSDT", root, *flags)
    assert_equal(found["all"], expected)


# ---------------------------------------------------------------- RPRNet


class Brightness(nn.Module):
    """In place of RPRNet: what is bright in the key frame, a little less so where it was or will be."""

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        earliest, _, key, _, _, latest = clip[:, :1].unbind(2)
        return {"logits": 3 * (key - 1.5) - 0.5 * (earliest + 1) - 0.25 * (latest + 1)}

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        return torch.sigmoid(raw["logits"])


@contextmanager
def registered(name: str, network: type[nn.Module], recipe: dict):
    """Inside `with`, a network without weights has a name and a recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODELS, "_entries", dict(MODELS._entries))
        patch.setattr(MODELS, "_folded", dict(MODELS._folded))
        register_model(name, recipe=recipe, rename={})(network)
        yield


def rprnet_scene(
    frames: int, height: int, width: int, seed: int
) -> tuple[np.ndarray, list[list[tuple[int, int]]]]:
    """Frames and places of three targets each, one of them at the left border; false alarms blink."""
    draw, size = np.random.default_rng(seed), np.array((height, width))
    video, places = scene(frames, height, width, seed).clip(0, 160), []
    for frame in video:
        targets = [(int(row), int(col)) for row, col in draw.uniform(4, size - 4, (2, 2))]
        targets.append((int(draw.integers(4, height - 4)), 1))
        for row, col in [*targets, *draw.integers(4, size - 4, (2, 2))]:
            row, col = row + draw.integers(-2, 3), max(col + draw.integers(-3, 4), 1)
            frame[row - 1 : row + 2, col - 1 : col + 2] = 250
        places.append(targets)
    return video, places


def rprnet_maps(folder: Path, side: int, step: Callable) -> list[np.ndarray]:
    """Probabilities of a sequence at the size of its files."""
    size = Image.open(next(folder.iterdir())).size
    inside = probabilities(step, literal.rprnet_clips(folder, side))
    return [literal.rprnet_way_back(p, *size) for p in inside]


def rprnet_truths(folder: Path, side: int) -> list[np.ndarray]:
    paths = sorted(folder.iterdir())
    size = Image.open(paths[0]).size
    return [literal.rprnet_way_back(literal.rprnet_truth(path, side), *size) for path in paths]


def write_list(root: Path, *folders: str) -> None:
    """test.txt with a line for each frame in these folders."""
    lines = (f"{folder}/{path.name}\n" for folder in folders for path in sorted((root / folder).iterdir()))
    (root / "test.txt").write_text("".join(lines))


@pytest.mark.parametrize(
    ("width", "height", "side"),
    [(98, 71, 64), (61, 47, 64), (347, 210, 256)],  # float32 cuts another rectangle; 256 is the recipe's
)
def test_rprnet_letterbox_and_counting(width, height, side, tmp_path):
    """NUDT-MIRSDT in RPRNet's layout, with numbers that are missing and targets in the first columns."""
    root, network, maps, truths = tmp_path / "NUDT-MIRSDT", Brightness(), [], []
    sequences = {"Sequence85": [1, 2, 3, 6, 7, 8, 9], "Sequence94": [1, 2]}
    for seed, (name, numbers) in enumerate(sequences.items()):
        video, places = rprnet_scene(len(numbers), height, width, seed)
        masks = [mask_of(targets, (height, width), side=3) for targets in places]
        files = [f"{number:05d}.png" for number in numbers]
        write_images(root / name / "images", video, files)
        write_images(root / name / "masks", masks, files)
        maps += rprnet_maps(root / name / "images", side, lambda clip, _: network(clip))
        truths += rprnet_truths(root / name / "masks", side)
    write_list(root, *(f"{name}/images" for name in sequences))
    expected = literal.rprnet_figures(maps, truths)
    assert_telling(expected, maps)
    with registered("Brightness", Brightness, RPRNET_RECIPE):
        flags = () if side == 256 else ("--set", f"view.letterbox={side}")
        found = published_figures(tmp_path, "Brightness", "NUDT-MIRSDT", root, *flags)
    assert_equal(found["all"], expected)


@pytest.mark.parametrize(
    ("width", "height", "side", "bias"),
    [(98, 71, 32, 13.2), pytest.param(347, 210, 256, 15.2, marks=pytest.mark.slow)],
)
def test_rprnet(width, height, side, bias, tmp_path):
    """Its own network, at a small size and at that of the recipe."""
    head = "MultiScaleSegHead."
    weights = weights_of("rprnet.npz", {f"{head}out": 60.0}, {f"{head}fuse.bias": bias})
    root, folder, files = tmp_path / "NUDT-MIRSDT", "Sequence94/images", ["00001.png", "00002.png"]
    write_images(root / folder, scene(2, height, width, seed=7), files)
    maps = rprnet_maps(root / folder, side, video_of(network_of("RPRNet", weights)))
    draw = np.random.default_rng(1)
    masks = [mask_of([*places_of_targets(p, p.shape, draw), (20, 1)], p.shape, side=3) for p in maps]
    write_images(root / "Sequence94/masks", masks, files)
    write_list(root, folder)
    expected = literal.rprnet_figures(maps, rprnet_truths(root / "Sequence94/masks", side))
    assert_telling(expected, maps)
    flags = ("--official", official_file(tmp_path, weights), "--set", f"view.letterbox={side}")
    found = published_figures(tmp_path, "RPRNet", "NUDT-MIRSDT", root, *flags)
    assert_equal(found["all"], expected)


# ---------------------------------------------------------------- DeepPro and DTUM

LOW, HIGH = "Sequence47", "Sequence85"  # of the published subsets


def write_nudt_frames(root: Path, scenes: dict[str, tuple[int, int, int, int]]) -> None:
    """Frames in DTUM's and DeepPro's layout, and the list with its lines of .mat files.

    scenes: frames, height, width and seed by sequence
    """
    lines = []
    for name, shape in scenes.items():
        stems = [f"{number:05d}" for number in range(1, shape[0] + 1)]
        write_images(root / name / "images", scene(*shape), [f"{stem}.png" for stem in stems])
        lines += [f"{name}/Mix/{stem}.mat\n" for stem in stems]
    (root / "test.txt").write_text("".join(lines))


def write_nudt_truth(root: Path, name: str, maps: list[np.ndarray], every: int = 1) -> None:
    """Masks and centroid maps of a sequence: on, beside and far from the responses, and at two borders.

    every: of so many frames, one has targets
    """
    draw = np.random.default_rng(len(maps))
    files = [path.name for path in sorted((root / name / "images").iterdir())]
    places = [places_of_targets(p, p.shape, draw) for p in maps]
    places = [targets if frame % every == 0 else [] for frame, targets in enumerate(places)]
    for frame, border in ((0, (0, 7)), (every, (9, 2)), (every, (3, 15)), (2 * every, (12, 1))):
        places[frame].append(border)
    for kind, side in (("masks", 3), ("masks_centroid", 1)):
        images = [mask_of(targets, p.shape, side) for targets, p in zip(places, maps, strict=True)]
        write_images(root / name / kind, images, files)


def truth_files(root: Path, name: str, kind: str) -> list[Path]:
    return sorted((root / name / kind).iterdir())


@pytest.mark.parametrize(
    ("model", "stored", "head", "factor", "bias"),
    [
        ("DeepPro", "deeppro.npz", "final.", 10.0, -0.73718),
        ("DeepPro-Plus", "deepproplus.npz", "conv_out2.", 6.0, -10.67347),
    ],
)
def test_deeppro(model, stored, head, factor, bias, tmp_path):
    """Windows of 40 frames that overlap, fused by their maximum; 27 thresholds; both subsets."""
    weights = weights_of(stored, {head: factor}, {f"{head}bias": bias})
    network = network_of(model, weights)
    root = tmp_path / "NUDT-MIRSDT"
    write_nudt_frames(root, {LOW: (77, 22, 27, 1), HIGH: (40, 25, 24, 2)})
    frames = {}
    for name in (LOW, HIGH):
        step, windows = video_of(network), literal.deeppro_windows(root / name / "images", 40)
        found = [
            (torch.sigmoid(step(clip, list(range(start, stop)))["logits"])[0].numpy(), start)
            for clip, start, stop in windows
        ]
        maps = list(literal.deeppro_fusion(found))
        write_nudt_truth(root, name, maps, every=4)
        centroids = [literal.centroid_truth(path) for path in truth_files(root, name, "masks_centroid")]
        masks = [literal.binary_mask(path) for path in truth_files(root, name, "masks")]
        frames[name] = (maps, centroids, masks)
    frames["all"] = tuple(low + high for low, high in zip(frames[LOW], frames[HIGH], strict=True))
    flags = ("--official", official_file(tmp_path, weights))
    found = published_figures(tmp_path, model, "NUDT-MIRSDT", root, *flags)
    for group, name in (("all", "all"), ("SNR<=3", LOW), ("SNR>3", HIGH)):
        expected = literal.deeppro_figures(*frames[name])
        assert_telling(expected, frames[name][0])
        assert_equal(found[group], expected)


@pytest.mark.parametrize(("canvas", "frames"), [(64, 7), pytest.param(512, 3, marks=pytest.mark.slow)])
def test_dtum(canvas, frames, tmp_path):
    """History of repeated first frames, a canvas of zeros, centroids as truth, 50 thresholds."""
    head = "DTUM.final.4."
    weights = weights_of("dtum.npz", {head: 0.03}, {f"{head}bias": -7.19867})
    network = network_of("ResUNet-DTUM", weights)
    root = tmp_path / "NUDT-MIRSDT"
    shapes = {LOW: (frames, 48, 64, 3), HIGH: (frames, 55, 37, 4)}
    write_nudt_frames(root, shapes)
    maps, centroids = {}, {}
    for name, (_, height, width, _) in shapes.items():
        whole = probabilities(video_of(network), literal.dtum_clips(root / name / "images", canvas))
        maps[name] = [p[:height, :width] for p in whole]
        write_nudt_truth(root, name, maps[name])
        centroids[name] = [literal.centroid_truth(path) for path in truth_files(root, name, "masks_centroid")]
    maps["all"], centroids["all"] = maps[LOW] + maps[HIGH], centroids[LOW] + centroids[HIGH]
    flags = ("--official", official_file(tmp_path, weights), "--set", f"view.canvas={canvas}")
    found = published_figures(tmp_path, "ResUNet-DTUM", "NUDT-MIRSDT", root, *flags)
    assert len(literal.DTUM_THRESHOLDS) == 50
    for group, name in (("all", "all"), ("SNR<=3", LOW), ("SNR>3", HIGH)):
        expected = literal.dtum_figures(maps[name], centroids[name])
        assert_telling(expected, maps[name])
        assert_equal(found[group], expected)


# ---------------------------------------------------------------- RFR


def frame_by_frame(step: Callable) -> Callable[[Tensor, int], Tensor]:
    """Probabilities [1, 1, H, W] of (frame [1, 1, H, W], its place)."""
    return lambda frame, place: torch.sigmoid(step(frame[:, :, None], [place])["logits"])


def test_rfr(tmp_path):
    """IRSatVideo-LEO: a state that runs through a video longer than a clip of training, and starts anew."""
    head = "model.detection_head.final."
    weights = weights_of("rfr.npz", {head: 0.3}, {f"{head}bias": 4.96380})
    network = network_of("ResUNet-RFR", weights)
    root, maps, truths = tmp_path / "IRSatVideo-LEO", [], []
    shapes = {"0001": (22, 30, 31, 5), "0002": (3, 33, 27, 6)}
    for name, (count, height, width, seed) in shapes.items():
        files = [f"{number:04d}.png" for number in range(count)]
        video = (scene(count, height, width, seed) // 3 + 40).astype(np.uint8)
        write_images(root / "images" / name, video, files)
        found = literal.rfr_maps(root / "images" / name, frame_by_frame(video_of(network)))
        draw = np.random.default_rng(count)
        masks = [mask_of(places_of_targets(p, p.shape, draw), p.shape) for p in found]
        write_images(root / "masks" / name, masks, files)
        maps += found
        truths += [literal.rfr_truth(path) for path in sorted((root / "masks" / name).iterdir())]
    (root / "video_idx").mkdir()
    (root / "video_idx" / "test_IRSatVideo-LEO.txt").write_text("".join(f"{name}\n" for name in shapes))
    expected = literal.rfr_figures(maps, truths)
    assert_telling(expected, maps)
    flags = ("--official", official_file(tmp_path, weights))
    found = published_figures(tmp_path, "ResUNet-RFR", "IRSatVideo-LEO", root, *flags)
    assert_equal(found["all"], expected)
    pixels = literal.centroid_matching([p > 0.5 for p in maps], [t > 0 for t in truths], "pixels")
    assert expected["false"] < pixels["false"]  # some are forgiven for their area


# ---------------------------------------------------------------- STMENet, SMFNet, SSTNet

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


BOX_SCENES = {  # by the side of the letterbox: frames, height, width, seed; the second are IRDST's own
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
        ("SSTNet", "sstnet.npz", "DAUB", None, 96, ("images/test/data12", "images/test/data15")),
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
