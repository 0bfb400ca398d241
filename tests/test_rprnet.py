"""RPRNet and its layers against stored published outputs and the naive modules of naive_rprnet.py.

The description of the published network gives the tolerances: 5e-6 on the outputs in eval; with batch
statistics 5e-5 on the outputs and 3e-3 on single gradient norms, where rounding alone makes half of that.
"""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from naive_rprnet import NaiveDeformableConv3d, NaiveRPRNet, NaiveUpsampler
from parity import DATA, clip, fill, published_weights, values
from torch import nn

from loss import create_loss
from model import create_model
from model.layers.deformable3d import DeformableConv3d
from model.rprnet import IGGSM
from utils.checkpoint import load_official, rename_key
from utils.errors import UserError

EVAL, TRAIN, GRADIENTS = 5e-6, 5e-5, 3e-3
LAYER = 2e-5  # on activations before the head: the published code rounds places to about 1e-5 px
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "rprnet.npz")


@pytest.fixture(scope="module")
def ops():
    return np.load(DATA / "rprnet_ops.npz")


@pytest.fixture(scope="module")
def weights(stored):
    return published_weights(stored)


@pytest.fixture
def model(weights):
    network = create_model("RPRNet")
    load_official(network, weights)
    return network.eval()


@pytest.fixture
def naive(weights):
    network = NaiveRPRNet()
    network.load_state_dict(weights, strict=False)
    return network.eval()


def random_clip(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(clip(shape, seed))


def maps(raw: dict) -> list[torch.Tensor]:
    """The five maps of the network, the main one first."""
    return [raw["logits"], *raw["side_logits"]]


# ---------------------------------------------------------------- the published network


def test_size_of_the_published_network(model):
    """Published are 8 326 921 numbers; those that do nothing are left out."""
    dead = 280_017 + 23_355 + 93_366
    assert sum(p.numel() for p in model.parameters()) == 8_326_921 - dead
    assert len(list(model.parameters())) == 104 - 2  # stage 3 has no offset convolution
    assert model.stage1.deform.conv.offset_conv.out_channels == 54
    assert model.stage2.deform.conv.offset_conv.out_channels == 27


def test_eval_gives_the_published_maps(stored, model):
    with torch.no_grad():
        raw = model(random_clip(*stored["input_shape"]))
    names = ["main", "side0", "side1", "side2", "side3"]
    probabilities = ["main_logit", *(f"side_logit{i}" for i in range(4))]  # so named by the published code
    for name, probability, own in zip(names, probabilities, maps(raw), strict=True):
        np.testing.assert_allclose(own, stored[f"{name}_before_sigmoid"], rtol=0, atol=EVAL, err_msg=name)
        np.testing.assert_allclose(own.sigmoid(), stored[probability], rtol=0, atol=EVAL, err_msg=name)
    np.testing.assert_allclose(model.decode(raw), stored["main_logit"], rtol=0, atol=EVAL)


@pytest.mark.parametrize("frames", [5, 8])
def test_other_lengths_give_the_published_maps(stored, model, frames):
    with torch.no_grad():
        probability = model.decode(model(random_clip(1, 3, frames, 32, 40)))
    np.testing.assert_allclose(probability, stored[f"main_logit_T{frames}"], rtol=0, atol=EVAL)


def activations(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the layers give, by the published names."""
    out, head = {}, model.head
    x = out["stem"] = F.relu(model.stem(x))
    for number in (1, 2, 3):
        stage = getattr(model, f"stage{number}")
        out[f"stage{number}.0"] = F.relu(stage.deform(x))
        out[f"stage{number}.1"] = stage.features(x)
        x = out[f"stage{number}"] = stage(x)
    x = out["pooling3d"] = F.max_pool3d(x, (3, 1, 1))
    x = out["out_relu"] = F.relu(model.reduce(x))
    x = out["IRGSM_SAMPLE"] = model.upsample(x.squeeze(2))
    for number in (1, 2, 3):
        x = getattr(head, f"down{number}")(x)
        out[f"MultiScaleSegHead.block{number}"] = x
    half, quarter, eighth = (out[f"MultiScaleSegHead.block{number}"] for number in (1, 2, 3))
    out["MultiScaleSegHead.up1"] = head.up1(half)
    out["MultiScaleSegHead.up22"] = head.up22(head.up2(quarter))
    out["MultiScaleSegHead.up333"] = head.up333(head.up33(head.up3(eighth)))
    return out


def test_eval_gives_the_published_activations(stored, model):
    with torch.no_grad():
        own = activations(model, random_clip(*stored["input_shape"]))
    for number, (name, shape) in enumerate(zip(stored["act_names"], stored["act_shapes"], strict=True)):
        x = own[str(name)].double()
        assert ",".join(map(str, x.shape)) == str(shape)
        mean, std, largest = stored[f"act{number:02}_mean_std_absmax"]
        places, expected = stored[f"act{number:02}_index"], stored[f"act{number:02}_values"]
        np.testing.assert_allclose(x.flatten()[places], expected, rtol=0, atol=LAYER, err_msg=name)
        found = [x.mean(), x.std(), x.abs().max()]
        np.testing.assert_allclose(found, [mean, std, largest], rtol=1e-5, err_msg=name)


def loss_parts(probabilities: list[torch.Tensor], target: torch.Tensor, clutter: np.ndarray) -> torch.Tensor:
    """SPGloss by the equations of its description: of each map [1, 1, H, W] the sums [target, background].

    clutter [5, 1, 120]: the drawn pixels, row * W + column
    """

    def count(side: int) -> torch.Tensor:
        before, after = (side - 1) // 2, side // 2
        padded = F.pad(target, (before, after, before, after))
        return F.conv2d(padded, torch.ones(1, 1, side, side))

    protected = (count(5) > 0).float()
    rings = [protected - count(4) > 0, count(4) - count(3) > 0, count(3) - count(2) > 0]
    ring = sum(w * r for w, r in zip((0.5, 0.3, 0.2), rings, strict=True))
    parts = []
    for p, places in zip(probabilities, clutter[:, 0], strict=True):
        drawn = torch.zeros(target.numel())
        drawn[torch.from_numpy(places).long()] = 1
        weight = (drawn.view_as(target) * (1 - protected) + target).clamp(max=1)
        parts += [
            (0.8333 * target * weight * F.softplus(-p)).sum(),
            (0.1667 * (1 - target) * (weight + ring) * F.softplus(p)).sum(),
        ]
    return torch.stack(parts).view(-1, 2)


def test_training_gives_the_published_map_losses_gradients_and_statistics(stored, model):
    target = torch.from_numpy(stored["target"]).float()[None]
    raw = model.train()(random_clip(*stored["input_shape"]))
    probabilities = [m.sigmoid() for m in maps(raw)]
    np.testing.assert_allclose(probabilities[0].detach(), stored["train_main_logit"], rtol=0, atol=TRAIN)

    parts = loss_parts(probabilities, target, stored["clutter_index"])
    np.testing.assert_allclose(parts.detach(), stored["train_spg_loss_parts_fg_bg"], rtol=TRAIN)
    assert parts.sum().item() == pytest.approx(float(stored["train_spg_loss_fixed_clutter"]), rel=1e-5)
    parts.sum().backward()
    published = dict(zip(stored["grad_keys"], stored["grad_l2_spg"], strict=True))
    assert published.pop("stage3.0.conv.offset_conv.weight") == 0  # we have no such weight
    for key, norm in published.items():
        own = model.get_parameter(rename_key(str(key), model.rename)).grad.norm()
        assert own.item() == pytest.approx(norm, rel=GRADIENTS), key

    p = torch.cat(probabilities, dim=1).detach().clamp(1e-6, 1 - 1e-6)
    focal = -0.8 * (1 - p) ** 2 * target * p.log() - 0.2 * p**2 * (1 - target) * (1 - p).log()
    assert focal.sum(1).mean().item() == pytest.approx(float(stored["train_focal_loss_mean"]), rel=1e-4)

    prefix = "after_one_train_forward/"
    for name in (n for n in stored.files if n.startswith(prefix)):
        own = model.get_buffer(rename_key(name.removeprefix(prefix), model.rename))
        np.testing.assert_allclose(own, stored[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_loss_of_the_paper_takes_the_raw_maps(stored, model):
    """SPGloss draws its own clutter, so that the value is near the stored one of other draws, not equal."""
    target = torch.from_numpy(stored["target"]).float()
    torch.manual_seed(0)
    terms = create_loss("SPGloss")(model.train()(random_clip(*stored["input_shape"])), target)
    assert terms["loss"].item() == pytest.approx(float(stored["train_spg_loss_fixed_clutter"]), rel=0.05)


# ---------------------------------------------------------------- against the naive modules


@pytest.mark.parametrize("training", [False, True])
def test_float64_agrees_with_the_naive_modules_to_the_last_digits(model, naive, training):
    """Without rounding in the way: the five maps and the gradient of every parameter and of the clip."""
    model.double().train(training), naive.double().train(training)
    x = random_clip(2, 3, 6, 24, 16, seed=2).double()
    own_clip, naive_clip = x.clone().requires_grad_(), x.clone().requires_grad_()
    own = torch.cat(maps(model(own_clip)), dim=1)
    main, sides = naive(naive_clip)
    expected = torch.cat([main, *sides], dim=1)
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-11)

    direction = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0))
    (own * direction).sum().backward(), (expected * direction).sum().backward()
    torch.testing.assert_close(own_clip.grad, naive_clip.grad, rtol=1e-8, atol=1e-10)
    seen = set()
    for key, parameter in naive.named_parameters():
        name, gradient = rename_key(key, model.rename), parameter.grad
        if name is None:
            assert not gradient.any(), key
            continue
        if ".offset_conv." in name:
            first, second, third = gradient.unflatten(0, (27, 3)).unbind(1)  # x, y, t of each tap
            live = {"stage1": [first, second], "stage2": [third]}[name[:6]]
            gradient = torch.stack(live, dim=1).flatten(0, 1)
        own_gradient = model.get_parameter(name).grad
        torch.testing.assert_close(own_gradient, gradient, rtol=1e-7, atol=1e-10, msg=key)
        seen.add(name)
    assert seen == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("frames", range(5, 11))
def test_every_length_that_the_published_network_takes(model, naive, frames):
    x = random_clip(1, 3, frames, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(x)["logits"], naive(x)[0], rtol=0, atol=EVAL)


def test_folded_norms_follow_the_weights(model, naive, weights):
    x = random_clip(1, 3, 6, 16, 16)
    with torch.no_grad():
        before = model(x)["logits"]
        for network, norm in ((model, model.stage2.first.norm), (naive, naive.stage2[1].bn1)):
            norm.weight.mul_(1.5)
            norm.running_mean.add_(0.1)
            network.train()(x), network.eval()  # running statistics move
        after = model(x)["logits"]
        assert (after - before).abs().max() > 100 * EVAL
        torch.testing.assert_close(after, naive(x)[0], rtol=0, atol=2 * EVAL)


@pytest.mark.parametrize("size", [(16, 23), (31, 32)])
def test_a_size_one_below_a_multiple_of_8_runs_as_published(model, naive, size):
    x = random_clip(1, 3, 6, *size)
    with torch.no_grad():
        expected = naive(x)[0]
        assert expected.shape[2:] > size
        torch.testing.assert_close(model(x)["logits"], expected[..., : size[0], : size[1]], rtol=0, atol=EVAL)


def test_other_sizes_see_their_last_row_and_column_repeated(model, naive):
    x = random_clip(1, 3, 6, 17, 28)
    padded = torch.from_numpy(np.pad(x, [(0, 0)] * 3 + [(0, 7), (0, 4)], mode="edge"))
    with torch.no_grad():
        raw = model(x)
        main, sides = naive(padded)
    for own, expected in zip(maps(raw), [main, *sides], strict=True):
        torch.testing.assert_close(own, expected[..., :17, :28], rtol=0, atol=EVAL)


def test_lower_precision_on_request(model):
    x = random_clip(1, 3, 6, 32, 40)
    with torch.autocast("cpu", torch.bfloat16):
        lower = model(x)
        lower["logits"].float().sum().backward()
    with torch.no_grad():
        exact = model(x)
    for own, expected in zip(maps(lower), maps(exact), strict=True):
        assert (own.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def saved_bytes(network: nn.Module, x: torch.Tensor) -> int:
    """What a training step keeps for its gradient, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network.train()(x)
    del output
    return sum(storage.nbytes() for storage in kept.values())


def test_training_keeps_less_than_half_of_the_naive_memory(model, naive):
    x = random_clip(1, 3, 6, 64, 64)
    assert saved_bytes(model, x) < 0.45 * saved_bytes(naive, x)


# ---------------------------------------------------------------- layers


def gradient_norms(layer: nn.Module, x: torch.Tensor, keys: list[str]) -> list[float]:
    """Norms of the gradients that the stored ones belong to, of the input ("input") and of parameters."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * random_clip(*out.shape, seed=101)).sum().backward()
    return [(x if key == "input" else layer.get_parameter(key)).grad.norm().item() for key in keys]


def test_upsampler_gives_the_published_output_and_gradients(ops):
    layer, x = IGGSM(16), random_clip(*ops["up_input_shape"])
    own_name = {str(k): str(k).replace("ir_gate", "gate") for k in ops["up_keys"]} | {"input": "input"}
    with torch.no_grad():
        for key, shape in zip(ops["up_keys"], ops["up_shapes"], strict=True):
            value = values(str(key), tuple(map(int, shape.split(","))), int(ops["seed"]))
            layer.get_parameter(own_name[key]).copy_(torch.from_numpy(value))
        np.testing.assert_allclose(layer(x), ops["up_output"], rtol=0, atol=EVAL)
    norms = gradient_norms(layer, x, [own_name[key] for key in ops["up_grad_names"]])
    np.testing.assert_allclose(norms, ops["up_grad_l2"], rtol=1e-4)


def test_upsampler_projects_before_it_samples():
    """In float64; offsets of several pixels, so that the border is met too."""
    layer, out = IGGSM(16).double(), nn.Conv2d(16, 1, 1).double()
    fill(layer, seed=4)
    x = 5 * random_clip(2, 16, 6, 7).double()
    naive = NaiveUpsampler(16).double()
    naive.load_state_dict(
        {k.replace("gate", "ir_gate"): v for k, v in layer.state_dict().items()}, strict=False
    )
    assert layer.offsets(x).abs().max() > 2
    expected = naive(x)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.project(x, out), out(expected), rtol=0, atol=1e-12)


def deformable(ops, case: int) -> DeformableConv3d:
    """The layer of a stored case with its weights; of its 81 offset channels those of free axes."""
    limits = float(ops["dc_max_disp_xy"][case]), float(ops["dc_max_disp_t"][case])
    layer = DeformableConv3d(8, 6, tuple(ops["dc_stride"][case].tolist()), *limits)
    free = [limits[0] > 0, limits[0] > 0, limits[1] > 0]
    with torch.no_grad():
        for key, shape in zip(ops["dc_keys"], ops["dc_shapes"], strict=True):
            value = values(str(key), tuple(map(int, shape.split(","))), int(ops["seed"]))
            if key == "weight":
                layer.weight.copy_(torch.from_numpy(value))
            elif any(free):
                value = value[[channel for channel in range(81) if free[channel % 3]]]
                layer.get_parameter(str(key)).copy_(torch.from_numpy(value))
    return layer


@pytest.mark.parametrize("case", range(4))
def test_deformable_convolution_gives_the_published_output_and_gradients(ops, case):
    layer, x = deformable(ops, case), random_clip(*ops["dc_input_shape"])
    with torch.no_grad():
        np.testing.assert_allclose(layer(x), ops[f"dc{case}_output"], rtol=0, atol=LAYER)
    published = dict(zip(map(str, ops["dc_grad_names"]), ops[f"dc{case}_grad_l2"], strict=True))
    if not layer.axes:
        assert published.pop("offset_conv.weight") == published.pop("offset_conv.bias") == 0
        assert len(list(layer.parameters())) == 1
    np.testing.assert_allclose(gradient_norms(layer, x, list(published)), list(published.values()), rtol=1e-4)


@pytest.mark.parametrize("case", [0, 1, 3])
def test_deformable_offset_channels_are_the_published_ones(ops, case):
    layer, x = deformable(ops, case), random_clip(*ops["dc_input_shape"])
    with torch.no_grad():
        raw = layer.offset_conv(x).tanh().unflatten(1, (27, -1))  # [B, 27, axes, D, H', W']
    for tap in (0, 26):
        published = ops[f"dc{case}_offsets_tap{tap}_xyz"]
        for place, axis in enumerate(layer.axes):
            own = layer.limits[axis] * raw[:, tap, place]
            np.testing.assert_allclose(own, published[..., axis], rtol=0, atol=EVAL)
        held = sorted({0, 1, 2} - set(layer.axes))
        assert not published[..., held].any()


@pytest.mark.parametrize(
    ("stride", "max_disp_xy", "max_disp_t"),
    [
        ((1, 2, 2), 0.5, 0),
        ((2, 1, 1), 0, 0.5),
        ((1, 1, 2), 2.3, 0),
        ((1, 1, 1), 0, 1.0),
        ((2, 2, 1), 1.0, 2.5),
    ],
)
def test_deformable_convolution_agrees_with_27_samples(stride, max_disp_xy, max_disp_t):
    """In float64, with offsets up to the limit itself: there a tanh is exactly 1 or -1."""
    layer = DeformableConv3d(3, 4, stride, max_disp_xy, max_disp_t).double()
    naive = NaiveDeformableConv3d(3, 4, stride, max_disp_xy, max_disp_t).double()
    fill(layer, seed=6)
    limits = [max_disp_xy, max_disp_xy, max_disp_t]
    live = [channel for channel in range(81) if limits[channel % 3]]
    with torch.no_grad():
        layer.offset_conv.bias[::5], layer.offset_conv.bias[1::5] = 40, -40
        naive.weight.copy_(layer.weight)
        naive.offset_conv.weight[live] = layer.offset_conv.weight
        naive.offset_conv.bias[live] = layer.offset_conv.bias
        x = random_clip(2, 3, 5, 7, 6).double()
        torch.testing.assert_close(layer(x), naive(x), rtol=0, atol=1e-11)


def test_at_an_offset_of_zero_the_gradient_is_the_difference_to_the_right():
    """Where every training from the constructor's values starts. In float64, against small steps."""
    torch.manual_seed(0)
    layer = DeformableConv3d(2, 3, (1, 2, 2), 0.5, 0.5).double()
    x = random_clip(1, 2, 4, 6, 6).double()
    out = layer(x)
    torch.testing.assert_close(out, F.conv3d(x, layer.weight.unflatten(2, (3, 3, 3)), None, (1, 2, 2), 1))
    out.sum().backward()
    step, bias = 1e-7, layer.offset_conv.bias
    with torch.no_grad():
        for channel in range(len(bias)):
            bias[channel] = step
            slope = (layer(x).sum() - out.sum()) / step
            bias[channel] = 0
            assert slope.item() == pytest.approx(bias.grad[channel].item(), rel=1e-4, abs=1e-5)


def test_a_broken_offset_makes_a_broken_output_and_no_crash():
    layer = DeformableConv3d(2, 3)
    with torch.no_grad():
        layer.offset_conv.bias.fill_(math.nan)
        assert layer(random_clip(1, 2, 3, 4, 5)).isnan().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_deterministic_gradients_on_a_gpu(model):
    x, results = random_clip(1, 3, 6, 64, 64).to("cuda"), []
    model.to("cuda").train()
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            model.zero_grad()
            sum(m.square().sum() for m in maps(model(x))).backward()
            results.append([p.grad.clone() for p in model.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


# ---------------------------------------------------------------- first values


def test_published_init():
    torch.manual_seed(0)
    model = create_model("RPRNet")
    head = model.head
    expected = {
        "stem.conv": math.sqrt(2 / (32 * 27)),
        "stage1.deform.conv.offset_conv": 0.030,
        "stage2.deform.conv.offset_conv": 0.030,
        "stage3.second.conv": math.sqrt(2 / (256 * 27)),
        "reduce.conv": math.sqrt(2 / 256),
        "upsample.offset": 0.25,
        "head.up333.offset": 0.25,
        "head.up2.gate.0": math.sqrt(2 / 64),
        "head.down2.0.conv": math.sqrt(2 / (256 * 9)),
        "head.out0": math.sqrt(2),
        "head.out3": math.sqrt(2),
    }
    for name, std in expected.items():
        weight = model.get_submodule(name).weight
        assert weight.std().item() == pytest.approx(std, rel=0.02 + 3 / math.sqrt(2 * weight.numel())), name
    for conv in (head.out0, head.out1, head.out2, head.out3, head.fuse):
        assert conv.bias.item() == pytest.approx(-4.595, abs=1e-3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and not name.startswith(("head.out", "head.fuse")):
            assert not parameter.any(), name
        if ".norm.weight" in name:
            assert (parameter == 1).all(), name
    assert not head.gamma.any()
    assert_uniform_kernels(model)
    assert head.fuse.weight.abs().max() > 0.5  # the largest of torch's own, 1 / sqrt(4 inputs)


def test_constructor_init():
    torch.manual_seed(0)
    model = create_model("RPRNet", init="constructor")
    for stage in (model.stage1, model.stage2):
        assert not stage.deform.conv.offset_conv.weight.any()
        assert not stage.deform.conv.offset_conv.bias.any()
    samplers = [m for m in model.modules() if isinstance(m, IGGSM)]
    assert len(samplers) == 7
    for sampler in samplers:
        assert sampler.offset.weight.std().item() == pytest.approx(0.001, rel=0.05)
        for conv in (sampler.gate[0], sampler.gate[2]):
            outputs, inputs = conv.weight.shape[:2]
            largest = 0.01 * math.sqrt(6 / (inputs + outputs))
            assert 0.95 * largest < conv.weight.abs().max() <= largest
            assert not conv.bias.any()
        assert not sampler.offset.bias.any()
    assert model.head.out0.weight.abs().max() <= 1 / 16  # torch's own: 1 / sqrt(256 inputs)
    assert_uniform_kernels(model)


def assert_uniform_kernels(model: nn.Module) -> None:
    """Deformable kernels: uniform up to 1 / sqrt(27 C)."""
    for stage, channels in ((model.stage1, 32), (model.stage2, 64), (model.stage3, 128)):
        largest = 1 / math.sqrt(27 * channels)
        assert 0.99 * largest < stage.deform.conv.weight.abs().max() <= largest
        assert stage.deform.conv.weight.std().item() == pytest.approx(largest / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("init", ["published", "constructor"])
def test_a_seed_gives_the_same_values_again(init):
    first, second, third = (seeded_state(init, seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["stem.conv.weight"], third["stem.conv.weight"])


def seeded_state(init: str, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return create_model("RPRNet", init=init).state_dict()


# ---------------------------------------------------------------- mistakes of the user


@pytest.mark.parametrize("shape", [(1, 1, 6, 32, 32), (1, 3, 4, 32, 32), (1, 3, 11, 32, 32), (3, 6, 32, 32)])
def test_other_channels_and_lengths_are_refused(model, shape):
    with pytest.raises(UserError, match=r"T = 5 to 10 frames but got \[.*set view.channels to 3"):
        model(torch.zeros(shape))


def test_tiny_frames_are_refused(model):
    assert model(random_clip(1, 3, 6, 16, 16))["logits"].isfinite().all()
    with pytest.raises(UserError, match=r"at least 16 x 16 pixels but got \[1, 3, 6, 15, 40\]"):
        model(torch.zeros(1, 3, 6, 15, 40))


def test_an_unknown_init_is_refused():
    with pytest.raises(
        UserError, match="option init of model RPRNet takes published or constructor, not 'paper'"
    ):
        create_model("RPRNet", init="paper")


# ---------------------------------------------------------------- official checkpoints


@pytest.fixture
def official(stored, weights):
    """A file as train.py writes it, with the 154 entries of its state dict."""
    state = {k: v.clone() for k, v in weights.items()}
    state |= {str(k): torch.zeros(1, 32, 1, 1) for k in stored["constant_keys"]}
    for key in [k for k in state if k.endswith("running_mean")]:
        state[key.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    state = {str(stored["official_checkpoint_prefix"]) + k: v for k, v in state.items()}
    state["BCEWithLogitsLoss.pos_weight"] = torch.tensor([200.0])
    assert len(state) == 154
    return {"epoch": 30, "state_dict": state, "total_loss": [1540.0, 890.0]}


def test_an_official_checkpoint_fills_every_weight(official, model):
    other = create_model("RPRNet").eval()
    assert load_official(other, official) == {"epoch": 30, "total_loss": [1540.0, 890.0]}
    for key, value in other.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert value == 7, key
        else:
            assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.stage2.0.conv.offset_conv.weight", "nothing fills stage2.deform.conv.offset_conv.weight"),
        ("model.MultiScaleSegHead.gamma", "nothing fills head.gamma"),
        ("model.stage3.1.bn2.running_var", "nothing fills stage3.second.norm.running_var"),
    ],
)
def test_a_missing_key_is_refused(official, model, key, message):
    del official["state_dict"][key]
    with pytest.raises(UserError, match=message):
        load_official(model, official)


@pytest.mark.parametrize("key", ["model.stage4.0.conv.offset_conv.weight", "model.head.gamma2"])
def test_a_key_too_many_is_refused(official, model, key):
    official["state_dict"][key] = torch.zeros(81)
    with pytest.raises(UserError, match="has no place in the model"):
        load_official(model, official)


@pytest.mark.parametrize("shape", [(54, 32, 3, 3, 3), (80, 32, 3, 3, 3), (), (81, 16, 3, 3, 3)])
def test_an_offset_convolution_of_another_shape_is_refused(official, model, shape):
    official["state_dict"]["model.stage1.0.conv.offset_conv.weight"] = torch.zeros(shape)
    before = model.stage1.deform.conv.offset_conv.weight.clone()
    with pytest.raises(UserError, match="stage1.*offset_conv.weight has"):
        load_official(model, official)
    assert torch.equal(model.stage1.deform.conv.offset_conv.weight, before)


# ---------------------------------------------------------------- speed

RACE = """
import sys, time
import numpy as np
import torch

sys.path[:0] = ["tests", "."]
from model import create_model
from naive_rprnet import NaiveRPRNet
from parity import DATA, clip, published_weights
from utils.checkpoint import load_official

weights = published_weights(np.load(DATA / "rprnet.npz"))
networks = create_model("RPRNet"), NaiveRPRNet()
load_official(networks[0], weights)
networks[1].load_state_dict(weights, strict=False)
x = torch.from_numpy(clip((1, 3, 6, 256, 256), seed=1))

def maps(network):
    raw = network(x)
    return [raw["logits"], *raw["side_logits"]] if isinstance(raw, dict) else [raw[0], *raw[1]]

def forward(network):
    with torch.inference_mode():
        maps(network.eval())

def train(network):
    sum(m.sigmoid().sum() for m in maps(network.train())).backward()
    network.zero_grad()

for run in (forward, train):
    for turn in range(3):
        for network in networks:
            start, clock = time.process_time(), time.perf_counter()
            run(network)
            print(time.process_time() - start, time.perf_counter() - clock)
"""


@pytest.mark.slow
def test_speed_against_the_naive_modules():
    """CPU time, which other processes on the machine disturb least, after a round that warms up.

    The bounds notice a form that lost its speed, on any machine; tools/compare_speed.py measures the ratios.
    """
    done = subprocess.run(
        [sys.executable, "-c", RACE], cwd=ROOT, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    times = np.array([line.split() for line in done.stdout.splitlines()], float)[:, 0].reshape(2, 3, 2)
    for (own, slow), least in zip(times[:, 1:].min(1), (1.6, 1.5), strict=True):
        print(f"{own:.1f} s against {slow:.1f} s module by module")
        assert slow / own >= least
