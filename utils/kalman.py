"""Constant-velocity Kalman filters in pixels of a frame whose ground moves by homographies, many at once.

A state is x, y and the velocity against the ground, in pixels a frame.
"""

import numpy as np

# One frame on: the velocity is added to the place.
STEP = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)
# What an acceleration that is constant within a frame adds to place and velocity.
PUSH = np.array([[0.5, 0], [0, 0.5], [1, 0], [0, 1]], np.float64)


class Filters:
    """The states of K things and how sure they are.

    states:      float64 [K, 4]
    covariances: float64 [K, 4, 4]
    noise:       standard deviation of a measured place, in pixels
    agility:     standard deviation of the acceleration, in pixels per frame squared
    speed:       standard deviation of the velocity of a new one
    """

    def __init__(self, noise: float, agility: float, speed: float):
        self.states, self.covariances = np.zeros((0, 4)), np.zeros((0, 4, 4))
        self.noise = noise**2 * np.eye(2)
        self.agility = agility**2 * PUSH @ PUSH.T
        self.start = np.diag([noise**2, noise**2, speed**2, speed**2])

    @property
    def places(self) -> np.ndarray:
        """float64 [K, 2], x and y."""
        return self.states[:, :2]

    def add(self, places: np.ndarray) -> None:
        """New ones at places [N, 2], at rest as far as is known."""
        states = np.concatenate([places, np.zeros_like(places)], axis=1)
        self.states = np.concatenate([self.states, states])
        self.covariances = np.concatenate([self.covariances, np.tile(self.start, (len(places), 1, 1))])

    def keep(self, chosen: np.ndarray) -> None:
        """Forget all but the chosen ones, bool [K]."""
        self.states, self.covariances = self.states[chosen], self.covariances[chosen]

    def advance(self, homography: np.ndarray) -> None:
        """To the next frame, whose ground lies where a homography [3, 3] takes that of this one."""
        self.states = self.states @ STEP.T
        self.covariances = STEP @ self.covariances @ STEP.T + self.agility
        if len(self.states):
            places, slopes = carried(self.places, homography)
            both = np.zeros_like(self.covariances)  # [K, 4, 4], the same for place and velocity
            both[:, :2, :2] = both[:, 2:, 2:] = slopes
            velocities = (slopes @ self.states[:, 2:, None])[..., 0]
            self.states = np.concatenate([places, velocities], axis=1)
            self.covariances = both @ self.covariances @ both.transpose(0, 2, 1)

    def distances(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(squared Mahalanobis distances [K, N] of measured places [N, 2], how wide each state looks [K]).

        The width is the logarithm of the determinant, so that the sum of both is twice the negative
        logarithm of a likelihood, but for a constant.
        """
        spread = self.covariances[:, :2, :2] + self.noise
        weights = np.linalg.inv(spread)
        x, y = places.T[:, None] - self.places.T[:, :, None]  # [K, N] each
        a, b, c = (weights[:, row, column, None] for row, column in ((0, 0), (0, 1), (1, 1)))
        return a * x**2 + 2 * b * x * y + c * y**2, np.log(np.linalg.det(spread))

    def update(self, rows: np.ndarray, places: np.ndarray) -> None:
        """Take in the measured places [M, 2] of some of the things [M]."""
        before = self.covariances[rows]
        gains = before[:, :, :2] @ np.linalg.inv(before[:, :2, :2] + self.noise)  # [M, 4, 2]
        self.states[rows] += (gains @ (places - self.places[rows])[..., None])[..., 0]
        self.covariances[rows] = before - gains @ before[:, :2]


def carried(places: np.ndarray, homography: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where a homography takes places [N, 2], its derivatives there [N, 2, 2]); nan beyond the horizon."""
    homography = homography / homography[2, 2]
    projected = places @ homography[:, :2].T + homography[:, 2]
    scales = np.where(projected[:, 2:] > 0, projected[:, 2:], np.nan)
    found = projected[:, :2] / scales
    slopes = (homography[:2, :2] - found[:, :, None] * homography[2, :2]) / scales[:, :, None]
    return found, slopes
