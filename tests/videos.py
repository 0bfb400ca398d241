"""Small videos, written by the tests themselves, and damaged."""

import re
import struct
from pathlib import Path

import cv2
import numpy as np


def noise(count: int, shape: tuple[int, ...] = (24, 32), dtype=np.uint8, seed: int = 0) -> list[np.ndarray]:
    """Frames of which no two are equal."""
    draw = np.random.default_rng(seed)
    return [draw.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True) for _ in range(count)]


def smooth(count: int, shape: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Frames of a slow wave, which lossy codecs keep: the mean of frame i is about 40 + i."""
    rows = 10 * np.sin(np.arange(shape[0]) / 5)[:, None] * np.ones(shape)
    return [np.rint(40 + i + rows).astype(np.uint8) for i in range(count)]


def write_video(path: Path, frames: list[np.ndarray], codec: str = "FFV1", fps: float = 25) -> Path:
    """A video file; FFV1 is lossless. Frames are gray, uint8 or uint16 [H, W], or in colour, blue first."""
    height, width = frames[0].shape[:2]
    depth = cv2.CV_16U if frames[0].dtype == np.uint16 else cv2.CV_8U
    options = [cv2.VIDEOWRITER_PROP_DEPTH, depth, cv2.VIDEOWRITER_PROP_IS_COLOR, int(frames[0].ndim == 3)]
    code = cv2.VideoWriter_fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (width, height), options)
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def spoil_frame(path: Path, number: int) -> None:
    """Overwrite the bytes of one frame of an AVI file, so that it cannot be decoded."""
    data = bytearray(path.read_bytes())
    movie = data.index(b"movi")  # what is before and after it lists the frames
    start = [match.start() for match in re.finditer(b"00dc", data) if match.start() > movie][number]
    (size,) = struct.unpack_from("<I", data, start + 4)
    data[start + 8 : start + 8 + size] = bytes(size)
    path.write_bytes(data)


def cut_file(path: Path, part: float) -> None:
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
