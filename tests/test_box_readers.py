"""DAUB, ITSDT-15K and IRDST: every form and place of their lists of boxes, and what does not fit them."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset import create_dataset
from dataset.published import differences, standing
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
SPLITS = ROOT / "dataset" / "splits"
REAL_DAUB = ROOT.parent / "shared" / "real" / "DAUB"


def small_image() -> bytes:
    """A file of 256x256 black pixels; readers look at sizes alone, and no further than the first frame."""
    content = io.BytesIO()
    Image.new("1", (256, 256)).save(content, "PNG")
    return content.getvalue()


IMAGE = small_image()


def put(folder: Path, *names) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / str(name)).write_bytes(IMAGE)
    return folder


def write_lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def fails(text: str, name: str, root: Path, split: str = "test") -> str:
    with pytest.raises(UserError, match=re.escape(text)) as error:
        create_dataset(name, root, split)
    return str(error.value)


def boxes_of(sequence) -> list[list]:
    return [boxes.tolist() for boxes in sequence.boxes]


# The published lists: what specifications and repositories say of them


def published(name: str) -> dict[str, tuple[int, str]]:
    with (SPLITS / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["sequence"]: (int(row["frames"]), row["frame_ranges"]) for row in rows}


DAUB_TRAIN = {5: 3000, 14: 1426, 19: 1301, 13: 763, 17: 500, 22: 500, 10: 401, 8: 399, 9: 399, 16: 293}
DAUB_TEST = {12: 1500, 15: 751, 11: 745, 18: 500, 21: 500, 20: 400, 6: 399}


def test_published_sequences():
    for part, frames in (("train", DAUB_TRAIN), ("val", DAUB_TEST)):
        folder = {"train": "train", "val": "test"}[part]
        expected = {f"{folder}/data{k}": (n, f"0-{n - 1}") for k, n in frames.items()}
        assert published(f"DAUB/uestc_{part}.csv") == expected
    for part, numbers in (("train", range(1, 41)), ("val", [*range(58, 71), *range(81, 88)])):
        expected = {str(k): (250, "0-249") for k in numbers}
        assert published(f"ITSDT-15K/uestc_{part}.csv") == expected
    odd, even = (published(f"IRDST/real_uestc_{part}.csv") for part in ("train", "val"))
    assert {int(k) % 2 for k in odd} == {1} and {int(k) % 2 for k in even} == {0}
    assert (len(odd), sum(n for n, _ in odd.values())) == (42, 20398)
    assert (len(even), sum(n for n, _ in even.values())) == (43, 20258)
    assert all(span == f"0-{n - 1}" for n, span in (odd | even).values())
    assert (odd["9"][0], odd["91"][0], even["8"][0], even["92"][0]) == (1240, 4014, 1040, 3750)


# Small sets in every layout


def small_daub(root: Path) -> Path:
    """Two test sequences and a training one; the frames are numbered without zeros."""
    put(root / "images/test/data6", "0.bmp", "1.bmp", "2.bmp", "10.bmp")
    put(root / "images/test/data11", "0.bmp")
    put(root / "images/train/data5", "0.bmp", "1.bmp")
    return root


TEST_LINES = {
    "data6/0": ["10,20,18,28,0"],
    "data6/1": [],
    "data6/2": ["11,21,19,29,0", "100,7,104,15,0"],
    "data6/10": ["12,22,20,30,0"],
    "data11/0": ["248,0,256,8,0"],
}
TEST_BOXES = {
    "test/data6": [
        [[10, 20, 18, 28]],
        [],
        [[11, 21, 19, 29], [100, 7, 104, 15]],
        [[12, 22, 20, 30]],
    ],
    "test/data11": [[[248, 0, 256, 8]]],
}


def lines_of_test(prefix: str = "") -> list[str]:
    return [" ".join([f"{prefix}images/test/{key}.bmp", *boxes]) for key, boxes in TEST_LINES.items()]


def coco_of_test() -> dict:
    """The same as `lines_of_test`, with numbers that are not places in the lists."""
    images = [{"id": 400 + n, "file_name": f"images/test/{key}.bmp"} for n, key in enumerate(TEST_LINES)]
    annotations = []
    for n, boxes in enumerate(TEST_LINES.values()):
        for box in boxes:
            x1, y1, x2, y2, _ = map(int, box.split(","))
            annotations.append(
                {"id": 7, "image_id": 400 + n, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "target"}]}


def check_test_split(root: Path) -> None:
    found = create_dataset("DAUB", root, "test")
    assert {sequence.name: boxes_of(sequence) for sequence in found} == TEST_BOXES
    assert [path.name for path in found[0].images] == ["0.bmp", "1.bmp", "2.bmp", "10.bmp"]
    assert {boxes.shape[1:] for boxes in found[0].boxes} == {(4,)}
    assert {boxes.dtype for boxes in found[0].boxes} == {np.dtype("float64")}
    assert (found.name, found.split, found.mean, found.std, found.subsets) == ("DAUB", "test", None, None, {})


@pytest.mark.parametrize("prefix", ["", "./", "/home/some body/DAUB/", "/data/images/DAUB/", "E:\\DAUB\\"])
def test_paths_of_other_machines(tmp_path, prefix):
    root = small_daub(tmp_path / "daub")
    lines = lines_of_test(prefix)
    if "\\" in prefix:
        lines = [line.replace("/", "\\") for line in lines]
    write_lines(root / "coco_val_DAUB.txt", *lines)
    for given in (root, tmp_path):
        check_test_split(given)
    sequence = create_dataset("DAUB", root, "test")[0]
    assert sequence.images[0] == root / "images/test/data6/0.bmp"


@pytest.mark.parametrize(
    "place",
    [
        "coco_val_DAUB.txt",
        "test.txt",
        "annotations/DAUB_Test.txt",
        "json/DAUB_instances_test2017.json",
        "annotations/instances_val.json",
        "val.json",
    ],
)
def test_places_and_names_of_the_list(tmp_path, place):
    root = small_daub(tmp_path)
    if place.endswith(".txt"):
        write_lines(root / place, *lines_of_test())
    else:
        write_json(root / place, coco_of_test())
    check_test_split(root)
    fails(
        f"no list of boxes of the train split in {root}: looked for *train*.txt or *train*",
        "DAUB",
        root,
        "train",
    )


def test_each_split_takes_its_list(tmp_path):
    root = small_daub(tmp_path)
    write_lines(root / "coco_val_DAUB.txt", *lines_of_test())
    write_lines(root / "coco_train_DAUB.txt", *(f"images/train/data5/{k}.bmp 1,2,9,10,0" for k in (0, 1)))
    write_lines(root / "coco_trainval_DAUB.txt", *lines_of_test())
    check_test_split(root)
    (sequence,) = create_dataset("DAUB", root, "train")
    assert (sequence.name, boxes_of(sequence)) == ("train/data5", [[[1, 2, 9, 10]]] * 2)


def test_the_txt_list_comes_first_and_spares_the_json(tmp_path):
    root = small_daub(tmp_path)
    write_lines(root / "annotations/val.txt", *lines_of_test())
    write_lines(root / "instances_test.json", "this is not even json")
    check_test_split(root)


def test_files_that_are_no_lists_of_boxes(tmp_path):
    root = small_daub(tmp_path)
    write_lines(root / "test.txt", "data6", "data11")
    write_lines(root / "test_frames.txt", "images/test/data6/0.bmp", "images/test/data6/1.bmp")
    write_json(root / "test_settings.json", {"images": 5})
    write_json(root / "test_names.json", ["data6"])
    write_json(root / "json/test.json", coco_of_test())
    check_test_split(root)


def test_two_lists_of_a_split(tmp_path):
    root = small_daub(tmp_path)
    first = write_lines(root / "coco_val.txt", *lines_of_test())
    second = write_lines(root / "json/test.txt", *lines_of_test())
    fails(f"both {first} and {second} list the test split; keep one", "DAUB", root)


@pytest.mark.parametrize("name, counts", [("ITSDT-15K", (20, 5000, 23151)), ("IRDST", (43, 20258, 20763))])
def test_sequences_lie_directly_in_images(tmp_path, name, counts):
    put(tmp_path / name / "images/58", "0.png", "1.png", "2.png")
    put(tmp_path / name / "images/1", "0.png")
    lines = [f"/home/public/X/images/58/{k}.bmp {k},2,9,10,0" for k in range(3)]
    write_lines(tmp_path / name / f"coco_val_{name}.txt", *lines)
    found = create_dataset(name, tmp_path, "test")
    (sequence,) = found
    assert (found.name, sequence.name) == (name, "58")
    assert boxes_of(sequence) == [[[k, 2, 9, 10]] for k in range(3)]
    sequences, frames, boxes = counts
    kept = f"1 of {sequences} sequences, 3 of {frames} frames, 3 of {boxes} boxes"
    assert (found.notes, standing(found)) == ((), f"other data: {kept}")


@pytest.mark.parametrize(
    "folder, name", [("ITSDT", "itsdt 15k"), ("IRDST-real", "IRDST_real"), ("irdst", "IRDST")]
)
def test_other_spellings(tmp_path, folder, name):
    put(tmp_path / "IRDST-simulation/images/2", "1.bmp")
    put(tmp_path / folder / "images/2", "0.bmp")
    write_lines(tmp_path / folder / "val.txt", "images/2/0.bmp 1,2,3,4,0")
    (sequence,) = create_dataset(name, tmp_path, "test")
    assert sequence.images == (tmp_path / folder / "images/2/0.bmp",)


def test_the_whole_published_list_is_told_from_a_part(tmp_path):
    lines = []
    for k, frames in DAUB_TEST.items():
        put(tmp_path / f"images/test/data{k}", *(f"{n}.bmp" for n in range(frames)))
        lines += [f"images/test/data{k}/{n}.bmp 1,2,9,10,0" for n in range(frames)]
    path = write_lines(tmp_path / "coco_val_DAUB.txt", *lines)
    found = create_dataset("DAUB", tmp_path, "test")
    assert [len(sequence) for sequence in found] == list(DAUB_TEST.values())
    assert sum(len(boxes) for sequence in found for boxes in sequence.boxes) == 4795
    assert (found.notes, standing(found)) == ((), "published")

    write_lines(path, *lines[:-399])
    found = create_dataset("DAUB", tmp_path, "test")
    assert standing(found) == "other data: 6 of 7 sequences, 4396 of 4795 frames, 4396 of 4795 boxes"
    assert [d.text for d in differences(found)] == ["the published sequence test/data6 is missing"]
    write_lines(path, f"{lines[0]} 20,20,24,24,0", *lines[1:])
    found = create_dataset("DAUB", tmp_path, "test")
    assert [d.text for d in differences(found)] == ["the split has 4796 targets, published are 4795"]


# What does not fit


def test_a_folder_without_frames_or_list(tmp_path):
    fails(f"there is no folder {tmp_path / 'none'}; give", "DAUB", tmp_path / "none")
    fails(f"{tmp_path} does not hold DAUB: looked for images/", "DAUB", tmp_path)
    small_daub(tmp_path)
    message = fails(f"there is no list of boxes of the test split in {tmp_path}", "DAUB", tmp_path)
    assert "*val*.txt or *test*.txt or *val*.json or *test*.json" in message
    assert "copy the published list" in message and "tools/convert_annotations.py" in message


def test_frames_that_the_list_lacks_are_left_out_with_a_note(tmp_path):
    root = small_daub(tmp_path)
    path = write_lines(root / "val.txt", *lines_of_test())
    put(root / "images/test/data6", "3.bmp", "4.bmp")
    check_test_split(root)
    notes = create_dataset("DAUB", root, "test").notes
    assert notes[0] == f"2 frames of {root / 'images/test/data6'} are not in {path} and are left out"


def test_listed_frames_that_are_missing(tmp_path):
    root = small_daub(tmp_path)
    frames = [f"images/test/data6/{k}.bmp 1,2,9,10,0" for k in (0, 1, 2, 10, 100, 20)]
    path = write_lines(root / "val.txt", *frames)
    fails(
        f"{path} lists 2 frames of {root / 'images/test/data6'} that are not there, such as 20;", "DAUB", root
    )
    path = write_lines(root / "val.txt", *lines_of_test(), "images/test/data7/0.bmp 1,2,9,10,0")
    fails(f"asks for {root / 'images/test/data7'}, which is missing", "DAUB", root)


@pytest.mark.parametrize(
    "line, message",
    [
        ("images/test/data6/1.bmp 1,2,9,0", "line 3: 'images/test/data6/1.bmp 1,2,9,0' is not path x1,y1"),
        (
            "images/test/data6/1.bmp 30,40,8,8,0",
            "line 3: the box 30,40,8,8 (x1,y1,x2,y2) of images/test/data6/1.bmp ends before it begins",
        ),
    ],
)
def test_lines_that_are_wrong(tmp_path, line, message):
    root = small_daub(tmp_path)
    path = write_lines(root / "val.txt", "images/test/data6/0.bmp 1,2,9,10,0", "", line)
    fails(f"{path}, {message}", "DAUB", root)


# Real frames, where they are at hand


@pytest.mark.skipif(not REAL_DAUB.is_dir(), reason="the real excerpts are not beside the repository")
def test_the_excerpt_of_daub():
    for given in (REAL_DAUB, REAL_DAUB.parent):
        found = create_dataset("DAUB", given, "test")
        assert [(sequence.name, len(sequence)) for sequence in found] == [
            ("test/data11", 56),
            ("test/data20", 100),
        ]
        sides = [boxes[:, 2:] - boxes[:, :2] for sequence in found for boxes in sequence.boxes]
        assert np.array_equal(np.concatenate(sides), np.full((156, 2), 8.0))
    assert [int(path.stem) for path in found[1].images] == list(range(1, 101))
    assert found[0].boxes[0].tolist() == [[101, 85, 109, 93]]
    assert found[1].boxes[99].tolist() == [[108, 89, 116, 97]]
