"""tools/check_dataset.py: what was planted in a synthetic set is found, and nothing else is."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import test
import train
from dataset import create_dataset
from dataset.check import check_dataset, copies
from dataset.check.copies import LIKE_BLOCKS, LIKE_DETAIL, Frame, detail_likeness
from dataset.check.names import check_annotations, check_places
from dataset.check.pixels import check_gray_values
from dataset.check.reading import Record, Task, block_means, read_record
from dataset.check.tracks import misplaced
from dataset.check.warn import warnings
from dataset.scene import RING_INNER, RING_OUTER, SceneSettings
from dataset.sequence import Sequence, SequenceSet
from dataset.synthetic import write_dataset
from utils.errors import run_command

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import check_dataset as tool  # noqa: E402

FRAMES = 24


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """4 training and 3 test sequences of 24 frames, 96x96, with targets that move a pixel a frame."""
    root = tmp_path_factory.mktemp("clean") / "Synthetic"
    settings = SceneSettings(
        height=96, width=96, frames=FRAMES, targets=(1, 2), speed=(1.0, 1.4), turn_rate=(0, 0)
    )
    write_dataset(root, settings, train_sequences=4, test_sequences=3)
    return root


@pytest.fixture
def copy(clean, tmp_path) -> Path:
    shutil.copytree(clean, tmp_path / "Synthetic")
    return tmp_path / "Synthetic"


def path_of(root: Path, sequence: int, frame: int, kind: str = "images") -> Path:
    return root / f"Sequence{sequence}" / kind / f"{frame:05d}.png"


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def save(pixels: np.ndarray, path: Path, **options) -> None:
    Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8)).save(path, **options)


def swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def remove(root: Path, sequence: int, frame: int) -> None:
    for kind in ("images", "masks", "masks_centroid"):
        path_of(root, sequence, frame, kind).unlink()


# ---------------------------------------------------------------- faults, planted one by one


def exact_leak(root: Path) -> None:
    save(read(path_of(root, 1, 10)), path_of(root, 6, 3), compress_level=1)  # other bytes, the same pixels


def noisy_leak(root: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 8, (96, 96))
    save(read(path_of(root, 1, 12)) + noise, path_of(root, 6, 6))


def bright_leak(root: Path) -> None:
    save(0.8 * read(path_of(root, 2, 5)) + 30, path_of(root, 6, 9))


def shifted_leak(root: Path) -> None:
    save(np.roll(read(path_of(root, 2, 15)), (1, 0), (0, 1)), path_of(root, 6, 12))


def compressed_leak(root: Path) -> None:
    _, data = cv2.imencode(".jpg", read(path_of(root, 2, 20)), [cv2.IMWRITE_JPEG_QUALITY, 50])
    path_of(root, 6, 15).write_bytes(data.tobytes())


def swapped_masks(root: Path) -> None:
    for kind in ("masks", "masks_centroid"):
        swap(path_of(root, 7, 4, kind), path_of(root, 7, 19, kind))


def swapped_mask_alone(root: Path) -> None:
    swap(path_of(root, 5, 5, "masks"), path_of(root, 5, 20, "masks"))


def jpeg_mask(root: Path) -> None:
    path = path_of(root, 7, 12, "masks")
    save(read(path), path.with_suffix(".jpg"), quality=75)
    path.unlink()


def transparent_mask(root: Path) -> None:
    path = path_of(root, 3, 3, "masks")
    mask = read(path)
    Image.fromarray(np.stack([mask, mask, mask, 255 - mask], axis=2)).save(path)


def flooded_mask(root: Path) -> None:
    path = path_of(root, 3, 6, "masks")
    save(255 - read(path), path)


def large_mask(root: Path) -> None:
    path = path_of(root, 3, 9, "masks")
    save(read(path).repeat(2, 0).repeat(2, 1), path)


def truncated_frame(root: Path) -> None:
    path = path_of(root, 7, 15)
    path.write_bytes(path.read_bytes()[:200])


def truncated_mask(root: Path) -> None:
    path = path_of(root, 7, 22, "masks")
    path.write_bytes(path.read_bytes()[:60])


def deep_frame(root: Path) -> None:
    path = path_of(root, 5, 7)
    Image.fromarray(read(path).astype(np.uint16) * 257).save(path)


def small_frame(root: Path) -> None:
    path = path_of(root, 3, 12)
    save(read(path)[:80, :90], path)


def black_frame(root: Path) -> None:
    save(np.zeros((96, 96)), path_of(root, 5, 15))


def gap(root: Path) -> None:
    remove(root, 1, 20)


def repeated_frame(root: Path) -> None:
    for kind in ("images", "masks", "masks_centroid"):
        shutil.copy(path_of(root, 4, 5, kind), path_of(root, 4, 6, kind))


def repeated_frame_with_truth_of_its_own(root: Path) -> None:
    shutil.copy(path_of(root, 4, 12), path_of(root, 4, 16))


def frame_of_another_sequence(root: Path) -> None:
    shutil.copy(path_of(root, 1, 3), path_of(root, 4, 20))


def missing_frame(root: Path) -> None:
    path_of(root, 2, 8).unlink()


def extra_frame(root: Path) -> None:
    save(read(path_of(root, 3, 20)) + 1, path_of(root, 3, 99))


PLANTED = {  # what is planted: kind, split, sequence, and what the sentence holds
    exact_leak: [("leak", "test", 6, "Sequence6/images/00003.png equals", "Sequence1/images/00010.png")],
    noisy_leak: [("near leak", "test", 6, "Sequence6/images/00006.png is nearly", "Sequence1/images/000")],
    bright_leak: [("near leak", "test", 6, "Sequence6/images/00009.png is nearly", "Sequence2/images/000")],
    shifted_leak: [("near leak", "test", 6, "Sequence6/images/00012.png is nearly", "Sequence2/images/000")],
    compressed_leak: [
        ("near leak", "test", 6, "Sequence6/images/00015.png is nearly", "Sequence2/images/000")
    ],
    swapped_masks: [
        ("misplaced truth", "test", 7, "masks/00004.png", "exchanged with 00019.png"),
        ("misplaced truth", "test", 7, "masks/00019.png", "exchanged with 00004.png"),
    ],
    swapped_mask_alone: [
        ("misplaced truth", "test", 5, "masks/00005.png", "exchanged with 00020.png"),
        ("misplaced truth", "test", 5, "masks/00020.png", "exchanged with 00005.png"),
        ("centroid map", "test", 5, "masks_centroid/00005.png", "no common target"),
        ("centroid map", "test", 5, "masks_centroid/00020.png", "no common target"),
    ],
    jpeg_mask: [("no mask", "test", 7, "masks/00012.jpg is a JPEG", "PNG")],
    transparent_mask: [("no mask", "train", 3, "masks/00003.png has", "transparent")],
    flooded_mask: [("flooded mask", "train", 3, "masks/00006.png marks", "write targets above 0")],
    large_mask: [
        ("size", "train", 3, "masks/00009.png is 192x192, its frame is 96x96", ""),
        ("misplaced truth", "train", 3, "masks/00009.png", ""),
    ],
    truncated_frame: [("unreadable", "test", 7, "images/00015.png is truncated", "copy it again")],
    truncated_mask: [("unreadable", "test", 7, "masks/00022.png is truncated", "copy it again")],
    deep_frame: [("depth", "test", 5, "images/00007.png has 16 bits", "most frames of its sequence have 8")],
    small_frame: [
        ("size", "train", 3, "images/00012.png is 90x80, most frames of its sequence are 96x96", ""),
        ("size", "train", 3, "masks/00012.png is 96x96, its frame is 90x80", ""),
    ],
    black_frame: [("constant frame", "test", 5, "images/00015.png have the gray value 0", "")],
    gap: [("gap", "train", 1, "after frame 19 comes 21: 1 left out", "images/00021.png")],
    repeated_frame: [("repeated frame", "train", 4, "images/00006.png equals", "images/00005.png")],
    repeated_frame_with_truth_of_its_own: [
        ("same frame, other truth", "train", 4, "images/00016.png equals", "images/00012.png")
    ],
    frame_of_another_sequence: [
        ("frame in two sequences", "train", 4, "Sequence4/images/00020.png equals", "Sequence1/images/00003")
    ],
    missing_frame: [
        ("refused", "train", 2, "00008", ""),
        ("gap", "train", 2, "after frame 7 comes 9", ""),
    ],
    extra_frame: [("refused", "train", 3, "00099", "")],
}
HARMLESS = {"repeated frame"}


def unexpected(findings, expected: list[tuple]) -> tuple[list, list]:
    """(what was found besides, what of the expected was not found)."""
    besides, missed = list(findings), []
    for kind, split, number, *texts in expected:
        for finding in besides:
            place = (finding.kind, finding.split, finding.sequence)
            if place == (kind, split, f"Sequence{number}") and all(t in finding.sentence for t in texts):
                besides.remove(finding)
                break
        else:
            missed.append((kind, split, number, *texts))
    return besides, missed


def test_a_clean_set_has_no_finding(clean):
    found = check_dataset("Synthetic", clean)
    assert found.findings == []
    assert {split: facts["frames"] for split, facts in found.statistics.items()} == {"train": 96, "test": 72}


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_each_fault_is_found_and_nothing_else(plant, copy):
    plant(copy)
    found = check_dataset("Synthetic", copy)
    assert unexpected(found.findings, PLANTED[plant]) == ([], [])
    assert found.changes_figures == any(kind not in HARMLESS for kind, *_ in PLANTED[plant])


@pytest.fixture(scope="module")
def planted(clean, tmp_path_factory) -> Path:
    """All of them in one set; those of a sequence that is refused are checked all the same."""
    root = tmp_path_factory.mktemp("planted") / "Synthetic"
    shutil.copytree(clean, root)
    for plant in PLANTED:
        plant(root)
    return root


def test_all_faults_at_once(planted):
    expected = [entry for entries in PLANTED.values() for entry in entries]
    assert unexpected(check_dataset("Synthetic", planted).findings, expected) == ([], [])


@pytest.mark.slow
def test_processes_find_the_same(planted, tmp_path, run_python, monkeypatch):
    """As a command, with two processes that read, and a piece of one frame each."""
    code = (
        "import utils.parallel as p; p.LEAST = p.CHUNK = 8\n"
        "import sys; sys.path.insert(0, 'tools'); import check_dataset\n"
        "if __name__ == '__main__': sys.exit(check_dataset.main(sys.argv[1:]))"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    args = ("--dataset_dir", planted, "--workers", 2, "--log_dir", tmp_path)
    done = run_python(script, *args)
    assert done.returncode == 1, done.stderr
    (written,) = tmp_path.glob("checks/Synthetic/*/check.json")
    sentences = [finding["sentence"] for finding in json.loads(written.read_text())["findings"]]
    assert sentences == [finding.sentence for finding in check_dataset("Synthetic", planted).findings]
    (page,) = tmp_path.glob("checks/Synthetic/*/check.txt")
    assert done.stdout.startswith(page.read_text())


# ---------------------------------------------------------------- the command: exit code, page, JSON, sheet


def run(*args) -> int:
    with pytest.raises(SystemExit) as end:
        run_command(lambda: tool.main([str(arg) for arg in args]))
    return end.value.code


def written(folder: Path, name: str = "Synthetic") -> tuple[str, dict, Path]:
    """The page, the content of the JSON and the folder of the only check in a folder of runs."""
    (page,) = folder.glob(f"checks/{name}/*/check.txt")
    return page.read_text(), json.loads(page.with_name("check.json").read_text()), page.parent


def test_a_clean_set_ends_with_0(clean, tmp_path, capsys):
    assert run("--dataset_dir", clean.parent, "--log_dir", tmp_path, "--workers", 1) == 0
    page, facts, folder = written(tmp_path)
    said = capsys.readouterr().out
    assert said.startswith(page) and "=> Nothing was found that would change a figure." in page
    assert (facts["changes_figures"], facts["findings"]) == (False, [])
    assert not (folder / "check.png").exists()


def test_a_planted_set_ends_with_1_and_a_page(planted, tmp_path, capsys):
    assert run("--dataset_dir", planted, "--log_dir", tmp_path, "--workers", 1) == 1
    page, facts, folder = written(tmp_path)
    assert max(map(len, page.splitlines())) <= 100
    verdict, harmful, harmless = (page.index(text) for text in ("=>", "These change figures", "These do not"))
    assert verdict < harmful < page.index("test frames that are training frames (1)") < harmless
    assert harmless < page.index("frames that repeat an earlier one (1)") < page.index("Statistics")
    assert "Sequence6/images/00003.png equals Sequence1/images/00010.png" in page  # within the data set
    assert len(facts["findings"]) == sum(map(len, PLANTED.values()))
    for finding in facts["findings"]:
        assert (
            finding["sentence"] and finding["kind"] in facts["kinds"] and finding["split"] in facts["splits"]
        )
    sheet = read(folder / "check.png")
    assert sheet.ndim == 3 and 500 < sheet.shape[0] < 3000 and 500 < sheet.shape[1] < 2000
    capsys.readouterr()


def test_what_cannot_be_read_at_all_ends_with_2(clean, tmp_path, capsys):
    assert run("--dataset_dir", tmp_path / "nowhere", "--log_dir", tmp_path) == 2
    assert capsys.readouterr().err.startswith("error: there is no folder")
    names = ("--dataset_names", "DAUB", "Synthetic", "TSIRMT")  # the one that is there is checked
    assert run(*names, "--dataset_dir", clean.parent, "--log_dir", tmp_path, "--workers", 1) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 2 and all(t.startswith("error: ") for t in said.err.splitlines())
    assert "Nothing was found" in written(tmp_path)[0]


@pytest.mark.parametrize("flags", [("--workers", 0), ("--workers", -1), ("--dataset_names", "Synthetix")])
def test_wrong_flags_are_refused(clean, tmp_path, capsys, flags):
    assert run("--dataset_dir", clean, "--log_dir", tmp_path, *flags) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_one_split_that_is_refused_is_a_finding(copy):
    (copy / "train.txt").unlink()
    found = check_dataset("Synthetic", copy)
    (finding,) = found.findings
    assert (finding.kind, finding.split, list(found.sets)) == ("refused", "train", ["test"])
    assert "train.txt" in finding.sentence


# ---------------------------------------------------------------- other truth, other sets


@pytest.fixture
def boxed(clean, tmp_path) -> Path:
    """DAUB of two test sequences with one box a frame; frames are 96x96."""
    root = tmp_path / "DAUB"
    for part, number in (("train", 1), ("test", 5), ("test", 6)):
        folder = root / "images" / part / f"data{number}"
        folder.mkdir(parents=True)
        for frame in range(8):
            shutil.copy(path_of(clean, number, frame + 1), folder / f"{frame}.png")
    write_boxes(root, "train", {1: {}})
    write_boxes(root, "test", {5: {}, 6: {}})
    return root


def write_boxes(root: Path, part: str, changed: dict[int, dict[int, str]]) -> None:
    """A list of boxes; `changed` has the text of some frames, by data number and frame."""
    lines = [
        f"images/{part}/data{number}/{frame}.png {boxes.get(frame, f'{20 + frame},30,{26 + frame},36,0')}"
        for number, boxes in changed.items()
        for frame in range(8)
    ]
    (root / f"coco_{part}_DAUB.txt").write_text("".join(f"{line.strip()}\n" for line in lines))


PLACES = {  # x1, y1, x2, y2 in a frame of 96x96
    "outside": [(200, 30, 206, 36), (-9, 30, -3, 36), (20, 96, 26, 99), (20, -9, 26, 0)],
    "box at border": [(-2, 30, 4, 36), (20, -1, 26, 5), (92, 30, 98, 36), (20, 92, 26, 97)],
    "no area": [(26, 30, 26, 36), (26, 30, 32, 30), (32, 30, 26, 36), (np.nan, 30, 32, 36)],
    "": [(0, 0, 96, 96), (0.5, 0, 4, 4), (90, 90, 96, 96)],
}


def annotated(clean: Path, **truth) -> SequenceSet:
    """A set of one sequence with places in its only frame."""
    sequence = Sequence("5", (path_of(clean, 5, 1),), **{kind: (np.array(p),) for kind, p in truth.items()})
    return SequenceSet("Places", clean, "test", (sequence,))


@pytest.mark.parametrize("kind", PLACES)
def test_boxes_outside_cut_and_without_area(clean, kind):
    for box in PLACES[kind]:
        data = annotated(clean, boxes=[box, (40, 40, 46, 46)])
        found = list(check_places(data, data[0], 0, (96, 96)))
        assert [f.kind for f in found] == [kind] * bool(kind)
        assert all("{:g},{:g},{:g},{:g}".format(*box) in f.sentence for f in found)
        without_size = [f.kind for f in check_annotations(data)]  # what is impossible in any frame
        assert set(without_size) <= {kind} and (kind != "no area" or without_size)


def test_points_outside(clean):
    for point, is_outside in (((95.4, 0), False), ((20, 96), True), ((-1, 5), True), ((np.nan, 5), True)):
        data = annotated(clean, points=[point, (10, 10)])
        assert [f.kind for f in check_places(data, data[0], 0, (96, 96))] == ["outside"] * is_outside


def test_a_sequence_without_a_box_and_a_box_outside(boxed):
    """Of the second the reader may say so before the check does."""
    write_boxes(boxed, "test", {5: {2: "200,30,206,36,0"}, 6: dict.fromkeys(range(8), "")})
    found = [f for f in check_dataset("DAUB", boxed).findings if f.split == "test"]
    (outside,) = (f for f in found if f.kind in ("outside", "refused"))
    assert "200,30,206,36" in outside.sentence
    (lost,) = (f for f in found if f.kind == "without targets")
    assert "test/data6" in lost.sentence


def test_boxes_that_jump(boxed):
    write_boxes(boxed, "test", {5: {3: "70,80,76,86,0"}, 6: {}})
    (finding,) = (f for f in check_dataset("DAUB", boxed).findings if f.kind != "unlike published")
    assert finding.kind == "misplaced truth" and "data5/3.png" in finding.sentence


def test_counts_unlike_the_published_ones(boxed):
    found = check_dataset("DAUB", boxed)
    said = [f.text for f in found.findings if f.kind == "unlike published"]
    assert "test/data6 has 8 frames, published are 399" in said
    assert "the published sequence train/data5 is missing" in said
    assert "the sequence test/data5 is not in the published list" in said
    assert found.statistics["test"]["published"] == {"sequences": 7, "frames": 4795, "targets": 4795}


def test_a_folder_without_lists_has_no_leaks(clean, tmp_path):
    for number in (1, 2):
        shutil.copytree(clean / f"Sequence{number}", tmp_path / "mine" / str(number))
    found = check_dataset("Folder", tmp_path / "mine")
    assert (found.findings, list(found.sets)) == ([], ["test"])
    for split, names in (("train", "1\n2\n"), ("test", "2\n")):
        (tmp_path / "mine" / f"{split}.txt").write_text(names)
    (finding,) = check_dataset("Folder", tmp_path / "mine").findings
    assert (finding.kind, finding.split, finding.sequence) == ("shared sequence", "test", "2")


@pytest.mark.parametrize("origin", [0, 1])
def test_points_that_count_from_1(clean, tmp_path, origin):
    (data, *_) = create_dataset("Synthetic", clean, "test")
    shutil.copytree(clean / data.name / "images", tmp_path / "mine/images")
    lines = []
    for image, mask in zip(data.images, data.masks, strict=True):
        places = np.rint(read_record(Task(image, mask)).targets.centres) + origin
        lines.append(";".join(f"{row:g},{column:g}" for row, column in places))
    (tmp_path / "mine/centroids.txt").write_text("\n".join(lines))
    found = check_dataset("Folder", tmp_path / "mine").findings
    assert [f.kind for f in found] == ["origin"] * origin
    assert check_dataset("Folder", tmp_path / "mine", box_origin=origin).findings == []


@pytest.mark.parametrize(
    "mean, std, fits", [(100, 30, True), (117, 21, True), (60, 26, False), (105, 9, False)]
)
def test_gray_values_unlike_the_constants(clean, mean, std, fits):
    data = dataclasses.replace(create_dataset("Synthetic", clean, "test"), mean=105.4, std=26.6)
    said = [finding.text for finding in check_gray_values(data, mean, std)]
    assert (said == []) == fits
    if said:
        assert said[0].endswith("the constants of Synthetic are 105.4 and 26.6")


def test_gray_values_of_a_split_are_those_of_all_pixels(clean):
    found = check_dataset("Synthetic", clean).statistics["test"]
    pixels = np.stack([read(path_of(clean, n, k)) for n in (5, 6, 7) for k in range(1, FRAMES + 1)])
    assert (found["mean"], found["std"]) == pytest.approx((pixels.mean(), pixels.std()))
    assert (found["lowest"], found["highest"]) == (pixels.min(), pixels.max())


# ---------------------------------------------------------------- definitions


def naive_snr(gray: np.ndarray, mask: np.ndarray) -> float:
    """Of the only target, pixel by pixel."""
    rows, columns = np.nonzero(mask)
    target, ring = [], []
    for (row, column), value in np.ndenumerate(gray.astype(float)):
        away = max(
            rows.min() - row, row - rows.max(), columns.min() - column, column - columns.max()
        )  # in rows or columns from the box around the target
        if mask[row, column]:
            target.append(value)
        elif RING_INNER < away <= RING_OUTER:
            ring.append(value)
    return (np.mean(target) - np.mean(ring)) / np.std(ring)


def test_statistics_of_targets_by_their_definitions(tmp_path):
    rng = np.random.default_rng(0)
    for row in (30, 2):  # in the middle, and where the ring is cut
        gray, mask = rng.integers(80, 120, (64, 48)).astype(np.uint8), np.zeros((64, 48), np.uint8)
        mask[row : row + 3, 20:22] = mask[row + 3, 22] = 255
        gray[mask > 0] = 180
        save(gray, tmp_path / "image.png")
        save(mask, tmp_path / "mask.png")
        record = read_record(Task(tmp_path / "image.png", tmp_path / "mask.png"))
        assert record.targets.area.tolist() == [7]
        assert record.targets.snr[0] == pytest.approx(naive_snr(gray, mask), rel=1e-6)
        assert record.targets.centres[0] == pytest.approx(np.argwhere(mask).mean(0))
        assert (record.mean, record.std) == pytest.approx((gray.mean(), gray.std()))


def test_the_ring_of_a_target_holds_no_other_target(tmp_path):
    gray = np.random.default_rng(0).integers(80, 120, (64, 48)).astype(np.uint8)
    mask = np.zeros((64, 48), np.uint8)
    mask[30, 20] = 255
    gray[30, 20] = 200
    alone = naive_snr(gray, mask)
    mask[30, 26:28] = 255  # in the ring of the first one
    save(gray, tmp_path / "image.png")
    save(mask, tmp_path / "mask.png")
    snr = read_record(Task(tmp_path / "image.png", tmp_path / "mask.png")).targets.snr[0]
    ring = np.zeros((64, 48), bool)
    ring[22:39, 12:29] = True
    ring[27:34, 17:24] = ring[30, 26:28] = False
    assert snr == pytest.approx((200 - gray[ring].mean()) / gray[ring].std()) != pytest.approx(alone)


def test_snr_of_the_synthetic_set_is_the_stated_one(clean):
    stated = {s["name"]: s["snr"] for s in json.loads((clean / "synthetic.json").read_text())["sequences"]}
    for found in check_dataset("Synthetic", clean).statistics["test"]["each"]:
        assert found["snr"]["median"] == pytest.approx(stated[found["name"]], abs=1.2)


def frames_of(rng: np.random.Generator, count: int, split: str) -> list[Frame]:
    """Frames of random blocks, without files."""
    records = [
        Record(Path(f"{split}{n}"), digest=f"{split}{n}".encode(), lowest=0, highest=9) for n in range(count)
    ]
    for record in records:
        record.blocks = block_means(rng.normal(size=(64, 64)).astype(np.float32))
    return [Frame(None, None, number, record) for number, record in enumerate(records)]


def test_each_test_frame_is_compared_with_the_training_frame_most_like_it(monkeypatch):
    """Piece by piece, and with none where none is like it."""
    monkeypatch.setattr(copies, "ROWS", 3)
    monkeypatch.setattr(copies, "COLUMNS", 4)
    rng = np.random.default_rng(0)
    train, test = frames_of(rng, 14, "train"), frames_of(rng, 8, "test")
    for number, like in ((1, 13), (4, 2), (7, 6)):
        test[number].record.blocks = train[like].record.blocks
    assert [(a.index, b.index) for a, b in copies.near_pairs(train, test)] == [(1, 13), (4, 2), (7, 6)]
    test[4].record.digest = train[9].record.digest  # equal: not near any more
    test[7].record.lowest = 9  # of one gray value
    assert [(a.index, b.index) for a, b in copies.near_pairs(train, test)] == [(1, 13)]


def test_other_scenes_are_not_nearly_equal(tmp_path):
    """Not even those of the same large structure: then the fine one decides."""
    rng = np.random.default_rng(0)
    large = cv2.resize(rng.normal(0, 40, (8, 8)), (256, 256), interpolation=cv2.INTER_CUBIC)
    scenes = []
    for number in range(10):
        fine = sum(cv2.resize(rng.normal(0, 8, (n, n)), (256, 256), interpolation=2) for n in (32, 64, 256))
        scenes.append(120 + large + fine)
        save(scenes[-1], tmp_path / f"{number}.png")
    blocks = np.stack([block_means(np.float32(scene)) for scene in scenes])
    assert (blocks @ blocks.T).min() > LIKE_BLOCKS
    pairs = [(tmp_path / f"{i}.png", tmp_path / f"{j}.png") for i in range(10) for j in range(i)]
    assert max(map(detail_likeness, pairs)) < LIKE_DETAIL / 2
    assert detail_likeness((pairs[0][0], pairs[0][0])) == pytest.approx(1)


# ---------------------------------------------------------------- masks that were exchanged


def line(frames: int = 40, speed: float = 1.0) -> list[np.ndarray]:
    return [np.array([[10 + speed * n, 20 + speed * n]]) for n in range(frames)]


def found_in(centres: list, numbers=None) -> list:
    return list(misplaced(centres, range(len(centres)) if numbers is None else numbers, 1))


def test_masks_that_were_exchanged():
    for one, other in ((0, 20), (5, 30), (39, 10)):
        centres = line()
        centres[one], centres[other] = centres[other], centres[one]
        assert sorted(found_in(centres)) == sorted([(one, other), (other, one)])
    centres = line()
    centres[7] = np.array([[90.0, 3.0]])
    assert found_in(centres) == [(7, None)]


def test_targets_that_appear_vanish_and_turn_are_not_misplaced():
    centres = line()
    assert found_in(centres) == []
    centres[10:] = [np.vstack([c, [[200, 200]]]) for c in centres[10:]]  # another one appears
    centres[20] = np.zeros((0, 2))  # nothing for a frame
    centres[30:] = [c[1:] for c in centres[30:]]  # the first one vanishes
    assert found_in(centres) == []
    there_and_back = [np.array([[abs(n - 20) * 3.0, 5.0]]) for n in range(40)]
    assert found_in(there_and_back) == []
    cut = line()
    cut[20:] = [c + 100 for c in cut[20:]]  # the camera turns once
    assert found_in(cut) == []
    numbers = [*range(20), *range(120, 140)]  # frames are missing
    jump = line()
    jump[20] = jump[20] + 50
    assert found_in(jump, numbers) == []
    away = line(20) + [c + 60 for c in line(1)] + [c + 120 for c in line(20)]  # a frame within a sweep
    assert found_in(away) == []


# ---------------------------------------------------------------- what train.py and test.py say


def test_warnings_without_reading_a_frame(boxed, tmp_path):
    write_boxes(boxed, "test", {5: {}, 6: dict.fromkeys(range(8), "")})
    path = boxed / "coco_test_DAUB.txt"
    path.write_text(path.read_text().replace("images/test/data5/4.png 24,30,30,36,0\n", ""))
    sets = [create_dataset("DAUB", boxed, "test")]
    for frame in boxed.glob("images/*/*/*.png"):
        frame.write_bytes(b"")  # nobody looks into them
    said = list(warnings(sets, tmp_path))
    assert said == [
        "DAUB, test split: not the published data: test/data6 has 8 frames, published are 399 (and 7 more)",
        "DAUB, test split: gaps in the numbers of frames: after frame 3 comes 5: 1 left out before "
        f"{boxed}/images/test/data5/5.png",
        "DAUB, test split: sequences without targets: none of the 8 frames of test/data6 has a target",
        "`python tools/check_dataset.py --dataset_names DAUB` tells all, frame by frame",
    ]


def test_a_clean_set_gives_no_warning(clean, tmp_path):
    assert list(warnings([create_dataset("Synthetic", clean, s) for s in ("train", "test")], tmp_path)) == []


def test_a_sequence_of_both_splits_is_warned_of(clean, tmp_path):
    sets = [create_dataset("Synthetic", clean, split) for split in ("train", "test")]
    both = [sets[0], type(sets[1])(**{**vars(sets[1]), "sequences": sets[0].sequences[:2]})]
    said = list(warnings(both, tmp_path))
    assert "sequences of both splits: Sequence1 has 24 frames that the training split lists too" in said[0]


def test_what_a_check_found_is_repeated_as_long_as_the_data_is_the_same(copy, tmp_path, capsys):
    exact_leak(copy)
    assert run("--dataset_dir", copy, "--log_dir", tmp_path, "--workers", 1) == 1
    page = written(tmp_path)[2] / "check.txt"

    def said(split: str) -> list[str]:
        return list(warnings([create_dataset("Synthetic", copy, split)], tmp_path))

    assert said("test") == [
        "a check of this data found what changes figures of the test split (test frames that are training "
        f"frames: 1): {page}"
    ]
    assert said("train") == []
    path = page.with_name("check.json")
    report = path.read_text()
    for damaged in (report[:100], "[]", "{}", report.replace('"fingerprints"', '"prints"')):
        path.write_text(damaged)
        assert said("test") == []
    path.write_text(report)
    assert len(said("test")) == 1
    frame = path_of(copy, 7, 1)
    os.utime(frame, ns=(0, frame.stat().st_mtime_ns + 1))
    assert said("test") == []
    capsys.readouterr()


def test_train_and_test_print_the_warnings(copy, tmp_path, capsys):
    remove(copy, 5, 12)
    remove(copy, 2, 12)
    test.main(["--model_names", "TopHat", "--dataset_dir", str(copy), "--log_dir", str(tmp_path)])
    (line,) = (text for text in capsys.readouterr().out.splitlines() if "after frame" in text)
    assert line.startswith("warning: Synthetic, test split: gaps in the numbers of frames: after frame 11")
    args = train.parse(
        ["--dataset_dir", str(copy), "--log_dir", str(tmp_path), "--set", "validation=holdout"]
    )
    with pytest.raises(Exception, match="too few to hold out"):
        train.build_run(args, train.MODELS.entry("DeepPro"), train.DATASETS.entry("Synthetic"))
    (line,) = (text for text in capsys.readouterr().out.splitlines() if "after frame" in text)
    assert line.startswith("warning: Synthetic, train split: gaps in the numbers of frames: after frame 11")
