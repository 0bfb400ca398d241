"""Augmentations of training clips, which change frames, masks and boxes together; one file each.

A recipe lists them in order as words, "flip_rows" or "crop(side=192, drift=10)". Each one acts at its stage:
on the gray values of whole frames ("pixels"), on the clip as the network gets it ("clip"), or on a batch.
"""

import ast
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from dataset.augment import clones, crop, gain, mirrors, pair_halves  # noqa: F401
from dataset.augment.base import Augmentation
from utils.errors import UserError
from utils.recipe.fields import build, names_of
from utils.registry import AUGMENTATIONS


def create_augmentations(words: Sequence[str]) -> tuple[Augmentation, ...]:
    """The augmentations that a recipe names, in order.

    Raises UserError for an unknown name or option (near matches listed), or a value beyond its limits.
    """
    return tuple(create_augmentation(word) for word in words)


def create_augmentation(word: str) -> Augmentation:
    """The augmentation of a word: "name", "name(value)" or "name(option=value, ...)"."""
    name, values, options = split_word(word)
    try:
        entry = AUGMENTATIONS.entry(name)
        fields = names_of(entry.build)
        if len(values) > len(fields):
            raise UserError(f"{entry.name} takes at most {len(fields)} options")
        by_name = dict(zip(fields, values, strict=False))
        if twice := by_name.keys() & options.keys():
            raise UserError(f"{entry.name} has {min(twice)} twice")
        by_name |= options
        required = [f.name for f in dataclasses.fields(entry.build) if f.default is dataclasses.MISSING]
        if by_name.keys() <= set(fields) and (missing := [name for name in required if name not in by_name]):
            raise UserError(f"{entry.name} needs {missing[0]}; write {entry.name}({missing[0]}=...)")
        return build(entry.build, by_name, entry.name)
    except UserError as error:
        reason = str(error).removeprefix("recipe key ")
        raise UserError(f"recipe key sampling.augment has {word!r}: {reason}") from None


def split_word(word: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The name in a word, its values without and with a name. Raises UserError where it is no such word."""
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", word, re.DOTALL)
    try:
        call = ast.parse(f"f({match[2] or ''})", mode="eval").body
        values = [ast.literal_eval(value) for value in call.args]
        options = {option.arg: ast.literal_eval(option.value) for option in call.keywords}
        if None in options:  # of **
            raise ValueError
        return match[1], values, options
    except (TypeError, ValueError, SyntaxError, AttributeError):
        raise UserError(
            f"recipe key sampling.augment has {word!r}; write name or name(option=value, ...)"
        ) from None


__all__ = ["Augmentation", "create_augmentation", "create_augmentations"]
