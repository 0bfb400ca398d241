"""A paper's figures from its data on disk and its weights, by `test.py --protocol published` alone.

Per paper: a tiny data set in the published layout, a file of weights in the published form, one call of the
command with the defaults, and every published figure of eval.json against the literal form of the published
evaluation in literal_evaluations.py. Only the network is ours in both; parity tests prove it by itself. It is
called clip by clip as test.py calls it, so that no figure hangs on rounding. Box models are tested in
test_published_box_tables.py.
"""

from collections.abc import Callable
from pathlib import Path

import literal_evaluations as literal
import numpy as np
import pytest
import torch
from literal_counting import DTUM_THRESHOLDS, centroid_matching
from PIL import Image
from tiny_papers import (
    Brightness,
    assert_equal,
    assert_telling,
    bright_scene,
    mask_of,
    network_of,
    official_file,
    places_of_targets,
    probabilities,
    published_figures,
    registered,
    scene,
    video_of,
    weights_of,
    write_images,
    write_list,
)
from torch import Tensor

from model.rprnet import RECIPE as RPRNET_RECIPE
from model.tsmsa import RECIPE as TSMSA_RECIPE

pytestmark = pytest.mark.usefixtures("one_thread")

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
    maps, truths = [], []
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
    write_list(root, *(f"images/{name}" for name in TSMSA_SCENES))
    expected = literal.tsmsa_figures(maps, truths)
    assert_telling(expected, maps)
    flags = [flag for name, value in options.items() for flag in ("--set", f"model.{name}={value}")]
    flags += ["--official", official_file(tmp_path, weights)]
    found = published_figures(tmp_path, model, "NUDT-MIRSDT", root, *flags)
    assert_equal(found["all"], expected)


def test_tsmsa_on_mwirstd(tmp_path):
    """Test frames are normalised by one mean and one deviation of all training frames.

    They are cut as if they still had the size of the files, by whose pixels Fa is divided as well.
    """
    root, size = tmp_path / "MWIRSTD", (509, 655)
    for name, frames, gain in (("1", 3, 0.7), ("2", 2, 0.5), ("15", 6, 1.0)):
        video, places = bright_scene(frames, *size, seed=int(name))
        video = (video * gain).astype(np.uint8)
        write_images(root / "images" / name, video, [f"{number}.jpg" for number in range(frames)])
        masks = [mask_of([*targets, (255, 327)], size, side=3) for targets in places]
        write_images(root / "masks" / name, masks, [f"{number}.png" for number in range(frames)])
    write_list(root, "images/1", "images/2", name="train.txt")
    write_list(root, "images/15")
    training = [path for name in ("1", "2") for path in (root / "images" / name).iterdir()]
    network = Brightness(4, 7.0)
    clips = literal.tsmsa_clips(root / "images" / "15", 5, *literal.tsmsa_statistics(training))
    maps = probabilities(lambda clip, _: network(clip), clips)
    truths = [literal.tsmsa_truth(root / "masks" / "15" / f"{number}.png") for number in range(6)]
    expected = literal.tsmsa_figures(maps, truths, size)
    assert_telling(expected, maps)
    with registered("Brightness", lambda: network, TSMSA_RECIPE):
        found = published_figures(tmp_path, "Brightness", "MWIRSTD", root)
    assert_equal(found["all"], expected)


# ---------------------------------------------------------------- RPRNet


def rprnet_maps(folder: Path, side: int, step: Callable) -> list[np.ndarray]:
    """Probabilities of a sequence at the size of its files."""
    size = Image.open(next(folder.iterdir())).size
    inside = probabilities(step, literal.rprnet_clips(folder, side))
    return [literal.rprnet_way_back(p, *size) for p in inside]


def rprnet_truths(folder: Path, side: int) -> list[np.ndarray]:
    paths = sorted(folder.iterdir())
    size = Image.open(paths[0]).size
    return [literal.rprnet_way_back(literal.rprnet_truth(path, side), *size) for path in paths]


@pytest.mark.parametrize(
    ("width", "height", "side"),
    [(98, 71, 64), (61, 47, 64), (347, 210, 256)],  # float32 cuts another rectangle; 256 is the recipe's
)
def test_rprnet_letterbox_and_counting(width, height, side, tmp_path):
    """NUDT-MIRSDT in RPRNet's layout, with numbers that are missing and targets in the first columns."""
    root, network, maps, truths = tmp_path / "NUDT-MIRSDT", Brightness(2, 1.5), [], []
    sequences = {"Sequence85": [1, 2, 3, 6, 7, 8, 9], "Sequence94": [1, 2]}
    for seed, (name, numbers) in enumerate(sequences.items()):
        video, places = bright_scene(len(numbers), height, width, seed)
        masks = [mask_of(targets, (height, width), side=3) for targets in places]
        files = [f"{number:05d}.png" for number in numbers]
        write_images(root / name / "images", video, files)
        write_images(root / name / "masks", masks, files)
        maps += rprnet_maps(root / name / "images", side, lambda clip, _: network(clip))
        truths += rprnet_truths(root / name / "masks", side)
    write_list(root, *(f"{name}/images" for name in sequences))
    expected = literal.rprnet_figures(maps, truths)
    assert_telling(expected, maps)
    with registered("Brightness", lambda: network, RPRNET_RECIPE):
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
    root, folder, files = tmp_path / "NUDT-MIRSDT", "Sequence94/images", ["00001.png"]
    write_images(root / folder, scene(1, height, width, seed=7), files)
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
    assert len(DTUM_THRESHOLDS) == 50
    for group, name in (("all", "all"), ("SNR<=3", LOW), ("SNR>3", HIGH)):
        expected = literal.dtum_figures(maps[name], centroids[name])
        assert_telling(expected, maps[name])
        assert_equal(found[group], expected)


def test_dtum_on_satvideo_irsdt(tmp_path):
    """Constants of the test alone, a reversed future in place of a history, masks as truth."""
    head = "DTUM.final.4."
    weights = weights_of("dtum.npz", {head: 0.03}, {f"{head}bias": -7.19867})
    network = network_of("ResUNet-DTUM", weights)
    root, draw, maps, truths = tmp_path / "SatVideoIRSDT", np.random.default_rng(2), [], []
    shapes = {"000001": (9, 48, 40, 8), "000002": (8, 40, 64, 9)}
    for name, shape in shapes.items():
        files = [f"{number:06d}.png" for number in range(1, shape[0] + 1)]
        write_images(root / "val" / name / "img", scene(*shape), files)
        found = probabilities(video_of(network), literal.dtum_satvideo_clips(root / "val" / name / "img"))
        masks = [mask_of(places_of_targets(p, p.shape, draw), p.shape) // 255 * 3 for p in found]
        write_images(root / "val" / name / "mask", masks, files)
        maps += found
        truths += [literal.binary_mask(path) for path in truth_files(root / "val", name, "mask")]
    lines = [
        f"dataset/SatVideoIRSDT/val/{name}/img/{number:06d}.png\n" for name in shapes for number in (1, 2)
    ]
    (root / "val_list.txt").write_text("".join(lines))
    expected = literal.dtum_figures(maps, truths)
    assert_telling(expected, maps)
    flags = ("--official", official_file(tmp_path, weights))
    assert_equal(published_figures(tmp_path, "ResUNet-DTUM", "SatVideoIRSDT", root, *flags)["all"], expected)


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
    pixels = centroid_matching([p > 0.5 for p in maps], [t > 0 for t in truths], "pixels")
    assert expected["false"] < pixels["false"]  # some are forgiven for their area
