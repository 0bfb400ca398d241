"""Whole files with wrong things in them: each is refused with the name of the file, and nothing changes."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from tests.toys import RECIPE, registered_toys
from utils.checkpoint import load_weights, read_run, save_checkpoint
from utils.engine.state import TrainState
from utils.errors import UserError
from utils.recipe.resolve import resolve_recipe
from utils.recipe.saved import saved_recipe
from utils.recipe.schema import Recipe
from utils.registry import MODELS
from utils.seed import random_state, set_seed

TYPED = {"ema": 0.9, "momentum": 0.9, "augment": ("flip_rows",), "loss_options.weight": 20.0}


@pytest.fixture(scope="module")
def toys():
    with registered_toys() as watched:
        yield watched


def recipe_of(**typed) -> Recipe:
    return resolve_recipe(RECIPE, "Synthetic", TYPED | typed, "masks")


def state_of(recipe: Recipe, steps: int = 2, seed: int = 0) -> TrainState:
    """A run after a few steps on noise."""
    set_seed(seed)
    state = TrainState(MODELS.create("Toy", **recipe.model), recipe.optimisation)
    for _ in range(steps):
        loss = state.model.train()(torch.randn(1, 1, 4, 8, 8))["logits"].square().mean()
        state.optimizer.zero_grad()
        loss.backward()
        state.step({"loss": loss.item()})
    return state


def content_of(recipe: Recipe, **options) -> dict[str, Any]:
    header = {"model": "Toy", "dataset": "Synthetic", "recipe": recipe.to_dict()}
    return copy.deepcopy({**header, **state_of(recipe, **options).content(), "scores": {"iou": 0.5}})


def is_same(one, other) -> bool:
    """Whether two contents are equal to the bit; tuples and lists count as one."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(is_same(one[k], other[k]) for k in one)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return (type(one) is bool) == (type(other) is bool) and one == other


def restored(path: Path, state: TrainState) -> dict[str, Any]:
    """What a command makes of a checkpoint: its recipe, and the state of the run."""
    saved = read_run(path)
    recipe = saved_recipe(saved["recipe"], path, "remedy")
    state.restore(saved, path)
    return {
        "model": saved["model"],
        "dataset": saved["dataset"],
        "recipe": recipe.to_dict(),
        **state.content(),
    }


# ---------------------------------------------------------------- by seeded mutation

WRONG = (
    None,
    -1,
    3,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "word",
    [],
    [1],
    {},
    {"a": 1},
    True,
    (1, 2),
    [None],
)
TENSORS = (
    torch.ones(2),
    torch.tensor(float("nan")),
    torch.eye(2).to_sparse(),
    torch.empty(2, device="meta"),
    1j * torch.ones(2),
)


def places(content: dict, depth: int = 4) -> Iterator[tuple[dict | list, Any]]:
    """Each entry of a nested content, as the dict or list and its key."""
    for key in list(content) if isinstance(content, dict) else range(min(len(content), 5)):
        yield content, key
        if depth and isinstance(content[key], dict | list):
            yield from places(content[key], depth - 1)


def mutation(content: dict, draw: random.Random) -> str:
    """Change one entry in place; returns what was done."""
    groups: dict[str, list] = {}
    for top in content:
        inner = places(content[top]) if isinstance(content[top], dict | list) else ()
        groups[top] = [(content, top), *inner]
    place, key = draw.choice(groups[draw.choice(list(groups))])
    kind = draw.choice(("remove", "rename", "replace", "spoil"))
    value = place[key]
    if kind == "remove":
        del place[key]
    elif kind == "rename" and isinstance(place, dict):
        place[f"{key}_"] = place.pop(key)
    elif kind == "spoil" and isinstance(value, torch.Tensor) and value.numel():
        spoilt = [value.double(), value[None], value.flatten()[:-1], value.to_sparse(), value * float("nan")]
        place[key] = draw.choice(spoilt)
    else:
        place[key] = draw.choice(draw.choice((WRONG, TENSORS)))
    return f"{kind} {key!r}"


def test_a_checkpoint_with_one_wrong_entry_is_refused_and_changes_nothing(toys, tmp_path):
    recipe, path, draw = recipe_of(), tmp_path / "last.pth", random.Random(0)
    whole = content_of(recipe, seed=1)
    save_checkpoint(path, whole)
    expected = restored(path, state_of(recipe))
    assert is_same({**expected, "scores": whole["scores"]}, whole)
    refused, state, before = 0, state_of(recipe), copy.deepcopy(state_of(recipe, steps=1).content())
    state.restore(before, path)
    for _ in range(200):
        content = copy.deepcopy(whole)
        done = mutation(content, draw)
        save_checkpoint(path, content)
        try:
            found = restored(path, state)
        except UserError as error:
            refused += 1
            assert str(path) in str(error), (done, error)
            assert is_same(state.content(), before), done  # the random generators among it
        else:  # another value of the right kind, or what has a default
            for key in ("model", "dataset", "weights", "trained_weights", "progress", "random"):
                assert is_same(found[key], content[key]), (done, key)
            assert is_same(found["optimizer"]["state"], content["optimizer"]["state"]), done
            state.restore(before, path)
    assert 140 < refused < 200


# ---------------------------------------------------------------- one by one


def put(content: dict, key: str, value: Any) -> None:
    """Replace the entry of a key such as "optimizer.state.0.momentum_buffer"."""
    *path, last = key.split(".")
    for part in path:
        content = content[int(part) if part.isdigit() else part]
    content[last] = value


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model", 3, "last.pth has model = 3 instead of a word; take another checkpoint of this run"),
        ("weights", {"a": 1}, "last.pth has weights = a dict instead of tensors by name"),
        ("progress", None, "last.pth has progress = None instead of entries by name"),
        ("progress.batch", -1, "the progress in .*last.pth has batch = -1 instead of a whole number of at"),
        ("progress.epoch", True, "the progress in .*last.pth has epoch = True instead of a whole number"),
        ("progress.best", "good", "the progress in .*last.pth has best = 'good' instead of a number"),
        ("progress.more", 1, "the progress in .*last.pth has an entry 'more', which this program"),
        ("random.torch", torch.zeros(5, dtype=torch.uint8), "the random state in .*last.pth is none"),
        ("random.python", [3, [1], None], "the random state in .*last.pth is none"),
        ("random.numpy", [torch.zeros(9), 1, 0, 0.0], "the random state in .*last.pth has numpy = "),
        ("optimizer.state", {9: {}}, "the optimizer's state in .*last.pth does not fit parameter 9"),
        ("optimizer.state.0.momentum_buffer", torch.ones(3), "does not fit parameter 0 of the network"),
        ("optimizer.param_groups", [], "has groups of another optimizer or network"),
        ("trained_weights", {}, "last.pth holds the weights of another model or size"),
        ("recipe.view", {"frames": "many"}, "the recipe in .*last.pth cannot be used: .*a whole number"),
        ("recipe.view", {"framse": 4}, "the recipe in .*last.pth cannot be used: .*did you mean view.frames"),
        ("recipe.scoring", None, "the recipe in .*last.pth has scoring = None instead of entries by name"),
        ("recipe.version", 9, "the recipe in .*last.pth cannot be used: the recipe has version 9"),
        ("recipe", {"version": 1}, "the recipe in .*last.pth has no entry 'clip'"),
    ],
)  # fmt: skip
def test_the_sentence_names_the_file_and_the_entry(toys, tmp_path, key, value, said):
    recipe, path = recipe_of(), tmp_path / "last.pth"
    content = content_of(recipe)
    put(content, key, value)
    save_checkpoint(path, content)
    with pytest.raises(UserError, match=said):
        restored(path, state_of(recipe))


@pytest.mark.parametrize(
    "typed",
    [{"optimizer": "AdamW"}, {"optimizer": "Adam", "optimizer_options.beta1": 0.8}, {"optimizer": "SGD"}],
)
def test_the_state_of_another_optimizer_is_refused(toys, tmp_path, typed):
    plain = {key: value for key, value in TYPED.items() if key != "momentum"}
    own, other = (
        resolve_recipe(RECIPE, "Synthetic", plain | t, "masks") for t in ({"optimizer": "Adam"}, typed)
    )
    state = state_of(own)
    content = {**content_of(own), "optimizer": content_of(other)["optimizer"]}
    with pytest.raises(UserError, match="the optimizer's state in last.pth"):
        state.restore(content, "last.pth")
    state.restore(content_of(own), "last.pth")


def test_a_run_with_an_average_needs_both_weights(toys):
    content = content_of(recipe_of(ema=None))
    with pytest.raises(UserError, match="last.pth lacks the weights beside their average"):
        state_of(recipe_of()).restore(content, "last.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(toys, value):
    model = MODELS.create("Toy")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights["norm.running_var"][1] = value
    with pytest.raises(UserError, match="best.pth holds numbers in norm.running_var that are not finite"):
        load_weights(model, weights, "best.pth")
    weights["norm.running_var"] = torch.ones(4, dtype=torch.float64)
    with pytest.raises(
        UserError, match="best.pth holds the weights of another model or size .norm.running_var"
    ):
        load_weights(model, weights, "best.pth")


def test_a_check_leaves_optimizer_and_generators_alone(toys):
    recipe = recipe_of()
    state, other = state_of(recipe), content_of(recipe, seed=3)
    set_seed(5)
    before, drawn = copy.deepcopy(state.content()), random_state()
    state.check(other, "last.pth")
    assert is_same(state.content(), before) and is_same(random_state(), drawn)


def test_a_damaged_run_is_refused_before_any_run_begins(toys, tiny_data, tmp_path, monkeypatch):
    content, folder = content_of(recipe_of()), tmp_path / "run"
    save_checkpoint(folder / "last.pth", {**content, "progress": {}})
    flags = ("--model_names", "Toy", "--dataset_dir", tiny_data, "--resume", folder, "--num_workers", 0)
    monkeypatch.setattr(train.TrainingRun, "run", None)
    with pytest.raises(UserError, match="the progress in .*last.pth has no entry 'epoch'"):
        train.main([str(flag) for flag in (*flags, "--device", "cpu")])
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "last.pth"]
