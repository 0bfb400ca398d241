"""A network that starts from the weights of a file: of ours, of a published one, or of a part of it.

What fits by name and shape is taken, batch norms with their statistics; everything else is told.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from utils.checkpoint import (
    COUNTER,
    NOT_FINITE,
    Fit,
    adaptation_of,
    matched,
    read_any_weights,
    rename_key,
    take,
)
from utils.errors import UserError
from utils.files import digest

SHOWN = 3  # names of a list in the terminal; recipe.json has all


def start_from(model: nn.Module, path: Path, only: str | None = None) -> dict[str, Any]:
    """Fill the model with what fits of a file, and say what that was, in plain values.

    only: a regular expression; what does not have it in its name in the model is left out
    Returns "file", its "sha256" and "only"; "place": what stands in front of the file's names in those of the
    model, "" where these are its own; "taken", our names; "not_taken", why by the file's names; and "kept",
    our names of what keeps its own start.
    Raises UserError for a damaged file, for one that does not fit at all or that fits several parts alike,
    and for numbers that are not finite.
    """
    weights, is_own = read_any_weights(path)
    place, fit = fitting(model, weights, is_own, path)
    if wrong := [key for key, why in fit.left.items() if why == NOT_FINITE]:
        raise UserError(f"{path}: {wrong[0]} {NOT_FINITE}: its training diverged; take another file")
    taken = {name: value for name, value in fit.filled.items() if only is None or re.search(only, name)}
    if not number(taken):
        raise UserError(why_nothing(model, weights, only if fit.filled else None, path))
    take(model, taken)
    not_taken = {key: why or "is of no use to the model" for key, why in fit.left.items()}
    not_taken |= {fit.source[n]: "is left out by --init_only" for n in fit.filled if n not in taken}
    return {
        "file": str(path),
        "sha256": digest(path),
        "only": only,
        "place": place,
        "taken": list(taken),
        "not_taken": not_taken,
        "kept": [name for name in model.state_dict() if name not in taken],
    }


def initial_line(init: Mapping[str, Any]) -> str:
    """What `start_from` has returned, as one line."""
    taken, left, kept = init["taken"], init["not_taken"], init["kept"]
    place = f", as {init['place']}*" if init["place"] else ""
    lines = [f"starts from {init['file']} (SHA-256 {init['sha256'][:12]}{place})"]
    lines.append(f"took {len(taken)} of {len(taken) + len(left)} tensors")
    if left:
        lines.append(f"not taken: {listed([f'{key} ({why})' for key, why in left.items()])}")
    if kept:
        lines.append(f"{len(kept)} of {len(taken) + len(kept)} keep their own start: {listed(kept)}")
    return "; ".join(lines) + ("; recipe.json lists all" if len(left) > SHOWN or len(kept) > SHOWN else "")


def listed(names: list[str]) -> str:
    """The first ones, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def number(weights: Mapping[str, Any]) -> int:
    """How many there are, counters of batch norms apart."""
    return sum(not name.endswith(COUNTER) for name in weights)


def why_nothing(model: nn.Module, weights: Mapping[str, Tensor], only: str | None, path: Path) -> str:
    """The sentence on a file of which nothing is taken."""
    if only is not None:
        return f"nothing of {path} that fits {model.name} has {only!r} in its name; correct --init_only"
    named = {name: list(value.shape) for name, value in model.state_dict().items()}
    theirs, ours = (
        ", ".join(f"{name} {shape}" for name, shape in list(found.items())[:SHOWN])
        for found in ({key: list(value.shape) for key, value in weights.items()}, named)
    )
    return (
        f"nothing of {path} fits {model.name}: it has {len(weights)} tensors such as {theirs}, the network "
        f"{len(named)} such as {ours or 'none'}; take another file, or another model or model.variant"
    )


# ---------------------------------------------------------------- which names mean which


def fitting(model: nn.Module, weights: dict[str, Tensor], is_own: bool, path: Path) -> tuple[str, Fit]:
    """(what stands in front of the file's names in the model's, what fits then): as most of it fits.

    The names of whole networks are the model's as they are, published or ours; those of a part begin later.
    """
    own = model.state_dict()
    namings = [("", plain_name)]
    if not is_own:
        namings = [("", renamed), *namings, *((place, renamed) for place in published_places(model))]
        namings += [(f"{name}.", plain_name) for name, _ in model.named_modules() if name]
    found = [
        (place, partial(name_of, model, place), hits(own, weights, partial(name_of, model, place)))
        for place, name_of in namings
    ]
    place, name_of, best = max(found, key=lambda one: len(one[2]))  # of equal ones the first
    rivals = [other for other, _, names in found if place and len(names) == len(best) and names != best]
    if rivals and best:
        raise UserError(
            f"{path} fits {place}* and {rivals[0]}* of {model.name} alike; write one of these in front of "
            "its names"
        )
    return place, matched(own, weights, name_of, partial(adapted, model, own))


def hits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], name_of: Callable) -> set[str]:
    """Our names of what has its name and its shape, counters of batch norms apart."""
    names = {name_of(key): value.shape for key, value in weights.items()}
    return {n for n, shape in names.items() if n in own and own[n].shape == shape and not n.endswith(COUNTER)}


def renamed(model: nn.Module, place: str, key: str) -> str | None:
    """Our name of a published key behind `place`; None where the model has no use for it."""
    return rename_key(place + key, model.rename)


def plain_name(_model: nn.Module, place: str, key: str) -> str:
    return place + key


def published_places(model: nn.Module) -> list[str]:
    """What may stand in front of the published names of a part: the heads of the published names."""
    names = [re.match(r"(?:\w|\\\.)*", pattern)[0].replace("\\.", ".") for pattern in model.rename]
    return list(dict.fromkeys(name[: dot.end()] for name in names for dot in re.finditer(r"\.", name)))


def adapted(model: nn.Module, own: Mapping[str, Tensor], name: str, value: Tensor) -> Tensor:
    """A value as the model keeps it; one that is not as it was published stays as it is, and does not fit."""
    if value.shape == own[name].shape:
        return value
    try:
        return adaptation_of(model)(name, value)
    except UserError:
        return value
