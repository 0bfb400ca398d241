"""The wiring of train.py: what its parts do together, against the same training by hand.

The toy network has what goes wrong unnoticed: a batch norm, a dropout and two groups of parameters.
"""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import Toy, Training, iou_by_hand, registered_toys

import train
from utils.checkpoint import read_checkpoint
from utils.engine.optim import AveragedWeights
from utils.engine.run import Validation
from utils.errors import UserError
from utils.registry import DATASETS, MODELS, register_model

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 4  # of an epoch
CLIP = 0.5  # norm of the gradient
RAMP = 6.0  # of the average, in place of 2000 steps
RICH = {
    "epochs": 3,
    "learning_rate": 0.2,
    "momentum": 0.8,
    "weight_decay": 0.05,
    "parameter_groups": "no-norm-decay",
    "clip_gradients": CLIP,
    "schedule": "step",
    "step_size": 1,
    "lr_decay": 0.5,
    "ema": 0.9,
    "freeze": "stem",
    "freeze_epochs": 1,
    "loss_options.weight": 20.0,
    "seed": 5,
    "save_every": 1,
}


@pytest.fixture(scope="module", autouse=True)
def watched(one_thread):
    with registered_toys() as toys, pytest.MonkeyPatch.context() as patch:
        patch.setattr(AveragedWeights, "ramp", RAMP)
        yield toys


@pytest.fixture
def forget(watched):
    """Nothing of earlier trainings is in `watched`."""
    watched.restart()
    return watched


def flags_of(data: Path, log: Path, settings: dict, *more) -> list[str]:
    places = ("--dataset_dir", data, "--log_dir", log, "--device", "cpu", "--num_workers", 0)
    typed = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [str(word) for word in ("--model_names", "Toy", *places, *typed, *more)]


def only_run(log: Path, model: str = "Toy", dataset: str = "Synthetic") -> Path:
    (folder,) = (log / dataset / model).iterdir()
    return folder


def trained(data: Path, log: Path, settings: dict, *more) -> Path:
    """The folder of a finished run."""
    train.main(flags_of(data, log, settings, *more))
    return only_run(log)


def built(data: Path, settings: dict, *more, model: str = "Toy"):
    """A run that has not started."""
    args = train.parse(flags_of(data, Path("unused"), settings, *more))
    return train.build_run(args, MODELS.entry(model), DATASETS.entry("Synthetic"))


def record_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def curves_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every curve that TensorBoard shows of a run."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_close(found: dict, expected: dict, atol: float = 2e-6) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)


def differ(one: dict, other: dict) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.fixture(scope="module")
def rich(watched, tiny_data, tmp_path_factory):
    """(the folder of a run with everything switched on, what the toys saw of it)."""
    watched.restart()
    folder = trained(tiny_data, tmp_path_factory.mktemp("rich"), RICH)
    return folder, (list(watched.clips), list(watched.targets), list(watched.terms))


@pytest.fixture(scope="module")
def by_hand(rich) -> Training:
    _, (clips, targets, _) = rich
    options = {"momentum": 0.8, "weight_decay": 0.05, "decays": ("stem.weight", "head.weight"), "clip": CLIP}
    options |= {"loss_weight": 20.0, "ema": 0.9, "ramp": RAMP, "frozen": "stem"}
    return Training(seed=5, rates=[0.2, 0.1, 0.05], **options).run(clips, targets)


# ---------------------------------------------------------------- the whole training


def test_the_weights_are_those_of_the_training_by_hand(rich, by_hand):
    saved = read_checkpoint(rich[0] / "last.pth")
    assert len(rich[1][0]) == 3 * STEPS == saved["progress"]["steps"]
    assert_close(saved["trained_weights"], by_hand.weights[-1])
    floats = {name: v for name, v in saved["weights"].items() if v.is_floating_point()}
    assert_close(floats, {name: by_hand.average[-1][name] for name in floats})


def test_the_training_by_hand_depends_on_everything(rich, by_hand):
    """Else it would prove nothing."""
    first, second, third = by_hand.weights
    torch.manual_seed(5)
    assert not [name for name in differ(Toy().state_dict(), first) if name.startswith("stem")]  # frozen
    assert {"stem.weight", "stem.bias"} <= set(differ(first, second))
    assert min(by_hand.norms) < 0.9 * CLIP and max(by_hand.norms) > 1.1 * CLIP  # some are clipped
    assert (by_hand.average[2]["head.weight"] - third["head.weight"]).abs().max() > 1e-3


def test_the_scores_are_those_of_the_averaged_weights_at_rest(rich, by_hand, tiny_data):
    """Without dropout, by the running statistics, of the test split."""
    found = [line["iou"] for line in record_of(rich[0])]
    places = (tiny_data / "Synthetic", ["Sequence4", "Sequence5"])
    assert found == pytest.approx([iou_by_hand(weights, *places) for weights in by_hand.average], rel=1e-3)
    unaveraged = [iou_by_hand(weights, *places) for weights in by_hand.weights]
    assert all(abs(a - b) > 0.01 * b for a, b in zip(unaveraged, found, strict=True))


def test_each_epoch_trains_its_own_clips_after_the_validation_of_the_one_before(forget, tiny_data, tmp_path):
    """Without an average it is the trained network that is validated, at rest, and then trains on."""
    settings = {"epochs": 2, "seed": 2}
    folder = trained(tiny_data, tmp_path, settings)
    seen, targets = list(forget.clips), list(forget.targets)
    by_hand = Training(seed=2, rates=[0.1, 0.1], momentum=0.9).run(seen, targets)
    assert_close(read_checkpoint(folder / "last.pth")["weights"], by_hand.weights[1])
    places = (tiny_data / "Synthetic", ["Sequence4", "Sequence5"])
    expected = [iou_by_hand(weights, *places) for weights in by_hand.weights]
    assert [line["iou"] for line in record_of(folder)] == pytest.approx(expected, rel=1e-3)
    clips = built(tiny_data, settings).clips
    for epoch in (0, 1):
        order = np.random.default_rng([2, epoch]).permutation(16).tolist()
        for batch, clip in enumerate(seen[STEPS * epoch : STEPS * (epoch + 1)]):
            drawn = [clips[epoch, index]["clip"] for index in order[4 * batch : 4 * batch + 4]]
            assert torch.equal(clip, torch.stack(drawn)), (epoch, batch)


class ToyNowhere(torch.nn.Module):
    """Finds nothing in a frame."""

    def forward(self, clip):
        return {"logits": clip[:, 0]}

    def decode(self, raw):
        return torch.zeros_like(raw["logits"])


def test_epochs_are_scored_with_what_confirms(tiny_data, tmp_path):
    register_model("ToyNowhere", recipe={"view": {"frames": 1}}, rename={})(ToyNowhere)
    found = []
    for confirm in ("", "ToyNowhere"):
        settings = {"epochs": 1, "threshold": 0.01, "confirm": confirm}
        (line,) = record_of(trained(tiny_data, tmp_path / (confirm or "alone"), settings))
        found.append(line)
    alone, confirmed = found
    assert alone["fa"] > 0 and alone["loss"] == confirmed["loss"]
    assert confirmed["fa"] == confirmed["pd"] == confirmed["iou"] == 0


def test_every_term_of_the_loss_is_recorded(rich):
    folder, (_, _, terms) = rich
    for epoch, line in enumerate(record_of(folder)):
        own = terms[STEPS * epoch : STEPS * (epoch + 1)]
        for name, key in (("loss", "loss"), ("missed", "loss_missed"), ("false", "loss_false")):
            assert line[key] == pytest.approx(sum(t[name] for t in own) / STEPS), (epoch, key)


def test_the_curves_hold_every_step_and_every_epoch(rich):
    folder, (_, _, terms) = rich
    curves = curves_of(folder)
    for name in ("loss", "missed", "false"):
        expected = [(step, pytest.approx(t[name])) for step, t in enumerate(terms, start=1)]
        assert curves[f"train/{name}"] == expected
    lines = record_of(folder)
    for name in ("loss", "loss_missed", "loss_false", "learning_rate", "iou", "pd", "fa", "auc"):
        expected = [(STEPS * line["epoch"], pytest.approx(line[name])) for line in lines]
        assert curves[f"epoch/{name}"] == expected


def test_every_parameter_group_follows_the_schedule(monkeypatch, forget, tiny_data, tmp_path):
    rates = []
    step = torch.optim.SGD.step

    def noted(optimizer, *args, **options):
        rates.append([group["lr"] for group in optimizer.param_groups])
        return step(optimizer, *args, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    folder = trained(tiny_data, tmp_path, RICH)
    assert rates == [[rate] * 2 for rate in (0.2, 0.1, 0.05) for _ in range(STEPS)]
    assert [line["learning_rate"] for line in record_of(folder)] == [0.2, 0.1, 0.05]


def test_adamw_reaches_the_optimizer(forget, tiny_data, tmp_path):
    """The first step is the learning rate in the direction of the gradient; the decay is apart from it."""
    settings = {"optimizer": "AdamW", "weight_decay": 0.5, "learning_rate": 0.01, "sample_rate": 0.06}
    folder = trained(tiny_data, tmp_path, settings)
    (clip,), (target,) = forget.clips, forget.targets
    torch.manual_seed(0)
    before = Toy().state_dict()
    reached = Training(seed=0, rates=[1.0]).run([clip], [target]).weights[0]  # before - gradient
    after = read_checkpoint(folder / "last.pth")["weights"]
    for name in ("stem.weight", "norm.weight", "norm.bias", "head.weight", "head.bias"):
        gradient = before[name] - reached[name]
        expected = before[name] * (1 - 0.01 * 0.5) - 0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(after[name], expected, rtol=0, atol=1e-5, msg=name)


# ---------------------------------------------------------------- after an interruption


@pytest.fixture(scope="module", params=[5, 8, 10])
def continued(request, watched, tiny_data, tmp_path_factory):
    """(after how many steps, the folder of a run that was cut off then and went on, its clips since then)."""
    log = tmp_path_factory.mktemp("cut")
    watched.restart(fail_at=request.param + 1)
    with pytest.raises(UserError, match="the test ends this run"):
        trained(tiny_data, log, RICH)
    folder = only_run(log)
    assert read_checkpoint(folder / "last.pth")["progress"]["steps"] == request.param
    watched.restart()
    train.main(flags_of(tiny_data, log, {}, "--resume", folder))
    return request.param, folder, list(watched.clips)


def test_a_run_that_goes_on_sees_and_learns_the_same(rich, continued):
    """The clips of the batches that are left, the same ramp of the average, the same rates and dropout."""
    whole, (clips, _, _) = rich
    steps, folder, seen = continued
    assert len(seen) == 3 * STEPS - steps
    assert all(torch.equal(*pair) for pair in zip(seen, clips[steps:], strict=True))
    for key in ("weights", "trained_weights"):
        assert not differ(read_checkpoint(folder / "last.pth")[key], read_checkpoint(whole / "last.pth")[key])
        assert not differ(read_checkpoint(folder / "best.pth")[key], read_checkpoint(whole / "best.pth")[key])
    for name in ("loss", "loss_missed", "learning_rate", "iou", "auc"):
        assert [line[name] for line in record_of(folder)] == [line[name] for line in record_of(whole)], name


def test_the_curves_of_a_run_that_went_on_have_no_hole(rich, continued):
    """Those of the last batch or epoch before the interruption are kept, too."""
    whole, found = curves_of(rich[0]), curves_of(continued[1])
    for name in ("train/loss", "train/missed", "epoch/loss", "epoch/iou", "epoch/learning_rate"):
        assert found[name] == whole[name], name


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--batch_size", 2), "has sampling.batch_size=4, which --resume cannot change to 2"),
        (("--model_names", "DeepPro"), "trains Toy on Synthetic, not DeepPro on Synthetic"),
        (("--dataset_names", "Folder"), "trains Toy on Synthetic, not Toy on Folder"),
    ],
)
def test_a_run_goes_on_as_what_it_is(rich, tiny_data, tmp_path, flags, sentence):
    before = (rich[0] / "last.pth").read_bytes()
    with pytest.raises(UserError, match=sentence):
        train.main(flags_of(tiny_data, tmp_path, {}, "--resume", rich[0], *flags))
    assert (rich[0] / "last.pth").read_bytes() == before


def test_a_finished_run_goes_on_with_more_epochs_by_its_name(tiny_data, tmp_path):
    """The newest of the model and the data set."""
    few = {"sample_rate": 0.06, "loss_options.weight": 3.0}
    old = trained(tiny_data, tmp_path, few)
    train.main(flags_of(tiny_data, tmp_path, few))
    train.main(flags_of(tiny_data, tmp_path, {}, "--resume", "--epochs", 2, "--set", "save_every=7"))
    (new,) = [run for run in (tmp_path / "Synthetic/Toy").iterdir() if run != old]
    assert [[line["epoch"] for line in record_of(run)] for run in (old, new)] == [[1], [1, 2]]
    recipe = read_checkpoint(new / "last.pth")["recipe"]
    assert recipe["optimisation"]["loss_options"] == {"weight": 3.0}
    assert (recipe["optimisation"]["epochs"], recipe["runtime"]["save_every"]) == (2, 7)


def test_an_epoch_whose_checkpoint_is_lost_is_recorded_once(rich, monkeypatch, forget, tiny_data, tmp_path):
    save = train.TrainingRun.save

    def full_disk(run, name, *scores):
        if (name, run.progress.epoch, run.progress.batch) == ("last.pth", 2, 0):
            raise UserError("the disk is full")
        save(run, name, *scores)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="the disk is full"):
        patch.setattr(train.TrainingRun, "save", full_disk)
        trained(tiny_data, tmp_path, RICH)
    folder = only_run(tmp_path)
    assert [line["epoch"] for line in record_of(folder)] == [1, 2]
    train.main(flags_of(tiny_data, tmp_path, {}, "--resume", folder))
    assert [line["epoch"] for line in record_of(folder)] == [1, 2, 3]
    assert [line["loss"] for line in record_of(folder)] == [line["loss"] for line in record_of(rich[0])]


def test_a_model_trains_the_same_behind_another_one(rich, forget, tiny_data, tmp_path):
    folder = rich[0]
    few = ("--model_names", "Toy", "DeepPro", "Toy", "--epochs", 1, "--seq_len", 4, "--patch_size", 16)
    settings = {"sample_rate": 0.06, "batch_size": 4, "seed": 5, "loss": "Scaled"}
    train.main(flags_of(tiny_data, tmp_path, settings, *few))
    first, second = sorted((tmp_path / "Synthetic" / "Toy").iterdir())
    one, other = (read_checkpoint(run / "last.pth") for run in (first, second))
    assert not differ(one["weights"], other["weights"])
    assert differ(one["weights"], read_checkpoint(folder / "last.pth")["weights"])


# ---------------------------------------------------------------- which epoch is kept


def scripted(monkeypatch, name: str, scores: list[float]) -> None:
    """Validations give these scores in turn."""
    turns = iter(scores)
    monkeypatch.setattr(Validation, "score", lambda *_: {name: next(turns)})


NAN = math.nan


@pytest.mark.parametrize(
    ("best", "scores", "epoch"),
    [
        ("iou", [0.2, 0.5, 0.3], 2),
        ("iou", [0.5, 0.2, 0.3], 1),
        ("iou", [0.2, 0.5, 0.5], 3),  # at least as good
        ("iou", [NAN, NAN, NAN], 3),
        ("iou", [NAN, NAN, 0.1, 0.0], 3),
        ("iou", [NAN, 0.3, NAN, 0.2], 2),
        ("iou", [0.0, NAN, NAN], 1),
        ("fa", [3e-5, 1e-5, 2e-5], 2),
        ("fa", [NAN, 3e-5, NAN, 4e-5], 2),
        ("fa", [1e-5, 0.0, 2e-5], 2),
        ("pd", [0.2, 0.9, 0.5], 2),
    ],
)
def test_best_is_the_best_epoch(monkeypatch, tiny_data, tmp_path, best, scores, epoch):
    scripted(monkeypatch, best, scores)
    folder = trained(tiny_data, tmp_path, {"best": best, "epochs": len(scores), "sample_rate": 0.06})
    saved = read_checkpoint(folder / "best.pth")
    assert saved["progress"]["epoch"] == epoch
    assert saved["scores"][best] == scores[epoch - 1] or math.isnan(scores[epoch - 1])
    assert read_checkpoint(folder / "last.pth")["progress"]["epoch"] == len(scores)


def test_the_best_score_outlives_an_interruption(monkeypatch, forget, tiny_data, tmp_path):
    scripted(monkeypatch, "iou", [0.5, 0.3])
    forget.restart(fail_at=2)
    with pytest.raises(UserError, match="the test ends"):
        trained(tiny_data, tmp_path, {"epochs": 2, "sample_rate": 0.06})
    folder = only_run(tmp_path)
    forget.restart()
    train.main(flags_of(tiny_data, tmp_path, {}, "--resume", folder))
    assert read_checkpoint(folder / "best.pth")["progress"]["epoch"] == 1


def test_epochs_without_validation_have_no_scores(tiny_data, tmp_path):
    """Every second one is validated, and the last one."""
    folder = trained(tiny_data, tmp_path, {"validate_every": 2, "epochs": 5, "sample_rate": 0.06})
    lines = record_of(folder)
    assert [line["epoch"] for line in lines if "iou" in line] == [2, 4, 5]
    assert all(("pd" in line) == ("iou" in line) and "loss" in line for line in lines)
    assert [step for step, _ in curves_of(folder)["epoch/iou"]] == [2, 4, 5]
    assert read_checkpoint(folder / "best.pth")["progress"]["epoch"] in (2, 4, 5)


# ---------------------------------------------------------------- what trains, what validates


@pytest.mark.parametrize(
    ("settings", "training", "validating"),
    [
        ({}, [1, 2, 3], [4, 5]),
        ({"validation": "test"}, [1, 2, 3], [4, 5]),
        ({"validation": "holdout", "holdout": 2}, [1, 3], [2]),
        ({"validation": "holdout", "holdout": 3}, [1, 2], [3]),
    ],
)
def test_which_sequences_train_and_which_validate(tiny_data, tmp_path, settings, training, validating):
    run = built(tiny_data, settings)
    names = [f"Sequence{number}" for number in training]
    assert [sequence.name for sequence in run.clips.data] == names
    drawn = {run.clips[epoch, 0]["name"].partition("[")[0] for epoch in range(60)}
    assert drawn == set(names)
    assert [video.name for video in run.validation.videos] == [f"Sequence{number}" for number in validating]


def test_the_held_out_sequences_give_the_scores(tiny_data, tmp_path):
    folder = trained(tiny_data, tmp_path, {"validation": "holdout", "holdout": 2})
    (line,) = record_of(folder)
    weights = read_checkpoint(folder / "last.pth")["weights"]
    expected = iou_by_hand(weights, tiny_data / "Synthetic", ["Sequence2"])
    assert line["iou"] == pytest.approx(expected, rel=1e-3)
    assert iou_by_hand(weights, tiny_data / "Synthetic", ["Sequence4", "Sequence5"]) != pytest.approx(
        expected, rel=0.01
    )


def test_too_few_sequences_to_hold_out(tiny_data):
    with pytest.raises(UserError, match="has 3 training sequences, too few to hold out every 4th"):
        built(tiny_data, {"validation": "holdout", "holdout": 4})


@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_and_the_workers_reach_the_loader(tiny_data, seed):
    run = built(tiny_data, {"seed": seed}, "--num_workers", 2)
    assert run.loader(run.clips, run.batches).num_workers == 2
    run.batches.epoch = 3
    order = np.random.default_rng([seed, 3]).permutation(16)
    assert list(run.batches) == [[(3, int(i)) for i in order[n : n + 4]] for n in range(0, 16, 4)]
    ends = np.tile(np.arange(1, 24), 3)  # of the windows, of 1, 2, 3, 4, 4, ... frames
    chances = np.cumsum(np.minimum(ends, 4)) / np.minimum(ends, 4).sum()
    for index in range(5):
        chosen = int(np.searchsorted(chances, np.random.default_rng([seed, 3, index]).random(), "right"))
        first, last = max(0, ends[chosen] - 4), ends[chosen]
        assert run.clips[3, index]["name"] == f"Sequence{chosen // 23 + 1}[{first}:{last}]"
    torch.manual_seed(seed)
    assert not differ(run.state.model.state_dict(), Toy().state_dict())


def test_a_stop_in_the_last_epoch_of_a_model_is_one_for_the_models_after_it(
    monkeypatch, capsys, tiny_data, tmp_path
):
    validate = train.TrainingRun.validate

    def interrupted(run):
        scores = validate(run)
        signal.raise_signal(signal.SIGTERM)
        return scores

    monkeypatch.setattr(train.TrainingRun, "validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_data, tmp_path, {"sample_rate": 0.06}, "--model_names", "Toy", "Toy")
    saved = read_checkpoint(only_run(tmp_path) / "last.pth")
    assert saved["progress"]["epoch"] == 1 and "iou" in saved["scores"]
