"""STMENet and SMFNet against stored published outputs and the naive modules of naive_stmenet.py.

The stored outputs are float32, of random weights that make values of several hundred. The tolerance is their
stored distance to float64, or three times that in float32, where both sides are rounded. Stored norms of
gradients are of float64.
"""

import copy

import numpy as np
import pytest
import torch
from naive_stmenet import NaiveSTMENet
from parity import DATA, clip, published_weights
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from loss import create_loss
from model import create_model
from model.layers.yolox import decode_boxes
from model.stmenet import CSAM
from utils.checkpoint import load_official, rename_key
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = {  # stored file: (model, variant, fusion of the naive modules)
    "stmenet_itsdt": ("STMENet", "ITSDT-15K", "plain"),
    "stmenet_irdst": ("STMENet", "IRDST", "bottleneck"),
    "smfnet_irdst": ("SMFNet", "IRDST", "csp"),
}
SETTINGS = [(0.001, 0.65), (0.05, 0.5), (0.5, 0.3)]  # score threshold, IoU of the suppression


class Case:
    """A stored file, and the networks with the weights that it was computed with."""

    def __init__(self, file: str):
        self.file, (self.name, self.variant, self.fusion) = file, CASES[file]
        self.stored = np.load(DATA / f"{file}.npz")
        self.weights = published_weights(self.stored)

    def model(self) -> nn.Module:
        network = create_model(self.name, variant=self.variant, init="constructor")
        load_official(network, self.weights)
        return without_dropout(network).eval()

    def naive(self) -> nn.Module:
        network = NaiveSTMENet(self.fusion)
        network.load_state_dict(self.weights, strict=False)
        return without_dropout(network).eval()

    def clip(self, mode: str = "") -> torch.Tensor:
        shape, seed = self.stored[f"{mode}input_shape"], self.stored["seed"]
        return random_clip(*shape, seed=int(seed))

    def targets(self, mode: str = "") -> list[torch.Tensor]:
        """Of each image of the clip."""
        count = len(self.clip(mode))
        return [torch.from_numpy(self.stored[f"{mode}target_{image}"]) for image in range(count)]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


@pytest.fixture
def plain():
    return Case("stmenet_itsdt")


def random_clip(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(clip(shape, seed))


def without_dropout(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def scaled(raw: dict, scale) -> dict:
    """The stored losses and boxes are of smaller outputs than the weights give."""
    return {"head": [raw["head"][0] * float(scale)]}


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# ---------------------------------------------------------------- the published networks


def test_size_of_the_published_networks(case):
    """Of the published numbers, those of layers that are never run are left out."""
    published = {"plain": 9_909_777, "bottleneck": 9_934_353, "csp": 10_782_737}[case.fusion]
    unused = {"plain": 58_368, "bottleneck": 0, "csp": 617_472}[case.fusion]
    model = case.model()
    assert size(model) == published - unused
    assert size(model.backbone2d) == 4_212_672 and size(model.backbone3d) == 821_996
    encoders = model.encoder1, model.encoder2, model.encoder3
    assert [size(encoder) for encoder in encoders] == [762_997, 779_381, 812_149]
    assert size(model.head) == 2_396_166


def activations(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output of the network and of its parts, by the stored names."""
    seen = {}

    def watch(module, *names):
        def keep(_, __, out):
            seen.update(zip(names, out if isinstance(out, tuple) else (out,), strict=True))

        module.register_forward_hook(keep)

    watch(model.backbone2d, "feat1", "feat2", "feat3")
    watch(model.backbone3d, "feat3d")
    watch(model.encoder1.refine, "product")
    for number in (1, 2, 3):
        watch(getattr(model, f"encoder{number}"), f"enc{number}")
    watch(model.fusion, "fused")
    with torch.no_grad():
        seen["raw"] = model(x)["head"][0]
        seen["time1_first16"] = model.encoder1.refine.conv(seen.pop("product"))[:, :16]
    return seen


def test_eval_gives_the_published_output_and_features(case):
    stored, rounding = case.stored, float(case.stored["raw_f32_f64_maxdiff"])
    exact = activations(case.model().double(), case.clip().double())
    np.testing.assert_allclose(exact["raw"], stored["raw"], rtol=0, atol=1.01 * rounding)
    own = activations(case.model(), case.clip())
    np.testing.assert_allclose(own.pop("raw"), stored["raw"], rtol=0, atol=3 * rounding)
    assert len(own) == 9
    for name, value in own.items():
        relative = 1e-5 * np.abs(stored[name]).max()
        np.testing.assert_allclose(value, stored[name], rtol=0, atol=relative, err_msg=name)


def check_loss_and_gradients(case, mode: str, model: nn.Module):
    """Of the output times the stored scale, in float64."""
    stored, loss = case.stored, create_loss("YOLOX")
    raw = scaled(model.double()(case.clip(mode).double()), stored[f"{mode}loss_scale"])
    sums = loss.sums(raw, case.targets(mode))
    names = ("iou", "objectness", "class", "positives")
    for name, term in zip(names, stored[f"{mode}loss_terms"], strict=True):
        assert sums[name].item() == pytest.approx(term, rel=1e-4), name  # stored ones are of float32
    value = loss(raw, case.targets(mode))["loss"]
    assert value.item() == pytest.approx(float(stored[f"{mode}loss"]), rel=1e-5)
    value.backward()
    norms = stored[f"grad_norms_{mode.strip('_') or 'eval'}"]
    for key, norm in zip(stored["grad_keys"], norms, strict=True):
        own = model.get_parameter(rename_key(str(key), model.rename)).grad.norm()
        assert own.item() == pytest.approx(norm, rel=1e-8), key


def test_eval_gives_the_published_loss_and_gradients(case):
    check_loss_and_gradients(case, "", case.model())


def test_training_gives_the_published_output_loss_gradients_and_statistics(case):
    stored, model = case.stored, case.model().train()
    check_loss_and_gradients(case, "train_", case.model().train())
    with torch.no_grad():
        own = model(case.clip("train_"))["head"][0]
    rounding = float(stored["train_raw_f32_f64_maxdiff"])
    np.testing.assert_allclose(own, stored["train_raw"], rtol=0, atol=3 * rounding)
    for key, norm in zip(stored["train_stat_keys"], stored["train_stat_norms"], strict=True):
        statistic = model.get_buffer(rename_key(str(key), model.rename))
        assert statistic.double().norm().item() == pytest.approx(norm, rel=2e-5), key


def test_smfnet_is_stmenet_but_for_irdst():
    torch.manual_seed(0)
    one = create_model("STMENet", variant="daub")
    torch.manual_seed(0)
    other = create_model("SMFNet")
    weights = one.state_dict()
    assert weights.keys() == other.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in other.state_dict().items())
    x = random_clip(1, 3, 5, 32, 32)
    with torch.no_grad():
        assert torch.equal(one.eval()(x)["head"][0], other.eval()(x)["head"][0])


# ---------------------------------------------------------------- boxes


def in_image(boxes: torch.Tensor, input_size: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
    """Boxes of a letterboxed input as the published code reports them: y1, x1, y2, x2, score.

    It undoes the letterbox with rounded sizes.
    """
    x1, y1, x2, y2, score = boxes.double().numpy().T
    factor = min(full / side for full, side in zip(input_size, image_size, strict=True))
    sides = [round(side * factor) for side in image_size]
    rows, columns = (
        [(edge - (full - new) / 2) / new * side for edge in edges]
        for edges, full, new, side in zip(((y1, y2), (x1, x2)), input_size, sides, image_size, strict=True)
    )
    return np.stack([rows[0], columns[0], rows[1], columns[1], score], axis=1)


def published_boxes(stored: np.ndarray) -> np.ndarray:
    """Rows y1, x1, y2, x2, score of stored rows that end with objectness, class score, class."""
    return np.column_stack([stored[:, :4], stored[:, 4] * stored[:, 5]])


@pytest.mark.parametrize(("score", "iou"), SETTINGS)
def test_the_published_boxes_remain(case, score, iou):
    raw = scaled({"head": [torch.from_numpy(case.stored["raw"])]}, case.stored["loss_scale"])
    (own,) = create_model(case.name).decode(raw, score, iou)
    published = published_boxes(case.stored[f"det_c{score}_n{iou}_0"])
    found = in_image(own, (64, 64), tuple(case.stored["det_image_shape"]))
    np.testing.assert_allclose(found, published, rtol=1e-5, atol=1e-3)


def test_decoding_gives_the_published_boxes(case):
    """All cells: nothing is below the threshold, nothing overlaps too much."""
    raw = scaled({"head": [torch.from_numpy(case.stored["raw"])]}, case.stored["loss_scale"])
    before = raw["head"][0].clone()
    (own,) = create_model(case.name).decode(raw, score_threshold=0.0, nms_iou=1.0)
    assert torch.equal(raw["head"][0], before)
    decoded = case.stored["decoded"][0]  # cx, cy, w, h in 0..1, objectness, class score
    centre, half, score = decoded[:, :2] * 64, decoded[:, 2:4] * 32, decoded[:, 4:5] * decoded[:, 5:]
    expected = np.hstack([centre - half, centre + half, score])
    expected = expected[np.argsort(-score[:, 0], kind="stable")]
    np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("score", "iou"), SETTINGS)
@pytest.mark.parametrize("image_size", [(480, 640), (256, 256), (571, 802)])
def test_published_boxes_of_given_maps(score, iou, image_size):
    stored = np.load(DATA / "box_head.npz")
    decoded = decode_boxes(torch.from_numpy(stored["raw"]), score, iou)
    assert len(decoded) == 4
    for image, own in enumerate(decoded):
        name = f"det_img{image_size[0]}x{image_size[1]}_c{score}_n{iou}_{image}"
        found = in_image(own, tuple(stored["input_hw"]), image_size)
        np.testing.assert_allclose(found, published_boxes(stored[name]), rtol=1e-5, atol=1e-3)


def test_boxes_of_different_classes_do_not_suppress_each_other():
    head = torch.full((1, 7, 4, 4), -10.0)  # two classes
    head[0, :4] = 0
    head[0, 4:6, 1, 1] = 5  # at (8, 8), first class
    head[0, [4, 6], 1, 2] = 4  # second class
    head[0, 0, 1, 2] = -1  # moved to the first one's place
    (both,) = decode_boxes(head, 0.5, 0.3)
    expected = torch.tensor([[4, 4, 12, 12, torch.tensor(logit).sigmoid() ** 2] for logit in (5.0, 4.0)])
    torch.testing.assert_close(both, expected)
    head[0, 5:, 1, 2] = head[0, 5:, 1, 2].flip(0)
    (one,) = decode_boxes(head, 0.5, 0.3)
    torch.testing.assert_close(one, expected[:1])
    (none,) = decode_boxes(head, 0.999, 0.3)
    assert none.shape == (0, 5)


def test_a_score_at_the_threshold_is_enough(plain):
    head = torch.from_numpy(plain.stored["raw"]) * float(plain.stored["loss_scale"])
    (boxes,) = decode_boxes(head, 0.0, 1.0)
    (chosen,) = decode_boxes(head, boxes[20, 4].item(), 1.0)
    assert torch.equal(chosen, boxes[:21])


# ---------------------------------------------------------------- against the naive modules


@pytest.mark.parametrize("training", [False, True])
def test_float64_agrees_with_the_naive_modules_to_the_last_digits(case, training):
    """Without rounding in the way: outputs, the gradients of clip and parameters, running statistics."""
    model, naive = (network.double().train(training) for network in (case.model(), case.naive()))
    x = random_clip(2, 3, 5, 64, 96, seed=2).double()
    own_clip, naive_clip = x.clone().requires_grad_(), x.clone().requires_grad_()
    (own,), expected = model(own_clip)["head"], naive(naive_clip)
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)

    direction = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0))
    (own * direction).sum().backward(), (expected * direction).sum().backward()
    torch.testing.assert_close(own_clip.grad, naive_clip.grad, rtol=1e-8, atol=1e-8)
    seen = set()
    for key, parameter in naive.named_parameters():
        name = rename_key(key, model.rename)
        if name is None:
            assert parameter.grad is None, key
            continue
        own_gradient = model.get_parameter(name).grad
        largest = parameter.grad.abs().max().item()
        torch.testing.assert_close(
            own_gradient, parameter.grad, rtol=1e-7, atol=1e-8 * max(largest, 0.1), msg=key
        )
        seen.add(name)
    assert seen == dict(model.named_parameters()).keys()
    for key, buffer in naive.named_buffers():
        name = rename_key(key, model.rename)
        if name is not None:
            torch.testing.assert_close(model.get_buffer(name), buffer, rtol=1e-10, atol=1e-12, msg=key)


def test_folded_norms_follow_the_weights(plain):
    model, naive = plain.model().double(), plain.naive().double()
    x = random_clip(1, 3, 5, 32, 64).double()
    with torch.no_grad():
        before = model(x)["head"][0]
        for network in (model, naive):
            network.train()(x), network.eval()  # running statistics move
            network.head.get_submodule("stem" if network is model else "stems.0").conv.weight.mul_(1.5)
        after = model(x)["head"][0]
        assert (after - before).abs().max() > 1
        torch.testing.assert_close(after, naive(x), rtol=1e-10, atol=1e-10)


def test_taps_that_meet_no_frame_do_nothing(plain):
    """So that computing without them is right for any weights, not only for those above."""
    model, x = plain.model(), plain.clip()
    with torch.no_grad():
        before = model(x)["head"][0]
        for number in range(4, 16):
            block = model.backbone3d.features[number]
            convs = [block.branch[2].conv, *([block.shortcut[0].conv] if block.shortcut else [])]
            for conv in convs:
                conv.weight[:, :, 0] = 1e6
                if number > 4:
                    conv.weight[:, :, 2] = 1e6
        assert torch.equal(model(x)["head"][0], before)


# ---------------------------------------------------------------- channel self-attention


def multiplications(model: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops()


def set_gammas(model: nn.Module, value: float):
    with torch.no_grad():
        for number in (1, 2, 3):
            getattr(model, f"encoder{number}").attention.gamma.fill_(value)


def test_the_attention_is_left_out_where_it_is_the_identity(plain):
    """Two products of 128 x HW x 128 on each of the three scales; with gamma 0 they change nothing."""
    model, x = plain.model(), plain.clip()
    attention = sum(2 * 2 * 128 * 128 * side**2 for side in (8, 4, 2))
    computed = multiplications(model, x)
    for other in (model, copy.deepcopy(model)):  # what one has seen does not mislead the other
        set_gammas(other, 0.0)
        assert multiplications(other, x) == computed - attention
        set_gammas(other, 0.5)
        assert multiplications(other, x) == computed
    set_gammas(model, 0.0)
    naive = plain.naive()
    for number in (1, 2, 3):
        nn.init.zeros_(getattr(naive, f"cls_channel_encoders{number}").fuse_convs[2].gamma)
    with torch.no_grad():
        torch.testing.assert_close(model(x)["head"][0], naive(x), rtol=0, atol=5e-3)  # of 600


def test_gamma_can_be_trained_from_zero(plain):
    model = plain.model().train()
    set_gammas(model, 0.0)
    model(plain.clip("train_"))["head"][0].square().sum().backward()
    for number in (1, 2, 3):
        attention = getattr(model, f"encoder{number}").attention
        assert attention.gamma.grad.item() != 0
        assert not attention.is_identity()


def test_gamma_is_looked_at_once(plain, monkeypatch):
    """A look waits for the device."""
    model, x, looks = plain.model(), plain.clip(), []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: looks.append(tensor) or item(tensor))
    set_gammas(model, 0.0)
    with torch.no_grad():
        for _ in range(3):
            model(x)
    assert len(looks) == 3  # one each


def test_dropout_is_a_tenth_of_the_encodings_in_training_alone():
    model, x = create_model("STMENet"), random_clip(1, 3, 5, 64, 64)
    seen = []
    model.encoder1.dropout.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    torch.manual_seed(0)
    with torch.no_grad():
        model.train()(x), model.eval()(x)
    (before, trained), (same, evaluated) = seen
    dropped = trained.eq(0) & before.ne(0)
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.02)  # of 8192
    assert torch.equal(same, evaluated)


# ---------------------------------------------------------------- building and importing


@pytest.mark.parametrize("init", ["published", "constructor"])
def test_initialisation(init):
    """Published: convolutions N(0, 0.02^2), scales of 2-D norms N(1, 0.02^2), 3-D norms as constructed."""
    torch.manual_seed(0)
    model, drawn = create_model("STMENet", init=init), init == "published"
    seen = {nn.Conv2d: 0, nn.Conv3d: 0}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.weight.numel() > 5_000:
            kind = nn.Conv3d if isinstance(module, nn.Conv3d) else nn.Conv2d
            fan_in = module.weight[0].numel()
            std = 0.02 if drawn else (3 * fan_in) ** -0.5  # PyTorch's, uniform
            assert module.weight.std().item() == pytest.approx(std, rel=0.06), name
            assert abs(module.weight.mean().item()) < 0.06 * std, name
            assert (module.weight.abs().max() > 2 * std) == drawn, name
            seen[kind] += 1
        elif isinstance(module, nn.BatchNorm2d) and drawn and module.num_features >= 128:
            assert module.weight.mean().item() == pytest.approx(1, abs=0.01), name
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.4), name
            assert not module.bias.any(), name
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all() and not module.bias.any(), name
        if init == "constructor" and isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all(), name
    assert min(seen.values()) > 10
    assert sum(isinstance(module, nn.BatchNorm3d) for module in model.modules()) == 55
    assert all(getattr(model, f"encoder{number}").attention.gamma == 0 for number in (1, 2, 3))


def test_objectness_prior():
    model = create_model("SMFNet", variant="IRDST", objectness_prior=0.01)
    assert model.head.obj_pred.bias.sigmoid().item() == pytest.approx(0.01, rel=1e-6)
    assert create_model("STMENet").head.obj_pred.bias.abs().item() < 0.1


@pytest.mark.parametrize("init", ["published", "constructor"])
def test_objectness_prior_of_sstnet(init):
    model = create_model("SSTNet", init=init, objectness_prior=0.02)
    assert model.head.obj_pred.bias.sigmoid().item() == pytest.approx(0.02, rel=1e-6)
    assert create_model("SSTNet").head.obj_pred.bias.abs().item() < 0.1


def test_an_official_checkpoint_fills_every_weight(case):
    counters = {str(key): torch.tensor(7) for key in case.stored["constant_keys"]}
    assert all(key.endswith("num_batches_tracked") for key in counters)
    official, model = {**case.weights, **counters}, create_model(case.name, variant=case.variant)
    assert len(official) == {"plain": 747, "bottleneck": 729, "csp": 891}[case.fusion]
    load_official(model, official)
    seen = set()
    for key, value in official.items():
        name = rename_key(key, model.rename)
        if name is not None:
            assert torch.equal(model.state_dict()[name], value), key
            seen.add(name)
    assert seen == model.state_dict().keys()


def test_import_refuses_what_does_not_fit(case):
    model = create_model(case.name, variant=case.variant)
    cases = {
        "nothing fills encoder2.attention.gamma": ("cls_channel_encoders2.fuse_convs.2.gamma", None),
        "nothing fills backbone3d.conv1.norm.bias": ("backbone_3d.backbone.conv1.1.bias", None),
        "head.stems.1.conv.weight has no place": ("head.stems.1.conv.weight", torch.zeros(1)),
        "backbone.C3_n3.conv1.conv.weight has no place": ("backbone.C3_n3.conv1.conv.weight", torch.zeros(1)),
        r"features.9.banch2.3.weight has shape \[116, 1, 1, 3, 3\] instead of \[116, 1, 3, 3, 3\]": (
            "backbone_3d.backbone.features.9.banch2.3.weight",
            torch.zeros(116, 1, 1, 3, 3),
        ),
    }
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for message, (key, value) in cases.items():
        changed = {k: v for k, v in {**case.weights, key: value}.items() if v is not None}
        with pytest.raises(UserError, match=f"not a checkpoint of {case.name}.*{message}"):
            load_official(model, changed)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("file", "name", "variant"),
    [
        ("smfnet_irdst", "STMENet", "IRDST"),
        ("smfnet_irdst", "SMFNet", "DAUB"),
        ("stmenet_irdst", "SMFNet", "IRDST"),
        ("stmenet_itsdt", "STMENet", "IRDST"),
        ("stmenet_itsdt", "SMFNet", "IRDST"),
    ],
)
def test_a_checkpoint_of_another_variant_is_refused(file, name, variant):
    with pytest.raises(UserError, match=f"not a checkpoint of {name}"):
        load_official(create_model(name, variant=variant), Case(file).weights)


@pytest.mark.parametrize("name", ["STMENet", "SMFNet"])
def test_a_checkpoint_that_differs_in_an_unused_layer_alone_is_refused(name):
    with pytest.raises(UserError, match="weights of the variant IRDST; set model.variant"):
        load_official(create_model(name, variant="DAUB"), Case("stmenet_irdst").weights)


@pytest.mark.parametrize("name", ["STMENet", "SMFNet"])
def test_unfit_options_are_refused(name):
    with pytest.raises(UserError, match=f"{name} has no variant 'NUDT'; known: ITSDT-15K, DAUB, IRDST"):
        create_model(name, variant="NUDT")
    with pytest.raises(
        UserError, match=f"option init of model {name} takes published or constructor, not 'random'"
    ):
        create_model(name, init="random")
    for prior in (0, 1, -0.5):
        with pytest.raises(
            UserError, match=f"option objectness_prior of model {name} cannot be {prior}: it takes"
        ):
            create_model(name, objectness_prior=prior)


@pytest.mark.parametrize("name", ["STMENet", "SMFNet"])
def test_unfit_clips_are_refused(name):
    model = create_model(name).eval()
    for shape in [(1, 1, 5, 32, 32), (1, 3, 4, 32, 32), (1, 3, 6, 32, 32), (3, 5, 32, 32)]:
        with pytest.raises(UserError, match=f"{name} takes clips .* {list(shape)}".replace("[", r"\[")):
            model(torch.zeros(shape))
    for shape in [(1, 3, 5, 48, 32), (1, 3, 5, 32, 33)]:
        with pytest.raises(UserError, match=f"{name} needs frames .* multiples of 32"):
            model(torch.zeros(shape))
    with pytest.raises(UserError, match=f"{name} takes clips"):
        model.stream()(torch.zeros(1, 3, 4, 32, 32), [0, 1, 2, 3])
    for batch, places in [(2, [0, 1, 2, 3, 4]), (1, [0, 1, 2, 3])]:
        with pytest.raises(UserError, match=f"stream of {name} .* {batch} and {len(places)}"):
            model.stream()(torch.zeros(batch, 3, 5, 32, 32), places)


def test_an_attention_of_inference_mode_follows_its_gamma():
    """Inference tensors have no version, by which a change would be noticed."""
    x = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        attention = CSAM().eval()
        assert torch.equal(attention(x), x)
        attention.gamma.fill_(0.5)
        assert not torch.equal(attention(x), x)
        attention.gamma.zero_()
        assert torch.equal(attention(x), x)
