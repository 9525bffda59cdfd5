"""Forms drawn from declarations: the right input for each kind of setting, and values that come back by name."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from app.form import Form, describe, short, shown
from trainer.declare import Section, by_name, setting, settings_of, validate
from trainer.settings import SECTIONS, Settings


class Kitchen(Section):
    """One setting of every kind."""

    title = "Kitchen"
    salt: float = setting(1e-4, "Salt", "More is saltier.", ge=0, le=1, step=0.01)
    eggs: int = setting(3, "Eggs", "How many.", ge=0, advanced=True)
    lid: bool = setting(False, "Lid", "On or off.")
    heat: str = setting("low", "Heat", "How hot.", choices=("low", "high"), when={"lid": True})
    pan: str = setting("iron", "Pan", "Which.", choices=("iron", "steel", "clay", "glass"), custom=True)
    rest: float | None = setting(None, "Rest", "Minutes.")
    notes: str = setting("", "Notes", "Several lines.", kind="lines")
    shelf: str = setting("", "Shelf", "A folder.", kind="folder")
    code: str = setting("", "Code", "Hidden.", secret=True)


def drawn(section: type[Section]) -> Form:
    with gr.Blocks():
        form = Form("test", section)
        form.draw(section)
        form.wire()
    return form


def test_each_kind_of_setting_has_its_kind_of_input() -> None:
    inputs = drawn(Kitchen).inputs
    kinds = {name: type(component).__name__ for name, component in inputs.items()}
    assert kinds == {
        "salt": "Textbox", "eggs": "Textbox", "lid": "Checkbox", "heat": "Radio", "pan": "Dropdown", "rest": "Textbox",
        "notes": "Textbox", "shelf": "Textbox", "code": "Textbox",
    }  # fmt: skip
    assert inputs["code"].type == "password"  # type: ignore[attr-defined]
    assert inputs["notes"].lines > 1  # type: ignore[attr-defined]
    assert inputs["pan"].allow_custom_value  # type: ignore[attr-defined]


def test_every_setting_of_the_page_has_an_input_with_its_label_and_help() -> None:
    with gr.Blocks():
        form = Form("train", Settings)
        for section in SECTIONS:
            form.draw(section)
    assert set(form.inputs) == set(by_name(Settings))
    for item in settings_of(Settings):
        component: Any = form.inputs[item.name]
        assert (component.label, component.info) == (item.whole_label, item.about.help)
        assert component.elem_id == f"train-{item.name}"


def test_what_the_form_shows_at_first_means_the_defaults() -> None:
    with gr.Blocks():
        form = Form("train", Settings)
        for section in SECTIONS:
            form.draw(section)
    raw = {name: component.value for name, component in form.inputs.items()}
    settings, problems = validate(Settings, raw)
    assert problems == []
    assert settings == Settings()
    assert form.changed(raw) == {}


def test_values_travel_by_name_in_any_order() -> None:
    form = drawn(Kitchen)
    data = {component: name for name, component in reversed(form.inputs.items())}
    assert form.read(data) == {name: name for name in form.inputs}
    other = gr.Textbox(render=False)
    assert "other" not in form.read({other: "other"})


def test_filling_starts_from_the_defaults() -> None:
    form = drawn(Kitchen)
    filled = {name: form.write({"eggs": 5, "lid": "true", "rest": None})[form.inputs[name]] for name in form.inputs}
    assert filled["eggs"] == "5"
    assert filled["lid"] is True
    assert filled["rest"] == ""
    assert filled["salt"] == "1e-4"
    assert filled["heat"] == "low"


def test_a_value_no_list_offers_is_not_shown_as_if_it_were() -> None:
    items = by_name(Kitchen)
    assert shown(items["heat"], "volcanic") == "low"
    assert shown(items["pan"], "copper") == "copper"


def test_only_what_differs_counts_as_changed() -> None:
    form = drawn(Kitchen)
    assert form.changed({"salt": "1e-4 ", "eggs": "4", "lid": False, "unknown": 1}) == {"eggs": "4"}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-4, "1e-4"),
        (5e-5, "5e-5"),
        (0.05, "0.05"),
        (1.0, "1"),
        (0.0, "0"),
        (512.0, "512"),
        (0.15, "0.15"),
        (1e-06, "1e-6"),
        (-1.0, "-1"),
    ],
)
def test_numbers_are_written_the_short_way_and_mean_the_same(number: float, text: str) -> None:
    assert short(number) == text
    assert float(text) == number


@pytest.mark.parametrize("number", [1 / 3, 1.23456789e-7, 123456.789, 4096.0, 0.999])
def test_no_digit_of_a_number_is_lost(number: float) -> None:
    assert float(short(number)) == pytest.approx(number, rel=1e-11)


def test_the_browser_is_told_conditions_ranges_and_secrets() -> None:
    told = {item.name: describe(item) for item in settings_of(Kitchen)}
    assert told["heat"]["when"] == {"lid": [True]}
    assert told["salt"]["range"] == [0, 1, 0.01]
    assert told["eggs"]["range"] is None
    assert told["code"]["secret"]
    assert told["shelf"]["kind"] == "folder"
