"""Frames that are sent to a device as they are become there, value by value, what a CPU makes of them."""

import numpy as np
import pytest
import torch
from recipes import video_of, view_of
from test_frames import sequence_of
from torch import nn
from torch._subclasses import FakeTensorMode

from dataset.normalisation import Normalisation
from dataset.sequence import SequenceSet
from utils.engine.predict import predict_video
from utils.engine.runtime import Runtime
from utils.task import TASKS

CPU = torch.device("cpu")
NORMALISATIONS = [
    Normalisation(105.4025, 26.6452),
    Normalisation(0.3, 0.17, 255.0),
    Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255),
]


def frames_of(dtype, size=(9, 11), count=3):
    rng = np.random.default_rng(0)
    values = (
        rng.integers(0, np.iinfo(dtype).max, (count, *size), endpoint=True) if dtype != np.float32 else None
    )
    return rng.uniform(0, 255, (count, *size)).astype(dtype) if values is None else values.astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_values_equal_to_the_last_bit(normalisation, dtype):
    pixels = frames_of(dtype)
    if dtype == np.uint8:
        pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    if dtype == np.uint16:
        pixels = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256)
    found = normalisation.of_tensor(torch.from_numpy(pixels))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), normalisation(pixels))


VIEWS = [
    {},
    {"channels": 3},
    {"frames": 5},
    {"frames": 5, "padding": "repeat", "channels": 3},
    {"canvas": 16, "frames": 4},
    {"multiple": 8},
]


@pytest.mark.parametrize("normalisation", NORMALISATIONS[:3])
@pytest.mark.parametrize("settings", VIEWS)
def test_clips_equal_those_of_the_cpu(settings, normalisation):
    if isinstance(normalisation.mean, tuple):
        settings = {**settings, "channels": 3}
    view, pixels = view_of("test", **{"frames": 3, **settings}), frames_of(np.uint8)
    expected, found = view.apply(pixels, normalisation), view.apply_on(pixels, normalisation, CPU)
    assert torch.equal(found, expected) and found.dtype == expected.dtype
    if not isinstance(normalisation.mean, tuple):
        assert found.stride()[0] == 0 or found.shape[0] == 1, "equal channels share their memory"


class Mean(nn.Module):
    """A network that tells where it got its clips."""

    def __init__(self, device=CPU):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), device=device))
        self.devices = []

    def forward(self, clip):
        self.devices.append(clip.device)
        return {"logits": clip[:, 0] * self.scale}

    def decode(self, raw):
        return raw["logits"].sigmoid()


def data_of(folder, dtype=np.uint8):
    sequence = sequence_of(folder, list(frames_of(dtype, (16, 16), 6)))
    return SequenceSet("Folder", folder, "test", (sequence,), 100.0, 20.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_video_sends_its_frames_as_they_are(tmp_path, monkeypatch, dtype):
    """To a device that stands for a GPU; what it sends is of the frames' own dtype, in one channel."""
    data = data_of(tmp_path, dtype)
    settings = {"frames": 4, "key": "all", "channels": 3}
    plain, video = (video_of(data[0], data, **settings) for _ in range(2))
    video.device = torch.device("meta")
    sent = []
    of_tensor = Normalisation.of_tensor
    monkeypatch.setattr(
        Normalisation, "of_tensor", lambda self, frames: sent.append(frames) or of_tensor(self, frames)
    )
    for (frames, clip), (same, expected) in zip(video, plain, strict=True):
        assert (frames, clip.shape, clip.dtype) == (same, expected.shape, expected.dtype)
        assert clip.device.type == "meta"
    kinds = {np.uint8: torch.uint8, np.uint16: torch.uint16}
    assert {(f.dtype, tuple(f.shape), f.device.type) for f in sent} == {(kinds[dtype], (4, 16, 16), "meta")}


@pytest.mark.parametrize("settings", [{}, {"channels": 3, "canvas": 24}, {"frames": 9, "padding": "repeat"}])
def test_predictions_on_a_gpu_mix_no_devices(tmp_path, monkeypatch, settings):
    """Fake tensors of a GPU know which operations would be given tensors of two devices."""
    data = data_of(tmp_path)
    video = video_of(data[0], data, **{"frames": 4, "key": "all", **settings})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # nothing can be pinned here
    monkeypatch.setattr("dataset.video.one_ahead", lambda items: items)  # fake tensors are of one thread
    with FakeTensorMode(allow_non_fake_inputs=True):
        device = torch.device("cuda")
        model, clips = Mean(device), []
        task = TASKS["masks"]
        monkeypatch.setattr(type(task), "outputs", lambda self, decoded, count: clips.append(decoded) or [])
        list(predict_video(model, task, Runtime(device), 0.5, video))
    assert len(clips) == len(video)
    assert {d.type for d in model.devices} == {"cuda"} == {clip.device.type for clip in clips}


def test_a_prediction_on_the_cpu_sends_nothing(tmp_path, monkeypatch):
    data = data_of(tmp_path)
    video = video_of(data[0], data, frames=4, key="all")
    monkeypatch.setattr(Normalisation, "of_tensor", None)
    assert len(list(predict_video(Mean(), TASKS["masks"], Runtime(CPU), 0.5, video))) == 6
