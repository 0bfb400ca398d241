"""What trains: optimizers by name, parameter groups, frozen parts, and the running average of the weights."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from utils.errors import UserError
from utils.recipe.fields import setting
from utils.recipe.schema import OptimisationSettings
from utils.registry import OPTIMIZERS, register_optimizer

Groups = list[dict]  # of parameters with their "weight_decay"


@register_optimizer("Adam")
@dataclass(frozen=True)
class Adam:
    """Adam, eps 1e-8; the weight decay is added to the gradient."""

    beta1: float = setting(0.9, "decay of the mean gradient", at_least=0, below=1)
    beta2: float = setting(0.999, "decay of the mean squared gradient", at_least=0, below=1)

    decays_all = True  # parameters of the one group "all"

    def make(self, groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, learning_rate, betas=(self.beta1, self.beta2))


@register_optimizer("AdamW")
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with the weight decay apart from the gradient."""

    def make(self, groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, learning_rate, betas=(self.beta1, self.beta2))


@register_optimizer("SGD")
@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum."""

    momentum: float = setting(0.9, "decay of the velocity", at_least=0, below=1)
    nesterov: bool = setting(False, "look ahead by the velocity; needs a momentum")

    decays_all = False

    def __post_init__(self):
        if self.nesterov and not self.momentum:
            raise UserError(
                "optimizer SGD with nesterov needs a momentum above 0; set optimizer_options.momentum"
            )

    def make(self, groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, learning_rate, self.momentum, nesterov=self.nesterov)


def make_optimizer(model: nn.Module, recipe: OptimisationSettings) -> torch.optim.Optimizer:
    """The recipe's optimizer over the groups of `recipe.parameter_groups`.

    A parameter that belongs to no group no longer requires a gradient. Raises UserError for a model without
    parameters and for an unknown optimizer.
    """
    chosen = OPTIMIZERS.create(recipe.optimizer, **recipe.optimizer_options)
    groups = parameter_groups(model, recipe, chosen.decays_all)
    trained = {id(p) for group in groups for p in group["params"]}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    if not trained:
        raise UserError(f"{model.name} has no parameters to train; it can only be tested")
    return chosen.make(groups, recipe.learning_rate)


def parameter_groups(model: nn.Module, recipe: OptimisationSettings, decays_all: bool = True) -> Groups:
    """Groups of parameters with their "weight_decay", the empty ones left out.

    all:           one group, which decays where `decays_all` (DeepPro's rule: with Adam, not with SGD)
    no-norm-decay: weights of two and more dimensions decay; norms, biases and other vectors do not
    published:     STMENet's, SMFNet's and SSTNet's: what is called "weight" decays, but not that of 2-D batch
                   norms; what is called "bias" does not; what has another name is not trained at all
    """
    named = [
        (module, name, p) for module in model.modules() for name, p in module.named_parameters(recurse=False)
    ]
    if recipe.parameter_groups == "all":
        groups = [[p for _, _, p in named]]
        decays = [recipe.weight_decay if decays_all else 0.0]
    elif recipe.parameter_groups == "no-norm-decay":
        groups = [[p for _, _, p in named if p.ndim < 2], [p for _, _, p in named if p.ndim >= 2]]
        decays = [0.0, recipe.weight_decay]
    else:  # "published"; the schema refuses other words
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


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def freeze(
    model: nn.Module, optimizer: torch.optim.Optimizer, recipe: OptimisationSettings, epoch: int
) -> None:
    """Leave `recipe.freeze` untrained in the first `recipe.freeze_epochs` epochs; its norms keep counting.

    Afterwards those of its parameters are trained that the optimizer holds. Raises UserError when the model
    has no part of that name.
    """
    if not recipe.freeze:
        return
    parts = dict(model.named_modules())
    if recipe.freeze not in parts:
        known = ", ".join(name for name, _ in model.named_children())
        raise UserError(f"{model.name} has no part {recipe.freeze!r} to freeze; known: {known}")
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in parts[recipe.freeze].parameters():
        parameter.requires_grad_(epoch >= recipe.freeze_epochs and id(parameter) in trained)


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
        """Take in the weights after step `step` of the whole run, counted from 1."""
        decay = self.decay * (1 - math.exp(-step / self.ramp))
        pairs = zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        own, new = zip(*[(a, b) for a, b in pairs if a.is_floating_point()], strict=True)
        torch._foreach_mul_(own, decay)
        torch._foreach_add_(own, new, alpha=1 - decay)
