"""What flags in Additional parameters are here: each is moved to its field, or its sentence says what becomes of it."""

from collections.abc import Iterator
from typing import Any

from trainer.declare import Problem
from trainer.settings import Settings, sd_scripts
from trainer.settings.kohya import read
from trainer.settings.loaded import KNOWN, Loaded, label_of
from trainer.settings.meanings import ADDITIONAL, field_of
from trainer.settings.unread import is_secret, why_ignored


def problems(s: Settings) -> Iterator[Problem]:
    """Flags that have a field, and flags that ask for what is not done here."""
    try:
        flags, stray = sd_scripts.flags(s.additional_parameters)
    except ValueError as error:
        yield _problem(f"{error}.")
        return
    if stray:
        text = f"{' '.join(stray)} belongs to no flag; a flag begins with --, and a value with spaces stands in quotes."
        yield _problem(text, {ADDITIONAL: _line(flags)}, "Take it out")
    fields = {name: key for name in flags if (key := field_of(name))}
    if fields:
        yield _move(s, flags, fields)
    for name in flags:
        if is_secret(name):
            message = f"--{name} is kept in no file; write it into {label_of(name)}, where it is asked for."
            yield _problem(message, {ADDITIONAL: _without(flags, name)}, "Take it out")
        elif name not in fields and name not in sd_scripts.ALWAYS:
            yield _problem(
                _ended(f"--{name}: {why_ignored(name, True)}"), {ADDITIONAL: _without(flags, name)}, "Take it out"
            )


def notes(s: Settings) -> Iterator[Problem]:
    """Flags that ask for what is so anyway."""
    try:
        flags, _ = sd_scripts.flags(s.additional_parameters)
    except ValueError:
        return
    for name in flags:
        if name in sd_scripts.ALWAYS:
            message = f"--{name} changes nothing here: {sd_scripts.ALWAYS[name]}."
            yield _problem(message, {ADDITIONAL: _without(flags, name)}, "Take it out")


def _move(s: Settings, flags: dict[str, list[str]], fields: dict[str, str]) -> Problem:
    """The sentence about flags that have fields, with values that put them there."""
    moving = {name: words for name, words in flags.items() if name in fields}
    report = read({**s.public(), ADDITIONAL: _line(moving)}, may_read=lambda path: False, moves_flags=True)
    names = " and ".join(f"--{name} ({label_of(key)})" for name, key in fields.items())
    one = len(fields) == 1
    message = f"{names} {'has a field of its own' if one else 'have fields of their own'}"
    wrong = _wrong(report, moving)
    if wrong:
        return _problem(_ended(f"{message}: {'; '.join(wrong)}"))
    fix: dict[str, Any] = {key: value for key, value in report.values.items() if value != getattr(s, key)}
    fix[ADDITIONAL] = _line({name: words for name, words in flags.items() if name not in fields})
    return _problem(
        f"{message}; what stands there counts.", fix, "Move it to its field" if one else "Move them to their fields"
    )


def _wrong(report: Loaded, flags: dict[str, list[str]]) -> list[str]:
    """Why these flags cannot be moved as they stand."""
    told = (problem.message if problem.key == ADDITIONAL else str(problem) for problem in report.problems)
    texts = [text.rstrip(".") for text in told]
    texts += [f"{item.key}: {item.why}" for item in report.ignored if item.key.startswith("network_args")]
    if "sample_prompts" in flags and any(item.key == "sample_prompts" for item in report.ignored):
        texts.append(f"copy the lines of {' '.join(flags['sample_prompts'])} into {label_of('sample_prompts')}")
    return texts


def _line(flags: dict[str, list[str]]) -> str:
    words = [[f"--{name}", *values] for name, values in flags.items()]
    return " ".join(f'"{word}"' if " " in word or not word else word for flag in words for word in flag)


def _without(flags: dict[str, list[str]], name: str) -> str:
    return _line({other: words for other, words in flags.items() if other != name})


def _ended(text: str) -> str:
    return text if text.endswith(("?", ".")) else f"{text}."


def _problem(message: str, fix: dict[str, Any] | None = None, fix_label: str = "") -> Problem:
    return Problem(ADDITIONAL, KNOWN[ADDITIONAL].label, message, fix, fix_label)
