"""Checkpoints: ours, written atomically and read safely, and the published ones, imported strictly."""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from utils.entries import ENTRIES, WORD, Kind, check_entries, is_tensor
from utils.errors import UserError
from utils.files import write_atomically
from utils.torch_file import TorchFile, read_torch_file, torch_bytes

FORMAT = "moving-irstd checkpoint, version 2"
WITHOUT_CHECKSUM = "moving-irstd checkpoint, version 1"  # of files that earlier programs wrote
WRAPPERS = ("model_state_dict", "state_dict", "model", "net")
COUNTER = "num_batches_tracked"  # of a batch norm; files of old programs have none
NOT_FINITE = "holds numbers that are not finite"
REMEDY = "take another checkpoint of this run"


# ---------------------------------------------------------------- our own checkpoints


WEIGHTS = Kind("tensors by name", lambda value: ENTRIES.fits(value) and all(map(is_tensor, value.values())))
RUN = {
    "model": WORD,
    "dataset": WORD,
    "recipe": ENTRIES,
    "weights": WEIGHTS,
    "optimizer": ENTRIES,
    "progress": ENTRIES,
    "random": ENTRIES,
    "scores": ENTRIES,
}


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain Python values. A failure leaves the previous file as it was."""
    write_atomically(path, torch_bytes({"format": FORMAT, **content}))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint that `save_checkpoint` wrote. Raises UserError for a damaged or foreign file."""
    file = read_torch_file(path)
    if not is_own(file.content):
        raise UserError(f"{path} was not written by train.py; for a published file use --official {path}")
    return own_content(file, path)


def own_content(file: TorchFile, path: str | Path) -> dict[str, Any]:
    """What train.py wrote. Raises UserError for a file without the checksum that it was written with."""
    content, has_checksum, has_sums = file
    if not (has_sums if content["format"] == WITHOUT_CHECKSUM else has_checksum):
        raise UserError(f"{path} has lost the checksum that it was written with; {REMEDY}")
    return content


def is_own(content: Any) -> bool:
    """Whether train.py wrote what a file holds, of this version or of an earlier one."""
    return isinstance(content, dict) and content.get("format") in (FORMAT, WITHOUT_CHECKSUM)


def read_run(path: str | Path) -> dict[str, Any]:
    """What train.py has saved of a run: all entries of RUN, and perhaps others.

    Whether they fit a model, an optimizer or a recipe, say those that take them.
    Raises UserError as `read_checkpoint` does, and for entries that are missing or of another kind.
    """
    content = read_checkpoint(path)
    more = {"trained_weights": WEIGHTS} if "trained_weights" in content else {}
    return check_entries(content, RUN | more, path, REMEDY)


def check_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Raises UserError unless these are weights of our own of just this model, all of them finite."""
    own = model.state_dict()
    wrong = sorted(own.keys() ^ weights.keys())
    wrong = wrong or [k for k in own if (own[k].shape, own[k].dtype) != (weights[k].shape, weights[k].dtype)]
    if wrong:
        raise UserError(
            f"{source} holds the weights of another model or size ({wrong[0]} and {len(wrong) - 1} more)"
        )
    for name, value in weights.items():
        if not value.isfinite().all():
            raise UserError(
                f"{source} holds numbers in {name} that are not finite: its training diverged; {REMEDY}"
            )


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Fill the model with our own weights, all of them. Raises UserError as `check_weights` does."""
    check_weights(model, weights, source)
    model.load_state_dict(weights)


# ---------------------------------------------------------------- published checkpoints


def read_published(path: str | Path) -> Any:
    """What a published file holds. Raises UserError for a damaged one, and for one of train.py.

    A note on standard error says that there are no checksums, as in the form of torch before 1.6.
    """
    file = read_torch_file(path)
    if is_own(file.content):
        raise UserError(f"{path} was written by train.py; use --checkpoint for it")
    return published_content(file, path)


def published_content(file: TorchFile, path: str | Path) -> Any:
    """What a published file holds; the note is `read_published`'s."""
    if not file.has_sums:
        print(
            f"note: {path} has the form of torch before 1.6, which has no checksums: if it was damaged on "
            "its way here, nobody can tell",
            file=sys.stderr,
        )
    return file.content


def read_any_weights(path: str | Path) -> tuple[dict[str, Tensor], bool]:
    """(tensors by name, whether train.py wrote them) of a checkpoint or of a published file.

    Of a checkpoint those that are tested, the average where there is one; of other files without wrappers.
    Raises UserError for a damaged file, and for one without tensors by name.
    """
    file = read_torch_file(path)
    if not is_own(file.content):
        return unwrap(published_content(file, path), path)[0], False
    return check_entries(own_content(file, path), {"weights": WEIGHTS}, path, REMEDY)["weights"], True


def load_official(
    model: nn.Module, source: str | Path | dict[str, Any], origin: str | Path = "the state dict"
) -> dict[str, Any]:
    """Import published weights, strictly.

    source: a file, or what was read from it, or a bare state dict
    origin: what sentences call a source that is no file
    Every published key is used or is known as unused (the rename table maps its pattern to None);
    every parameter and running statistic of the model is filled exactly once; shapes agree, after the model's
    `adapt_official(name, value)` where it keeps less than was published, and its `check_official(published)`
    has nothing against the whole. Floating numbers of another precision are converted; all are finite.
    Counters of batch norms (num_batches_tracked) may be missing. Returns what else the file holds (epoch,
    score, ...).
    Raises UserError listing what is left over; the model is then unchanged.
    """
    if isinstance(source, str | Path):
        source, origin = read_published(source), source
    published, facts = unwrap(source, origin)
    try:
        if hasattr(model, "check_official"):
            model.check_official(published)
        name_of = partial(rename_key, table=model.rename)
        filled, _, left = matched(model.state_dict(), published, name_of, adaptation_of(model))
    except UserError as error:  # of the model's own checks, which do not know the file
        raise UserError(f"{origin}: {error}") from None
    problems = [f"{key} {why}" for key, why in left.items() if why]
    missing = [k for k in model.state_dict() if k not in filled and not k.endswith(COUNTER)]
    problems += [f"nothing fills {k}" for k in missing if not any(k in p for p in problems)]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"{origin} is not a checkpoint of {model.name}: {shown}")
    take(model, filled)
    return facts


def adaptation_of(model: nn.Module) -> Callable[[str, Tensor], Tensor]:
    """What makes of a published value the one that the model keeps of it, by our name."""
    return getattr(model, "adapt_official", lambda name, value: value)


class Fit(NamedTuple):
    """Which tensors of a file fill which of a model's.

    filled: new values by our names
    source: their names in the file
    left:   why each other tensor of the file has no place, as the rest of a sentence that begins with its
            name; "" where the model is known to have no use for it
    """

    filled: dict[str, Tensor]
    source: dict[str, str]
    left: dict[str, str]


def matched(
    own: dict[str, Tensor],
    weights: dict[str, Tensor],
    name_of: Callable[[str], str | None],
    adapt: Callable[[str, Tensor], Tensor],
) -> Fit:
    """What of a file fits a model; nothing is filled yet.

    own:     the state dict of the model
    name_of: gives our name of a tensor of the file; None: the model has no use for it
    adapt:   as `adaptation_of` gives it
    """
    fit = Fit({}, {}, {})
    for key, value in weights.items():
        name = name_of(key)
        if name is None:
            fit.left[key] = ""
        elif name not in own:
            fit.left[key] = "has no place in the model"
        elif name in fit.filled:
            fit.left[key] = f"and {fit.source[name]} both mean {name}"
        elif problem := misfit(value, own[name].dtype):
            fit.left[key] = problem
        elif own[name].shape != (value := adapt(name, value)).shape:
            fit.left[key] = f"has shape {list(value.shape)} instead of {list(own[name].shape)}"
        elif not (value := value.to(own[name].dtype)).isfinite().all():
            fit.left[key] = NOT_FINITE
        else:
            fit.filled[name], fit.source[name] = value, key
    return fit


def take(model: nn.Module, filled: dict[str, Tensor]) -> None:
    """Give the model new values by our names; the others stay."""
    model.load_state_dict({**model.state_dict(), **filled})


def misfit(value: Tensor, wanted: torch.dtype) -> str | None:
    """Why a tensor cannot be told in numbers of another type, such as a complex one in real numbers."""
    if not is_tensor(value):
        return "is sparse, quantized or without numbers"
    kinds = [(d.is_floating_point, d.is_complex, d is torch.bool) for d in (value.dtype, wanted)]
    return None if kinds[0] == kinds[1] else f"holds {value.dtype} instead of {wanted}"


def unwrap(content: Any, origin: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict without wrapper prefixes, the other entries of the file)."""
    if not isinstance(content, dict):
        raise UserError(f"{origin} holds a {type(content).__name__}, not a state dict")
    key = next((k for k in WRAPPERS if isinstance(content.get(k), dict)), None)
    weights = content[key] if key else content
    facts = {k: v for k, v in content.items() if k != key and "optimizer" not in str(k)} if key else {}
    stray = [k for k, v in weights.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if stray or not weights:
        raise UserError(
            f"{origin} holds no state dict of tensors (found {', '.join(map(str, stray[:3])) or 'nothing'})"
        )
    for prefix in ("module.", "model."):
        if all(k.startswith(prefix) for k in weights):
            weights = {k.removeprefix(prefix): v for k, v in weights.items()}
    return dict(weights), facts


def rename_key(key: str, table: dict[str, str | None]) -> str | None:
    """Our name for a published key, by every pattern of the table in order; None where it is unused."""
    for pattern, replacement in table.items():
        if re.match(pattern, key):
            if replacement is None:
                return None
            key = re.sub(f"^{pattern}", replacement, key, count=1)
    return key
