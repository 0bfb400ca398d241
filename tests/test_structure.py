"""What keeps the tree in order: imports that run one way, the style, and what each model registers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from model import list_models
from utils.registry import MODELS

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
