"""What a recipe asks of a data set besides its frames, found out before they are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset import create_dataset
from dataset.frames import SequenceFrames
from dataset.io import gray_values
from dataset.sequence import SequenceSet
from dataset.view import View
from utils.errors import UserError
from utils.recipe.schema import Recipe, ViewSettings


def prepared(recipe: Recipe, data: SequenceSet, cache: Path | None = None) -> Recipe:
    """The recipe with all that it wants to be measured of a data set.

    data:  the split that is trained on, or else the one that is tested
    cache: as in dataset.frames
    Raises UserError where the training split is wanted and cannot be read.
    """
    view = recipe.view
    if view.mean is None and view.statistics == "train":
        mean, std = train_statistics(training_split(data), view, cache)
        recipe = replace(recipe, view=replace(view, mean=mean, std=std))
    return recipe


def training_split(data: SequenceSet) -> SequenceSet:
    """The training split of a data set of which one split is known."""
    if data.split == "train":
        return data
    try:
        return create_dataset(data.name, data.root, "train", **data.options)
    except UserError as error:
        raise UserError(
            f"recipe key view.statistics is train, which measures the training frames of {data.name}: "
            f"{error}; or give what they have by --set mean= and --set std="
        ) from None


def train_statistics(data: SequenceSet, settings: ViewSettings, cache: Path | None) -> tuple[float, float]:
    """(mean of the frames' means, mean of their standard deviations) of gray values, as TSMSA measures them.

    Of each frame alike, whatever its size, as the view places it in a test: resized, where it does so.
    """
    view = View.of(settings, "test")
    sums, frames = np.zeros(2), 0
    for sequence in tqdm(data, "statistics", unit="sequence", leave=False, disable=None):
        pixels = SequenceFrames(sequence, view, cache)
        for index in range(len(sequence)):
            values = gray_values(pixels.image(index)).astype(np.float64)
            sums += values.mean(), values.std()
        frames += len(sequence)
    mean, std = (sums / frames).tolist()
    return mean, max(std, 1e-3)
