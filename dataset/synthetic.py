"""The synthetic data set: rendered sequences written in NUDT-MIRSDT's layout.

For a machine without data: enough to train and test a detector in minutes on a CPU. dataset/scene.py renders.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.scene import SceneSettings, SyntheticSequence, render_sequence
from utils.errors import UserError, reason
from utils.files import remove_abandoned, temporary_beside

SUMMARY = "synthetic.json"


def draw_sequence(settings: SceneSettings, seed: int, number: int) -> SyntheticSequence:
    """Sequence `number` (from 1) of the set of this seed; odd numbers have a high SNR, even ones a low."""
    rng = np.random.default_rng([seed, number])
    snr_range = settings.high_snr if number % 2 else settings.low_snr
    return render_sequence(settings, rng.uniform(*snr_range), rng)


def summary_of(sequence: SyntheticSequence) -> dict:
    """The facts of a sequence for synthetic.json. Frames count from 1, places are [row, column] from 0."""
    targets = []
    for k, track in enumerate(sequence.targets.positions):
        present = np.nonzero(sequence.targets.visible[k])[0]
        first, last = present[0], present[-1]
        targets.append(
            {
                "frames": len(present),
                "first": {"frame": int(first) + 1, "place": track[first].round(2).tolist()},
                "last": {"frame": int(last) + 1, "place": track[last].round(2).tolist()},
                "psf_sigma": round(float(sequence.targets.sigma[k]), 3),
                "contrast": round(float(sequence.contrast[k]), 2),
            }
        )
    return {"snr": round(sequence.snr, 3), "targets": targets}


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def write_frames(folder: Path, sequence: SyntheticSequence) -> None:
    parts = {"images": sequence.frames, "masks": sequence.masks, "masks_centroid": sequence.centroids}
    for part, frames in parts.items():
        (folder / part).mkdir(parents=True)
        for number, frame in enumerate(frames, start=1):
            Image.fromarray(frame).save(folder / part / f"{number:05d}.png", compress_level=6)


def write_set(
    root: Path, settings: SceneSettings, train_sequences: int, test_sequences: int, seed: int
) -> None:
    names = [f"Sequence{number}" for number in range(1, train_sequences + test_sequences + 1)]
    summaries = []
    for number, name in enumerate(tqdm(names, desc="sequences", disable=None), start=1):
        sequence = draw_sequence(settings, seed, number)
        write_frames(root / name, sequence)
        summaries.append({"name": name, **summary_of(sequence)})

    for split, members in (("train", names[:train_sequences]), ("test", names[train_sequences:])):
        lines = [f"{name}/Mix/{frame:05d}.mat" for name in members for frame in range(1, settings.frames + 1)]
        write_lines(root / f"{split}.txt", lines)
    write_lines(root / "high_snr_sequences.txt", names[0::2])
    write_lines(root / "low_snr_sequences.txt", names[1::2])
    facts = {"seed": seed, "settings": asdict(settings), "sequences": summaries}
    write_lines(root / SUMMARY, [json.dumps(facts, indent=1, sort_keys=True)])


def check_replaceable(root: Path, overwrite: bool) -> None:
    """Raise UserError unless `root` is new, empty, or a synthetic set that may be overwritten."""
    if root.is_file():
        raise UserError(f"{root} is a file; give a folder")
    if not root.exists() or not any(root.iterdir()):
        return
    if not (root / SUMMARY).is_file():
        raise UserError(f"{root} is not empty and holds no {SUMMARY}; give another folder")
    if not overwrite:
        raise UserError(f"{root} holds a synthetic data set already; add --overwrite or give another folder")


def write_dataset(
    root: str | Path,
    settings: SceneSettings,
    train_sequences: int = 12,
    test_sequences: int = 4,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a data set in NUDT-MIRSDT's layout; the same arguments write the same bytes.

    <root>/SequenceK/{images,masks,masks_centroid}/00001.png, K from 1, first the training sequences
    <root>/{train,test}.txt             one line per frame, SequenceK/Mix/00001.mat (no .mat file is written)
    <root>/{low,high}_snr_sequences.txt the sequences of each group, of both splits
    <root>/synthetic.json               seed, settings, and per sequence the SNR and the targets

    Sequence K depends on the seed, K and the settings alone. The set is written beside `root` and moved there
    at the end. With `overwrite`, an earlier synthetic set at `root` is replaced.
    Raises UserError for a wrong count or seed and where `root` may not be replaced.
    """
    if min(train_sequences, test_sequences, seed) < 0 or train_sequences + test_sequences < 1:
        raise UserError(
            f"train_sequences {train_sequences}, test_sequences {test_sequences}, seed {seed}: "
            "none may be negative and there must be at least one sequence"
        )
    root = Path(os.path.realpath(Path(root).expanduser()))  # `resolve` raises for a loop of links
    check_replaceable(root, overwrite)
    staging = temporary_beside(root)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(root.parent)
        write_set(staging / "new", settings, train_sequences, test_sequences, seed)
        replace_set(root, staging)
    except OSError as error:
        raise UserError(
            f"cannot write the data set {root}: {reason(error)}; free some space or choose another folder"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_set(root: Path, staging: Path) -> None:
    """Move staging/new to `root`, and what was there to staging/old; all stays where it was if that fails."""
    if root.exists():
        root.rename(staging / "old")
    try:
        (staging / "new").rename(root)
    except BaseException:
        if (staging / "old").exists():
            (staging / "old").rename(root)
        raise
