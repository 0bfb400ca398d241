"""A recipe: every number that decides a training or test run, resolved once, saved beside the run.

Precedence: the defaults below < the model's RECIPE < its entry for the data set < a flag that was typed.
"""

import ast
import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from utils.errors import UserError, near_matches
from utils.registry import fold


@dataclass(frozen=True)
class ClipSpec:
    """How sequences become model inputs."""

    frames: int = 40  # frames per clip
    key: int | str = "all"  # place of the one frame that the model predicts, from 0, or "all" of a window
    neighbours: str = "number"  # frames around a key frame: see dataset.sampling.key_frame_clip
    channels: int = 1  # equal copies of the gray channel
    letterbox: int | None = None  # side of the square that whole frames are fitted into, on gray 128
    patch: int | None = None  # side of the square training crop; None: whole frames
    target_crops: float = 0.75  # chance that a crop is placed around a target
    crop: int | None = None  # side of the square that training cuts out of the letterbox, with its boxes
    flips: bool = False  # training mirrors frames and boxes, each axis with chance 1/2
    drift: int = 0  # training moves the crop evenly by up to so many pixels per frame, as a camera would
    gain: float = 0.0  # training multiplies the gray values of a clip by 1 - gain .. 1 + gain; at most 255
    train_resize: tuple[int, int] | None = None  # (height, width) of training frames and masks
    test_resize: tuple[int, int] | None = None  # the same at test; predictions return to the original size
    image_resize: str = "bicubic"  # how images are resized: "bicubic" or "bilinear"
    mask_resize: str = "bicubic"  # how masks are resized: "bicubic" (published: masks grow) or "nearest"
    canvas: int | None = None  # side of the square that normalised frames fill up with zeros, right and below
    multiple: int = 1  # test frames are filled up so to a multiple of it
    augment: tuple[str, ...] = ()  # what training does to clips, in this order: names of dataset.augment
    padding: str = "zeros"  # frames that fill a short clip: "zeros" (the mean gray value) or "repeat"
    include_last: bool = False  # also draw each sequence's last frame, which the published sampler never does
    gray_scale: float | None = None  # gray values 0..255 are divided by it first, as published by RPRNet
    mean: float | tuple[float, float, float] | None = None  # of what is normalised, also one per channel;
    std: float | tuple[float, float, float] | None = None  # None: the data set's own gray value statistics
    target: str = "masks"  # what the loss takes: "masks" or "boxes"
    labels: str = "float"  # boxes in the letterbox: "float", or "published": truncated to whole pixels
    box_restore: str = "exact"  # boxes back from the letterbox: "exact", or "published": see Letterbox
    column_quirk: bool = False  # RPRNet's defect: target pixels in columns 0..3 of a mask get other values

    def __post_init__(self):
        if self.key != "all" and not (type(self.key) is int and 0 <= self.key < self.frames):
            raise UserError(
                "recipe key clip.key takes 'all' or a place in the clip of "
                f"{self.frames} frames, counted from 0, not {self.key!r}"
            )
        if self.letterbox and (self.patch or self.train_resize or self.test_resize):
            raise UserError(
                "recipe key clip.letterbox fits whole frames: set clip.patch, clip.train_resize and "
                "clip.test_resize to None beside it"
            )
        if self.target == "boxes" and (self.key == "all" or not self.letterbox):
            raise UserError(
                "recipe key clip.target=boxes goes with one key frame and whole frames: set clip.key to its "
                "place in the clip and clip.letterbox to a multiple of 32"
            )
        if self.augment and self.target == "boxes":
            raise UserError(
                "recipe key clip.augment is of mask models; use clip.crop and clip.flips for boxes"
            )
        if self.canvas and self.letterbox:
            raise UserError("recipe keys clip.canvas and clip.letterbox exclude each other; set one to None")
        if (self.crop or self.flips or self.gain) and self.target != "boxes":
            raise UserError(
                "recipe keys clip.crop, clip.flips and clip.gain are of box models; use clip.patch for masks"
            )
        if self.drift and not self.crop:
            raise UserError("recipe key clip.drift moves the crop of clip.crop; set both")
        if self.crop and self.crop > self.letterbox:
            raise UserError(
                f"recipe key clip.crop is {self.crop}, larger than clip.letterbox, {self.letterbox}; lower it"
            )
        if isinstance(self.mean, tuple) != isinstance(self.std, tuple):
            raise UserError("recipe keys clip.mean and clip.std are one number each, or both one per channel")
        if isinstance(self.mean, tuple) and self.channels != len(self.mean):
            raise UserError(
                f"recipe keys clip.mean and clip.std have {len(self.mean)} channels, clip.channels is "
                f"{self.channels}; make them agree"
            )


@dataclass(frozen=True)
class Recipe:
    """How a model is built, trained, validated and scored."""

    model: dict[str, Any] = field(default_factory=dict)  # options of create_model
    clip: ClipSpec = ClipSpec()
    loss: str = "SoftIoU"
    loss_options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 32
    batch_size: int = 4
    sample_rate: float = 0.1  # training clips per epoch, as a share of all windows
    optimizer: str = "adam"  # "adam" or "sgd"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    beta2: float = 0.999  # of adam
    momentum: float = 0.9  # of sgd
    nesterov: bool = False  # of sgd
    parameter_groups: str = "all"  # which parameters are trained and decay: see utils.optimizer
    ema: float | None = None  # decay of the averaged weights that are tested and kept; None: no average
    freeze: str = ""  # part of the network that is not trained in the first freeze_epochs epochs
    freeze_epochs: int = 0
    schedule: str = "step"  # see learning_rate_at
    step_size: int = 10
    milestones: tuple[int, ...] = ()
    lr_decay: float = 0.7
    warmup_epochs: int = 10
    min_learning_rate: float = 1e-5
    validation: str = "test"  # "test": the test split chooses best.pth, as published; "holdout": see holdout
    holdout: int = 8  # every so many training sequences one validates instead of training
    best: str = "iou"  # the validation score that chooses best.pth: "iou", "ap50" or "pd"
    protocol: str = "published"  # how a test scores: "published" by the model's paper, or "clean"
    scoring: str = "DeepPro"  # whose published protocol, a name of metrics/protocols.py
    threshold: float = 0.5  # of IoU, and of the figures that tables quote
    match: int = 1  # ShootingRules half sizes, see metrics/shooting_rules.py
    exclude: int = 4
    seed: int = 0

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0.

        constant:                learning_rate
        step:                    times lr_decay every step_size epochs, not below min_learning_rate
        milestones:              times lr_decay at each of the `milestones`, which count finished epochs
        warmup-cosine:           linear from learning_rate / warmup_epochs up to learning_rate, then half a
                                 cosine that reaches min_learning_rate after the last epoch
        warmup-cosine-published: RPRNet's: the first epoch has rate 0, and one more epoch warms up
        warmup-cosine-yolox:     STMENet's: a parabola from a tenth up to learning_rate, half a cosine, and
                                 min_learning_rate in the last epochs
        """
        top, bottom, warmup = self.learning_rate, self.min_learning_rate, self.warmup_epochs
        if self.schedule == "constant":
            return top
        if self.schedule == "step":
            return max(top * self.lr_decay ** (epoch // self.step_size), bottom)
        if self.schedule == "milestones":
            return top * self.lr_decay ** sum(epoch >= milestone for milestone in self.milestones)
        if self.schedule == "warmup-cosine-yolox":
            return self._yolox_rate(epoch)
        late = int(self.schedule == "warmup-cosine-published")
        if epoch < warmup + late:
            return top * (epoch + 1 - late) / warmup
        share = (epoch - warmup - late) / max(self.epochs - warmup, 1)
        return bottom + (top - bottom) * (1 + math.cos(math.pi * share)) / 2

    def _yolox_rate(self, epoch: int) -> float:
        top, bottom = self.learning_rate, self.min_learning_rate
        share = max(0.05 * self.epochs, 1)
        warmup, tail = min(share, self.warmup_epochs), min(share, 15)
        if epoch <= warmup:
            start = max(0.1 * top, 1e-6)
            return (top - start) * (epoch / warmup) ** 2 + start
        if epoch >= self.epochs - tail:
            return bottom
        phase = (epoch - warmup) / (self.epochs - warmup - tail)
        return bottom + (top - bottom) * (1 + math.cos(math.pi * phase)) / 2

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


CHOICES = {
    "optimizer": ("adam", "sgd"),
    "schedule": (
        "step",
        "milestones",
        "constant",
        "warmup-cosine",
        "warmup-cosine-published",
        "warmup-cosine-yolox",
    ),
    "parameter_groups": ("all", "published", "no-norm-decay"),
    "best": ("iou", "ap50", "pd"),
    "validation": ("test", "holdout"),
    "protocol": ("published", "clean"),
    "clip.image_resize": ("bicubic", "bilinear"),
    "clip.mask_resize": ("bicubic", "nearest"),
    "clip.padding": ("zeros", "repeat"),
    "clip.neighbours": ("number", "position"),
    "clip.target": ("masks", "boxes"),
    "clip.labels": ("float", "published"),
    "clip.box_restore": ("exact", "published"),
}
AT_LEAST_ONE = ("clip.frames", "clip.channels", "clip.patch", "clip.letterbox", "clip.crop", "batch_size")
AT_LEAST_ONE += ("clip.canvas", "clip.multiple")
AT_LEAST_ONE += ("step_size", "warmup_epochs")
POSITIVE = ("sample_rate", "learning_rate", "clip.std", "clip.gray_scale")
NOT_NEGATIVE = ("epochs", "match", "exclude", "seed", "weight_decay", "momentum", "min_learning_rate")
NOT_NEGATIVE += ("freeze_epochs", "ema", "clip.gain", "clip.drift")


def resolve_recipe(model_recipe: dict[str, Any], dataset: str, typed: dict[str, Any]) -> Recipe:
    """The recipe of a run.

    model_recipe: a model file's RECIPE, whose key "datasets" holds the differences per data set
    typed:        what the user asked for, keys as in `--set`: "epochs", "clip.frames", "model.seq_len", ...
    Raises UserError for an unknown key (near matches listed) or a value of the wrong type.
    """
    general = {k: v for k, v in model_recipe.items() if k != "datasets"}
    per_dataset = {fold(k): v for k, v in model_recipe.get("datasets", {}).items()}.get(fold(dataset), {})
    values: dict[str, Any] = {}
    for layer in (flat(general), flat(per_dataset)):
        values.update(layer)
    typed = meant(typed, values.get("clip.letterbox"))
    values.update(typed)
    if "clip.frames" in typed and "seq_len" in general.get("model", {}):
        values.setdefault("model.seq_len", typed["clip.frames"])
        values["model.seq_len"] = typed.get("model.seq_len", typed["clip.frames"])
    return from_flat(values)


def meant(typed: dict[str, Any], letterbox: int | None) -> dict[str, Any]:
    """What the user typed, where the patch size of a model that letterboxes whole frames is its letterbox."""
    if letterbox and "clip.patch" in typed and "clip.letterbox" not in typed:
        return {"clip.letterbox" if key == "clip.patch" else key: value for key, value in typed.items()}
    return typed


def recipe_from_dict(saved: dict[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_dict` gave, read back from JSON or a checkpoint."""
    return from_flat(flat(saved))


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"clip": {"frames": 5}} -> {"clip.frames": 5}; only clip, model and loss_options are nested."""
    out = {}
    for key, value in nested.items():
        if key in ("clip", "model", "loss_options") and isinstance(value, dict):
            out.update(flat(value, f"{key}."))
        else:
            out[prefix + key] = value
    return out


def from_flat(values: dict[str, Any]) -> Recipe:
    fields, clip, model, loss_options = {}, {}, {}, {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        if group in ("model", "loss_options"):
            value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
            {"model": model, "loss_options": loss_options}[group][name] = value
        elif key in FIELD_TYPES:
            {"clip": clip, "": fields}[group][name] = checked(key, value)
        else:
            raise UserError(f"the recipe has no key {key!r}; {near_matches(key, FIELD_TYPES)}")
    return Recipe(**fields, clip=ClipSpec(**clip), model=model, loss_options=loss_options)


def checked(key: str, value: Any) -> Any:
    """The value as the field's type, or a UserError that says what the key takes."""
    wanted = FIELD_TYPES[key]
    for kind in typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,):
        fits, found = as_kind(kind, value)
        if fits:
            break
    else:
        raise UserError(f"recipe key {key} takes {describe(wanted)}, not {value!r}")
    if key in CHOICES and found not in CHOICES[key]:
        raise UserError(f"recipe key {key} takes {' or '.join(CHOICES[key])}, not {value!r}")
    numbers = found if isinstance(found, tuple) else (found,)
    if found is not None and (
        (key in AT_LEAST_ONE and found < 1)
        or (key in POSITIVE and min(numbers) <= 0)
        or (key in NOT_NEGATIVE and found < 0)
        or (key == "holdout" and found < 2)
    ):
        raise UserError(f"recipe key {key} cannot be {value!r}: it is too small")
    return found


def as_kind(kind: Any, value: Any) -> tuple[bool, Any]:
    """(whether the value is one of this kind, the value as that kind)."""
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if isinstance(value, tuple | list) and kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if not isinstance(value, tuple | list) or len(value) != len(kinds):
            return False, value
        parts = [as_kind(k, v) for k, v in zip(kinds, value, strict=True)]
        whole = all(v > 0 for fits, v in parts if fits and type(v) is int)
        return whole and all(fits for fits, _ in parts), tuple(v for _, v in parts)
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and value == value
        return fits, float(value) if fits else value
    return type(value) is kind, value


def describe(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(describe(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            return "whole numbers like (50,75)" if kinds[0] is int else "words like ('targets',)"
        whole = kinds[0] is int
        return "two whole numbers like (256,256)" if whole else "three numbers, one per channel"
    names = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a word",
        type(None): "None",
    }
    return names[kind]


FIELD_TYPES: dict[str, Any] = {
    **{k: t for k, t in typing.get_type_hints(Recipe).items() if k not in ("model", "clip", "loss_options")},
    **{f"clip.{k}": t for k, t in typing.get_type_hints(ClipSpec).items()},
}


def parse_setting(text: str) -> tuple[str, Any]:
    """'clip.frames=5' -> ("clip.frames", 5). Values are Python literals; anything else is a word."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes key=value, not {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
