"""MWIRSTD, and NUDT-MIRSDT with TSMSA's own lists. The files are empty: readers open none."""

import csv
import re
from pathlib import Path

import pytest

from dataset import create_dataset
from utils.errors import UserError

SHIPPED = Path(__file__).parents[1] / "dataset" / "splits" / "MWIRSTD"
TRAIN = {1: 78, 2: 63, 4: 65, 5: 119, 6: 93, 7: 74, 8: 83, 9: 56, 10: 86, 11: 77, 12: 53, 13: 75, 14: 68}


def put(root: Path, *sequences: object, frames: int = 12, suffix: str = ".jpg") -> Path:
    """images/<sequence>/<n><suffix> and masks/<sequence>/<n>.png, n from 0."""
    for sequence in sequences:
        for kind, ending in (("images", suffix), ("masks", ".png")):
            folder = root / kind / str(sequence)
            folder.mkdir(parents=True)
            for n in range(frames):
                (folder / f"{n}{ending}").touch()
    return root


def names(found) -> list[str]:
    return [sequence.name for sequence in found]


def fails(text: str, root: Path, split: str = "test") -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        create_dataset("MWIRSTD", root, split)


def test_shipped_lists():
    """990 key frames of 13 sequences, without number 3, and 300 of one."""
    rows = {}
    for split in ("train", "test"):
        with (SHIPPED / f"tsmsa_{split}.csv").open(newline="") as file:
            rows[split] = {int(row["sequence"]): int(row["frames"]) for row in csv.DictReader(file)}
    assert rows == {"train": TRAIN, "test": {15: 300}}
    assert sum(TRAIN.values()) == 990


@pytest.mark.parametrize("folder", ["MWIRSTD", "mwirdst"])
@pytest.mark.parametrize("name", ["MWIRSTD", "MWIRDST"])
def test_without_lists_the_shipped_ones_are_taken(tmp_path, folder, name):
    root = put(tmp_path / folder, *TRAIN, 3, 15)
    for split, expected in (("train", [str(k) for k in TRAIN]), ("test", ["15"])):
        found = create_dataset(name, tmp_path, split)
        assert (found.name, found.root, names(found)) == ("MWIRSTD", root, expected)
        note = f"{split}.txt is missing in {root}; the published list that ships with the project is used"
        assert found.notes == (note,)
        assert found.mean is found.std is None and found.subsets == {}


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".png"])
def test_frames_and_masks_in_the_order_of_their_numbers(tmp_path, suffix):
    put(tmp_path, 15, suffix=suffix)
    (sequence,) = create_dataset("MWIRSTD", tmp_path, "test")
    assert sequence.images == tuple(tmp_path / "images/15" / f"{n}{suffix}" for n in range(12))
    assert sequence.masks == tuple(tmp_path / "masks/15" / f"{n}.png" for n in range(12))
    assert sequence.centroids is sequence.points is sequence.boxes is None


def test_lists_of_key_frames(tmp_path):
    put(tmp_path, 4, 15, 16)
    (tmp_path / "test.txt").write_text("".join(f"images/{k}/{n}.jpg\n" for k in (16, 4) for n in range(12)))
    found = create_dataset("MWIRSTD", tmp_path, "test")
    assert (names(found), found.notes) == (["16", "4"], ())


def test_failures(tmp_path):
    fails(f"{tmp_path} does not hold MWIRSTD: looked for images/* with masks/*", tmp_path)
    put(tmp_path, 1)
    fails(f"asks for {tmp_path / 'images' / '15'}, which is missing", tmp_path)
    (tmp_path / "test.txt").write_text("images/1/0.jpg\n")
    (tmp_path / "masks/1/7.png").unlink()
    fails("7.jpg has no mask of its name", tmp_path)


def test_nudt_mirsdt_as_tsmsa(tmp_path):
    """Its folders are in lower case and its frames start at 0."""
    put(tmp_path, "sequence85", "sequence47", suffix=".png")
    lines = [f"images/sequence{k}/{n}.png\n" for k in (85, 47) for n in range(12)]
    (tmp_path / "test.txt").write_text("".join(lines))
    found = create_dataset("NUDT-MIRSDT", tmp_path, "test")
    assert names(found) == ["sequence85", "sequence47"]
    assert found[1].images == tuple(tmp_path / "images/sequence47" / f"{n}.png" for n in range(12))
    assert found[1].masks == tuple(tmp_path / "masks/sequence47" / f"{n}.png" for n in range(12))
    assert found.subsets == {"SNR<=3": ("sequence47",), "SNR>3": ("sequence85",)}
