"""Images by a pipe: cut out of the stream, decoded, and given up where somebody stops."""

import io
import os
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from test_bad_data import refused
from videos import noise, smooth

from dataset.sources import open_sources
from dataset.sources.pipe import ImageStream, PipedImages

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(frames: list[np.ndarray], kind: str = "PNG", **options) -> list[bytes]:
    files = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, kind, **options)
        files.append(file.getvalue())
    return files


def decoded(files: list[bytes]) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(file))) for file in files]


@pytest.fixture
def piped():
    """piped(content): a source of what is written to a pipe, by a thread, that is closed then."""
    ends = []

    def write(end: int, content: bytes) -> None:
        with open(end, "wb") as file:
            file.write(content)

    def make(content: bytes, **options) -> PipedImages:
        out, into = os.pipe()
        ends.append(open(out, "rb"))  # noqa: SIM115 - closed below
        threading.Thread(target=write, args=(into, content), daemon=True).start()
        return PipedImages(pipe=ends[-1], **options)

    yield make
    for end in ends:
        end.close()


def cut(content: bytes, part: int) -> tuple[list[bytes], int]:
    """The images in a stream of which so many bytes come at once, and how many bytes are skipped."""
    coming = io.BytesIO(content)
    stream = ImageStream(lambda: coming.read(part))
    return list(stream), stream.skipped


# ---- cutting ----


@pytest.mark.parametrize("part", [1, 7, 1000, 10**6])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"restart_marker_rows": 1})],
)
def test_images_are_cut_out_of_the_stream(kind, options, part):
    files = encoded(noise(4), kind, **options)
    assert cut(b"".join(files), part) == (files, 0)


def test_thumbnails_in_a_jpeg_are_no_frames():
    (inner,) = encoded(noise(1, (8, 8)), "JPEG")
    exif = b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner
    files = [file[:2] + exif + file[2:] for file in encoded(noise(2), "JPEG")]
    assert cut(b"".join(files), 50) == (files, 0)


@pytest.mark.parametrize("part", [1, 64, 10**6])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_is_between_images_is_skipped(kind, part):
    files = encoded(noise(3), kind)
    between = b"--boundary\r\nContent-Type: image\r\n\r\n"
    assert cut(between.join(files) + b"\n", part) == (files, 2 * len(between) + 1)


@pytest.mark.parametrize("part", [1, 64, 10**6])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_that_is_cut_off_is_one_broken_frame(kind, part):
    first, second, third = encoded(noise(3), kind)
    assert cut(first + second[: len(second) // 2] + third, part) == ([first, b"", third], 0)
    assert cut(first + second[: len(second) // 2], part) == ([first, b""], 0)
    assert cut(first + second[:12], part) == ([first, b""], 0)


def test_a_damaged_length_does_not_swallow_the_images_after_it():
    files = encoded(noise(4))
    start = files[1].index(b"IDAT") - 4
    for length in (2**31 - 1, 2**16, 1, len(files[1]) - start - 8, len(files[1]) - start - 16):
        broken = files[1][:start] + length.to_bytes(4, "big") + files[1][start + 4 :]
        for part in (1, 3, 100, 10**5):
            assert cut(files[0] + broken + files[2] + files[3], part) == ([files[0], b"", *files[2:]], 0)


@pytest.mark.parametrize("part", [1, 100])
@pytest.mark.parametrize(("kind", "broken_at"), [("PNG", b"IDAT"), ("JPEG", b"\xff\xda")])
def test_a_broken_image_does_not_hold_back_those_after_it(kind, broken_at, part):
    files = encoded(noise(300), kind)
    start = files[1].index(broken_at)
    damaged = (
        files[1][: start - 4] + b"\x7f\xff\xff\xff" + files[1][start:] if kind == "PNG" else files[1][:-2]
    )
    coming = io.BytesIO(files[0] + damaged + b"".join(files[2:]))
    images = iter(stream := ImageStream(lambda: coming.read(part)))
    assert [next(images), next(images), next(images)] == [files[0], b"", files[2]]
    assert len(stream._bytes) < 3 * len(files[0])


def test_no_more_than_an_image_is_held():
    files = encoded(noise(50))
    coming = io.BytesIO(b"x".join(files))
    stream = ImageStream(lambda: coming.read(100))
    for _ in stream:
        assert len(stream._bytes) < len(files[0]) + 200


# ---- frames ----


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_of_png_images(piped, dtype):
    frames = noise(40, dtype=dtype)
    source = piped(b"".join(encoded(frames)), gray_range="file")
    assert (source.name, source.is_live, source.length, source.size) == ("stdin", True, None, (24, 32))
    np.testing.assert_array_equal(source.samples(), frames[:32])
    found = list(source)
    assert [(frame.number, frame.name) for frame in found] == [(i, f"{i:06d}") for i in range(40)]
    np.testing.assert_array_equal([frame.pixels for frame in found], frames)


def test_frames_of_jpeg_images(piped):
    files = encoded(smooth(5), "JPEG")
    np.testing.assert_array_equal([frame.pixels for frame in piped(b"".join(files))], decoded(files))


def test_of_images_in_colour_the_luma_is_taken(piped):
    frames = [np.dstack([frame] * 3) for frame in smooth(2)]
    equal = piped(b"".join(encoded(frames)))
    np.testing.assert_array_equal([frame.pixels for frame in equal], smooth(2))
    assert equal.notes == []
    for frame in frames:
        frame[5:9, 10:30] = (250, 0, 0)
    source = piped(b"".join(encoded(frames)))
    assert [frame.pixels[6, 20] for frame in source] == [75, 75]  # 0.299 * 250
    assert source.notes == ["standard input is in colour; of each frame the luma is taken"]


def test_damaged_images_keep_their_numbers(piped):
    frames = noise(5)
    files = encoded(frames)
    place = files[2].index(b"IEND") - 5  # of the checksum of the pixels
    files[2] = files[2][:place] + bytes([files[2][place] ^ 1]) + files[2][place + 1 :]
    files[3] = files[3][:100]
    found = list(source := piped(b"".join(files) + b"rest"))
    assert [frame.pixels is None for frame in found] == [False, False, True, True, False]
    assert found[2].note == "frame 000002 of standard input is cut off or damaged; look at what sends it"
    np.testing.assert_array_equal(found[4].pixels, frames[4])
    assert source.notes == [
        f"2 frames of standard input cannot be read, the first one because: {found[2].note}",
        "4 bytes of standard input belong to no image and are skipped",
    ]


def test_a_header_that_announces_too_much(piped):
    header = b"IHDR" + (10**6).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    (good,) = encoded(noise(1))
    end = good[good.index(b"IDAT") - 4 :]
    huge = SIGNATURE + b"\x00\x00\x00\x0d" + header + zlib.crc32(header).to_bytes(4, "big") + end
    found = list(piped(good + huge))
    assert [frame.pixels is None for frame in found] == [False, True]


# ---- what is no stream of images, and stopping ----


@pytest.mark.parametrize("content", [b"", b"RIFF....AVI ", b"\x00" * 5000, SIGNATURE[:5]])
def test_a_stream_of_something_else(piped, content):
    refused(
        "standard input begins with no PNG and no JPEG image; pipe PNG or JPEG images into it",
        piped(content).check,
    )


def test_one_broken_image_is_no_video(piped):
    (file,) = encoded(noise(1))
    refused("no frame of standard input can be read; of the first one: frame 000000", piped(file[:200]).check)


def test_standard_input_that_is_a_terminal_or_closed(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Terminal()}))
    refused(
        "nothing is piped to standard input; pipe PNG or JPEG images into it, as `ffmpeg", open_sources, ["-"]
    )
    monkeypatch.setattr(sys, "stdin", None)
    refused("nothing is piped to standard input", open_sources, ["-"])


def test_standard_input_by_its_word(tmp_path, monkeypatch):
    frames = noise(3)
    (tmp_path / "frames").write_bytes(b"".join(encoded(frames)))
    with open(tmp_path / "frames", "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        (source,) = open_sources(["-", "-"])
        np.testing.assert_array_equal([frame.pixels for frame in source], frames)


def test_a_wait_for_bytes_can_be_stopped():
    """As of a camera that sends nothing any more."""
    out, into = os.pipe()
    with open(out, "rb") as pipe, open(into, "wb", buffering=0) as sender:
        sender.write(encoded(noise(1))[0])
        source, found = PipedImages(pipe=pipe), []
        reader = threading.Thread(target=lambda: found.extend(source))
        reader.start()
        time.sleep(0.1)
        assert reader.is_alive() and len(found) == 1
        source.stop()
        reader.join(5)
        assert not reader.is_alive() and len(found) == 1


def test_a_frame_is_given_before_the_next_one_comes():
    out, into = os.pipe()
    with open(out, "rb") as pipe, open(into, "wb", buffering=0) as sender:
        source = iter(PipedImages(pipe=pipe))
        for number, file in enumerate(encoded(noise(3)) + [b""]):
            sender.write(file)
            if file:
                assert next(source).number == number
