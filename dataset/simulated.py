"""The simulated frames before a sequence's first one, in the .mat files of DTUM's authors for NUDT-MIRSDT.

`Mix/00001.mat` holds a variable `Mix` [T, H, W], T at least 5: the frame 00001 and, before it, those that
were simulated. They are in no image file.
"""

import io
from pathlib import Path

import numpy as np
import scipy.io

from utils.errors import UserError, reason

VARIABLE = "Mix"
BEYOND = 255  # from the middle of 0..255: what was simulated in fractions may leave the range a little
REMEDY = "copy it again, or repeat the first frame instead by --set history=repeat"


def read_simulated(path: Path, size: tuple[int, int], count: int) -> np.ndarray:
    """The last `count` frames before the first one, in order of time, [count, H, W].

    size: (height, width) of the sequence's frames
    uint8, or float32 where there are other values. Raises UserError for a file that is missing or damaged,
    without such a variable, or with one of another shape or of values that cannot be gray values of 8 bit.
    """
    mix = read_variable(path)
    if mix.ndim != 3 or mix.shape[0] <= count or mix.shape[1:] != size:
        found, (height, width) = "x".join(map(str, mix.shape)), size
        raise UserError(
            f"{path}: {VARIABLE} is {found}, but the sequence wants {count + 1} frames or more of "
            f"{height}x{width}; {REMEDY}"
        )
    if mix.dtype.kind not in "uif":
        raise UserError(f"{path}: {VARIABLE} has values of type {mix.dtype}, not gray values; {REMEDY}")
    frames = mix[-1 - count : -1]
    if not (abs(frames.astype(np.float64) - 127.5) <= BEYOND).all():
        raise UserError(f"{path}: {VARIABLE} has values that are no gray values from 0 to 255; {REMEDY}")
    whole = frames.clip(0, 255).astype(np.uint8)
    return whole if (whole == frames).all() else frames.astype(np.float32)


def read_variable(path: Path) -> np.ndarray:
    """The variable of a .mat file. Raises UserError where there is none."""
    try:
        content = scipy.io.loadmat(io.BytesIO(path.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"the simulated frames {path} are missing; {REMEDY}") from None
    except NotImplementedError:
        raise UserError(f"{path} is a file of MATLAB 7.3; save it as version 7, or {REMEDY}") from None
    except Exception as error:  # scipy's reader raises nearly anything on a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read {path}: {reason(error)}; put that right, or {REMEDY}") from None
        raise UserError(f"{path} is damaged or no .mat file; {REMEDY}") from None
    if VARIABLE not in content:
        others = ", ".join(name for name in content if not name.startswith("__")) or "nothing else"
        raise UserError(f"{path} has no variable {VARIABLE}, but {others}; {REMEDY}")
    return np.asarray(content[VARIABLE])
