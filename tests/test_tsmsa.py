"""TSMSA, its ConvLSTMs and its loss against stored published outputs and the modules of naive_tsmsa.py.

The stored outputs are float32. The tolerance on outputs of folded norms is three times the distance of the
stored probabilities to float64, since both sides are rounded; without folding much less is left.
"""

import numpy as np
import pytest
import torch
from naive_tsmsa import NaiveTSMSA, SSTCell
from parity import DATA, clip, fill, published_weights
from PIL import Image
from recipes import learning_rates
from torch import nn

from dataset.io import read_gray
from dataset.normalisation import Normalisation
from dataset.view import View
from loss import create_loss
from metrics import create_metric
from metrics.protocols import PROTOCOLS
from model import create_model
from model.layers.conv_lstm import ConvLSTM, CrossSliceLSTM, CrossSliceNode
from model.tsmsa import MOTION_RENAME
from utils.checkpoint import load_official, rename_key
from utils.errors import UserError
from utils.recipe.resolve import resolve_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

UNFOLDED, FOLDED = 1e-4, 3 * 3.2e-4  # on probabilities
FEATURES, GRADIENTS = 2e-4, 1e-3  # on values up to 40; relative, on gradient norms
DEAD = {  # parameters of the published network that nothing depends on
    "motion.0": 110_720,
    "channels 96..127 of conv2": 36_864,
    "mm1 and mm2": 4_096,
    "connect_conv of blocks with a projection": 2_688,
    "both attentions": 398,
}
MOTION_DEAD = 2_688 + 398 - 2 * 32  # with the motion state, only what is never used even then


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "tsmsa.npz")


@pytest.fixture(scope="module")
def cell():
    return np.load(DATA / "tsmsa_cell.npz")


@pytest.fixture(scope="module")
def weights(stored):
    return published_weights(stored)


def build(weights: dict, **options) -> nn.Module:
    network = create_model("TSMSA", **options)
    load_official(network, weights)
    return network.eval()


@pytest.fixture
def model(weights):
    return build(weights)


@pytest.fixture
def naive(weights):
    network = NaiveTSMSA()
    network.load_state_dict({k.removeprefix("model."): v for k, v in weights.items()}, strict=False)
    return network.eval()


def random_clip(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(clip(shape, seed))


def stored_clip(stored) -> torch.Tensor:
    """The published network has no axis for channels."""
    return random_clip(*stored["input_shape"])[:, None]


def running_norms(model: nn.Module) -> nn.Module:
    """The form that trains, but nothing is dropped and norms use their running statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout):
            module.eval()
    return model


def without_dropout(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return model


def own_name(key: str, model: nn.Module) -> str | None:
    return rename_key(str(key).removeprefix("model."), model.rename)


# ---------------------------------------------------------------- the published network


def test_size_of_the_published_network(model, weights):
    """Published are 415 300 numbers; those that do nothing are left out."""

    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert size(model) == 415_300 - sum(DEAD.values()) == 260_534
    assert size(model.backbone) == 38_314 - 2_688
    assert [size(m) for m in (model.encoder, model.coupling, model.head)] == [912, 33_669, 151]
    assert [size(m) for m in (model.fusion1, model.fusion2, model.fusion3)] == [4_224, 1_088, 288]
    assert size(build(weights, motion=True)) == 415_300 - MOTION_DEAD


def test_eval_gives_the_published_map(stored, model):
    with torch.no_grad():
        raw = model(stored_clip(stored))
        probability = model.decode(raw)
    assert raw.keys() == {"logits"}
    np.testing.assert_allclose(probability, stored["prob"], rtol=0, atol=FOLDED)
    np.testing.assert_allclose(raw["logits"].sigmoid(), probability, rtol=0, atol=1e-7)
    with torch.no_grad():
        logits = running_norms(model)(stored_clip(stored))["logits"]
    np.testing.assert_allclose(logits, stored["logits"], rtol=1e-5, atol=5e-4)
    np.testing.assert_allclose(logits.sigmoid(), stored["prob"], rtol=0, atol=UNFOLDED)


def test_eval_gives_the_published_features(stored, model):
    seen = {}
    for name in ("backbone", "fusion1", "coupling", "fusion2", "fusion3"):
        getattr(model, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    x = stored_clip(stored)
    with torch.no_grad():
        running_norms(model)(x)
        states = model.lstm.states(model.frame_maps(x[0].movedim(1, 0)).split(1))
    x1, x2, x3, x4 = seen["backbone"]
    own = {
        "backbone_x1_stride4": x1[:, :, ::4, ::4],
        "backbone_x2_stride4": x2[:, :, ::4, ::4],
        "backbone_x3_stride4": x3,
        "backbone_x4_stride4": x4,
        "motion_feat_c4": torch.stack(states, dim=1)[:, :, ::4],
        "fusion1_c2": seen["fusion1"][:, ::2],
        "feature_enhance_c2": seen["coupling"][:, ::2],
        "fusion2_c2": seen["fusion2"][:, ::2],
        "fusion3_c2": seen["fusion3"][:, ::2],
    }
    assert {f"mid/{name}" for name in (*own, "note")} == {n for n in stored.files if n.startswith("mid/")}
    for name, value in own.items():
        np.testing.assert_allclose(value, stored[f"mid/{name}"], rtol=1e-5, atol=FEATURES, err_msg=name)


LOSSES = {"focal_iou": ("FocalIoU", {}), "soft_iou": ("SoftIoU", {"smooth": 1.0, "over": "batch"})}


@pytest.mark.parametrize("key", LOSSES)
def test_eval_gives_the_published_losses(stored, model, key):
    name, options = LOSSES[key]
    with torch.no_grad():
        raw = running_norms(model)(stored_clip(stored))
    value = create_loss(name, **options)(raw, torch.from_numpy(stored["target"]))["loss"]
    assert value.item() == pytest.approx(float(stored[f"eval/loss_{key}"]), rel=1e-6)


@pytest.mark.parametrize("key", LOSSES)
def test_training_gives_the_published_map_loss_gradients_and_statistics(stored, model, key):
    name, options = LOSSES[key]
    raw = without_dropout(model)(stored_clip(stored))
    np.testing.assert_allclose(model.decode(raw).detach(), stored["train/prob"], rtol=0, atol=1e-5)
    value = create_loss(name, **options)(raw, torch.from_numpy(stored["target"]))["loss"]
    assert value.item() == pytest.approx(float(stored[f"train/loss_{key}"]), rel=1e-6)
    value.backward()
    for published, norm in zip(stored["grad_keys"], stored[f"train/grad_norm_{key}"], strict=True):
        own = model.get_parameter(own_name(published, model)).grad.norm()
        assert own.item() == pytest.approx(norm, rel=GRADIENTS), published
    blocks = model.lstm.slice_conv.weight.grad.split(32, dim=1)
    expected = stored[f"train/conv2_grad_norm_by_input_block_{key}"]  # that of the other slice is 0
    assert expected[3] == 0
    np.testing.assert_allclose([block.norm() for block in blocks], expected[:3], rtol=GRADIENTS)

    prefix = "train/after_one_forward/"
    counter = prefix + "num_batches_tracked_Tconv1_bn1"
    assert model.coupling.temporal1.pointwise.norm.num_batches_tracked == stored[counter] == 5
    statistics = [key for key in stored.files if key.startswith(prefix) and key != counter]
    assert len(statistics) == 7
    for statistic in statistics:
        own = model.get_buffer(own_name(statistic.removeprefix(prefix), model))
        np.testing.assert_allclose(own, stored[statistic], rtol=1e-5, atol=1e-6, err_msg=statistic)


def test_what_gets_no_gradient_as_published_is_left_out(stored, model):
    for key in stored["train/no_grad_keys"]:
        assert own_name(key, model) is None, key


# ---------------------------------------------------------------- against the naive modules


def naive_gradient(key: str, gradient: torch.Tensor) -> torch.Tensor:
    """The published gradient in the form of our parameter."""
    if not key.endswith(".00.conv2.weight"):
        return gradient
    assert not gradient[:, 96:].any()
    return gradient[:, :96]


@pytest.mark.parametrize("training", [False, True])
def test_float64_agrees_with_the_naive_modules_to_the_last_digits(model, naive, training):
    """Without rounding in the way: logits, the gradients of clip and parameters, running statistics."""
    model.double().train(training), naive.double().train(training)
    x = random_clip(2, 1, 5, 24, 40, seed=2).double()
    own_clip, naive_clip = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.manual_seed(0)
    own = model(own_clip)["logits"]
    torch.manual_seed(0)  # of the dropout
    expected = naive(naive_clip)
    torch.testing.assert_close(own, expected, rtol=1e-11, atol=1e-10)

    direction = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0))
    (own * direction).sum().backward(), (expected * direction).sum().backward()
    scale = naive_clip.grad.abs().max().item()
    torch.testing.assert_close(own_clip.grad, naive_clip.grad, rtol=1e-8, atol=1e-10 * scale)
    seen = set()
    for key, parameter in naive.named_parameters():
        name = own_name(key, model)
        if name is None:
            assert parameter.grad is None, key
            continue
        gradient = naive_gradient(key, parameter.grad)
        own_gradient = model.get_parameter(name).grad
        torch.testing.assert_close(own_gradient, gradient, rtol=1e-7, atol=1e-9 * scale, msg=key)
        seen.add(name)
    assert seen == dict(model.named_parameters()).keys()
    for key, buffer in naive.named_buffers():
        own_buffer = model.get_buffer(own_name(key, model))
        torch.testing.assert_close(own_buffer, buffer, rtol=1e-10, atol=1e-12, msg=key)


def test_the_network_starts_as_published():
    """From PyTorch's values, whose reach depends on the channels that a convolution has as published."""
    torch.manual_seed(0)
    model = create_model("TSMSA")
    np.testing.assert_allclose([w.item() for w in model.coupling.frame_weight], [0.2] * 5, rtol=1e-6)
    for conv, inputs in ((model.lstm.conv, 64), (model.lstm.slice_conv, 128)):
        reach = 1 / (9 * inputs) ** 0.5
        for parameter in conv.parameters():
            assert 0.9 * reach < parameter.abs().max() <= reach


def test_momentum_of_the_norms():
    """An option for those that have 0.9 as published; the others have 0.1 and 0.03."""

    def momenta(model):
        return [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]

    published, other = momenta(create_model("TSMSA")), momenta(create_model("TSMSA", momentum=0.2))
    counts = {0.9: 3 + 3 + 1, 0.1: 2 * 15, 0.03: 2 * 3}
    assert {m: published.count(m) for m in set(published)} == counts
    assert other == [0.2 if m == 0.9 else m for m in published]


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (9, 15)])
def test_other_sizes_run_as_published_with_zeros_around(model, naive, size):
    x = random_clip(1, 1, 5, *size).double()
    padding = [(0, 0)] * 3 + [(0, -side % 8) for side in size]
    padded = torch.from_numpy(np.pad(x, padding))
    with torch.no_grad():
        logits = model.double()(x)["logits"]
        expected = naive.double()(padded)[..., : size[0], : size[1]]
    torch.testing.assert_close(logits, expected, rtol=1e-11, atol=1e-10)


# ---------------------------------------------------------------- ConvLSTM


def test_node_gives_the_published_states(cell):
    weights = {
        rename_key(key.removeprefix("model."), MOTION_RENAME): value
        for key, value in published_weights(cell).items()
    }
    node = CrossSliceNode(32)
    prefix = "lstm.nodes.00."
    node.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k is not None})
    given = {k: torch.from_numpy(cell[k]) for k in ("input_tensor", "input_head", "h", "c", "m_h", "m_c")}
    x, y, h, c, m_h, m_c = given.values()
    sequence = torch.from_numpy(cell["all_state"])
    with torch.no_grad():
        state, motion = node(x, y, (sequence[:, 0], sequence[:, -1]), (h, c), (m_h, m_c))
    for name, own in zip(("h", "c", "m_h", "m_c"), (*state, *motion), strict=True):
        np.testing.assert_allclose(own, cell[f"out/{name}_next"], rtol=0, atol=1e-5, err_msg=name)


def published_node(naive: SSTCell) -> dict:
    """Its weights by our names."""
    renamed = {
        rename_key(f"SSTCell.{key}", MOTION_RENAME): value for key, value in naive.state_dict().items()
    }
    return {key.removeprefix("lstm."): value for key, value in renamed.items() if key is not None}


@pytest.mark.parametrize(("slices", "layers"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)])
@pytest.mark.parametrize("carry", [False, True])
def test_slices_and_layers_against_the_naive_rule(slices, layers, carry):
    naive = SSTCell(16, slices, layers, carry)
    fill(naive, seed=3)
    own = CrossSliceLSTM(16, slices, layers, carry).double()
    own.load_state_dict(published_node(naive.double()))
    x = random_clip(2, 4, 16, 9, 12).double()  # sizes that pooling by 4 cuts
    with torch.no_grad():
        hidden, motion = own(x.unbind(1))
        expected = naive(x)
    torch.testing.assert_close(torch.stack(motion if carry else hidden, 1), expected, rtol=0, atol=1e-12)


def test_the_plain_form_is_the_published_one_of_a_single_slice():
    naive = SSTCell(16)
    fill(naive, seed=3)
    own, node = ConvLSTM(16), naive.cell_list["00"]
    own.conv.load_state_dict(node.conv.state_dict())
    own.slice_conv.bias = node.conv2.bias
    own.slice_conv.weight = nn.Parameter(own.without_other_slice("", node.conv2.weight.detach()))
    x = random_clip(2, 4, 16, 8, 12).double()
    with torch.no_grad():
        states = torch.stack(own.double()(x.unbind(1)), 1)
        torch.testing.assert_close(states, naive.double()(x), rtol=0, atol=1e-12)


# ---------------------------------------------------------------- the motion state coupled, which is ours


@pytest.mark.parametrize(("slices", "layers"), [(1, 1), (2, 1)])
@pytest.mark.parametrize("training", [False, True])
def test_with_motion_every_parameter_acts(slices, layers, training):
    """And the network is the naive one whose ConvLSTM hands on its motion state."""
    model = create_model("TSMSA", motion=True, slices=slices, layers=layers)
    naive = NaiveTSMSA(slices=slices, layers=layers, carry=True)
    fill(naive, seed=3)
    load_official(model, naive.state_dict())
    x = random_clip(2, 1, 5, 24, 40).double()
    model.double().train(training), naive.double().train(training)
    torch.manual_seed(0)
    own = model(x)["logits"]
    torch.manual_seed(0)
    expected = naive(x)
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-9)
    direction = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0))
    (own * direction).sum().backward(), (expected * direction).sum().backward()
    scale = max(p.grad.abs().max().item() for p in model.parameters())
    published = {own_name(key, model): parameter for key, parameter in naive.named_parameters()}
    for name, parameter in model.named_parameters():
        expected = published[name].grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-7, atol=1e-9 * scale, msg=name)
        if not (training and name.endswith("bias")):  # batch norms take that of a bias away
            assert parameter.grad.any(), name


def test_with_motion_the_output_is_another(weights, model):
    x = random_clip(1, 1, 5, 32, 40)
    with torch.no_grad():
        plain, coupled = model(x)["logits"], build(weights, motion=True)(x)["logits"]
    assert (plain - coupled).abs().max() > 0.1


# ---------------------------------------------------------------- streaming


@pytest.mark.parametrize("options", [{}, {"motion": True, "slices": 2}])
def test_streaming_gives_the_output_of_the_whole_clip(options):
    """Videos start with repeated frames; then the clip moves on, jumps, goes back. Sizes are padded."""
    model = create_model("TSMSA", **options)
    fill(model, seed=3)
    model.double().eval()
    video = random_clip(1, 1, 12, 17, 44).double()
    stream, computed = model.stream(), []
    stream.network.encoder.register_forward_hook(lambda _, inputs, __: computed.append(len(inputs[0])))
    for key in (0, 1, 2, 3, 4, 5, 11, 6, 6):
        places = [max(key - back, 0) for back in (4, 3, 2, 1, 0)]
        x = video[:, :, places]
        with torch.no_grad():
            torch.testing.assert_close(stream(x, places), model(x), rtol=1e-9, atol=1e-9)
        assert stream.maps.keys() == set(places)
    assert computed == [1, 1, 1, 1, 1, 1, 5, 5]  # frames that were new; the last clip had none


# ---------------------------------------------------------------- loss


@pytest.fixture(scope="module")
def stored_losses():
    return np.load(DATA / "irstd_losses.npz")


@pytest.mark.parametrize("case", ["focal_iou", "focal_iou_empty_target"])
def test_value_and_gradient_of_the_published_loss(stored_losses, case):
    logits = torch.tensor(stored_losses["logits"], requires_grad=True)
    target = torch.tensor(stored_losses["target"])
    value = create_loss("FocalIoU")({"logits": logits}, target * ("empty" not in case))["loss"]
    value.backward()
    assert value.item() == pytest.approx(float(stored_losses[f"{case}/loss"]), rel=1e-6)
    np.testing.assert_allclose(logits.grad, stored_losses[f"{case}/grad_logits"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("extreme", [-500.0, 500.0])
def test_extreme_logits_have_a_finite_loss_and_gradient(extreme):
    logits = torch.full((1, 1, 16, 16), extreme, requires_grad=True)
    target = torch.zeros(1, 1, 16, 16)
    target[0, 0, 4, 4] = 1
    value = create_loss("FocalIoU")({"logits": logits}, target)["loss"]
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


def test_half_precision_logits_give_the_loss_of_their_float32_values():
    logits = torch.full((1, 1, 512, 512), 3.0, dtype=torch.float16)  # their sum overflows float16
    target = torch.zeros(1, 1, 512, 512)
    value, expected = (
        create_loss("FocalIoU")({"logits": x}, target)["loss"] for x in (logits, logits.float())
    )
    assert value.isfinite() and torch.equal(value, expected)


# ---------------------------------------------------------------- recipe, scoring, importing


@pytest.mark.parametrize(
    ("dataset", "epochs", "drops"), [("NUDT-MIRSDT", 100, (50, 75)), ("MWIRSTD", 300, (150, 225))]
)
def test_published_learning_rates(dataset, epochs, drops):
    recipe = resolve_recipe(create_model("TSMSA").recipe, dataset, {})
    first, second = drops
    expected = {0: 5e-4, first - 1: 5e-4, first: 5e-5, second - 1: 5e-5, second: 5e-6, epochs - 1: 5e-6}
    assert recipe.optimisation.epochs == epochs
    assert learning_rates(recipe, expected) == pytest.approx(list(expected.values()))


def test_frames_are_resized_and_normalised_as_published(tmp_path):
    """To 512x512 whatever their size."""
    stored = np.load(DATA / "tsmsa_augment.npz")
    spec = resolve_recipe(create_model("TSMSA").recipe, "NUDT-MIRSDT", {}).view
    for name in ("image", "mask"):
        Image.fromarray(stored[f"read/{name}"]).save(tmp_path / f"{name}.png")
    image = View.of(spec, "train").fit(read_gray(tmp_path / "image.png"), "images")
    mask = View.of(spec, "test").fit(read_gray(tmp_path / "mask.png"), "masks")
    np.testing.assert_array_equal(image[::8, ::8], stored["read/resized_int_stride8"])
    np.testing.assert_array_equal(mask[::4, ::4] > 0, stored["read/mask_stride4"])
    normalised = Normalisation(spec.mean, spec.std, spec.gray_scale)(image)
    np.testing.assert_allclose(normalised[::8, ::8], stored["read/normalised_stride8"], rtol=1e-6, atol=1e-6)


def test_scoring_counts_false_pixels_and_one_global_iou():
    """A response of 5 pixels near its target finds it; another of 5 pixels, far away, is false."""
    mask = np.zeros((32, 32), np.uint8)
    mask[5:7, 5:7] = 1
    probability = np.full(mask.shape, 0.5, np.float32)  # not above the threshold
    probability[5, 5:10] = 0.6
    probability[20, 20:25] = 0.9
    figures = {}
    (line,) = PROTOCOLS["TSMSA"].lines
    for name, options in line.items():
        metric = create_metric(name, **options)
        metric.update(probability, mask)
        figures |= metric.compute()
    assert (figures["pd"], figures["fa"]) == (1, 5 / 32**2)
    assert figures["iou"] == pytest.approx(2 / (4 + 10 - 2))


@pytest.mark.parametrize("motion", [False, True])
def test_import_refuses_what_does_not_fit(weights, motion):
    network = create_model("TSMSA", motion=motion)
    cases = {
        "nothing fills head.out.bias": ("model.head.block.4.bias", None),
        r"backbone.layer4.0.bn1.weight has no place": ("model.backbone.layer4.0.bn1.weight", torch.zeros(1)),
        r"mapping1.0.weight has shape \[3\]": ("model.mapping1.0.weight", torch.zeros(3)),
        r"\[128, 96, 3, 3\]": ("model.SSTCell.cell_list.00.conv2.weight", torch.zeros(128, 96, 3, 3)),
    }
    for message, (key, value) in cases.items():
        changed = {k: v for k, v in {**weights, key: value}.items() if v is not None}
        with pytest.raises(UserError, match=message):
            load_official(network, changed)


def test_weights_are_found_with_and_without_the_wrapper(weights, model):
    bare = create_model("TSMSA")
    load_official(bare, {key.removeprefix("model."): value for key, value in weights.items()})
    own = model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in bare.state_dict().items())


def test_unfit_options_and_clips_are_refused(model):
    for options in ({"slices": 2}, {"layers": 2}):
        with pytest.raises(UserError, match="set model.motion to True"):
            create_model("TSMSA", **options)
    for shape in [(1, 3, 5, 32, 32), (1, 1, 4, 32, 32), (1, 1, 6, 32, 32), (1, 5, 32, 32)]:
        with pytest.raises(UserError, match="TSMSA takes clips"):
            model(torch.zeros(shape))
    with pytest.raises(UserError, match="at least 9 x 9"):
        create_model("TSMSA", motion=True)(torch.zeros(1, 1, 5, 16, 8))
