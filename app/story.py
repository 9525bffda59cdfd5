"""What happened in a run so far, read from its folder bit by bit and shared by all open pages. (no gradio)

Nothing here is remembered that the folder does not say: a page that is closed, reloaded or started anew reads the same.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer import events, runfolder
from trainer.events import Ended, EpochEnd, Event, Item, Note, Phase, Sample, Saved, Started, Step

REMEMBERED = 24
"""Runs that are kept parsed; others are read again when somebody looks at them."""
LOG_LINES, LOG_BYTES = 200, 48 * 1024
ITEMS = 60
"""Results of a captioning job that are shown; all of them are counted."""


@dataclass
class Story:
    """The events of one run, sorted by what they tell. `update()` reads what is new."""

    folder: Path
    started: Started | None = None
    phase: Phase | None = None
    points: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss) in order of steps."""
    last: Step | None = None
    epochs: list[EpochEnd] = field(default_factory=list)
    samples: dict[tuple[int, int], tuple[Path, Sample]] = field(default_factory=dict)
    """By (step, prompt): the run folder it lies in, and the sample. A picture made again replaces the earlier one."""
    saved: dict[str, Saved] = field(default_factory=dict)
    """By path, in order of time."""
    items: list[Item] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """How many files of a captioning job ended how."""
    skipped: list[Item] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    ended: Ended | None = None
    offset: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def update(self) -> Story:
        """Read what was written since the last time; a line that is still being written waits."""
        with self.lock:
            fresh, offset = events.read(self.folder / runfolder.EVENTS, self.offset)
            if offset < self.offset:  # another file took its place
                self._forget()
            self.offset = offset
            for event in fresh:
                self.tell(event)
        return self

    def tell(self, event: Event) -> None:
        """Take in one event."""
        TELLERS[event.kind](self, event)

    @property
    def steps(self) -> int:
        """How many steps the run was planned to take; 0 when it has not said."""
        return int(self.started.plan.get("steps") or 0) if self.started else 0

    def newest_state(self) -> Path | None:
        """The last training state that is complete and still there."""
        states = (Path(saved.path) for saved in reversed(self.saved.values()) if saved.what == "state")
        return next((path for path in states if path.is_dir()), None)

    def _forget(self) -> None:
        blank = Story(self.folder)
        for name in (
            "started",
            "phase",
            "points",
            "last",
            "epochs",
            "samples",
            "saved",
            "items",
            "counts",
            "skipped",
            "notes",
            "ended",
        ):
            setattr(self, name, getattr(blank, name))

    def _on_started(self, event: Started) -> None:
        """A run that goes on from step N keeps what it, or the run it continues, did up to N."""
        step = event.resumed_from_step
        if step and not self.last:
            self._inherit(step)
        self.points = [point for point in self.points if point[0] <= step]
        self.epochs = [end for end in self.epochs if end.step <= step]
        self.samples = {key: value for key, value in self.samples.items() if key[0] <= step}
        self.last = None
        self.ended = None
        self.started = event

    def _inherit(self, step: int) -> None:
        parent = continued(self.folder)
        if parent is not None:
            before = story(parent)
            self.points = [point for point in before.points if point[0] <= step]
            self.epochs = [end for end in before.epochs if end.step <= step]
            self.samples = {**before.samples, **self.samples}

    def _on_phase(self, event: Phase) -> None:
        self.phase = event

    def _on_step(self, event: Step) -> None:
        self.points.append((event.step, event.loss))
        self.last = event

    def _on_epoch(self, event: EpochEnd) -> None:
        self.epochs.append(event)

    def _on_sample(self, event: Sample) -> None:
        self.samples[event.step, event.index] = (self.folder, event)

    def _on_saved(self, event: Saved) -> None:
        self.saved.pop(event.path, None)
        self.saved[event.path] = event

    def _on_item(self, event: Item) -> None:
        self.counts[event.status] = self.counts.get(event.status, 0) + 1
        if event.status in LEFT_OUT:
            self.skipped.append(event)
        self.items = [*self.items[-(ITEMS - 1) :], event]

    def _on_note(self, event: Note) -> None:
        self.notes.append(event)

    def _on_ended(self, event: Ended) -> None:
        self.ended = event


LEFT_OUT = ("skipped", "unreadable", "failed")
"""States of an item that say: nothing was done for this file, and it was not meant to be so."""

TELLERS: dict[str, Callable[[Story, Any], None]] = {
    Started.kind: Story._on_started,
    Phase.kind: Story._on_phase,
    Step.kind: Story._on_step,
    EpochEnd.kind: Story._on_epoch,
    Sample.kind: Story._on_sample,
    Saved.kind: Story._on_saved,
    Item.kind: Story._on_item,
    Note.kind: Story._on_note,
    Ended.kind: Story._on_ended,
}

_stories: OrderedDict[Path, Story] = OrderedDict()
_lock = threading.RLock()


def story(folder: Path) -> Story:
    """The story of the run in `folder`, up to date."""
    with _lock:
        found = _stories.pop(folder, None) or Story(folder)
        _stories[folder] = found
        while len(_stories) > REMEMBERED:
            _stories.popitem(last=False)
    return found.update()


def continued(folder: Path) -> Path | None:
    """The folder of the run that the one in `folder` went on from: the newest before it that saved its state."""
    state = str(runfolder.read_json(folder / runfolder.SETTINGS).get("resume") or "")
    if not state:
        return None
    named = json.dumps(state, ensure_ascii=False).encode()
    earlier = sorted((other for other in folder.parent.iterdir() if other.name < folder.name), reverse=True)
    return next((other for other in earlier if _saved(other / runfolder.EVENTS, named)), None)


def _saved(path: Path, state: bytes) -> bool:
    """Whether the events in `path` tell of this state, named as JSON names it."""
    try:
        with path.open("rb") as file:
            return any(state in line and b'"state"' in line for line in file)
    except OSError:
        return False


def log(folder: Path, lines: int = LOG_LINES) -> list[tuple[int, str]]:
    """The last lines a run printed, as (byte at which the line begins, line); of a progress bar, its last state."""
    try:
        with (folder / runfolder.LOG).open("rb") as file:
            size = file.seek(0, 2)
            begin = max(0, size - LOG_BYTES)
            file.seek(begin)
            data = file.read()
    except OSError:
        return []
    if begin:  # the first line is only a part of one
        cut = data.find(b"\n") + 1
        begin, data = begin + cut, data[cut:]
    found, at = [], begin
    for line in data.split(b"\n"):
        text = line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", errors="replace").rstrip()
        if text:
            found.append((at, text))
        at += len(line) + 1
    return found[-lines:]
