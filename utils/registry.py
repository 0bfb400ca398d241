"""One Registry class, and its instances: all that is built by name."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from utils.errors import UserError, near_matches


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
    def options(self) -> tuple[str, ...]:
        """The keyword options that `build` takes."""
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return tuple(p.name for p in inspect.signature(self.build).parameters.values() if p.kind in kinds)

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of each option that has one."""
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}


class Registry:
    """Names to builders. Lookup folds case, '-' and '_'; a duplicate name raises at import."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._folded: dict[str, str] = {}

    def register(self, name: str, *, aliases: tuple[str, ...] = (), **facts: Any) -> Callable:
        """Decorator: file the function or class below it under `name` and its aliases."""

        def decorate(build: Callable) -> Callable:
            for spelling in (name, *aliases):
                if fold(spelling) in self._folded:
                    taken = self._folded[fold(spelling)]
                    raise ValueError(f"{self.kind} {spelling!r} is registered already, as {taken!r}")
                self._folded[fold(spelling)] = name
            self._entries[name] = Entry(name, build, facts)
            return build

        return decorate

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
        """The entry of `name`, after a check that it takes all of `options`. Raises UserError otherwise."""
        entry = self.entry(name)
        for key in options:
            if key not in entry.options:
                hint = near_matches(key, entry.options)
                raise UserError(f"{self.kind} {entry.name} has no option {key!r}; {hint}")
        return entry

    def create(self, name: str, **options: Any) -> Any:
        """Build `name` with `options`. Raises UserError for an unknown name or option."""
        return self.check_options(name, options).build(**options)


MODELS = Registry("model")
DATASETS = Registry("data set")
LOSSES = Registry("loss")
METRICS = Registry("metric")
OPTIMIZERS = Registry("optimizer")
SCHEDULES = Registry("schedule")
AUGMENTATIONS = Registry("augmentation")

register_model = MODELS.register
register_dataset = DATASETS.register
register_loss = LOSSES.register
register_metric = METRICS.register
register_optimizer = OPTIMIZERS.register
register_schedule = SCHEDULES.register
register_augmentation = AUGMENTATIONS.register
