"""The settings page is the declarations, nothing else; and it lists every setting of the Kohya GUI."""

import re

import pytest

from tests.settings.kohya_gui import KOHYA_GUI, SOON
from trainer.declare import settings_of
from trainer.settings import Settings
from trainer.settings.document import ELSEWHERE_DEAD, NEVER_IN_A_FILE, NO_FIELD, OWN, PAGE, document
from trainer.settings.kohya import read
from trainer.settings.loaded import KNOWN


def test_the_page_is_up_to_date() -> None:
    message = "run python -m trainer.settings.document"
    assert PAGE.read_text(encoding="utf-8") == document(), message


def test_every_setting_has_a_row() -> None:
    page = document()
    for item in settings_of(Settings):
        assert f"| {item.whole_label} | `{item.name}` |" in page


AWAITED = SOON | {"wandb_api_key"}


def test_the_kohya_gui_has_170_settings_and_all_are_here() -> None:
    assert len(KOHYA_GUI) == 170
    assert {*KNOWN, *NO_FIELD, *AWAITED} >= set(KOHYA_GUI)
    assert not set(NO_FIELD) & set(KNOWN)
    assert set(KNOWN) - set(KOHYA_GUI) == set(OWN), "settings of our own are listed in trainer/settings/document.py"


@pytest.mark.skipif(not AWAITED & set(KOHYA_GUI) <= set(KNOWN), reason="settings that are being declared")
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
    assert set(ELSEWHERE_DEAD) <= set(KNOWN) | AWAITED
