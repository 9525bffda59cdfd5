"""What the buttons of the run panel and of the list of runs do. (no gradio)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app import promptbox, runs, tensorboard
from app.view import view_of
from trainer.declare import Section
from trainer.jobs import jobs

Deed = Callable[[str, Any], str | None]
"""Gets the id of a run and the request; returns the id of the run to show from now on, None to stay."""


def perform(verb: str, run: str, request: Any = None, text: str = "") -> str | None:
    """Do what a button says about a run; returns the id of the run to show from now on, None to stay.
    `text` is what stands in the field beside the button.

    Raises `ValueError` (or `OSError`) with a sentence when it cannot be done.
    """
    if verb in WITH_TEXT:
        WITH_TEXT[verb](run, text)
        return None
    deed = DEEDS.get(verb)
    return deed(run, request) if deed else None


def _command(word: str) -> Deed:
    def deed(run: str, request: Any) -> None:
        runs.command(run, word)

    return deed


def _show(run: str, request: Any) -> str:
    return run


def _delete(run: str, request: Any) -> None:
    runs.delete(run)


def _restore(run: str, request: Any) -> str:
    runs.restore(run)
    return run


def _continue(run: str, request: Any) -> str:
    """A new run that goes on from the newest state of this one."""
    return _queue(run, runs.resume_settings(run))


def _again(run: str, request: Any) -> str:
    """A new run with the same settings."""
    return _queue(run, runs.settings_of(run))


def _queue(run: str, settings: Section) -> str:
    info = runs.snapshot(run)
    assert info is not None
    problem = next(iter(jobs()[info.job].check(settings)), None)
    if problem is not None:
        raise ValueError(f"Not started. {problem}")
    return runs.queue_run(info.job, settings, info.name)


def _open_tensorboard(run: str, request: Any) -> None:
    if not tensorboard.is_local(request):
        raise ValueError("TensorBoard opens on the machine of this page only.")
    view = view_of(run)
    if view is not None:
        tensorboard.open_for(view)


WITH_TEXT: dict[str, Callable[[str, str], object]] = {"prompts": promptbox.use, "draw": promptbox.draw}
"""Get the id of a run and the text beside the button."""

DEEDS: dict[str, Deed] = {
    "stop": _command("stop"),
    "kill": _command("kill"),
    "pause": _command("pause"),
    "unpause": _command("resume"),
    "save": _command("save"),
    "sample": _command("sample"),
    "show": _show,
    "unqueue": _command("stop"),
    "delete": _delete,
    "restore": _restore,
    "continue": _continue,
    "again": _again,
    "tensorboard": _open_tensorboard,
}
