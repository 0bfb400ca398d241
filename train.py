"""Train detectors by name: `python train.py --model_names DeepPro --dataset_names NUDT-MIRSDT`."""

import argparse
import dataclasses
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from dataset import SequenceSet, create_dataset
from dataset.clips import EpochBatches, training_clips
from dataset.video import TestVideo
from loss import create_loss
from metrics.protocols import protocol_lines
from model import create_model
from utils.boxes import Prediction
from utils.checkpoint import load_weights, read_checkpoint, save_checkpoint
from utils.cli import add_data_flags, add_recipe_flags, new_parser, reader_options, typed_settings
from utils.engine.loop import Progress, Stopped, StopRequest, fit
from utils.engine.optim import AveragedWeights, freeze, make_optimizer
from utils.engine.predict import predict_video
from utils.engine.runtime import pick_device
from utils.engine.score import figure_names, score_set
from utils.errors import UserError, run_command
from utils.files import write_json
from utils.recipe.schema import Recipe, flat, meant, recipe_from_dict, resolve_recipe
from utils.registry import DATASETS, MODELS
from utils.report.pictures import overlay, tile_of
from utils.runlog import Record, latest_run, new_run_folder
from utils.seed import random_state, restore_random_state, set_seed

SCORES = {  # what an epoch records and prints of its validation
    "iou": "IoU {:.4f}",
    "pd": "Pd {:.2%}",
    "fa": "Fa {:.2e}",
    "auc": "AUC {:.4f}",
    "ap50": "AP50 {:.2%}",
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("Train detectors of infrared small moving targets.")
    add_data_flags(parser)
    add_recipe_flags(parser, "epochs", "batch_size", "learning_rate", "seq_len", "patch_size", "sample_rate")
    add_recipe_flags(parser, "optimizer", "loss", "threshold", "protocol", "seed")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="RUN",
        help="continue a run: its folder or last.pth; without a value the newest of the model and data set",
    )
    parser.add_argument(
        "--num_workers", type=int, help="clip-loading processes (default: half the cores, up to 4)"
    )
    parser.add_argument(
        "--save_every", type=int, default=200, help="batches between saves of last.pth within an epoch"
    )
    return parser.parse_args(argv)


class TrainingRun:
    """One model on one data set: builds the parts, keeps the run's folder, saves and validates."""

    def __init__(self, args: argparse.Namespace, model_name: str, dataset_name: str):
        self.args, self.device = args, pick_device(args.device, args.tf32, args.deterministic)
        self.model_name = MODELS.entry(model_name).name
        self.dataset_name = DATASETS.entry(dataset_name).name
        saved = self.read_saved_run()
        self.recipe = self.resolve(saved)

        set_seed(self.recipe.seed)
        self.model = create_model(self.model_name, **self.recipe.model).to(self.device)
        self.loss = create_loss(self.recipe.loss, **self.recipe.loss_options)
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.average = AveragedWeights(self.model, self.recipe.ema) if self.recipe.ema else None
        self.progress = Progress()
        self.lines = self.make_lines()  # or refuses before the work
        training, self.validation = self.read_data()
        self.check_validation()
        cache = args.cache_dir if args.cache else None
        self.clips = training_clips(
            training, self.recipe.clip, self.recipe.sample_rate, self.recipe.seed, cache
        )
        self.videos = [TestVideo(s, self.validation, self.recipe.clip, cache) for s in self.validation]
        if saved:
            self.restore(saved)
        else:
            self.folder = new_run_folder(args.log_dir, self.dataset_name, self.model_name)
        self.record = Record(self.folder / "train.jsonl", self.progress.epoch)
        self.board = SummaryWriter(str(self.folder), purge_step=self.progress.steps)
        self.epoch_start = time.perf_counter()

    # ---------------------------------------------------------------- what is trained, on what

    def read_saved_run(self) -> dict[str, Any] | None:
        if not self.args.resume:
            return None
        if self.args.resume == "latest":
            self.folder = latest_run(Path(self.args.log_dir, self.dataset_name, self.model_name))
        else:
            path = Path(self.args.resume)
            self.folder = path.parent if path.is_file() else path
        saved = read_checkpoint(self.folder / "last.pth")
        if (saved["model"], saved["dataset"]) != (self.model_name, self.dataset_name):
            raise UserError(
                f"{self.folder} trains {saved['model']} on {saved['dataset']}, not {self.model_name} on "
                f"{self.dataset_name}; name these in --model_names and --dataset_names"
            )
        return saved

    def resolve(self, saved: dict[str, Any] | None) -> Recipe:
        typed = typed_settings(self.args)
        if not saved:
            return resolve_recipe(MODELS.entry(self.model_name).facts["recipe"], self.dataset_name, typed)
        recipe = recipe_from_dict(saved["recipe"])
        before = flat(recipe.to_dict())
        for key, value in meant(typed, recipe.clip.letterbox).items():
            if key != "epochs" and before.get(key) != value:
                raise UserError(
                    f"the run in {self.folder} has {key}={before.get(key)}, which --resume cannot change to "
                    f"{value}; leave the flag out or start a new run"
                )
        return dataclasses.replace(recipe, epochs=typed.get("epochs", recipe.epochs))

    def read_data(self) -> tuple[SequenceSet, SequenceSet]:
        """(training, validation) sequences, as the recipe's `validation` says."""
        options = reader_options(self.args.dataset_options)
        training = create_dataset(self.dataset_name, self.args.dataset_dir, "train", **options)
        for note in training.notes:
            print(f"note: {note}")
        if self.recipe.validation == "test":
            print("best.pth is chosen on the test split, as published; --set validation=holdout avoids it")
            return training, create_dataset(self.dataset_name, self.args.dataset_dir, "test", **options)
        chosen = set(range(self.recipe.holdout - 1, len(training), self.recipe.holdout))
        if not chosen:
            raise UserError(
                f"{self.dataset_name} has {len(training)} training sequences, too few to hold out every "
                f"{self.recipe.holdout}th; lower --set holdout="
            )
        held = tuple(s for i, s in enumerate(training) if i in chosen)
        rest = tuple(s for i, s in enumerate(training) if i not in chosen)
        return dataclasses.replace(training, sequences=rest), dataclasses.replace(training, sequences=held)

    def check_validation(self) -> None:
        kinds = {
            "iou": ("masks",),
            "ap50": ("boxes", "masks"),
            "pd": ("masks", "boxes", "points", "centroids"),
        }
        wanted = kinds[self.recipe.best]
        for sequence in self.validation:
            if all(getattr(sequence, kind) is None for kind in wanted):
                raise UserError(
                    f"{self.dataset_name} {sequence.name} has no {' or '.join(wanted)}, so it cannot "
                    f"validate by {self.recipe.best}; add them, use --set validation=holdout or --set best=pd"
                )
        if self.recipe.best not in self.scored():
            raise UserError(
                f"the {self.recipe.protocol} protocol of {self.recipe.scoring} does not score "
                f"{self.recipe.best}; --set best= takes one of {', '.join(self.scored())}"
            )

    def scored(self) -> list[str]:
        """Which of the validation scores the protocol gives."""
        return [key for key in SCORES if key in figure_names(self.lines)]

    def make_loader(self) -> DataLoader:
        workers = self.args.num_workers
        if workers is None:
            workers = min(4, (os.cpu_count() or 1) // 2)
        return DataLoader(
            self.clips,
            batch_sampler=EpochBatches(len(self.clips), self.recipe.batch_size, self.recipe.seed),
            collate_fn=self.clips.collate,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=leave_interrupts_to_main,
            generator=torch.Generator(),  # its own, so that the global one is the training's alone
        )

    # ---------------------------------------------------------------- saving, validating

    def restore(self, saved: dict[str, Any]) -> None:
        weights = saved["weights"]
        if self.average:
            load_weights(self.average.model, weights, self.folder / "last.pth")
            weights = saved["trained_weights"]
        load_weights(self.model, weights, self.folder / "last.pth")
        self.optimizer.load_state_dict(saved["optimizer"])
        self.progress = Progress(**saved["progress"])
        restore_random_state(saved["random"])

    @property
    def tested(self) -> nn.Module:
        """What validates and is tested later: the averaged weights where the recipe asks for an average."""
        return self.average.model if self.average else self.model

    def save(self, name: str, scores: dict[str, float] | None = None) -> None:
        save_checkpoint(
            self.folder / name,
            {
                "model": self.model_name,
                "dataset": self.dataset_name,
                "recipe": self.recipe.to_dict(),
                "weights": self.tested.state_dict(),
                **({"trained_weights": self.model.state_dict()} if self.average else {}),
                "optimizer": self.optimizer.state_dict(),
                "progress": dataclasses.asdict(self.progress),
                "random": random_state(),
                "scores": scores or {},
            },
        )

    def before_epoch(self, epoch: int) -> None:
        freeze(self.model, self.recipe, epoch)

    def after_batch(self, loss: float) -> None:
        if self.average:
            self.average.update(self.model, self.progress.steps)
        self.board.add_scalar("train/loss", loss, self.progress.steps)
        if self.stop.asked or self.progress.batch % self.args.save_every == 0:
            self.save("last.pth")
        if self.stop.asked:
            raise Stopped

    def after_epoch(self, mean_loss: float, learning_rate: float) -> None:
        train_seconds = time.perf_counter() - self.epoch_start
        scores = self.validate()
        score = scores[self.recipe.best]
        is_best = self.progress.best is None or score >= self.progress.best
        if is_best:
            self.progress.best = score
        figures = {k: scores[k] for k in SCORES if k in scores}
        entry = {
            "epoch": self.progress.epoch,
            "loss": mean_loss,
            "learning_rate": learning_rate,
            **figures,
            "train_seconds": round(train_seconds, 2),
            "seconds": round(time.perf_counter() - self.epoch_start, 2),
        }
        self.record.add(entry)
        for key in ("loss", "learning_rate", *figures):
            self.board.add_scalar(f"epoch/{key}", entry[key], self.progress.steps)
        self.board.flush()
        if is_best:
            self.save("best.pth", scores)
        self.save("last.pth", scores)
        shown = "  ".join(SCORES[key].format(value) for key, value in figures.items())
        print(
            f"epoch {self.progress.epoch:3d}/{self.recipe.epochs}  loss {mean_loss:.4f}  {shown}  "
            f"{self.recipe.protocol} protocol  {entry['seconds']:.1f} s{'  best' if is_best else ''}",
            flush=True,
        )
        self.epoch_start = time.perf_counter()
        if self.stop.asked and self.progress.epoch < self.recipe.epochs:
            raise Stopped

    def validate(self) -> dict[str, float]:
        def show(video: TestVideo, index: int, prediction: Prediction, truth: dict) -> None:
            if video is self.videos[0] and index == len(video.frames) // 2:
                tile = tile_of(video, index, prediction, truth)
                picture = overlay(tile.image, tile.found, tile.truth, self.recipe.threshold, scale=2)
                self.board.add_image("prediction", picture, self.progress.steps, dataformats="HWC")

        predict = partial(predict_video, self.tested, self.device, self.recipe.threshold)
        groups, _ = score_set(predict, self.videos, {}, self.lines, show)
        best = {self.recipe.best: groups["all"].figure(self.lines, self.recipe.best)}
        return groups["all"].figures(self.lines[0]) | best

    def make_lines(self) -> list[Any]:
        recipe = self.recipe
        return protocol_lines(
            [recipe.protocol], recipe.scoring, recipe.threshold, recipe.match, recipe.exclude
        )

    def run(self) -> None:
        write_json(self.folder / "recipe.json", {**self.describe(), "recipe": self.recipe.to_dict()})
        print(f"{self.model_name} on {self.dataset_name}: {len(self.clips)} clips an epoch, in {self.folder}")
        print("recipe: " + ", ".join(f"{k}={v}" for k, v in flat(self.recipe.to_dict()).items()))
        print(f"validation: {self.recipe.protocol} protocol, {self.lines[0].text}")
        with StopRequest() as self.stop, self.board:
            if self.progress.steps == 0:
                self.save("last.pth")
            if self.progress.epoch >= self.recipe.epochs:
                print(
                    f"the run is finished after {self.progress.epoch} epochs; --epochs with more continues it"
                )
            self.epoch_start = time.perf_counter()
            try:
                fit(
                    self.model,
                    self.loss,
                    self.optimizer,
                    self.make_loader(),
                    self.recipe,
                    self.progress,
                    self.device,
                    self.before_epoch,
                    self.after_batch,
                    self.after_epoch,
                )
            except Stopped:
                print(f"stopped after {self.progress.steps} steps; continue with:\n  {self.resume_command()}")
                raise KeyboardInterrupt from None

    def describe(self) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "dataset": self.dataset_name,
            "dataset_dir": self.args.dataset_dir,
            "device": str(self.device),
            "torch": torch.__version__,
        }

    def resume_command(self) -> str:
        """The command that continues this run on the same data and device, quoted for any shell."""
        args = self.args
        flags = [f"--model_names {self.model_name} --dataset_names {self.dataset_name}"]
        flags += [f'--dataset_dir "{args.dataset_dir}"', f"--device {args.device}"]
        flags += ["--tf32"] * args.tf32 + ["--deterministic"] * args.deterministic
        flags += [f'--dataset_option "{option}"' for option in args.dataset_options]
        flags += [f'--resume "{self.folder}"']
        return f"python train.py {' '.join(flags)}"


def leave_interrupts_to_main(_worker: int) -> None:
    """Ctrl-C reaches every process; the main one alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.save_every < 1:
        raise UserError(f"--save_every takes 1 or more, not {args.save_every}")
    pairs = [(m, d) for d in args.dataset_names for m in args.model_names or ["DeepPro"]]
    for model_name, dataset_name in pairs:
        MODELS.entry(model_name), DATASETS.entry(dataset_name)
    for model_name, dataset_name in pairs:
        TrainingRun(args, model_name, dataset_name).run()


if __name__ == "__main__":
    run_command(main)
