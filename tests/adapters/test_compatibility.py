"""Every LoRA type × family × reader: the saved file gives what the live adapter gives, and the page says so."""

from itertools import product

import pytest

from tests.adapters.compatibility import DIFFERS, EQUAL, PAGE, PLACES, REFUSES, TOLERANCE, Case, measure, page
from trainer.adapters import ADAPTERS, readers_of
from trainer.settings import Settings

places = pytest.mark.parametrize(("row", "family"), PLACES, ids=[f"{row.name}, {family}" for row, family in PLACES])


@places
def test_a_file_gives_what_the_live_adapter_gives(row: Case, family: str) -> None:
    """By the formula always; by each program as the sentence beside LoRA type says."""
    found = measure(row, family)
    assert found.change > 0.05, "an adapter that changes nothing shows nothing"
    assert found.errors["formula"] <= TOLERANCE
    assert found.errors["merged"] <= TOLERANCE
    said = readers_of(Settings(**row.settings))
    assert found.words["LyCORIS"] == (REFUSES if "No known program" in said else EQUAL)
    if "Every program" in said:
        assert found.words["diffusers"] == EQUAL
    elif "diffusers leaves DoRA out" in said:
        assert found.words["diffusers"] in (DIFFERS, REFUSES)
    else:
        assert found.words["diffusers"] == REFUSES


def test_every_type_is_tried_on_sd15_and_sdxl_with_and_without_text_encoder() -> None:
    tried = {(row.type, family, "text_encoder_lr" in row.settings) for row, family in PLACES}
    assert tried >= set(product(ADAPTERS, ("sd15", "sdxl"), (True, False)))


def test_the_page_is_what_was_measured() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.adapters.compatibility"
