"""Registration: how the background moved, measured from the frames themselves.

Phase correlation proposes a start, ECC (Evangelidis and Psarakis, PAMI 2008) refines it to a homography on
frames of half size. A frame is registered to an anchor some frames before it, not to the frame before: errors
of neighbours then do not add up. What does not lower the measured residual is not believed, and the camera
counts as standing still. A frame that has nothing in common with those before it begins another scene.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.motion import Motion, moved

INVERSE_LINEAR = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
INVERSE_NEAREST = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
LARGEST = 640  # longer side of the frames that are registered; larger ones are halved again
SMALLEST = 192  # shorter side of the frames that are halved
STANDING = 0.5  # pixels that a camera may be off and still counts as standing
LARGEST_ZOOM = 2.0  # between frames of one scene, of a side
RECENT = 8  # frames whose residuals a frame's is compared with
SAMPLES = 4096  # pixels of which quantiles are taken
DETAIL = 4.0  # standard deviation of what is smoother than the detail of a reduced frame, pixels


@dataclass(frozen=True)
class Settings:
    """How frames are registered.

    gain:       a homography is believed where it lowers the residual below this part of that of the identity
    most_gain:  the same of the difference that a tenth of the pixels exceed, so that a strong target, which
                is few of them, is not what is registered
    iterations: of ECC, at most
    moving_age: frames after which a frame becomes the next anchor
    standing_age: the same while the camera stands still
    overlap:    part of the anchor that a frame must see, else it becomes the next anchor
    least_overlap: part of it without which there is no registration
    jump:       multiple of the largest recent difference from which a frame may belong to another scene
    likeness:   correlation of the detail of two frames below which it does
    """

    gain: float = 0.9
    most_gain: float = 0.95
    iterations: int = 20
    moving_age: int = 12
    standing_age: int = 60
    overlap: float = 0.7
    least_overlap: float = 0.4
    jump: float = 2.0
    likeness: float = 0.5


MODES = {
    "auto": Settings(),
    "on": Settings(gain=1.0, most_gain=1.0),
}  # by the recipe's word; off: there is none


class Registrar:
    """Gives the Motion of each frame of a video, which come in order: registrar(pixels [H, W]) -> Motion.

    The first frame has the identity, and so has a frame that nothing registers, or that begins another scene.
    """

    def __init__(self, settings: Settings = Settings()):  # noqa: B008, frozen
        self.settings = settings
        self.anchor: np.ndarray | None = None
        self.before: np.ndarray | None = None  # the frame before
        self.recent: deque[float] = deque(maxlen=RECENT)  # `most_of` what registration left, but for 0

    def __call__(self, pixels: np.ndarray) -> Motion:
        small, shrink = reduced(pixels)
        if self.anchor is None or small.shape != self.anchor.shape:
            self.set_anchor(small)
            self.step = np.eye(3)
            return Motion()
        self.age += 1
        found, still, residual, most = self.against_anchor(small)
        if self.is_cut(small, found, most):
            self.set_anchor(small)
            self.step = np.eye(3)
            self.recent.clear()
            return Motion(still=still, residual=still, is_cut=True)
        step = found @ np.linalg.inv(self.place)
        self.before, self.place, self.step = small, found, step / step[2, 2]
        is_identity = np.array_equal(found, np.eye(3))
        homography = enlarged(self.step, shrink)
        measured = not np.allclose(homography, np.eye(3), rtol=0, atol=1e-9)
        oldest = self.settings.standing_age if is_identity else self.settings.moving_age
        if self.age >= oldest or overlap_of(found, small.shape) < self.settings.overlap:
            self.set_anchor(small)
        return Motion(homography if measured else np.eye(3), still, residual, measured)

    def set_anchor(self, small: np.ndarray) -> None:
        """The next frames are registered to this one."""
        self.anchor = self.before = small
        self.place, self.age = np.eye(3), 0  # where the frame before lies, as seen from the anchor

    def is_cut(self, small: np.ndarray, found: np.ndarray, most: float) -> bool:
        """Whether a reduced frame, registered by `found`, shows another scene than the anchor.

        A difference far above the recent ones is not enough: it rises with a jerk or another gain too. Where
        a pan is not registered, it grows from frame to frame.
        most: see `most_of`
        """
        largest = max(self.recent, default=np.inf)
        if most:
            self.recent.append(most)
        if most <= self.settings.jump * largest:
            return False
        seen = footprint(found, small.shape)
        return likeness(self.anchor, warped(small, found), seen) < self.settings.likeness

    def against_anchor(self, small: np.ndarray) -> tuple[np.ndarray, float, float, float]:
        """(homography from the anchor, residual of the identity, residual, most of it) of a reduced frame."""
        difference = cv2.absdiff(self.anchor, small)
        still = rms(difference, None)
        shift = translation(self.before, small)
        starts = [self.place, self.step @ self.place, shift @ self.place]
        judged = [self.judge(small, start, difference) for start in starts]
        start = starts[int(np.argmin([ratio for ratio, _ in judged]))]
        refined = ecc(self.anchor, small, start, self.settings.iterations)
        if refined is not None:
            starts.append(refined)
            judged.append(self.judge(small, refined, difference))
        for i in np.argsort([ratio for ratio, _ in judged], kind="stable"):
            ratio, residual = judged[i]
            if ratio <= self.settings.gain:
                left = cv2.absdiff(self.anchor, warped(small, starts[i]))
                seen = footprint(starts[i], small.shape)
                most = most_of(left, seen)
                if most <= self.settings.most_gain * most_of(difference, seen):
                    return starts[i] / starts[i][2, 2], still, residual, most
        return np.eye(3), still, still, most_of(difference, None)

    def judge(self, small: np.ndarray, homography: np.ndarray, difference: np.ndarray) -> tuple[float, float]:
        """(residual as a part of the identity's on the same pixels, residual); infinite without overlap.

        difference: of the anchor and the frame as they lie
        """
        seen = footprint(homography, small.shape)
        if np.count_nonzero(seen) < self.settings.least_overlap * seen.size:
            return np.inf, np.inf
        residual = rms(cv2.absdiff(self.anchor, warped(small, homography)), seen)
        return residual / max(rms(difference, seen), 1e-6), residual


def reduced(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """(pixels [H, W] smoothed and reduced to half their size, float32, by how much they were reduced)."""
    height, width = pixels.shape
    shrink = 1 if min(height, width) < SMALLEST else 2
    while max(height, width) / shrink > LARGEST:
        shrink *= 2
    small = pixels.astype(np.float32)
    if shrink > 1:
        small = cv2.resize(small, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), 0.7), shrink


def enlarged(homography: np.ndarray, factor: float) -> np.ndarray:
    """A homography of frames as one of frames that are so many times as large."""
    middle = (factor - 1) / 2  # of the first reduced pixel
    up = np.array([[factor, 0, middle], [0, factor, middle], [0, 0, 1.0]])
    whole = up @ homography @ np.linalg.inv(up)
    return whole / whole[2, 2]


def translation(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The translation between two frames by phase correlation."""
    if min(before.shape) < 2:
        return np.eye(3)
    window = cv2.createHanningWindow(before.shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(before.copy(), after.copy(), window)  # which writes into what it is given
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]]) if np.isfinite([x, y]).all() else np.eye(3)


def refined(first: np.ndarray, second: np.ndarray, start: np.ndarray) -> np.ndarray:
    """A homography from the first to the second frame [H, W] by ECC; `start` where that is better."""
    small, shrink = reduced(first)
    other, _ = reduced(second)
    found = ecc(small, other, enlarged(start, 1 / shrink), MODES["on"].iterations)
    if found is None:
        return start
    found = enlarged(found, shrink)
    seen = footprint(start, first.shape) & footprint(found, first.shape)
    before, after = (rms(cv2.absdiff(first, warped(second, one)), seen) for one in (start, found))
    return found if after < before else start


def ecc(first: np.ndarray, second: np.ndarray, start: np.ndarray, iterations: int) -> np.ndarray | None:
    """The homography from the first to the second frame by ECC; None where that does not converge."""
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, 1e-4)
    try:
        _, found = cv2.findTransformECC(
            first, second, start.astype(np.float32), cv2.MOTION_HOMOGRAPHY, until, None, 1
        )
    except cv2.error:  # its way to say that the frames have nothing in common
        return None
    found = found.astype(np.float64)
    return found if is_plausible(found, first.shape) else None


def is_plausible(homography: np.ndarray, shape: tuple[int, int]) -> bool:
    """Whether a homography may lie between two frames of one scene.

    It must not mirror or fold the frame, nor change its sides by more than LARGEST_ZOOM, on the average.
    """
    height, width = shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    places = corners @ homography.T
    if not np.isfinite(places).all() or places[:, 2].min() <= 0:
        return False
    area = cv2.contourArea((places[:, :2] / places[:, 2:]).astype(np.float32), oriented=True)
    return LARGEST_ZOOM**-2 <= area / (width * height) <= LARGEST_ZOOM**2


def likeness(first: np.ndarray, second: np.ndarray, seen: np.ndarray) -> float:
    """The correlation of the detail of two frames [H, W] in the pixels that are `seen`, -1 to 1."""
    one, other = (detail(frame)[seen.view(bool)] for frame in (first, second))
    size = np.sqrt((one * one).sum() * (other * other).sum())
    return float((one * other).sum() / size) if size else 0.0


def detail(frame: np.ndarray) -> np.ndarray:
    """What is finer than DETAIL in a frame [H, W]; strong things, such as overlaid text, count no more than
    twice the usual, or than what rounding leaves of it.
    """
    fine = frame - cv2.GaussianBlur(frame, (0, 0), DETAIL)
    most = max(2 * np.median(np.abs(fine)), 0.5)
    return fine.clip(-most, most)


def warped(pixels: np.ndarray, homography: np.ndarray, box: tuple[slice, slice] = np.s_[:, :]) -> np.ndarray:
    """The frame as seen from where its homography begins: out(x) = pixels(homography x), bilinear.

    box: the rows and columns of it that are asked for
    Pixels that the frame does not see are those at its border.
    """
    (top, bottom, _), (left, right, _) = (
        part.indices(side) for part, side in zip(box, pixels.shape, strict=True)
    )
    if top or left:
        homography = homography @ np.array([[1, 0, left], [0, 1, top], [0, 0, 1.0]])
    size = right - left, bottom - top
    return cv2.warpPerspective(
        pixels, homography, size, flags=INVERSE_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def footprint(homography: np.ndarray, shape: tuple[int, int], margin: int = 0) -> np.ndarray:
    """Which pixels a homography takes into a frame of `shape`, and not into its outer `margin` pixels.

    uint8 [H, W] of 0 and 1.
    """
    height, width = shape
    left, top, right, bottom = margin, margin, width - 1 - margin, height - 1 - margin
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    places = np.round(moved(corners, np.linalg.inv(homography)) * 16).clip(-(2**30), 2**30)
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, places.astype(np.int32), 1, shift=4)
    return mask


def overlap_of(homography: np.ndarray, shape: tuple[int, int]) -> float:
    """The part of a frame that a homography takes into another one."""
    return np.count_nonzero(footprint(homography, shape)) / (shape[0] * shape[1])


def rms(difference: np.ndarray, seen: np.ndarray | None) -> float:
    """Root mean square of differences [H, W], of the pixels that are `seen` or of all."""
    count = difference.size if seen is None else max(np.count_nonzero(seen), 1)
    return float(cv2.norm(difference, cv2.NORM_L2, seen) / count**0.5)


def most_of(difference: np.ndarray, seen: np.ndarray | None) -> float:
    """What a tenth of the differences [H, W] exceed, of the pixels that are `seen` or of all; sampled."""
    step = max(2, round((difference.size / SAMPLES) ** 0.5))
    values = difference[::step, ::step]
    values = values.ravel() if seen is None else values[seen[::step, ::step].view(bool)]
    place = int(0.9 * len(values))
    return float(np.partition(values, place)[place]) if len(values) else np.inf


def largest_shift(homography: np.ndarray, shape: tuple[int, int]) -> float:
    """How far a homography moves a corner of a frame, in pixels."""
    height, width = shape
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    return float(np.abs(moved(corners, homography) - corners).max())


def positions(motions: Sequence[Motion]) -> list[np.ndarray]:
    """For each frame the homography from the first one, by the motions that lead to it."""
    places, place = [], np.eye(3)
    for motion in motions:
        place = motion.homography @ place
        place = place / place[2, 2]
        places.append(place)
    return places
