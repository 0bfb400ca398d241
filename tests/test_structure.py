"""What keeps the tree in order: imports that run one way, the style, and what each model registers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from metrics.protocols import table_figures
from model import list_models
from utils.registry import METRICS, MODELS, fold

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "utils": set(),
    "model": {"utils"},
    "dataset": {"utils"},
    "loss": {"utils"},
    "metrics": {"utils"},
}
OWN = {*PACKAGES, *(path.stem for path in ROOT.glob("*.py"))}


def imported_modules(source: str) -> set[str]:
    """The top-level names that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        imported = imported_modules(path.read_text(encoding="utf-8")) & OWN
        assert imported <= PACKAGES[package] | {package}, path


def test_devices_are_chosen_by_the_commands_alone():
    folders = [ROOT / name for name in (*PACKAGES, "tools", "tests")]
    for path in [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]:
        assert ".cuda" + "(" not in path.read_text(encoding="utf-8"), path


COMMANDS = sorted(ROOT.glob("*.py"))
OUTPUTS = {"masks", "boxes", "maps"}  # names of tasks and kinds of predictions
TASK_CLASSES = {"MaskTask", "BoxTask", "MapPrediction", "BoxPrediction"}


def outputs_told_apart(source: str) -> list[str]:
    """The expressions that ask whether a model predicts masks or boxes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        text = ast.unparse(node)
        if isinstance(node, ast.Compare):
            words = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)} & OUTPUTS
            is_equality = any(isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot) for op in node.ops)
            of_task = any(word in text for word in ("task", "target", "predicts", "kind."))
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & TASK_CLASSES
            if (words and (is_equality or of_task)) or names:
                found.append(text)
        elif isinstance(node, ast.match_case):
            found += [text.splitlines()[0]] * any(repr(word) in ast.unparse(node.pattern) for word in OUTPUTS)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            classes = ast.unparse(node.args[1])
            found += [text] * any(word in classes for word in ("Prediction", "Task"))
    return found


@pytest.mark.parametrize(
    "told",
    [
        "isinstance(found, BoxPrediction)",
        "isinstance(x, (int, boxes.MapPrediction))",
        "isinstance(task, BoxTask)",
        "type(found) is MapPrediction",
        "task.name == 'boxes'",
        "task.truths[0] != 'masks'",
        "'boxes' in task.truths",
        "model.task in ('boxes', 'points')",
        "prediction.kind == 'maps'",
    ],
)
def test_telling_outputs_apart_is_noticed(told):
    assert outputs_told_apart(f"if {told}:\n    pass") == [told]


def test_masks_and_boxes_are_told_apart_in_the_task_alone():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    for path in [*COMMANDS, *files]:
        if path != ROOT / "utils" / "task.py":
            assert outputs_told_apart(path.read_text(encoding="utf-8")) == [], path


def metrics_and_figures_named(source: str) -> list[str]:
    """The texts that are a metric's or a figure's name, docstrings aside."""
    figures = {figure.name for figure in table_figures()}
    names = figures | set(map(fold, METRICS.names()))
    tree = ast.parse(source)
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [text for text in texts if text in figures or (fold(text) in names and text != text.lower())]


def test_naming_a_metric_or_a_figure_is_noticed():
    source = 'SHOWN = ("pd", "Fa", "loss")\nscore = create_metric("PdFa").compute()["ap50"]'
    assert sorted(metrics_and_figures_named(source)) == ["Fa", "PdFa", "ap50", "pd"]


def test_utils_and_the_commands_name_no_metric_and_no_figure():
    """A task names the one score that chooses its best checkpoint."""
    for path in [*COMMANDS, *(ROOT / "utils").rglob("*.py")]:
        expected = ["iou", "ap50"] if path == ROOT / "utils" / "task.py" else []
        assert metrics_and_figures_named(path.read_text(encoding="utf-8")) == expected, path


@pytest.mark.parametrize("check", [("check",), ("format", "--check")])
def test_ruff_finds_nothing(check):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *check, "."], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", list_models())
def test_each_model_registers_its_recipe_and_its_published_names(name):
    facts = MODELS.entry(name).facts
    assert facts["recipe"]["view"]["frames"] >= 1
    assert all(new is None or isinstance(new, str) for new in facts["rename"].values())
