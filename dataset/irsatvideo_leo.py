"""IRSatVideo-LEO (Ying et al., RFR, arXiv 2409.12448).

    images/<sequence>/0000.png   masks/<sequence>/0000.png

The lists are annotations/{train,val}_sequences.txt for DeepPro and video_idx/{train,test}_IRSatVideo-LEO.txt
for RFR; they come with the download only. The mean is 72.104 in DeepPro's code, 72.10403 in RPRNet's; ours is
RFR's, which both round: 3e-5 of a gray value are no difference in a table.
"""

from pathlib import Path

from dataset.layout import find_root, index_listed, listed_sequences, require_layout
from dataset.sequence import SequenceSet
from utils.registry import register_dataset

MEAN, STD = 72.1040267944336, 12.302865028381348  # RFR


@register_dataset("IRSatVideo-LEO")
def index(root: Path, split: str) -> SequenceSet:
    """IRSatVideo-LEO: 200 sequences of 1024x1024 frames, with masks; DeepPro tests on the list `val`.

    Raises UserError when the layout or the list is not there, or something that the list names is missing.
    """
    name = "IRSatVideo-LEO"
    root = find_root(root, name)
    images, masks = "images/*", "masks/*"
    require_layout((root / "images").is_dir(), name, root, f"{images} with {masks}")
    part = {"train": "train", "test": "val"}[split]
    lists = (f"annotations/{part}_sequences.txt", f"video_idx/{split}_{name}.txt")
    names, _ = listed_sequences(root, lists)
    sequences = index_listed(root, names, images, masks)
    return SequenceSet(name, root, split, sequences, MEAN, STD)
