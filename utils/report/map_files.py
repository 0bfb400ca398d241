"""Maps of probabilities under the names of a video's frames: 8-bit PNG, compressed float32, or both."""

import re
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from utils.detections import Found
from utils.errors import UserError
from utils.files import replacing, writing
from utils.report.prediction_files import MapFile

KINDS = ("png", "npz")
FOLDER, ARCHIVE = "maps", "maps.npz"
IMAGE = re.compile(r"\.(png|bmp|jpe?g|tiff?|gif|webp|pgm)$", re.IGNORECASE)


class MapFiles:
    """maps/<name>.png with floor(255 p), and maps.npz with one float32 [H, W] per frame under <name>.

    The suffix of an image is left out of a name, unless another frame has that name already. A frame that
    cannot be read has no map. Boxes become maps of their scores.
    kinds: of KINDS
    Raises UserError where a map cannot be written, or has the name of another one.
    """

    def __init__(self, folder: Path, kinds: Collection[str]):
        self.folder, self.kinds = folder, kinds
        self._archive: MapFile | None = None
        if "npz" in kinds:
            with writing(folder / ARCHIVE):
                self._archive = MapFile(folder / ARCHIVE)

    def add(self, found: Found) -> None:
        """Write one frame."""
        if found.prediction is None:
            return
        probability, name = found.prediction.score_map, self.free_name(found.frame.name)
        if "png" in self.kinds:
            _, png = cv2.imencode(".png", (255 * probability).astype(np.uint8))
            with replacing(self.folder / FOLDER / f"{name}.png") as temporary:
                temporary.write_bytes(png.tobytes())
        if self._archive:
            try:
                with writing(self.folder / ARCHIVE):
                    self._archive.add(f"{name}.npy", probability)
            except BaseException:  # a half-written map cannot be taken out; its space serves the other files
                self._archive.abandon()
                self._archive = None
                raise

    def free_name(self, frame: str) -> str:
        """The name for the map of a frame, a path below the folder."""
        parts = [part for part in re.split(r"[/\\]", frame) if part not in ("", ".", "..")]
        name = "/".join(parts) or "frame"
        for choice in (IMAGE.sub("", name), name):
            is_there = "png" in self.kinds and (self.folder / FOLDER / f"{choice}.png").exists()
            if not is_there and not (self._archive and f"{choice}.npy" in self._archive):
                return choice
        raise UserError(
            f"two frames would have their map in {self.folder / FOLDER / name}.png; rename one of the frames "
            f"{frame}"
        )

    def close(self) -> None:
        """Put the file of maps into its place."""
        if self._archive:
            with writing(self.folder / ARCHIVE):
                self._archive.close()
