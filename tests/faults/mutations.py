"""Damage to one data set: what became of its files, and what may be made of them.

Each function takes the random numbers of its case, a layout and its scene, and returns a `Mutated`, or None
where the layout has nothing of the kind.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.faults.sets import FOLDER, HEIGHT, WIDTH, Files, Layout, Link, Scene, encoded

REFUSED, SAME, EITHER = "must be refused", "must be accepted", "may be refused or accepted"


@dataclass(frozen=True)
class Mutated:
    """A damaged data set.

    expects: REFUSED, SAME or EITHER
    equals:  data sets in order: what is accepted must give what one of these gives; none: the original
    named:   a refusal has to name one of these
    """

    about: str
    files: Files
    expects: str
    named: tuple[str, ...] = ()
    equals: tuple[Files, ...] = ()


Mutation = Callable[[np.random.Generator, Layout, Scene], Mutated | None]


@dataclass(frozen=True)
class Chosen:
    """A file of a data set: its path, and the sequence, place and kind of what is in it."""

    path: str
    sequence: str
    place: int
    kind: str

    @property
    def named(self) -> tuple[str, ...]:
        return Path(self.path).name, self.sequence


def choose(draw: np.random.Generator, layout: Layout, scene: Scene, *kinds: str) -> Chosen | None:
    """A file of one of the kinds that the layout has."""
    kinds = [kind for kind in kinds if getattr(layout, kind)]
    if not kinds:
        return None
    kind, sequence = str(draw.choice(kinds)), str(draw.choice(list(scene)))
    place = int(draw.integers(len(scene[sequence].numbers)))
    paths = layout.paths(kind, sequence, scene[sequence].numbers[place])
    return Chosen(str(draw.choice(paths)), sequence, place, kind)


def changed(files: Files, path: str, content: object, new_path: str = "") -> Files:
    """The files with other content in one of them, under another path if one is given."""
    return {**{key: value for key, value in files.items() if key != path}, new_path or path: content}


def without(files: Files, *paths: str) -> Files:
    return {key: value for key, value in files.items() if key not in paths}


# ---------------------------------------------------------------- bytes


def flipped(draw: np.random.Generator, content: bytes, bits: int) -> bytes:
    data = bytearray(content)
    for _ in range(bits):
        data[draw.integers(len(data))] ^= 1 << int(draw.integers(8))
    return bytes(data)


def damaged(draw: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """What happens to files: bits flip, ends and parts are lost, bytes are put in."""
    how = str(
        draw.choice(["one bit flipped", "five bits flipped", "cut", "a byte lost", "bytes put in", "zeros"])
    )
    at, size = int(draw.integers(len(content))), int(draw.integers(1, 20))
    return how, {
        "one bit flipped": lambda: flipped(draw, content, 1),
        "five bits flipped": lambda: flipped(draw, content, 5),
        "cut": lambda: content[:at],
        "a byte lost": lambda: content[:at] + content[at + 1 :],
        "bytes put in": lambda: content[:at] + draw.bytes(size) + content[at:],
        "zeros": lambda: content[:at] + bytes(len(content[at : at + size])) + content[at + size :],
    }[how]()


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
    pixels = decoded(content)
    equals = ()
    if pixels is not None and pixels.shape == (HEIGHT, WIDTH) and pixels.dtype == np.uint8:
        new_path = str(Path(chosen.path).with_suffix(".png"))
        equals = (files, changed(files, chosen.path, encoded(pixels, ".png"), new_path))
    about = f"{how} in {chosen.path}"
    return Mutated(about, changed(files, chosen.path, content), EITHER, chosen.named, equals)


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
    form = str(draw.choice(list(forms)))
    content, suffix = forms[form]
    path = str(Path(chosen.path).with_suffix(suffix))
    expects = REFUSED if form == "a frame" else EITHER
    return Mutated(f"{form} as {path}", changed(files, chosen.path, content, path), expects, chosen.named)


def png_path(path: str) -> str:
    return str(Path(path).with_suffix(".png"))


def tif_path(path: str) -> str:
    return str(Path(path).with_suffix(".tif"))


# ---------------------------------------------------------------- names


def lost(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """An image is gone; what belongs to it is there."""
    chosen, files = choose(draw, layout, scene, "images", "masks", "centroids"), layout.files(scene)
    if chosen is None:
        return None
    return Mutated(f"{chosen.path} is gone", without(files, chosen.path), REFUSED, chosen.named)


def lost_crosswise(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A frame is gone and the mask (and centroid map) of another one, so that the counts agree."""
    if not layout.masks:
        return None
    sequence, files = str(draw.choice(list(scene))), layout.files(scene)
    numbers = scene[sequence].numbers
    first, second = (int(n) for n in draw.choice(len(numbers), 2, replace=False))
    gone = layout.paths("images", sequence, numbers[first])
    gone += [p for kind in ("masks", "centroids") for p in layout.paths(kind, sequence, numbers[second])]
    named = tuple(Path(path).name for path in gone) + (sequence,)
    return Mutated(f"{', '.join(gone)} are gone", without(files, *gone), REFUSED, named)


def renamed(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """An image has another name than what belongs to it."""
    chosen, files = choose(draw, layout, scene, "images", "masks", "centroids"), layout.files(scene)
    if chosen is None:
        return None
    path = Path(chosen.path)
    stem = str(draw.choice([f"{path.stem}_1", f"copy of {path.stem}", "99", "-1", f"{path.stem}.0"]))
    new = str(path.with_name(f"{stem}{path.suffix}"))
    named = (*chosen.named, Path(new).name)
    mutated = changed(files, chosen.path, files[chosen.path], new)
    if not layout.masks and layout.form == "points":  # matched by lines, which do not name frames
        return None
    return Mutated(f"{chosen.path} is called {new}", mutated, REFUSED, named)


def upper_case(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A suffix in capitals is the same suffix."""
    chosen, files = choose(draw, layout, scene, "images", "masks", "centroids"), layout.files(scene)
    if chosen is None:
        return None
    new = str(Path(chosen.path).with_suffix(Path(chosen.path).suffix.upper()))
    return Mutated(f"{new} in capitals", changed(files, chosen.path, files[chosen.path], new), SAME)


def twice(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A frame or a mask lies there in two formats."""
    chosen, files = choose(draw, layout, scene, "images", "masks"), layout.files(scene)
    if chosen is None:
        return None
    suffix = ".tif" if layout.suffix != ".tif" else ".png"
    new = str(Path(chosen.path).with_suffix(suffix))
    content = encoded(pixels_of(scene, chosen), suffix)
    return Mutated(f"{chosen.path} and {new}", {**files, new: content}, REFUSED, chosen.named)


def strangers(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """Files of other programs beside the images change nothing."""
    chosen, files = choose(draw, layout, scene, "images", "masks"), layout.files(scene)
    if chosen is None:
        return None
    name = str(draw.choice(["Thumbs.db", ".DS_Store", "._00001.png", "desktop.ini", "readme.md", ".tmp"]))
    new = str(Path(chosen.path).with_name(name))
    return Mutated(f"{new} beside the images", {**files, new: draw.bytes(64)}, SAME)


def swapped(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """Two images of one kind have changed places: nobody can see that, and they are read as they lie."""
    chosen, files = choose(draw, layout, scene, "images", "masks"), layout.files(scene)
    if chosen is None:
        return None
    numbers = [number for place, number in enumerate(scene[chosen.sequence].numbers) if place != chosen.place]
    others = layout.paths(chosen.kind, chosen.sequence, int(draw.choice(numbers)))
    other = next(path for path in others if Path(path).parent == Path(chosen.path).parent)
    mutated = {**files, chosen.path: files[other], other: files[chosen.path]}
    return Mutated(f"{chosen.path} and {other} swapped", mutated, SAME, equals=(mutated_as_png(mutated),))


def mutated_as_png(files: Files) -> Files:
    """The same pixels, losslessly in another format: another way to the same figures."""
    found: Files = {}
    for path, content in files.items():
        if Path(path).suffix in (".bmp", ".jpg", ".tif"):
            pixels = decoded(content)
            found[png_path(path)] = encoded(pixels, ".png")
        else:
            found[path] = content
    return found


IMAGES: tuple[Mutation, ...] = (
    damaged_image,
    damaged_image,
    damaged_image,
    no_image,
    other_size,
    other_size,
    other_mode,
    no_gray_values,
    no_mask,
    no_mask,
    lost,
    lost_crosswise,
    renamed,
    upper_case,
    twice,
    strangers,
    swapped,
)
