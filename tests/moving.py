"""A synthetic video from a moving camera, of which everything is known: homographies, targets, hot pixels.

The ground is a textured plane whose points are called by their places in the first frame. A `Camera` says how
the picture moves from frame to frame; a second, nearer plane may cover a part of it and move faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from utils.motion import Motion, moved

FINENESS = 3  # texture samples per pixel of the first frame
MARGIN = 4  # pixels of texture around all that is seen
SIXTEEN_BIT = 64  # gray levels of 16 bit for one of 8


@dataclass(frozen=True)
class Camera:
    """How the picture of the ground moves, per frame and about the middle of the frame.

    shift:  pixels to the right and down
    turn:   degrees, clockwise as one looks at the picture
    zoom:   factor
    tilt:   perspective, the first two numbers of a homography's last row
    jitter: standard deviation of a shake, pixels, on top of `shift` and not adding up
    """

    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    zoom: float = 1.0
    tilt: tuple[float, float] = (0.0, 0.0)
    jitter: float = 0.0

    def homographies(self, count: int, size: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
        """Per frame what takes (x, y, 1) of the frame before to it, float64 [count, 3, 3]."""
        middle = (np.array(size[::-1]) - 1) / 2
        cos, sin = self.zoom * np.cos(np.radians(self.turn)), self.zoom * np.sin(np.radians(self.turn))
        about_middle = np.array([[cos, -sin, 0], [sin, cos, 0], [*self.tilt, 1]])
        shakes = np.diff(self.jitter * draw.standard_normal((count, 2)), axis=0)
        steps = [
            translation(middle + self.shift + shake) @ about_middle @ translation(-middle) for shake in shakes
        ]
        return np.stack([np.eye(3), *(step / step[2, 2] for step in steps)])


@dataclass(frozen=True)
class Target:
    """A point target: where it is in the first frame, and how it moves on the ground.

    start:    x, y
    velocity: pixels of the first frame per frame
    contrast: gray levels of 8 bit at its peak; below 0: darker than the ground
    sigma:    of its Gaussian, pixels of the frame
    frames:   the first frame that shows it and the one after the last; None: to the end
    """

    start: tuple[float, float]
    velocity: tuple[float, float] = (0.0, 0.0)
    contrast: float = 40.0
    sigma: float = 0.8
    frames: tuple[int, int | None] = (0, None)


@dataclass(frozen=True, eq=False)
class MovingVideo:
    """The frames and what is known of them.

    frames:       uint8 or uint16 [T, H, W]
    homographies: float64 [T, 3, 3], from the frame before to each, of the ground; the first is the identity
    places:       float64 [T, N, 2], x and y of each target; nan where it is not in the frame
    near:         bool [T, H, W], where the nearer plane covers the ground
    near_homographies: those of the nearer plane
    hot_pixels:   row and column of each [K, 2]
    """

    frames: np.ndarray
    homographies: np.ndarray
    places: np.ndarray
    near: np.ndarray
    near_homographies: np.ndarray
    hot_pixels: np.ndarray

    @property
    def motions(self) -> list[Motion]:
        """The homographies as a registration without errors would report them; without residuals."""
        return [Motion(step, measured=number > 0) for number, step in enumerate(self.homographies)]

    def targets(self, frame: int) -> dict[int, tuple[float, float]]:
        """x and y of the targets in a frame by their numbers: from 1, in the given order."""
        places = enumerate(self.places[frame].tolist(), start=1)
        return {number: (x, y) for number, (x, y) in places if x == x}


def moving_video(
    count: int = 60,
    size: tuple[int, int] = (128, 160),
    camera: Camera | None = None,
    targets: Sequence[Target] = (),
    noise: float = 1.5,
    hot_pixels: int = 0,
    parallax: float | None = None,
    sixteen_bit: bool = False,
    seed: int = 0,
) -> MovingVideo:
    """Render a video; the same arguments give the same frames.

    size:       height and width
    camera:     None: one that pans, turns, zooms and tilts a little
    noise:      standard deviation of the sensor's noise, gray levels of 8 bit
    hot_pixels: how many pixels of the sensor are 15 to 60 gray levels too bright
    parallax:   how many times as fast as the ground the nearer plane shifts, which covers the bottom of the
                picture; None: there is none
    """
    draw = np.random.default_rng(seed)
    camera = camera or Camera((1.3, -0.25), 0.15, 1.002, (4e-6, -2e-6), 0.3)
    steps = camera.homographies(count, size, np.random.default_rng(seed))
    near_steps = np.repeat(np.eye(3)[None], count, axis=0)
    pictures = rendered(chain(steps), size, draw)
    near = np.zeros(pictures.shape, np.float32)
    if parallax is not None:
        faster = replace(camera, shift=tuple(parallax * value for value in camera.shift))
        near_steps = faster.homographies(count, size, np.random.default_rng(seed))
        near = rendered(chain(near_steps), size, draw, ridge)
        pictures += near * (rendered(chain(near_steps), size, draw) + 15 - pictures)
    places = target_places(targets, chain(steps), size)
    for picture, centres in zip(pictures, places, strict=True):
        for target, centre in zip(targets, centres, strict=True):
            if np.isfinite(centre).all():
                picture += target.contrast * spot(centre, target.sigma, size)
    pictures += noise * draw.standard_normal(pictures.shape, np.float32)
    hot = np.stack(np.unravel_index(draw.choice(size[0] * size[1], hot_pixels, replace=False), size), axis=1)
    pictures[:, hot[:, 0], hot[:, 1]] += draw.uniform(15, 60, hot_pixels).astype(np.float32)
    levels, dtype = (SIXTEEN_BIT, np.uint16) if sixteen_bit else (1, np.uint8)
    frames = np.clip(np.rint(levels * pictures), 0, np.iinfo(dtype).max).astype(dtype)
    return MovingVideo(frames, steps, places, near > 0.5, near_steps, hot)


def translation(shift: Sequence[float]) -> np.ndarray:
    """The homography of a shift (x, y)."""
    return np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1.0]])


def chain(steps: np.ndarray) -> np.ndarray:
    """From the first frame to each, float64 [T, 3, 3]."""
    total = [steps[0]]
    for step in steps[1:]:
        total.append(step @ total[-1])
    return np.stack([pose / pose[2, 2] for pose in total])


def target_places(targets: Sequence[Target], poses: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """x and y of the targets in each frame, float64 [T, N, 2]; nan where they are not in it."""
    places = np.full((len(poses), len(targets), 2), np.nan)
    for column, target in enumerate(targets):
        first, end = target.frames
        for number in range(first, len(poses) if end is None else end):
            on_ground = np.add(target.start, np.multiply(number, target.velocity))
            place = moved(on_ground, poses[number])[0]
            if (place >= -0.5).all() and (place < np.array(size[::-1]) - 0.5).all():
                places[number, column] = place
    return places


def spot(centre: np.ndarray, sigma: float, size: tuple[int, int]) -> np.ndarray:
    """A Gaussian of height 1, float32 [H, W]."""
    across, down = (
        np.exp(-0.5 * ((np.arange(n) - c) / sigma) ** 2) for n, c in zip(size[::-1], centre, strict=True)
    )
    return np.outer(down, across).astype(np.float32)


# ---------------------------------------------------------------- planes


def rendered(poses: np.ndarray, size: tuple[int, int], draw: np.random.Generator, paint=None) -> np.ndarray:
    """The plane as each frame sees it, float32 [T, H, W].

    paint: what is on the plane, see `texture`, which is the default
    """
    height, width = size
    corners = [(-0.5, -0.5), (width - 0.5, -0.5), (width - 0.5, height - 0.5), (-0.5, height - 0.5)]
    seen = np.concatenate([moved(corners, np.linalg.inv(pose)) for pose in poses])
    first, last = np.floor(seen.min(0)) - MARGIN, np.ceil(seen.max(0)) + MARGIN
    plane = (paint or texture)(first, last, size, draw)
    to_plane = np.diag([FINENESS, FINENESS, 1.0]) @ translation(-first)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.stack(
        [
            cv2.warpPerspective(plane, to_plane @ np.linalg.inv(pose), size[::-1], flags=flags)
            for pose in poses
        ]
    )


def texture(first: np.ndarray, last: np.ndarray, size: tuple[int, int], draw) -> np.ndarray:
    """Clouds of several sizes and things with edges, float32, from `first` to `last` (x, y); about 40 to 160.

    size: of a frame, by which the things are scaled
    """
    width, height = (FINENESS * (last - first)).astype(int) + 1
    plane = np.full((height, width), 90, np.float32)
    for period, contrast in ((40, 16), (14, 7), (5, 3)):
        shape = np.array([height, width]) // (FINENESS * period) + 4
        coarse = draw.standard_normal(shape).astype(np.float32)
        clouds = cv2.resize(
            coarse, None, fx=FINENESS * period, fy=FINENESS * period, interpolation=cv2.INTER_CUBIC
        )
        plane += contrast * clouds[:height, :width]
    things = np.zeros_like(plane)
    extent = FINENESS * min(size)
    for _ in range(round(6 * height * width / (FINENESS**2 * size[0] * size[1])) + 3):
        middle = draw.uniform((0, 0), (width, height))
        sides = draw.uniform(0.05, 0.3, 2) * extent
        corners = cv2.boxPoints((tuple(middle), tuple(sides), draw.uniform(0, 180)))
        cv2.fillConvexPoly(things, np.rint(corners).astype(int), draw.uniform(-30, 30))
    return plane + cv2.GaussianBlur(things, None, FINENESS * 0.8)


def ridge(first: np.ndarray, last: np.ndarray, size: tuple[int, int], _draw) -> np.ndarray:
    """How much a nearer plane covers, 0 to 1, as `texture`: all below a wavy line."""
    x, y = (
        np.arange(low, high + 0.5 / FINENESS, 1 / FINENESS) for low, high in zip(first, last, strict=True)
    )
    line = size[0] * (0.66 + 0.05 * np.sin(2 * np.pi * x / size[1]) + 0.03 * np.sin(5 * np.pi * x / size[1]))
    return (0.5 + 0.5 * np.tanh(y[:, None] - line)).astype(np.float32)
