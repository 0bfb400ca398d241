"""The published data sets: every layout, list form and failure. The files are empty: readers open none."""

import csv
import os
import re
from pathlib import Path

import pytest

from dataset import create_dataset
from utils.errors import UserError

SPLITS = Path(__file__).parents[1] / "dataset" / "splits"
MASKS = ("images", "masks")


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def write_list(path: Path, *lines: str, newline: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(newline.join([*lines, ""]).encode())


def put_sequence(root: Path, name: str, kinds=MASKS, frames=("00001.png", "00002.png")) -> None:
    for kind in kinds:
        put(root / name / kind, *frames)


def nudt(root: Path, *names: str, kinds=MASKS) -> Path:
    for name in names:
        put_sequence(root, name, kinds)
    return root


def shipped(name: str) -> list[str]:
    return (SPLITS / name).read_text().split()


def shipped_rows(name: str) -> list[dict]:
    with (SPLITS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def stems(paths) -> list[str]:
    return [path.stem for path in paths]


def fails(text: str, name: str, root: Path, split: str = "test", **options) -> str:
    with pytest.raises(UserError, match=re.escape(text)) as error:
        create_dataset(name, root, split, **options)
    return str(error.value)


# The lists that ship with the project, against facts of the papers' logs


def test_shipped_lists_of_nudt_mirsdt():
    low = [47, 56, 59, 76, 92, 101, 105, 119]
    test = [*range(85, 98), 47, 56, 59, 76, 101, 105, 119]
    train = shipped("NUDT-MIRSDT/train_sequences.txt")
    assert shipped("NUDT-MIRSDT/test_sequences.txt") == [f"Sequence{k}" for k in test]
    assert set(train) == {f"Sequence{k}" for k in range(1, 85) if k not in low}
    assert len(train) == 80
    assert shipped("NUDT-MIRSDT/test_low_snr_sequences.txt") == [f"Sequence{k}" for k in low]
    high = shipped("NUDT-MIRSDT/test_high_snr_sequences.txt")
    assert high == [f"Sequence{k}" for k in range(85, 98) if k != 92]


def test_shipped_facts_of_nudt_mirsdt():
    rows = shipped_rows("NUDT-MIRSDT/test_facts.csv")
    assert {row["sequence"] for row in rows} == set(shipped("NUDT-MIRSDT/test_sequences.txt"))
    assert sum(int(row["targets_centroid"]) for row in rows) == 1729
    assert sum(int(row["frames"]) * int(row["pixels_per_frame"]) for row in rows) == 132309100


def test_shipped_lists_of_irdst():
    train, test = (shipped_rows(f"IRDST-simulation/simulation_{split}.csv") for split in ("train", "test"))
    assert [int(row["sequence"]) for row in train] == [k for k in range(1, 252) if k != 40]
    assert [int(row["sequence"]) for row in test] == list(range(252, 318))
    assert sum(int(row["frames"]) for row in train) == 82892
    assert sum(int(row["frames"]) for row in test) == 19185


@pytest.mark.parametrize(
    "name, count",
    [
        ("RGBT-Tiny/deeppro_train_sequences.txt", 45),
        ("RGBT-Tiny/deeppro_test_sequences.txt", 15),
        ("SatVideoIRSDT/deeppro_train_sequences.txt", 1008),
        ("SatVideoIRSDT/deeppro_val_sequences.txt", 200),
    ],
)
def test_shipped_lists_of_others(name, count):
    assert len(set(shipped(name))) == len(shipped(name)) == count


# NUDT-MIRSDT


def test_nudt_tree_and_its_list(tmp_path):
    nudt(tmp_path, "Sequence92", "Sequence1", "Sequence85", kinds=(*MASKS, "masks_centroid"))
    lines = [f"Sequence{k}/Mix/0000{n}.mat" for k in (92, 85) for n in (1, 2)]
    write_list(tmp_path / "test.txt", *lines, "")
    found = create_dataset("nudt_mirsdt", tmp_path, "test")
    assert [sequence.name for sequence in found] == ["Sequence92", "Sequence85"]
    assert found[0].images == tuple(tmp_path / "Sequence92/images" / f"0000{n}.png" for n in (1, 2))
    assert found[0].masks == tuple(tmp_path / "Sequence92/masks" / f"0000{n}.png" for n in (1, 2))
    assert found[0].centroids == tuple(
        tmp_path / "Sequence92/masks_centroid" / f"0000{n}.png" for n in (1, 2)
    )
    assert (found.name, found.mean, found.std, found.notes) == ("NUDT-MIRSDT", 105.4025, 26.6452, ())
    assert found.subsets == {"SNR<=3": ("Sequence92",), "SNR>3": ("Sequence85",)}


def test_nudt_without_list_takes_the_shipped_one(tmp_path):
    names = shipped("NUDT-MIRSDT/test_sequences.txt")
    root = nudt(tmp_path / "NUDT_MIRSDT", *names)
    found = create_dataset("NUDT-MIRSDT", tmp_path, "test")
    assert [sequence.name for sequence in found] == names
    assert found.notes == (
        f"test.txt is missing in {root}; the published list that ships with the project is used",
    )
    assert found.subsets["SNR<=3"] == tuple(f"Sequence{k}" for k in (92, 47, 56, 59, 76, 101, 105, 119))
    assert len(found.subsets["SNR>3"]) == 12
    assert found[0].centroids is None


@pytest.mark.parametrize(
    "line",
    ["Sequence85", "Sequence85/Mix/00001.mat", "Sequence85/images/00001.png", "images/Sequence85/0.png"],
)
def test_one_line_lists_in_every_form(tmp_path, line):
    nudt(tmp_path, "Sequence85", "Sequence86")
    (tmp_path / "train.txt").write_text(line, encoding="utf-8-sig")
    found = create_dataset("NUDT-MIRSDT", tmp_path, "train")
    assert [sequence.name for sequence in found] == ["Sequence85"]


def test_nudt_in_the_order_of_tsmsa_and_lmaformer(tmp_path):
    frames = ("0.png", "1.png", "2.png", "10.png")
    for kind in MASKS:
        put_sequence(tmp_path, kind, ("sequence47",), frames)
    write_list(tmp_path / "test.txt", "Sequence47")
    (sequence,) = create_dataset("NUDT-MIRSDT", tmp_path, "test")
    assert sequence.name == "Sequence47"
    assert stems(sequence.images) == stems(sequence.masks) == ["0", "1", "2", "10"]
    assert sequence.images[0].parent.samefile(tmp_path / "images/sequence47")


def test_nudt_failures(tmp_path):
    fails(f"there is no folder {tmp_path / 'none'}; give", "NUDT-MIRSDT", tmp_path / "none")
    put(tmp_path / "IRDST-simulation" / "images" / "1", "1.bmp")
    message = fails(f"{tmp_path} does not hold NUDT-MIRSDT", "NUDT-MIRSDT", tmp_path)
    assert "SequenceN/images/" in message and "images/SequenceN/" in message

    nudt(tmp_path, "Sequence1")
    write_list(tmp_path / "test.txt", "Sequence1", "Sequence2")
    fails(f"asks for {tmp_path / 'Sequence2' / 'images'}, which is missing", "NUDT-MIRSDT", tmp_path)
    put_sequence(tmp_path, "Sequence2", ("images",))
    fails(f"asks for {tmp_path / 'Sequence2' / 'masks'}, which is missing", "NUDT-MIRSDT", tmp_path)
    write_list(tmp_path / "test.txt", " ", "")
    fails(f"the split list {tmp_path / 'test.txt'} is empty", "NUDT-MIRSDT", tmp_path)


# Listing and pairing, the same in every reader


def one_sequence(root: Path, images, masks) -> Path:
    put(root / "Sequence1/images", *images)
    put(root / "Sequence1/masks", *masks)
    write_list(root / "test.txt", "Sequence1")
    return root


def test_only_image_files_are_frames(tmp_path):
    images = ["1.PNG", "2.bmp", "3.jpg", "4.JPEG", "5.tif", "6.tiff", "Thumbs.db", "._1.png", "notes.txt"]
    one_sequence(tmp_path, images, [f"{n}.png" for n in range(1, 7)])
    (sequence,) = create_dataset("NUDT-MIRSDT", tmp_path, "test")
    assert [path.name for path in sequence.images] == images[:6]


def test_masks_pair_by_name(tmp_path):
    """Zeros before a number do not count, in the whole name."""
    one_sequence(tmp_path / "a", ["1.bmp", "2.bmp", "10.bmp"], ["10.png", "2.png", "1.png"])
    one_sequence(
        tmp_path / "b", ["c01_08.bmp", "c01_9.bmp", "c01_10.bmp"], ["c1_10.png", "c1_9.png", "c1_8.png"]
    )
    (same,) = create_dataset("NUDT-MIRSDT", tmp_path / "a", "test")
    (padded,) = create_dataset("NUDT-MIRSDT", tmp_path / "b", "test")
    assert stems(same.masks) == stems(same.images) == ["1", "2", "10"]
    assert (stems(padded.images), stems(padded.masks)) == (
        ["c01_08", "c01_9", "c01_10"],
        ["c1_8", "c1_9", "c1_10"],
    )


@pytest.mark.parametrize(
    "images, masks, text",
    [
        (["1.png", "2.png", "3.png"], ["1.png", "3.png"], "images{sep}2.png has no mask of its name"),
        (["1.png", "3.png"], ["1.png", "2.png", "3.png"], "masks{sep}2.png has no frame of its name"),
        ([], ["1.png"], "there are no frames in"),
        (["1.png"], [], "there are no masks in"),
        (["1.png", "1.bmp"], ["1.png"], "holds both 1."),
    ],
)
def test_files_that_do_not_pair(tmp_path, images, masks, text):
    one_sequence(tmp_path, images, masks)
    fails(text.format(sep=os.sep), "NUDT-MIRSDT", tmp_path)


# NUDT-MIRSDT-Noise


@pytest.fixture
def noisy(tmp_path):
    """Clean and noisy set side by side; gives the version's folder."""
    nudt(tmp_path / "NUDT-MIRSDT", "Sequence85", kinds=(*MASKS, "masks_centroid"))
    version = tmp_path / "NUDT-MIRSDT-Noise" / "NUDT-MIRSDT-Noise8.0_FJY(g0.15-o1.3)"
    nudt(version, "Sequence85", kinds=("images",))
    write_list(version / "test.txt", "Sequence85/Mix/00001.mat")
    return version


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_noise_takes_the_truth_of_the_clean_set(noisy, levels, monkeypatch):
    root = [noisy, *noisy.parents][levels]
    monkeypatch.chdir(root)
    for spelling in (root, Path(".")):
        found = create_dataset("NUDT-MIRSDT-HiNo", spelling, "test")
        clean = noisy.parents[1] / "NUDT-MIRSDT" / "Sequence85"
        assert found.name == "NUDT-MIRSDT-Noise"
        assert {path.parent for path in found[0].images} == {noisy / "Sequence85" / "images"}
        assert {path.parent for path in found[0].masks} == {clean / "masks"}
        assert {path.parent for path in found[0].centroids} == {clean / "masks_centroid"}
        assert found.subsets == {"SNR>3": ("Sequence85",)}
        assert found.mean == 105.4025


def test_noise_with_a_clean_set_elsewhere(noisy, tmp_path):
    (tmp_path / "NUDT-MIRSDT").rename(tmp_path / "elsewhere")
    fails("give its folder as clean_root", "NUDT-MIRSDT-Noise", noisy)
    (sequence,) = create_dataset("NUDT-MIRSDT-Noise", noisy, "test", clean_root=tmp_path / "elsewhere")
    assert sequence.masks[0] == tmp_path / "elsewhere" / "Sequence85" / "masks" / "00001.png"


def test_noise_asks_which_version(noisy):
    nudt(noisy.parent / "other", "Sequence85", kinds=("images",))
    message = fails("holds several versions", "NUDT-MIRSDT-Noise", noisy.parents[1])
    assert noisy.name in message and "other" in message


def test_noise_never_takes_the_clean_images(tmp_path):
    clean = nudt(tmp_path / "NUDT-MIRSDT", *shipped("NUDT-MIRSDT/test_sequences.txt"))
    for root in (tmp_path, clean):
        fails("does not hold NUDT-MIRSDT-Noise", "NUDT-MIRSDT-Noise", root)


# Synthetic


def test_synthetic(tmp_path):
    root = nudt(tmp_path / "Synthetic", "Sequence1", "Sequence2", "Sequence3")
    write_list(root / "test.txt", "Sequence2", "Sequence3")
    write_list(root / "low_snr_sequences.txt", "Sequence1", "Sequence3")
    write_list(root / "high_snr_sequences.txt", "Sequence2")
    found = create_dataset("Synthetic", tmp_path, "test")
    assert found.subsets == {"SNR<=3": ("Sequence3",), "SNR>3": ("Sequence2",)}
    assert (found.mean, found.std) == (None, None)
    fails(f"there is no train.txt in {root}", "Synthetic", tmp_path, "train")


def test_synthetic_says_how_it_is_made(tmp_path):
    for root in (tmp_path, tmp_path / "none"):
        fails(f"python tools/make_synthetic.py --out {root}", "Synthetic", root)


# The other published sets


def test_irdst(tmp_path):
    for kind in MASKS:
        put(tmp_path / kind / "252", "1.bmp", "2.bmp", "10.bmp")
    write_list(tmp_path / "img_idx/test_IRDST-simulation.txt", "252/1", "252/2", newline="\r\n")
    found = create_dataset("irdst_simulation", tmp_path, "test")
    assert [sequence.name for sequence in found] == ["252"]
    assert stems(found[0].images) == ["1", "2", "10"]
    assert (found.mean, found.std) == (106.8523, 56.9243)
    fails(f"asks for {tmp_path / 'images' / '1'}", "IRDST-simulation", tmp_path, "train")


def test_irdst_without_list_takes_the_shipped_csv(tmp_path):
    for kind in MASKS:
        for k in range(252, 318):
            put(tmp_path / kind / str(k), "1.bmp")
    found = create_dataset("IRDST-simulation", tmp_path, "test")
    assert [sequence.name for sequence in found] == [str(k) for k in range(252, 318)]
    assert "test_IRDST-simulation.txt is missing" in found.notes[0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_rgbt_tiny(tmp_path, split):
    root = tmp_path / "RGB-T"
    put(root / f"{split}2017/DJI_1/01", "00001.jpg")
    put(root / f"{split}2017/DJI_1/00", "00001.jpg")
    put(root / "segmentations/DJI_1", "00001.png")
    write_list(root / f"{split}.txt", "DJI_1")
    found = create_dataset("RGBT-Tiny", tmp_path, split)
    assert found[0].images == (root / f"{split}2017/DJI_1/01/00001.jpg",)
    assert found[0].masks == (root / "segmentations/DJI_1/00001.png",)
    assert (found.mean, found.std) == (85.0799, 47.4845)


@pytest.mark.parametrize("split, part", [("train", "train"), ("test", "val")])
@pytest.mark.parametrize(
    "list_name, line",
    [("{}.txt", "000001_01"), ("{}_list.txt", "dataset/SatVideoIRSDT/{}/000001_01/img/000001.png")],
)
def test_satvideo_irsdt(tmp_path, split, part, list_name, line):
    put_sequence(tmp_path / part, "000001_01", ("img", "mask"))
    write_list(tmp_path / list_name.format(part), line.format(part))
    write_list(tmp_path / "test.txt", "000009")
    found = create_dataset("SatVideoIRSDT", tmp_path, split)
    assert [sequence.name for sequence in found] == ["000001_01"]
    assert found[0].masks[1] == tmp_path / part / "000001_01/mask/00002.png"
    assert (found.mean, found.std) == (111.47, 22.43)


@pytest.mark.parametrize("list_name", ["annotations/val_sequences.txt", "video_idx/test_IRSatVideo-LEO.txt"])
def test_irsatvideo_leo(tmp_path, list_name):
    for kind in MASKS:
        put(tmp_path / kind / "12", "0.png", "2.png", "10.png")
    write_list(tmp_path / list_name, "12")
    found = create_dataset("IRSatVideo-LEO", tmp_path, "test")
    assert stems(found[0].images) == stems(found[0].masks) == ["0", "2", "10"]
    assert (found.mean, found.std) == (72.1040267944336, 12.302865028381348)
    fails("there is no annotations/train_sequences.txt", "IRSatVideo-LEO", tmp_path, "train")


@pytest.mark.parametrize(
    "name, place",
    [
        ("IRDST-simulation", "images/*"),
        ("IRSatVideo-LEO", "images/*"),
        ("RGBT-Tiny", "test2017/*/01"),
        ("SatVideoIRSDT", "val/*/img"),
    ],
)
def test_a_strange_folder_is_refused(tmp_path, name, place):
    fails(f"{tmp_path} does not hold {name}: looked for {place}", name, tmp_path)
