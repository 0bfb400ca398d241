"""The YOLOX loss against stored outputs of the published code and against the naive form of it."""

import naive_yolox_loss as naive
import numpy as np
import pytest
import torch
from parity import DATA

from loss import create_loss
from loss.yolox import candidates, decoded, dynamic_k, padded, pairs
from utils.errors import UserError

EXACT = {"rtol": 0, "atol": 0}


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "box_head.npz")


@pytest.fixture
def loss():
    return create_loss("YOLOX")


def stored_case(stored, dtype=torch.float32):
    """(head [4, 6, 16, 16] that takes gradients, four targets)."""
    head = torch.from_numpy(stored["raw"]).to(dtype).requires_grad_()
    return head, [torch.from_numpy(stored[f"target_{image}"]) for image in range(4)]


def random_boxes(generator, number, height, width, kind):
    """[n, 5] boxes of class 0..2. Those of even seeds lie on the grid of half pixels, where borders meet."""

    def uniform(low, high, columns=1):
        return low + (high - low) * torch.rand(number, columns, generator=generator)

    extent = torch.tensor([width, height])
    centre, size = uniform(0, 1, 2) * extent, uniform(4, 20, 2)
    if kind == "crowded":
        centre = extent / 2 + uniform(-8, 8, 2)
    if kind == "border":
        centre = (centre / extent).round() * extent + uniform(-3, 3, 2)
    if kind == "outside":
        centre[:1] = torch.tensor([-100.0, 0.4 * height])
    if kind == "huge":
        size[:1] = 1.5 * extent
    boxes = torch.cat([centre, size, uniform(0, 3).floor()], dim=1)
    return (2 * boxes).round() / 2 if generator.initial_seed() % 2 == 0 else boxes


def random_case(kind, seed, classes=1, images=3, size=(7, 9), dtype=torch.float32):
    """(head [B, 5 + C, h, w], targets): predictions near some targets, so that these take many cells."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(images, 5 + classes, *size, generator=generator, dtype=dtype)
    target = []
    for image in head:
        number = int(torch.randint(9 if kind == "crowded" else 5, (), generator=generator)) + (
            kind == "outside"
        )
        boxes = random_boxes(generator, number, 8 * size[0], 8 * size[1], kind)
        boxes[:, 4] %= classes
        for cx, cy, w, h, _ in boxes.tolist():
            for row in range(max(int(cy / 8) - 2, 0), min(int(cy / 8) + 3, size[0])):
                for column in range(max(int(cx / 8) - 2, 0), min(int(cx / 8) + 3, size[1])):
                    fit = torch.tensor([cx / 8 - column, cy / 8 - row, np.log(w / 8), np.log(h / 8)])
                    image[:4, row, column] = fit + 0.3 * image[:4, row, column]
        target.append(boxes)
    return head, target


def naive_assignment(head, target, strides=(8,)):
    """What YOLOXLoss.assign returns, by the naive form."""
    cells = naive.cell_list(head, strides)
    flat = torch.cat([level.flatten(2) for level in head], dim=2).transpose(1, 2)
    positive = torch.zeros(flat.shape[:2], dtype=torch.bool)
    matched, iou = positive.long(), flat.new_zeros(positive.shape)
    for image, (outputs, boxes) in enumerate(zip(flat, target, strict=True)):
        if len(boxes):
            for cell, (number, matched_iou) in naive.assign(outputs, cells, boxes)[0].items():
                positive[image, cell], matched[image, cell] = True, number
                iou[image, cell] = matched_iou
    return positive, matched, iou


# ---- stored outputs ----


def test_terms_loss_and_gradient_of_the_published_code(stored, loss):
    head, target = stored_case(stored)
    sums = loss.sums({"head": [head]}, target)
    published = {
        "iou": "sum_iou_loss",
        "objectness": "sum_obj_loss",
        "class": "sum_cls_loss",
        "positives": "num_fg",
    }
    assert sums.keys() == published.keys()
    for name, key in published.items():
        assert sums[name].item() == pytest.approx(float(stored[key]), rel=1e-6), name
    value = loss({"head": [head]}, target)["loss"]
    value.backward()
    assert value.item() == pytest.approx(float(stored["loss"]), rel=1e-6)
    np.testing.assert_allclose(head.grad, stored["grad_raw"], rtol=1e-5, atol=1e-7)


def test_loss_of_each_published_image_alone(stored, loss):
    head, target = stored_case(stored)
    alone = [loss({"head": [head[i : i + 1]]}, target[i : i + 1])["loss"].item() for i in range(4)]
    np.testing.assert_allclose(alone, stored["loss_per_image"], rtol=1e-6)
    assert len(target[0]) == 0
    assert alone[0] == pytest.approx(float(stored["loss_image0_alone_no_targets"]), rel=1e-6)


def test_assignment_of_the_published_code(stored, loss):
    head, target = stored_case(stored)
    positive, matched, iou = loss.assign({"head": [head]}, target)
    assert np.array_equal(positive, stored["fg_mask"])
    assert np.array_equal(matched.where(positive, -1), stored["matched_gt"])
    np.testing.assert_allclose(iou, stored["matched_iou"], rtol=0, atol=1e-7)


def test_steps_of_the_assignment_of_the_published_code(stored, loss):
    head, target = stored_case(stored)
    cells = loss.cells({"head": [head.detach()]})
    truth = padded(target, cells.maps)
    np.testing.assert_allclose(decoded(cells).transpose(1, 2), stored["decoded_pixels"], rtol=1e-6)
    candidate, iou, cost = (values[2] for values in pairs(cells, truth))
    chosen = stored["candidates_2"]
    assert np.array_equal(candidate, np.broadcast_to(chosen, candidate.shape))
    assert np.array_equal(candidates(cells, truth)[1][2][:, chosen], stored["in_box_and_center_2"])
    np.testing.assert_allclose(iou[:, chosen], stored["iou_2"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(cost[:, chosen], stored["cost_2"], rtol=1e-6)
    k = dynamic_k(iou[None], candidate[None])
    assert np.array_equal(k.flatten(), stored["dynamic_k_2"])
    assert k.sum() == 22 and stored["fg_mask"][2].sum() == 20  # two conflicts, which the next test resolves


def test_the_naive_form_gives_the_published_outputs(stored):
    """It is the reference of the tests below."""
    head, target = stored_case(stored)
    assert naive.loss([head], target).item() == pytest.approx(float(stored["loss"]), rel=1e-6)
    positive, matched, _ = naive_assignment([head.detach()], target)
    assert np.array_equal(positive, stored["fg_mask"])
    assert np.array_equal(matched.where(positive, -1), stored["matched_gt"])


# ---- against the naive form ----


@pytest.mark.parametrize("kind", ["scattered", "crowded", "border", "outside", "huge"])
def test_every_cell_goes_to_the_target_of_the_naive_form(loss, kind):
    for seed in range(20):
        head, target = random_case(kind, seed, classes=1 + 2 * (seed % 3 == 0))
        expected = naive_assignment([head], target)
        for own, other in zip(loss.assign({"head": [head]}, target), expected, strict=True):
            torch.testing.assert_close(own, other, **EXACT, msg=f"{kind}, seed {seed}")


@pytest.mark.parametrize("seed", range(4))
def test_of_equal_costs_the_first_cell_counts(loss, seed):
    """The same outputs in every cell, so that many costs of 100000 and more, in steps of 1/128, are equal."""
    _, target = random_case("crowded", seed)
    head = torch.zeros(3, 6, 7, 9)
    head[:, 2:4] = 1.5
    for own, other in zip(
        loss.assign({"head": [head]}, target), naive_assignment([head], target), strict=True
    ):
        torch.testing.assert_close(own, other, **EXACT)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_probabilities_of_0_and_1_have_a_finite_cost(loss, logit):
    """The published cross-entropy ends at 100."""
    head, target = random_case("crowded", 2, classes=2)
    head[:, 4:] = logit
    own, expected = loss.assign({"head": [head]}, target), naive_assignment([head], target)
    for ours, other in zip(own, expected, strict=True):
        torch.testing.assert_close(ours, other, **EXACT)


@pytest.mark.parametrize("classes", [1, 3])
def test_terms_and_gradients_of_the_naive_form_in_float64(loss, classes):
    for kind in ("crowded", "border", "huge"):
        head, target = random_case(kind, 3, classes, dtype=torch.float64)
        own_head, naive_head = head.clone().requires_grad_(), head.clone().requires_grad_()
        own, expected = loss.sums({"head": [own_head]}, target), naive.loss_terms([naive_head], target)
        for name, value in own.items():
            expected_value = torch.as_tensor(expected[name]).item()
            assert value.item() == pytest.approx(expected_value, rel=1e-12), (kind, name)
        loss({"head": [own_head]}, target)["loss"].backward()
        naive.loss([naive_head], target).backward()
        torch.testing.assert_close(own_head.grad, naive_head.grad, rtol=1e-9, atol=1e-12)


def test_maps_of_several_strides():
    """Targets of one image take cells of both maps."""
    fine, target = random_case("huge", 5, size=(8, 8))
    coarse = torch.randn(3, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    head, strides = [fine, coarse], (8, 16)
    loss = create_loss("YOLOX", strides=strides)
    own, expected = loss.assign({"head": head}, target), naive_assignment(head, target, strides)
    for ours, other in zip(own, expected, strict=True):
        torch.testing.assert_close(ours, other, **EXACT)
    assert own[0][:, :64].any() and own[0][:, 64:].any()
    value = loss({"head": head}, target)["loss"].item()
    assert value == pytest.approx(naive.loss(head, target, strides).item(), rel=1e-5)


# ---- what holds for every input ----


def test_order_of_targets_and_images_does_not_matter(stored, loss):
    head, target = stored_case(stored)
    value = loss({"head": [head]}, target)["loss"].item()
    reversed_targets = [boxes.flip(0) for boxes in target]
    assert loss({"head": [head]}, reversed_targets)["loss"].item() == pytest.approx(value, rel=1e-6)
    assert loss({"head": [head.flip(0)]}, target[::-1])["loss"].item() == pytest.approx(value, rel=1e-6)


def test_outputs_and_targets_are_not_written_to(stored, loss):
    head, target = stored_case(stored)
    before, boxes_before = head.detach().clone(), [boxes.clone() for boxes in target]
    loss({"head": [head]}, target)["loss"].backward()
    assert torch.equal(head, before)
    assert all(torch.equal(*pair) for pair in zip(target, boxes_before, strict=True))


@pytest.mark.parametrize("empty", [torch.zeros(0), torch.zeros(0, 5)])
def test_without_targets_every_cell_is_background(loss, empty):
    head = torch.randn(2, 6, 4, 5, requires_grad=True)
    value = loss({"head": [head]}, [empty, empty])["loss"]
    objectness = head[:, 4].detach()
    assert value.item() == pytest.approx(torch.log1p(objectness.exp()).sum().item(), rel=1e-5)
    value.backward()
    torch.testing.assert_close(head.grad[:, 4], objectness.sigmoid())
    assert not head.grad[:, [0, 1, 2, 3, 5]].any()


def test_targets_that_no_cell_can_see_are_passed_over(loss):
    head = torch.randn(1, 6, 4, 5)
    outside = torch.tensor([[-100.0, 10.0, 8.0, 8.0, 0.0]])
    assert torch.equal(
        loss({"head": [head]}, [outside])["loss"], loss({"head": [head]}, [torch.zeros(0, 5)])["loss"]
    )


def test_fewer_cells_than_a_target_may_take(loss):
    head = torch.zeros(1, 6, 1, 2)
    head[:, 2:4] = 2  # boxes of 59 pixels; that of the second cell is centred on the target's column
    positive, matched, _ = loss.assign({"head": [head]}, [torch.tensor([[8.0, 4.0, 50.0, 50.0, 0.0]])])
    assert positive.tolist() == [[False, True]] and matched.tolist() == [[0, 0]]


def test_motion_loss_is_added(stored):
    head, target = stored_case(stored)
    motion = torch.tensor(0.25, requires_grad=True)
    raw = {"head": [head], "motion_loss": motion}
    expected = float(stored["loss"])
    assert create_loss("YOLOX")(raw, target)["loss"].item() == pytest.approx(expected + 0.25, rel=1e-6)
    value = create_loss("YOLOX", motion_weight=2.0)(raw, target)["loss"]
    assert value.item() == pytest.approx(expected + 0.5, rel=1e-6)
    value.backward()
    assert motion.grad == 2


def test_half_precision_is_widened(stored, loss):
    head, target = stored_case(stored, torch.float16)
    value = loss({"head": [head]}, target)["loss"]
    assert value.dtype == torch.float32
    assert torch.equal(value, loss({"head": [head.float()]}, target)["loss"])


def test_sizes_that_overflow_in_the_background_leave_the_gradient_finite(stored, loss):
    """There the IoU is 0 and the cost that of any other cell without overlap."""
    head, target = stored_case(stored)
    background = ~torch.from_numpy(stored["fg_mask"]).view(4, 16, 16)
    raw = head.detach().clone()
    raw[:, 2:4] = raw[:, 2:4].where(~background[:, None], 200.0)
    raw.requires_grad_()
    loss({"head": [raw]}, target)["loss"].backward()
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("channels", [slice(0, 4), slice(4, 5), slice(5, 6), slice(0, 6)])
def test_outputs_that_are_no_numbers_are_not_hidden(stored, loss, channels):
    head, target = stored_case(stored)
    raw = head.detach().clone()
    raw[:, channels] = torch.nan
    assert loss({"head": [raw]}, target)["loss"].isnan()


def test_nothing_waits_for_the_device(loss):
    """A tensor without values runs only where no shape and no branch depends on values."""
    head = torch.empty(3, 6, 16, 16, device="meta")
    target = [torch.empty(n, 5, device="meta") for n in (0, 3, 12)]
    assert loss({"head": [head]}, target)["loss"].shape == ()


def test_what_does_not_fit_is_refused(loss):
    head = torch.zeros(2, 6, 4, 4)
    with pytest.raises(UserError, match="give this model another loss"):
        loss({"logits": head}, [torch.zeros(0, 5)] * 2)
    with pytest.raises(UserError, match="1 strides but the model gives 2 maps"):
        loss({"head": [head, head]}, [torch.zeros(0, 5)] * 2)
    with pytest.raises(ValueError, match="2 images but targets of 1"):
        loss({"head": [head]}, [torch.zeros(0, 5)])


@pytest.mark.parametrize("alias", ["SimOTA", "YOLO-Loss", "yolox"])
def test_the_other_names(alias):
    assert type(create_loss(alias)) is type(create_loss("YOLOX"))
