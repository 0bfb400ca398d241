"""Recipes of version 1, which were flat but for `clip`, and their keys, which may still be typed."""

from typing import Any

from utils.entries import ENTRIES, WORDS, Kind, check_entries
from utils.errors import UserError
from utils.recipe.fields import as_kind, put_once, shown

OPTIMIZER_OPTIONS = {"adam": ("beta2",), "sgd": ("momentum", "nesterov")}
SCHEDULE_OPTIONS = {
    "constant": (),
    "step": ("step_size", "lr_decay", "min_learning_rate"),
    "milestones": ("milestones", "lr_decay"),
    "warmup-cosine": ("warmup_epochs", "min_learning_rate"),
    "warmup-cosine-published": ("warmup_epochs", "min_learning_rate"),
    "warmup-cosine-yolox": ("warmup_epochs", "min_learning_rate"),
}
MOVED = {
    "scoring": "scoring.paper",
    **{
        name: f"optimisation.optimizer_options.{name}"
        for names in OPTIMIZER_OPTIONS.values()
        for name in names
    },
    **{
        name: f"optimisation.schedule_options.{name}" for names in SCHEDULE_OPTIONS.values() for name in names
    },
}
AUGMENTATIONS = ("clip.gain", "clip.flips", "clip.crop", "clip.drift", "clip.target_crops", "clip.augment")


def converted_keys(typed: dict[str, Any]) -> dict[str, Any]:
    """What was typed, keys of version 1 under their names of today; others stay as they are."""
    rest = dict(typed)
    out: dict[str, Any] = {}
    if any(key in rest for key in AUGMENTATIONS):
        out["sampling.augment"] = augment_words({k: rest.pop(k, None) for k in AUGMENTATIONS[:4]} | rest)
        rest.pop("clip.augment", None)
        if out["sampling.augment"] == () and "clip.augment" not in typed:
            del out["sampling.augment"]
        if any(word.startswith("crop") for word in out.get("sampling.augment", ())):
            rest.pop("clip.target_crops", None)
    for key, value in rest.items():
        put_once(out, MOVED.get(key, key.removeprefix("clip.")), value)
    return out


def augment_words(values: dict[str, Any]) -> tuple[str, ...]:
    """The augmentations of version 1's keys, in the order in which they were applied."""
    typed = values.get("clip.augment") or ()
    if not as_kind(tuple[str, ...], typed)[0]:
        raise UserError(f"recipe key clip.augment takes words like ('targets',), not {shown(typed)}")
    words = ["clones" if word == "targets" else word for word in typed]
    if values.get("clip.gain"):
        words.append(f"gain({values['clip.gain']!r})")
    if values.get("clip.flips"):
        words += ["flip_columns", "flip_rows"]
    if values.get("clip.crop"):
        options = {
            "drift": values.get("clip.drift") or 0,
            "target_chance": values.get("clip.target_crops", 0.75),
        }
        defaults = {"drift": 0, "target_chance": 0.75}
        text = "".join(f", {k}={v!r}" for k, v in options.items() if v != defaults[k])
        words.append(f"crop({values['clip.crop']}{text})")
    return tuple(words)


def check_version_1(saved: dict[str, Any], source: Any, remedy: str) -> None:
    """Raises UserError for what `from_version_1` cannot convert."""
    optimizer, schedule = (
        Kind(" or ".join(table), lambda value, table=table: isinstance(value, str) and value in table)
        for table in (OPTIMIZER_OPTIONS, SCHEDULE_OPTIONS)
    )
    kinds = {"clip": ENTRIES, "optimizer": optimizer, "schedule": schedule}
    kinds |= {key: ENTRIES for key in ("model", "loss_options") if key in saved}
    check_entries(saved, kinds, source, remedy)
    if saved["clip"].get("augment"):
        check_entries(saved["clip"], {"augment": WORDS}, source, remedy)


def from_version_1(saved: dict[str, Any]) -> dict[str, Any]:
    """A recipe that version 1 saved, by keys as they may be typed today; what had no effect is left out."""
    clip = {f"clip.{key}": value for key, value in saved["clip"].items() if key != "target"}
    values = {k: v for k, v in saved.items() if k not in ("clip", "model", "loss_options")}
    acting = {*OPTIMIZER_OPTIONS[values["optimizer"]], *SCHEDULE_OPTIONS[values["schedule"]]}
    values = {k: v for k, v in values.items() if k in acting or k not in MOVED or k == "scoring"}
    if clip.get("clip.mean") is None or clip.get("clip.std") is None:
        clip |= {"clip.mean": None, "clip.std": None, "clip.gray_scale": None}
    if not values.get("freeze") or not values.get("freeze_epochs"):
        values |= {"freeze": "", "freeze_epochs": 0}
    values["ema"] = values.get("ema") or None
    clip["clip.augment"] = clip.get("clip.augment") or ()
    return {
        **converted_keys(values | clip),
        **{f"model.{key}": value for key, value in saved.get("model", {}).items()},
        **{f"loss_options.{key}": value for key, value in saved.get("loss_options", {}).items()},
    }
