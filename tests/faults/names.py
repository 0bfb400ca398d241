"""Images that are lost, misnamed, in each other's place, or not alone."""

from pathlib import Path

import numpy as np

from tests.faults import images
from tests.faults.images import decoded, pixels_of, png_path
from tests.faults.mutations import REFUSED, SAME, Mutated, Mutation, changed, choose, without
from tests.faults.sets import Files, Layout, Scene, encoded


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
    images.damaged_image,
    images.damaged_image,
    images.damaged_image,
    images.no_image,
    images.other_size,
    images.other_size,
    images.other_mode,
    images.no_gray_values,
    images.no_mask,
    images.no_mask,
    lost,
    lost_crosswise,
    renamed,
    upper_case,
    twice,
    strangers,
    swapped,
)
