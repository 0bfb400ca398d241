"""IRDST-simulation, the simulated half of IRDST (Sun et al., RDIAN, TGRS 2023), laid out as DeepPro reads it.

images/<sequence>/<k>.bmp   masks/<sequence>/<k>.bmp   img_idx/{train,test}_IRDST-simulation.txt
"""

from pathlib import Path

from dataset.layout import find_root, index_listed, listed_sequences, require_layout
from dataset.published import read_published
from dataset.sequence import SequenceSet
from utils.registry import register_dataset

MEAN, STD = 106.8523, 56.9243  # DTUM, DeepPro


@register_dataset("IRDST-simulation")
def index(root: Path, split: str) -> SequenceSet:
    """IRDST-simulation: 250 training and 66 test sequences of 157 to 594 frames, with masks.

    The list gives the sequences; the frames are what lies in their folders, as in the published loader.
    Raises UserError when the layout is not there, or something that the split list names is missing.
    """
    name = "IRDST-simulation"
    root = find_root(root, name)
    images, masks = "images/*", "masks/*"
    require_layout((root / "images").is_dir(), name, root, f"{images} with {masks}")
    lists = (f"img_idx/{split}_{name}.txt",)
    shipped = f"{name}/simulation_{split}.csv"
    names, notes = listed_sequences(root, lists, shipped)
    sequences = index_listed(root, names, images, masks)
    return SequenceSet(
        name, root, split, sequences, MEAN, STD, notes=notes, published=read_published(shipped)
    )
