"""tools/check_dataset.py: what was planted in a synthetic set is found, nothing else is, and it is told well."""

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset.check import check_dataset
from dataset.scene import SceneSettings
from dataset.synthetic import write_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

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


def coloured_mask(root: Path) -> None:
    path = path_of(root, 3, 3, "masks")
    mask = read(path)
    Image.fromarray(np.stack([0 * mask, mask, 0 * mask], axis=2)).save(path)


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
    jpeg_mask: [("no mask", "test", 7, "masks/00012.jpg is a JPEG with", "write masks as PNG")],
    coloured_mask: [
        ("no mask", "train", 3, "masks/00003.png is coloured", ""),
        ("centroid map", "train", 3, "00003.png", ""),  # the first channel is empty
    ],
    flooded_mask: [
        ("flooded mask", "train", 3, "masks/00006.png marks", "write targets above 0"),
        ("centroid map", "train", 3, "00006.png", ""),
    ],
    large_mask: [
        ("size", "train", 3, "masks/00009.png is 192x192, its frame is 96x96", ""),
        ("centroid map", "train", 3, "00009.png", ""),
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
    missing_frame: [("refused", "train", 2, "00008", "")],
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
    found = check_dataset("Synthetic", planted)
    assert unexpected(found.findings, [entry for entries in PLANTED.values() for entry in entries]) == (
        [],
        [],
    )


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
