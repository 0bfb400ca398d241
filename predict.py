"""Find targets in any video: `python predict.py video.mp4`."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from dataset import create_dataset
from dataset.gray_range import AUTO, FILE, parse_range
from dataset.source import Frame, Source
from dataset.sources import SequenceSource, open_sources, tell_apart
from dataset.stream import StreamedVideo
from model import create_model
from utils import cli
from utils.detections import Detections, TrackPoint
from utils.engine.candidates import Candidate, find_candidates
from utils.engine.detect import Detector, Stages
from utils.errors import INTERRUPTED, run_command
from utils.recipe.resolve import full_keys
from utils.report.found_writer import FoundWriter, check_free
from utils.runlog import new_run_folder
from utils.signals import handling

TRAINING_FREE = "TemporalMedian"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser("Find moving targets in any video: detections, tracks and pictures.")
    add = parser.add_argument
    text = "a video, a TIFF, a folder or pattern of images, a folder of videos, an address, the number of a "
    add("sources", nargs="*", metavar="SOURCE", help=text + "camera, or - for images from standard input")
    cli.add_set_flags(parser)
    parser.set_defaults(dataset_names=None)
    add("--split", choices=("test", "train"), default="test", help="which sequences of --dataset_names")
    cli.add_recipe_flags(parser, "seq_len", "threshold", "register", "confirm")
    cli.add_weight_flags(parser)
    cli.add_track_flags(parser, default=True)
    add("--out", type=Path, help="folder of the results (default: log/predict/<name>/<time>)")
    text = (
        f"gray values: {AUTO} (16 bit is stretched), {FILE} (as files have them), or the counts of 0 and 255"
    )
    add("--range", nargs="+", default=[AUTO], metavar="RANGE", help=text)
    cli.add_switch(parser, "--overlay", "write a video with boxes and tracks drawn in", default=True)
    text = "keep maps of probabilities, as 8-bit PNG or as float32"
    add("--save_maps", nargs="+", choices=("png", "npz"), default=[], help=text)
    args = parser.parse_args(argv)
    if len(args.model_names or args.checkpoint or args.official) > 1:
        parser.error("one model at a time finds targets; name one")
    return args


def find_model(args: argparse.Namespace) -> Candidate:
    """The model that finds targets, with its weights."""
    names = args.model_names or (None if args.checkpoint else [TRAINING_FREE])
    (candidate,) = find_candidates(names, args.checkpoint, args.official, [], create_model)
    return candidate


def find_sources(args: argparse.Namespace) -> list[Source]:
    """The sources that were named, each by a name of its own."""
    gray_range = parse_range(args.range)
    sources = open_sources(args.sources, gray_range) if args.sources else []
    options = cli.reader_options(args.dataset_options)
    for name in args.dataset_names or ():
        data = create_dataset(name=name, root=args.dataset_dir, split=args.split, **options)
        chosen = FILE if gray_range == AUTO else gray_range
        sources += [SequenceSource(sequence, chosen, data) for sequence in data]
    tell_apart(sources)
    return sources


def stages_of(args: argparse.Namespace, sources: list[Source]) -> list[Stages]:
    """What finds targets in each source; one network serves all sources of a data set.

    Raises UserError where the model does not fit the frames, or none of a source can be read.
    """
    candidate, tracks = find_model(args), cli.track_settings(args)
    typed = {"view.register": "auto", **full_keys(cli.typed_settings(args), {})}
    sets = {source.dataset for source in sources}
    detectors = {name: Detector(candidate, name, typed, create_model) for name in sets}
    every = []
    for source in sources:
        detector = detectors[source.dataset]
        video = StreamedVideo(source, detector.recipe.view, source.constants, keeps=True)
        every.append(Stages(video, detector, tracks))
    return every


def predict(
    source: str | Path, model: str = TRAINING_FREE, *flags: str
) -> Iterator[tuple[Frame, Detections, tuple[TrackPoint, ...]]]:
    """(frame, detections, tracks) of each frame of a video.

    source: what the command takes, such as a path
    flags:  of the command, such as "--official", "deeppro.pth", "--threshold", "0.3"
    Raises UserError as the command does.
    """
    args = parse([str(source), "--model_names", model, *flags])
    for stages in stages_of(args, find_sources(args)):
        with closing(iter(stages)) as every:
            for found in every:
                yield found.frame, found.detections, found.tracks


def run(args: argparse.Namespace, source: Source, folder: Path, stages: Stages) -> bool:
    """Find targets in one source and write its folder. False where somebody ended it before its end."""
    facts, begin, stop = stages.facts, time.perf_counter(), stages.stop
    title = f"{facts['model']} on {source.name}"
    writer = FoundWriter(folder, facts, source.fps, title, args.overlay, args.save_maps)
    with handling(stop), writer, closing(iter(stages)) as every:
        try:
            for found in tqdm(every, source.name, source.length, unit="frame", leave=False, disable=None):
                writer.add(found)
        except KeyboardInterrupt:
            stop.asked = True
        finally:
            facts["seconds"] = {**stages.seconds, "all": time.perf_counter() - begin}
            facts["notes"] = source.notes
        if stages.is_complete:
            writer.finish()
    counts = {**writer.counts, "rate": writer.counts["frames"] / (time.perf_counter() - begin)}
    told = "{detections} detections, {tracks} tracks in {frames} frames, {rate:.1f} a second".format(**counts)
    notes = "".join(f"note: {note}\n" for note in source.notes + writer.notes)
    print(f"{notes}{title}: {told}\nin {folder}", flush=True)
    return not stop.asked


def main(argv: list[str] | None = None) -> int | None:
    args = parse(argv)
    sources = find_sources(args)
    every = stages_of(args, sources)  # all are built before the first one runs
    places = [args.out and (args.out / source.name if len(sources) > 1 else args.out) for source in sources]
    for place in filter(None, places):
        check_free(place)
    for source, place, stages in zip(sources, places, every, strict=True):
        folder = place or new_run_folder(args.log_dir, "predict", source.name)
        if not run(args, source, folder, stages):
            print("interrupted: the files hold what was found until then", file=sys.stderr)
            return INTERRUPTED
    return None


if __name__ == "__main__":
    run_command(main)
