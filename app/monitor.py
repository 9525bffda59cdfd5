"""The run panel and the list of runs on the page: one cheap poll a second, and only what changed is sent.

What a run is and did stands in its folder; what a page already shows, the page itself remembers and tells. So a
reload, a second tab and a restart of the page's process need no care of their own.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import gradio as gr
from gradio.context import Context

from app import history, runpanel, runs, tensorboard
from app.runpanel import GOING, OVER, View
from app.story import log, story
from trainer import runfolder
from trainer.declare import Section
from trainer.jobs import jobs
from trainer.report import Failure

EMPTY = "No runs yet. Press Start training, or run the demo."
FAST, SLOW = 1.0, 4.0
"""Seconds between two looks while something goes on, and while nothing does."""
SHARED_FOR = 0.5
"""Seconds for which all pages get the same answer about a run."""

Parts = dict[str, str]
Have = dict[str, Any]
"""What a page shows: {"run": id, "parts": {name: fingerprint}, "pace": seconds}, and "deleted": a run just deleted."""


@dataclass(frozen=True)
class Panel:
    """The components of a run panel. `have.value["run"]` is the run it shows; `html.use(...)` is the button "Use these settings"."""

    html: gr.HTML
    have: gr.HTML
    timer: gr.Timer


def run_panel(run_id: gr.State, only: Sequence[str] = (), empty: str = EMPTY) -> Panel:
    """Draw the panel of the run that `run_id` names; while it names none, of the newest one that is on, else the newest.

    `only` limits the latter to some jobs. Buttons that lead to another run put its id into `run_id`.
    """
    html = _patched("loom-run", "panel")
    have = gr.HTML({}, html_template="", js_on_load=None, elem_classes=["loom-hidden"])
    timer = gr.Timer(FAST)

    def refresh(chosen: str, shown: Have, request: gr.Request) -> list[Any]:
        return answer(chosen, shown or {}, only, empty, request)

    def act(chosen: str, shown: Have, event: gr.EventData, request: gr.Request) -> list[Any]:
        shown = shown or {}
        told = event._data if isinstance(event._data, dict) else {}
        fresh = perform(str(told.get("verb", "")), str(shown.get("run", "")), told, request)
        forget()
        return [
            gr.skip() if fresh is None else fresh,
            *answer(chosen if fresh is None else fresh, shown, only, empty, request),
        ]

    quick: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
    outputs = [html, have, timer]
    page = Context.root_block
    assert page is not None, "run_panel() draws inside a gr.Blocks"
    gr.on([page.load, timer.tick, run_id.change], refresh, [run_id, have], outputs, **quick)  # type: ignore[attr-defined]
    html.act(act, [run_id, have], [run_id, *outputs], trigger_mode="multiple", **quick)  # type: ignore[attr-defined]
    return Panel(html, have, timer)


def runs_tab(run_id: gr.State, on_use_settings: Callable[[Any, gr.HTML], None] | None = None) -> gr.HTML:
    """The list of all runs, newest first; choosing one puts its id into `run_id`, for the run panel beside the list.

    `on_use_settings(event, chosen)` is called once, to connect the button "Use these settings": `event` is the listener,
    `chosen` the component whose value is the id of the run.
    """
    html = _patched("loom-runs", "list", "use")
    have = gr.HTML({}, html_template="", js_on_load=None, elem_classes=["loom-hidden"])
    use = gr.HTML("", html_template="", js_on_load=None, elem_classes=["loom-hidden"])
    timer = gr.Timer(FAST)

    def refresh(chosen: str, shown: Have) -> list[Any]:
        shown = shown or {}
        parts = history.render(chosen or newest(), on_use_settings is not None, str(shown.get("deleted", "")))
        busy = any(run.state in (*GOING, "queued") for run in runs.list_runs())
        return _changes("list", parts, shown, 2.0 if busy else SLOW)

    def act(chosen: str, shown: Have, event: gr.EventData, request: gr.Request) -> list[Any]:
        told = event._data if isinstance(event._data, dict) else {}
        fresh = perform(str(told.get("verb", "")), str(told.get("run", "")), told, request)
        forget()
        shown = {**(shown or {}), "deleted": str(told.get("run", "")) if told.get("verb") == "delete" else ""}
        return [gr.skip() if fresh is None else fresh, *refresh(chosen if fresh is None else fresh, shown)]

    def name(event: gr.EventData) -> str:
        return str(event._data.get("run", "")) if isinstance(event._data, dict) else ""

    quick: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
    outputs = [html, have, timer]
    page = Context.root_block
    assert page is not None, "runs_tab() draws inside a gr.Blocks"
    gr.on([page.load, timer.tick, run_id.change], refresh, [run_id, have], outputs, **quick)  # type: ignore[attr-defined]
    html.act(act, [run_id, have], [run_id, *outputs], trigger_mode="multiple", **quick)  # type: ignore[attr-defined]
    if on_use_settings is not None:
        on_use_settings(html.use(name, None, use, **quick).then, use)  # type: ignore[attr-defined]
    return html


def _patched(element: str, kind: str, *more: str) -> gr.HTML:
    """An element whose inside is mended part by part in the browser, so that what a person does in it stays."""
    events = ", ".join(f"'{name}'" for name in ("act", *more))
    return gr.HTML(
        None,
        html_template="",
        js_on_load=f"loomRun.begin(element, trigger, [{events}]); watch('value', () => loomRun.patch(element, props.value))",
        elem_id=element,
        elem_classes=["loom-run", f"loom-run-{kind}"],
        apply_default_css=False,
    )


# What a page is told.


def answer(
    chosen: str, shown: Have, only: Sequence[str] = (), empty: str = EMPTY, request: gr.Request | None = None
) -> list[Any]:
    """[panel, have, timer] for a page that shows `shown`: each only where it differs."""
    run = chosen or newest(only)
    seen = look(run) if run else None
    if seen is None:
        return _changes(run, runpanel.empty(empty), shown, SLOW)
    view, parts = seen
    parts = {**parts, "tensorboard": tensorboard.offer(view, request)}
    return _changes(run, parts, shown, SLOW if view.state in OVER else FAST)


def _changes(run: str, parts: Parts, shown: Have, pace: float) -> list[Any]:
    known: Mapping[str, str] = (shown.get("parts") or {}) if shown.get("run") == run else {}
    prints = {name: _fingerprint(html) for name, html in parts.items()}
    changed = {name: html for name, html in parts.items() if known.get(name) != prints[name]}
    other_pace = shown.get("pace") != pace
    if not changed and not other_pace:
        return [gr.skip(), gr.skip(), gr.skip()]
    have = {**shown, "run": run, "parts": prints, "pace": pace}
    value = {"run": run, "order": list(parts), "parts": changed, "moment": time.time_ns()}
    return [value if changed else gr.skip(), have, gr.Timer(pace) if other_pace else gr.skip()]


def _fingerprint(html: str) -> str:
    return blake2b(html.encode(errors="replace"), digest_size=6).hexdigest()


def newest(only: Sequence[str] = ()) -> str:
    """The newest run that is on, else the next in the queue, else the newest of all, else ""."""
    found = [run for run in runs.list_runs() if not only or run.job in only]
    going = [run for run in found if run.state in GOING]
    waiting = [run for run in found if run.state == "queued"]
    return str((going or waiting[::-1] or found)[0].id) if found else ""


_seen: OrderedDict[str, tuple[float, View, Parts]] = OrderedDict()
_since: dict[str, float] = {}
_lock = threading.Lock()


def look(run: str) -> tuple[View, Parts] | None:
    """A run and its panel as of now, or of half a second ago; None when there is no such run."""
    with _lock:
        found = _seen.get(run)
        if found and time.monotonic() - found[0] < SHARED_FOR:
            return found[1], found[2]
        view = view_of(run)
        if view is None:
            return None
        parts = runpanel.render(view)
        _seen[run] = (time.monotonic(), view, parts)
        _seen.move_to_end(run)
        while len(_seen) > 8:
            _seen.popitem(last=False)
        return view, parts


def forget() -> None:
    """Look anew next time: something was just done."""
    with _lock:
        _seen.clear()


def view_of(run: str) -> View | None:
    """Everything the panel needs, read from the run's folder."""
    info = runs.snapshot(run)
    if info is None:
        return None
    control = info.folder / runfolder.CONTROL
    asked = [path.stem for path in control.glob("*.json")] if info.state not in OVER and control.is_dir() else []
    ahead = runs.ahead(run) if info.state == "queued" else []
    told = story(info.folder)
    return View(
        id=info.id,
        job=info.job,
        name=info.name,
        state=info.state,
        folder=info.folder,
        status=info.status,
        outcome=info.outcome,
        story=told,
        log=log(info.folder),
        ahead=[other.name or other.id for other in ahead],
        busy_with=next((other.id for other in ahead if other.state in GOING), ""),
        asked=asked,
        stopping_for=_stopping_for(info.id, info.state == "stopping" or (info.state in GOING and "stop" in asked)),
        resumable=info.state in OVER and info.job == runpanel.TRAINING and told.newest_state() is not None,
    )


def _stopping_for(run: str, stopping: bool) -> float:
    if not stopping:
        _since.pop(run, None)
        return 0.0
    return time.monotonic() - _since.setdefault(run, time.monotonic())


# What the buttons do.


def perform(verb: str, run: str, told: Mapping[str, Any], request: gr.Request | None = None) -> str | None:
    """Do what a button says; returns the id of the run to show from now on, None to stay. Troubles are shown as a message."""
    deed = DEEDS.get(verb)
    if deed is None:
        return None
    try:
        return deed(run, told, request)
    except (Failure, ValueError, OSError) as trouble:
        gr.Warning(str(trouble))
        return None


Deed = Callable[[str, Mapping[str, Any], gr.Request | None], str | None]


def _command(word: str) -> Deed:
    def deed(run: str, told: Mapping[str, Any], request: gr.Request | None) -> None:
        runs.command(run, word)

    return deed


def _show(run: str, told: Mapping[str, Any], request: gr.Request | None) -> str:
    return str(told.get("run", ""))


def _listed(run: str, told: Mapping[str, Any]) -> str:
    """The run a button of the list is about; the shown one for buttons of the panel."""
    return str(told.get("run") or run)


def _unqueue(run: str, told: Mapping[str, Any], request: gr.Request | None) -> None:
    runs.command(_listed(run, told), "stop")


def _delete(run: str, told: Mapping[str, Any], request: gr.Request | None) -> None:
    runs.delete(_listed(run, told))


def _restore(run: str, told: Mapping[str, Any], request: gr.Request | None) -> str:
    runs.restore(_listed(run, told))
    return _listed(run, told)


def _continue(run: str, told: Mapping[str, Any], request: gr.Request | None) -> str:
    """A new run that goes on from the newest state of this one."""
    return _queue(run, runs.resume_settings(run))


def _again(run: str, told: Mapping[str, Any], request: gr.Request | None) -> str:
    """A new run with the same settings."""
    return _queue(run, runs.settings_of(run))


def _queue(run: str, settings: Section) -> str:
    info = runs.snapshot(run)
    assert info is not None
    problem = next(iter(jobs()[info.job].check(settings)), None)
    if problem is not None:
        raise ValueError(f"Not started. {problem}")
    return runs.queue_run(info.job, settings, info.name)


def _open_tensorboard(run: str, told: Mapping[str, Any], request: gr.Request | None) -> None:
    view = view_of(run)
    if view is not None:
        tensorboard.open_for(view)


DEEDS: dict[str, Deed] = {
    "stop": _command("stop"),
    "kill": _command("kill"),
    "pause": _command("pause"),
    "unpause": _command("resume"),
    "save": _command("save"),
    "sample": _command("sample"),
    "show": _show,
    "unqueue": _unqueue,
    "delete": _delete,
    "restore": _restore,
    "continue": _continue,
    "again": _again,
    "tensorboard": _open_tensorboard,
}
