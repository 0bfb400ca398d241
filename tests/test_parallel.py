"""Work by several processes: the same results in the same order, and an end when one of them is ended."""

import math
import os

import pytest

from utils import parallel
from utils.errors import UserError
from utils.parallel import in_parallel


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 3)
    monkeypatch.setattr(parallel, "LEAST", 5)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    things = list(range(20, 0, -1))
    assert in_parallel(math.factorial, things, workers, "numbers") == list(map(math.factorial, things))
    assert in_parallel(math.factorial, [], workers, "numbers") == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_passed_on(workers):
    with pytest.raises(ValueError, match="negative"):
        in_parallel(math.factorial, [*range(9), -1], workers, "numbers")


def test_a_process_that_is_ended_is_told_of():
    with pytest.raises(UserError, match="the system ended one of 2 reading processes.*fewer --workers"):
        in_parallel(os._exit, [9] * 10, 2, "ends")
