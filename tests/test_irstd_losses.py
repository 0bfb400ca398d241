"""The losses of the single-frame detectors against stored published values and slow forms of them."""

import math

import numpy as np
import pytest
import torch
from parity import DATA

from loss import create_loss
from loss.sls_iou import location_loss
from utils.errors import UserError

LOSSES = {  # stored name: (loss, options)
    "soft_iou": ("SoftIoU", {"smooth": 1.0, "over": "batch"}),
    "soft_iou_empty_target": ("SoftIoU", {"smooth": 1.0, "over": "batch"}),
    "soft_iou_per_image_on_logits": ("SoftIoU", {"smooth": 1.0}),
    "sls_iou_warm": ("SLSIoU", {"warmup": True}),
    "sls_iou_after_warm": ("SLSIoU", {}),
    "sls_iou_after_warm_without_shape": ("SLSIoU", {"location": False}),
    "dice": ("Dice", {}),
}
SIDES = {"SoftIoU": {"sides": True}, "SLSIoU": {"sides": True}}
NAMES = ("SoftIoU", "SLSIoU", "Dice")


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "irstd_losses.npz")


def assert_published(stored, key: str, loss: torch.Tensor, logits: torch.Tensor):
    loss.backward()
    assert loss.item() == pytest.approx(float(stored[f"{key}/loss"]), rel=1e-6)
    expected = stored[f"{key}/grad_logits"]
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("key", LOSSES)
def test_value_and_gradient_of_the_published_loss(stored, key):
    name, options = LOSSES[key]
    logits = torch.tensor(stored["logits"], requires_grad=True)
    target = torch.tensor(stored["target"]) * (not key.endswith("empty_target"))
    loss = create_loss(name, **options)({"logits": logits}, target)["loss"]
    assert_published(stored, key, loss, logits)


def test_value_and_gradient_of_the_published_location_loss(stored):
    logits = torch.tensor(stored["logits"], requires_grad=True)
    loss = location_loss(torch.sigmoid(logits), torch.tensor(stored["target"]).float())
    assert_published(stored, "location_loss_on_probabilities", loss, logits)


def test_value_and_gradient_of_the_published_mean_over_two_maps(stored):
    """The second map has half the probabilities of the first one."""
    logits = torch.tensor(stored["logits"], requires_grad=True)
    raw = {"logits": logits, "side_logits": [torch.logit(torch.sigmoid(logits) / 2)]}
    terms = create_loss("SoftIoU", smooth=1.0, over="batch", sides=True)(raw, torch.tensor(stored["target"]))
    assert_published(stored, "soft_iou_list_of_two", terms["loss"], logits)


# ---------------------------------------------------------------- slow forms


def random_maps(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a target in float64, two targets in each frame but the last of each clip."""
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    target = torch.zeros(shape, dtype=torch.float64)
    target[:, :-1, 3:6, 8:10] = target[:, :-1, 12:14, 4:8] = 1
    return logits, target


def ratio(logits: torch.Tensor, target: torch.Tensor, smooth: float) -> float:
    """Soft IoU of all pixels that are given, one at a time."""
    intersection = union = 0.0
    for x, y in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        intersection += p * y
        union += p + y - p * y
    return (intersection + smooth) / (union + smooth)


@pytest.mark.parametrize(
    ("over", "groups"),
    [
        ("clip", [(clip, frames) for clip in range(2) for frames in [range(3)]]),
        ("batch", [(range(2), range(3))]),
        ("frame", [(range(2), frame) for frame in range(3)]),
    ],
)
def test_what_soft_iou_sums_over(over, groups):
    logits, target = random_maps(2, 3, 16, 20)
    expected = 1 - np.mean([ratio(logits[group], target[group], smooth=0.5) for group in map(index, groups)])
    loss = create_loss("SoftIoU", smooth=0.5, over=over)({"logits": logits}, target)["loss"]
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def index(group) -> tuple:
    clips, frames = (list(part) if isinstance(part, range) else [part] for part in group)
    return np.ix_(clips, frames)


def sls_by_loops(logits: torch.Tensor, target: torch.Tensor) -> float:
    """SLS-IoU with location of [B, T', H, W], image by image and pixel by pixel."""
    losses = []
    for x, y in zip(logits.flatten(0, 1).tolist(), target.flatten(0, 1).tolist(), strict=True):
        height, width = len(x), len(x[0])
        p = [[1 / (1 + math.exp(-value)) for value in row] for row in x]
        places = [(i, j) for i in range(height) for j in range(width)]
        area, true_area = (sum(m[i][j] for i, j in places) for m in (p, y))
        both = sum(p[i][j] * y[i][j] for i, j in places)
        d = ((area - true_area) / 2) ** 2
        scale = (min(area, true_area) + d) / (max(area, true_area) + d)
        polar = []
        for m in (p, y):
            cx = sum(j / width * m[i][j] for i, j in places) / len(places)
            cy = sum(i / height * m[i][j] for i, j in places) / len(places)
            polar.append((math.sqrt(cx**2 + cy**2 + 1e-8), math.atan(cy / (cx + 1e-8))))
        (r1, a1), (r2, a2) = polar
        location = 1 - min(r1, r2) / (max(r1, r2) + 1e-8) + 4 / math.pi**2 * (a1 - a2) ** 2
        losses.append(1 - scale * both / (area + true_area - both) + location)
    return float(np.mean(losses))


def test_sls_iou_against_loops():
    logits, target = random_maps(2, 3, 16, 20)
    loss = create_loss("SLSIoU")({"logits": logits}, target)["loss"]
    assert loss.item() == pytest.approx(sls_by_loops(logits, target), rel=1e-12)


def test_sls_iou_of_a_perfect_prediction_is_0():
    _, target = random_maps(2, 2, 16, 20)
    target = target[:, :1]
    loss = create_loss("SLSIoU")({"logits": 200 * target - 100}, target)["loss"]
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_dice_of_a_perfect_prediction_is_a_third():
    target = torch.zeros(1, 1, 100, 100)
    target[:, :, 10:60, 10:60] = 1
    loss = create_loss("Dice")({"logits": 200 * target - 100}, target)["loss"]
    assert loss.item() == pytest.approx(1 - 5001 / 7501, rel=1e-6)


@pytest.mark.parametrize("name", SIDES)
def test_side_maps_of_lower_resolution_meet_the_maxima_of_the_target(name):
    logits, target = random_maps(2, 2, 16, 20)
    sides = [logits.roll(3, dims=-1), random_maps(2, 2, 8, 10)[0], random_maps(2, 2, 4, 5)[0]]
    raw = {"logits": logits, "side_logits": sides}
    loss = create_loss(name, **SIDES[name])(raw, target)["loss"]
    expected = []
    for map_ in (logits, *sides):
        step = 16 // map_.shape[2]
        pooled = torch.zeros_like(map_)
        for b, t, i, j in target.nonzero().tolist():
            pooled[b, t, i // step, j // step] = 1
        expected.append(create_loss(name)({"logits": map_}, pooled)["loss"].item())
    assert len(set(expected)) == 4
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-6)


# ---------------------------------------------------------------- extremes and mistakes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("extreme", [-500.0, 500.0])
@pytest.mark.parametrize("empty", [False, True])
def test_extreme_logits_have_finite_loss_and_gradient(name, extreme, empty):
    logits = torch.full((1, 2, 16, 16), extreme, requires_grad=True)
    target = torch.zeros(1, 2, 16, 16)
    if not empty:
        target[0, 0, 4, 4] = 1
    loss = create_loss(name)({"logits": logits}, target)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_give_the_loss_of_their_float32_values(name):
    logits = torch.full((1, 1, 512, 512), 3.0, dtype=torch.float16)  # their sum overflows float16
    target = torch.zeros(1, 1, 512, 512)
    target[:, :, 30, 30] = 1
    losses = [create_loss(name)({"logits": raw}, target)["loss"] for raw in (logits, logits.float())]
    assert torch.isfinite(losses[0])
    assert torch.equal(*losses)


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in NAMES), *SIDES.items()])
def test_a_target_of_another_shape_is_refused(name, options):
    raw = {"logits": torch.zeros(2, 1, 16, 16), "side_logits": []}
    with pytest.raises(ValueError, match="differ in shape"):
        create_loss(name, **options)(raw, torch.zeros(2, 1, 32, 32))


@pytest.mark.parametrize("name", SIDES)
def test_a_model_without_side_maps_is_named(name):
    with pytest.raises(UserError, match="no side maps.*loss_options.sides to False"):
        create_loss(name, sides=True)({"logits": torch.zeros(1, 1, 16, 16)}, torch.zeros(1, 1, 16, 16))


def test_an_unknown_extent_of_soft_iou_is_refused():
    with pytest.raises(
        UserError, match="option over of loss SoftIoU takes clip or batch or frame, not 'pixel'"
    ):
        create_loss("SoftIoU", over="pixel")
