"""A sample: the frames of a training clip together with the masks or boxes of their targets."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sample:
    """A training clip and its truth, which augmentations change together.

    images: [T, H, W] gray values as files have them, later float32 [T, H, W] or [C, T, H, W], normalised
    truth:  the places in the clip, in order, of the frames that masks or boxes tell of
    key:    the place, one of `truth`, by which a patch is placed: of the key frame, or a window's middle
    masks:  [len(truth), H, W], targets above 0; None where boxes are trained with
    boxes:  float64 [N, 4] x1 y1 x2 y2 for each frame of `truth`; None where masks are trained with
    """

    images: np.ndarray
    truth: tuple[int, ...]
    key: int
    masks: np.ndarray | None = None
    boxes: tuple[np.ndarray, ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        height, width = self.images.shape[-2:]
        return height, width

    @property
    def length(self) -> int:
        """How many frames there are."""
        return self.images.shape[-3]

    def key_targets(self) -> tuple[np.ndarray, np.ndarray]:
        """The targets of the key frame: boxes [N, 4], and centres [N, 2] as row and column of pixels."""
        place = self.truth.index(self.key)
        if self.boxes is not None:
            x1, y1, x2, y2 = self.boxes[place].T
            return self.boxes[place], np.stack([y1 + y2 - 1, x1 + x2 - 1], axis=1) / 2
        return outlined(self.masks[place] > 0)

    def key_pixels(self) -> np.ndarray:
        """Row and column [N, 2] of each target pixel of the key frame; of samples with masks."""
        return np.argwhere(self.masks[self.truth.index(self.key)] > 0)

    def only(self, places: tuple[int, ...]) -> "Sample":
        """The same frames with the truth of those at `places` alone."""
        if places == self.truth:
            return self
        chosen = [self.truth.index(place) for place in places]
        masks = None if self.masks is None else self.masks[chosen]
        boxes = None if self.boxes is None else tuple(self.boxes[i] for i in chosen)
        return replace(self, truth=places, masks=masks, boxes=boxes)

    def cut(self, corners: np.ndarray, side: int) -> "Sample":
        """Squares of the frames, whose first pixels are `corners`, int [T, 2] of row and column.

        Boxes whose centres lie in the square are kept, and cut at its border.
        """
        corners_of_truth = corners[list(self.truth)]
        images, masks, boxes = squares(self.images, corners, side), self.masks, self.boxes
        if masks is not None:
            masks = squares(masks, corners_of_truth, side)
        if boxes is not None:
            boxes = tuple(map(cut_boxes, boxes, corners_of_truth, [side] * len(boxes)))
        return replace(self, images=images, masks=masks, boxes=boxes)

    def padded(self, images: np.ndarray, padding: tuple[int, int]) -> "Sample":
        """The clip filled up in time: `images` have (before, after) frames more, without targets."""
        if not any(padding):
            return replace(self, images=images)
        before, after = padding
        truth, masks, boxes = tuple(range(images.shape[-3])), self.masks, self.boxes
        if masks is not None:
            masks = np.pad(masks, [padding, (0, 0), (0, 0)])
        if boxes is not None:
            none = (np.zeros((0, 4)),)
            boxes = none * before + boxes + none * after
        return Sample(images, truth, self.key + before, masks, boxes)


def outlined(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 4] and centroids [N, 2] of the components of a bool mask [H, W], in the order of OpenCV.

    That order is of blocks of 2x2 pixels; which target a patch is drawn around depends on it.
    """
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    if not rows.size:
        return np.zeros((0, 4), np.int32), np.zeros((0, 2))
    top, left = first = rows[0] // 2 * 2, columns[0] // 2 * 2  # so that the blocks stay the same
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1].view(np.uint8)
    _, _, statistics, centres = cv2.connectedComponentsWithStats(part, connectivity=8)
    x, y, width, height, area = statistics[1:].T
    boxes = np.stack([x, y, x + width, y + height], axis=1) + np.tile(first[::-1], 2)
    sums = np.rint(centres[1:, ::-1] * area[:, None])  # whole numbers: the means are those in the frame
    return boxes, (sums + np.array(first) * area[:, None]) / area[:, None]


def squares(frames: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Squares [..., T, side, side] of frames [..., T, H, W] with first pixels `corners` [T, 2]."""
    if (corners == corners[0]).all():
        top, left = corners[0]
        return frames[..., top : top + side, left : left + side]
    parts = [
        frames[..., t, top : top + side, left : left + side] for t, (top, left) in enumerate(corners.tolist())
    ]
    return np.stack(parts, axis=-3)


def cut_boxes(boxes: np.ndarray, corner: np.ndarray, side: int) -> np.ndarray:
    """The boxes [N, 4] whose centres lie in a square at `corner` (row, column), cut at its border."""
    boxes = boxes - np.tile(corner[::-1], 2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= 0) & (centres < side)).all(1)
    return boxes[inside].clip(0, side)


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips and the targets of their task, which augmentations of batches change together.

    clips: [B, C, T, H, W]
    masks: [B, T', H, W]; None where boxes are trained with
    boxes: of each clip the rows [n, 5] of its boxes; None where masks are trained with
    """

    clips: Tensor
    masks: Tensor | None = None
    boxes: list[Tensor] | None = None
