"""Which epoch is kept: each rule's value by hand, from what a run has left, and the epoch that it chooses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from runs import assert_same_run, last, record_of
from skimage.measure import label
from toys import Toy, files_of, iou_by_hand, loss_by_hand, probabilities_by_hand, registered_toys

import train
from dataset import create_dataset
from dataset.scene import SceneSettings
from dataset.synthetic import write_dataset
from dataset.video import TestVideo
from loss import create_loss
from model import list_models
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.engine.best import RULES, MeanLoss, WindowIoU, at_size_of
from utils.engine.optim import AveragedWeights
from utils.engine.validation import Validation
from utils.errors import UserError
from utils.recipe.resolve import SETTINGS, resolve_recipe
from utils.recipe.schema import ViewSettings
from utils.registry import DATASETS, MODELS, register_model

pytestmark = pytest.mark.usefixtures("one_thread")

TESTED = ["Sequence4", "Sequence5"]
WINDOWS = [(0, 4), (3, 7), (6, 10), (9, 13), (12, 16), (15, 19), (18, 22), (20, 24)]  # of 24 frames by 4
SLOPE = 0.8  # of the logit over the places of a window


class Uneven(Toy):
    """A toy that sees a frame in another way at another place of its window."""

    def forward(self, clip):
        raw = super().forward(clip)
        return {"logits": raw["logits"] + SLOPE * torch.arange(clip.shape[2]).view(1, -1, 1, 1)}


@pytest.fixture(scope="module", autouse=True)
def watched(one_thread):
    with registered_toys() as toys, pytest.MonkeyPatch.context() as patch:
        patch.setattr(AveragedWeights, "ramp", 6.0)
        register_model("Uneven", recipe=MODELS.entry("Toy").facts["recipe"], rename={})(Uneven)
        yield toys


def flags_of(data: Path, log: Path, settings: dict, *more, model: str = "Toy") -> list[str]:
    places = ("--dataset_dir", data, "--log_dir", log, "--device", "cpu", "--num_workers", 0)
    typed = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [str(word) for word in ("--model_names", model, *places, *typed, *more)]


def trained(data: Path, log: Path, settings: dict, *more, model: str = "Toy") -> Path:
    """The folder of a finished run."""
    train.main(flags_of(data, log, settings, *more, model=model))
    return only_run(log, model)


def only_run(log: Path, model: str = "Toy") -> Path:
    (folder,) = (log / "Synthetic" / model).iterdir()
    return folder


def built(data: Path, settings: dict, *more, model: str = "Toy"):
    """A run that has not started."""
    args = train.parse(flags_of(data, Path("unused"), settings, *more, model=model))
    return train.build_run(args, MODELS.entry(model), DATASETS.entry("Synthetic"))


# ---------------------------------------------------------------- the published rule of each model

PUBLISHED = {
    **dict.fromkeys(("DeepPro", "DeepPro-Plus", "DeepPro-Plus-Moving"), "window_iou"),
    **dict.fromkeys(("STMENet", "SMFNet", "SSTNet"), "loss"),
    **dict.fromkeys(("TSMSA", "ACM", "DNANet", "RDIAN", "MSHNet"), "iou+pd"),
    **dict.fromkeys(("ResUNet-DTUM", "ResUNet-RFR", "RPRNet"), "last"),
    **dict.fromkeys(("TopHat", "TemporalMedian")),  # which are not trained
}


def test_each_model_names_the_rule_of_its_paper_on_every_data_set():
    toys = {"Toy", "ToyBoxes", "ToyStream", "Uneven"}
    assert set(PUBLISHED) == set(list_models()) - toys
    for name, best in PUBLISHED.items():
        for dataset in DATASETS.names():
            assert resolve_recipe(MODELS.entry(name).facts["recipe"], dataset, {}).scoring.best == best


def test_the_help_names_every_rule():
    assert all(name in SETTINGS["scoring.best"].facts.text for name in RULES)


def test_every_rule_has_a_direction():
    assert {name: rule.better for name, rule in RULES.items()} == {
        "loss": "lower",
        "window_iou": "higher",
        "last": "later",
    }


# ---------------------------------------------------------------- the epoch that is kept


@pytest.mark.parametrize(
    ("best", "value", "scores", "epoch"),
    [
        ("loss", "validation_loss", [3.0, 1.0, 2.0], 2),
        ("loss", "validation_loss", [1.0, 1.0, 2.0], 2),  # at least as good
        ("loss", "validation_loss", [float("nan"), 1.0, float("inf")], 2),
        ("window_iou", "window_iou", [0.2, 0.5, 0.3], 2),
        ("window_iou", "window_iou", [0.5, 0.5, 0.3], 2),
        ("iou+pd", "iou_pd", [0.2, 0.5, 0.3], 2),
        ("last", "iou", [0.9, 0.5, 0.1], 3),
        ("last", "iou", [float("nan")] * 2, 2),
    ],
)
def test_the_rule_keeps_its_epoch(monkeypatch, tiny_data, tmp_path, best, value, scores, epoch):
    turns = iter(scores)
    monkeypatch.setattr(Validation, "score", lambda *_: {value: next(turns)})
    folder = trained(tiny_data, tmp_path, {"best": best, "epochs": len(scores), "sample_rate": 0.06})
    assert read_checkpoint(folder / "best.pth")["progress"]["epoch"] == epoch
    assert last(folder)["progress"]["epoch"] == len(scores)


@pytest.mark.parametrize("every", [1, 2])
def test_the_last_epoch_is_kept_also_after_an_interruption(watched, tiny_data, tmp_path, every):
    settings = {"best": "last", "epochs": 3, "validate_every": every}
    watched.restart(fail_at=10)  # in the third epoch
    with pytest.raises(UserError, match="the test ends"):
        trained(tiny_data, tmp_path, settings)
    folder = only_run(tmp_path)
    assert read_checkpoint(folder / "best.pth")["progress"]["epoch"] == 2
    watched.restart()
    train.main(flags_of(tiny_data, tmp_path, {}, "--resume", folder))
    saved = read_checkpoint(folder / "best.pth")
    assert saved["progress"]["epoch"] == 3 and saved["progress"]["best"] is None
    assert all(torch.equal(saved["weights"][k], value) for k, value in last(folder)["weights"].items())
    train.main(flags_of(tiny_data, tmp_path, {}, "--resume", folder, "--epochs", 4))
    assert read_checkpoint(folder / "best.pth")["progress"]["epoch"] == 4


# ---------------------------------------------------------------- IoU of windows that are not joined


def windows_by_hand(weights: dict, root: Path, threshold: float) -> tuple[float, float]:
    """(IoU of all windows, IoU of the joined ones) of Uneven, frame by frame."""
    counts = np.zeros((2, 2))
    for name in TESTED:
        frames, masks = files_of(root / name / "images"), files_of(root / name / "masks") > 0
        p = probabilities_by_hand(weights, frames, frames.mean(), frames.std())
        logits = np.log(p / (1 - p))
        joined = np.zeros_like(p)
        for start, stop in WINDOWS:
            places = SLOPE * np.arange(stop - start)[:, None, None]
            found = 1 / (1 + np.exp(-(logits[start:stop] + places)))
            joined[start:stop] = np.maximum(joined[start:stop], found)
            hit, mask = found > threshold, masks[start:stop]
            counts[0] += (hit & mask).sum(), (hit | mask).sum()
        counts[1] += ((joined > threshold) & masks).sum(), ((joined > threshold) | masks).sum()
    return tuple(counts[:, 0] / counts[:, 1])


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_window_iou_counts_every_window_before_they_are_joined(tiny_data, tmp_path, threshold):
    more = ("--threshold", threshold)
    settings = {"best": "window_iou", "ema": 0.9, "epochs": 4, "validate_every": 4}
    folder = trained(tiny_data, tmp_path, settings, *more, model="Uneven")
    line, saved = record_of(folder)[-1], read_checkpoint(folder / "best.pth")
    windows, joined = windows_by_hand(saved["weights"], tiny_data / "Synthetic", threshold)
    assert abs(windows / joined - 1) > 0.01  # they can be told apart
    assert line["window_iou"] == pytest.approx(windows, rel=1e-3)
    assert line["iou"] == pytest.approx(joined, rel=1e-3)
    assert saved["scores"]["window_iou"] == saved["progress"]["best"] == line["window_iou"]


def test_maps_of_resized_frames_come_to_the_masks_by_nearest_values(tiny_data):
    data = create_dataset("Synthetic", tiny_data, "test")
    video = TestVideo(data[0], data, ViewSettings(frames=4, test_resize=(32, 36)))
    maps = np.random.default_rng(0).random((3, 32, 36)) > 0.5
    rows, columns = np.arange(40) * 32 // 40, np.arange(48) * 36 // 48
    assert np.array_equal(at_size_of(video, maps), maps[:, rows][:, :, columns])


def test_maps_of_padded_frames_are_cut(tiny_data):
    data = create_dataset("Synthetic", tiny_data, "test")
    video = TestVideo(data[0], data, ViewSettings(frames=4, canvas=64))
    maps = np.random.default_rng(0).random((3, 64, 64)) > 0.5
    assert np.array_equal(at_size_of(video, maps), maps[:, :40, :48])


@pytest.mark.parametrize("best", ["iou", "window_iou", "last", "iou+pd"])
def test_the_network_runs_once_over_the_validation(monkeypatch, tiny_data, tmp_path, best):
    calls, forward = [], Toy.forward

    def counted(self, clip):
        if not torch.is_grad_enabled() and not clip.is_meta:
            calls.append(len(clip))
        return forward(self, clip)

    monkeypatch.setattr(Toy, "forward", counted)
    trained(tiny_data, tmp_path, {"best": best})
    assert calls == [1] * 2 * len(WINDOWS)


@pytest.mark.parametrize("best", ["iou", "last", "iou+pd", "pd"])
def test_a_rule_measures_only_what_it_needs(monkeypatch, tiny_data, tmp_path, best):
    for measure in (MeanLoss, WindowIoU):
        monkeypatch.setattr(measure, "__init__", None)
    (line,) = record_of(trained(tiny_data, tmp_path, {"best": best}))
    assert not {"window_iou", "validation_loss"} & line.keys()


# ---------------------------------------------------------------- the mean of figures


def test_iou_and_pd_count_alike(tiny_data, tmp_path):
    """TSMSA's rule: 0.5 (mIoU + Pd), of the network that is kept; Pd by components in plain loops."""
    settings = {"best": "iou+pd", "paper": "RFR", "epochs": 3, "learning_rate": 0.3}  # Pd by components
    folder = trained(tiny_data, tmp_path, settings)
    lines, saved = record_of(folder), read_checkpoint(folder / "best.pth")
    root, found, targets = tiny_data / "Synthetic", 0, 0
    for name in TESTED:
        frames, masks = files_of(root / name / "images"), files_of(root / name / "masks") > 0
        p = probabilities_by_hand(saved["weights"], frames, frames.mean(), frames.std())
        for probability, mask in zip(p, masks, strict=True):
            free = [
                np.argwhere(label(probability > 0.5, connectivity=2) == n)
                for n in components(probability > 0.5)
            ]
            for n in components(mask):
                centre = np.argwhere(label(mask, connectivity=2) == n).mean(0)
                near = [c for c in free if np.hypot(*(c.mean(0) - centre)) < 3]
                free = [c for c in free if not near or c is not near[0]]
                found, targets = found + bool(near), targets + 1
    expected = 0.5 * (iou_by_hand(saved["weights"], root, TESTED) + found / targets)
    assert saved["scores"]["iou_pd"] == pytest.approx(expected, rel=1e-3)
    assert [line["iou_pd"] for line in lines] == [0.5 * (line["iou"] + line["pd"]) for line in lines]
    assert saved["progress"]["best"] == max(line["iou_pd"] for line in lines)


def components(pixels: np.ndarray) -> range:
    return range(1, label(pixels, connectivity=2).max() + 1)


# ---------------------------------------------------------------- the loss of the validation


def whole_batches(count: int, size: int, seed: int) -> list[np.ndarray]:
    order = np.random.default_rng([seed, 0]).permutation(count)
    return [order[start : start + size] for start in range(0, count - size + 1, size)]


MASKED = {"best": "loss", "seed": 5, "ema": 0.9, "batch_size": 5, "augment": "('gain(0.5)','flip_rows')"}


@pytest.fixture(scope="module")
def by_loss(watched, tiny_data, tmp_path_factory) -> Path:
    """A run whose clips are patches, changed at random, and whose network has a dropout and an average."""
    return trained(tiny_data, tmp_path_factory.mktemp("loss"), {**MASKED, "epochs": 2})


def test_the_loss_is_that_of_whole_test_clips_by_the_averaged_network_at_rest(by_loss, tiny_data):
    """The mean over whole batches; 16 windows make three batches of 5, one is left out."""
    saved, clips = last(by_loss), []
    for name in TESTED:
        folder = tiny_data / "Synthetic" / name
        frames, masks = files_of(folder / "images"), files_of(folder / "masks") > 0
        p = torch.from_numpy(probabilities_by_hand(saved["weights"], frames, frames.mean(), frames.std()))
        logits, target = torch.log(p / (1 - p)), torch.from_numpy(masks).double()
        clips += [(logits[slice(*window)], target[slice(*window)]) for window in WINDOWS]
    losses = []
    for batch in whole_batches(len(clips), 5, seed=5):
        logits, target = (torch.stack(values) for values in zip(*(clips[i] for i in batch), strict=True))
        losses.append(float(sum(loss_by_hand(logits, target, 30.0))))
    assert len(losses) == 3
    line = record_of(by_loss)[-1]
    assert line["validation_loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)
    assert line["loss"] != line["validation_loss"]


def test_the_loss_leaves_the_training_as_it_is(by_loss, watched, tiny_data, tmp_path):
    other = trained(tiny_data, tmp_path, {**MASKED, "epochs": 2, "best": "iou"})
    for name, value in last(by_loss)["trained_weights"].items():
        assert torch.equal(last(other)["trained_weights"][name], value), name
    assert [line["iou"] for line in record_of(other)] == [line["iou"] for line in record_of(by_loss)]


def test_the_lowest_loss_is_kept(by_loss):
    lines, saved = record_of(by_loss), read_checkpoint(by_loss / "best.pth")
    assert saved["progress"]["best"] == min(line["validation_loss"] for line in lines)
    assert saved["scores"]["validation_loss"] == saved["progress"]["best"]


def test_the_loss_of_boxes_is_that_of_each_key_frame(tiny_data, tmp_path):
    """Of every test frame in the letterbox, with the boxes of its mask's components, by files alone."""
    settings = {"best": "loss", "epochs": 1, "batch_size": 5, "seed": 3, "ema": 0.9}
    folder = trained(tiny_data, tmp_path, settings, model="ToyBoxes")
    weights = last(folder)["weights"]
    items = []
    for name in TESTED:
        place = tiny_data / "Synthetic" / name
        frames = np.full((24, 48, 48), 128.0)
        frames[:, 4:44] = files_of(place / "images")
        mean, std = float(frames.mean()), float(frames.std())
        for frame, mask in zip(frames, files_of(place / "masks") > 0, strict=True):
            head = F.conv2d(
                torch.from_numpy((frame - mean) / std)[None, None].float(),
                weights["head.weight"],
                weights["head.bias"],
                stride=8,
            )
            items.append(
                (head, torch.tensor([box_by_hand(mask, n) for n in components(mask)]).reshape(-1, 5))
            )
    yolox, losses = create_loss("YOLOX"), []
    for batch in whole_batches(len(items), 5, seed=3):
        head = torch.cat([items[i][0] for i in batch])
        losses.append(yolox({"head": [head]}, [items[i][1].float() for i in batch])["loss"].item())
    assert len(losses) == 9  # of 48 frames
    (line,) = record_of(folder)
    assert line["validation_loss"] == pytest.approx(sum(losses) / 9, rel=1e-3)


def box_by_hand(mask: np.ndarray, n: int) -> list[float]:
    """Centre, width, height and class of a component in the letterbox, at least 4 pixels a side."""
    rows, columns = np.nonzero(label(mask, connectivity=2) == n)
    sides = []
    for places, shift, extent in ((columns, 0, 48), (rows, 4, 40)):
        low, high = places.min(), places.max() + 1
        grown = max(4 - (high - low), 0) / 2
        low, high = max(low - grown, 0) + shift, min(high + grown, extent) + shift
        sides.append(((low + high) / 2, high - low))
    (x, width), (y, height) = sides
    return [x, y, width, height, 0.0]


def test_workers_give_the_same_loss(by_loss, tiny_data, tmp_path):
    other = trained(tiny_data, tmp_path, {**MASKED, "epochs": 1}, "--num_workers", 2)
    assert record_of(other)[0]["validation_loss"] == record_of(by_loss)[0]["validation_loss"]


def test_a_stop_within_the_loss_repeats_the_validation(monkeypatch, by_loss, tiny_data, tmp_path):
    value = MeanLoss.value

    def stopped(measure, model, runtime, scores, loader):
        loader.__self__.stop.asked = True
        return value(measure, model, runtime, scores, loader)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MeanLoss, "value", stopped)
        trained(tiny_data, tmp_path, {**MASKED, "epochs": 2})
    folder = only_run(tmp_path)
    assert (last(folder)["progress"]["epoch"], record_of(folder)) == (0, [])
    train.main(flags_of(tiny_data, tmp_path, {}, "--resume", folder))
    assert_same_run(folder, by_loss)


def test_a_loss_that_draws_draws_the_same_in_every_validation(tiny_data):
    """HPM chooses pixels at random; the generators go on as if nothing had been drawn, the network rests."""
    run = built(tiny_data, {"best": "loss", "loss": "HPM"})
    measure = MeanLoss(run.validation)
    before, values = torch.get_rng_state(), []
    for is_training in (True, False):
        values.append(measure.value(run.state.model.train(is_training), run.runtime, {}, run.loader))
        assert torch.equal(torch.get_rng_state(), before)
        before = torch.manual_seed(12345).get_state()
    assert values[0] == values[1] > 0


# ---------------------------------------------------------------- what is said of it


@pytest.mark.parametrize(
    ("best", "said", "better"),
    [
        ("iou", "iou of the published protocol", "higher"),
        ("fa", "fa of the published protocol", "lower"),
        ("iou+pd", "the mean of iou and pd of the published protocol", "higher"),
        ("window_iou", "the IoU of windows before they are joined, p > 0.3", "higher"),
        ("loss", "the mean of the training loss over the validated clips", "lower"),
        ("last", "the last epoch, whatever its scores", "later"),
    ],
)
def test_what_was_used_stands_in_the_run(tiny_data, tmp_path, capsys, best, said, better):
    folder = trained(tiny_data, tmp_path, {"best": best}, "--threshold", 0.3)
    wanted = {"best": best, "is": said, "better": better}
    assert json.loads((folder / "recipe.json").read_text())["best"] == wanted
    for name in ("best.pth", "last.pth"):
        assert read_checkpoint(folder / name)["best"] == wanted
    how = "); epochs are scored on" if better == "later" else f", {better} is better) on"
    printed = capsys.readouterr().out
    assert f"best.pth is chosen by {best} ({said}{how} the test split" in printed
    (line,) = record_of(folder)
    shown = {"loss": "validation loss", "window_iou": "IoU of windows", "iou+pd": "mean of iou and pd"}
    value = {"loss": "validation_loss", "iou+pd": "iou_pd"}.get(best, best)
    if best in shown:
        assert f"{shown[best]} {line[value]:.4f}" in printed


def test_a_recipe_without_a_rule_has_that_of_the_task(tiny_data, tmp_path):
    """As recipes of earlier programs, in which the figures of the tasks were meant."""
    assert built(tiny_data, {}).validation.rule.value == "iou"
    assert built(tiny_data, {}, model="ToyBoxes").validation.rule.value == "ap50"
    folder = trained(tiny_data, tmp_path, {"sample_rate": 0.06})
    saved = read_checkpoint(folder / "last.pth")
    assert saved["recipe"]["scoring"]["best"] is None
    del saved["best"]
    save_checkpoint(folder / "last.pth", saved)
    train.main(flags_of(tiny_data, tmp_path, {}, "--resume", folder, "--epochs", 2))
    assert last(folder)["best"] == {"best": "iou", "is": "iou of the published protocol", "better": "higher"}
    assert last(folder)["progress"]["best"] == max(line["iou"] for line in record_of(folder))


# ---------------------------------------------------------------- what cannot choose


@pytest.mark.parametrize(
    ("model", "best", "sentence"),
    [
        ("ToyBoxes", "window_iou", "does not score window_iou for models of boxes; --set best= takes one of"),
        ("Toy", "iou+glow", "does not score iou.glow for models of masks; --set best= takes one of"),
        ("Toy", "pd+fa", "scoring.best is pd.fa, but of some of these figures the higher .* one direction"),
        ("Toy", "least", "does not score least"),
    ],
)
def test_a_rule_that_cannot_choose_is_refused(tiny_data, tmp_path, model, best, sentence):
    with pytest.raises(UserError, match=sentence):
        trained(tiny_data, tmp_path / "log", {"best": best}, model=model)
    assert not (tmp_path / "log").exists()


def test_clips_of_two_sizes_have_no_loss_in_batches(tmp_path):
    write_dataset(
        tmp_path / "Synthetic",
        SceneSettings(height=24, width=32, frames=8),
        train_sequences=2,
        test_sequences=2,
    )
    for path in (tmp_path / "Synthetic/Sequence4").rglob("*.png"):
        Image.open(path).resize((48, 40), Image.Resampling.NEAREST).save(path)
    with pytest.raises(UserError, match=r"frames of Sequence4 are 48x40, those of Sequence3 32x24, so that"):
        built(tmp_path, {"best": "loss"})
    built(tmp_path, {"best": "loss", "canvas": 48})
    built(tmp_path, {"best": "loss"}, "--batch_size", 1)
    built(tmp_path, {"best": "iou"})


@pytest.mark.parametrize(("best", "kinds"), [("loss", "masks"), ("window_iou", "masks"), ("iou+pd", "masks")])
def test_a_rule_needs_its_truth_of_every_sequence(tiny_data, tmp_path, best, kinds):
    (tmp_path / "own").mkdir()
    for number in (1, 2):
        (tmp_path / f"own/Sequence{number}").mkdir()
        source = tiny_data / f"Synthetic/Sequence{number}"
        for kind in ("images", "masks")[: 3 - number]:
            (tmp_path / f"own/Sequence{number}/{kind}").symlink_to(source / kind)
    (tmp_path / "own/Sequence2/centroids.txt").write_text("0,0\n" * 24)
    (tmp_path / "own/train.txt").write_text("Sequence1\n")
    (tmp_path / "own/test.txt").write_text("Sequence2\n")
    more = ("--dataset_names", "Folder", "--set", f"best={best}")
    sentence = rf"Sequence2 has no {kinds}, so it cannot validate by .*best= one of pd, fa, auc, last$"
    with pytest.raises(UserError, match=sentence):
        train.main(flags_of(tmp_path / "own", tmp_path / "log", {}, *more))
