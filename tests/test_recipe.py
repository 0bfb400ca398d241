"""Recipes: which setting wins, what is refused, the typed form, the learning rate."""

import itertools
import json
import math

import pytest

import model  # noqa: F401, registers the models
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.recipe.schema import Recipe, parse_setting, recipe_from_dict, resolve_recipe
from utils.registry import MODELS

MODEL_RECIPE = {
    "epochs": 20,
    "batch_size": 8,
    "model": {"seq_len": 40},
    "clip": {"frames": 40, "patch": 128},
    "datasets": {"NUDT-MIRSDT": {"batch_size": 2, "sample_rate": 0.03, "clip": {"patch": 64}}},
}


def test_typed_beats_data_set_beats_model_beats_default():
    recipe = resolve_recipe(MODEL_RECIPE, "nudt_mirsdt", {"sample_rate": 0.5, "clip.std": 3})
    assert recipe.learning_rate == Recipe().learning_rate  # the default
    assert (recipe.epochs, recipe.clip.frames) == (20, 40)  # the model's
    assert (recipe.batch_size, recipe.clip.patch) == (2, 64)  # the data set's
    assert (recipe.sample_rate, recipe.clip.std) == (0.5, 3.0)  # typed
    elsewhere = resolve_recipe(MODEL_RECIPE, "IRDST", {})
    assert (elsewhere.batch_size, elsewhere.clip.patch) == (8, 128)


def test_the_model_follows_a_typed_clip_length():
    assert resolve_recipe(MODEL_RECIPE, "IRDST", {"clip.frames": 20}).model == {"seq_len": 20}
    typed = {"clip.frames": 20, "model.seq_len": 10}
    assert resolve_recipe(MODEL_RECIPE, "IRDST", typed).model == {"seq_len": 10}
    assert resolve_recipe({"clip": {"frames": 1}}, "IRDST", {"clip.frames": 5}).model == {}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epoch", 3, "no key 'epoch'.*epochs"),
        ("clip.frame", 3, "no key 'clip.frame'.*clip.frames"),
        ("loss.alpha", 3, "no key 'loss.alpha'"),
        ("epochs", "3", "epochs takes a whole number, not '3'"),
        ("epochs", 3.0, "epochs takes a whole number, not 3.0"),
        ("epochs", True, "epochs takes a whole number, not True"),
        ("epochs", -1, "epochs cannot be -1"),
        ("epochs", None, "epochs takes a whole number, not None"),
        ("learning_rate", float("nan"), "learning_rate takes a number, not nan"),
        ("learning_rate", 0, "learning_rate cannot be 0"),
        ("clip.include_last", 1, "clip.include_last takes True or False, not 1"),
        ("clip.train_resize", 256, r"clip.train_resize takes two whole numbers .* or None, not 256"),
        ("clip.train_resize", (256, 0), "clip.train_resize takes two whole numbers"),
        ("clip.patch", 0, "clip.patch cannot be 0"),
        ("optimizer", "lion", "optimizer takes adam or sgd, not 'lion'"),
        ("clip", 5, "no key 'clip'"),
    ],
)
def test_a_wrong_key_or_value_says_what_the_recipe_takes(key, value, message):
    with pytest.raises(UserError, match=message):
        resolve_recipe(MODEL_RECIPE, "IRDST", {key: value})


def test_a_recipe_comes_back_from_json_and_from_a_checkpoint(tmp_path):
    typed = {
        "clip.train_resize": [256, 192],
        "clip.mean": 105,
        "loss": "HAM",
        "loss_options.alpha": (0.2, 0.8),
        "model.seq_len": 20,
    }
    recipe = resolve_recipe(MODEL_RECIPE, "NUDT-MIRSDT", typed)
    assert recipe.clip.train_resize == (256, 192)
    assert recipe.loss_options == {"alpha": (0.2, 0.8)}
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    save_checkpoint(tmp_path / "last.pth", {"recipe": recipe.to_dict()})
    assert recipe_from_dict(read_checkpoint(tmp_path / "last.pth")["recipe"]) == recipe


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("clip.frames=5", ("clip.frames", 5)),
        ("learning_rate=1e-4", ("learning_rate", 1e-4)),
        ("clip.train_resize=(256,256)", ("clip.train_resize", (256, 256))),
        ("clip.patch=None", ("clip.patch", None)),
        ("schedule=constant", ("schedule", "constant")),
        ("loss=a=b", ("loss", "a=b")),
    ],
)
def test_settings_are_python_literals_or_words(text, setting):
    assert parse_setting(text) == setting


@pytest.mark.parametrize("text", ["epochs", "=3", ""])
def test_a_setting_without_key_or_value_is_a_user_error(text):
    with pytest.raises(UserError, match="key=value"):
        parse_setting(text)


def test_the_published_learning_rate_schedule():
    """Times 0.7 every 10 epochs, not below 1e-5."""
    recipe = Recipe()
    assert [recipe.learning_rate_at(e) for e in (0, 9, 10, 31)] == pytest.approx([1e-3, 1e-3, 7e-4, 3.43e-4])
    assert recipe.learning_rate_at(1000) == 1e-5
    assert Recipe(schedule="constant").learning_rate_at(1000) == 1e-3


def test_the_published_schedule_of_rprnet():
    """The description's formula; the first epoch does not train, the last ends at 3.4e-6."""
    recipe = resolve_recipe(MODELS.entry("RPRNet").facts["recipe"], "NUDT-MIRSDT", {})
    rates = [recipe.learning_rate_at(epoch) for epoch in range(30)]
    assert rates[:11] == pytest.approx([1e-4 * epoch / 10 for epoch in range(11)])
    assert rates[11:] == pytest.approx(
        [1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi * (epoch - 11) / 20)) / 2 for epoch in range(11, 30)]
    )
    assert rates[0] == 0
    assert rates[29] == pytest.approx(3.4e-6, rel=0.02)
    assert (recipe.epochs, recipe.batch_size, recipe.sample_rate, recipe.seed) == (30, 2, 1.0, 42)


def test_a_warm_up_that_trains_from_the_first_epoch():
    recipe = Recipe(schedule="warmup-cosine", epochs=30, learning_rate=1e-4, min_learning_rate=1e-6)
    rates = [recipe.learning_rate_at(epoch) for epoch in range(30)]
    assert rates[:10] == pytest.approx([1e-5 * (epoch + 1) for epoch in range(10)])
    assert rates[10] == pytest.approx(1e-4)
    assert all(a > b > 1e-6 for a, b in itertools.pairwise(rates[10:]))
    assert recipe.learning_rate_at(30) == pytest.approx(1e-6)
    short = Recipe(schedule="warmup-cosine", epochs=3, learning_rate=1e-4)
    assert [short.learning_rate_at(epoch) for epoch in range(3)] == pytest.approx([1e-5, 2e-5, 3e-5])


def test_the_patch_of_a_letterboxed_model_is_its_letterbox():
    recipe = resolve_recipe({"clip": {"letterbox": 256}}, "IRDST", {"clip.patch": 64})
    assert (recipe.clip.letterbox, recipe.clip.patch) == (64, None)
    with pytest.raises(UserError, match=r"clip\.letterbox fits whole frames"):
        resolve_recipe({"clip": {"letterbox": 256}}, "IRDST", {"clip.patch": 64, "clip.letterbox": 128})


@pytest.mark.parametrize(("key", "saved"), [("all", "all"), (2, 2)])
def test_a_saved_recipe_keeps_its_key_frame(key, saved):
    recipe = resolve_recipe({"clip": {"frames": 6, "key": key}}, "IRDST", {})
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))).clip.key == saved
