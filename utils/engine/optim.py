"""What trains: parameter groups, the optimizer, frozen parts, and the running average of the weights."""

import copy
import math

import torch
from torch import nn

from utils.errors import UserError
from utils.recipe.schema import Recipe

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam (betas 0.9 and beta2, eps 1e-8) or SGD, over the groups of `recipe.parameter_groups`.

    A parameter that belongs to no group no longer asks for gradients.
    """
    groups = parameter_groups(model, recipe)
    trained = {id(p) for group in groups for p in group["params"]}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    if not trained:
        raise UserError(f"{model.name} has no parameters to train; it can only be tested")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.nesterov)
    return torch.optim.Adam(groups, recipe.learning_rate, betas=(0.9, recipe.beta2))


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """Groups of parameters with their "weight_decay", the empty ones left out.

    all:           one group, which decays with Adam alone (DeepPro's rule)
    no-norm-decay: weights of two and more dimensions decay; norms, biases and other vectors do not
    published:     STMENet's, SMFNet's and SSTNet's: what is called "weight" decays, but not that of 2-D batch
                   norms; what is called "bias" does not; what has another name is not trained at all
    """
    named = [
        (module, name, p) for module in model.modules() for name, p in module.named_parameters(recurse=False)
    ]
    if recipe.parameter_groups == "all":
        groups = [[p for _, _, p in named]]
        decays = [recipe.weight_decay if recipe.optimizer == "adam" else 0.0]
    elif recipe.parameter_groups == "no-norm-decay":
        groups = [[p for _, _, p in named if p.ndim < 2], [p for _, _, p in named if p.ndim >= 2]]
        decays = [0.0, recipe.weight_decay]
    else:
        norms = [p for module, name, p in named if name == "weight" and isinstance(module, nn.BatchNorm2d)]
        weights = [
            p for module, name, p in named if name == "weight" and not isinstance(module, nn.BatchNorm2d)
        ]
        groups = [norms, weights, [p for _, name, p in named if name == "bias"]]
        decays = [0.0, recipe.weight_decay, 0.0]
    return [
        {"params": params, "weight_decay": decay}
        for params, decay in zip(groups, decays, strict=True)
        if params
    ]


def freeze(model: nn.Module, recipe: Recipe, epoch: int) -> None:
    """Leave `recipe.freeze` untrained in the first `recipe.freeze_epochs` epochs; its norms keep counting.

    Raises UserError when the model has no part of that name.
    """
    if not recipe.freeze:
        return
    parts = dict(model.named_modules())
    if recipe.freeze not in parts:
        known = ", ".join(name for name, _ in model.named_children())
        raise UserError(f"{model.name} has no part {recipe.freeze!r} to freeze; known: {known}")
    for parameter in parts[recipe.freeze].parameters():
        parameter.requires_grad_(epoch >= recipe.freeze_epochs)


class AveragedWeights:
    """The exponential moving average of a model's weights and running statistics, in `model`.

    After step u: average = d * average + (1 - d) * weights with d = decay * (1 - exp(-u / 2000)). Integers,
    such as the counters of batch norms, keep their first value. Source: YOLOX, as STMENet and others train.
    """

    ramp = 2000  # steps

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        decay = self.decay * (1 - math.exp(-step / self.ramp))
        pairs = zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        own, new = zip(*[(a, b) for a, b in pairs if a.is_floating_point()], strict=True)
        torch._foreach_mul_(own, decay)
        torch._foreach_add_(own, new, alpha=1 - decay)
