"""RPRNet's losses against stored outputs of the published code and against slow forms of the description."""

import math

import numpy as np
import pytest
import torch
from parity import DATA, clip

from loss import create_loss
from loss.spg import hardest_pixels, protected_area, published_rings, symmetric_rings
from utils.errors import UserError

MAPS = 5


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "rprnet_loss.npz")


def raw_of(maps):
    """The dict that the model returns, of maps [B, 5, H, W] before the sigmoid."""
    return {"logits": maps[:, :1], "side_logits": list(maps[:, 1:].split(1, dim=1))}


def stored_case(stored):
    """Maps [2, 5, 256, 256] before the sigmoid, target [2, 1, 256, 256]."""
    maps = torch.from_numpy(clip(tuple(stored["input_shape"]), int(stored["seed"])))
    return 2 * maps - 2, torch.from_numpy(stored["target"]).float().unsqueeze(1)


def random_case(height=40, width=56, dtype=torch.float64):
    """Two samples with a target in a corner, one on a border, an L, a diagonal pair and two close by."""
    maps = 3 * torch.randn(2, MAPS, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype)
    target = torch.zeros(2, 1, height, width, dtype=dtype)
    for sample, row, col in [(0, 0, 0), (0, 20, width - 1), (0, 11, 12), (0, 12, 12), (0, 12, 13)]:
        target[sample, 0, row, col] = 1
    for row, col in [(30, 30), (31, 31), (12, 20), (12, 23), (height - 1, 7)]:
        target[1, 0, row, col] = 1
    return maps, target


def clutter_mask(index):
    """The mask [B, 5, 256, 256] of stored places [5, B, 120], in which -1 is none."""
    mask = torch.zeros(*index.shape[:2], 256 * 256)
    for number, sample in np.ndindex(index.shape[:2]):
        mask[number, sample, [place for place in index[number, sample].tolist() if place >= 0]] = 1
    return mask.transpose(0, 1).view(-1, MAPS, 256, 256)


# ---- SPGloss, published: stored outputs ----


def test_regions_of_the_published_code(stored):
    _, target = stored_case(stored)
    regions = (protected_area(target), *published_rings(target))
    for name, region in zip(("prot", "r1", "r2", "r3"), regions, strict=True):
        expected = np.unpackbits(stored[f"packbits_{name}"], axis=2)
        assert np.array_equal(region[:, 0], expected), name


def test_ranking_and_draws_of_the_published_code(stored):
    maps, target = stored_case(stored)
    probability = torch.sigmoid(maps)
    assert np.array_equal(hardest_pixels(probability, target)[1, 0], stored["hard_top200_index_output0"])
    torch.manual_seed(0)
    clutter = create_loss("SPGloss").draw_clutter(probability, target)
    assert torch.equal(clutter, clutter_mask(stored["clutter_index_seed0"]))


def test_loss_of_a_seed_of_the_published_code(stored):
    maps, target = stored_case(stored)
    torch.manual_seed(0)
    loss = create_loss("SPGloss")(raw_of(maps), target)["loss"]
    assert loss.item() == pytest.approx(float(stored["spg_loss_seed0"]), rel=1e-6)


@pytest.mark.parametrize("case", ["seed0", "fixed", "no_clutter"])
def test_parts_and_gradients_of_the_published_code(stored, case):
    maps, target = stored_case(stored)
    probability = torch.sigmoid(maps).requires_grad_()
    clutter = torch.zeros_like(maps)
    if case != "no_clutter":
        clutter = clutter_mask(stored[f"clutter_index_{case}"])
    loss = create_loss("SPGloss")
    total = loss.terms(probability, target, clutter)["loss"]
    total.backward()
    parts = loss.parts(probability, target, clutter).detach()
    assert total.item() == pytest.approx(float(stored[f"spg_loss_{case}"]), rel=1e-6)
    np.testing.assert_allclose(parts, stored[f"spg_parts_fg_bg_{case}"], rtol=1e-6)
    gradient = probability.grad
    if case != "no_clutter":
        norms = gradient.transpose(0, 1).flatten(1).norm(dim=1)
        np.testing.assert_allclose(norms, stored[f"spg_grad_l2_{case}"], rtol=1e-6)
    if case == "seed0":
        rows = stored["spg_grad_main_rows_120_136"]
        np.testing.assert_allclose(gradient[:, 0, 120:136], rows, rtol=1e-5, atol=1e-8)


def test_mean_over_20_seeds_of_the_published_code(stored, one_thread):
    maps, target = stored_case(stored)
    losses = []
    for seed in range(100, 120):
        torch.manual_seed(seed)
        losses.append(create_loss("SPGloss")(raw_of(maps), target)["loss"].item())
    mean, deviation = stored["spg_loss_mean_std_over_20_seeds"]
    assert np.mean(losses) == pytest.approx(mean, rel=1e-6)
    assert np.std(losses) == pytest.approx(deviation, rel=1e-3)


# ---- SPGloss: against loops ----


def counts_in_box(target, side):
    """For each pixel of [H, W], the sum over the rows and columns -((side - 1) // 2) .. side // 2 from it."""
    back, ahead = (side - 1) // 2, side // 2
    height, width = target.shape
    counts = np.zeros((height, width))
    for row, col in np.ndindex(height, width):
        rows, cols = (slice(max(at - back, 0), at + ahead + 1) for at in (row, col))
        counts[row, col] = target[rows, cols].sum()
    return counts


def published_ring_weight(target):
    """The weight of every pixel of [H, W] by the boxes of the description."""
    protected = counts_in_box(target, 5) > 0
    count4, count3, count2 = (counts_in_box(target, side) for side in (4, 3, 2))
    return 0.5 * (protected - count4 > 0) + 0.3 * (count4 - count3 > 0) + 0.2 * (count3 - count2 > 0)


def symmetric_ring_weight(target):
    """The weight of every pixel of [H, W] by the nearest target pixel within two rows and columns."""
    weight = np.zeros(target.shape)
    targets = np.argwhere(target > 0)
    for row, col in np.ndindex(target.shape):
        steps = [(abs(row - r), abs(col - c)) for r, c in targets]
        distances = [math.hypot(*step) for step in steps if max(step) <= 2]
        if distances and min(distances) > 0:
            nearest = min(distances)
            weight[row, col] = 0.2 if nearest == 1 else 0.3 if nearest < 2 else 0.5
    return weight


def cross_entropy(p, t):
    return t * math.log1p(math.exp(-p)) + (1 - t) * math.log1p(math.exp(p))


def drawn_in_published_order(maps, target):
    """The clutter mask of the description for arrays [B, 5, H, W] and [B, H, W], one pixel at a time."""
    batch, number, height, width = maps.shape
    mask = np.zeros(maps.shape)
    for n in range(number):
        ranks = 20 + torch.randperm(130)[:60]
        for b in range(batch):
            open_ground = counts_in_box(target[b], 5) <= 0
            losses = [
                cross_entropy(p, t) * free
                for p, t, free in zip(maps[b, n].flat, target[b].flat, open_ground.flat, strict=True)
            ]
            ranking = np.argsort(losses)[::-1]
            for place in [*ranking[ranks], *torch.randperm(height * width)[:60].tolist()]:
                mask[b, n].flat[place] = 1
    return mask


def loss_by_loops(maps, target, clutter, ring_weight):
    """Arrays [B, 5, H, W] of what the sigmoid is taken of, [B, H, W], [B, 5, H, W]; the sum of all terms."""
    total = 0.0
    for b in range(len(maps)):
        protected = counts_in_box(target[b], 5) > 0
        ring = ring_weight(target[b])
        for n, row, col in np.ndindex(maps.shape[1:]):
            p, t = maps[b, n, row, col], target[b, row, col]
            w = min(1, clutter[b, n, row, col] * (not protected[row, col]) + t)
            total += 0.8333 * t * w * math.log1p(math.exp(-p))
            total += 0.1667 * (1 - t) * (w + ring[row, col]) * math.log1p(math.exp(p))
    return total


@pytest.mark.parametrize("values", [{}, {(5, 0): -1, (5, 2): 0.5, (30, 40): 1 / 3}])
def test_published_loss_against_loops(values):
    maps, target = random_case()
    for (row, col), value in values.items():  # such as RPRNet's column quirk leaves in the mask
        target[0, 0, row, col] = value
    torch.manual_seed(5)
    loss = create_loss("SPGloss")(raw_of(maps), target)["loss"]
    probability, array = torch.sigmoid(maps).numpy(), target[:, 0].numpy()
    torch.manual_seed(5)
    clutter = drawn_in_published_order(probability, array)
    expected = loss_by_loops(probability, array, clutter, published_ring_weight)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_clean_loss_against_loops():
    maps, target = random_case()
    loss = create_loss("SPGloss", variant="clean")
    torch.manual_seed(5)
    value = loss(raw_of(maps), target)["loss"]
    torch.manual_seed(5)
    clutter = loss.draw_clutter(maps, target)
    expected = loss_by_loops(maps.numpy(), target[:, 0].numpy(), clutter.numpy(), symmetric_ring_weight)
    assert value.item() == pytest.approx(expected / 10, rel=1e-12)  # 10 target pixels


def test_clean_draws_are_hard_and_easy_pixels_of_each_map_and_sample():
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand(2, MAPS, 100, 100, generator=generator, dtype=torch.float64)
    target = torch.zeros(2, 1, 100, 100, dtype=torch.float64)
    target[:, 0, 50, 50] = 1
    maps[:, :, 48:53, 48:53] = 2  # harder than all the rest, but protected
    torch.manual_seed(0)
    marks = create_loss("SPGloss", variant="clean").draw_clutter(maps, target).flatten(2)
    open_maps = maps.clone()
    open_maps[:, :, 48:53, 48:53] = -1
    order = open_maps.flatten(2).argsort(descending=True)
    by_rank = marks.gather(2, order)  # [2, 5, 10000], hardest first
    hard = by_rank[..., 20:150]
    assert hard.sum(2).min() >= 60
    assert hard.sum(2).max() <= 66  # 60 and a few easy ones
    assert len({tuple(ranks) for ranks in hard.flatten(0, 1).tolist()}) == 2 * MAPS
    assert by_rank[..., :20].mean() < 0.05
    assert by_rank[..., 5000:].sum() == pytest.approx(300, abs=50)  # easy ones lie anywhere: half of 600


# ---- the rings ----


def ring_table(rings):
    """The weights around one target pixel, 5x5, times 10."""
    target = torch.zeros(1, 1, 9, 9)
    target[0, 0, 4, 4] = 1
    weight = sum(w * ring for w, ring in zip((5, 3, 2), rings(target), strict=True)) * (1 - target)
    assert weight.sum() == weight[..., 2:7, 2:7].sum()
    return weight[0, 0, 2:7, 2:7].int().tolist()


def test_weights_around_one_pixel():
    assert ring_table(published_rings) == [
        [3, 3, 3, 3, 5],
        [3, 0, 0, 2, 5],
        [3, 0, 0, 2, 5],
        [3, 2, 2, 2, 5],
        [5, 5, 5, 5, 5],
    ]
    assert ring_table(symmetric_rings) == [
        [5, 5, 5, 5, 5],
        [5, 3, 2, 3, 5],
        [5, 2, 0, 2, 5],
        [5, 3, 2, 3, 5],
        [5, 5, 5, 5, 5],
    ]


@pytest.mark.parametrize("turn", [lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)])
def test_symmetric_rings_turn_with_the_target(turn):
    _, target = random_case(40, 40)
    for turned, ring in zip(symmetric_rings(turn(target)), symmetric_rings(target), strict=True):
        assert torch.equal(turned, turn(ring))


# ---- SPGloss: inputs and edges ----

VARIANTS = ("published", "clean")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("extreme", [0.0, -500.0, 500.0])
def test_without_targets_loss_and_gradient_are_finite(variant, extreme):
    maps = torch.full((2, MAPS, 20, 22), extreme, requires_grad=True)
    loss = create_loss("SPGloss", variant=variant)(raw_of(maps), torch.zeros(2, 1, 20, 22))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_frames_of_fewer_than_200_pixels(variant):
    maps = torch.zeros(1, MAPS, 7, 9, dtype=torch.float64)
    target = torch.zeros(1, 1, 7, 9, dtype=torch.float64)
    target[..., 3, 4] = 1
    loss = create_loss("SPGloss", variant=variant)
    clutter = loss.draw_clutter(maps, target)
    assert 1 <= clutter.sum((2, 3)).min() <= clutter.sum((2, 3)).max() <= 63
    assert torch.isfinite(loss(raw_of(maps), target)["loss"])


def test_the_clean_loss_does_not_grow_with_the_batch():
    maps, target = random_case()
    loss = create_loss("SPGloss", variant="clean")
    clutter = loss.draw_clutter(maps, target)
    doubled = (torch.cat([x, x]) for x in (maps, target, clutter))
    once, twice = loss.terms(maps, target, clutter)["loss"], loss.terms(*doubled)["loss"]
    assert twice.item() == pytest.approx(once.item())


@pytest.mark.parametrize(("name", "variant"), [(n, v) for n in ("SPGloss", "STDLoss") for v in VARIANTS])
def test_dtypes_and_target_shapes(name, variant):
    maps, target = random_case(dtype=torch.float32)
    maps = maps.half()

    def value(maps, target):
        torch.manual_seed(3)
        return create_loss(name, variant=variant)(raw_of(maps), target)["loss"]

    full = value(maps.float(), target)
    assert torch.equal(value(maps, target), full)
    assert torch.equal(value(maps.float(), target[:, 0].bool()), full)
    assert value(maps.double(), target).dtype == torch.float64
    assert value(maps.double(), target).item() == pytest.approx(full.item(), rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_gpu_the_loss_is_that_of_the_cpu_and_never_waits(variant):
    maps, target = random_case()
    loss = create_loss("SPGloss", variant=variant)
    clutter = loss.draw_clutter(maps, target)
    on_gpu = [x.to("cuda") for x in (maps, target, clutter)]
    expected = loss.terms(maps, target, clutter)["loss"].item()
    assert loss.terms(*on_gpu)["loss"].item() == pytest.approx(expected, rel=1e-12)
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = loss(raw_of(on_gpu[0]), on_gpu[1])["loss"]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(drawn)


@pytest.mark.parametrize("name", ["SPGloss", "STDLoss"])
def test_wrong_inputs_are_refused(name):
    maps, target = random_case()
    with pytest.raises(UserError, match="option variant of loss .* takes published or clean, not 'cleaned'"):
        create_loss(name, variant="cleaned")
    with pytest.raises(UserError, match="side maps of RPRNet"):
        create_loss(name)({"logits": maps[:, :1]}, target)
    with pytest.raises(ValueError, match="differ in shape"):
        create_loss(name)(raw_of(maps), target[..., :-1])


# ---- STDLoss ----


def test_focal_loss_of_the_published_code(stored):
    maps, target = stored_case(stored)
    loss = create_loss("STDloss")(raw_of(maps), target)["loss"]
    assert loss.item() == pytest.approx(float(stored["focal_loss_mean"]), rel=1e-6)


def test_focal_loss_by_hand():
    maps = torch.full((2, MAPS, 1, 2), -100.0, dtype=torch.float64)
    maps[0, 0] = 0  # p = 0.5; all other p become 1e-6
    target = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    missed, silent = -0.8 * (1 - 1e-6) ** 2 * math.log(1e-6), -0.2 * 1e-12 * math.log(1 - 1e-6)
    first = (0.8 + 0.2) * 0.25 * math.log(2) + 4 * (missed + silent)
    last = 5 * (missed + silent)
    for variant, expected in (("published", last / 2 / 2), ("clean", (first + last) / 2 / 2)):
        loss = create_loss("STDLoss", variant=variant)(raw_of(maps), target)["loss"]
        assert loss.item() == pytest.approx(expected, rel=1e-12)
