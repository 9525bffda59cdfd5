"""The one declaration of a setting, from which form, JSON, command line, validation, visibility and docs are drawn.

A *section* is a class whose annotated fields are settings::

    class Network(Section):
        \"\"\"The adapter that is trained on top of the frozen model, and its size.\"\"\"

        network_dim: int = setting(8, "Network Rank (Dimension)", "Size of the update ...", ge=1, soft_max=512)

Sections are flat and frozen pydantic models; several of them are combined by inheritance (`trainer.settings.Settings`).
"""

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails


@dataclass(frozen=True)
class About:
    """What pydantic has no word for: how a setting is shown, found and remembered."""

    label: str
    help: str
    choices: Iterable[str] | None = None
    custom: bool = False
    when: Mapping[str, Any] | None = None
    step: float | None = None
    soft_max: float | None = None
    advanced: bool = False
    secret: bool = False
    kohya: tuple[str, ...] = ()
    kind: str = ""
    aside: str = ""
    hides: re.Pattern[str] | None = None


PATHS = ("folder", "file", "config", "state")
"""Kinds of settings that are paths: a folder, a file, a file of tables, the folder of a training state."""


def setting(
    default: Any,
    label: str,
    help: str,
    *,
    choices: Iterable[str] | None = None,
    custom: bool = False,
    when: Mapping[str, Any] | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    step: float | None = None,
    soft_max: float | None = None,
    advanced: bool = False,
    secret: bool = False,
    kohya: tuple[str, ...] = (),
    kind: str = "",
    aside: str = "",
    hides: re.Pattern[str] | None = None,
) -> Any:
    """Declare one setting; returns a pydantic field for use as a class attribute's value.

    `choices` is anything that iterates over names (a registry too); with `custom=True` other values are allowed.
    `when={"LoRA_type": ("Standard", "Kohya LoCon")}` shows the setting only while every named setting has (one of) the
    given value(s). `soft_max` limits a slider, never the value. `kind` is one of `PATHS` or "lines" (several lines).
    `aside` follows the label on the page, in the Kohya GUI's words; sentences do without it. `hides` is what of a text
    is written to no file.
    """
    about = About(label, help, choices, custom, when, step, soft_max, advanced, secret, kohya, kind, aside, hides)
    return Field(default, ge=ge, gt=gt, le=le, lt=lt, json_schema_extra={"about": about})  # type: ignore[dict-item]


@dataclass(frozen=True)
class Problem:
    """Why a run cannot start, in a sentence about one setting; `fix` is a safe set of values that would cure it."""

    key: str
    label: str
    message: str
    fix: Mapping[str, Any] | None = None
    fix_label: str = ""

    def __str__(self) -> str:
        return f"{self.label}: {self.message}" if self.label else self.message


@dataclass(frozen=True)
class Setting:
    """One declared setting, as every part of the program that draws from the declaration sees it."""

    name: str
    section: type["Section"]
    type: type
    optional: bool
    default: Any
    about: About
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    @property
    def label(self) -> str:
        return self.about.label

    @property
    def whole_label(self) -> str:
        """The label with what follows it on the page."""
        return f"{self.about.label} {self.about.aside}".strip()

    @property
    def choices(self) -> tuple[str, ...] | None:
        return None if self.about.choices is None else tuple(self.about.choices)

    def written(self, value: Any) -> Any:
        """A value as files keep it, without the secrets that stand in a text."""
        if self.about.hides is None or not isinstance(value, str):
            return value
        kept, hidden = self.about.hides.subn("", value)
        return kept.strip() if hidden else value

    @property
    def bounds(self) -> str:
        """The allowed range in words, "" when there is none."""
        low = f"at least {self.ge:g}" if self.ge is not None else ""
        high = f"at most {self.le:g}" if self.le is not None else ""
        low = f"more than {self.gt:g}" if self.gt is not None else low
        high = f"less than {self.lt:g}" if self.lt is not None else high
        return " and ".join(filter(None, (low, high)))


class Section(BaseModel):
    """A group of settings: flat, frozen, and forgiving about how people write a value, never about what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tab: ClassVar[str] = ""
    """Where the group stands on the page, such as "Parameters > Basic"."""
    title: ClassVar[str] = ""

    @field_validator("*", mode="before")
    @classmethod
    def _as_people_write(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return parse(by_name(cls)[info.field_name], value)

    def changed(self, **values: Any) -> Self:
        """A validated copy with `values` in place of the present ones."""
        return type(self)(**{**self.model_dump(), **values})

    def public(self) -> dict[str, Any]:
        """The values as JSON keeps them, without secrets."""
        values = self.model_dump()
        return {item.name: item.written(values[item.name]) for item in settings_of(type(self)) if not item.about.secret}


@cache
def settings_of(section: type[Section]) -> tuple[Setting, ...]:
    """Every setting of a section or a combination of sections, in the order of declaration, inherited ones first."""
    found = {item.name: item for base in section.__bases__ if issubclass(base, Section) for item in settings_of(base)}
    for name in inspect.get_annotations(section):
        field = section.model_fields.get(name)
        if field is not None and isinstance(field.json_schema_extra, dict):
            found[name] = _read(name, section, field)
    return tuple(found.values())


@cache
def by_name(section: type[Section]) -> dict[str, Setting]:
    """The settings of a section by JSON key."""
    return {item.name: item for item in settings_of(section)}


def _read(name: str, section: type[Section], field: FieldInfo) -> Setting:
    kind, optional = _plain_type(field.annotation)
    names = ("ge", "gt", "le", "lt")
    limits = {name: getattr(item, name) for item in field.metadata for name in names if hasattr(item, name)}
    assert isinstance(field.json_schema_extra, dict)
    about: Any = field.json_schema_extra["about"]
    return Setting(name, section, kind, optional, field.default, about, **limits)


def _plain_type(annotation: Any) -> tuple[type, bool]:
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return kinds[0], len(kinds) < len(get_args(annotation))
    return annotation, False


TRUE, FALSE = {"true", "1", "yes", "on", "1.0"}, {"false", "0", "no", "off", "0.0"}


def parse(item: Setting, value: Any) -> Any:
    """`value` in the type of `item`, from the many ways people write one: "1e-4", "10%", "1.0", "true", "".

    An empty text or null where a number or tick belongs means "not set": `None` where the setting allows it, else the
    default. Raises `ValueError` with a sentence when the value cannot be meant.
    """
    if item.type is str:
        return _text(item, value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None if item.optional else item.default
    if item.type is bool:
        return _tick(value)
    return _number(item, value)


NO_FILE_KEEPS = re.compile("[\0\ud800-\udfff]")
"""Characters that end a path or cannot be encoded: halves of those that are written as two."""


def _text(item: Setting, value: Any) -> Any:
    if value is None:
        return None if item.optional else item.default
    if isinstance(value, bool | list | dict):
        raise ValueError(f"is a text; {_shown(value)} is not")
    text = str(value)
    if NO_FILE_KEEPS.search(text):
        raise ValueError(f"holds a character that no file can keep; {_shown(text)} is not a text")
    allowed = item.choices
    if allowed is not None and not item.about.custom and text not in allowed:
        match = [choice for choice in allowed if choice.lower() == text.strip().lower()]
        if not match:
            names = ", ".join(choice or "(empty)" for choice in allowed)
            raise ValueError(f"{_shown(text)} is not one of {names}{nearest(text, allowed)}")
        return match[0]
    return text


def _tick(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise ValueError(f"is a tick (true or false); {_shown(value)} is not")


def _number(item: Setting, value: Any) -> float | int:
    if isinstance(value, str):
        word = value.strip().rstrip("%").strip().replace("_", "")
        if re.fullmatch(r"[+-]?\d+", word) and len(word) < 40:
            value = int(word)
        else:
            try:
                value = float(word)
            except ValueError:
                raise ValueError(f"must be a number; {_shown(value)} is not one") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number; {_shown(value)} is not one")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"must be a finite number; {_shown(value)} is not")
    if item.type is float:
        try:
            value = float(value)
        except OverflowError:
            raise ValueError("is far too large a number") from None
    elif value != int(value):
        raise ValueError(f"must be a whole number; {_shown(value)} is not one")
    else:
        value = int(value)
    choices = item.choices
    if choices is not None and not item.about.custom and str(value) not in choices:
        raise ValueError(f"{value} is not one of {', '.join(choices)}")
    return value


def nearest(word: str, names: Iterable[str]) -> str:
    """A question that offers the name closest to `word`, or nothing when none is close."""
    close = closest(word, names)
    return f"; did you mean {close}?" if close else ""


def closest(word: str, names: Iterable[str]) -> str:
    """The name closest to `word`, "" when none is close."""
    from difflib import get_close_matches

    lower = {name.lower(): name for name in names}
    close = get_close_matches(str(word).lower(), lower, n=1, cutoff=0.6)
    return lower[close[0]] if close else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


S = TypeVar("S", bound="Section")


def validate(section: type[S], values: Mapping[str, Any]) -> tuple[S, list[Problem]]:
    """Settings from raw `values`, and a problem for each value that could not be used.

    A wrong value is left at its default in the returned settings; unknown names are problems of their own.
    """
    known = by_name(section)
    good = {key: value for key, value in values.items() if key in known}
    unknown = [key for key in values if key not in known]
    problems = [Problem(key, key, f"there is no such setting{nearest(key, known)}") for key in unknown]
    try:
        return section(**good), problems
    except ValidationError as error:
        for detail in error.errors():
            key = str(detail["loc"][0]) if detail["loc"] else ""
            problems.append(Problem(key, known[key].label if key in known else key, sentence(known.get(key), detail)))
            good.pop(key, None)
    return section(**good), problems


def sentence(item: Setting | None, detail: ErrorDetails) -> str:
    """One pydantic error in plain words."""
    if item is not None and detail["type"] in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        return f"must be {item.bounds}; {_shown(detail['input'])} is not."
    text = detail["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{text}{'' if text.endswith('?') else '.'}"


def visible(item: Setting, values: Mapping[str, Any]) -> bool:
    """Whether a setting applies, given the values of the others. Conditions only show and hide."""
    for name, wanted in (item.about.when or {}).items():
        options = wanted if isinstance(wanted, tuple | list | set | frozenset) else (wanted,)
        if values.get(name) not in options:
            return False
    return True
