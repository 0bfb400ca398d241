"""tools/add_noise.py: the noise that is asked for, the layout that the reader finds, no claim to the name."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset import create_dataset
from utils.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import add_noise  # noqa: E402


@pytest.fixture
def clean(tmp_path) -> Path:
    """A NUDT-MIRSDT of two sequences of 30 gray frames of 40x60."""
    root = tmp_path / "NUDT-MIRSDT"
    for name, gray in (("Sequence1", 60), ("Sequence47", 160)):
        for kind in ("images", "masks"):
            (root / name / kind).mkdir(parents=True)
            for number in range(1, 31):
                pixels = np.full((40, 60), gray if kind == "images" else 0, np.uint8)
                Image.fromarray(pixels).save(root / name / kind / f"{number:05d}.png")
    (root / "train.txt").write_text("Sequence1\n")
    (root / "test.txt").write_text("Sequence47\n")
    return root


def frames(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(p)) for p in sorted((folder / "images").iterdir())]).astype(float)


def written(clean: Path) -> Path:
    (folder,) = (clean.parent / "NUDT-MIRSDT-Noise").iterdir()
    return folder


def test_the_noise_is_what_is_asked_for(clean):
    add_noise.main(["--dataset_dir", str(clean.parent)])
    for name, gray in (("Sequence1", 60), ("Sequence47", 160)):
        found = frames(written(clean) / name)
        assert found.shape == (30, 40, 60)
        temporal = found.std(axis=0, ddof=1)  # of each pixel: the Gaussian noise and the rounding
        assert np.sqrt((temporal**2).mean()) == pytest.approx(np.hypot(8, np.sqrt(1 / 12)), rel=0.01)
        fixed = found.mean(axis=0).std()  # over the pixels: gain, offset and what the mean leaves
        wanted = np.sqrt((gray * 0.15) ** 2 / 3 + 1.3**2 + 64 / 30)
        assert fixed == pytest.approx(wanted, rel=0.05)
        assert found.mean() == pytest.approx(gray, abs=0.5)


def test_the_reader_finds_it_with_the_truth_of_the_clean_set(clean):
    add_noise.main(["--dataset_dir", str(clean), "--seed", "3"])
    data = create_dataset("NUDT-MIRSDT-Noise", clean.parent, "test")
    assert [s.name for s in data] == ["Sequence47"]
    assert data[0].images[0].parent.parent.parent == written(clean)
    assert data[0].masks[0] == clean / "Sequence47" / "masks" / "00001.png"
    facts = json.loads((written(clean) / "noise.json").read_text())
    assert (facts["sigma"], facts["gain"], facts["offset"], facts["seed"]) == (8.0, 0.15, 1.3, 3)
    assert "FJY" not in written(clean).name and "home-made" in written(clean).name
    assert any("Assumed" in text for text in facts["assumptions"])


def test_a_seed_writes_the_same_files(clean, tmp_path):
    for out in ("a", "b", "c"):
        seed = "1" if out == "c" else "0"
        add_noise.main(["--dataset_dir", str(clean), "--out", str(tmp_path / out), "--seed", seed])
    one, same, other = (frames(tmp_path / out / "Sequence1") for out in ("a", "b", "c"))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_no_noise_is_the_clean_set(clean, tmp_path):
    none = ("--sigma", "0", "--gain", "0", "--offset", "0")
    add_noise.main(["--dataset_dir", str(clean), "--out", str(tmp_path / "a"), *none])
    assert np.array_equal(frames(tmp_path / "a" / "Sequence1"), frames(clean / "Sequence1"))


def test_wrong_calls_are_refused(clean, tmp_path):
    with pytest.raises(
        UserError, match="argument --sigma: it takes a number, at least 0 and at most 255, not '-1'"
    ):
        add_noise.main(["--sigma", "-1"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="full is not empty"):
        add_noise.main(["--dataset_dir", str(clean), "--out", str(tmp_path / "full")])
