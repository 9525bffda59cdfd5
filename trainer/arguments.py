"""Extra arguments as people write them: `name=value`, in any spelling seen in presets."""

import ast
import re
from typing import Any

MARKS = "\"'“”„‘’`"
BETWEEN = " \t\r\n,;\\" + MARKS
NAME = re.compile(rf"(?:^|(?<=[\s,;\\{MARKS}]))(?:--)?([A-Za-z_]\w*)\s*=(?!=)\s*")
WORDS = {"true": True, "false": False, "none": None}
WORD = re.compile(r"(?:\d+-)?[A-Za-z][\w.-]*")
STAIRS = re.compile(r"[\d.eE+-]+(:\d+)?(,[\d.eE+-]+(:\d+)?)*")
PERCENT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*%")


def parse_arguments(text: str) -> dict[str, Any]:
    """`name=value` pairs in any spelling people use: quoted or not, separated by spaces, commas or lines.

    Values are numbers, True/False/None, words, lists of these, stairs like 1:10,0.1 and percentages, of which 10% is
    0.1: `weight_decay=0.1 "betas=0.9,0.99" fused=true`. Only literals are read, nothing is evaluated. Raises
    `ValueError` with a sentence that says where it stopped.
    """
    lead_in = len(text) - len(text.lstrip())
    if text.strip().startswith("[") and text.strip().endswith("]"):  # a list as JSON and TOML write it
        text = " " * (lead_in + 1) + text.strip()[1:-1]
    found = list(NAME.finditer(text))
    lead = text[: found[0].start()] if found else text
    if lead.strip(BETWEEN):
        place = _place(text, 0, lead)
        raise ValueError(f"{place} {lead.strip(BETWEEN)!r} is not a name=value pair; write it like weight_decay=0.1.")
    arguments: dict[str, Any] = {}
    for number, match in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        name, written = match[1], text[match.end() : end]
        if name in arguments:
            raise ValueError(f"{_place(text, match.start(1))} {name} is given twice.")
        try:
            arguments[name] = _value(written)
        except ValueError as error:
            place = _place(text, match.end(), written)
            raise ValueError(f"{place} {error} for {name}; write it like {name}=0.1 or {name}=0.9,0.99.") from None
    return arguments


def _place(text: str, start: int, part: str = "") -> str:
    """Where in the text something stands, as people count: "at character 14", with the line where there are several."""
    start += len(part) - len(part.lstrip(BETWEEN)) if part.strip(BETWEEN) else 0
    lines = text[:start].split("\n")
    line = f"line {len(lines)}, " if "\n" in text.strip() else ""
    return f"at {line}character {len(lines[-1]) + 1}:"


def _value(text: str) -> Any:
    word = text.strip(BETWEEN)
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    if percent := PERCENT.fullmatch(word):
        return float(percent[1]) / 100
    try:
        value = ast.literal_eval(re.sub(r"\b(true|false|none)\b", lambda found: found[1].capitalize(), word))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if WORD.fullmatch(word) or STAIRS.fullmatch(word):
            return word
        raise ValueError(f"{word!r} is not a value" if word else "the value is missing") from None
    return tuple(value) if isinstance(value, list) else value
