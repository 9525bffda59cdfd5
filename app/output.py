"""What a run measures, makes and says, as HTML: loss, samples, captions, files, notes, log. (no gradio)"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from app import charts
from app.story import LEFT_OUT
from app.view import View
from app.wall import file_url, thumb_url, wall
from app.words import counted, size_of
from trainer.events import Item, Saved

MANY_NOTES, FEW_FILES, LEFT_OUT_SHOWN = 3, 4, 200
"""Of each, what is shown without a click; and how many left-out files are named with one."""
PICTURES = ("train_data_dir", "dataset_config")
"""Notes about these settings repeat, for the log, what the list of left-out pictures says better."""
PARTS = {"unet": "U-Net", "textencoder": "text encoder"}
"""Beginnings of the names of the optimizer's groups, as people call them."""
MANY_RATES = 8
"""Groups up to which each rate is shown; of more, as blocks of their own rate make them, the range of each part."""


def loss(view: View) -> str:
    """The loss as a number and a curve, and the learning rates of this moment."""
    points = list(view.story.points)
    if not points:
        return ""
    now = points[-1][1]
    number = f"{now:.4f}" if math.isfinite(now) else "not a number"
    average = view.story.last.average if view.story.last else math.nan
    mean = f' <span class="loom-muted">average {average:.4f}</span>' if math.isfinite(average) else ""
    rates = dict(view.story.last.lr) if view.story.last else {}
    shown = "".join(
        f'<span data-key="{escape(name)}">{escape(_called(name))} <b>{value}</b></span>'
        for name, value in _rates(rates).items()
    )
    curve = charts.loss_curve(points, view.steps, [end.step for end in view.story.epochs])
    return (
        f'<h3>Loss <b class="loom-number">{number}</b>{mean}</h3>'
        f'<figure class="loom-chart" data-chart>{curve}</figure>'
        + (f'<p class="loom-rates"><span class="loom-muted">Learning rate</span>{shown}</p>' if shown else "")
    )


def _rates(rates: Mapping[str, float]) -> dict[str, str]:
    """The learning rates by group; one if all are alike, ranges by part if there are many."""
    if len(rates) > 1 and len(set(rates.values())) == 1:
        return {"": charts.rate(float(next(iter(rates.values()))))}
    if len(rates) <= MANY_RATES:
        return {name: charts.rate(float(value)) for name, value in rates.items()}
    parts: dict[str, list[float]] = {}
    for name, value in rates.items():
        parts.setdefault(name.partition(" ")[0], []).append(float(value))
    ends = {part: dict.fromkeys((min(values), max(values))) for part, values in parts.items()}
    return {part: " to ".join(map(charts.rate, values)) for part, values in ends.items()}


def _called(group: str) -> str:
    part, space, rest = group.partition(" ")
    return PARTS.get(part, part) + space + rest


def samples(view: View) -> str:
    """The sample wall."""
    return wall(view.story.samples)


def results(view: View) -> str:
    """The files a captioning job went through, newest first, with their pictures."""
    if view.trains or not view.story.items:
        return ""
    shown, total = view.story.items, sum(view.story.counts.values())
    more = f'<p class="loom-muted">The newest {len(shown)} of {total}.</p>' if total > len(shown) else ""
    counts = "" if view.over else f' <span class="loom-muted">{escape(counted(view.story.counts))}</span>'
    return f'<h3>Results{counts}</h3><ul class="loom-results">{"".join(map(_result, reversed(shown)))}</ul>{more}'


def _result(item: Item) -> str:
    kind = "warning" if item.status in LEFT_OUT else ""
    chip = f'<span class="loom-chip {kind}">{escape(item.status)}</span>' if item.status != "written" else ""
    image = f'<img src="{escape(thumb_url(item.path, 128))}" alt="" loading="lazy" width="64" height="64">'
    return (
        f'<li data-key="{escape(item.path)}">{image}<div><p>{escape(item.text) or "<i>empty</i>"}</p>'
        f'<p class="loom-muted">{escape(os.path.basename(item.path))} {chip}</p></div></li>'
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


def _fold(key: str, words: str, inside: str, kind: str = "") -> str:
    """Something a click away; it stays open when a person opened it."""
    return f'<details data-keep data-key="{key}" class="{kind}"><summary>{words}</summary>{inside}</details>'


def notes(view: View) -> str:
    """What a person should know, what is wrong first; the rest is a click away."""
    told = list(dict.fromkeys((note.level, note.text, note.key) for note in reversed(view.story.notes)))
    left_out = _left_out(view.story.skipped)
    grave = [note for note in told if note[0] != "info" and not (left_out and note[2] in PICTURES)]
    first = grave[:MANY_NOTES]
    rest = sorted((note for note in told if note not in first), key=lambda note: note[0] == "info")
    if not told and not left_out:
        return ""
    words = f"{len(rest)} {'more ' if first or left_out else ''}note{'s' * (len(rest) != 1)}"
    return left_out + _list(first) + (_fold("notes", words, _list(rest)) if rest else "")


def _list(told: Sequence[tuple[str, str, str]]) -> str:
    items = "".join(
        f'<li data-key="{escape(text)}" class="loom-note {escape(level)}">{escape(text)}</li>'
        for level, text, _ in told
    )
    return f'<ul class="loom-notes">{items}</ul>' if items else ""


def _left_out(skipped: Sequence[Item]) -> str:
    if not skipped:
        return ""
    names = "".join(
        f'<li data-key="{escape(item.path)}">{escape(os.path.basename(item.path))}: {escape(item.text)}</li>'
        for item in skipped[:LEFT_OUT_SHOWN]
    )
    said = f"{len(skipped)} picture{'s were' if len(skipped) > 1 else ' was'} left out"
    return _fold("left-out", said, f"<ul>{names}</ul>", "loom-note warning")


def log(view: View) -> str:
    """The last lines that the run printed, folded away."""
    if not view.log:
        return ""
    lines = "".join(f'<span data-key="{at}">{escape(text)}\n</span>' for at, text in view.log)
    words = f'Log <span class="loom-muted">{escape(view.log[-1][1])}</span>'
    return _fold("log", words, f'<pre tabindex="0" data-scroll aria-label="Log">{lines}</pre>', "loom-log")
