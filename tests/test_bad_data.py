"""Data that is not what it should be: each case is refused with a sentence that names the file."""

import builtins
import contextlib
import io
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import clips_of, video_of

import dataset.io
import test as command_test
from dataset import Sequence, SequenceSet, create_dataset
from dataset.frames import SequenceFrames
from dataset.io import read_gray, read_size
from dataset.masks import MaskRule, read_centroid_map, read_mask
from dataset.pairing import pair
from utils.errors import UserError, run_command

BACK = np.zeros((24, 32), np.uint8)
TARGET = BACK.copy()
TARGET[4:6, 5:8] = 255
NOISE = np.random.default_rng(0).integers(1, 255, BACK.shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def put_frames(folder: Path, *names: str, pixels: np.ndarray = NOISE) -> Path:
    for name in names:
        save(folder / name, pixels)
    return folder


def refused(text: str, call, *args, **options) -> str:
    with pytest.raises(UserError, match=re.escape(text)) as error:
        call(*args, **options)
    message = str(error.value)
    assert "\n" not in message and ";" in message  # one sentence that ends with what to do
    return message


def folder_set(root: Path, **options) -> SequenceSet:
    return create_dataset("Folder", root, "test", **options)


# ---- pairs by name ----


def files(folder: str, *names: str) -> tuple[Path, ...]:
    return tuple(Path(folder) / name for name in names)


def test_files_pair_by_their_names_alone():
    frames = files("images", "a1.bmp", "a2.bmp", "a10.bmp")
    assert pair(frames, files("masks", "a10.png", "a1.png", "a2.png"))[2].name == "a10.png"
    padded = files("masks", "a0001.png", "a0002.png", "a0010.png")
    assert pair(frames, padded) == padded
    assert pair(padded, frames) == frames


@pytest.mark.parametrize("content", ["mask", "centroid map"])
def test_what_has_no_partner_is_listed_for_both_sides(content):
    frames = files("images", *(f"{k}.png" for k in range(1, 11) if k != 3))
    others = files("masks", *(f"{k}.png" for k in range(1, 11) if k != 7))
    message = refused(f"the frame {frames[5]} has no {content} of its name", pair, frames, others, content)
    assert f"the {content} {others[2]} has no frame of its name" in message
    from_one = files("masks", *(f"{k}.png" for k in range(5, 15)))
    message = refused("in images have no mask of their name (1.png, 2.png, 4.png)", pair, frames, from_one)
    assert "4 masks in masks have no frame of their name (11.png, 12.png, 13.png and 1 more)" in message


def test_names_that_are_equal_but_for_zeros_are_not_guessed():
    frames, masks = files("images", "1.png", "01.png"), files("masks", "1.png", "001.png")
    refused("01.png has no mask of its name", pair, frames, masks)
    assert pair(frames, files("masks", "01.png", "1.png")) == files("masks", "1.png", "01.png")


def test_a_lost_frame_and_a_lost_mask_are_found(tiny_data, tmp_path):
    root = shutil.copytree(tiny_data / "Synthetic", tmp_path / "Synthetic")
    sequence = root / "Sequence4"
    for path in ("images/00003.png", "masks/00007.png", "masks_centroid/00007.png"):
        (sequence / path).unlink()
    message = refused("images/00007.png has no mask of its name", create_dataset, "Synthetic", root, "test")
    assert "masks/00003.png has no frame of its name" in message
    shutil.copy(sequence / "masks/00008.png", sequence / "masks/00007.png")
    (sequence / "masks/00003.png").unlink()
    refused("images/00007.png has no centroid map", create_dataset, "Synthetic", root, "test")


def test_noisy_frames_and_clean_masks_pair_by_name(tmp_path):
    for n in (1, 2, 3):
        save(tmp_path / f"NUDT-MIRSDT/Sequence85/masks/0000{n}.png", TARGET)
        save(tmp_path / f"NUDT-MIRSDT/Sequence85/images/0000{n}.png", NOISE)
        save(tmp_path / f"NUDT-MIRSDT-Noise/Sequence85/images/0000{n + 1}.png", NOISE)
    (tmp_path / "NUDT-MIRSDT-Noise/test.txt").write_text("Sequence85\n")
    refused("00004.png has no mask of its name", create_dataset, "NUDT-MIRSDT-Noise", tmp_path, "test")


# ---- sizes ----

VIEWS = {
    "native": {},
    "letterbox": {"letterbox": 32},
    "resize": {"train_resize": (16, 16), "test_resize": (16, 16)},
    "crop": {"patch": 8},
}
LARGE = np.pad(TARGET, ((0, 24), (0, 32)))


@pytest.fixture(scope="module", params=["images", "masks", "centroids"])
def uneven(request, tmp_path_factory) -> tuple[str, SequenceSet]:
    """The kind of file of which the second is twice as large as all others, and the set."""
    root, kind = tmp_path_factory.mktemp("uneven"), request.param
    paths = {}
    for name, pixels in (("images", NOISE), ("masks", TARGET), ("centroids", TARGET)):
        arrays = [LARGE if name == kind and n == 1 else pixels for n in range(3)]
        paths[name] = tuple(save(root / name / f"{n}.png", array) for n, array in enumerate(arrays))
    sequence = Sequence("a", paths["images"], paths["masks"], paths["centroids"])
    return kind, SequenceSet("Uneven", root, "train", (sequence,), 0.0, 1.0)


@pytest.mark.parametrize("task", ["masks", "boxes"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_file_of_another_size_is_refused_in_every_view(uneven, view, task):
    """By training, by the frames of a test and by its truth, in the pixels of its file."""
    kind, data = uneven
    said = f"{kind}/1.png is 64x48, {data.root}/images/0.png is 32x24; all frames and masks of a sequence"
    settings = {"frames": 2, "key": 1} | VIEWS[view]

    def train():
        clips = clips_of(data, task, **settings)
        return [clips[0, index] for index in range(len(clips))]

    def see():
        return list(video_of(data[0], data, **settings))

    def score():
        return [video_of(data[0], data, **settings).truth(1, ("boxes", "centroid_map"))]

    for take, kinds in ((train, ("images", "masks")), (see, ("images",)), (score, ("masks", "centroids"))):
        if kind in kinds:
            refused(said, take)
        else:
            assert take()


@pytest.mark.parametrize("view", VIEWS)
def test_cached_masks_belong_to_frames_of_their_size(tmp_path, view):
    """The cache of masks is not taken for frames that were exchanged for larger ones."""
    frame, mask = save(tmp_path / "images/0.png", NOISE), save(tmp_path / "masks/0.png", TARGET)
    data = SequenceSet("A", tmp_path, "train", (Sequence("a", (frame,), (mask,)),), 0.0, 1.0)
    settings = {"frames": 1, "key": 0} | VIEWS[view]
    assert clips_of(data, cache=tmp_path / "cache", **settings)[0, 0]["target"].any() or view == "crop"
    save(frame, LARGE)
    clips = clips_of(data, cache=tmp_path / "cache", **settings)
    refused("masks/0.png is 32x24", lambda: clips[0, 0])


def test_boxes_of_a_mask_are_in_the_pixels_of_its_frame(uneven):
    kind, data = uneven
    if kind == "masks":
        refused("masks/1.png is 64x48", SequenceFrames(data[0]).boxes, 1)
    else:
        assert SequenceFrames(data[0]).boxes(1).tolist() == [[5, 4, 8, 6]]


def test_frames_of_two_depths_are_refused(tmp_path):
    deep = NOISE.astype(np.uint16) * 257
    images = [save(tmp_path / f"{n}.png", pixels) for n, pixels in enumerate((deep, NOISE))]
    frames = SequenceFrames(Sequence("a", tuple(images)))
    refused("1.png has pixels of 8 bit, another frame of its sequence of 16", frames.pixels, range(2))


# ---- boxes and points ----

IMPOSSIBLE = {  # x1, y1, x2, y2 in frames of 32x24
    "nan": ["nan", 2, 5, 6],
    "infinite": [1, 2, "inf", 6],
    "inverted": [9, 2, 5, 6],
    "without area": [5, 2, 5, 6],
    "to the right": [32, 2, 40, 6],
    "to the left": [-9, 2, 0, 6],
    "above": [1, -9, 5, -1],
    "below": [1, 24, 5, 30],
}
GOOD = [[1, 2, 5, 6], [28, 20, 40, 30]]  # the second reaches over the border


def txt_list(root: Path, boxes: list) -> Path:
    words = [",".join(map(str, [*box, 0])) for box in boxes]
    (root / "val.txt").write_text("images/1/0.bmp\nimages/1/1.bmp " + " ".join(words))
    return root / "val.txt"


def sides(box: list) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def coco(root: Path, boxes: list) -> Path:
    images = [{"id": n, "file_name": f"images/1/{n}.bmp"} for n in (0, 1)]
    annotations = [{"image_id": 1, "bbox": sides(box)} for box in boxes]
    (root / "val.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root / "val.json"


def voc(root: Path, boxes: list) -> Path:
    names = ("xmin", "ymin", "xmax", "ymax")
    found = ["".join(f"<{n}>{v}</{n}>" for n, v in zip(names, box, strict=True)) for box in boxes]
    objects = "".join(f"<object><bndbox>{box}</bndbox></object>" for box in found)
    (root / "labels/1").mkdir(parents=True, exist_ok=True)
    (root / "labels/1/1.xml").write_text(f"<annotation>{objects}</annotation>")
    return root / "labels/1/1.xml"


def boxes_csv(root: Path, boxes: list) -> Path:
    if (root / "images/1").is_dir():  # it serves a folder of one sequence
        for path in list((root / "images/1").iterdir()):
            path.rename(root / "images" / path.name)
        (root / "images/1").rmdir()
    lines = ["frame,x,y,w,h", *(",".join(map(str, ["1.bmp", *sides(box)])) for box in boxes)]
    (root / "boxes.csv").write_text("\n".join(lines))
    return root / "boxes.csv"


FORMS = {
    "txt": (txt_list, "DAUB", "line 2"),
    "coco": (coco, "IRDST", "entry 2 of annotations"),
    "coco of a folder": (coco, "Folder", "entry 2 of annotations"),
    "voc": (voc, "Folder", "object 2"),
    "csv": (boxes_csv, "Folder", "line 3"),
}


@pytest.fixture
def two_frames(tmp_path) -> Path:
    put_frames(tmp_path / "images/1", "0.bmp", "1.bmp")
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", IMPOSSIBLE)
def test_a_box_that_cannot_be_true_is_refused_or_dropped(two_frames, form, fault):
    write, name, place = FORMS[form]
    path = write(two_frames, [GOOD[0], IMPOSSIBLE[fault], GOOD[1]])
    message = refused(f"{path}, {place}: the box ", create_dataset, name, two_frames, "test")
    assert message.endswith("or leave such out by --dataset_option on_bad_truth=drop")
    found = create_dataset(name, two_frames, "test", on_bad_truth="drop")
    assert [boxes.tolist() for boxes in found[0].boxes] == [[], GOOD]
    assert f"dropped 1 impossible target in {path}, first {place}: the box " in found.notes[-1]

    write(two_frames, GOOD)
    found = create_dataset(name, two_frames, "test")
    assert [boxes.tolist() for boxes in found[0].boxes] == [[], GOOD]
    assert not any("impossible" in note for note in found.notes)


def test_dropped_boxes_are_counted_by_file(two_frames):
    path = txt_list(two_frames, [*IMPOSSIBLE.values()])
    found = create_dataset("DAUB", two_frames, "test", on_bad_truth="drop")
    assert sum(map(len, found[0].boxes)) == 0
    assert found.notes[-1].startswith(f"dropped {len(IMPOSSIBLE)} impossible targets in {path}, first line 2")
    with pytest.raises(UserError, match="option on_bad_truth .* takes refuse or drop, not 'ignore'"):
        folder_set(two_frames, on_bad_truth="ignore")


def test_commands_refuse_impossible_boxes_and_tell_what_was_dropped(two_frames, capfd, monkeypatch):
    def stop(*parts):
        raise UserError("the data was read; that will do")

    monkeypatch.setattr(command_test, "build_test", stop)
    path = txt_list(two_frames, [GOOD[0], IMPOSSIBLE["above"]])
    flags = ["--dataset_names", "Folder", "--dataset_dir", str(two_frames), "--model_names", "TopHat"]
    refuses = (
        f"error: {path}, line 2: the box 1,-9,5,-1 (x1,y1,x2,y2) of images/1/1.bmp lies outside its 32x24"
    )
    drops = f"note: dropped 1 impossible target in {path}, first line 2: the box"
    for options, said in (([], refuses), (["--dataset_option", "on_bad_truth=drop"], drops)):
        with pytest.raises(SystemExit) as end:
            run_command(lambda typed=[*flags, *options]: command_test.main(typed))
        told = "".join(capfd.readouterr())
        assert end.value.code == 2
        assert said in told
        assert ("the data was read" in told) == bool(options)


POINTS = {"nan": "nan,3", "infinite": "3,-inf", "above": "-0.6,3", "below": "23.6,3", "right": "3,32"}


@pytest.mark.parametrize("fault", POINTS)
def test_a_point_that_cannot_be_true_is_refused_or_dropped(tmp_path, fault):
    put_frames(tmp_path / "images", "0.bmp", "1.bmp")
    path = tmp_path / "centroids.txt"
    path.write_text(f"\n1,2;{POINTS[fault]};23.4,31\n")
    refused(f"{path}, line 2: the point ", folder_set, tmp_path)
    found = folder_set(tmp_path, on_bad_truth="drop")
    assert [points.tolist() for points in found[0].points] == [[], [[1, 2], [23.4, 31]]]
    assert f"dropped 1 impossible target in {path}" in found.notes[-1]


def test_the_origin_counts_where_the_border_is(tmp_path):
    put_frames(tmp_path / "images", "0.bmp")
    (tmp_path / "boxes.csv").write_text("frame,x,y,w,h\n0,32,24,1,1\n")
    refused(
        "boxes.csv, line 2: the box 32,24,33,25 (x1,y1,x2,y2) of 0 lies outside its 32x24",
        folder_set,
        tmp_path,
    )
    assert folder_set(tmp_path, box_origin=1)[0].boxes[0].tolist() == [[31, 23, 32, 24]]


@pytest.mark.parametrize("box", ["1234", ["1", "2", "3", "4"], [1, 2, 3], [True, 2, 3, 4], {}, None])
def test_a_bbox_that_is_no_list_of_numbers_is_refused(two_frames, box):
    content = {
        "images": [{"id": 1, "file_name": "images/1/0.bmp"}],
        "annotations": [{"image_id": 1, "bbox": box}],
    }
    (two_frames / "val.json").write_text(json.dumps(content))
    for name in ("DAUB", "Folder"):
        refused(
            "val.json is no COCO annotation: entry 1 of annotations", create_dataset, name, two_frames, "test"
        )


IMAGE = {"id": 1, "file_name": "images/1/0.bmp"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images": [IMAGE]}, "it has no annotations"),
        ({"images": [IMAGE], "annotations": None}, "it has no annotations"),
        ({"images": [], "annotations": []}, "it has no images"),
        ({"annotations": []}, "it has no images"),
        ({"images": [{**IMAGE, "id": [1]}], "annotations": []}, "entry 1 of images is not"),
        (
            {"images": [IMAGE], "annotations": [{"image_id": {}, "bbox": [1, 1, 2, 2]}]},
            "entry 1 of annotations",
        ),
        (
            {"images": [IMAGE], "annotations": [{"image_id": 2, "bbox": [1, 1, 2, 2]}]},
            "entry 1 of annotations",
        ),
        ({"images": [IMAGE, {**IMAGE, "id": 2}], "annotations": []}, "lists the image images/1/0.bmp twice"),
        ({"images": [{**IMAGE, "width": 64, "height": 48}], "annotations": []}, "images/1/0.bmp is 64x48"),
    ],
)
def test_a_coco_file_that_is_wrong_is_refused_by_name(two_frames, content, said):
    path = two_frames / "val.json"
    path.write_text(json.dumps(content))
    for name in ("DAUB", "Folder"):
        message = refused(said, create_dataset, name, two_frames, "test")
        assert str(path) in message


@pytest.mark.parametrize("size", [{}, {"width": 32, "height": 24}, {"width": 0, "height": 0}])
def test_a_coco_file_may_say_that_there_is_no_target(two_frames, size):
    images = [{"id": n, "file_name": f"images/1/{n}.bmp", **size} for n in (0, 1)]
    (two_frames / "val.json").write_text(json.dumps({"images": images, "annotations": []}))
    for name in ("DAUB", "Folder"):
        found = create_dataset(name, two_frames, "test")
        assert [boxes.shape for boxes in found[0].boxes] == [(0, 4)] * 2


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": [', "\xff\xfe"])
def test_json_that_is_none_is_refused(two_frames, text):
    (two_frames / "val.json").write_bytes(text.encode("latin-1"))
    for name in ("DAUB", "Folder"):
        refused(str(two_frames / "val.json"), create_dataset, name, two_frames, "test")


def test_xml_with_a_namespace_is_read(two_frames):
    path = voc(two_frames, GOOD)
    path.write_text(path.read_text().replace("<annotation>", '<annotation xmlns="http://x.org/voc">'))
    assert folder_set(two_frames)[0].boxes[1].tolist() == GOOD


SIZED = "<annotation><size><width>{}</width><height>{}</height></size></annotation>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<svg></svg>", "it is <svg>, not <annotation>"),
        ("<annotation><object><polygon/></object></annotation>", "an object and a box go together"),
        ("<annotation><bndbox/></annotation>", "an object and a box go together"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "unknown encoding"),
        ("<?xml version='1.0' encoding='utf-7'?><annotation/>", "1.xml is no Pascal VOC"),
        ("<annotation>\xff</annotation>", "not well-formed"),
        ("", "no element found"),
        ("<annotation>" * 50_000, "1.xml is no Pascal VOC"),
        (SIZED.format(64, 48), "1/1 is 64x48"),
        (SIZED.format("wide", 48), "could not convert"),
    ],
)
def test_xml_that_is_no_annotation_is_refused(two_frames, text, said):
    path = voc(two_frames, [])
    path.write_bytes(text.encode("latin-1"))
    assert str(path) in refused(said, folder_set, two_frames)


@pytest.mark.parametrize("text", ["<annotation/>", SIZED.format(32, 24), SIZED.format(0, 0)])
def test_xml_may_say_that_there_is_no_target(two_frames, text):
    voc(two_frames, []).write_text(text)
    assert [boxes.shape for boxes in folder_set(two_frames)[0].boxes] == [(0, 4)] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "line 1: there is no header frame,x,y,w,h"),
        (b"0.bmp,1,2,3,4\n", "line 1: there is no header frame,x,y,w,h"),
        (b"frame,x,y,w,h,x\n", "line 1: there is no header frame,x,y,w,h"),
        (b"frame,x,y,w,h\n0,1,2,3\n", "line 2: expected frame,x,y,w,h"),
        (b"frame,x,y,w,h\n0,1,5,2,5,3,5\n", "line 2: expected frame,x,y,w,h"),
        (b"frame,x,y,w,h\n0,1_0,2,3,4\n", "line 2: expected frame,x,y,w,h"),
        (b"frame,x,y,w,h\n\n0,\xe9,2,3,4\n", "line 3: byte 0xe9 is not UTF-8"),
        (b"frame,x,y,w,h\n" + b"0" * 140_000 + b",1,2,3,4\n", "line 2: field larger than field limit"),
    ],
)
def test_boxes_csv_that_is_wrong_is_refused(two_frames, text, said):
    path = boxes_csv(two_frames, [])
    assert [boxes.shape for boxes in folder_set(two_frames)[0].boxes] == [
        (0, 4)
    ] * 2  # a header alone is legal
    path.write_bytes(text)
    assert str(path) in refused(said, folder_set, two_frames)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# x1,y1,x2,y2\nimages/1/0.bmp 1,2,5,6,0\nimages/1/1.bmp\n", "line 1: '# x1,y1,x2,y2' is not path"),
        ("images/1/0.bmp 1,2,5,6\nimages/1/1.bmp\n", "line 1: 'images/1/0.bmp 1,2,5,6' is not path"),
        (
            "images/1/0.bmp 1,2,5,6,0\nimages/1/0.bmp 1,2,5,6,0\n",
            "line 2: 'images/1/0.bmp 1,2,5,6,0' repeats a box",
        ),
        (
            "images/1/0.bmp 1,2,5,6,0\nx/images/1/0.bmp\n",
            "lists images/1/0.bmp and x/images/1/0.bmp, which are one",
        ),
        ("images/1/0.bmp 1,2,5,6,0\nimages/1/\xff.bmp\n", "line 2: byte 0xff is not UTF-8"),
    ],
)
def test_a_list_that_is_wrong_is_refused_by_line(two_frames, text, said):
    path = two_frames / "val.txt"
    path.write_bytes(text.encode("latin-1"))
    for name in ("DAUB", "Folder"):
        assert str(path) in refused(said, create_dataset, name, two_frames, "test")


def test_files_that_hold_no_boxes_are_named(two_frames):
    (two_frames / "val.txt").write_text("images/1/0.bmp\nimages/1/1.bmp\n")
    (two_frames / "val.json").write_text("[1, 2]")
    message = refused("there is no list of boxes", create_dataset, "DAUB", two_frames, "test")
    assert f"{two_frames / 'val.txt'}, {two_frames / 'val.json'} hold no boxes" in message
    assert f"{two_frames} has no truth: val.json, val.txt hold no boxes" in folder_set(two_frames).notes
    (two_frames / "boxes.txt").write_text("\n")
    refused(
        "boxes.txt holds no boxes; write some, or take it away", create_dataset, "Folder", two_frames, "test"
    )
    (two_frames / "boxes.txt").unlink()
    (two_frames / "json").mkdir()
    (two_frames / "json/boxes.json").write_text("7")
    refused("boxes.json holds no boxes; write some", create_dataset, "Folder", two_frames, "test")


@pytest.mark.parametrize("line", ["../Sequence1", "./Sequence1/images/1.png", "/Sequence1", "../img/1.png"])
def test_a_line_of_a_split_list_that_names_no_sequence_is_refused(tiny_data, tmp_path, line):
    root = shutil.copytree(tiny_data / "Synthetic", tmp_path / "Synthetic")
    (root / "test.txt").write_text(f"Sequence4\n{line}\n")
    refused(f"test.txt lists {line!r}, which names no sequence", create_dataset, "Synthetic", root, "test")


def test_a_flipped_bit_in_any_byte_of_a_png_is_noticed(tmp_path):
    """Pillow alone takes many such files, with other pixels."""
    path = tmp_path / "1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16), np.uint8)).save(path)
    whole, taken = path.read_bytes(), []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with contextlib.suppress(UserError):
            read_gray(path)
            taken.append(place)
    assert taken == []


# ---- masks ----


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(np.minimum(TARGET, 1))
    image.putpalette([value for colour in colours for value in colour])
    return image


def coloured(*colour: int, pixels: np.ndarray = TARGET) -> np.ndarray:
    return np.where(pixels[..., None] > 0, np.uint8(colour), np.uint8([0, 0, 0, 255][: len(colour)]))


MASKS = {
    "0 and 255": TARGET,
    "0 and 1": TARGET // 255,
    "0 and 7 of 16 bit": (TARGET // 255 * 7).astype(np.uint16),
    "black and white": TARGET > 0,
    "empty": BACK,
    "white palette": palette((0, 0, 0), (255, 255, 255)),
    "blue palette": palette((0, 0, 0), (0, 0, 1)),
    "equal channels": coloured(9, 9, 9),
    "red": coloured(255, 0, 0),
    "green": coloured(0, 255, 0),
    "opaque": coloured(0, 0, 255, 255),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_read_by_the_stated_rule(tmp_path, kind):
    mask = read_mask(save(tmp_path / "mask.png", MASKS[kind]))
    expected = BACK if kind == "empty" else TARGET
    assert np.array_equal(mask > 0, expected > 0)
    frames = Sequence("a", (save(tmp_path / "image.png", NOISE),), (tmp_path / "mask.png",))
    assert np.array_equal(SequenceFrames(frames).mask(0), expected // 255)


def test_the_values_of_gray_masks_stay(tmp_path):
    for value in (1, 255):
        assert read_mask(save(tmp_path / "mask.png", TARGET // 255 * np.uint8(value))).max() == value


NUMBERED = TARGET.copy()
NUMBERED[4:6, 5] = 1
SOFT = TARGET.copy()
SOFT[3, 5:8] = 90
CLEAR = np.dstack([np.zeros((*BACK.shape, 3), np.uint8), TARGET])

NO_MASKS = {
    "soft": (SOFT, "is no mask: it has 3 gray values"),
    "numbered": (NUMBERED, "is no mask: it has 3 gray values"),
    "soft of 16 bit": (SOFT.astype(np.uint16) * 257, "is no mask: it has 3 gray values"),
    "soft with equal channels": (np.dstack([SOFT] * 3), "is no mask: it has 3 gray values"),
    "soft palette": (Image.fromarray(SOFT).convert("P"), "is no mask: it has 3 gray values"),
    "a picture": (NOISE, "is no mask: no pixel is 0"),
    "two grays": (np.maximum(TARGET, 128), "is no mask: no pixel is 0"),
    "one gray": (np.full_like(TARGET, 255), "is no mask: no pixel is 0"),
    "alpha": (CLEAR, "has transparent pixels"),
    "gray and alpha": (np.dstack([BACK, TARGET]), "has transparent pixels"),
}


@pytest.mark.parametrize("kind", NO_MASKS)
def test_what_is_no_mask_is_refused(tmp_path, kind):
    pixels, said = NO_MASKS[kind]
    path = save(tmp_path / "mask.png", pixels)
    refused(f"{path} {said}", read_mask, path)


def test_a_palette_with_a_transparent_colour_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    palette((0, 0, 0), (0, 0, 0)).save(path, transparency=0)
    refused("has transparent pixels", read_mask, path)


@pytest.mark.parametrize("rule", [MaskRule(), MaskRule(many_values=True)])
@pytest.mark.parametrize("pixels", [TARGET, coloured(0, 255, 0)])
def test_a_jpeg_is_a_mask_only_where_it_lost_nothing(tmp_path, rule, pixels):
    path = save(tmp_path / "mask.jpg", pixels, quality=75)
    refused(f"{path} is ", read_mask, path, rule)
    assert not read_mask(save(tmp_path / "empty.jpg", BACK), rule).any()
    whole = np.kron(np.eye(2, dtype=np.uint8), np.full((16, 16), 255, np.uint8))
    assert np.array_equal(read_mask(save(tmp_path / "blocks.jpg", whole, quality=100), rule), whole)


def test_numbered_targets_are_read_where_the_data_set_has_them(tmp_path):
    path = save(tmp_path / "mask.png", NUMBERED)
    assert np.array_equal(read_mask(path, MaskRule(many_values=True)), NUMBERED)
    for name, part in (("SatVideoIRSDT", "val/7/{}"), ("TSIRMT", "{}s/7"), ("MWIRSTD", "{}s/7")):
        root = tmp_path / name
        kinds = ("img", "mask") if name == "SatVideoIRSDT" else ("image", "mask")
        for kind, pixels in zip(kinds, (NOISE, NUMBERED), strict=True):
            save(root / part.format(kind) / "1.png", pixels)
        for split in ("test", "val"):
            (root / f"{split}.txt").write_text("7\n")
        frames = SequenceFrames(create_dataset(name, root, "test")[0])
        if name == "MWIRSTD":
            refused("has 3 gray values", frames.mask, 0)
        else:
            assert np.array_equal(frames.mask(0), TARGET // 255)


def test_a_threshold_reads_any_mask(tmp_path):
    save(tmp_path / "images/1.png", NOISE)
    save(tmp_path / "masks/1.jpg", TARGET, quality=75)
    found = folder_set(tmp_path, mask_threshold=127)
    assert np.array_equal(SequenceFrames(found[0]).mask(0), TARGET // 255)
    assert SequenceFrames(found[0]).boxes(0).tolist() == [[5, 4, 8, 6]]
    low, high = (MaskRule(threshold=value) for value in (89, 90))
    for pixels in (SOFT, SOFT.astype(np.uint16) * 257, np.dstack([SOFT, BACK, BACK])):
        path = save(tmp_path / "soft.png", pixels)
        assert np.array_equal(read_mask(path, high), TARGET)
        assert np.array_equal(read_mask(path, low) > 0, SOFT > 0)
    refused("has transparent pixels", read_mask, save(tmp_path / "alpha.png", CLEAR), high)


def test_the_cache_keeps_masks_of_several_thresholds_apart(tmp_path):
    save(tmp_path / "images/1.png", NOISE)
    save(tmp_path / "masks/1.png", SOFT)
    for threshold, expected in ((127, TARGET), (89, SOFT), (127, TARGET)):
        found = folder_set(tmp_path, mask_threshold=threshold)
        frames = SequenceFrames(found[0], cache=tmp_path / "cache")
        assert np.array_equal(frames.mask(0), expected > 0)
    refused("has 3 gray values", SequenceFrames(folder_set(tmp_path)[0], cache=tmp_path / "cache").mask, 0)


@pytest.mark.parametrize("value", [-1, 255, float("nan"), "127a", True])
def test_a_threshold_that_is_none_is_refused(tmp_path, value):
    save(tmp_path / "images/1.png", NOISE)
    save(tmp_path / "masks/1.png", TARGET)
    refused("mask_threshold is ", folder_set, tmp_path, mask_threshold=value)


def test_a_threshold_without_masks_is_refused(two_frames):
    txt_list(two_frames, GOOD)
    options = {"mask_threshold": 127}
    refused("has no masks; leave mask_threshold out", create_dataset, "DAUB", two_frames, "test", **options)


@pytest.mark.parametrize(
    ("name", "pixels", "said"),
    [
        ("a.png", TARGET // 255, "is no centroid map: it has values from 1 to 1 where targets have 255"),
        ("a.png", TARGET.astype(np.uint16), "where targets have 65535"),
        ("a.jpg", TARGET, "is no centroid map: it has values from "),
        ("a.png", CLEAR, "has transparent pixels"),
    ],
)
def test_a_centroid_map_whose_targets_would_vanish_is_refused(tmp_path, name, pixels, said):
    refused(said, read_centroid_map, save(tmp_path / name, pixels))


def test_centroid_maps_keep_their_values(tmp_path):
    for pixels in (SOFT, BACK, SOFT.astype(np.uint16) * 257):
        assert np.array_equal(read_centroid_map(save(tmp_path / "a.png", pixels)), pixels)
    assert np.array_equal(read_centroid_map(save(tmp_path / "a.png", coloured(0, 255, 0))), TARGET)
    assert np.array_equal(read_centroid_map(save(tmp_path / "a.png", TARGET // 2), MaskRule(100)), TARGET)


# ---- image files ----


@pytest.mark.parametrize("width", [32 + 2**30, 32 + 2**24, 32 + 2**12])
def test_a_header_that_announces_more_pixels_is_refused(tmp_path, width):
    path = save(tmp_path / "a.bmp", NOISE)
    content = bytearray(path.read_bytes())
    content[18:22] = width.to_bytes(4, "little")
    path.write_bytes(content)
    for read in (read_size, read_gray, read_mask):
        if width * 24 > 2**28:
            refused(f"the header of {path} announces {width}x24 pixels, more than can be read", read, path)
        elif read is not read_size:
            refused(f"{path} is truncated or damaged", read, path)


def test_a_large_frame_is_read_without_a_warning(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 10_000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_size(path) == (10_000, 10_000)  # Pillow looks at the size when it opens a file


def test_a_lack_of_memory_names_the_file(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", NOISE)

    def refuse(file):
        raise MemoryError

    monkeypatch.setattr(dataset.io, "first_page", refuse)
    refused(f"the header of {path} announces 32x24 pixels", read_gray, path)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division"), OverflowError(), AttributeError("no"), IndexError()]
)
def test_whatever_a_decoder_raises_is_told(tmp_path, monkeypatch, error):
    path = save(tmp_path / "a.png", NOISE)

    def fail(file):
        raise error

    monkeypatch.setattr(dataset.io, "first_page", fail)
    refused(f"the image {path} is truncated or damaged; copy it again", read_gray, path)


def test_frames_of_inks_are_refused(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (32, 24)).save(path)
    for read in (read_gray, read_mask):
        refused(f"{path} has pixels of inks (CMYK); convert it to", read, path)


def denied(monkeypatch, name: str):
    """Files of this name may not be opened, as by somebody who is not root."""
    opened, scanned = builtins.open, os.scandir

    def refuse(path):
        if os.fspath(path).endswith(name):
            raise PermissionError(13, "Permission denied", os.fspath(path))

    def open_(path, *args, **options):
        if isinstance(path, str | os.PathLike):
            refuse(path)
        return opened(path, *args, **options)

    monkeypatch.setattr(builtins, "open", open_)
    monkeypatch.setattr(io, "open", open_)
    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or scanned(path))


def test_permission_denied_is_told_as_such(two_frames, monkeypatch):
    path = txt_list(two_frames, GOOD)
    for name, call in (
        ("0.bmp", lambda: read_gray(two_frames / "images/1/0.bmp")),
        ("0.bmp", lambda: read_mask(two_frames / "images/1/0.bmp")),
        ("images/1", lambda: create_dataset("DAUB", two_frames, "test")),
        (path.name, lambda: create_dataset("DAUB", two_frames, "test")),
        (path.name, lambda: folder_set(two_frames)),
        ("json", lambda: create_dataset("DAUB", two_frames, "test")),
    ):
        (two_frames / "json").mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            denied(patch, name)
            message = refused("Permission denied", call)
            assert name in message and "damaged" not in message


# ---- folders ----


def loop(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.name)


def nowhere(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("nowhere")


def pipe(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/zero")


ODD = {
    "loop": loop,
    "nowhere": nowhere,
    "pipe": pipe,
    "device": device,
    "folder": lambda p: p.mkdir(parents=True),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "place",
    [
        "images/5.png",
        "centroids.txt",
        "boxes.csv",
        "labels/1.xml",
        "a.json",
        "a.txt",
        "masks/1.png",
        "test.txt",
    ],
)
def test_what_stands_in_place_of_a_file_is_refused_by_name(tmp_path, odd, place):
    put_frames(tmp_path / "images", "1.png")
    ODD[odd](tmp_path / place)
    assert place in refused(str(tmp_path), folder_set, tmp_path)


@pytest.mark.parametrize("odd", ["loop", "nowhere", "pipe", "device"])
@pytest.mark.parametrize("place", ["images", "masks", "masks_centroid", "labels", "json", "annotations"])
def test_what_stands_in_place_of_a_folder_is_refused_by_name(tmp_path, odd, place):
    if place != "images":
        put_frames(tmp_path / "images", "1.png")
    ODD[odd](tmp_path / place)
    assert place in refused(str(tmp_path), folder_set, tmp_path)


@pytest.mark.parametrize("name", ["NUDT-MIRSDT", "TSIRMT", "MWIRSTD", "IRDST-simulation", "Synthetic"])
@pytest.mark.parametrize("odd", ["loop", "nowhere", "pipe", "device", "folder"])
@pytest.mark.parametrize("place", ["{}.txt", "masks/7/1.png", "masks/7"])
def test_published_layouts_refuse_them_too(tmp_path, name, odd, place):
    for kind in ("images", "masks"):
        put_frames(tmp_path / kind / "7", "1.png")
    lists = "img_idx/test_IRDST-simulation" if name == "IRDST-simulation" else "test"
    (tmp_path / "img_idx").mkdir()
    (tmp_path / f"{lists}.txt").write_text("7\n")
    path = tmp_path / place.format(lists)
    path.unlink() if path.is_file() else shutil.rmtree(path)
    ODD[odd](path)
    if (odd, place) == ("folder", "masks/7"):
        refused("there are no masks in", create_dataset, name, tmp_path, "test")
    else:
        assert path.name in refused(str(path.parent), create_dataset, name, tmp_path, "test")


@pytest.mark.parametrize("odd", ["loop", "nowhere", "pipe"])
def test_centroid_maps_that_cannot_be_read_are_not_left_out(tmp_path, odd):
    """The targets of a test would then be others."""
    for kind in ("images", "masks"):
        put_frames(tmp_path / "Sequence85" / kind, "1.png")
    (tmp_path / "test.txt").write_text("Sequence85\n")
    ODD[odd](tmp_path / "Sequence85/masks_centroid")
    refused("Sequence85/masks_centroid: ", create_dataset, "NUDT-MIRSDT", tmp_path, "test")


@pytest.mark.parametrize("odd", ["pipe", "device", "folder"])
def test_an_image_that_is_no_file_is_refused(tmp_path, odd):
    """As where it was replaced after the folder was listed; a pipe is not waited for."""
    path = tmp_path / "1.png"
    ODD[odd](path)
    for read in (read_gray, read_size, read_mask):
        refused(f"{path} is no file; put an image there", read, path)


@pytest.mark.parametrize("place", ["a/loop", "images/loop"])
def test_links_that_lead_back_are_refused(tmp_path, place):
    for n in range(6):
        put_frames(tmp_path / ("images" if "images" in place else "a") / str(n) / "x", "1.png")
    link = tmp_path / place
    link.symlink_to(link.parent, target_is_directory=True)
    refused(f"{link} leads back to {link.parent}", folder_set, tmp_path)


def test_folders_beside_frames_are_not_passed_over_in_silence(tmp_path):
    put_frames(tmp_path / "images", "1.png")
    put_frames(tmp_path / "images/b", "1.png")
    images = tmp_path / "images"
    assert f"{images} holds frames, so that the folders in it are not read: b" in folder_set(tmp_path).notes


def test_one_sequence_in_two_spellings_is_refused(tmp_path):
    for kind in ("images", "masks"):
        put_frames(tmp_path / kind / "Sequence1", "1.png")
    (tmp_path / "test.txt").write_text("Sequence1\nSequence1/images/2.png\nsequence1\n")
    said = "has the sequence Sequence1 twice, once as sequence1"
    refused(said, create_dataset, "NUDT-MIRSDT", tmp_path, "test")
    for kind in ("images", "masks"):
        put_frames(tmp_path / kind / "sequence1", "1.png")
    if len(list((tmp_path / "images").iterdir())) == 2:  # two folders where case counts
        assert len(create_dataset("NUDT-MIRSDT", tmp_path, "test")) == 2
        (tmp_path / "test.txt").write_text("SEQUENCE1\n")
        refused("holds Sequence1 and sequence1", create_dataset, "NUDT-MIRSDT", tmp_path, "test")


def test_two_folders_of_one_data_set_are_refused(tmp_path):
    for name in ("nudt_mirsdt", "Nudt-Mirsdt"):
        put_frames(tmp_path / name / "images/Sequence85", "1.png")
        put_frames(tmp_path / name / "masks/Sequence85", "1.png")
        (tmp_path / name / "test.txt").write_text("Sequence85\n")
    refused("holds Nudt-Mirsdt and nudt_mirsdt", create_dataset, "NUDT-MIRSDT", tmp_path, "test")
    shutil.copytree(tmp_path / "nudt_mirsdt", tmp_path / "NUDT-MIRSDT")
    assert create_dataset("NUDT-MIRSDT", tmp_path, "test").root == tmp_path / "NUDT-MIRSDT"
