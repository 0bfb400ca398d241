"""Image files to arrays: PNG, BMP, JPG and TIFF of 8 or 16 bit."""

import io
import math
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from utils.errors import UserError, reason

PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
MAX_PIXELS = 2**28  # 16384x16384; a damaged header may announce any size, for which memory would be taken
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns of good frames of 10000x10000


def read_gray(path: Path) -> np.ndarray:
    """One gray image, uint8 or uint16 [H, W]; of a colour image the first channel, as published.

    Raises UserError for a missing, truncated, foreign or unreadable file, and for pixels of another kind.
    """
    return gray_or_refuse(from_file(path, lambda file: gray_pixels(first_page(file))), path)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image, from its header alone. Raises UserError as `read_gray` does."""
    return from_file(path, lambda file: (file.height, file.width), header_only=True)


def from_file(path: Path, take: Callable[[Image.Image], Any], header_only: bool = False) -> Any:
    """What `take` gets from an image file with Pillow; header_only: it takes no pixels.

    Raises UserError that names the file, and what is wrong with it.
    """
    size = None
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            source = path if header_only else checked(path.read_bytes())
            with Image.open(source) as file:
                size = file.size
                if math.prod(size) <= MAX_PIXELS:
                    return take(file)
    except MemoryError:
        pass
    except FileNotFoundError:
        raise UserError(f"the image {path} is missing; copy the data set again") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image; remove it or copy it again") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read the image {path}: {reason(error)}; put that right") from None
        raise UserError(f"the image {path} is truncated or damaged; copy it again") from None
    if size is None:
        raise UserError(f"{path} is no file; put an image there or take it away")
    raise UserError(
        f"the header of {path} announces {size[0]}x{size[1]} pixels, more than can be read; copy the image "
        "again if it is damaged, else cut it into parts"
    )


def checked(data: bytes) -> io.BytesIO:
    """The bytes of an image. Raises ValueError where a PNG is cut off or one of its checksums is another one.

    Pillow does not compare those of the pixels, and a flipped bit would change many of them.
    """
    if data.startswith(PNG):
        view, end = memoryview(data), len(PNG)
        while view[end - 8 : end - 4] != b"IEND":  # the name of the last part, before its checksum
            start = end  # of a part: its length, name, content and checksum
            end = start + 12 + int.from_bytes(view[start : start + 4], "big")
            if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                raise ValueError("another checksum")
            if end > len(data):
                raise ValueError("cut off")
    return io.BytesIO(data)


def first_page(file: Image.Image) -> Image.Image:
    """The image of an open file, of a TIFF with several the first one, with its pixels."""
    image = next(iter(ImageSequence.Iterator(file)))
    image.load()
    return image


def gray_pixels(image: Image.Image) -> np.ndarray:
    """The gray values of an image, of a colour image the first channel."""
    if image.mode in ("1", "P", "PA"):
        image.info.pop("transparency", None)  # Pillow would warn of what is lost
        image = image.convert("L")
    if image.mode != "CMYK" and len(image.getbands()) > 1:
        image = image.getchannel(0)
    return np.asarray(image)


def gray_or_refuse(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Pixels as uint8 or uint16 [H, W]. Raises UserError for those of another kind."""
    if pixels.dtype == np.uint8 and pixels.ndim == 2:
        return pixels
    if pixels.ndim == 2 and pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    kind = f"of type {pixels.dtype}" if pixels.ndim == 2 else "of inks (CMYK)"
    raise UserError(f"{path} has pixels {kind}; convert it to 8 or 16 bit gray")


def gray_values(pixels: np.ndarray) -> np.ndarray:
    """float32 gray values in 0..255; 16-bit pixels are divided by 257."""
    values = pixels.astype(np.float32)
    return values / 257 if pixels.dtype == np.uint16 else values
