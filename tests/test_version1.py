"""A checkpoint that the first version of train.py wrote, killed in an epoch: it goes on, and is scored."""

import json
import shutil
from pathlib import Path

import pytest

import test
import train
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.recipe.resolve import recipe_from_dict

pytestmark = pytest.mark.usefixtures("one_thread")

STORED = Path(__file__).parent / "data/version1_deeppro.pth"
# What that program recorded of the same run without the kill.
SECOND = {
    "loss": 0.9664155095815659,
    "iou": 0.08670520231213873,
    "pd": 0.4444444444444444,
    "fa": 0.003982204861111111,
    "auc": 0.810445108638468,
    "learning_rate": 0.035,
}
THIRD = {
    "loss": 0.9450338631868362,
    "iou": 0.06233062330623306,
    "auc": 0.7392418652672558,
    "learning_rate": 0.0245,
}


def flags_of(*flags) -> list[str]:
    return [str(flag) for flag in (*flags, "--device", "cpu")]


@pytest.fixture(scope="module")
def continued(one_thread, tiny_data, tmp_path_factory) -> Path:
    """The run folder, after the resumed training."""
    folder = tmp_path_factory.mktemp("version1") / "Synthetic/DeepPro/2026-01-01_00-00-00"
    folder.mkdir(parents=True)
    shutil.copy(STORED, folder / "last.pth")
    (folder / "train.jsonl").write_text('{"epoch": 1, "loss": 1.0}\n')
    data = ("--dataset_dir", tiny_data, "--num_workers", 0)
    train.main(flags_of("--resume", folder, *data))
    return folder


def test_the_run_goes_on_to_the_losses_and_scores_of_then(continued):
    first, *found = [json.loads(line) for line in (continued / "train.jsonl").read_text().splitlines()]
    assert first == {"epoch": 1, "loss": 1.0}  # untouched
    assert [line["epoch"] for line in found] == [2, 3]
    for line, expected in zip(found, (SECOND, THIRD), strict=True):
        assert line["learning_rate"] == pytest.approx(expected["learning_rate"])
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert line["auc"] == pytest.approx(expected["auc"], rel=0.02)
        assert line["iou"] == pytest.approx(expected["iou"], rel=0.05)
    assert found[0]["pd"] == pytest.approx(SECOND["pd"], abs=0.05)
    assert found[0]["fa"] == pytest.approx(SECOND["fa"], rel=0.05)


def test_the_checkpoints_of_the_run_are_of_today(continued):
    last, best = (read_checkpoint(continued / name) for name in ("last.pth", "best.pth"))
    assert last["recipe"]["version"] == 3
    assert (last["progress"]["epoch"], last["progress"]["steps"]) == (3, 12)
    assert (best["progress"]["epoch"], best["progress"]["steps"]) == (2, 8)
    assert last["progress"]["best"] == pytest.approx(SECOND["iou"], rel=0.05)


def test_a_run_that_had_nan_as_its_best_score_finds_a_better_one(tiny_data, tmp_path):
    """The first version kept the nan of an epoch without any detection for ever."""
    folder = tmp_path / "Synthetic/DeepPro/run"
    folder.mkdir(parents=True)
    saved = read_checkpoint(STORED)
    save_checkpoint(folder / "last.pth", {**saved, "progress": {**saved["progress"], "best": float("nan")}})
    train.main(flags_of("--resume", folder, "--dataset_dir", tiny_data, "--num_workers", 0, "--epochs", 2))
    assert read_checkpoint(folder / "best.pth")["progress"]["epoch"] == 2


def test_the_stored_checkpoint_is_scored(tiny_data, tmp_path):
    test.main(flags_of("--checkpoint", STORED, "--dataset_dir", tiny_data, "--log_dir", tmp_path))
    (folder,) = (tmp_path / "Synthetic/DeepPro").iterdir()
    evaluation = json.loads((folder / "eval.json").read_text())
    assert evaluation["recipe"]["view"]["frames"] == 8
    assert evaluation["trained_on"] == "Synthetic"
    assert 0.5 < evaluation["scores"][0]["groups"]["all"]["auc"] < 1


def test_its_recipe_means_what_was_typed():
    """--seq_len 8 --patch_size 16 --batch_size 2 --sample_rate 0.12 --epochs 3 --learning_rate 0.05
    --set step_size=1, and --set clip.std=3 --set clip.gray_scale=255, which had no effect without a mean.
    """
    recipe = recipe_from_dict(read_checkpoint(STORED)["recipe"])
    assert recipe.model == {"seq_len": 8}
    view, sampling, optimisation = recipe.view, recipe.sampling, recipe.optimisation
    assert (view.frames, view.key, view.channels, view.padding) == (8, "all", 1, "zeros")
    assert (view.mean, view.std, view.gray_scale) == (None, None, None)
    assert (view.letterbox, view.train_resize, view.test_resize, view.canvas) == (None,) * 4
    assert (sampling.patch, sampling.batch_size, sampling.sample_rate) == (16, 2, 0.12)
    assert (sampling.target_crops, sampling.include_last, sampling.augment) == (0.75, False, ())
    assert (sampling.validation, sampling.holdout) == ("test", 8)
    assert (optimisation.loss, optimisation.loss_options) == ("SoftIoU", {})
    assert (optimisation.epochs, optimisation.learning_rate) == (3, 0.05)
    assert (optimisation.optimizer, optimisation.weight_decay) == ("Adam", 1e-4)
    assert optimisation.optimizer_options == {"beta1": 0.9, "beta2": 0.999}
    assert optimisation.schedule == "step"
    assert optimisation.schedule_options == {"step_size": 1, "lr_decay": 0.7, "min_learning_rate": 1e-5}
    assert (optimisation.ema, optimisation.freeze, optimisation.clip_gradients) == (None, "", None)
    assert (recipe.scoring.paper, recipe.scoring.protocol, recipe.scoring.best) == (
        "DeepPro",
        "published",
        "iou",
    )
    assert (recipe.scoring.threshold, recipe.scoring.match, recipe.scoring.exclude) == (0.5, 1, 4)
    assert (recipe.scoring.validate_every, recipe.runtime.seed) == (1, 0)
