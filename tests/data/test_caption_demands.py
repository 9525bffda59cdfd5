"""What the settings of captions ask of each other and of the captions, in sentences."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainings import make_pictures
from trainer.data import caption_demands
from trainer.data.caption_demands import NOTES, OF_PICTURES
from trainer.declare import Problem, by_name
from trainer.settings import Settings

KNOWN = by_name(Settings)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures with the captions "a cat, number 0, in noise" and so on."""
    return make_pictures(tmp_path / "img")


def caption(data: Path, text: str, number: int = 0) -> None:
    (data / "2_cat" / f"cat{number}.txt").write_text(text, encoding="utf-8")


def found(checks: Any, data: Path, **values: Any) -> list[Problem]:
    s = Settings(train_data_dir=str(data), max_resolution="64,64", **values)
    problems = [problem for check in checks for problem in check(s)]
    for problem in problems:
        if problem.fix is not None:
            cured = [other for check in checks for other in check(s.changed(**problem.fix))]
            assert str(problem) not in map(str, cured), "the fix cures it"
    return problems


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"caption_separator": ""}, "Caption separator: it is empty; write what stands between the parts of a caption."),
        ({"keep_tokens_separator": ","}, "Keep tokens separator: it holds the Caption separator, at which captions are"),
        ({"secondary_separator": ";,;"}, "Secondary separator: it holds the Caption separator"),
        ({"caption_separator": ";", "secondary_separator": ";;;"}, "Secondary separator: it holds the Caption separator"),
        ({"keep_tokens_separator": "||", "secondary_separator": "|||"}, "Secondary separator: it cannot be told from the"),
    ],
)  # fmt: skip
def test_marks_that_cannot_be_told_apart(data: Path, values: dict[str, Any], sentence: str) -> None:
    (problem,) = found(OF_PICTURES, data, **values)
    assert str(problem).startswith(sentence)


MOVERS = "has an effect only with Shuffle caption, Rate of caption tag dropout or Token warmup step"


@pytest.mark.parametrize(
    ("text", "values", "sentences"),
    [
        ("a", {"keep_tokens": 1}, [f"Keep n tokens: {MOVERS}."]),
        ("a", {"keep_tokens": 1, "caption_tag_dropout_rate": 0.1}, []),
        ("a", {"token_warmup_min": 3}, ["Token warmup min: has an effect only with Token warmup step."]),
        ("a", {"token_warmup_step": 1}, ["Token warmup step: 1 is one step, so it is over at once; 0.3 is 30% of the run."]),
        ("a", {"token_warmup_step": 50, "max_train_steps": 49}, ["Token warmup step: the run ends after 49 steps, before all"]),
        ("a", {"token_warmup_step": 49, "max_train_steps": 49}, []),
        ("a ||| b", {"keep_tokens_separator": "|||", "keep_tokens": 2, "shuffle_caption": True},
         ["Keep tokens separator: 3 of 4 captions have no |||; of these, the first parts stay (Keep n tokens: 2)."]),
        ("a", {"keep_tokens_separator": "|||", "shuffle_caption": True}, ["Keep tokens separator: no caption holds |||."]),
        ("a", {"keep_tokens_separator": "|||", "caption_prefix": "sks |||", "shuffle_caption": True}, []),
        ("a", {"keep_tokens_separator": "|||", "caption_prefix": "sks |||"},
         [f"Keep tokens separator: {MOVERS}; without them ||| is a word like others."]),
        ("a;;;b", {"secondary_separator": ";;;"}, []),
        ("a", {"secondary_separator": ";;;"}, ["Secondary separator: no caption holds ;;;."]),
        ("a {red|green} cat", {}, ["Enable wildcard: 1 caption holds choices such as {red|green}, which are read as they stand"]),
        ("a {red} cat", {}, []),
        ("a {red|green} cat", {"enable_wildcard": True}, []),
        ("a", {"enable_wildcard": True}, ["Enable wildcard: no caption has several lines or a choice such as {red|green}."]),
        ("a\nb", {"enable_wildcard": True, "caption_prefix": "sks", "caption_suffix": "x"},
         ["Caption prefix: of captions with several lines only the first has it; write it into each line.",
          "Caption suffix: of captions with several lines only the last has it; write it into each line."]),
    ],
)  # fmt: skip
def test_surprises_are_said(data: Path, text: str, values: dict[str, Any], sentences: list[str]) -> None:
    caption(data, text)
    said = [str(problem) for problem in found(NOTES, data, **values)]
    assert [text.startswith(sentence) for text, sentence in zip(said, sentences, strict=True)] == [True] * len(said), (
        said
    )


@pytest.mark.parametrize("find", NOTES, ids=lambda find: find.__name__)
def test_nothing_is_said_without_pictures(find: Callable[[Settings], Any]) -> None:
    assert not list(find(Settings()))


@pytest.mark.parametrize(
    ("own", "captions", "held"),
    [
        ("sks cat", ["a cat, grey", "a photo of a cat"], ""),
        ("sks cat", ["a cat, grey", "Sks cat, grey"], "1 of 2 captions of regularisation images hold “sks”, such as cat1.bmp"),
        ("sks cat", ["sks cat", "a sks"], "2 of 2 captions of regularisation images hold “sks”"),
        ("photo of zwx dog", ["a photo of a dog", "dog"], ""),
        ("photo of zwx dog", ["a photo of a zwx dog", "dog"], "1 of 2 captions of regularisation images hold “zwx dog”"),
        ("cat", ["a cat", "cat"], ""),
    ],
    ids=["none", "one", "all", "the class is no trigger", "two words", "no trigger word"],
)  # fmt: skip
def test_the_trigger_word_is_missed_in_captions_of_regularisation_images(
    tmp_path: Path, own: str, captions: list[str], held: str
) -> None:
    data, reg = make_pictures(tmp_path / "img", concept=own), make_pictures(tmp_path / "reg", 2, 1)
    for number, text in enumerate(captions):
        (reg / "1_cat" / f"cat{number}.txt").write_text(text, encoding="utf-8")
    said = [str(problem) for problem in found((caption_demands.trigger_word,), data, reg_data_dir=str(reg))]
    assert [text.startswith(f"Regularisation directory: {held}") for text in said] == [True] * bool(held)


def test_what_all_captions_begin_with_is_a_trigger_word_too(tmp_path: Path) -> None:
    data, reg = make_pictures(tmp_path / "img", 2, 10), make_pictures(tmp_path / "reg", 2, 1)
    for folder in (data / "10_cat", reg / "1_cat"):
        for number in range(2):
            (folder / f"cat{number}.txt").write_text(f"zwx cat, number {number}", encoding="utf-8")
    (problem,) = found((caption_demands.trigger_word,), data, reg_data_dir=str(reg))
    assert "2 of 2 captions of regularisation images hold “zwx”" in problem.message


def test_marks_are_the_settings_that_are_marks() -> None:
    assert set(caption_demands.MARKS) <= set(KNOWN)
