"""Predictions on the disk: written once, scored as often as one likes, without the network.

A folder holds predictions.json (model, data set, recipe, and the list of frames, COCO's "images") and
    boxes.json       of box models: COCO results, one entry per box, image_id as in that list
    <sequence>.npz   of mask models: one compressed float32 map [H, W] per frame, in the order of the frames
"""

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.boxes import BoxPrediction, MapPrediction
from utils.errors import UserError
from utils.files import write_atomically, write_json

INDEX, BOXES = "predictions.json", "boxes.json"
FORMAT = "moving-irstd predictions, version 1"


class PredictionWriter:
    """Call it for every frame in order, as `utils.engine.score.evaluate` does, and `finish` at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self._maps: zipfile.ZipFile | None = None

    def __call__(self, video, index: int, prediction: MapPrediction | BoxPrediction, _truth: dict) -> None:
        height, width = video.size
        image = {"id": len(self.images) + 1, "sequence": video.name, "frame": index, "width": width}
        self.images.append({**image, "height": height, "file_name": video.frames.sequence.images[index].name})
        if prediction.map is None:
            for x1, y1, x2, y2, score in prediction.boxes.tolist():
                box = [x1, y1, x2 - x1, y2 - y1]
                entry = {"image_id": image["id"], "category_id": 1, "bbox": box, "score": score}
                self.results.append(entry)
            return
        if index == 0:
            path = self._path(video.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._maps = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        with self._maps.open(f"{index + 1:05d}.npy", "w") as file:
            np.lib.format.write_array(file, np.asarray(prediction.map, np.float32))
        if index == len(video.frames) - 1:
            self._maps.close()
            os.replace(self._path(video.name), map_path(self.folder, video.name))

    def finish(self, facts: dict[str, Any]) -> None:
        """Write the box list and, last, the index with `facts` (model, weights, dataset, ..., recipe)."""
        kind = "maps" if self._maps else "boxes"
        if kind == "boxes":
            write_atomically(self.folder / BOXES, json.dumps(self.results).encode())
        write_json(self.folder / INDEX, {"format": FORMAT, "kind": kind, **facts, "images": self.images})

    def _path(self, sequence: str) -> Path:
        return map_path(self.folder, sequence).with_suffix(".tmp")


def map_path(folder: Path, sequence: str) -> Path:
    return folder / f"{sequence}.npz"


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
        boxes = self._boxes() if self.facts["kind"] == "boxes" else {}

        def predict(video) -> Iterator[tuple[int, MapPrediction | BoxPrediction]]:
            saved = frames.get(video.name, [])
            names = [path.name for path in video.frames.sequence.images]
            if [image["file_name"] for image in saved] != names:
                raise UserError(
                    f"{self.folder} has {len(saved)} predictions of {video.name}, which has {len(names)} "
                    "frames or other ones; test the network on this data set again"
                )
            if self.facts["kind"] == "boxes":
                for image in saved:
                    yield image["frame"], BoxPrediction(boxes.get(image["id"], np.zeros((0, 5))), video.size)
                return
            with np.load(self._existing(map_path(self.folder, video.name))) as maps:
                for image in saved:
                    yield image["frame"], MapPrediction(maps[f"{image['frame'] + 1:05d}"], threshold)

        return predict

    def _boxes(self) -> dict[int, np.ndarray]:
        by_image: dict[int, list[list[float]]] = {}
        for entry in read_json(self._existing(self.folder / BOXES)):
            x, y, width, height = entry["bbox"]
            by_image.setdefault(entry["image_id"], []).append([x, y, x + width, y + height, entry["score"]])
        return {image: np.array(rows) for image, rows in by_image.items()}

    def _existing(self, path: Path) -> Path:
        if not path.is_file():
            raise UserError(f"{path} is missing, though {INDEX} beside it promises it; copy it again")
        return path


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


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); test the network again") from None
