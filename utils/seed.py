"""Random state: set it once, carry it through a checkpoint."""

import random
from typing import Any

import numpy as np
import torch

from utils.entries import LIST, Kind, check_entries, is_count, is_number, is_tensor
from utils.errors import UserError


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch (CPU and every GPU)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002, for code that draws from the global generator
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of all generators, as tensors and plain Python numbers."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(words), gauss],
        "numpy": [torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def is_bytes(value: Any) -> bool:
    """Whether a value is what torch's generators are saved as."""
    return is_tensor(value) and value.dtype == torch.uint8 and value.ndim == 1


def is_python_state(value: Any) -> bool:
    if not (LIST.fits(value) and len(value) == 3 and LIST.fits(value[1])):
        return False
    version, words, gauss = value
    return all(map(is_count, [version, *words])) and (gauss is None or is_number(gauss))


def is_numpy_state(value: Any) -> bool:
    if not (LIST.fits(value) and len(value) == 4 and is_tensor(value[0])):
        return False
    words, position, has_gauss, cached = value
    is_state = words.dtype == torch.int64 and words.shape == (624,) and is_count(position) and position <= 624
    return is_state and 0 <= words.min() <= words.max() < 2**32 and is_count(has_gauss) and is_number(cached)


STATES = {
    "python": Kind("the state of Python's generator", is_python_state),
    "numpy": Kind("the state of NumPy's generator", is_numpy_state),
    "torch": Kind("the state of torch's generator", is_bytes),
    "cuda": Kind("a list of states", lambda value: LIST.fits(value) and all(map(is_bytes, value))),
}


def check_random_state(state: Any, source: Any, remedy: str) -> None:
    """Raises UserError unless `restore_random_state` can take the state; the generators stay as they are."""
    source = f"the random state in {source}"
    check_entries(state, STATES, source, remedy)
    version, words, gauss = state["python"]
    try:
        random.Random().setstate((version, tuple(words), gauss))
        torch.Generator().set_state(state["torch"].cpu())
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{source} is none ({error}); {remedy}") from None


def restore_random_state(state: dict[str, Any]) -> None:
    """Bring all generators back to `random_state()`. GPU states are skipped where the GPUs differ."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
