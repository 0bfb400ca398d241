"""NUDT-MIRSDT (Li et al., DTUM, TNNLS 2023), its noisy version (DeepPro, arXiv 2506.12766), and Synthetic.

The tree comes in two orders, and the reader finds out which one lies there:

    Sequence1/images/00001.png   Sequence1/masks/   Sequence1/masks_centroid/      DTUM, DeepPro, RPRNet
    images/Sequence1/00001.png   masks/Sequence1/                                  LMAFormer
    images/sequence1/0.png       masks/sequence1/                                  TSMSA: frames from 0
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dataset.layout import (
    GIVE_FOLDER,
    SHIPPED_LISTS,
    find_below,
    find_root,
    index_sequence,
    listed_folder,
    listed_sequences,
    require_layout,
    subfolders,
)
from dataset.sequence import Sequence, SequenceSet
from utils.errors import UserError
from utils.registry import fold, register_dataset

MEAN, STD = 105.4025, 26.6452  # DTUM, DeepPro
LOOKED_FOR = "SequenceN/images/ (DTUM, DeepPro, RPRNet) and images/SequenceN/ (LMAFormer, TSMSA)"
CLEAN_NAME = "NUDT-MIRSDT"
NOISE_NAMES = ("NUDT-MIRSDT-Noise", "NUDT-MIRSDT-HiNo")


@dataclass(frozen=True)
class Tree:
    """A folder of sequences, and whether `images/<sequence>` or `<sequence>/images` is the order in it."""

    root: Path
    images_first: bool

    def steps(self, kind: str, sequence: str) -> tuple[str, str]:
        return (kind, sequence) if self.images_first else (sequence, kind)

    def listed(self, kind: str, sequence: str) -> Path:
        return listed_folder(self.root, *self.steps(kind, sequence))

    def optional(self, kind: str, sequence: str) -> Path | None:
        return find_below(self.root, *self.steps(kind, sequence))


def find_tree(root: Path) -> Tree | None:
    """The tree that lies in `root`, or None."""
    below = [path / "images" for path in subfolders(root)]
    if any(images.is_dir() and not subfolders(images) for images in below):
        return Tree(root, images_first=False)
    if (root / "images").is_dir() and subfolders(root / "images"):
        return Tree(root, images_first=True)
    return None


def require_tree(name: str, root: Path, remedy: str = GIVE_FOLDER) -> Tree:
    """The tree that lies in `root`. Raises UserError, which ends on `remedy`, when there is none."""
    tree = find_tree(root)
    require_layout(tree is not None, name, root, LOOKED_FOR, remedy)
    return tree


def index_tree(frames: Tree, truth: Tree, names: Iterable[str]) -> tuple[Sequence, ...]:
    """The sequences `names`, with images from the one tree, masks and centroid maps from the other."""
    return tuple(
        index_sequence(
            name,
            frames.listed("images", name),
            truth.listed("masks", name),
            truth.optional("masks_centroid", name),
        )
        for name in names
    )


def snr_subsets(names: Iterable[str], low: Path, high: Path) -> dict[str, tuple[str, ...]]:
    """The members of `names` in the two lists; a list that is missing or has none of them gives no subset."""
    subsets = {}
    for label, path in (("SNR<=3", low), ("SNR>3", high)):
        listed = path.read_text(encoding="utf-8").casefold().split() if path.is_file() else []
        members = tuple(name for name in names if name.casefold() in listed)
        if members:
            subsets[label] = members
    return subsets


def published_split(root: Path, split: str) -> tuple[tuple[str, ...], tuple[str, ...], dict]:
    """Names, notes and subsets of one published split of NUDT-MIRSDT, clean or noisy."""
    names, notes = listed_sequences(root, (f"{split}.txt",), f"NUDT-MIRSDT/{split}_sequences.txt")
    shipped = SHIPPED_LISTS / "NUDT-MIRSDT"
    subsets = snr_subsets(
        names, shipped / "test_low_snr_sequences.txt", shipped / "test_high_snr_sequences.txt"
    )
    return names, notes, subsets


@register_dataset("NUDT-MIRSDT")
def index(root: Path, split: str) -> SequenceSet:
    """NUDT-MIRSDT: 80 training and 20 test sequences of 100 frames, with masks.

    The test split has the subsets "SNR<=3" and "SNR>3", the division by sequence of DTUM and DeepPro.
    Raises UserError when no known layout lies in `root`, or something that the split list names is missing.
    """
    tree = require_tree(CLEAN_NAME, find_root(root, CLEAN_NAME))
    names, notes, subsets = published_split(tree.root, split)
    return SequenceSet(CLEAN_NAME, tree.root, split, index_tree(tree, tree, names), MEAN, STD, subsets, notes)


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
    return SequenceSet(NOISE_NAMES[0], frames.root, split, sequences, MEAN, STD, subsets, notes)


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
    subsets = snr_subsets(names, low, high)
    return SequenceSet("Synthetic", tree.root, split, index_tree(tree, tree, names), subsets=subsets)
