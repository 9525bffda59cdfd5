"""The run panel and the list of runs on the page: one cheap poll a second each, and only what changed is sent.

What a run is and did stands in its folder; what a page already shows, the page itself remembers and tells. So a
reload, a second tab and a restart of the page's process need no care of their own.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import gradio as gr
from gradio.context import Context

from app import history, runpanel, runs, tensorboard
from app.deeds import perform
from app.promptbox import LONGEST, prompts
from app.runs import GOING
from app.view import View, view_of

EMPTY = "No runs yet. Press Start training, or run the demo."
FAST, LIST, SLOW = 1.0, 2.0, 4.0
"""Seconds between two looks: at a run that goes on, at the list while something goes on, and while nothing does."""
SHARED_FOR = 0.5
"""Seconds for which all pages get the same answer about a run."""
REMEMBERED = 8

WRITING = ("draft", "prompts", "draw")
"""What a page says while somebody writes sample prompts, and when they are to be used."""

Have = dict[str, Any]
"""What a page shows: {"run": id, "parts": {name: fingerprint}, "pace": seconds, "deleted": a run just deleted, "draft":
[run, its sample prompts as somebody is writing them]}."""


@dataclass(frozen=True)
class Told:
    """What a page should show: of which run (or "list"), its parts as HTML in their order, and when to look again."""

    run: str
    parts: dict[str, str]
    pace: float


Teller = Callable[[str, Have, gr.Request | None], Told]
"""Gets the run the page chose and what it shows."""


def run_panel(run_id: gr.State, only: Sequence[str] = (), empty: str = EMPTY) -> gr.HTML:
    """Draw the panel of the run that `run_id` names; while it names none, of the newest one, preferably one that is on.

    `only` limits the latter to some jobs. Buttons that lead to another run put its id into `run_id`.
    """

    def tell(chosen: str, shown: Have, request: gr.Request | None) -> Told:
        return told_of_run(chosen, only, empty, request, shown.get("draft"))

    return _live("run", run_id, tell)


def runs_tab(run_id: gr.State, on_use_settings: Callable[[Any, gr.HTML], None] | None = None) -> gr.HTML:
    """The list of all runs, newest first; choosing one puts its id into `run_id`, for the run panel beside the list.

    `on_use_settings(event, chosen)` is called once, to connect the button "Use these settings": `event` is the
    listener, `chosen` the component whose value is the id of the run.
    """

    def tell(chosen: str, shown: Have, request: gr.Request | None) -> Told:
        parts = history.render(chosen or newest(), on_use_settings is not None, str(shown.get("deleted", "")))
        busy = any(run.state in (*GOING, "queued") for run in runs.list_runs())
        return Told("list", parts, LIST if busy else SLOW)

    def name(event: gr.EventData) -> str:
        return str(_said(event).get("run", ""))

    html = _live("list", run_id, tell, "use")
    if on_use_settings is not None:
        chosen = _memory("")
        on_use_settings(html.use(name, None, chosen, **QUICK).then, chosen)  # type: ignore[attr-defined]
    return html


QUICK: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}


def _live(kind: str, run_id: gr.State, tell: Teller, *more: str) -> gr.HTML:
    """An element that shows what `tell` says, mended bit by bit in the browser: what a person does in it stays.

    Its buttons do their deeds; `more` are verbs that become events of the element instead.
    """
    events = ", ".join(f"'{name}'" for name in ("act", *more))
    html = gr.HTML(
        None,
        html_template="",
        js_on_load=f"loomRun.begin(element, trigger, [{events}]); "
        "watch('value', () => loomRun.patch(element, props.value))",
        elem_id="loom-runs" if kind == "list" else "loom-run",
        elem_classes=["loom-run", f"loom-run-{'list' if kind == 'list' else 'panel'}"],
        apply_default_css=False,
    )
    have, timer = _memory({}), gr.Timer(FAST)

    def refresh(chosen: str, shown: Have, request: gr.Request) -> list[Any]:
        return updates(tell(chosen, shown or {}, request), shown or {})

    def act(chosen: str, shown: Have, event: gr.EventData, request: gr.Request) -> list[Any]:
        said = _said(event)
        shown = shown or {}
        verb, run = str(said.get("verb", "")), str(said.get("run") or shown.get("run", ""))
        text = said.get("text")
        text = text[:LONGEST] if isinstance(text, str) else ""
        other = do(verb, run, request, text)
        draft = [run, text] if verb in WRITING else shown.get("draft")
        shown = {**shown, "deleted": run if verb == "delete" else "", "draft": draft}
        told = tell(chosen if other is None else other, shown, request)
        return [gr.skip() if other is None else other, *updates(told, shown)]

    page = Context.root_block
    assert page is not None, "draw this inside a gr.Blocks"
    looks = [page.load, timer.tick, run_id.change]  # type: ignore[attr-defined]
    gr.on(looks, refresh, [run_id, have], [html, have, timer], **QUICK)
    html.act(act, [run_id, have], [run_id, html, have, timer], trigger_mode="multiple", **QUICK)  # type: ignore[attr-defined]
    return html


def _memory(value: Any) -> gr.HTML:
    """A value that the page keeps and sends back, and nobody sees."""
    return gr.HTML(value, html_template="", js_on_load=None, elem_classes=["loom-hidden"])


def _said(event: gr.EventData) -> dict[str, Any]:
    """What a button says: {"verb", "run", "text"}, the latter from the field beside it."""
    return event._data if isinstance(event._data, dict) else {}


def do(verb: str, run: str, request: gr.Request | None = None, text: str = "") -> str | None:
    """Do what a button says and return the run to show from now on, None to stay; troubles are shown as a message."""
    try:
        return perform(verb, run, request, text)
    except (ValueError, OSError) as trouble:
        gr.Warning(str(trouble))
        return None
    finally:
        forget()


def updates(told: Told, shown: Have) -> list[Any]:
    """[element, have, timer] for a page that shows `shown`: each only where it differs from `told`."""
    known = (shown.get("parts") or {}) if shown.get("run") == told.run else {}
    prints = {
        name: blake2b(html.encode(errors="replace"), digest_size=6).hexdigest() for name, html in told.parts.items()
    }
    changed = {name: html for name, html in told.parts.items() if known.get(name) != prints[name]}
    other_pace = shown.get("pace") != told.pace
    if not changed and not other_pace:
        return [gr.skip(), gr.skip(), gr.skip()]
    have = {**shown, "run": told.run, "parts": prints, "pace": told.pace}
    value = {"run": told.run, "order": list(told.parts), "parts": changed, "moment": time.time_ns()}
    return [value if changed else gr.skip(), have, gr.Timer(told.pace) if other_pace else gr.skip()]


def told_of_run(
    chosen: str,
    only: Sequence[str] = (),
    empty: str = EMPTY,
    request: gr.Request | None = None,
    draft: Sequence[str] | None = None,
) -> Told:
    """The panel of a run; where `chosen` is none (any more), of the newest. `draft`: [run, prompts being written]."""
    run = chosen if runs.find(chosen) is not None else newest(only)
    seen = look(run) if run else None
    if seen is None:
        return Told(run, runpanel.empty(empty), SLOW)
    view, parts = seen
    if draft and draft[0] == run:
        parts = {**parts, "prompts": prompts(view, draft[1])}
    return Told(run, {**parts, "tensorboard": tensorboard.offer(view, request)}, SLOW if view.over else FAST)


def newest(only: Sequence[str] = ()) -> str:
    """The newest run that is on, else the next in the queue, else the newest of all, else ""."""
    found = [run for run in runs.list_runs() if not only or run.job in only]
    going = [run for run in found if run.state in GOING]
    waiting = [run for run in found if run.state == "queued"]
    return (going or waiting[::-1] or found)[0].id if found else ""


_seen: OrderedDict[str, tuple[float, View, dict[str, str]]] = OrderedDict()
_lock = threading.Lock()


def look(run: str) -> tuple[View, dict[str, str]] | None:
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
        while len(_seen) > REMEMBERED:
            _seen.popitem(last=False)
        return view, parts


def forget() -> None:
    """Look anew next time: something was just done."""
    with _lock:
        _seen.clear()
