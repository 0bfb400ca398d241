"""One Registry class, and its instances: all that is built by name."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.errors import UserError, near_matches
from utils.recipe.fields import Setting, check_options, options_of


def fold(name: str) -> str:
    """The spelling by which names are compared: no case, no '-', no '_', no blanks."""
    return re.sub(r"[-_\s]", "", name).casefold()


@dataclass(frozen=True)
class Entry:
    """A registered name, what builds it, and the facts that were registered with it."""

    name: str
    build: Callable[..., Any]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Setting]:
        """The options that `build` takes, with their limits."""
        return options_of(self.build)

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options."""
        return tuple(self.settings)

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of each option."""
        return {name: setting.default for name, setting in self.settings.items()}


class Registry:
    """Names to builders. Lookup folds case, '-' and '_'; a duplicate name raises at import.

    facts:       what may be registered with a name, and its values where nothing is said
    has:         what each builder has, such as methods of a class
    takes:       what each builder takes by name
    is_settings: whether each builder is a dataclass of settings
    """

    def __init__(
        self,
        kind: str,
        *,
        facts: Mapping[str, Any] | None = None,
        has: tuple[str, ...] = (),
        takes: tuple[str, ...] = (),
        is_settings: bool = False,
    ):
        self.kind, self.facts = kind, facts or {}
        self.has, self.takes, self.is_settings = has, takes, is_settings
        self._entries: dict[str, Entry] = {}
        self._folded: dict[str, str] = {}

    def register(self, name: str, *, aliases: tuple[str, ...] = (), **facts: Any) -> Callable:
        """Decorator: file the function or class below it under `name` and its aliases.

        Raises ValueError for a name that is taken, and TypeError where the builder lacks what its kind needs.
        """

        def decorate(build: Callable) -> Callable:
            self._check(name, build, facts)
            for spelling in (name, *aliases):
                if fold(spelling) in self._folded:
                    taken = self._folded[fold(spelling)]
                    raise ValueError(f"{self.kind} {spelling!r} is registered already, as {taken!r}")
                self._folded[fold(spelling)] = name
            self._entries[name] = Entry(name, build, {**self.facts, **facts})
            return build

        return decorate

    def _check(self, name: str, build: Callable, facts: dict[str, Any]) -> None:
        lacks = []
        if self.is_settings and not (isinstance(build, type) and dataclasses.is_dataclass(build)):
            lacks.append("@dataclass(frozen=True) below its registration")
        lacks += [what for what in self.has if not hasattr(build, what)]
        lacks += [f"the parameter {what}" for what in self.takes if what not in options_of(build)]
        if lacks:
            called = getattr(build, "__name__", repr(build))
            raise TypeError(
                f"{self.kind} {name!r}: {called} lacks {', '.join(lacks)}; see README.md, 'Adding'"
            )
        for key, value in facts.items():
            if key not in self.facts or not isinstance(value, type(self.facts[key])):
                known = ", ".join(f"{k} ({type(v).__name__})" for k, v in self.facts.items()) or "nothing"
                raise TypeError(
                    f"{self.kind} {name!r} is registered with {key}={value!r}; what may be said of a "
                    f"{self.kind}: {known}"
                )

    def __contains__(self, name: str) -> bool:
        """Whether `entry` would find the name."""
        return fold(name) in self._folded

    def names(self) -> list[str]:
        return sorted(self._entries)

    def entry(self, name: str) -> Entry:
        """The entry of `name`, whatever its case and dashes. Raises UserError with the near matches."""
        if fold(name) not in self._folded:
            raise UserError(f"there is no {self.kind} {name!r}; {near_matches(name, self._entries)}")
        return self._entries[self._folded[fold(name)]]

    def check_options(self, name: str, options: dict[str, Any]) -> Entry:
        """The entry of `name`, after a check that it takes all of `options` and their values.

        Raises UserError otherwise.
        """
        entry = self.entry(name)
        check_options(entry.settings, options, f"{self.kind} {entry.name}")
        return entry

    def create(self, name: str, **options: Any) -> Any:
        """Build `name` with `options`. Raises UserError for an unknown name or option, or a wrong value."""
        return self.check_options(name, options).build(**options)


MODELS = Registry("model", facts={"recipe": {}, "rename": {}, "task": "masks"})
DATASETS = Registry("data set", takes=("root", "split"))
LOSSES = Registry("loss", facts={"task": "masks"})
METRICS = Registry("metric")  # what one declares may depend on its options: see metrics.create_metric
OPTIMIZERS = Registry("optimizer", has=("make", "decays_all"), is_settings=True)
SCHEDULES = Registry("schedule", has=("rate",), is_settings=True)
AUGMENTATIONS = Registry("augmentation", has=("stage", "needs_truth", "check"), is_settings=True)

register_model = MODELS.register
register_dataset = DATASETS.register
register_loss = LOSSES.register
register_metric = METRICS.register
register_optimizer = OPTIMIZERS.register
register_schedule = SCHEDULES.register
register_augmentation = AUGMENTATIONS.register
