"""The losses against stored outputs of the published code and against a slow version of the description."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from loss import create_loss
from utils.errors import UserError

DATA = Path(__file__).parent / "data"
NAMES = ("SoftIoU", "BCE", "HAM", "HPM")


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "deeppro_losses.npz")


@pytest.mark.parametrize(
    ("key", "name", "options"),
    [
        ("softiou", "SoftIoU", {}),
        ("bce", "BCE", {}),
        ("ham_multiframe", "HAM", {}),
        ("ham_per_frame", "HAM", {"per_frame": True}),
        ("hpm_multiframe", "HPM", {}),
    ],
)
def test_value_and_gradient_of_the_published_loss(stored, key, name, options):
    logits = torch.tensor(stored["logits"], requires_grad=True)
    torch.manual_seed(int(stored["torch_manual_seed"]))
    loss = create_loss(name, **options)({"logits": logits}, torch.tensor(stored["target"]))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(float(stored[f"{key}/loss"]), rel=1e-6)
    np.testing.assert_allclose(logits.grad, stored[f"{key}/grad"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_value_on_the_logits_of_the_published_deeppro(name):
    stored = np.load(DATA / "deeppro.npz")
    torch.manual_seed(int(stored["torch_manual_seed_before_ham_and_before_hpm"]))
    terms = create_loss(name)({"logits": torch.tensor(stored["logits"])}, torch.tensor(stored["target"]))
    assert terms["loss"].item() == pytest.approx(float(stored[f"eval/loss_{name.lower()}"]), rel=1e-6)


def hard_mining_by_loops(logits, target, alpha, gamma, max_clutter, protected_area, spread):
    """The steps of the description, one pixel at a time; logits and target [B, T, H, W]."""
    num_hard = round(max_clutter / 4)
    batch, _, height, width = logits.shape

    def grown(marks, radius):
        out = torch.zeros_like(marks)
        for b, t, r, c in marks.nonzero().tolist():
            out[b, t, max(r - radius, 0) : r + radius + 1, max(c - radius, 0) : c + radius + 1] = 1
        return out

    outside = 1 - grown(target, protected_area)
    clutter_loss = (binary_cross_entropy_with_logits(logits, target, reduction="none") * outside).sum(1)
    hard_ranks = (torch.randperm(130) + 20)[:num_hard].tolist()
    chosen = target.clone()
    for b in range(batch):
        easy = torch.randperm(height * width)[: max_clutter - num_hard].tolist()
        ranking = clutter_loss[b].flatten().argsort(descending=True).tolist()
        for pixel in easy + [ranking[rank] for rank in hard_ranks]:
            r, c = divmod(pixel, width)
            chosen[b, :, r, c] += outside[b, :, r, c]
    chosen = grown(chosen, spread)

    total = 0.0
    for b, t, r, c in chosen.nonzero().tolist():
        p = 1 / (1 + np.exp(-float(logits[b, t, r, c])))
        if target[b, t, r, c]:
            total -= alpha[1] * (1 - p) ** gamma * np.log(p)
        else:
            total -= alpha[0] * p**gamma * np.log(1 - p)
    return total


@pytest.mark.parametrize(("name", "spread"), [("HAM", 2), ("HPM", 0)])
def test_hard_mining_options_against_loops(name, spread):
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(2, 3, 16, 18, generator=generator, dtype=torch.float64)
    target = (torch.rand(2, 3, 16, 18, generator=generator) < 0.01).double()
    options = {"alpha": (0.3, 0.6), "gamma": 1.5, "max_clutter": 22, "protected_area": 1}
    torch.manual_seed(8)
    loss = create_loss(name, **options)({"logits": logits}, target)["loss"]
    torch.manual_seed(8)
    assert loss.item() == pytest.approx(hard_mining_by_loops(logits, target, **options, spread=spread))


def test_clips_without_target_have_soft_iou_1_and_gradient_0():
    logits = torch.linspace(-200, 5, 2 * 3 * 8 * 8).view(2, 3, 8, 8).requires_grad_()
    loss = create_loss("SoftIoU")({"logits": logits}, torch.zeros(2, 3, 8, 8))["loss"]
    loss.backward()
    assert loss.item() == 1
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("extreme", [-500.0, 500.0])
def test_extreme_logits_have_finite_loss_and_gradient(name, extreme):
    logits = torch.full((1, 2, 16, 16), extreme, requires_grad=True)
    target = torch.zeros(1, 2, 16, 16)
    target[0, 0, 4, 4] = 1
    loss = create_loss(name)({"logits": logits}, target)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_give_the_loss_of_their_float32_values(name):
    logits = torch.full((1, 20, 64, 64), 3.0, dtype=torch.float16)  # their sum overflows float16
    target = torch.zeros(1, 20, 64, 64)
    target[:, :, 30, 30] = 1
    losses = []
    for raw in (logits, logits.float()):
        torch.manual_seed(0)
        losses.append(create_loss(name)({"logits": raw}, target)["loss"])
    assert torch.isfinite(losses[0])
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_of_another_shape_is_refused(name):
    with pytest.raises(ValueError, match="differ in shape"):
        create_loss(name)({"logits": torch.zeros(2, 1, 16, 16)}, torch.zeros(2, 5, 16, 16))


@pytest.mark.parametrize("name", ["HAM", "HPM"])
def test_hard_mining_needs_200_pixels(name):
    with pytest.raises(UserError, match="200 pixels.*14x14"):
        create_loss(name)({"logits": torch.zeros(1, 2, 14, 14)}, torch.zeros(1, 2, 14, 14))
