"""Recipes: which setting wins, what is refused, the typed form, the learning rate."""

import itertools
import json
import math

import pytest

import loss  # noqa: F401, registers the losses
import model  # noqa: F401, registers the models
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.engine.schedules import create_schedule
from utils.errors import UserError
from utils.recipe.resolve import (
    SETTINGS,
    changes,
    check_effects,
    flat,
    parse_setting,
    recipe_from_dict,
    recipe_with,
    resolve_recipe,
)
from utils.recipe.schema import Recipe
from utils.registry import MODELS

MODEL_RECIPE = {
    "model": {"seq_len": 40},
    "view": {"frames": 40},
    "sampling": {"batch_size": 8, "patch": 128},
    "optimisation": {"epochs": 20},
    "datasets": {"NUDT-MIRSDT": {"sampling": {"batch_size": 2, "sample_rate": 0.03, "patch": 64}}},
}


def test_typed_beats_data_set_beats_model_beats_default():
    recipe = resolve_recipe(MODEL_RECIPE, "nudt_mirsdt", {"sample_rate": 0.5, "view.std": 3, "view.mean": 1})
    assert recipe.optimisation.learning_rate == 1e-3  # the default
    assert (recipe.optimisation.epochs, recipe.view.frames) == (20, 40)  # the model's
    assert (recipe.sampling.batch_size, recipe.sampling.patch) == (2, 64)  # the data set's
    assert (recipe.sampling.sample_rate, recipe.view.std) == (0.5, 3.0)  # typed
    elsewhere = resolve_recipe(MODEL_RECIPE, "IRDST", {})
    assert (elsewhere.sampling.batch_size, elsewhere.sampling.patch) == (8, 128)


def test_the_model_follows_a_typed_clip_length():
    assert resolve_recipe(MODEL_RECIPE, "IRDST", {"view.frames": 20}).model == {"seq_len": 20}
    typed = {"view.frames": 20, "model.seq_len": 10}
    assert resolve_recipe(MODEL_RECIPE, "IRDST", typed).model == {"seq_len": 10}
    assert resolve_recipe({"view": {"frames": 1}}, "IRDST", {"view.frames": 5}).model == {}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epoch", 3, "no key 'epoch'.*epochs"),
        ("clip.frame", 3, "no key 'frame'.*frames"),
        ("view.frame", 3, "no key 'view.frame'.*view.frames"),
        ("loss.alpha", 3, "no key 'loss.alpha'"),
        ("epochs", "3", "epochs takes a whole number, at least 0 and at most 1000000, not '3'"),
        ("epochs", 3.0, "epochs takes a whole number, .*not 3.0"),
        ("epochs", True, "epochs takes a whole number, .*not True"),
        ("epochs", -1, "optimisation.epochs cannot be -1: it takes a whole number, at least 0"),
        ("epochs", None, "epochs takes a whole number, .*not None"),
        ("learning_rate", float("nan"), "learning_rate takes a number, above 0 and at most 1000, not nan"),
        ("learning_rate", 0, "learning_rate cannot be 0"),
        ("include_last", 1, "sampling.include_last takes True or False, not 1"),
        ("train_resize", 256, "train_resize takes two whole numbers .*, at least 1 .*, or None, not 256"),
        ("train_resize", (256, 0), r"view.train_resize cannot be \(256, 0\)"),
        ("patch", 0, "sampling.patch cannot be 0"),
        ("padding", "mirror", "view.padding takes zeros or repeat, not 'mirror'"),
        ("optimizer", "lion", "no optimizer 'lion'; known: Adam, AdamW, SGD"),
        ("schedule", "stepp", "no schedule 'stepp'; did you mean step"),
        ("threshold", 2.0, "scoring.threshold cannot be 2.0"),
        ("threshold", float("inf"), "scoring.threshold takes a number"),
        ("ema", 1.0, "optimisation.ema cannot be 1.0"),
        ("lr_decay", -0.1, "option lr_decay of schedule step cannot be -0.1"),
        ("target_crops", 7.0, "sampling.target_crops cannot be 7.0"),
        ("weight_decay", 1e20, "optimisation.weight_decay cannot be"),
        ("beta2", 2.0, "option beta2 of optimizer Adam cannot be 2.0"),
        ("num_workers", -1, "runtime.num_workers cannot be -1"),
        ("seed", 2**64, "runtime.seed cannot be"),
        ("sample_rate", float("inf"), "sampling.sample_rate takes a number"),
        ("view", 5, "no key 'view'"),
        ("clip", 5, "no key 'clip'"),
    ],
)
def test_a_wrong_key_or_value_says_what_the_recipe_takes(key, value, message):
    with pytest.raises(UserError, match=message):
        resolve_recipe(MODEL_RECIPE, "IRDST", {key: value})


def test_a_recipe_comes_back_from_json_and_from_a_checkpoint(tmp_path):
    typed = {
        "view.train_resize": [256, 192],
        "view.mean": 105,
        "view.std": 25,
        "loss": "HAM",
        "loss_options.alpha": (0.2, 0.8),
        "model.seq_len": 20,
        "schedule": "milestones",
        "milestones": (3, 5),
        "augment": ("flip_rows", "gain(0.3)"),
    }
    recipe = resolve_recipe(MODEL_RECIPE, "NUDT-MIRSDT", typed)
    assert recipe.view.train_resize == (256, 192)
    assert recipe.optimisation.loss_options == {"alpha": (0.2, 0.8)}
    assert recipe.optimisation.schedule_options == {"milestones": (3, 5), "lr_decay": 0.7}
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    save_checkpoint(tmp_path / "last.pth", {"recipe": recipe.to_dict()})
    assert recipe_from_dict(read_checkpoint(tmp_path / "last.pth")["recipe"]) == recipe


def test_every_setting_has_help_and_a_default_that_it_takes():
    for key, setting in SETTINGS.items():
        assert setting.facts.text and setting.takes, key
        assert setting.checked(setting.default) == setting.default, key


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"view.mean": 3.0}, "view.mean and view.std go together"),
        ({"view.gray_scale": 255.0}, "view.gray_scale has no effect without view.mean"),
        ({"momentum": 0.9}, "optimizer Adam has no option 'momentum'"),
        ({"optimizer": "sgd", "beta2": 0.9}, "optimizer SGD has no option 'beta2'"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "nesterov needs a momentum above 0"),
        ({"schedule": "constant", "lr_decay": 0.5}, "schedule constant has no option 'lr_decay'"),
        ({"holdout": 4}, "sampling.holdout has no effect here; it acts where sampling.validation is holdout"),
        ({"neighbours": "position"}, "view.neighbours has no effect"),
        ({"image_resize": "bilinear"}, "view.image_resize has no effect"),
        ({"canvas": 64, "multiple": 8}, "view.multiple has no effect"),
        ({"freeze": "stem"}, "optimisation.freeze has no effect while"),
        ({"freeze_epochs": 2}, "optimisation.freeze_epochs has no effect"),
        ({"optimizer": "sgd", "weight_decay": 1e-3}, "optimisation.weight_decay has no effect"),
        ({"patch": None, "target_crops": 0.5}, "sampling.target_crops has no effect"),
        ({"key": 2, "padding": "repeat"}, "view.padding has no effect"),
    ],
)
def test_a_key_that_the_others_ignore_is_refused(typed, message):
    with pytest.raises(UserError, match=message):
        resolve_recipe(MODEL_RECIPE, "IRDST", typed)


@pytest.mark.parametrize(
    ("typed", "task"), [({"labels": "published"}, "masks"), ({"column_quirk": True}, "boxes")]
)
def test_a_key_of_the_other_task_is_refused(typed, task):
    recipe = {"view": {"letterbox": 64, "frames": 5, "key": 2}}
    with pytest.raises(UserError, match=f"has no effect on a model of {task}"):
        resolve_recipe(recipe, "IRDST", typed, task)
    resolve_recipe(recipe, "IRDST", typed, {"masks": "boxes", "boxes": "masks"}[task])


def test_another_choice_keeps_the_options_that_it_shares():
    rprnet = MODELS.entry("RPRNet").facts["recipe"]
    chosen = resolve_recipe(rprnet, "", {"schedule": "warmup-cosine"}).optimisation
    assert chosen.schedule_options == {"warmup_epochs": 10, "min_learning_rate": 1e-6}
    chosen = resolve_recipe(rprnet, "", {"schedule": "step"}).optimisation
    assert chosen.schedule_options == {"step_size": 10, "lr_decay": 0.7, "min_learning_rate": 1e-6}
    dnanet = MODELS.entry("DNANet").facts["recipe"]
    assert resolve_recipe(dnanet, "", {}).optimisation.loss_options == {
        "smooth": 1.0,
        "over": "batch",
        "sides": True,
    }
    assert resolve_recipe(dnanet, "", {"loss": "SLSIoU"}).optimisation.loss_options == {"sides": True}
    assert resolve_recipe(dnanet, "", {"loss": "BCE"}).optimisation.loss_options == {}


def test_names_may_be_typed_without_their_part_and_by_their_old_part():
    for key in ("view.padding", "padding", "clip.padding"):
        assert resolve_recipe(MODEL_RECIPE, "", {key: "repeat"}).view.padding == "repeat"
    for key in ("optimisation.schedule_options.step_size", "schedule_options.step_size", "step_size"):
        assert resolve_recipe(MODEL_RECIPE, "", {key: 3}).optimisation.schedule_options["step_size"] == 3
    old = {"clip.crop": 192, "clip.flips": True, "clip.gain": 0.5, "clip.drift": 10, "clip.target_crops": 0.6}
    assert resolve_recipe({"view": {"letterbox": 512}}, "", old).sampling.augment == (
        *("gain(0.5)", "flip_columns", "flip_rows"),
        "crop(192, drift=10, target_chance=0.6)",
    )


def test_what_resume_may_change():
    recipe = resolve_recipe(MODEL_RECIPE, "IRDST", {"seed": 3})
    typed = {"epochs": 30, "num_workers": 0, "device": "cpu", "seed": 3}
    assert changes(recipe, typed) == {}
    changed = recipe_with(recipe, typed)
    assert (changed.optimisation.epochs, changed.runtime.num_workers, changed.runtime.device) == (
        30,
        0,
        "cpu",
    )
    assert changes(recipe, {"seed": 4, "batch_size": 8, "patch": 64}) == {
        "runtime.seed": (3, 4),
        "sampling.patch": (128, 64),
    }


# ---- recipes of version 1 ----


VERSION_1 = {
    "model": {"seq_len": 8},
    "clip": {
        "frames": 8,
        "key": "all",
        "neighbours": "number",
        "channels": 1,
        "letterbox": None,
        "patch": 16,
        "target_crops": 0.75,
        "crop": None,
        "flips": False,
        "drift": 0,
        "gain": 0.0,
        "train_resize": None,
        "test_resize": [64, 72],
        "image_resize": "bicubic",
        "mask_resize": "nearest",
        "canvas": None,
        "multiple": 32,
        "augment": ["flip_rows", "targets"],
        "padding": "repeat",
        "include_last": True,
        "gray_scale": 255.0,
        "mean": None,
        "std": 2.0,
        "target": "masks",
        "labels": "float",
        "box_restore": "exact",
        "column_quirk": False,
    },
    "loss": "HAM",
    "loss_options": {"alpha": [0.2, 0.8]},
    "epochs": 3,
    "batch_size": 2,
    "sample_rate": 0.12,
    "optimizer": "adam",
    "learning_rate": 0.05,
    "weight_decay": 1e-4,
    "beta2": 0.99,
    "momentum": 0.9,
    "nesterov": False,
    "parameter_groups": "all",
    "ema": None,
    "freeze": "stem",
    "freeze_epochs": 0,
    "schedule": "step",
    "step_size": 1,
    "milestones": [],
    "lr_decay": 0.7,
    "warmup_epochs": 10,
    "min_learning_rate": 1e-5,
    "validation": "holdout",
    "holdout": 3,
    "best": "iou",
    "protocol": "published",
    "scoring": "TSMSA",
    "threshold": 0.5,
    "match": 2,
    "exclude": 5,
    "seed": 7,
}


def test_a_recipe_of_version_1_means_the_same():
    """What had no effect then, such as a std without a mean, has none now."""
    recipe = recipe_from_dict(VERSION_1)
    view, sampling, optimisation, scoring = (
        getattr(recipe, part) for part in ("view", "sampling", "optimisation", "scoring")
    )
    assert recipe.model == {"seq_len": 8}
    assert (view.frames, view.test_resize, view.mask_resize, view.multiple) == (8, (64, 72), "nearest", 32)
    assert (view.padding, view.mean, view.std, view.gray_scale) == ("repeat", None, None, None)
    assert (sampling.patch, sampling.include_last, sampling.augment) == (16, True, ("flip_rows", "clones"))
    assert (sampling.batch_size, sampling.sample_rate) == (2, 0.12)
    assert (sampling.validation, sampling.holdout) == ("holdout", 3)
    assert (optimisation.loss, optimisation.loss_options) == ("HAM", {"alpha": (0.2, 0.8)})
    assert optimisation.optimizer_options == {"beta1": 0.9, "beta2": 0.99}
    assert optimisation.schedule_options == {"step_size": 1, "lr_decay": 0.7, "min_learning_rate": 1e-5}
    assert (optimisation.epochs, optimisation.learning_rate, optimisation.freeze) == (3, 0.05, "")
    assert (scoring.paper, scoring.best, scoring.match, scoring.exclude) == ("TSMSA", "iou", 2, 5)
    assert recipe.runtime.seed == 7


def test_boxes_of_version_1_keep_their_augmentations():
    clip = {
        **VERSION_1["clip"],
        "test_resize": None,
        "letterbox": 64,
        "key": 4,
        "target": "boxes",
        "patch": None,
    }
    clip |= {"augment": [], "crop": 32, "flips": True, "drift": 3, "gain": 0.4, "target_crops": 0.6}
    recipe = recipe_from_dict({**VERSION_1, "clip": clip, "optimizer": "sgd", "nesterov": True, "ema": 0.5})
    assert recipe.sampling.augment == (
        *("gain(0.4)", "flip_columns", "flip_rows"),
        "crop(32, drift=3, target_chance=0.6)",
    )
    assert recipe.optimisation.optimizer_options == {"momentum": 0.9, "nesterov": True}
    assert recipe.optimisation.ema == 0.5


def test_a_recipe_of_a_later_version_is_refused():
    with pytest.raises(UserError, match="has version 4, this program knows up to 3"):
        recipe_from_dict({**Recipe().to_dict(), "version": 4})


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("view.frames=5", ("view.frames", 5)),
        ("learning_rate=1e-4", ("learning_rate", 1e-4)),
        ("view.train_resize=(256,256)", ("view.train_resize", (256, 256))),
        ("patch=None", ("patch", None)),
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


def rates(typed: dict, epochs) -> list[float]:
    """The learning rates of a recipe's epochs."""
    recipe = resolve_recipe({}, "", typed).optimisation
    schedule = create_schedule(recipe.schedule, **recipe.schedule_options)
    return [schedule.rate(recipe.learning_rate, epoch, recipe.epochs) for epoch in epochs]


def test_the_published_learning_rate_schedule():
    """Times 0.7 every 10 epochs, not below 1e-5."""
    assert rates({}, (0, 9, 10, 31)) == pytest.approx([1e-3, 1e-3, 7e-4, 3.43e-4])
    assert rates({}, (1000,)) == [1e-5]
    assert rates({"schedule": "constant"}, (1000,)) == [1e-3]


def test_milestones_count_finished_epochs():
    typed = {"schedule": "milestones", "milestones": (2, 3), "lr_decay": 0.1}
    assert rates(typed, range(5)) == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-5])


def test_the_published_schedule_of_rprnet():
    """The description's formula; the first epoch does not train, the last ends at 3.4e-6."""
    recipe = resolve_recipe(MODELS.entry("RPRNet").facts["recipe"], "NUDT-MIRSDT", {})
    optimisation = recipe.optimisation
    schedule = create_schedule(optimisation.schedule, **optimisation.schedule_options)
    found = [schedule.rate(optimisation.learning_rate, epoch, optimisation.epochs) for epoch in range(30)]
    assert found[:11] == pytest.approx([1e-4 * epoch / 10 for epoch in range(11)])
    assert found[11:] == pytest.approx(
        [1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi * (epoch - 11) / 20)) / 2 for epoch in range(11, 30)]
    )
    assert found[0] == 0
    assert found[29] == pytest.approx(3.4e-6, rel=0.02)
    sampling = recipe.sampling
    assert (optimisation.epochs, sampling.batch_size, sampling.sample_rate) == (30, 2, 1.0)
    assert recipe.runtime.seed == 42


def test_a_warm_up_that_trains_from_the_first_epoch():
    typed = {"schedule": "warmup-cosine", "epochs": 30, "learning_rate": 1e-4, "min_learning_rate": 1e-6}
    found = rates(typed, range(31))
    assert found[:10] == pytest.approx([1e-5 * (epoch + 1) for epoch in range(10)])
    assert found[10] == pytest.approx(1e-4)
    assert all(a > b > 1e-6 for a, b in itertools.pairwise(found[10:30]))
    assert found[30] == pytest.approx(1e-6)
    short = {"schedule": "warmup-cosine", "epochs": 3, "learning_rate": 1e-4}
    assert rates(short, range(3)) == pytest.approx([1e-5, 2e-5, 3e-5])


def test_the_patch_of_a_letterboxed_model_is_its_letterbox():
    recipe = resolve_recipe({"view": {"letterbox": 256}}, "IRDST", {"patch": 64})
    assert (recipe.view.letterbox, recipe.sampling.patch) == (64, None)
    both = resolve_recipe({"view": {"letterbox": 256}}, "IRDST", {"patch": 64, "letterbox": 128})
    assert (both.view.letterbox, both.sampling.patch) == (128, 64)


@pytest.mark.parametrize(("key", "saved"), [("all", "all"), (2, 2)])
def test_a_saved_recipe_keeps_its_key_frame(key, saved):
    recipe = resolve_recipe({"view": {"frames": 6, "key": key}}, "IRDST", {})
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))).view.key == saved


@pytest.mark.parametrize("key", [-1, 6, "middle", True])
def test_a_key_frame_outside_its_clip_is_refused(key):
    with pytest.raises(UserError, match=r"view\.key"):
        resolve_recipe({"view": {"frames": 6}}, "IRDST", {"key": key})


@pytest.mark.parametrize("name", MODELS.names())
def test_each_model_recipe_is_one_that_its_user_could_type(name):
    """Every key of every data set acts, so that none is a leftover."""
    facts = MODELS.entry(name).facts
    for dataset in ("", *facts["recipe"].get("datasets", {})):
        recipe = resolve_recipe(facts["recipe"], dataset, {})
        layer = facts["recipe"].get("datasets", {}).get(dataset, {})
        typed = flat({k: v for k, v in facts["recipe"].items() if k != "datasets"}) | flat(layer)
        check_effects(recipe, typed, facts.get("task", "masks"))
