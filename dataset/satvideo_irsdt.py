"""SatVideoIRSDT, the data of the SatVideoIRSTD challenge, as DeepPro and DTUM read it.

    {train,val}/<sequence>/img/000001.png   {train,val}/<sequence>/mask/000001.png

The lists are {train,val}.txt for DeepPro and {train,val}_list.txt for DTUM. The masks number their targets:
each value above 0 is target, as for both.
"""

from pathlib import Path

from dataset.layout import find_root, index_listed, listed_sequences, require_layout
from dataset.masks import MaskRule
from dataset.published import read_published
from dataset.sequence import SequenceSet
from utils.registry import register_dataset

MEAN, STD = 111.47, 22.43  # DeepPro, and DTUM in training; in a test its recipe has 105.31, 26.08


@register_dataset("SatVideoIRSDT")
def index(root: Path, split: str) -> SequenceSet:
    """SatVideoIRSDT: 1008 training sequences and parts, 200 test sequences, with masks.

    The published tests run on the list `val`; nothing published reads the list `test`.
    Raises UserError when the layout is not there, or something that the split list names is missing.
    """
    name = "SatVideoIRSDT"
    root = find_root(root, name)
    part = {"train": "train", "test": "val"}[split]
    images, masks = f"{part}/*/img", f"{part}/*/mask"
    require_layout((root / part).is_dir(), name, root, f"{images} with {masks}")
    lists = (f"{part}.txt", f"{part}_list.txt")
    shipped = f"{name}/deeppro_{part}_sequences.txt"
    names, notes = listed_sequences(root, lists, shipped)
    sequences = index_listed(root, names, images, masks, MaskRule(many_values=True))
    return SequenceSet(
        name, root, split, sequences, MEAN, STD, notes=notes, published=read_published(shipped)
    )
