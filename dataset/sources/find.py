"""What a user names becomes sources of frames."""

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from dataset.gray_range import AUTO, RangeChoice
from dataset.io import from_file
from dataset.layout import IMAGE_SUFFIXES, in_order, is_folder, is_image_name, list_images, natural_key, scan
from dataset.pairing import few
from dataset.source import Source
from dataset.sources.images import TIFF_SUFFIXES, ImageFiles, TiffPages
from dataset.sources.pipe import PipedImages
from dataset.sources.video import LiveVideo, VideoFile
from utils.errors import UserError, reason

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".h264", ".hevc", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv"),
    *(".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
PIPE = "-"
NAME_ONE = "name a video, an image, a folder or a pattern of these, a camera's number, an address, or -"

Part = tuple[str, str | int, Path | None]  # "images", "video", "live" or "pipe"; which one; a file of it


def open_sources(words: Iterable[str], gray_range: RangeChoice = AUTO) -> list[Source]:
    """The sources of frames that words name, in their order; each has a name of its own.

    words: each a video file, an image, a folder, a pattern such as "run/*.png", the number or device of a
           camera, the address of a stream, or "-" for images by standard input (see dataset.sources.pipe)

    The images of one folder are one source, in natural order, whether the folder is named, or a pattern, or
    they themselves; TIFF files with several pages are a source each. Videos are a source each. A folder in
    which there is nothing but a folder `images` stands for that.

    gray_range: see `Source`
    Raises UserError for what is not there, cannot be opened or may mean two things, and for a file of which
    no frame can be read. Nothing is read of live sources yet.
    """
    parts: dict[tuple[str, str | int], list[Path]] = {}
    for word in words:
        for kind, which, path in parts_of(word):
            parts.setdefault((kind, which), []).append(path)
    sources = []
    for (kind, which), paths in parts.items():
        if kind == "images":
            sources += sources_of_images(paths, gray_range)
        elif kind == "video":
            sources.append(VideoFile(paths[0].stem, paths[0], gray_range))
        elif kind == "live":
            sources.append(LiveVideo(which, gray_range))
        else:
            sources.append(PipedImages(gray_range=gray_range))
    tell_apart(sources)
    for source in sources:
        if not source.is_live:
            source.check()
    return sources


def parts_of(word: str) -> Iterator[Part]:
    """What a word names. Raises UserError where that is nothing."""
    path = Path(word).expanduser()
    if word == PIPE:
        yield "pipe", PIPE, None
    elif "://" in word:
        yield "live", word, None
    elif os.path.lexists(path):
        yield from parts_at(path)
    elif word.isdecimal():
        yield "live", int(word), None
    elif glob.has_magic(word):
        matches = sorted(glob.glob(str(path), recursive=True), key=natural_key)
        if not matches:
            raise UserError(f"nothing matches {word}; {NAME_ONE}")
        for match in matches:
            yield from parts_at(Path(match))
    else:
        raise UserError(f"there is no {word}; {NAME_ONE}")


def parts_at(path: Path) -> Iterator[Part]:
    """What a path names. Raises UserError where it cannot be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}; put that right") from None
    if stat.S_ISDIR(mode):
        yield from parts_in(path)
    elif stat.S_ISCHR(mode):
        yield "live", str(path), None
    elif not stat.S_ISREG(mode):
        raise UserError(f"{path} is neither a file nor a folder; {NAME_ONE}")
    elif is_image_name(path.name):
        yield "images", os.path.abspath(path.parent), path
    else:
        yield "video", os.path.abspath(path), path


def parts_in(folder: Path) -> Iterator[Part]:
    """What is in a folder. Raises UserError where that is nothing, or of several kinds."""
    entries = sorted(scan(folder), key=lambda entry: natural_key(entry.name))
    folders = [entry.name for entry in entries if is_folder(entry)]
    images = [entry.name for entry in entries if is_image_name(entry.name)]
    videos = [e.name for e in entries if e.name.lower().endswith(VIDEO_SUFFIXES) and e.name not in folders]
    inner = ["images"] if "images" in folders else []
    if sum(map(bool, (images, videos, inner))) > 1:
        both = " and ".join(few(names) for names in (images, videos, inner) if names)
        raise UserError(f"{folder} holds {both}; name one of these instead of the folder")
    for name in videos:
        yield from parts_at(folder / name)
    if images:
        for path in list_images(folder):
            yield "images", os.path.abspath(folder), path
    elif inner:
        yield from parts_in(folder / "images")
    elif not videos:
        hint = f"; it has the folders {few(folders)}: name these, or all by {folder / '*'}" if folders else ""
        raise UserError(
            f"there are no images ({', '.join(IMAGE_SUFFIXES)}) and no videos in {folder}"
            + (hint or f"; {NAME_ONE}")
        )


def sources_of_images(paths: list[Path], gray_range: RangeChoice) -> list[Source]:
    """One source of the images of one folder, or one of each TIFF file that has several pages."""
    folder = paths[0].parent
    paths = in_order(folder, {path.name for path in paths})
    if not has_pages(paths[0]):
        name = paths[0].stem if len(paths) == 1 else folder_name(folder)
        return [ImageFiles(name, str(paths[0] if len(paths) == 1 else folder), paths, gray_range)]
    others = [path.name for path in paths if not path.name.lower().endswith(TIFF_SUFFIXES)]
    if others:
        raise UserError(
            f"{paths[0]} has several pages, and {few(others)} beside it are images of one; name what you mean"
        )
    return [TiffPages(path.stem, path, gray_range) for path in paths]


def has_pages(path: Path) -> bool:
    """Whether an image is a TIFF with several pages; not where it cannot be read, which reading it tells."""
    if not path.name.lower().endswith(TIFF_SUFFIXES):
        return False
    try:
        return from_file(path, lambda file: getattr(file, "is_animated", False), header_only=True)
    except UserError:
        return False


def folder_name(folder: Path) -> str:
    """The name of a folder, of one called images that of the folder around it."""
    folder = Path(os.path.abspath(folder))
    return folder.parent.name if folder.name == "images" and folder.parent.name else folder.name


def tell_apart(sources: list[Source]) -> None:
    """Number the later ones of sources that bear one name."""
    taken = set()
    for source in sources:
        name, number = source.name, 1
        while source.name.casefold() in taken:
            number += 1
            source.name = f"{name}-{number}"
        taken.add(source.name.casefold())
