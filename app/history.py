"""The list of all runs as HTML: what waits, in its order, and what was, newest first. (no gradio)"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from app import runs
from app.runs import GOING
from app.view import job_label
from app.wall import thumb_url
from trainer import runfolder

SHOWN = 200
"""Runs that are listed; older ones are still on the disk."""
EMPTY = "No runs yet. Press Start training, or run the demo."


def render(chosen: str, with_use: bool = False, deleted: str = "") -> dict[str, str]:
    """The parts of the list: what waits, and the others. `chosen` has buttons; `deleted` can be brought back."""
    found = runs.list_runs()
    if not found:
        return {"undo": _undo(deleted), "queue": "", "runs": f'<p class="loom-empty">{escape(EMPTY)}</p>'}
    order = [entry.stem.partition("-")[2] for entry in runfolder.queue_entries()]
    waiting = sorted((run for run in found if run.state == "queued"), key=lambda run: _place(order, run.id))
    others = [run for run in found if run.state != "queued"]
    more = f'<p class="loom-muted">The newest {SHOWN} of {len(others)}.</p>' if len(others) > SHOWN else ""
    return {
        "undo": _undo(deleted),
        "queue": _list("Queue", [_row(run, chosen, with_use, place) for place, run in enumerate(waiting, start=1)]),
        "runs": _list("Before" if waiting else "", [_row(run, chosen, with_use) for run in others[:SHOWN]]) + more,
    }


def _undo(deleted: str) -> str:
    if not deleted or runs.find(deleted) is not None:
        return ""
    return (
        f"<p>{escape(deleted)} is in the trash for a week. "
        f'<button type="button" class="loom-link" data-verb="restore" data-run="{escape(deleted)}">Undo</button></p>'
    )


def _place(order: Sequence[str], run: str) -> int:
    return order.index(run) if run in order else len(order)


def _list(title: str, rows: Sequence[str]) -> str:
    heading = f"<h3>{title}</h3>" if title else ""
    return f'{heading}<ul class="loom-run-rows">{"".join(rows)}</ul>' if rows else ""


def _row(run: Any, chosen: str, with_use: bool, place: int = 0) -> str:
    here = run.id == chosen
    status = run.status or {}
    facts = [job_label(run.job), _progress(status), _when(run)]
    buttons = _buttons(run, with_use) if here or place else ""
    state = f"{place}. in line" if place else run.state
    words = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    kind, current = ("is-chosen", ' aria-current="true"') if here else ("", "")
    return (
        f'<li data-key="{escape(run.id)}" class="{kind}">{_picture(run.folder, int(status.get("samples") or 0))}'
        f'<button type="button" class="loom-run-title" data-verb="show" data-run="{escape(run.id)}"{current}>'
        f"{escape(run.name or run.id)}</button>"
        f'<span class="loom-run-state {escape(run.state)}">{escape(state)}</span>'
        f'<p class="loom-run-facts">{words}{buttons}</p></li>'
    )


def _buttons(run: Any, with_use: bool) -> str:
    found = [("unqueue", "Take out of the queue")] if run.state == "queued" else []
    if run.job == "train" and with_use:
        found.append(("use", "Use these settings"))
    if run.state in runfolder.ENDED:
        found.append(("delete", "Delete"))
    return "".join(
        f'<button type="button" class="loom-link" data-verb="{verb}" data-run="{escape(run.id)}">{words}</button>'
        for verb, words in found
    )


@lru_cache(maxsize=2 * SHOWN)
def _picture(folder: Path, samples: int) -> str:
    """The last of so many samples, or an empty place."""
    pictures = (folder / runfolder.SAMPLES).glob("*.png") if samples else ()
    newest = max(((path.stat().st_mtime, path) for path in pictures), default=None)
    if newest is None:
        return '<span class="loom-run-blank"></span>'
    return f'<img src="{escape(thumb_url(newest[1], 128, newest[0]))}" alt="" loading="lazy">'


def _progress(status: Mapping[str, Any]) -> str:
    if status.get("steps"):
        average = status.get("average")
        mean = f", loss {average:.3f}" if isinstance(average, int | float) else ""
        return f"step {status.get('step') or 0} of {status['steps']}{mean}"
    items = status.get("items")
    return ", ".join(f"{count} {state}" for state, count in items.items()) if isinstance(items, dict) else ""


def _when(run: Any) -> str:
    moment = (run.status or {}).get("started")
    if not isinstance(moment, int | float):
        return ""
    local = time.localtime(moment)
    said = time.strftime("%H:%M" if time.strftime("%Y%j") == time.strftime("%Y%j", local) else "%d %b %Y %H:%M", local)
    return f"since {said}" if run.state in GOING else said
