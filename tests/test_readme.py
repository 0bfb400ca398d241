"""The README and the Makefile agree with the code: commands, recipe keys, places and snippets."""

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from moving import Camera, Target, moving_video
from videos import write_video

import benchmark
import predict
import test
import train
from dataset import create_dataset
from dataset.augment import create_augmentations
from dataset.sample import Sample
from loss import create_loss
from metrics import create_metric
from metrics.protocols import protocol_lines
from model import create_model, list_models
from tools import compare_moving
from tools.compare_moving import Detector
from utils import registry
from utils.cli import typed_settings
from utils.engine.candidates import Candidate
from utils.engine.optim import make_optimizer
from utils.errors import UserError
from utils.recipe.resolve import OPTIONS, SETTINGS, full_key, parse_setting, resolve_recipe, short
from utils.recipe.schema import PARTS, Recipe
from utils.registry import DATASETS, MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PACKAGES = ("model", "dataset", "loss", "metrics", "utils", "tools")
COMMANDS = {"train.py": train, "test.py": test, "predict.py": predict, "benchmark.py": benchmark}
GROUPS = sorted({*PARTS, *OPTIONS, *map(short, OPTIONS)}, key=len, reverse=True)  # in front of a key's dot

# ---------------------------------------------------------------- what the two files hold


@dataclass(frozen=True)
class Words:
    """A command line: the script and its flags."""

    script: str
    flags: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.script} {' '.join(self.flags)[:60]}"


def words_of(line: str) -> Words:
    """The words of a command line after the program, its placeholders filled in, without comment."""
    line = re.sub(r'"?\$\$\([^)]*\)"?', "some.pth", line)  # what the shell would list
    line = re.sub(r"<[\w ]+>", "some", line)
    _, script, *flags = shlex.split(line, comments=True)
    return Words(script, tuple(flags))


def joined(text: str) -> str:
    """Lines that end in a backslash, and the next one, as one."""
    return re.sub(r"\s*\\\n\s*", " ", text)


@cache
def blocks() -> tuple[str, str]:
    """(the indented lines of the README, the rest without its Python)."""
    rest = re.sub(r"```python\n.*?```", "", joined(README), flags=re.DOTALL)
    indented = "\n".join(line for line in rest.splitlines() if line.startswith("    "))
    return indented, "\n".join(line for line in rest.splitlines() if not line.startswith("    "))


def inline_code() -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", blocks()[1])]


def readme_commands() -> list[Words]:
    lines = [line.strip() for line in blocks()[0].splitlines()] + inline_code()
    return [words_of(line) for line in lines if line.startswith("python ")]


def make_commands() -> list[Words]:
    """The command lines of all targets, variables replaced."""
    text = joined(MAKEFILE)
    variables = dict(re.findall(r"^(\w+) [:?]= ?(.*)$", text, re.MULTILINE))
    for _ in range(3):  # variables in variables
        text = re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), text)
    lines = [line.strip() for line in text.splitlines() if line.startswith("\t")]
    return [words_of(line) for line in lines if re.match(r"\S+ [\w/]+\.py ", line)]


ALL = [*readme_commands(), *make_commands()]


@pytest.mark.parametrize("script", COMMANDS)
def test_every_command_line_is_found(script):
    for text, found in ((README, readme_commands()), (MAKEFILE, make_commands())):
        written = len(re.findall(rf"(?:python|\$\(RUN\)) +{script}", text))
        assert [words.script for words in found].count(script) == written, written
    assert script in [words.script for words in readme_commands()]


# ---------------------------------------------------------------- commands and keys


def check_recipe(recipe: Recipe, model: str) -> None:
    """That what a recipe names can be built, but for the network."""
    entry = MODELS.check_options(model, recipe.model)
    chosen, scoring = recipe.optimisation, recipe.scoring
    loss = create_loss(chosen.loss, **chosen.loss_options)
    assert loss.task == entry.facts.get("task", "masks")
    create_augmentations(recipe.sampling.augment)
    protocol_lines([scoring.protocol], scoring.paper, scoring.threshold, scoring.match, scoring.exclude)


def resolved(model: str, dataset: str, typed: dict) -> Recipe:
    entry = MODELS.entry(model)
    recipe = resolve_recipe(entry.facts["recipe"], dataset, typed, entry.facts.get("task", "masks"))
    check_recipe(recipe, entry.name)
    return recipe


@pytest.mark.parametrize("words", [w for w in ALL if w.script in COMMANDS], ids=str)
def test_commands_parse_and_their_keys_resolve(words):
    args = COMMANDS[words.script].parse(list(words.flags))
    typed = typed_settings(args)
    names = args.model_names or []
    datasets = [DATASETS.entry(name).name for name in getattr(args, "dataset_names", None) or ["Synthetic"]]
    for model in names:
        for dataset in datasets:
            if words.script == "test.py":
                trained = {"recipe": resolved(model, dataset, {}).to_dict(), "dataset": dataset}
                for candidate in (Candidate(model), Candidate(model, Path("some.pth"), trained)):
                    check_recipe(candidate.recipe(dataset, typed), model)
            else:
                resolved(model, dataset, typed)
    assert names or not typed


def result_commands() -> list[list[str]]:
    """The words of the commands in docs/results.md, as a shell expands them."""
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    script = re.sub(r"<[^>]+>", "some", "\n".join(lines))
    shell = "python() { printf '%s\\0' \"$@\"; printf '\\n'; }\n" + script
    done = subprocess.run(["bash", "-ec", shell], capture_output=True, text=True, check=True)
    return [line.strip("\0").split("\0") for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="takes bash")
def test_the_trainings_on_daub_are_those_of_the_table():
    trainings = [words for words in result_commands() if words[0] == "train.py"]
    (tested,) = (words for words in result_commands() if words[0] == "test.py")
    assert [words[:3] for words in trainings] == [
        ["train.py", "--model_names", model] for model in ("STMENet", "SSTNet", "ResUNet-DTUM")
    ]
    test.parse(tested[1:])
    epochs = {}
    for words in trainings:
        recipe = resolved(words[2], "DAUB", typed_settings(train.parse(words[1:])))
        chosen, scoring = recipe.optimisation, recipe.scoring
        assert (chosen.optimizer, chosen.learning_rate, chosen.ema) == ("AdamW", 1e-3, 0.99)
        assert chosen.schedule_options["warmup_epochs"] == 1 and chosen.parameter_groups == "no-norm-decay"
        assert (scoring.best, scoring.protocol, recipe.sampling.batch_size) == ("last", "clean", 8)
        assert recipe.sampling.augment == ("flip_rows", "flip_columns", "transpose")
        assert recipe.sampling.box_masks == (words[2] == "ResUNet-DTUM")
        assert recipe.model.get("objectness_prior") == (None if recipe.sampling.box_masks else 0.01)
        epochs[words[2]] = (chosen.epochs, recipe.sampling.sample_rate, recipe.sampling.patch)
    side = 128  # of patches in the letterbox
    assert epochs == {"STMENet": (10, 1, side), "SSTNet": (5, 0.5, side), "ResUNet-DTUM": (4, 1, 96)}


@pytest.mark.skipif(sys.platform == "win32", reason="takes bash")
def test_the_comparisons_on_moving_cameras_are_those_of_the_table():
    commands = [words for words in result_commands() if words[0] == "tools/compare_moving.py"]
    asked = [compare_moving.parse(words[1:]) for words in commands]
    detectors = [Detector.of(word).title for args in asked for word in args.detectors]
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| DAUB t")]
    shown = {row[2].strip() for row in rows}
    assert shown == set(detectors)


@pytest.mark.parametrize("words", [w for w in ALL if w.script not in COMMANDS], ids=str)
def test_other_scripts_are_there(words):
    source = (ROOT / words.script).read_text(encoding="utf-8")
    for flag in words.flags:
        if flag.startswith("--"):
            assert f'"{flag}"' in source or flag[2:] in (ROOT / "dataset/scene.py").read_text(), flag


def settings_in(span: str) -> dict:
    """What inline code sets: its `--set key=value`, or itself where it is the key=value of a recipe."""
    if re.match(r"--set [^k]", span):
        words = shlex.split(span)
        assert words[::2] == ["--set"] * (len(words) // 2), span
        return dict(map(parse_setting, words[1::2]))
    found = re.fullmatch(r"([\w.]+)=(\S+)", span)
    if found and (found[1].partition(".")[0] in GROUPS or found[1] in map(short, SETTINGS)):
        return dict([parse_setting(span)])
    return {}


SET = sorted({span for span in inline_code() if settings_in(span)})


def test_settings_are_found():
    assert {"--set validation=holdout", "view.neighbours=number", "model.motion=True"} <= set(SET)


@pytest.mark.parametrize("span", SET)
def test_settings_in_sentences_resolve_for_a_model(span):
    errors = []
    for model in list_models():
        try:
            resolved(model, "Synthetic", settings_in(span))
            return
        except (UserError, AssertionError) as error:
            errors.append(f"{model}: {error}")
    pytest.fail("\n".join(errors))


def test_keys_in_sentences_are_known():
    keys = [s for s in inline_code() if re.fullmatch(rf"({'|'.join(GROUPS)})\.\w+", s)]
    assert "view.canvas" in keys
    for key in keys:
        full_key(key)


def test_flags_in_sentences_are_known(capsys):
    known = ""
    for command in COMMANDS.values():
        with pytest.raises(SystemExit):
            command.parse(["--help"])
        known += capsys.readouterr().out
    flags = {flag for span in inline_code() for flag in re.findall(r"--\w+", span)}
    flags -= {flag for words in ALL if words.script not in COMMANDS for flag in words.flags}
    flags -= {"--logdir"}  # of TensorBoard
    assert len(flags) > 15
    for flag in flags:
        assert re.search(rf"{flag}\b", known), flag


def test_make_targets_are_there():
    lines = [*inline_code(), *map(str.strip, blocks()[0].splitlines())]
    targets = [found[1] for found in (re.match(r"make ([a-z-]+)", line) for line in lines) if found]
    assert {"demo", "demo-rprnet", "compare", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_the_names_of_what_can_be_chosen_are_all_told():
    told = set(inline_code()) | set(re.findall(r"[\w-]+", blocks()[1]))
    for kind in (
        MODELS,
        DATASETS,
        registry.LOSSES,
        registry.METRICS,
        registry.OPTIMIZERS,
        registry.SCHEDULES,
    ):
        assert set(kind.names()) <= told, kind.kind
    assert set(registry.AUGMENTATIONS.names()) <= set(inline_code())


# ---------------------------------------------------------------- where things are


@cache
def places() -> frozenset[str]:
    """The files and folders that "Where things are" names, folders with a slash at the end."""
    named, folder = set(), ""
    _, _, section = README.partition("## Where things are\n")
    for line in filter(None, section.splitlines()):
        assert line.startswith("    "), line
        if found := re.match(r" {4}((?:\w+/)+) ", line):
            folder = found[1]
            named.add(folder)
        caption = line.replace(folder, "", 1) if found else line
        named |= {folder + name for name in re.findall(r"\b\w+\.(?:py|json)\b|\b\w+/", caption)}
    return frozenset(named)


def test_places_exist():
    assert len(places()) > 90
    for place in places():
        path = ROOT / place
        assert path.is_dir() if place.endswith("/") else path.is_file(), place


def test_every_file_has_its_place():
    files = [*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]
    own = {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}
    assert own == {place for place in places() if place.endswith(".py")}
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in files if path.parent != ROOT}
    assert folders <= places()


def test_paths_and_links_in_sentences_exist():
    first = "|".join((*PACKAGES, "log", "tests"))
    paths = [s for s in inline_code() if re.fullmatch(rf"({first})/[\w./]*", s)]
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert len(paths) > 15 and len(links) > 5
    for path in [*paths, *links]:
        assert (ROOT / path).exists(), path


# ---------------------------------------------------------------- snippets

BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
SNIPPETS = [block for block in BLOCKS if block.startswith("# ")]  # which name their file


def run_snippet(snippet: str) -> None:
    """Run a snippet with the imports of the file that its first line names, or in that file itself."""
    first = snippet.partition("\n")[0]
    names: dict = {}
    if neighbour := re.search(r"imports as in (\S+\.py)", first):
        tree = ast.parse((ROOT / neighbour[1]).read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(tree, neighbour[1], "exec"), names)
    else:
        path = re.match(r"# (\S+)\.py", first)[1]
        names.update(vars(importlib.import_module(path.replace("/", "."))))
    names["__name__"] = "readme"
    exec(compile(snippet, first, "exec"), names)


@pytest.fixture(scope="module")
def added():
    """The snippets of the README, registered; afterwards the registries are as before."""
    registries = [kind for kind in vars(registry).values() if isinstance(kind, registry.Registry)]
    before = [(kind, dict(kind._entries), dict(kind._folded)) for kind in registries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "readme", types.ModuleType("readme"))  # dataclasses look it up
        for snippet in SNIPPETS:
            run_snippet(snippet)
    yield {kind.kind: set(kind.names()) - set(entries) for kind, entries, _ in before}
    for kind, entries, folded in before:
        kind._entries, kind._folded = entries, folded


def test_snippets_register_one_of_each(added):
    assert added == {
        "model": {"MyNet"},
        "data set": {"MySet"},
        "loss": {"MyLoss"},
        "metric": {"Coverage"},
        "augmentation": {"negative"},
        "optimizer": {"Adagrad"},
        "schedule": set(),
    }


def test_the_model_of_the_readme(added):
    recipe = resolved(
        "MyNet", "TSIRMT", {"model.width": 4, "optimizer": "Adagrad", "optimizer_options.eps": 1e-8}
    )
    assert (recipe.view.frames, recipe.optimisation.epochs) == (5, 40)
    assert recipe.optimisation.schedule_options["step_size"] == 5
    model = create_model("MyNet", **recipe.model)
    optimizer = make_optimizer(model, recipe.optimisation)
    assert isinstance(optimizer, torch.optim.Adagrad) and optimizer.defaults["eps"] == 1e-8
    raw = model(torch.rand(2, 1, 5, 12, 14))
    assert model.decode(raw).shape == (2, 1, 12, 14)
    terms = create_loss("MyLoss")(raw, torch.zeros(2, 1, 12, 14))
    assert terms["loss"].item() == pytest.approx(terms["entropy"].item() + terms["size"].item())
    terms["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_data_set_of_the_readme(added, tiny_data, tmp_path):
    shutil.copytree(tiny_data / "Synthetic", tmp_path / "MySet")
    data = create_dataset("MySet", tmp_path, "train")
    assert [len(sequence) for sequence in data] == [24, 24, 24]
    assert all(sequence.masks for sequence in data)


def test_the_metric_of_the_readme(added):
    metric = create_metric("Coverage")
    mask = np.zeros((4, 5), np.uint8)
    mask[1, :4] = 1
    found = np.zeros((4, 5), np.float32)
    found[:, 1] = 0.9
    metric.update(found, mask)
    assert metric.compute()["covered"] == 0.25
    (figure,) = metric.figures
    assert figure.name == "covered"


def test_the_augmentation_of_the_readme(added):
    (always,) = create_augmentations(("negative(chance=1)",))
    images = np.ones((2, 3, 4), np.float32)
    sample = always(Sample(images, (0,), 0, masks=np.zeros((1, 3, 4))), np.random.default_rng(0))
    assert np.array_equal(sample.images, -images)


def test_the_loop_of_the_readme_prints_where_tracks_are(tmp_path, monkeypatch, capsys):
    (loop,) = [block for block in BLOCKS if block not in SNIPPETS]
    video = moving_video(40, (64, 80), Camera((0.5, 0.0)), [Target((30, 30), (0.6, 0.3), 80)], seed=1)
    write_video(tmp_path / "flight.mp4", video.frames, "mp4v")
    monkeypatch.chdir(tmp_path)
    exec(compile(loop, "README.md", "exec"), {})
    lines = [[float(word) for word in line.split()] for line in capsys.readouterr().out.splitlines()]
    assert len(lines) > 30
    for frame, track, x, y in lines:
        assert track == 1 and np.abs(video.places[int(frame), 0] - (x, y)).max() < 1.5
