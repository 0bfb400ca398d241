"""The loss of the YOLOX head: each target takes its cheapest cells (SimOTA), all others are background.

Sources: "YOLOX: Exceeding YOLO Series in 2021" (arXiv 2107.08430, section 2.1) and the training code of
SSTNet, SMFNet and STMENet, whose rules are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from loss.terms import named_terms
from utils.errors import UserError
from utils.recipe.fields import Facts
from utils.registry import register_loss

IOU_WEIGHT = 5.0  # of the box term in the loss
IOU_COST, OUTSIDE_COST, NAN_COST = 3.0, 1e5, 1e10  # of a cell for a target
REACH = 2.5  # cells around a target's centre that it may take, in each direction
MOST_CELLS = 10  # that one target can take


class Cells(NamedTuple):
    """The A cells of all maps in one row."""

    maps: Tensor  # [B, 5 + C, A]: tx, ty, tw, th, objectness, classes
    corner: Tensor  # [2, A]: column and row, in cells
    stride: Tensor  # [A]: input pixels per cell


@register_loss("YOLOX", aliases=("SimOTA", "YOLOLoss"), task="boxes")
class YOLOXLoss(nn.Module):
    """The loss of a batch of boxes, divided by the number of positive cells (at least 1):

        5 sum(1 - IoU^2) + sum BCE(objectness, positive) + sum BCE(class, IoU in the target's class)

    The first and the last sum run over the positive cells, the other over all cells. The IoU in the class
    target is a constant. A model that gives raw["motion_loss"] (SSTNet) has it added.

    strides:       input pixels per cell of each map of raw["head"]
    motion_weight: of raw["motion_loss"]

    Shapes: B images, n targets in the fullest of them, A cells of all maps, C classes. Images and targets are
    padded and masked, never looped over, so that nothing waits for the device.
    """

    def __init__(
        self,
        strides: Annotated[tuple[int, ...], Facts("pixels per cell", at_least=1, at_most=1024)] = (8,),
        motion_weight: Annotated[float, Facts("of raw['motion_loss']", at_least=0, at_most=1e6)] = 1.0,
    ):
        super().__init__()
        self.strides, self.motion_weight = tuple(strides), motion_weight

    def forward(self, raw: Mapping[str, Any], target: Sequence[Tensor]) -> dict[str, Tensor]:
        """The scalar "loss" and its terms "iou", "objectness", "class" and, where it is added, "motion".

        raw:    "head", one map [B, 5 + C, h, w] per stride: tx, ty, tw, th, logits of objectness and classes
        target: per image [n, 5]: centre x, y, width, height in input pixels, class; [0] or [0, 5] for none
        Raises UserError without "head" and where maps and strides differ in number, ValueError where images
        and targets do.
        """
        sums = self.sums(raw, target)
        positives = sums.pop("positives").clamp(min=1)
        sums["iou"] = IOU_WEIGHT * sums["iou"]
        loss = (sums["iou"] + sums["objectness"] + sums["class"]) / positives
        terms = {name: value / positives for name, value in sums.items()}
        if "motion_loss" in raw:
            terms["motion"] = self.motion_weight * raw["motion_loss"]
            loss = loss + terms["motion"]
        return named_terms(loss, **terms)

    def sums(self, raw: Mapping[str, Any], target: Sequence[Tensor]) -> dict[str, Tensor]:
        """The sums "iou", "objectness" and "class" over the batch, and the number of "positives"."""
        cells = self.cells(raw)
        truth = padded(target, cells.maps)
        positive, matched, matched_iou = sim_ota(cells, truth)
        own = truth.gather(2, matched[:, None].expand(-1, 5, -1))  # [B, 5, A]
        # Background is masked before the decoding: its sizes may overflow, and the gradient 0 * inf is NaN.
        boxes = decoded(cells._replace(maps=cells.maps.where(positive[:, None], 0)))
        objectness, classes = cells.maps[:, 4], cells.maps[:, 5:]
        class_target = one_hot(own[:, 4], classes.shape[1]) * matched_iou[:, None]
        class_loss = binary_cross_entropy_with_logits(classes, class_target, reduction="none").sum(1)
        return {
            "iou": (1 - box_iou(boxes, own[:, :4]) ** 2).where(positive, 0).sum(),
            "objectness": binary_cross_entropy_with_logits(
                objectness, positive.to(objectness), reduction="sum"
            ),
            "class": class_loss.where(positive, 0).sum(),
            "positives": positive.sum(),
        }

    def assign(self, raw: Mapping[str, Any], target: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(positive bool [B, A], index of its target int64 [B, A], their IoU [B, A]) of every cell.

        Index and IoU are 0 in the background. Arguments as those of `forward`.
        """
        cells = self.cells(raw)
        return sim_ota(cells, padded(target, cells.maps))

    def cells(self, raw: Mapping[str, Any]) -> Cells:
        """All maps as one, in at least float32."""
        if "head" not in raw:
            raise UserError("loss YOLOX reads the head of a box model: give this model another loss")
        head = raw["head"]
        if len(head) != len(self.strides):
            raise UserError(
                f"loss YOLOX has {len(self.strides)} strides but the model gives {len(head)} maps; "
                "set loss_options.strides to one number per map"
            )
        corners, strides = [], []
        for level, stride in zip(head, self.strides, strict=True):
            height, width = level.shape[-2:]
            rows, columns = (torch.arange(size, device=level.device) for size in (height, width))
            corners.append(torch.stack([columns.repeat(height), rows.repeat_interleave(width)]))
            strides.append(torch.full((height * width,), stride, device=level.device))
        maps = torch.cat([level.flatten(2) for level in head], dim=2)
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        return Cells(maps, torch.cat(corners, dim=1).to(maps), torch.cat(strides).to(maps))


def padded(target: Sequence[Tensor], maps: Tensor) -> Tensor:
    """Targets [B, 5, n], n at least 1, with -1 where an image has fewer."""
    if len(target) != len(maps):
        raise ValueError(f"{len(maps)} images but targets of {len(target)}")
    truth = maps.new_full((len(maps), max(1, *map(len, target)), 5), -1)
    for rows, boxes in zip(truth, target, strict=True):
        rows[: len(boxes)] = boxes.reshape(-1, 5)
    return truth.transpose(1, 2)


def decoded(cells: Cells) -> Tensor:
    """Boxes [B, 4, A] of centre x, y, width, height."""
    centre = (cells.maps[:, :2] + cells.corner) * cells.stride
    return torch.cat([centre, cells.maps[:, 2:4].exp() * cells.stride], dim=1)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes [B, 4, ...] of centre x, y, width, height; they broadcast."""
    x1, y1, w1, h1 = first.unbind(1)
    x2, y2, w2, h2 = second.unbind(1)
    width = torch.minimum(x1 + w1 / 2, x2 + w2 / 2) - torch.maximum(x1 - w1 / 2, x2 - w2 / 2)
    height = torch.minimum(y1 + h1 / 2, y2 + h2 / 2) - torch.maximum(y1 - h1 / 2, y2 - h2 / 2)
    intersection = width.clamp(min=0) * height.clamp(min=0)
    return intersection / (w1 * h1 + w2 * h2 - intersection + 1e-16)


def one_hot(label: Tensor, classes: int) -> Tensor:
    """bool [B, C, N] of labels [B, N]."""
    return label[:, None] == torch.arange(classes, device=label.device)[:, None]


# ---------------------------------------------------------------- assignment


@torch.no_grad()
def sim_ota(cells: Cells, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As YOLOXLoss.assign, of truth [B, 5, n] as from `padded`.

    A target takes as many cells as its ten best IoUs add up to, rounded down but at least one: the cheapest
    candidates of its image. A cell that several targets have taken goes to the target, of all in the image,
    for which it is cheapest. Of equal costs the first cell or target counts. An image without candidates,
    whose targets all lie outside, has no positive cell (the published code stops with an error there).
    """
    candidate, iou, cost = pairs(cells, truth)
    taken = cheapest(cost, dynamic_k(iou, candidate)) & candidate
    contested = taken.sum(1, keepdim=True) > 1
    matched = cost.where(taken | contested, torch.inf).argmin(1)
    positive = taken.any(1)
    return positive, matched, iou.gather(1, matched[:, None])[:, 0].where(positive, 0)


def pairs(cells: Cells, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(candidate bool, IoU, cost) of targets and cells, [B, n, A] each; no candidate: infinite cost."""
    candidate, central = candidates(cells, truth)
    iou = box_iou(truth[:, :4, :, None], decoded(cells)[:, :, None])
    cost = class_cost(cells, truth[:, 4]) + IOU_COST * -(iou + 1e-8).log() + OUTSIDE_COST * ~central
    # A cell that predicts NaN is taken last but not never, so that the loss shows it.
    return candidate, iou, cost.nan_to_num(nan=NAN_COST).where(candidate, torch.inf)


def candidates(cells: Cells, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Which cells a target may take, and which lie inside its box and near its centre, bool [B, n, A] each.

    A target may take every cell whose centre is inside any box or near any centre.
    """
    x, y = (cells.corner + 0.5) * cells.stride
    centre_x, centre_y, width, height, label = truth[..., None].unbind(1)  # [B, n, 1]

    def inside(half_width: Tensor, half_height: Tensor) -> Tensor:
        across = (centre_x - half_width < x) & (x < centre_x + half_width)
        return across & (centre_y - half_height < y) & (y < centre_y + half_height)

    in_box, near = inside(width / 2, height / 2), inside(REACH * cells.stride, REACH * cells.stride)
    real = label >= 0
    return ((in_box | near) & real).any(1, keepdim=True) & real, in_box & near


def class_cost(cells: Cells, label: Tensor) -> Tensor:
    """Cross-entropy of sqrt(class * objectness) and each target's class, summed over classes, [B, n, A]."""
    objectness, classes = cells.maps[:, 4:5].sigmoid(), cells.maps[:, 5:].sigmoid()
    probability = (classes * objectness).sqrt()[:, :, None]  # [B, C, 1, A]
    is_class = one_hot(label, classes.shape[1])[..., None]  # [B, C, n, 1]
    log = torch.where(is_class, probability.log(), (-probability).log1p())
    return -log.clamp(min=-100).sum(1)


def dynamic_k(iou: Tensor, candidate: Tensor) -> Tensor:
    """How many cells each target takes, int64 [B, n, 1]."""
    most = min(MOST_CELLS, iou.shape[2])
    best = iou.where(candidate, 0).topk(most).values
    return best.sum(2, keepdim=True).long().clamp(1, most)


def cheapest(cost: Tensor, number: Tensor) -> Tensor:
    """The `number` [B, n, 1] of lowest cost [B, n, A], bool. Of equal costs the first count."""
    limit = cost.topk(min(MOST_CELLS, cost.shape[2]), largest=False).values.gather(2, number - 1)
    below, equal = cost < limit, cost == limit
    return below | equal & (equal.cumsum(2) <= number - below.sum(2, keepdim=True))
