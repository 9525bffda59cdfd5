"""The settings page is the declarations, nothing else."""

from trainer.declare import settings_of
from trainer.settings import Settings
from trainer.settings.document import PAGE, document


def test_the_page_is_up_to_date() -> None:
    message = "run python -m trainer.settings.document"
    assert PAGE.read_text(encoding="utf-8") == document(), message


def test_every_setting_has_a_row() -> None:
    page = document()
    for item in settings_of(Settings):
        assert f"| {item.label} | `{item.name}` |" in page
