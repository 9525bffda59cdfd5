"""Sample prompts as people write them: `a cat on a mat --n blurry --w 512 --h 768 --d 42 --l 7.5 --s 30`.

A picture's text from a web UI is understood as well, and a file of prompts.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from trainer.infotext import Described, described, facts_of, sampler_of
from trainer.samplers import SAMPLERS
from trainer.settings.prompt_files import prompts_of


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


def _number(text: str) -> float:
    number = float(text)
    if not abs(number) < 1e6:
        raise ValueError(text)
    return number


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
    "l": ("guidance", _number, "a number"),
    "s": ("steps", _steps, "a whole number"),
    "ss": ("sampler", _sampler, f"one of {', '.join(SAMPLERS)}"),
}
"""Letter -> which part of a prompt it sets, how it is read, and what is expected."""

OTHERS: Mapping[str, str] = {
    "g": "the guidance of Flux models", "cn": "a ControlNet's picture", "ctr": "where guidance ends in Lumina models",
    "rcfg": "guidance of Lumina models", "fs": "the flow shift of Stable Diffusion 3 and others",
}  # fmt: skip
"""Letters that are for models and networks that are not trained here."""

FACTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "steps": ("steps", _steps),
    "cfg scale": ("guidance", _number),
    "seed": ("seed", lambda text: _seed(text) if int(text) >= 0 else None),
}
"""What a picture's text says of it -> the part of a prompt, and how it is read."""

NETWORK = re.compile(r"\s*<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
ENDINGS = (".txt", ".toml", ".json")
PATH = re.compile(r"[/\\~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]")
"""How a path begins that may have blanks in it; a prompt does not."""


class Read(NamedTuple):
    """What a text of prompts says: a sentence for each that is wrong, and for what has no effect."""

    prompts: list[Prompt]
    problems: list[str]
    notes: list[str]


def parse_prompt(line: str) -> Prompt:
    """One line. Sides are rounded down to multiples of 8, at least 64; steps stay within 1 to 1000.

    Raises `ValueError` with a sentence about what cannot be read.
    """
    return _parsed(line)[0]


def _parsed(line: str) -> tuple[Prompt, list[str]]:
    """The prompt of a line, and what of it has no effect. Raises `ValueError` with a sentence."""
    text, *options = re.split(r"(?:^|\s)--(?=[A-Za-z])", line.strip())
    values: dict[str, Any] = {}
    notes: list[str] = []
    for option in options:
        letter, _, value = option.strip().partition(" ")
        if letter.lower() in OTHERS:
            notes.append(f"--{letter} has no effect: it is {OTHERS[letter.lower()]}.")
            continue
        if letter.lower() not in OPTIONS:
            known = " ".join(f"--{name}" for name in OPTIONS)
            raise ValueError(f"--{letter} is not known; there are {known}.")
        name, read, expected = OPTIONS[letter.lower()]
        try:
            values[name] = read(value.strip())
        except (ValueError, OverflowError):
            raise ValueError(f"--{letter} must be followed by {expected}, not {value.strip()!r}.") from None
    text, networks = NETWORK.subn("", text.strip())
    if networks:
        notes.append("<lora:…> has no effect: samples show the LoRA that is trained, at full strength.")
    return Prompt(text.strip(), **values), notes


def parse_prompts(text: str) -> Read:
    """Every line that is not empty and does not begin with #, and pictures' texts of web UIs. Never raises."""
    found = Read([], [], [])
    for item in described(text.splitlines()):
        try:
            prompt, notes = _parsed(item.text)
            prompt, more = _as_described(prompt, item)
        except ValueError as error:
            found.problems.append(f"Line {item.line}: {error}")
            continue
        found.prompts.append(prompt)
        found.notes.extend(f"Line {item.line}: {note}" for note in (*notes, *more))
    return found


def _as_described(prompt: Prompt, item: Described) -> tuple[Prompt, list[str]]:
    """The prompt with what a picture's text says of it, and what of that cannot be done here."""
    if item.negative is not None:
        prompt = replace(prompt, negative=item.negative)
    notes, facts = [], facts_of(item.facts)
    values: dict[str, Any] = {}
    for fact, (name, read) in FACTS.items():
        if fact in facts:
            try:
                values[name] = read(facts[fact])
            except (ValueError, OverflowError):
                raise ValueError(f"{fact.capitalize()} must be a number, not {facts[fact]!r}.") from None
    if size := re.fullmatch(r"(\d{1,9})\s*[x×]\s*(\d{1,9})", facts.get("size", "")):
        values |= {"width": _side(size[1]), "height": _side(size[2])}
    if "sampler" in facts:
        named, schedule = sampler_of(facts["sampler"])
        values["sampler"] = SAMPLERS.name(facts["sampler"]) or named or ""
        schedule = schedule or facts.get("schedule type", "").lower()
        if values["sampler"] and schedule not in ("", "automatic"):
            notes.append(f"The schedule {schedule} is not offered; {values['sampler']} draws with its usual steps.")
        if not values["sampler"]:
            notes.append(f"Sampler {facts['sampler']} is not offered; the one chosen as Sample sampler draws it.")
    return replace(prompt, **values), notes


def prompt_file(text: str) -> Path | None:
    """The file that a setting names instead of holding prompts, `None` where it holds them."""
    word = text.strip().strip('"')
    if "\n" in word or not word.lower().endswith(ENDINGS):
        return None
    with suppress(RuntimeError, OSError):  # nobody's home; a name too long
        path = Path(word).expanduser()
        return path if PATH.match(word) or not re.search(r"\s", word) or path.is_file() else None
    return None


def read_prompts(text: str) -> Read:
    """The prompts that a setting holds, or those of the file that it names. Never raises."""
    path = prompt_file(text)
    if path is None:
        return parse_prompts(text)
    try:
        return parse_prompts(path.read_text("utf-8-sig") if path.suffix.lower() == ".txt" else prompts_of(path))
    except FileNotFoundError:
        return Read([], [f"There is no file {path}."], [])
    except UnicodeDecodeError:
        return Read([], [f"{path.name} is not a text file in UTF-8."], [])
    except (OSError, ValueError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        return Read([], [f"{path.name} cannot be read: {reason}."], [])
