"""Decoded frames in memory-mapped files, so that each frame is decoded once, ever."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError


class CachedFrames:
    """The frames of one sequence in a memory-mapped file, which is made when the first one is taken.

    folder:  where the file is
    content: what tells its frames from others of the same files, such as their kind and resizing
    sources: the files that the frames are decoded from
    decode:  gives one frame [H, W] by its place; all of one shape and dtype
    """

    def __init__(
        self, folder: Path, content: tuple, sources: Sequence[Path], decode: Callable[[int], np.ndarray]
    ):
        self.folder, self.content, self.sources, self.decode = folder, content, sources, decode
        self._frames: np.ndarray | None = None

    def __getitem__(self, index: int) -> np.ndarray:
        if self._frames is None:
            path = self.folder / f"{self._fingerprint()}.npy"
            if not path.exists():
                self._build(path)
            self._frames = np.load(path, mmap_mode="r")
        return self._frames[index]

    # ---------------------------------------------------------------- private

    def _fingerprint(self) -> str:
        """Changes with every path, size and time of change of the source files, and with the content."""
        digest = hashlib.sha256(repr(self.content).encode())
        for path in self.sources:
            try:
                stat = path.stat()
            except FileNotFoundError:
                raise UserError(f"the image {path} is missing; copy the data set again") from None
            digest.update(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:32]

    def _build(self, path: Path) -> None:
        """Decode all frames into a temporary file and rename it: two processes may do so at once."""
        first = self.decode(0)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by `tempfile`, whose files nobody but their owner may read.
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
        try:
            out = np.lib.format.open_memmap(temporary, "w+", first.dtype, (len(self.sources), *first.shape))
            for index, source in enumerate(self.sources):
                pixels = self.decode(index) if index else first
                if pixels.shape != first.shape or pixels.dtype != first.dtype:
                    raise UserError(
                        f"{source} is {pixels.dtype} {pixels.shape}, the first {first.dtype} {first.shape}; "
                        "all frames of a sequence must have one size and depth"
                    )
                out[index] = pixels
            out.flush()
            del out
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(
                f"cannot write the cache {path}: {error.strerror}; use another --cache_dir"
            ) from None
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
