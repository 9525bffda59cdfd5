"""Files of sample prompts as sd-scripts reads them: lines of text, a TOML or a JSON."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LETTERS = {
    "negative_prompt": "n", "width": "w", "height": "h", "seed": "d", "scale": "l", "sample_steps": "s", "sample_sampler": "ss",
}  # fmt: skip
"""What a part of a prompt is called in a TOML or JSON, and its letter in a line."""


def prompts_of(path: Path) -> str:
    """The prompts of a file, one a line; raises `OSError` or `ValueError` with a reason when it cannot be read."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".txt":
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())
    try:
        data = json.loads(text) if path.suffix.lower() == ".json" else _merged(tomllib.loads(text).get("prompt"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, list) or not all(isinstance(item, Mapping | str) for item in data):
        raise ValueError("it does not hold a list of prompts")
    return "\n".join(map(_line, data))


def _merged(table: Any) -> Any:
    """Each subset of a TOML with what stands above all of them."""
    if not isinstance(table, Mapping) or not isinstance(table.get("subset"), list):
        return table
    common = {key: value for key, value in table.items() if key != "subset"}
    return [{**common, **item} for item in table["subset"] if isinstance(item, Mapping)]


def _line(prompt: Mapping[str, Any] | str) -> str:
    if isinstance(prompt, str):
        return " ".join(prompt.split())
    words = [str(prompt.get("prompt", ""))]
    words += [f"--{letter} {prompt[key]}" for key, letter in LETTERS.items() if prompt.get(key) not in (None, "")]
    return " ".join(" ".join(words).split())
