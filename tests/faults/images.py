"""Damage to the content of images: frames, masks and centroid maps."""

import io
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.faults.mutations import EITHER, REFUSED, Chosen, Mutated, changed, choose, damaged
from tests.faults.sets import FOLDER, HEIGHT, WIDTH, Layout, Link, Scene, encoded

NUMBERED = ("SatVideoIRSDT", "TSIRMT")  # whose masks may have any values above 0, see dataset.masks


def decoded(content: bytes) -> np.ndarray | None:
    """The pixels of an image by another decoder than the project's; None where it finds none."""
    if not content:
        return None
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # libpng complains there
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def damaged_image(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """Damage to the bytes. What another decoder makes of them may be read; anything else is refused."""
    chosen, files = choose(draw, layout, scene, "images", "masks", "centroids"), layout.files(scene)
    if chosen is None:
        return None
    how, content = damaged(draw, files[chosen.path])
    new_path = png_path(chosen.path)
    equals = [
        changed(files, chosen.path, encoded(gray, ".png"), new_path) for gray in grays(decoded(content))
    ]
    about = f"{how} in {chosen.path}"
    mutated = changed(files, chosen.path, content)
    return Mutated(about, mutated, EITHER, chosen.named, (files, *equals))


def grays(pixels: np.ndarray | None) -> list[np.ndarray]:
    """The gray images that a decoded one may stand for: itself, or of colours the red and the brightness."""
    if pixels is None or pixels.shape[:2] != (HEIGHT, WIDTH) or pixels.dtype != np.uint8:
        return []
    if pixels.ndim == 2:
        return [pixels]
    blue, green, red = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    brightness = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return [red.astype(np.uint8), brightness.astype(np.uint8)]


def no_image(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """Something else lies where an image should: nothing, noise, a folder, a link to nowhere or to itself."""
    chosen, files = choose(draw, layout, scene, "images", "masks", "centroids"), layout.files(scene)
    if chosen is None:
        return None
    what = str(
        draw.choice(["nothing in", "noise in", "text in", "a folder", "a loop of links", "a dead link"])
    )
    content = {
        "nothing in": b"",
        "noise in": draw.bytes(300),
        "text in": b"see the other folder\n",
        "a folder": FOLDER,
        "a loop of links": Link(Path(chosen.path).name),
        "a dead link": Link("not there"),
    }[what]
    return Mutated(f"{what} {chosen.path}", changed(files, chosen.path, content), REFUSED, chosen.named)


# ---------------------------------------------------------------- other images


def pixels_of(scene: Scene, chosen: Chosen) -> np.ndarray:
    clip = scene[chosen.sequence]
    return (clip.frames if chosen.kind == "images" else clip.masks)[chosen.place]


def other_size(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """One image, or all of one kind in a sequence, of another size."""
    chosen, files = choose(draw, layout, scene, "images", "masks", "centroids"), layout.files(scene)
    if chosen is None:
        return None
    width, height = [(WIDTH * 2, HEIGHT * 2), (HEIGHT, WIDTH), (WIDTH, HEIGHT - 1), (1, 1)][draw.integers(4)]
    is_all = chosen.kind != "images" and bool(draw.integers(2))
    for place, number in enumerate(scene[chosen.sequence].numbers):
        for path in layout.paths(chosen.kind, chosen.sequence, number):
            if path == chosen.path or (is_all and Path(path).parent == Path(chosen.path).parent):
                pixels = pixels_of(scene, replace(chosen, place=place))
                resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)
                files[path] = encoded(resized, Path(path).suffix)
    about = f"{'all like ' * is_all}{chosen.path} of {width}x{height} pixels"
    return Mutated(about, files, REFUSED, chosen.named)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def other_mode(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """The same picture in another form: it is read as the same, or refused."""
    chosen, files = choose(draw, layout, scene, "images", "masks"), layout.files(scene)
    if chosen is None:
        return None
    files = changed(
        files, chosen.path, encoded(pixels_of(scene, chosen), ".png"), png_path(chosen.path)
    )  # as PNG
    gray = Image.fromarray(pixels_of(scene, chosen))
    palette = gray.convert("P")
    palette.putpalette([value for value in range(256) for _ in range(3)])
    forms = {
        "RGB": saved(gray.convert("RGB"), "PNG"),
        "RGB and alpha": saved(gray.convert("RGBA"), "PNG"),
        "gray and alpha": saved(gray.convert("LA"), "PNG"),
        "palette": saved(palette, "PNG"),
        "16 bit": saved(Image.fromarray(np.asarray(gray).astype(np.uint16) * 257), "PNG"),
        "two pages": saved(gray, "TIFF", save_all=True, append_images=[gray]),
        "RGB TIFF": saved(gray.convert("RGB"), "TIFF"),
    }
    form = str(draw.choice(list(forms)))
    path = tif_path(chosen.path) if "TIFF" in form or form == "two pages" else png_path(chosen.path)
    mutated = changed(files, png_path(chosen.path), forms[form], path)
    return Mutated(f"{path} as {form}", mutated, EITHER, chosen.named, (layout.files(scene), files))


def no_gray_values(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """Pixels that are no gray values of 8 or 16 bit."""
    chosen, files = choose(draw, layout, scene, "images", "masks"), layout.files(scene)
    if chosen is None:
        return None
    pixels = pixels_of(scene, chosen)
    values = {
        "float": pixels / np.float32(255),
        "nan": np.where(pixels > 80, np.nan, pixels).astype(np.float32),
        "negative": pixels.astype(np.int32) - 300,
        "32 bit": pixels.astype(np.int32) * 70_000,
    }
    what = str(draw.choice(list(values)))
    path = tif_path(chosen.path)
    content = encoded(values[what], ".tif")
    return Mutated(f"{path} of {what}", changed(files, chosen.path, content, path), REFUSED, chosen.named)


def no_mask(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A picture of a mask that is none: what is read must be the mask that was meant, or it is refused."""
    chosen, files = choose(draw, layout, scene, "masks"), layout.files(scene)
    if chosen is None:
        return None
    mask = pixels_of(scene, chosen)
    zero, half = np.zeros_like(mask), np.where(mask > 0, 128, 0).astype(np.uint8)
    jpg = encoded(mask, ".jpg", quality=int(draw.integers(50, 95)))
    blurred = cv2.GaussianBlur(mask, (3, 3), 0)
    forms = {
        "a JPEG": (jpg, ".jpg"),
        "a JPEG saved as PNG": (encoded(decoded(jpg), ".png"), ".png"),
        "blurred edges": (encoded(np.maximum(mask, blurred), ".png"), ".png"),
        "a green mask": (encoded(np.stack([zero, mask, zero], -1), ".png"), ".png"),
        "a red mask": (encoded(np.stack([mask, zero, zero], -1), ".png"), ".png"),
        "targets in alpha": (encoded(np.stack([zero, zero, zero, mask], -1), ".png"), ".png"),
        "a gray mask": (encoded(half, ".png"), ".png"),
        "a frame": (encoded(scene[chosen.sequence].frames[chosen.place], ".png"), ".png"),
    }
    if layout.reader in NUMBERED:  # nobody can tell these from masks of numbered targets
        del forms["a JPEG saved as PNG"], forms["blurred edges"]
    form = str(draw.choice(list(forms)))
    content, suffix = forms[form]
    path = str(Path(chosen.path).with_suffix(suffix))
    expects = REFUSED if form == "a frame" else EITHER
    return Mutated(f"{form} as {path}", changed(files, chosen.path, content, path), expects, chosen.named)


def png_path(path: str) -> str:
    return str(Path(path).with_suffix(".png"))


def tif_path(path: str) -> str:
    return str(Path(path).with_suffix(".tif"))
