"""Where and in which precision a run is computed, and the dry run that comes before it."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from parity import fill
from recipes import recipe_of, video_of
from torch import nn

from dataset import create_dataset
from model import create_model, list_models
from utils.engine.dry_run import dry_run
from utils.engine.loop import train_step
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime
from utils.engine.state import TrainState
from utils.errors import UserError
from utils.recipe.fields import options_of
from utils.recipe.resolve import resolve_recipe
from utils.recipe.schema import OptimisationSettings
from utils.registry import MODELS
from utils.task import TASKS, task_of

CPU = torch.device("cpu")
NARROW = Runtime(CPU, torch.bfloat16)


class Dots(nn.Module):
    """A convolution that notes in what it was computed, and in what losses and decoding got it."""

    name = "Dots"

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 1, (1, 3, 3), padding=(0, 1, 1))
        self.computed, self.given = [], []

    def forward(self, clip):
        logits = self.conv(clip)[:, 0]
        self.computed.append(logits.dtype)
        return {"logits": logits, "more": [logits]}

    def decode(self, raw):
        self.given.append(raw["logits"].dtype)
        return torch.sigmoid(raw["logits"])


@pytest.fixture
def dots():
    model = Dots()
    fill(model, seed=1)
    return model


def maps_of(model, runtime, data):
    video = video_of(data[0], data, frames=8)
    return np.stack([p.map for _, p in predict_video(model, TASKS["masks"], runtime, 0.5, video)])


def test_a_network_is_computed_in_the_dtype_and_decoded_in_float32(dots, tiny_data):
    data = create_dataset("Synthetic", tiny_data, "test")
    whole, narrow = maps_of(dots, Runtime(CPU), data), maps_of(dots, NARROW, data)
    windows = len(dots.computed) // 2
    assert dots.computed == [torch.float32] * windows + [torch.bfloat16] * windows
    assert set(dots.given) == {torch.float32}
    assert whole.dtype == narrow.dtype == np.float32
    difference = np.abs(narrow - whole).max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize("value", [float("nan"), -0.5, 2.0])
def test_what_is_no_probability_is_told_instead_of_scored(dots, tiny_data, value):
    """No metric would notice: nan is not above any threshold."""
    dots.decode = lambda raw: torch.full_like(raw["logits"], value)
    data = create_dataset("Synthetic", tiny_data, "test")
    said = f"the network predicts values from {value:g} to {value:g}, .*, in frame 1 of {data[0].name}"
    with pytest.raises(UserError, match=said):
        maps_of(dots, Runtime(CPU), data)


def test_a_step_is_computed_in_the_dtype_with_weights_and_loss_in_float32(dots):
    seen = []

    def loss(raw, target):
        seen.extend([raw["logits"].dtype, raw["more"][0].dtype])
        return {"loss": (raw["logits"] - target).square().mean()}

    draw = torch.Generator().manual_seed(0)
    batch = {"clip": torch.randn(2, 1, 3, 8, 8, generator=draw), "target": torch.ones(2, 3, 8, 8), "name": []}
    other = copy.deepcopy(dots)
    for model, runtime in ((dots, NARROW), (other, Runtime(CPU))):
        train_step(TrainState(model, OptimisationSettings()), loss, batch, runtime)
    assert (dots.computed, other.computed) == ([torch.bfloat16], [torch.float32])
    assert set(seen) == {torch.float32}
    assert dots.conv.weight.dtype == torch.float32
    torch.testing.assert_close(dots.conv.weight, other.conv.weight, rtol=0, atol=3e-3)


def test_float32_is_left_as_it_is():
    raw = {"head": [torch.zeros(2), torch.zeros(1, dtype=torch.float64)]}
    widened = Runtime(CPU).widened(raw)
    assert all(a is b for a, b in zip(widened["head"], raw["head"], strict=True))


# ---------------------------------------------------------------- dry run


@pytest.mark.parametrize("name", list_models())
def test_each_model_passes_with_its_own_view_and_draws_nothing(name):
    model = create_model(name)
    view = resolve_recipe(model.recipe, "", {}).view
    torch.manual_seed(3)
    before = torch.get_rng_state()
    dry_run(lambda: create_model(name), TASKS[model.task], view, (64, 96))
    assert torch.equal(torch.get_rng_state(), before)


def other_values() -> list[tuple[str, str, Any]]:
    """(model, option, a value that is not its default), of options that say what they take."""
    found = []
    for name in list_models():
        for option, setting in options_of(MODELS.entry(name).build).items():
            facts, default = setting.facts, setting.default
            values = [choice for choice in facts.choices if choice != default]
            if isinstance(default, bool):
                values = [not default]
            elif facts.limits:
                least = facts.at_least if facts.at_least is not None else facts.above
                values = [least if facts.allow(least) else least + 0.01]
                values = [(value,) for value in values] if isinstance(default, tuple) else values
            found += [(name, option, value) for value in values]
    return found


@pytest.mark.parametrize(("name", "option", "value"), other_values())
def test_each_option_of_a_model_passes(name, option, value):
    entry = MODELS.entry(name)
    view = resolve_recipe(entry.facts["recipe"], "", {}).view
    if option == "seq_len":
        view = replace(view, frames=value)
    dry_run(lambda: create_model(name, **{option: value}), task_of(entry), view, (64, 96))


def test_options_of_every_kind_are_among_them():
    found = {(name, option) for name, option, _ in other_values()}
    few = {("STMENet", "objectness_prior"), ("SSTNet", "init"), ("TSMSA", "motion"), ("TopHat", "size")}
    assert few <= found


@pytest.mark.parametrize(
    ("name", "settings", "size", "sentence"),
    [
        ("DeepPro", {"frames": 39}, (32, 32), "DeepPro takes clips"),
        ("DeepPro", {"frames": 40, "key": 0}, (32, 32), "predicts 40 frames of 32x32 .* wants 1 of 32x32"),
        ("RPRNet", {"frames": 6, "channels": 3, "key": "all"}, (32, 32), "predicts 1 frames .* wants 6"),
        ("TopHat", {"frames": 2, "channels": 3}, (32, 32), "set view.channels to 1"),
        ("STMENet", {"frames": 5, "channels": 3, "key": 4}, (32, 40), "multiples of 32"),
    ],
)
def test_what_does_not_fit_is_refused(name, settings, size, sentence):
    task = TASKS[create_model(name).task]
    with pytest.raises(UserError, match=sentence):
        dry_run(lambda: create_model(name), task, recipe_of(**settings).view, size)
