"""Sample prompts as people write them: `a cat on a mat --n blurry --w 512 --h 768 --d 42 --l 7.5 --s 30`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.samplers import SAMPLERS


@dataclass(frozen=True)
class Prompt:
    """A picture to be drawn. `width` and `height` in pixels, multiples of 8, 0 for the model's own; `seed` None means
    that the run chooses."""

    text: str
    negative: str = ""
    width: int = 0
    height: int = 0
    seed: int | None = None
    guidance: float = 7.5
    steps: int = 30
    sampler: str = ""


def _side(text: str) -> int:
    return max(64, min(8192, int(text) // 8 * 8))


def _steps(text: str) -> int:
    return max(1, min(1000, int(text)))


def _seed(text: str) -> int:
    return int(text) % 2**32


def _sampler(text: str) -> str:
    name = SAMPLERS.name(text)
    if name is None:
        raise ValueError(text)
    return name


OPTIONS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "n": ("negative", str, "a text"),
    "w": ("width", _side, "a whole number"),
    "h": ("height", _side, "a whole number"),
    "d": ("seed", _seed, "a whole number"),
    "l": ("guidance", float, "a number"),
    "s": ("steps", _steps, "a whole number"),
    "ss": ("sampler", _sampler, f"one of {', '.join(SAMPLERS)}"),
}
"""Letter -> which part of a prompt it sets, how it is read, and what is expected."""


def parse_prompt(line: str) -> Prompt:
    """One line. Sides are rounded down to multiples of 8, at least 64; steps stay within 1 to 1000.

    Raises `ValueError` with a sentence about what cannot be read.
    """
    text, *options = re.split(r"(?:^|\s)--(?=[A-Za-z])", line.strip())
    values: dict[str, Any] = {}
    for option in options:
        letter, _, value = option.strip().partition(" ")
        if letter.lower() not in OPTIONS:
            known = " ".join(f"--{name}" for name in OPTIONS)
            raise ValueError(f"--{letter} is not known; there are {known}.")
        name, read, expected = OPTIONS[letter.lower()]
        try:
            values[name] = read(value.strip())
        except (ValueError, OverflowError):
            raise ValueError(f"--{letter} must be followed by {expected}, not {value.strip()!r}.") from None
    return Prompt(text.strip(), **values)


def parse_prompts(text: str) -> tuple[list[Prompt], list[str]]:
    """Every line that is not empty and does not begin with #: the prompts, and a sentence for each that is wrong."""
    prompts, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                prompts.append(parse_prompt(line))
            except ValueError as error:
                problems.append(f"Line {number}: {error}")
    return prompts, problems
