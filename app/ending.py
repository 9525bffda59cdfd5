"""How a run ended, in words, and what to do about it; or where it stands in the queue. (no gradio)"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from app.view import View
from app.wall import file_url
from app.words import counted, duration, listed, size_of

LAST_WORDS = 12
"""Lines of the log that are shown with a run that failed."""


def ending(view: View) -> str:
    """The end of a run as HTML; "" while it goes on."""
    told = ENDINGS.get(view.state)
    return told(view) + _elsewhere(view) if told else ""


def _waiting(view: View) -> str:
    if len(view.ahead) > 1:
        said = f"{len(view.ahead)} runs come first: {listed(view.ahead)}."
    else:
        said = f"It is next in the queue{', after ' + view.ahead[0] if view.ahead else ''}."
    return _block("", _said(said))


def _elsewhere(view: View) -> str:
    """The way to the run that is on."""
    if view.busy_with is None:
        return ""
    run, name = view.busy_with
    button = f'<button type="button" class="loom-link" data-verb="show" data-run="{escape(run)}">Show it</button>'
    return f'<p class="loom-elsewhere">{escape(name)} is running now. {button}</p>'


def _finished(view: View) -> str:
    began, ended = view.status.get("started"), view.story.ended
    took = f" in {duration(ended.time - float(began))}" if began and ended and ended.time > float(began) else ""
    if not view.weights:
        return _block("good", _said(f"Finished{took}{_counts(view)}."))
    last = view.weights[-1]
    path, size = Path(last.path), f" ({size_of(last.bytes)})" if last.bytes else ""
    said = (
        f"<p>Finished{took}. <b>{escape(path.name)}</b>{size} is in "
        f'<span class="loom-path">{escape(str(path.parent))}</span>.</p>'
    )
    address = escape(file_url(path, last.time))
    link = f'<a class="loom-act primary" href="{address}" download>Download</a>' if path.exists() else ""
    return _block("good", said, link)


def _stopped(view: View) -> str:
    where = f" at step {view.step} of {view.steps}" if view.steps and view.step else ""
    way = "Resume goes on from there." if view.resumable else ""
    return _block("", _said(view.reason or f"Stopped{where}{_counts(view)}.", way))


def _counts(view: View) -> str:
    """What became of the files of a job that goes through files."""
    return f": {counted(view.story.counts)}" if view.story.counts and not view.trains else ""


def _failed(view: View) -> str:
    return _broken(view, f"Failed at step {view.step}." if view.step else "Failed.")


def _interrupted(view: View) -> str:
    where = f" at step {view.step}" if view.step else " before the first step" if view.trains else ""
    return _broken(view, f"Interrupted{where}.")


def _broken(view: View, said: str) -> str:
    """What happened, the way out, and the last words."""
    way = f"Resume goes on from the state saved at step {view.kept_step}." if view.resumable else ""
    words = escape("\n".join(text for _, text in view.log[-LAST_WORDS:]))
    last = f'<p class="loom-muted">The last lines of the log:</p><pre class="loom-words">{words}</pre>' if words else ""
    return _block("bad", f"<p><b>{escape(said)}</b> {escape(view.reason)}</p>", _said(view.advice, way), last)


def _block(kind: str, *parts: str) -> str:
    return f'<div class="loom-ending {kind}">{"".join(parts)}</div>'


def _said(*sentences: str) -> str:
    text = " ".join(filter(None, sentences))
    return f"<p>{escape(text)}</p>" if text else ""


ENDINGS: dict[str, Callable[[View], str]] = {
    "queued": _waiting,
    "finished": _finished,
    "stopped": _stopped,
    "failed": _failed,
    "interrupted": _interrupted,
}
