"""Resolutions in every spelling that people use, and a sentence for what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.declare import validate
from trainer.settings import Settings
from trainer.settings.dataset import read_resolution


@pytest.mark.parametrize(
    "text",
    [
        "512,768", "512, 768", "512x768", "512X768", "512 x 768", "512×768", "512*768", "512 768", "512;768", "512:768",
        "512/768", "512 by 768", "(512, 768)", "[512,768]", "{512,768}", '"512,768"', "512,768,", "512px,768px",
        "512 × 768 pixels", "512.0,768.0", " 512 ,\t768\n", "0512,768", "５１２，７６８", "５１２ｘ７６８", "（512、768）",
    ],
)  # fmt: skip
def test_the_odd_spellings(text: str) -> None:
    assert read_resolution(text) == (512, 768)
    assert Settings(max_resolution=text).max_resolution == "512,768", "and is kept in one"


@pytest.mark.parametrize("text", ["512", " 512 ", "(512)", "512px", "512.0", "512,", "５１２", "[512]"])
def test_one_number_is_a_square(text: str) -> None:
    assert read_resolution(text) == (512, 512)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "write it as width,height such as 512,512; '' is not understood."),
        ("large", "'large' is not understood"),
        ("512,768,3", "is not understood"),
        ("-512,512", "is not understood"),
        ("-5", "is not understood"),
        ("1e3", "is not understood"),
        ("512²", "is not understood"),
        ("0", "width and height must be between 64 and 8192; '0' is not."),
        ("512.5", "is not understood"),
        ("1,024", "width and height must be between 64 and 8192; '1,024' is not."),
        ("9" * 5000, "…' is not."),
    ],
    ids=["empty", "word", "three", "minus", "negative", "power", "square", "zero", "half", "thousands", "long"],
)
def test_what_is_no_resolution_is_said(text: str, said: str) -> None:
    settings, (problem,) = validate(Settings, {"max_resolution": text})
    assert said in str(problem)
    assert str(problem).startswith("Max resolution: ")
    assert settings.max_resolution == "512,512"


@given(st.text())
def test_no_text_whatever_is_more_than_a_sentence(text: str) -> None:
    settings, problems = validate(Settings, {"max_resolution": text})
    assert all(str(problem).endswith(("is not understood.", "is not.", "is not a text.")) for problem in problems)
    assert read_resolution(settings.max_resolution) == settings.resolution
