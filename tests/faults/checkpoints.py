"""Malicious and damaged checkpoints, for --checkpoint, --resume and --official.

Pickles that would run something, in every place of the container; changed opcodes; flipped bits, cut and
swapped parts; entries that are missing or of another kind. Held means that nothing is executed (no file is
written by it, no process started, no connection opened), that no network gets other weights, and that a
refusal is one sentence, without a wait and without a huge allocation.
"""

import hashlib
import io
import math
import os
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch

from tests.faults.campaign import Case, FaultClass, NotHeld
from tests.faults.gadgets import gadgets
from tests.faults.judges import complaint
from tests.faults.mutations import damaged
from tests.faults.observe import without_pictures
from tests.faults.toy_runs import continued_run, copied, toy_run, toy_training
from tests.faults.training import comparable, difference, training_data
from utils.checkpoint import read_checkpoint, save_checkpoint

FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "pty.spawn")
ROUTES = ("checkpoint", "resume", "official")


# ---------------------------------------------------------------- files


def original_file(case: Case, route: str) -> bytes:
    """An intact file for the route: one of train.py, or published weights."""
    path = toy_run(case, "Toy") / "last.pth"
    if route != "official":
        return path.read_bytes()
    file = io.BytesIO()
    torch.save({"state_dict": read_checkpoint(path)["weights"], "epoch": 3}, file)
    return file.getvalue()


def content_of(case: Case, route: str) -> dict[str, Any]:
    return torch.load(io.BytesIO(original_file(case, route)), weights_only=True)


def places_of(value: Any, place: tuple = ()) -> list[tuple]:
    """The places of all entries of nested dicts and lists."""
    found = [place] if place else []
    if isinstance(value, dict):
        return found + [p for key, part in value.items() for p in places_of(part, (*place, key))]
    if isinstance(value, list) and len(value) < 20:
        return found + [p for i, part in enumerate(value) for p in places_of(part, (*place, i))]
    return found


def holder(content: Any, place: tuple) -> Any:
    """The dict or list in which the entry at `place` lies."""
    for key in place[:-1]:
        content = content[key]
    return content


def gadget(case: Case, route: str) -> tuple[str, bytes]:
    """An intact file with an object in it that runs something."""
    content, objects = content_of(case, route), gadgets(case.folder / "sentinel")
    name = str(case.draw.choice(list(objects)))
    how = int(case.draw.integers(6))
    file = io.BytesIO()
    if how == 0:  # all of the file
        pickle.dump(objects[name], file, protocol=int(case.draw.integers(0, 6)))
        return f"{name} alone", file.getvalue()
    places = places_of(content)
    place = places[case.draw.integers(len(places))]
    inside = holder(content, place)
    if how == 1 and isinstance(inside, dict) and isinstance(objects[name], Hashable):  # as a key
        inside[objects[name]] = inside.pop(place[-1])
    else:
        inside[place[-1]] = objects[name] if how < 4 else [inside[place[-1]], objects[name]]
    legacy = how == 5
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return f"{name} in {'/'.join(map(str, place))}{' of the older form' * legacy}", file.getvalue()


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(parts: dict[str, bytes]) -> bytes:
    """A container whose own checksums are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as container:
        for name, part in parts.items():
            container.writestr(name, part)
    return file.getvalue()


def opcodes(case: Case, route: str) -> tuple[str, bytes]:
    """One to three opcodes of the pickle are others, the container's checksums are right."""
    parts = members(original_file(case, route))
    name = next(name for name in parts if name.endswith("data.pkl"))
    data = bytearray(parts[name])
    known = [ord(code.code) for code in pickletools.opcodes]
    starts = [position for _, _, position in pickletools.genops(parts[name])]
    count = int(case.draw.integers(1, 4))
    for _ in range(count):
        at, new = int(case.draw.choice(starts)), int(case.draw.choice(known))
        how = case.draw.integers(3)
        if how == 0 and at < len(data):
            data[at] = new
        elif how == 1:
            data.insert(at, new)
        elif at < len(data):
            del data[at]
    return f"{count} opcodes", zipped({**parts, name: bytes(data)})


def damage(case: Case, route: str) -> tuple[str, bytes]:
    """Bits flip, parts are cut off or lost: anywhere in the file."""
    return damaged(case.draw, original_file(case, route))


def swapped_records(case: Case, route: str) -> tuple[str, bytes]:
    """The tensors of another checkpoint of the same network lie in the container, its checksums are right."""
    parts = members((toy_run(case, "Toy") / "last.pth").read_bytes())
    others = members((toy_run(case, "Toy", 2) / "last.pth").read_bytes())
    names = [
        n
        for n in parts
        if "/data/" in n and len(others.get(n, b"")) == len(parts[n]) and others[n] != parts[n]
    ]
    chosen = str(case.draw.choice(names))
    return f"{chosen} of another checkpoint", zipped({**parts, chosen: others[chosen]})


PLAIN: tuple[Any, ...] = (
    None,
    "text",
    7,
    -1,
    0.5,
    math.nan,
    math.inf,
    True,
    [],
    {},
    [1, "a"],
    {"a": 1},
    10**9,
)
OTHERS: tuple[Any, ...] = (*PLAIN, b"bytes", torch.zeros(2), torch.zeros(()), {1: 2})


def entries(case: Case, route: str) -> tuple[str, bytes]:
    """One entry is missing, or of another kind; the file itself is in order."""
    content = content_of(case, route)
    places = places_of(content)
    if case.draw.random() < 0.5:  # the outer ones are fewer, and matter as much
        places = [place for place in places if len(place) <= 2]
    place = places[case.draw.integers(len(places))]
    inside, name = holder(content, place), "/".join(map(str, place))
    if case.draw.random() < 0.3:
        del inside[place[-1]]
        what = f"no {name}"
    else:
        number = int(case.draw.integers(len(OTHERS)))
        inside[place[-1]] = OTHERS[number]
        what = f"{name} = {OTHERS[number]!r}"
    path = case.folder / "entries.pth"
    if route == "official":
        torch.save(content, path)
    else:
        save_checkpoint(path, {key: value for key, value in content.items() if key != "checksum"})
    return what, path.read_bytes()


def noise(case: Case, route: str) -> tuple[str, bytes]:
    """Other files under the name of a checkpoint."""
    forms = {
        "nothing": b"",
        "noise": case.draw.bytes(3000),
        "text": b"see the other disk\n" * 5,
        "an image": b"\x89PNG\r\n\x1a\n" + case.draw.bytes(100),
        "an empty zip": zipped({}),
        "a zip of text": zipped({"a.txt": b"a"}),
        "a TorchScript": zipped(
            {"m/constants.pkl": b"\x80\x02].", "m/data.pkl": b"\x80\x02}.", "m/version": b"3"}
        ),
        "an endless pickle": b"\x80\x02" + b"(" * 200_000,
        "a deep pickle": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        "only zeros": bytes(5000),
    }
    name = str(case.draw.choice(list(forms)))
    return name, forms[name]


KINDS: tuple[tuple[Callable[[Case, str], tuple[str, bytes]], tuple[str, ...]], ...] = (
    *[(gadget, (route,)) for route in ROUTES for _ in range(2)],
    *[(opcodes, (route,)) for route in ROUTES],
    *[(damage, (route,)) for route in ROUTES for _ in range(2)],
    (swapped_records, ROUTES[:2]),
    *[(entries, (route,)) for route in ROUTES for _ in range(2)],
    (noise, ROUTES),
)

# ---------------------------------------------------------------- the command that reads it


def digest(state: dict[str, torch.Tensor]) -> str:
    """The names and bits of weights."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode() + state[name].detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def watched(folder: Path) -> Callable[[], None]:
    """For `before`: notes every network that is filled, and every forbidden event."""

    def note(name: str, text: str) -> None:
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{text}\n".encode())
        os.close(file)

    def prepare() -> None:
        without_pictures()
        load = torch.nn.Module.load_state_dict

        def noted(module: torch.nn.Module, *args: Any, **options: Any) -> Any:
            done = load(module, *args, **options)
            note("loaded", digest(module.state_dict()))
            return done

        torch.nn.Module.load_state_dict = noted
        sys.addaudithook(lambda event, args: note("events", event) if event in FORBIDDEN else None)

    return prepare


def try_checkpoint(case: Case) -> None:
    """One file, by one route."""
    kind, routes = case.chosen(KINDS)
    route = str(case.draw.choice(routes))
    what, content = kind(case, route)
    case.about = f"--{route}: {kind.__name__}: {what}"
    intact = read_checkpoint(toy_run(case, "Toy") / "last.pth")
    allowed = {digest(intact["weights"]), digest(intact["trained_weights"])}
    if route == "resume":
        run = copied(toy_run(case, "Toy"), case.folder / "log" / "Synthetic" / "Toy" / "run")
        path = run / "last.pth"
        argv = (*toy_training(case, "Toy", case.folder / "log", 2), "--resume", run)
    else:
        path = case.folder / "weights.pth"
        places = ("--dataset_dir", training_data(case), "--log_dir", case.folder / "log")
        argv = ("test.py", "--model_names", "Toy", f"--{route}", path, *places, "--device", "cpu")
    path.write_bytes(content)
    ended = case.call(*argv, before=watched(case.folder), seconds=60)
    for name in ("sentinel", "events"):
        if (case.folder / name).exists():
            raise NotHeld(f"something was executed: {(case.folder / name).read_text()}")
    case.hold(complaint(ended))
    loaded = set((case.folder / "loaded").read_text().split()) if (case.folder / "loaded").exists() else set()
    is_legal = kind is entries or (
        kind is opcodes and route == "official"
    )  # other weights, as they are written
    if ended.code == 0 and loaded - allowed and not is_legal:
        raise NotHeld("loaded with other weights")
    if ended.code == 0 and kind is gadget:
        raise NotHeld("loaded with a foreign object in it")
    if ended.code == 0 and route == "resume" and not is_legal:
        expected = comparable(continued_run(case, "Toy") / "last.pth")
        if told := difference(comparable(path), expected):
            raise NotHeld(f"it goes on differently: {told}")


CHECKPOINTS = FaultClass(
    "checkpoints",
    "malicious and damaged checkpoints: nothing executed, no other weights, one sentence",
    {"full": 600, "short": 170, "ci": 34},
    try_checkpoint,
)
