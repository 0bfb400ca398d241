"""What is registered is checked when it is registered, or where its options are known, in one sentence."""

import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
from torch import nn

import loss  # noqa: F401, registers the losses
from dataset import SequenceSet, create_dataset
from dataset.augment import Augmentation
from metrics import create_metric
from metrics.counting import CountingMetric, Figure
from model import create_model
from utils import registry
from utils.errors import UserError
from utils.recipe.fields import MISSING, Facts, as_kind, kinds_of, setting
from utils.recipe.resolve import SETTINGS
from utils.task import task_of

REGISTRIES = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
FIGURE = (Figure("glow", "Glow", 1, ".1f"),)


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """What a test registers is gone after it."""
    for known in REGISTRIES:
        monkeypatch.setattr(known, "_entries", dict(known._entries))
        monkeypatch.setattr(known, "_folded", dict(known._folded))


@dataclass(frozen=True)
class NoMethods:
    by: int = setting(1, "a number", at_least=0, at_most=9)


class NoDataclass:
    decays_all = True

    def make(self, groups, learning_rate): ...


@pytest.mark.parametrize(
    ("register", "part", "message"),
    [
        (
            registry.register_optimizer,
            NoMethods,
            "optimizer 'X': NoMethods lacks make, decays_all; see",
        ),
        (registry.register_optimizer, NoDataclass, r"NoDataclass lacks @dataclass\(frozen=True\) below its"),
        (registry.register_schedule, NoMethods, "schedule 'X': NoMethods lacks rate"),
        (registry.register_augmentation, NoMethods, "NoMethods lacks stage, needs_truth, check"),
        (registry.register_augmentation, type("Plain", (Augmentation,), {}), "Plain lacks @dataclass"),
        (registry.register_dataset, lambda root: None, "lacks the parameter split"),
        (registry.register_dataset, lambda: None, "lacks the parameter root, the parameter split"),
    ],
)
def test_what_a_part_lacks_is_told_where_it_is_registered(register, part, message):
    with pytest.raises(TypeError, match=message):
        register("X")(part)


@pytest.mark.parametrize(
    ("register", "facts", "message"),
    [
        (registry.register_model, {"recipy": {}}, r"model 'X' is registered with recipy={}.*recipe \(dict\)"),
        (registry.register_model, {"recipe": None}, "registered with recipe=None"),
        (registry.register_loss, {"task": 5}, r"loss 'X' is registered with task=5.*task \(str\)"),
        (registry.register_metric, {"takes": "map"}, "metric 'X' is registered with takes='map'.*nothing"),
    ],
)
def test_what_is_said_of_a_part_is_checked_where_it_is_registered(register, facts, message):
    with pytest.raises(TypeError, match=message):
        register("X", **facts)(nn.Identity)


class Small(nn.Module):
    def __init__(self, width: Annotated[int, Facts("channels", at_least=1, at_most=8)] = 2, bias=True):
        super().__init__()
        self.layer = nn.Conv3d(1, width, 1, bias=bias)

    def forward(self, clip):
        return {"logits": self.layer(clip).mean(1)}

    def decode(self, raw):
        return torch.sigmoid(raw["logits"])


def test_a_model_needs_no_recipe_no_names_and_no_task():
    registry.register_model("Small")(Small)
    model = create_model("small", width=3)
    assert (model.recipe, model.rename, model.task, model.options) == ({}, {}, "masks", {"width": 3})
    assert model(torch.zeros(1, 1, 2, 4, 4))["logits"].shape == (1, 2, 4, 4)
    registry.register_model("Other", task="points")(Small)
    with pytest.raises(UserError, match="model Other is registered with task='points'; known: masks, boxes"):
        task_of(registry.MODELS.entry("Other"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"width": 9},
            "option width of model Small cannot be 9: it takes a whole number, at least 1 and at most 8",
        ),
        ({"width": "3"}, "option width of model Small takes a whole number.*, not '3'"),
        ({"bias": 3}, "option bias of model Small takes True or False, not 3"),  # by its default
        ({"wide": 3}, "model Small has no option 'wide'; did you mean width"),
    ],
)
def test_options_say_their_limits_in_the_signature(options, message):
    registry.register_model("Small")(Small)
    with pytest.raises(UserError, match=message):
        create_model("Small", **options)


def test_an_option_without_default_is_asked_for():
    @dataclass(frozen=True)
    class Fixed:
        at: float = setting(MISSING, "the rate", above=0, at_most=1)

        def rate(self, top, epoch, epochs):
            return self.at

    registry.register_schedule("fixed")(Fixed)
    with pytest.raises(UserError, match="schedule fixed needs the option at, which has no default: a number"):
        registry.SCHEDULES.create("fixed")


def metric(**declared) -> type:
    """A metric that declares and counts nothing else."""
    count = {"zero_counts": dict, "update": lambda *_: None, "compute": lambda _: {"glow": 0.0}}
    return type("Glow", (CountingMetric,), {k: v for k, v in {**count, **declared}.items() if v is not None})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (metric(), "the metric Glow does not declare takes, truth, figures"),
        (metric(takes="map", figures=FIGURE), "does not declare truth"),
        (metric(takes="map", truth="mask"), "does not declare figures"),
        (metric(takes="map", truth="mask", figures=FIGURE, zero_counts=None), r"zero_counts\(\)"),
        (metric(takes="map", truth="mask", figures=FIGURE, update=None), r"does not declare update\(\)"),
        (metric(takes="map", truth="mask", figures=FIGURE, compute=None), r"does not declare compute\(\)"),
        (metric(takes="pixels", truth="mask", figures=FIGURE), "declares takes='pixels'; known: map"),
    ],
)
def test_a_metric_with_gaps_is_refused_by_name(part, message):
    registry.register_metric("Glow")(part)
    with pytest.raises(UserError, match=message):
        create_metric("Glow")


@pytest.mark.parametrize(
    ("index", "found"),
    [(lambda root, split: SequenceSet("Y", root, split, ()), "Y"), (lambda root, split: 5, "int")],
)
def test_a_data_set_has_the_name_under_which_it_is_registered(index, found):
    registry.register_dataset("X")(index)
    with pytest.raises(UserError, match=f"data set X is indexed as {found}; give its SequenceSet that name"):
        create_dataset("X", "data")


# ---------------------------------------------------------------- limits


def every_setting() -> dict[str, object]:
    """All keys of a recipe and all options that can be typed, by what the user calls them."""
    found = dict(SETTINGS)
    for known in REGISTRIES:
        if known is not registry.METRICS:  # whose options stand in metrics/protocols.py
            for name in known.names():
                found |= {f"{name}.{key}": option for key, option in known.entry(name).settings.items()}
    return found


def takes_numbers(kind) -> bool:
    return bool({int, float} & {kind, *typing.get_args(kind)}) and typing.get_origin(kind) is not dict


def is_limited(facts: Facts) -> bool:
    low, high = (facts.at_least, facts.above), (facts.at_most, facts.below)
    return bool(facts.choices) or any(n is not None for n in low) and any(n is not None for n in high)


def test_every_number_that_can_be_typed_has_limits_on_both_sides():
    numbers = {n: s for n, s in every_setting().items() if any(map(takes_numbers, kinds_of(s.kind)))}
    del numbers["view.key"]  # whose limit is the length of the clip
    assert len(numbers) > 50
    assert [name for name, known in numbers.items() if not is_limited(known.facts)] == []


def test_every_default_is_one_that_can_be_typed():
    for name, known in every_setting().items():
        if known.default is not MISSING:
            assert known.checked(known.default) == known.default, name


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        (float, 3, True),
        (float, np.float32(3), True),
        (int, np.int64(3), True),
        (int, 3.0, False),
        (int, True, False),
        (float, True, False),
        (float, float("nan"), False),
        (float, float("inf"), False),
        (int, 10**400, False),
        (float, 10**400, False),
        (bool, 1, False),
        (str, 1, False),
        (tuple[float, float], [1, 2.5], True),
        (tuple[float, float], (1, 2, 3), False),
        (tuple[int, ...], (), True),
        (tuple[int, ...], (1, "2"), False),
        (Path, "here", True),
        (Path, 5, False),
    ],
)
def test_what_a_value_is(kind, value, fits):
    assert as_kind(kind, value)[0] is fits
