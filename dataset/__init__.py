"""Data sets by name: `create_dataset("NUDT-MIRSDT", root="data", split="test")` indexes a folder."""

import dataclasses
from pathlib import Path

import utils  # noqa: F401 - first, see there
from dataset import (  # noqa: F401
    folder,
    irdst,
    irsatvideo_leo,
    mwirstd,
    nudt_mirsdt,
    rgbt_tiny,
    satvideo_irsdt,
    tsirmt,
    uestc,
)
from dataset.sequence import Sequence, SequenceSet
from utils.errors import UserError
from utils.registry import DATASETS, register_dataset


def list_datasets() -> list[str]:
    """The registered names, sorted."""
    return DATASETS.names()


def create_dataset(
    name: str,
    root: str | Path = "data",
    split: str = "test",
    mask_threshold: float | None = None,
    **options,
) -> SequenceSet:
    """Index one split of a data set on disk.

    name:           a name of `list_datasets()`, in any spelling
    root:           the data set's own folder or its parent
    split:          "train" or "test"
    mask_threshold: gray value, 0 to 255, above which a pixel of a mask is target; None: see dataset.masks
    Raises UserError when the folder, the split list or a file is missing.
    """
    entry = DATASETS.check_options(name, {"root": root, "split": split, **options})
    if split not in ("train", "test"):
        raise UserError(f"there is no split {split!r}; known: train, test")
    data = entry.build(root=Path(root).expanduser(), split=split, **options)
    found = getattr(data, "name", type(data).__name__)
    if found != entry.name:
        raise UserError(f"data set {entry.name} is indexed as {found}; give its SequenceSet that name")
    if mask_threshold is not None:
        data = data.with_mask_threshold(mask_threshold)
        options["mask_threshold"] = mask_threshold
    chosen = {key: value for key, value in options.items() if value != entry.defaults.get(key)}
    return dataclasses.replace(data, options=chosen)


__all__ = ["Sequence", "SequenceSet", "create_dataset", "list_datasets", "register_dataset"]
