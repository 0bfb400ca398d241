"""TSIRMT (Huang et al., LMAFormer, TGRS 2024), in the order of its release or in RPRNet's.

    images/00001/*.png         masks/00001/          LMAFormer
    00001/images/00001.png     00001/masks/          RPRNet; its folder is called TSIRMT or TSIRMT_RM

The lists are train.txt and test.txt; LMAFormer tests on its list `val`, so val.txt serves as well. In the
masks each gray value above 0 is target, as for LMAFormer.
"""

from pathlib import Path

from dataset.layout import (
    SHIPPED_LISTS,
    find_root,
    find_tree,
    index_tree,
    listed_sequences,
    listed_subsets,
    require_layout,
)
from dataset.masks import MaskRule
from dataset.published import read_published
from dataset.sequence import SequenceSet
from utils.registry import register_dataset

LOOKED_FOR = "images/*/ with masks/*/ (LMAFormer) and */images/ with */masks/ (RPRNet)"


@register_dataset("TSIRMT")
def index(root: Path, split: str) -> SequenceSet:
    """TSIRMT: LMAFormer's 140 training and 60 test sequences, with masks; no mean and std are published.

    The test split has the subset "SNR<10", 25 sequences. RPRNet's own division is not published.
    Raises UserError when no known layout lies in `root`, or something that the split list names is missing.
    """
    name = "TSIRMT"
    root = find_root(root, name, "TSIRMT_RM")
    tree = find_tree(root)
    require_layout(tree is not None, name, root, LOOKED_FOR)
    part = {"train": "train", "test": "val"}[split]
    lists = (f"{split}.txt", f"{part}.txt")
    shipped = f"{name}/lmaformer_{part}_sequences.txt"
    names, notes = listed_sequences(root, lists, shipped)
    low = SHIPPED_LISTS / name / "lmaformer_val_snr_below_10_sequences.txt"
    subsets = listed_subsets(names, {"SNR<10": low})
    sequences = index_tree(tree, tree, names, MaskRule(many_values=True))
    published = read_published(shipped)
    return SequenceSet(name, root, split, sequences, subsets=subsets, notes=notes, published=published)
