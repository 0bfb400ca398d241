"""Decoded frames in memory-mapped files, so that each frame is decoded once, ever.

A file is a .npy of all frames of one sequence, followed by what it was made of and a checksum of each frame.
It is checked before it is used, and made anew where it is damaged or its images have changed; so is a small
file beside it of what was measured of them. Nothing can be done for a process whose file is cut short while
it is mapped: the system ends it (SIGBUS).
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
import torch
from tqdm import tqdm

from utils.errors import UserError, reason
from utils.files import plain, read_json, remove_abandoned, replacing, write_json

FORMAT = 2  # of the files; raise it, too, when frames are decoded to other values than before
FILE_NAME = re.compile(r"[0-9a-f]{32}(-v(?P<format>\d+))?(\.npy|\.[a-z]+\.json)")
END = struct.Struct("<8sII")  # a file's last bytes: MAGIC, length and checksum of the description before them
MAGIC = b"frames\0\0"
SAMPLE = 4096  # bytes at either end of an image file by which a change is noticed
UNUSED = 30 * 24 * 3600  # seconds after which a file that nobody has opened is removed
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CachedFrames:
    """The frames of one sequence in a memory-mapped file, which is made when the first one is taken.

    folder:  where the file is
    content: what tells its frames from others of the same images: the sequence, the kind, the resizing
    sources: the image files that the frames are decoded from
    decode:  gives one frame [H, W] by its place; all of one shape and dtype

    Frames are read-only; each is compared with its checksum when a process takes it for the first time.
    Raises UserError where an image is missing or the file cannot be written.
    """

    def __init__(
        self, folder: Path, content: tuple, sources: Sequence[Path], decode: Callable[[int], np.ndarray]
    ):
        self.folder, self.sources, self.decode = folder, sources, decode
        # Another Pillow may decode or resize to other values.
        self.content = (*content, PIL.__version__)
        place = repr((self.content, str(sources[0].parent.resolve())))
        self.path = folder / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}-v{FORMAT}.npy"
        self._frames: np.ndarray | None = None

    def __getitem__(self, index: int) -> np.ndarray:
        if self._frames is None:
            self._open()
        if not self._is_checked[index]:
            if not self._is_whole(index):
                self._open()  # as another process may have written it anew
            if not self._is_whole(index):
                print(f"note: frame {index} in the cache file {self.path} is damaged; it is written anew")
                self._build()
                self._open()
            if not self._is_whole(index):
                self._refuse()
            self._is_checked[index] = True
        return self._frames[index]

    def kept(self, name: str, measure: Callable[[], Any]) -> Any:
        """What `measure` gives of the frames, plain values; kept under the name in a file beside theirs.

        It is measured once, and anew where that file is damaged or the images have changed.
        """
        path = self.path.with_suffix(f".{name}.json")
        with contextlib.suppress(UserError, KeyError, TypeError):  # it is missing, or damaged anyhow
            content = read_json(path)
            if content["check"] == value_check(self._fingerprint, content["value"]):
                with contextlib.suppress(OSError):  # the file may be another user's
                    os.utime(path)  # it is in use
                return content["value"]
        value = plain(measure())
        with contextlib.suppress(UserError):  # the folder cannot be written: it is measured again
            write_json(path, {"check": value_check(self._fingerprint, value), "value": value})
        return value

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped file, which a process that is sent this object opens for itself."""
        return {**self.__dict__, "_frames": None}

    # ---------------------------------------------------------------- private

    def _open(self) -> None:
        """Map the file, which is made first unless it is whole and of these images as they are."""
        if not self._map():
            self._build()
            if not self._map():
                self._refuse()
        self._is_checked = bytearray(len(self.sources))
        with contextlib.suppress(OSError):  # the file may be another user's
            os.utime(self.path)  # it is in use

    def _refuse(self) -> None:
        raise UserError(
            f"the cache file {self.path} does not hold what was written to it; check that disk and use "
            "another --cache_dir"
        )

    def _is_whole(self, index: int) -> bool:
        return zlib.crc32(self._frames[index]) == self._checksums[index]

    @cached_property
    def _fingerprint(self) -> str:
        """Changes with the content and, of any image file, the path, size, time of change or either end.

        The last bytes of a PNG hold checksums of its pixels, so that a change in its middle shows as well.
        """
        digest = hashlib.sha256(repr(self.content).encode())
        folders = {folder: folder.resolve() for folder in {path.parent for path in self.sources}}
        for path in self.sources:
            try:
                with open(path, "rb", buffering=0) as file:
                    stat = os.fstat(file.fileno())
                    place = folders[path.parent] / path.name
                    digest.update(f"{place}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
                    digest.update(file.read(SAMPLE))
                    if stat.st_size > SAMPLE:
                        file.seek(max(stat.st_size - SAMPLE, SAMPLE))
                        digest.update(file.read(SAMPLE))
            except FileNotFoundError:
                raise UserError(f"the image {path} is missing; copy the data set again") from None
            except OSError as error:
                raise UserError(f"cannot read the image {path}: {reason(error)}; put that right") from None
        return digest.hexdigest()

    def _map(self) -> bool:
        """Take frames and checksums from the file; False unless it is whole and of these images."""
        facts = description(self.path, self._fingerprint)
        if facts is None:
            return False
        dtype, shape = np.dtype(facts["dtype"]), tuple(facts["shape"])
        start, size = len(npy_header(dtype, shape)), math.prod(shape) * dtype.itemsize
        try:
            # NumPy's own mapping keeps the file open, and a process may have only some 1000 of them.
            content = torch.from_file(str(self.path), False, start + size, dtype=torch.uint8).numpy()
        except RuntimeError as error:  # whatever the system refused
            raise UserError(
                f"cannot map the cache file {self.path}: {error}; use another --cache_dir"
            ) from None
        content.flags.writeable = False
        self._frames, self._checksums = content[start:].view(dtype).reshape(shape), facts["checksums"]
        return True

    def _build(self) -> None:
        """Decode all frames into a temporary file and rename it: two processes may do so at once."""
        facts = {"fingerprint": self._fingerprint}  # of the images before they are decoded
        first = self.decode(0)
        shape = (len(self.sources), *first.shape)
        facts |= {"dtype": first.dtype.str, "shape": shape}
        size = first.nbytes * len(self.sources)
        with contextlib.suppress(OSError):  # what is there is of no use, and its space may be needed
            remove = os.rmdir if self.path.is_dir() else os.unlink
            remove(self.path)
        remedy = (
            f"it needs {math.ceil(size / 2**20)} MiB in {self.folder}: free some space or use another "
            "--cache_dir"
        )
        with replacing(self.path, remedy) as temporary, open(temporary, "wb") as file:
            head = npy_header(first.dtype, shape)
            reserve(file, len(head) + size)
            file.write(head)
            facts["checksums"] = [self._write(file, index, first) for index in range(len(self.sources))]
            text = json.dumps(facts).encode()
            file.write(text + END.pack(MAGIC, len(text), zlib.crc32(text)))
            file.flush()
            os.fsync(file.fileno())  # some file systems tell here that they are full

    def _write(self, file: BinaryIO, index: int, first: np.ndarray) -> int:
        """Write one frame and give its checksum."""
        pixels = np.ascontiguousarray(self.decode(index) if index else first)
        if pixels.shape != first.shape or pixels.dtype != first.dtype:
            raise UserError(
                f"{self.sources[index]} is {pixels.dtype} {pixels.shape}, the first {first.dtype} "
                f"{first.shape}; all frames of a sequence must have one size and depth"
            )
        file.write(pixels)
        return zlib.crc32(pixels)


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands in front of the values in a .npy file."""
    header = io.BytesIO()
    facts = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    return header.getvalue()


def value_check(fingerprint: str, value: Any) -> int:
    """A checksum of a value that was measured of the images with this fingerprint."""
    return zlib.crc32(json.dumps([fingerprint, value]).encode())


def reserve(file: BinaryIO, size: int) -> None:
    """Set the file's space on the disk aside, so that a full one is noticed before all is decoded.

    Where the system cannot do so, writing the file tells. Raises OSError when the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise


def description(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """What a file says of itself; None unless it is whole and has this fingerprint."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(size - END.size)
            magic, length, checksum = END.unpack(file.read(END.size))
            frames_end = size - END.size - length
            file.seek(frames_end)
            text = file.read(length)
            if magic != MAGIC or zlib.crc32(text) != checksum:
                return None
            facts = json.loads(text)
            if facts["fingerprint"] != fingerprint:
                return None
            dtype, shape = np.dtype(facts["dtype"]), tuple(facts["shape"])
            head = npy_header(dtype, shape)
            file.seek(0)
            is_whole = file.read(len(head)) == head
            return facts if is_whole and frames_end == len(head) + math.prod(shape) * dtype.itemsize else None
    except OSError:  # it cannot be opened, or is shorter than it says
        return None


# ---------------------------------------------------------------- the folder


def cache_folder(folder: Path) -> Path:
    """The folder of the cache: made, and rid of unfinished, outdated and long unused files.

    What another process has mapped stays readable to it. Raises UserError where there can be no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"the cache folder {folder} is no folder; use another --cache_dir") from None
    except OSError as error:
        raise UserError(
            f"cannot make the cache folder {folder}: {reason(error)}; use another --cache_dir"
        ) from None
    remove_abandoned(folder)
    for path in folder.iterdir():
        found = FILE_NAME.fullmatch(path.name)
        with contextlib.suppress(OSError):  # another process may be faster, the folder may be read-only
            if found and (int(found["format"] or 1) < FORMAT or time.time() - path.stat().st_mtime > UNUSED):
                path.unlink()
    return folder


def fill_caches(parts: Iterable[Any]) -> None:
    """Make and check the files of training clips and test videos: here, before workers would do so each.

    parts: with `cache_steps()`, a call for each sequence
    """
    steps = [step for part in parts for step in part.cache_steps()]
    if steps:
        for step in tqdm(steps, "caching", unit="sequence", leave=False, disable=None):
            step()
