"""All files of what was found in a video: text, maps, the overlay, a contact sheet and a summary."""

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2

from utils.detections import Found
from utils.errors import UserError
from utils.files import remove_abandoned, write_json, writing
from utils.report.detection_files import DetectionFiles
from utils.report.found_sheet import FoundSheet
from utils.report.map_files import ARCHIVE, FOLDER, MapFiles
from utils.report.overlay_video import OverlayVideo

ROOT = Path(__file__).parents[2]
SHEET, SUMMARY = "sheet.png", "summary.json"
VIDEOS = ("overlay.mp4", "overlay.avi")
WAITING = 8  # frames that may wait for being written


class FoundWriter:
    """Writes what was found in a video frame by frame; a context.

        with FoundWriter(folder, facts, rate=25) as writer:
            for found in ...:
                writer.add(found)
            writer.finish({"seconds": {"read": 1.2, "detect": 3.4}})

    The frames are written by a thread of their own; at most 8 wait for it. When the block ends before
    `finish`, by an error or Ctrl-C, the files are whole and hold every frame that was added until then; the
    summary says that this is not all. After a kill, what lies there has temporary names, which the next
    writer in the folder removes.

    folder:  gets what detection_files.py, map_files.py, overlay_video.py and found_sheet.py of utils/report
             tell of, and summary.json
    facts:   what else the summary shall hold, as settings; it is read at the end
    rate:    frames per second of the video; None: not known
    title:   of the overlay and the sheet, such as "TopHat on data11"
    overlay: whether a video is drawn
    maps:    "png", "npz" or both: maps of probabilities
    Raises UserError where the folder holds such files already, and where they cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any] | None = None,
        rate: float | None = None,
        title: str = "",
        overlay: bool = True,
        maps: Collection[str] = (),
    ):
        self.folder, self.facts = folder, facts if facts is not None else {}
        self.counts = {"frames": 0, "unreadable_frames": 0, "detections": 0, "tracks": 0}
        self.notes: list[str] = []
        self._tracks: set[int] = set()
        self._error: BaseException | None = None
        self._is_closed = False
        check_free(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        self._overlay = OverlayVideo(folder, rate, title) if overlay else None
        self._parts = [DetectionFiles(folder), FoundSheet(folder / SHEET, title)]
        self._parts += [self._overlay] * overlay + [MapFiles(folder, maps)] * bool(maps)
        self._thread = ThreadPoolExecutor(1, "writer")
        self._waiting: list[Future] = []

    def __enter__(self) -> "FoundWriter":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if not self._is_closed:
            try:
                self._close(is_complete=False)
            except UserError:
                if kind is None:
                    raise  # else what ended the block is told

    def add(self, found: Found) -> None:
        """Write one frame; they come in order. Raises UserError when an earlier one could not be written."""
        if len(self._waiting) >= WAITING:
            self._waiting[0].result()
            del self._waiting[0]
        if self._error:
            raise self._error
        self._waiting.append(self._thread.submit(self._write, found))

    def finish(self, facts: Mapping[str, Any] | None = None) -> None:
        """Complete all files after the last frame.

        facts: more for the summary; of "seconds", by stage, it makes frames per second
        """
        self._close(is_complete=True, facts=facts or {})

    def _write(self, found: Found) -> None:
        """Runs in the thread, where no signal comes in between. After an error nothing more is written."""
        if self._error:
            return
        try:
            for part in self._parts:
                part.add(found)
        except BaseException as error:  # told by `add` or `finish`, in the thread that can act on it
            self._error = error
            return
        self._tracks |= {point.track for point in found.tracks}
        counts = self.counts
        self.counts = {
            "frames": counts["frames"] + 1,
            "unreadable_frames": counts["unreadable_frames"] + (found.frame.pixels is None),
            "detections": counts["detections"] + len(found.detections),
            "tracks": len(self._tracks),
        }

    def _close(self, is_complete: bool, facts: Mapping[str, Any] | None = None) -> None:
        """Put all files into their places. Raises what could not be written, after that."""
        self._is_closed = True
        self._thread.shutdown()

        def summarise(error: type | None, *_: Any) -> None:
            self._summarise(is_complete and error is None, facts or {})

        with ExitStack() as stack:
            stack.push(summarise)
            for part in self._parts:
                stack.callback(part.close)
            if self._error:
                raise self._error

    def _summarise(self, is_complete: bool, facts: Mapping[str, Any]) -> None:
        """Write summary.json, the last of the files."""
        if self._overlay:
            self.notes += self._overlay.notes
        facts = {**self.facts, **facts}
        seconds = facts.get("seconds", {})
        frames = self.counts["frames"]
        rates = {stage: frames / spent if spent else None for stage, spent in seconds.items()}
        files = sorted(path.name for path in self.folder.iterdir() if path.name in own_names())
        summary = {
            "is_complete": is_complete,
            **self.counts,
            **facts,
            "frames_per_second": rates,
            "notes": [*facts.get("notes", []), *self.notes],
            "files": files,
            "versions": versions(),
        }
        write_json(self.folder / SUMMARY, summary)


def own_names() -> tuple[str, ...]:
    """All names that a writer may give."""
    return (*DetectionFiles.names, SHEET, *VIDEOS, FOLDER, ARCHIVE, SUMMARY)


def check_free(folder: Path) -> None:
    """Raises UserError where `folder` is no folder, or holds what a writer would write."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for what is found")
    if taken := [name for name in own_names() if (folder / name).exists()]:
        raise UserError(f"{folder} holds {taken[0]} already; name another folder, or take the old files away")


def versions() -> dict[str, str | None]:
    """Of this program and of what it computes with."""
    return {
        "program": program_version(),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "numpy": importlib.metadata.version("numpy"),
        "opencv": cv2.__version__,
    }


def program_version() -> str | None:
    """As pyproject.toml has it; None where that is missing."""
    path = ROOT / "pyproject.toml"
    found = re.search(r'^version = "(.+)"', path.read_text() if path.is_file() else "", re.MULTILINE)
    return found and found[1]


def commit() -> str | None:
    """What `git rev-parse HEAD` says; None where there is no git, or no repository."""
    try:
        done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
