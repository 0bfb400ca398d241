"""What several test files use: a tiny data set, and commands run as real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dataset.scene import SceneSettings
from dataset.synthetic import write_dataset

ROOT = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A folder with the data set Synthetic: 3 training and 2 test sequences, 24 frames of 40x48."""
    folder = tmp_path_factory.mktemp("data")
    settings = SceneSettings(height=40, width=48, frames=24, targets=(2, 3))
    write_dataset(folder / "Synthetic", settings, train_sequences=3, test_sequences=2)
    return folder


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """run_python("train.py", "--epochs", 1): the finished process, run in the repository on one thread.

    Its output goes through files, so that a process that outlives a killed parent holds nobody up.
    """
    folder = tmp_path_factory.mktemp("output")

    def run(*args, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, *map(str, args)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=out, stderr=err, timeout=300, **options
            )
        done.stdout, done.stderr = (folder / "out").read_text(), (folder / "err").read_text()
        return done

    return run


@pytest.fixture(scope="module")
def one_thread():
    """On networks this small, torch's threads only wait for each other when other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
