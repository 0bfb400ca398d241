"""MWIRSTD (arXiv 2406.08063), which TSMSA calls MWIRDST as well, laid out as TSMSA reads it.

    images/<sequence>/0.jpg   masks/<sequence>/0.png   train.txt   test.txt

TSMSA measures one mean and one standard deviation over all training frames at the start of a run, and so do
the recipes of its tables' networks (view.statistics); others normalise each sequence by its own.
"""

from pathlib import Path

from dataset.layout import find_root, index_listed, listed_sequences, require_layout
from dataset.published import read_published
from dataset.sequence import SequenceSet
from utils.registry import register_dataset


@register_dataset("MWIRSTD", aliases=("MWIRDST",))
def index(root: Path, split: str) -> SequenceSet:
    """MWIRSTD: TSMSA's 13 training sequences with 990 frames and 1 test sequence with 300, with masks.

    The list gives the sequences; the frames are what lies in their folders.
    Raises UserError when the layout is not there, or something that the split list names is missing.
    """
    name = "MWIRSTD"
    root = find_root(root, name, "MWIRDST")
    images, masks = "images/*", "masks/*"
    require_layout((root / "images").is_dir(), name, root, f"{images} with {masks}")
    shipped = f"{name}/tsmsa_{split}.csv"
    names, notes = listed_sequences(root, (f"{split}.txt",), shipped)
    sequences = index_listed(root, names, images, masks)
    return SequenceSet(name, root, split, sequences, notes=notes, published=read_published(shipped))
