"""Entries of dicts that were saved, each of the kind that it must be: files get damaged, edited, mixed up."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.errors import UserError


class Kind(NamedTuple):
    """What an entry must be, in words, and whether a value is that."""

    name: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold: finite, and no bool."""
    largest = sys.float_info.max
    return type(value) in (int, float) and -largest <= value <= largest


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 0 that 64 bits hold."""
    return type(value) is int and 0 <= value < 2**63


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of numbers that all stand in memory: not sparse, quantized or meta."""
    is_strided = isinstance(value, Tensor) and value.layout is torch.strided
    return is_strided and not (value.is_meta or value.is_quantized)


WORD = Kind("a word", lambda value: type(value) is str and value != "")
COUNT = Kind("a whole number of at least 0", is_count)
SIDE = Kind("a whole number of pixels", lambda value: is_count(value) and value > 0)
NUMBER = Kind("a number", is_number)
SCORE = Kind("a number, or none", lambda value: value is None or type(value) in (int, float))
ENTRIES = Kind(
    "entries by name", lambda value: isinstance(value, dict) and all(type(k) is str for k in value)
)
LIST = Kind("a list", lambda value: isinstance(value, list | tuple))
WORDS = Kind("a list of words", lambda value: LIST.fits(value) and all(type(word) is str for word in value))


def check_entries(saved: Any, kinds: dict[str, Kind], source: Any, remedy: str) -> dict[str, Any]:
    """The saved dict. Raises UserError where it lacks one of the entries, or has it of another kind.

    source: where it was saved, for the sentence
    remedy: what to do about it
    """
    if not isinstance(saved, dict):
        raise UserError(f"{source} holds {shown(saved)} instead of entries by name; {remedy}")
    for key, kind in kinds.items():
        if key not in saved:
            raise UserError(f"{source} has no entry {key!r}; {remedy}")
        if not kind.fits(saved[key]):
            raise UserError(f"{source} has {key} = {shown(saved[key])} instead of {kind.name}; {remedy}")
    return saved


def shown(value: Any) -> str:
    """A value in one short line."""
    if not isinstance(value, str | int | float | list | tuple | None):
        return f"a {type(value).__name__}"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # of a number with thousands of digits, of lists in lists
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
