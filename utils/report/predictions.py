"""Predictions on the disk: written once, scored as often as one likes, without the network.

A folder holds predictions.json (model, data set, recipe, and the list of frames, COCO's "images") and
    boxes.json         of box models: COCO results, one entry per box, image_id as in that list
    <sequence>.npz     of mask models: one compressed float32 map [H, W] per frame, in the order of the frames
    <sequence>/*.png   likewise, floor(255 p) as the published code writes it, to look at
"""

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.boxes import BoxPrediction, MapPrediction, Prediction
from utils.errors import UserError
from utils.files import write_atomically, write_json

INDEX, BOXES = "predictions.json", "boxes.json"
FORMAT = "moving-irstd predictions, version 1"


class MapStore:
    """Maps, one compressed file per sequence and one PNG per frame."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, video, index: int, _image: dict[str, Any], prediction: MapPrediction) -> None:
        """Write one frame; frames come in order, those of a sequence one after the other."""
        path = self.path(video.name)
        if index == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = zipfile.ZipFile(path.with_suffix(".tmp"), "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        with self._file.open(f"{index + 1:05d}.npy", "w") as file:
            np.lib.format.write_array(file, np.asarray(prediction.map, np.float32))
        _, png = cv2.imencode(".png", (255 * prediction.map).astype(np.uint8))
        write_atomically(self.folder / video.name / f"{index + 1:05d}.png", png.tobytes())
        if index == len(video.frames) - 1:
            self._file.close()
            os.replace(path.with_suffix(".tmp"), path)

    def finish(self) -> None:
        """Every sequence is written already."""

    def read(self, video, images: list[dict[str, Any]], threshold: float) -> Iterator[tuple[int, Prediction]]:
        """(frame, prediction) of the frames of a sequence."""
        with np.load(existing(self.path(video.name))) as maps:
            for image in images:
                yield image["frame"], MapPrediction(maps[f"{image['frame'] + 1:05d}"], threshold)

    def path(self, sequence: str) -> Path:
        return self.folder / f"{sequence}.npz"


class BoxStore:
    """Boxes, one file for all sequences."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.results: list[dict[str, Any]] = []
        self._boxes: dict[int, np.ndarray] | None = None

    def add(self, _video, _index: int, image: dict[str, Any], prediction: BoxPrediction) -> None:
        """Remember the boxes of one frame."""
        for x1, y1, x2, y2, score in prediction.boxes.tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            self.results.append({"image_id": image["id"], "category_id": 1, "bbox": box, "score": score})

    def finish(self) -> None:
        """Write the boxes of all frames."""
        write_atomically(self.folder / BOXES, json.dumps(self.results).encode())

    def read(
        self, video, images: list[dict[str, Any]], _threshold: float
    ) -> Iterator[tuple[int, Prediction]]:
        """(frame, prediction) of the frames of a sequence."""
        if self._boxes is None:
            self._boxes = self._by_image()
        for image in images:
            yield image["frame"], BoxPrediction(self._boxes.get(image["id"], np.zeros((0, 5))), video.size)

    def _by_image(self) -> dict[int, np.ndarray]:
        rows: dict[int, list[list[float]]] = {}
        for entry in read_json(existing(self.folder / BOXES)):
            x, y, width, height = entry["bbox"]
            rows.setdefault(entry["image_id"], []).append([x, y, x + width, y + height, entry["score"]])
        return {image: np.array(found) for image, found in rows.items()}


STORES = {"maps": MapStore, "boxes": BoxStore}  # by the kind of prediction


class PredictionWriter:
    """Call it for every frame in order, as `utils.engine.score.evaluate` does, and `finish` at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.kind = "boxes"  # as long as there is no frame
        self.store: MapStore | BoxStore = BoxStore(folder)

    def __call__(self, video, index: int, prediction: Prediction, _truth: dict) -> None:
        if not self.images:
            self.kind, self.store = prediction.kind, STORES[prediction.kind](self.folder)
        height, width = video.size
        image = {"id": len(self.images) + 1, "sequence": video.name, "frame": index, "width": width}
        self.images.append({**image, "height": height, "file_name": video.frames.sequence.images[index].name})
        self.store.add(video, index, image, prediction)

    def finish(self, facts: dict[str, Any]) -> None:
        """Write what is left and, last, the index with `facts` (model, weights, dataset, ..., recipe)."""
        self.store.finish()
        write_json(self.folder / INDEX, {"format": FORMAT, "kind": self.kind, **facts, "images": self.images})


@dataclass(frozen=True)
class SavedPredictions:
    """A folder that a `PredictionWriter` has finished."""

    folder: Path
    facts: dict[str, Any] = field(repr=False)

    def reader(self, threshold: float):
        """A `predict` of `engine.score.evaluate`; the arguments are those of the predictions' classes."""
        frames: dict[str, list[dict]] = {}
        for image in self.facts["images"]:
            frames.setdefault(image["sequence"], []).append(image)
        store = STORES[self.facts["kind"]](self.folder)

        def predict(video) -> Iterator[tuple[int, Prediction]]:
            saved = frames.get(video.name, [])
            names = [path.name for path in video.frames.sequence.images]
            if [image["file_name"] for image in saved] != names:
                raise UserError(
                    f"{self.folder} has {len(saved)} predictions of {video.name}, which has {len(names)} "
                    "frames or other ones; test the network on this data set again"
                )
            return store.read(video, saved, threshold)

        return predict


def read_predictions(folder: Path) -> SavedPredictions:
    """The predictions in `folder`, or in a folder `predictions` in it.

    Raises UserError when there are none, or when the test that wrote them was cut off.
    """
    for place in (folder, folder / "predictions"):
        if (place / INDEX).is_file():
            facts = read_json(place / INDEX)
            if not isinstance(facts, dict) or facts.get("format") != FORMAT:
                raise UserError(f"{place / INDEX} was not written by test.py --save_predictions")
            return SavedPredictions(place, facts)
    raise UserError(
        f"there is no {INDEX} in {folder}; give a folder that test.py --save_predictions has finished"
    )


def existing(path: Path) -> Path:
    """The path of a file that the index promises. Raises UserError where it is missing."""
    if not path.is_file():
        raise UserError(f"{path} is missing, though {INDEX} beside it promises it; copy it again")
    return path


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); test the network again") from None
