"""Checkpoints: ours, written atomically and read safely, and the published ones, imported strictly."""

import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.files import write_atomically

FORMAT = "moving-irstd checkpoint, version 1"
WRAPPERS = ("model_state_dict", "state_dict", "model", "net")


class ScalarType:
    """Stands in for numpy.dtype while a file is read. The real one crashes the process on a damaged state."""

    def __init__(self, code: str, *_):
        self.code = code

    def __setstate__(self, state: tuple):
        self.code = state[1].replace("|", "") + self.code  # the byte order


def read_scalar(kind: ScalarType, data: bytes) -> bool | int | float:
    """The number that a pickled NumPy scalar stands for."""
    dtype = np.dtype(kind.code)
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"a NumPy scalar of type {dtype}")
    return np.frombuffer(data, dtype, count=1)[0].item()


# NumPy scalars are all that the published files hold besides tensors and plain Python values.
ALLOWED = [
    (ScalarType, "numpy.dtype"),
    (read_scalar, "numpy.core.multiarray.scalar"),
    (read_scalar, "numpy._core.multiarray.scalar"),
]


def read_torch_file(path: str | Path) -> Any:
    """The content of a torch file, on the CPU; nothing but tensors and plain values is ever unpickled.

    Raises UserError for a missing, truncated or foreign file, and for one that holds any other Python object.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give the path of a .pth file")
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to programmers about pickles of other kinds
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on a damaged file torch raises nearly every kind there is
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            what = f"holds the Python object {found.group(1)}, which is not a weight"
            raise UserError(
                f"{path} {what}; it was refused unread, get the file from a source you trust"
            ) from None
        raise UserError(f"{path} is damaged or is no torch file; get it or write it again") from None


# ---------------------------------------------------------------- our own checkpoints


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain Python values. A failure leaves the previous file as it was."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint that `save_checkpoint` wrote. Raises UserError for any other file."""
    content = read_torch_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} was not written by train.py; for a published file use --official {path}")
    return content


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Fill the model with our own weights, all of them. Raises UserError when they are another model's."""
    own = model.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or [k for k in own if own[k].shape != weights[k].shape]
    if wrong:
        raise UserError(
            f"{source} holds the weights of another model or size ({wrong[0]} and {len(wrong) - 1} more)"
        )
    model.load_state_dict(weights)


# ---------------------------------------------------------------- published checkpoints


def load_official(model: nn.Module, source: str | Path | dict[str, Any]) -> dict[str, Any]:
    """Import published weights, strictly.

    source: a file, or the dict in it, or a bare state dict
    Every published key is used or is known as unused (the rename table maps its pattern to None);
    every parameter and running statistic of the model is filled exactly once; shapes agree, after the model's
    `adapt_official(name, value)` where it keeps less than was published, and its `check_official(published)`
    has nothing against the whole. Counters of batch norms
    (num_batches_tracked) may be missing. Returns what else the file holds (epoch, score, ...).
    Raises UserError listing what is left over; the model is then unchanged.
    """
    origin = "the state dict" if isinstance(source, dict) else source
    content = source if isinstance(source, dict) else read_torch_file(source)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        raise UserError(f"{origin} was written by train.py; use --checkpoint for it")
    published, facts = unwrap(content, origin)
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
        elif own[name].shape != (value := adapt(name, value)).shape:
            problems.append(f"{key} has shape {list(value.shape)} instead of {list(own[name].shape)}")
        else:
            filled[name], used_by[name] = value, key
    missing = [k for k in own if k not in filled and not k.endswith("num_batches_tracked")]
    problems += [f"nothing fills {k}" for k in missing if not any(k in p for p in problems)]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"{origin} is not a checkpoint of {model.name}: {shown}")
    model.load_state_dict({**own, **filled})
    return facts


def unwrap(content: Any, origin: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict without wrapper prefixes, the other entries of the file)."""
    if not isinstance(content, dict):
        raise UserError(f"{origin} holds a {type(content).__name__}, not a state dict")
    key = next((k for k in WRAPPERS if isinstance(content.get(k), dict)), None)
    weights = content[key] if key else content
    facts = {k: v for k, v in content.items() if k != key and "optimizer" not in k} if key else {}
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
