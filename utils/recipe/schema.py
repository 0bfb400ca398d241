"""The recipe: every number that decides a training or test run, in parts, each number with its limits.

A recipe is resolved once (see resolve.py), saved beside the run and inside its checkpoints.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from utils.engine.runtime import RuntimeSettings
from utils.errors import UserError
from utils.recipe.fields import setting
from utils.registry import OPTIMIZERS

LARGEST_SIDE = 8192  # of frames, in pixels
VERSION = 3  # of the saved form; for earlier ones see version1.py and version2.py


@dataclass(frozen=True)
class ViewSettings:
    """How frames become the network's input, and predictions come back: see dataset.view."""

    frames: int = setting(
        40, "frames per clip", at_least=1, at_most=10_000, flag="seq_len", spellings=("--seqlen",)
    )
    key: int | str = setting("all", "place of the predicted key frame in the clip, from 0, or all")
    neighbours: str = setting(
        "number",
        "frames around a key frame: by the numbers of their names, or by position",
        choices=("number", "position"),
        acts=(lambda recipe: recipe.view.key != "all", "view.key names a key frame"),
    )
    history: str = setting(
        "repeat",
        "frames before a sequence's first one: repeat (it again), future (the clip of a key frame that "
        "needs them has the frames after it in reversed order, as DTUM's of SatVideoIRSDT) or simulated "
        "(from the .mat files of NUDT-MIRSDT, as DTUM's; repeat where there are none)",
        choices=("repeat", "future", "simulated"),
        acts=(lambda recipe: recipe.view.key not in ("all", 0), "view.key names a key frame after others"),
    )
    channels: int = setting(1, "equal copies of the gray channel", at_least=1, at_most=64)
    letterbox: int | None = setting(
        None,
        "side of the square that whole frames are fitted into, on gray 128",
        at_least=1,
        at_most=LARGEST_SIDE,
    )
    train_resize: tuple[int, int] | None = setting(
        None,
        "(height, width) of training frames and masks",
        at_least=1,
        at_most=LARGEST_SIDE,
        in_training=True,
    )
    test_resize: tuple[int, int] | None = setting(
        None,
        "the same at test; predictions return to the frames' own size, but where TSMSA's rule counts them",
        at_least=1,
        at_most=LARGEST_SIDE,
    )
    image_resize: str = setting(
        "bicubic",
        "how images are resized",
        choices=("bicubic", "bilinear"),
        acts=(lambda recipe: recipe.view.resizes, "frames are resized or letterboxed"),
    )
    mask_resize: str = setting(
        "bicubic",
        "how masks are resized; bicubic, as published, makes targets larger",
        choices=("bicubic", "nearest"),
        acts=(lambda recipe: recipe.view.resizes, "frames are resized or letterboxed"),
    )
    canvas: int | None = setting(
        None,
        "side of the square that normalised frames are padded to with zeros, right and below",
        at_least=1,
        at_most=LARGEST_SIDE,
    )
    multiple: int = setting(
        1,
        "test frames are padded so to a multiple of it",
        at_least=1,
        at_most=LARGEST_SIDE,
        acts=(lambda recipe: not recipe.view.canvas, "view.canvas is None"),
    )
    register: str = setting(
        "off",
        "registration of the frames of a clip to its key frame, or to the middle of a window: off, auto "
        "(where it is measured to help) or on (whenever it succeeds)",
        choices=("off", "auto", "on"),
        flag="register",
    )
    padding: str = setting(
        "zeros",
        "frames that fill a short window: zeros (the mean gray value) or the border frame repeated",
        choices=("zeros", "repeat"),
        acts=(lambda recipe: recipe.view.key == "all", "view.key is all"),
    )
    gray_scale: float | None = setting(
        None, "gray values 0..255 are divided by it before view.mean and view.std", at_least=1e-3, at_most=1e6
    )
    statistics: str = setting(
        "own",
        "mean and std where view.mean is None: own (the data set's constants, else each sequence's) or train "
        "(of its training frames, as TSMSA: measured before a run, which then keeps them in view.mean and "
        "view.std)",
        choices=("own", "train"),
        acts=(lambda recipe: recipe.view.mean is None, "view.mean is None"),
    )
    mean: float | tuple[float, float, float] | None = setting(
        None,
        "subtracted from gray values, also one per channel; None: what view.statistics says",
        at_least=-1e6,
        at_most=1e6,
    )
    std: float | tuple[float, float, float] | None = setting(
        None, "they are divided by it", at_least=1e-6, at_most=1e6
    )
    test_mean: float | None = setting(
        None,
        "what a test subtracts instead, as DTUM's of SatVideoIRSDT; None: as in training",
        at_least=-1e6,
        at_most=1e6,
    )
    test_std: float | None = setting(None, "what a test divides by instead", at_least=1e-6, at_most=1e6)

    @property
    def predicted(self) -> int:
        """Frames that are predicted from a clip."""
        return self.frames if self.key == "all" else 1

    @property
    def resizes(self) -> bool:
        """Whether frames change their size on the way in."""
        return bool(self.letterbox or self.train_resize or self.test_resize)

    def __post_init__(self):
        if self.key != "all" and not (type(self.key) is int and 0 <= self.key < self.frames):
            raise UserError(
                "recipe key view.key takes 'all' or a place in the clip of "
                f"{self.frames} frames, counted from 0, not {self.key!r}"
            )
        if self.letterbox and (self.train_resize or self.test_resize):
            raise UserError(
                "recipe key view.letterbox fits whole frames: set view.train_resize and view.test_resize to "
                "None beside it"
            )
        if self.canvas and self.letterbox:
            raise UserError("recipe keys view.canvas and view.letterbox exclude each other; set one to None")
        if (self.mean is None) != (self.std is None):
            raise UserError("recipe keys view.mean and view.std go together; set both, or both to None")
        if (self.test_mean is None) != (self.test_std is None):
            raise UserError(
                "recipe keys view.test_mean and view.test_std go together; set both, or both to None"
            )
        if self.gray_scale is not None and self.mean is None:
            raise UserError(
                "recipe key view.gray_scale has no effect without view.mean and view.std; set them, or set "
                "view.gray_scale to None"
            )
        if isinstance(self.mean, tuple) != isinstance(self.std, tuple):
            raise UserError("recipe keys view.mean and view.std are one number each, or both one per channel")
        if isinstance(self.mean, tuple) and self.channels != len(self.mean):
            raise UserError(
                f"recipe keys view.mean and view.std have {len(self.mean)} channels, view.channels is "
                f"{self.channels}; make them agree"
            )


@dataclass(frozen=True)
class SamplingSettings:
    """Which clips are trained on, what is cut out of them and done to them."""

    sample_rate: float = setting(
        0.1,
        "training clips per epoch, as a fraction of all windows or frames",
        above=0,
        at_most=1e3,
        flag="sample_rate",
    )
    batch_size: int = setting(
        4, "clips per batch", at_least=1, at_most=65_536, flag="batch_size", spellings=("--batchSize",)
    )
    patch: int | None = setting(
        None,
        "side of the square that is trained on; the letterbox of models that have one",
        at_least=1,
        at_most=LARGEST_SIDE,
        flag="patch_size",
        spellings=("--patchSize",),
    )
    target_crops: float = setting(
        0.75,
        "chance that a patch is placed by a target",
        at_least=0,
        at_most=1,
        acts=(lambda recipe: recipe.sampling.patch, "sampling.patch is set"),
    )
    crops: str = setting(
        "around",
        "how a patch is placed by a target: around (its centre within a sixth of the side of the patch's, as "
        "DeepPro) or dtum (its first row and column less than half a side before those of one of its pixels)",
        choices=("around", "dtum"),
        task="masks",
        acts=(lambda recipe: recipe.sampling.patch, "sampling.patch is set"),
    )
    include_last: bool = setting(
        False,
        "also draw a sequence's last frame, and patches at the last row and column, as DeepPro never does",
        acts=(
            lambda recipe: recipe.view.key == "all" or recipe.sampling.patch,
            "view.key is all or sampling.patch is set",
        ),
    )
    augment: tuple[str, ...] = setting((), "augmentations in order, such as ('flip_rows', 'gain(limit=0.4)')")
    labels: str = setting(
        "float",
        "training boxes in the letterbox: as they are, or published (truncated to whole pixels)",
        choices=("float", "published"),
        task="boxes",
        acts=(lambda recipe: recipe.view.letterbox, "view.letterbox is set"),
    )
    box_masks: bool = setting(
        False,
        "train on the filled boxes of sequences that have boxes and no masks",
        task="masks",
    )
    column_quirk: bool = setting(
        False,
        "RPRNet's defect, as published: training target pixels in columns 0..3 get other values",
        task="masks",
        acts=(lambda recipe: recipe.view.key != "all", "view.key names a key frame"),
    )
    validation: str = setting(
        "test", "what chooses best.pth: the test split, as published, or holdout", choices=("test", "holdout")
    )
    holdout: int = setting(
        8,
        "every so many training sequences one validates instead of training",
        at_least=2,
        at_most=1_000_000,
        acts=(lambda recipe: recipe.sampling.validation == "holdout", "sampling.validation is holdout"),
    )


@dataclass(frozen=True)
class OptimisationSettings:
    """What is minimised, and how."""

    loss: str = setting("SoftIoU", "a name of list_losses()", flag="loss")
    loss_options: dict[str, Any] = setting({}, "options of the loss")
    epochs: int = setting(
        32,
        "training epochs",
        at_least=0,
        at_most=1_000_000,
        flag="epochs",
        spellings=("--epoch",),
        can_change=True,
    )
    optimizer: str = setting("Adam", "a name of utils.engine.optim", flag="optimizer")
    optimizer_options: dict[str, Any] = setting({}, "options of the optimizer")
    learning_rate: float = setting(
        1e-3, "initial learning rate", above=0, at_most=1e3, flag="learning_rate", spellings=("--lr",)
    )
    weight_decay: float = setting(
        1e-4,
        "of the parameters that decay",
        at_least=0,
        at_most=1e3,
        acts=(
            lambda recipe: (
                recipe.optimisation.parameter_groups != "all"
                or OPTIMIZERS.entry(recipe.optimisation.optimizer).build.decays_all
            ),
            "parameter_groups is not all, or the optimizer is one that decays all, not SGD",
        ),
    )
    parameter_groups: str = setting(
        "all",
        "which parameters are trained and which of them decay: see utils.engine.optim",
        choices=("all", "published", "no-norm-decay"),
    )
    clip_gradients: float | None = setting(
        None, "largest norm of the gradient of a step; None: not clipped", above=0, at_most=1e9
    )
    schedule: str = setting("step", "how the learning rate changes: see utils.engine.schedules")
    schedule_options: dict[str, Any] = setting({}, "options of the schedule")
    ema: float | None = setting(
        None, "decay of the averaged weights that are validated and kept; None: no average", above=0, below=1
    )
    freeze: str = setting("", "part of the network that is not trained in the first freeze_epochs epochs")
    freeze_epochs: int = setting(
        0,
        "how many epochs that are",
        at_least=0,
        at_most=1_000_000,
        acts=(lambda recipe: recipe.optimisation.freeze, "optimisation.freeze names a part"),
    )

    def __post_init__(self):
        if self.freeze and not self.freeze_epochs:
            raise UserError(
                "recipe key optimisation.freeze has no effect while optimisation.freeze_epochs is 0; set both"
            )


@dataclass(frozen=True)
class ScoringSettings:
    """How predictions are scored, and which score chooses the best checkpoint."""

    paper: str = setting(
        "DeepPro",
        "whose rules the published protocol has, a name of metrics/protocols.py; BasicIRSTD is TSMSA on "
        "frames as they are, beside view.test_resize=None",
    )
    protocol: str = setting(
        "published",
        "of the validation: published (by the model's paper) or clean (the same for all)",
        choices=("published", "clean"),
        flag="protocol",
        in_training=True,
    )
    threshold: float = setting(
        0.5,
        "probability at which IoU, Pd and Fa are quoted",
        at_least=0,
        at_most=1,
        flag="threshold",
        spellings=("--threshold_eval",),
    )
    confirm: str = setting(
        "",
        "a model of single frames without weights, such as TopHat: its probability of a pixel bounds the "
        "network's, so that both have to find a target",
        flag="confirm",
        task="masks",
    )
    match: int = setting(
        1, "rows and columns within which ShootingRules find a target", at_least=0, at_most=1000
    )
    exclude: int = setting(
        4, "rows and columns around a target that hold no false alarm", at_least=0, at_most=1000
    )
    best: str | None = setting(
        None,
        "what chooses best.pth: a figure of the protocol, or the mean of several joined by +; window_iou (of "
        "windows before they are joined), loss (of the validation), last (the last epoch); None: the figure "
        "of the model's task",
        in_training=True,
    )
    validate_every: int = setting(
        1,
        "epochs from one validation to the next; the last always has one",
        at_least=1,
        at_most=1_000_000,
        in_training=True,
    )


@dataclass(frozen=True)
class Recipe:
    """How a model is built, trained, validated and scored."""

    model: dict[str, Any] = field(default_factory=dict)  # options of create_model
    view: ViewSettings = ViewSettings()
    sampling: SamplingSettings = SamplingSettings()
    optimisation: OptimisationSettings = OptimisationSettings()
    scoring: ScoringSettings = ScoringSettings()
    runtime: RuntimeSettings = RuntimeSettings()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the version of this form, for JSON and checkpoints."""
        return {"version": VERSION, **dataclasses.asdict(self)}


PARTS: dict[str, type] = {
    "view": ViewSettings,
    "sampling": SamplingSettings,
    "optimisation": OptimisationSettings,
    "scoring": ScoringSettings,
    "runtime": RuntimeSettings,
}
