"""Every model that has a stream: over a video it gives what the model gives for each clip, with less work."""

import numpy as np
import pytest
import torch
from parity import clip, fill
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model import create_model, list_models

pytestmark = pytest.mark.usefixtures("one_thread")

# RFR predicts whole windows and carries a state from one to the next: see test_rfr.py. TemporalMedian waits
# for later frames: see test_temporal_median.py.
OTHERS = ("ResUNet-RFR", "TemporalMedian")
STREAMING = [name for name in list_models() if hasattr(create_model(name), "stream") and name not in OTHERS]


@pytest.fixture(scope="module", params=STREAMING)
def model(request):
    """In float64, where the two ways to compute agree to the last digits, whatever the weights."""
    network = create_model(request.param)
    fill(network, seed=3)
    return network.double().eval()


@pytest.fixture(scope="module")
def video(model):
    """The first frames, [1, C, 12, 32, 64]."""
    return torch.from_numpy(clip((1, model.recipe["view"]["channels"], 12, 32, 64), seed=5)).double()


def places_of(model: nn.Module, key: int) -> list[int]:
    """The frames that end with the key frame; those before the video's first are the first."""
    return [max(key - back, 0) for back in reversed(range(model.recipe["view"]["frames"]))]


def outputs(raw: dict) -> list[torch.Tensor]:
    return [t for value in raw.values() for t in (value if isinstance(value, list) else [value])]


def assert_same(streamed: dict, whole: dict):
    assert streamed.keys() == whole.keys()
    for own, expected in zip(outputs(streamed), outputs(whole), strict=True):
        assert not own.requires_grad
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


def work(run, *args) -> int:
    """Multiplications and additions of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(*args)
    return counter.get_total_flops()


@pytest.mark.parametrize("order", ["forwards", "backwards", "random"])
def test_each_clip_gives_what_the_model_gives(model, video, order):
    keys = {
        "forwards": range(9),
        "backwards": range(11, 2, -1),
        "random": np.random.default_rng(0).choice(video.shape[2], 12).tolist(),  # some come twice
    }[order]
    stream = model.stream()
    for key in keys:
        places = places_of(model, key)
        x = video[:, :, places]
        with torch.no_grad():
            assert_same(stream(x, places), model(x))


def test_clips_with_gaps_and_repeats(model, video):
    """Places are what the caller says; which frames are neighbours changes from call to call."""
    rng, stream = np.random.default_rng(1), model.stream()
    for _ in range(6):
        places = rng.integers(0, 4, model.recipe["view"]["frames"]).tolist()
        x = video[:, :, places]
        with torch.no_grad():
            assert_same(stream(x, places), model(x))


def test_a_frame_that_was_seen_costs_less(model, video):
    first, second = places_of(model, 6), places_of(model, 7)
    stream = model.stream()
    fresh = work(stream, video[:, :, first], first)
    next_clip = work(stream, video[:, :, second], second)
    same_again = work(stream, video[:, :, second], second)
    assert same_again < next_clip < fresh <= work(model, video[:, :, first])


def test_the_repeated_first_frame_is_computed_once(model, video):
    """What is worked out for the frames of a still start is shared within the clip."""
    start, later = places_of(model, 0), places_of(model, 6)
    assert work(model.stream(), video[:, :, start], start) < work(model.stream(), video[:, :, later], later)


def test_frames_that_left_are_forgotten(model, video):
    """Else the memory would grow with the video."""
    near, far = places_of(model, 4), places_of(model, 11)
    stream = model.stream()
    fresh = work(stream, video[:, :, near], near)
    assert work(stream, video[:, :, far], far) == fresh
    assert work(stream, video[:, :, near], near) == fresh


def test_a_stream_leaves_the_model_alone_and_keeps_the_weights_it_began_with(model, video):
    places = places_of(model, 5)
    x = video[:, :, places]
    with torch.no_grad():
        before = model(x)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    stream = model.train().stream()
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    fill(model, seed=4)
    streamed = stream(x, places)
    model.load_state_dict(weights)
    assert_same(streamed, before)
    model.eval()


def test_streams_of_inference_mode(model, video):
    places = places_of(model, 5)
    x = video[:, :, places]
    with torch.inference_mode():
        assert_same(model.stream()(x, places), model(x))
