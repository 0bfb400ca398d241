"""Kept predictions that were damaged: maps (npz), predictions.json, boxes.json.

Held means that test.py --predictions refuses them in one sentence, or gives the figures of what was kept.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.campaign import Case, FaultClass, NotHeld
from tests.faults.checkpoints import PLAIN, holder, places_of
from tests.faults.gadgets import gadgets
from tests.faults.judges import complaint
from tests.faults.mutations import EITHER, REFUSED, damaged
from tests.faults.observe import without_pictures
from tests.faults.toy_runs import copied, figures, kept_predictions
from tests.faults.training import training_data

Damaged = tuple[str, bytes, str]  # what was done, the new content, REFUSED or EITHER
FREE = "any figures"  # numbers that nobody can tell from the right ones


def map_file(case: Case, content: bytes) -> Damaged:
    """Maps that are none, too few, too many, of another size or of impossible values."""
    with np.load(io.BytesIO(content)) as file:
        maps = {name: file[name] for name in file.files}
    name = str(case.draw.choice(list(maps)))
    one = maps[name]
    impossible = {"7": 7, "-7": -7, "inf": np.inf, "nan": np.nan}
    others = {
        "of another size": one[:-1],
        "turned": one.T,
        "twice as large": np.repeat(np.repeat(one, 2, 0), 2, 1),
        "one number": np.float32(0.5),
        "without pixels": one[:0],
        "three-dimensional": one[None],
        "complex": one.astype(complex),
        "text": np.full(one.shape, "a"),
        "objects": np.array([gadgets(case.folder / "sentinel")["os.system"]], dtype=object),
        **{f"with a {text}": np.where(one == one.max(), value, one) for text, value in impossible.items()},
        **{f"all {text}": np.full_like(one, value) for text, value in impossible.items()},
    }
    what = str(case.draw.choice([*others, "missing", "under another name", "float64", "one too many"]))
    expects = REFUSED
    if what == "missing":
        del maps[name]
    elif what == "under another name":
        maps["a" + name] = maps.pop(name)
    elif what == "float64":
        maps[name], expects = one.astype(np.float64), EITHER
    elif what == "one too many":
        maps["99999"], expects = one, EITHER
    else:
        maps[name] = others[what]
    return f"map {name} {what}", npz(maps), expects


def npz(maps: dict[str, np.ndarray]) -> bytes:
    """A compressed file of maps as `MapStore` writes it; objects are pickled."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as container:
        for name, values in maps.items():
            with container.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=True)
    return file.getvalue()


def index_entries(case: Case, content: bytes) -> Damaged:
    """An entry of predictions.json is missing, of another kind, or belongs to another frame."""
    index = json.loads(content)
    images, other = index["images"], int(case.draw.integers(1, len(index["images"])))
    what = str(case.draw.choice(["frame twice", "frames swapped", "image gone", "image twice", "ids equal",
                                 "another sequence", "another size", "frame -1", "frame 1e9"]))  # fmt: skip
    if case.draw.random() < 0.6:
        return changed_entry(case, index)
    expects = REFUSED
    if what == "frame twice":
        images[0]["frame"] = images[other]["frame"]
    elif what == "frames swapped":
        images[0]["frame"], images[other]["frame"] = images[other]["frame"], images[0]["frame"]
    elif what == "image gone":
        del images[other]
    elif what == "image twice":
        images.append(images[other])
    elif what == "ids equal":
        images[0]["id"], expects = images[other]["id"], REFUSED
    elif what == "another sequence":
        images[other]["sequence"] = "Sequence77"
    elif what == "another size":
        images[other]["width"], expects = 7, EITHER
    else:
        images[other]["frame"] = -1 if what == "frame -1" else 10**9
    return what, json.dumps(index).encode(), expects


def changed_entry(case: Case, content: Any) -> Damaged:
    """One entry of a JSON file is missing or of another kind."""
    places = places_of(content)
    if case.draw.random() < 0.5:
        places = [place for place in places if len(place) <= 2]
    place = places[case.draw.integers(len(places))]
    inside, name = holder(content, place), "/".join(map(str, place))
    value = PLAIN[case.draw.integers(len(PLAIN))]
    is_scoring = "recipe" in place  # another legal threshold gives other figures, as it should
    if case.draw.random() < 0.3:
        del inside[place[-1]]
        return f"no {name}", json.dumps(content).encode(), FREE if is_scoring else EITHER
    inside[place[-1]] = value
    return f"{name} = {value!r}", json.dumps(content).encode(), FREE if is_scoring else EITHER


def box_entries(case: Case, content: bytes) -> Damaged:
    """Boxes that are none: not finite, without a frame, of the wrong kind."""
    rows = json.loads(content)
    if not rows:
        raise AssertionError("the toy predicts boxes")
    row = rows[case.draw.integers(len(rows))]
    changes = {
        "image_id 999": ("image_id", 999),
        "image_id null": ("image_id", None),
        "image_id a list": ("image_id", [1]),
        "image_id a text": ("image_id", "1"),
        "bbox nan": ("bbox", [float("nan"), 1, 2, 3]),
        "bbox inf": ("bbox", [1, 1, float("inf"), 3]),
        "bbox of three": ("bbox", [1, 2, 3]),
        "bbox a text": ("bbox", "1234"),
        "bbox of texts": ("bbox", ["1", "2", "3", "4"]),
        "bbox nested": ("bbox", [[1], [2], [3], [4]]),
        "negative width": ("bbox", [5, 5, -3, 4]),
        "score nan": ("score", float("nan")),
        "score 7": ("score", 7.0),
        "score -1": ("score", -1.0),
        "score a text": ("score", "high"),
        "score null": ("score", None),
    }
    what = str(case.draw.choice([*changes, "no bbox", "no score", "no image_id", "a dict", "a number", "null",
                                 "deep nesting", "a row of text"]))  # fmt: skip
    if what in changes:
        key, value = changes[what]
        row[key] = value
    elif what.startswith("no "):
        del row[what[3:]]
    whole = {"a dict": {"a": 1}, "a number": 7, "null": None, "a row of text": [*rows, "text"]}
    text = "[" * 100_000 if what == "deep nesting" else json.dumps(whole.get(what, rows))
    return what, text.encode(), REFUSED


def bytes_damage(case: Case, content: bytes) -> Damaged:
    """Damage to the bytes. In text, changed digits may be legal numbers."""
    what, new = damaged(case.draw, content)
    try:
        is_legal = json.loads(new) is not None
    except (ValueError, RecursionError):
        is_legal = False
    return what, new, FREE if is_legal else EITHER


def gone(case: Case, content: bytes) -> Damaged:
    """Nothing, or noise, lies where a file should."""
    return "only noise", case.draw.bytes(int(case.draw.integers(0, 400))), REFUSED


KINDS = (
    ("TopHat", "Sequence3.npz", bytes_damage),
    ("TopHat", "Sequence3.npz", bytes_damage),
    ("TopHat", "Sequence3.npz", map_file),
    ("TopHat", "Sequence3.npz", map_file),
    ("TopHat", "Sequence3.npz", map_file),
    ("TopHat", "Sequence3.npz", gone),
    ("TopHat", "predictions.json", index_entries),
    ("TopHat", "predictions.json", index_entries),
    ("ToyBoxes", "predictions.json", index_entries),
    ("ToyBoxes", "predictions.json", bytes_damage),
    ("ToyBoxes", "boxes.json", box_entries),
    ("ToyBoxes", "boxes.json", box_entries),
    ("ToyBoxes", "boxes.json", bytes_damage),
    ("ToyBoxes", "boxes.json", gone),
)


def scored(case: Case, folder: Path, log: Path) -> Any:
    """What test.py --predictions does."""
    flags = (
        "--predictions",
        folder,
        "--dataset_dir",
        training_data(case),
        "--log_dir",
        log,
        "--device",
        "cpu",
    )
    return case.call("test.py", *flags, before=without_pictures, seconds=60)


def expected_figures(case: Case, model: str) -> Any:
    """The figures of the predictions as they were kept."""
    kept = kept_predictions(case, model)

    def make(folder: Path) -> None:
        case.hold(complaint(scored(case, kept, folder / "log"), (0,)))
        (folder / "figures.json").write_text(json.dumps(figures(folder / "log", model)))

    return json.loads((case.once(f"kept_{model}", make) / "figures.json").read_text())


def try_predictions(case: Case) -> None:
    """One damaged file of one kind of predictions."""
    model, name, damage = case.chosen(KINDS)
    expected = expected_figures(case, model)
    folder = copied(kept_predictions(case, model), case.folder / "predictions")
    what, content, expects = damage(case, (folder / name).read_bytes())
    case.about = f"{name} of {model}: {what}; {expects}"
    (folder / name).write_bytes(content)
    ended = scored(case, folder, case.folder / "log")
    case.hold(complaint(ended))
    if (case.folder / "sentinel").exists():
        raise NotHeld("something was executed")
    if ended.code == 0 and expects == REFUSED:
        raise NotHeld("accepted, though it must be refused")
    if ended.code == 0 and expects == EITHER and figures(case.folder / "log", model) != expected:
        raise NotHeld("silently another figure")


PREDICTIONS = FaultClass(
    "predictions",
    "damaged kept predictions: refused, or the figures that were kept",
    {"full": 300, "short": 90, "ci": 16},
    try_predictions,
)
