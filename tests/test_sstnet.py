"""SSTNet against stored published outputs and the naive modules of naive_sstnet.py.

The stored outputs are float32. The tolerance on the output in eval is three times the stored distance to
float64, since both sides are rounded.
"""

import numpy as np
import pytest
import torch
from naive_sstnet import NaiveSSTNet
from parity import DATA, clip, published_weights
from torch import nn

from loss import create_loss
from model import create_model
from utils.checkpoint import load_official, rename_key
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES = 5e-4  # on values up to 70
TRAIN, GRADIENTS = 3e-4, 2e-3  # on outputs up to 5; relative, on gradient norms with batch statistics
DEAD = {  # parameters of the published network that nothing depends on
    "neck.weight.4": 1,
    "mapping0": 81_920,
    "attention, mm1, mm2 and motion of the cell": 9_741_056 - 295_168 - 590_080,
    "the state of another slice in conv2": 256 * 64 * 9,
}


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "sstnet.npz")


@pytest.fixture(scope="module")
def weights(stored):
    return published_weights(stored)


@pytest.fixture
def model(weights):
    network = create_model("SSTNet", init="constructor")
    load_official(network, weights)
    return network.eval()


@pytest.fixture
def naive(weights):
    network = NaiveSSTNet()
    network.load_state_dict(weights, strict=False)
    return network.eval()


def random_clip(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(clip(shape, seed))


def scaled(raw: dict, scale) -> dict:
    """With the stored weights the outputs are too large for a loss; the stored losses are of scaled ones."""
    return {"head": [raw["head"][0] * float(scale)]}


def check_gradients(model, keys, norms, tolerance):
    for key, norm in zip(keys, norms, strict=True):
        own = model.get_parameter(rename_key(str(key), model.rename)).grad.norm()
        assert own.item() == pytest.approx(norm, rel=tolerance), key


# ---------------------------------------------------------------- the published network


def test_size_of_the_published_network(model):
    """Published are 21 981 227 numbers; those that do nothing are left out."""

    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert size(model) == 21_981_227 - sum(DEAD.values())
    assert size(model.backbone) == 4_830_144
    assert size(model.neck) == 4_722_693 - 1
    assert size(model.head) == 2_396_166
    assert size(model.motion) == 295_168 + 590_080 - 256 * 64 * 9 + 4_448 + 204_800


def test_what_gets_no_gradient_as_published_is_left_out(stored, model):
    for key in stored["no_grad_keys"]:
        assert rename_key(str(key), model.rename) is None, key


def test_eval_gives_the_published_features_and_output(stored, model):
    seen = {}
    for name in ("backbone", "neck"):
        getattr(model, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        raw = model(random_clip(*stored["input_shape"]))
    assert raw.keys() == {"head"}
    rounding = 3 * float(stored["raw_f32_f64_maxdiff"])
    np.testing.assert_allclose(raw["head"][0], stored["raw"], rtol=0, atol=rounding)
    frames = seen["backbone"]  # [5, 128, 8, 8]
    np.testing.assert_allclose(frames[:1], stored["feat_first"], rtol=0, atol=FEATURES)
    np.testing.assert_allclose(frames[-1:], stored["feat_key"], rtol=0, atol=FEATURES)
    np.testing.assert_allclose(seen["neck"], stored["neck"], rtol=0, atol=FEATURES)


def test_eval_gives_the_published_loss_and_gradients(stored, model):
    """The stored norms of gradients are of float64."""
    raw = scaled(model.double()(random_clip(*stored["input_shape"]).double()), stored["loss_scale"])
    target = [torch.from_numpy(stored["target_0"])]
    loss = create_loss("YOLOX")
    own = loss.sums(raw, target)
    for name, term in zip(("iou", "objectness", "class", "positives"), stored["loss_terms"], strict=True):
        assert own[name].item() == pytest.approx(term, rel=1e-5), name
    value = loss(raw, target)["loss"]
    assert value.item() == pytest.approx(float(stored["loss"]), rel=1e-6)
    value.backward()
    check_gradients(model, stored["grad_keys"], stored["grad_norms_eval"], 1e-10)


def test_decoding_gives_the_published_boxes(stored, model):
    """All cells: nothing is below the threshold, nothing overlaps too much."""
    raw = scaled({"head": [torch.from_numpy(stored["raw"])]}, stored["loss_scale"])
    centre, size = stored["decoded"][0, :, :2] * 64, stored["decoded"][0, :, 2:4] * 64
    score = stored["decoded"][0, :, 4:5] * stored["decoded"][0, :, 5:6]
    expected = np.hstack([centre - size / 2, centre + size / 2, score])
    expected = expected[np.argsort(-score[:, 0], kind="stable")]
    (own,) = model.decode(raw, score_threshold=0.0, nms_iou=1.0)
    np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("score", "iou"), [(0.001, 0.65), (0.05, 0.5), (0.5, 0.3)])
def test_the_published_boxes_remain(stored, model, score, iou):
    raw = scaled({"head": [torch.from_numpy(stored["raw"])]}, stored["loss_scale"])
    (own,) = model.decode(raw, score, iou)
    published = stored[f"det_c{score}_n{iou}_0"]
    assert len(own) == len(published)
    height, width = stored["det_image_shape"]  # 48 x 60 of an input of 64 x 64
    assert (height, width) == (48, 60)
    x1, y1, x2, y2, scores = own.double().numpy().T
    fitted = 51 / 64, 1.0  # the published letterbox is undone with rounded sizes
    rows = [(y - (64 - 64 * fitted[0]) / 2) * height / (64 * fitted[0]) for y in (y1, y2)]
    columns = [x * width / 64 for x in (x1, x2)]
    image = np.stack([rows[0], columns[0], rows[1], columns[1], scores], axis=1)
    expected = np.column_stack([published[:, :4], published[:, 4] * published[:, 5]])
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-3)


def test_training_gives_the_published_losses_and_gradients(stored, model):
    raw = model.train()(random_clip(*stored["train_input_shape"]))
    every8 = raw["head"][0].detach()[..., ::8, ::8]
    np.testing.assert_allclose(every8, stored["train_raw_every8"], rtol=0, atol=TRAIN)
    assert raw["motion_loss"].item() == pytest.approx(float(stored["motion_loss"]), rel=1e-6)
    target = [torch.from_numpy(stored["train_target_0"])]
    detection = create_loss("YOLOX")(scaled(raw, stored["train_loss_scale"]), target)["loss"]
    assert detection.item() == pytest.approx(float(stored["train_loss"]), rel=1e-5)
    (detection + raw["motion_loss"]).backward()
    check_gradients(model, stored["train_grad_keys"], stored["grad_norms_train"], GRADIENTS)


def test_the_loss_of_the_paper_takes_the_motion_loss(model):
    raw = model.train()(random_clip(1, 3, 5, 64, 64))
    target, loss = [torch.tensor([[20.0, 30.0, 9.0, 8.0, 0.0]])], create_loss("YOLOX")
    alone = loss({"head": raw["head"]}, target)["loss"] + raw["motion_loss"]
    assert loss(raw, target)["loss"].item() == pytest.approx(alone.item(), rel=1e-6)


# ---------------------------------------------------------------- against the naive modules


@pytest.mark.parametrize("training", [False, True])
def test_float64_agrees_with_the_naive_modules_to_the_last_digits(model, naive, training):
    """Without rounding in the way: outputs, the gradients of clip and parameters, running statistics."""
    model.double().train(training), naive.double().train(training)
    x = random_clip(2, 3, 5, 64, 96, seed=2).double()
    own_clip, naive_clip = x.clone().requires_grad_(), x.clone().requires_grad_()
    raw, published = model(own_clip), naive(naive_clip)
    (own,), motion = raw["head"], raw.get("motion_loss", torch.zeros(()))
    expected, expected_motion = published if training else (published, torch.zeros(()))
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(motion, expected_motion, rtol=1e-10, atol=0)

    direction = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0))
    ((own * direction).sum() + 1000 * motion).backward()
    ((expected * direction).sum() + 1000 * expected_motion).backward()
    torch.testing.assert_close(own_clip.grad, naive_clip.grad, rtol=1e-8, atol=1e-9)
    seen = set()
    for key, parameter in naive.named_parameters():
        name, gradient = rename_key(key, model.rename), parameter.grad
        if name is None:
            assert gradient is None, key
            continue
        own_gradient = model.get_parameter(name).grad
        if name.startswith("motion.") and not training:
            assert own_gradient is None and gradient is None, key
            continue
        if name == "motion.lstm.slice_conv.weight":
            assert not gradient[:, 192:].any()
            gradient = gradient[:, :192]
        assert gradient.any(), key
        torch.testing.assert_close(own_gradient, gradient, rtol=1e-7, atol=1e-9, msg=key)
        seen.add(name)
    live = {n for n, _ in model.named_parameters() if training or not n.startswith("motion.")}
    assert seen == live
    for key, buffer in naive.named_buffers():
        own_buffer = model.get_buffer(rename_key(key, model.rename))
        torch.testing.assert_close(own_buffer, buffer, rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_multiples_of_32_run_in_both_modes(model, size):
    x = random_clip(2, 3, 5, *size)
    for training in (False, True):
        with torch.no_grad():
            raw = model.train(training)(x)
        assert raw["head"][0].shape == (2, 6, size[0] // 8, size[1] // 8)
        assert ("motion_loss" in raw) == training


# ---------------------------------------------------------------- streaming


def test_streaming_gives_the_output_of_the_whole_clip(model):
    """Videos start with repeated frames; then the clip moves on, jumps, goes back."""
    video = random_clip(1, 3, 12, 32, 64)
    stream, reached = model.stream(), []
    stream.network.backbone.register_forward_hook(lambda _, inputs, __: reached.append(len(inputs[0])))
    keys = [0, 1, 2, 3, 4, 5, 11, 6, 6]
    for key in keys:
        places = [max(key - back, 0) for back in (4, 3, 2, 1, 0)]
        x = video[:, :, places]
        raw = stream(x, places)
        with torch.no_grad():
            torch.testing.assert_close(raw["head"][0], model(x)["head"][0], rtol=0, atol=FEATURES)
        assert stream.features.keys() == set(places) and stream.halves.keys() == set(places[:-1])
    assert reached == [1, 1, 1, 1, 1, 1, 5, 5]  # frames that were new; the last clip had none


def test_a_stream_keeps_the_weights_it_began_with(model):
    x = random_clip(1, 3, 5, 32, 32)
    stream = model.stream()
    with torch.no_grad():
        before = model(x)["head"][0]
        model.head.stem.norm.weight.mul_(2)
    torch.testing.assert_close(stream(x, [0, 1, 2, 3, 4])["head"][0], before, rtol=0, atol=FEATURES)


def test_a_place_alone_says_which_frame_it_is(model):
    """So that cached maps are really used: a frame that changes under the same number is not looked at."""
    x = random_clip(1, 3, 5, 32, 32)
    stream = model.stream()
    first = stream(x, [0, 1, 2, 3, 4])["head"][0]
    assert torch.equal(stream(torch.zeros_like(x), [0, 1, 2, 3, 4])["head"][0], first)


# ---------------------------------------------------------------- building and importing


def test_published_initialisation():
    torch.manual_seed(0)
    model = create_model("SSTNet")
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
            assert module.weight.std() > 0.005 and not module.bias.any()
    assert [w.item() for w in model.neck.pair_weight] == [0.25] * 4


def test_the_constructor_draws_as_published():
    """The reach of PyTorch's values depends on the channels that a convolution has as published."""
    model = create_model("SSTNet", init="constructor")
    for parameter in model.motion.lstm.slice_conv.parameters():
        assert 0.98 / 48 < parameter.abs().max() <= 1 / 48
    assert model.neck.gate[0].norm.weight.eq(1).all()


def test_import_refuses_what_does_not_fit(weights):
    model = create_model("SSTNet")
    cases = {
        "nothing fills neck.final.1.conv.weight": ("neck.conv_final.1.conv.weight", None),
        "neck.weight.5 has no place": ("neck.weight.5", torch.zeros(1)),
        r"mapping2.0.weight has shape \[3\]": ("mapping2.0.weight", torch.zeros(3)),
        "takes 256 channels": ("SSTNet.cell_list.00.conv2.weight", torch.zeros(256, 192, 3, 3)),
    }
    for message, (key, value) in cases.items():
        changed = {k: v for k, v in {**weights, key: value}.items() if v is not None}
        with pytest.raises(UserError, match=message):
            load_official(model, changed)


def test_unfit_options_and_clips_are_refused(model):
    with pytest.raises(
        UserError, match="option init of model SSTNet takes published or constructor, not 'random'"
    ):
        create_model("SSTNet", init="random")
    for shape in [(1, 1, 5, 32, 32), (1, 3, 4, 32, 32), (1, 3, 5, 32, 48), (3, 5, 32, 32)]:
        with pytest.raises(UserError, match="SSTNet"):
            model(torch.zeros(shape))
