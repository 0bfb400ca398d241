"""The flags that the commands share. Those of the recipe come from its settings: see utils.recipe.schema."""

import argparse
import textwrap
import typing
from pathlib import Path
from typing import Any

from utils.recipe.fields import Setting
from utils.recipe.resolve import SETTINGS, parse_setting
from utils.registry import AUGMENTATIONS, OPTIMIZERS, SCHEDULES

RECIPE_FLAGS: dict[str, Setting] = {s.facts.flag: s for s in SETTINGS.values() if s.facts.flag}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind each flag; description and epilogue as they are written."""


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags of every command."""
    parser = argparse.ArgumentParser(
        description=description, epilog=recipe_help(), allow_abbrev=False, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("--model_names", "--model", nargs="+", metavar="NAME", help="models, by name")
    add("--log_dir", "--logpath", "--savepath", type=Path, default=Path("log"), help="where runs are written")
    add_recipe_flags(parser, "device", "tf32", "deterministic")
    add_settings(parser, "--set", "settings", "any key of the recipe, see below, such as padding=repeat")
    return parser


def recipe_help() -> str:
    """Every key of the recipe with what it takes, its default and its meaning."""
    lines = ["keys of the recipe, for --set KEY=VALUE; the part in front of the dot may be left out:"]
    for key, setting in SETTINGS.items():
        text = f"{setting.facts.text} ({setting.takes}; default {setting.default!r})"
        lines += textwrap.wrap(f"{key}: {text}", 110, initial_indent="  ", subsequent_indent="      ")
    lines.append("and model.KEY and loss_options.KEY, which the model and the loss know")
    groups = {"optimizer_options": OPTIMIZERS, "schedule_options": SCHEDULES, "augment": AUGMENTATIONS}
    for group, registry in groups.items():
        options = {name: registry.entry(name).options for name in registry.names()}
        text = ", ".join(f"{name} ({', '.join(keys) or 'none'})" for name, keys in options.items())
        known = f"{group}, by {registry.kind}: {text or 'none'}"
        lines += textwrap.wrap(known, 110, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the commands that read data sets."""
    add = parser.add_argument
    names = {"nargs": "+", "metavar": "NAME", "default": ["Synthetic"]}
    add("--dataset_names", "--dataset", help="data sets, by name", **names)
    text = "the data set's own folder, or the parent of several"
    add("--dataset_dir", "--datapath", type=Path, default=Path("data"), help=text)
    add_switch(parser, "--cache", "keep decoded frames on the disk")
    add(
        "--cache_dir",
        type=Path,
        default=Path("log/cache"),
        help="where --cache keeps them, until unused for 30 days",
    )
    text = "an option of the data set's reader, such as box_origin=1"
    add_settings(parser, "--dataset_option", "dataset_options", text)


def add_switch(parser: argparse.ArgumentParser, flag: str, text: str, default: Any = False) -> None:
    """Add --flag and --no-flag, off by default."""
    parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)


def add_settings(parser: argparse.ArgumentParser, flag: str, name: str, text: str) -> None:
    """Add a repeatable flag that takes KEY=VALUE."""
    options = {"action": "append", "default": [], "metavar": "KEY=VALUE"}
    parser.add_argument(flag, dest=name, help=f"{text} (repeatable)", **options)


def add_recipe_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add flags of recipe settings; not typed means not overridden. Without names those not yet added."""
    known = {action.dest for action in parser._actions}
    for name in names or [n for n in RECIPE_FLAGS if n not in known]:
        setting = RECIPE_FLAGS[name]
        text = f"{setting.facts.text} (recipe: {setting.key})"
        kinds = typing.get_args(setting.kind) or (setting.kind,)
        if bool in kinds:
            add_switch(parser, f"--{name}", text, argparse.SUPPRESS)
        else:
            flags = (f"--{name}", *setting.facts.spellings)
            parser.add_argument(*flags, dest=name, type=kinds[0], default=argparse.SUPPRESS, help=text)


def typed_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the user typed of the recipe, by recipe key."""
    typed = {s.key: getattr(args, name) for name, s in RECIPE_FLAGS.items() if hasattr(args, name)}
    typed.update(parse_setting(text) for text in args.settings)
    return typed


def reader_options(typed: list[str]) -> dict[str, Any]:
    """The options of the data set's reader, from what the user typed after each --dataset_option."""
    return dict(parse_setting(text) for text in typed)
