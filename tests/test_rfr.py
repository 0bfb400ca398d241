"""ResUNet-RFR and its stream against stored published outputs and the naive modules of naive_rfr.py.

The stored outputs are float32. The tolerance in eval is three times their distance to float64.
"""

import numpy as np
import pytest
import torch
from naive_rfr import NaiveResUNetRFR, dct_weight
from parity import DATA, clip, published_weights
from recipes import learning_rates
from torch.utils.flop_counter import FlopCounterMode

from dataset import create_dataset
from dataset.sampling import test_windows
from dataset.video import TestVideo
from loss import create_loss
from model import create_model
from utils.checkpoint import load_official, rename_key
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime
from utils.errors import UserError
from utils.recipe.resolve import resolve_recipe
from utils.task import TASKS

pytestmark = pytest.mark.usefixtures("one_thread")

EVAL, MAPS = 3e-4, 5e-5  # on logits up to 68; on feature maps
TRAIN, GRADIENTS = 6e-5, 1e-5  # on logits up to 6; relative, on gradient norms
EVERY4 = np.s_[..., ::4, ::4]


@pytest.fixture(scope="module")
def stored():
    return np.load(DATA / "rfr.npz")


@pytest.fixture(scope="module")
def weights(stored):
    return published_weights(stored)


@pytest.fixture
def model(weights):
    network = create_model("ResUNet-RFR")
    load_official(network, weights)
    return network.eval()


@pytest.fixture
def naive(weights):
    network = NaiveResUNetRFR()
    network.load_state_dict({k.removeprefix("model."): v for k, v in weights.items()}, strict=False)
    return network.eval()


def random_clip(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(clip(shape, int(seed)))


# ---------------------------------------------------------------- the published network


def test_size_of_the_published_network(model):
    """Published are 240 entries with 1 024 055 parameters: without fusion_align and the constant waves."""

    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert (size(model.align), size(model.fuse), size(model.head)) == (102_548, 5_218, 906_881)
    assert size(model) == 1_024_055 - (32 * 16 * 9 + 16)
    assert len(model.state_dict()) == 240 - 3


def test_eval_gives_the_published_logits_and_maps(stored, model):
    seen = {"align": [], "fuse": [], "offset": []}
    model.align.register_forward_hook(lambda _, __, out: seen["align"].append(out))
    model.fuse.register_forward_hook(lambda _, __, out: seen["fuse"].append(out))
    model.align.level1.deform.conv_offset.register_forward_hook(lambda _, __, out: seen["offset"].append(out))
    fused = []
    model.merge.register_forward_hook(lambda _, __, out: fused.append(out))
    with torch.no_grad():
        raw = model(random_clip(*stored["clip_shape"], seed=stored["seed"]))
    assert raw.keys() == {"logits"}
    np.testing.assert_allclose(raw["logits"], stored["logits"][:, :, 0], rtol=0, atol=EVAL)
    first = model.decode(raw)[:, :1]
    np.testing.assert_allclose(first, stored["pred_frame0"], rtol=0, atol=MAPS)
    maps = {
        "aligned_sub4": torch.stack(seen["align"], dim=1),
        "feat_prop_sub4": torch.stack(seen["fuse"], dim=1),
        "fused_sub4": torch.cat(fused)[None],
    }
    for key, own in maps.items():
        np.testing.assert_allclose(own[EVERY4], stored[key], rtol=0, atol=MAPS, err_msg=key)
    offsets = seen["offset"][0][..., ::8, ::8]
    np.testing.assert_allclose(offsets, stored["offset_l1_frame1_sub8"], rtol=0, atol=MAPS)


def test_the_loss_of_the_paper(stored, model):
    recipe = model.recipe["optimisation"]
    loss = create_loss(recipe["loss"], **recipe["loss_options"])
    batch, frames, _, height, width = stored["target"].shape
    shape = (batch, 1, frames, height, width)
    logits = random_clip(*shape, seed=stored["loss_pred_seed_sigmoid_of_clip"])[:, 0]
    target = torch.from_numpy(stored["target"][:, :, 0])
    whole = loss({"logits": logits}, target)["loss"]
    first = loss({"logits": logits[:, :1]}, target[:, :1])["loss"]
    assert whole.item() == pytest.approx(float(stored["loss_softiou_clip5d"]), rel=1e-6)
    assert first.item() == pytest.approx(float(stored["loss_softiou_frame0"]), rel=1e-6)


def test_training_gives_the_published_losses_statistics_and_gradients(stored, model):
    raw = model.train()(random_clip(*stored["clip_shape"], seed=stored["seed"]))
    logits = raw["logits"]
    last = logits[:, -1:].detach()
    np.testing.assert_allclose(last, stored["train_logits_frame_last"], rtol=0, atol=TRAIN)
    norm = model.head.down0.first.norm
    assert norm.num_batches_tracked == stored["num_batches_tracked_head"] == 4
    mean = stored["after_train_forward/model.detection_head.conv0_0.0.bn1.running_mean"]
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-5, atol=1e-6)

    probe = random_clip(*stored["clip_shape"], seed=stored["probe_seed"])[:, 0]
    recipe = model.recipe["optimisation"]
    published = create_loss(recipe["loss"], **recipe["loss_options"])
    losses = {
        "linear": (logits * probe).mean(),
        "softiou": published(raw, torch.from_numpy(stored["target"][:, :, 0]))["loss"],
    }
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(stored[f"train_loss_{name}"]), rel=1e-5)
        model.zero_grad()
        value.backward(retain_graph=True)
        own = [
            model.get_parameter(rename_key(str(k), model.rename)).grad.norm() for k in stored["grad_names"]
        ]
        np.testing.assert_allclose(own, stored[f"grad_norms_{name}"], rtol=GRADIENTS, err_msg=name)


def test_what_gets_no_gradient_as_published_is_left_out(stored, model):
    for key in [*stored["no_grad_parameters"], *stored["constant_keys"]]:
        assert rename_key(str(key), model.rename) is None, key


def test_the_constant_waves_are_computed_whatever_a_checkpoint_holds(model, weights):
    np.testing.assert_allclose(model.fuse.waves, dct_weight(), rtol=0, atol=1e-7)
    key = "model.spatio_temporal_fusion.fa.dct_layer.weight"
    load_official(model, {**weights, key: torch.zeros(16, 56, 56)})
    np.testing.assert_allclose(model.fuse.waves, dct_weight(), rtol=0, atol=1e-7)


def test_import_refuses_what_does_not_fit(weights):
    model = create_model("ResUNet-RFR")
    cases = {
        "nothing fills extract.weight": ("model.feat_extract.weight", None),
        "fusion_2.weight has no place": ("model.fusion_2.weight", torch.zeros(1)),
        r"offset_conv2.l3.weight has shape \[16, 32, 3, 3\]": (
            "model.deform_align.offset_conv2.l3.weight",
            torch.zeros(16, 32, 3, 3),
        ),
    }
    for message, (key, value) in cases.items():
        changed = {k: v for k, v in {**weights, key: value}.items() if v is not None}
        with pytest.raises(UserError, match=message):
            load_official(model, changed)


# ---------------------------------------------------------------- against the naive modules


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("frames", [1, 6])
def test_float64_agrees_with_the_naive_modules_to_the_last_digits(model, naive, training, frames):
    """Without rounding in the way: logits, the gradients of clip and parameters, running statistics.

    6 frames are more than the head takes at once, and no multiple of that.
    """
    model.double().train(training), naive.double().train(training)
    x = random_clip(2, 1, frames, 24, 32, seed=2).double()
    own_clip, naive_clip = x.clone().requires_grad_(), x.clone().requires_grad_()
    own, expected = model(own_clip)["logits"], naive(naive_clip)
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)

    direction = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0))
    (own * direction).sum().backward()
    (expected * direction).sum().backward()
    torch.testing.assert_close(own_clip.grad, naive_clip.grad, rtol=1e-8, atol=1e-9)
    seen = set()
    for key, parameter in naive.named_parameters():
        name = rename_key(key, model.rename)
        if name is None:
            assert parameter.grad is None, key
            continue
        own_gradient = model.get_parameter(name).grad
        seen.add(name)
        if frames == 1 and name.startswith("align."):
            assert own_gradient is None and parameter.grad is None, key
            continue
        torch.testing.assert_close(own_gradient, parameter.grad, rtol=1e-7, atol=1e-8, msg=key)
    assert seen == {name for name, _ in model.named_parameters()}
    for key, buffer in naive.named_buffers():
        name = rename_key(key, model.rename)
        if name is not None:
            torch.testing.assert_close(model.get_buffer(name), buffer, rtol=1e-10, atol=1e-12, msg=key)


def test_frames_of_any_size_are_filled_up_with_zeros(model):
    x = random_clip(1, 1, 3, 21, 30)
    padded = torch.zeros(1, 1, 3, 24, 32)
    padded[..., :21, :30] = x
    with torch.no_grad():
        assert torch.equal(model(x)["logits"], model(padded)["logits"][..., :21, :30])


def test_clips_of_any_length_but_of_one_channel(model):
    with torch.no_grad():
        assert model(random_clip(1, 1, 1, 16, 16))["logits"].shape == (1, 1, 16, 16)
        assert model(random_clip(2, 1, 23, 16, 16))["logits"].shape == (2, 23, 16, 16)
    for shape in [(1, 3, 4, 16, 16), (1, 1, 0, 16, 16), (1, 4, 16, 16)]:
        with pytest.raises(UserError, match="ResUNet-RFR takes clips"):
            model(torch.zeros(shape))


def test_published_initialisation():
    torch.manual_seed(0)
    for level in (1, 2, 3):
        deform = getattr(create_model("ResUNet-RFR").align, f"level{level}").deform
        assert not deform.conv_offset.weight.any() and not deform.conv_offset.bias.any()
        for parameter in (deform.weight, deform.bias):
            assert 0.7 / 12 < parameter.abs().max() <= 1 / 12


def test_the_published_learning_rates(model):
    recipe = resolve_recipe(model.recipe, "IRSatVideo-LEO", {})
    rates = learning_rates(recipe, (0, 4, 5, 10, 19))
    assert rates == pytest.approx([5e-4, 5e-4, 2.5e-4, 1.25e-4, 0.625e-4])
    assert recipe.optimisation.weight_decay == 0


# ---------------------------------------------------------------- a video in windows


@pytest.fixture(scope="module")
def video():
    return random_clip(1, 1, 50, 16, 24, seed=5).double()


def run_through(naive, video, first=0) -> torch.Tensor:
    """The published test: frame by frame from `first` on; logits [1, n, H, W]."""
    with torch.no_grad():
        return naive.double()(video[:, :, first:])


def frames_computed(stream) -> list[int]:
    """Filled with the number of frames of each call that computes any."""
    counts = []
    stream.network.extract.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
    return counts


def test_windows_give_what_the_published_run_through_the_video_gives(model, naive, video):
    stream = model.double().stream()
    counts = frames_computed(stream)
    expected, windows = run_through(naive, video), test_windows(50, 20)
    assert windows == [(0, 20), (18, 38), (30, 50)]
    for start, stop in windows:
        raw = stream(video[:, :, start:stop], tuple(range(start, stop)))
        assert raw.keys() == {"logits"}
        torch.testing.assert_close(raw["logits"], expected[:, start:stop], rtol=1e-10, atol=1e-10)
    assert counts == [20, 18, 12]
    with torch.no_grad():
        alone = model(video[:, :, 30:50])["logits"]
    assert (alone - expected[:, 30:50]).abs().max() > 1e-2


def test_a_test_gives_the_published_run_through_the_video(model, naive, tiny_data):
    """From files on: frames of 40x48 filled up with zeros to 64x64, two windows, maps of the first size."""
    data = create_dataset("Synthetic", tiny_data, "test")
    video = TestVideo(data[0], data, resolve_recipe(model.recipe, "Synthetic", {}).view)
    assert [clip.first for clip in video.clips] == [0, 4]
    frames = np.stack([video.normalisation(video.frames.image(i)) for i in range(24)])
    padded = torch.zeros(1, 1, 24, 64, 64)
    padded[0, 0, :, :40, :48] = torch.from_numpy(frames)
    with torch.no_grad():
        expected = torch.sigmoid(naive(padded))[0, :, :40, :48]
    found = list(predict_video(model, TASKS["masks"], Runtime(torch.device("cpu")), 0.5, video))
    assert [index for index, _ in found] == list(range(24))
    own = np.stack([prediction.map for _, prediction in found])
    np.testing.assert_allclose(own, expected, rtol=0, atol=1e-4)


def test_windows_without_overlap_and_frame_by_frame(model, naive, video):
    expected = run_through(naive, video)[:, :12]
    for length in (1, 4):
        stream = model.double().stream()
        parts = [
            stream(video[:, :, i : i + length], range(i, i + length))["logits"] for i in range(0, 12, length)
        ]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("windows", "restarts"),
    [
        ([(0, 5), (0, 5)], True),  # another video
        ([(0, 5), (7, 10)], True),  # frames between were never seen
        ([(2, 6), (0, 4)], True),
        ([(5, 9), (3, 7)], True),
        ([(3, 8), (4, 6), (5, 9)], True),  # frame 6 was forgotten, the state is that after frame 7
        ([(3, 8), (4, 6)], False),  # back, but known
        ([(3, 8), (4, 6), (5, 6)], False),
        ([(3, 8), (8, 9)], False),
    ],
)
def test_where_a_new_video_begins(model, naive, video, windows, restarts):
    stream = model.double().stream()
    for start, stop in windows:
        logits = stream(video[:, :, start:stop], range(start, stop))["logits"]
    first = start if restarts else windows[0][0]
    expected = run_through(naive, video[:, :, :10], first)[:, start - first : stop - first]
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_a_new_video_is_not_taken_for_the_last_one(model, naive, video):
    """It has the same places and other frames."""
    stream, other = model.double().stream(), video.flip(2)
    stream(video[:, :, :6], range(6))
    logits = stream(other[:, :, :6], range(6))["logits"]
    torch.testing.assert_close(logits, run_through(naive, other[:, :, :6]), rtol=1e-10, atol=1e-10)


def test_padding_frames_of_a_short_video_are_left_out(model, naive, video):
    stream = model.double().stream()
    counts = frames_computed(stream)
    logits = stream(video[:, :, :20], range(7))["logits"]
    torch.testing.assert_close(logits, run_through(naive, video[:, :, :7]), rtol=1e-10, atol=1e-10)
    assert counts == [7]


def test_the_stream_keeps_no_more_than_a_window(model, video):
    stream = model.double().stream()
    for start in (0, 10, 20):
        stream(video[:, :, start : start + 12], range(start, start + 12))
        assert stream.logits.keys() == set(range(start, start + 12))


def test_known_frames_cost_nothing(model, video):
    stream = model.double().stream()
    stream(video[:, :, 3:8], range(3, 8))
    with FlopCounterMode(display=False) as counter:
        stream(video[:, :, 4:8], range(4, 8))
    assert counter.get_total_flops() == 0


def test_a_stream_keeps_the_weights_it_began_with(model, video):
    x = video[:, :, :3]
    with torch.no_grad():
        before = model.double()(x)["logits"]
        stream = model.train().stream()
        assert model.training and all(p.requires_grad for p in model.parameters())
        model.head.out.weight.mul_(2)
    logits = stream(x, range(3))["logits"]
    assert not logits.requires_grad
    torch.testing.assert_close(logits, before, rtol=1e-10, atol=1e-10)


def test_windows_with_gaps_are_refused(model):
    stream = model.stream()
    for places in [(0, 2), (1, 1), (3, 2)]:
        with pytest.raises(ValueError, match="follow each other"):
            stream(random_clip(1, 1, 2, 16, 16), places)
    with pytest.raises(UserError, match="ResUNet-RFR takes clips"):
        stream(random_clip(1, 3, 2, 16, 16), (0, 1))
