"""Tabs: a row of buttons and the panels they open. Closed panels stay on the page, so Ctrl+F and search find them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape

import gradio as gr


def tablist(name: str, tabs: Mapping[str, str], label: str = "") -> None:
    """A row of tabs: {panel: words}. `static/page.js` brings it to life."""
    buttons = "".join(
        f'<button type="button" role="tab" id="tab-{key}" data-panel="panel-{key}" data-name="{escape(words)}" '
        f'aria-controls="panel-{key}" aria-selected="{"true" if first else "false"}">{escape(words)}</button>'
        for first, (key, words) in zip([True] + [False] * len(tabs), tabs.items(), strict=False)
    )
    gr.HTML(
        f'<div role="tablist" class="loom-tabs" data-tabs="{name}" aria-label="{escape(label or name)}">{buttons}'
        "</div>",
        elem_classes=["loom-tabrow", f"loom-tabrow-{name}"],
    )


@contextmanager
def panel(key: str, first: bool = False) -> Iterator[None]:
    """What a tab opens; `first` is open when the page comes up for the first time."""
    with gr.Column(elem_id=f"panel-{key}", elem_classes=["loom-panel", *(["loom-first"] if first else [])]):
        yield
