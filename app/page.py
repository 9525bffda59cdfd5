"""The page, top to bottom: the bar, the tabs LoRA, Data sets, Utilities and Runs, and the run beside them."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from app import captioning, dataset_tab, monitor, presetbar, training
from app.form import Form
from app.frame import fill_closed_panels, panel, tablist
from app.style import mount_arguments
from trainer import hardware
from trainer.settings import Settings

__all__ = ["build_page", "mount_arguments"]

TABS = {"lora": "LoRA", "datasets": "Data sets", "utilities": "Utilities", "runs": "Runs"}
MARK = """
<svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true">
  <g fill="none" stroke="currentColor" stroke-width="2.2" stroke-linecap="round">
    <path d="M3 7h6M15 7h6M3 17h6M15 17h6" /><path d="M7 3v12M17 9v12" />
    <path d="M7 21v-1M17 3v1M12 3v18" opacity=".45" />
  </g>
</svg>
"""
TOOLS = """
<div class="loom-tools">
  <h2>Training</h2>
  <div class="loom-find">
    <input id="loom-search" type="search" role="combobox" placeholder="Find a setting" aria-label="Find a setting"
           aria-expanded="false" aria-controls="loom-found" autocomplete="off" spellcheck="false">
    <kbd aria-hidden="true">/</kbd>
    <ul id="loom-found" role="listbox" aria-label="Settings found" hidden></ul>
  </div>
  <label class="loom-switch"><input type="checkbox" id="loom-only-changed"><span>Only changed</span></label>
  <label class="loom-switch"><input type="checkbox" id="loom-help" checked><span>Help</span></label>
</div>
"""


def build_page(options: Any = None) -> gr.Blocks:
    """The whole page; theme, style sheets and scripts come from `mount_arguments()`."""
    hardware.ask_early()
    form = Form(training.JOB, Settings)
    with gr.Blocks(title="LoRA Loom", analytics_enabled=False, fill_width=True) as page:
        answer = gr.HTML(
            None,
            html_template="",
            js_on_load="watch('value', () => loom.answer(props.value))",
            elem_classes=["loom-hidden"],
        )
        loads = presetbar.Loads(gr.State(None), gr.HTML("", elem_id="loom-report-box", render=False), answer)
        with gr.Row(elem_id="loom-bar"):
            gr.HTML(f'<h1 class="loom-brand">{MARK}<span>LoRA Loom</span></h1>', elem_id="loom-brand")
            tablist("top", TABS, "Pages")
            bar = gr.Column(elem_id="loom-bar-right")
        with gr.Row(elem_id="loom-main"):
            with gr.Column(elem_id="loom-left"):
                with panel("lora", first=True):
                    gr.HTML(TOOLS, elem_id="loom-tools")
                    loads.report.render()
                    training.draw(form)
                with panel("datasets"):
                    dataset_tab.datasets_tab()
                with panel("utilities"):
                    gr.HTML("<h2>Captioning</h2>", elem_classes=["loom-heading"])
                    captioning.captioning_tab(page, answer)
                with panel("runs"):
                    gr.HTML("<h2>Runs</h2>", elem_classes=["loom-heading"])
                    monitor.runs_tab(lambda event, chosen: presetbar.use_settings(form, event, chosen, loads))
            with gr.Column(elem_id="loom-right"):
                with gr.Column(elem_id="loom-start"):
                    gr.HTML(training.plan_box())
                    with gr.Row(elem_classes=["loom-buttons"]):
                        start = gr.Button(
                            "Start training",
                            variant="primary",
                            elem_id="loom-start-training",
                            elem_classes=["loom-start", "loom-main"],
                        )
                        check = gr.Button("Check", elem_id="loom-check", elem_classes=["loom-quiet"])
                        queue = gr.Button("Queue", elem_id="loom-queue", elem_classes=["loom-quiet"])
                        copy = gr.Button("Copy command", elem_id="loom-copy", elem_classes=["loom-quiet"])
                monitor.run_panel()
        with bar:
            presetbar.draw(form, loads)
        form.wire(training.answer_check)
        _connect(page, form, answer, start, check, queue, copy)
        fill_closed_panels(page)
    for event in page.fns.values():
        event.api_visibility = "private"  # described to nobody: half of what the browser would have to read
    return page


def _connect(
    page: gr.Blocks, form: Form, answer: gr.HTML,
    start: gr.Button, check: gr.Button, queue: gr.Button, copy: gr.Button,
) -> None:  # fmt: skip
    """What the buttons do, and what the page shows when it opens."""

    def on_start(data: dict[Component, Any]) -> dict[Component, Any]:
        run, said = training.start(form, data)
        return {answer: {**said, "run": run}}

    def on_queue(data: dict[Component, Any]) -> dict[Component, Any]:
        return {answer: training.start(form, data)[1]}

    def on_check(data: dict[Component, Any]) -> dict[str, Any]:
        return training.check(form, data)

    def on_copy(data: dict[Component, Any]) -> dict[str, Any]:
        return training.command(form, data)

    everything = form.everything()
    quick: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "once"}
    start.click(on_start, everything, [answer], **quick)
    queue.click(on_queue, everything, [answer], **quick)
    check.click(on_check, everything, [answer], **quick)
    copy.click(on_copy, everything, [answer], **quick)

    form.fill(page, training.opening)
