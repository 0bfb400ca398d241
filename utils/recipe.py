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
    neighbours: str = "number"  # frames around a key frame: see utils.windows.key_frame_clip
    channels: int = 1  # equal copies of the gray channel
    letterbox: int | None = None  # side of the square that whole frames are fitted into, on gray 128
    patch: int | None = None  # side of the square training crop; None: whole frames
    target_crops: float = 0.75  # chance that a crop is placed around a target
    train_resize: tuple[int, int] | None = None  # (height, width) of training frames and masks
    test_resize: tuple[int, int] | None = None  # the same at test; predictions return to the original size
    mask_resize: str = "bicubic"  # how masks are resized: "bicubic" (published: masks grow) or "nearest"
    padding: str = "zeros"  # frames that fill a short clip: "zeros" (the mean gray value) or "repeat"
    include_last: bool = False  # also draw each sequence's last frame, which the published sampler never does
    gray_scale: float | None = None  # gray values 0..255 are divided by it first, as published by RPRNet
    mean: float | None = None  # of what is normalised; None: the data set's own gray value statistics
    std: float | None = None
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
    momentum: float = 0.9  # of sgd
    schedule: str = "step"  # see learning_rate_at
    step_size: int = 10
    lr_decay: float = 0.7
    warmup_epochs: int = 10
    min_learning_rate: float = 1e-5
    validation: str = "test"  # "test": the test split chooses best.pth, as published; "holdout": see holdout
    holdout: int = 8  # every so many training sequences one validates instead of training
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
        warmup-cosine:           linear from learning_rate / warmup_epochs up to learning_rate, then half a
                                 cosine that reaches min_learning_rate after the last epoch
        warmup-cosine-published: RPRNet's: the first epoch has rate 0, and one more epoch warms up
        """
        top, bottom, warmup = self.learning_rate, self.min_learning_rate, self.warmup_epochs
        if self.schedule == "constant":
            return top
        if self.schedule == "step":
            return max(top * self.lr_decay ** (epoch // self.step_size), bottom)
        late = int(self.schedule == "warmup-cosine-published")
        if epoch < warmup + late:
            return top * (epoch + 1 - late) / warmup
        share = (epoch - warmup - late) / max(self.epochs - warmup, 1)
        return bottom + (top - bottom) * (1 + math.cos(math.pi * share)) / 2

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


CHOICES = {
    "optimizer": ("adam", "sgd"),
    "schedule": ("step", "constant", "warmup-cosine", "warmup-cosine-published"),
    "validation": ("test", "holdout"),
    "protocol": ("published", "clean"),
    "clip.mask_resize": ("bicubic", "nearest"),
    "clip.padding": ("zeros", "repeat"),
    "clip.neighbours": ("number", "position"),
}
AT_LEAST_ONE = ("clip.frames", "clip.channels", "clip.patch", "clip.letterbox", "batch_size", "step_size")
AT_LEAST_ONE += ("warmup_epochs",)
POSITIVE = ("sample_rate", "learning_rate", "clip.std", "clip.gray_scale")
NOT_NEGATIVE = ("epochs", "match", "exclude", "seed", "weight_decay", "momentum", "min_learning_rate")


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
    kinds = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if value is None and type(None) in kinds:
        return None
    kind = type(value) if type(value) in kinds else kinds[0]
    if typing.get_origin(kind) is tuple:
        fits = (
            isinstance(value, tuple | list)
            and len(value) == 2
            and all(type(v) is int and v > 0 for v in value)
        )
        value = tuple(value) if fits else value
    elif kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and value == value
        value = float(value) if fits else value
    else:
        fits = type(value) is kind
    if not fits:
        raise UserError(f"recipe key {key} takes {describe(wanted)}, not {value!r}")
    if key in CHOICES and value not in CHOICES[key]:
        raise UserError(f"recipe key {key} takes {' or '.join(CHOICES[key])}, not {value!r}")
    if (
        (key in AT_LEAST_ONE and value < 1)
        or (key in POSITIVE and value <= 0)
        or (key in NOT_NEGATIVE and value < 0)
        or (key == "holdout" and value < 2)
    ):
        raise UserError(f"recipe key {key} cannot be {value!r}: it is too small")
    return value


def describe(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(describe(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "two whole numbers like (256,256)"
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
