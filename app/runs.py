"""Runs as the page sees them: queue one, list them, look at one, command it, resume it, delete it. (no gradio)

Everything is in the run folders; this module remembers nothing that a restart of the page could lose.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import runfolder, supervisor
from trainer.declare import Section, validate
from trainer.jobs import jobs
from trainer.workspace import workspace

COMMANDS = ("stop", "save", "sample", "pause", "resume", "kill")
GOING = ("starting", "running", "stopping")
KEEP_TRASH = 7 * 24 * 3600.0
"""Seconds that deleted runs can be brought back."""


@dataclass(frozen=True)
class RunInfo:
    """One run at one moment. `outcome` holds the reason and the last words of a run that died."""

    id: str
    folder: Path
    job: str
    name: str
    state: str
    status: Mapping[str, Any]
    outcome: Mapping[str, Any]
    created: float

    @property
    def settled(self) -> bool:
        """Whether nothing can change any more."""
        return self.state in runfolder.ENDED and (self.state != "interrupted" or "code" in self.outcome)


_settled: dict[Path, RunInfo] = {}
_recent: dict[Path, tuple[float, RunInfo]] = {}
_lock = threading.Lock()
FRESH = 0.5
"""Seconds for which one look at a living run serves all pages."""


def queue_run(job: str, settings: Section, name: str) -> str:
    """Freeze `settings` in a new run folder, put it in the queue, see that somebody works it; returns the id."""
    folder = runfolder.create(job, name, settings)
    try:
        runfolder.enqueue(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    supervisor.start()
    return folder.name


def list_runs() -> list[RunInfo]:
    """All runs, newest first."""
    folder = workspace().runs
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = filter(None, (snapshot(name) for name in names))
    return sorted(found, key=lambda run: (run.created, run.id), reverse=True)


def snapshot(run: str) -> RunInfo | None:
    """A run as it is now, at most half a second old; None when there is no such run. Cheap: call it often."""
    folder = find(run)
    if folder is None:
        return None
    with _lock:
        if folder in _settled:
            return _settled[folder]
        looked, info = _recent.get(folder, (0.0, None))
        if info is not None and time.monotonic() - looked < FRESH:
            return info
        info = _look(folder)
        _recent[folder] = time.monotonic(), info
        if info.settled:
            _settled[folder] = info
            del _recent[folder]
        return info


def _look(folder: Path) -> RunInfo:
    facts = runfolder.facts(folder)
    state, outcome = facts.state, facts.outcome
    if state == "interrupted" and not outcome:  # nobody has written its end down yet
        outcome = {k: v for k, v in supervisor.post_mortem(folder, facts).items() if k != "code"}
    return RunInfo(
        id=folder.name,
        folder=folder,
        job=str(facts.run.get("job", "")),
        name=str(facts.run.get("name", "")),
        state=state,
        status=facts.status,
        outcome=outcome,
        created=float(facts.run.get("created") or 0),
    )


def find(run: str) -> Path | None:
    """The folder of a run; None for an id that is not one, whatever characters it holds."""
    if not run or run in (".", "..") or any(sign in run for sign in "/\\:\0"):
        return None
    folder = workspace().runs / run
    return folder if (folder / runfolder.RUN).is_file() else None


def _must_find(run: str) -> Path:
    folder = find(run)
    if folder is None:
        raise ValueError("This run is no longer there.")
    return folder


def forget(folder: Path | None = None) -> None:
    """Look anew at a run (at all of them) next time."""
    with _lock:
        for cache in (_settled, _recent):
            cache.pop(folder, None) if folder else cache.clear()


def command(run: str, word: str) -> None:
    """Tell a run to "stop", "save", "sample", "pause", "resume", or "kill" it. One that waits is taken from the queue.

    A run that has ended is left alone. Raises `ValueError` with a sentence for an unknown run or word.
    """
    if word not in COMMANDS:
        raise ValueError(f"There is no command {word!r}.")
    folder = _must_find(run)
    forget(folder)
    ends = word in ("stop", "kill")
    if ends and _take_from_queue(folder):
        return
    if runfolder.state(folder) in runfolder.ENDED:
        return
    runfolder.command(folder, word)
    if ends:
        supervisor.start()


def _take_from_queue(folder: Path) -> bool:
    """Whether the run still waited, and now does not. Whoever removes the entry has the run: we or the supervisor."""
    entry = runfolder.entry_of(folder.name)
    try:
        if entry is None:
            return False
        entry.unlink()
    except FileNotFoundError:
        return False
    reason = "Taken out of the queue before it began."
    ended = {"state": "stopped", "reason": reason, "advice": "", "last_words": [], "step": 0, "ended": time.time()}
    runfolder.write_json(folder / runfolder.OUTCOME, ended)
    return True


def ahead(run: str) -> list[RunInfo]:
    """The runs that come before one that waits: the one that is going on, then those queued earlier."""
    order = [entry.stem.partition("-")[2] for entry in runfolder.queue_entries()]
    if run not in order:
        return []
    going = [info for info in list_runs() if info.state in GOING]
    waiting = (snapshot(other) for other in order[: order.index(run)])
    return going + [info for info in waiting if info is not None and info not in going]


def settings_of(run: str) -> Section:
    """The settings a run was queued with, to start it again; `ValueError` when they no longer fit the program."""
    folder = _must_find(run)
    job = jobs().get(str(runfolder.read_json(folder / runfolder.RUN).get("job", "")))
    if job is None:
        raise ValueError("The job of this run is not part of the program any more.")
    settings, problems = validate(job.Settings, runfolder.read_json(folder / runfolder.SETTINGS))
    if problems:
        raise ValueError(" ".join(map(str, problems)))
    return settings


def resume_settings(run: str) -> Section:
    """The settings of a run with its newest training state to resume from; `ValueError` when it saved none."""
    folder = _must_find(run)
    state = runfolder.newest_state(folder)
    if state is None:
        raise ValueError("This run has saved no training state to go on from; start it again instead.")
    settings = settings_of(run)
    if (folder / runfolder.PROMPTS).is_file():  # they were changed on the way
        settings = settings.changed(sample_prompts=runfolder.prompts(folder, ""))
    return settings.changed(resume=str(state))


def delete(run: str) -> None:
    """Move a run that is over, or waits, to the trash; for a week `restore` brings it back."""
    folder = _must_find(run)
    if not _take_from_queue(folder) and runfolder.state(folder) not in runfolder.ENDED:
        raise ValueError("This run is going on; stop it first.")
    forget(folder)
    trash = workspace().trash
    trash.mkdir(parents=True, exist_ok=True)
    runfolder.write_json(trash / f"{run}.json", {"deleted": time.time()})
    folder.rename(trash / run)
    _empty_trash()


def restore(run: str) -> None:
    """Bring a deleted run back."""
    trash = workspace().trash
    if find(run) is None and not any(sign in run for sign in "/\\:\0") and (trash / run / runfolder.RUN).is_file():
        (trash / run).rename(workspace().runs / run)
        (trash / f"{run}.json").unlink(missing_ok=True)
    else:
        raise ValueError("This run cannot be brought back.")


def _empty_trash() -> None:
    for note in workspace().trash.glob("*.json"):
        if time.time() - float(runfolder.read_json(note).get("deleted") or time.time()) > KEEP_TRASH:
            shutil.rmtree(note.with_suffix(""), ignore_errors=True)
            with suppress(OSError):
                note.unlink()


def wake() -> None:
    """When the page opens: if anything waits, goes on, or died unrecorded, see that a supervisor looks after it."""
    if runfolder.queue_entries() or any(not info.settled for info in list_runs()):
        supervisor.start()
