"""Write a noisy copy of NUDT-MIRSDT, as far as it is known how NUDT-MIRSDT-Noise was made.

DeepPro's authors publish that set but no recipe. Known is its folder's name, ...Noise8.0_FJY(g0.15-o1.3),
that lists and labels are those of the clean set, and the noise of one sample frame. Assumed, from these:

  8.0    standard deviation of Gaussian noise, drawn anew for each pixel of each frame, in gray values
  g0.15  gain of each pixel, uniform in 1 - 0.15 .. 1 + 0.15 (the sample frame fits this and no Gaussian)
  o1.3   offset of each pixel, Gaussian with a standard deviation of 1.3 gray values
  FJY    non-uniformity (fei jun yun): gain and offset of a pixel stay the same over a sequence

Figures on this copy are therefore not figures on NUDT-MIRSDT-Noise; its folder says so.
"""

import argparse
import io
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset import Sequence, create_dataset  # noqa: E402
from dataset.io import gray_values, read_gray  # noqa: E402
from dataset.nudt_mirsdt import HOME_MADE  # noqa: E402
from utils.cli import Parser, number  # noqa: E402
from utils.errors import UserError, run_command  # noqa: E402
from utils.files import write_atomically, write_json  # noqa: E402

SIGMA, GAIN, OFFSET = 8.0, 0.15, 1.3
ASSUMPTIONS = __doc__.split("\n\n")[1:]


def noisy_frames(
    frames: list[np.ndarray], draw: np.random.Generator, sigma: float, gain: float, offset: float
):
    """Yields gray frames [H, W] of 0..255 with the noise, rounded to uint8; one sequence."""
    size = frames[0].shape
    gains, offsets = draw.uniform(1 - gain, 1 + gain, size), draw.normal(0, offset, size)
    for frame in frames:
        noisy = frame * gains + offsets + draw.normal(0, sigma, size)
        yield np.rint(noisy.clip(0, 255)).astype(np.uint8)


def write_sequence(sequence: Sequence, folder: Path, flags: argparse.Namespace) -> None:
    """Write the noisy frames of a sequence to folder/<sequence>/images/<frame>.png."""
    draw = np.random.default_rng([flags.seed, zlib.crc32(sequence.name.encode())])
    frames = [gray_values(read_gray(path)) for path in sequence.images]
    noisy = noisy_frames(frames, draw, flags.sigma, flags.gain, flags.offset)
    for path, pixels in zip(sequence.images, noisy, strict=True):
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="png")
        write_atomically(folder / sequence.name / "images" / f"{path.stem}.png", png.getvalue())


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, gray = parser.add_argument, number(float, at_least=0, at_most=255)
    add("--dataset_dir", type=Path, default=Path("data"), help="NUDT-MIRSDT or its parent (default: data)")
    add("--out", type=Path, help="folder to write (default: NUDT-MIRSDT-Noise/<name> beside NUDT-MIRSDT)")
    add("--sigma", type=gray, default=SIGMA, help=f"default: {SIGMA}")
    add("--gain", type=number(float, at_least=0, at_most=1), default=GAIN, help=f"default: {GAIN}")
    add("--offset", type=gray, default=OFFSET, help=f"default: {OFFSET}")
    seed = number(int, at_least=0, at_most=2**63 - 1)
    add("--seed", type=seed, default=0, help="the same seed writes the same files (default: 0)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    flags = parse(argv)
    sets = {split: create_dataset("NUDT-MIRSDT", flags.dataset_dir, split) for split in ("train", "test")}
    name = f"home-made_sigma{flags.sigma:g}_gain{flags.gain:g}_offset{flags.offset:g}_seed{flags.seed}"
    folder = flags.out or sets["train"].root.parent / "NUDT-MIRSDT-Noise" / name
    if (folder / HOME_MADE).exists() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; remove it or give another --out")
    sequences = [sequence for data in sets.values() for sequence in data]
    for sequence in tqdm(sequences, "noise", unit="sequence", disable=None):
        write_sequence(sequence, folder, flags)
    for split, data in sets.items():
        names = "".join(f"{sequence.name}\n" for sequence in data)
        write_atomically(folder / f"{split}.txt", names.encode())
    knobs = {key: getattr(flags, key) for key in ("sigma", "gain", "offset", "seed")}
    write_json(folder / HOME_MADE, {**knobs, "source": sets["train"].root, "assumptions": ASSUMPTIONS})
    print(f"wrote {len(sequences)} sequences to {folder}; it is not the published set, see noise.json there")


if __name__ == "__main__":
    run_command(main)
