"""What a run says while it works: typed events, one JSON object a line in `events.jsonl`, and the run folder's files.

Events carry numbers, not sentences to parse. One writer per file: the run's own process writes events, status, samples
and states; the page writes command files into `control/`; the supervisor writes `outcome.json`.
"""

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened; `time` is seconds since the epoch."""

    kind: ClassVar[str] = ""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The job began (again): its name, the process, and for training what was planned."""

    kind = "started"
    job: str
    name: str = ""
    pid: int = 0
    resumed_from_step: int = 0
    plan: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Phase(Event):
    """What the run does now ("loading model", "caching latents", "training", "sampling" …) and how far it is."""

    kind = "phase"
    name: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    """One optimizer step: loss of the step, running average over the epoch, learning rates by group name."""

    kind = "step"
    step: int
    epoch: int
    loss: float
    average: float
    lr: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EpochEnd(Event):
    """An epoch is complete; `loss` is its mean."""

    kind = "epoch"
    epoch: int
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Sample(Event):
    """A picture made with the adapter as it was after `step`; `path` is relative to the run folder."""

    kind = "sample"
    step: int
    epoch: int
    index: int
    prompt: str
    seed: int
    path: str


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A file (or a state folder) that is complete on disk; `path` is absolute, `what` is "weights" or "state"."""

    kind = "saved"
    step: int
    epoch: int
    path: str
    what: str = "weights"
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Item(Event):
    """The result for one file of a job that goes through files: a caption written, kept, or a reason why not."""

    kind = "item"
    path: str
    text: str = ""
    status: str = "written"


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """Something a person should know; `level` is "info", "warning" or "error", `key` the setting it is about."""

    kind = "note"
    text: str
    level: str = "info"
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """How the run ended: `state` is "finished", "stopped" or "failed"; `advice` is the way out."""

    kind = "ended"
    state: str
    step: int = 0
    reason: str = ""
    advice: str = ""


KINDS: dict[str, type[Event]] = {
    kind.kind: kind for kind in (Started, Phase, Step, EpochEnd, Sample, Saved, Item, Note, Ended)
}


def to_line(event: Event) -> str:
    """One line of `events.jsonl`, without the line break."""
    return json.dumps({"kind": event.kind, **dataclasses.asdict(event)}, ensure_ascii=False)


def from_line(line: str) -> Event | None:
    """The event of a line; None for a torn or foreign line."""
    try:
        data = json.loads(line)
        kind = KINDS[data.pop("kind")]
        names = {item.name for item in dataclasses.fields(kind)}
        return kind(**{key: value for key, value in data.items() if key in names})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Events from byte `offset` on, and the offset to go on from; a last line still being written is left for later."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() < offset:
            offset = 0
        file.seek(offset)
        data = file.read()
    complete = data.rfind(b"\n") + 1
    lines = data[:complete].decode("utf-8", errors="replace").split("\n")
    events = [event for line in lines if line and (event := from_line(line)) is not None]
    return events, offset + complete
