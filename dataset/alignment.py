"""Alignment: the frames of a clip as they would lie if the camera had not moved."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dataset.io import gray_values
from utils.defects import DefectFinder, Pixels, repaired
from utils.motion import moved
from utils.registration import (
    INVERSE_NEAREST,
    MODES,
    Registrar,
    footprint,
    largest_shift,
    positions,
    refined,
    rms,
    warped,
)

BORDER = 1  # outermost pixels of a frame that are not trusted
STILL = 1e-6  # pixels that a camera may be off and still stands still
FAR = 12  # frames from the reference from which on registration has to prove itself
VIEW_STEP = 1.5  # pixels that the camera moved from one view of the defects' finder to the next
GAIN = 0.9  # part of the residual without registration that may be left
OVERLAP = {"auto": 0.9, "on": 0.4}  # part of the reference that every frame must see


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the frames of a clip lie, as seen from one of them.

    homographies: for each frame, float64 [3, 3], from the reference to it
    defects:      pixels of the sensor that are replaced before
    area:         rows and columns of the picture in the placed frames, the rest is a border
    """

    reference: int
    homographies: Sequence[np.ndarray]
    defects: Pixels | None
    area: tuple[slice, slice]

    @classmethod
    def measured(
        cls, frames: np.ndarray, reference: int, mode: str, area: tuple[slice, slice]
    ) -> "Alignment | None":
        """The alignment of frames [n, H, W] to the one at `reference`; None where there is none.

        mode: "auto": only where it lowers the residual of the far frames, and all see most of the reference;
              "on": wherever the frames can be registered
        Frames of several scenes are not aligned.
        """
        if mode not in MODES or len(frames) < 2:
            return None
        pictures = [gray_values(frame[area]) for frame in frames]
        shape, registrar = pictures[0].shape, Registrar(MODES[mode])
        motions = [registrar(picture) for picture in pictures]
        if any(motion.is_cut for motion in motions):
            return None
        places = positions(motions)
        back = np.linalg.inv(places[reference])
        found = [place @ back for place in places]
        if max(largest_shift(homography, shape) for homography in found) < STILL:
            return None
        key = pictures[reference]
        found = [
            np.eye(3) if i == reference else refined(key, picture, homography)
            for i, (picture, homography) in enumerate(zip(pictures, found, strict=True))
        ]
        if least_overlap(found, shape) < OVERLAP[mode]:
            return None
        if mode == "auto" and left_over(pictures, reference, found) > GAIN:
            return None
        return cls(reference, found, defects_of(pictures, places), area)

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """Frames [n, H, W] as seen from the reference, same dtype.

        What one does not see has the pixels of the next frame towards the reference.
        """
        aligned = np.array(frames)
        pictures = [repaired(frame[self.area], self.defects) for frame in frames]
        aligned[self.reference][self.area] = pictures[self.reference]
        for i, nearer, seen in self.outwards():
            aligned[i][self.area] = np.where(
                seen, as_seen(pictures[i], self.homographies[i]), aligned[nearer][self.area]
            )
        return aligned

    def masks(self, masks: np.ndarray, places: Sequence[int]) -> np.ndarray:
        """Masks [n, H, W] of all frames, or of the reference alone, as `frames` shows their targets.

        They are 1 where there is a target. None of them vanishes between the pixels.
        """
        if tuple(places) == (self.reference,):
            return masks
        aligned = np.array(masks)
        for i, nearer, seen in self.outwards():
            mask = mask_as_seen(masks[i][self.area], self.homographies[i])
            aligned[i][self.area] = np.where(seen, mask, aligned[nearer][self.area])
        return aligned

    def boxes(self, boxes: Sequence[np.ndarray], places: Sequence[int]) -> tuple[np.ndarray, ...]:
        """Boxes [N, 4] of the frames at `places` where the reference has their centres, of the same size.

        Those that it does not see are left out, and the others cut at its border.
        """
        corner, end = np.array([[part.start, part.stop] for part in self.area[::-1]], np.float64).T
        aligned = []
        for found, place in zip(boxes, places, strict=True):
            if place != self.reference:
                half = (found[:, 2:] - found[:, :2]) / 2
                centres = found[:, :2] + half - 0.5 - corner  # of pixels, not of borders
                centres = moved(centres, np.linalg.inv(self.homographies[place])) + 0.5 + corner
                found = np.hstack([centres - half, centres + half]).clip([*corner, *corner], [*end, *end])
                found = found[((corner <= centres) & (centres < end)).all(axis=1)]
            aligned.append(found)
        return tuple(aligned)

    def outwards(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """(frame, the next one towards the reference, what it sees of the picture) from the reference on."""
        shape = tuple(part.stop - part.start for part in self.area)
        for step, end in ((-1, -1), (1, len(self.homographies))):
            for i in range(self.reference + step, end, step):
                yield i, i - step, footprint(self.homographies[i], shape, BORDER).view(bool)

    def back(self, outputs: np.ndarray, outside: np.ndarray | None = None) -> np.ndarray:
        """Maps [n, H, W] of the aligned frames in the frames' own pixels.

        outside: what holds where the reference does not see; None: 0
        """
        own = np.zeros_like(outputs) if outside is None else outside.copy()
        for output, out, homography in zip(outputs, own, self.homographies, strict=True):
            inverse = np.linalg.inv(homography)
            seen = footprint(inverse, output[self.area].shape).view(bool)
            out[self.area] = np.where(seen, as_seen(output[self.area], inverse), out[self.area])
        return own

    @property
    def sees_all(self) -> bool:
        """Whether the reference sees all of every frame."""
        shape = tuple(part.stop - part.start for part in self.area)
        return least_overlap([np.linalg.inv(one) for one in self.homographies], shape) == 1


def as_seen(picture: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """`warped`, and the picture itself where nothing moved."""
    return picture if largest_shift(homography, picture.shape) < STILL else warped(picture, homography)


def mask_as_seen(mask: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """A mask [H, W] of 0 and 1 from where a homography begins, by the nearest pixels; same dtype.

    A target that falls between these, as where the frame shows it larger, has its own.
    """
    size = mask.shape[::-1]
    seen = cv2.warpPerspective(mask, homography, size, flags=INVERSE_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    rows, cols = np.nonzero(mask)
    places = np.rint(moved(np.stack([cols, rows], axis=1), np.linalg.inv(homography))).astype(int)
    cols, rows = places[((places >= 0) & (places < size)).all(axis=1)].T
    is_lost = cv2.dilate(seen, np.ones((3, 3), np.uint8))[rows, cols] == 0
    seen[rows[is_lost], cols[is_lost]] = 1
    return seen


def least_overlap(homographies: Sequence[np.ndarray], shape: tuple[int, int]) -> float:
    """The smallest part of a frame that one of the homographies takes into another frame."""
    size = shape[0] * shape[1]
    return min(np.count_nonzero(footprint(one, shape)) for one in homographies) / size


def left_over(pictures: Sequence[np.ndarray], reference: int, homographies: Sequence[np.ndarray]) -> float:
    """The residual of the far frames of a clip as a part of what it is without registration, the median."""
    key, least = pictures[reference], min(FAR, len(pictures) // 3)
    parts = []
    for i, (picture, homography) in enumerate(zip(pictures, homographies, strict=True)):
        if i != reference and abs(i - reference) >= least:
            seen = footprint(homography, key.shape)
            without = rms(cv2.absdiff(key, picture), seen)
            parts.append(rms(cv2.absdiff(key, warped(picture, homography)), seen) / max(without, 1e-6))
    return float(np.median(parts)) if parts else 0.0


def defects_of(pictures: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Pixels | None:
    """The defects of the sensor, as far as the frames of a clip show them."""
    finder, view = DefectFinder(), None
    for picture, place in zip(pictures, places, strict=True):
        if view is None or largest_shift(place @ np.linalg.inv(view), picture.shape) >= VIEW_STEP:
            finder.add(picture)
            view = place
    return finder.defects
