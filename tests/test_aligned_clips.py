"""Registration on its way through clips, predictions and commands, on videos of which all is known."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from moving import Camera, MovingVideo, Target, moving_video
from PIL import Image
from recipes import clips_of, recipe_of, video_of
from scipy.io import savemat
from test_frames import sequence_of
from torch import nn
from toys import registered_toys

import benchmark
import test as test_command
import train
from dataset.alignment import Alignment
from dataset.clips import EpochBatches, ValidationClips
from dataset.sequence import Sequence, SequenceSet
from model import create_model
from utils.checkpoint import read_checkpoint
from utils.engine.candidates import Candidate
from utils.engine.loading import ClipLoader
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime, RuntimeSettings
from utils.errors import UserError
from utils.motion import moved
from utils.recipe.resolve import recipe_from_dict, resolve_recipe
from utils.recipe.schema import VERSION, Recipe
from utils.task import TASKS

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (192, 256)
PAN = Camera((0.7, -0.4), 0.05)
GRAY = {"mean": 0.0, "std": 255.0}  # clips hold gray levels from 0 to 1
CPU = Runtime.of(RuntimeSettings(device="cpu"))


@cache
def bright(camera: Camera = PAN, count: int = 14, **more) -> MovingVideo:
    """A video with one target, brighter than what is around it."""
    target = Target((130, 90), (0.6, 0.4), 110, 1.2)
    return moving_video(count, SIZE, camera, [target], **{"noise": 0.5, "seed": 3, **more})


def masks_of(video: MovingVideo) -> list[np.ndarray]:
    """The pixels next to the targets, 0 and 255."""
    rows, cols = np.mgrid[: video.frames.shape[1], : video.frames.shape[2]]
    return [
        255 * np.any([np.hypot(cols - x, rows - y) < 1.6 for x, y in places], axis=0).astype(np.uint8)
        for places in video.places
    ]


def on_disk(folder: Path, video: MovingVideo) -> tuple[Sequence, SequenceSet]:
    sequence = sequence_of(folder, list(video.frames), masks=masks_of(video))
    return sequence, SequenceSet("Moving", folder, "train", (sequence,))


class Spot(nn.Module):
    """Finds the brightest small spot of each frame, or of the one at `key`, to fractions of a pixel."""

    def __init__(self, key: int | None = None):
        super().__init__()
        self.key = key

    def forward(self, clip):
        frames = clip[0, 0] if self.key is None else clip[0, 0, self.key : self.key + 1]
        return {"logits": torch.stack([torch.from_numpy(self.spot(frame.numpy())) for frame in frames])[None]}

    @staticmethod
    def spot(frame: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(frame, (0, 0), 1)
        small = cv2.morphologyEx(smooth, cv2.MORPH_TOPHAT, np.ones((11, 11), np.uint8))
        row, col = np.unravel_index(small.argmax(), frame.shape)
        rows, cols = np.mgrid[: frame.shape[0], : frame.shape[1]]
        near = np.maximum(abs(rows - row), abs(cols - col)) <= 3
        light = np.where(near, frame - frame[near].min(), 0) ** 2
        row, col = ((light * place).sum() / max(light.sum(), 1e-9) for place in (rows, cols))
        return np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / 8).astype(np.float32)

    def decode(self, raw):
        return raw["logits"]


class Copy(nn.Module):
    """Gives back what it is shown."""

    def forward(self, clip):
        return {"logits": clip[:, 0]}

    def decode(self, raw):
        return raw["logits"]


def maps_of(model: nn.Module, video, on_clip=None) -> np.ndarray:
    """The maps of all frames, [T, H, W]."""
    found = predict_video(model, TASKS["masks"], CPU, 0.5, video, on_clip)
    numbers, maps = zip(*((number, prediction.map) for number, prediction in found), strict=True)
    assert numbers == tuple(range(len(maps)))
    return np.stack(maps)


# ---------------------------------------------------------------- test


@pytest.mark.parametrize(
    "view",
    [
        {},
        {"multiple": 32},
        {"canvas": 320},
        {"test_resize": (220, 300)},
        {"letterbox": 224},
        {"letterbox": 288, "channels": 3},
        {"padding": "repeat", "frames": 20},
    ],
    ids=str,
)
def test_what_is_found_comes_back_to_the_place_in_each_frame(tmp_path, view):
    video = bright(sixteen_bit="multiple" in view)
    test_video = video_of(*on_disk(tmp_path, video), **{"frames": 6, "register": "on", **GRAY, **view})
    clips = list(test_video)
    assert all(frames.is_aligned and frames.alignment for frames, _ in clips)
    assert len(clips) == (1 if view.get("frames") else 3)
    maps = maps_of(Spot(), test_video)
    assert maps.shape == video.frames.shape
    for found, ((x, y),) in zip(maps, video.places, strict=True):
        near = np.where(found > 0.3, found, 0)
        centre = [(near * place).sum() / near.sum() for place in np.mgrid[: SIZE[0], : SIZE[1]][::-1]]
        assert np.abs(np.subtract(centre, (x, y))).max() < 0.5


def test_windows_that_overlap_are_joined_by_their_maximum(tmp_path):
    test_video = video_of(*on_disk(tmp_path, bright()), frames=10, register="on", **GRAY)
    parts = []
    joined = maps_of(Spot(), test_video, lambda _, frames, maps: parts.append((frames.first, maps)))
    assert [first for first, _ in parts] == [0, 4]
    one, other = parts[0][1], parts[1][1]
    assert np.array_equal(joined[:4], one[:4]) and np.array_equal(joined[10:], other[6:])
    assert np.array_equal(joined[4:10], np.maximum(one[4:], other[:6]))
    assert not np.array_equal(one[4:], other[:6])


def test_where_the_reference_sees_nothing_the_frames_as_they_are_are_predicted(tmp_path):
    video = bright(Camera((1.5, 0.0)), count=12)
    test_video = video_of(*on_disk(tmp_path, video), frames=12, register="on", **GRAY)
    maps = 255 * maps_of(Copy(), test_video)
    ((frames, aligned),) = test_video
    assert np.array_equal(frames.as_it_is[0, 0].numpy(), video.frames / np.float32(255))
    for number, (found, frame) in enumerate(zip(maps, video.frames.astype(float), strict=True)):
        ahead = 1.5 * (number - 6)  # columns that the frame has seen more on one side, and less on the other
        new = np.s_[:, : int(ahead)] if ahead > 0 else np.s_[:, 256 + int(np.ceil(ahead)) :]
        assert np.allclose(found[new], frame[new], atol=1e-4)
        assert np.sqrt(np.mean((found - frame) ** 2)) < 2
        assert np.abs(255 * aligned[0, 0, number].numpy() - video.frames[6]).mean() < 2


@pytest.mark.parametrize("key", [0, 2, 4])
def test_a_key_frame_is_predicted_in_its_own_pixels(tmp_path, key):
    video = bright(Camera((1.1, 0.0)), count=10)
    options = {"frames": 5, "key": key, **GRAY}
    test_video = video_of(*on_disk(tmp_path, video), register="on", **options)
    for place, (frames, clip) in enumerate(test_video):
        assert frames.is_aligned == (len(set(frames.places)) > 1)
        assert frames.alignment is None and frames.as_it_is is None
        gray = 255 * clip[0, 0].numpy()
        assert np.allclose(gray[key], video.frames[place], atol=1e-4)
        others = np.delete(gray, key, axis=0) - video.frames[place]
        assert np.sqrt(np.mean(others**2)) < 2.5
    for found, ((x, y),) in zip(maps_of(Spot(key), test_video), video.places, strict=True):
        row, col = np.unravel_index(found.argmax(), found.shape)
        assert abs(row - y) <= 0.75 and abs(col - x) <= 0.75


@pytest.mark.parametrize(
    "view", [{"frames": 10}, {"frames": 5, "key": 4}, {"frames": 5, "key": 2, "letterbox": 64}]
)
def test_clips_of_a_standing_camera_are_the_same_bits(tmp_path, view):
    data = on_disk(tmp_path, bright(Camera(), count=12, noise=2))
    for one, other in zip(video_of(*data, register="auto", **view), video_of(*data, **view), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1])
        assert not one[0].is_aligned


def test_simulated_frames_of_fractions_are_aligned_with_the_others(tmp_path):
    video = bright(Camera((1.1, 0.0)), count=12)
    sequence, data = on_disk(tmp_path, replace(video, frames=video.frames[4:], places=video.places[4:]))
    before = np.concatenate([video.frames[:5].astype(np.float64) + 0.25])
    savemat(tmp_path / "mix.mat", {"Mix": before})
    sequence = replace(sequence, simulated=tmp_path / "mix.mat")
    options = {"frames": 5, "key": 4, "history": "simulated", **GRAY}
    frames, clip = next(iter(video_of(sequence, data, register="on", **options)))
    assert frames.places == (-4, -3, -2, -1, 0) and frames.is_aligned
    gray = 255 * clip[0, 0].numpy()
    assert np.allclose(gray[4], video.frames[4], atol=1e-4)
    assert np.sqrt(np.mean((gray[:4] - video.frames[4]) ** 2)) < 2.5


def test_the_motion_of_sixteen_bit_frames_is_told_in_gray_levels(tmp_path):
    motions = []
    for deep in (False, True):
        video = bright(sixteen_bit=deep, count=4)
        frames = video.frames * np.uint16(4) if deep else video.frames  # all of the range of 16 bit
        test_video = video_of(*on_disk(tmp_path / str(deep), replace(video, frames=frames)), register="auto")
        motions.append([test_video.motion(index) for index in range(4)])
    for eight, sixteen in zip(*motions, strict=True):
        assert sixteen.still == pytest.approx(eight.still, rel=0.05, abs=0.05)
        assert sixteen.residual == pytest.approx(eight.residual, rel=0.3, abs=0.05)
        assert np.abs(sixteen.homography - eight.homography).max() < 0.3


# ---------------------------------------------------------------- streams


class Streamed(Copy):
    """Tells which clips it has streamed, and which were given to the plain network."""

    def __init__(self):
        super().__init__()
        self.streamed, self.plain = [], 0

    def forward(self, clip):
        self.plain += 1
        return super().forward(clip)

    def stream(self):
        def step(clip, places):
            self.streamed.append(places)
            return {"logits": clip[:, 0]}

        return step


def test_a_stream_takes_the_clips_that_are_not_aligned(tmp_path):
    still, moving = bright(Camera(), count=20), bright(Camera((0.9, 0.0)), count=20)
    both = replace(
        still,
        frames=np.concatenate([still.frames, moving.frames]),
        places=np.concatenate([still.places, moving.places]),
    )
    test_video = video_of(*on_disk(tmp_path, both), frames=10, register="auto", **GRAY)
    model = Streamed()
    maps_of(model, test_video)
    aligned = [frames.places for frames, _ in test_video if frames.is_aligned]
    plain = [frames.places for frames, _ in test_video if not frames.is_aligned]
    assert aligned and plain and model.streamed == plain and model.plain == 2 * len(aligned)


@pytest.mark.parametrize(
    ("name", "typed"),
    [("ResUNet-RFR", {"view.frames": 6}), ("ResUNet-DTUM", {}), ("STMENet", {"view.letterbox": 64})],
)
def test_published_streams_give_the_same_bits_on_a_standing_camera(tmp_path, name, typed):
    video = moving_video(8, (48, 64), Camera(), [Target((30, 20))], seed=1)
    sequence, data = on_disk(tmp_path, video)
    torch.manual_seed(0)
    model = create_model(name)
    found = []
    for register in ("off", "auto"):
        recipe = resolve_recipe(model.recipe, "", {**typed, "view.register": register})
        test_video = video_of(sequence, data, **vars(recipe.view))
        predictions = predict_video(model, TASKS[model.task], CPU, 0.5, test_video)
        found.append([one.map if model.task == "masks" else one.boxes for _, one in predictions])
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


def test_a_model_that_takes_frame_by_frame_refuses_clips_of_several():
    candidate = Candidate("TemporalMedian")
    recipe = candidate.recipe("", {"view.frames": 4})
    with pytest.raises(UserError, match="view.frames is 4, but TemporalMedian takes .* set it to 1"):
        candidate.try_size(recipe, create_model, (48, 64))


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    "view",
    [{}, {"train_resize": (160, 220), "mask_resize": "nearest"}, {"letterbox": 224}, {"canvas": 320}],
    ids=str,
)
def test_masks_of_training_windows_lie_on_the_aligned_targets(tmp_path, view):
    video = bright(count=14)
    data = on_disk(tmp_path, video)[1]
    options = {"frames": 9, "augment": (), "patch": None, "include_last": True, **GRAY, **view}
    plain, aligned = (clips_of(data, register=word, **options) for word in ("off", "on"))
    assert len(aligned) == 14
    for index in (0, 3, 8, 13):
        item, before = aligned[0, index], plain[0, index]
        assert item["name"] == before["name"]
        first, stop = (int(n) for n in item["name"].partition("[")[2][:-1].split(":"))
        clip, target = item["clip"][0].numpy(), item["target"].numpy()
        kept = slice(None, stop - first) if index % 2 else slice(9 - (stop - first), None)
        clip, target = clip[kept], target[kept]
        middle = (stop - first) // 2
        assert np.array_equal(target[middle], before["target"].numpy()[kept][middle])
        assert np.array_equal(clip[middle], before["clip"][0].numpy()[kept][middle])
        for frame, mask in zip(clip, target, strict=True):
            spot = np.unravel_index(Spot.spot(frame).argmax(), frame.shape)
            centre = np.argwhere(mask > 0).mean(axis=0)
            assert np.abs(centre - spot).max() < 1.5 and 3 <= (mask > 0).sum() <= 20


@pytest.mark.parametrize("task", ["masks", "boxes"])
def test_the_truth_of_a_key_frame_is_untouched(tmp_path, task):
    data = on_disk(tmp_path, bright(Camera((1.1, 0.0)), count=10))[1]
    options = {"frames": 5, "key": 3, "augment": (), "patch": None, **GRAY}
    options |= {"letterbox": 224} if task == "boxes" else {}
    plain, aligned = (clips_of(data, task, register=word, **options) for word in ("off", "on"))
    for index in range(10):
        before, item = plain[0, index], aligned[0, index]
        assert torch.equal(before["target"], item["target"]) and len(item["target"])
        assert torch.equal(before["clip"][:, 3], item["clip"][:, 3])
        assert not torch.equal(before["clip"], item["clip"])


def test_boxes_of_all_frames_are_aligned_for_augmentations_that_need_them(tmp_path):
    video = bright(Camera((1.1, 0.0)), count=10)
    data = on_disk(tmp_path, video)[1]
    clips = clips_of(
        data, "boxes", register="on", frames=5, key=4, letterbox=256, augment=("clones",), **GRAY
    )
    drawn = clips.sampler(0, 7)
    sample = clips._read(drawn)
    assert sample.truth == (0, 1, 2, 3, 4)
    place = drawn.frames.first
    (x, y), edge = video.places[place, 0], 32  # the letterbox's border above
    for frame, boxes in zip(range(place - 4, place + 1), sample.boxes, strict=True):
        back = np.linalg.inv(np.linalg.multi_dot([np.eye(3), np.eye(3), *video.homographies[place:frame:-1]]))
        true = moved(video.places[frame, :1], np.linalg.inv(back))[0]
        centre = (boxes[0, :2] + boxes[0, 2:]) / 2 - 0.5 - (0, edge)
        assert np.abs(centre - true).max() < 1
    assert np.abs((x, y) - true).max() < 1e-9
    assert clips[0, 7]["target"].shape[0] == 4  # and three clones


@pytest.mark.parametrize("view", [{"frames": 9}, {"frames": 5, "key": 2}, {"frames": 14}])
def test_the_loss_of_the_validation_is_of_the_clips_of_a_test(tmp_path, view):
    sequence, data = on_disk(tmp_path, bright(count=12))
    recipe = recipe_of(**view, register="on", multiple=32, batch_size=1)
    labelled = ValidationClips(data, recipe, TASKS["masks"])
    clips = list(video_of(sequence, data, **view, register="on", multiple=32))
    assert len(labelled) == len(clips)
    assert all(frames.is_aligned for frames, _ in clips)
    for index, (_, clip) in enumerate(clips):
        assert torch.equal(labelled[0, index]["clip"], clip[0])


def test_processes_that_load_clips_align_them_to_the_same_bits(tmp_path):
    """Also behind threads of OpenCV, which do not survive a fork."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (0, 0), 3)
        data = on_disk(tmp_path, bright())[1]
        clips = clips_of(data, register="on", frames=9, batch_size=2, augment=("flip_rows",), patch=48)
        batches = EpochBatches(6, 2, seed=0)
        found = []
        for workers in (0, 2):
            loader = ClipLoader(clips, batches, workers, pins_memory=False)
            found.append(list(loader))
            loader.close()
    finally:
        cv2.setNumThreads(threads)
    assert len(found[0]) == 3
    for one, other in zip(*found, strict=True):
        assert one["name"] == other["name"]
        assert torch.equal(one["clip"], other["clip"]) and torch.equal(one["target"], other["target"])


# ---------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def toys():
    with registered_toys() as watched:
        yield watched


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set of two sequences from a camera that pans."""
    root = tmp_path_factory.mktemp("moving")
    for name, seed in (("a", 1), ("b", 2)):
        video = moving_video(16, (64, 80), Camera((0.9, 0.3)), [Target((40, 30), (0.5, 0.2), 90)], seed=seed)
        for kind, pictures in (("images", video.frames), ("masks", masks_of(video))):
            (root / name / kind).mkdir(parents=True)
            for number, picture in enumerate(pictures):
                Image.fromarray(picture).save(root / name / kind / f"{number:02d}.png")
    (root / "train.txt").write_text("a\n")
    (root / "test.txt").write_text("b\n")
    return root


def argv_of(folder: Path, log: Path, *flags) -> list[str]:
    places = ("--dataset_names", "Folder", "--dataset_dir", folder, "--log_dir", log, "--device", "cpu")
    return [str(flag) for flag in (*places, *flags)]


def used_alignments(monkeypatch) -> list[str]:
    """What will have been measured and brought back, in turn."""
    used = []
    measured, back = Alignment.measured.__func__, Alignment.back

    def watched_measured(cls, frames, reference, mode, area):
        used.append(mode)
        return measured(cls, frames, reference, mode, area)

    monkeypatch.setattr(Alignment, "measured", classmethod(watched_measured))
    monkeypatch.setattr(Alignment, "back", lambda *a: used.append("back") or back(*a))
    return used


@pytest.mark.parametrize("model", ["Toy", "ToyBoxes"])
def test_training_aligns_and_tells_so_and_a_run_that_goes_on_keeps_it(
    toys, folder, tmp_path, monkeypatch, model
):
    used = used_alignments(monkeypatch)
    toys.restart()
    flags = ("--model_names", model, "--num_workers", 0, "--sample_rate", 0.25)
    train.main(argv_of(folder, tmp_path, *flags, "--register", "auto", "--epochs", 1))
    run = next((tmp_path / "Folder" / model).iterdir())
    assert set(used) == ({"auto", "back"} if model == "Toy" else {"auto"})
    assert read_checkpoint(run / "last.pth")["recipe"]["view"]["register"] == "auto"
    assert json.loads((run / "recipe.json").read_text())["recipe"]["view"]["register"] == "auto"
    if model == "ToyBoxes":
        return
    used.clear()
    more = ("--model_names", model, "--num_workers", 0, "--resume", run, "--epochs", 2)
    with pytest.raises(UserError, match="has view.register=auto, which --resume cannot change to off"):
        train.main(argv_of(folder, tmp_path, *more, "--register", "off"))
    train.main(argv_of(folder, tmp_path, *more))
    assert "auto" in used and read_checkpoint(run / "last.pth")["recipe"]["view"]["register"] == "auto"
    used.clear()
    test_command.main(argv_of(folder, tmp_path, "--checkpoint", run / "last.pth"))
    assert "auto" in used
    used.clear()
    test_command.main(argv_of(folder, tmp_path, "--checkpoint", run / "last.pth", "--register", "off"))
    assert not used or set(used) == {"off"}


def test_clips_of_a_training_with_registration_hold_still(toys, folder, tmp_path):
    change = {}
    for word in ("off", "on"):
        toys.restart()
        flags = ("--model_names", "Toy", "--num_workers", 0, "--sample_rate", 0.5, "--register", word)
        train.main(argv_of(folder, tmp_path, *flags, "--epochs", 1, "--set", "augment=()", "--seq_len", 6))
        full = [clip for batch in toys.clips for clip in batch if (clip.flatten(2).abs().sum(2) > 0).all()]
        change[word] = np.median([float((clip[:, 0] - clip[:, 5]).abs().mean()) for clip in full])
    assert change["on"] < 0.5 * change["off"]


def test_what_registration_does_nothing_for_refuses_it(toys, folder, tmp_path):
    with pytest.raises(UserError, match="view.register has no effect on the speed of DeepPro; leave it out"):
        benchmark.main(["--model_names", "DeepPro", "--set", "register=auto", "--log_dir", str(tmp_path)])
    test_command.main(argv_of(folder, tmp_path, "--model_names", "TopHat", "--save_predictions"))
    (kept,) = tmp_path.rglob("predictions")
    with pytest.raises(UserError, match="view.register has no effect on a test of TopHat"):
        test_command.main(argv_of(folder, tmp_path, "--predictions", kept, "--register", "on"))
    with pytest.raises(UserError, match="view.register takes .*off, auto, on.* not 'yes'|register"):
        test_command.main(argv_of(folder, tmp_path, "--model_names", "TopHat", "--set", "register=yes"))


def test_recipes_of_before_are_those_of_today_without_registration():
    """New keys with defaults need no new version."""
    saved = Recipe().to_dict()
    assert saved["version"] == VERSION == 3
    del saved["view"]["register"], saved["scoring"]["confirm"]
    found = recipe_from_dict(saved)
    assert (
        found == recipe_from_dict(Recipe().to_dict())
        and found.view.register == "off"
        and found.scoring.confirm == ""
    )
