"""The run panel's sample prompts: what the run draws next, to be changed while it is on. (no gradio)"""

from __future__ import annotations

from hashlib import blake2b
from html import escape

from app import paths, runs
from app.view import View
from trainer import runfolder
from trainer.prompts import read_prompts
from trainer.sampling import remarks

LONGEST = 20_000
"""Letters of prompts that are taken from a page."""
EDITABLE = ("starting", "running")
"""States of a run in which its prompts may be changed."""


def prompts(view: View, draft: str | None = None) -> str:
    """The field with the run's prompts; `draft` is what somebody is writing there, which is judged below it."""
    if not view.trains or view.state not in EDITABLE or "stop" in view.asked:
        return ""
    run = f'data-run="{escape(view.id)}"'
    now = escape(view.prompts)
    key = blake2b(view.prompts.encode(errors="replace"), digest_size=6).hexdigest()
    said = "".join(f'<li class="{kind}">{escape(text)}</li>' for kind, text in judged(draft))
    waits = draft is not None and not said and draft.strip() != view.prompts.strip()
    hint = "Not used yet." if waits else ""
    return (
        '<details class="loom-prompts" data-keep data-key="prompts"><summary>Sample prompts</summary><div data-form>'
        f'<textarea data-local data-key="{key}" {run} rows="4" spellcheck="false" maxlength="{LONGEST}" '
        f'aria-label="Sample prompts of this run" placeholder="One picture a line.">\n{now}</textarea>'
        f'<ul class="loom-prompts-said" role="status" data-key="said">{said}</ul>'
        f'<p class="loom-muted" data-key="hint">{hint}</p>'
        '<div class="loom-actions" data-key="buttons">'
        f'<button type="button" class="loom-act" data-verb="prompts" {run}>Use from the next sample on</button>'
        f'<button type="button" class="loom-act" data-verb="draw" {run}>Draw now</button>'
        "</div></div></details>"
    )


def judged(draft: str | None) -> list[tuple[str, str]]:
    """What is wrong with prompts ("bad"), and what of them has no effect ("note"), in sentences."""
    if draft is None:
        return []
    if refusal := _refusal(draft):
        return [("bad", refusal)]
    found = read_prompts(draft)
    notes = [text for text in remarks(found) if text in found.notes]
    return [*(("bad", text) for text in found.problems), *(("note", text) for text in notes)]


def _refusal(draft: str) -> str:
    if paths.may_read_prompts(draft):
        return ""
    roots = " or ".join(map(str, paths.allowed_roots()))
    return f"This page may only use files inside {roots}; see --allow."


def use(run: str, text: str) -> bool:
    """Let a run draw these prompts from its next sample on; False, and nothing is changed, if one of them is wrong.

    Raises `ValueError` with a sentence when there is no such run or it is over.
    """
    folder = runs.find(run)
    if folder is None or runfolder.state(folder) not in EDITABLE:
        raise ValueError("This run is not on any more.")
    text = text[:LONGEST]
    if any(kind == "bad" for kind, _ in judged(text)):
        return False
    runfolder.write_text(folder / runfolder.PROMPTS, text)
    return True


def draw(run: str, text: str) -> None:
    """Let a run draw these prompts now. Raises `ValueError` with a sentence."""
    if not text.strip():
        raise ValueError("Write a prompt first: one picture a line.")
    if use(run, text):
        runs.command(run, "sample")
