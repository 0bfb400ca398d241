"""The commands from end to end: what they write, and the one line in which they refuse."""

import csv
import json
import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import test
import train
from model import create_model
from utils.checkpoint import read_checkpoint
from utils.errors import run_command

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
TINY = ("--seq_len", 8, "--patch_size", 16, "--epochs", 1, "--batch_size", 2, "--sample_rate", 0.06)
TINY = (*TINY, "--num_workers", 0)
CPU = ("--device", "cpu")
NORMALISED = ("--set", "clip.mean=100", "--set", "clip.std=20")  # no frames are read for their statistics


def exit_code(command, *args) -> int:
    """The exit code of a command's main, run in this process as the script would."""
    with pytest.raises(SystemExit) as end:
        run_command(lambda: command.main([str(arg) for arg in args]))
    return end.value.code


@pytest.fixture
def refusal(capfd):
    """refusal(command, *args): the sentence on which the command ended, after checks of its form."""

    def refused(command, *args) -> str:
        capfd.readouterr()
        code = exit_code(command, *args, *CPU)
        return only_sentence(code, capfd.readouterr().err)

    return refused


def only_sentence(code: int, stderr: str) -> str:
    assert code == 2, stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1, stderr
    assert "Traceback" not in stderr
    return stderr.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory) -> Path:
    """The run folder of a DeepPro that was trained for one epoch."""
    log = tmp_path_factory.mktemp("trained")
    assert exit_code(train, "--dataset_dir", tiny_data, "--log_dir", log, *TINY, *CPU) == 0
    (folder,) = (log / "Synthetic" / "DeepPro").iterdir()
    return folder


@pytest.fixture
def data_copy(tiny_data, tmp_path) -> Path:
    """The tiny data set, to break."""
    return shutil.copytree(tiny_data / "Synthetic", tmp_path / "data" / "Synthetic")


def only_run(log: Path, model: str) -> Path:
    (folder,) = (log / "Synthetic" / model).iterdir()
    return folder


def frames_of(data: Path, sequence: str, kind: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(p)) for p in sorted((data / sequence / kind).iterdir())])


# ---- what train.py and test.py write ----


def test_train_writes_a_whole_run(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"recipe.json", "train.jsonl", "last.pth", "best.pth"} <= names
    recipe = json.loads((trained / "recipe.json").read_text())
    assert (recipe["model"], recipe["dataset"]) == ("DeepPro", "Synthetic")
    assert recipe["recipe"]["view"]["frames"] == recipe["recipe"]["model"]["seq_len"] == 8
    (entry,) = [json.loads(line) for line in (trained / "train.jsonl").read_text().splitlines()]
    assert entry["epoch"] == 1
    assert 0 < entry["loss"] <= 1
    saved = read_checkpoint(trained / "last.pth")
    assert saved["progress"]["epoch"] == 1
    assert saved["recipe"]["sampling"]["patch"] == 16


def check_evaluation(folder: Path, model: str) -> dict:
    """The files of a test run; the figures of its JSON recomputed from the counts beside them."""
    evaluation = json.loads((folder / "eval.json").read_text())
    assert (evaluation["model"], evaluation["dataset"], evaluation["frames"]) == (model, "Synthetic", 48)
    kinds = [(scored["protocol"], scored["targets_by"]) for scored in evaluation["scores"]]
    clean = [("clean", rule) for rule in ("ShootingRules", "PdFa", "CentroidPdFa")]
    assert kinds == [("published", "ShootingRules"), *clean]
    scored, *_, boxes = evaluation["scores"]
    assert 0 <= boxes["groups"]["all"]["ap50"] <= 1
    assert "match=1 exclude=4" in scored["rule"]
    groups, sequences = scored["groups"], scored["sequences"]
    assert set(groups) == {"all", "SNR<=3", "SNR>3"}
    assert set(sequences) == {"Sequence4", "Sequence5"}
    for scores in [*groups.values(), *sequences.values()]:
        curve = scores["curve"]
        at = curve["thresholds"].index(0.5)
        assert scores["pd"] == curve["true"][at] / curve["targets"][at]
        assert scores["fa"] == curve["false"][at] / curve["pixels"]
        fa = np.array(curve["false"]) / curve["pixels"]
        pd = np.array(curve["true"]) / np.array(curve["targets"])
        assert scores["auc"] == pytest.approx(np.trapezoid(pd[::-1], fa[::-1]), abs=1e-12)
    for count in ("true", "targets", "false"):
        assert groups["all"][count] == sum(sequences[name][count] for name in ("Sequence4", "Sequence5"))
    with (folder / "table.csv").open(newline="") as file:
        rows = {row["group"]: row for row in csv.DictReader(file) if row["protocol"] == "published"}
    for group, scores in groups.items():
        assert float(rows[group]["Pd %"]) == pytest.approx(100 * scores["pd"], abs=0.005)
        assert float(rows[group]["AUC"]) == pytest.approx(scores["auc"], abs=5e-5)
    for name in ("table.md", "sequences.md", "sequences.csv"):
        assert (folder / name).stat().st_size > 0
    assert Image.open(folder / "roc_published_ShootingRules.png").size[0] > 100
    return {**evaluation, "groups": groups}


def test_tophat_from_files_to_figures(tiny_data, tmp_path):
    """TopHat again by OpenCV's morphology, from the image files to IoU and the saved predictions."""
    data = tiny_data / "Synthetic"
    flags = ("--save_predictions", "--save_overlays", "--log_dir", tmp_path, *CPU)
    assert exit_code(test, "--model_names", "TopHat", "--dataset_dir", tiny_data, *flags) == 0
    folder = only_run(tmp_path, "TopHat")
    evaluation = check_evaluation(folder, "TopHat")

    hits, union = 0, 0
    for name in ("Sequence4", "Sequence5"):
        images, masks = frames_of(data, name, "images"), frames_of(data, name, "masks") > 0
        predictions = frames_of(folder / "predictions", name, ".")
        for image, mask, prediction in zip(images, masks, predictions, strict=True):
            detail = cv2.morphologyEx(image.astype(np.float64), cv2.MORPH_TOPHAT, np.ones((7, 7)))
            probability = 1 / (1 + np.exp(5 - (detail - detail.mean()) / detail.std()))
            assert np.abs(prediction - 255 * probability + 0.5).max() < 0.51  # rounded down
            hits += np.count_nonzero((probability > 0.5) & mask)
            union += np.count_nonzero((probability > 0.5) | mask)
        assert Image.open(folder / "overlays" / f"{name}.png").size[0] > 100
    assert hits > 0
    assert evaluation["groups"]["all"]["iou"] == pytest.approx(hits / union)
    assert evaluation["groups"]["SNR>3"]["pd"] > evaluation["groups"]["SNR<=3"]["pd"]


def test_a_checkpoint_of_train_brings_its_model_and_recipe(trained, tiny_data, tmp_path):
    flags = ("--save_predictions", "--save_overlays", "--log_dir", tmp_path, *CPU)
    assert exit_code(test, "--checkpoint", trained / "last.pth", "--dataset_dir", tiny_data, *flags) == 0
    folder = only_run(tmp_path, "DeepPro")
    evaluation = check_evaluation(folder, "DeepPro")
    assert evaluation["recipe"]["view"]["frames"] == 8
    line = json.loads((trained / "train.jsonl").read_text())
    assert evaluation["groups"]["all"]["auc"] == pytest.approx(line["auc"], abs=1e-6)  # as in validation
    assert len(list((folder / "predictions").glob("*/*.png"))) == 48
    assert len(list((folder / "overlays").iterdir())) == 2


def test_several_models_share_one_table(trained, tiny_data, tmp_path):
    flags = ("--dataset_dir", tiny_data, "--log_dir", tmp_path, *CPU)
    names = ("--model_names", "TopHat", "DeepPro")
    assert exit_code(test, *names, "--checkpoint", trained / "last.pth", *flags) == 0
    (folder,) = (tmp_path / "tables").iterdir()
    with (folder / "table.csv").open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"TopHat", "DeepPro"}
    assert (folder / "Synthetic_roc_published_ShootingRules.png").is_file()


@pytest.mark.parametrize("command", sorted(path.name for path in ROOT.glob("*.py")))
def test_help_needs_no_data(run_python, command):
    done = run_python(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {command}")


def test_real_processes(run_python, tiny_data, tmp_path):
    """Both commands as a user types them, with a worker process."""
    flags = ("--dataset_dir", tiny_data, "--log_dir", tmp_path / "log", *CPU)
    done = run_python("train.py", *TINY, "--num_workers", 1, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    checkpoint = only_run(tmp_path / "log", "DeepPro") / "best.pth"
    done = run_python("test.py", "--checkpoint", checkpoint, *flags)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_cache_changes_no_figure(trained, tiny_data, tmp_path):
    flags = ("--dataset_dir", tiny_data, "--log_dir", tmp_path / "log", *TINY, *CPU)
    assert exit_code(train, *flags, "--cache", "--cache_dir", tmp_path / "cache") == 0
    assert list((tmp_path / "cache").glob("*.npy"))
    cached = read_checkpoint(only_run(tmp_path / "log", "DeepPro") / "last.pth")
    weights = read_checkpoint(trained / "last.pth")["weights"]
    assert all(torch.equal(value, weights[key]) for key, value in cached["weights"].items())


def test_deterministic_training_gives_the_same_weights(trained, run_python, tiny_data, tmp_path):
    flags = ("--dataset_dir", tiny_data, "--log_dir", tmp_path, "--deterministic", *TINY, *CPU)
    done = run_python("train.py", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    weights = read_checkpoint(only_run(tmp_path, "DeepPro") / "last.pth")["weights"]
    expected = read_checkpoint(trained / "last.pth")["weights"]
    assert all(torch.equal(value, expected[key]) for key, value in weights.items())


def test_what_has_no_deterministic_form_is_refused(capfd):
    def train_on_a_gpu():
        raise RuntimeError("some_backward_cuda does not have a deterministic implementation, but you set ...")

    with pytest.raises(SystemExit) as end:
        run_command(train_on_a_gpu)
    said = only_sentence(end.value.code, capfd.readouterr().err)
    assert "some_backward_cuda" in said
    assert "leave --deterministic out" in said


# ---- flags ----


def test_flags_of_the_published_commands():
    both = ["--dataset", "NUDT-MIRSDT", "--datapath", "/d", "--seqlen", "20", "--logpath", "/l"]
    args = train.parse(["--model", "DeepPro", *both, "--batchSize", "3", "--patchSize", "64", "--epoch", "5"])
    assert (args.model_names, args.dataset_names) == (["DeepPro"], ["NUDT-MIRSDT"])
    assert (args.dataset_dir, args.log_dir) == (Path("/d"), Path("/l"))
    assert (args.seq_len, args.batch_size, args.patch_size, args.epochs) == (20, 3, 64, 5)
    args = test.parse(["--model", "TopHat", *both])
    assert (args.model_names, args.dataset_names, args.seq_len) == (["TopHat"], ["NUDT-MIRSDT"], 20)


def test_published_flags_train(tiny_data, tmp_path):
    flags = (*TINY[4:], *CPU, "--seqlen", 8, "--patchSize", 16, "--batchSize", 3)
    names = ("--model", "deeppro", "--dataset", "synthetic", "--datapath", tiny_data)
    assert exit_code(train, *names, *flags, "--logpath", tmp_path, "--epoch", 0) == 0
    saved = read_checkpoint(only_run(tmp_path, "DeepPro") / "last.pth")
    recipe = saved["recipe"]
    assert (recipe["view"]["frames"], recipe["sampling"]["patch"]) == (8, 16)
    assert (recipe["sampling"]["batch_size"], recipe["optimisation"]["epochs"]) == (3, 0)
    assert saved["progress"]["steps"] == 0


@pytest.mark.parametrize("flag", ["--epo", "--cach", "--seq"])
def test_flags_are_not_abbreviated(flag, capsys):
    with pytest.raises(SystemExit) as end:
        train.parse([flag, "1"])
    assert end.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


# ---- refusals: data ----


@pytest.mark.parametrize("command", [train, test])
@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda data: shutil.rmtree(data), r"does not hold Synthetic|no folder"),
        (lambda data: (data / "test.txt").unlink(), r"no test\.txt in .*Synthetic"),
        (lambda data: (data / "test.txt").write_text("\n"), r"test\.txt is empty"),
        (lambda data: (data / "Sequence4/masks/00005.png").unlink(), r"00005\.png has no mask"),
        (lambda data: shutil.rmtree(data / "Sequence4/masks"), r"Sequence4.masks.* is missing"),
    ],
    ids=["folder", "split list", "empty split", "mask", "mask folder"],
)
def test_missing_parts_of_a_data_set(refusal, data_copy, tmp_path, command, break_it, said):
    break_it(data_copy)
    model = ("--model_names", "TopHat") if command is test else TINY
    sentence = refusal(command, *model, "--dataset_dir", data_copy.parent, "--log_dir", tmp_path / "log")
    assert re.search(said, sentence), sentence
    assert not (tmp_path / "log").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def narrow(path: Path) -> None:
    Image.open(path).crop((0, 0, 30, 40)).save(path)


DAMAGE = [(truncate, "images", "truncated"), (narrow, "masks", "one size"), (narrow, "images", "one size")]


@pytest.mark.parametrize(("damage", "kind", "said"), DAMAGE)
def test_damaged_files_of_a_test_set(refusal, data_copy, tmp_path, damage, kind, said):
    damage(data_copy / "Sequence4" / kind / "00005.png")
    sentence = refusal(
        test, "--model_names", "TopHat", "--dataset_dir", data_copy, "--log_dir", tmp_path / "log"
    )
    assert f"{kind}/00005.png" in sentence
    assert said in sentence


@pytest.mark.parametrize(("damage", "kind", "said"), DAMAGE)
def test_damaged_files_of_a_training_set(refusal, data_copy, tmp_path, damage, kind, said):
    for sequence in ("Sequence1", "Sequence2", "Sequence3"):
        for path in (data_copy / sequence / kind).iterdir():
            if path.stem != "00001":
                damage(path)
    flags = (*TINY, *NORMALISED, "--dataset_dir", data_copy, "--log_dir", tmp_path / "log")
    sentence = refusal(train, *flags)
    assert re.search(rf"{kind}/000\d\d\.png", sentence), sentence
    assert said in sentence


def test_damaged_files_met_by_a_worker_of_a_real_process(run_python, data_copy, tmp_path):
    for path in data_copy.glob("Sequence[13]/images/*.png"):
        truncate(path)  # the first clip, which is read before the training, is of Sequence2
    flags = (*TINY, "--num_workers", 1, *NORMALISED, "--dataset_dir", data_copy, *CPU)
    done = run_python("train.py", *flags, "--log_dir", tmp_path / "log")
    assert only_run(tmp_path / "log", "DeepPro")  # it has begun
    assert "is truncated or damaged; copy it again" in only_sentence(done.returncode, done.stderr)


def test_a_patch_larger_than_the_frames(refusal, tiny_data, tmp_path):
    sentence = refusal(train, *TINY, "--patch_size", 41, "--dataset_dir", tiny_data, "--log_dir", tmp_path)
    assert "48x40, smaller than the patch of 41; use --patch_size 40" in sentence


# ---- refusals: names, flags, weights ----


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model_names", "DeepPrro"), "no model 'DeepPrro'; did you mean DeepPro"),
        (("--dataset_names", "NUDT-MIRST"), "no data set 'NUDT-MIRST'; did you mean NUDT-MIRSDT"),
        (("--loss", "SoftIuO"), "no loss 'SoftIuO'; did you mean SoftIoU"),
        (("--set", "clip.frame=5"), "no key 'frame'; did you mean frames"),
        (("--set", "model.width=5"), "DeepPro has no option 'width'"),
        (("--set", "epochs"), "--set takes key=value"),
        (("--set", "epochs=many"), "epochs takes a whole number, at least 0, not 'many'"),
        (("--batch_size", "0"), "batch_size cannot be 0"),
        (("--learning_rate", "-1"), "learning_rate cannot be -1"),
        (("--optimizer", "lion"), "there is no optimizer 'lion'; known: Adam, AdamW, SGD"),
        (("--dataset_option", "box_origin=1"), "Synthetic has no option 'box_origin'"),
        (("--save_every", "0"), "runtime.save_every cannot be 0"),
        (("--threshold", "0.123"), "not counted at the threshold 0.123"),
        (("--model_names", "TopHat"), "TopHat has no parameters to train"),
        (("--resume",), "no run to resume in"),
        (("--resume", "nowhere"), "no checkpoint nowhere"),
    ],
)
def test_train_refuses(refusal, tiny_data, tmp_path, flags, said):
    sentence = refusal(train, *TINY, "--dataset_dir", tiny_data, "--log_dir", tmp_path / "log", *flags)
    assert said in sentence, sentence
    assert not (tmp_path / "log").exists()


def test_train_refuses_validation_without_masks(refusal, tiny_data, tmp_path):
    root = tmp_path / "own"
    for number, kinds in ((1, ("images", "masks")), (2, ("images",))):
        for kind in kinds:
            shutil.copytree(
                tiny_data / "Synthetic" / f"Sequence{number}" / kind, root / f"Sequence{number}" / kind
            )
    (root / "train.txt").write_text("Sequence1\n")
    (root / "test.txt").write_text("Sequence2\n")
    flags = ("--dataset_names", "Folder", "--dataset_dir", root, "--log_dir", tmp_path / "log")
    sentence = refusal(train, *TINY, *flags)
    assert "Sequence2 has no masks, so it cannot validate" in sentence
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "DeepPro needs weights; give --checkpoint"),
        (("--model_names", "TopHta"), "did you mean TopHat"),
        (("--model_names", "TopHat", "--dataset_names", "Synthetik"), "did you mean Synthetic"),
        (("--model_names", "TopHat", "--threshold", "0.123"), "not counted at the threshold 0.123"),
        (("--checkpoint", "nowhere.pth"), "no checkpoint nowhere.pth"),
        (("--official", "nowhere.pth"), "no checkpoint nowhere.pth"),
        (("--model_names", "TopHat", "--official", "a.pth"), "a.pth belongs to no model"),
    ],
)
def test_test_refuses(refusal, tiny_data, tmp_path, flags, said):
    sentence = refusal(test, "--dataset_dir", tiny_data, "--log_dir", tmp_path / "log", *flags)
    assert said in sentence, sentence


@pytest.mark.parametrize("command", [train, test])
@pytest.mark.parametrize(
    ("device", "said"), [("cuda:70", "this machine has"), ("tpu", "takes auto, cpu, cuda or cuda:i")]
)
def test_devices_that_are_not_there(tiny_data, tmp_path, capfd, command, device, said):
    model = ("--model_names", "TopHat") if command is test else TINY
    flags = ("--dataset_dir", tiny_data, "--log_dir", tmp_path / "log", "--device", device)
    assert said in only_sentence(exit_code(command, *model, *flags), capfd.readouterr().err)


def test_checkpoints_of_another_model(refusal, trained, tiny_data, tmp_path):
    flags = ("--dataset_dir", tiny_data, "--log_dir", tmp_path / "log")
    weights = ("--checkpoint", trained / "last.pth")
    assert "holds DeepPro, which is not among" in refusal(test, "--model", "DeepPro-Plus", *weights, *flags)
    sentence = refusal(train, "--model", "DeepPro-Plus", "--resume", trained, *flags)
    assert "trains DeepPro on Synthetic, not DeepPro-Plus" in sentence
    published = tmp_path / "plus.pth"
    torch.save({"model_state_dict": create_model("DeepPro-Plus").state_dict()}, published)
    sentence = refusal(test, "--model", "DeepPro", "--official", published, *flags)
    assert "is not a checkpoint of DeepPro" in sentence
    assert "use --checkpoint" in refusal(test, "--official", trained / "last.pth", *flags)
    assert "use --official" in refusal(test, "--checkpoint", published, *flags)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("flag", ["--checkpoint", "--official"])
def test_truncated_checkpoints(refusal, trained, tiny_data, tmp_path, share, flag):
    content = (trained / "last.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(content[: int(share * len(content))])
    sentence = refusal(test, flag, path, "--dataset_dir", tiny_data, "--log_dir", tmp_path / "log")
    assert "cut.pth" in sentence


class Malicious:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("flag", ["--checkpoint", "--official"])
def test_no_code_of_a_checkpoint_runs(refusal, tiny_data, tmp_path, flag, zipped):
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    if zipped:
        torch.save({"weights": Malicious(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"weights": Malicious(marker)}, protocol=2))
    sentence = refusal(test, flag, path, "--dataset_dir", tiny_data, "--log_dir", tmp_path / "log")
    assert "evil.pth" in sentence
    assert not marker.exists()
