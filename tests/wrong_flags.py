"""Calls of the commands that must be refused, made from their flags, the keys of a recipe and the registries.

A new command, flag, key, model, loss ... is covered as soon as it is there. The last flag of a call is the
wrong one.
"""

import argparse
import importlib
import random
import re
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from dataset.scene import SceneSettings
from dataset.synthetic import write_dataset
from utils.cli import Parser
from utils.recipe.fields import Setting, kinds_of
from utils.recipe.resolve import SETTINGS
from utils.registry import AUGMENTATIONS, DATASETS, LOSSES, MODELS, OPTIMIZERS, SCHEDULES

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))
HUGE = "1" + 30 * "0"
NO_NUMBER = (
    "",
    " ",
    "x",
    "1e",
    "nan",
    "inf",
    "1e999",
    "[1, '2']",
    "{}",
    "'1'",
    "é",
    "a\nb",
    "--",
    "1" * 5000,
)
NUMBERS = (HUGE, f"-{HUGE}", "1e308", "-1e308", "1e999")
NO_WORDS = ("no-such-name", "3.7", "[1]", "é", "'a\\nb'", "x" * 5000, "{1}", "b'x'")
BASE = {  # what a call needs besides what all take
    "train.py": [
        "--epochs",
        "1",
        "--seq_len",
        "8",
        "--patch_size",
        "16",
        "--num_workers",
        "0",
        "--device",
        "cpu",
    ],
    "test.py": ["--model_names", "TopHat", "--device", "cpu"],
    "predict.py": ["--dataset_names", "Synthetic", "--device", "cpu"],
    "tools/compare_moving.py": ["--sequences", "Synthetic=data", "--detectors", "TopHat"],
    "tools/measure_predict.py": ["data/Synthetic/Sequence1"],
    "tools/convert_annotations.py": ["--source", "list.txt", "--to", "coco", "--size", "9x9"],
}
CONTRADICTIONS = (
    ["--epochs", "3", "--set", "epochs=4"],
    ["--set", "epochs=3", "--set", "optimisation.epochs=4"],
    ["--set", "clip.padding=zeros", "--set", "padding=repeat"],
    ["--optimizer", "SGD", "--set", "momentum=0.0", "--set", "nesterov=True"],
    ["--set", "mean=3"],
    ["--set", "std=3"],
    ["--set", "gray_scale=255"],
    ["--set", "train_resize=(32, 32)", "--set", "letterbox=32"],
    ["--set", "key=0"],
    ["--set", "key=100"],
    ["--set", "freeze=stem"],
    ["--set", "freeze_epochs=3"],
    ["--set", "holdout=4"],
    ["--set", "validation=holdout", "--set", "holdout=1000"],
    ["--set", "scoring.paper=clean"],
    ["--set", "model.seq_len=7"],
    ["--set", "box_restore=published"],
    ["--set", "clip.augment=5"],
    ["--set", "clip.augment=(1, 2)"],
    ["--set", "clip.crop=x"],
    ["--model_names", "STMENet", "--loss", "SoftIoU"],
    ["--model_names", "STMENet", "--set", "key=all"],
    ["--patch_size", "1000"],
    ["--model_names", "TopHat"],
    ["--dataset_option", "root=1"],
    ["--dataset_option", "name=1"],
    ["--dataset_option", "split=train"],
    ["--dataset_option", "no_such_option=1"],
    ["--dataset_option", "no-value"],
    ["--set", "no-value"],
    ["--set", "=3"],
    ["--set", "no.such.key=3"],
)


def commands() -> dict[str, Callable[[list[str]], None]]:
    """The main functions of all commands and tools, by their paths."""
    found = {}
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("tools/*.py")]):
        if "run_command(main)" in path.read_text(encoding="utf-8"):
            found[path.relative_to(ROOT).as_posix()] = importlib.import_module(path.stem).main
    return found


class Found(Exception):
    """Brings a parser out of a command."""


def parser_of(main: Callable[[list[str]], None]) -> Parser:
    """The parser of a command."""

    def give(parser, *_):
        raise Found(parser)

    with mock.patch.object(Parser, "parse_args", give):
        try:
            main([])
        except Found as found:
            return found.args[0]
    raise AssertionError("a command parses its flags by utils.cli.Parser")


def wrong_calls(seed: int, folder: Path) -> list[tuple[str, list[str]]]:
    """(command, arguments) of calls that must end in a sentence, in an order that the seed decides.

    folder: what the calls need is written into it; they themselves must leave it as it is
    """
    data = folder / "data"
    settings = SceneSettings(height=40, width=48, frames=8, targets=(2, 3))
    write_dataset(data / "Synthetic", settings, train_sequences=3, test_sequences=2)
    for name in ("NUDT-MIRSDT", "NUDT-MIRSDT-Noise"):
        (data / name).symlink_to(data / "Synthetic")
    (folder / "file").write_text("a file\n")
    (folder / "list.txt").write_text("images/0.png 1,1,3,3,0\n")
    (folder / "loop").symlink_to(folder / "loop")
    draw = random.Random(seed)
    calls = []
    for command, main in commands().items():
        parser = parser_of(main)
        base = base_flags(command, parser, folder)
        wrong = [*wrong_flags(parser, folder, draw)]
        if command in ("train.py", "test.py", "predict.py", "benchmark.py"):
            wrong += [["--set", f"{key}={value}"] for key, value in wrong_keys(command, draw)]
        if command == "train.py":
            wrong += [*CONTRADICTIONS, *wrong_options()]
        calls += [(command, [*base, *flags]) for flags in wrong]
    draw.shuffle(calls)
    return calls


def base_flags(command: str, parser: Parser, folder: Path) -> list[str]:
    """A call that would work but for what is added to it."""
    given = {"--dataset_dir": folder / "data", "--log_dir": folder / "log", "--out": folder / "out.json"}
    known = parser._option_string_actions
    if command == "predict.py":
        del given["--log_dir"]  # which has no effect beside --out
    flags = [word for flag, path in given.items() if flag in known for word in (flag, str(path))]
    places = {word: str(folder / word) for word in ("list.txt", "data/Synthetic/Sequence1")}
    places["Synthetic=data"] = f"Synthetic={folder / 'data'}"
    return flags + [places.get(word, word) for word in BASE.get(command, [])]


# ---------------------------------------------------------------- what is wrong


def wrong_flags(parser: Parser, folder: Path, draw: random.Random) -> Iterator[list[str]]:
    """Each flag with values that it cannot take."""
    for action in parser._actions:
        flag = next((word for word in action.option_strings if word.startswith("--")), None)
        if flag is None or action.help is argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        yield [f"{flag}_{draw.choice('xyz')}", "1"]
        if isinstance(action, argparse.BooleanOptionalAction):
            yield from ([f"{flag}={value}"] for value in ("yes", "", "1"))
            continue
        if action.nargs != "?":
            yield [flag]
        if isinstance(action, argparse._AppendAction):  # KEY=VALUE
            yield from ([flag, word] for word in ("", "x", "=", "=1"))
        elif action.type is Path:
            needed = ["--cache"] if flag == "--cache_dir" else []
            paths = (folder / "loop" / "x", folder / "file" / "x", folder / ("n" * 300), "a\0b", "\udcff")
            yield from ([*needed, flag, str(path)] for path in paths)
        elif action.choices or action.type is None or action.type is str:
            yield from ([flag, word] for word in (*NO_WORDS, "a\0b", "\udcff"))
        else:
            pair = ["1"] * (action.nargs - 1) if isinstance(action.nargs, int) else []
            words = (*NO_NUMBER, *NUMBERS, random_word(draw))
            is_bare = action.nargs == "?"  # then -- is no value
            yield from ([flag, value, *pair] for value in words if not (is_bare and value == "--"))


def wrong_keys(command: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Each key of the recipe with values that it cannot take."""
    for key, setting in SETTINGS.items():
        if not key.endswith("_options"):
            yield from ((key, value) for value in wrong_values(setting, draw))
    for key in ("epoch", "vieww.frames", "model.no_such", "loss_options.x.y", "view", "é", "a b"):
        yield key, "1"


def wrong_options() -> Iterator[list[str]]:
    """Each option of each part that has a name, with values that it cannot take."""
    draw = random.Random(0)
    groups = (
        (MODELS, "--model_names", "model"),
        (LOSSES, "--loss", "loss_options"),
        (OPTIMIZERS, "--optimizer", "optimizer_options"),
        (SCHEDULES, None, "schedule_options"),
    )
    for registry, flag, group in groups:
        for name in registry.names():
            choice = [flag, name] if flag else ["--set", f"schedule={name}"]
            yield [*choice, "--set", f"{group}.no_such_option=1"]
            for key, setting in registry.entry(name).settings.items():
                yield from ([*choice, "--set", f"{group}.{key}={v}"] for v in wrong_values(setting, draw))
    for name in AUGMENTATIONS.names():
        words = [
            f"{name}(no_such=1)",
            f"{name}(1, 2, 3, 4, 5)",
            f"{name}(",
            f"{name} {name}",
            f"{name}((1))x",
        ]
        for key, setting in AUGMENTATIONS.entry(name).settings.items():
            words += [f"{name}({key}={value})" for value in wrong_values(setting, draw) if value.strip()]
        yield from (["--set", f"augment={(word,)!r}"] for word in words)
    for name in DATASETS.names():
        yield ["--dataset_names", name, "--dataset_option", "no_such_option=1"]
        for key, setting in DATASETS.entry(name).settings.items():
            if key not in ("root", "split"):
                values = wrong_values(setting, draw)
                yield from (["--dataset_names", name, "--dataset_option", f"{key}={v}"] for v in values)


def wrong_values(setting: Setting, draw: random.Random) -> list[str]:
    """What a setting cannot take, as it is typed behind `--set key=`."""
    kinds = set(kinds_of(setting.kind))
    if setting.facts.choices:
        return [*NO_WORDS, HUGE, "None"]
    if str in kinds:
        return list(NO_WORDS)
    if Path in kinds:
        return ["[1]", "3.7", "{}"]
    values = [value for value in NO_NUMBER if value.strip()] + [random_word(draw)]
    if bool in kinds:
        return [*values, "0", "1", "None"]
    tuples = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is tuple]
    if any(str in parts for parts in tuples):
        return ["5", "x", "(1, 2)", "('no_such_word',)", "('x' 'y', 3)"]
    if tuples:
        values += ["('a', 'b')", "(1e999, 1e999)", f"({HUGE}, {HUGE})", f"(-{HUGE}, -{HUGE})", "(1, (2, 3))"]
    if int in kinds or float in kinds:
        return [*values, *NUMBERS, *["1.5"] * (float not in kinds), *["None"] * (type(None) not in kinds)]
    return values


def random_word(draw: random.Random) -> str:
    """A short word without any meaning."""
    return "".join(draw.choice("abcxyz~*?ßλ%&") for _ in range(draw.randint(1, 12)))


def is_told(argv: list[str], sentence: str) -> bool:
    """Whether a sentence names the last flag of a call, its key or its value."""
    place = max(i for i, word in enumerate(argv) if word.startswith("--") and len(word) > 2)
    flag, value = argv[place].partition("=")[0], " ".join(argv[place + 1 :])
    names = (flag.removeprefix("--"), value.split("=")[0].rpartition(".")[2], value, value.rpartition("=")[2])
    said = without_quotes(sentence)
    return any(without_quotes(name)[:20] in said for name in map(printable, names) if without_quotes(name))


def printable(text: str) -> str:
    """What cannot be printed, as `repr` shows it."""
    return text if text.isprintable() else repr(text)


def without_quotes(text: str) -> str:
    """Text without quotes, backslashes, ends of lines and blanks, which sentences show in different ways."""
    return re.sub(r"\\+n|[\\'\"\s]", "", text)
