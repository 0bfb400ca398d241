"""Image files to arrays: PNG, BMP, JPG and TIFF of 8 or 16 bit."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from dataset.view import Letterbox
from utils.errors import UserError

RESAMPLING = {name: Image.Resampling[name.upper()] for name in ("bicubic", "bilinear", "nearest")}


PADDING = {"images": 128, "masks": 0}  # around a letterboxed frame, as published


def letterboxed(pixels: np.ndarray, side: int, padding: int, method: str = "bicubic") -> np.ndarray:
    """A gray image fitted into a square [side, side] of uint8 by Pillow's `method`; 16 bit becomes 8."""
    image = Image.fromarray(np.rint(gray_values(pixels)).astype(np.uint8))
    place = Letterbox(image.width, image.height, side)
    square = Image.new("L", (side, side), padding)
    square.paste(image.resize(place.size, RESAMPLING[method]), place.corner)
    return np.asarray(square)


def read_gray(path: Path, resize: tuple[int, int] | None = None, method: str = "bicubic") -> np.ndarray:
    """One gray image, uint8 or uint16 [H, W]; of a colour image the first channel, as published.

    resize: (height, width), by Pillow's `method`. Raises UserError for a missing, truncated or foreign file.
    """
    try:
        with Image.open(path) as file:
            image = next(iter(ImageSequence.Iterator(file)))  # first page of a TIFF
            image.load()
            if image.mode in ("1", "P"):
                image = image.convert("L")
            if len(image.getbands()) > 1:
                image = image.getchannel(0)
            if resize and image.size != resize[::-1]:
                image = image.resize(resize[::-1], RESAMPLING[method])
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise UserError(f"the image {path} is missing; copy the data set again") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image; remove it or copy it again") from None
    except (OSError, SyntaxError, ValueError, EOFError):
        raise UserError(f"the image {path} is truncated or damaged; copy it again") from None
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    raise UserError(f"{path} has pixels of type {pixels.dtype}; convert it to 8 or 16 bit gray")


def gray_values(pixels: np.ndarray) -> np.ndarray:
    """float32 gray values in 0..255; 16-bit pixels are divided by 257."""
    values = pixels.astype(np.float32)
    return values / 257 if pixels.dtype == np.uint16 else values
