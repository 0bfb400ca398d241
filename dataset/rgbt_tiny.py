"""The thermal half of RGBT-Tiny (arXiv 2406.14482), laid out as DeepPro ("RGB-T") reads it.

{train2017,test2017}/<sequence>/01/   segmentations/<sequence>/   train.txt   test.txt
"""

from pathlib import Path

from dataset.layout import find_root, index_listed, listed_sequences, require_layout
from dataset.published import read_published
from dataset.sequence import SequenceSet
from utils.registry import register_dataset

MEAN, STD = 85.0799, 47.4845  # DeepPro
THERMAL = "01"  # the visible half is 00


@register_dataset("RGBT-Tiny", aliases=("RGB-T",))
def index(root: Path, split: str) -> SequenceSet:
    """RGBT-Tiny, thermal frames: DeepPro's 45 training and 15 test sequences, with masks.

    Raises UserError when the layout is not there, or something that the split list names is missing.
    """
    name = "RGBT-Tiny"
    root = find_root(root, name, "RGB-T")
    part = f"{split}2017"
    images, masks = f"{part}/*/{THERMAL}", "segmentations/*"
    require_layout((root / part).is_dir(), name, root, f"{images} with {masks}")
    shipped = f"{name}/deeppro_{split}_sequences.txt"
    names, notes = listed_sequences(root, (f"{split}.txt",), shipped)
    sequences = index_listed(root, names, images, masks)
    return SequenceSet(
        name, root, split, sequences, MEAN, STD, notes=notes, published=read_published(shipped)
    )
