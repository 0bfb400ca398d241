"""The YOLOX loss written the obvious way: image by image, target by target, lists of cells.

The steps are those of the published code. Where that leaves open which of several equal costs counts, it is
the first. The reference for assignment, terms and gradients.
"""

import torch
import torch.nn.functional as F


def cell_list(head, strides):
    """(column, row, stride) of every cell, in the order of the flattened maps."""
    return [
        (i, j, s)
        for level, s in zip(head, strides, strict=True)
        for j in range(level.shape[2])
        for i in range(level.shape[3])
    ]


def decode(outputs, cells):
    """Boxes [A, 4] (centre x, y, width, height in pixels) of the outputs [A, 5 + C] of one image."""
    grid = torch.tensor(cells, dtype=outputs.dtype)
    centre = (outputs[:, :2] + grid[:, :2]) * grid[:, 2:]
    return torch.cat([centre, torch.exp(outputs[:, 2:4]) * grid[:, 2:]], dim=1)


def iou(box, others):
    """Intersection over union of one box [4] with others [N, 4]."""
    low = torch.max(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = torch.min(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    overlap = (high - low).prod(1) * (low < high).all(1)
    return overlap / (box[2:].prod() + others[:, 2:].prod(1) - overlap)


def assign(outputs, cells, target):
    """SimOTA of one image: {cell: (target, IoU)} of the positive cells, and the steps on the way.

    outputs [A, 5 + C], target [n, 5]. Steps: N candidates (cells); central, iou and cost [n][N]; k [n].
    """
    in_box, central = [], []
    for cx, cy, w, h, _ in target.tolist():
        distances = [
            (
                min(x - (cx - w / 2), cx + w / 2 - x, y - (cy - h / 2), cy + h / 2 - y),
                2.5 * s - max(abs(x - cx), abs(y - cy)),
            )
            for x, y, s in (((i + 0.5) * s, (j + 0.5) * s, s) for i, j, s in cells)
        ]
        in_box.append([inside > 0 for inside, _ in distances])
        central.append([close > 0 for _, close in distances])
    either = [any(f) for f in zip(*in_box, *central, strict=True)]
    candidates = [a for a, candidate in enumerate(either) if candidate]
    both = [
        [inside[a] and close[a] for a in candidates] for inside, close in zip(in_box, central, strict=True)
    ]

    boxes, objectness, classes = (
        decode(outputs, cells)[candidates],
        outputs[candidates, 4:5],
        outputs[candidates, 5:],
    )
    probability = (classes.sigmoid() * objectness.sigmoid()).sqrt()
    ious, costs, ks = [], [], []
    for g, row in enumerate(target):
        wanted = F.one_hot(row[4].long(), classes.shape[1]).to(probability).expand_as(probability)
        class_cost = F.binary_cross_entropy(probability, wanted, reduction="none").sum(1)
        ious.append(iou(row[:4], boxes))
        outside = torch.tensor([not b for b in both[g]]).to(class_cost)
        costs.append(class_cost + 3.0 * -torch.log(ious[g] + 1e-8) + 100000.0 * outside)
        ks.append(max(1, int(ious[g].topk(min(10, len(candidates))).values.sum())))

    takers = {}
    for g, cost in enumerate(costs):
        for place in sorted(range(len(candidates)), key=cost.tolist().__getitem__)[: ks[g]]:
            takers.setdefault(place, []).append(g)
    positives = {}
    for place, takers_of_cell in takers.items():
        if len(takers_of_cell) > 1:
            g = min(range(len(target)), key=lambda g, place=place: costs[g][place].item())
        else:
            g = takers_of_cell[0]
        positives[candidates[place]] = (g, ious[g][place])
    return positives, {"candidates": candidates, "central": both, "iou": ious, "cost": costs, "k": ks}


def loss_terms(head, target, strides=(8,)):
    """{"iou", "objectness", "class", "positives"}: sums over the images; head a list of [B, 5 + C, h, w]."""
    cells = cell_list(head, strides)
    flat = torch.cat([level.flatten(2) for level in head], dim=2).transpose(1, 2)  # [B, A, 5 + C]
    terms = {"iou": 0, "objectness": 0, "class": 0, "positives": 0}
    for outputs, rows in zip(flat, target, strict=True):
        positives = {}
        rows = rows.to(outputs).reshape(-1, 5)
        if len(rows):
            with torch.no_grad():
                positives, _ = assign(outputs, cells, rows)
        wanted = torch.zeros_like(outputs[:, 4])
        for a, (g, matched_iou) in positives.items():
            wanted[a] = 1
            box = decode(outputs[a : a + 1], cells[a : a + 1])
            terms["iou"] = terms["iou"] + (1 - iou(rows[g, :4], box) ** 2).sum()
            in_class = F.one_hot(rows[g, 4].long(), outputs.shape[1] - 5) * matched_iou
            terms["class"] = terms["class"] + F.binary_cross_entropy_with_logits(
                outputs[a, 5:], in_class.to(outputs), reduction="sum"
            )
        terms["objectness"] = terms["objectness"] + F.binary_cross_entropy_with_logits(
            outputs[:, 4], wanted, reduction="sum"
        )
        terms["positives"] += len(positives)
    return terms


def loss(head, target, strides=(8,)):
    terms = loss_terms(head, target, strides)
    return (5 * terms["iou"] + terms["objectness"] + terms["class"]) / max(terms["positives"], 1)
