"""What became of a settings file: its values, and what was loaded, changed, ignored or wrong, each with a sentence."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.declare import Problem, by_name
from trainer.settings import Settings

KNOWN = by_name(Settings)


class Unreadable(Exception):
    """The file as a whole cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class Changed:
    """A key whose value stands under another name or in another form; `why` is a sentence."""

    key: str
    before: Any
    after: Any
    why: str


@dataclass(frozen=True)
class Ignored:
    """A key that has no effect here; `why` is a sentence."""

    key: str
    why: str


@dataclass
class Loaded:
    """What became of a file: `values` are valid settings by key, only those that the file names."""

    values: dict[str, Any] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    description: str = ""
    may_read: Callable[[Path], bool] = field(default=lambda path: True, repr=False)
    """Whether a file that this one names may be looked into."""
    keeps_the_rest: bool = False
    """The file is about one setting only (a data set): what stands in the others is meant to stay."""

    @property
    def settings(self) -> Settings:
        """The defaults with the file's values in their place."""
        return Settings(**self.values)

    def change(self, raw: dict[str, Any], key: str, after: Any, why: str, name: str = "") -> None:
        """Put `after` in place of `raw[key]` (under `name` when the key was renamed) and say so."""
        before = raw.pop(key, None)
        raw[name or key] = after
        self.changed.append(Changed(name or key, before, after, why))


def label_of(key: str) -> str:
    """The label of a setting by its key, or the key itself."""
    return KNOWN[key].label if key in KNOWN else key


def is_on(value: Any) -> bool:
    """Whether a tick of a file is set, as people and programs write it."""
    return str(value).strip().lower() in {"true", "1", "yes", "on", "1.0"}


def number(value: Any) -> float | None:
    """A value as a number, None when it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
