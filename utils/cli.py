"""The flags that the commands share. Those of the recipe come from its settings: see utils.recipe.schema."""

import argparse
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import UserError, near_matches
from utils.recipe.fields import Facts, Setting, build, put_once, settings_of, shown
from utils.recipe.resolve import SETTINGS, full_keys, parse_setting
from utils.registry import AUGMENTATIONS, LOSSES, MODELS, OPTIMIZERS, SCHEDULES
from utils.tracking import TrackSettings

LARGEST_FRAME = 32_768  # a side that a flag may ask for, in pixels
OWN_FLAGS = {"name": "--dataset_names", "root": "--dataset_dir", "split": "--split"}  # of create_dataset
RECIPE_FLAGS: dict[str, Setting] = {s.facts.flag: s for s in SETTINGS.values() if s.facts.flag}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, as all of the commands' are; flags are not abbreviated.

    What was typed of a recipe is checked here, before anything is read.
    """

    def __init__(self, description: str, **options: Any):
        super().__init__(description=description, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        """The flags. Raises UserError for what is unknown or wrong."""
        typed = sys.argv[1:] if args is None else args
        for word in typed:
            if "\0" in word or not word.isascii() and word.encode(errors="replace").decode() != word:
                self.error(f"{shown(word)} is no UTF-8 text; type it anew, or rename what it names")
        found, unknown = self.parse_known_args(typed, namespace)
        if unknown:
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            is_flag = unknown[0].startswith("-")
            hint = near_matches(unknown[0], flags) if is_flag else "it belongs to no flag"
            self.error(f"unrecognized arguments: {shown(unknown[0])}; {hint}")
        if hasattr(found, "settings"):
            typed_settings(found)
        if hasattr(found, "dataset_options"):
            reader_options(found.dataset_options)
        if hasattr(found, "track_options"):
            track_settings(found)
        if not getattr(found, "cache", True) and found.cache_dir != self.get_default("cache_dir"):
            self.error("--cache_dir has no effect without --cache; add it or leave both out")
        if hasattr(found, "init"):
            self.check_start(found)
        if hasattr(found, "sources") and hasattr(found, "dataset_names"):
            self.check_sources(found)
        return found

    def check_start(self, found: argparse.Namespace) -> None:
        """Raises UserError for flags of `add_start_flags` that do not go together."""
        if found.init_only is not None and found.init is None:
            self.error("--init_only has no effect without --init; add it or leave both out")
        if found.init is not None and found.resume is not None:
            self.error("--resume goes on with the weights of its own run; leave --init out, or --resume")
        if found.init is not None and len(found.model_names or []) > 1:
            self.error(
                "--init is the start of one model; name one in --model_names, and train each by itself"
            )

    def check_sources(self, found: argparse.Namespace) -> None:
        """Raises UserError for flags that have no effect beside others, and for too many or no sources."""
        if bool(found.sources) == bool(found.dataset_names):
            self.error("name either sources or --dataset_names")
        for flag in ("dataset_dir", "split", "dataset_options"):
            if found.sources and getattr(found, flag) != self.get_default(flag):
                self.error(f"--{flag.removesuffix('s')} has no effect without --dataset_names; leave it out")
        if found.out and found.log_dir != self.get_default("log_dir"):
            self.error("--log_dir has no effect beside --out; leave one of them out")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind each flag; description and epilogue as they are written."""


def new_parser(description: str) -> Parser:
    """A parser with the flags of every command."""
    parser = Parser(description, epilog=recipe_help(), formatter_class=HelpFormatter)
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
    groups = {
        "model": MODELS,
        "loss_options": LOSSES,
        "optimizer_options": OPTIMIZERS,
        "schedule_options": SCHEDULES,
        "augment": AUGMENTATIONS,
    }
    for group, registry in groups.items():
        options = {name: registry.entry(name).options for name in registry.names()}
        text = ", ".join(f"{name} ({', '.join(keys) or 'none'})" for name, keys in options.items())
        known = f"{group}, by {registry.kind}: {text or 'those that are registered'}"
        lines += textwrap.wrap(known, 110, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the commands that read data sets again and again."""
    add_set_flags(parser)
    add_switch(parser, "--cache", "keep decoded frames on the disk")
    parser.add_argument(
        "--cache_dir",
        type=Path,
        default=Path("log/cache"),
        help="where --cache keeps them, until unused for 30 days",
    )


def add_set_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name data sets."""
    add = parser.add_argument
    names = {"nargs": "+", "metavar": "NAME", "default": ["Synthetic"]}
    add("--dataset_names", "--dataset", help="data sets, by name", **names)
    text = "the data set's own folder, or the parent of several"
    add("--dataset_dir", "--datapath", type=Path, default=Path("data"), help=text)
    text = "an option of the data set's reader, such as box_origin=1"
    add_settings(parser, "--dataset_option", "dataset_options", text)


def add_weight_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the weights of models come from."""
    add, options = parser.add_argument, {"nargs": "+", "type": Path, "default": []}
    add("--checkpoint", help="checkpoints that train.py wrote; each names its model", **options)
    add("--official", help="published weights, in the order of --model_names", **options)


def add_scoring_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say by which rules predictions are scored."""
    text = "score as the model's paper does, by the rules that are the same for all, or side by side"
    choices = ("published", "clean")
    options = {"choices": choices, "default": list(choices), "dest": "protocols"}
    parser.add_argument("--protocol", nargs="+", help=text, **options)
    add_track_flags(parser)


def protocols(args: argparse.Namespace) -> list[str]:
    """The names of the protocols by which predictions are scored, by the flags of `add_scoring_flags`."""
    return [*dict.fromkeys(args.protocols), *["tracks"] * args.tracks]


def add_track_flags(parser: argparse.ArgumentParser, default: bool = False) -> None:
    """Add the flags that say whether detections are linked to tracks, and how."""
    text = "link the detections to tracks; a test scores these where truth has identities"
    options = {"nargs": "?", "const": True, "default": default, "metavar": "on|off"}
    parser.add_argument("--tracks", type=on_or_off, help=text, **options)
    known = ", ".join(
        f"{key} ({one.facts.text}; {one.default})" for key, one in settings_of(TrackSettings).items()
    )
    add_settings(
        parser, "--track_option", "track_options", f"an option of the tracks, such as hits=4: {known}"
    )


def track_settings(args: argparse.Namespace) -> TrackSettings | None:
    """How tracks are made, by the flags of `add_track_flags`; None: they are not.

    Raises UserError for what is unknown or wrong, and for an option of tracks that are not made.
    """
    typed: dict[str, Any] = {}
    for text in args.track_options:
        put_once(typed, *parse_setting(text, "--track_option"))
    if typed and not args.tracks:
        raise UserError("--track_option has no effect without --tracks; add it or leave both out")
    settings = build(TrackSettings, typed, "--tracks")
    return settings if args.tracks else None


def on_or_off(word: str) -> bool:
    """For the `type` of a flag. Raises ArgumentTypeError for another word."""
    if word not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"it takes on or off, not {shown(word)}")
    return word == "on"


def add_start_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what a training starts from, other than from the network's own start."""
    add = parser.add_argument
    add(
        "--resume",
        nargs="?",
        const="latest",
        metavar="RUN",
        help="continue a run: its folder or last.pth; without a value the newest of the model and data set",
    )
    text = "start from the weights of a checkpoint, of a published file or of a part, as far as they fit"
    add("--init", type=Path, metavar="FILE", help=text)
    text = "take of it only what has this regular expression in its name in the model, such as norm"
    add("--init_only", type=regular_expression, metavar="PATTERN", help=text)


def regular_expression(word: str) -> str:
    """A typed word that is one, for the `type` of a flag."""
    try:
        re.compile(word)
    except (re.error, RecursionError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"it takes a regular expression, not {shown(word)}: {error}"
        ) from None
    return word


def add_switch(parser: argparse.ArgumentParser, flag: str, text: str, default: Any = False) -> None:
    """Add --flag and --no-flag, off by default."""
    parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)


def number(kind: type, **limits: float) -> Callable[[str], Any]:
    """What makes a number of a typed word, for the `type` of a flag; `limits` as in Facts."""
    wanted = Setting("", kind, None, Facts("", **limits))

    def parse(word: str) -> Any:
        try:
            return wanted.checked(kind(word))
        except (ValueError, UserError):
            raise argparse.ArgumentTypeError(f"it takes {wanted.takes}, not {shown(word)}") from None

    return parse


def frame_size(least: int = 1) -> Callable[[str], tuple[int, int]]:
    """What makes (height, width) of a typed "480x720", for the `type` of a flag; each at least `least`."""

    def parse(word: str) -> tuple[int, int]:
        found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", word, re.ASCII)
        size = tuple(map(int, found.groups())) if found else (0, 0)
        if not all(least <= side <= LARGEST_FRAME for side in size):
            raise argparse.ArgumentTypeError(
                f"it takes HEIGHTxWIDTH like 480x720, sides of {least} to {LARGEST_FRAME}, not {shown(word)}"
            )
        return size

    return parse


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
    """What the user typed of the recipe, by recipe key.

    Raises UserError for an unknown key, a value that its key does not take, and two values of one key.
    """
    typed: dict[str, Any] = {}
    for name, chosen in RECIPE_FLAGS.items():
        if hasattr(args, name):
            typed[chosen.key] = chosen.checked(getattr(args, name), f"--{name}")
    for text in args.settings:
        key, value = parse_setting(text)
        for name, found in full_keys({key: value}, {}).items():
            if name in SETTINGS:
                SETTINGS[name].checked(found)
        put_once(typed, key, value)
    full_keys(typed, {})  # raises for two spellings of one key with two values
    return typed


def reader_options(typed: list[str]) -> dict[str, Any]:
    """The options of the data set's reader, from what the user typed after each --dataset_option.

    Raises UserError for what has a flag of its own, and for two values of one option.
    """
    options: dict[str, Any] = {}
    for text in typed:
        key, value = parse_setting(text, "--dataset_option")
        if key in OWN_FLAGS:
            raise UserError(f"--dataset_option does not take {key}; type it as {OWN_FLAGS[key]}")
        put_once(options, key, value)
    return options
