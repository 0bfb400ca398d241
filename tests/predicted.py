"""Calls of predict.py, what they have written, and toy models for them whose answers are known by hand."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

import predict
from tests.toys import Toy, ToyBoxes, registered_toys
from utils.checkpoint import save_checkpoint
from utils.recipe.resolve import resolve_recipe
from utils.registry import MODELS, register_model

HEADER = "frame,name,x,y,score,x1,y1,x2,y2,track"
FILES = [
    *("detections.csv", "detections.json", "motion.csv", "overlay.mp4"),
    *("sheet.png", "summary.json", "tracks.csv", "tracks_mot.txt"),
]
CPU = ("--device", "cpu")
LIGHT = ("--model_names", "TopHat", "--register", "off", "--no-overlay", *CPU)  # the fastest


@dataclass
class Results:
    """The folder of a call."""

    folder: Path

    def rows(self, name: str) -> list[dict[str, str]]:
        """The lines of a CSV file."""
        with (self.folder / name).open(newline="") as file:
            return list(csv.DictReader(file))

    @property
    def detections(self) -> list[dict[str, str]]:
        return self.rows("detections.csv")

    @property
    def homographies(self) -> np.ndarray:
        """Of each frame, from the one before, float64 [T, 3, 3]."""
        keys = [f"h{row}{column}" for row in (1, 2, 3) for column in (1, 2, 3)]
        values = [[float(row[key]) for key in keys] for row in self.rows("motion.csv")]
        return np.reshape(values, (-1, 3, 3))

    @cached_property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """What --save_maps npz has kept."""
        with np.load(self.folder / "maps.npz") as archive:
            return dict(archive)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def check(self, frames: int, unreadable: Sequence[int] = (), is_complete: bool = True) -> None:
        """All files tell of the same frames and agree with each other."""
        assert not [name for name in self.names if name.startswith(".")]
        summary, found, tracks = self.summary, self.detections, self.rows("tracks.csv")
        assert self.names == sorted([*summary["files"], "summary.json"])
        assert (self.folder / "detections.csv").read_text().splitlines()[0] == HEADER
        assert [row["frame"] for row in self.rows("motion.csv")] == [str(n) for n in range(frames)]
        assert (summary["is_complete"], summary["frames"]) == (is_complete, frames)
        assert summary["unreadable_frames"] == len(unreadable)
        assert summary["detections"] == len(found)
        assert summary["tracks"] == len({row["track"] for row in tracks})
        numbers = [int(row["frame"]) for row in found]
        assert numbers == sorted(numbers) and not set(numbers) & set(unreadable)
        assert set(numbers) | {int(row["frame"]) for row in tracks} <= set(range(frames))
        assert {row["track"] for row in found} - {""} <= {row["track"] for row in tracks}
        entries = json.loads((self.folder / "detections.json").read_text())
        assert [entry["image_id"] for entry in entries] == numbers
        assert len((self.folder / "tracks_mot.txt").read_text().splitlines()) == len(tracks)
        if "overlay.mp4" in self.names:
            assert frames_in(self.folder / "overlay.mp4") == frames
        if "sheet.png" in self.names:
            assert cv2.imread(str(self.folder / "sheet.png")) is not None


def frames_in(path: Path) -> int:
    """How many frames of a video can be read."""
    video, count = cv2.VideoCapture(str(path)), 0
    while video.read()[0]:
        count += 1
    return count


def predicted(out: Path, *words: Any, code: int | None = None) -> Results:
    """What predict.py has written to `out`."""
    assert predict.main([str(word) for word in (*words, "--out", out)]) == code
    return Results(out)


def write_frames(folder: Path, frames: Sequence[np.ndarray], first: int = 0) -> Path:
    """A folder of PNG images, 0.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, first):
        assert cv2.imwrite(str(folder / f"{number}.png"), frame)
    return folder


def dots(count: int = 12, size: tuple[int, int] = (32, 40), peak: float = 200) -> list[np.ndarray]:
    """Frames of a bright pixel on a slanted background, 1 pixel further to the right in each; see `dot`."""
    rows, columns = np.indices(size)
    frames = []
    for number in range(count):
        frame = np.uint8(40 + rows % 7 + (columns + 2 * rows) % 5)
        x, y = dot(number)
        frame[y, x] = peak
        frames.append(frame)
    return frames


def dot(number: int) -> tuple[int, int]:
    """x and y of the bright pixel of `dots`."""
    return 10 + number, 12


# ---------------------------------------------------------------- models


class ToyKey(nn.Module):
    """Finds where the middle one of five frames is brighter than the largest of the others; no weights."""

    def forward(self, clip):
        others = clip[:, 0, [0, 1, 3, 4]].amax(1)
        return {"logits": (clip[:, 0, 2] - others - 4)[:, None] / 4}

    def decode(self, raw):
        return torch.sigmoid(raw["logits"])


class ToyWindow(nn.Module):
    """Finds in each frame of a window of six where it is brighter than the others' largest; no weights."""

    def forward(self, clip):
        frames = clip[:, 0]
        others = [frames[:, [j for j in range(6) if j != i]].amax(1) for i in range(6)]
        return {"logits": (frames - torch.stack(others, 1) - 4) / 4}

    decode = ToyKey.decode


GRAY = {"mean": 0.0, "std": 1.0}


@contextmanager
def more_toys() -> Iterator[None]:
    """Inside `with`, ToyKey and ToyWindow have names too, beside those of `registered_toys`."""
    with registered_toys():
        register_model("ToyKey", recipe={"view": {"frames": 5, "key": 2, **GRAY}}, rename={})(ToyKey)
        register_model("ToyWindow", recipe={"view": {"frames": 6, **GRAY}}, rename={})(ToyWindow)
        yield


def bright_toy() -> Toy:
    """A Toy whose probability is above 0.5 where a pixel is 3 standard deviations above the mean."""
    toy = Toy()
    for value in toy.parameters():
        nn.init.zeros_(value)
    with torch.no_grad():
        toy.stem.weight[0, 0, 1, 1] = toy.norm.weight[0] = 1
        toy.head.weight[0] = 4
        toy.head.bias[0] = -12
    return toy


def bright_boxes() -> ToyBoxes:
    """A ToyBoxes that puts a box of 6x6 pixels around the middle of a cell of 8x8 with a bright pixel."""
    toy = ToyBoxes()
    nn.init.zeros_(toy.head.weight)
    with torch.no_grad():
        toy.head.bias[:] = torch.tensor([0.5, 0.5, np.log(6 / 8), np.log(6 / 8), -8, 8])
        toy.head.weight[4] = 0.5
    return toy


def checkpoint(path: Path, toy: nn.Module, **typed: Any) -> Path:
    """A file as train.py writes them; typed: of the recipe."""
    entry = MODELS.entry(type(toy).__name__)
    recipe = resolve_recipe(entry.facts["recipe"], "Synthetic", typed, entry.facts["task"])
    content = {"model": entry.name, "dataset": "Synthetic", "recipe": recipe.to_dict()}
    content |= {
        "weights": toy.state_dict(),
        **{key: {} for key in ("optimizer", "progress", "random", "scores")},
    }
    save_checkpoint(path, content)
    return path
