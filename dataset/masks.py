"""Mask files: what they may hold, and which of their pixels belong to targets.

    gray     0 and one other value, which is target; in data sets that number their targets any value above 0
    colour   target where a channel is above 0; where all pixels are gray it counts as a gray file
    palette  by its colours, as colour
    alpha    refused unless all pixels are opaque: colour and alpha may each be the mask
    JPEG     its losses make many values of two, which are refused everywhere

A file without a pixel of 0 has no background and is refused as well. With a threshold the values do not
matter: target is what is brighter. In a centroid map 255, or 65535, marks the centroid of a target.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dataset.io import first_page, from_file, gray_or_refuse, gray_pixels, gray_values
from utils.errors import UserError

LOSSY = ("JPEG", "MPO")
REMEDY = (
    "save it as PNG of 0 and 255, or say above which gray value of 0 to 255 a pixel is target, as in "
    "--dataset_option mask_threshold=127"
)


@dataclass(frozen=True)
class MaskRule:
    """How the mask files of a sequence are read.

    threshold:   gray value, 0 to 255, above which a pixel is target; None: the file must be a mask
    many_values: whether targets may differ in value, as where they are numbered
    """

    threshold: float | None = None
    many_values: bool = False


STRICT = MaskRule()


def read_mask(path: Path, rule: MaskRule = STRICT) -> np.ndarray:
    """A mask [H, W] with targets above 0: a gray file's values, else 255.

    Raises UserError for a file that cannot be read, and for one that is no mask.
    """
    pixels, is_coloured, is_lossy = _brightest(path)
    if rule.threshold is not None:
        return _mask_of(gray_values(pixels) > rule.threshold)
    if is_coloured and not is_lossy:
        pixels = _mask_of(pixels > 0)
    count, highest = cv2.countNonZero(pixels), int(pixels.max())
    if count == pixels.size:
        raise UserError(f"{path} is no mask: no pixel is 0, which is background; {REMEDY}")
    is_binary = cv2.sumElems(pixels)[0] == highest * count  # several times faster than to compare pixels
    if not is_binary and (is_lossy or not rule.many_values):
        values = len(np.unique(pixels))
        what = "is a JPEG, which blurs masks, and" if is_lossy else "is no mask: it"
        raise UserError(f"{path} {what} has {values} gray values, a mask has 0 and one other; {REMEDY}")
    return pixels


def read_centroid_map(path: Path, rule: MaskRule = STRICT) -> np.ndarray:
    """A centroid map [H, W], a file's values; with a threshold 255 and 0.

    Raises UserError for a file that cannot be read, and for one whose scale or losses hide its targets.
    """
    pixels, is_coloured, is_lossy = _brightest(path)
    if rule.threshold is not None:
        return _mask_of(gray_values(pixels) > rule.threshold)
    if is_coloured and not is_lossy:
        pixels = _mask_of(pixels > 0)
    highest, values = np.iinfo(pixels.dtype).max, pixels[pixels > 0]
    if values.size and (values.min() if is_lossy else values.max()) < highest:
        raise UserError(
            f"{path} is no centroid map: it has values from {values.min()} to {values.max()} where targets "
            f"have {highest}; {REMEDY}"
        )
    return pixels


def _mask_of(is_target: np.ndarray) -> np.ndarray:
    return np.where(is_target, np.uint8(255), np.uint8(0))


def _brightest(path: Path) -> tuple[np.ndarray, bool, bool]:
    """Gray values [H, W], of a coloured file the brightest channel; is it coloured; is it a JPEG."""
    pixels, is_lossy = from_file(path, lambda file: (_opaque(first_page(file)), file.format in LOSSY))
    if pixels is None:
        raise UserError(
            f"{path} has transparent pixels, so that colour or transparency may be the mask; save it without "
            "alpha channel"
        )
    if pixels.ndim == 2 or pixels.shape[2] != 3:
        return gray_or_refuse(pixels, path), False, is_lossy
    is_coloured = bool((pixels != pixels[..., :1]).any())
    return pixels.max(axis=2), is_coloured, is_lossy


def _opaque(image: Image.Image) -> np.ndarray | None:
    """The pixels of an image, [H, W] of a gray one, else [H, W, 3]; None where some are transparent."""
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if has_alpha and not image.mode.startswith("I"):
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            return None
    if image.mode in ("P", "RGBA"):
        image = image.convert("RGB")
    return np.asarray(image) if image.mode == "RGB" else gray_pixels(image)
