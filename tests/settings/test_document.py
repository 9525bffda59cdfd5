"""The settings page is the declarations, nothing else; and it lists every setting of the Kohya GUI."""

import re

import pytest

from tests.settings.kohya_gui import DEFAULTS, KOHYA_GUI, TYPES
from trainer.declare import settings_of
from trainer.settings import Settings
from trainer.settings.document import (
    ELSEWHERE_DEAD,
    NEVER_IN_A_FILE,
    NO_FIELD,
    OTHER_DEFAULTS,
    OWN,
    PAGE,
    document,
)
from trainer.settings.kohya import read
from trainer.settings.loaded import KNOWN


def test_the_page_is_up_to_date() -> None:
    message = "run python -m trainer.settings.document"
    assert PAGE.read_text(encoding="utf-8") == document(), message


def test_every_setting_has_a_row() -> None:
    page = document()
    for item in settings_of(Settings):
        assert f"| {item.whole_label} | `{item.name}` |" in page


def test_the_kohya_gui_has_170_settings_and_all_are_here() -> None:
    assert len(KOHYA_GUI) == 170
    assert {*KNOWN, *NO_FIELD} >= set(KOHYA_GUI)
    assert not set(NO_FIELD) & set(KNOWN)
    assert set(KNOWN) - set(KOHYA_GUI) == set(OWN), "settings of our own are listed in trainer/settings/document.py"


def test_the_page_counts_them() -> None:
    assert "169 of the Kohya GUI's 170 settings" in document()
    assert re.search(r"\| `model_list` \| .+\. \|", document())


@pytest.mark.parametrize("key", [key for key in KOHYA_GUI if key in KNOWN])
def test_the_words_of_the_kohya_gui_are_found(key: str) -> None:
    """People look for the very words they read elsewhere."""
    assert KOHYA_GUI[key][0].lower() in KNOWN[key].whole_label.lower()


@pytest.mark.parametrize("key", sorted({*NO_FIELD, *NEVER_IN_A_FILE}))
def test_what_is_not_read_from_a_file_is_said_on_loading(key: str) -> None:
    found = read({key: "x", "LoRA_type": "Standard"})
    assert [item.key for item in found.ignored] == [key]
    assert getattr(found.settings, key, "") == ""


def test_what_is_other_here_is_a_setting() -> None:
    assert set(ELSEWHERE_DEAD) <= set(KNOWN)


@pytest.mark.parametrize("key", [key for key in KOHYA_GUI if key in KNOWN])
def test_a_default_is_the_kohya_gui_s_or_said_to_be_another(key: str) -> None:
    theirs, ours = DEFAULTS[key], KNOWN[key].default
    same = str(theirs) == str(ours) or (
        not isinstance(theirs, str) and ours is not None and float(theirs) == float(ours)
    )
    assert same == (key not in OTHER_DEFAULTS)
    if not same:
        shown, why = OTHER_DEFAULTS[key]
        assert shown == (str(theirs).lower() if isinstance(theirs, bool) else str(theirs))
        assert f"| `{key}` | `{shown}` |" in document()
        assert why.endswith(".")


@pytest.mark.parametrize("key", [key for key in KOHYA_GUI if key in KNOWN])
def test_a_setting_is_of_the_kohya_gui_s_kind(key: str) -> None:
    """A tick is a tick, a text a text, a number a number; so a preset's value has one type on both sides."""
    kind, item = KOHYA_GUI[key][1], KNOWN[key]
    numbers = kind in ("number", "slider") or key == "max_token_length"
    assert (item.type is bool) == (kind == "checkbox")
    assert (item.type in (int, float)) == numbers
    assert bool(item.choices) == (
        kind in ("dropdown", "radio") and item.about.kind == "" and key != "max_resolution"
    ) or (key in ("huggingface_repo_type", "huggingface_repo_visibility"))


OF_OTHER_FAMILIES = {"Anima", "Flux1", "Flux1 OFT", "HunyuanImage-2.1", "Lumina"}


@pytest.mark.parametrize("key", [key for key in KOHYA_GUI if key in KNOWN and isinstance(KOHYA_GUI[key][2], tuple)])
def test_no_choice_of_the_kohya_gui_is_missing(key: str) -> None:
    theirs, ours = KOHYA_GUI[key][2], KNOWN[key]
    if KOHYA_GUI[key][1] not in ("dropdown", "radio") or ours.choices is None:
        return
    missing = {choice for choice in theirs if choice is not ...} - set(ours.choices)
    assert missing == (OF_OTHER_FAMILIES if key == "LoRA_type" else {""} if key == "caption_extension" else set())
    assert ours.about.custom or ... not in theirs


def test_the_types_of_other_families_are_said() -> None:
    assert set(TYPES) > OF_OTHER_FAMILIES
    for name in OF_OTHER_FAMILIES:
        assert name in ELSEWHERE_DEAD["LoRA_type"]
