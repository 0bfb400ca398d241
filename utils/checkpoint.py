"""Checkpoints: ours, written atomically and read safely, and the published ones, imported strictly."""

import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.entries import ENTRIES, WORD, Kind, check_entries, is_tensor
from utils.errors import UserError
from utils.files import write_atomically
from utils.torch_file import read_torch_file, torch_bytes

FORMAT = "moving-irstd checkpoint, version 2"
WITHOUT_CHECKSUM = "moving-irstd checkpoint, version 1"  # of files that earlier programs wrote
WRAPPERS = ("model_state_dict", "state_dict", "model", "net")
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
    content, has_checksum, has_sums = read_torch_file(path)
    if not is_own(content):
        raise UserError(f"{path} was not written by train.py; for a published file use --official {path}")
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
    content, _, has_sums = read_torch_file(path)
    if is_own(content):
        raise UserError(f"{path} was written by train.py; use --checkpoint for it")
    if not has_sums:
        print(
            f"note: {path} has the form of torch before 1.6, which has no checksums: if it was damaged on "
            "its way here, nobody can tell",
            file=sys.stderr,
        )
    return content


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
        filled, problems = matched(model, published)
    except UserError as error:  # of the model's own checks, which do not know the file
        raise UserError(f"{origin}: {error}") from None
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"{origin} is not a checkpoint of {model.name}: {shown}")
    model.load_state_dict({**model.state_dict(), **filled})
    return facts


def matched(model: nn.Module, published: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """(published weights under our names, what is wrong with them or left over)."""
    if hasattr(model, "check_official"):
        model.check_official(published)
    filled: dict[str, Tensor] = {}
    used_by: dict[str, str] = {}
    own = model.state_dict()
    adapt = getattr(model, "adapt_official", lambda name, value: value)
    problems = []
    for key, value in published.items():
        name = rename_key(key, model.rename)
        if name is None:
            continue
        if name not in own:
            problems.append(f"{key} has no place in the model")
        elif name in filled:
            problems.append(f"{key} and {used_by[name]} both mean {name}")
        elif problem := misfit(value, own[name].dtype):
            problems.append(f"{key} {problem}")
        elif own[name].shape != (value := adapt(name, value)).shape:
            problems.append(f"{key} has shape {list(value.shape)} instead of {list(own[name].shape)}")
        elif not (value := value.to(own[name].dtype)).isfinite().all():
            problems.append(f"{key} holds numbers that are not finite")
        else:
            filled[name], used_by[name] = value, key
    missing = [k for k in own if k not in filled and not k.endswith("num_batches_tracked")]
    problems += [f"nothing fills {k}" for k in missing if not any(k in p for p in problems)]
    return filled, problems


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
