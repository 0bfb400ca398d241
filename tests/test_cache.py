"""The cache of decoded frames: the same values from files that are made once."""

import dataclasses
import errno
import importlib
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from recipes import clips_of, video_of, view_of
from test_frames import pixels_of, random_frames, random_masks, saved, sequence_of
from torch.utils.data import DataLoader

import dataset.cache
import dataset.frames
from dataset.cache import FORMAT, SAMPLE, CachedFrames, cache_folder, fill_caches, npy_header
from dataset.frames import SequenceFrames
from dataset.masks import MaskRule
from dataset.sequence import Sequence, SequenceSet
from tests.conftest import ROOT
from utils.errors import UserError
from utils.files import temporary_beside


@pytest.fixture
def count_decoded(monkeypatch):
    decoded = []

    def count(read):
        return lambda path, *options: decoded.append(path) or read(path, *options)

    for name in ("read_gray", "read_mask"):
        monkeypatch.setattr(dataset.frames, name, count(getattr(dataset.frames, name)))
    return decoded


@pytest.mark.parametrize("resize", [None, (9, 11)])
@pytest.mark.parametrize("depth", [1, 257])
def test_the_cache_changes_no_value(tmp_path, resize, depth):
    images = [frame * np.array(depth, np.uint16 if depth > 1 else np.uint8) for frame in random_frames(4)]
    sequence = sequence_of(tmp_path, images, masks=random_masks(4, seed=1))
    view = view_of("train", train_resize=resize)
    plain = SequenceFrames(sequence, view)
    cached = SequenceFrames(sequence, view, cache=tmp_path / "cache")
    assert np.array_equal(cached.images(0, 4), plain.images(0, 4))
    assert np.array_equal(cached.masks(range(4)), plain.masks(range(4)))
    assert cached.statistics() == plain.statistics()


def test_one_cache_serves_several_views(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(2), masks=random_masks(2, seed=1))
    kinds = [
        {},
        {"train_resize": (9, 11)},
        {"letterbox": 16},
        {"train_resize": (9, 11), "mask_resize": "nearest"},
    ]
    for _ in range(2):
        for settings in kinds:
            view = view_of("train", **settings)
            plain, cached = (SequenceFrames(sequence, view, cache) for cache in (None, tmp_path / "cache"))
            assert np.array_equal(cached.images(0, 2), plain.images(0, 2))
            assert np.array_equal(cached.masks(range(2)), plain.masks(range(2)))


def test_masks_read_by_another_rule_are_decoded_anew(tmp_path):
    grays = np.arange(42, dtype=np.uint8).reshape(6, 7)
    sequence = sequence_of(tmp_path, random_frames(1), masks=[grays])
    for threshold in (10, 20):
        chosen = dataclasses.replace(sequence, mask_rule=MaskRule(threshold))
        mask = SequenceFrames(chosen, cache=tmp_path / "cache").mask(0)
        assert np.array_equal(mask, grays > threshold)


def test_cached_masks_do_not_outlive_the_size_of_their_frames(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(1), masks=random_masks(1))
    SequenceFrames(sequence, cache=tmp_path / "cache").mask(0)
    saved(sequence.images[0], np.zeros((8, 9), np.uint8))
    with pytest.raises(UserError, match="mask.* is 7x6, .* is 9x8; all frames and masks of a sequence"):
        SequenceFrames(sequence, cache=tmp_path / "cache").mask(0)


def test_with_the_cache_each_file_is_decoded_once_for_all_epochs(tmp_path, count_decoded):
    sequence = sequence_of(tmp_path, random_frames(5), masks=random_masks(5))
    for _ in range(2):
        frames = SequenceFrames(sequence, cache=tmp_path / "cache")
        for _epoch in range(2):
            frames.images(0, 4), frames.masks(range(1, 5)), frames.statistics()
    assert sorted(count_decoded) == sorted(sequence.images + sequence.masks)


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("differs", ["time", "size", "bytes"])
def test_a_changed_file_is_decoded_anew_and_the_old_frames_are_removed(tmp_path, kind, differs):
    sequence = sequence_of(tmp_path, random_frames(3), masks=random_masks(3))
    cache = tmp_path / "cache"
    before = pixels_of(SequenceFrames(sequence, cache=cache), kind)
    path = getattr(sequence, kind)[1]
    stat = path.stat()
    saved(path, np.zeros((6, 7), np.uint8))
    assert path.stat().st_size < stat.st_size
    if differs != "size":
        path.write_bytes(path.read_bytes().ljust(stat.st_size, b"."))
    os.utime(path, ns=(0, stat.st_mtime_ns + (10**9 if differs == "time" else 0)))
    after = pixels_of(SequenceFrames(sequence, cache=cache), kind)
    assert not after[1].any()
    assert np.array_equal(after[::2], before[::2])
    assert len(os.listdir(cache)) == 1


@pytest.mark.parametrize("place", [0, 70, -1])
def test_a_change_at_either_end_of_a_large_file_is_noticed(tmp_path, place):
    noise = np.random.default_rng(0).integers(0, 256, (130, 140), dtype=np.uint8)
    sequence = sequence_of(tmp_path, [noise])
    (path,), cache = sequence.images, tmp_path / "cache"
    SequenceFrames(sequence, cache=cache).image(0)
    stat = path.stat()
    noise[place, 3] ^= 1  # the end of a PNG tells of any pixel
    saved(path, noise)
    assert path.stat().st_size == stat.st_size > 3 * SAMPLE
    os.utime(path, ns=(0, stat.st_mtime_ns))
    assert np.array_equal(SequenceFrames(sequence, cache=cache).image(0), noise)


def test_sequences_and_kinds_that_share_a_folder_have_files_of_their_own(tmp_path):
    paths = sequence_of(tmp_path, random_masks(4)).images
    for _ in range(2):
        for name, part in (("a", slice(0, 2)), ("b", slice(2, 4))):
            sequence = Sequence(name, paths[part], masks=paths[part])
            for view in (view_of(), view_of(letterbox=16)):
                plain, frames = (SequenceFrames(sequence, view, at) for at in (None, tmp_path / "cache"))
                assert np.array_equal(frames.images(0, 2), plain.images(0, 2))
                assert np.array_equal(frames.masks(range(2)), plain.masks(range(2)))
        assert len(os.listdir(tmp_path / "cache")) == 8


@pytest.mark.parametrize("differs", ["time", "size", "order"])
def test_a_change_in_the_middle_of_a_large_file_is_noticed_by_the_rest(tmp_path, differs):
    """Of a BMP, whose ends say nothing of its other pixels."""
    images = [np.zeros((130, 140), np.uint8) for _ in range(2)]
    images[1][65, 70] = 9
    paths = tuple(saved(tmp_path / f"{i}.bmp", image) for i, image in enumerate(images))
    for path in paths:
        path.write_bytes(path.read_bytes() + bytes(2 * SAMPLE))
        os.utime(path, ns=(0, 10**18))
    sequence = Sequence("a", paths)
    SequenceFrames(sequence, cache=tmp_path / "cache").image(0)
    if differs == "order":
        sequence = Sequence("a", paths[::-1])
    else:
        content = paths[1].read_bytes()
        paths[0].write_bytes(content + bytes(differs == "size"))
        os.utime(paths[0], ns=(0, 10**18 + (differs == "time")))
    assert np.array_equal(SequenceFrames(sequence, cache=tmp_path / "cache").image(0), images[1])


@pytest.mark.parametrize("change", ["one more", "one less"])
def test_a_sequence_of_another_length_replaces_what_was_there(tmp_path, change):
    images, cache = random_frames(4), tmp_path / "cache"
    sequence = sequence_of(tmp_path, images)
    fewer = dataclasses.replace(sequence, images=sequence.images[:3])
    pair = (fewer, sequence) if change == "one more" else (sequence, fewer)
    for chosen in pair:
        found = SequenceFrames(chosen, cache=cache).images(0, len(chosen))
        assert np.array_equal(found, images[: len(chosen)])
    assert len(os.listdir(cache)) == 1


def test_frames_of_two_depths_are_refused(tmp_path):
    images = random_frames(3)
    images[1] = images[1].astype(np.uint16)
    with pytest.raises(UserError, match=r"1\.png has pixels of 16 bit, .* must have one depth"):
        SequenceFrames(sequence_of(tmp_path, images), cache=tmp_path / "cache").image(0)
    assert os.listdir(tmp_path / "cache") == []


def test_a_missing_file_is_named_with_the_cache_as_well(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(2))
    sequence.images[1].unlink()
    with pytest.raises(UserError, match=r"1\.png is missing"):
        SequenceFrames(sequence, cache=tmp_path / "cache").images(0, 2)


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(3))
    sequence.images[2].write_bytes(sequence.images[2].read_bytes()[:60])
    with pytest.raises(UserError, match=r"2\.png"):
        SequenceFrames(sequence, cache=tmp_path / "cache").images(0, 1)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_the_cache_may_be_read_by_whoever_may_read_new_files(tmp_path):
    sequence = sequence_of(tmp_path, random_frames(2))
    SequenceFrames(sequence, cache=tmp_path / "cache").images(0, 2)
    (tmp_path / "new").touch()
    (cached,) = (tmp_path / "cache").iterdir()
    assert cached.stat().st_mode == (tmp_path / "new").stat().st_mode


# ---- damaged files ----


@pytest.fixture
def cached(tmp_path) -> tuple[Sequence, Path, np.ndarray]:
    """A sequence of three frames, its file in the cache, its pixels."""
    sequence = sequence_of(tmp_path, random_frames(3))
    pixels = SequenceFrames(sequence, cache=tmp_path / "cache").images(0, 3)
    return sequence, *(tmp_path / "cache").iterdir(), pixels


def read_again(cached) -> np.ndarray:
    sequence, path, _ = cached
    return SequenceFrames(sequence, cache=path.parent).images(0, 3)


def replace_by(thing: str, path: Path) -> None:
    path.unlink()
    if thing == "folder":
        path.mkdir()
    elif thing == "looping link":
        path.symlink_to(path.name)
    elif thing == "link to nothing":
        path.symlink_to("nothing")
    elif thing == "pipe":
        os.mkfifo(path)
    elif thing == "array":
        with open(path, "wb") as file:
            np.save(file, np.zeros((3, 6, 7), np.uint8))
    elif thing == "zeros":
        path.write_bytes(bytes(1000))
    else:
        path.write_text(thing)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
@pytest.mark.parametrize(
    "thing", ["", "text", "array", "zeros", "folder", "looping link", "link to nothing", "pipe"]
)
def test_what_is_no_file_of_the_cache_is_replaced(cached, thing, capsys):
    sequence, path, pixels = cached
    replace_by(thing, path)
    assert np.array_equal(read_again(cached), pixels)
    assert path.is_file() and os.listdir(path.parent) == [path.name]
    assert capsys.readouterr().out == ""


def test_a_folder_that_is_not_empty_is_left_alone(cached):
    _, path, _ = cached
    replace_by("folder", path)
    (path / "mine").touch()
    with pytest.raises(UserError, match=rf"cannot write {path}: Is a directory"):
        read_again(cached)
    assert (path / "mine").exists()


def test_a_file_cut_anywhere_is_made_anew(cached):
    _, path, pixels = cached
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 17), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert np.array_equal(read_again(cached), pixels), length
        assert path.read_bytes() == whole, length


def test_a_file_with_any_byte_changed_is_made_anew(cached, capsys):
    """Those of the frames are found by their checksums, which is worth a note: the disk may be failing."""
    _, path, pixels = cached
    whole = path.read_bytes()
    assert np.array_equal(np.load(path), pixels)
    first = len(npy_header(np.dtype(np.uint8), (3, 6, 7)))
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        assert np.array_equal(read_again(cached), pixels), place
        assert path.read_bytes() == whole, place
        told = capsys.readouterr().out
        if 0 <= place - first < pixels.size:
            frame = (place - first) // pixels[0].size
            assert told == f"note: frame {frame} in the cache file {path} is damaged; it is written anew\n"
        else:
            assert told == ""


def test_a_file_with_a_byte_more_or_less_is_made_anew(cached, capsys):
    _, path, pixels = cached
    whole = path.read_bytes()
    for content in (whole[:200] + b"." + whole[200:], whole[:200] + whole[201:], whole + b"."):
        path.write_bytes(content)
        assert np.array_equal(read_again(cached), pixels)
        assert capsys.readouterr().out == ""


def test_a_frame_is_compared_with_its_checksum_once(cached, monkeypatch):
    sequence, path, pixels = cached
    frames = SequenceFrames(sequence, cache=path.parent)
    frames.images(0, 2)
    checked = []
    monkeypatch.setattr(CachedFrames, "_is_whole", lambda _, index: checked.append(index) or True)
    assert np.array_equal(frames.images(0, 3), pixels)
    assert set(checked) == {2}


def test_a_disk_that_does_not_keep_what_is_written_is_named(cached, monkeypatch):
    sequence, path, _ = cached
    build = CachedFrames._build

    def build_damaged(frames):
        build(frames)
        content = bytearray(path.read_bytes())
        content[150] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(CachedFrames, "_build", build_damaged)
    path.unlink()
    with pytest.raises(
        UserError, match=rf"{path} does not hold what was written to it; .* another --cache_dir"
    ):
        read_again(cached)


def test_of_two_processes_that_find_the_same_damage_one_writes_the_file(cached, capsys):
    sequence, path, pixels = cached
    content = bytearray(path.read_bytes())
    content[150] ^= 1
    path.write_bytes(content)
    pair = [SequenceFrames(sequence, cache=path.parent) for _ in range(2)]
    for frames in pair:
        frames.image(2)  # mapped before anything is found
    for frames in pair:
        assert np.array_equal(frames.images(0, 3), pixels)
    assert capsys.readouterr().out.count("note:") == 1


def test_a_file_of_another_sequence_or_program_is_not_used(tmp_path, monkeypatch):
    cache, files = tmp_path / "cache", []
    for name in "ab":
        sequence = sequence_of(tmp_path / name, random_frames(3, seed=ord(name)))
        SequenceFrames(sequence, cache=cache).image(0)
        files += sorted(set(cache.iterdir()) - set(files))
    shutil.copy(files[0], files[1])
    found = SequenceFrames(sequence, cache=cache).images(0, 3)
    assert np.array_equal(found, random_frames(3, seed=ord("b")))
    monkeypatch.setattr(dataset.cache.PIL, "__version__", "another")
    SequenceFrames(sequence, cache=cache).image(0)
    assert len(list(cache.iterdir())) == 3


# ---- disks that are full or cannot be written ----

SIDE = 400  # of frames that are larger than the disks below


def large_sequence(folder: Path) -> Sequence:
    return sequence_of(folder, [np.full((SIDE, SIDE), value, np.uint8) for value in range(4)])


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB; `mount` gives it other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        return shutil.which("mount") and subprocess.run(command, capture_output=True).returncode == 0

    if not mount("size=256k"):
        pytest.skip("this user may not mount a disk")
    yield folder, mount
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("reserves", [True, False])
def test_a_full_disk_is_told_and_nothing_stays(tmp_path, small_disk, monkeypatch, reserves):
    folder, _ = small_disk
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    told = rf"cannot write {folder}/cache/\w+-v2\.npy: No space left on device; it needs 1 MiB in "
    with pytest.raises(UserError, match=rf"{told}{folder}/cache: free some space or use another --cache_dir"):
        SequenceFrames(large_sequence(tmp_path), cache=folder / "cache").image(0)
    assert os.listdir(folder / "cache") == []


def test_a_folder_that_cannot_be_written_is_read_as_long_as_its_files_serve(tmp_path, small_disk):
    folder, mount = small_disk
    sequence = sequence_of(tmp_path, random_frames(3))
    SequenceFrames(sequence, cache=folder / "cache").image(0)
    assert mount("remount,ro")
    assert cache_folder(folder / "cache") == folder / "cache"
    found = SequenceFrames(sequence, cache=folder / "cache").images(0, 3)
    assert np.array_equal(found, random_frames(3))
    other = sequence_of(tmp_path / "other", random_frames(3))
    with pytest.raises(UserError, match=r"cannot write .*: Read-only file system; it needs 1 MiB in"):
        SequenceFrames(other, cache=folder / "cache").image(0)
    with pytest.raises(UserError, match=r"cannot make the cache folder .*new: Read-only file system; use an"):
        cache_folder(folder / "new")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("reserves", [True, False])
def test_a_limit_on_the_size_of_files_is_told(tmp_path, monkeypatch, reserves):
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    frames = SequenceFrames(large_sequence(tmp_path), cache=tmp_path / "cache")
    context = multiprocessing.get_context("fork")
    told, said = context.Pipe(duplex=False)

    def child():
        resource = importlib.import_module("resource")
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))
        try:
            frames.image(0)
        except UserError as error:
            said.send(str(error))

    process = context.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "-v2.npy: File too large; it needs 1 MiB in" in told.recv()
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_space_is_reserved_before_the_frames_are_decoded(tmp_path, monkeypatch, count_decoded, number):
    def refuse(_file, start, size):
        assert (start, size) == (0, 128 + 3 * 6 * 7)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    sequence = sequence_of(tmp_path, random_frames(3))
    with pytest.raises(UserError, match=rf"{os.strerror(number)}; it needs 1 MiB in {tmp_path}/cache"):
        SequenceFrames(sequence, cache=tmp_path / "cache").image(0)
    assert count_decoded == [sequence.images[0]]  # by which the size is known
    assert os.listdir(tmp_path / "cache") == []


def test_a_disk_that_is_found_to_be_full_at_the_end_is_told(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match="No space left on device"):
        SequenceFrames(sequence_of(tmp_path, random_frames(3)), cache=tmp_path / "cache").image(0)
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_that_cannot_reserve_space_is_written(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    sequence = sequence_of(tmp_path, random_frames(3))
    found = SequenceFrames(sequence, cache=tmp_path / "cache").images(0, 3)
    assert np.array_equal(found, random_frames(3))


def test_what_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the cache folder .*file is no folder; use another --cache_dir"):
        cache_folder(tmp_path / "file")
    with pytest.raises(
        UserError, match=r"cannot make the cache folder .*file/x: Not a directory; use another"
    ):
        cache_folder(tmp_path / "file/x")


# ---- what stays in the folder ----


def test_abandoned_outdated_and_unused_files_are_removed(cached):
    sequence, path, _ = cached
    folder, digits = path.parent, "0123456789abcdef" * 2
    unused = folder / f"{digits}-v{FORMAT}.npy"
    kept = [folder / "mine.npy", folder / "0123.npy", folder / f"{digits}-v{FORMAT + 1}.npy"]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = temporary_beside(path)
    abandoned = own.with_name(own.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    removed = [unused, abandoned, folder / f"{digits}.npy", folder / f"{digits}-v{FORMAT - 1}.npy"]
    for other in (*kept, *removed, own):
        other.touch()
    long_ago = time.time() - 31 * 24 * 3600
    for old in (unused, path, kept[0]):
        os.utime(old, (long_ago, long_ago))
    read_again(cached)  # which tells that it is in use
    assert cache_folder(folder) == folder
    assert sorted(folder.iterdir()) == sorted([path, own, *kept])


def test_frames_that_are_mapped_outlive_their_file(cached):
    sequence, path, pixels = cached
    frames = SequenceFrames(sequence, cache=path.parent)
    frames.image(0)
    path.unlink()
    assert np.array_equal(frames.images(0, 3), pixels)


# ---- processes ----


BUILD = """
import sys, time
from pathlib import Path
import dataset.frames as module
from dataset.sequence import Sequence

folder = Path(sys.argv[1])
read = module.read_gray
def slow_read(*args):
    time.sleep(0.03)
    return read(*args)
module.read_gray = slow_read
sequence = Sequence("a", tuple(folder / f"images/{i}.png" for i in range(10)))
(folder / f"ready{sys.argv[2]}").touch()
while len(list(folder.glob("ready*"))) < 2:
    time.sleep(0.005)
print(module.SequenceFrames(sequence, cache=folder / "cache").images(0, 10).tolist())
"""


def test_two_processes_may_build_the_cache_at_once(tmp_path):
    images = random_frames(10)
    sequence_of(tmp_path, images)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, tmp_path, str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    expected = str([frame.astype(float).tolist() for frame in images])
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == [expected] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_frames_are_sent_to_processes_without_their_pixels(tmp_path):
    frames = SequenceFrames(large_sequence(tmp_path), cache=tmp_path / "cache")
    before = frames.images(0, 4)
    sent = pickle.dumps(frames)
    assert len(sent) < SIDE * SIDE / 10
    assert np.array_equal(pickle.loads(sent).images(0, 4), before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_files_are_not_held_open(cached):
    sequence, path, _ = cached
    before = len(os.listdir("/proc/self/fd"))
    many = [SequenceFrames(sequence, cache=path.parent) for _ in range(20)]
    for frames in many:
        frames.image(0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_frames_cannot_be_changed(cached):
    sequence, path, _ = cached
    with pytest.raises(ValueError, match="read-only"):
        SequenceFrames(sequence, cache=path.parent).image(0)[0, 0] = 1


@pytest.mark.parametrize("task", ["masks", "boxes"])
def test_all_files_are_made_before_workers_start(tmp_path, monkeypatch, task):
    sequences = [
        dataclasses.replace(
            sequence_of(tmp_path / name, random_frames(5), masks=random_masks(5, seed=1)), name=name
        )
        for name in "abc"
    ]
    data = SequenceSet("Set", tmp_path, "train", tuple(sequences), mean=100, std=30)
    settings = {"frames": 2, "key": "all" if task == "masks" else 0}
    clips = clips_of(data, task, tmp_path / "cache", **settings)
    video = video_of(sequences[0], data, tmp_path / "cache", test_resize=(9, 11), frames=2)
    for uncached in (clips_of(data, task, **settings), video_of(sequences[0], data, frames=2)):
        assert uncached.cache_steps() == []
    fill_caches([clips, video])
    assert len(list((tmp_path / "cache").iterdir())) == (6 if task == "masks" else 4) + 1

    def refuse(_):
        raise AssertionError("built in a worker")

    monkeypatch.setattr(CachedFrames, "_build", refuse)
    monkeypatch.setattr(CachedFrames, "_map", refuse)
    loader = DataLoader(clips, None, sampler=[(0, i) for i in range(len(clips))], num_workers=2)
    assert len(list(loader)) == len(clips)
    assert len(list(video)) == len(video)
