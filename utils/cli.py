"""The flags that the commands share, and the spellings of the published READMEs."""

import argparse
from pathlib import Path
from typing import Any

from utils.recipe.schema import parse_setting

# flag: (recipe key, type, help, spellings that published repositories use)
RECIPE_FLAGS = {
    "epochs": ("epochs", int, "training epochs", ("--epoch",)),
    "batch_size": ("batch_size", int, "clips per batch", ("--batchSize",)),
    "learning_rate": ("learning_rate", float, "initial learning rate", ("--lr",)),
    "seq_len": ("clip.frames", int, "frames per clip", ("--seqlen",)),
    "patch_size": ("clip.patch", int, "side of the square that is trained on", ("--patchSize",)),
    "sample_rate": ("sample_rate", float, "training clips per epoch as a share of all windows", ()),
    "optimizer": ("optimizer", str, "adam or sgd", ()),
    "loss": ("loss", str, "a name of list_losses()", ()),
    "threshold": (
        "threshold",
        float,
        "probability at which IoU, Pd and Fa are quoted",
        ("--threshold_eval",),
    ),
    "protocol": ("protocol", str, "published (by the model's paper) or clean (the same for all)", ()),
    "seed": ("seed", int, "seed of everything random", ()),
}


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags of every command."""
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model_names", "--model", nargs="+", metavar="NAME", help="models, by name")
    add("--log_dir", "--logpath", "--savepath", type=Path, default=Path("log"), help="where runs are written")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    add_switch(parser, "--tf32", "faster, coarser sums on a GPU")
    add_switch(parser, "--deterministic", "the same bits in every run, on a GPU too; slower there")
    add_settings(parser, "--set", "settings", "any other key of the recipe, such as clip.padding=repeat")
    return parser


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the commands that read data sets."""
    add = parser.add_argument
    names = {"nargs": "+", "metavar": "NAME", "default": ["Synthetic"]}
    add("--dataset_names", "--dataset", help="data sets, by name", **names)
    text = "the data set's own folder, or the parent of several"
    add("--dataset_dir", "--datapath", type=Path, default=Path("data"), help=text)
    add_switch(parser, "--cache", "keep decoded frames on the disk")
    add("--cache_dir", type=Path, default=Path("log/cache"), help="where --cache keeps them")
    text = "an option of the data set's reader, such as box_origin=1"
    add_settings(parser, "--dataset_option", "dataset_options", text)


def add_switch(parser: argparse.ArgumentParser, flag: str, text: str) -> None:
    """Add --flag and --no-flag, off by default."""
    parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=False, help=text)


def add_settings(parser: argparse.ArgumentParser, flag: str, name: str, text: str) -> None:
    """Add a repeatable flag that takes KEY=VALUE."""
    options = {"action": "append", "default": [], "metavar": "KEY=VALUE"}
    parser.add_argument(flag, dest=name, help=f"{text} (repeatable)", **options)


def add_recipe_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add flags that override the recipe; not typed means not overridden."""
    for name in names:
        key, kind, text, spellings = RECIPE_FLAGS[name]
        parser.add_argument(
            f"--{name}",
            *spellings,
            dest=name,
            type=kind,
            default=argparse.SUPPRESS,
            help=f"{text} (recipe: {key})",
        )


def typed_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the user typed of the recipe, by recipe key."""
    typed = {
        key: getattr(args, name)
        for name, (key, *_) in RECIPE_FLAGS.items()
        if getattr(args, name, None) is not None
    }
    typed.update(parse_setting(text) for text in args.settings)
    return typed


def reader_options(typed: list[str]) -> dict[str, Any]:
    """The options of the data set's reader, from what the user typed after each --dataset_option."""
    return dict(parse_setting(text) for text in typed)
