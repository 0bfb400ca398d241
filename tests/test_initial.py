"""Runs that start from the weights of a file: what is taken, what is told, what is refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import DATA, fill, published_weights
from runs import last
from torch import nn
from toys import Toy, registered_toys

import train
from model import create_model
from utils.checkpoint import load_official, read_checkpoint, save_checkpoint
from utils.engine.initial import SHOWN, initial_line, start_from
from utils.engine.optim import AveragedWeights
from utils.errors import UserError
from utils.registry import DATASETS, MODELS, register_model

pytestmark = pytest.mark.usefixtures("one_thread")


class Twins(nn.Module):
    """Two parts of equal shapes; as a network it is not used."""

    name, rename = "Twins", {r"left\.": "first."}

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)) for _ in range(2))


@pytest.fixture(scope="module", autouse=True)
def watched(one_thread):
    with registered_toys() as toys, pytest.MonkeyPatch.context() as patch:
        patch.setattr(AveragedWeights, "ramp", 6.0)
        register_model("ToyAgain", recipe=MODELS.entry("Toy").facts["recipe"], rename={})(Toy)
        yield toys


def flags_of(data: Path, log: Path, *more, model: str = "Toy") -> list[str]:
    places = ("--dataset_dir", data, "--log_dir", log, "--device", "cpu", "--num_workers", 0)
    return [str(word) for word in ("--model_names", model, *places, *more)]


def built(data: Path, *more, model: str = "Toy"):
    """A run that has not started."""
    args = train.parse(flags_of(data, Path("unused"), *more, model=model))
    return train.build_run(args, MODELS.entry(model), DATASETS.entry("Synthetic"))


def only_run(log: Path, model: str = "Toy") -> Path:
    (folder,) = (log / "Synthetic" / model).iterdir()
    return folder


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


def copy_of(model: nn.Module) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def filled(model: nn.Module, seed: int = 3) -> nn.Module:
    fill(model, seed)
    return model


@pytest.fixture(scope="module")
def earlier(watched, tiny_data, tmp_path_factory) -> Path:
    """The folder of a run with averaged weights."""
    log = tmp_path_factory.mktemp("earlier")
    train.main(flags_of(tiny_data, log, "--seed", 8, "--set", "ema=0.9", "--epochs", 2))
    return only_run(log)


# ---------------------------------------------------------------- what a run does with it


@pytest.mark.parametrize("name", ["best.pth", "last.pth"])
def test_a_run_starts_from_the_averaged_weights_of_a_checkpoint(earlier, tiny_data, name):
    """So do its average and its optimizer, which is a new one."""
    saved = read_checkpoint(earlier / name)
    run = built(tiny_data, "--init", earlier / name, "--set", "ema=0.9")
    assert_equal(run.state.model.state_dict(), saved["weights"])
    assert_equal(run.state.average.model.state_dict(), saved["weights"])
    assert not torch.equal(saved["weights"]["head.weight"], saved["trained_weights"]["head.weight"])
    held = {id(p) for group in run.state.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.state.model.parameters()}
    assert not run.state.optimizer.state and run.progress.steps == 0


def test_what_was_taken_stands_in_the_run_and_outlives_a_resume(earlier, tiny_data, tmp_path, capsys):
    file = earlier / "best.pth"
    train.main(flags_of(tiny_data, tmp_path, "--init", file))
    folder, printed = only_run(tmp_path), capsys.readouterr().out
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    expected = {
        "file": str(file),
        "sha256": digest,
        "only": None,
        "place": "",
        "taken": list(Toy().state_dict()),
        "not_taken": {},
        "kept": [],
    }
    assert f"starts from {file} (SHA-256 {digest[:12]}); took 9 of 9 tensors\n" in printed
    for _ in range(2):
        assert json.loads((folder / "recipe.json").read_text())["init"] == expected
        assert last(folder)["init"] == read_checkpoint(folder / "best.pth")["init"] == expected
        train.main(flags_of(tiny_data, tmp_path, "--resume", folder, "--epochs", 2))
    assert f"starts from {file}" in capsys.readouterr().out


def test_a_run_without_it_says_nothing_of_it(tiny_data, tmp_path, capsys):
    train.main(flags_of(tiny_data, tmp_path, "--epochs", 0))
    assert "starts from" not in capsys.readouterr().out
    assert "init" not in last(only_run(tmp_path))


def test_the_first_step_is_that_of_the_weights_of_the_file(watched, earlier, tiny_data, tmp_path):
    """The same clips as a run without it sees; the loss of the first batch by the file's weights."""
    watched.restart()
    train.main(flags_of(tiny_data, tmp_path, "--init", earlier / "last.pth"))
    clips, terms = list(watched.clips), list(watched.terms)
    watched.restart()
    train.main(flags_of(tiny_data, tmp_path / "other"))
    assert all(torch.equal(a, b) for a, b in zip(clips, watched.clips, strict=True))
    assert terms[0] != watched.terms[0]


# ---------------------------------------------------------------- published files


OFFICIAL = {
    "deeppro": ("DeepPro", {}),
    "rprnet": ("RPRNet", {}),
    "dtum": ("ResUNet-DTUM", {}),
    "tsmsa": ("TSMSA", {}),
    "sstnet": ("SSTNet", {}),
    "stmenet_irdst": ("STMENet", {"variant": "IRDST"}),
}


@pytest.mark.parametrize("stored", OFFICIAL)
def test_a_published_file_of_the_model_is_imported_as_a_test_imports_it(tmp_path, stored):
    name, options = OFFICIAL[stored]
    weights = published_weights(np.load(DATA / f"{stored}.npz"))
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "file.pth"
    )
    model, expected = (create_model(name, **options) for _ in range(2))
    before = copy_of(model)
    load_official(expected, weights)
    init = start_from(model, tmp_path / "file.pth")
    wanted = {k: before[k] if k in init["kept"] else v for k, v in expected.state_dict().items()}
    assert_equal(model.state_dict(), wanted)
    assert all(kept.endswith("num_batches_tracked") for kept in init["kept"])
    assert set(init["not_taken"].values()) <= {"is of no use to the model"}
    assert len(init["taken"]) + len(init["not_taken"]) == len(weights) and init["place"] == ""


def test_a_bare_state_dict_of_our_names_is_taken(tmp_path):
    source, model = filled(create_model("RPRNet")), create_model("RPRNet")
    torch.save(source.state_dict(), tmp_path / "file.pth")
    init = start_from(model, tmp_path / "file.pth")
    assert_equal(model.state_dict(), source.state_dict())
    assert not init["not_taken"] and not init["kept"]


def test_another_variant_gives_what_it_has(tmp_path):
    weights = published_weights(np.load(DATA / "stmenet_irdst.npz"))
    torch.save(weights, tmp_path / "file.pth")
    model = create_model("STMENet", variant="DAUB")
    init = start_from(model, tmp_path / "file.pth")
    assert all(key.startswith("feature_fusion.") for key in init["not_taken"])
    assert {k for k in init["kept"] if not k.endswith("num_batches_tracked")} == set()
    model = create_model("SMFNet", variant="IRDST")
    before = copy_of(model)
    init = start_from(model, tmp_path / "file.pth")
    assert any(name.startswith("fusion.") for name in init["kept"])
    assert all(torch.equal(before[k], model.state_dict()[k]) for k in init["kept"])


# ---------------------------------------------------------------- parts


KINETICS = "backbone_3d.backbone."


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory) -> Path:
    """A file of the names and shapes of the Kinetics weights of STMENet's 3-D backbone."""
    weights = published_weights(np.load(DATA / "stmenet_itsdt.npz"))
    part = {k.removeprefix(KINETICS): v for k, v in weights.items() if k.startswith(KINETICS)}
    part |= {"conv_last.0.weight": torch.ones(1024, 464, 1, 1, 1), "classifier.1.bias": torch.ones(600)}
    path = tmp_path_factory.mktemp("kinetics") / "kinetics.pth"
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in part.items()}}, path)
    return path


def test_a_backbone_finds_its_place(kinetics):
    whole, model = create_model("STMENet"), create_model("STMENet")
    before = copy_of(model)
    load_official(whole, published_weights(np.load(DATA / "stmenet_itsdt.npz")))
    init = start_from(model, kinetics)
    after = model.state_dict()
    own = [k for k in after if k.startswith("backbone3d.") and not k.endswith("num_batches_tracked")]
    assert init["place"] == KINETICS and sorted(init["taken"]) == sorted(own)
    assert any(name.endswith("running_mean") for name in own)
    assert all(torch.equal(after[name], whole.state_dict()[name]) for name in own)
    assert init["not_taken"] == {
        "conv_last.0.weight": "has no place in the model",
        "classifier.1.bias": "has no place in the model",
    }
    assert init["kept"] == [name for name in after if name not in own]
    assert all(torch.equal(before[name], after[name]) for name in init["kept"])


def test_only_the_norms_of_a_backbone_as_published(kinetics):
    """published_init draws the convolutions again, behind the Kinetics weights."""
    model = create_model("STMENet")
    before = copy_of(model)
    init = start_from(model, kinetics, only="norm")
    assert all(".norm." in name and name.startswith("backbone3d.") for name in init["taken"])
    after = model.state_dict()
    assert not [name for name in init["taken"] if torch.equal(before[name], after[name])]
    assert all(torch.equal(before[name], after[name]) for name in after if name not in init["taken"])
    assert init["not_taken"]["conv1.0.weight"] == "is left out by --init_only"
    assert init["not_taken"]["classifier.1.bias"] == "has no place in the model"


def test_the_terminal_names_the_first_and_counts_the_rest(kinetics):
    init = start_from(create_model("STMENet"), kinetics)
    line, digest = initial_line(init), hashlib.sha256(kinetics.read_bytes()).hexdigest()
    taken, kept = len(init["taken"]), len(init["kept"])
    assert line == (
        f"starts from {kinetics} (SHA-256 {digest[:12]}, as {KINETICS}*); took {taken} of {taken + 2} "
        "tensors; not taken: conv_last.0.weight (has no place in the model), "
        "classifier.1.bias (has no place in the model); "
        f"{kept} of {kept + taken} keep their own start: {', '.join(init['kept'][:SHOWN])} and "
        f"{kept - SHOWN} more; recipe.json lists all"
    )


def test_a_part_by_our_names_finds_its_place(tmp_path):
    part = filled(create_model("SSTNet")).backbone.darknet
    torch.save(part.state_dict(), tmp_path / "file.pth")
    model = create_model("STMENet")
    init = start_from(model, tmp_path / "file.pth")
    assert (init["place"], init["not_taken"]) == ("backbone.backbone.", {})
    assert_equal(model.backbone2d.state_dict(), part.state_dict())


def test_a_part_that_fits_two_places_is_refused(tmp_path):
    model = Twins()
    torch.save(model.first.state_dict(), tmp_path / "file.pth")
    with pytest.raises(
        UserError, match=r"fits left\.\* and second\.\* of Twins alike; write one of these in"
    ):
        start_from(model, tmp_path / "file.pth")
    torch.save({f"second.{k}": v + 1 for k, v in model.second.state_dict().items()}, tmp_path / "file.pth")
    before = copy_of(model)
    init = start_from(model, tmp_path / "file.pth")
    assert init["kept"] == [k for k in before if k.startswith("first.")]
    assert all(torch.equal(model.state_dict()[k], before[k] + (k not in init["kept"])) for k in before)


def test_another_shape_is_told(tmp_path):
    weights = {
        **Toy().state_dict(),
        "head.weight": torch.ones(1, 7, 1, 1),
        "norm.bias": torch.ones(4, dtype=int),
    }
    torch.save(weights, tmp_path / "file.pth")
    model = create_model("Toy")
    init = start_from(model, tmp_path / "file.pth")
    assert init["not_taken"] == {
        "head.weight": "has shape [1, 7, 1, 1] instead of [1, 4, 1, 1]",
        "norm.bias": "holds torch.int64 instead of torch.float32",
    }
    assert init["kept"] == ["norm.bias", "head.weight"]


# ---------------------------------------------------------------- what is refused


def unfit(folder: Path, content) -> Path:
    path = folder / "file.pth"
    torch.save(content, path)
    return path


def test_a_file_of_which_nothing_fits_is_refused(tiny_data, tmp_path):
    before = create_model("Toy")
    for content in ({"conv.weight": torch.ones(2, 2)}, {"norm.num_batches_tracked": torch.tensor(3)}):
        path = unfit(tmp_path, content)
        with pytest.raises(
            UserError, match=r"nothing of .*file\.pth fits Toy: it has 1 tensors such as .*take"
        ):
            train.main(flags_of(tiny_data, tmp_path / "log", "--init", path))
        kept = copy_of(before)
        with pytest.raises(UserError):
            start_from(before, path)
        assert_equal(before.state_dict(), kept)
    assert not (tmp_path / "log").exists()


def test_a_pattern_of_which_nothing_fits_is_refused(tiny_data, earlier):
    with pytest.raises(UserError, match=r"nothing of .*best\.pth that fits Toy has 'neck' .*--init_only"):
        built(tiny_data, "--init", earlier / "best.pth", "--init_only", "neck")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    weights = {**Toy().state_dict(), "head.bias": torch.tensor([float("nan")])}
    with pytest.raises(
        UserError, match=r"file\.pth: head\.bias holds numbers that are not finite: its training"
    ):
        start_from(create_model("Toy"), unfit(tmp_path, weights))


def damage(path: Path, value: torch.Tensor) -> None:
    """Change one bit of a tensor in a file."""
    data = bytearray(path.read_bytes())
    data[data.index(value.numpy().tobytes())] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("kind", ["ours", "published", "cut", "missing", "without sum", "no tensors"])
def test_a_damaged_file_is_refused(tmp_path, kind):
    path, weights = tmp_path / "file.pth", Toy().state_dict()
    sentence = {"cut": "cut off", "missing": "no checkpoint", "without sum": "lost the checksum"}.get(
        kind, "damaged"
    )
    if kind in ("ours", "without sum"):
        save_checkpoint(path, {"weights": weights})
    else:
        torch.save(weights, path)
    if kind == "without sum":
        torch.save(torch.load(path), path)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif kind == "missing":
        path.unlink()
    elif kind == "no tensors":
        sentence = "has weights = 3 instead of tensors by name"
        save_checkpoint(path, {"weights": 3})
    else:
        damage(path, weights["head.weight"])
    with pytest.raises(UserError, match=sentence):
        start_from(create_model("Toy"), path)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--init", "x.pth", "--resume"),
            "--resume goes on with the weights of its own run; leave --init out",
        ),
        (("--init_only", "norm"), "--init_only has no effect without --init"),
        (("--init", "x.pth", "--init_only", "("), r"it takes a regular expression, not '\('"),
        (
            ("--init", "x.pth", "--model_names", "Toy", "ToyAgain"),
            "--init is the start of one model; name one",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tiny_data, tmp_path, flags, sentence):
    with pytest.raises(UserError, match=sentence):
        train.main(flags_of(tiny_data, tmp_path / "log", *flags))
    assert not (tmp_path / "log").exists()
