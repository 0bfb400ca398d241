"""Squares that are cut out of the clips."""

from dataclasses import MISSING, dataclass

import numpy as np

from dataset.augment.base import Augmentation
from dataset.sample import Sample
from utils.errors import UserError
from utils.recipe.fields import setting
from utils.registry import register_augmentation


@register_augmentation("crop")
@dataclass(frozen=True)
class Crop(Augmentation):
    """A square of the frames. Boxes whose centres lie in it are kept and cut at its border."""

    side: int = setting(MISSING, "side of the square in pixels", at_least=1, at_most=8192)
    drift: float = setting(
        0.0, "it moves evenly by up to so many pixels per frame, as a camera would", at_least=0, at_most=1000
    )
    target_chance: float = setting(
        0.75, "chance that a target of the key frame lies somewhere in it", at_least=0, at_most=1
    )

    def check(self, size: tuple[int, int]) -> None:
        height, width = size
        if min(size) < self.side:
            raise UserError(
                f"recipe key sampling.augment has a crop of {self.side}, larger than what it cuts, "
                f"{width}x{height} pixels; lower its side"
            )

    def __call__(self, sample: Sample, draw: np.random.Generator) -> Sample:
        self.check(sample.size)
        limits = np.array(sample.size[::-1]) - self.side  # of the corner's x and y
        low, high = np.zeros(2, int), limits
        targets, _ = sample.key_targets()
        if len(targets) and draw.random() < self.target_chance:
            x1, y1, x2, y2 = targets[draw.integers(len(targets))]
            low = np.clip(np.ceil([x2 - self.side, y2 - self.side]).astype(int), 0, limits)
            high = np.clip(np.floor([x1, y1]).astype(int), low, limits)
        corner = draw.integers(low, high + 1)
        steps = np.arange(sample.length)[:, None] - sample.key
        drift = draw.uniform(-self.drift, self.drift, 2) if self.drift else np.zeros(2)
        corners = np.clip(np.rint(corner + steps * drift).astype(int), 0, limits)
        return sample.cut(corners[:, ::-1], self.side)
