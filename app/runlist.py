"""The Runs tab: every run, newest first; choosing one shows it in the run panel."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from app import runs
from trainer.jobs import jobs

SHOWN = 200
EMPTY = '<p class="loom-empty">No runs yet. Press Start on the LoRA tab, or run the demo.</p>'
GOING = ("running", "starting", "stopping")


def draw(run_id: gr.State) -> None:
    """The list; `run_id` is the run that the panel beside it shows."""
    gr.HTML("<h2>Runs</h2>", elem_classes=["loom-heading"])
    rows = gr.HTML(
        EMPTY,
        elem_id="loom-runs",
        js_on_load="loom.runs(element, trigger)",
    )
    timer = gr.Timer(3)

    def chosen(event: gr.EventData) -> str:
        return str(event._data.get("run", "")) if isinstance(event._data, dict) else ""

    rows.select(chosen, None, run_id, show_progress="hidden")  # type: ignore[attr-defined]
    gr.on([timer.tick, run_id.change], table, run_id, rows, show_progress="hidden", queue=False)


def current() -> str:
    """The run a fresh page follows: the one that is on, else the newest, else none."""
    found = runs.list_runs()
    going = [run for run in found if run.state in GOING]
    return str((going or found)[0].id) if found else ""


def table(selected: str) -> str:
    """All runs as rows of a table; the name of each is a button."""
    found = runs.list_runs()[:SHOWN]
    if not found:
        return EMPTY
    head = "<tr><th>Run</th><th>Job</th><th>State</th><th>Progress</th><th>Started</th></tr>"
    return f'<table class="loom-runs"><thead>{head}</thead><tbody>{"".join(_row(run, selected) for run in found)}</tbody></table>'


def _row(run: Any, selected: str) -> str:
    status = run.status or {}
    here = ' aria-current="true"' if run.id == selected else ""
    job = jobs().get(run.job)
    return (
        f'<tr data-run="{escape(run.id)}"{here}><td><button type="button">{escape(run.name or run.id)}</button></td>'
        f"<td>{escape(job.label if job else run.job)}</td>"
        f'<td><span class="loom-state {escape(run.state)}">{escape(run.state)}</span></td>'
        f"<td>{escape(_progress(status))}</td><td>{escape(_when(status.get('started')))}</td></tr>"
    )


def _progress(status: dict[str, Any]) -> str:
    if status.get("steps"):
        loss = f", loss {status['average']:.3f}" if isinstance(status.get("average"), int | float) else ""
        return f"step {status.get('step', 0)} of {status['steps']}{loss}"
    return f"{status.get('done', 0)} of {status['total']}" if status.get("total") else ""


def _when(started: Any) -> str:
    if not isinstance(started, int | float):
        return ""
    moment = time.localtime(started)
    today = time.strftime("%Y%m%d") == time.strftime("%Y%m%d", moment)
    return time.strftime("%H:%M" if today else "%d %b %H:%M", moment)
