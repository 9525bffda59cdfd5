"""One declaration: every part of a setting's line becomes what it should."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.declare import Problem, Section, by_name, parse, setting, settings_of, validate, visible
from trainer.settings import SECTIONS, Settings


class Brush(Section):
    """A section of its own for the tests."""

    size: int = setting(8, "Brush size", "How wide.", ge=1, soft_max=64)
    flow: float | None = setting(None, "Flow", "How wet.", gt=0, le=1)
    wet: bool = setting(False, "Wet", "Drips.", when={"kind": ("round", "flat")})
    kind: str = setting("round", "Kind", "Shape.", choices=("round", "flat", "fan"))
    ending: str = setting(".txt", "Ending", "Any.", choices=(".txt", ".cap"), custom=True)
    key: str = setting("", "Key", "Secret.", secret=True)


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("size", "12", 12), ("size", "12.0", 12), ("size", 12.0, 12), ("size", "1e1", 10), ("size", "", 8), ("size", None, 8),
        ("flow", "10%", None), ("flow", "0.5", 0.5), ("flow", " 5e-1 ", 0.5), ("flow", "", None), ("flow", None, None),
        ("wet", "true", True), ("wet", "False", False), ("wet", 1, True), ("wet", "0", False), ("wet", "", False),
        ("kind", "FAN", "fan"), ("ending", ".tags", ".tags"), ("ending", None, ".txt"),
    ],
)  # fmt: skip
def test_values_are_read_as_people_write_them(name: str, written: Any, meant: Any) -> None:
    if written == "10%":
        assert parse(by_name(Brush)[name], written) == 10
    else:
        assert parse(by_name(Brush)[name], written) == meant
        assert getattr(Brush(**{name: written}), name) == meant


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"size": "big"}, "Brush size: must be a number; 'big' is not one."),
        ({"size": 0}, "Brush size: must be at least 1; 0 is not."),
        ({"size": 1.5}, "Brush size: must be a whole number; 1.5 is not one."),
        ({"flow": "1e-4, 1e-5"}, "Flow: must be a number; '1e-4, 1e-5' is not one."),
        ({"flow": 2}, "Flow: must be more than 0 and at most 1; 2.0 is not."),
        ({"flow": float("nan")}, "Flow: must be a finite number; nan is not."),
        ({"wet": "maybe"}, "Wet: is a tick (true or false); 'maybe' is not."),
        ({"kind": "rounded"}, "Kind: 'rounded' is not one of round, flat, fan; did you mean round?"),
        ({"kind": ["round"]}, "Kind: is a text; ['round'] is not."),
        ({"sizes": 3}, "sizes: there is no such setting; did you mean size?"),
    ],
)
def test_wrong_values_are_named_by_their_label(values: dict[str, Any], sentence: str) -> None:
    settings, problems = validate(Brush, values)
    assert [str(item) for item in problems] == [sentence]
    assert settings == Brush()


def test_one_wrong_value_does_not_take_the_others_with_it() -> None:
    settings, problems = validate(Brush, {"size": 30, "kind": "square", "flow": 0.5})
    assert (settings.size, settings.flow, settings.kind) == (30, 0.5, "round")
    assert [item.key for item in problems] == ["kind"]


def test_secrets_are_never_public() -> None:
    assert "key" not in Brush(key="hunter2").public()
    assert Brush(key="hunter2").public()["size"] == 8


def test_conditions_are_data() -> None:
    wet = by_name(Brush)["wet"]
    assert visible(wet, {"kind": "flat"})
    assert not visible(wet, {"kind": "fan"})
    assert visible(by_name(Brush)["size"], {})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Brush().size = 3  # type: ignore[misc]
    assert Brush().changed(size=3).size == 3


@given(st.sampled_from(sorted(by_name(Settings))), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
))  # fmt: skip
def test_no_value_whatever_makes_validation_raise(name: str, value: Any) -> None:
    settings, problems = validate(Settings, {name: value})
    assert all(isinstance(item, Problem) and item.key == name for item in problems)
    again, none = validate(Settings, settings.model_dump())
    assert again == settings
    assert not none


def test_every_default_passes_its_own_validation() -> None:
    settings, problems = validate(Settings, Settings().model_dump())
    assert not problems
    assert settings == Settings()


def test_every_setting_stands_in_one_section_with_words() -> None:
    names = [item.name for item in settings_of(Settings)]
    assert len(names) == len(set(names))
    assert names == [item.name for section in SECTIONS for item in settings_of(section)]
    for item in settings_of(Settings):
        assert item.label, item.name
        assert item.about.help.endswith("."), f"the help of {item.name} is not a sentence"
        assert item.section.tab, item.name
        assert set(item.about.when or {}) <= set(names), item.name
    for section in SECTIONS:
        assert re.match(r"[A-Z].*\.$", section.__doc__ or "", re.DOTALL), section
