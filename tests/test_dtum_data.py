"""What DTUM's loaders do with SatVideoIRSDT and NUDT-MIRSDT alone, against their rules written out."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import clips_of, recipe_of, video_of
from test_clips import numbered_sequence, set_of, source_of

import test as test_command
from dataset import create_dataset
from dataset.clips import TrainingClips, patch_corner
from dataset.sample import Sample
from dataset.video import TestVideo
from model import create_model
from utils.recipe.resolve import resolve_recipe
from utils.recipe.schema import Recipe
from utils.registry import MODELS
from utils.task import TASKS

CLIPS = {
    "frames": 5,
    "key": 4,
    "mean": 0.0,
    "std": 1 / 257,
}  # the last frame is predicted; values as in files
OF_SATVIDEO = {"history": "future", "neighbours": "position"}


def test_the_published_recipe():
    view = recipe_on("SatVideoIRSDT").view
    assert {key: getattr(view, key) for key in OF_SATVIDEO} == OF_SATVIDEO


def recipe_on(dataset: str) -> Recipe:
    return resolve_recipe(MODELS.entry("ResUNet-DTUM").facts["recipe"], dataset, {})


# ---- SatVideoIRSDT: frames ----


def published_history(frames: int) -> list[list[int]]:
    """The positions of the frames of each clip, as the published loader appends them."""
    clips = []
    for i in range(frames):
        if i >= 4:
            clips.append([i - 4, i - 3, i - 2, i - 1, i])
        else:
            clips.append([i + 4, i + 3, i + 2, i + 1, i])
    return clips


def test_the_first_frames_take_later_ones_in_reversed_order(tmp_path):
    sequence = numbered_sequence(tmp_path, "a", 11, (8, 9), targets=[(2, 3)])
    data, published = set_of(sequence), published_history(11)
    assert published[0] == [4, 3, 2, 1, 0]
    tested = [source_of(clip[0], (8, 9))[0] for _, clip in video_of(sequence, data, **CLIPS, **OF_SATVIDEO)]
    clips = clips_of(data, **CLIPS, **OF_SATVIDEO)
    trained = [source_of(clips[0, index]["clip"], (8, 9))[0] for index in range(len(clips))]
    assert tested == trained == published
    repeated = [source_of(clip[0], (8, 9))[0] for _, clip in video_of(sequence, data, **CLIPS)]
    assert repeated[:2] == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]] and repeated[4:] == published[4:]


def test_positions_count_whatever_the_names_of_the_frames(tmp_path):
    """A frame is missing in the middle: the published loader sorts files and takes the four before."""
    sequence = numbered_sequence(tmp_path, "a", 9, (4, 4))
    images = tuple(path for path in sequence.images if path.stem != "5")
    short = type(sequence)("a", images, masks=tuple(p for p in sequence.masks if p.stem != "5"))
    found = [
        source_of(clip[0], (4, 4))[0] for _, clip in video_of(short, set_of(short), **CLIPS, **OF_SATVIDEO)
    ]
    files = [0, 1, 2, 3, 4, 6, 7, 8]
    assert found == [[files[i] for i in places] for places in published_history(8)]


def test_a_sequence_that_ends_too_soon_shows_its_last_frame(tmp_path):
    """Where the published loader stops with an error."""
    sequence = numbered_sequence(tmp_path, "a", 3, (4, 4))
    video = video_of(sequence, set_of(sequence), **CLIPS, **OF_SATVIDEO)
    found = [source_of(clip[0], (4, 4))[0] for _, clip in video]
    assert found == [[2, 2, 2, 1, 0], [2, 2, 2, 2, 1], [2, 2, 2, 2, 2]]


def test_streaming_gives_what_fresh_clips_give(tmp_path):
    draw = np.random.default_rng(0)
    sequence = numbered_sequence(tmp_path, "a", 8, (16, 16))
    for path in sequence.images:
        Image.fromarray(draw.integers(0, 255, (16, 16), np.uint8)).save(path)
    settings = {"frames": 5, "key": 4, "channels": 3, **OF_SATVIDEO}
    network = create_model("ResUNet-DTUM").eval()
    step = network.stream()
    for frames, clip in video_of(sequence, set_of(sequence), **settings):
        fresh = network(clip)["logits"].detach().numpy()
        np.testing.assert_allclose(step(clip, frames.places)["logits"].numpy(), fresh, atol=1e-4)


# ---- SatVideoIRSDT: crops ----


def sample_of(size: tuple[int, int], *targets: tuple[int, int, int, int]) -> Sample:
    """One frame with targets of top, left, height, width."""
    mask = np.zeros(size, np.uint8)
    for top, left, height, width in targets:
        mask[top : top + height, left : left + width] = 1
    return Sample(np.zeros((1, *size), np.uint8), (0,), 0, masks=mask[None])


def corners_of(sample: Sample, count: int) -> np.ndarray:
    sampling, draw = recipe_on("SatVideoIRSDT").sampling, np.random.default_rng(5)
    return np.array([patch_corner(sample, sampling, draw, "a") for _ in range(count)])


def test_a_crop_begins_up_to_127_pixels_above_and_left_of_a_target_pixel():
    found = corners_of(sample_of((400, 480), (130, 200, 1, 1)), 2000)
    for shifts in ((130, 200) - found).T:
        assert set(shifts.tolist()) == set(range(128))
        assert np.histogram(shifts, 8, (0, 128))[0].min() > 180, "uniform"


def test_every_target_pixel_is_drawn_alike():
    """So that a target of 30 pixels has 30 times the crops of one of a single pixel."""
    found = corners_of(sample_of((600, 400), (130, 130, 5, 6), (340, 140, 1, 1)), 1550)
    assert (found[:, 0] > 200).sum() == pytest.approx(50, abs=25)
    columns = corners_of(sample_of((400, 600), (130, 130, 1, 100)), 1000)[:, 1]
    assert (columns.min(), columns.max()) == (pytest.approx(6, abs=9), pytest.approx(226, abs=9))


@pytest.mark.parametrize(
    ("target", "published"), [((0, 0), (0, 0)), ((1023, 1023), (768, 768)), ((1023, 2), (768, 0))]
)
def test_crops_are_kept_inside(target, published):
    assert (corners_of(sample_of((1024, 1024), (*target, 1, 1)), 20) == published).all()


def test_crops_without_a_target_are_uniform_to_the_last_row_and_column():
    rows, columns = corners_of(sample_of((261, 258)), 300).T
    assert (set(rows.tolist()), set(columns.tolist())) == (set(range(6)), {0, 1, 2})
    assert (corners_of(sample_of((256, 256), (3, 3, 2, 2)), 3) == 0).all(), "small frames as they are"


def test_training_clips_are_cropped_so(tmp_path):
    sequence = numbered_sequence(tmp_path, "a", 4, (60, 70), targets=[(40, 30)])
    settings = {**CLIPS, "patch": 16, "target_crops": 1.0, "sample_rate": 100.0}
    found = {}
    for crops in ("around", "dtum"):
        clips = clips_of(set_of(sequence), crops=crops, **settings)
        found[crops] = np.array([source_of(clips[0, i]["clip"], (60, 70))[1:] for i in range(200)])
    assert set(((40, 30) - found["dtum"]).ravel().tolist()) == set(range(8))
    assert ((40, 30) - found["around"]).max() > 8


# ---- SatVideoIRSDT: constants ----


def satvideo(folder: Path, frames: int = 6) -> Path:
    for part in ("train", "val"):
        for kind in ("img", "mask"):
            place = folder / "SatVideoIRSDT" / part / "000001" / kind
            place.mkdir(parents=True)
            for n in range(frames):
                pixels = np.full((256, 256), 100 + 10 * n, np.uint8)
                pixels = pixels if kind == "img" else np.eye(256, dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{n + 1:06d}.png")
        (folder / "SatVideoIRSDT" / f"{part}.txt").write_text("000001\n")
    return folder


def test_training_and_test_have_constants_of_their_own(tmp_path):
    root, recipe = satvideo(tmp_path), recipe_on("SatVideoIRSDT")
    data = {split: create_dataset("SatVideoIRSDT", root, split) for split in ("train", "test")}
    tested = [clip for _, clip in TestVideo(data["test"][0], data["test"], recipe.view)]
    clips = TrainingClips(data["train"], recipe, TASKS["masks"])
    grays = np.array([140, 130, 120, 110, 100], np.float32)  # of the first frame's clip
    for clip, mean, std in ((tested[0][0], 105.31, 26.08), (clips[0, 0]["clip"], 111.47, 22.43)):
        published = (grays - np.float32(mean)) / np.float32(std)
        assert np.array_equal(clip[:, :, 0, 0].numpy(), [published] * 3)
    other = resolve_recipe(MODELS.entry("DeepPro").facts["recipe"], "SatVideoIRSDT", {})
    video = TestVideo(data["test"][0], data["test"], other.view)
    assert (video.normalisation.mean, video.normalisation.std) == (111.47, 22.43)


def test_a_test_says_which_constants_it_took(tmp_path):
    argv = [
        "--model_names",
        "TopHat",
        "--dataset_names",
        "SatVideoIRSDT",
        "--dataset_dir",
        satvideo(tmp_path),
    ]
    argv += ["--set", "test_mean=105.31", "--set", "test_std=26.08", "--log_dir", tmp_path / "log"]
    test_command.main([str(word) for word in [*argv, "--device", "cpu"]])
    (evaluated,) = (tmp_path / "log").glob("SatVideoIRSDT/TopHat/*/eval.json")
    found = json.loads(evaluated.read_text())["normalisation"]["000001"]
    assert (found["mean"], found["std"]) == (105.31, 26.08)


def test_recipes_of_other_data_and_models_stay():
    for name in MODELS.names():
        for dataset in ("SatVideoIRSDT", "IRDST-simulation", "Synthetic"):
            if (name, dataset) != ("ResUNet-DTUM", "SatVideoIRSDT"):
                recipe = resolve_recipe(MODELS.entry(name).facts["recipe"], dataset, {})
                assert (recipe.view.history, recipe.sampling.crops) == ("repeat", "around")
                assert recipe.view.test_mean is recipe.view.test_std is None
    assert (recipe_of().view.history, recipe_of().sampling.crops) == ("repeat", "around")
