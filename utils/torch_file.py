"""Torch files, ours and foreign ones: no object in them is unpickled, and damage to their bytes is noticed.

torch.load compares no checksums, so that a flipped bit changes a weight. What `torch_bytes` gives carries the
SHA-256 of its bytes, as the comment of the zip file. Of other zip files, which torch has written since 1.6,
each record has a CRC-32. The form of torch before 1.6 has neither.
"""

import hashlib
import io
import os
import pickle
import re
import stat
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.errors import UserError, reason
from utils.files import read_bytes

LABEL = b"SHA-256 of the file up to here: "  # the comment of our zip files, with the sum in hexadecimal
DIGITS = 64
END = b"PK\x05\x06"  # of a zip file: where its end record of 22 bytes begins, the comment after it
FOLDER = 0x10  # an attribute of records; torch takes such a one for empty
BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number
REMEDY = "get it or write it again"


# ---------------------------------------------------------------- what may be unpickled


class ScalarType:
    """Stands in for numpy.dtype while a file is read. The real one crashes the process on a damaged state."""

    def __init__(self, code: str, *_):
        self.code = code

    def __setstate__(self, state: tuple):
        self.code = state[1].replace("|", "") + self.code  # the byte order


def read_scalar(kind: ScalarType, data: bytes) -> bool | int | float:
    """The number that a pickled NumPy scalar stands for."""
    dtype = np.dtype(kind.code)
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"a NumPy scalar of type {dtype}")
    return np.frombuffer(data, dtype, count=1)[0].item()


# NumPy scalars are all that the published files hold besides tensors and plain Python values.
ALLOWED = [
    (ScalarType, "numpy.dtype"),
    (read_scalar, "numpy.core.multiarray.scalar"),
    (read_scalar, "numpy._core.multiarray.scalar"),
]


# ---------------------------------------------------------------- files


def torch_bytes(content: Any) -> bytes:
    """A torch file of tensors and plain Python values, with its checksum; torch.load reads it too."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(-2, os.SEEK_END)  # the last entry of a zip file: the length of its comment
    file.write(struct.pack("<H", len(LABEL) + DIGITS) + LABEL)
    digest = hashlib.sha256(file.getbuffer()).hexdigest()
    file.write(digest.encode())
    return file.getvalue()


class TorchFile(NamedTuple):
    """What a torch file holds, on the CPU, and what vouches for it.

    has_checksum: one of the whole file, as `torch_bytes` gives it
    has_sums:     that, or those of its records; False for the form of torch before 1.6
    """

    content: Any
    has_checksum: bool
    has_sums: bool


def read_torch_file(path: str | Path) -> TorchFile:
    """A torch file, see `torch_content`; it is read once.

    Raises UserError as that does, and for a file that is missing or cannot be read.
    """
    path = Path(path)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; give the path of a .pth file") from None
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {reason(error)}; put that right") from None
    if is_folder:
        raise UserError(f"{path} is a folder and no checkpoint; give a .pth file in it")
    data = read_bytes(path, "a checkpoint")
    return TorchFile(torch_content(data, path), has_checksum(data), not data.startswith(BEFORE_1_6))


def torch_content(data: bytes, path: Path) -> Any:
    """What the bytes of a torch file hold, on the CPU; only tensors and plain values are ever unpickled.

    They are checked before, by their checksum or by those of their records, if there are any.
    path: what sentences call the file
    Raises UserError for bytes that are damaged or foreign, or that hold any other Python object.
    """
    check_bytes(data, path)
    file = io.BytesIO(data)
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to programmers about pickles of other kinds
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on a damaged file torch raises nearly every kind there is
        raise UserError(f"{path} {why_refused(error, data.startswith(BEFORE_1_6))}") from None
    if data.startswith(BEFORE_1_6) and file.tell() != len(data):
        raise UserError(f"{path} is damaged: some of its tensors were left out; {REMEDY}")
    return content


def why_refused(error: Exception, is_unchecked: bool) -> str:
    """What torch has against a file, as the rest of a sentence; is_unchecked: it has no checksums."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        what = f"holds the Python object {found.group(1)}, which is not a weight"
        doubt = ", or is damaged" if is_unchecked else ""
        return f"{what}{doubt}; it was refused unread, get the file from a source you trust"
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "asks for more memory than there is: it is damaged, or too large for this machine"
    return f"is damaged or is no torch file; {REMEDY}"


# ---------------------------------------------------------------- checksums


def has_checksum(data: bytes) -> bool:
    """Whether the bytes of a file end in a checksum, as `torch_bytes` gives them."""
    return data[-DIGITS - len(LABEL) : -DIGITS] == LABEL


def check_bytes(data: bytes, path: Path) -> None:
    """Raises UserError where the bytes of a torch file are not those that were written."""
    if not data:
        raise UserError(f"{path} is empty; {REMEDY}")
    if has_checksum(data):
        if hashlib.sha256(memoryview(data)[:-DIGITS]).hexdigest().encode() != data[-DIGITS:]:
            raise UserError(f"{path} is damaged: its checksum is another one; {REMEDY}")
    elif data.startswith(b"PK"):
        check_records(data, path)
    elif not data.startswith(BEFORE_1_6):
        raise UserError(f"{path} is no torch file; {REMEDY}")


def check_records(data: bytes, path: Path) -> None:
    """Raises UserError where the records of a zip file are damaged, or are no file of torch.save."""
    end = data.rfind(END)
    if end < 0 or len(data) != end + 22 + int.from_bytes(data[end + 20 : end + 22], "little"):
        raise UserError(f"{path} is cut off: its end is missing; {REMEDY}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
            names = {record.filename for record in records}
            is_plain = all(record.compress_type == zipfile.ZIP_STORED for record in records)
            is_plain &= not any(record.external_attr & FOLDER for record in records)
            is_plain &= len(names) == len(records) and sum(record.file_size for record in records) < len(data)
            broken = archive.testzip() if is_plain else None
    except Exception as error:  # zipfile raises many kinds on a damaged file
        raise UserError(f"{path} is damaged ({error}); {REMEDY}") from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{path} holds a TorchScript program; give the file of its weights alone")
    if not is_plain:
        raise UserError(f"{path} is damaged or was not written by torch.save; {REMEDY}")
    if broken:
        raise UserError(f"{path} is damaged: the checksum of {broken} in it is another one; {REMEDY}")
