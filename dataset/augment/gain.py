"""One factor on the gray values of a clip."""

from dataclasses import MISSING, dataclass, replace

import numpy as np

from dataset.augment.base import Augmentation
from dataset.sample import Sample
from utils.recipe.fields import setting
from utils.registry import register_augmentation


@register_augmentation("gain")
@dataclass(frozen=True)
class Gain(Augmentation):
    """Gray values times one number for the clip; they end at white.

    With a limit of 0.4, the change of value in the augmentation that STMENet's code holds but does not use.
    """

    limit: float = setting(MISSING, "the number is drawn from 1 - limit .. 1 + limit", above=0, at_most=1)
    stage = "pixels"

    def __call__(self, sample: Sample, draw: np.random.Generator) -> Sample:
        white = np.iinfo(sample.images.dtype).max
        values = np.arange(white + 1) * draw.uniform(1 - self.limit, 1 + self.limit)
        table = np.rint(values.clip(0, white)).astype(sample.images.dtype)
        return replace(sample, images=table[sample.images])
