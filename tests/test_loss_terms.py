"""What every registered loss returns: named scalars, of which "loss" alone carries the gradient."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from parity import DATA, clip
from torch import Tensor

from loss import create_loss, list_losses
from loss.sls_iou import location_loss

# The terms that a paper names, beside "loss"; all other losses have that one alone.
TERMS = {
    "YOLOX": {"iou", "objectness", "class", "motion"},
    "SPGloss": {"target", "background"},
    "SLSIoU": {"iou", "location"},
}


def mask_case() -> tuple[dict, Tensor, list[Tensor]]:
    """(raw, target, leaves of the gradient): a map, four side maps, a target in each of two clips."""
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 1, 24, 20, generator=draw).requires_grad_()
    sides = [torch.randn(2, 1, 24, 20, generator=draw).requires_grad_() for _ in range(4)]
    target = torch.zeros(2, 1, 24, 20)
    target[:, :, 7:10, 11:13] = 1
    return {"logits": logits, "side_logits": sides}, target, [logits]


def box_case() -> tuple[dict, Sequence[Tensor], list[Tensor]]:
    """The same for boxes: two images, of which the second has no target, and a motion loss."""
    draw = torch.Generator().manual_seed(2)
    head = torch.randn(2, 7, 8, 10, generator=draw).requires_grad_()
    motion = torch.tensor(0.7, requires_grad=True)
    target = [torch.tensor([[20.0, 30.0, 9.0, 8.0, 0.0], [60.0, 20.0, 12.0, 10.0, 1.0]]), torch.zeros(0, 5)]
    return {"head": [head], "motion_loss": motion}, target, [head, motion]


CASES = {"masks": mask_case, "boxes": box_case}


@pytest.mark.parametrize("name", list_losses())
def test_every_loss_returns_named_finite_scalars(name):
    loss = create_loss(name)
    raw, target, leaves = CASES[loss.task]()
    terms = loss(raw, target)
    assert terms.keys() == {"loss", *TERMS.get(name, ())}
    for key, value in terms.items():
        assert value.shape == () and value.isfinite(), key
        assert value.requires_grad == (key == "loss"), key
    for gradient in torch.autograd.grad(terms["loss"], leaves):
        assert gradient.isfinite().all() and gradient.any()


def test_each_loss_says_which_task_it_is_of():
    assert {name for name in list_losses() if create_loss(name).task == "boxes"} == {"YOLOX"}
    assert {create_loss(name).task for name in list_losses()} == {"boxes", "masks"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("YOLOX", {}),
        ("YOLOX", {"motion_weight": 2.5}),
        ("SPGloss", {}),
        ("SPGloss", {"variant": "clean"}),
        ("SLSIoU", {}),
        ("SLSIoU", {"location": False}),
        ("SLSIoU", {"warmup": True}),
        ("SLSIoU", {"sides": True}),
    ],
)
def test_the_terms_make_the_loss(name, options):
    loss = create_loss(name, **options)
    raw, target, _ = CASES[loss.task]()
    terms = {key: value.item() for key, value in loss(raw, target).items()}
    total = terms.pop("loss")
    assert terms
    assert sum(terms.values()) == pytest.approx(total, rel=1e-6)


def test_terms_of_the_box_loss_are_the_published_sums_by_the_positive_cells():
    stored = np.load(DATA / "box_head.npz")
    head = torch.from_numpy(stored["raw"])
    target = [torch.from_numpy(stored[f"target_{image}"]) for image in range(len(head))]
    motion = torch.tensor(0.25)
    terms = create_loss("YOLOX", motion_weight=2.0)({"head": [head], "motion_loss": motion}, target)
    cells = float(stored["num_fg"])
    assert cells > 1
    expected = {
        "iou": 5 * stored["sum_iou_loss"] / cells,
        "objectness": stored["sum_obj_loss"] / cells,
        "class": stored["sum_cls_loss"] / cells,
        "motion": 0.5,
    }
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(float(value), rel=1e-6), name


def test_terms_of_spg_loss_are_the_published_parts():
    stored = np.load(DATA / "rprnet_loss.npz")
    maps = 2 * torch.from_numpy(clip(tuple(stored["input_shape"]), int(stored["seed"]))) - 2
    raw = {"logits": maps[:, :1], "side_logits": list(maps[:, 1:].split(1, dim=1))}
    torch.manual_seed(0)
    terms = create_loss("SPGloss")(raw, torch.from_numpy(stored["target"]).float())
    target, background = stored["spg_parts_fg_bg_seed0"].sum(0)
    assert terms["target"].item() == pytest.approx(float(target), rel=1e-6)
    assert terms["background"].item() == pytest.approx(float(background), rel=1e-6)


def test_terms_of_sls_iou():
    raw, target, _ = mask_case()
    terms = create_loss("SLSIoU")(raw, target)
    assert terms["iou"] == create_loss("SLSIoU", location=False)(raw, target)["loss"]
    assert terms["location"] == location_loss(torch.sigmoid(raw["logits"]), target)
    sides = [create_loss("SLSIoU")({"logits": map_}, target) for map_ in (raw["logits"], *raw["side_logits"])]
    averaged = create_loss("SLSIoU", sides=True)(raw, target)
    for name in ("loss", "iou", "location"):
        assert averaged[name].item() == pytest.approx(np.mean([side[name].item() for side in sides]))
