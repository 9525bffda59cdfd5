"""The run panel as HTML: a function a part, from what the run folder says. Everything a run wrote is escaped.  (no gradio)"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from app import charts
from app.story import LEFT_OUT, Story
from app.wall import file_url, thumb_url, wall
from trainer import runfolder
from trainer.events import Item, Saved
from trainer.jobs import jobs

GOING = ("starting", "running", "stopping")
OVER = ("finished", "stopped", "failed", "interrupted")
TRAINING = "train"
STOP_NOW_AFTER = 15.0
"""Seconds of stopping after which the page offers to stop at once."""
LAST_WORDS = 12
MANY_NOTES = 3
FEW_FILES = 4


@dataclass(frozen=True)
class View:
    """All that is known about a run at one moment."""

    id: str
    job: str
    name: str
    state: str
    folder: Path
    status: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)
    story: Story = field(default_factory=lambda: Story(Path()))
    log: Sequence[tuple[int, str]] = ()
    ahead: Sequence[str] = ()
    """Names of the runs that come before this one in the queue."""
    busy_with: str = ""
    """The id of the run that is on while this one waits."""
    asked: Sequence[str] = ()
    """Commands that the run has not taken up yet."""
    stopping_for: float = 0.0
    resumable: bool = False

    @property
    def trains(self) -> bool:
        return self.job == TRAINING

    @property
    def phase(self) -> str:
        said = str(self.status.get("phase") or "")
        return said or (self.story.phase.name if self.story.phase else "")

    @property
    def paused(self) -> bool:
        return self.state == "running" and self.phase == "paused"

    @property
    def steps(self) -> int:
        return int(self.status.get("steps") or 0) or self.story.steps

    @property
    def step(self) -> int:
        if self.story.last is not None:
            return max(self.story.last.step, int(self.status.get("step") or 0))
        return int(self.status.get("step") or 0)


# The head: what goes on, and how far it is.


def head(view: View) -> str:
    """Name, state, one line of numbers and the progress bar."""
    word = _word(view)
    line = " · ".join(_numbers(view))
    return (
        f'<div class="loom-run-head"><h2>{escape(view.name or view.id)}</h2>'
        f'<span class="loom-run-state {escape(view.state)}{" paused" if view.paused else ""}" role="status">{escape(word)}</span></div>'
        + (f'<p class="loom-run-line">{escape(line)}</p>' if line else "")
        + _bar(view)
        + _silence(view)
    )


def _word(view: View) -> str:
    if view.state == "running":
        if "stop" in view.asked:
            return "stopping"
        return view.phase or "starting"
    if view.state == "stopping" and view.phase:
        return "stopping" if view.phase in ("training", "paused") else f"stopping: {view.phase}"
    return view.state


def _numbers(view: View) -> list[str]:
    """The line under the name: "step 96/240 · epoch 2/4 · 4.1 it/s · 35 s left"."""
    status, going = view.status, view.state in ("running", "stopping")
    said = []
    counted = going and status.get("total") and view.phase not in ("training", "paused")
    if counted:
        said.append(f"{status.get('done', 0)} of {status['total']}")
    if view.steps and (view.step or not counted):
        said.append(f"step {view.step}/{view.steps}" if view.state != "queued" else f"{view.steps} steps")
    if view.steps and status.get("epochs") and view.step:
        said.append(f"epoch {max(1, int(status.get('epoch') or 0))}/{status['epochs']}")
    if going and view.phase == "training" and "stop" not in view.asked and view.state == "running":
        if status.get("rate"):
            said.append(speed(float(status["rate"])))
        if status.get("eta") is not None and view.step:
            said.append(f"{duration(float(status['eta']))} left")
    return said


def _bar(view: View) -> str:
    if view.state in ("queued", *OVER) and not (view.state != "finished" and view.step):
        return ""
    share = progress(view)
    if share is None:
        return '<div class="loom-progress is-busy" role="progressbar" aria-label="Progress"><i></i></div>'
    percent = f"{100 * share:.0f}"
    return (
        f'<div class="loom-progress {escape(view.state)}" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{100 * share:.1f}%"></i></div>'
    )


def progress(view: View) -> float | None:
    """How much of the run is done, 0 to 1; None when nobody can tell."""
    if view.steps and view.step:
        return min(1.0, view.step / view.steps)
    total = int(view.status.get("total") or 0)
    if total and view.phase not in ("training", "paused"):
        return min(1.0, int(view.status.get("done") or 0) / total)
    return 0.0 if view.steps and view.phase == "training" else None


def _silence(view: View) -> str:
    if view.state not in ("running", "stopping") or not view.status or runfolder.is_responding(view.status):
        return ""
    silent = duration(time.time() - float(view.status.get("heartbeat") or 0))
    return f'<p class="loom-note warning">No sign of life for {silent}. It may be busy with something long; the log says more.</p>'


# The buttons.


def actions(view: View) -> str:
    """The buttons that make sense now."""
    found = [_button(verb, label, view, kind) for verb, label, kind, when in ACTIONS if when(view)]
    return f'<div class="loom-actions">{"".join(found)}</div>' if found else ""


def _button(verb: str, label: str, view: View, kind: str) -> str:
    heard = COMMANDS.get(verb, verb) in view.asked or (verb == "stop" and view.state == "stopping")
    busy = BUSY.get(verb, "") if heard else ""
    ask = f' data-ask="{escape(_loss(view))}"' if verb == "kill" else ""
    return (
        f'<button type="button" data-verb="{verb}" data-key="{verb}" class="loom-act {kind}"{ask}{" disabled" if busy else ""}>'
        f"{escape(busy or label)}</button>"
    )


def _loss(view: View) -> str:
    """What stopping at once costs."""
    if not view.trains:
        return "Stop now?"
    kept = max((saved.step for saved in view.story.saved.values() if saved.what == "state"), default=0)
    lost = view.step - kept
    return (
        f"Really? {lost} step{'s' * (lost != 1)} since the last saved state are lost"
        if lost > 0
        else "Really stop now?"
    )


def _can_command(view: View) -> bool:
    return view.state == "running" and "stop" not in view.asked


def _slow_to_stop(view: View) -> bool:
    return view.state in GOING and view.stopping_for > STOP_NOW_AFTER


def _trains_now(view: View) -> bool:
    return _can_command(view) and view.trains and view.phase in ("training", "paused", "sampling", "saving")


Condition = Callable[[View], bool]
ACTIONS: tuple[tuple[str, str, str, Condition], ...] = (
    ("pause", "Pause", "", lambda view: _trains_now(view) and not view.paused),
    ("unpause", "Go on", "primary", lambda view: _can_command(view) and view.paused),
    ("stop", "Stop", "", lambda view: view.state in ("starting", "running", "stopping")),
    ("kill", "Stop now", "danger", _slow_to_stop),
    ("save", "Save now", "", _trains_now),
    ("sample", "Sample now", "", lambda view: _trains_now(view) and bool(view.story.samples or view.steps)),
    ("unqueue", "Take out of the queue", "", lambda view: view.state == "queued"),
    (
        "continue",
        "Resume",
        "primary",
        lambda view: view.state in ("stopped", "failed", "interrupted") and view.resumable,
    ),
    (
        "again",
        "Start again",
        "",
        lambda view: view.state in ("stopped", "failed", "interrupted") and not view.resumable,
    ),
)
"""(verb, words, look, when it is offered), in the order of the page."""

COMMANDS = {"unpause": "resume"}
"""Verbs of buttons whose command file has another name."""
BUSY = {
    "stop": "Stopping …",
    "pause": "Pausing …",
    "unpause": "Going on …",
    "save": "Saving …",
    "sample": "Sampling …",
    "kill": "Ending it …",
}


# How it ended.


def ending(view: View) -> str:
    """The end in words, and what to do about it; or where it stands in the queue."""
    if view.state == "queued":
        return _waiting(view)
    return ENDINGS[view.state](view) if view.state in ENDINGS else ""


def _waiting(view: View) -> str:
    place = f"It is next in the queue, after {_and(view.ahead)}." if view.ahead else "It is next in the queue."
    if len(view.ahead) > 1:
        place = f"{len(view.ahead)} runs come first: {_and(view.ahead)}."
    link = f' <button type="button" class="loom-link" data-verb="show" data-run="{escape(view.busy_with)}">Show the one that runs</button>'
    return f'<p class="loom-ending">{escape(place)}{link if view.busy_with else ""}</p>'


def _finished(view: View) -> str:
    weights = [saved for saved in view.story.saved.values() if saved.what == "weights"]
    took = _took(view)
    if view.trains and weights:
        last = Path(weights[-1].path)
        size = f" ({size_of(weights[-1].bytes)})" if weights[-1].bytes else ""
        there = last.exists()
        link = (
            f'<a class="loom-act primary" href="{escape(file_url(last, weights[-1].time))}" download>Download</a>'
            if there
            else ""
        )
        return (
            f'<div class="loom-ending good"><p>Finished{took}. <b>{escape(last.name)}</b>{size} is in '
            f'<span class="loom-path">{escape(str(last.parent))}</span>.</p>{link}</div>'
        )
    counts = _counts(view.story.counts)
    return f'<div class="loom-ending good"><p>Finished{took}{": " + escape(counts) if counts else ""}.</p></div>'


def _took(view: View) -> str:
    began, ended = view.status.get("started"), view.story.ended
    return f" in {duration(ended.time - float(began))}" if began and ended and ended.time > float(began) else ""


def _stopped(view: View) -> str:
    where = f" at step {view.step} of {view.steps}" if view.steps and view.step else ""
    counts = _counts(view.story.counts)
    kept = " Everything is saved; Resume goes on from there." if view.resumable else ""
    reason = str(view.status.get("reason") or view.outcome.get("reason") or "")
    said = f"Stopped{where}{': ' + counts if counts else ''}.{kept}"
    return f'<div class="loom-ending"><p>{escape(said)}{" " + escape(reason) if reason else ""}</p></div>'


def _failed(view: View) -> str:
    where = f" at step {view.step}" if view.step else ""
    return _bad(view, f"Failed{where}.")


def _interrupted(view: View) -> str:
    where = f" at step {view.step}" if view.step else " before the first step" if view.trains else ""
    return _bad(view, f"Interrupted{where}.")


def _bad(view: View, said: str) -> str:
    reason = str(view.status.get("reason") or view.outcome.get("reason") or "")
    advice = str(view.status.get("advice") or view.outcome.get("advice") or "")
    if view.resumable:
        state = max((saved.step for saved in view.story.saved.values() if saved.what == "state"), default=0)
        advice += (
            f" Resume goes on from the state saved at step {state}."
            if state
            else " Resume goes on from the last saved state."
        )
    words = "\n".join(text for _, text in view.log[-LAST_WORDS:])
    last = (
        f'<p class="loom-muted">The last lines of the log:</p><pre class="loom-words">{escape(words)}</pre>'
        if words
        else ""
    )
    return (
        f'<div class="loom-ending bad"><p><b>{escape(said)}</b> {escape(reason)}</p>'
        + (f"<p>{escape(advice.strip())}</p>" if advice.strip() else "")
        + last
        + "</div>"
    )


ENDINGS: dict[str, Callable[[View], str]] = {
    "finished": _finished,
    "stopped": _stopped,
    "failed": _failed,
    "interrupted": _interrupted,
}


# What it measures and makes.


def loss(view: View) -> str:
    """The loss as a number and a curve, and the learning rates of this moment."""
    points = list(view.story.points)
    if not points:
        return ""
    average = (
        view.status.get("average")
        if view.status.get("average") is not None
        else view.story.last and view.story.last.average
    )
    rates = view.status.get("lr") or (view.story.last.lr if view.story.last else {})
    now = points[-1][1]
    number = f"{now:.4f}" if math.isfinite(now) else "not a number"
    mean = (
        f' <span class="loom-muted">average {float(average):.4f}</span>'
        if isinstance(average, int | float) and math.isfinite(average)
        else ""
    )
    shown = "".join(
        f'<span data-key="{escape(str(name))}">{escape(_group(str(name)))} <b>{charts.rate(float(value))}</b></span>'
        for name, value in rates.items()
    )
    curve = charts.loss_curve(points, view.steps, [end.step for end in view.story.epochs])
    return (
        f'<h3>Loss <b class="loom-number">{number}</b>{mean}</h3>'
        f'<figure class="loom-chart" data-chart>{curve}</figure>'
        + (f'<p class="loom-rates"><span class="loom-muted">Learning rate</span>{shown}</p>' if shown else "")
    )


def _group(name: str) -> str:
    return {"unet": "U-Net", "textencoder": "text encoder", "text_encoder": "text encoder"}.get(name, name)


def samples(view: View) -> str:
    """The sample wall."""
    return wall(view.story.samples)


def results(view: View) -> str:
    """The files a captioning job went through, newest first, with their pictures."""
    if not view.story.items:
        return ""
    rows = "".join(map(_result, reversed(view.story.items)))
    total = sum(view.story.counts.values())
    more = (
        f'<p class="loom-muted">The newest {len(view.story.items)} of {total}.</p>'
        if total > len(view.story.items)
        else ""
    )
    return f'<h3>Results <span class="loom-muted">{escape(_counts(view.story.counts))}</span></h3><ul class="loom-results">{rows}</ul>{more}'


def _result(item: Item) -> str:
    name = os.path.basename(item.path)
    word = (
        ""
        if item.status == "written"
        else f'<span class="loom-chip {"warning" if item.status in LEFT_OUT else ""}">{escape(item.status)}</span>'
    )
    return (
        f'<li data-key="{escape(item.path)}"><img src="{escape(thumb_url(item.path, 128))}" alt="" loading="lazy" width="64" height="64">'
        f'<div><p>{escape(item.text) or "<i>empty</i>"}</p><p class="loom-muted">{escape(name)} {word}</p></div></li>'
    )


def files(view: View) -> str:
    """The saved files, newest first: name, step, size and a way to get them."""
    saved = list(reversed(view.story.saved.values()))
    if not saved:
        return ""
    shown, earlier = saved[:FEW_FILES], saved[FEW_FILES:]
    if len(earlier) == 1:
        shown, earlier = saved, []
    folder = next((str(Path(file.path).parent) for file in saved if file.what == "weights"), "")
    where = f'<p class="loom-path loom-muted">{escape(folder)}</p>' if folder else ""
    more = _fold("files", f"{len(earlier)} earlier files", _file_table(earlier)) if earlier else ""
    return f"<h3>Files</h3>{_file_table(shown)}{more}{where}"


def _file_table(saved: Sequence[Saved]) -> str:
    return f'<table class="loom-files"><tbody>{"".join(map(_file, saved))}</tbody></table>'


def _file(saved: Saved) -> str:
    path = Path(saved.path)
    there = path.exists()
    name = escape(path.name)
    if saved.what == "weights" and there:
        name = f'<a href="{escape(file_url(path, saved.time))}" download>{name}</a>'
    what = "to resume from" if saved.what == "state" else size_of(saved.bytes) if saved.bytes else ""
    gone = "" if there else ' <span class="loom-muted">(no longer there)</span>'
    return (
        f'<tr data-key="{escape(saved.path)}"><td title="{escape(saved.path)}">{name}{gone}</td>'
        f'<td class="loom-muted">step {saved.step}</td><td class="loom-muted">{what}</td></tr>'
    )


def _fold(key: str, words: str, inside: str) -> str:
    """Something a click away; it stays open when a person opened it."""
    return f'<details data-keep data-key="{key}"><summary>{escape(words)}</summary>{inside}</details>'


def notes(view: View) -> str:
    """What a person should know, what is wrong first; the rest is a click away."""
    told = list(dict.fromkeys((note.level, note.text) for note in view.story.notes))
    grave = [(level, text) for level, text in reversed(told) if level != "info"]
    plain = [(level, text) for level, text in reversed(told) if level == "info"]
    left_out = _left_out(view.story.skipped)
    if not told and not left_out:
        return ""
    first, rest = grave[:MANY_NOTES], grave[MANY_NOTES:]
    folded = _list(rest) + _list(plain)
    count = len(rest) + len(plain)
    words = f"{count} {'more ' if first or left_out else ''}note{'s' * (count != 1)}"
    return (
        left_out
        + _list(first)
        + (_fold("notes", words, folded) if count else "")
    )


def _list(told: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f'<li data-key="{escape(text)}" class="loom-note {escape(level)}">{escape(text)}</li>' for level, text in told
    )
    return f'<ul class="loom-notes">{items}</ul>' if items else ""


def _left_out(skipped: Sequence[Item]) -> str:
    if not skipped:
        return ""
    count = len(skipped)
    names = "".join(
        f'<li data-key="{escape(item.path)}">{escape(os.path.basename(item.path))}: {escape(item.text)}</li>'
        for item in skipped[:200]
    )
    said = f"{count} picture{'s were' if count > 1 else ' was'} left out"
    return f'<details data-keep data-key="left-out" class="loom-note warning"><summary>{said}</summary><ul>{names}</ul></details>'


def log(view: View) -> str:
    """The last lines that the run printed, folded away."""
    if not view.log:
        return ""
    lines = "".join(f'<span data-key="{at}">{escape(text)}\n</span>' for at, text in view.log)
    last = view.log[-1][1]
    return (
        f'<details data-keep data-key="log" class="loom-log"><summary>Log <span class="loom-muted">{escape(last)}</span></summary>'
        f'<pre tabindex="0" data-scroll aria-label="Log">{lines}</pre></details>'
    )


PARTS: dict[str, Callable[[View], str]] = {
    "head": head,
    "actions": actions,
    "ending": ending,
    "loss": loss,
    "samples": samples,
    "results": results,
    "files": files,
    "notes": notes,
    "log": log,
}
"""The panel, top to bottom."""


def render(view: View) -> dict[str, str]:
    """All parts by name; a part that has nothing to say is empty."""
    return {name: part(view) for name, part in PARTS.items()}


def empty(message: str) -> dict[str, str]:
    """The panel when there is no run."""
    return {**dict.fromkeys(PARTS, ""), "head": f'<p class="loom-empty">{escape(message)}</p>'}


# Numbers as people say them.


def duration(seconds: float) -> str:
    """As in 35 s, 3 min, 1 h 20 min, 2 d 3 h: what does not matter is left out."""
    seconds = max(0, round(seconds))
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def size_of(count: int) -> str:
    """Bytes as "912 KB", "19 MB", "2.1 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            number = count / size
            return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{count} bytes"


def speed(rate: float) -> str:
    """Steps per second as "4.1 it/s", or "3.2 s/it" for slow ones."""
    return f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"


def job_label(name: str) -> str:
    """A job as the page calls it."""
    job = jobs().get(name)
    return job.label if job else name


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _and(names: Iterable[str]) -> str:
    listed = list(names)
    return listed[0] if len(listed) == 1 else ", ".join(listed[:-1]) + " and " + listed[-1] if listed else ""
