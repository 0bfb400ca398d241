"""benchmark.py: its rows from real processes, and what it measures, with a clock of the test's own."""

import json
import os

import pytest
import torch
from torch import nn

import benchmark
from metrics.papers import published_complexity
from model import create_model
from utils.engine import cost
from utils.errors import UserError
from utils.recipe.resolve import resolve_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def rows_of(done, log) -> dict[str, dict]:
    """The rows that a finished run wrote below the folder `log`, by model."""
    assert done.returncode == 0, done.stderr
    (file,) = log.rglob("benchmark.json")
    return {row["model"]: row for row in json.loads(file.read_text())["rows"]}


@pytest.fixture(scope="module")
def finished(run_python, tmp_path_factory):
    """(the process, its rows) of DeepPro and then TopHat on small frames."""
    log = tmp_path_factory.mktemp("log")
    names = ("--model_names", "DeepPro", "TopHat", "--device", "cpu")
    done = run_python("benchmark.py", *names, "--size", "64x80", "--repeats", 1, "--log_dir", log)
    return done, rows_of(done, log)


def test_there_is_a_row_for_each_model(finished):
    done, rows = finished
    assert list(rows) == ["DeepPro", "TopHat"]
    header, *lines, note, place = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["DeepPro", "TopHat"]
    assert "form" in header.split() and all("clip" in line.split() for line in lines)
    assert note.startswith("frames of 64x80;") and place.endswith("benchmark.json")
    assert place.startswith("on ") and f"torch {torch.__version__}, host " in place and "{" not in place
    assert rows["DeepPro"]["clip"] == [1, 1, 40, 64, 80]
    assert rows["DeepPro"]["parameters"] == 49_129 and rows["TopHat"]["parameters"] == 0
    assert all(row["frames/s"] > 0 and row["peak MiB"] > 0 for row in rows.values())


def test_the_memory_of_a_model_is_not_that_of_the_one_before(finished):
    _, rows = finished
    assert rows["TopHat"]["peak MiB"] < rows["DeepPro"]["peak MiB"]


@pytest.mark.slow
def test_the_memory_of_a_model_is_not_that_of_the_process_that_asks(finished, run_python, tmp_path):
    """Linux lets a process begin with the peak of the one that started it."""
    _, rows = finished
    ballast = 512  # MiB
    script = f"import sys, benchmark; ballast = b'x' * ({ballast} << 20); benchmark.main(sys.argv[1:])"
    names = ("--model_names", "TopHat", "--device", "cpu", "--size", "64x80", "--repeats", 1)
    done = run_python("-c", script, *names, "--log_dir", tmp_path)
    assert rows_of(done, tmp_path)["TopHat"]["peak MiB"] < rows["TopHat"]["peak MiB"] + ballast / 2


def end_at_once(*_):
    os._exit(9)


def test_a_process_that_dies_is_named(monkeypatch):
    monkeypatch.setattr(benchmark, "measure", end_at_once)
    with pytest.raises(UserError, match="the process that measured DeepPro was ended.*smaller --size"):
        benchmark.measure_alone("DeepPro", None, None)


@pytest.mark.parametrize(
    ("name", "kib", "gmac"), [("DeepPro", 192, 4.83), ("DeepPro-Plus", 277, 20.14)]
)  # as the README has them
def test_size_and_cost_of_the_published_networks(name, kib, gmac):
    shape = (1, 1, 40, 480, 720)
    counted = cost.multiply_adds(lambda: create_model(name), shape) / 40 / 1e9
    assert counted == pytest.approx(gmac, abs=0.005)
    parameters = sum(p.numel() for p in create_model(name).parameters())
    assert round(parameters * 4 / 1024) == kib == published_complexity(name)["kib"]


def measured(name: str, size: str, repeats: int = 1, *flags: str) -> dict:
    """The row of a model, in this process."""
    args = benchmark.parse(["--device", "cpu", "--size", size, "--repeats", str(repeats), *flags])
    recipe = resolve_recipe(create_model(name).recipe, "", benchmark.typed_settings(args))
    return benchmark.measure(name, recipe, args)


@pytest.mark.parametrize(("name", "step"), [("STMENet", 1), ("ResUNet-RFR", 10)])
def test_a_stream_is_measured_where_there_is_one(monkeypatch, name, step):
    """Clips follow each other as in test.py: by one frame, or by a window."""
    kind, seen = type(create_model(name)), []
    stream = kind.stream

    def watched_stream(model):
        assert not model.training
        run = stream(model)

        def watched(clip, places):
            assert torch.is_inference_mode_enabled()
            seen.append((clip.clone(), list(places)))
            return run(clip, places)

        return watched

    monkeypatch.setattr(kind, "stream", watched_stream)
    row = measured(name, "32x64", 3, *(("--seq_len", "10") if step > 1 else ()))
    assert row["form"] == "stream"
    assert row["clip"] == list(seen[0][0].shape)
    length = row["clip"][2]
    assert [places for _, places in seen] == [
        list(range(first, first + length)) for first in range(0, len(seen) * step, step)
    ]
    assert len(seen) == cost.WARM_UP + 3
    if step < length:
        assert torch.equal(seen[0][0][:, :, step:], seen[1][0][:, :, :-step])  # one video
    assert not torch.equal(seen[0][0], seen[1][0])


def test_a_model_without_stream_is_measured_clip_by_clip(monkeypatch):
    seen = []
    kind = type(create_model("DeepPro"))
    forward = kind.forward

    def watched(model, clip):
        if clip.device.type == "cpu":  # not the counting of multiply-adds
            seen.append((tuple(clip.shape), model.training, torch.is_inference_mode_enabled()))
        return forward(model, clip)

    monkeypatch.setattr(kind, "forward", watched)
    row = measured("DeepPro", "16x20", 2, "--seq_len", "8", "--set", "model.seq_len=8")
    assert row["form"] == "clip" and row["clip"] == [1, 1, 8, 16, 20]
    assert seen == (cost.WARM_UP + 2) * [((1, 1, 8, 16, 20), False, True)]


class Clock:
    """Seconds that pass only where something says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Slow(nn.Module):
    """Takes seconds by the clock: for its first clips 500, then 3, 1 and 2; a half of it in the decoding."""

    def __init__(self, clock: Clock):
        super().__init__()
        self.clock, self.durations = clock, [500.0] * cost.WARM_UP + [3.0, 1.0, 2.0]

    def forward(self, clip):
        self.clock.now += self.durations[0] / 2
        return {"logits": clip[:, 0]}

    def decode(self, raw):
        self.clock.now += self.durations.pop(0) / 2
        return raw["logits"]


@pytest.mark.parametrize("step", [1, 4])
def test_speed_is_the_median_after_the_warm_up_without_the_making_of_clips(monkeypatch, step):
    clock, make = Clock(), cost.consecutive_clips

    def slow_clips(*args):
        for made in make(*args):
            clock.now += 1000.0
            yield made

    monkeypatch.setattr(cost, "time", clock)
    monkeypatch.setattr(cost, "consecutive_clips", slow_clips)
    speed = cost.speed_on_video(Slow(clock), (1, 1, 4, 8, 8), step, 3, CPU)
    assert speed["frames/s"] == step / 2.0
    assert speed["clip p50 s"] == 2.0
    assert speed["clip p95 s"] == pytest.approx(2.9)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--size", "480"), "argument --size: it takes HEIGHTxWIDTH like 480x720, .*not '480'"),
        (("--size", "3x720"), "--size: it takes HEIGHTxWIDTH.*4 to 32768, not '3x720'"),
        (("--repeats", "0"), "argument --repeats: it takes a whole number, at least 1 .*, not '0'"),
        (("--model_names", "DeepProo"), "no model 'DeepProo'"),
        (("--model_names", "TopHat", "--device", "cuda:99"), "CUDA devices"),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(monkeypatch, flags, sentence):
    monkeypatch.setattr(benchmark, "measure_alone", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(UserError, match=sentence):
        benchmark.main([*flags])
