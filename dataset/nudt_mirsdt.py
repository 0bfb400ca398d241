"""NUDT-MIRSDT (Li et al., DTUM, TNNLS 2023), its noisy version (DeepPro, arXiv 2506.12766), and Synthetic.

The tree comes in two orders, and the reader finds out which one lies there:

    Sequence1/images/00001.png   Sequence1/masks/   Sequence1/masks_centroid/      DTUM, DeepPro, RPRNet
    images/Sequence1/00001.png   masks/Sequence1/                                  LMAFormer
    images/sequence1/0.png       masks/sequence1/                                  TSMSA: frames from 0
"""

import os
from pathlib import Path

from dataset.layout import (
    GIVE_FOLDER,
    SHIPPED_LISTS,
    Tree,
    find_root,
    find_tree,
    index_tree,
    listed_sequences,
    listed_subsets,
    require_layout,
    subfolders,
)
from dataset.published import read_published
from dataset.sequence import Published, SequenceSet
from utils.errors import UserError
from utils.registry import fold, register_dataset

MEAN, STD = 105.4025, 26.6452  # DTUM, DeepPro
LOOKED_FOR = "SequenceN/images/ (DTUM, DeepPro, RPRNet) and images/SequenceN/ (LMAFormer, TSMSA)"
CLEAN_NAME = "NUDT-MIRSDT"
FRAMES, TARGETS = 100, {"test": 1729}  # of each sequence; what the centroid maps of the test split mark
HOME_MADE = "noise.json"  # what tools/add_noise.py leaves in its folder
NOISE_NAMES = ("NUDT-MIRSDT-Noise", "NUDT-MIRSDT-HiNo")


def require_tree(name: str, root: Path, remedy: str = GIVE_FOLDER) -> Tree:
    """The tree that lies in `root`. Raises UserError, which ends on `remedy`, when there is none."""
    tree = find_tree(root)
    require_layout(tree is not None, name, root, LOOKED_FOR, remedy)
    return tree


def published_split(root: Path, split: str) -> tuple[tuple[str, ...], tuple[str, ...], dict]:
    """Names, notes and subsets of one published split of NUDT-MIRSDT, clean or noisy."""
    names, notes = listed_sequences(root, (f"{split}.txt",), f"NUDT-MIRSDT/{split}_sequences.txt")
    shipped = SHIPPED_LISTS / "NUDT-MIRSDT"
    low, high = shipped / "test_low_snr_sequences.txt", shipped / "test_high_snr_sequences.txt"
    return names, notes, listed_subsets(names, {"SNR<=3": low, "SNR>3": high})


def published_counts(split: str) -> Published:
    return read_published(f"NUDT-MIRSDT/{split}_sequences.txt", FRAMES, TARGETS.get(split))


@register_dataset("NUDT-MIRSDT")
def index(root: Path, split: str) -> SequenceSet:
    """NUDT-MIRSDT: 80 training and 20 test sequences of 100 frames, with masks.

    The test split has the subsets "SNR<=3" and "SNR>3", the division by sequence of DTUM and DeepPro.
    Raises UserError when no known layout lies in `root`, or something that the split list names is missing.
    """
    tree = require_tree(CLEAN_NAME, find_root(root, CLEAN_NAME))
    names, notes, subsets = published_split(tree.root, split)
    sequences, published = index_tree(tree, tree, names), published_counts(split)
    return SequenceSet(CLEAN_NAME, tree.root, split, sequences, MEAN, STD, subsets, notes, published)


@register_dataset("NUDT-MIRSDT-Noise", aliases=("NUDT-MIRSDT-HiNo",))
def index_noise(root: Path, split: str, clean_root: str | Path | None = None) -> SequenceSet:
    """NUDT-MIRSDT-Noise: the images of one noise version, with the masks and centroids of NUDT-MIRSDT.

    root:       the version's folder (`NUDT-MIRSDT-Noise/<version>`), `NUDT-MIRSDT-Noise` or its parent
    clean_root: folder of NUDT-MIRSDT or its parent; None takes the one beside `NUDT-MIRSDT-Noise`
    Raises UserError as NUDT-MIRSDT does, and when there are several versions or no clean set.
    """
    frames = _find_version(Path(os.path.abspath(find_root(root, *NOISE_NAMES))))
    clean = _find_clean(frames.root) if clean_root is None else Path(clean_root).expanduser()
    truth = require_tree(CLEAN_NAME, find_root(clean, CLEAN_NAME))
    names, notes, subsets = published_split(frames.root, split)
    sequences = index_tree(frames, truth, names)
    published = published_counts(split)
    if (frames.root / HOME_MADE).is_file():
        notes, published = (
            (*notes, f"{frames.root} was made by tools/add_noise.py, it is not published"),
            None,
        )
    return SequenceSet(NOISE_NAMES[0], frames.root, split, sequences, MEAN, STD, subsets, notes, published)


def _find_version(folder: Path) -> Tree:
    """The tree in `folder`, or in the only version folder in it when it is `NUDT-MIRSDT-Noise`."""
    candidates = [folder] if fold(folder.name) != fold(CLEAN_NAME) else []
    if fold(folder.name) in map(fold, NOISE_NAMES):
        candidates += subfolders(folder)
    versions = [tree for path in candidates if (tree := find_tree(path))]
    require_layout(bool(versions), NOISE_NAMES[0], folder, f"{LOOKED_FOR}, in it or in a version folder")
    if len(versions) > 1:
        names = ", ".join(tree.root.name for tree in versions)
        raise UserError(f"{folder} holds several versions ({names}); give the folder of one of them")
    return versions[0]


def _find_clean(version: Path) -> Path:
    """The folder NUDT-MIRSDT beside `NUDT-MIRSDT-Noise`, which is `version` or the folder around it."""
    for beside in version.parents[:2]:
        clean = find_root(beside, CLEAN_NAME)
        if clean != beside:
            return clean
    raise UserError(
        f"the masks for {version} lie in {CLEAN_NAME}, which is not beside it; give its folder as clean_root"
    )


@register_dataset("Synthetic")
def index_synthetic(root: Path, split: str) -> SequenceSet:
    """What tools/make_synthetic.py wrote, in the tree of NUDT-MIRSDT; mean and std are measured elsewhere.

    Raises UserError as NUDT-MIRSDT does, and when a list is missing.
    """
    remedy = f"run `python tools/make_synthetic.py --out {root}` to make it"
    tree = require_tree("Synthetic", find_root(root, "Synthetic", remedy=remedy), remedy)
    names, _ = listed_sequences(tree.root, (f"{split}.txt",))
    low, high = tree.root / "low_snr_sequences.txt", tree.root / "high_snr_sequences.txt"
    subsets = listed_subsets(names, {"SNR<=3": low, "SNR>3": high})
    return SequenceSet("Synthetic", tree.root, split, index_tree(tree, tree, names), subsets=subsets)
