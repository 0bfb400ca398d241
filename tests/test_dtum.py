"""ResUNet-DTUM, its losses and its protocol against stored published outputs and slow forms.

The stored outputs are float32. In their clip one pooling window holds 76.28783 and 76.28787, so that rounding
decides which of them is the maximum; with it change 90 of the 4096 logits. They were computed on two threads,
on which PyTorch rounds convolutions along time in another way than on one.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from naive_dtum import NaiveResUNetDTUM
from parity import DATA, clip, published_weights
from recipes import learning_rates
from torch import nn
from torch.nn.functional import max_pool2d

from loss import create_loss
from metrics.protocols import protocol_lines
from model import create_model
from model.dtum import direction_pool
from utils.checkpoint import load_official, rename_key
from utils.errors import UserError
from utils.recipe.resolve import resolve_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

SHARED = Path(__file__).parents[2] / "shared"
EVAL = 4e-3  # on logits and features up to 340
OFFICIAL = 5e-4  # on logits up to 320
TRAIN, GRADIENTS = 2e-5, 1e-5  # on logits up to 6; relative, on gradient norms
SPACING = {"down1": 8, "down2": 4, "down3": 2, "down4": 1, "up3": 2, "up2": 4, "up1": 8}  # of stored pixels


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "dtum.npz")


@pytest.fixture(scope="module")
def weights(stored):
    return published_weights(stored)


def build(weights, **options):
    network = create_model("ResUNet-DTUM", **options)
    load_official(network, weights)
    return network.eval()


@pytest.fixture
def model(weights):
    return build(weights)


def gray_clip(shape, seed: int = 1) -> torch.Tensor:
    """A clip [B, 1, T, H, W] as three equal channels."""
    return torch.from_numpy(clip(tuple(shape), int(seed))).expand(-1, 3, -1, -1, -1)


def without_dropout(network: nn.Module) -> nn.Module:
    """The network in training, but nothing is dropped."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return network


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def assert_close(own: torch.Tensor, expected: np.ndarray | torch.Tensor, what: str):
    np.testing.assert_allclose(own, expected, rtol=0, atol=EVAL, err_msg=what)


# ---------------------------------------------------------------- the published network


def test_size_of_the_published_network(model):
    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert (size(model.unet), size(model.dtum), size(model)) == (227_808, 70_497, 298_305)
    assert len(model.state_dict()) == 254


def test_eval_gives_the_published_logits_and_maps(stored, model):
    seen = {}
    for name in SPACING:
        module = getattr(model.dtum, name)
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    x = gray_clip(stored["input_shape"], stored["seed"])
    with torch.no_grad():
        raw, features = model(x), model.features(x)
    assert raw.keys() == {"logits"}
    assert_close(raw["logits"], stored["logits"][:, 0], "logits")
    last4 = features[:, :, 1:, ::8, ::8]
    np.testing.assert_allclose(last4, stored["features_last4_sub8"], rtol=0, atol=EVAL)
    for name, every in SPACING.items():
        direction, level = name[:-1], name[-1]
        key = f"bn{level}_{1 if direction == 'down' else 2}_relu_sub{every}"
        own = seen[name][..., ::every, ::every]
        assert_close(own, stored[key], key)
    for level in "123":
        x = seen[f"down{level}"][:, :4]
        coded = max_pool2d(x[0], 2)[None] * torch.from_numpy(stored[f"direction{level}_ch0to3"])
        assert torch.equal(direction_pool(x), coded)


def test_training_gives_the_published_loss_statistics_and_gradients(stored, model, two_threads):
    raw = without_dropout(model)(gray_clip(stored["input_shape"], stored["seed"]))
    logits = raw["logits"]
    np.testing.assert_allclose(logits.detach(), stored["train_logits"][:, 0], rtol=0, atol=TRAIN)
    for key in stored.files:
        if key.startswith("after_train_forward/"):
            own = model.get_buffer(rename_key(key.split("/")[1], model.rename))
            np.testing.assert_allclose(own, stored[key], rtol=1e-5, atol=1e-6, err_msg=key)
    counters = model.unet.down0.first.norm.num_batches_tracked, model.dtum.norm.num_batches_tracked
    assert list(counters) == list(stored["num_batches_tracked_unet_dtum"])

    probe = torch.from_numpy(clip(tuple(stored["train_logits"].shape), int(stored["probe_seed"])))[:, 0]
    recipe = model.recipe["optimisation"]
    published = create_loss(recipe["loss"], **recipe["loss_options"])
    losses = {
        "linear": (logits * probe).mean(),
        "fullySup": published(raw, torch.from_numpy(stored["target"]))["loss"],
    }
    untrained = {rename_key(str(key), model.rename) for key in stored["no_grad_parameters"]}
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(stored[f"train_loss_{name}"]), rel=1e-6)
        model.zero_grad()
        value.backward(retain_graph=True)
        own = [
            model.get_parameter(rename_key(str(k), model.rename)).grad.norm() for k in stored["grad_names"]
        ]
        np.testing.assert_allclose(own, stored[f"grad_norms_{name}"], rtol=GRADIENTS, err_msg=name)
        assert {key for key, p in model.named_parameters() if p.grad is None} == untrained


@pytest.mark.parametrize("index", [0, 1])
def test_streaming_gives_the_published_logits(stored, model, index):
    video = gray_clip(stored["stream_input_shape"], stored["seed"])
    stream = model.stream()
    for first in range(index + 1):
        places = list(range(first, first + 5))
        logits = stream(video[:, :, places], places)["logits"]
    published = stored[f"stream_logits_{('first', 'second')[index]}"][:, 0]
    assert_close(logits, published, "logits")


def test_official_weights_give_the_published_logits():
    file = SHARED / "parity" / "dtum_official_nudt_mirsdt.npz"
    if not file.is_file():
        pytest.skip("the official checkpoint is not beside the repository")
    stored, model = np.load(file), create_model("ResUNet-DTUM").eval()
    load_official(model, SHARED / "official" / "resunet_dtum_nudt_mirsdt.pth")
    x = gray_clip(stored["input_shape"], stored["seed"])
    with torch.no_grad():
        logits, features = model(x)["logits"], model.features(x)
    np.testing.assert_allclose(logits, stored["logits"][:, 0], rtol=0, atol=OFFICIAL)
    own = features[:, :, 1:, ::8, ::8]
    np.testing.assert_allclose(own, stored["features_last4_sub8"], rtol=0, atol=OFFICIAL)


# ---------------------------------------------------------------- against the naive modules


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("train_direction_branch", [False, True])
def test_float64_agrees_with_the_naive_modules_to_the_last_digits(weights, training, train_direction_branch):
    """Without rounding in the way: logits, the gradients of clip and parameters, running statistics."""
    model = build(weights, train_direction_branch=train_direction_branch).double()
    naive = naive_network(weights, detach=not train_direction_branch).double()
    if training:
        without_dropout(model), without_dropout(naive)
    x = torch.from_numpy(clip((2, 3, 5, 24, 32), seed=2)).double()
    own_clip, naive_clip = x.clone().requires_grad_(), x.clone().requires_grad_()
    own, expected = model(own_clip)["logits"], naive(naive_clip)[:, 0]
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)

    direction = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0))
    (own * direction).sum().backward()
    (expected * direction).sum().backward()
    torch.testing.assert_close(own_clip.grad, naive_clip.grad, rtol=1e-8, atol=1e-9)
    trained = 0
    for key, parameter in naive.named_parameters():
        gradient = model.get_parameter(rename_key(key, model.rename)).grad
        if parameter.grad is None:
            assert gradient is None, key
            continue
        torch.testing.assert_close(gradient, parameter.grad.view_as(gradient), rtol=1e-7, atol=1e-8, msg=key)
        trained += 1
    assert trained == len(list(model.parameters())) - (0 if train_direction_branch else 20)
    for key, buffer in naive.named_buffers():
        own_buffer = model.get_buffer(rename_key(key, model.rename))
        torch.testing.assert_close(own_buffer, buffer, rtol=1e-10, atol=1e-12, msg=key)


def naive_network(weights, **options) -> NaiveResUNetDTUM:
    naive = NaiveResUNetDTUM(**options)
    naive.load_state_dict(weights, strict=False)
    return naive.eval()


def video_of_near_ties(seed: int) -> torch.Tensor:
    """Frames [1, 3, 7, 32, 48] of plain squares in few gray levels, in which most neighbours are alike."""
    levels = np.random.default_rng(seed).integers(-2, 3, (1, 1, 7, 8, 12)) / 2
    frames = torch.from_numpy(levels.astype(np.float32)).repeat_interleave(4, -1).repeat_interleave(4, -2)
    return frames.expand(-1, 3, -1, -1, -1)


@pytest.mark.parametrize("seed", [0, 2, 8, 9])
def test_near_ties_of_a_maximum_fall_as_published(weights, seed):
    """Which of two values is the larger one decides, by the last bit, over whole blocks of logits.

    With norms folded in front of direction_pool these videos had logits that differed by up to 310.
    """
    model, naive, video = build(weights), naive_network(weights), video_of_near_ties(seed)
    stream = model.stream()
    for first in range(3):
        places = range(first, first + 5)
        x = video[:, :, places]
        with torch.no_grad():
            published = naive(x)[:, 0]
            assert_close(model(x)["logits"], published, "forward")
        assert_close(stream(x, places)["logits"], published, "of a stream")
        assert_close(model.stream()(x, places)["logits"], published, "of a new stream")


def test_near_ties_fall_as_published_in_training(weights):
    model, naive = without_dropout(build(weights)), without_dropout(naive_network(weights))
    x = video_of_near_ties(0)
    clips = torch.cat([x[:, :, :5], x[:, :, 2:]])
    with torch.no_grad():
        published = naive(clips)[:, 0]
        np.testing.assert_allclose(model(clips)["logits"], published, rtol=0, atol=TRAIN)


def test_near_ties_fall_as_published_on_two_threads(weights, two_threads):
    """On which PyTorch computes, and rounds, convolutions along time by other code."""
    model, naive, video = build(weights), naive_network(weights), video_of_near_ties(0)
    for x in (video[:, :, :5], video[:, :, 1:6].expand(2, -1, -1, -1, -1)):
        with torch.no_grad():
            assert_close(model(x)["logits"], naive(x)[:, 0], f"of {len(x)} clips")


@pytest.mark.parametrize("train_direction_branch", [False, True])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_the_direction_branch_keeps_maps_for_a_gradient_only_if_it_takes_one(
    train_direction_branch, with_gradient
):
    model = create_model("ResUNet-DTUM", train_direction_branch=train_direction_branch)
    kept = []
    model.dtum.up2.register_forward_hook(lambda _, __, out: kept.append(out.requires_grad))
    with torch.set_grad_enabled(with_gradient):
        model(gray_clip((1, 1, 5, 16, 16)))
    assert kept == [train_direction_branch and with_gradient]


def test_the_place_of_a_maximum_by_loops():
    """Few values, so that many windows have ties, for which the first cell counts."""
    x = torch.randint(0, 3, (2, 3, 6, 8), generator=torch.Generator().manual_seed(0)).float()
    expected = torch.empty(2, 3, 3, 4)
    for b, c, r, s in np.ndindex(2, 3, 3, 4):
        cells = x[b, c, 2 * r : 2 * r + 2, 2 * s : 2 * s + 2].flatten().tolist()
        expected[b, c, r, s] = max(cells) * (cells.index(max(cells)) - 1.5)
    assert torch.equal(direction_pool(x), expected)


def test_frames_of_any_size_are_filled_up_with_zeros(model):
    x = gray_clip((1, 1, 5, 21, 30))
    padded = torch.zeros(1, 3, 5, 24, 32)
    padded[..., :21, :30] = x
    with torch.no_grad():
        assert torch.equal(model(x)["logits"], model(padded)["logits"][..., :21, :30])
        streamed = model.stream()(x, range(5))["logits"]
        torch.testing.assert_close(streamed, model(x)["logits"], rtol=0, atol=EVAL)
        assert not torch.equal(model(x)["logits"][..., :16, :16], model(x[..., :16, :16])["logits"])


def test_dropout_drops_whole_channels_in_training_alone(model):
    x, dropout = gray_clip((1, 1, 5, 16, 16)), model.dtum.head[2]
    seen = []
    dropout.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    torch.manual_seed(0)
    for training in (False, True):
        with torch.no_grad():
            model.train(training)(x)
    (before, after), (before_training, after_training) = seen
    assert torch.equal(before, after)
    dropped = (after_training == 0).all((2, 3)) & (before_training != 0).any((2, 3))
    assert 4 < dropped.sum() < 28
    assert torch.equal(after_training[~dropped], 2 * before_training[~dropped])


def test_import_refuses_what_does_not_fit(weights):
    model = create_model("ResUNet-DTUM")
    cases = {
        "nothing fills dtum.down1.conv.weight": ("DTUM.conv1_1.weight", None),
        "DTUM.extra has no place": ("DTUM.extra", torch.zeros(1)),
        r"DTUM.final.0.weight has shape \[32, 64, 5, 3, 3\]": (
            "DTUM.final.0.weight",
            torch.zeros(32, 64, 5, 3, 3),
        ),
    }
    for message, (key, value) in cases.items():
        changed = {k: v for k, v in {**weights, key: value}.items() if v is not None}
        with pytest.raises(UserError, match=message):
            load_official(model, changed)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("key", "name", "options"),
    [
        ("fullySup", "SoftIoU", {"smooth": 1.0, "over": "batch"}),
        ("fullySup1", "SoftIoU", {}),
        ("FocalLoss", "Focal", {}),
    ],
)
def test_published_losses(stored, key, name, options):
    logits = torch.from_numpy(clip(tuple(stored["loss_logits_shape"]), int(stored["loss_logits_seed"])))
    value = create_loss(name, **options)({"logits": logits}, torch.from_numpy(stored["target"]))["loss"]
    assert value.item() == pytest.approx(float(stored[f"loss_{key}"]), rel=1e-6)


def test_the_published_cross_entropy_is_a_sum(stored):
    logits = torch.from_numpy(clip(tuple(stored["loss_logits_shape"]), int(stored["loss_logits_seed"])))
    mean = create_loss("BCE")({"logits": logits}, torch.from_numpy(stored["target"]))["loss"]
    assert mean.item() * logits.numel() == pytest.approx(float(stored["loss_fullySupBCE_sum"]), rel=1e-6)


@pytest.mark.parametrize(("name", "key"), [("OHEM", "OHEM"), ("HPM", "HPM_manual_seed0")])
def test_published_losses_for_point_labels(stored, name, key):
    shape = (1, 1, 512, 512)
    logits, target = torch.from_numpy(clip(shape, int(stored["loss_logits_seed"]))), torch.zeros(shape)
    target[tuple(torch.from_numpy(np.insert(stored["loss512_target_points"], 1, 0, axis=1)).T)] = 1
    torch.manual_seed(0)
    value = create_loss(name)({"logits": logits}, target)["loss"]
    assert value.item() == pytest.approx(float(stored[f"loss512_{key}"]), rel=1e-6)


def few_points() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [2, 1, 16, 18] and a target with four points, float64."""
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(2, 1, 16, 18, generator=generator, dtype=torch.float64)
    target = torch.zeros_like(logits)
    target[[0, 0, 1, 1], 0, [2, 9, 0, 15], [3, 17, 0, 8]] = 1
    return logits, target


def focal_terms(logits, target, exponent_base) -> tuple[float, torch.Tensor]:
    """(focal term of each pixel, its gradient without that of the focal factors), pixel by pixel."""
    terms, gradient = torch.zeros_like(logits), torch.zeros_like(logits)
    for place in np.ndindex(*logits.shape):
        p = 1 / (1 + np.exp(-float(logits[place])))
        if target[place]:
            terms[place] = -0.8333 * (1 - p) ** 2 * np.log(p)
            gradient[place] = -0.8333 * (1 - p) ** 3
        else:
            terms[place] = -0.1667 * exponent_base(p) ** 2 * np.log(1 - p)
            gradient[place] = 0.1667 * exponent_base(p) ** 2 * p
    return terms, gradient


@pytest.mark.parametrize(("variant", "base"), [("published", lambda p: 1 - p), ("clean", lambda p: p)])
def test_focal_loss_by_loops(variant, base):
    logits, target = few_points()
    terms, gradient = focal_terms(logits, target, base)
    logits.requires_grad_()
    loss = create_loss("Focal", variant=variant)({"logits": logits}, target)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(terms.mean().item(), rel=1e-12)
    torch.testing.assert_close(logits.grad, gradient / logits.numel(), rtol=1e-10, atol=0)


def test_ohem_by_loops():
    logits, target = few_points()
    terms, gradient = focal_terms(logits, target, lambda p: p)
    chosen = target.clone()
    for b in range(2):
        points = target[b, 0].nonzero().tolist()
        far = [
            (float(logits[b, 0, r, c]), r, c)
            for r, c in np.ndindex(16, 18)
            if all(max(abs(r - y), abs(c - x)) > 2 for y, x in points)
        ]
        for _, r, c in sorted(far)[-7:]:  # the cross-entropy of background rises with the logit
            chosen[b, 0, r, c] = 1
    logits.requires_grad_()
    loss = create_loss("OHEM", max_clutter=7)({"logits": logits}, target)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx((chosen * terms).sum().item(), rel=1e-12)
    torch.testing.assert_close(logits.grad, chosen * gradient, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["Focal", "OHEM"])
@pytest.mark.parametrize("extreme", [-500.0, 500.0])
def test_extreme_logits_have_finite_loss_and_gradient(name, extreme):
    logits, target = torch.full((2, 1, 16, 18), extreme, requires_grad=True), few_points()[1]
    loss = create_loss(name)({"logits": logits}, target)["loss"]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_an_unknown_variant_is_refused():
    with pytest.raises(UserError, match="option variant of loss Focal takes published or clean, not 'plain'"):
        create_loss("Focal", variant="plain")


# ---------------------------------------------------------------- protocol


def new_shooting_rules():
    recipe = create_model("ResUNet-DTUM").recipe
    (line,) = protocol_lines(["published"], recipe["scoring"]["paper"], threshold=0.5, match=1, exclude=4)
    assert {metric.name for metric in line.metrics} == {"ShootingRules", "IoU"}
    return line.rule.create()


def test_the_protocol_gives_the_published_counts():
    stored, metric = np.load(DATA / "dtum_shooting_rules.npz"), new_shooting_rules()
    for score, target in zip(stored["scores"][:, 0], stored["target"][:, 0], strict=True):
        metric.update(score, target)
    figures = metric.compute()
    counts = np.stack([figures["false"], figures["true"], figures["targets"]], axis=1)
    assert np.array_equal(figures["thresholds"], stored["thresholds"])
    assert np.array_equal(counts, stored["false_true_target"].sum(0))
    assert figures["auc"] == pytest.approx(float(stored["auc"]), abs=1e-12)


@pytest.mark.parametrize(("group", "auc"), [("low_snr", 0.99212), ("high_snr", 0.99876), ("all", 0.99665)])
def test_the_protocol_gives_the_logged_auc(group, auc):
    """The counts of the published weights on NUDT-MIRSDT, and the AUC of the same log."""
    log = json.loads((DATA / "published_counts.json").read_text())["NUDT-MIRSDT/ResUNet_DTUM"]
    metric, counts = new_shooting_rules(), log["groups"][group]
    assert list(metric.thresholds) == log["thresholds"]
    metric.counts = {name: np.array(counts[name]) for name in metric.counts}
    assert metric.compute()["auc"] == pytest.approx(auc, abs=0.5e-5)


# ---------------------------------------------------------------- recipe


def test_the_published_recipe():
    published = create_model("ResUNet-DTUM").recipe
    recipe = resolve_recipe(published, "nudt_mirsdt", {})
    assert (recipe.view.canvas, recipe.optimisation.weight_decay) == (512, 0)
    assert recipe.optimisation.optimizer_options["beta2"] == 0.99
    rates = learning_rates(recipe, (0, 2, 3, 19))
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 1e-3 / 2**6])
    elsewhere = resolve_recipe(published, "SatVideoIRSDT", {})
    assert (elsewhere.view.canvas, elsewhere.sampling.patch) == (None, 256)
