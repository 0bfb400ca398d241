"""Compare detectors on sequences of moving and standing cameras, registered or not, in one table.

Each detector is scored on each sequence as test.py does it, by CentroidPdFa at the threshold of its recipe,
and so are the tracks of its detections.

A sequence is named by its folder, [DATASET=]DIR[,OPTION=VALUE ...]: by default one of your own (Folder), with
options of its reader, split=train, and truth=peak for loose boxes, whose target is then the pixel in the box
that is brightest against its surroundings. A detector is a model by name, with +register behind it
(--register auto) or +confirm (--confirm TopHat), or both.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset import Sequence, SequenceSet, create_dataset  # noqa: E402
from dataset.frames import SequenceFrames  # noqa: E402
from dataset.prepare import prepared  # noqa: E402
from dataset.video import TestVideo  # noqa: E402
from metrics.protocols import recipe_lines  # noqa: E402
from model import create_model  # noqa: E402
from utils.cli import Parser, add_weight_flags  # noqa: E402
from utils.engine.candidates import Candidate, find_candidates  # noqa: E402
from utils.engine.cost import machine_facts  # noqa: E402
from utils.engine.detect import few_threads  # noqa: E402
from utils.engine.runtime import Runtime  # noqa: E402
from utils.engine.score import evaluate  # noqa: E402
from utils.engine.stages import linked  # noqa: E402
from utils.errors import UserError, near_matches, run_command  # noqa: E402
from utils.files import check_writable, read_json, write_atomically, write_json  # noqa: E402
from utils.recipe.fields import put_once, shown  # noqa: E402
from utils.recipe.resolve import parse_setting  # noqa: E402
from utils.registry import MODELS  # noqa: E402
from utils.report.table import format_table  # noqa: E402
from utils.tracking import TrackSettings  # noqa: E402

WAYS = {"register": {"view.register": "auto"}, "confirm": {"scoring.confirm": "TopHat"}}
NETWORKS = [
    name + ways for name in ("DeepPro", "DeepPro-Plus") for ways in ("", "+register", "+register+confirm")
]
TRUTHS = {"given": ("masks", "points", "boxes"), "peak": ("boxes",)}  # by the truth that each is made of
FORMATS = {"Pd %": ".2f", "Fa": ".1e", "F1 %": ".1f", "on track %": ".1f", "registered %": ".0f"}
FORMATS["frames/s"] = ".3g"
LEGEND = (
    "Pd, Fa (false pixels per pixel), F1 and false detections by CentroidPdFa; on track: of the frames of a "
    "target, those with its right track; registered: frames that were seen registered; frames/s with reading "
    "and tracks"
)


@dataclass(frozen=True)
class Detector:
    """A model, and in which of the WAYS it is used."""

    model: str
    ways: tuple[str, ...]

    @classmethod
    def of(cls, word: str) -> "Detector":
        """Raises UserError for an unknown model or way."""
        name, *ways = word.split("+")
        for way in ways:
            if way not in WAYS:
                raise UserError(f"--detectors {shown(word)}: there is no +{way}; {near_matches(way, WAYS)}")
        return cls(MODELS.entry(name).name, tuple(ways))

    @property
    def title(self) -> str:
        return "+".join((self.model, *self.ways))

    @property
    def settings(self) -> dict[str, Any]:
        """Of its recipe, as if they had been typed."""
        return {key: value for way in self.ways for key, value in WAYS[way].items()}


@dataclass(frozen=True)
class Scene:
    """A sequence that detectors are compared on; truth: a word of TRUTHS."""

    data: SequenceSet
    sequence: Sequence
    truth: str

    @property
    def name(self) -> str:
        place = "" if self.data.name == "Folder" else f"{self.data.name} "
        return place + self.sequence.name + " (peaks in boxes)" * (self.truth == "peak")


class WatchedVideo(TestVideo):
    """A TestVideo that knows which of its frames were shown registered."""

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        self.aligned: set[int] = set()
        for frames, clip in super().__iter__():
            if frames.is_aligned:
                self.aligned |= {*range(frames.first, frames.first + frames.count)}
            yield frames, clip

    @property
    def registered(self) -> float | None:
        """The part of the frames that were, or that have a motion where the model itself aligns them.

        None: nothing is registered.
        """
        if not self.registrar:
            return None
        whole = self.view.settings.frames > 1
        count = len(self.aligned) if whole else sum(self.motion(i).measured for i in range(len(self)))
        return count / len(self.originals)


def scenes_of(word: str) -> list[Scene]:
    """What a user typed after --sequences. Raises UserError for one that cannot be read or has no truth."""
    place, *typed = word.split(",")
    name, equals, folder = place.partition("=")
    options: dict[str, Any] = {}
    for text in typed:
        put_once(options, *parse_setting(text, f"--sequences {shown(place)}: what follows a comma"))
    truth = str(options.pop("truth", "given"))
    if truth not in TRUTHS:
        raise UserError(f"--sequences {shown(word)}: truth={truth}; {near_matches(truth, TRUTHS)}")
    data = create_dataset(*((name, folder) if equals else ("Folder", place)), **options)
    for sequence in data:
        if not sequence.has(TRUTHS[truth]):
            kinds = " or ".join(TRUTHS[truth])
            raise UserError(f"{sequence.name} in {data.root} has no {kinds} to score by; use predict.py")
    return [Scene(data, with_peaks(one) if truth == "peak" else one, truth) for one in data]


def with_peaks(sequence: Sequence) -> Sequence:
    """The sequence with a point for each box: its brightest pixel against what is around that."""
    frames, points = SequenceFrames(sequence), []
    for index, boxes in enumerate(sequence.boxes):
        gray = frames.image(index).astype(np.float32)
        detail = cv2.GaussianBlur(gray, (0, 0), 0.8) - cv2.GaussianBlur(gray, (0, 0), 3)
        points.append(np.array([peak_in(detail, box) for box in boxes], float).reshape(-1, 2))
    return replace(sequence, boxes=None, identities=None, points=tuple(points))


def peak_in(detail: np.ndarray, box: np.ndarray) -> tuple[int, int]:
    """Row and column of the largest value of a picture in a box x1, y1, x2, y2 that a part of it lies in."""
    left, top, right, bottom = (max(round(side), 0) for side in box.tolist())
    top, left = (min(first, side - 1) for first, side in zip((top, left), detail.shape, strict=True))
    part = detail[top : max(bottom, top + 1), left : max(right, left + 1)]
    row, col = np.unravel_index(part.argmax(), part.shape)
    return top + int(row), left + int(col)


def timed(predict: Callable, spent: list[float]) -> Callable:
    """The same, which adds the seconds of each frame to `spent`."""

    def predict_timed(video: TestVideo) -> Iterator[Any]:
        frames = predict(video)
        while True:
            begin = time.perf_counter()
            frame = next(frames, None)
            spent.append(time.perf_counter() - begin)
            if frame is None:
                return
            yield frame

    return predict_timed


def measured(candidate: Candidate, detector: Detector, scene: Scene, bar: tqdm) -> dict[str, Any]:
    """What a detector does on a sequence, as plain values."""
    recipe = prepared(candidate.recipe(scene.data.name, detector.settings), [scene.data])
    lines = {
        line.metrics[0].name: replace(line, metrics=line.metrics[:1])
        for line in recipe_lines(recipe, ("clean", "tracks"), scene.data.name)
    }
    lines = {name: lines[name] for name in ("CentroidPdFa", "Tracks")}
    video, spent = WatchedVideo(scene.sequence, scene.data, recipe.view), []
    predict = candidate.predictor(recipe, create_model, Runtime.of(recipe.runtime))
    predict = timed(linked(predict, recipe, TrackSettings()), spent)
    with few_threads(candidate.is_light):
        (group,) = evaluate(predict, [video], lines.values(), lambda *_: bar.update()).values()
    found, tracks = (group.figures(line) for line in lines.values())
    false = round(found["false_boxes_per_frame"] * len(video.originals))
    return {
        "sequence": scene.name,
        "detector": detector.title,
        "weights": candidate.source,
        "truth": scene.truth,
        "threshold": recipe.scoring.threshold,
        "frames": len(video.originals),
        **{name: found[name] for name in ("true", "targets", "pd", "fa")},
        "false": false,
        "f1": 2 * found["true"] / max(1, found["targets"] + found["true"] + false),
        **{name: tracks.get(name) for name in ("tracks", "false_tracks", "on_track", "hota", "idf1", "mota")},
        "registered": video.registered,
        "seconds": sum(spent),
        "load": os.getloadavg()[0],
    }


def table_of(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""

    def percent(value: float | None) -> float | None:
        return None if value is None else 100 * value

    lines = [
        {
            "sequence": row["sequence"],
            "detector": row["detector"],
            "found": f"{row['true']}/{row['targets']}",
            "Pd %": percent(row["pd"]),
            "Fa": row["fa"],
            "F1 %": percent(row["f1"]),
            "false": row["false"],
            "tracks": row["tracks"],
            "false tracks": row["false_tracks"],
            "on track %": percent(row["on_track"]),
            "registered %": percent(row["registered"]),
            "frames/s": row["frames"] / row["seconds"],
        }
        for row in rows
    ]
    return format_table(lines, style="markdown", formats=FORMATS) + f"\n{LEGEND}\n"


def rows_before(path: Path, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier call. Raises UserError where they cannot stand beside new ones."""
    if not path.exists():
        raise UserError(f"--add: there is no {path} yet; leave --add out")
    content = read_json(path, "an earlier comparison")
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise UserError(f"{path} is no file of this tool; leave --add out, or choose another --out")
    if content.get("machine") != machine:
        raise UserError(f"{path} was measured on another machine or with another torch; choose another --out")
    return content["rows"]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sequences", nargs="+", required=True, metavar="[DATASET=]DIR[,OPTION=VALUE]", help="see above")
    all_of_them = ["TopHat", *NETWORKS, "TemporalMedian"]
    text = f"default: {' '.join(all_of_them)}"
    add("--detectors", nargs="+", metavar="NAME[+register][+confirm]", default=all_of_them, help=text)
    add_weight_flags(parser)
    text = "JSON file, with the table in Markdown beside it (default: %(default)s)"
    add("--out", type=Path, default=Path("log/benchmarks/moving.json"), help=text)
    add("--add", action="store_true", help="keep what is in --out and is not measured anew")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_writable(args.out)
    machine = machine_facts(torch.device("cpu"))
    rows = {(r["sequence"], r["detector"]): r for r in (rows_before(args.out, machine) if args.add else ())}
    detectors = [Detector.of(word) for word in args.detectors]
    names = list(dict.fromkeys(detector.model for detector in detectors))
    candidates = find_candidates(names, args.checkpoint, args.official, [], create_model)
    if len(candidates) > len(names):
        raise UserError("two --checkpoint are of one model; name one of each")
    by_name = {candidate.name: candidate for candidate in candidates}
    scenes = [scene for word in args.sequences for scene in scenes_of(word)]
    with tqdm(total=len(detectors) * sum(len(s.sequence) for s in scenes), unit="frame", disable=None) as bar:
        for scene in scenes:
            for detector in detectors:
                bar.set_description(f"{detector.title} on {scene.name}")
                row = measured(by_name[detector.model], detector, scene, bar)
                rows[row["sequence"], row["detector"]] = row
                write_json(args.out, {"machine": machine, "legend": LEGEND, "rows": list(rows.values())})
    table = table_of(sorted_rows(list(rows.values())))
    write_atomically(args.out.with_suffix(".md"), table.encode())
    print(f"{table}\nin {args.out} and {args.out.with_suffix('.md')}")


def sorted_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By sequence, in the order in which these came."""
    order = {name: place for place, name in enumerate(dict.fromkeys(row["sequence"] for row in rows))}
    return sorted(rows, key=lambda row: order[row["sequence"]])


if __name__ == "__main__":
    run_command(main)
