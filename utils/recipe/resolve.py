"""Which value of the recipe wins, what a user may type for it, and recipes that earlier versions saved.

Precedence: the defaults of schema.py < the model's RECIPE < its entry for the data set < what was typed.
"""

import ast
import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from utils.engine import optim, schedules  # noqa: F401, registers them
from utils.errors import UserError, near_matches
from utils.recipe.fields import Setting, build, put_once, settings_of, shown
from utils.recipe.schema import PARTS, VERSION, Recipe
from utils.recipe.version1 import converted_keys, from_version_1
from utils.recipe.version2 import GONE, from_version_2
from utils.registry import LOSSES, OPTIMIZERS, SCHEDULES, Registry, fold

SETTINGS: dict[str, Setting] = {
    key: value for part, cls in PARTS.items() for key, value in settings_of(cls, f"{part}.").items()
}
# What is chosen by name and has options of its own: settings X and X_options.
CHOSEN: dict[str, Registry] = {
    "optimisation.loss": LOSSES,
    "optimisation.optimizer": OPTIMIZERS,
    "optimisation.schedule": SCHEDULES,
}
OPTIONS = ("model", *(f"{key}_options" for key in CHOSEN))  # groups of keys that their owners check


def resolve_recipe(
    model_recipe: dict[str, Any], dataset: str, typed: dict[str, Any], task: str | None = None
) -> Recipe:
    """The recipe of a run.

    model_recipe: a model file's RECIPE, whose key "datasets" holds the differences per data set
    typed:        what the user asked for, keys as in `--set`: "epochs", "view.frames", "model.seq_len", ...
    task:         the model's, "masks" or "boxes"; a typed key of the other one is then refused
    Raises UserError for an unknown key (near matches listed), for a value that its key does not take, and for
    a typed key that has no effect beside the others.
    """
    general = {k: v for k, v in model_recipe.items() if k != "datasets"}
    per_dataset = {fold(k): v for k, v in model_recipe.get("datasets", {}).items()}.get(fold(dataset), {})
    values: dict[str, Any] = {}
    for layer in (flat(general), flat(per_dataset)):
        put_layer(values, layer)
    typed = full_keys(typed, values)
    put_layer(values, typed)
    if "view.frames" in typed and "seq_len" in general.get("model", {}):
        values["model.seq_len"] = typed.get("model.seq_len", typed["view.frames"])
    recipe = from_flat(values)
    check_effects(recipe, typed, task)
    return recipe


def recipe_with(recipe: Recipe, typed: dict[str, Any], task: str | None = None) -> Recipe:
    """A resolved recipe with what the user typed on top; errors as in `resolve_recipe`.

    What it says already is no error, though the recipe has been completed since it was typed first.
    """
    before = flat(recipe.to_dict())
    values = dict(before)
    typed = full_keys(typed, values)
    put_layer(values, typed)
    changed = from_flat(values)
    after = flat(changed.to_dict())
    check_effects(changed, typed, task, {key for key in typed if before.get(key) == after.get(key)})
    return changed


def recipe_from_dict(saved: dict[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_dict` gave, of this version or of an earlier one, from JSON or a checkpoint.

    Raises UserError for one of a later version.
    """
    version = saved.get("version", 1)
    if version not in (1, 2, VERSION):
        raise UserError(f"the recipe has version {version}, this program knows up to {VERSION}; update it")
    if version == 1:
        gone = {short(key) for key in GONE}
        values = {full_key(k): v for k, v in from_version_1(saved).items() if k not in gone}
    else:
        values = flat(saved)
    return from_flat(from_version_2(values) if version < VERSION else values)


def changes(recipe: Recipe, typed: dict[str, Any], task: str | None = None) -> dict[str, tuple[Any, Any]]:
    """(value in the recipe, typed value) of each typed key that would change the recipe and may not.

    `--resume` refuses them. Settings with `can_change`, such as the number of epochs, are left out.
    Errors as in `resolve_recipe`.
    """
    before = flat(recipe.to_dict())
    after = flat(recipe_with(recipe, typed, task).to_dict())
    return {
        key: (before.get(key), value)
        for key, value in after.items()
        if before.get(key) != value and not (key in SETTINGS and SETTINGS[key].facts.can_change)
    }


# ---------------------------------------------------------------- keys


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"view": {"frames": 5}} -> {"view.frames": 5}, without the version."""
    out = {}
    for key, value in nested.items():
        if isinstance(value, dict) and (prefix + key in PARTS or prefix + key in OPTIONS):
            out.update(flat(value, f"{prefix}{key}."))
        elif prefix + key != "version":
            out[prefix + key] = value
    return out


def full_key(key: str) -> str:
    """The whole key of what a user typed: "patch" -> "sampling.patch"; UserError for an unknown one."""
    if key in SETTINGS or key.startswith(tuple(f"{group}." for group in OPTIONS)):
        return key
    for gone, why in GONE.items():
        if key in (gone, short(gone)):
            raise UserError(f"recipe key {gone} is gone: {why}; leave it out")
    matches = [k for k in SETTINGS if k.endswith(f".{key}")]
    matches += [
        f"{group}.{key.partition('.')[2]}" for group in OPTIONS if short(group) == key.partition(".")[0]
    ]
    if len(matches) == 1 and not matches[0].endswith("."):
        return matches[0]
    known = [*SETTINGS, *map(short, SETTINGS)]
    raise UserError(f"the recipe has no key {shown(key)}; {near_matches(key, known)}")


def short(key: str) -> str:
    """The last part of a key."""
    return key.rpartition(".")[2]


def full_keys(typed: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """What the user typed by whole keys, those of earlier versions converted.

    below: the values of the layers below. Where they letterbox whole frames, the patch is the letterbox.
    """
    found: dict[str, Any] = {}
    for key, value in converted_keys(typed).items():
        put_once(found, full_key(key), value)
    if below.get("view.letterbox") and "sampling.patch" in found and "view.letterbox" not in found:
        return {("view.letterbox" if k == "sampling.patch" else k): v for k, v in found.items()}
    return found


def parse_setting(text: str, flag: str = "--set") -> tuple[str, Any]:
    """'view.frames=5' -> ("view.frames", 5). Values are Python literals; anything else is a word."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{flag} takes key=value, not {shown(text)}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # what it says it may raise
        return key, value


# ---------------------------------------------------------------- values


def put_layer(values: dict[str, Any], layer: dict[str, Any]) -> None:
    """Lay one layer over the others.

    Where it chooses another loss, optimizer or schedule, options from below stay only if that takes them.
    """
    for key, registry in CHOSEN.items():
        if layer.get(key) is not None and str(layer[key]) in registry:
            taken = registry.entry(layer[key]).options
            for option in [k for k in values if k.startswith(f"{key}_options.") and short(k) not in taken]:
                del values[option]
    values.update(layer)


def from_flat(values: dict[str, Any]) -> Recipe:
    """The recipe of values by whole keys, each checked."""
    parts: dict[str, dict[str, Any]] = {part: {} for part in ("model", *PARTS)}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        if group in OPTIONS:
            owner, _, options = group.rpartition(".")
            value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
            place = parts[owner].setdefault(options, {}) if owner else parts["model"]
            place[name] = value
        elif key in SETTINGS:
            parts[group][name] = SETTINGS[key].checked(value)
        else:
            raise UserError(f"the recipe has no key {key!r}; {near_matches(key, SETTINGS)}")
    for key in CHOSEN:
        complete(parts["optimisation"], short(key), CHOSEN[key])
    return Recipe(parts["model"], **{name: cls(**parts[name]) for name, cls in PARTS.items()})


def complete(part: dict[str, Any], name: str, registry: Registry) -> None:
    """Write a chosen name as it is registered, and the options of optimizers and schedules in full."""
    default = SETTINGS[f"optimisation.{name}"].default
    chosen = part.get(name, default)
    if chosen in registry or registry is not LOSSES:  # losses may not be imported yet
        entry = registry.entry(chosen)
        part[name] = entry.name
        if dataclasses.is_dataclass(entry.build):
            options = build(entry.build, part.get(f"{name}_options", {}), f"{name} {entry.name}")
            part[f"{name}_options"] = dataclasses.asdict(options)


def check_use(typed: Iterable[str], parts: Sequence[str], what: str) -> None:
    """Raises UserError for a typed key that only training uses, or that is of another part.

    typed: whole keys
    parts: of the recipe, or whole keys
    what:  what is done instead of training, such as "a test of DeepPro"
    """
    for key in typed:
        is_of_training = key in SETTINGS and SETTINGS[key].facts.in_training
        if is_of_training or not {key, key.partition(".")[0]} & set(parts):
            raise UserError(f"recipe key {key} has no effect on {what}; leave it out")


def check_effects(
    recipe: Recipe, typed: Iterable[str], task: str | None, known: Collection[str] = ()
) -> None:
    """Raises UserError for a typed key that the task or the rest of the recipe ignores.

    known: typed keys whose values a saved recipe has already, which may have been completed by them
    """
    for key in typed:
        facts = SETTINGS[key].facts if key in SETTINGS else None
        if facts and task and facts.task and facts.task != task:
            raise UserError(f"recipe key {key} has no effect on a model of {task}; leave it out")
        if facts and facts.acts and key not in known and not facts.acts[0](recipe):
            raise UserError(
                f"recipe key {key} has no effect here; it acts where {facts.acts[1]}: set that too, or leave "
                "it out"
            )
