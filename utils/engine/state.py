"""All that a training run is at one moment, and that its checkpoints hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.checkpoint import load_weights
from utils.engine.optim import AveragedWeights, freeze, make_optimizer
from utils.recipe.schema import OptimisationSettings
from utils.seed import random_state, restore_random_state


@dataclass
class Progress:
    """How far a training run has come. Plain numbers, so that a checkpoint can hold them."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the epoch that runs
    steps: int = 0  # optimizer steps of the whole run
    best: float | None = None  # the best validation score so far
    sums: dict[str, float] = field(default_factory=dict)  # of each term of the loss, over those batches

    def add_batch(self, terms: dict[str, float]) -> None:
        """Count one step and its terms of the loss."""
        self.batch, self.steps = self.batch + 1, self.steps + 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def end_epoch(self) -> dict[str, float]:
        """Count the epoch; returns the mean of each term over its batches."""
        means = {name: value / max(self.batch, 1) for name, value in self.sums.items()}
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        return means


class TrainState:
    """Model, averaged weights, optimizer, progress and random generators.

    is_whole: whether all of it is of the same step; not while a step is taken, nor after one that failed
    """

    def __init__(self, model: nn.Module, recipe: OptimisationSettings):
        self.model = model
        self.optimizer = make_optimizer(model, recipe)
        freeze(model, self.optimizer, recipe, epoch=0)  # refuses a part that is not there
        self.average = AveragedWeights(model, recipe.ema) if recipe.ema else None
        self.progress = Progress()
        self.is_whole = True
        self.buffers = list(model.buffers())

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and kept as "weights": the average, where the recipe asks for one."""
        return self.average.model if self.average else self.model

    def to(self, device) -> None:
        """Move the networks; the optimizer's parameters are the model's."""
        self.model.to(device)
        self.buffers = list(self.model.buffers())
        if self.average:
            self.average.model.to(device)

    @contextmanager
    def unchanged_on_error(self) -> Iterator[None]:
        """Where the block fails, running statistics and random generators are what they were before it."""
        before, random = [buffer.clone() for buffer in self.buffers], random_state()
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for buffer, value in zip(self.buffers, before, strict=True):
                    buffer.copy_(value)
            restore_random_state(random)
            raise

    def step(self, terms: dict[str, float]) -> None:
        """The optimizer's step by the gradients, counted and taken into the average.

        terms: of the loss, by name
        """
        self.is_whole = False
        self.optimizer.step()
        self.progress.add_batch(terms)
        if self.average:
            self.average.update(self.model, self.progress.steps)
        self.is_whole = True

    def content(self) -> dict[str, Any]:
        """Tensors and plain values, from which `restore` brings everything back."""
        return {
            "weights": self.evaluated.state_dict(),
            **({"trained_weights": self.model.state_dict()} if self.average else {}),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "random": random_state(),
        }

    def restore(self, saved: dict[str, Any], source: str | Path) -> None:
        """Bring back what `content` gave. Raises UserError where the weights are another model's."""
        weights = saved["weights"]
        if self.average:
            load_weights(self.average.model, weights, source)
            weights = saved["trained_weights"]
        load_weights(self.model, weights, source)
        self.optimizer.load_state_dict(saved["optimizer"])
        progress = dict(saved["progress"])
        if "loss_sum" in progress:  # of the first version, which knew one number per batch
            progress["sums"] = {"loss": progress.pop("loss_sum")}
        self.progress = Progress(**progress)
        restore_random_state(saved["random"])
