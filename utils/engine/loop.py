"""The training loop. It knows no model, data set, loss or metric by name."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from utils.engine.optim import freeze, set_learning_rate
from utils.engine.runtime import Runtime
from utils.engine.state import TrainState
from utils.errors import UserError
from utils.recipe.schema import OptimisationSettings
from utils.registry import SCHEDULES


@dataclass(frozen=True)
class Hooks:
    """What a run does around the steps.

    after_batch:   called with the terms of each batch's loss
    after_batches: called after those of an epoch, before the epoch is counted
    after_epoch:   called with the means of the epoch's terms and its learning rate
    """

    after_batch: Callable[[dict[str, float]], None]
    after_batches: Callable[[], None]
    after_epoch: Callable[[dict[str, float], float], None]


def fit(
    state: TrainState,
    loss: Callable[[dict, Any], dict[str, Tensor]],
    loader: Iterable,
    recipe: OptimisationSettings,
    runtime: Runtime,
    hooks: Hooks,
) -> None:
    """Train until recipe.epochs are done, continuing from `state.progress`.

    loader: serves the batches of the epoch that its batch_sampler's `epoch` and `start` say
    """
    progress = state.progress
    schedule = SCHEDULES.create(recipe.schedule, **recipe.schedule_options)
    for epoch in range(progress.epoch, recipe.epochs):
        rate = schedule.rate(recipe.learning_rate, epoch, recipe.epochs)
        set_learning_rate(state.optimizer, rate)
        loader.batch_sampler.epoch, loader.batch_sampler.start = epoch, progress.batch
        state.model.train()
        freeze(state.model, state.optimizer, recipe, epoch)
        title = f"epoch {epoch + 1}/{recipe.epochs}"
        with tqdm(loader, title, unit="batch", initial=progress.batch, leave=False, disable=None) as bar:
            bar.total = progress.batch + len(loader)
            for batch in bar:
                terms = train_step(state, loss, batch, runtime, recipe.clip_gradients)
                bar.set_postfix({k: f"{v:.4f}" for k, v in terms.items()}, refresh=False)
                hooks.after_batch(terms)
        hooks.after_batches()
        hooks.after_epoch(progress.end_epoch(), rate)


def train_step(
    state: TrainState,
    loss: Callable[[dict, Any], dict[str, Tensor]],
    batch: dict[str, Any],
    runtime: Runtime,
    clip_gradients: float | None = None,
) -> dict[str, float]:
    """One optimizer step; returns the terms of the loss.

    An error before the step leaves the state as it was; so does a loss or gradient that is not finite, which
    raises UserError.
    """
    with state.unchanged_on_error():
        with runtime.computing():
            raw = state.model(runtime.place(batch["clip"]))
        terms = loss(runtime.widened(raw), runtime.place(batch["target"]))
        values = {name: value.item() for name, value in terms.items()}
        check_finite("loss", values["loss"], batch)
        state.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        check_finite("gradient", norm.item(), batch)
        if clip_gradients:
            nn.utils.clip_grads_with_norm_(state.model.parameters(), clip_gradients, norm)
    state.step(values)
    return values


def check_finite(what: str, number: float, batch: dict[str, Any]) -> None:
    if not math.isfinite(number):
        raise UserError(
            f"the {what} is {number} on the batch {', '.join(batch['name'])}; look at these frames or start "
            "a new run with a lower --learning_rate"
        )
