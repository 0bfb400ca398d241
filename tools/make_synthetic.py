"""Write a synthetic infrared data set in NUDT-MIRSDT's layout: python tools/make_synthetic.py --preview"""

import argparse
import io
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.scene import SceneSettings  # noqa: E402
from dataset.synthetic import write_dataset  # noqa: E402
from utils.cli import Parser, add_switch, number  # noqa: E402
from utils.errors import run_command  # noqa: E402
from utils.files import write_atomically  # noqa: E402
from utils.recipe.fields import settings_of  # noqa: E402

PREVIEW_SEQUENCES, PREVIEW_FRAMES = 6, 4  # rows and columns of the contact sheet
PREVIEW_ZOOM = 2
PREVIEW_LINE, PREVIEW_MARGIN = 14, 4  # height of a caption; pixels beside it and between tiles


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add, count = parser.add_argument, number(int, at_least=0, at_most=10_000)
    add("--out", type=Path, default=Path("data/Synthetic"), help="folder to write")
    add("--train_sequences", type=count, default=12, help="number of training sequences")
    add("--test_sequences", type=count, default=4, help="number of test sequences")
    seed = number(int, at_least=0, at_most=2**63 - 1)
    add("--seed", type=seed, default=0, help="the same seed writes the same files")
    add_switch(parser, "--overwrite", "replace an earlier synthetic data set")
    add_switch(parser, "--preview", "write preview.png, with targets circled")
    scene = parser.add_argument_group("scene", "two values are a range: minimum and maximum")
    for name, setting in settings_of(SceneSettings).items():
        default, text = setting.default, setting.facts.text
        if isinstance(default, tuple):
            kind = type(default[0])
            scene.add_argument(
                f"--{name}", type=kind, nargs=2, metavar=("MIN", "MAX"), default=default, help=text
            )
        else:
            scene.add_argument(f"--{name}", type=type(default), metavar="X", default=default, help=text)
    return parser.parse_args(argv)


def settings_from(flags: argparse.Namespace) -> SceneSettings:
    values = {name: getattr(flags, name) for name in settings_of(SceneSettings)}
    return SceneSettings(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def preview_tile(sequence: Path, frame: str, caption: str) -> Image.Image:
    """One frame, enlarged, with a circle around each target and a caption below it."""
    image = Image.open(sequence / "images" / frame).convert("RGB")
    centroids = np.asarray(Image.open(sequence / "masks_centroid" / frame))
    picture = image.resize(
        (image.width * PREVIEW_ZOOM, image.height * PREVIEW_ZOOM), Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(picture)
    for row, col in (np.argwhere(centroids) + 0.5) * PREVIEW_ZOOM:
        draw.circle((col, row), 6 * PREVIEW_ZOOM, outline=(255, 80, 80))
    width = math.ceil(max(picture.width, draw.textlength(caption) + 2 * PREVIEW_MARGIN))
    tile = Image.new("RGB", (width, picture.height + PREVIEW_LINE))
    tile.paste(picture)
    ImageDraw.Draw(tile).text((PREVIEW_MARGIN, picture.height + 1), caption, fill=(255, 255, 0))
    return tile


def write_preview(root: Path) -> Path:
    """A contact sheet of the set at `root`: a sequence a row, its frames evenly spaced from first to last."""
    sequences = sorted(root.glob("Sequence*"), key=lambda folder: int(folder.name.removeprefix("Sequence")))
    rows = []
    for sequence in sequences[:PREVIEW_SEQUENCES]:
        names = sorted(path.name for path in (sequence / "images").iterdir())
        picks = np.linspace(0, len(names) - 1, PREVIEW_FRAMES).round().astype(int)
        rows.append([preview_tile(sequence, names[i], f"{sequence.name}, frame {i + 1}") for i in picks])
    width, height = max(tile.width for row in rows for tile in row) + PREVIEW_MARGIN, rows[0][0].height
    sheet = Image.new("RGB", (PREVIEW_FRAMES * width, len(rows) * height))
    for down, row in enumerate(rows):
        for right, tile in enumerate(row):
            sheet.paste(tile, (right * width, down * height))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    path = root / "preview.png"
    write_atomically(path, content.getvalue())
    return path


def main(argv: list[str] | None = None) -> None:
    flags = parse(argv)
    counts = flags.train_sequences, flags.test_sequences
    write_dataset(flags.out, settings_from(flags), *counts, flags.seed, flags.overwrite)
    print(f"wrote {flags.train_sequences} training and {flags.test_sequences} test sequences to {flags.out}")
    if flags.preview:
        print(f"wrote {write_preview(flags.out.expanduser())}")


if __name__ == "__main__":
    run_command(main)
