"""The run panel and the list of runs on the page: one cheap look a second each, and only what changed is sent.

What a run is and did stands in its folder; what a page already shows, the page itself remembers and tells. So a
reload, a second tab and a restart of the page's process need no care of their own. The browser asks by itself and mends
what it shows: an event of gradio would make it look through every input of the page each time.
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

Have = Mapping[str, Any]
"""What a page says: {"chosen": the run somebody chose, "run": the one it shows, "prints": {name of a part:
fingerprint}, "deleted": a run just deleted, "draft": [run, its sample prompts as somebody is writing them]}."""


@dataclass(frozen=True)
class Told:
    """What a page should show: of which run (or "list"), its parts as HTML in their order, and when to look again."""

    run: str
    parts: dict[str, str]
    pace: float


Teller = Callable[[Have, gr.Request | None], Told]
"""Gets what the page says."""


def run_panel(only: Sequence[str] = (), empty: str = EMPTY) -> gr.HTML:
    """Draw the panel of the chosen run; while there is none, of the newest one, preferably one that is on.

    `only` limits the latter to some jobs. A run is chosen by buttons that lead to it and by starting it.
    """

    def tell(have: Have, request: gr.Request | None) -> Told:
        return told_of_run(_text(have, "chosen"), only, empty, request, _draft(have))

    return _live("run", tell)


def runs_tab(on_use_settings: Callable[[Any, gr.HTML], None] | None = None) -> gr.HTML:
    """The list of all runs, newest first; the chosen one stands in the run panel beside the list.

    `on_use_settings(event, chosen)` is called once, to connect the button "Use these settings": `event` is the
    listener, `chosen` the component whose value is the id of the run.
    """

    def tell(have: Have, request: gr.Request | None) -> Told:
        parts = history.render(_text(have, "chosen") or newest(), on_use_settings is not None, _text(have, "deleted"))
        busy = any(run.state in (*GOING, "queued") for run in runs.list_runs())
        return Told("list", parts, LIST if busy else SLOW)

    def name(event: gr.EventData) -> str:
        return str(event._data.get("run", "")) if isinstance(event._data, dict) else ""

    html = _live("list", tell, "use")
    if on_use_settings is not None:
        chosen = gr.HTML("", html_template="", js_on_load=None, elem_classes=["loom-hidden"])
        on_use_settings(html.use(name, None, chosen, **QUICK).then, chosen)  # type: ignore[attr-defined]
    return html


QUICK: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}


def _live(kind: str, tell: Teller, *events: str) -> gr.HTML:
    """An element that shows what `tell` says, mended bit by bit in the browser: what a person does in it stays.

    Its buttons do their deeds; `events` are verbs that become events of the element instead.
    """

    def look(have: dict[str, Any], request: gr.Request) -> dict[str, Any]:
        return news(tell(have, request), have)

    def act(said: dict[str, Any], request: gr.Request) -> dict[str, Any]:
        """`said`: what a page says and what its button does, {"verb", "on": a run, "text": in the field beside it}."""
        chosen, trouble = do(_text(said, "verb"), _text(said, "on"), request, _text(said, "text")[:LONGEST])
        have = said if chosen is None else {**said, "chosen": chosen}
        return {**news(tell(have, request), have), "chosen": chosen, "trouble": trouble}

    names = ", ".join(f"'{name}'" for name in events)
    return gr.HTML(
        None,
        html_template="",
        js_on_load=f"loomRun.begin(element, server, trigger, [{names}])",
        server_functions=[look, act],
        elem_id="loom-runs" if kind == "list" else "loom-run",
        elem_classes=["loom-run", f"loom-run-{'list' if kind == 'list' else 'panel'}"],
        apply_default_css=False,
    )


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""


def _draft(have: Have) -> Sequence[str] | None:
    draft = have.get("draft")
    whole = isinstance(draft, list) and len(draft) == 2 and all(isinstance(part, str) for part in draft)
    return [draft[0], draft[1][:LONGEST]] if whole else None  # type: ignore[index]


def do(verb: str, run: str, request: gr.Request | None = None, text: str = "") -> tuple[str | None, str]:
    """Do what a button says: (the run to show from now on, None to stay; why it could not be done, "" if it was)."""
    try:
        return perform(verb, run, request, text), ""
    except (ValueError, OSError) as trouble:
        return None, str(trouble)
    finally:
        forget()


def news(told: Told, have: Have) -> dict[str, Any]:
    """What a page that shows `have` must be told: {"run", "order", "parts": those that changed, "prints", "pace"}."""
    shown = have.get("prints") if have.get("run") == told.run else None
    known = shown if isinstance(shown, dict) else {}
    prints = {
        name: blake2b(html.encode(errors="replace"), digest_size=6).hexdigest() for name, html in told.parts.items()
    }
    changed = {name: html for name, html in told.parts.items() if known.get(name) != prints[name]}
    return {"run": told.run, "order": list(told.parts), "parts": changed, "prints": prints, "pace": told.pace}


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
