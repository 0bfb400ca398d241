"""The campaign of faults: some of its cheapest cases in every run, its short form among the slow ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.layouts import all_layouts
from utils.registry import DATASETS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc")


def campaign(folder: Path, *args: str) -> tuple[subprocess.CompletedProcess, list[dict]]:
    """The finished campaign, and its cases."""
    out = folder / "cases.json"
    command = [sys.executable, "-m", "tests.faults", "--out", str(out), *args]
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    return done, json.loads(out.read_text())["cases"] if out.exists() else []


def test_a_few_faults_of_each_cheap_class(tmp_path):
    chosen = ("saves:0", "flags:0-3", "images:0", "checkpoints:0-3", "predictions:1")
    done, cases = campaign(tmp_path, "--case", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [case["state"] for case in cases] == ["held"] * 11
    assert not list(tmp_path.glob("faults-*"))


@pytest.mark.slow
def test_the_form_of_a_minute(tmp_path):
    done, cases = campaign(tmp_path, "--form", "ci")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {case["state"] for case in cases} <= {"held", "skipped"}


def test_every_reader_has_a_layout():
    assert {layout.reader for layout in all_layouts()} == set(DATASETS.names())
