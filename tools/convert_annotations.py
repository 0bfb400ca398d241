"""Convert annotations between COCO, txt lists, masks and centroids: tools/convert_annotations.py --help

from --source                                                to --to
  *.json   COCO                                                coco, txt, masks, centroids
  *.txt    a line per frame: path x1,y1,x2,y2,class ...        coco, txt, masks, centroids
  folder   images/ with masks/, boxes or centroids beside it,  coco, txt, masks, centroids;
           in every form that the data set Folder reads        from centroids only centroids

  coco       --out is a json file
  txt        --out is a txt file; frames without a target are lines without a box
  masks      --out is a folder; masks/ in it gets filled boxes, which are larger than the targets
  centroids  --out is a folder; masks_centroid/ in it gets maps with 255 at each rounded centroid, and the
             folder of each sequence a centroids.txt with a line per frame: row,col;row,col

Paths are relative to the data set's folder, which holds images/; absolute ones are cut before images/.
"""

import argparse
import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset import Sequence, create_dataset  # noqa: E402
from dataset.annotations import (  # noqa: E402
    COCO_RULES,
    BoxTable,
    Size,
    decimal,
    read_coco,
    read_coco_sizes,
    read_txt_list,
    relative_frame,
    write_coco,
    write_txt_list,
)
from dataset.frames import SequenceFrames  # noqa: E402
from dataset.layout import natural_key  # noqa: E402
from utils.boxes import component_centroids  # noqa: E402
from utils.cli import add_switch  # noqa: E402
from utils.errors import UserError, run_command  # noqa: E402
from utils.files import write_atomically  # noqa: E402

FILLED_BOXES = (
    "These masks are filled annotation boxes, not the pixels of the targets, and larger than these: "
    "an IoU with them says little.\n"
)

PointTable = dict[str, np.ndarray]  # row and column of each target [N, 2], by frame
Sizes = Mapping[str, Size]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", type=Path, required=True, help="a COCO json, a txt list or a folder")
    add("--to", choices=("coco", "txt", "masks", "centroids"), required=True, help="what to write")
    add("--out", type=Path, required=True, help="file or folder to write")
    add("--images", type=Path, metavar="ROOT", help="the data set's folder (default: where the source lies)")
    add("--size", metavar="HxW", help="height and width of all frames, which need not be there then")
    text = "of a folder with split lists, the sequences of this one (default: both)"
    add("--split", choices=("train", "test"), help=text)
    text = (
        "published: from COCO to txt as SSTNet, STMENet and SMFNet convert, that is whole pixels by "
        "truncation, frames in the order of their first box, none without a box (default: exact)"
    )
    add("--rule", choices=COCO_RULES, default="exact", help=text)
    add_switch(parser, "--overwrite", "replace files that exist")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- reading


def frame_boxes(sequence: Sequence) -> Iterable[np.ndarray]:
    """The boxes [N, 4] of every frame."""
    if sequence.masks is not None or sequence.boxes is not None:
        return map(SequenceFrames(sequence).boxes, range(len(sequence)))
    if sequence.points is not None or sequence.centroids is not None:
        raise UserError(
            f"{sequence.name} has only centroids, which tell no size; add masks or boxes, or choose "
            "--to centroids"
        )
    raise UserError(f"{sequence.name} has no masks, boxes or centroids beside its images; add some")


def frame_points(sequence: Sequence) -> Iterable[np.ndarray]:
    """Row and column [N, 2] of every target of every frame."""
    frames, places = SequenceFrames(sequence), range(len(sequence))
    if sequence.masks is not None:
        return (component_centroids(frames.mask(place)) for place in places)
    if sequence.centroids is not None:
        return (np.argwhere(frames.centroid_map(place) >= 1) for place in places)
    if sequence.points is not None:
        return sequence.points
    return map(centres, frame_boxes(sequence))


def centres(boxes: np.ndarray) -> np.ndarray:
    """Row and column [N, 2] of the middle of boxes [N, 4]; the middle of a pixel is a whole number."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([y1 + y2 - 1, x1 + x2 - 1], axis=1) / 2


def read_folder(
    args: argparse.Namespace, truth_of: Callable[[Sequence], Iterable[np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `truth_of` gives for each frame of the sequences in a folder, by its path there."""
    splits = (args.split,) if args.split else ("train", "test")
    sets = [create_dataset("Folder", args.source, split) for split in splits]
    for note in dict.fromkeys(note for found in sets for note in found.notes):
        print(f"note: {note}")
    sequences = {sequence.name: sequence for found in sets for sequence in found}.values()
    if args.to == "masks" and any(sequence.masks is not None for sequence in sequences):
        raise UserError(f"{args.source} has masks already; --to takes coco, txt or centroids for it")
    root = sets[0].root
    frames = [path.relative_to(root).as_posix() for sequence in sequences for path in sequence.images]
    truth = (found for sequence in sequences for found in truth_of(sequence))
    return dict(zip(frames, tqdm(truth, "read", len(frames), disable=None), strict=True))


def within_root(table: dict, source: Path) -> dict:
    """The table by the paths of the frames in the data set's folder."""
    relative = {relative_frame(frame): found for frame, found in table.items()}
    if len(relative) < len(table):
        raise UserError(f"{source} lists frames of several folders images/; split it into a file for each")
    return relative


def read_boxes(args: argparse.Namespace) -> BoxTable:
    """The boxes of the source, by the paths of the frames in the data set's folder."""
    source = args.source
    if source.is_dir():
        found = read_folder(args, frame_boxes)
        return {frame: [[*box, 0] for box in boxes.tolist()] for frame, boxes in found.items()}
    if source.suffix not in (".json", ".txt") or not source.is_file():
        raise UserError(f"{source} is no folder, json or txt file; give one to --source")
    is_coco = source.suffix == ".json"
    table = read_coco(source, args.rule) if is_coco else read_txt_list(source)
    if not table:
        form = "COCO annotation" if is_coco else "list of path x1,y1,x2,y2,class ... with boxes"
        raise UserError(f"{source} is no {form}; give another --source")
    return within_root(table, source)


def read_points(args: argparse.Namespace) -> PointTable:
    """Row and column of every target of the source, by the paths of the frames."""
    if args.source.is_dir():
        return read_folder(args, frame_points)
    table = read_boxes(args)
    return {f: centres(np.array(rows, float).reshape(-1, 5)[:, :4]) for f, rows in table.items()}


def read_sizes(args: argparse.Namespace, frames: Iterable[str]) -> Sizes:
    """Width and height of each frame: as typed, else from the COCO file, else from the image files."""
    source = args.source
    if args.size:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", args.size)
        if not match:
            raise UserError(f"--size takes HEIGHTxWIDTH like 480x640, not {args.size!r}")
        return dict.fromkeys(frames, (int(match[2]), int(match[1])))
    if source.suffix == ".json" and not args.images:
        return within_root(read_coco_sizes(source), source)
    beside = source.parent.parent if source.parent.name in ("json", "annotations") else source.parent
    root = args.images or (source if source.is_dir() else beside)
    return {frame: image_size(root / frame) for frame in tqdm(list(frames), "sizes", disable=None)}


def image_size(path: Path) -> Size:
    """Width and height from the header of an image file."""
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise UserError(f"there is no frame {path} to tell its size; give --images or --size") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image; copy it again or give --size") from None


# ---------------------------------------------------------------- writing


def beside_images(frame: str, kind: str) -> PurePosixPath:
    """The path of a frame below the folder `kind` that stands beside its `images`."""
    before, _, below = f"/{frame}".rpartition("/images/")
    return PurePosixPath(before.lstrip("/"), kind, below.lstrip("/"))


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    found = next((path for path in paths if path.exists()), None)
    if found and not overwrite:
        raise UserError(f"{found} exists; add --overwrite or give another --out")


def write_png(path: Path, pixels: np.ndarray) -> None:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    write_atomically(path, content.getvalue())


def write_masks(out: Path, table: BoxTable, sizes: Sizes, overwrite: bool) -> None:
    """A mask per frame, 255 in every pixel that a box touches."""
    paths = {frame: out / beside_images(frame, "masks").with_suffix(".png") for frame in table}
    label = out / "masks_are_filled_boxes.txt"
    refuse_existing([label, *paths.values()], overwrite)
    write_atomically(label, FILLED_BOXES.encode())
    for frame, path in tqdm(paths.items(), "masks", disable=None):
        width, height = sizes[frame]
        mask = np.zeros((height, width), np.uint8)
        for x1, y1, x2, y2, _ in table[frame]:
            if not (0 <= x1 + x2 <= 2 * width and 0 <= y1 + y2 <= 2 * height):
                raise outside(frame, sizes[frame])
            top, left = max(math.floor(y1), 0), max(math.floor(x1), 0)
            mask[top : math.ceil(y2), left : math.ceil(x2)] = 255
        write_png(path, mask)


def write_centroids(out: Path, table: PointTable, sizes: Sizes, overwrite: bool) -> None:
    """A centroid map per frame, and a list of centroids per sequence with a line per frame."""
    maps = {frame: out / beside_images(frame, "masks_centroid").with_suffix(".png") for frame in table}
    lists: dict[Path, list[str]] = {}
    for frame in sorted(table, key=natural_key):
        folder = out / beside_images(frame, "").parent
        lists.setdefault(folder / "centroids.txt", []).append(frame)
    refuse_existing([*lists, *maps.values()], overwrite)
    for path, frames in lists.items():
        lines = [";".join(f"{decimal(row)},{decimal(col)}" for row, col in table[frame]) for frame in frames]
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
    for frame, path in tqdm(maps.items(), "maps", disable=None):
        width, height = sizes[frame]
        pixels = np.zeros((height, width), np.uint8)
        for row, col in np.rint(table[frame]).astype(int):
            if not (0 <= row < height and 0 <= col < width):
                raise outside(frame, sizes[frame])
            pixels[row, col] = 255
        write_png(path, pixels)


def outside(frame: str, size: Size) -> UserError:
    width, height = size
    return UserError(
        f"a target of {frame} lies outside its {height} rows and {width} columns; correct it or --size"
    )


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    kind = {".json": "coco", ".txt": "txt"}.get(args.source.suffix)
    if kind == args.to:
        raise UserError(f"{args.source} has the form {kind} already; give another --to")
    if args.rule == "published" and (kind, args.to) != ("coco", "txt"):
        raise UserError("--rule published converts a COCO json to txt and nothing else; leave it out")
    if args.to in ("coco", "txt"):
        refuse_existing([args.out], args.overwrite)
    table = read_points(args) if args.to == "centroids" else read_boxes(args)
    if args.to == "txt":
        write_txt_list(args.out, table)
    elif args.to == "coco":
        write_coco(args.out, table, read_sizes(args, table))
    elif args.to == "masks":
        write_masks(args.out, table, read_sizes(args, table), args.overwrite)
    else:
        write_centroids(args.out, table, read_sizes(args, table), args.overwrite)
    targets = sum(map(len, table.values()))
    print(f"wrote {targets} targets in {len(table)} frames to {args.out}")


if __name__ == "__main__":
    run_command(main)
