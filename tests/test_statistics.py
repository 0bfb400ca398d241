"""One mean and std of all training frames, which TSMSA measures on MWIRSTD, from frames to commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import recipe_of

import test as test_command
import train
from dataset import create_dataset
from dataset.prepare import prepared
from dataset.video import TestVideo
from utils.checkpoint import read_checkpoint
from utils.errors import UserError, run_command
from utils.recipe.resolve import resolve_recipe
from utils.registry import MODELS

FRAMES = {"1": 6, "2": 9, "15": 5}  # of a sequence; 15 is the test split
SIZES = {"1": (20, 28), "2": (33, 18), "15": (24, 24)}
SMALL = ["--dataset_names", "MWIRSTD", "--set", "test_resize=(16, 24)", "--device", "cpu"]


@pytest.fixture
def mwirstd(tmp_path) -> Path:
    """A folder with MWIRSTD as TSMSA reads it, of frames that differ much in brightness and contrast."""
    root, draw = tmp_path / "data" / "MWIRSTD", np.random.default_rng(4)
    for sequence, frames in FRAMES.items():
        for kind in ("images", "masks"):
            (root / kind / sequence).mkdir(parents=True)
        for n in range(frames):
            gray = draw.normal(60 + 9 * n, 8 + 3 * n, SIZES[sequence]).clip(0, 255).astype(np.uint8)
            mask = np.zeros(SIZES[sequence], np.uint8)
            mask[8:10, 6 + n : 8 + n] = 255
            Image.fromarray(gray).save(root / "images" / sequence / f"{n}.jpg")
            Image.fromarray(mask).save(root / "masks" / sequence / f"{n}.png")
    (root / "train.txt").write_text("".join(f"images/{s}/{n}.jpg\n" for s in "12" for n in range(FRAMES[s])))
    (root / "test.txt").write_text("".join(f"images/15/{n}.jpg\n" for n in range(FRAMES["15"])))
    return root


def published_statistics(root: Path, size: tuple[int, int]) -> tuple[float, float]:
    """Over the lines of train.txt: the mean of the images' means and that of their deviations, resized."""
    means, deviations = [], []
    for line in (root / "train.txt").read_text().splitlines():
        image = Image.open(root / line).convert("I").resize(size[::-1], Image.Resampling.BILINEAR)
        values = np.array(image).astype(float)
        means.append(values.sum() / values.size)
        deviations.append(np.sqrt(((values - means[-1]) ** 2).sum() / values.size))
    return sum(means) / len(means), sum(deviations) / len(deviations)


def failure(capsys, command, *argv) -> str:
    """The sentence with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: command.main([str(word) for word in argv]))
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["TSMSA", "ACM", "DNANet", "RDIAN", "MSHNet"])
def test_the_recipes_of_the_tables_of_tsmsa(name):
    view = resolve_recipe(MODELS.entry(name).facts["recipe"], "MWIRSTD", {}).view
    assert (view.statistics, view.test_resize, view.mean) == ("train", (512, 512), None)
    assert resolve_recipe(MODELS.entry(name).facts["recipe"], "TSIRMT", {}).view.statistics == "own"


def test_statistics_are_the_published_ones(mwirstd):
    recipe = resolve_recipe(MODELS.entry("TSMSA").facts["recipe"], "MWIRSTD", {})
    train_split = create_dataset("MWIRSTD", mwirstd, "train")
    view = prepared(recipe, [train_split]).view
    mean, std = published_statistics(mwirstd, (512, 512))
    assert (view.mean, view.std) == (pytest.approx(mean, rel=1e-12), pytest.approx(std, rel=1e-12))
    native = published_statistics(mwirstd, SIZES["1"])
    assert abs(native[1] - std) > 0.05, "otherwise the size would not matter here"
    test_split = create_dataset("MWIRSTD", mwirstd, "test")
    assert prepared(recipe, [test_split]).view == view, (
        "of a test, too, they are those of the training frames"
    )
    own = recipe_of(test_resize=(512, 512), image_resize="bilinear")
    assert prepared(own, [test_split]) is own


def test_what_was_measured_stays(mwirstd):
    """As in a run that goes on, or where the user typed a mean and std."""
    recipe = recipe_of(statistics="train", mean=3.0, std=2.0)
    assert prepared(recipe, [create_dataset("MWIRSTD", mwirstd, "train")]) is recipe


def test_statistics_that_were_not_measured_are_never_replaced_by_others(mwirstd):
    data = create_dataset("MWIRSTD", mwirstd, "test")
    video = TestVideo(data[0], data, recipe_of(frames=1, key=0, statistics="train").view)
    with pytest.raises(UserError, match=r"view.statistics is train.*dataset.prepare"):
        next(iter(video))


def test_a_run_measures_and_its_checkpoint_needs_no_training_split(mwirstd, tmp_path, capsys):
    log = tmp_path / "log"
    common = [*SMALL, "--dataset_dir", mwirstd, "--log_dir", log]
    begin = ["--model_names", "TSMSA", "--epochs", 1, "--set", "train_resize=(16, 24)", "--num_workers", 0]
    train.main([str(word) for word in [*common, *begin, "--sample_rate", 0.3]])
    (folder,) = (log / "MWIRSTD" / "TSMSA").iterdir()
    mean, std = published_statistics(mwirstd, (16, 24))
    view = json.loads((folder / "recipe.json").read_text())["recipe"]["view"]
    assert (view["mean"], view["std"]) == (pytest.approx(mean), pytest.approx(std))
    assert read_checkpoint(folder / "last.pth")["recipe"]["view"]["mean"] == view["mean"]

    shutil.rmtree(mwirstd / "images" / "1")
    (mwirstd / "train.txt").unlink()
    checkpoint = ["--checkpoint", folder / "last.pth", "--dataset_names", "MWIRSTD"]
    test_command.main([str(w) for w in ["--dataset_dir", mwirstd, "--log_dir", log, *checkpoint]])
    (evaluated,) = (log / "MWIRSTD" / "TSMSA").glob("*/eval.json")
    normalisation = json.loads(evaluated.read_text())["normalisation"]["15"]
    assert (normalisation["mean"], normalisation["std"]) == (view["mean"], view["std"])

    resumed = [*common[2:], *begin, "--dataset_names", "MWIRSTD", "--resume", folder]
    assert "images/1, which is missing" in failure(capsys, train, *resumed)


def test_a_run_goes_on_with_the_statistics_it_began_with(mwirstd, tmp_path, monkeypatch):
    argv = [*SMALL, "--dataset_dir", mwirstd, "--log_dir", tmp_path, "--model_names", "DeepPro"]
    argv += ["--set", "statistics=train", "--set", "train_resize=(16, 24)", "--patch_size", 8]
    argv += ["--num_workers", 0, "--seq_len", 4, "--sample_rate", 0.2, "--set", "image_resize=bilinear"]
    train.main([str(word) for word in [*argv, "--epochs", 1]])
    monkeypatch.setattr("dataset.prepare.train_statistics", None)  # it would be measured again
    train.main([str(word) for word in [*argv, "--epochs", 2, "--resume"]])
    (folder,) = (tmp_path / "MWIRSTD" / "DeepPro").iterdir()
    saved = read_checkpoint(folder / "last.pth")
    mean, std = published_statistics(mwirstd, (16, 24))
    assert saved["progress"]["epoch"] == 2
    view = saved["recipe"]["view"]
    assert (view["statistics"], view["mean"], view["std"]) == (
        "train",
        pytest.approx(mean),
        pytest.approx(std),
    )


def test_other_weights_take_the_training_split_or_say_what_is_missing(mwirstd, tmp_path, capsys):
    argv = ["--model_names", "TopHat", *SMALL, "--set", "statistics=train", "--set", "image_resize=bilinear"]
    argv += ["--dataset_dir", mwirstd, "--log_dir", tmp_path / "log"]
    test_command.main([str(word) for word in argv])
    (evaluated,) = (tmp_path / "log" / "MWIRSTD" / "TopHat").glob("*/eval.json")
    mean, std = published_statistics(mwirstd, (16, 24))
    normalisation = json.loads(evaluated.read_text())["normalisation"]["15"]
    assert (normalisation["mean"], normalisation["std"]) == (pytest.approx(mean), pytest.approx(std))

    shutil.rmtree(mwirstd / "images" / "1")
    said = failure(capsys, test_command, *argv)
    assert "view.statistics is train, which measures the training frames of MWIRSTD" in said
    assert "images/1, which is missing" in said and "--set mean= and --set std=" in said


def test_a_key_that_a_mean_makes_useless_is_refused():
    with pytest.raises(
        UserError, match=r"view.statistics has no effect here; it acts where view.mean is None"
    ):
        resolve_recipe(MODELS.entry("TSMSA").facts["recipe"], "NUDT-MIRSDT", {"statistics": "train"})
