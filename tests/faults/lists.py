"""Damage to lists of sequences."""

from pathlib import Path

import numpy as np

from tests.faults.mutations import EITHER, REFUSED, SAME, Mutated, Mutation, changed, damaged, without
from tests.faults.sets import FOLDER, NAMES, Layout, Link, Scene


def chosen_list(draw: np.random.Generator, layout: Layout) -> str | None:
    paths = [path for path, _ in layout.lists]
    return str(draw.choice(paths)) if paths else None


def harmless_line(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A list as other editors write it: the same names."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    text = files[path]
    forms = {
        "blank lines": b"\n\n" + text.replace(b"\n", b"\n\n"),
        "carriage returns": text.replace(b"\n", b"\r\n"),
        "a byte order mark": b"\xef\xbb\xbf" + text,
        "no last line end": text.rstrip(),
        "blanks around names": text.replace(b"\n", b"  \n"),
    }
    form = str(draw.choice(list(forms)))
    return Mutated(f"{form} in {path}", changed(files, path, forms[form]), SAME)


def doubtful_line(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A list that one may read or refuse, but not in part."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    text = files[path]
    forms = {
        "a comment": b"# of the paper\n" + text,
        "a name twice": text + text.splitlines()[0] + b"\n",
        "old line ends": text.replace(b"\n", b"\r"),
        "NUL bytes": text.replace(b"\n", b"\n\0"),
        "./ before names": b"./" + text,
        "another case": text.swapcase(),
    }
    form = str(draw.choice(list(forms)))
    return Mutated(f"{form} in {path}", changed(files, path, forms[form]), EITHER, (Path(path).name, *NAMES))


def wrong_line(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A list of what is not there, or no list."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    text = files[path]
    forms = {
        "an unknown name": text + text.splitlines()[0].replace(b"Sequence", b"Sequenz") + b"\n",
        "a byte that is not UTF-8": text + b"\xff\xfe\n",
        "UTF-16": text.decode().encode("utf-16"),
        "nothing": b"",
        "only blanks": b" \n\t\n",
        "noise": draw.bytes(200),
        # Published lists of DTUM may begin with folders above, which do not matter.
        "a path that leads out": b"../img/1.png\n" + text if b"/img/" in text else b"../" + text,
        "a long line": text + b"x" * 5000 + b"\n",
    }
    form = str(draw.choice([*forms, "a folder", "a loop of links"]))
    content = {"a folder": FOLDER, "a loop of links": Link(Path(path).name)}.get(form) or forms[form]
    if form == "nothing":
        content = b""
    named = (Path(path).name, "Sequenz3", "Sequence", "xxx")
    return Mutated(f"{form} in {path}", changed(files, path, content), REFUSED, named)


def damaged_list(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """Damage to the bytes of a list. A name that is there may be left over; no other one may come of it."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    how, content = damaged(draw, files[path])
    part = [changed(files, path, f"{line.replace('*', name)}\n".encode()) for p, line in layout.lists
            for name in NAMES if p == path]  # fmt: skip
    return Mutated(f"{how} in {path}", changed(files, path, content), EITHER, equals=(files, *part))


def lost_list(draw: np.random.Generator, layout: Layout, scene: Scene) -> Mutated | None:
    """A list is gone: neither the shipped one nor all sequences take its place unseen."""
    path, files = chosen_list(draw, layout), layout.files(scene)
    if path is None:
        return None
    return Mutated(f"{path} is gone", without(files, path), EITHER)


LISTS: tuple[Mutation, ...] = (
    harmless_line,
    doubtful_line,
    wrong_line,
    wrong_line,
    damaged_list,
    damaged_list,
    lost_list,
)
