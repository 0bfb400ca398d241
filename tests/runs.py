"""What a training has left in its folder, and whether two have left the same."""

import json
from pathlib import Path

import torch

from utils.checkpoint import read_checkpoint


def last(folder: Path) -> dict:
    return read_checkpoint(folder / "last.pth")


def comparable(folder: Path) -> dict:
    """The last checkpoint without what may differ in a run that goes on."""
    saved = last(folder)
    for key in ("num_workers", "save_every"):
        del saved["recipe"]["runtime"][key]
    return saved


def assert_same(found, expected, place: str = "") -> None:
    """Equal to the bit, through dicts and lists."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            assert_same(found[key], expected[key], f"{place}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{place}/{index}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), place
    else:
        assert found == expected or found != found and expected != expected, place  # equal or both nan


def record_of(folder: Path) -> list[dict]:
    """The lines of train.jsonl without the times."""
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in lines]


def assert_same_run(folder: Path, reference: Path) -> None:
    """The same weights, optimizer, random state, scores and record, each epoch once."""
    assert_same(comparable(folder), comparable(reference))
    assert_same(
        read_checkpoint(folder / "best.pth")["weights"], read_checkpoint(reference / "best.pth")["weights"]
    )
    assert [line["epoch"] for line in record_of(folder)] == list(range(1, len(record_of(folder)) + 1))
    assert record_of(folder) == record_of(reference)
