"""What was typed and not yet used: one small file a browser, so that a reload or a restart loses nothing. No gradio."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.declare import Section, by_name
from trainer.runfolder import read_json, write_json
from trainer.workspace import workspace

KEPT = 50
"""Drafts of so many browsers are kept; the oldest are forgotten."""


def save(browser: str, form: str, settings: type[Section], values: Mapping[str, Any]) -> None:
    """Keep the raw `values` of a form for a browser. Secrets and unknown names are left out."""
    path = _path(browser)
    if path is None:
        return
    known = by_name(settings)
    shown = {name: value for name, value in values.items() if name in known and not known[name].about.secret}
    kept = {name: known[name].written(value) for name, value in shown.items()}
    drafts = read_json(path)
    if drafts.get(form) != kept:
        with suppress(OSError):  # a full disk must not stop anybody from typing
            write_json(path, {**drafts, form: kept})
            _forget_old()


def load(browser: str, form: str) -> dict[str, Any] | None:
    """The raw values a browser left in a form; else those last used in any browser; None when there are none."""
    path = _path(browser)
    own = read_json(path).get(form) if path else None
    if isinstance(own, dict):
        return own
    for other in _files():
        values = read_json(other).get(form)
        if isinstance(values, dict):
            return values
    return None


def opening(ticket: str, form: str) -> dict[str, Any] | None:
    """What a form shows when the page opens: the draft, with edits on top that the server never saw; None: nothing yet.

    `ticket` is what the browser remembers, as JSON: {"browser": id, "pending": {name: raw value} or null}.
    """
    try:
        told = json.loads(ticket or "{}")
    except ValueError:
        told = {}
    if not isinstance(told, dict):
        told = {}
    values = load(str(told.get("browser") or ""), form)
    pending = told.get("pending")
    return {**(values or {}), **pending} if isinstance(pending, dict) else values


def _path(browser: str) -> Path | None:
    """The file of a browser; None for an id that is not one of ours (it becomes part of a file name)."""
    return workspace().drafts / f"{browser}.json" if re.fullmatch(r"[a-z0-9-]{8,64}", browser) else None


def _files() -> list[Path]:
    """All drafts, newest first."""
    try:
        return sorted(workspace().drafts.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    except OSError:
        return []


def _forget_old() -> None:
    for path in _files()[KEPT:]:
        with suppress(OSError):
            path.unlink()
