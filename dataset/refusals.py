"""What a reader refuses ends a command; a check of the data collects it and goes on with the rest."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from utils.errors import UserError


@dataclass(frozen=True)
class Refusal:
    """What a reader said of one sequence."""

    sequence: str
    text: str


_collected: ContextVar[list[Refusal] | None] = ContextVar("refusals", default=None)


@contextlib.contextmanager
def collected_refusals() -> Iterator[list[Refusal]]:
    """While this is open, sequences that are refused are listed instead of ending the command."""
    refusals: list[Refusal] = []
    token = _collected.set(refusals)
    try:
        yield refusals
    finally:
        _collected.reset(token)


def refuse(sequence: str, text: str) -> None:
    """Raises UserError(text). Where refusals are collected it is listed, and the caller goes on."""
    refusals = _collected.get()
    if refusals is None:
        raise UserError(text)
    refusals.append(Refusal(sequence, text))


def each(
    names: Iterable[str], index: Callable[[str], Any], rest: Callable[[str], Any] | None = None
) -> tuple[Any, ...]:
    """index(name) of every name. Raises UserError for the first that is refused.

    Where refusals are collected, rest(name) stands for what is refused, or nothing when that is refused too.
    """
    found = []
    for name in names:
        try:
            found.append(index(name))
        except UserError as error:
            refuse(name, str(error))
            with contextlib.suppress(UserError):
                found += [rest(name)] if rest else []
    return tuple(found)
