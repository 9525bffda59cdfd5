"""The preset bar: choose, load with a report, undo, save, save as."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app import paths, presets, runs
from app.form import Form
from app.training import first_visit, fresh
from trainer.declare import validate
from trainer.runfolder import SETTINGS
from trainer.settings import Settings
from trainer.settings.folders import Folders
from trainer.settings.model import SourceModel

STAYS = (*Folders.model_fields, *SourceModel.model_fields)
"""What a preset of the program leaves alone unless it names it: it is about how to train, not about your files."""


@dataclass(frozen=True)
class Loads:
    """Where loading leaves its traces: the values from before (for Undo), the report, and messages."""

    before: gr.State
    report: gr.HTML
    answer: gr.HTML


def use_settings(form: Form, event: Callable[..., Any], chosen: gr.HTML, loads: Loads) -> None:
    """Connect "Use these settings" of a run: `event` is the listener, the value of `chosen` the run's id."""

    def used(data: dict[Component, Any]) -> dict[Component, Any]:
        run = runs.snapshot(str(data[chosen] or ""))
        if run is None:
            return {loads.answer: fresh({"say": "This run is no longer there.", "tone": "bad"})}
        now = form.read(data)
        values, text = load_file(str(run.folder / SETTINGS), now, run.name)
        filled = {} if values is None else {**form.write(values), loads.before: now}
        return {**filled, loads.report: text, loads.answer: fresh({"show": "panel-lora"})}

    outputs = [*form.inputs.values(), loads.before, loads.report, loads.answer]
    event(used, form.everything(chosen), outputs, show_progress="hidden")


def draw(form: Form, loads: Loads) -> None:
    """The row of controls at the top right."""
    before, report, answer = loads.before, loads.report, loads.answer
    with gr.Row(elem_id="loom-presets"):
        choice = gr.Dropdown(
            presets.available(),
            value=None,
            label="Preset",
            show_label=False,
            container=False,
            allow_custom_value=True,
            interactive=True,
            elem_id="loom-preset",
            elem_classes=["loom-bare"],
        )
        load = gr.Button("Load", elem_id="loom-load", elem_classes=["loom-quiet"])
        upload = gr.UploadButton(
            "Open …", file_types=[".json", ".toml"], elem_id="loom-open", elem_classes=["loom-quiet"]
        )
        save = gr.Button("Save", elem_id="loom-save", elem_classes=["loom-quiet"])
        save_as = gr.Button("Save as …", elem_id="loom-save-as", elem_classes=["loom-quiet"])
        with gr.Column(elem_id="loom-naming", elem_classes=["loom-popover"]):
            name = gr.Textbox(label="Preset name", elem_id="loom-preset-name", max_lines=1, placeholder="my character")
            replace = gr.Checkbox(False, label="Replace a preset of this name", elem_id="loom-preset-replace")
            confirm = gr.Button("Save preset", elem_id="loom-preset-confirm", elem_classes=["loom-main"])
    undo = gr.Button("Undo load", elem_id="loom-undo", elem_classes=["loom-hidden"])

    everything = form.everything(choice)
    filled = [*form.inputs.values(), before, report]

    def chosen(data: dict[Component, Any]) -> dict[Component, Any]:
        return opened(str(data[choice] or ""), data)

    def opened(path: str, data: Mapping[Component, Any]) -> dict[Component, Any]:
        now = form.read(data)
        values, text = load_file(path, now)
        return {report: text} if values is None else {**form.write(values), before: now, report: text}

    def uploaded(data: dict[Component, Any]) -> dict[Component, Any]:
        file = Path(str(data[upload] or ""))
        try:
            return opened(str(file), data)
        finally:
            if _is_upload(file):  # the copy that came here may hold tokens, which no file shall
                file.unlink(missing_ok=True)

    def undone(values: Mapping[str, Any] | None) -> dict[Component, Any]:
        return {**(form.write(values) if values else {}), before: None, report: ""}

    def saved(data: dict[Component, Any]) -> dict[Component, Any]:
        path = presets.find(str(data[choice] or ""))
        if not path.is_file() or presets.is_built_in(path) or not presets.is_own(path):
            return {answer: fresh({"open": "loom-naming"})}
        return kept(path.stem, data, True)

    def named(data: dict[Component, Any]) -> dict[Component, Any]:
        return kept(str(data[name] or ""), data, bool(data[replace]))

    def kept(stem: str, data: Mapping[Component, Any], over: bool) -> dict[Component, Any]:
        told, path = save_file(stem, form.read(data), over)
        if path is None:
            return {answer: fresh(told)}
        return {
            answer: fresh(told),
            choice: gr.Dropdown(presets.available(), value=str(path)),
            name: "",
            replace: False,
        }

    load.click(chosen, everything, filled, show_progress="hidden")
    upload.upload(uploaded, form.everything(upload), filled, show_progress="hidden")
    undo.click(undone, before, filled, show_progress="hidden")
    save.click(saved, everything, [answer, choice, name, replace], show_progress="hidden")
    save_as.click(None, None, None, js="() => loom.popover('loom-naming', 'loom-save-as')")
    gr.on(
        [confirm.click, name.submit],
        named,
        form.everything(name, replace),
        [answer, choice, name, replace],
        show_progress="hidden",
    )


def load_file(path: str, now: Mapping[str, Any], name: str = "") -> tuple[dict[str, Any] | None, str]:
    """(form values, report) of a settings file; None and the reason when it cannot be used: then nothing changes."""
    if not path.strip():
        return None, _told("Choose a preset, or type the path of a Kohya JSON file.", bad=True)
    file = presets.find(path)
    if file.exists() and not (paths.is_allowed(file) or presets.is_built_in(file) or _is_upload(file)):
        return None, _told(f"This page may not read {file}.", bad=True)
    try:
        loaded = presets.load(file, paths.is_allowed)
        values = dict(loaded.values)
        if loaded.keeps_the_rest:
            values = {**now, **(presets.keep_data_set(file) if _is_upload(file) else values)}
    except (presets.Unreadable, OSError) as error:
        return None, _told(str(error), bad=True)
    kept = ""
    if presets.is_built_in(file) and file.stem == "demo":
        values |= first_visit()
    elif presets.is_built_in(file) and not any(name in values for name in STAYS):
        values |= {name: now[name] for name in STAYS if name in now}
        kept = " Your model and folders stay as they were."
    return values, _told(presets.report(name or file.stem, loaded, Settings), kept)


def save_file(name: str, raw: Mapping[str, Any], replace: bool) -> tuple[dict[str, Any], Path | None]:
    """(answer, file) of saving the form as the preset `name`; no file when a value or the name is wrong."""
    settings, problems = validate(Settings, raw)
    if problems:
        return {"say": f"Not saved. {problems[0]}", "tone": "bad"}, None
    try:
        if presets.exists(name) and not replace:
            said = f"There is a preset called {name} already. Tick “Replace” to write over it."
            return {"say": said, "tone": "bad"}, None
        path = presets.save(name, settings)
    except (ValueError, OSError) as error:
        return {"say": f"Not saved. {error}", "tone": "bad"}, None
    beyond = presets.not_shown(settings)
    said = f" The Kohya GUI cannot show all of it: {beyond[0]}" if beyond else ""
    return {"say": f"Saved {path.stem}.{said}", "tone": "good", "close": "loom-naming"}, path


def _is_upload(file: Path) -> bool:
    from gradio.utils import get_upload_folder

    return file.resolve().is_relative_to(Path(get_upload_folder()).resolve())


def _told(html: str, note: str = "", bad: bool = False) -> str:
    """The report's frame: closable, and with Undo when something was loaded. `html` is a plain sentence when `bad`."""
    if bad:
        html = f"<p>{escape(html)}</p>"
    undo = "" if bad else '<button type="button" data-press="loom-undo">Undo</button>'
    close = '<button type="button" data-dismiss aria-label="Close this report">×</button>'
    return (
        f'<div class="loom-report{" bad" if bad else ""}" role="status">'
        f"<div>{html}{f'<p>{escape(note)}</p>' if note else ''}</div>"
        f'<div class="loom-report-buttons">{undo}{close}</div></div>'
    )
