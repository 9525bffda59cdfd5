"""The LoRA > Training tab: the form, what it will do, and the buttons that start it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from app import charts, drafts, paths, presets, runs
from app.form import Form, shown
from app.frame import panel, tablist
from app.leftovers import left_of_the_demo
from trainer import hardware
from trainer.adapters import WHAT, readers_of
from trainer.declare import Problem, by_name, validate
from trainer.jobs import jobs
from trainer.models.hub import size_of
from trainer.models.identify import FAMILY_NAMES, Identity, identify
from trainer.settings import SECTIONS, Settings
from trainer.settings.captions import Captions
from trainer.settings.dataset import Images
from trainer.settings.model import MOVED, QUICK_PICKS
from trainer.settings.optimizer import Rates
from trainer.workspace import workspace

JOB = "train"
STEPS = 100
"""Steps the plot of the learning rate shows while nobody knows how many there will be."""
KNOWN = by_name(Settings)
MODEL = "pretrained_model_name_or_path"
PICTURES = ("train_data_dir", "dataset_config")
"""Settings that say where the pictures are."""
CUSTOM = "custom"
LOOK_AGAIN = 10
"""Seconds after which the outlook is asked for again while a run is on."""
PARAMETERS = ("Basic", "Advanced", "Samples", "HuggingFace")


def draw(form: Form) -> None:
    """Source Model, Folders and Parameters (Basic, Advanced, Samples, HuggingFace), filled from the declarations."""
    tablist("training", {"source-model": "Source Model", "folders": "Folders", "parameters": "Parameters"})
    with panel("source-model", first=True):
        quick_pick(form)
    with panel("folders"):
        place(form, "Folders")
    with panel("parameters"):
        tablist("parameters", {name.lower(): name for name in PARAMETERS})
        for name in PARAMETERS:
            with panel(name.lower(), first=name == PARAMETERS[0]):
                place(form, f"Parameters > {name}")


def place(form: Form, tab: str) -> None:
    """Draw the sections that say they stand on `tab`."""
    for section in SECTIONS:
        if section.tab == tab:
            form.draw(section)


# The model.


def quick_pick(form: Form) -> None:
    """Model Quick Pick above the model's own fields; choosing one fills in the name, and the name moves the choice."""
    with gr.Column(elem_classes=["loom-section", "loom-span-3"]), gr.Column(elem_classes=["loom-fields"]):
        pick = gr.Dropdown(
            models(),
            value="demo",
            label="Model Quick Pick",
            info="A known model, one from the models folder of the workspace, or custom: anything you write below.",
            elem_id="train-quick-pick",
            elem_classes=["loom-field", "loom-wide"],
            interactive=True,
        )
    place(form, "Source Model")
    name = form.inputs[MODEL]
    known = json.dumps([value for _, value in models()])
    pick.input(None, [pick, name], name, js=f"(pick, name) => pick === '{CUSTOM}' ? name : pick", queue=False)
    name.change(  # type: ignore[attr-defined]
        None,
        name,
        pick,
        js=f"(name) => {known}.includes(name) ? name : '{CUSTOM}'",
        queue=False,
        show_progress="hidden",
    )


def models() -> list[tuple[str, str]]:
    """(label, value) of everything Model Quick Pick offers."""
    moved = [(f"{old} (now {new})", new) for old, new in MOVED.items()]
    picks = [("demo (comes with the program)" if name == "demo" else name, name) for name in QUICK_PICKS]
    return [(CUSTOM, CUSTOM), picks[0], *moved, *picks[1:], *_own_models()]


def _own_models() -> list[tuple[str, str]]:
    folder = workspace().models
    try:
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix in (".safetensors", ".ckpt") and path.stat().st_size > 300e6
        )
    except OSError:
        return []
    return [(str(path.relative_to(folder)), str(path)) for path in found[:200]]


def _identity(found: Identity) -> str:
    """What the chosen model is, in words."""
    if found.name == "demo":
        return (
            "A tiny model of drawings, of the Stable Diffusion 1.5 kind; trains in two minutes without a graphics card."
        )
    if found.note:
        return found.note
    family = FAMILY_NAMES.get(found.family or "", "")
    kind = KINDS.get(found.kind, "") + (size_of(found.name) if found.kind == "hub" else "")
    return f"{', '.join(filter(None, (family, kind)))}." if family else ""


def _read_from(found: Identity) -> tuple[dict[str, bool], dict[str, str]]:
    """(ticks that follow from the model; why, for each that is on or that only people know)."""
    fixed = {key: tick for key, tick in found.ticks.items() if tick is not None}
    return fixed, {key: found.reasons[key] for key, tick in found.ticks.items() if tick is not False}


KINDS = {
    "single": "a single file",
    "diffusers": "a diffusers folder",
    "hub": "fetched from the hub when the run starts unless it is here already",
}


# What will happen.


def examine(raw: Mapping[str, Any]) -> tuple[Settings, list[Problem], list[Problem]]:
    """(settings, reasons why they cannot run, things to know) of raw form values. Nothing is written."""
    outside = list(paths.problems(Settings, raw))
    usable = {key: value for key, value in raw.items() if key not in {item.key for item in outside}}
    settings, wrong = validate(Settings, usable)
    job = jobs()[JOB]
    seen = {item.key for item in wrong + outside}
    found = [item for item in job.check(settings) if item.key not in seen]
    found += [token_typed(item.name) for item in KNOWN.values() if item.about.secret and getattr(settings, item.name)]
    notes = [*job.notes(settings), *left_of_the_demo(settings)]
    return settings, outside + wrong + found, [item for item in notes if item.key not in seen]


ELSEWHERE = {
    "huggingface_token": ("HF_TOKEN", "hf auth login"),
    "wandb_api_key": ("WANDB_API_KEY", "wandb login"),
}
"""For each secret the variable it is looked for in, and the command that stores it."""


def token_typed(key: str) -> Problem:
    """Runs are started from a folder of files, and a secret is written to none."""
    variable, command = ELSEWHERE[key]
    message = (
        "a run started from this page would find it only in a file, and it is written to none. Empty this field, and "
        f"set the variable {variable} or run {command} once before the program starts."
    )
    return Problem(key, KNOWN[key].label, message, {key: ""}, "Empty it")


def outlook(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What the browser shows beside the form: problems, notes, the plan."""
    settings, problems, notes = examine(raw)
    busy = _active()
    model = identify(settings.pretrained_model_name_or_path.strip())
    fixed, why = _read_from(model)
    told = {"LoRA_type": f"{WHAT[settings.LoRA_type]} {readers_of(settings)}", **why}
    if not any(item.key == MODEL for item in problems):
        told[MODEL] = _identity(model)
    answer: dict[str, Any] = {
        "form": JOB,
        "problems": [_problem(item) for item in problems],
        "warnings": [_problem(item) for item in notes],
        "notes": told,
        "fixed": fixed,
        "ready": f"{busy} is running; Start puts this run in the queue behind it." if busy else "Ready to start.",
        "again": 1.5 if hardware.asking() else LOOK_AGAIN if busy else 0,
    }
    steps, sizes, captions = STEPS, {}, ""
    if not any(item.key in PICTURES for item in problems):
        plan = jobs()[JOB].plan(settings)
        about_pictures = [item.message for item in notes if item.key in PICTURES]
        answer |= {"sentence": plan.get("sentence", ""), "details": [*_details(plan), *about_pictures]}
        steps, sizes = int(plan.get("steps") or 0) or STEPS, _sizes(plan)
        captions = _captions(plan)
    answer["drawings"] = {
        f"{JOB}--{Rates.__name__}": charts.schedule_plot(settings, steps),
        f"{JOB}--{Images.__name__}": charts.bucket_chart(sizes),
        f"{JOB}--{Captions.__name__}": captions,
    }
    return answer


def _problem(item: Problem) -> dict[str, Any]:
    fix = None if item.fix is None else {key: shown(KNOWN[key], value) for key, value in item.fix.items()}
    message = item.message if item.key in KNOWN else str(item)
    return {"key": item.key, "label": item.label, "message": message, "fix": fix, "fix_label": item.fix_label}


def _sizes(plan: Mapping[str, Any]) -> dict[tuple[int, int], int]:
    """How often pictures of each size are shown in an epoch."""
    named = plan.get("buckets") or {}
    return {(int(width), int(height)): count for name, count in named.items() for width, height in [name.split("x")]}


def _captions(plan: Mapping[str, Any]) -> str:
    """A few captions as they are used."""
    shown = plan.get("captions") or []
    lines = (
        f"<li><span>{escape(item['picture'])}</span> {escape(item['caption']) or '<i>no caption</i>'}</li>"
        for item in shown
    )
    said = f'<p>Used in the first epoch, for example</p><ul class="loom-captions">{"".join(lines)}</ul>'
    return said if shown else ""


def _details(plan: Mapping[str, Any]) -> list[str]:
    skipped = plan.get("skipped") or []
    return [f"{len(skipped)} file{'s' * (len(skipped) > 1)} left out"] if skipped else []


def _active() -> str:
    """The name of the run that is on, "" when there is none."""
    return next((run.name for run in runs.list_runs() if run.state in ("running", "starting", "stopping")), "")


# The buttons.


def check(form: Form, data: Mapping[Component, Any]) -> dict[str, Any]:
    """The answer to the Check button."""
    answer = outlook(form.read(data))
    count = len(answer["problems"])
    said = f"{count} thing{'s' * (count > 1)} to mend." if count else answer.get("sentence", "") or "Ready to start."
    return fresh({**answer, "jump": bool(count), "say": said, "tone": "bad" if count else "good"})


def start(form: Form, data: Mapping[Component, Any]) -> tuple[str | None, dict[str, Any]]:
    """(run id, answer): the run queued, or None and the reasons why not, which the page shows under their inputs."""
    raw = form.read(data)
    hardware.wait()
    settings, problems, _ = examine(raw)
    if problems:
        answer = outlook(raw)
        first = problems[0]
        return None, fresh({**answer, "jump": True, "say": f"Not started. {first}", "tone": "bad"})
    ahead = _active()
    run = runs.queue_run(JOB, settings, settings.output_name)
    said = f"Queued behind {ahead}." if ahead else f"{settings.output_name} is starting."
    return run, fresh({"say": said, "tone": "good", "started": JOB})


def command(form: Form, data: Mapping[Component, Any]) -> dict[str, Any]:
    """The answer to Copy command."""
    settings, problems = validate(Settings, form.read(data))
    if problems:
        return fresh({"say": f"{problems[0]}", "tone": "bad"})
    return fresh({"copy": presets.command(JOB, settings)})


def answer_check(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the form asks a moment after each edit: the draft is kept, and the outlook sent."""
    values = data.get("values")
    raw = dict(values) if isinstance(values, dict) else {}
    drafts.save(str(data.get("browser") or ""), JOB, Settings, raw)
    return outlook(raw)


def opening(ticket: str) -> dict[str, Any]:
    """What the form shows when a page opens: the draft, else what was last used, else the demo."""
    values = drafts.opening(ticket, JOB)
    return first_visit() if values is None else values


def first_visit() -> dict[str, Any]:
    """The demo, ready to start."""
    from trainer.demo.run import train_values

    try:
        return train_values()
    except (OSError, presets.Unreadable):  # a workspace that cannot be written to: the checks say so under the folders
        return {}


def fresh(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that differs from the one before it, so that the browser notices it."""
    return {**answer, "moment": time.time_ns()}


def plan_box() -> str:
    """The place of the plan, before the first answer."""
    return f'<div id="loom-plan" aria-live="polite"><p class="loom-sentence">{escape("Counting the steps …")}</p></div>'
