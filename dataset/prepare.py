"""What a recipe asks of a data set besides its frames, found out before they are read."""

from collections.abc import Sequence as Items
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


def prepared(recipe: Recipe, sets: Items[SequenceSet], cache: Path | None = None) -> Recipe:
    """The recipe with all that it wants to be measured of a data set.

    sets:  what is trained on, if anything, and then what is tested
    cache: as in dataset.frames
    Prints a note where it wants simulated frames that are not there. Raises UserError where these cannot be
    read, and where the training split is wanted and cannot be read.
    """
    view = recipe.view
    if view.history == "simulated":
        check_simulated(view, sets)
    if view.mean is None and view.statistics == "train":
        mean, std = train_statistics(training_split(sets[0]), view, cache)
        recipe = replace(recipe, view=replace(view, mean=mean, std=std))
    return recipe


def check_simulated(settings: ViewSettings, sets: Items[SequenceSet]) -> None:
    """Read the simulated frames once, and print of how many clips they are missing."""
    view = View.of(settings, "test")
    sequences = [sequence for data in sets for sequence in data]
    without = [sequence for sequence in sequences if sequence.simulated is None]
    for sequence in sequences:
        if sequence.simulated is not None:
            SequenceFrames(sequence).image(-1)
    if without:
        clips = sum(view.starts_before(sequence) for sequence in without)
        print(
            f"note: {len(without)} of {len(sequences)} sequences of {sets[0].name} in {sets[0].root} have no "
            "simulated frames (Mix/00001.mat, of DTUM's authors); their first frame is repeated instead, in "
            f"{clips} of {sum(map(len, sequences))} clips"
        )


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
