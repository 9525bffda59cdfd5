"""Writes `docs/settings.md` from the declarations: `python -m trainer.settings.document`."""

from pathlib import Path

from trainer.declare import Section, Setting, settings_of
from trainer.settings import SECTIONS

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
HEAD = """# Settings

Generated from the declarations in `trainer/settings/`; change those and run `python -m trainer.settings.document`.
Every name is the key in a preset and the flag on the command line (`--network_dim 16`). An empty default means "not set".
"""


def document() -> str:
    """The whole page as Markdown."""
    lines, tab = [HEAD], ""
    for section in SECTIONS:
        if section.tab != tab:
            tab = section.tab
            lines.append(f"\n## {tab}\n")
        lines += _section(section)
    return "\n".join(lines).rstrip() + "\n"


def _section(section: type[Section]) -> list[str]:
    head = [f"\n### {section.title}\n", f"{section.__doc__}\n"]
    table = ["| Label | Name | Default | Values | Shown when | What it does |", "|---|---|---|---|---|---|"]
    return head + table + [_row(item) for item in settings_of(section)]


def _row(item: Setting) -> str:
    when = ", ".join(f"`{name}` is {_values(value)}" for name, value in (item.about.when or {}).items())
    cells = [item.label, f"`{item.name}`", _default(item), _allowed(item), when, item.about.help]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(value: object) -> str:
    options = value if isinstance(value, tuple | list) else (value,)
    return " or ".join(f"`{str(option).lower() if isinstance(option, bool) else option}`" for option in options)


def _default(item: Setting) -> str:
    if item.default is None or item.default == "":
        return ""
    return f"`{str(item.default).lower() if isinstance(item.default, bool) else item.default}`"


def _allowed(item: Setting) -> str:
    if item.choices:
        more = ", or another" if item.about.custom else ""
        return ", ".join(f"`{choice}`" for choice in item.choices) + more
    kind = {bool: "true or false", int: "whole number", float: "number", str: item.about.kind or "text"}[item.type]
    kind = {"lines": "several lines", "config": "file"}.get(kind, kind)
    return f"{kind}, {item.bounds}" if item.bounds else kind


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
