"""A setting: a dataclass field that carries its limits, its choices and its help, and the check of a value.

Recipes, optimizers, schedules and augmentations are dataclasses of such fields; the options of models, losses
and readers say the same in the signature of what builds them. Flags, `--set`, `--help`, the saved JSON and
every check of a value come from them.
"""

import dataclasses
import inspect
import math
import numbers
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from utils.errors import UserError, near_matches


@dataclass(frozen=True)
class Facts:
    """What a setting carries besides its type and default.

    text:       one line of help
    at_least .. below: what a number, or each number of a tuple, may be; None: no limit
    choices:    the words, or numbers, that it takes; empty: any
    flag:       name of its command-line flag, "" for none; it can always be typed as `--set key=value`
    spellings:  other spellings of the flag, of published repositories
    can_change: whether `--resume` may change it
    acts:       whether it has an effect in this recipe, with the condition in words; None: always
    task:       "masks" or "boxes" where it has an effect on such models alone
    in_training: whether it has an effect in training alone, though other settings of its part have more
    """

    text: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str | int, ...] = ()
    flag: str = ""
    spellings: tuple[str, ...] = ()
    can_change: bool = False
    acts: tuple[Callable[[Any], bool], str] | None = None
    task: str = ""
    in_training: bool = False

    @property
    def limits(self) -> str:
        """What a number may be, in words: "at least 0 and below 1"."""
        words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
        limits = {word: getattr(self, name) for name, word in words.items()}
        return " and ".join(f"{word} {value:.10g}" for word, value in limits.items() if value is not None)

    def allow(self, number: float) -> bool:
        """Whether a number is within the limits."""
        return not (
            (self.at_least is not None and number < self.at_least)
            or (self.above is not None and number <= self.above)
            or (self.at_most is not None and number > self.at_most)
            or (self.below is not None and number >= self.below)
        )


def setting(default: Any, text: str, **facts: Any) -> Any:
    """A dataclass field with `Facts`, whose fields are the arguments; a dict is copied for each object."""
    metadata = {"facts": Facts(text, **facts)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """A field of a dataclass of settings, or an option of a function, under the key that users know."""

    key: str
    kind: Any
    default: Any
    facts: Facts

    def checked(self, value: Any, called: str = "") -> Any:
        """The value as the setting's type, or a UserError that says what it takes.

        called: what the sentence calls the setting, by default its key of a recipe
        """
        called = called or f"recipe key {self.key}"
        for kind in kinds_of(self.kind):
            fits, found = as_kind(kind, value)
            if fits:
                break
        else:
            raise UserError(f"{called} takes {self.takes}, not {shown(value)}")
        if self.facts.choices and found not in self.facts.choices:
            raise UserError(f"{called} takes {self.takes}, not {shown(value)}")
        for number in found if isinstance(found, tuple) else (found,):
            is_number = isinstance(number, numbers.Real) and not isinstance(number, bool)
            if is_number and not self.facts.allow(number):
                raise UserError(f"{called} cannot be {shown(value)}: it takes {self.takes}")
        return found

    @property
    def takes(self) -> str:
        """What the setting takes, in words: "a whole number, at least 1, or None"."""
        kinds = kinds_of(self.kind)
        either = map(str, self.facts.choices) if self.facts.choices else map(describe, kinds)
        parts = [" or ".join(word for word in either if word)]
        parts += [self.facts.limits] * bool(self.facts.limits)
        return ", ".join([*parts, *["or None"] * (type(None) in kinds)])


@cache
def settings_of(cls: type, prefix: str = "") -> dict[str, Setting]:
    """The settings of a dataclass by key, `prefix` in front of each name."""
    kinds = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        facts = field.metadata.get("facts", Facts(""))
        found[prefix + field.name] = Setting(prefix + field.name, kinds[field.name], default, facts)
    return found


@cache
def options_of(build: Callable) -> dict[str, Setting]:
    """The options that a function or class takes by name, as settings.

    Those of a dataclass are its fields. Others say their limits in the signature, as in
    `size: Annotated[int, Facts("side in pixels", at_least=3)] = 7`; without an annotation an option takes
    what its default is.
    """
    if dataclasses.is_dataclass(build):
        return settings_of(build)
    hints = typing.get_type_hints(build.__init__ if isinstance(build, type) else build, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(build).parameters.items():
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            default = MISSING if parameter.default is parameter.empty else parameter.default
            kind = hints.get(name, Any if default in (None, MISSING) else type(default))
            facts = next((f for f in getattr(kind, "__metadata__", ()) if isinstance(f, Facts)), Facts(""))
            kind = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
            found[name] = Setting(name, kind, default, facts)
    return found


def check_options(known: dict[str, Setting], values: dict[str, Any], owner: str) -> dict[str, Any]:
    """The values as the types of the settings that are `known` by name.

    owner: what the values belong to, such as "optimizer SGD"
    Raises UserError for what is unknown, wrong or missing.
    """
    for name in values:
        if name not in known:
            raise UserError(f"{owner} has no option {shown(name)}; {near_matches(str(name), known)}")
    for name, option in known.items():
        if option.default is MISSING and name not in values:
            raise UserError(f"{owner} needs the option {name}, which has no default: {option.takes}")
    return {name: known[name].checked(value, f"option {name} of {owner}") for name, value in values.items()}


def build(cls: type, values: dict[str, Any], owner: str) -> Any:
    """An object of a dataclass of settings, each value checked; `owner` as in `check_options`."""
    return cls(**check_options(settings_of(cls), values, owner))


def names_of(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def put_once(values: dict[str, Any], key: str, value: Any) -> None:
    """Put a typed value under its key. Raises UserError where the key has another one already."""
    if key in values and values[key] != value:
        raise UserError(
            f"{key} is typed as {shown(values[key])} and as {shown(value)}; leave one of them out"
        )
    values[key] = value


def shown(value: Any) -> str:
    """A value as sentences show it, cut after 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The types of which a setting takes any: (int, None) of `int | None`."""
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def as_kind(kind: Any, value: Any) -> tuple[bool, Any]:
    """(whether the value is one of this kind, the value as that kind); types that no setting has take all."""
    origin = typing.get_origin(kind) or kind
    if origin is tuple:
        kinds = typing.get_args(kind)
        if isinstance(value, tuple | list) and kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if not isinstance(value, tuple | list) or len(value) != len(kinds):
            return False, value
        parts = [as_kind(k, v) for k, v in zip(kinds, value, strict=True)]
        return all(fits for fits, _ in parts), tuple(v for _, v in parts)
    if origin in (int, float):
        accepted = numbers.Integral if origin is int else numbers.Real
        is_number = isinstance(value, accepted) and not isinstance(value, bool)
        is_whole = isinstance(value, numbers.Integral)
        fits = is_number and bool(abs(value) <= sys.float_info.max if is_whole else math.isfinite(value))
        return fits, origin(value) if fits else value
    if origin in (bool, str, dict, type(None)):
        return isinstance(value, origin), value
    if origin is Path:
        return isinstance(value, str | Path), value
    return True, value


def describe(kind: Any) -> str:
    """A type in words; "" for None."""
    if typing.get_origin(kind) is tuple:
        first, *others = typing.get_args(kind)
        if others == [Ellipsis]:
            several = {int: "whole numbers like (50,75)", float: "numbers like (0.5,0.9)"}
            return several.get(first, "words like ('flip_rows',)")
        if len(others) == 2:
            return "three numbers, one per channel"
        return "two whole numbers like (256,256)" if first is int else "two numbers like (0.2,0.8)"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a word",
        Path: "a path",
        type(None): "",
    }
    return words.get(kind, "options by name")
