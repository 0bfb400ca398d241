"""A contact sheet of a video of any length: a few evenly spaced frames with detections and tracks."""

from pathlib import Path

import numpy as np

from utils.detections import Found
from utils.report.drawing import widened
from utils.report.pictures import SHEET_FRAMES, Tile, overlay_sheet, tile_scale
from utils.report.traces import Traces

KEPT = 2 * SHEET_FRAMES  # tiles at most while the video goes on


class FoundSheet:
    """Keeps every n-th frame, with n doubled whenever there are too many, and draws some of them at the end.

    Frames that cannot be read are left out; a video without any other has no sheet.
    """

    def __init__(self, path: Path, title: str):
        self.path, self.title = path, title
        self._traces = Traces()
        self._tiles: dict[int, Tile] = {}  # by the count of frames before it
        self._last: Tile | None = None
        self._last_place = 0
        self._count, self._stride = 0, 1

    def add(self, found: Found) -> None:
        """Take in one frame."""
        traces = self._traces.add(found)
        if found.frame.pixels is not None:
            of = found.detections
            caption = f"detections {len(of)}    tracks {len(traces)}"
            scale = tile_scale(*found.frame.pixels.shape)
            boxes = np.column_stack([widened(of.boxes, scale), of.scores])
            name = f"{found.frame.number}  {found.frame.name}"
            self._last = Tile(name, found.frame.pixels, boxes, None, caption, traces)
            self._last_place = self._count
            if self._count % self._stride == 0:
                self._tiles[self._count] = self._last
            if len(self._tiles) > KEPT:
                self._stride *= 2
                self._tiles = {n: tile for n, tile in self._tiles.items() if n % self._stride == 0}
        self._count += 1

    def close(self) -> None:
        """Draw the sheet. Raises UserError where it cannot be written."""
        if self._last is not None:
            tiles = {**self._tiles, self._last_place: self._last}
            places = np.array(sorted(tiles))
            wanted = np.linspace(places[0], places[-1], SHEET_FRAMES)
            chosen = dict.fromkeys(int(places[np.abs(places - place).argmin()]) for place in wanted)
            overlay_sheet([tiles[place] for place in chosen], self.path, self.title, threshold=None)
