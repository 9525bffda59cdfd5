"""Tabs: a row of buttons and the panels they open. Closed panels stay on the page, so Ctrl+F and search find them.

Building inputs is what a browser needs most of its time for, so closed panels are filled once the page can be used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape

import gradio as gr

LATER = "-filling"
"""How the ids of what is filled later end."""


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
        if first:
            yield
        else:
            with gr.Column(visible=False, elem_id=f"panel-{key}{LATER}", elem_classes=["loom-later"]):
                yield


def fill_closed_panels(page: gr.Blocks) -> None:
    """Have the browser fill the closed panels one by one; call once, after everything is drawn."""
    closed = [
        block for block in page.blocks.values() if isinstance(block, gr.Column) and f"{block.elem_id}".endswith(LATER)
    ]
    names = json.dumps([block.elem_id for block in closed])
    button = gr.Button("fill", elem_id="loom-fill", elem_classes=["loom-hidden"])
    button.click(None, None, closed, js=f"() => loom.filling({names})", queue=False)
