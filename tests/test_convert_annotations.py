"""tools/convert_annotations.py and the files of boxes that it reads and writes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset import create_dataset
from dataset.annotations import frame_key, read_coco, read_txt_list, relative_frame
from tools.convert_annotations import main
from utils.errors import UserError, run_command

TOOL = Path(__file__).parents[1] / "tools" / "convert_annotations.py"
REAL = Path(__file__).parents[2] / "shared" / "real"


def convert(source: Path, to: str, out: Path, *flags) -> Path:
    main([str(arg) for arg in ("--source", source, "--to", to, "--out", out, *flags)])
    return out


@pytest.fixture
def refused(tmp_path, capsys):
    """refused(source, to, *flags): the sentence on which the command ended, after checks of its form."""

    def run(source, to, *flags) -> str:
        out = () if "--out" in flags else ("--out", tmp_path / "out")
        with pytest.raises(SystemExit) as end:
            run_command(lambda: main([str(arg) for arg in ("--source", source, "--to", to, *out, *flags)]))
        printed = capsys.readouterr().err
        assert end.value.code == 2 and printed.startswith("error: ") and printed.count("\n") == 1, printed
        return printed.removeprefix("error: ")

    return run


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def put_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def coco(frames: dict[str, list], size=(80, 60)) -> dict:
    """A COCO file of x, y, w, h boxes whose numbers are no places in its lists."""
    images, annotations = [], []
    for n, (frame, boxes) in enumerate(frames.items()):
        images.append({"id": 900 - n, "file_name": frame, "width": size[0], "height": size[1]})
        annotations += [{"id": 1, "image_id": 900 - n, "category_id": 1, "bbox": box} for box in boxes]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "target"}]}


# The form of each file


def test_coco_to_txt(tmp_path):
    frames = {
        "images/1/0.bmp": [[1, 2, 8, 8.0], [3.25, 0.1, 1e-5, 2]],
        "images/1/10.bmp": [],
        "images/1/2.bmp": [],
    }
    source = write(tmp_path / "json/a.json", coco(frames))
    text = convert(source, "txt", tmp_path / "new/folder/a.txt").read_text()
    first = "images/1/0.bmp 1,2,9,10,0 3.25,0.1,3.25001,2.1,0"
    assert text == f"{first}\nimages/1/10.bmp\nimages/1/2.bmp\n"


def test_the_published_rule(tmp_path):
    """box_detection: x1 = int(x), x2 = x1 + int(w), frames by their first annotation, none without one."""
    content = coco({"images/1/0.bmp": [], "images/1/1.bmp": [], "images/1/2.bmp": [], "images/1/3.bmp": []})
    boxes = [(3, [10.9, 20.1, 7.9, 8.2]), (1, [-0.5, 5, 3, 2.99]), (3, [1.3, 1.3, 8.0, 8.0])]
    content["annotations"] = [
        {"image_id": 900 - n, "category_id": 1 + place, "bbox": box} for place, (n, box) in enumerate(boxes)
    ]
    source = write(tmp_path / "a.json", content)
    text = convert(source, "txt", tmp_path / "a.txt", "--rule", "published").read_text()
    assert text == "images/1/3.bmp 10,20,17,28,0 1,1,9,9,2\nimages/1/1.bmp 0,5,3,7,1\n"


def test_txt_to_coco(tmp_path):
    lines = "E:\\set\\images\\1\\0.bmp 1,2,9,10,0 4,5,6,8,2\nE:\\set\\images\\1\\1.bmp\n"
    source = write(tmp_path / "list.txt", lines)
    content = json.loads(convert(source, "coco", tmp_path / "a.json", "--size", "60x80").read_text())
    assert content["images"] == [
        {"id": 1, "file_name": "images/1/0.bmp", "width": 80, "height": 60},
        {"id": 2, "file_name": "images/1/1.bmp", "width": 80, "height": 60},
    ]
    form = {"image_id": 1, "iscrowd": 0, "segmentation": [[]]}
    assert content["annotations"] == [
        {"id": 1, "category_id": 1, "bbox": [1, 2, 8, 8], "area": 64, **form},
        {"id": 2, "category_id": 3, "bbox": [4, 5, 2, 3], "area": 6, **form},
    ]
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "target"), (3, "target")]


@pytest.mark.parametrize(
    "place, flags", [("list.txt", ()), ("annotations/list.txt", ()), ("x/list.txt", ("--images",))]
)
def test_sizes_come_from_the_headers_of_the_frames(tmp_path, place, flags, refused):
    put_image(tmp_path / "images/1/0.png", np.zeros((5, 7, 3), np.uint8))
    put_image(tmp_path / "images/1/1.png", np.zeros((3, 9), np.uint16))
    source = write(tmp_path / place, "images/1/0.png 1,2,3,4,0\nimages/1/1.png\n")
    flags = [*flags, tmp_path] if flags else []
    content = json.loads(convert(source, "coco", tmp_path / "a.json", *flags).read_text())
    assert [(image["width"], image["height"]) for image in content["images"]] == [(7, 5), (9, 3)]
    (tmp_path / "images/1/1.png").write_text("no image")
    assert "1.png is not an image" in refused(source, "coco", *flags)
    (tmp_path / "images/1/1.png").unlink()
    assert f"there is no frame {tmp_path / 'images/1/1.png'}" in refused(source, "coco", *flags)


# There and back


def random_table(seed: int, decimals: int) -> dict[str, list]:
    """x, y, w, h of 0 to 3 boxes in each of 36 frames, which are not in the order of their numbers."""
    draw = np.random.default_rng(seed)
    names = ("images/1", "images/some where/2", "b/images/x")
    frames = [f"{name}/{frame}.bmp" for name in names for frame in draw.permutation(12)]
    return {f: draw.uniform(1, 40, (draw.integers(4), 4)).round(decimals).tolist() for f in frames}


@pytest.mark.parametrize("decimals", [0, 3])
@pytest.mark.parametrize("seed", range(5))
def test_coco_to_txt_to_coco(tmp_path, seed, decimals):
    table = random_table(seed, decimals)
    source = write(tmp_path / "a.json", coco(table))
    convert(source, "txt", tmp_path / "b.txt")
    convert(tmp_path / "b.txt", "coco", tmp_path / "c.json", "--size", "60x80")
    back = json.loads((tmp_path / "c.json").read_text())
    names = {image["id"]: image["file_name"] for image in back["images"]}
    found = {name: [] for name in names.values()}
    for annotation in back["annotations"]:
        found[names[annotation["image_id"]]].append(annotation["bbox"])
    assert list(found) == list(table)
    for frame, boxes in table.items():
        tolerance = 0 if decimals == 0 else 1e-13
        assert len(found[frame]) == len(boxes)
        assert np.allclose(found[frame], boxes, rtol=0, atol=tolerance)


def test_many_frames(tmp_path):
    """20000 frames; a step that is quadratic in their number would take minutes."""
    lines = [f"images/{k // 250}/{k % 250}.bmp {k % 90},2,{k % 90 + 8},10,0\n" for k in range(20000)]
    source = write(tmp_path / "a.txt", "".join(lines))
    convert(source, "coco", tmp_path / "b.json", "--size", "60x100")
    for rule in ("exact", "published"):
        out = convert(tmp_path / "b.json", "txt", tmp_path / f"{rule}.txt", "--rule", rule)
        assert out.read_text() == source.read_text()


# Masks and centroids


def masked_folder(root: Path) -> Path:
    """Three frames of 6x9: 2.bmp has a pixel and an L of four, 10.bmp nothing, 1.bmp a diagonal of two."""
    masks = np.zeros((3, 6, 9), np.uint8)
    masks[0, 0, 0] = masks[0, 2, 3] = masks[0, 3, 3:6] = 255
    masks[2, [4, 5], [7, 8]] = 1
    for name, mask in zip(("2", "10", "1"), (masks[0], masks[1], masks[2]), strict=True):
        put_image(root / f"images/a/{name}.bmp", np.full((6, 9), 50, np.uint8))
        put_image(root / f"masks/a/{name}.png", mask)
    return root


def test_masks_to_boxes(tmp_path):
    root = masked_folder(tmp_path / "set")
    text = convert(root, "txt", tmp_path / "a.txt").read_text()
    assert text == "images/a/1.bmp 7,4,9,6,0\nimages/a/2.bmp 0,0,1,1,0 3,2,6,4,0\nimages/a/10.bmp\n"
    content = json.loads(convert(root, "coco", tmp_path / "a.json").read_text())
    assert [a["bbox"] for a in content["annotations"]] == [[7, 4, 2, 2], [0, 0, 1, 1], [3, 2, 3, 2]]
    assert {(image["width"], image["height"]) for image in content["images"]} == {(9, 6)}


def test_masks_without_targets(tmp_path):
    root = tmp_path / "set"
    for kind in ("images", "masks"):
        put_image(root / kind / "0.png", np.zeros((6, 9), np.uint8))
    assert convert(root, "txt", tmp_path / "a.txt").read_text() == "images/0.png\n"
    content = json.loads(convert(root, "coco", tmp_path / "a.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": "images/0.png", "width": 9, "height": 6}]
    assert content["annotations"] == []
    assert [category["name"] for category in content["categories"]] == ["target"]


def test_masks_to_centroids(tmp_path):
    root = masked_folder(tmp_path / "set")
    convert(root, "centroids", root)
    assert (root / "a/centroids.txt").read_text() == "4.5,7.5\n0,0;2.75,3.75\n\n"
    maps = {name: np.argwhere(pixels(root / f"masks_centroid/a/{name}.png") == 255).tolist() for name in "12"}
    assert maps == {"1": [[4, 8]], "2": [[0, 0], [3, 4]]}
    assert not pixels(root / "masks_centroid/a/10.png").any()
    assert pixels(root / "masks_centroid/a/10.png").shape == (6, 9)
    (sequence,) = create_dataset("Folder", root)
    assert [path.name for path in sequence.centroids] == ["1.png", "2.png", "10.png"]
    convert(root, "centroids", tmp_path / "again")  # from the masks again, not from the rounded maps
    assert (tmp_path / "again/a/centroids.txt").read_text() == (root / "a/centroids.txt").read_text()


def test_boxes_to_centroids_that_a_folder_reads(tmp_path):
    """One sequence: centroids.txt lies beside images/, in the order of the frames and not of the list."""
    root = tmp_path / "clip"
    for k in (1, 2, 10):
        put_image(root / f"images/{k}.png", np.zeros((30, 40), np.uint8))
    lines = "images/10.png 2,4,5,6,0\nimages/1.png 10,20,18,28,0 0.5,1,2,3,0\nimages/2.png\n"
    convert(write(root / "list.txt", lines), "centroids", root)
    assert (root / "centroids.txt").read_text() == "23.5,13.5;1.5,0.75\n\n4.5,3\n"
    assert np.argwhere(pixels(root / "masks_centroid/1.png") == 255).tolist() == [[2, 1], [24, 14]]
    for path in (root / "masks_centroid").iterdir():
        path.unlink()
    (root / "masks_centroid").rmdir()
    (sequence,) = create_dataset("Folder", root)
    assert [points.tolist() for points in sequence.points] == [[[23.5, 13.5], [1.5, 0.75]], [], [[4.5, 3]]]


def test_boxes_to_masks(tmp_path):
    boxes = {"images/1/0.bmp": [[2, 1, 3, 2], [6.5, 4.2, 1, 0.5], [-1, -1, 2, 3]], "images/1/1.bmp": []}
    source = write(tmp_path / "a.json", coco(boxes, size=(9, 6)))
    convert(source, "masks", tmp_path / "out")
    expected = np.zeros((6, 9), np.uint8)
    expected[1:3, 2:5] = expected[4:5, 6:8] = expected[0:2, 0:1] = 255
    assert np.array_equal(pixels(tmp_path / "out/masks/1/0.png"), expected)
    assert pixels(tmp_path / "out/masks/1/1.png").shape == (6, 9)
    assert not pixels(tmp_path / "out/masks/1/1.png").any()
    assert "filled annotation boxes" in (tmp_path / "out/masks_are_filled_boxes.txt").read_text()


def test_masks_of_boxes_give_the_boxes_back(tmp_path):
    frames = {
        "images/1/0.png": [[2, 1, 3, 2], [10, 30, 8, 7]],
        "images/2/7.png": [[0, 0, 1, 1], [79, 59, 1, 1]],
    }
    source = write(tmp_path / "a.json", coco(frames))
    for frame in frames:
        put_image(tmp_path / "set" / frame, np.zeros((60, 80), np.uint8))
    convert(source, "masks", tmp_path / "set")
    expected = convert(source, "txt", tmp_path / "a.txt").read_text()
    assert convert(tmp_path / "set", "txt", tmp_path / "b.txt").read_text() == expected


def test_masks_lie_beside_the_images_of_their_sequence(tmp_path):
    source = write(tmp_path / "a.json", coco({"b/images/0.png": [], "c/1.png": []}))
    convert(source, "masks", tmp_path / "out")
    convert(source, "centroids", tmp_path / "out")
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == {
        "masks_are_filled_boxes.txt",
        *("b/masks/0.png", "b/masks_centroid/0.png", "b/centroids.txt"),
        *("masks/c/1.png", "masks_centroid/c/1.png", "c/centroids.txt"),
    }


def test_points_to_maps_and_back(tmp_path):
    root = tmp_path / "clip"
    for k in (1, 2):
        put_image(root / f"images/{k}.png", np.zeros((30, 40), np.uint8))
    write(root / "centroids.txt", "3,4;3,5\n20.4,39.4\n")
    convert(root, "centroids", tmp_path / "out")
    assert (tmp_path / "out/centroids.txt").read_text() == "3,4;3,5\n20.4,39.4\n"
    assert np.argwhere(pixels(tmp_path / "out/masks_centroid/1.png") == 255).tolist() == [[3, 4], [3, 5]]
    (tmp_path / "out/masks_centroid").rename(root / "masks_centroid")
    convert(root, "centroids", tmp_path / "again")
    assert (tmp_path / "again/centroids.txt").read_text() == "3,4;3,5\n20,39\n"


def test_splits_of_a_folder(tmp_path):
    for name in "ab":
        put_image(tmp_path / f"images/{name}/0.png", np.zeros((6, 9), np.uint8))
        put_image(tmp_path / f"masks/{name}/0.png", np.pad(np.ones((5, 8), np.uint8), (0, 1)))
    write(tmp_path / "train.txt", "a\n")
    write(tmp_path / "test.txt", "b\n")
    line = "images/{}/0.png 0,0,8,5,0\n"
    assert convert(tmp_path, "txt", tmp_path / "x/1.txt").read_text() == line.format("a") + line.format("b")
    out = convert(tmp_path, "txt", tmp_path / "x/2.txt", "--split", "test")
    assert out.read_text() == line.format("b")


# Refusals


def test_masks_of_another_size_than_their_frames_are_refused(tmp_path, refused):
    put_image(tmp_path / "images/0.png", np.zeros((6, 9), np.uint8))
    put_image(tmp_path / "masks/0.png", np.zeros((12, 18), np.uint8))
    for to in ("txt", "centroids"):
        assert "masks/0.png is 18x12" in refused(tmp_path, to)


def test_directions_that_make_no_sense(tmp_path, refused):
    points = tmp_path / "points"
    put_image(points / "images/1.png", np.zeros((6, 9), np.uint8))
    assert "points has no masks, boxes or centroids" in refused(points, "txt")
    write(points / "centroids.txt", "3,4\n")
    for to in ("coco", "txt", "masks"):
        assert "points has only centroids, which tell no size" in refused(points, to)
    masks = masked_folder(tmp_path / "masked")
    assert f"{masks} has masks already" in refused(masks, "masks")
    text = write(tmp_path / "a.txt", "images/1/0.bmp 1,2,3,4,0\n")
    assert f"{text} has the form txt already" in refused(text, "txt")
    assert "--rule published converts a COCO json to txt" in refused(text, "coco", "--rule", "published")
    assert "none.json is no folder, json or txt file" in refused(tmp_path / "none.json", "txt")
    assert "a.csv is no folder, json or txt file" in refused(write(tmp_path / "a.csv", ""), "txt")


def test_nothing_is_overwritten_unasked(tmp_path, refused):
    source = write(tmp_path / "a.json", coco({"images/1/0.bmp": [[1, 2, 3, 4]]}))
    out = write(tmp_path / "b.txt", "mine")
    assert f"{out} exists; add --overwrite" in refused(source, "txt", "--out", out)
    assert out.read_text() == "mine"
    convert(source, "txt", out, "--overwrite")
    assert out.read_text() == "images/1/0.bmp 1,2,4,6,0\n"
    for to, kept in (
        ("masks", "masks/1/0.png"),
        ("masks", "masks_are_filled_boxes.txt"),
        ("centroids", "masks_centroid/1/0.png"),
        ("centroids", "1/centroids.txt"),
    ):
        folder = tmp_path / kept.replace("/", "_")
        kept = write(folder / kept, "mine")
        assert f"{kept} exists; add --overwrite" in refused(source, to, "--out", folder)
        assert [path for path in folder.rglob("*") if path.is_file()] == [kept]
        convert(source, to, folder, "--overwrite")
        assert kept.read_bytes() != b"mine"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "Taken in May.\n", "a.txt is no list of path x1,y1,x2,y2,class ... with boxes"),
        ("a.txt", "images/1/0.bmp\n", "a.txt is no list of path x1,y1,x2,y2,class ... with boxes"),
        ("a.txt", "0.bmp 1,2,3,4,0\n\n0.bmp 1,2,3\n", "a.txt, line 3: '0.bmp 1,2,3' is not path x1"),
        (
            "a.txt",
            "0.bmp 1,2,3,4,0\n0.bmp 5,5,6,4,0\n",
            "a.txt, line 2: the box 5,5,6,4 (x1,y1,x2,y2) of 0.bmp ends before",
        ),
        ("a.txt", "/data/0.bmp 1,2,3,4,0\n", "the frame /data/0.bmp has no folder images/ in its path"),
        ("a.txt", "../0.bmp 1,2,3,4,0\n", "the frame ../0.bmp has no folder images/ in its path"),
        (
            "a.txt",
            "/a/images/0.bmp 1,2,3,4,0\n/b/images/0.bmp\n",
            "a.txt lists frames of several folders images/",
        ),
        ("a.txt", "0.bmp 70,2,95,4,0\n", "a target of 0.bmp lies outside its 60 rows and 80 columns"),
        ("a.txt", "0.bmp 7,58,9,65,0\n", "a target of 0.bmp lies outside its 60 rows and 80 columns"),
        ("a.txt", "0.bmp 5,5,4,6,0\n", "a.txt, line 1: the box 5,5,4,6 (x1,y1,x2,y2) of 0.bmp ends before"),
        ("a.json", "{", "a.json is no JSON with boxes (Expecting"),
        ("a.json", '{"colour": "green"}', "a.json is no COCO annotation; give another"),
    ],
)
@pytest.mark.parametrize("to", ["masks", "centroids"])
def test_sources_that_are_wrong(tmp_path, refused, name, content, message, to):
    source = write(tmp_path / name, content)
    assert message in refused(source, to, "--size", "60x80")
    assert not (tmp_path / "out/masks/0.png").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bbox": [1, 2, 3]}, "entry 2 of annotations is not an annotation (image_id"),
        ({"bbox": [1, 2, -3, 4]}, "entry 2 of annotations"),
        ({"bbox": [1, 2, float("nan"), 4]}, "entry 2 of annotations"),
        ({"bbox": [1, 2, float("inf"), 4]}, "entry 2 of annotations"),
        ({"bbox": None}, "entry 2 of annotations"),
        ({"image_id": 1}, "entry 2 of annotations"),
        ({"category_id": "target"}, "entry 2 of annotations"),
    ],
)
@pytest.mark.parametrize("rule", ["exact", "published"])
def test_annotations_that_are_wrong(tmp_path, refused, change, message, rule):
    content = coco({"images/1/0.bmp": [[1, 2, 3, 4], [1, 2, 3, 4]]})
    content["annotations"][1] |= change
    source = write(tmp_path / "a.json", content)
    assert message in refused(source, "txt", "--rule", rule)


def test_images_that_are_wrong(tmp_path, refused):
    content = coco({"images/1/0.bmp": [[1, 2, 3, 4]], "images/1/1.bmp": []})
    content["images"][1]["id"] = 900
    assert "gives several images one id" in refused(write(tmp_path / "a.json", content), "txt")
    content["images"][1] = {"id": 1, "file_name": "images/1/1.bmp"}
    assert "entry 2 of images is not an image (id" in refused(write(tmp_path / "a.json", content), "masks")
    content["images"][1] = {"id": 1}
    assert "entry 2 of images is not an image (id" in refused(write(tmp_path / "a.json", content), "txt")


@pytest.mark.parametrize("size", ["60", "0x80", "60x80x3", "60 x 80", "-6x8"])
def test_sizes_that_are_wrong(tmp_path, refused, size):
    source = write(tmp_path / "a.txt", "images/1/0.bmp 1,2,3,4,0\n")
    assert f"--size takes HEIGHTxWIDTH like 480x640, not {size!r}" in refused(
        source, "coco", f"--size={size}"
    )


def test_as_a_command(run_python, tmp_path):
    done = run_python(TOOL, "--help")
    assert done.returncode == 0 and "masks_centroid/" in done.stdout
    source = write(tmp_path / "a.txt", "images/1/0.bmp 1,2,3,4,0 5,6,7,8,0\nimages/1/1.bmp\n")
    out = tmp_path / "a.json"
    done = run_python(TOOL, "--source", source, "--to", "coco", "--out", out, "--size", "60x80")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote 2 targets in 2 frames to {out}\n"
    done = run_python(TOOL, "--source", source, "--to", "coco", "--out", out, "--size", "60x80")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {out} exists; add --overwrite or give another --out\n"


# Names of frames


@pytest.mark.parametrize(
    "path, key, relative",
    [
        ("/home/a b/DAUB/images/train/data5/0.bmp", "train/data5/0", "images/train/data5/0.bmp"),
        ("/data/images/DAUB/images/1/0.bmp", "1/0", "images/1/0.bmp"),
        ("E:\\DAUB\\images\\1\\0.bmp", "1/0", "images/1/0.bmp"),
        ("./images/1/0.bmp", "1/0", "images/1/0.bmp"),
        ("../DAUB/images/1/0.bmp", "1/0", "images/1/0.bmp"),
        ("Sequence1/images/00001.png", "00001", "Sequence1/images/00001.png"),
        ("my images/1/a.b.PNG", "my images/1/a.b", "my images/1/a.b.PNG"),
        ("1/0", "1/0", "1/0"),
    ],
)
def test_names_of_frames(path, key, relative):
    assert frame_key(path) == key
    assert relative_frame(path) == relative


@pytest.mark.parametrize("path", ["/images/../0.bmp", "C:/0.bmp", "a/../../0.bmp"])
def test_names_that_lead_out_of_the_data_set(path):
    with pytest.raises(UserError, match=re.escape(f"the frame {path} has no folder images/")):
        relative_frame(path)


def test_text_as_other_systems_write_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffimages/ü 1.bmp  1,2,3,4,0\r\n\r\nimages/ü 1.bmp 5,6,7,8.5,1\r\n".encode())
    assert read_txt_list(path) == {"images/ü 1.bmp": [[1, 2, 3, 4, 0], [5, 6, 7, 8.5, 1]]}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(coco({"images\\1.bmp": [[1, 2, 3, 4]]})).encode())
    assert read_coco(path) == {"images/1.bmp": [[1, 2, 4, 6, 0]]}


# Real annotations, where they are at hand


@pytest.mark.skipif(not REAL.is_dir(), reason="the real excerpts are not beside the repository")
def test_the_excerpt_of_daub(tmp_path):
    json_file, txt_file = REAL / "DAUB/json/DAUB_instances_test2017.json", REAL / "DAUB/coco_val_DAUB.txt"
    published = sorted(txt_file.read_text().split("\n"))
    for rule in ("published", "exact"):
        out = convert(json_file, "txt", tmp_path / f"{rule}.txt", "--rule", rule)
        assert sorted(out.read_text().split("\n")) == sorted([*published, ""][-157:])
    back = json.loads(convert(txt_file, "coco", tmp_path / "a.json").read_text())
    original = json.loads(json_file.read_text())
    assert boxes_of(back) == boxes_of(original) and len(boxes_of(back)) == 156
    assert {(image["width"], image["height"]) for image in back["images"]} == {(256, 256)}


def boxes_of(content: dict) -> dict[str, list]:
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return {names[annotation["image_id"]]: annotation["bbox"] for annotation in content["annotations"]}
