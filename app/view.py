"""A run at one moment, with all that the page shows of it, read from its folder. (no gradio)"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from app import runs
from app.runs import GOING
from app.story import Story, log, story
from trainer import runfolder
from trainer.events import Saved
from trainer.jobs import jobs
from trainer.runfolder import ENDED
from trainer.training import Training


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
    busy_with: tuple[str, str] | None = None
    """(id, name) of the run that is on while this one waits or is over."""
    prompts: str = ""
    """The sample prompts as they stand now."""
    asked: Sequence[str] = ()
    """Commands that the run has not taken up yet."""
    stopping_for: float = 0.0
    resumable: bool = False

    @property
    def can_sample(self) -> bool:
        """Whether there are sample prompts."""
        return bool(self.prompts.strip())

    @property
    def over(self) -> bool:
        return self.state in ENDED

    @property
    def trains(self) -> bool:
        return self.job == Training.name

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

    @property
    def weights(self) -> list[Saved]:
        """The saved LoRAs, the newest last."""
        return [saved for saved in self.story.saved.values() if saved.what == "weights"]

    @property
    def kept_step(self) -> int:
        """The step of the newest saved training state; 0 without one."""
        return max((saved.step for saved in self.story.saved.values() if saved.what == "state"), default=0)

    @property
    def reason(self) -> str:
        """Why it ended so, from the run itself or from whoever found it gone."""
        return str(self.status.get("reason") or self.outcome.get("reason") or "")

    @property
    def advice(self) -> str:
        return str(self.status.get("advice") or self.outcome.get("advice") or "")


def view_of(run: str) -> View | None:
    """Everything the panel needs, read from the run's folder."""
    info = runs.snapshot(run)
    if info is None:
        return None
    control = info.folder / runfolder.CONTROL
    asked = [path.stem for path in control.glob("*.json")] if info.state not in ENDED and control.is_dir() else []
    ahead = runs.ahead(run) if info.state == "queued" else []
    others = runs.list_runs() if info.state in ("queued", *ENDED) else []
    told = story(info.folder)
    return View(
        id=info.id,
        job=info.job,
        name=info.name,
        state=info.state,
        folder=info.folder,
        status=info.status,
        outcome=info.outcome,
        story=told,
        log=log(info.folder),
        ahead=[other.name or other.id for other in ahead],
        busy_with=next(((other.id, other.name or other.id) for other in others if other.state in GOING), None),
        prompts=runfolder.prompts(info.folder, _first_prompts(info.folder)),
        asked=asked,
        stopping_for=_stopping_for(info.id, info.state == "stopping" or (info.state in GOING and "stop" in asked)),
        resumable=info.state in ENDED and info.job == Training.name and told.newest_state() is not None,
    )


@lru_cache(maxsize=64)
def _first_prompts(folder: Path) -> str:
    return str(runfolder.read_json(folder / runfolder.SETTINGS).get("sample_prompts") or "")


_since: dict[str, float] = {}


def _stopping_for(run: str, stopping: bool) -> float:
    if not stopping:
        _since.pop(run, None)
        return 0.0
    return time.monotonic() - _since.setdefault(run, time.monotonic())


def job_label(name: str) -> str:
    """A job as the page calls it."""
    job = jobs().get(name)
    return job.label if job else name
