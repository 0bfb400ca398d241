"""One training run: its folder, its record, its validation and its checkpoints."""

import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter

from utils.checkpoint import save_checkpoint
from utils.engine.loop import Hooks, Stopped, StopRequest, fit
from utils.engine.runtime import Runtime
from utils.engine.state import TrainState
from utils.engine.validation import Validation
from utils.files import write_json
from utils.recipe.resolve import flat
from utils.recipe.schema import PARTS, Recipe
from utils.report.pictures import overlay, tile_of
from utils.runlog import Record, new_run_folder
from utils.seed import random_state, restore_random_state


class TrainingRun:
    """One model on one data set. Nothing is written before `run`.

    names:   of the model and of the data set
    clips:   training clips, with `collate`
    batches: their batch sampler, with `epoch` and `start`
    saved:   the checkpoint to continue from, and `folder` its place; else a new folder below `log_dir`
    facts:   what recipe.json says besides the recipe
    resume:  the command that continues the run, but for `--resume`
    """

    def __init__(
        self,
        names: tuple[str, str],
        recipe: Recipe,
        state: TrainState,
        loss: Callable,
        clips: Dataset,
        batches: Sampler,
        validation: Validation,
        runtime: Runtime,
        *,
        log_dir: Path,
        facts: dict[str, Any],
        resume: str,
        saved: dict[str, Any] | None = None,
        folder: Path | None = None,
    ):
        self.names, self.recipe, self.state, self.loss = names, recipe, state, loss
        self.clips, self.batches, self.validation, self.runtime = clips, batches, validation, runtime
        self.log_dir, self.facts, self.resume = log_dir, facts, resume
        self.saved, self.folder = saved, folder
        self.random = random_state()  # as the building of the parts has left it

    # ---------------------------------------------------------------- from the first to the last step

    def run(self) -> None:
        """Train to the end of the recipe. Raises KeyboardInterrupt after a stop that the user asked for."""
        self.start()
        with StopRequest() as self.stop, self.board:
            if self.progress.steps == 0:
                self.save("last.pth")
            epochs = self.recipe.optimisation.epochs
            if self.progress.epoch >= epochs:
                print(
                    f"{self.progress.epoch} epochs are finished, --epochs is {epochs}: more continue the run"
                )
            hooks = Hooks(self.after_batch, self.after_epoch)
            try:
                fit(self.state, self.loss, self.loader(), self.recipe.optimisation, self.runtime, hooks)
            except Stopped:
                command = f'{self.resume} --resume "{self.folder}"'
                print(f"stopped after {self.progress.steps} steps; continue with:\n  {command}")
                raise KeyboardInterrupt from None
            if self.stop.asked:  # in the last epoch, which is finished: no other run begins
                raise KeyboardInterrupt

    def start(self) -> None:
        """Make or take the folder, bring back what was saved, say what is trained."""
        self.state.to(self.runtime.device)
        restore_random_state(self.random)
        if self.saved:
            self.state.restore(self.saved, self.folder / "last.pth")
            self.saved = None
        else:
            self.folder = new_run_folder(self.log_dir, *reversed(self.names))
        self.record = Record(self.folder / "train.jsonl", self.progress.epoch)
        self.board = SummaryWriter(str(self.folder), purge_step=self.progress.steps + 1)
        recipe = self.recipe.to_dict()
        write_json(self.folder / "recipe.json", {**self.header(), **self.facts, "recipe": recipe})
        model, dataset = self.names
        print(f"{model} on {dataset}: clips per epoch: {len(self.clips)}, in {self.folder}")
        for part in ("model", *PARTS):
            print(f"{part}: " + ", ".join(f"{k}={v!r}" for k, v in flat(recipe[part]).items()))
        rules = "; ".join(line.text for line in self.validation.lines)
        place = {
            "test": "the test split, as published; --set validation=holdout avoids it",
            "holdout": "sequences held out of training",
        }
        print(f"best.pth is chosen by {self.validation.best} on {place[self.recipe.sampling.validation]}")
        print(f"validation: {self.recipe.scoring.protocol} protocol, {rules}", flush=True)
        if self.progress.steps:
            print(f"it continues after {self.progress.epoch} epochs and {self.progress.batch} batches")
        self.epoch_start = time.perf_counter()

    @property
    def progress(self):
        return self.state.progress

    def header(self) -> dict[str, str]:
        return {"model": self.names[0], "dataset": self.names[1]}

    def loader(self) -> DataLoader:
        workers = self.recipe.runtime.num_workers
        if workers is None:
            workers = min(4, (os.cpu_count() or 1) // 2)
        return DataLoader(
            self.clips,
            batch_sampler=self.batches,
            collate_fn=self.clips.collate,
            num_workers=workers,
            pin_memory=self.runtime.pins_memory,
            persistent_workers=workers > 0,
            worker_init_fn=leave_interrupts_to_main,
            generator=torch.Generator(),  # its own, so that the global one is the training's alone
        )

    def save(self, name: str, scores: dict[str, float] | None = None) -> None:
        """Write a checkpoint of the state into the run's folder."""
        if self.runtime.is_main:
            recipe = self.recipe.to_dict()
            content = {**self.header(), "recipe": recipe, **self.state.content(), "scores": scores or {}}
            save_checkpoint(self.folder / name, content)

    # ---------------------------------------------------------------- after each batch and epoch

    def after_batch(self, terms: dict[str, float]) -> None:
        for name, value in terms.items():
            self.board.add_scalar(f"train/{name}", value, self.progress.steps)
        if self.stop.asked or self.progress.batch % self.recipe.runtime.save_every == 0:
            self.save("last.pth")
        if self.stop.asked:
            raise Stopped

    def after_epoch(self, terms: dict[str, float], learning_rate: float) -> None:
        train_seconds = time.perf_counter() - self.epoch_start
        epoch, epochs = self.progress.epoch, self.recipe.optimisation.epochs
        is_scored = epoch % self.recipe.scoring.validate_every == 0 or epoch == epochs
        scores = self.validate() if is_scored else {}
        is_best = is_scored and self.is_best(scores[self.validation.best])
        entry = {
            "epoch": epoch,
            **{name if name == "loss" else f"loss_{name}": value for name, value in terms.items()},
            "learning_rate": learning_rate,
            **scores,
            "train_seconds": round(train_seconds, 2),
            "seconds": round(time.perf_counter() - self.epoch_start, 2),
        }
        self.record.add(entry)
        for name, value in entry.items():
            if name != "epoch":
                self.board.add_scalar(f"epoch/{name}", value, self.progress.steps)
        self.board.flush()
        if is_best:
            self.save("best.pth", scores)
        self.save("last.pth", scores)
        parts = [f"epoch {epoch:3d}/{epochs}", f"loss {terms['loss']:.4f}"]
        parts += (
            [*self.validation.texts(scores), f"{self.recipe.scoring.protocol} protocol"] if is_scored else []
        )
        print("  ".join([*parts, f"{entry['seconds']:.1f} s", *["best"] * is_best]), flush=True)
        self.epoch_start = time.perf_counter()
        if self.stop.asked and epoch < epochs:
            raise Stopped

    def is_best(self, score: float) -> bool:
        """Whether a score is at least as good as the best one so far, which it then replaces.

        While no score was a number, as without any target, the last epoch counts as the best.
        """
        best = self.progress.best
        if best is None or math.isnan(best):
            self.progress.best = score
            return True
        is_best = score >= best if self.validation.is_higher_better else score <= best
        if is_best:
            self.progress.best = score
        return is_best

    def validate(self) -> dict[str, float]:
        """The scores of the weights that are kept."""

        def show(video, index: int, prediction, truth: dict) -> None:
            if video is self.validation.videos[0] and index == len(video.frames) // 2:
                tile = tile_of(video, index, prediction, truth)
                threshold = self.recipe.scoring.threshold
                picture = overlay(tile.image, tile.found, tile.truth, threshold, scale=2)
                self.board.add_image("prediction", picture, self.progress.steps, dataformats="HWC")

        return self.validation.score(self.state.evaluated, self.runtime, show)


def leave_interrupts_to_main(_worker: int) -> None:
    """Ctrl-C reaches every process; the main one alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
