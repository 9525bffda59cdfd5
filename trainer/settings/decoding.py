"""The object that a settings file holds: JSON or TOML, in any encoding that editors write; else a sentence about what it is."""

import codecs
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path
from typing import Any

from trainer.settings.loaded import Unreadable

LARGEST = 4 << 20
"""Bytes: hundreds of times the largest preset; more is something else."""
DEEPEST = 32
"""Objects and lists in one another: settings are flat, and what reads them goes down no further."""
LONGEST = 400
"""Digits of a whole number; all are beyond what any setting takes long before."""

MODELS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
SCRIPTS = (".sh", ".bat", ".cmd", ".ps1")
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}


@dataclass(frozen=True)
class Decoded:
    """What a file holds: `tables` as they stand, `values` of all of them by name, the names that are given twice."""

    values: dict[str, Any]
    tables: dict[str, Any]
    toml: bool = False
    twice: tuple[str, ...] = field(default=())


def decode(path: Path) -> Decoded:
    """The contents of a JSON or TOML file, whatever its ending; raises `Unreadable` with a sentence."""
    text, name = _text(path), path.name
    if not text.strip():
        raise Unreadable(f"{name} is empty.")
    readers = [_toml, _json] if path.suffix.lower() == ".toml" else [_json, _toml]
    try:
        return readers[0](text, name)
    except _NotThis as first:
        try:
            return readers[1](text, name)
        except _NotThis:
            raise Unreadable(_what(text, path) or f"{first}. Nothing was loaded.") from None


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise Unreadable(f"{path} is a folder; choose a .json file in it.")
        if path.exists() and not path.is_file():
            raise Unreadable(f"{path} is not a file.")
        if path.suffix.lower() in MODELS and path.is_file():
            raise Unreadable(f"{path.name} is a model, not settings. {MODEL_GOES}")
        if (size := path.stat().st_size) > LARGEST:
            raise Unreadable(f"{path.name} is no settings file: it has {size >> 20} MB, and settings are a few KB.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise Unreadable(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        what = "is not a text file in UTF-8; settings are .json or .toml files"
        raise Unreadable(f"{path.name} {what}. If it is one, save it as UTF-8 in an editor.")
    return text


MODEL_GOES = "A LoRA to go on from goes into LoRA network weights, a base model into Pretrained model name or path."


class _NotThis(Exception):
    """Not of the format that was tried, and where it breaks."""


def _json(text: str, name: str) -> Decoded:
    twice: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice[:] = _repeated(key for key, _ in pairs)  # the outermost object comes last
        return {_whole_characters(key): _whole_characters(value) for key, value in pairs}

    try:
        data = json.loads(text, object_pairs_hook=collect, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise _NotThis(f"{name} is not valid JSON: {_plain(error)}") from None
    except RecursionError:
        raise Unreadable(TOO_DEEP.format(name)) from None
    if not isinstance(data, dict):
        raise Unreadable(
            f'{name} holds a {_kind(data)}; settings are a JSON object in braces, such as {{"epoch": 10}}.'
        )
    _refuse_depth(data, name)
    return Decoded(data, data, twice=tuple(twice))


TOO_DEEP = "{} is not a settings file: it is nested too deeply."


def _toml(text: str, name: str) -> Decoded:
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise Unreadable(TOO_DEEP.format(name)) from None
    except ValueError as error:
        reason = "it holds a number with too many digits" if "int_max_str" in str(error) else str(error)
        raise _NotThis(f"{name} is not valid TOML: {reason}") from None
    _refuse_depth(tables, name)
    pairs = [(key, str(value) if isinstance(value, date | time) else value) for key, value in _leaves(tables)]
    return Decoded(dict(pairs), tables, toml=True, twice=tuple(_repeated(key for key, _ in pairs)))


def _leaves(tables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys and values of all sections, whose names mean nothing."""
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield key, value


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _whole_characters(value: Any) -> Any:
    """Halves of characters, which only an escape can write, become the sign for what cannot be shown."""
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if isinstance(value, str) else value


def _whole(digits: str) -> float | int:
    return int(digits) if len(digits) <= LONGEST else float("-inf" if digits.startswith("-") else "inf")


def _refuse_depth(data: Any, name: str) -> None:
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise Unreadable(TOO_DEEP.format(name))
        below = [item.values() if isinstance(item, dict) else item for item in level]
        level = [part for parts in below for part in parts if isinstance(part, dict | list)]


REASONS: Mapping[str, str] = {
    "Expecting property name enclosed in double quotes": "a name in double quotes is expected, or there is a comma too many before it",
    "Expecting ',' delimiter": "a comma is missing, or a quote within a text has no backslash before it",
    "Expecting ':' delimiter": "a colon is missing",
    "Expecting value": "a value is expected",
    "Extra data": "there is something after its end",
    "Unterminated string starting at": "a text has no closing quote",
    "Invalid control character at": "a text holds a line break or a tab; write \\n or \\t",
    "Invalid \\": "a backslash stands alone; in paths write \\\\ or /",
}  # fmt: skip
"""What Python says of a JSON, in plain words."""


def _plain(error: json.JSONDecodeError) -> str:
    said = next((plain for start, plain in REASONS.items() if error.msg.startswith(start)), error.msg)
    return f"in line {error.lineno}, column {error.colno}: {said}"


def _kind(data: Any) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "true/false"}.get(type(data), "null")


def _what(text: str, path: Path) -> str:
    """A sentence about a text that is neither JSON nor TOML, "" when only its format is broken."""
    ending = path.suffix.lower()
    if "train_network.py" in text and (ending in SCRIPTS or "accelerate launch" in text or "--network_module" in text):
        return f"{path.name} is a command of sd-scripts; paste what begins with -- in it into Additional parameters."
    if ending in (".yaml", ".yml") or re.match(r"(---|[A-Za-z_]+:)(\s|$)", text.lstrip()):
        names = set(re.findall(r"^([A-Za-z_]+):", text, re.MULTILINE))
        whose = next((whose for keys, whose in YAMLS.items() if keys <= names), "")
        return f"{path.name} is a YAML file{whose}; settings are JSON or TOML. Nothing was loaded."
    if ending not in (".json", ".toml"):
        return f"{path.name} is neither JSON nor TOML, the formats of settings. Nothing was loaded."
    return ""


YAMLS: Mapping[frozenset[str], str] = {
    frozenset({"job", "config"}): " of ai-toolkit",
    frozenset({"compute_environment"}): " of accelerate; its numbers have fields under Accelerate launch",
}  # fmt: skip
"""Names at the margin of YAML files that people have, and whose they are."""
