"""Two clips without values through a network: whether the network, the view and the task go together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from utils.errors import UserError
from utils.recipe.schema import ViewSettings
from utils.task import Task


def dry_run(build: Callable[[], nn.Module], task: Task, view: ViewSettings, size: tuple[int, int]) -> None:
    """Nothing is computed, and the random generators stay as they are.

    build: makes the network
    size:  (height, width) of its input
    Raises UserError where the network does not take such a clip, or does not predict the view's frames of it,
    and where one that uses how the background moves would not get single frames as they are in the source.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = build().train()
        raw = model(torch.empty(2, view.channels, view.frames, *size))
    task.check_output(raw, (view.predicted, *size))
    if not getattr(model, "streams_late", False):
        return
    if view.frames > 1:
        raise UserError(
            f"recipe key view.frames is {view.frames}, but {model.name} takes the frames of a video one by "
            "one; set it to 1"
        )
    if view.resizes or view.canvas or view.multiple > 1:
        raise UserError(
            f"{model.name} takes frames as they are, by whose pixels the motion of the background is known; "
            "leave view.letterbox, view.test_resize, view.canvas and view.multiple out"
        )


def try_first_clips(
    build: Callable[[], nn.Module], task: Task, view: ViewSettings, clips: Any, videos: Sequence[Any]
) -> None:
    """Raises UserError where frames do not fit the recipe, or the network does not fit both.

    clips, videos: of the training and of the validation
    """
    _, validated = next(iter(videos[0]))
    for clip in (clips[0, 0]["clip"], validated):
        dry_run(build, task, view, tuple(clip.shape[-2:]))
