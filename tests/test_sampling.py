"""What is said about sample pictures before a run starts."""

from pathlib import Path
from typing import Any

import pytest

from trainer.sampling import NOTES, PROBLEMS
from trainer.settings import Settings

ALWAYS = {"sample_every_n_epochs": 1}


def said(checks: Any, **values: Any) -> list[str]:
    return [str(problem) for check in checks for problem in check(Settings(**values))]


def test_a_file_without_a_prompt_stops_a_run(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    (missing,) = said(PROBLEMS, sample_prompts=str(path))
    assert missing.startswith(f"Sample prompts: There is no file {path}. Write prompts here")
    path.write_text("# none")
    (empty,) = said(PROBLEMS, sample_prompts=str(path))
    assert empty.startswith("Sample prompts: The file holds no prompt.")
    path.write_text("a cat --w x\na dog --cn y.png")
    assert said(PROBLEMS, sample_prompts=str(path)) == []
    assert said(NOTES, sample_prompts=str(path), **ALWAYS) == [
        "Sample prompts: Line 1: --w must be followed by a whole number, not 'x'. It is left out.",
        "Sample prompts: Line 2: --cn has no effect: it is a ControlNet's picture.",
    ]


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({}, []),
        ({"sample_prompts": "# rest\n"}, []),
        ({"sample_prompts": "a cat"}, ["Sample prompts: no pictures will be made until Sample every n epochs (or steps) is set."]),
        ({"sample_prompts": "a cat", **ALWAYS}, []),
        ({"sample_at_first": True}, ["Sample at first: write a prompt in Sample prompts; without one no pictures are made."]),
        ({"sample_prompts": "a --z", **ALWAYS}, ["Sample prompts: Line 1: --z is not known; there are --n --w --h --d --l --s --ss. It is left out."]),
    ],
    ids=str,
)  # fmt: skip
def test_prompts_and_times(values: dict[str, Any], sentences: list[str]) -> None:
    assert said(NOTES, **values) == sentences


def test_a_wrong_prompt_stops_no_run() -> None:
    assert said(PROBLEMS, sample_prompts="a cat --w wide", **ALWAYS) == []
