"""A setting: a dataclass field that carries its limits, its choices and its help, and the check of a value.

Recipes, optimizers, schedules and augmentations are dataclasses of such fields. Flags, `--set`, `--help`, the
saved JSON and every check of a value come from them.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any

from utils.errors import UserError, near_matches


@dataclass(frozen=True)
class Limits:
    """What a number, or each number of a tuple, may be; None: no limit."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
        parts = [f"{words[k]} {v:g}" for k, v in dataclasses.asdict(self).items() if v is not None]
        return " and ".join(parts)

    def allow(self, value: float) -> bool:
        return not (
            (self.at_least is not None and value < self.at_least)
            or (self.above is not None and value <= self.above)
            or (self.at_most is not None and value > self.at_most)
            or (self.below is not None and value >= self.below)
        )


@dataclass(frozen=True)
class Facts:
    """What a setting carries besides its type and default.

    text:       one line of help
    limits:     of numbers
    choices:    the words that it takes; empty: any
    flag:       name of its command-line flag, "" for none; it can always be typed as `--set key=value`
    spellings:  other spellings of the flag, of published repositories
    can_change: whether `--resume` may change it
    acts:       whether it has an effect in this recipe, with the condition in words; None: always
    task:       "masks" or "boxes" where it has an effect on such models alone
    in_training: whether it has an effect in training alone, though other settings of its part have more
    """

    text: str
    limits: Limits = Limits()
    choices: tuple[str, ...] = ()
    flag: str = ""
    spellings: tuple[str, ...] = ()
    can_change: bool = False
    acts: tuple[Callable[[Any], bool], str] | None = None
    task: str = ""
    in_training: bool = False


def setting(
    default: Any,
    text: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    **facts: Any,
) -> Any:
    """A dataclass field with `Facts`; a dict as default is copied for each object."""
    limits = Limits(at_least, above, at_most, below)
    metadata = {"facts": Facts(text, limits, **facts)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One field of a dataclass of settings, under the key by which users know it."""

    key: str
    kind: Any
    default: Any
    facts: Facts

    def checked(self, value: Any) -> Any:
        """The value as the field's type, or a UserError that says what the key takes."""
        kinds = typing.get_args(self.kind) if isinstance(self.kind, types.UnionType) else (self.kind,)
        for kind in kinds:
            fits, found = as_kind(kind, value)
            if fits:
                break
        else:
            raise UserError(f"recipe key {self.key} takes {self.takes}, not {value!r}")
        if self.facts.choices and found not in self.facts.choices:
            raise UserError(f"recipe key {self.key} takes {self.takes}, not {value!r}")
        for number in found if isinstance(found, tuple) else (found,):
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if is_number and not self.facts.limits.allow(number):
                raise UserError(f"recipe key {self.key} cannot be {value!r}: it takes {self.takes}")
        return found

    @property
    def takes(self) -> str:
        """What the setting takes, in words: "a whole number, at least 1, or None"."""
        if self.facts.choices:
            return " or ".join(self.facts.choices)
        kinds = typing.get_args(self.kind) if isinstance(self.kind, types.UnionType) else (self.kind,)
        parts = [" or ".join(describe(kind) for kind in kinds if kind is not type(None))]
        parts += [str(self.facts.limits)] * bool(str(self.facts.limits))
        return ", ".join([*parts, *["or None"] * (type(None) in kinds)])


@cache
def settings_of(cls: type, prefix: str = "") -> dict[str, Setting]:
    """The settings of a dataclass by key, `prefix` in front of each name."""
    kinds = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        facts = field.metadata["facts"]
        found[prefix + field.name] = Setting(prefix + field.name, kinds[field.name], default, facts)
    return found


def build(cls: type, values: dict[str, Any], owner: str) -> Any:
    """An object of a dataclass of settings, each value checked.

    owner: what the values belong to, for the sentence on an unknown name or a wrong value
    """
    known = settings_of(cls, f"{owner}.")
    for name in values:
        if f"{owner}.{name}" not in known:
            raise UserError(f"{owner} has no option {name!r}; {near_matches(name, names_of(cls))}")
    return cls(**{name: known[f"{owner}.{name}"].checked(value) for name, value in values.items()})


def names_of(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def as_kind(kind: Any, value: Any) -> tuple[bool, Any]:
    """(whether the value is one of this kind, the value as that kind)."""
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if isinstance(value, tuple | list) and kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if not isinstance(value, tuple | list) or len(value) != len(kinds):
            return False, value
        parts = [as_kind(k, v) for k, v in zip(kinds, value, strict=True)]
        return all(fits for fits, _ in parts), tuple(v for _, v in parts)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict), value
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = is_number and math.isfinite(value)
        return fits, float(value) if fits else value
    return type(value) is kind, value


def describe(kind: Any) -> str:
    """A type in words."""
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            return "whole numbers like (50,75)" if kinds[0] is int else "words like ('flip_rows',)"
        return "two whole numbers like (256,256)" if kinds[0] is int else "three numbers, one per channel"
    names = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a word",
    }
    return names.get(kind, "options by name")
