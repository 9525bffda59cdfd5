"""The run panel as HTML, a function a part, from what the run folder says; what a run wrote is escaped. (no gradio)"""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape

from app import output
from app.ending import ending
from app.promptbox import prompts
from app.runs import GOING
from app.view import View
from app.words import duration, share_of, size_of, speed
from trainer import runfolder

STOP_NOW_AFTER = 15.0
"""Seconds of stopping after which the page offers to stop at once."""


# The head: what goes on, and how far it is.


def head(view: View) -> str:
    """Name, state, one line of numbers and the progress bar."""
    kind = f"{view.state} paused" if view.paused else view.state
    line = " · ".join(_numbers(view))
    return (
        f'<div class="loom-run-head"><h2>{escape(view.name or view.id)}</h2>'
        f'<span class="loom-run-state {escape(kind)}" role="status">{escape(_word(view))}</span></div>'
        + (f'<p class="loom-run-line">{escape(line)}</p>' if line else "")
        + _bar(view)
        + _silence(view)
    )


def _word(view: View) -> str:
    if view.state == "running":
        if "stop" in view.asked:
            return "stopping"
        return view.phase or "starting"
    if view.state == "stopping" and view.phase:
        return "stopping" if view.phase in ("training", "paused") else f"stopping: {view.phase}"
    return view.state


def _numbers(view: View) -> list[str]:
    """The line under the name: "step 96/240 · epoch 2/4 · 4.1 it/s · 35 s left"."""
    status, going = view.status, view.state in ("running", "stopping")
    said = []
    counted = going and status.get("total") and view.phase not in ("training", "paused")
    if counted:
        # Downloads count bytes, everything else counts pictures, captions, files.
        told = size_of if view.phase.startswith("downloading") else str
        said.append(f"{told(int(status.get('done') or 0))} of {told(int(status['total']))}")
    if view.steps and (view.step or not counted):
        said.append(f"step {view.step}/{view.steps}" if view.state != "queued" else f"{view.steps} steps")
    if view.steps and status.get("epochs") and status.get("epoch"):
        said.append(f"epoch {status['epoch']}/{status['epochs']}")
    if going and view.phase == "training" and "stop" not in view.asked and view.state == "running":
        if status.get("rate"):
            said.append(speed(float(status["rate"]), float(status.get("images_a_step") or 0)))
        if status.get("eta") is not None and view.step:
            said.append(f"{duration(float(status['eta']))} left")
    if status.get("memory"):
        said.append(f"memory {share_of(int(status['memory']), int(status.get('memory_total') or 0))}")
    return said


def _bar(view: View) -> str:
    if view.state in ("queued", "finished") or (view.over and not view.step):
        return ""
    share = progress(view)
    if share is None:
        return '<div class="loom-progress is-busy" role="progressbar" aria-label="Progress"><i></i></div>'
    percent = f"{100 * share:.0f}"
    return (
        f'<div class="loom-progress {escape(view.state)}" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{100 * share:.1f}%"></i></div>'
    )


def progress(view: View) -> float | None:
    """How much of the run is done, 0 to 1; None when nobody can tell."""
    if view.steps and view.step:
        return min(1.0, view.step / view.steps)
    total = int(view.status.get("total") or 0)
    if total and view.phase not in ("training", "paused"):
        return min(1.0, int(view.status.get("done") or 0) / total)
    return 0.0 if view.steps and view.phase == "training" else None


def _silence(view: View) -> str:
    if view.state not in ("running", "stopping") or not view.status or runfolder.is_responding(view.status):
        return ""
    silent = duration(time.time() - float(view.status.get("heartbeat") or 0))
    return f'<p class="loom-note warning">No sign of life for {silent}. It may be busy; the log says more.</p>'


# The buttons.


def actions(view: View) -> str:
    """The buttons that make sense now."""
    found = [_button(verb, label, view, kind) for verb, label, kind, when in ACTIONS if when(view)]
    return f'<div class="loom-actions">{"".join(found)}</div>' if found else ""


def _button(verb: str, label: str, view: View, kind: str) -> str:
    heard = COMMANDS.get(verb, verb) in view.asked or (verb == "stop" and view.state == "stopping")
    busy = BUSY.get(verb, "") if heard else ""
    ask = f' data-ask="{escape(_loss(view))}"' if verb == "kill" else ""
    return (
        f'<button type="button" data-verb="{verb}" data-key="{verb}" class="loom-act {kind}"{ask}'
        f"{' disabled' if busy else ''}>{escape(busy or label)}</button>"
    )


def _loss(view: View) -> str:
    """What stopping at once costs."""
    lost = view.step - view.kept_step if view.trains else 0
    steps = f"{lost} step{'s' * (lost > 1)} since the last saved state"
    return f"Really? {steps} will be lost" if lost > 0 else "Really stop now?"


def _can_command(view: View) -> bool:
    return view.state == "running" and "stop" not in view.asked


def _slow_to_stop(view: View) -> bool:
    return view.state in GOING and view.stopping_for > STOP_NOW_AFTER


def _trains_now(view: View) -> bool:
    return _can_command(view) and view.trains and view.phase in ("training", "paused", "sampling", "saving")


def _cut_short(view: View) -> bool:
    return view.state in ("stopped", "failed", "interrupted")


Condition = Callable[[View], bool]
ACTIONS: tuple[tuple[str, str, str, Condition], ...] = (
    ("pause", "Pause", "", lambda view: _trains_now(view) and not view.paused),
    ("unpause", "Go on", "primary", lambda view: _can_command(view) and view.paused),
    ("stop", "Stop", "", lambda view: view.state in GOING),
    ("kill", "Stop now", "danger", _slow_to_stop),
    ("save", "Save now", "", _trains_now),
    ("sample", "Sample now", "", lambda view: _trains_now(view) and view.can_sample),
    ("unqueue", "Take out of the queue", "", lambda view: view.state == "queued"),
    ("continue", "Resume", "primary", lambda view: _cut_short(view) and view.resumable),
    ("again", "Start again", "", lambda view: _cut_short(view) and not view.resumable),
)
"""(verb, words, look, when it is offered), in the order of the page."""

COMMANDS = {"unpause": "resume"}
"""Verbs of buttons whose command file has another name."""
BUSY = {
    "stop": "Stopping …",
    "pause": "Pausing …",
    "unpause": "Going on …",
    "save": "Saving …",
    "sample": "Sampling …",
    "kill": "Ending it …",
}


# The whole.


PARTS: dict[str, Callable[[View], str]] = {
    "head": head,
    "actions": actions,
    "ending": ending,
    "loss": output.loss,
    "samples": output.samples,
    "prompts": prompts,
    "results": output.results,
    "files": output.files,
    "notes": output.notes,
    "log": output.log,
}
"""The panel, top to bottom."""


def render(view: View) -> dict[str, str]:
    """All parts by name; a part that has nothing to say is empty."""
    return {name: part(view) for name, part in PARTS.items()}


def empty(message: str) -> dict[str, str]:
    """The panel when there is no run."""
    return {**dict.fromkeys(PARTS, ""), "head": f'<p class="loom-empty">{escape(message)}</p>'}
