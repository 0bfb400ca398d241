"""A user's own folder: where sequences are found, which truth belongs to them, and the real excerpts."""

import io
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset import create_dataset
from utils.errors import UserError

REAL = Path(__file__).parents[1].parent / "shared" / "real"


def small_image() -> bytes:
    """A file of 256x256 black pixels; readers look at sizes alone, and no further than the first frame."""
    content = io.BytesIO()
    Image.new("1", (256, 256)).save(content, "PNG")
    return content.getvalue()


IMAGE = small_image()


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(IMAGE)
    return folder


def names_of(root: Path, split: str = "test") -> list[str]:
    return [sequence.name for sequence in create_dataset("Folder", root, split)]


def only(root: Path, **options):
    (sequence,) = create_dataset("Folder", root, "test", **options)
    return sequence


def kinds(sequence) -> list[str]:
    return [k for k in ("masks", "centroids", "points", "boxes") if getattr(sequence, k) is not None]


def rows(arrays) -> list[list]:
    return [array.tolist() for array in arrays]


def fails(text: str, root: Path, **options) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        create_dataset("Folder", root, "test", **options)


@pytest.fixture
def clip(tmp_path):
    """A folder with one sequence of three frames."""
    put(tmp_path / "clip/images", "2.png", "10.png", "1.png")
    return tmp_path / "clip"


# Finding sequences


def test_one_folder_is_one_sequence(clip, monkeypatch):
    monkeypatch.chdir(clip)
    for root in (clip, Path(".")):
        sequence = only(root)
        assert sequence.name == "clip"
        assert [path.name for path in sequence.images] == ["1.png", "2.png", "10.png"]
        assert kinds(sequence) == []


def test_leaf_folders_and_nested_folders(clip, tmp_path):
    for place in ("test/data20", "test/data3", "train/data1"):
        put(tmp_path / "many/images" / place, "1.bmp")
        put(tmp_path / "many/masks" / place, "1.png")
    put(tmp_path / "deep/er/images", "1.tif")
    put(tmp_path / "papers", "figure.png")
    assert names_of(tmp_path / "many") == ["test/data3", "test/data20", "train/data1"]
    nested = ["clip", "deep/er", "many/test/data3", "many/test/data20", "many/train/data1"]
    found = create_dataset("Folder", tmp_path, "train")
    assert [sequence.name for sequence in found] == nested
    assert found[3].masks == (tmp_path / "many/masks/test/data20/1.png",)
    assert (found.mean, found.std) == (None, None)
    assert found.notes == (
        f"there is no train.txt or test.txt in {tmp_path}; both splits are all its sequences",
    )


def test_lists_make_the_splits(tmp_path):
    for name in ("a", "b/c", "d"):
        put(tmp_path / name / "images", "1.png")
    (tmp_path / "test.txt").write_text("d/images/1.png\nb/c\nd\n")
    found = create_dataset("Folder", tmp_path, "test")
    assert [sequence.name for sequence in found] == ["d", "b/c"]
    assert found.notes == ()
    with pytest.raises(UserError, match="but no train.txt"):
        create_dataset("Folder", tmp_path, "train")
    (tmp_path / "test.txt").write_text("e\n")
    fails(f"lists e, which is no sequence of {tmp_path}; known: a, b/c, d", tmp_path)


def test_no_frames(tmp_path):
    fails(f"there is no folder {tmp_path / 'none'}", tmp_path / "none")
    fails(f"there is no folder images/ in or below {tmp_path}", tmp_path)
    put(tmp_path / "a/images", "readme.md")
    fails(f"there are no frames in {tmp_path / 'a' / 'images'}", tmp_path)


# Truth


def test_masks_and_centroids_come_first(clip):
    put(clip / "masks", "1.png", "2.png", "10.png")
    put(clip / "masks_centroid", "1.png", "2.png", "10.png")
    (clip / "boxes.csv").write_text("frame,x,y,w,h\n")
    sequence = only(clip)
    assert kinds(sequence) == ["masks", "centroids"]
    assert sequence.centroids[2] == clip / "masks_centroid/10.png"
    (clip / "masks/2.png").unlink()
    fails("2.png has no mask of its name", clip)


def test_masks_for_some_sequences_only(tmp_path):
    put(tmp_path / "images/a", "1.png")
    put(tmp_path / "images/b", "1.png")
    put(tmp_path / "masks/a", "1.png")
    fails(f"{tmp_path / 'masks' / 'b'} with the masks is missing", tmp_path)


@pytest.mark.parametrize("name", ["centroids.txt", "centroids.csv", "groundtruth.txt"])
def test_points(clip, name):
    (clip / name).write_text("5,7\n\n1.5, 2 ; 3,4\n\n")
    assert rows(only(clip).points) == [[[5, 7]], [], [[1.5, 2], [3, 4]]]
    assert rows(only(clip, box_origin=1).points) == [[[4, 6]], [], [[0.5, 1], [2, 3]]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("1,2\n3,4\n", "has 2 lines for 3 frames"),
        ("1,2\n\n1,2,3;4,5,6\n", "line 3"),
        ("row,col\n\n\n", "line 1"),
    ],
)
def test_points_that_do_not_fit(clip, text, message):
    (clip / "groundtruth.txt").write_text(text)
    fails(message, clip)


def test_box_csv(clip):
    (clip / "boxes.csv").write_text("frame,x,y,w,h\n2.png,10,20,3,4\n2.png,1,1,1.5,1\n10,5,6,1,1\n")
    assert rows(only(clip).boxes) == [[], [[10, 20, 13, 24], [1, 1, 2.5, 2]], [[5, 6, 6, 7]]]
    assert rows(only(clip, box_origin=1).boxes)[2] == [[4, 5, 5, 6]]
    fails("option box_origin of data set Folder takes 0 or 1, not 2", clip, box_origin=2)


@pytest.mark.parametrize(
    "text, message",
    [
        ("frame,x,y,w,h\n3.png,1,2,3,4\n", "line 2: there is no frame 3.png"),
        ("frame,x,y,w,h\n2.png,1,2,three,4\n", "line 2: expected frame,x,y,w,h"),
        ("name,x,y,w,h\n2.png,1,2,3,4\n", "line 1: there is no header frame,x,y,w,h"),
    ],
)
def test_box_csv_that_does_not_fit(clip, text, message):
    (clip / "boxes.csv").write_text(text)
    fails(message, clip)


@pytest.mark.parametrize("name", ["boxes.csv", "groundtruth.txt"])
def test_files_of_one_sequence_refuse_several(tmp_path, name):
    put(tmp_path / "images/a", "1.png")
    put(tmp_path, name)
    fails(f"{tmp_path / name} cannot serve several sequences", tmp_path)


VOC_BOX = "<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


@pytest.mark.parametrize("folder", ["labels", "annotations"])
def test_voc(clip, folder):
    labels = put(clip / folder)
    boxes = VOC_BOX.format(1, 2, 4, 6) + VOC_BOX.format(7, 7, 8, 9)
    (labels / "2.xml").write_text(f"<annotation>{boxes}</annotation>")
    assert rows(only(clip).boxes) == [[], [[1, 2, 4, 6], [7, 7, 8, 9]], []]
    (labels / "2.xml").rename(labels / "3.xml")
    fails("3.xml has no frame of its name", clip)
    (labels / "3.xml").rename(labels / "1.xml")
    (labels / "1.xml").write_text("<annotation><bndbox><xmin>1</xmin></bndbox></annotation>")
    fails("1.xml is no Pascal VOC annotation", clip)


def coco(*frames: str) -> dict:
    """One box in the first frame, none in the others."""
    images = [{"id": 7 + n, "file_name": frame} for n, frame in enumerate(frames)]
    return {"images": images, "annotations": [{"id": 1, "image_id": 7, "bbox": [1, 2, 3, 4]}]}


@pytest.mark.parametrize("folder", [".", "json", "annotations"])
@pytest.mark.parametrize("prefix", ["", "images/", "/home/somebody/clip/images/"])
def test_coco(clip, folder, prefix):
    path = put(clip / folder) / "instances.json"
    path.write_text(json.dumps(coco(f"{prefix}2.png", f"{prefix}1.png", f"{prefix}10.png")))
    (path.parent / "settings.json").write_text('{"colour": "green"}')
    assert rows(only(clip).boxes) == [[], [[1, 2, 4, 6]], []]


def test_coco_in_several_files(tmp_path):
    for name in ("a", "b"):
        put(tmp_path / "images" / name, "1.png")
        (put(tmp_path / "json") / f"{name}.json").write_text(json.dumps(coco(f"{name}/1.png")))
    found = create_dataset("Folder", tmp_path, "test")
    assert [rows(sequence.boxes) for sequence in found] == [[[[1, 2, 4, 6]]]] * 2
    (tmp_path / "json/copy.json").write_text(json.dumps(coco("a/1.png")))
    fails("copy.json lists a/1, which another file lists too", tmp_path)


def test_coco_and_frames_that_do_not_fit(clip):
    (clip / "one.json").write_text(json.dumps(coco("1.png", "2.png")))
    fails(f"{clip / 'images' / '10.png'} is not in the annotation lists of {clip}", clip)
    (clip / "one.json").write_text(json.dumps(coco("1.png", "2.png", "10.png", "11.png", "12.png")))
    fails(f"the annotations of {clip} list frames that are not in its images/: 11, 12;", clip)
    (clip / "one.json").write_text('{"images": [], "annotations": [{"image_id": 1}]}')
    fails("one.json is no COCO annotation", clip)


def test_txt_list(clip):
    lines = ["images/1.png", "images/2.png 1,2,4,6,0 7,7,8,9,0", "images/10.png  5,5,6,6,0 ", ""]
    (clip / "coco_val.txt").write_text("\n".join(lines))
    (clip / "readme.txt").write_text("Taken in May.\n")
    assert rows(only(clip).boxes) == [[], [[1, 2, 4, 6], [7, 7, 8, 9]], [[5, 5, 6, 6]]]
    (clip / "coco_val.txt").write_text("\n".join([*lines, "images/11.png 1,2,3"]))
    fails("'images/11.png 1,2,3' is not path x1,y1,x2,y2,class", clip)


def test_a_list_of_frames_without_boxes_is_no_truth(clip):
    (clip / "frames.txt").write_text("images/1.png\nimages/2.png\nimages/10.png\n")
    assert kinds(only(clip)) == []


# Real excerpts, where they are at hand


def contrast(image: np.ndarray, row: float, col: float, reach: int) -> float:
    """Peak within `reach` of a place over the median of its surroundings, in their standard deviations."""
    row, col = round(row), round(col)
    near = image[max(row - reach, 0) : row + reach + 1, max(col - reach, 0) : col + reach + 1]
    around = image[max(row - 20, 0) : row + 21, max(col - 20, 0) : col + 21]
    return (near.max() - np.median(around)) / around.std() if near.size else 0.0


@pytest.mark.skipif(not REAL.is_dir(), reason="the real excerpts are not beside the repository")
def test_real_excerpts():
    excerpts = {sequence.name: sequence for sequence in create_dataset("Folder", REAL, "test")}
    known = {
        "DAUB/test/data11": (56, ["boxes"]),
        "DAUB/test/data20": (100, ["boxes"]),
        "ECASTT_seq1": (30, []),
        "IR_DRONE_142": (120, ["boxes"]),
        "ISTD_seq2_204-264": (61, ["points"]),
        "ISTD_seq4_1-60": (60, ["points"]),
        "MSIDT_complex_cloud_221-254": (34, ["boxes"]),
    }
    found = {name: excerpts[name] for name in known}  # others may lie beside them
    assert {name: (len(sequence), kinds(sequence)) for name, sequence in found.items()} == known
    for name, sequence in found.items():
        truth = sequence.points or sequence.boxes or ()
        here, swapped = [], []
        for k in range(0, len(truth), 10):
            image = cv2.imread(str(sequence.images[k]), cv2.IMREAD_GRAYSCALE).astype(float)
            if sequence.points:
                ((row, col),), reach = truth[k], 2
            else:
                ((x1, y1, x2, y2),) = truth[k]
                row, col, reach = (y1 + y2 - 1) / 2, (x1 + x2 - 1) / 2, int(max(x2 - x1, y2 - y1) / 2)
            here.append(contrast(image, row, col, reach))
            swapped.append(contrast(image, col, row, reach))
        if truth:
            assert np.median(here) > max(5, 1.5 * np.median(swapped)), name


@pytest.mark.skipif(not REAL.is_dir(), reason="the real excerpts are not beside the repository")
def test_daub_json_and_txt_list_agree(tmp_path):
    for name in ("data11", "data20"):
        frames = (REAL / "DAUB/images/test" / name).iterdir()
        put(tmp_path / "images/test" / name, *(path.name for path in frames))
    (tmp_path / "coco_val_DAUB.txt").write_text((REAL / "DAUB/coco_val_DAUB.txt").read_text())
    by_list, by_json = create_dataset("Folder", tmp_path), create_dataset("Folder", REAL / "DAUB")
    assert [rows(s.boxes) for s in by_list] == [rows(s.boxes) for s in by_json]
