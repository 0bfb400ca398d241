"""What the readers share: finding folders, listing frames in order, reading split lists.

Folders are listed by os.scandir, which tells files from folders without a system call for each. What cannot
be read is refused: with a broken link, or a folder that may not be read, there would be fewer frames.
"""

import csv
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dataset.files import Files
from dataset.masks import STRICT, MaskRule
from dataset.pairing import frame_name, pair
from dataset.refusals import each
from dataset.sequence import Sequence
from utils.errors import UserError, reason
from utils.files import read_text
from utils.registry import fold

IMAGE_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
SHIPPED_LISTS = Path(__file__).parent / "splits"
DIGITS = re.compile(r"(\d+)")
GIVE_FOLDER = "give the data set's folder or its parent"


def natural_key(text: str) -> tuple:
    """Sort key that counts: "2.png" comes before "10.png"."""
    parts = DIGITS.split(text)
    return [int(part) if part.isdecimal() else part for part in parts], text


def natural_order(texts: Iterable[str]) -> list[str]:
    """Texts sorted by their natural keys; those of one beginning and a number each are sorted faster."""
    texts = list(texts)
    common = os.path.commonprefix(texts).rstrip("0123456789")
    numbers = [text[len(common) :] for text in texts]
    is_plain = not common[-1:].isdecimal()  # as digits of other scripts, which count with those after them
    if is_plain and all(number.isascii() and number.isdecimal() for number in numbers):
        return [text for _, text in sorted(zip(map(int, numbers), texts, strict=True))]
    return sorted(texts, key=natural_key)


def is_image_name(name: str) -> bool:
    """True for a visible file name with an image suffix, in any case."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def scan(folder: Path) -> list[os.DirEntry]:
    """What is visible in a folder. Raises UserError with the reason when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {reason(error)}; put that right") from None


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # as a link that leads to itself
        raise UserError(f"cannot tell what {entry.path} is: {reason(error)}; take it away") from None


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in `folder`, in natural order."""
    names = [entry.name for entry in scan(folder) if is_folder(entry)]
    return [folder / name for name in sorted(names, key=natural_key)]


def files_in(folder: Path, suffix: str) -> list[Path]:
    """What is visible in `folder` with this suffix, by name; nothing when there is no such folder."""
    if not os.path.lexists(folder):
        return []
    return [folder / name for name in sorted(e.name for e in scan(folder)) if name.endswith(suffix)]


def list_images(folder: Path, content: str = "frames") -> Files:
    """The image files in `folder`, in natural order; `content` names them in errors.

    Raises UserError when the folder is missing, empty or unreadable, when what bears the name of an image is
    no file, or when two files differ in the suffix alone.
    """
    if not os.path.lexists(folder):
        raise UserError(f"the folder {folder} with the {content} is missing; complete the data set there")
    entries = [entry for entry in scan(folder) if is_image_name(entry.name)]
    if not entries:
        raise UserError(f"there are no {content} in {folder}; put {', '.join(IMAGE_SUFFIXES)} files there")
    for entry in entries:
        if is_folder(entry) or not entry.is_file():
            raise UserError(
                f"{entry.path} has the name of an image but is no file, nor a link to one; put it there"
            )
    return in_order(folder, (entry.name for entry in entries))


def in_order(folder: Path, names: Iterable[str]) -> Files:
    """Image files of a folder in natural order. Raises UserError when two differ in the suffix alone."""
    by_stem: dict[str, str] = {}
    for name in names:
        stem, _ = os.path.splitext(name)
        other = by_stem.setdefault(stem, name)
        if other is not name:
            raise UserError(f"{folder} holds both {other} and {name}; keep one of them")
    return Files(folder, (by_stem[stem] for stem in natural_order(by_stem)))


def find_root(root: Path, *names: str, remedy: str = GIVE_FOLDER) -> Path:
    """The data set's folder: the one in `root` that bears one of `names` in any spelling, or `root` itself.

    Raises UserError, which ends on `remedy`, when there is no folder `root`, and when several bear the names
    but none the first one exactly.
    """
    if not os.path.lexists(root):
        raise UserError(f"there is no folder {root}; {remedy}")
    wanted = {fold(name) for name in names}
    found = [path for path in subfolders(root) if fold(path.name) in wanted]
    exact = [path for path in found if path.name == names[0]]
    return only_one(exact or found, root) or root


def only_one(found: list[Path], folder: Path) -> Path | None:
    """The only one of the folders that were `found`, or None. Raises UserError when there are several."""
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise UserError(f"{folder} holds {both}, which may be the same; give or keep one of them")
    return found[0] if found else None


def find_below(folder: Path, *steps: str) -> Path | None:
    """What lies at `folder`/step/step/..., in another case where it is not there in this one, or None."""
    for step in steps:
        exact = folder / step
        if not os.path.lexists(exact):
            siblings = subfolders(folder)
            exact = only_one([path for path in siblings if path.name.casefold() == step.casefold()], folder)
            if exact is None:
                return None
        folder = exact
    return folder


def listed_folder(folder: Path, *steps: str) -> Path:
    """`find_below` for what a split list promises. Raises UserError when it is not there."""
    found = find_below(folder, *steps)
    if found is None:
        missing = folder.joinpath(*steps)
        raise UserError(
            f"the split list asks for {missing}, which is missing; complete the data set or cut the list"
        )
    return found


def require_layout(fits: bool, name: str, root: Path, looked_for: str, remedy: str = GIVE_FOLDER) -> None:
    """Raise UserError unless `fits`: none of the layouts that were `looked_for` lies in `root`."""
    if not fits:
        raise UserError(f"{root} does not hold {name}: looked for {looked_for}; {remedy}")


def index_sequence(
    name: str,
    images: Path,
    masks: Path,
    centroids: Path | None = None,
    mask_rule: MaskRule = STRICT,
) -> Sequence:
    """The sequence whose frames, masks and centroid maps lie in these folders.

    Raises UserError when one of them is missing or empty, or when they do not pair.
    """
    frames = list_images(images)
    return Sequence(
        name,
        frames,
        masks=pair(frames, list_images(masks, "masks")),
        centroids=centroids and pair(frames, list_images(centroids, "centroid maps"), "centroid map"),
        mask_rule=mask_rule,
    )


def index_listed(
    root: Path, names: Iterable[str], images: str, masks: str, mask_rule: MaskRule = STRICT
) -> tuple[Sequence, ...]:
    """The sequences `names`; `images` and `masks` are places in `root`, with "*" for the sequence's name."""

    def folder(place: str, name: str) -> Path:
        return listed_folder(root, *place.replace("*", name).split("/"))

    def index(name: str) -> Sequence:
        return index_sequence(name, folder(images, name), folder(masks, name), mask_rule=mask_rule)

    def rest(name: str) -> Sequence:
        kinds = (find_below(root, *masks.replace("*", name).split("/")), None)
        return rest_of_sequence(name, folder(images, name), *kinds, mask_rule)

    return each(names, index, rest)


def rest_of_sequence(
    name: str, images: Path, masks: Path | None, centroids: Path | None, mask_rule: MaskRule
) -> Sequence:
    """What a check can read of a sequence that is refused: the frames that have a mask of their name
    and, where there is a folder of centroid maps, one of these; all frames, without truth, when none has.
    """
    frames = list_images(images)
    found = {}
    for kind, folder in {"masks": masks, "centroids": centroids}.items():
        if folder is not None and folder.is_dir():
            found[kind] = {frame_name(path): path for path in folder.iterdir() if is_image_name(path.name)}
    kept = tuple(path for path in frames if all(frame_name(path) in paths for paths in found.values()))
    if not kept:
        return Sequence(name, frames)
    truth = {kind: tuple(paths[frame_name(path)] for path in kept) for kind, paths in found.items()}
    return Sequence(name, kept, **truth, mask_rule=mask_rule)


@dataclass(frozen=True)
class Tree:
    """A folder of sequences, and whether `images/<sequence>` or `<sequence>/images` is the order in it."""

    root: Path
    images_first: bool

    def steps(self, kind: str, sequence: str) -> tuple[str, str]:
        return (kind, sequence) if self.images_first else (sequence, kind)

    def listed(self, kind: str, sequence: str) -> Path:
        return listed_folder(self.root, *self.steps(kind, sequence))

    def optional(self, kind: str, sequence: str) -> Path | None:
        return find_below(self.root, *self.steps(kind, sequence))


def find_tree(root: Path) -> Tree | None:
    """The tree that lies in `root`, or None."""
    below = [path / "images" for path in subfolders(root)]
    if any(images.is_dir() and not subfolders(images) for images in below):
        return Tree(root, images_first=False)
    if (root / "images").is_dir() and subfolders(root / "images"):
        return Tree(root, images_first=True)
    return None


def index_tree(
    frames: Tree, truth: Tree, names: Iterable[str], mask_rule: MaskRule = STRICT
) -> tuple[Sequence, ...]:
    """The sequences `names`, with images from the one tree, masks and centroid maps from the other.

    Where the one of images has a folder Mix, its file for the first frame has simulated frames before that.
    """

    def index(name: str) -> Sequence:
        images, masks = frames.listed("images", name), truth.listed("masks", name)
        found = index_sequence(name, images, masks, truth.optional("masks_centroid", name), mask_rule)
        mix = frames.optional("Mix", name)
        return found if mix is None else replace(found, simulated=mix / f"{found.images[0].stem}.mat")

    def rest(name: str) -> Sequence:
        kinds = (truth.optional(kind, name) for kind in ("masks", "masks_centroid"))
        return rest_of_sequence(name, frames.listed("images", name), *kinds, mask_rule)

    return each(names, index, rest)


def sequence_name(line: str) -> str:
    """The sequence that a line of a split list names, in every published form:

    `Sequence1`, `252/1`, `Sequence1/Mix/00001.mat`, `Sequence1/images/00001.png` - the text before the "/"
    `images/sequence1/0.png` (TSMSA) - the folder in `images`
    `dataset/SatVideoIRSDT/val/000001/img/000001.png` (DTUM) - the folder around `img`
    """
    parts = line.replace("\\", "/").split("/")
    if parts[0] == "images" and len(parts) > 1:
        return parts[1]
    if "img" in parts[1:]:
        return parts[parts.index("img", 1) - 1]
    return parts[0]


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not blank, or the column `sequence` of a csv.

    Raises UserError when there are none.
    """
    lines = read_text(path, "names of sequences").splitlines()
    if path.suffix == ".csv":
        lines = [row["sequence"] for row in csv.DictReader(lines)]
    kept = [line.strip() for line in lines if line.strip()]
    if not kept:
        raise UserError(f"the split list {path} is empty; write one sequence name per line")
    return kept


def read_names(path: Path) -> tuple[str, ...]:
    """The sequence names of a split list, in its order, each once.

    Raises UserError when there are none, and for a line that names a folder above or none.
    """
    names: dict[str, None] = {}
    for line in read_lines(path):
        name = sequence_name(line)
        if name in ("", ".", ".."):
            raise UserError(
                f"{path} lists {line!r}, which names no sequence; write one sequence name per line"
            )
        names[name] = None
    return tuple(names)


def listed_sequences(
    root: Path, lists: tuple[str, ...], shipped: str | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sequence names and notes: from the first of `lists` that lies in `root`, else from the `shipped` list.

    Raises UserError when there is no list, or when it is empty.
    """
    for name in lists:
        if os.path.lexists(root / name):
            return read_names(root / name), ()
    if shipped is None:
        raise UserError(
            f"there is no {' or '.join(lists)} in {root}; write one sequence name per line into it"
        )
    note = f"{lists[0]} is missing in {root}; the published list that ships with the project is used"
    return read_names(SHIPPED_LISTS / shipped), (note,)


def listed_subsets(names: Iterable[str], lists: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """The members of `names` in each list, by label; a list that is missing or has none gives no subset."""
    subsets = {}
    for label, path in lists.items():
        listed = read_text(path, "names of sequences").casefold().split() if os.path.lexists(path) else []
        members = tuple(name for name in names if name.casefold() in listed)
        if members:
            subsets[label] = members
    return subsets
