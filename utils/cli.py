"""The flags that the commands share, and the spellings of the published READMEs."""

import argparse
from pathlib import Path
from typing import Any

from utils.recipe import parse_setting

# flag: (recipe key, type, help, spellings that published repositories use)
RECIPE_FLAGS = {
    "epochs": ("epochs", int, "training epochs", ("--epoch",)),
    "batch_size": ("batch_size", int, "clips per batch", ("--batchSize",)),
    "learning_rate": ("learning_rate", float, "initial learning rate", ("--lr",)),
    "seq_len": ("clip.frames", int, "frames per clip", ("--seqlen",)),
    "patch_size": ("clip.patch", int, "side of the square training crop", ("--patchSize",)),
    "sample_rate": ("sample_rate", float, "training clips per epoch as a share of all windows", ()),
    "optimizer": ("optimizer", str, "adam or sgd", ()),
    "loss": ("loss", str, "a name of list_losses()", ()),
    "threshold": (
        "threshold",
        float,
        "probability at which IoU, Pd and Fa are quoted",
        ("--threshold_eval",),
    ),
    "seed": ("seed", int, "seed of everything random", ()),
}


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags of every command."""
    parser = argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model_names", "--model", nargs="+", metavar="NAME", help="models, by name")
    add(
        "--dataset_names",
        "--dataset",
        nargs="+",
        metavar="NAME",
        default=["Synthetic"],
        help="data sets, by name",
    )
    add(
        "--dataset_dir",
        "--datapath",
        type=Path,
        default=Path("data"),
        help="the data set's own folder, or the parent of several",
    )
    add("--log_dir", "--logpath", "--savepath", type=Path, default=Path("log"), help="where runs are written")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    add(
        "--cache",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="keep decoded frames on the disk",
    )
    add("--cache_dir", type=Path, default=Path("log/cache"), help="where --cache keeps them")
    add(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of the recipe, such as clip.padding=repeat (repeatable)",
    )
    add(
        "--dataset_option",
        dest="dataset_options",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the data set's reader, such as box_origin=1 (repeatable)",
    )
    return parser


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


def reader_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the data set's reader that the user typed."""
    return dict(parse_setting(text) for text in args.dataset_options)
