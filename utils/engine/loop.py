"""The training loop and the evaluation loop. Neither knows a model, data set, loss or metric by name."""

import math
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from utils.errors import UserError
from utils.recipe.schema import Recipe


@dataclass
class Progress:
    """How far a training run has come. Plain numbers, so that a checkpoint can hold them."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the epoch that runs
    loss_sum: float = 0.0  # over those batches
    steps: int = 0  # optimizer steps of the whole run
    best: float | None = None  # the best validation score so far


class Stopped(Exception):
    """The user asked for an end; everything up to the last finished batch is saved."""


class StopRequest:
    """Inside `with`, Ctrl-C and SIGTERM only set `asked`; a second Ctrl-C ends the program at once."""

    def __init__(self):
        self.asked = False

    def __enter__(self):
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_):
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("stopping at the next save; press Ctrl-C again to end at once", file=sys.stderr)


def train_step(model, loss, optimizer, batch: dict[str, Any], device: torch.device) -> float:
    """One optimizer step. A loss or gradient that is not finite raises UserError, the weights unchanged."""
    clip, target = (to_device(batch[k], device) for k in ("clip", "target"))
    value = loss(model(clip), target)["loss"]
    number = value.item()
    check_finite("loss", number, batch)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    check_finite("gradient", nn.utils.get_total_norm(gradients).item(), batch)
    optimizer.step()
    return number


def to_device(value: torch.Tensor | list[torch.Tensor], device: torch.device) -> Any:
    """A tensor, or a list of them, on the device."""
    if isinstance(value, list):
        return [to_device(v, device) for v in value]
    return value.to(device, non_blocking=True)


def check_finite(what: str, number: float, batch: dict[str, Any]) -> None:
    if not math.isfinite(number):
        raise UserError(
            f"the {what} is {number} on the batch {', '.join(batch['name'])}; look at these frames or start "
            "a new run with a lower --learning_rate"
        )


def fit(
    model: nn.Module,
    loss: Callable,
    optimizer: torch.optim.Optimizer,
    loader: Iterable,
    recipe: Recipe,
    progress: Progress,
    device: torch.device,
    before_epoch: Callable[[int], None],
    after_batch: Callable[[float], None],
    after_epoch: Callable[[float, float], None],
) -> None:
    """Train until recipe.epochs are done, continuing from `progress`.

    loader:       serves the batches of the epoch that its batch_sampler's `epoch` and `start` say
    before_epoch: called with the number of the epoch, from 0, that begins or goes on
    after_batch:  called with the loss of each batch; may raise Stopped
    after_epoch:  called with the epoch's mean loss and learning rate
    """
    for epoch in range(progress.epoch, recipe.epochs):
        rate = recipe.learning_rate_at(epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loader.batch_sampler.epoch, loader.batch_sampler.start = epoch, progress.batch
        model.train()
        before_epoch(epoch)
        title = f"epoch {epoch + 1}/{recipe.epochs}"
        with tqdm(loader, title, unit="batch", initial=progress.batch, leave=False, disable=None) as bar:
            bar.total = progress.batch + len(loader)
            for batch in bar:
                value = train_step(model, loss, optimizer, batch, device)
                progress.batch, progress.steps = progress.batch + 1, progress.steps + 1
                progress.loss_sum += value
                bar.set_postfix(loss=f"{value:.4f}", refresh=False)
                after_batch(value)
        mean_loss = progress.loss_sum / max(progress.batch, 1)
        progress.epoch, progress.batch, progress.loss_sum = epoch + 1, 0, 0.0
        after_epoch(mean_loss, rate)
