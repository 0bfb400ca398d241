"""Wrong calls of the commands, from their parsers and from the settings of recipes."""

import argparse
import contextlib
import importlib
import io
import typing
from pathlib import Path

import numpy as np

from dataset.scene import SceneSettings
from dataset.synthetic import write_dataset
from tests.faults.harness import load_commands
from utils.recipe.resolve import SETTINGS

NUMBERS = (
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "1e400",
    "-1e-300",
    "0x10",
    "1,5",
    "twelve",
    "9" * 40,
    "1_0",
    "[1]",
)
WORDS = ("", "no such word", "../x", "\0", "é" * 300)


def parser_of(module: object) -> argparse.ArgumentParser | None:
    """The parser that a command builds."""
    found: list[argparse.ArgumentParser] = []
    before = argparse.ArgumentParser.parse_args

    def noted(parser, *args, **kwargs):
        found.append(parser)
        raise SystemExit

    argparse.ArgumentParser.parse_args = noted
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
            module.main()
    finally:
        argparse.ArgumentParser.parse_args = before
    return found[0] if found else None


def wrong_calls(seed: int, folder: Path) -> list[tuple[str, list[str]]]:
    """(command, arguments) of calls that have to be refused, in an order drawn from the seed."""
    settings = SceneSettings(height=40, width=48, frames=8, targets=(2, 3))
    write_dataset(folder / "data" / "Synthetic", settings, train_sequences=3, test_sequences=2)
    data = ["--dataset_dir", str(folder / "data"), "--log_dir", str(folder / "log")]
    calls = []
    for command, module in load_commands().items():
        parser = parser_of(module)
        for action in parser._actions if parser else ():
            if action.option_strings and action.type in (int, float):
                flag = action.option_strings[0]
                bad = [n for n in NUMBERS if not is_number(n, action.type)]
                calls += [(command, [f"{flag}={value}"]) for value in bad]
            if action.option_strings and action.choices:
                calls += [(command, [action.option_strings[0], word]) for word in WORDS if "\0" not in word]
        calls += [(command, [flag]) for flag in ("--no_such_flag", "--epo", "stray")]
    for key, setting in SETTINGS.items():
        calls += [("train.py", [*data, "--set", f"{key}={value}"]) for value in wrong_values(setting)]
    importlib.invalidate_caches()
    order = np.random.default_rng(seed).permutation(len(calls))
    return [calls[i] for i in order]


def is_number(text: str, kind: type) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def wrong_values(setting: typing.Any) -> list[str]:
    """Values that a setting cannot take."""
    kinds = typing.get_args(setting.kind) or (setting.kind,)
    bad = ["(1,2,3,4,5,6,7)", "{1}", "b'x'"]
    if int in kinds or float in kinds:
        bad += ["'twelve'", "nan", "inf", "1e400", "True"] * (str not in kinds)
        limits = setting.facts.limits
        outside = {"at_least": -1, "above": 0, "at_most": 1, "below": 0}
        found = {name: getattr(limits, name) for name in outside}
        bad += [str(value + outside[name]) for name, value in found.items() if value is not None]
    if bool in kinds:
        bad += ["1", "'yes'", "0.5"]
    if setting.facts.choices:
        bad += ["'no such word'", "7", "None"]
    return bad
