"""The weights and clips behind the stored outputs in tests/data.

A stored file holds the published names and shapes of a model's parameters and what the published model gave
with the weights below. The same name, shape and seed always give the same values, so a model that imports
them by name and gives the stored outputs computes the same function.
"""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"


def values(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 values of one parameter or running statistic, a function of (key, shape, seed) alone."""
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if key.endswith("running_var"):
        out = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        out = rng.normal(0.0, 0.1, shape)
    elif len(shape) <= 1 and key.endswith("weight"):  # the scale of a norm
        out = rng.uniform(0.5, 1.5, shape)
    elif len(shape) <= 1:  # a bias
        out = rng.normal(0.0, 0.1, shape)
    else:
        fan_in = int(np.prod(shape[1:]))
        out = rng.normal(0.0, (2.0 / fan_in) ** 0.5, shape)
    return out.astype(np.float32)


def clip(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A float32 clip [..., T, H, W] of four axes or more: smooth background, noise, one moving bright dot."""
    rng = np.random.default_rng([seed, 7])
    out = rng.normal(0.0, 0.3, shape)
    frames, height, width = shape[-3:]
    rows, cols = np.mgrid[0:height, 0:width]
    out += np.sin(rows / 9.0) * np.cos(cols / 13.0)
    for step in range(frames):
        out[..., step, height // 2, (width // 4 + step) % width] += 3.0
    return out.astype(np.float32)


def published_weights(stored) -> dict[str, Tensor]:
    """The state dict that a stored file was computed with, by published names, without constant buffers."""
    constant = set(stored["constant_keys"])
    shapes = {
        k: tuple(map(int, s.split(","))) for k, s in zip(stored["keys"], stored["shapes"], strict=True) if s
    }
    seed = int(stored["seed"])
    return {str(k): torch.from_numpy(values(k, s, seed)) for k, s in shapes.items() if k not in constant}


def fill(model: nn.Module, seed: int) -> None:
    """Give every floating-point parameter and buffer the values of its own name, in place.

    Unlike a fresh model, the norms then shift and scale.
    """
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(values(key, tuple(tensor.shape), seed)))
