"""Schedules of the learning rate, by name: dataclasses of their options with `rate(top, epoch, epochs)`."""

import math
from dataclasses import dataclass
from typing import Protocol

from utils.recipe.fields import setting
from utils.registry import SCHEDULES, register_schedule


class Schedule(Protocol):
    """How the learning rate changes from epoch to epoch."""

    def rate(self, top: float, epoch: int, epochs: int) -> float:
        """The learning rate of `epoch`, counted from 0, of `epochs`; top: the recipe's learning rate."""


def create_schedule(name: str, **options) -> Schedule:
    """A schedule by name. Raises UserError for an unknown name or option."""
    return SCHEDULES.create(name, **options)


@register_schedule("constant")
@dataclass(frozen=True)
class Constant:
    """The same rate throughout."""

    def rate(self, top: float, epoch: int, epochs: int) -> float:
        return top


@register_schedule("step")
@dataclass(frozen=True)
class Step:
    """Times lr_decay every step_size epochs, not below min_learning_rate. Source: DeepPro, DTUM."""

    step_size: int = setting(10, "epochs between two decays", at_least=1, at_most=1_000_000)
    lr_decay: float = setting(0.7, "factor of a decay", at_least=0, at_most=1)
    min_learning_rate: float = setting(1e-5, "lowest learning rate", at_least=0, at_most=1e3)

    def rate(self, top: float, epoch: int, epochs: int) -> float:
        return max(top * self.lr_decay ** (epoch // self.step_size), self.min_learning_rate)


@register_schedule("milestones")
@dataclass(frozen=True)
class Milestones:
    """Times lr_decay at each milestone. Source: BasicIRSTD, TSMSA, RFR."""

    milestones: tuple[int, ...] = setting(
        (), "numbers of finished epochs after which it decays", at_least=0, at_most=1_000_000
    )
    lr_decay: float = setting(0.7, "factor of a decay", at_least=0, at_most=1)

    def rate(self, top: float, epoch: int, epochs: int) -> float:
        return top * self.lr_decay ** sum(epoch >= milestone for milestone in self.milestones)


def half_cosine(top: float, bottom: float, progress: float) -> float:
    """From `top` at progress 0 down to `bottom` at progress 1."""
    return bottom + (top - bottom) * (1 + math.cos(math.pi * progress)) / 2


@register_schedule("warmup-cosine")
@dataclass(frozen=True)
class WarmupCosine:
    """Linear from top / warmup_epochs up to top, then half a cosine to min_learning_rate."""

    warmup_epochs: int = setting(10, "epochs of the rise", at_least=1, at_most=1_000_000)
    min_learning_rate: float = setting(1e-5, "learning rate at the end", at_least=0, at_most=1e3)

    delay = 0  # epochs before the rise

    def rate(self, top: float, epoch: int, epochs: int) -> float:
        if epoch < self.warmup_epochs + self.delay:
            return top * (epoch + 1 - self.delay) / self.warmup_epochs
        progress = (epoch - self.warmup_epochs - self.delay) / max(epochs - self.warmup_epochs, 1)
        return half_cosine(top, self.min_learning_rate, progress)


@register_schedule("warmup-cosine-published")
@dataclass(frozen=True)
class PublishedWarmupCosine(WarmupCosine):
    """RPRNet's: the first epoch has rate 0, and one more epoch warms up."""

    delay = 1


@register_schedule("warmup-cosine-yolox")
@dataclass(frozen=True)
class YOLOXWarmupCosine:
    """A parabola from a tenth up to top, half a cosine, and min_learning_rate in the last epochs.

    Source: YOLOX, as STMENet, SMFNet and SSTNet train.
    """

    warmup_epochs: int = setting(
        3, "epochs of the rise, at most a twentieth of all", at_least=1, at_most=1_000_000
    )
    min_learning_rate: float = setting(1e-5, "learning rate at the end", at_least=0, at_most=1e3)

    def rate(self, top: float, epoch: int, epochs: int) -> float:
        twentieth = max(0.05 * epochs, 1)
        warmup, tail = min(twentieth, self.warmup_epochs), min(twentieth, 15)
        if epoch <= warmup:
            start = max(0.1 * top, 1e-6)
            return (top - start) * (epoch / warmup) ** 2 + start
        if epoch >= epochs - tail:
            return self.min_learning_rate
        return half_cosine(top, self.min_learning_rate, (epoch - warmup) / (epochs - warmup - tail))
