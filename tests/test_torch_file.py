"""Damage to the bytes of a torch file is noticed, or has no effect."""

import hashlib
import io
import random
import re
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from utils.checkpoint import read_published
from utils.errors import UserError
from utils.torch_file import torch_bytes, torch_content

PATH = Path("run/best.pth")
CONTENT = {
    "weights": {"stem.weight": torch.arange(6.0).view(2, 3), "norm.num_batches_tracked": torch.tensor(7)},
    "model": "DeepPro",
    "best": 0.25,
    "words": [3, [1, 2], None],
}


def saved(zipped: bool = True, content=None) -> bytes:
    """A file that train.py did not write."""
    file = io.BytesIO()
    torch.save(CONTENT if content is None else content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def is_same(one, other) -> bool:
    """Whether two contents are equal to the bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and list(one) == list(other)
            and all(is_same(one[k], other[k]) for k in one)
        )
    return type(one) is type(other) and one == other


def read(data: bytes):
    return torch_content(bytes(data), PATH)


def refusals(data: bytes, flips: Iterable[tuple[int, int]]) -> int:
    """How many single flipped bits (byte, bit) were refused; of the others the content is the same."""
    refused = 0
    for place, bit in flips:
        damaged = bytearray(data)
        damaged[place] ^= 1 << bit
        try:
            found = read(damaged)
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{PATH} "), error
        else:
            assert is_same(found, CONTENT), f"bit {bit} of byte {place}: {found}"
    return refused


def every_bit(data: bytes) -> list[tuple[int, int]]:
    return [(place, bit) for place in range(len(data)) for bit in range(8)]


def classes_of(data: bytes) -> dict[str, list[int]]:
    """The places of each kind of bytes that a zip file of torch has."""
    names = ("signature", "name", "extra field", "pickle", "tensor", "descriptor", "directory", "end")
    places: dict[str, list[int]] = {name: [] for name in names}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records, start = archive.infolist(), archive.start_dir
    for record, after in zip(records, [*(r.header_offset for r in records[1:]), start], strict=True):
        begin = record.header_offset
        name, extra = struct.unpack("<HH", data[begin + 26 : begin + 30])
        parts = [30, name, extra, record.file_size]
        bounds = [begin + sum(parts[:n]) for n in range(5)]
        content = "pickle" if record.filename.endswith("data.pkl") else "tensor"
        for kind, first, last in zip(
            ("signature", "name", "extra field", content, "descriptor"),
            bounds,
            [*bounds[1:], after],
            strict=True,
        ):
            places[kind] += range(first, last)
    end = data.rfind(b"PK\x05\x06")
    places["directory"] += range(start, end)
    places["end"] += range(end, len(data))
    return places


# ---------------------------------------------------------------- flipped bits


def test_ours_is_a_zip_file_that_torch_reads_and_whose_comment_tells_its_sum():
    data = torch_bytes(CONTENT)
    assert is_same(torch.load(io.BytesIO(data), weights_only=True), CONTENT)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        label, colon, digest = archive.comment.decode().partition(": ")
    assert (label, len(digest)) == ("SHA-256 of the file up to here", 64)
    assert hashlib.sha256(data[:-64]).hexdigest() == digest


def test_a_flipped_bit_in_each_byte_of_ours_is_noticed():
    data = torch_bytes(CONTENT)
    assert sorted(place for places in classes_of(data).values() for place in places) == list(range(len(data)))
    flips = [(place, place % 8) for place in range(len(data))]
    refused = refusals(data, flips)
    assert refused >= len(data) - 32  # in the words of the comment it has no effect


def test_a_flipped_bit_in_each_kind_of_byte_of_a_foreign_file_is_noticed():
    """The container's own sums do that, and the rules of what torch.save writes."""
    data, draw = saved(), random.Random(0)
    for kind, places in classes_of(data).items():
        assert places, kind
        flips = [(place, draw.randrange(8)) for place in draw.sample(places, min(60, len(places)))]
        refused = refusals(data, flips)
        assert kind not in ("pickle", "tensor") or refused == len(flips)


def test_a_record_that_torch_would_take_for_an_empty_folder_is_refused():
    """One flipped bit of the directory, which Python's zipfile does not mind."""
    data = bytearray(saved())
    attributes = data.find(b"PK\x01\x02", data.find(b"PK\x01\x02") + 4) + 38
    for _ in range(10):  # some record of the directory holds a tensor
        data[attributes] ^= 0x10
        with pytest.raises(UserError, match="damaged or was not written by torch.save"):
            read(data)
        data[attributes] ^= 0x10
        attributes = data.find(b"PK\x01\x02", attributes) + 38
        if attributes < 38:
            break


@pytest.mark.slow
@pytest.mark.parametrize("write", [lambda: torch_bytes(CONTENT), saved], ids=["ours", "foreign"])
def test_every_flipped_bit_is_noticed_or_has_no_effect(write):
    data = write()
    assert refusals(data, every_bit(data)) > 4 * len(data)


@pytest.mark.parametrize("write", [lambda: torch_bytes(CONTENT), saved], ids=["ours", "foreign"])
def test_damage_of_many_kinds_is_noticed_or_has_no_effect(write):
    """Cut, filled with zeros, overwritten, doubled, with a part of it moved, and with something behind it."""
    data, draw = write(), random.Random(1)
    for _ in range(500):
        begin, end = sorted(draw.randrange(len(data)) for _ in range(2))
        part = data[begin:end]
        damaged = draw.choice(
            [
                data[:begin],
                data[end:],
                data[:begin] + bytes(end - begin) + data[end:],
                data[:begin] + draw.randbytes(end - begin) + data[end:],
                data[:begin] + data[end:],
                data[:begin] + part + part + data[end:],
                data[:begin] + part[::-1] + data[end:],
                data + part,
                part + data,
            ]
        )
        try:
            found = read(damaged)
        except UserError:
            continue
        assert is_same(found, CONTENT)


# ---------------------------------------------------------------- files without checksums, and hostile ones


def test_a_published_file_of_torch_before_1_6_is_read_with_a_note(tmp_path, capsys):
    path = tmp_path / "old.pth"
    path.write_bytes(saved(zipped=False))
    assert is_same(read_published(path), CONTENT)
    assert f"note: {path} has the form of torch before 1.6, which has no checksums" in capsys.readouterr().err
    path.write_bytes(saved())
    assert is_same(read_published(path), CONTENT)
    assert capsys.readouterr().err == ""


def test_a_tensor_that_a_file_of_torch_before_1_6_does_not_fill_is_noticed():
    """torch leaves its memory as it is."""
    data = saved(zipped=False, content={"a": torch.zeros(4), "b": torch.ones(4)})
    keys = re.search(rb"\x80\x02\]q\x00\(X(....)(\d+)q\x01X(....)(\d+)q\x02e\.", data, re.S)
    one = b"\x80\x02]q\x00(X" + keys[1] + keys[2] + b"q\x01e."
    with pytest.raises(UserError, match="damaged: some of its tensors were left out"):
        read(data.replace(keys[0], one))


class Call:
    """Unpickled as the result of a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HUGE = 2**45  # bytes or numbers, more than any machine has


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda storage: Call(torch._utils._rebuild_tensor_v2, storage, 0, (HUGE,), (1,), False, {}),
        lambda storage: Call(torch._utils._rebuild_tensor_v2, storage, 3, (4,), (1,), False, {}),
        lambda storage: Call(torch._utils._rebuild_tensor_v2, storage, 0, (2, 2), (9, 9), False, {}),
        lambda storage: Call(torch.UntypedStorage, HUGE),
        lambda storage: Call(bytearray, HUGE),
    ],
    ids=["size", "offset", "strides", "storage", "bytes"],
)
def test_no_memory_is_taken_that_a_file_only_announces(make, zipped):
    data = saved(zipped, {"weights": make(torch.ones(4).storage())})
    with pytest.raises(UserError, match="best.pth"):
        read(data)


def test_packed_records_are_refused():
    """torch writes none; a small file could so become a large one."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved())) as source,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(UserError, match="damaged or was not written by torch.save"):
        read(file.getvalue())


def test_a_record_that_is_there_twice_is_refused():
    file = io.BytesIO(saved())
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"another one")
    with pytest.raises(UserError, match="damaged or was not written by torch.save"):
        read(file.getvalue())
