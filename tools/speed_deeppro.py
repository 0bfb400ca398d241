"""What tools/compare_speed.py measures of DeepPro, against the plain modules of tests/naive_deeppro.py."""

import time

import numpy as np
import torch
from naive_deeppro import NaiveDeepPro
from test_metrics import shooting_rules_one_threshold_at_a_time
from timing import side_by_side
from torch import Tensor, nn

from loss import create_loss
from metrics import create_metric
from model import create_model
from utils.checkpoint import load_official


def build(kind: str) -> nn.Module:
    """The naive network or ours, with the same weights."""
    torch.manual_seed(0)
    naive = NaiveDeepPro()
    if kind == "naive":
        return naive
    ours = create_model("DeepPro")
    load_official(ours, naive.state_dict())
    return ours


def logits_of(model: nn.Module, clip: Tensor) -> Tensor:
    out = model(clip)
    return out["logits"] if isinstance(out, dict) else out[1]


def inference(kind: str) -> tuple[float, list[float]]:
    """Seconds for a clip of 40x256x256, and a checksum of the logits."""
    model = build(kind).eval()
    clip = torch.randn(1, 1, 40, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits_of(model, clip)
        begin = time.perf_counter()
        logits = logits_of(model, clip)
        return time.perf_counter() - begin, [logits.double().mean().item()]


def training(kind: str) -> tuple[float, list[float]]:
    """Seconds for an Adam step on a clip of 40x128x128, and the loss after a step."""
    model = build(kind).train()
    draw = torch.Generator().manual_seed(1)
    clip = torch.randn(1, 1, 40, 128, 128, generator=draw)
    target = (torch.rand(1, 40, 128, 128, generator=draw) > 0.999).float()
    loss, optimizer = create_loss("SoftIoU"), torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(2):
        begin = time.perf_counter()
        value = loss({"logits": logits_of(model, clip)}, target)["loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seconds = time.perf_counter() - begin
    return seconds, [value.item()]


def scoring(rounds: int) -> dict[str, list[float]]:
    """Seconds per 256x256 frame at 27 thresholds, one labelling per threshold and ours; equal counts."""
    draw = np.random.default_rng(0)
    probability = (draw.random((256, 256)) ** 12).astype(np.float32)
    truth = np.zeros((256, 256), np.uint8)
    truth[100, 120] = 255
    metric = create_metric("ShootingRules")
    times, expected = side_by_side(
        lambda: shooting_rules_one_threshold_at_a_time(probability, truth // 255, metric.thresholds, 1, 4),
        lambda: metric.update(probability, truth),
        10 * rounds,
    )
    metric.reset()
    metric.update(probability, truth)
    counted = metric.compute()
    for name, values in zip(("false", "true", "targets"), expected.T, strict=True):
        np.testing.assert_array_equal(counted[name], values)
    return times


IN_TURNS = {"inference": inference, "training": training}
TOGETHER = {"scoring": scoring}
