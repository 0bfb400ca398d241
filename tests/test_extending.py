"""One part of each kind, registered from outside and used by name: train.py and test.py need no change.

The parts are so small that the test knows every number of the run: all frames are equal, with one square
target, so that each epoch is one step on known pixels.
"""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import test
import train
from dataset import Sequence, SequenceSet
from dataset.augment import Augmentation
from metrics.counting import CountingMetric, Figure, ratio
from metrics.protocols import PROTOCOLS, Protocol
from utils import registry
from utils.checkpoint import read_checkpoint
from utils.errors import UserError
from utils.recipe.fields import setting

pytestmark = pytest.mark.usefixtures("one_thread")

REGISTRIES = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
SIZE, SIDE, BEHIND, TARGET = 16, 4, 40, 220  # of frames and their square target, and the gray values
MEAN, STD = 100.0, 50.0
EPOCHS, RATE = 3, 0.5
LIFT, PULL, SCALE, DROP, GAIN, POWER, THRESHOLD = 15, 0.25, 0.3, 0.5, 1.5, 3, 0.3  # the options of the parts


# ---------------------------------------------------------------- what a stranger writes


def index(root: Path, split: str, count: int = 1) -> SequenceSet:
    """Sequences of equal frames; `count` of them."""
    frames, masks = ((root / kind / "0.png", root / kind / "1.png") for kind in ("images", "masks"))
    sequences = tuple(Sequence(f"{split}{number}", frames, masks) for number in range(count))
    return SequenceSet("Extra-Set", root, split, sequences, MEAN, STD)


@dataclass(frozen=True)
class Lift(Augmentation):
    """Gray values plus a number."""

    by: int = setting(1, "what is added", at_least=-20, at_most=20)
    stage = "pixels"

    def __call__(self, sample, draw):
        return replace(sample, images=sample.images + np.uint8(self.by))


class Gap(nn.Module):
    """The squared gap between logits and target, and `pull` times the mean of the clip."""

    def __init__(self, pull: float = 1.0):
        super().__init__()
        if not 0 <= pull <= 1:
            raise UserError(f"loss_options.pull takes a number, at least 0 and at most 1, not {pull}")
        self.pull = pull

    def forward(self, raw, target):
        gap, pull = ((raw["logits"] - target) ** 2).mean(), self.pull * raw["mean"]
        return {"loss": gap + pull, "gap": gap.detach(), "pull": pull.detach()}


class Glow(CountingMetric):
    """The mean probability above the threshold, to a power."""

    takes, truth = "map", "mask"
    figures = (Figure("glow", "Glow x1000", 1000, ".1f", "lower"),)

    def __init__(self, threshold: float = 0.5, power: float = 1.0):
        super().__init__(threshold=threshold, power=power)

    def zero_counts(self):
        return {"sum": 0.0, "pixels": 0}

    def update(self, prediction, truth):
        above = prediction[prediction > self.options["threshold"]]
        self.counts["sum"] += float(above.sum(dtype=np.float64))
        self.counts["pixels"] += above.size

    def compute(self):
        return {"glow": ratio(self.counts["sum"], self.counts["pixels"]) ** self.options["power"]}


@dataclass(frozen=True)
class Descent:
    """The gradient times a number."""

    scale: float = setting(1.0, "the number", above=0, at_most=1)
    decays_all = False

    def make(self, groups, learning_rate):
        return Scaled(groups, {"lr": learning_rate, "scale": self.scale})


class Scaled(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * group["scale"] * parameter.grad


@dataclass(frozen=True)
class Harmonic:
    """top / (1 + drop * epoch)."""

    drop: float = setting(1.0, "how fast it falls", at_least=0, at_most=2)

    def rate(self, top, epoch, epochs):
        return top / (1 + self.drop * epoch)


class Line(nn.Module):
    """logits = gain * clip + bias."""

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.tensor(gain)), nn.Parameter(torch.tensor(0.0))

    def forward(self, clip):
        return {"logits": self.gain * clip[:, 0] + self.bias, "mean": clip.mean()}

    def decode(self, raw):
        return raw["logits"].sigmoid()


RECIPE = {
    "view": {"frames": 1},
    "sampling": {"sample_rate": 1.0, "batch_size": 4},
    "optimisation": {"loss": "Extra-Loss", "optimizer": "Extra-Descent", "schedule": "extra-harmonic"},
    "scoring": {"paper": "Extra-Paper", "best": "glow"},
}


@pytest.fixture(scope="module")
def extended():
    """The parts under their names, for this file alone."""
    with pytest.MonkeyPatch.context() as patch:
        for known in REGISTRIES:
            patch.setattr(known, "_entries", dict(known._entries))
            patch.setattr(known, "_folded", dict(known._folded))
        registry.register_dataset("Extra-Set")(index)
        registry.register_augmentation("extra_lift")(Lift)
        registry.register_loss("Extra-Loss")(Gap)
        registry.register_metric("Extra-Glow")(Glow)
        registry.register_optimizer("Extra-Descent")(Descent)
        registry.register_schedule("extra-harmonic")(Harmonic)
        registry.register_model("Extra-Line", recipe=RECIPE, rename={})(Line)
        patch.setitem(PROTOCOLS, "Extra-Paper", Protocol(({"Extra-Glow": {"power": POWER}},)))
        yield
    left = [name for known in (*[r.names() for r in REGISTRIES], PROTOCOLS) for name in known]
    assert not any(name.casefold().startswith("extra") for name in left)


# ---------------------------------------------------------------- what the commands make of it


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extra")
    for kind, behind, target in (("images", BEHIND, TARGET), ("masks", 0, 255)):
        (folder / kind).mkdir()
        for number in (0, 1):
            assert cv2.imwrite(str(folder / kind / f"{number}.png"), picture(behind, target))
    return folder


def picture(behind: int, target: int) -> np.ndarray:
    pixels = np.full((SIZE, SIZE), behind, np.uint8)
    pixels[2 : 2 + SIDE, 5 : 5 + SIDE] = target
    return pixels


def flags(data: Path, log: Path) -> list[str]:
    names = ["--dataset_names", "extra_set", "--dataset_dir", str(data), "--dataset_option", "count=2"]
    return [*names, "--log_dir", str(log), "--device", "cpu"]


def train_flags(data: Path, log: Path, **changed: str) -> list[str]:
    typed = {
        "model.gain": GAIN,
        "augment": f"('extra_lift({LIFT})',)",
        "loss_options.pull": PULL,
        "optimizer_options.scale": SCALE,
        "schedule_options.drop": DROP,
        "learning_rate": RATE,
        "epochs": EPOCHS,
        "num_workers": 0,
        "threshold": THRESHOLD,
        **changed,
    }
    settings = [word for key, value in typed.items() for word in ("--set", f"{key}={value}")]
    return ["--model_names", "extraline", *flags(data, log), *settings]


@pytest.fixture(scope="module")
def run(extended, data, tmp_path_factory) -> SimpleNamespace:
    """The folders that train.py and test.py wrote."""
    log = tmp_path_factory.mktemp("log")
    train.main(train_flags(data, log))
    (trained,) = (log / "Extra-Set" / "Extra-Line").iterdir()
    tests = log / "tests"
    checkpoint = ["--checkpoint", str(trained / "best.pth")]
    test.main([*flags(data, tests), *checkpoint, "--protocol", "published"])
    (tested,) = (tests / "Extra-Set" / "Extra-Line").iterdir()
    return SimpleNamespace(trained=trained, tested=tested)


def simulated() -> list[dict[str, float]]:
    """Each epoch of the training, in plain numbers: what the record says, the weights and the validation."""
    gray, truth = picture(BEHIND, TARGET).astype(float), picture(0, 1).astype(float)
    seen, plain = (gray + LIFT - MEAN) / STD, (gray - MEAN) / STD
    gain, bias, epochs = GAIN, 0.0, []
    for epoch in range(EPOCHS):
        rate, gap = RATE / (1 + DROP * epoch), gain * seen + bias - truth
        pull = PULL * seen.mean()
        found = {"loss": (gap**2).mean() + pull, "loss_gap": (gap**2).mean(), "loss_pull": pull}
        slope, offset = (2 * gap * seen).mean(), (2 * gap).mean()
        gain, bias = gain - rate * SCALE * slope, bias - rate * SCALE * offset
        probability = 1 / (1 + np.exp(-(gain * plain + bias)))
        glow = probability[probability > THRESHOLD].mean() ** POWER
        epochs.append({**found, "learning_rate": rate, "glow": glow, "gain": gain, "bias": bias})
    return epochs


def test_every_option_arrives_in_the_recipe(run):
    saved = json.loads((run.trained / "recipe.json").read_text())
    recipe, chosen = saved["recipe"], saved["recipe"]["optimisation"]
    assert (saved["model"], saved["dataset"], recipe["model"]) == ("Extra-Line", "Extra-Set", {"gain": GAIN})
    assert (chosen["loss"], chosen["loss_options"]) == ("Extra-Loss", {"pull": PULL})
    assert (chosen["optimizer"], chosen["optimizer_options"]) == ("Extra-Descent", {"scale": SCALE})
    assert (chosen["schedule"], chosen["schedule_options"]) == ("extra-harmonic", {"drop": DROP})
    assert recipe["sampling"]["augment"] == [f"extra_lift({LIFT})"]
    assert (recipe["scoring"]["paper"], recipe["scoring"]["best"]) == ("Extra-Paper", "glow")


def test_every_epoch_has_the_rate_the_terms_and_the_score_of_its_parts(run):
    """The term "pull" is what the model saw, so the augmentation too; "glow" is of the plain frames."""
    record = [json.loads(line) for line in (run.trained / "train.jsonl").read_text().splitlines()]
    expected = simulated()
    assert [line["learning_rate"] for line in record] == [RATE, RATE / 1.5, RATE / 2]
    for line, epoch in zip(record, expected, strict=True):
        for name in ("loss", "loss_gap", "loss_pull", "glow"):
            assert line[name] == pytest.approx(epoch[name], rel=1e-5), name


def test_the_best_checkpoint_has_the_lowest_score_and_the_weights_of_its_epoch(run):
    epochs = simulated()
    best = min(epochs, key=lambda epoch: epoch["glow"])
    assert len({epoch["glow"] for epoch in epochs}) == EPOCHS
    assert best is not max(epochs, key=lambda epoch: epoch["glow"])
    for name, epoch in (("best.pth", best), ("last.pth", epochs[-1])):
        weights = read_checkpoint(run.trained / name)["weights"]
        assert float(weights["gain"]) == pytest.approx(epoch["gain"], rel=1e-5), name
        assert float(weights["bias"]) == pytest.approx(epoch["bias"], rel=1e-5), name


def test_the_figure_is_a_column_of_the_tables_and_a_value_of_eval_json(run):
    glow = min(epoch["glow"] for epoch in simulated())
    facts = json.loads((run.tested / "eval.json").read_text())
    (line,) = facts["scores"]
    assert facts["dataset_options"] == ["count=2"]
    assert line["groups"]["all"]["glow"] == pytest.approx(glow, rel=1e-5)
    assert list(line["sequences"]) == ["test0", "test1"]
    assert f"power={POWER}" in line["rule"]
    assert f"threshold={THRESHOLD}" in line["rule"]
    with (run.tested / "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["Glow x1000"]) == pytest.approx(1000 * glow, rel=1e-5)
    assert (row["data set"], row["model"], row["protocol"]) == ("Extra-Set", "Extra-Line", "published")
    assert (row["sequences"], row["frames"]) == ("2", "4")
    header, _, shown = (run.tested / "table.md").read_text().splitlines()
    column = [title.strip() for title in header.split("|")].index("Glow x1000")
    assert shown.split("|")[column].strip() == f"{1000 * glow:.1f}"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"augment": "('extra_lift(21)',)"},
            "option by of extra_lift cannot be 21: it takes .*at least -20 and at most 20",
        ),
        ({"loss_options.pull": 1.5}, "loss_options.pull takes a number, at least 0 and at most 1, not 1.5"),
        (
            {"optimizer_options.scale": 0},
            "option scale of optimizer Extra-Descent cannot be 0: it takes a number, above 0 and at most 1",
        ),
        (
            {"schedule_options.drop": -1},
            "option drop of schedule extra-harmonic cannot be -1: it takes .*at least 0 and at most 2",
        ),
        ({"model.again": 1}, "model Extra-Line has no option 'again'; did you mean gain"),
        ({"best": "bloom"}, "does not score bloom for models of masks; --set best= takes one of glow"),
        ({"paper": "Extra-Papers"}, "scoring.paper names no paper 'Extra-Papers'; did you mean Extra-Paper"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(extended, data, tmp_path, changed, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        train.main(train_flags(data, tmp_path / "log", **changed))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "log").exists()


def test_an_unknown_option_of_the_reader_is_refused(extended, data, tmp_path):
    with pytest.raises(UserError, match="data set Extra-Set has no option 'cuont'; did you mean count"):
        train.main([*train_flags(data, tmp_path), "--dataset_option", "cuont=1"])
