"""TSIRMT in both layouts, and NUDT-MIRSDT in RPRNet's. The files are empty: readers open none."""

import re
from pathlib import Path

import pytest

from dataset import create_dataset
from utils.errors import UserError

SHIPPED = Path(__file__).parents[1] / "dataset" / "splits" / "TSIRMT"
FRAMES = ("00001.png", "00002.png", "00010.png")


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def as_released(root: Path, *sequences: str) -> Path:
    """images/<sequence>/ and masks/<sequence>/, LMAFormer's order."""
    for sequence in sequences:
        put(root / "images" / sequence, *FRAMES)
        put(root / "masks" / sequence, *FRAMES)
    return root


def as_rprnet(root: Path, *sequences: str) -> Path:
    """<sequence>/images/ and <sequence>/masks/."""
    for sequence in sequences:
        put(root / sequence / "images", *FRAMES)
        put(root / sequence / "masks", *FRAMES)
    return root


def shipped(part: str) -> list[str]:
    return (SHIPPED / f"lmaformer_{part}_sequences.txt").read_text().split()


def names(found) -> list[str]:
    return [sequence.name for sequence in found]


def fails(text: str, root: Path, split: str = "test") -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        create_dataset("TSIRMT", root, split)


def test_shipped_lists():
    """LMAFormer's division of the sequences 00001 to 00200, and its 25 test sequences of low SNR."""
    train, val, low = shipped("train"), shipped("val"), shipped("val_snr_below_10")
    assert (len(train), len(val), len(low)) == (140, 60, 25)
    assert sorted(train + val) == [f"{k:05d}" for k in range(1, 201)]
    assert set(low) < set(val)


@pytest.mark.parametrize("lay_out", [as_released, as_rprnet])
@pytest.mark.parametrize("folder", ["TSIRMT", "tsirmt", "TSIRMT_RM"])
def test_without_lists_the_shipped_ones_are_taken(tmp_path, lay_out, folder):
    root = lay_out(tmp_path / folder, *(f"{k:05d}" for k in range(1, 201)))
    (tmp_path / "OTHER").mkdir()
    train, test = (create_dataset("TSIRMT", tmp_path, split) for split in ("train", "test"))
    assert (names(train), names(test)) == (shipped("train"), shipped("val"))
    assert (train.root, test.root) == (root, root)
    for found, split in ((train, "train"), (test, "test")):
        note = f"{split}.txt is missing in {root}; the published list that ships with the project is used"
        assert found.notes == (note,)
    assert (train.subsets, test.subsets) == ({}, {"SNR<10": tuple(shipped("val_snr_below_10"))})


def test_as_released(tmp_path):
    as_released(tmp_path, "00001", "00002")
    (tmp_path / "val.txt").write_text("00002\n00001\n")
    found = create_dataset("tsirmt", tmp_path, "test")
    assert names(found) == ["00002", "00001"]
    assert found[0].images == tuple(tmp_path / "images" / "00002" / frame for frame in FRAMES)
    assert found[0].masks == tuple(tmp_path / "masks" / "00002" / frame for frame in FRAMES)
    assert found[0].centroids is found[0].points is found[0].boxes is None
    assert (found.name, found.mean, found.std, found.notes) == ("TSIRMT", None, None, ())
    assert found.subsets == {"SNR<10": ("00002",)}


def test_as_rprnet_with_its_lists(tmp_path):
    """One key frame a line; test.txt goes before val.txt."""
    root = as_rprnet(tmp_path / "TSIRMT_RM", "00001", "00002", "00010")
    (root / "train.txt").write_text("".join(f"00010/images/{frame}\n" for frame in FRAMES))
    lines = [f"{sequence}/images/{frame}\n" for sequence in ("00002", "00001") for frame in FRAMES]
    (root / "test.txt").write_text("".join(lines))
    (root / "val.txt").write_text("00010\n")
    train, test = (create_dataset("TSIRMT", root, split) for split in ("train", "test"))
    assert (names(train), names(test)) == (["00010"], ["00002", "00001"])
    assert test[1].images == tuple(root / "00001" / "images" / frame for frame in FRAMES)
    assert test[1].masks == tuple(root / "00001" / "masks" / frame for frame in FRAMES)
    assert (train.notes, test.notes) == ((), ())


def test_failures(tmp_path):
    fails(f"there is no folder {tmp_path / 'none'}; give", tmp_path / "none")
    fails(f"{tmp_path} does not hold TSIRMT: looked for images/*/", tmp_path)
    as_released(tmp_path, "00001")
    (tmp_path / "train.txt").write_text("00001\n00004\n")
    fails(f"asks for {tmp_path / 'images' / '00004'}, which is missing", tmp_path, "train")
    (tmp_path / "train.txt").write_text("00001\n")
    (tmp_path / "masks" / "00001" / "00002.png").unlink()
    fails("00002.png has no mask of its name", tmp_path, "train")
    (tmp_path / "train.txt").write_text("\n")
    fails(f"the split list {tmp_path / 'train.txt'} is empty", tmp_path, "train")


def test_nudt_mirsdt_as_rprnet(tmp_path):
    """The frames lie in images/ while the lines are DTUM's, which name the folder of its own frames."""
    as_rprnet(tmp_path, "Sequence1", "Sequence2")
    (tmp_path / "train.txt").write_text("".join(f"Sequence1/Mix/{frame[:5]}.mat\n" for frame in FRAMES))
    (sequence,) = create_dataset("NUDT-MIRSDT", tmp_path, "train")
    assert sequence.name == "Sequence1"
    assert sequence.images == tuple(tmp_path / "Sequence1" / "images" / frame for frame in FRAMES)
    assert sequence.masks == tuple(tmp_path / "Sequence1" / "masks" / frame for frame in FRAMES)
