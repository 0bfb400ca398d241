"""Kept predictions that are damaged, edited or mixed up: a sentence, or just what was written."""

import errno
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from utils.boxes import BoxPrediction, MapPrediction
from utils.errors import UserError
from utils.files import temporary_beside
from utils.recipe.saved import saved_recipe
from utils.recipe.schema import Recipe
from utils.report.predictions import PredictionWriter, read_predictions

FACTS = {
    "model": "DeepPro",
    "weights": "best.pth",
    "trained_on": None,
    "dataset": "Synthetic",
    "dataset_dir": "data",
    "dataset_options": [],
    "split": "test",
    "recipe": Recipe().to_dict(),
}


class Video:
    """As much of a TestVideo as is asked for: frames of 5 x 6 pixels."""

    def __init__(self, name: str, frames: int):
        paths = [Path(f"{number}.png") for number in range(frames)]
        sequence = type("Sequence", (), {"images": paths})
        self.name, self.size = name, (5, 6)
        self.view = SimpleNamespace(placed_size=None)
        self.frames = type("Frames", (), {"sequence": sequence, "__len__": lambda _: frames})()


VIDEOS = [Video("test/a", 3), Video("c", 2)]


def predictions_of(kind: str, seed: int = 0) -> Iterator[tuple[Video, int, Any]]:
    draw = np.random.default_rng(seed)
    for video in VIDEOS:
        for index in range(len(video.frames)):
            if kind == "maps":
                yield video, index, MapPrediction(draw.random((5, 6)).astype(np.float32), 0.5)
            else:
                corner = draw.uniform(-1, 4, (2, 2))
                boxes = np.hstack([corner, corner + draw.uniform(0.1, 3, (2, 2)), draw.random((2, 1))])
                yield video, index, BoxPrediction(boxes.astype(np.float32).astype(np.float64), (5, 6))


def write(folder: Path, kind: str) -> Path:
    with PredictionWriter(folder) as writer:
        for video, index, prediction in predictions_of(kind):
            writer(video, index, prediction, {})
        writer.finish(FACTS)
    for picture in folder.rglob("*.png"):
        picture.unlink()  # to look at; nobody reads them
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Predictions of both kinds."""
    return {
        kind: write(tmp_path_factory.mktemp(kind) / "run/predictions", kind) for kind in ("maps", "boxes")
    }


@pytest.fixture(params=["maps", "boxes"])
def folder(request, folders, tmp_path) -> Path:
    """A copy, to break."""
    return shutil.copytree(folders[request.param], tmp_path / "predictions")


@pytest.fixture
def maps(folders, tmp_path) -> Path:
    return shutil.copytree(folders["maps"], tmp_path / "predictions")


@pytest.fixture
def boxes(folders, tmp_path) -> Path:
    return shutil.copytree(folders["boxes"], tmp_path / "predictions")


def score(folder: Path) -> list[Any]:
    """All that a test uses: what is predicted, and of what."""
    saved = read_predictions(folder)
    saved.check(VIDEOS)
    saved_recipe(saved.facts["recipe"], saved.index, "remedy")
    predict = saved.reader(0.5)
    used = [{key: saved.facts[key] for key in FACTS}]
    for video in VIDEOS:
        for index, prediction in predict(video):
            found = prediction.map if prediction.kind == "maps" else prediction.boxes
            used.append((video.name, index, found.shape, found.dtype, found.tobytes()))
    return used


def edit(folder: Path, change, name: str = "predictions.json", signed: bool = False) -> None:
    """Change what a JSON file holds; without the sums of it and of the other files, unless `signed`."""
    index = json.loads((folder / "predictions.json").read_text())
    if not signed:
        del index["sha256"], index["files"]
        (folder / "predictions.json").write_text(json.dumps(index))
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_what_is_kept_comes_back_to_the_last_bit(folder):
    kind = read_predictions(folder).facts["kind"]
    _, *found = score(folder)
    for (video, index, expected), (*place, shape, dtype, data) in zip(
        predictions_of(kind), found, strict=True
    ):
        value = expected.map if kind == "maps" else expected.boxes
        assert place == [video.name, index]
        assert (value.shape, value.dtype, value.tobytes()) == (shape, dtype, data)


def test_an_unfinished_test_leaves_nothing_that_could_be_scored(tmp_path):
    writer = PredictionWriter(tmp_path)
    writer(VIDEOS[1], 0, MapPrediction(np.zeros((5, 6), np.float32), 0.5), {})
    with pytest.raises(UserError, match="there is no predictions.json"):
        read_predictions(tmp_path)


# ---------------------------------------------------------------- by seeded mutation


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_flipped_bit_in_each_byte_is_noticed_or_has_no_effect(folder):
    expected, refused, tried = score(folder), 0, 0
    for path in files_of(folder):
        whole = path.read_bytes()
        for place in range(0, len(whole), 1 + len(whole) // 250):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << place % 8
            path.write_bytes(damaged)
            tried += 1
            try:
                found = score(folder)
            except UserError as error:
                refused += 1
                assert str(folder) in str(error), error
            else:
                assert found == expected, (path, place)
        path.write_bytes(whole)
    assert refused > 0.9 * tried
    assert score(folder) == expected


def test_files_that_were_cut_off_are_noticed(folder):
    for path in files_of(folder):
        whole = path.read_bytes()
        for length in range(0, len(whole.rstrip()), 1 + len(whole) // 60):
            path.write_bytes(whole[:length])
            with pytest.raises(UserError, match=path.name):
                score(folder)
        path.write_bytes(whole)


def entries(content: Any) -> Iterator[tuple[Any, Any]]:
    """Each entry of a nested content, as the dict or list and its key."""
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from entries(content[key])


WRONG = (
    None,
    -1,
    0,
    1,
    7,
    0.5,
    10**400,
    float("nan"),
    float("inf"),
    True,
    "",
    "word",
    "../x",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
)


def mutate(content: Any, draw: random.Random) -> None:
    """Remove, rename, double or replace one entry, or swap it with another."""
    place, key = draw.choice(list(entries(content)))
    kind = draw.choice(("remove", "double", "swap", "replace", "replace"))
    if kind == "remove":
        del place[key]
    elif kind == "double" and isinstance(place, list):
        place.insert(key, place[key])
    elif kind == "double":
        place[f"{key}_"] = place.pop(key)
    elif kind == "swap":
        other = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place[key], place[other] = place[other], place[key]
    else:
        place[key] = draw.choice(WRONG)


@pytest.mark.parametrize("signed", [True, False], ids=["of today", "without sums"])
def test_edited_json_is_refused_or_changes_nothing(folder, signed):
    """Without sums, as of earlier programs and of people who edit, no frame gets what is not its own."""
    draw, expected, refused = random.Random(1), score(folder), 0
    for path in sorted(folder.glob("*.json")):
        names = [folder / "predictions.json", path]
        whole = {name: name.read_bytes() for name in names}
        for _ in range(100):
            edit(folder, lambda content: mutate(content, draw), path.name, signed)
            try:
                found = score(folder)
            except UserError as error:
                refused += 1
                assert str(folder) in str(error), error
            else:
                if signed:
                    assert found == expected
                elif path.name == "predictions.json":
                    assert found[1:] == expected[1:]
            for name, content in whole.items():
                name.write_bytes(content)
    assert refused > 60


# ---------------------------------------------------------------- one by one


def first_image(**values):
    return lambda index: index["images"][0].update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i.pop("model"), "predictions.json has no entry 'model'; copy the whole folder again"),
        (lambda i: i.update(split="val"), "predictions.json has split = 'val' instead of test or train"),
        (lambda i: i.update(kind="cubes"), "predictions.json has kind = 'cubes' instead of maps or boxes"),
        (lambda i: i.update(images={}), "predictions.json has images = a dict instead of a list"),
        (lambda i: i["images"].insert(1, i["images"][0]), r"images\[1\], is frame 0 of test/a, but"),
        (lambda i: i["images"].pop(1), r"images\[1\], is frame 2 of test/a, but frame 1 comes next"),
        (first_image(frame="0"), r"images\[0\], has frame = '0' instead of a whole number of at least 0"),
        (first_image(width=0), r"images\[0\], has width = 0 instead of a whole number of pixels"),
        (first_image(width=7), r"images\[1\], has another size than the first frame of its sequence"),
        (first_image(id=2), r"images\[1\], has the id 2 of an earlier image"),
        (first_image(file_name="9.png"), "has 3 predictions of test/a, which has 3 frames or other ones"),
        (lambda i: [e.update(width=7) for e in i["images"]], "has frames of 5x7 pixels of test/a, whose own"),
        (lambda i: i.update(images=i["images"][:3]), "has 0 predictions of c, which has 2 frames"),
        (
            lambda i: i["images"].append({**i["images"][0], "id": 9, "sequence": "d"}),
            r"has predictions of d, which is not in the data set \(and 0 more\)",
        ),
        (
            lambda i: i["images"].append({**i["images"][0], "id": 9, "frame": 3}),
            "has 4 predictions of test/a, which has 3 frames or other ones",
        ),
    ],
)  # fmt: skip
def test_an_index_that_cannot_be_is_refused(boxes, change, said):
    edit(boxes, change)
    with pytest.raises(UserError, match=said):
        score(boxes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b.insert(0, 3), r"boxes.json, \[0\], holds 3 instead of entries by name"),
        (lambda b: b[2].pop("score"), r"boxes.json, \[2\], has no entry 'score'"),
        (lambda b: b[1].update(image_id=99), r"boxes.json, \[1\], has image_id = 99 instead of the id"),
        (lambda b: b[1].update(category_id=2), r"\[1\], has category_id = 2 instead of 1, the only category"),
        (lambda b: b[1].update(score=1.5), r"\[1\], has score = 1.5 instead of a number from 0 to 1"),
        (lambda b: b[1].update(score=float("nan")), r"\[1\], has score = nan instead of a number"),
        (lambda b: b[1].update(bbox="1234"), r"\[1\], has bbox = '1234' instead of left"),
        (lambda b: b[1].update(bbox=[1, 2, -3, 4]), r"\[1\], has bbox = \[1, 2, -3, 4\] instead"),
        (lambda b: b[1].update(bbox=[1, 2, float("inf"), 4]), r"\[1\], has bbox = \[1, 2, inf, 4\] in"),
        (lambda b: b[1].update(bbox=[1.7e308, 2, 1.7e308, 4]), "image 1 has a box that is not finite"),
    ],
)  # fmt: skip
def test_boxes_that_cannot_be_are_refused(boxes, change, said):
    edit(boxes, change, "boxes.json")
    with pytest.raises(UserError, match=said):
        score(boxes)


def test_a_file_that_holds_no_list_of_boxes_is_refused(boxes):
    edit(boxes, lambda _: None)
    (boxes / "boxes.json").write_text("{}")
    with pytest.raises(UserError, match="boxes.json holds no list of boxes"):
        score(boxes)


def put_map(content: np.ndarray | bytes, member: str = "00002.npy"):
    """Replaces a map of the first sequence."""

    def change(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            kept = {name: archive.read(name) for name in archive.namelist() if name != member}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in kept.items():
                archive.writestr(name, data)
            if isinstance(content, bytes):
                archive.writestr(member, content)
            elif content is not None:
                with archive.open(member, "w") as file:
                    np.lib.format.write_array(file, content)

    return change


HUGE = io.BytesIO()
np.lib.format.write_array_header_1_0(HUGE, {"descr": "<f4", "fortran_order": False, "shape": (99999999,) * 2})


def with_value(value: float) -> np.ndarray:
    out = np.zeros((5, 6), np.float32)
    out[2, 3] = value
    return out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Path.unlink, "a.npz is missing, though predictions.json beside it promises it"),
        (lambda p: p.write_bytes(b""), "a.npz is cut off or damaged"),
        (put_map(None), "a.npz has 2 maps and predictions.json lists 3, they differ in 00002.npy"),
        (put_map(with_value(0), "00004.npy"), "a.npz has 4 maps and predictions.json lists 3, they differ"),
        (put_map(np.zeros((10, 12), np.float32)), r"a.npz: 00002.npy is no map, or damaged \(float32 \[10"),
        (put_map(np.zeros((5, 6))), r"is no map, or damaged \(float64 \[5, 6\] instead of float32"),
        (put_map(np.zeros((5, 6), object)), r"00002.npy is no map, or damaged \(object"),
        (put_map(HUGE.getvalue()), r"00002.npy is no map, or damaged \(float32 \[99999999"),
        (put_map(b"no map"), "00002.npy is no map, or damaged"),
        (put_map(with_value(7)), "00002.npy holds values from 0 to 7, where probabilities are from 0 to 1"),
        (put_map(with_value(-7)), "00002.npy holds values from -7 to 0, where"),
        (put_map(with_value(np.inf)), "00002.npy holds values from 0 to inf, where"),
        (put_map(with_value(np.nan)), "00002.npy holds values from nan to nan, where"),
    ],
)  # fmt: skip
def test_maps_that_cannot_be_are_refused(maps, change, said):
    edit(maps, lambda _: None)
    change(maps / "test/a.npz")
    with pytest.raises(UserError, match=said):
        score(maps)


def test_files_that_were_swapped_are_noticed_before_anything_is_scored(maps):
    edit(
        maps,
        lambda index: [image.update(sequence="b") for image in index["images"][3:]],
        signed=True,
    )
    os.rename(maps / "c.npz", maps / "test/a.npz")
    with pytest.raises(
        UserError, match="predictions.json is not what was written there: its SHA-256 is another one"
    ):
        read_predictions(maps)


def test_a_file_of_another_test_is_noticed_before_anything_is_scored(maps, tmp_path):
    other = write(tmp_path / "other/predictions", "maps")
    put_map(with_value(0.5))(other / "test/a.npz")
    shutil.copy(other / "test/a.npz", maps / "test/a.npz")
    with pytest.raises(UserError, match="a.npz is not what was written there: its SHA-256 is another one"):
        read_predictions(maps).check(VIDEOS)


# ---------------------------------------------------------------- names that lead elsewhere, and full disks


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//b", "a\\..\\x", ".", "a/", "a\0b"])
def test_names_of_sequences_do_not_lead_out_of_the_folder(maps, tmp_path, name):
    edit(maps, lambda index: [image.update(sequence=name) for image in index["images"][3:]])
    videos = [VIDEOS[0], Video(name, 2)]
    with pytest.raises(
        UserError, match=r"the sequence .* cannot be kept in .*: its name is no path below it"
    ):
        read_predictions(maps).check(videos)
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(UserError, match="cannot be kept in"),
        PredictionWriter(tmp_path / "new/x/predictions") as writer,
    ):
        writer(videos[1], 0, MapPrediction(with_value(0), 0.5), {})
    assert sorted(tmp_path.rglob("*")) == before


class FullDisk(zipfile.ZipFile):
    """Takes one map."""

    def open(self, name, mode="r", **options):
        if mode == "w" and name != "00001.npy":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().open(name, mode, **options)


def test_a_full_disk_is_told_and_leaves_nothing_that_reads_as_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", FullDisk)
    folder = tmp_path / "run/predictions"
    with pytest.raises(UserError) as told, PredictionWriter(folder) as writer:
        for video, index, prediction in predictions_of("maps"):
            writer(video, index, prediction, {})
    sentence = (
        f"cannot write {folder}/test/a.npz: No space left on device; free some space or choose another folder"
    )
    assert str(told.value) == sentence
    assert [path.name for path in files_of(folder)] == ["00001.png"]
    with pytest.raises(UserError, match=r"there is no predictions\.json"):
        read_predictions(folder)


def test_an_interrupted_test_leaves_no_temporary_file(tmp_path):
    folder = tmp_path / "run/predictions"
    with pytest.raises(KeyboardInterrupt), PredictionWriter(folder) as writer:
        writer(VIDEOS[0], 0, MapPrediction(with_value(0), 0.5), {})
        assert temporary_beside(folder / "test/a.npz").is_file()
        raise KeyboardInterrupt
    assert [path.name for path in files_of(folder)] == ["00001.png"]


def test_what_killed_tests_have_left_goes_with_the_next_one(tmp_path):
    left = tmp_path / "earlier/predictions/test/.a.npz.elsewhere.7.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left, (0, 0))
    kept = left.with_name("a.npz")
    kept.touch()
    with PredictionWriter(tmp_path / "run/predictions"):
        assert not left.exists() and kept.exists()
