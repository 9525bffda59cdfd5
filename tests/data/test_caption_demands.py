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


def test_marks_are_the_settings_that_are_marks() -> None:
    assert set(caption_demands.MARKS) <= set(KNOWN)
