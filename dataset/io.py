"""Image files to arrays: PNG, BMP, JPG and TIFF of 8 or 16 bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from utils.errors import UserError


def read_gray(path: Path) -> np.ndarray:
    """One gray image, uint8 or uint16 [H, W]; of a colour image the first channel, as published.

    Raises UserError for a missing, truncated or foreign file.
    """
    with opened(path) as file:
        image = next(iter(ImageSequence.Iterator(file)))  # first page of a TIFF
        image.load()
        if image.mode in ("1", "P"):
            image = image.convert("L")
        if len(image.getbands()) > 1:
            image = image.getchannel(0)
        pixels = np.asarray(image)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    raise UserError(f"{path} has pixels of type {pixels.dtype}; convert it to 8 or 16 bit gray")


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image, from its header alone. Raises UserError as `read_gray` does."""
    with opened(path) as file:
        return file.height, file.width


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file; what goes wrong with it becomes a UserError that names it."""
    try:
        with Image.open(path) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"the image {path} is missing; copy the data set again") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image; remove it or copy it again") from None
    except (OSError, SyntaxError, ValueError, EOFError):
        raise UserError(f"the image {path} is truncated or damaged; copy it again") from None


def gray_values(pixels: np.ndarray) -> np.ndarray:
    """float32 gray values in 0..255; 16-bit pixels are divided by 257."""
    values = pixels.astype(np.float32)
    return values / 257 if pixels.dtype == np.uint16 else values
