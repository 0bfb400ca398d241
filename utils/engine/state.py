"""All that a training run is at one moment, and that its checkpoints hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.checkpoint import REMEDY, check_weights
from utils.engine.optim import AveragedWeights, freeze, make_optimizer
from utils.engine.optimizer_state import check_optimizer_state, restore_optimizer
from utils.entries import COUNT, ENTRIES, SCORE, Kind, check_entries, is_number
from utils.errors import UserError
from utils.recipe.schema import OptimisationSettings
from utils.seed import check_random_state, random_state, restore_random_state


@dataclass
class Progress:
    """How far a training run has come. Plain numbers, so that a checkpoint can hold them."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the epoch that runs
    steps: int = 0  # optimizer steps of the whole run
    best: float | None = None  # the best validation score so far
    sums: dict[str, float] = field(default_factory=dict)  # of each term of the loss, over those batches

    @classmethod
    def of(cls, saved: dict[str, Any], source: str | Path) -> "Progress":
        """What a checkpoint says of it. Raises UserError where that is none."""
        source, saved = f"the progress in {source}", dict(saved)
        if "loss_sum" in saved:  # of the first version, which knew one number per batch
            saved["sums"] = {"loss": saved.pop("loss_sum")}
        numbers = Kind("numbers by name", lambda v: ENTRIES.fits(v) and all(map(is_number, v.values())))
        kinds = {"epoch": COUNT, "batch": COUNT, "steps": COUNT, "best": SCORE, "sums": numbers}
        check_entries(saved, kinds, source, REMEDY)
        if more := sorted(saved.keys() - kinds.keys()):
            raise UserError(f"{source} has an entry {more[0]!r}, which this program does not know; {REMEDY}")
        return cls(**saved)

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
        """Bring back what `content` gave, all of it or, with the UserError of `check`, nothing."""
        self.check(saved, source)
        if self.average:
            self.average.model.load_state_dict(saved["weights"])
        self.model.load_state_dict(saved["trained_weights" if self.average else "weights"])
        restore_optimizer(self.optimizer, saved["optimizer"])
        self.progress = Progress.of(saved["progress"], source)
        restore_random_state(saved["random"])

    def check(self, saved: dict[str, Any], source: str | Path) -> None:
        """Raises UserError unless `saved` is the state of such a run; nothing changes.

        saved: what `utils.checkpoint.read_checkpoint` gave
        """
        if self.average and "trained_weights" not in saved:
            raise UserError(f"{source} lacks the weights beside their average; {REMEDY}")
        for name in ("weights", *["trained_weights"] * bool(self.average)):
            check_weights(self.model, saved[name], source)
        check_optimizer_state(self.optimizer, saved["optimizer"], source, REMEDY)
        Progress.of(saved["progress"], source)
        check_random_state(saved["random"], source, REMEDY)
