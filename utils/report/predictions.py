"""Predictions on the disk: written once, scored as often as one likes, without the network.

A folder holds predictions.json (model, data set, recipe, the list of frames, COCO's "images", and the SHA-256
of the other files and of itself) and
    boxes.json         of box models: COCO results, one entry per box, image_id as in that list
    <sequence>.npz     of mask models: one compressed float32 map [H, W] per frame, in the order of the frames
    <sequence>/*.png   likewise, floor(255 p) as the published code writes it, to look at
and, where the recipe resizes frames, the same in the pixels of the network's input (input_boxes.json,
<sequence>.input.npz), from which each protocol takes its own way back.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.boxes import Prediction
from utils.entries import COUNT, ENTRIES, LIST, SIDE, WORD, WORDS, Kind, check_entries
from utils.errors import UserError
from utils.files import plain, read_json, remove_abandoned, write_json
from utils.report.prediction_files import INDEX, REMEDY, STORES, BoxStore, MapStore, changes_size

FORMAT = "moving-irstd predictions, version 1"
FACTS = {
    "kind": Kind(" or ".join(STORES), lambda value: type(value) is str and value in STORES),
    "model": WORD,
    "weights": WORD,
    "trained_on": Kind("a word, or none", lambda value: value is None or WORD.fits(value)),
    "dataset": WORD,
    "dataset_dir": WORD,
    "dataset_options": WORDS,
    "split": Kind("test or train", lambda value: value in ("test", "train")),
    "recipe": ENTRIES,
    "images": LIST,
}
LATER = {  # what earlier programs have not written
    "files": ENTRIES,
    "inputs": Kind("true or false", lambda value: type(value) is bool),
}
IMAGE = {"id": COUNT, "sequence": WORD, "frame": COUNT, "width": SIDE, "height": SIDE, "file_name": WORD}


# ---------------------------------------------------------------- writing


class PredictionWriter:
    """Call it for every frame in order, as `utils.engine.score.evaluate` does, and `finish` at the end.

    A context, which removes at its end what an error has left half written, and at its beginning what killed
    tests have left in the folders beside its own.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.kind = "boxes"  # as long as there is no frame
        self.store: MapStore | BoxStore = BoxStore(folder)

    def __enter__(self) -> "PredictionWriter":
        for path in self.folder.parent.parent.glob(f"*/{self.folder.name}/**/"):
            remove_abandoned(path)
        return self

    def __exit__(self, *_) -> None:
        self.store.abandon()

    def __call__(self, video, index: int, prediction: Prediction, _truth: dict) -> None:
        if not self.images:
            self.kind = prediction.kind
            self.store = STORES[self.kind](self.folder, prediction.output is not None and changes_size(video))
        height, width = video.size
        image = {"id": len(self.images) + 1, "sequence": video.name, "frame": index, "width": width}
        self.images.append({**image, "height": height, "file_name": video.frames.sequence.images[index].name})
        self.store.add(video, index, image, prediction)

    def finish(self, facts: dict[str, Any]) -> None:
        """Write what is left and, last, the index with `facts` (model, weights, dataset, ..., recipe)."""
        self.store.finish()
        index = {"format": FORMAT, "kind": self.kind, "inputs": self.store.inputs, **facts}
        index["images"] = self.images
        index = plain({**index, "files": self.store.digests})
        write_json(self.folder / INDEX, {**index, "sha256": digest_of(index)})


def digest_of(index: dict[str, Any]) -> str:
    """The SHA-256 of an index but for its own."""
    content = {key: value for key, value in index.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class SavedPredictions:
    """A folder that a `PredictionWriter` has finished.

    facts:  what its index says
    frames: the images of each sequence, in order
    """

    folder: Path
    facts: dict[str, Any] = field(repr=False)
    frames: dict[str, list[dict[str, Any]]] = field(repr=False)

    @property
    def index(self) -> Path:
        return self.folder / INDEX

    def check(self, videos: Iterable[Any]) -> None:
        """Raises UserError unless the files are whole, and their frames are just those of the videos."""
        videos = list(videos)
        for video in videos:
            self.check_frames(video)
        if others := sorted(self.frames.keys() - {video.name for video in videos}):
            raise UserError(
                f"{self.folder} has predictions of {others[0]}, which is not in the data set (and "
                f"{len(others) - 1} more); test the network on this data set again"
            )
        self.store  # noqa: B018, checks the files

    def reader(self, threshold: float):
        """A `predict` of `engine.score.evaluate`; the arguments are those of the predictions' classes."""
        store = self.store

        def predict(video) -> Iterator[tuple[int, Prediction]]:
            return store.read(video, self.check_frames(video), threshold)

        return predict

    @cached_property
    def store(self) -> MapStore | BoxStore:
        """What reads the files, after a check of them."""
        store = STORES[self.facts["kind"]](self.folder, self.facts.get("inputs", False))
        store.check(self.frames, self.facts.get("files"))
        return store

    def check_frames(self, video) -> list[dict[str, Any]]:
        """The images of a video. Raises UserError unless its frames are those that were predicted."""
        saved = self.frames.get(video.name, [])
        names = [path.name for path in video.frames.sequence.images]
        if [image["file_name"] for image in saved] != names:
            raise UserError(
                f"{self.folder} has {len(saved)} predictions of {video.name}, which has {len(names)} "
                "frames or other ones; test the network on this data set again"
            )
        for image in saved[:1]:
            size = (image["height"], image["width"])
            if size != tuple(video.size):
                raise UserError(
                    f"{self.index} has frames of {size[0]}x{size[1]} pixels of {video.name}, whose own have "
                    f"{video.size[0]}x{video.size[1]}; test the network on this data set again"
                )
        return saved


def read_predictions(folder: Path) -> SavedPredictions:
    """The predictions in `folder`, or in a folder `predictions` in it.

    Raises UserError when there are none, when the test that wrote them was cut off, and for an index that is
    not as it was written. `SavedPredictions.check` looks at the other files.
    """
    for place in (folder, folder / "predictions"):
        if os.path.lexists(place / INDEX):
            return SavedPredictions(place, *read_index(place / INDEX))
    raise UserError(
        f"there is no {INDEX} in {folder}; give a folder that test.py --save_predictions has finished"
    )


def read_index(path: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """(facts, images of each sequence) of an index. Raises UserError for what is not as it was written."""
    facts = read_json(path, "the list of predictions")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UserError(f"{path} was not written by test.py --save_predictions")
    check_entries(facts, FACTS | {key: LATER[key] for key in LATER.keys() & facts.keys()}, path, REMEDY)
    frames: dict[str, list[dict[str, Any]]] = {}
    ids = set()
    for number, image in enumerate(facts["images"]):
        where = f"{path}, images[{number}],"
        check_entries(image, IMAGE, where, REMEDY)
        before = frames.setdefault(image["sequence"], [])
        if image["frame"] != len(before):
            raise UserError(
                f"{where} is frame {image['frame']} of {image['sequence']}, but frame {len(before)} comes "
                f"next; {REMEDY}"
            )
        if image["id"] in ids:
            raise UserError(f"{where} has the id {image['id']} of an earlier image; {REMEDY}")
        if before and any(before[0][side] != image[side] for side in ("width", "height")):
            raise UserError(f"{where} has another size than the first frame of its sequence; {REMEDY}")
        before.append(image)
        ids.add(image["id"])
    if facts.get("sha256", digest_of(facts)) != digest_of(facts):
        raise UserError(f"{path} is not what was written there: its SHA-256 is another one; {REMEDY}")
    return facts, frames
