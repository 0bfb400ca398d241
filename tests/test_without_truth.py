"""test.py on sequences without truth: it says so, and what it has kept, instead of tables of blanks."""

import json

import cv2
import numpy as np
import pytest

import test
from tests.moving import Target, moving_video

KEEP = ("--save_overlays", "--save_predictions")


@pytest.fixture
def sequence(tmp_path):
    """A folder of 6 frames, <tmp_path>/set/quiet/images."""
    folder = tmp_path / "set" / "quiet" / "images"
    folder.mkdir(parents=True)
    video = moving_video(6, (40, 48), targets=[Target((24, 20), contrast=60)])
    for number, frame in enumerate(video.frames):
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    return folder.parent


def run(data, log, capsys, *flags):
    """What test.py prints of TopHat on the data."""
    model = ("--model_names", "TopHat", "--dataset_names", "Folder", "--dataset_dir", str(data))
    test.main([*model, "--log_dir", str(log), "--device", "cpu", *flags])
    return capsys.readouterr().out


def test_without_truth_no_table_is_printed_or_written(sequence, tmp_path, capsys):
    printed = run(sequence, tmp_path / "log", capsys, *KEEP)
    (folder,) = (tmp_path / "log" / "Folder" / "TopHat").iterdir()
    assert (
        "TopHat on Folder: no sequence has truth to score with; what was detected is in "
        f"{folder / 'overlays'} and {folder / 'predictions'}\n"
    ) in printed
    assert "data set  group" not in printed and "ShootingRules" not in printed and "None" not in printed
    assert sorted(path.name for path in folder.iterdir()) == ["eval.json", "overlays", "predictions"]
    assert not (tmp_path / "log" / "tables").exists()
    facts = json.loads((folder / "eval.json").read_text())
    assert (facts["scores"], facts["frames"], facts["has_truth"]) == ([], 6, False)


def test_without_truth_and_without_anything_kept_it_says_how_to_keep_it(sequence, tmp_path, capsys):
    printed = run(sequence, tmp_path / "log", capsys)
    assert "no sequence has truth to score with; --save_overlays and --save_predictions keep what" in printed


def test_a_sequence_without_truth_has_no_line_beside_one_with_truth(sequence, tmp_path, capsys):
    other = sequence.parent / "other"
    (other / "images").mkdir(parents=True)
    (other / "masks").mkdir()
    for path in (sequence / "images").iterdir():
        cv2.imwrite(str(other / "images" / path.name), cv2.imread(str(path), 0))
        mask = np.zeros((40, 48), np.uint8)
        mask[19:22, 23:26] = 255
        cv2.imwrite(str(other / "masks" / path.name), mask)
    printed = run(sequence.parent, tmp_path / "log", capsys)
    assert "TopHat on Folder: quiet has no truth to score with\n" in printed
    lines = [line for line in printed.splitlines() if line.startswith("Folder")]
    assert lines and not any("quiet" in line for line in lines)
    (folder,) = (tmp_path / "log" / "Folder" / "TopHat").iterdir()
    assert "quiet" not in (folder / "sequences.csv").read_text()
    assert (tmp_path / "log" / "tables").exists()
