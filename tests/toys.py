"""Small detectors and a loss for tests of the wiring, and what the commands do with them, by hand."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from utils.errors import UserError
from utils.recipe.fields import Facts
from utils.registry import LOSSES, MODELS, register_loss, register_model


@dataclass
class Watched:
    """What the toys have seen: clips in training, targets and terms of the loss, one each per step.

    streams: of each stream, the places of the frames of each clip
    fail_at: the call of the loss, counted from 1, that ends the run with a UserError
    """

    clips: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    streams: list[list[tuple[int, ...]]] = field(default_factory=list)
    fail_at: int | None = None

    def restart(self, fail_at: int | None = None) -> None:
        """Forget everything."""
        self.__init__(fail_at=fail_at)


WATCHED = Watched()


class Toy(nn.Module):
    """A convolution, a batch norm and a dropout over each frame by itself."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, clip):
        if torch.is_grad_enabled() and not clip.is_meta:  # not in a dry run
            WATCHED.clips.append(clip.clone())
        batch, _, frames, *size = clip.shape
        x = self.stem(clip.transpose(1, 2).reshape(batch * frames, 1, *size))
        x = self.head(self.drop(F.relu(self.norm(x))))
        return {"logits": x.reshape(batch, frames, *size)}

    def decode(self, raw):
        return torch.sigmoid(raw["logits"])


class ToyBoxes(nn.Module):
    """One box per 8x8 pixels of the middle one of three frames."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(1, 6, 8, stride=8)

    def forward(self, clip):
        return {"head": [self.head(clip[:, :, 1])]}

    def decode(self, raw):
        (maps,) = raw["head"]
        rows, columns = torch.meshgrid(*(torch.arange(n) for n in maps.shape[2:]), indexing="ij")
        x, y = (maps[:, 0] + columns) * 8, (maps[:, 1] + rows) * 8
        width, height = maps[:, 2].exp() * 8, maps[:, 3].exp() * 8
        score = maps[:, 4].sigmoid() * maps[:, 5].sigmoid()
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return list(torch.stack([*corners, score], dim=-1).flatten(1, 2))


class ToyStream(nn.Module):
    """Finds what is bright, and can only be streamed."""

    def forward(self, clip):
        if clip.is_meta:  # in the dry run
            return {"logits": clip[:, 0]}
        raise AssertionError("a model with a stream is not called clip by clip")

    def stream(self):
        calls = []
        WATCHED.streams.append(calls)

        def step(clip, places):
            calls.append(tuple(places))
            return {"logits": clip[:, 0] - 1}

        return step

    def decode(self, raw):
        return torch.sigmoid(raw["logits"])


class Scaled(nn.Module):
    """Binary cross-entropy, that of the target pixels times `weight`."""

    def __init__(self, weight: Annotated[float, Facts("of target pixels", at_least=0, at_most=1e6)] = 30.0):
        super().__init__()
        self.weight = weight

    def forward(self, raw, target):
        if len(WATCHED.terms) + 1 == WATCHED.fail_at:
            raise UserError("the test ends this run")
        missed, false = loss_by_hand(raw["logits"], target, self.weight)
        terms = {"loss": missed + false, "missed": missed.detach(), "false": false.detach()}
        WATCHED.targets.append(target.clone())
        WATCHED.terms.append({name: term.item() for name, term in terms.items()})
        return terms


RECIPE = {
    "view": {"frames": 4},
    "sampling": {"patch": 16, "batch_size": 4, "sample_rate": 0.24},  # 16 of 69 windows: 4 batches
    "optimisation": {"loss": "Scaled", "epochs": 1, "learning_rate": 0.1, "optimizer": "SGD"},
    "datasets": {"Folder": {"view": {"multiple": 32}, "scoring": {"threshold": 0.9, "match": 3}}},
}
BOX_RECIPE = {
    "view": {"frames": 3, "key": 1, "letterbox": 48},
    "sampling": {"batch_size": 4, "sample_rate": 0.2},
    "optimisation": {"loss": "YOLOX", "epochs": 2, "learning_rate": 0.003},
    "scoring": {"paper": "STMENet"},
}


@contextmanager
def registered_toys() -> Iterator[Watched]:
    """Inside `with`, the toys have names: models Toy, ToyBoxes and ToyStream, loss Scaled."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (MODELS, LOSSES):
            patch.setattr(registry, "_entries", dict(registry._entries))
            patch.setattr(registry, "_folded", dict(registry._folded))
        register_model("Toy", recipe=RECIPE, rename={})(Toy)
        register_model("ToyBoxes", recipe=BOX_RECIPE, rename={}, task="boxes")(ToyBoxes)
        register_model("ToyStream", recipe={"view": {"frames": 4}}, rename={})(ToyStream)
        register_loss("Scaled")(Scaled)
        WATCHED.restart()
        yield WATCHED


# ---------------------------------------------------------------- by hand


def loss_by_hand(logits: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """The terms of `Scaled`: of missed targets and of false pixels."""
    p = torch.sigmoid(logits)
    return -weight * (target * torch.log(p)).mean(), -((1 - target) * torch.log(1 - p)).mean()


@dataclass
class Training:
    """SGD with all that can be switched on, step by step in plain formulas.

    weights, average: of all that the network's state holds, after each epoch
    """

    seed: int
    rates: list[float]  # of each epoch
    momentum: float = 0.0
    weight_decay: float = 0.0
    decays: tuple[str, ...] = ()
    clip: float = math.inf
    loss_weight: float = 30.0
    ema: float = 0.0
    ramp: float = 1.0
    frozen: str = "none"  # in the first epoch
    weights: list[dict] = field(default_factory=list)
    average: list[dict] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)  # of each gradient before it is clipped

    def run(self, clips: list[Tensor], targets: list[Tensor]) -> "Training":
        """clips, targets: of all steps; equally many in each epoch."""
        torch.manual_seed(self.seed)
        model = Toy().train()
        average = copy.deepcopy(model.state_dict())
        velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for step, (clip, target) in enumerate(zip(clips, targets, strict=True), start=1):
            epoch = (step - 1) // (len(clips) // len(self.rates))
            named = {n: p for n, p in model.named_parameters() if epoch > 0 or not n.startswith(self.frozen)}
            loss = sum(loss_by_hand(model(clip)["logits"], target, self.loss_weight))
            gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
            norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients.values()))
            factor = min(1.0, self.clip / norm)
            self.norms.append(norm)
            with torch.no_grad():
                for name, p in named.items():
                    decay = self.weight_decay if name in self.decays else 0.0
                    velocity[name] = self.momentum * velocity[name] + factor * gradients[name] + decay * p
                    p -= self.rates[epoch] * velocity[name]
                d = self.ema * (1 - math.exp(-step / self.ramp))
                for name, value in model.state_dict().items():
                    if value.is_floating_point():
                        average[name] = d * average[name] + (1 - d) * value
            if step % (len(clips) // len(self.rates)) == 0:
                self.weights.append(copy.deepcopy(model.state_dict()))
                self.average.append(dict(average))
        return self


def probabilities_by_hand(weights: dict, frames: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Of frames [T, H, W], without dropout and by the norm's running statistics."""
    w = {name: value.double() for name, value in weights.items()}
    x = F.conv2d(
        torch.from_numpy((frames - mean) / std)[:, None], w["stem.weight"], w["stem.bias"], padding=1
    )
    mean, var, scale, shift = (
        w[f"norm.{n}"][:, None, None] for n in ("running_mean", "running_var", "weight", "bias")
    )
    x = ((x - mean) / torch.sqrt(var + 1e-5) * scale + shift).clamp(min=0)
    return torch.sigmoid(F.conv2d(x, w["head.weight"], w["head.bias"]))[:, 0].numpy()


def files_of(folder: Path) -> np.ndarray:
    """The images of a folder, in order, float64 [T, H, W]."""
    return np.stack([np.asarray(Image.open(path), np.float64) for path in sorted(folder.iterdir())])


def iou_by_hand(weights: dict, root: Path, names: list[str], threshold: float = 0.5) -> float:
    """Hits over hits, misses and false pixels, of sequences normalised by their own mean and deviation."""
    hits = union = 0
    for name in names:
        frames, masks = files_of(root / name / "images"), files_of(root / name / "masks") > 0
        found = probabilities_by_hand(weights, frames, frames.mean(), frames.std()) > threshold
        hits, union = hits + (found & masks).sum(), union + (found | masks).sum()
    return hits / union
