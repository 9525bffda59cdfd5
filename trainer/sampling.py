"""What would go wrong with sample pictures, found before starting."""

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.declare import Problem, by_name
from trainer.prompts import Read, prompt_file, read_prompts
from trainer.settings import Settings

KNOWN = by_name(Settings)
KEY = "sample_prompts"
TIMES = ("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first")
"""Settings that say when samples are drawn."""

MOST = 5
"""Sentences about prompts that are said at once."""


def problem(key: str, message: str, fix: Mapping[str, Any] | None = None, fix_label: str = "") -> Problem:
    """A sentence about the setting `key`, under its label."""
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def no_file(s: Settings) -> Iterator[Problem]:
    """A file of prompts in which none can be read."""
    if prompt_file(s.sample_prompts) is not None:
        found = read_prompts(s.sample_prompts)
        if not found.prompts:
            why = found.problems[0] if found.problems else "The file holds no prompt."
            yield problem(KEY, f"{why} Write prompts here, one a line, or name another file.", {KEY: ""}, "Use none")


PROBLEMS = (no_file,)


def prompts(s: Settings) -> Iterator[Problem]:
    """Prompts without a time, or a time without prompts."""
    found = read_prompts(s.sample_prompts)
    times = [key for key in TIMES if getattr(s, key)]
    if found.prompts and not times:
        message = f"no pictures will be made until {KNOWN[TIMES[0]].label} (or steps) is set."
        yield problem(KEY, message, {TIMES[0]: 1}, "Sample every epoch")
    if times and not found.prompts and not found.problems:
        message = f"write a prompt in {KNOWN[KEY].label}; without one no pictures are made."
        yield problem(times[0], message)
    yield from (problem(KEY, text) for text in remarks(found)[:MOST])


def remarks(found: Read) -> list[str]:
    """What is wrong with prompts, and what of them has no effect, in sentences."""
    return [*(f"{text} It is left out." for text in found.problems), *found.notes]


NOTES = (prompts,)
