"""The Utilities > Captioning tab: a form and a button for every captioner; the run panel shows what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from app import drafts, paths, runs
from app.form import Form, shown
from app.frame import panel, tablist
from app.training import fresh
from trainer.declare import Problem, Section, by_name, validate
from trainer.jobs import Job, jobs

PLACE = "Utilities > Captioning"


def captioners() -> list[Job]:
    """Every job that says it belongs here."""
    return [job for job in jobs().values() if job.place == PLACE]


def captioning_tab(page: gr.Blocks, answer: gr.HTML) -> None:
    """Draw the captioners as tabs."""
    found = captioners()
    tablist("captioning", {job.name: job.Settings.title for job in found}, "Captioners")
    for position, job in enumerate(found):
        with panel(job.name, first=position == 0):
            _captioner(page, job, answer)


def _captioner(page: gr.Blocks, job: Job, answer: gr.HTML) -> None:
    form = Form(job.name, job.Settings)
    form.draw(job.Settings, heading=False)
    with gr.Row(elem_classes=["loom-buttons"]):
        button = gr.Button(job.button, variant="primary", elem_id=f"{job.name}-start", elem_classes=["loom-main"])
    form.wire(checker(job))

    def on_start(data: dict[Component, Any]) -> dict[Component, Any]:
        run, said = start(job, form.read(data))
        return {answer: {**said, "run": run}}

    button.click(on_start, form.everything(), [answer], show_progress="hidden", trigger_mode="once")
    form.fill(page, lambda ticket: opening(job, ticket))


def checker(job: Job) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What the form asks a moment after each edit: the draft is kept; the answer is what would go wrong."""

    def answer(data: dict[str, Any]) -> dict[str, Any]:
        values = data.get("values")
        raw = dict(values) if isinstance(values, dict) else {}
        drafts.save(str(data.get("browser") or ""), job.name, job.Settings, raw)
        settings, problems = examine(job, raw)
        notes = {note.key: note.message[:1].upper() + note.message[1:] for note in job.notes(settings)}
        if not any(item.key == "image_folder" for item in problems):
            notes["image_folder"] = f"{job.plan(settings)['sentence']}."
        return outlook(job, problems) | {"notes": notes}

    return answer


def examine(job: Job, raw: Mapping[str, Any]) -> tuple[Section, list[Problem]]:
    """(settings, reasons why they cannot run) of raw form values."""
    outside = list(paths.problems(job.Settings, raw))
    usable = {key: value for key, value in raw.items() if key not in {item.key for item in outside}}
    settings, wrong = validate(job.Settings, usable)
    seen = {item.key for item in outside + wrong}
    return settings, outside + wrong + [item for item in job.check(settings) if item.key not in seen]


def outlook(job: Job, problems: list[Problem]) -> dict[str, Any]:
    """Problems as the browser shows them, under their inputs."""
    known = by_name(job.Settings)

    def plain(item: Problem) -> dict[str, Any]:
        fix = None if item.fix is None else {key: shown(known[key], value) for key, value in item.fix.items()}
        return {"key": item.key, "label": item.label, "message": item.message, "fix": fix, "fix_label": item.fix_label}

    return {"form": job.name, "problems": [plain(item) for item in problems]}


def start(job: Job, raw: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """(run id, answer): the run queued, or None and the reasons why not."""
    settings, problems = examine(job, raw)
    if problems:
        said = {"jump": True, "say": f"Not started. {problems[0]}", "tone": "bad"}
        return None, fresh({**outlook(job, problems), **said})
    run = runs.queue_run(job.name, settings, f"captions {job.label}")
    return run, fresh({"say": f"{job.plan(settings)['sentence']}: starting.", "tone": "good"})


def opening(job: Job, ticket: str) -> dict[str, Any]:
    """What the form shows when a page opens: edits the server never saw, else the draft, else the demo's pictures."""
    values = drafts.opening(ticket, job.name)
    return first_visit(job) if values is None else values


def first_visit(job: Job) -> dict[str, Any]:
    """The demo's pictures, ready to caption."""
    from trainer.demo.run import caption_values

    return {key: value for key, value in caption_values().items() if key in by_name(job.Settings)}
