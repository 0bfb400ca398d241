"""Rendering of synthetic infrared sequences with tiny moving targets.

Gray levels, target size (2 to 9 pixels) and distance from the border follow NUDT-MIRSDT (Li et al., DTUM,
IEEE TNNLS 2023).

The SNR of a target in one frame is (mean over its mask - mean over a ring around it) / std over the ring.
The ring is the 17x17 square around the target's pixel without the inner 7x7, cut at the frame's edge; its std
is that of background, clutter, noise and rounding, without any target. The stated SNR is the mean over the
frames that show the target, for its own light alone: with the background under the mask, a measured SNR lies
within about 0.3 (one sigma). A target's contrast is constant over the sequence, so that it does not flicker.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from utils.errors import UserError
from utils.recipe.fields import setting, settings_of

MASK_LEVEL = 0.5  # a pixel belongs to a target where the point spread is at least this fraction of its peak
RING_INNER, RING_OUTER = 3, 8  # half sides of the ring around a target, px
LOW_SNR_LIMIT = 3.0  # NUDT-MIRSDT's border between its low-SNR and its high-SNR group


@dataclass(frozen=True)
class SceneSettings:
    """What the scenes look like. A pair is a range (min, max) to draw from, per sequence, target or point.

    Lengths are in pixels, speeds in pixels per frame, brightness in gray levels of 0..255.
    Raises UserError for a value out of range.
    """

    height: int = setting(128, "image height, px", at_least=16, at_most=4096)
    width: int = setting(128, "image width, px", at_least=16, at_most=4096)
    frames: int = setting(100, "frames per sequence", at_least=1, at_most=10_000)
    low_snr: tuple[float, float] = setting(
        (1.5, 3.0), "SNR of the low-SNR sequences", at_least=0, at_most=LOW_SNR_LIMIT
    )
    high_snr: tuple[float, float] = setting(
        (3.5, 6.0), "SNR of the high-SNR sequences, above 3", at_least=0, at_most=1e4
    )
    targets: tuple[int, int] = setting((1, 3), "targets per sequence", at_least=0, at_most=1000)
    speed: tuple[float, float] = setting(
        (0.4, 1.6), "speed of a target in the image, px/frame", at_least=0, at_most=1e4
    )
    turn_rate: tuple[float, float] = setting(
        (0.5, 3.0), "turn rate of about half the targets, degrees/frame", at_least=0, at_most=360
    )
    psf_sigma: tuple[float, float] = setting(
        (0.7, 1.3), "sigma of the Gaussian point spread, px", at_least=0.1, at_most=32
    )
    border: int = setting(
        5,
        "a target is there only while its centre is this far inside the frame, px",
        at_least=0,
        at_most=2048,
    )
    clutter: tuple[int, int] = setting(
        (4, 10), "unlabelled bright points per frame, fixed to the ground", at_least=0, at_most=10_000
    )
    clutter_snr: tuple[float, float] = setting(
        (0.6, 1.4), "SNR of a clutter point / SNR of the targets", at_least=0, at_most=1e4
    )
    horizon: tuple[float, float] = setting(
        (0.2, 1.4), "row of the horizon / height (0: only ground)", at_least=0, at_most=100
    )
    drift_speed: tuple[float, float] = setting(
        (0.0, 0.1), "speed of the ground and of the clouds, px/frame", at_least=0, at_most=100
    )
    jitter_std: float = setting(
        0.0, "std of the camera's random shift in each frame, px", at_least=0, at_most=100
    )
    cloud_length: float = setting(40.0, "correlation length of the clouds, px", at_least=1, at_most=1e4)
    cloud_slope: float = setting(3.4, "slope b of the clouds' power spectrum 1/f^b", at_least=0, at_most=20)
    ground_length: float = setting(
        12.0, "correlation length of the ground texture, px", at_least=1, at_most=1e4
    )
    ground_slope: float = setting(
        2.6, "slope b of the ground texture's power spectrum 1/f^b", at_least=0, at_most=20
    )
    gray_mean: tuple[float, float] = setting(
        (70.0, 140.0), "mean of a sequence, gray levels", at_least=0, at_most=255
    )
    gray_std: tuple[float, float] = setting(
        (10.0, 25.0), "std of a sequence's background, gray levels", at_least=0, at_most=255
    )
    noise_std: float = setting(
        2.0, "std of the sensor noise, new in each frame, gray levels", at_least=0, at_most=255
    )
    offset_std: float = setting(0.5, "std of the fixed-pattern offset, gray levels", at_least=0, at_most=255)
    gain_std: float = setting(
        0.005, "std of the fixed-pattern gain (0.01 is one percent)", at_least=0, at_most=1
    )

    def __post_init__(self):
        for name, chosen in settings_of(type(self)).items():
            value = chosen.checked(getattr(self, name), name)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise UserError(f"{name} is {value}; give two numbers in rising order")
        if self.high_snr[0] <= LOW_SNR_LIMIT:
            raise UserError(f"high_snr is {self.high_snr}; keep both above {LOW_SNR_LIMIT:g}")
        if 2 * self.border >= min(self.height, self.width):
            raise UserError(
                f"border {self.border} leaves no room in {self.height}x{self.width} pixels; lower it"
            )


@dataclass(frozen=True, eq=False)
class Spots:
    """K Gaussian points that move over N frames.

    positions: float64 [K, N, 2], row and column of the centre, counted from 0
    visible:   bool [K, N], whether the spot is drawn in that frame
    sigma:     float64 [K], px
    """

    positions: np.ndarray
    visible: np.ndarray
    sigma: np.ndarray

    @classmethod
    def within(
        cls, settings: SceneSettings, positions: np.ndarray, sigma: np.ndarray, border: int
    ) -> "Spots":
        """The spots that ever come at least `border` px inside the frame, visible while they are there."""
        visible = inside((settings.height, settings.width), *np.moveaxis(pixel_of(positions), -1, 0), border)
        seen = visible.any(axis=1)
        return cls(positions[seen], visible[seen], sigma[seen])

    def patches(self) -> tuple[np.ndarray, ...]:
        """Rows, columns, point spread (peak 1) and mask of the pixels around each centre, each [K, N, P, P].

        The mask holds the pixels of at least MASK_LEVEL and always the one nearest to the centre.
        """
        radius = math.ceil(4 * self.sigma.max(initial=0))
        rows, cols = square(pixel_of(self.positions), radius)
        row, col = np.moveaxis(self.positions[..., None, None], 2, 0)
        spread = np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * self.sigma[:, None, None, None] ** 2))
        mask = spread >= MASK_LEVEL
        mask[..., radius, radius] = True
        return rows, cols, spread, mask


@dataclass(frozen=True, eq=False)
class SyntheticSequence:
    """One rendered sequence and its truth.

    frames:    uint8 [N, H, W]
    masks:     uint8 [N, H, W], 255 on the targets
    centroids: uint8 [N, H, W], 255 at the pixel of each target's centre
    targets:   the true sub-pixel tracks
    contrast:  float64 [K], peak of each target above its background, gray levels
    snr:       the stated SNR of its targets
    """

    frames: np.ndarray
    masks: np.ndarray
    centroids: np.ndarray
    targets: Spots
    contrast: np.ndarray
    snr: float


def pixel_of(positions: np.ndarray) -> np.ndarray:
    """The nearest pixel, int64, of sub-pixel positions of any shape."""
    return np.rint(positions).astype(np.int64)


def square(centres: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns [..., P, P], P = 2 radius + 1, of the squares around pixels [..., 2]."""
    offsets = np.arange(-radius, radius + 1)
    rows = centres[..., 0, None, None] + offsets[:, None]
    cols = centres[..., 1, None, None] + offsets[None, :]
    return np.broadcast_arrays(rows, cols)


def inside(shape: tuple[int, int], rows: np.ndarray, cols: np.ndarray, border: int = 0) -> np.ndarray:
    """Whether pixels lie in a frame [H, W], at least `border` px from its edge."""
    height, width = shape
    return (rows >= border) & (rows < height - border) & (cols >= border) & (cols < width - border)


def random_field(
    shape: tuple[int, int], slope: float, length: float, stretch: float, rng: np.random.Generator
) -> np.ndarray:
    """A random texture float32 [H, W] of mean 0 and standard deviation 1.

    Its power falls as 1/f^slope beyond the correlation length `length` (px) and is flat below (the von Karman
    spectrum of turbulence). Its features are `stretch` times as wide as high.
    """
    rows, cols = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    frequency = 2 * np.pi * length * np.hypot(rows, stretch * cols)
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * (1 + frequency**2) ** (-slope / 4)
    texture = np.fft.irfft2(spectrum, s=shape)
    return ((texture - texture.mean()) / texture.std()).astype(np.float32)


class Layer:
    """A plane behind the frames that moves by shift [N, 2] px; no frame looks past its edge."""

    MARGIN = 3  # px that the bicubic kernel needs

    def __init__(self, settings: SceneSettings, shift: np.ndarray):
        self.frame_shape = (settings.height, settings.width)
        self.shift = shift
        self.origin = np.ceil(shift.max(axis=0)) + self.MARGIN  # where pixel (0, 0) of an unmoved frame lies
        size = self.origin + self.frame_shape - np.floor(shift.min(axis=0)) + self.MARGIN
        self.shape = tuple(int(side) for side in size)

    def view(self, texture: np.ndarray) -> np.ndarray:
        """What the frames see of a texture float32 [self.shape]: [N, H, W], by bicubic interpolation."""
        height, width = self.frame_shape
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        windows = [np.array([[1, 0, left], [0, 1, top]]) for top, left in self.origin - self.shift]
        return np.stack([cv2.warpAffine(texture, window, (width, height), flags=flags) for window in windows])


def random_drift(settings: SceneSettings, rng: np.random.Generator) -> np.ndarray:
    """Shift [N, 2] in px of a layer that moves at constant velocity in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    velocity = rng.uniform(*settings.drift_speed) * np.array([np.sin(angle), np.cos(angle)])
    return np.arange(settings.frames)[:, None] * velocity


def render_sky(settings: SceneSettings, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Clouds before a sky that brightens towards the horizon, float32 of `shape`."""
    cover, softness = rng.uniform(-1, 1), 0.3
    clouds = random_field(shape, settings.cloud_slope, settings.cloud_length, rng.uniform(1, 2.5), rng)
    clouds = softness * np.logaddexp(0, (clouds + cover) / softness)  # flat where there is no cloud
    return np.float32(clouds + rng.uniform(0, 1) * np.linspace(0, 1, shape[0])[:, None])


def render_ground(settings: SceneSettings, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Texture on patches of land, each patch of one level, float32 of `shape`."""
    stretch = rng.uniform(2, 4)  # seen at a slant
    patches = np.round(random_field(shape, 3.0, 3 * settings.ground_length, stretch, rng) / 0.7)
    texture = random_field(shape, settings.ground_slope, settings.ground_length, stretch, rng)
    sharp = rng.uniform(-1, 1.5) + 0.5 * patches + 0.4 * texture
    return cv2.GaussianBlur(sharp, (0, 0), np.mean(settings.psf_sigma))


def render_background(
    settings: SceneSettings, ground_shift: np.ndarray, sky_shift: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Gray levels [N, H, W] of a sky above a hilly horizon and of the ground, each with its shift [N, 2]."""
    sky, ground = Layer(settings, sky_shift), Layer(settings, ground_shift)
    hills = 0.03 * settings.height * random_field((1, ground.shape[1]), 3.0, settings.cloud_length, 1, rng)
    horizon = ground.origin[0] + rng.uniform(*settings.horizon) * settings.height + hills
    ground_share = np.float32(np.clip(np.arange(ground.shape[0])[:, None] - horizon, -1, 1) / 2 + 0.5)

    frames = sky.view(render_sky(settings, sky.shape, rng))
    frames += ground.view(ground_share) * (ground.view(render_ground(settings, ground.shape, rng)) - frames)
    frames -= frames.mean()
    frames *= rng.uniform(*settings.gray_std) / frames.std()
    return frames + np.float32(rng.uniform(*settings.gray_mean))


def random_targets(settings: SceneSettings, jitter: np.ndarray, rng: np.random.Generator) -> Spots:
    """Targets of constant speed, about half of them turning at a constant rate.

    Each passes a random point of the frame in a random frame, so that it enters and leaves at any time.
    """
    count = rng.integers(*settings.targets, endpoint=True)
    speed = rng.uniform(*settings.speed, (count, 1, 1))
    turn = np.radians(rng.uniform(*settings.turn_rate, (count, 1))) * rng.choice([-1, 0, 0, 1], (count, 1))
    heading = rng.uniform(0, 2 * np.pi, (count, 1)) + turn * np.arange(settings.frames)
    track = np.cumsum(speed * np.stack([np.sin(heading), np.cos(heading)], axis=-1), axis=1)  # [K, N, 2]
    frame_size = np.array([settings.height, settings.width])
    place = rng.uniform(settings.border, frame_size - 1 - settings.border, (count, 2))
    moment = rng.integers(settings.frames, size=count)
    track += (place - track[np.arange(count), moment])[:, None]
    return Spots.within(settings, track + jitter, rng.uniform(*settings.psf_sigma, count), settings.border)


def random_clutter(settings: SceneSettings, shift: np.ndarray, rng: np.random.Generator) -> Spots:
    """Points that move with the ground, spread evenly over all of it that comes into view."""
    frame_size = np.array([settings.height, settings.width])
    low, high = -shift.max(axis=0), frame_size - shift.min(axis=0)
    per_frame = rng.integers(*settings.clutter, endpoint=True)
    count = round(per_frame * np.prod(high - low) / np.prod(frame_size))
    places = rng.uniform(low, high, (count, 2))
    return Spots.within(settings, places[:, None] + shift, rng.uniform(*settings.psf_sigma, count), border=0)


def ring_std(frames: np.ndarray, index: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Std over the ring around pixels [M, 2] of frames[index], with the noise of rounding to 8 bit: [M]."""
    rows, cols = square(pixels, RING_OUTER)
    distance = np.abs(np.arange(-RING_OUTER, RING_OUTER + 1))
    ring = inside(frames.shape[1:], rows, cols) & (np.maximum(distance[:, None], distance) > RING_INNER)
    values = frames[index[:, None, None], rows % frames.shape[1], cols % frames.shape[2]]
    return np.sqrt(np.var(values, axis=(1, 2), where=ring) + 1 / 12)


def contrast_for_snr(frames: np.ndarray, spots: Spots, snr: float | np.ndarray) -> np.ndarray:
    """Peak gray level [K] above the background `frames` at which the spots have the stated SNR."""
    _, _, spread, mask = spots.patches()
    unit_snr = np.mean(spread, axis=(2, 3), where=mask)  # [K, N]
    which, index = np.nonzero(spots.visible)
    unit_snr[which, index] /= ring_std(frames, index, pixel_of(spots.positions)[which, index])
    return snr / np.mean(unit_snr, axis=1, where=spots.visible)


def add_spots(frames: np.ndarray, spots: Spots, contrast: np.ndarray, gain: np.ndarray) -> None:
    """Draw the spots into frames [N, H, W], in place, through the sensor's gain [H, W]."""
    rows, cols, spread, _ = spots.patches()
    spread *= contrast[:, None, None, None]
    drawn = inside(gain.shape, rows, cols) & spots.visible[:, :, None, None]
    index = np.nonzero(drawn)[1]
    rows, cols = rows[drawn], cols[drawn]
    np.add.at(frames, (index, rows, cols), spread[drawn] * gain[rows, cols])


def render_truth(spots: Spots, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Masks and centroid maps, uint8 [N, H, W] of 0 and 255."""
    masks, centroids = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    rows, cols, _, mask = spots.patches()
    mask &= inside(shape[1:], rows, cols) & spots.visible[:, :, None, None]
    masks[np.nonzero(mask)[1], rows[mask], cols[mask]] = 255
    which, index = np.nonzero(spots.visible)
    centre = pixel_of(spots.positions)[which, index]
    centroids[index, centre[:, 0], centre[:, 1]] = 255
    return masks, centroids


def render_sequence(settings: SceneSettings, snr: float, rng: np.random.Generator) -> SyntheticSequence:
    """One sequence whose targets have the stated SNR, as the top of this file defines it."""
    jitter = rng.normal(0, settings.jitter_std, (settings.frames, 2))
    ground_shift, sky_shift = random_drift(settings, rng) + jitter, random_drift(settings, rng) + jitter
    frames = render_background(settings, ground_shift, sky_shift, rng)
    gain = rng.normal(1, settings.gain_std, frames.shape[1:])
    frames = frames * gain + rng.normal(0, settings.offset_std, gain.shape)
    frames += rng.normal(0, settings.noise_std, frames.shape)

    clutter = random_clutter(settings, ground_shift, rng)
    clutter_snr = snr * rng.uniform(*settings.clutter_snr, len(clutter.sigma))
    add_spots(frames, clutter, contrast_for_snr(frames, clutter, clutter_snr), gain)
    targets = random_targets(settings, jitter, rng)
    contrast = contrast_for_snr(frames, targets, snr)
    add_spots(frames, targets, contrast, gain)

    masks, centroids = render_truth(targets, frames.shape)
    frames = np.rint(np.clip(frames, 0, 255)).astype(np.uint8)
    return SyntheticSequence(frames, masks, centroids, targets, contrast, snr)
