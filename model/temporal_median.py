"""TemporalMedian: detection without training, by the median of registered neighbours.

Each frame is compared with the median of the frames around it, registered to it; what differs by more than
these differ among each other, and is a small bright spot, is a target. The key frame is never interpolated.
Frames of another scene, beyond a cut, are no neighbours.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from utils.defects import DefectFinder, Pixels, repaired
from utils.errors import UserError
from utils.motion import Motion
from utils.recipe.fields import Facts
from utils.registration import STANDING, Registrar, footprint, largest_shift, warped
from utils.registry import register_model

SCALE = 128  # of the integers that hold gray levels, which int16 has room for
MOST = 2**15 - 1  # the largest of them
DETAIL = np.ones((5, 5), np.uint8)  # of the top-hat
SIDE = 65  # of the square whose noise a pixel's difference is compared with
DETAIL_SIDE = 33  # the same for the top-hat
LEAST = 4  # neighbours that must see a pixel
SAME = 1e-6  # pixels that a frame may be off and still is not warped
AROUND = 8  # pixels that filters reach
BORDER = 1  # outermost pixels of a neighbour that are not trusted
VIEW_STEP = 1.5  # pixels that the camera moved from one view of the defects' finder to the next

Box = tuple[slice, slice]


class TemporalMedian(nn.Module):
    """The difference to the temporal median in units of the temporal noise.

    lags:       frames before and after the key frame that it is compared with
    near_lags:  those instead where fewer than 4 of them see a pixel, as at the borders of a fast pan
    far_lags:   those besides while the camera stands still, for targets that hardly move
    threshold:  noise units from which a difference is a target
    tophat:     the same for the white top-hat of the frame
    """

    streams_late = True  # predictions of a frame come when those after it were seen; the stream takes motions

    def __init__(
        self,
        lags: Sequence[int] = (4, 6, 8, 10, 12),
        near_lags: Sequence[int] = (1, 2, 3, 4, 5),
        far_lags: Sequence[int] = (15, 21, 27, 33, 39),
        threshold: float = 5.0,
        tophat: float = 3.0,
    ):
        super().__init__()
        self.lags, self.near_lags, self.far_lags = (tuple(sorted(x)) for x in (lags, near_lags, far_lags))
        self.threshold, self.tophat = threshold, tophat

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """clip [B, 1, T, H, W] of gray levels 0..255, each a whole video. Returns logits [B, T, H, W].

        The motion of the camera is measured. Raises UserError for another number of channels.
        """
        check_clip(clip)
        if clip.is_meta:  # of which the shape is all that counts
            return {"logits": clip[:, 0]}
        logits = []
        for video in clip:
            stream = self.stream()
            parts = [stream(video[None], range(video.shape[1]))]
            logits.append(torch.cat([part["logits"] for part in [*parts, stream.finish()]], dim=1))
        return {"logits": torch.cat(logits)}

    def stream(self) -> "Stream":
        """The same frame by frame of one video, late by the largest lag."""
        return Stream(self)

    def decode(self, raw: dict[str, Tensor]) -> Tensor:
        """Probabilities [B, T, H, W] in 0..1."""
        return torch.sigmoid(raw["logits"])


class Stream:
    """TemporalMedian over one video, late as it waits for the frames after one.

    Holds twice as many frames as the largest lag.
    """

    def __init__(self, detector: TemporalMedian):
        self.detector = detector
        self.reach = max((*detector.lags, *detector.near_lags, *detector.far_lags))
        self.held: deque[Frame] = deque()
        self.first = self.done = 0  # numbers of the first frame held, and of the next to be judged
        self.finder = DefectFinder()
        self.view: np.ndarray | None = None  # where the last view of the defects' finder lies
        self.defects: Pixels | None = None
        self.next_search = 0.0  # views from which they are looked for again
        self.registrar = Registrar()  # for whoever gives no motions
        self.device = torch.device("cpu")
        self.aside = ThreadPoolExecutor(1, "TemporalMedian")

    def __call__(
        self, clip: Tensor, places: Sequence[int], motions: Sequence[Motion] | None = None
    ) -> dict[str, Tensor]:
        """The logits [1, n, H, W] of the frames that are complete now, which follow those given before.

        clip:    [1, 1, T, H, W], the next frames
        places:  their numbers; those that were there before are passed over
        motions: how the background moved to each of them; None: it is measured
        """
        self.device = clip.device
        number = self.first + len(self.held)
        for i, (place, gray) in enumerate(zip(places, gray_frames(clip), strict=True)):
            if place >= number:
                self.add(gray, motions[i] if motions else self.registrar(gray))
        return self.logits(self.first + len(self.held) - self.reach, clip.shape[-2:])

    def finish(self) -> dict[str, Tensor]:
        """The logits of the frames that are left, after the last one of the video."""
        shape = self.held[-1].gray.shape if self.held else (0, 0)
        return self.logits(self.first + len(self.held), shape)

    def add(self, gray: np.ndarray, motion: Motion) -> None:
        place, scene = np.eye(3), 0
        if self.held:
            before = self.held[-1]
            place, scene = motion.homography @ before.place, before.scene + motion.is_cut
        self.held.append(Frame(gray, place / place[2, 2], scene))
        step = np.inf if self.view is None else largest_shift(place @ np.linalg.inv(self.view), gray.shape)
        if step >= VIEW_STEP:
            self.finder.add(gray)
            self.view = place
            if self.finder.views >= self.next_search:
                self.defects, self.next_search = self.finder.defects, 1.25 * self.finder.views

    def logits(self, stop: int, shape: Sequence[int]) -> dict[str, Tensor]:
        """Those of the frames before `stop` that were not judged yet."""
        found = []
        while self.done < stop:
            found.append(self.judge(self.done))
            self.done += 1
            while self.first < self.done - self.reach:
                self.held.popleft()
                self.first += 1
        stacked = np.stack(found) if found else np.zeros((0, *shape), np.float32)
        return {"logits": torch.from_numpy(stacked)[None].to(self.device)}

    def frame(self, number: int) -> "Frame":
        frame = self.held[number - self.first]
        return frame.repaired(self.defects)

    def judge(self, number: int) -> np.ndarray:
        """The logits of a frame, float32 [H, W]."""
        chosen = self.detector
        aside = self.aside.submit(self.detail_and_far_score, number)
        score, seen = self.deviation(number, chosen.lags)
        if (box := box_around(seen < LEAST)) is not None:
            near, _ = self.deviation(number, chosen.near_lags, box)
            score[box] = np.where(seen[box] < LEAST, near, score[box])
        score = local_units(score)
        detail, far = aside.result()
        if far is not None:
            score = np.maximum(score, far)
        return np.minimum(score - chosen.threshold, 2 * (detail - chosen.tophat))

    def detail_and_far_score(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(the top-hat, the score with the far frames where the camera stands still); beside the rest."""
        gray = self.frame(number).planes.astype(np.float32) * np.float32(1 / SCALE)
        detail = local_deviation(cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, DETAIL))
        if not self.stands_still(number):
            return detail, None
        far, _ = self.deviation(number, (*self.detector.lags, *self.detector.far_lags))
        return detail, local_units(far)

    def neighbours(self, number: int, lags: Sequence[int]) -> list[int]:
        """The frames around one, in both directions, that are there and show the same scene."""
        last, scene = self.first + len(self.held) - 1, self.held[number - self.first].scene
        around = (number + sign * lag for sign in (-1, 1) for lag in lags)
        return [
            place
            for place in around
            if self.first <= place <= last and self.held[place - self.first].scene == scene
        ]

    def stands_still(self, number: int) -> bool:
        """Whether no frame around one was seen from elsewhere, as far as the largest lag."""
        key = self.held[number - self.first]
        back = np.linalg.inv(key.place)
        places = self.neighbours(number, self.detector.far_lags)
        return bool(places) and all(
            largest_shift(self.held[place - self.first].place @ back, key.gray.shape) < STANDING
            for place in places
        )

    def deviation(
        self, number: int, lags: Sequence[int], box: Box = np.s_[:, :]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(difference to the median of the neighbours in units of the noise, how many see each pixel).

        What few of them see counts less in proportion, as their noise is known less well.
        box: the rows and columns of the frame that are asked for
        """
        key = self.frame(number)
        own, back = key.planes[box], np.linalg.inv(key.place)
        planes, seen, is_low = [], np.zeros(own.shape, np.uint8), np.ones(own.shape, np.uint8)
        for place in self.neighbours(number, lags):
            other = self.frame(place)
            homography = other.place @ back
            if largest_shift(homography, key.gray.shape) < SAME:
                planes.append(Plane(other.planes[box].view(np.int16)))
                seen += 1
                continue
            inside = footprint(homography, key.gray.shape, BORDER)[box]
            unseen = inside ^ 1
            # Half of the neighbours that do not see a pixel are below all others there, half above.
            low = unseen & is_low
            values = warped(other.planes, homography, box).view(np.int16)
            planes.append(Plane(values, low.view(bool), (unseen ^ low).view(bool)))
            is_low ^= unseen
            seen += inside
        if not planes:
            return np.zeros(own.shape, np.float32), seen
        score = noise_units(own.view(np.int16), planes)
        score[seen < LEAST] = 0
        return score * (seen * np.float32(1 / len(planes))), seen


@dataclass(frozen=True, eq=False)
class Plane:
    """A neighbour as the key frame sees it: int16 [H, W], of SCALE per gray level.

    low, high: bool [H, W], where it sees nothing, and counts as below or above all that do; None: nowhere
    """

    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def bounded(self, values: np.ndarray) -> np.ndarray:
        """The values [H, W], which it changes: 0 or the largest number where it sees nothing."""
        if self.low is not None:
            np.copyto(values, 0, where=self.low)
            np.copyto(values, MOST, where=self.high)
        return values

    def distance(self, middle: np.ndarray) -> np.ndarray:
        """How far its values are from others, int16 [H, W]."""
        distance = self.values - middle
        return np.abs(distance, out=distance)


class Frame:
    """A frame that is held: gray levels [H, W], the homography from the first frame to it, its scene."""

    def __init__(self, gray: np.ndarray, place: np.ndarray, scene: int):
        self.gray, self.place, self.scene = gray, place, scene
        self.known: Pixels | None = None  # the defects that `planes` lacks
        self.planes = as_integers(gray)

    def repaired(self, defects: Pixels | None) -> "Frame":
        """The same, its defects replaced."""
        if defects is not self.known:
            self.planes = as_integers(repaired(self.gray, defects))
            self.known = defects  # the last: two threads may come here
        return self


def gray_frames(clip: Tensor) -> np.ndarray:
    """The frames of a clip [1, 1, T, H, W], float32 [T, H, W]. Raises UserError for another shape."""
    check_clip(clip)
    return clip[0, 0].detach().float().cpu().numpy()


def check_clip(clip: Tensor) -> None:
    if clip.ndim != 5 or clip.shape[1] != 1:
        raise UserError(
            f"TemporalMedian takes clips [B, 1, T, H, W] but got {list(clip.shape)}; set view.channels to 1"
        )


def as_integers(gray: np.ndarray) -> np.ndarray:
    """Gray levels 0..255 as uint16."""
    return np.minimum(cv2.multiply(gray, SCALE, dtype=cv2.CV_16U), 255 * SCALE)


def noise_units(key: np.ndarray, planes: list[Plane]) -> np.ndarray:
    """The difference of a frame to the median of others, smoothed, in units of the noise, float32 [H, W].

    The noise is the median absolute deviation of the others, smoothed, one gray level and a quarter of the
    median's gradient, which stands for what registration leaves. key: int16 [H, W], of SCALE per gray level.
    """
    middle = median_of([plane.bounded(plane.values.copy()) for plane in planes])
    spread = median_of([plane.bounded(plane.distance(middle)) for plane in planes])
    median = middle.astype(np.float32) * np.float32(1 / SCALE)
    difference = cv2.GaussianBlur((key - middle).astype(np.float32) * np.float32(1 / SCALE), (0, 0), 0.6)
    noise = cv2.GaussianBlur(spread.astype(np.float32) * np.float32(1.48 / SCALE), (0, 0), 2)
    rows, cols = (cv2.Sobel(median, cv2.CV_32F, *order, scale=0.25 / 8) for order in ((0, 1), (1, 0)))
    return difference / np.sqrt(noise * noise + 1 + rows * rows + cols * cols)


def local_units(score: np.ndarray) -> np.ndarray:
    """Scores [H, W] in units of their root mean square in the square around each, at least 1.

    Large ones count as 4 there.
    """
    noise = cv2.blur(np.minimum(score * score, 16), (SIDE, SIDE))
    return score / np.sqrt(np.maximum(noise, 1))


def local_deviation(detail: np.ndarray) -> np.ndarray:
    """Values [H, W] less their mean, in units of their standard deviation, in the square around each."""
    square = (DETAIL_SIDE, DETAIL_SIDE)
    mean = cv2.blur(detail, square)
    variance = cv2.blur(detail * detail, square) - mean * mean
    return (detail - mean) / np.sqrt(np.maximum(variance, 0.25))


def box_around(mask: np.ndarray) -> Box | None:
    """The rows and columns of the true pixels of a mask [H, W] and what is around; None without any.

    Lines of one or two pixels do not count.
    """
    mask = cv2.erode(mask.view(np.uint8), np.ones((5, 5), np.uint8))
    rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return tuple(slice(max(found[0] - AROUND, 0), found[-1] + 1 + AROUND) for found in (rows, cols))


# ---------------------------------------------------------------- the median


@cache
def median_network(count: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """What compares and exchanges so that the middle of `count` values is in its place.

    (low, high, whether the lower value is needed later, whether the higher is): those of Batcher's odd-even
    merge sort that reach the middle.
    """
    pairs = []
    part = 1
    while part < count:
        step = part
        while step:
            pairs += [
                (start + i, start + i + step)
                for start in range(step % part, count - step, 2 * step)
                for i in range(min(step, count - start - step))
                if (start + i) // (2 * part) == (start + i + step) // (2 * part)
            ]
            step //= 2
        part *= 2
    needed, network = {(count - 1) // 2, count // 2}, []
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            network.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(network))


def median_of(planes: list[np.ndarray]) -> np.ndarray:
    """The median [H, W] of int16 planes, which it uses up; of an even number the middle of two, rounded down.

    A network of minima and maxima, some thirty times as fast as `np.median`.
    """
    spare = np.empty_like(planes[0])
    for low, high, keeps_low, keeps_high in median_network(len(planes)):
        first, second = planes[low], planes[high]
        if keeps_low and keeps_high:
            np.minimum(first, second, out=spare)
            np.maximum(first, second, out=second)
            planes[low], spare = spare, first
        elif keeps_low:
            np.minimum(first, second, out=first)
        else:
            np.maximum(first, second, out=second)
    low, high = planes[(len(planes) - 1) // 2], planes[len(planes) // 2]
    return low if low is high else (low >> 1) + (high >> 1) + (low & high & 1)


# ---------------------------------------------------------------- recipe, entry point

RECIPE = {
    "view": {"frames": 1, "key": "all", "channels": 1, "mean": 0.0, "std": 1.0, "register": "auto"},
    "scoring": {"paper": "DeepPro"},
}
RENAME = {}

Lags = Annotated[tuple[int, ...], Facts("frames before and after the key frame", at_least=1, at_most=1000)]


@register_model("TemporalMedian", recipe=RECIPE, rename=RENAME)
def temporal_median(
    lags: Lags = (4, 6, 8, 10, 12),
    near_lags: Lags = (1, 2, 3, 4, 5),
    far_lags: Lags = (15, 21, 27, 33, 39),
    threshold: Annotated[float, Facts("noise units of the difference", at_least=0, at_most=1e6)] = 5.0,
    tophat: Annotated[float, Facts("noise units of the top-hat", at_least=0, at_most=1e6)] = 3.0,
) -> TemporalMedian:
    return TemporalMedian(lags, near_lags, far_lags, threshold, tophat)
