"""What an optimizer remembers: checked, and brought back."""

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from utils.entries import LIST, Kind, check_entries, is_number, is_tensor
from utils.errors import UserError

NUMBERED = Kind("entries by number", lambda value: isinstance(value, dict))
GROUPS = Kind("a list of groups", lambda value: LIST.fits(value) and all(type(g) is dict for g in value))
LEARNING_RATE, PARAMETERS = "lr", "params"  # of a group; the rest of its numbers come from the recipe
IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}  # they change no number


def check_optimizer_state(optimizer: torch.optim.Optimizer, saved: Any, source: Any, remedy: str) -> None:
    """Raises UserError unless `saved` is a state of just this optimizer, all of it finite.

    torch itself takes states of other shapes and of other optimizers, which go wrong in the next step.
    """
    source = f"the optimizer's state in {source}"
    check_entries(saved, {"state": NUMBERED, "param_groups": GROUPS}, source, remedy)
    groups, own = saved["param_groups"], optimizer.state_dict()["param_groups"]
    if len(groups) != len(own) or not all(map(same_settings, groups, own)):
        raise UserError(f"{source} has groups of another optimizer or network; {remedy}")
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group[PARAMETERS]))
    expected = remembered(optimizer)
    for number, values in saved["state"].items():
        is_known = number in parameters and isinstance(values, dict) and values.keys() == expected.keys()
        if not is_known or not all(expected[key](values[key], parameters[number]) for key in values):
            raise UserError(f"{source} does not fit parameter {number} of the network; {remedy}")


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Bring back what was checked. Of its groups that is the learning rate; the rest is the recipe's."""
    state = optimizer.state_dict()
    pairs = zip(state["param_groups"], saved["param_groups"], strict=True)
    groups = [{**own, LEARNING_RATE: group[LEARNING_RATE]} for own, group in pairs]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def same_settings(saved: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether two groups have the same parameters and numbers; switches of another torch may be missing."""
    if not is_number(saved.get(LEARNING_RATE)):
        return False
    for key in (saved.keys() | own.keys()) - {LEARNING_RATE} - IMPLEMENTATION:
        if key not in saved or key not in own:
            if not isinstance({**saved, **own}[key], bool | None):
                return False
        elif repr(saved[key]) != repr(own[key]):
            return False
    return True


def remembered(optimizer: torch.optim.Optimizer) -> dict[str, Callable[[Any, Tensor], bool]]:
    """For each thing that the optimizer remembers of a parameter: whether a value is such a thing of it.

    Found out by one step with a parameter of its own.
    """
    sample = nn.Parameter(torch.zeros(2, 3))
    sample.grad = torch.zeros(2, 3)
    twin = copy.copy(optimizer)
    twin.state = defaultdict(dict)
    twin.param_groups = [{**optimizer.param_groups[0], PARAMETERS: [sample]}]
    twin.step()

    def check_of(example: Any) -> Callable[[Any, Tensor], bool]:
        if not isinstance(example, Tensor):
            return lambda value, _: type(value) is type(example)
        is_shaped = example.shape == sample.shape
        return lambda value, parameter: (
            is_tensor(value)
            and value.dtype == example.dtype
            and value.shape == (parameter.shape if is_shaped else example.shape)
            and bool(value.isfinite().all())
        )

    return {key: check_of(value) for key, value in twin.state[sample].items()}
