"""The synthetic data set: what is written, and that scene, targets and SNR are what the settings say."""

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset import synthetic
from dataset.scene import SceneSettings, render_sequence
from dataset.synthetic import write_dataset
from utils.errors import UserError

TOOL = Path(__file__).parents[1] / "tools" / "make_synthetic.py"
SMALL = SceneSettings(height=40, width=56, frames=6)
PLAIN = SceneSettings(
    targets=(0, 0), clutter=(0, 0), noise_std=0.0, offset_std=0.0, gain_std=0.0
)  # background only


def render(settings: SceneSettings, snr: float = 5.0, seed: int = 0) -> synthetic.SyntheticSequence:
    return render_sequence(settings, snr, np.random.default_rng(seed))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


# ---------------------------------------------------------------- the folder


def test_layout_is_that_of_nudt_mirsdt(tmp_path):
    write_dataset(tmp_path / "set", SMALL, train_sequences=3, test_sequences=2)
    frames = [f"{number:05d}" for number in range(1, 7)]
    expected = {"train.txt", "test.txt", "low_snr_sequences.txt", "high_snr_sequences.txt", "synthetic.json"}
    for number in range(1, 6):
        for part in ("images", "masks", "masks_centroid"):
            expected |= {f"Sequence{number}/{part}/{frame}.png" for frame in frames}
    assert set(digests(tmp_path / "set")) == expected

    def lines(name):
        return (tmp_path / "set" / name).read_text().splitlines()

    assert lines("train.txt") == [f"Sequence{k}/Mix/{frame}.mat" for k in (1, 2, 3) for frame in frames]
    assert lines("test.txt") == [f"Sequence{k}/Mix/{frame}.mat" for k in (4, 5) for frame in frames]
    assert lines("high_snr_sequences.txt") == ["Sequence1", "Sequence3", "Sequence5"]
    assert lines("low_snr_sequences.txt") == ["Sequence2", "Sequence4"]


def test_images_on_disk_are_the_rendered_ones(tmp_path):
    write_dataset(tmp_path / "set", SMALL, 1, 0, seed=3)
    sequence = synthetic.draw_sequence(SMALL, 3, 1)
    parts = {"images": sequence.frames, "masks": sequence.masks, "masks_centroid": sequence.centroids}
    for part, frames in parts.items():
        files = sorted((tmp_path / "set" / "Sequence1" / part).iterdir())
        images = np.stack([np.asarray(Image.open(file)) for file in files])
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, frames)
    assert set(np.unique(sequence.masks)) == set(np.unique(sequence.centroids)) == {0, 255}


def test_summary_states_settings_seed_snr_and_tracks(tmp_path):
    write_dataset(tmp_path / "set", SMALL, 2, 1, seed=8)
    facts = json.loads((tmp_path / "set" / "synthetic.json").read_text())
    assert facts["seed"] == 8
    assert facts["settings"]["height"] == 40 and facts["settings"]["speed"] == [0.4, 1.6]
    assert [sequence["name"] for sequence in facts["sequences"]] == ["Sequence1", "Sequence2", "Sequence3"]
    for number, sequence in enumerate(facts["sequences"], start=1):
        low, high = (3.5, 6.0) if number % 2 else (1.5, 3.0)
        assert low <= sequence["snr"] <= high
        for target in sequence["targets"]:
            row, col = np.rint(target["first"]["place"]).astype(int)
            name = f"Sequence{number}/masks_centroid/{target['first']['frame']:05d}.png"
            assert np.asarray(Image.open(tmp_path / "set" / name))[row, col] == 255


def test_a_seed_writes_the_same_bytes_and_a_longer_set_starts_with_the_shorter(tmp_path):
    write_dataset(tmp_path / "a", SMALL, 2, 1, seed=1)
    write_dataset(tmp_path / "b", SMALL, 2, 1, seed=1)
    write_dataset(tmp_path / "long", SMALL, 4, 0, seed=1)
    write_dataset(tmp_path / "other", SMALL, 2, 1, seed=2)
    a, b, longer, other = (digests(tmp_path / name) for name in ("a", "b", "long", "other"))
    assert a == b
    images = [name for name in a if name.startswith("Sequence")]
    assert all(longer[name] == a[name] for name in images)
    first_frames = [name for name in images if name.endswith("images/00001.png")]
    assert len({digest[name] for digest in (a, other) for name in first_frames}) == 6


def test_a_folder_with_other_files_is_never_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="mine is not empty"):
            write_dataset(tmp_path / "mine", SMALL, 1, 0, overwrite=overwrite)
    assert list(digests(tmp_path)) == ["mine/thesis.txt"]


def test_an_earlier_set_is_replaced_only_on_request(tmp_path):
    write_dataset(tmp_path / "set", SMALL, 2, 0)
    before = digests(tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        write_dataset(tmp_path / "set", SMALL, 1, 0, seed=5)
    assert digests(tmp_path) == before
    write_dataset(tmp_path / "set", SMALL, 1, 0, seed=5, overwrite=True)
    assert not (tmp_path / "set" / "Sequence2").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_interrupted_run_leaves_nothing_and_keeps_the_earlier_set(tmp_path, monkeypatch):
    write_dataset(tmp_path / "set", SMALL, 1, 0)
    before = digests(tmp_path)
    draw = synthetic.draw_sequence

    def interrupted(settings, seed, number):
        if number == 2:
            raise KeyboardInterrupt
        return draw(settings, seed, number)

    monkeypatch.setattr(synthetic, "draw_sequence", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", SMALL, 2, 0, seed=1, overwrite=True)
    assert digests(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


# ---------------------------------------------------------------- the truth


def measured_snr(sequence: synthetic.SyntheticSequence) -> float:
    """The definition, pixel by pixel, on the 8-bit frames: mean over the frames that show the one target."""
    values = []
    for frame, mask, centroids in zip(sequence.frames, sequence.masks, sequence.centroids, strict=True):
        for row, col in np.argwhere(centroids):
            ring = []
            for r in range(max(row - 8, 0), min(row + 9, frame.shape[0])):
                for c in range(max(col - 8, 0), min(col + 9, frame.shape[1])):
                    if abs(r - row) > 3 or abs(c - col) > 3:
                        ring.append(float(frame[r, c]))
            values.append((frame[mask > 0].mean() - np.mean(ring)) / np.std(ring))
    return float(np.mean(values))


@pytest.mark.parametrize("snr", [1.5, 3.0, 6.0])
def test_measured_snr_is_the_stated_one(snr):
    settings = SceneSettings(frames=60, targets=(1, 1), clutter=(0, 0))
    measured = [measured_snr(render(settings, snr, seed)) for seed in range(8)]
    assert np.mean(measured) == pytest.approx(snr, abs=0.15)
    assert np.max(np.abs(np.array(measured) - snr)) < 0.6


def test_mask_and_centroid_follow_the_sub_pixel_tracks():
    settings = SceneSettings(height=48, width=64, frames=30, targets=(3, 3), psf_sigma=(0.3, 1.3))
    sequence = render(settings, seed=4)
    masks, centroids = np.zeros_like(sequence.masks), np.zeros_like(sequence.centroids)
    for track, sigma in zip(sequence.targets.positions, sequence.targets.sigma, strict=True):
        for frame, (y, x) in enumerate(track):
            row, col = round(y), round(x)
            if not (5 <= row < 43 and 5 <= col < 59):
                continue
            centroids[frame, row, col] = masks[frame, row, col] = 255
            for r in range(48):
                for c in range(64):
                    if math.exp(-((r - y) ** 2 + (c - x) ** 2) / (2 * sigma**2)) >= 0.5:
                        masks[frame, r, c] = 255
    np.testing.assert_array_equal(sequence.centroids, centroids)
    np.testing.assert_array_equal(sequence.masks, masks)


def test_a_target_is_a_gaussian_point_of_its_contrast():
    settings = replace(PLAIN, targets=(1, 1), gray_std=(0.0, 0.0), gray_mean=(60.0, 60.0), frames=20)
    sequence = render(settings, snr=400.0, seed=2)
    rows, cols = np.mgrid[:128, :128]
    for frame, (y, x), visible in zip(
        sequence.frames, sequence.targets.positions[0], sequence.targets.visible[0], strict=True
    ):
        spread = np.exp(-((rows - y) ** 2 + (cols - x) ** 2) / (2 * sequence.targets.sigma[0] ** 2))
        assert np.abs(frame - (60 + visible * sequence.contrast[0] * spread)).max() < 0.51


def test_targets_keep_their_speed_and_some_turn():
    turns = []
    for seed in range(10):
        for track in render(SceneSettings(frames=30), seed=seed).targets.positions:
            steps = np.diff(track, axis=0)
            speed = np.hypot(*steps.T)
            assert 0.4 <= speed[0] <= 1.6
            np.testing.assert_allclose(speed, speed[0])
            heading = np.unwrap(np.arctan2(*steps.T))
            np.testing.assert_allclose(np.diff(heading), heading[1] - heading[0], atol=1e-9)
            turns.append(abs(math.degrees(heading[1] - heading[0])))
    straight = [turn for turn in turns if turn < 1e-9]
    turning = [turn for turn in turns if turn > 1e-9]
    assert len(straight) >= 3 and len(turning) >= 3
    assert all(0.5 <= turn <= 3.0 for turn in turning)


def test_targets_come_and_go():
    counts = np.concatenate(
        [render(SceneSettings(), seed=seed).targets.visible.sum(axis=0) for seed in range(8)]
    )
    assert {0, 1, 2} <= set(counts.tolist()) <= {0, 1, 2, 3}


def test_typical_targets_have_two_to_nine_pixels():
    sizes = []
    for seed in range(8):
        sequence = render(SceneSettings(targets=(1, 1)), seed=seed)
        sizes += [int(np.count_nonzero(mask)) for mask in sequence.masks if mask.any()]
    assert np.percentile(sizes, 2) >= 2 and np.percentile(sizes, 98) <= 9


# ---------------------------------------------------------------- the scene


def test_background_has_the_stated_mean_and_contrast():
    frames = render(replace(PLAIN, gray_mean=(120.0, 120.0), gray_std=(18.0, 18.0))).frames
    assert frames.mean() == pytest.approx(120, abs=0.5)
    assert frames.std() == pytest.approx(18, abs=0.5)


def coarse_displacement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rows, columns by which the picture moved, to half a pixel."""
    window = cv2.createHanningWindow(first.shape[::-1], cv2.CV_64F)
    (x, y), _ = cv2.phaseCorrelate(first.astype(np.float64), second.astype(np.float64), window)
    return np.array([y, x])


def displacement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rows, columns by which the picture moved, to a fifth of a pixel where it has texture."""
    y, x = coarse_displacement(first, second)
    warp = np.array([[1, 0, x], [0, 1, y]], np.float32)
    _, warp = cv2.findTransformECC(first, second, warp, cv2.MOTION_TRANSLATION)
    return warp[::-1, 2]


@pytest.mark.parametrize("horizon", [0.0, 9.0], ids=["ground", "sky"])
def test_ground_and_sky_drift_at_the_stated_speed(horizon):
    settings = replace(PLAIN, horizon=(horizon, horizon), drift_speed=(0.3, 0.3), frames=31)
    frames = render(settings).frames
    half, whole = displacement(frames[0], frames[15]), displacement(frames[0], frames[30])
    assert np.hypot(*half) == pytest.approx(4.5, abs=0.2)
    assert np.hypot(*whole) == pytest.approx(9.0, abs=0.2)
    np.testing.assert_allclose(whole, 2 * half, atol=0.3)


def test_jitter_moves_scene_and_targets_together_and_is_off_by_default():
    still = replace(PLAIN, horizon=(0.0, 0.0), drift_speed=(0.0, 0.0), frames=12)
    assert not np.ptp(render(still).frames.astype(int), axis=0).any()
    settings = replace(still, jitter_std=2.0, targets=(1, 1), speed=(0.0, 0.0))
    sequence = render(settings, snr=0.1)
    track = sequence.targets.positions[0]
    assert 1.0 < np.std(track - track.mean(axis=0)) < 3.0
    moved = [displacement(sequence.frames[0], frame) for frame in sequence.frames[1:]]
    np.testing.assert_allclose(moved, track[1:] - track[0], atol=0.2)


def test_sensor_noise_and_fixed_pattern_have_the_stated_std():
    flat = replace(PLAIN, gray_mean=(100.0, 100.0), gray_std=(0.0, 0.0))
    noise = render(replace(flat, noise_std=4.0)).frames.astype(np.float64)
    assert noise.std(axis=0).mean() == pytest.approx(math.sqrt(16 + 1 / 12), rel=0.02)
    assert noise.mean(axis=0).std() < 0.5
    for pattern in ({"offset_std": 3.0}, {"gain_std": 0.03}):
        frames = render(replace(flat, **pattern)).frames.astype(np.float64)
        assert not np.ptp(frames, axis=0).any()
        assert frames[0].std() == pytest.approx(math.sqrt(9 + 1 / 12), rel=0.02)


def test_clutter_is_unlabelled_and_moves_with_the_ground():
    settings = replace(PLAIN, clutter=(8, 8), gray_std=(0.0, 0.0), drift_speed=(0.5, 0.5), frames=40)
    counts = []
    for seed in range(6):
        sequence = render(settings, snr=60.0, seed=seed)
        assert not sequence.masks.any() and not sequence.centroids.any()
        bright = (sequence.frames > sequence.frames.min() + 3).astype(np.uint8)
        counts += [cv2.connectedComponents(frame)[0] - 1 for frame in bright]
        moved = coarse_displacement(sequence.frames[0], sequence.frames[8])
        assert np.hypot(*moved) == pytest.approx(4, abs=0.5)
    assert np.mean(counts) == pytest.approx(8, abs=1.5)


def test_top_hat_alone_does_not_find_the_dim_targets():
    kernel = np.ones((5, 5), np.uint8)
    on_target, elsewhere = [], []
    for number in (2, 4, 6, 8, 10, 12):  # the low-SNR training sequences of the default set
        sequence = synthetic.draw_sequence(SceneSettings(frames=20), 0, number)
        for frame, centroids in zip(sequence.frames, sequence.centroids, strict=True):
            response = cv2.morphologyEx(frame, cv2.MORPH_TOPHAT, kernel)
            on_target += cv2.dilate(response, np.ones((3, 3)))[centroids > 0].tolist()
            far = response[cv2.dilate(centroids, np.ones((9, 9))) == 0]
            elsewhere.append(np.sort(far)[-10])  # at this threshold a frame has ten false pixels
    assert np.median(on_target) < np.median(elsewhere)


# ---------------------------------------------------------------- mistakes and the command


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 0}, "frames cannot be 0: it takes a whole number, at least 1"),
        ({"height": -5}, "height cannot be -5"),
        ({"noise_std": -1.0}, "noise_std cannot be -1.0"),
        ({"noise_std": float("nan")}, "noise_std takes a number, at least 0 and at most 255, not nan"),
        ({"speed": (2.0, 1.0)}, r"speed is \(2.0, 1.0\); give two numbers in rising order"),
        ({"low_snr": (1.0, 3.5)}, "low_snr cannot be"),
        ({"high_snr": (3.0, 5.0)}, "high_snr is"),
        ({"height": 16, "border": 8}, "border 8 leaves no room"),
    ],
)
def test_a_wrong_setting_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        SceneSettings(**wrong)


@pytest.mark.parametrize(("train", "test", "seed"), [(0, 0, 0), (-1, 2, 0), (1, -1, 0), (1, 0, -1)])
def test_wrong_counts_are_refused(tmp_path, train, test, seed):
    with pytest.raises(UserError):
        write_dataset(tmp_path / "set", SMALL, train, test, seed)
    assert not any(tmp_path.iterdir())


def run_tool(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_writes_a_set_and_its_preview(tmp_path):
    size = ("--height", 40, "--width", 56, "--frames", 6, "--targets", 2, 2)
    counts = ("--train_sequences", 1, "--test_sequences", 1)
    result = run_tool("--out", tmp_path / "set", *size, *counts, "--preview")
    assert result.returncode == 0, result.stderr
    assert "\r" not in result.stderr  # no progress bar where nobody looks
    settings = replace(SMALL, targets=(2, 2))
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "set" / "Sequence2" / "images" / "00006.png")),
        synthetic.draw_sequence(settings, 0, 2).frames[5],
    )
    preview = np.asarray(Image.open(tmp_path / "set" / "preview.png"))
    assert len(preview) == 2 * (2 * 40 + 14)  # two sequences, enlarged twice, with a caption below each
    red, green, blue = np.moveaxis(preview.astype(int), -1, 0)
    lit = np.argwhere((red == green) & (red > blue))  # the yellow captions: below the frames, none is cut
    assert set(lit[:, 0] // 94) == {0, 1} and (lit[:, 0] % 94 >= 80).all()
    assert lit[:, 1].max() < preview.shape[1] - 1


def test_the_command_has_every_setting_and_ends_mistakes_in_one_line(tmp_path):
    text = run_tool("--help").stdout
    assert all(f"--{setting.name} " in text for setting in fields(SceneSettings))
    result = run_tool("--out", tmp_path / "set", "--psf_sigma", 2, 1)
    assert result.returncode == 2
    assert result.stderr.startswith("error: psf_sigma is (2.0, 1.0)") and result.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())
