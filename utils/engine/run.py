"""One training run: its folder, its record, its validation and its checkpoints."""

import math
import os
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, Sampler

from utils.checkpoint import save_checkpoint
from utils.engine.initial import initial_line
from utils.engine.loading import ClipLoader
from utils.engine.loop import Hooks, fit
from utils.engine.resume import SavedRun
from utils.engine.runtime import Runtime
from utils.engine.state import TrainState
from utils.engine.validation import Validation
from utils.errors import UserError
from utils.files import remove_abandoned, write_json
from utils.recipe.resolve import flat
from utils.recipe.schema import PARTS, Recipe
from utils.report.drawing import overlay
from utils.report.pictures import tile_of
from utils.runlog import Curves, Record, RunLock, new_run_folder
from utils.seed import random_state, restore_random_state
from utils.signals import Stopped, StopRequest, handling


class TrainingRun:
    """One model on one data set. Nothing is written before `run`.

    names:   of the model and of the data set
    clips:   training clips, with `collate`
    batches: their batch sampler, with `epoch` and `start`
    log_dir: where a new run gets its folder
    facts:   what recipe.json says besides the recipe
    data:    the fingerprint of each part of the data
    init:    what a new run starts from, as utils.engine.initial tells it; None: from its own start
    resume:  the command that continues the run, but for `--resume`
    saved:   the run to go on with; None: a new one
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
        data: dict[str, Any],
        init: dict[str, Any] | None = None,
        resume: str,
        saved: SavedRun | None = None,
    ):
        self.names, self.recipe, self.state, self.loss = names, recipe, state, loss
        self.clips, self.batches, self.validation, self.runtime = clips, batches, validation, runtime
        self.log_dir, self.facts, self.data, self.resume, self.saved = log_dir, facts, data, resume, saved
        self.init = saved.content.get("init") if saved else init
        self.saved_steps: int | None = None  # of last.pth
        self.stop = StopRequest()
        self.was_removed = False  # its folder, by somebody, while it ran
        self.random = random_state()  # as the building of the parts has left it

    # ---------------------------------------------------------------- from the first to the last step

    def run(self) -> None:
        """Train to the end of the recipe. Raises KeyboardInterrupt after a stop that somebody asked for.

        Whatever else ends it, the state after the last finished batch is saved.
        """
        with handling(self.stop), ExitStack() as self.opened:
            self.start()
            try:
                self.train()
            except Stopped:
                self.save_steps()
                self.tell_how_to_go_on(f"stopped after {self.progress.steps} steps")
                raise KeyboardInterrupt from None
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # the memory of the step that has failed
                self.rescue()
                raise
            if self.stop.asked:  # in the last epoch, which is finished: no other run begins
                raise KeyboardInterrupt

    def train(self) -> None:
        """All steps that are left. Raises Stopped."""
        if self.progress.steps == 0:
            self.save("last.pth")
        epochs = self.recipe.optimisation.epochs
        if self.progress.epoch >= epochs:
            print(f"{self.progress.epoch} epochs are finished, --epochs is {epochs}: more continue the run")
        hooks = Hooks(self.after_batch, self.save_steps, self.after_epoch)
        loader = self.opened.enter_context(closing(self.loader(self.clips, self.batches)))
        fit(self.state, self.loss, loader, self.recipe.optimisation, self.runtime, hooks)

    def start(self) -> None:
        """Make or take the folder, bring back what was saved, say what is trained."""
        self.state.to(self.runtime.device)
        restore_random_state(self.random)
        if self.saved:
            self.take_up(self.saved)
            self.saved = None
        else:
            self.folder = new_run_folder(self.log_dir, *reversed(self.names))
            self.opened.callback(RunLock(self.folder).release)
        remove_abandoned(self.folder)
        self.record = Record(self.folder / "train.jsonl", self.progress.epoch)
        self.curves = self.opened.enter_context(closing(Curves(self.folder, self.progress.steps + 1)))
        recipe = self.recipe.to_dict()
        write_json(self.folder / "recipe.json", {**self.header(), **self.facts, "recipe": recipe})
        self.say_what_is_trained(recipe)
        self.epoch_start = time.perf_counter()

    def take_up(self, saved: SavedRun) -> None:
        """Go on where a run has ended."""
        self.folder = saved.folder
        self.opened.callback(saved.lock.release)
        self.state.restore(saved.content, self.folder / "last.pth")
        self.saved_steps = self.progress.steps
        if self.progress.best is not None and not (self.folder / "best.pth").is_file():
            print(f"note: there is no best.pth in {self.folder}; it is chosen anew, among the epochs to come")
            self.progress.best = None

    def say_what_is_trained(self, recipe: dict[str, Any]) -> None:
        model, dataset = self.names
        print(f"{model} on {dataset}: clips per epoch: {len(self.clips)}, in {self.folder}")
        for part in ("model", *PARTS):
            print(f"{part}: " + ", ".join(f"{k}={v!r}" for k, v in flat(recipe[part]).items()))
        if self.init:
            print(initial_line(self.init))
        rules = "; ".join(line.text for line in self.validation.lines)
        place = {
            "test": "the test split, as published; --set validation=holdout avoids it",
            "holdout": "sequences held out of training",
        }
        choice, scored = self.validation.choice, place[self.recipe.sampling.validation]
        chosen_by, better = f"{choice['best']} ({choice['is']}", choice["better"]
        how = (
            f"); epochs are scored on {scored}" if better == "later" else f", {better} is better) on {scored}"
        )
        print(f"best.pth is chosen by {chosen_by}{how}")
        print(f"validation: {self.recipe.scoring.protocol} protocol, {rules}", flush=True)
        if self.progress.steps:
            print(f"it continues after {self.progress.epoch} epochs and {self.progress.batch} batches")

    def rescue(self) -> None:
        """After an error: save what last.pth has not, if that can be done, and say how to go on."""
        is_older = self.saved_steps != self.progress.steps
        if self.state.is_whole and (is_older or not (self.folder / "last.pth").exists()):
            # The first error is the one to tell. RuntimeError: torch's, where memory is used up.
            with suppress(UserError, MemoryError, RuntimeError):
                self.save("last.pth")
        if self.saved_steps is not None:
            self.tell_how_to_go_on(f"last.pth holds the first {self.saved_steps} steps")

    def tell_how_to_go_on(self, what_is: str) -> None:
        print(f'{what_is}; continue with:\n  {self.resume} --resume "{self.folder}"', flush=True)

    @property
    def progress(self):
        return self.state.progress

    def header(self) -> dict[str, Any]:
        """What recipe.json and the checkpoints say besides the recipe."""
        names = {"model": self.names[0], "dataset": self.names[1]}
        init = {"init": self.init} if self.init else {}
        return {**names, "data": self.data, "best": self.validation.choice, **init}

    def loader(self, clips: Dataset, batches: Sampler) -> ClipLoader:
        """Serves batches of clips; waiting for one, the run may be stopped."""
        workers = self.recipe.runtime.num_workers
        if workers is None:
            workers = min(4, (os.cpu_count() or 1) // 2)
        return ClipLoader(clips, batches, workers, self.runtime.pins_memory, self.stop.waiting)

    def save(self, name: str, scores: dict[str, float] | None = None) -> None:
        """Write a checkpoint of the state into the run's folder.

        Raises UserError where somebody has removed the folder, when last.pth lies there again.
        """
        if not self.runtime.is_main:
            return
        self.was_removed |= not (self.folder / "recipe.json").exists()  # the folder may be made anew
        recipe = self.recipe.to_dict()
        content = {**self.header(), "recipe": recipe, **self.state.content(), "scores": scores or {}}
        save_checkpoint(self.folder / name, content)
        if name == "last.pth":
            self.saved_steps = self.progress.steps
            if self.was_removed:
                raise UserError(
                    f"{self.folder} was removed while its run was going on; last.pth was saved there again, "
                    "what else was in it is lost: leave the folder where it is and continue with --resume"
                )

    # ---------------------------------------------------------------- after each batch and epoch

    def after_batch(self, terms: dict[str, float]) -> None:
        self.curves.add({f"train/{name}": value for name, value in terms.items()}, self.progress.steps)
        if self.progress.batch % self.recipe.runtime.save_every == 0:
            self.save("last.pth")

    def save_steps(self) -> None:
        """Save the steps that last.pth has not; before a validation, so that one without end is repeated."""
        if self.saved_steps != self.progress.steps:
            self.save("last.pth")

    def after_epoch(self, terms: dict[str, float], learning_rate: float) -> None:
        train_seconds = time.perf_counter() - self.epoch_start
        epoch, epochs = self.progress.epoch, self.recipe.optimisation.epochs
        is_scored = epoch % self.recipe.scoring.validate_every == 0 or epoch == epochs
        scores = self.validate() if is_scored else {}
        is_best = is_scored and self.is_best(scores)
        entry = {
            "epoch": epoch,
            **{name if name == "loss" else f"loss_{name}": value for name, value in terms.items()},
            "learning_rate": learning_rate,
            **scores,
            "train_seconds": round(train_seconds, 2),
            "seconds": round(time.perf_counter() - self.epoch_start, 2),
        }
        self.record.add(entry)
        points = {f"epoch/{name}": value for name, value in entry.items() if name != "epoch"}
        self.curves.add(points, self.progress.steps)
        self.curves.flush()
        if is_best:
            self.save("best.pth", scores)
        self.save("last.pth", scores)
        parts = [f"epoch {epoch:3d}/{epochs}", f"loss {terms['loss']:.4f}"]
        parts += (
            [*self.validation.texts(scores), f"{self.recipe.scoring.protocol} protocol"] if is_scored else []
        )
        print("  ".join([*parts, f"{entry['seconds']:.1f} s", *["best"] * is_best]), flush=True)
        self.epoch_start = time.perf_counter()

    def is_best(self, scores: dict[str, float]) -> bool:
        """Whether the epoch is at least as good as the best one so far, which it then replaces.

        While no score was a number, as without any target, the last epoch counts as the best.
        """
        rule, best = self.validation.rule, self.progress.best
        if rule.better == "later":
            return True
        score = scores[rule.value]
        is_best = best is None or math.isnan(best) or rule.is_as_good(score, best)
        if is_best:
            self.progress.best = score
        return is_best

    def validate(self) -> dict[str, float]:
        """The scores of the weights that are kept. Raises Stopped between two frames."""

        def show(video, index: int, prediction, truth: dict) -> None:
            self.stop.check()
            if video is self.validation.videos[0] and index == len(video.frames) // 2:
                tile = tile_of(video, index, prediction, truth)
                threshold = self.recipe.scoring.threshold
                picture = overlay(tile.image, tile.found, tile.truth, threshold, scale=2)
                self.curves.add_picture("prediction", picture, self.progress.steps)

        return self.validation.score(self.state.evaluated, self.runtime, show, self.loader)
