"""Published checkpoints import strictly or not at all: no key is left over, no parameter stays unfilled."""

import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from parity import DATA, published_weights

from model import create_model
from utils.checkpoint import load_official, read_checkpoint, save_checkpoint
from utils.errors import UserError


@pytest.fixture(scope="module")
def weights():
    """A state dict with the names and shapes of the published DeepPro."""
    return published_weights(np.load(DATA / "deeppro.npz"))


@pytest.fixture
def model():
    return create_model("DeepPro")


def assert_refused_and_unchanged(model, source, match):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match=match):
        load_official(model, source)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_a_published_file_imports_with_its_numpy_scalars(tmp_path, weights, model):
    """The entries of the published best_model.pth; the epoch files lack the score."""
    content = {
        "epoch": 31,
        "class_avg_iou": np.float64(0.839),
        "model_state_dict": OrderedDict(weights),
        "optimizer_state_dict": {"state": {}, "param_groups": []},
    }
    new, old = tmp_path / "best_model.pth", tmp_path / "before_numpy_2.pth"
    torch.save(content, new)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    old.write_bytes(old.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    for path in (new, old):
        assert load_official(model, path) == {"epoch": 31, "class_avg_iou": 0.839}
        assert torch.equal(model.head.bias, weights["final.bias"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": w},
        lambda w: {"net": w},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {"state_dict": {f"module.model.{k}": v for k, v in w.items()}},
        lambda w: {**w, "conv_in.1.num_batches_tracked": torch.tensor(12)},
    ],
)
def test_wrappers_and_prefixes_of_published_state_dicts(weights, model, wrap):
    load_official(model, wrap(weights))
    assert torch.equal(model.head.bias, weights["final.bias"])
    assert torch.equal(model.level3[3].bn2.running_var, weights["layer3.3.bn2.running_var"])


def test_missing_and_extra_and_misshapen_keys_are_all_listed(weights, model):
    wrong = {k: v for k, v in weights.items() if k != "final.bias"}
    assert_refused_and_unchanged(model, wrong, "not a checkpoint of DeepPro: nothing fills head.bias$")
    wrong = {**weights, "decoder.weight": torch.zeros(2)}
    assert_refused_and_unchanged(model, wrong, "decoder.weight has no place")
    wrong = {**weights, "final.bias": torch.zeros(2)}
    assert_refused_and_unchanged(model, wrong, r"final.bias has shape \[2\] instead of \[1\]")
    wrong = {**weights, "head.bias": torch.zeros(1)}
    assert_refused_and_unchanged(model, wrong, "(final|head).bias and (final|head).bias both mean head.bias")
    wrong = {k: v for k, v in weights.items() if k != "conv_in.0.bias"} | {"extra": torch.zeros(1)}
    assert_refused_and_unchanged(model, wrong, "extra has no place in the model; nothing fills stem.0.bias")


def test_weights_of_another_model_or_length_are_refused(weights, model):
    plus = published_weights(np.load(DATA / "deepproplus.npz"))
    assert_refused_and_unchanged(model, plus, "not a checkpoint of DeepPro: .* and [0-9]+ more")
    assert_refused_and_unchanged(
        create_model("DeepPro", seq_len=20), weights, r"\[40, 40\] instead of \[20, 20\]"
    )


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"state_dict": {}},
        {"epoch": 3, "score": 0.5},
        {"state_dict": {"final.bias": [1.0]}},
        {0: torch.zeros(1)},
    ],
)
def test_a_dict_without_weights_is_refused(model, source):
    assert_refused_and_unchanged(model, source, "no state dict of tensors")


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will give them up
        return torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            torch.tensor([0.5], dtype=torch.complex64),
            "final.bias holds torch.complex64 instead of torch.float32",
        ),
        (torch.tensor([1]), "final.bias holds torch.int64 instead of torch.float32"),
        (torch.tensor([True]), "final.bias holds torch.bool instead of torch.float32"),
        (torch.tensor([float("nan")]), "final.bias holds numbers that are not finite"),
        (torch.tensor([1e300], dtype=torch.float64), "final.bias holds numbers that are not finite"),
        (torch.tensor([0.5]).to_sparse(), "final.bias is sparse, quantized or without numbers"),
        (torch.empty(1, device="meta"), "final.bias is sparse, quantized or without numbers"),
        (quantized(), "final.bias is sparse, quantized or without numbers"),
        (
            torch.ones(1).expand(10**9, 10**9),
            r"final.bias has shape \[1000000000, 1000000000\] instead of \[1\]",
        ),
    ],
)
def test_weights_that_are_no_such_numbers_are_refused(tmp_path, weights, model, value, said):
    assert_refused_and_unchanged(model, {**weights, "final.bias": value}, said)
    path = tmp_path / "best_model.pth"
    torch.save({"model_state_dict": {**weights, "final.bias": value}}, path)
    assert_refused_and_unchanged(model, path, f"best_model.pth is not a checkpoint of DeepPro: {said}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_converted(weights, model, dtype):
    load_official(model, {**weights, "final.bias": torch.tensor([0.375], dtype=dtype)})
    assert torch.equal(model.head.bias, torch.tensor([0.375]))


def test_views_of_shared_memory_are_weights_like_others(tmp_path, weights, model):
    """One storage, of which the published tensors are parts, some with gaps between their numbers."""
    shared = torch.arange(10_000.0)
    kernel = weights["final.weight"]
    views = {"final.weight": shared[: 2 * kernel.numel() : 2].view(kernel.shape), "final.bias": shared[7:8]}
    torch.save({**weights, **views}, tmp_path / "a.pth")
    load_official(model, tmp_path / "a.pth")
    assert torch.equal(model.head.weight, views["final.weight"]) and model.head.bias.item() == 7


def test_the_sentence_of_a_model_names_the_file(tmp_path):
    torch.save({"feature_fusion.C3_p4.conv1.conv.weight": torch.zeros(())}, tmp_path / "a.pth")
    assert_refused_and_unchanged(
        create_model("STMENet"), tmp_path / "a.pth", "a.pth: these are the weights of the"
    )


def test_other_entries_may_have_any_key(weights, model):
    assert load_official(model, {"model": weights, 3: "three", "optimizer": {}}) == {3: "three"}


def test_a_file_that_holds_no_dict_is_refused(tmp_path, model):
    path = tmp_path / "best_model.pth"
    torch.save([torch.zeros(2)], path)
    assert_refused_and_unchanged(model, path, "best_model.pth holds a list, not a state dict")


def test_each_kind_of_file_names_the_flag_for_it(tmp_path, weights, model):
    ours, theirs = tmp_path / "best.pth", tmp_path / "best_model.pth"
    save_checkpoint(ours, {"weights": model.state_dict()})
    torch.save({"model_state_dict": weights}, theirs)
    assert_refused_and_unchanged(model, ours, "written by train.py.*--checkpoint")
    with pytest.raises(UserError, match="not written by train.py.*--official"):
        read_checkpoint(theirs)
