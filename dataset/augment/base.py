"""What augmentations have in common."""

from typing import ClassVar

import numpy as np

from dataset.sample import Batch, Sample


class Augmentation:
    """What all augmentations have; each is a frozen dataclass of settings.

    stage:       "pixels": before the patch and the normalisation; "clip": after them and the padding in time;
                 "batch": on batches of clips and targets
    needs_truth: whether it needs the truth of all frames of the clip, also of those that are not predicted
    """

    stage: ClassVar[str] = "clip"
    needs_truth: ClassVar[bool] = False

    def check(self, size: tuple[int, int]) -> None:
        """Raises UserError where frames of `size` (height, width) cannot be augmented."""

    def __call__(self, sample: Sample, draw: np.random.Generator) -> Sample:
        """The augmented sample; what is random in it comes from `draw`."""
        raise NotImplementedError


class BatchAugmentation(Augmentation):
    """An augmentation of whole batches."""

    stage = "batch"

    def __call__(self, batch: Batch, draw: np.random.Generator) -> Batch:
        """The augmented batch; it may have more clips."""
        raise NotImplementedError
