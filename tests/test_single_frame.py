"""ACM, DNANet, RDIAN and MSHNet against stored published outputs and the naive modules of
naive_single_frame.py.

The stored outputs are float32, of random weights. Rounding is relative to the largest logit, which for the
running statistics of ACM's eval is above 10 000.
"""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from naive_single_frame import DepthwiseBlock, NaiveACM, NaiveDNANet, NaiveMSHNet, NaiveRDIAN
from parity import DATA, clip, published_weights
from recipes import learning_rates
from torch import nn

from loss import create_loss
from model import create_model
from utils.checkpoint import load_official, rename_key
from utils.errors import UserError
from utils.recipe.resolve import resolve_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDING = 1e-5  # of the largest value of a map
GRADIENTS = 1e-3  # between float64 and the stored norms: rounding of 1e-7 switches ReLUs and maxima

CASES = {  # stored file: (model, its options, naive modules)
    "acm": ("ACM", {}, NaiveACM),
    "acm_tsmsa": ("ACM", {"blocks": "depthwise"}, lambda: NaiveACM(DepthwiseBlock)),
    "dnanet": ("DNANet", {}, NaiveDNANet),
    "dnanet_single": ("DNANet", {"deep_supervision": False}, lambda: NaiveDNANet(deep_supervision=False)),
    "rdian": ("RDIAN", {}, NaiveRDIAN),
    "mshnet": ("MSHNet", {}, NaiveMSHNet),
}
SIZES = {  # stored file: published entries of the state dict, tensors and numbers of the parameters
    "acm": (297, 156, 397_823),
    "acm_tsmsa": (357, 216, 88_447),
    "dnanet": (570, 366, 4_696_568),
    "dnanet_single": (564, 360, 4_696_517),
    "rdian": (134 - 8, 74 - 8, 216_758 - 8 * 25),  # without the fixed kernels of the eight directions
    "mshnet": (340, 220, 4_065_481),
}
PARTS = {  # stored activations: our modules
    "conv0_0": "nodes.0_0",
    "conv4_0": "nodes.4_0",
    "conv3_1": "nodes.3_1",
    "conv2_2": "nodes.2_2",
    "conv1_3": "nodes.1_3",
    "conv0_4_final": "gather",
    **{f"residual_block{k}": f"branches.{k}" for k in range(4)},
    "conv_cat": "mix",
    "cbam": "attention",
    "conv_res": "skip",
    "middle_layer": "middle",
    "decoder_2": "decoder.2",
    **{f"output_{k}": f"output.{k}" for k in range(4)},
}


class Case:
    """A stored file, and the networks with the weights that it was computed with."""

    def __init__(self, file: str):
        self.file, (self.name, self.options, self.build_naive) = file, CASES[file]
        self.stored = np.load(DATA / f"{file}.npz")
        self.weights = published_weights(self.stored)

    def model(self) -> nn.Module:
        network = create_model(self.name, **self.options)
        load_official(network, self.weights)
        return without_dropout(network).eval()

    def naive(self) -> nn.Module:
        network = self.build_naive()
        network.load_state_dict({k.removeprefix("model."): v for k, v in self.weights.items()}, strict=False)
        return without_dropout(network).eval()

    def clip(self) -> torch.Tensor:
        return random_clip(*self.stored["input_shape"], seed=int(self.stored["seed"]))

    def target(self) -> torch.Tensor:
        return torch.from_numpy(self.stored["target"]).float()

    def published_maps(self, mode: str) -> list[np.ndarray]:
        """The probabilities of the side maps and of the main map."""
        if self.name == "MSHNet":
            return [sigmoid(self.stored[f"{mode}logits"])]
        names = [f"prob{k}" for k in (1, 2, 3, 4)] if self.file == "dnanet" else ["prob"]
        return [self.stored[mode + name] for name in names]

    def losses(self, raw: dict, mode: str) -> dict[str, torch.Tensor]:
        """Own values by the names of the published ones, as far as these are stored."""
        soft = create_loss("SoftIoU", smooth=1.0, over="batch", sides=self.file == "dnanet")
        losses = {
            "soft_iou": soft,
            "soft_iou_on_sigmoid": soft,
            "focal_iou": create_loss("FocalIoU"),
            "sls_iou_epoch6_warm5": create_loss("SLSIoU"),
        }
        keys = {f"{mode}/loss_{name}": loss for name, loss in losses.items()}
        return {key: loss(raw, self.target())["loss"] for key, loss in keys.items() if key in self.stored}

    def gradient_norms(self, loss: str) -> dict[str, float]:
        """Of the published parameters, after the loss of that stored name."""
        norms = self.stored[loss.replace("loss", "grad_norm").removesuffix("_epoch6_warm5")]
        return dict(zip(map(str, self.stored["grad_keys"]), norms, strict=True))


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


def random_clip(batch: int, channels: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    """[B, 1, 1, H, W] from the shape that the published networks take."""
    return torch.from_numpy(clip((batch, channels, height, width), seed)).unsqueeze(2)


def without_dropout(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def maps(model: nn.Module, raw: dict) -> list[torch.Tensor]:
    """The logits that the published network returns: DNANet's side maps, and the main map."""
    sides = raw.get("side_logits", []) if model.name == "DNANet" else []
    return [*sides, raw["logits"]]


def assert_published_maps(case: Case, model: nn.Module, raw: dict, mode: str):
    published = case.published_maps(mode)
    own = maps(model, raw)
    for logits, expected in zip(own, published, strict=True):
        # The slope of the sigmoid is at most 1/4.
        tolerance = 1e-6 + ROUNDING / 4 * logits.abs().max().item()
        np.testing.assert_allclose(logits.detach().sigmoid(), expected, rtol=0, atol=tolerance)


# ---------------------------------------------------------------- the published networks


def test_size_of_the_published_networks(case):
    model = case.model()
    parameters = list(model.parameters())
    numbers = sum(p.numel() for p in parameters)
    assert (len(model.state_dict()), len(parameters), numbers) == SIZES[case.file]


def test_eval_gives_the_published_maps_and_losses(case):
    model = case.model()
    with torch.no_grad():
        raw = model(case.clip())
    assert_published_maps(case, model, raw, "")
    losses = case.losses(raw, "eval")
    assert len(losses) == (1 if case.file == "dnanet" else 2)
    for key, own in losses.items():
        assert own.item() == pytest.approx(float(case.stored[key]), rel=ROUNDING), key


def test_eval_gives_the_published_activations(case):
    """Stored as `part` or, of every n-th channel, as `part_cn`."""
    model, seen = case.model(), {}
    stored = [key.removeprefix("mid/") for key in case.stored if key.startswith("mid/")]
    stored = [key for key in stored if not key.startswith("cbam.ChannelGate")]  # inside one module of ours
    for key in stored:
        part = re.sub(r"_c\d+$", "", key)
        module = model.get_submodule(PARTS.get(part, part))
        module.register_forward_hook(lambda _, __, out, key=key: seen.update({key: out}))
    with torch.no_grad():
        model(case.clip())
    for key in stored:
        expected = case.stored[f"mid/{key}"]
        step = seen[key].shape[1] // expected.shape[1]
        tolerance = ROUNDING * np.abs(expected).max()
        np.testing.assert_allclose(seen[key][:, ::step], expected, rtol=0, atol=tolerance, err_msg=key)


def test_training_gives_the_published_maps_losses_and_statistics(case):
    model = case.model().train()
    with torch.no_grad():
        raw = model(case.clip())
    assert_published_maps(case, model, raw, "train/")
    losses = case.losses(raw, "train")
    assert len(losses) == (1 if case.file in ("dnanet", "mshnet") else 2)
    for key, own in losses.items():
        assert own.item() == pytest.approx(float(case.stored[key]), rel=ROUNDING), key
    for key in case.stored:
        if key.startswith("train/after_one_forward/"):
            statistic = model.get_buffer(our_name(model, key.rpartition("/")[2]))
            np.testing.assert_allclose(statistic, case.stored[key], rtol=2e-6, atol=1e-6, err_msg=key)


def test_training_gives_the_published_gradients(case):
    model = case.model().double().train()
    for loss, own in case.losses(model(case.clip().double()), "train").items():
        model.zero_grad()
        own.backward(retain_graph=True)
        for key, norm in case.gradient_norms(loss).items():
            gradient = model.get_parameter(our_name(model, key)).grad
            assert gradient.norm().item() == pytest.approx(norm, rel=GRADIENTS), (loss, key)


def our_name(model: nn.Module, published: str) -> str | None:
    return rename_key(published.removeprefix("model."), model.rename)


# ---------------------------------------------------------------- against the naive modules


@pytest.mark.parametrize("training", [False, True])
def test_float64_agrees_with_the_naive_modules_to_the_last_digits(case, training):
    """Outputs, the gradients of clip and parameters, running statistics; norms are folded in eval."""
    model, naive = (network.double().train(training) for network in (case.model(), case.naive()))
    x = random_clip(2, 1, 48, 32, seed=2).double()
    own_clip, naive_clip = x.clone().requires_grad_(), x.clone().requires_grad_()
    own, expected = maps(model, model(own_clip)), naive(naive_clip[:, :, 0])
    own, expected = (torch.cat(out, dim=1) if isinstance(out, list) else out for out in (own, expected))
    scale = expected.abs().max().item()
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12 * scale)

    direction = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0))
    (own * direction).sum().backward(), (expected * direction).sum().backward()
    largest = naive_clip.grad.abs().max().item()
    torch.testing.assert_close(own_clip.grad, naive_clip.grad, rtol=1e-8, atol=1e-9 * largest)
    seen = set()
    for key, parameter in naive.named_parameters():
        if parameter.requires_grad:
            name = our_name(model, key)
            largest = max(parameter.grad.abs().max().item(), 1)
            own_gradient = model.get_parameter(name).grad
            torch.testing.assert_close(own_gradient, parameter.grad, rtol=1e-7, atol=1e-8 * largest, msg=key)
            seen.add(name)
    assert seen == dict(model.named_parameters()).keys()
    for key, buffer in naive.named_buffers():
        statistic = model.get_buffer(our_name(model, key))
        torch.testing.assert_close(statistic, buffer, rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize("size", [(33, 64), (40, 49), (7, 7)])
def test_other_sizes_are_padded_with_zeros_except_for_rdian(case, size):
    model, naive = case.model().double(), case.naive().double()
    x = random_clip(2, 1, *size, seed=3).double()
    height, width = size
    padding = (0, 0) if case.name == "RDIAN" else (-width % 16, -height % 16)
    with torch.no_grad():
        raw = model(x)
        expected = naive(F.pad(x[:, :, 0], (0, padding[0], 0, padding[1])))
    expected = expected if isinstance(expected, list) else [expected]
    for own, published in zip(maps(model, raw), expected, strict=True):
        scale = published.abs().max().item()
        torch.testing.assert_close(own, published[..., :height, :width], rtol=1e-10, atol=1e-12 * scale)


def test_side_maps_of_mshnet_have_half_the_size_each():
    model = Case("mshnet").model()
    with torch.no_grad():
        padded, whole = (
            model(random_clip(1, 1, 17, 35)),
            model(F.pad(random_clip(1, 1, 17, 35), (0, 13, 0, 15))),
        )
    assert [tuple(side.shape[2:]) for side in padded["side_logits"]] == [(17, 35), (9, 18), (5, 9), (3, 5)]
    for side, of_whole in zip(padded["side_logits"], whole["side_logits"], strict=True):
        assert torch.equal(side, of_whole[..., : side.shape[2], : side.shape[3]])


def test_dnanet_without_deep_supervision_has_no_side_maps():
    raw = create_model("DNANet", deep_supervision=False)(random_clip(2, 1, 16, 16))
    assert raw.keys() == {"logits"}


# ---------------------------------------------------------------- building, training and importing


def test_acm_needs_two_images_to_train():
    model, x = create_model("ACM"), random_clip(1, 1, 64, 64)
    with pytest.raises(UserError, match="batch of one image.*batch_size to 2"):
        model(x)
    assert model.eval()(x)["logits"].shape == (1, 1, 64, 64)


def test_an_unknown_kind_of_block_is_refused():
    with pytest.raises(
        UserError, match="option blocks of model ACM takes residual or depthwise, not 'dense'"
    ):
        create_model("ACM", blocks="dense")


@pytest.mark.parametrize("name", ["ACM", "RDIAN"])
def test_a_tenth_of_the_features_before_the_last_convolution_is_dropped_in_training(name):
    torch.manual_seed(0)
    model, kept = create_model(name).train(), []
    model.head.dropout.register_forward_hook(lambda _, x, out: kept.append(out[x[0] > 0] > 0))
    model(random_clip(2, 1, 64, 64))
    assert kept[0].float().mean().item() == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("name", ["ACM", "DNANet", "RDIAN", "MSHNet"])
def test_the_loss_of_the_recipe_trains_every_parameter(name):
    torch.manual_seed(0)
    model = create_model(name).train()
    recipe = resolve_recipe(model.recipe, "", {})
    assert (recipe.view.frames, recipe.view.key, recipe.view.channels) == (1, 0, 1)
    rates = learning_rates(recipe, (0, 199, 200, 299, 300, 399))
    assert rates == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5, 5e-6, 5e-6])
    target = torch.zeros(2, 1, 64, 64)
    target[:, :, 30:33, 40:42] = 1
    loss = create_loss(recipe.optimisation.loss, **recipe.optimisation.loss_options)
    loss(model(random_clip(2, 1, 64, 64)), target)["loss"].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_an_official_checkpoint_fills_every_weight(case):
    counters = {str(key): torch.tensor(7) for key in case.stored["constant_keys"] if "num_batches" in key}
    official, model = {**case.weights, **counters}, create_model(case.name, **case.options)
    facts = load_official(model, {"epoch": 3, "state_dict": official, "total_loss": [0.5]})
    assert facts == {"epoch": 3, "total_loss": [0.5]}
    own, seen = model.state_dict(), set()
    for key, value in official.items():
        assert torch.equal(own[our_name(model, key)], value), key
        seen.add(our_name(model, key))
    assert seen == own.keys()


def test_the_fixed_kernels_in_the_authors_checkpoint_of_rdian_are_not_read():
    """That file is a bare state dict without prefix."""
    case = Case("rdian")
    official = {key.removeprefix("model."): value for key, value in case.weights.items()}
    kernels = {f"d1{k}.weight": torch.full((1, 1, 5, 5), 9.0) for k in range(1, 9)}
    model, other = case.model(), create_model("RDIAN").eval()
    load_official(other, {**official, **kernels})
    with torch.no_grad():
        assert torch.equal(model(case.clip())["logits"], other(case.clip())["logits"])


def test_a_checkpoint_of_another_form_is_refused():
    for file, options in (("acm", {"blocks": "depthwise"}), ("acm_tsmsa", {})):
        with pytest.raises(UserError, match="not a checkpoint of ACM"):
            load_official(create_model("ACM", **options), Case(file).weights)
    for file, deep in (("dnanet", False), ("dnanet_single", True)):
        with pytest.raises(UserError, match="not a checkpoint of DNANet"):
            load_official(create_model("DNANet", deep_supervision=deep), Case(file).weights)
    weights = Case("rdian").weights
    del weights["model.conv_cat.0.weight"]
    with pytest.raises(UserError, match="nothing fills mix.conv.weight"):
        load_official(create_model("RDIAN"), weights)
