"""The folder of one run: what its files are called, who writes them, and what they say about its state.

::

    runs/20261120-142233-name/
      run.json        job, name, moment and place of queueing   written once, by whoever makes the folder
      settings.json   the settings, without secrets             written once, by whoever makes the folder
      process.json    pid and start time of the child           written by the supervisor
      status.json     phase, step, pid, heartbeat ...           written by the run itself, through `trainer.report`
      events.jsonl    what happened, a line each                written by the run itself
      log.txt         everything the process printed
      outcome.json    exit code or signal, in words             written by the supervisor when the process is gone
      control/        one file a command                        written by the page, deleted by the run
      prompts.txt     sample prompts from the next sample on    written by the page when somebody changes them
      samples/  state/
"""

import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from trainer import events
from trainer.declare import Section
from trainer.workspace import workspace

RUN, SETTINGS, PROCESS, STATUS, OUTCOME = "run.json", "settings.json", "process.json", "status.json", "outcome.json"
EVENTS, LOG, CONTROL, SAMPLES, STATE = "events.jsonl", "log.txt", "control", "samples", "state"
PROMPTS = "prompts.txt"

ENDED = ("finished", "stopped", "failed", "interrupted")
"""States a run does not leave."""
UNRESPONSIVE_AFTER = 30.0
"""Seconds without a heartbeat after which a living process counts as not responding."""


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace `path` by `data` in one piece: a reader sees the old file or the new one, never half of one."""
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1))


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file that holds `text`, in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def replace(temporary: Path, path: Path) -> None:
    """Rename over `path`. Windows refuses while somebody reads the old file, so it is tried again for two seconds."""
    for _ in range(40):
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(0.05)
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when the file is missing, unreadable or not an object."""
    for _ in range(3):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return data if isinstance(data, dict) else {}
        except PermissionError:  # Windows, in the instant of a replacement
            time.sleep(0.01)
        except (OSError, ValueError):
            return {}
    return {}


def prompts(folder: Path, usual: str) -> str:
    """The sample prompts of a run as they stand now: those that somebody put there since, else the `usual` ones."""
    try:
        return (folder / PROMPTS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return usual


def safe_name(name: str) -> str:
    """`name` as part of a file name on every system: letters, digits, dot, dash and underscore, at most 40."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-._")[:40].strip("-._") or "run"


def create(job: str, name: str, settings: Section) -> Path:
    """A new run folder in the workspace, with its settings frozen; two at the same moment get two folders."""
    runs = workspace().runs
    runs.mkdir(parents=True, exist_ok=True)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{safe_name(name)}"
    folder, number = runs / stem, 1
    while True:
        try:
            folder.mkdir()
            break
        except FileExistsError:
            number += 1
            folder = runs / f"{stem}-{number}"
    for inner in (CONTROL, SAMPLES, STATE):
        (folder / inner).mkdir()
    write_json(folder / SETTINGS, settings.public())
    write_json(folder / RUN, {"job": job, "name": name, "created": time.time(), "cwd": os.getcwd()})
    return folder


def command(folder: Path, word: str) -> None:
    """Leave a command ("stop", "save", "sample", "pause", "resume", "kill") for the run."""
    write_json(folder / CONTROL / f"{word}.json", {"time": time.time()})


def identity(pid: int | None = None) -> dict[str, Any]:
    """Pid and start time of a process (this one by default): together they name it for ever; a pid alone is reused."""
    pid = os.getpid() if pid is None else pid
    with suppress(psutil.Error):
        return {"pid": pid, "create_time": psutil.Process(pid).create_time()}
    return {"pid": pid, "create_time": 0.0}


def process(status: Mapping[str, Any]) -> psutil.Process | None:
    """The living process that a status (or process.json) names; None when it is gone or its pid belongs to another."""
    pid, born = status.get("pid"), status.get("create_time")
    if not isinstance(pid, int) or pid <= 0 or not isinstance(born, int | float):
        return None
    try:
        found = psutil.Process(pid)
        same = abs(found.create_time() - born) < 1.0
        return found if same and found.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def is_alive(status: Mapping[str, Any]) -> bool:
    """Whether the process that a status names is still there."""
    return process(status) is not None


def is_responding(status: Mapping[str, Any]) -> bool:
    """Whether the run renewed its heartbeat lately. A run that did not is shown as such, and never killed for it."""
    return time.time() - float(status.get("heartbeat") or 0) < UNRESPONSIVE_AFTER


@dataclass(frozen=True)
class Facts:
    """What the files of a run folder say, read at one moment."""

    run: Mapping[str, Any]
    status: Mapping[str, Any]
    process: Mapping[str, Any]
    outcome: Mapping[str, Any]
    queued: bool = False

    @property
    def alive(self) -> bool:
        return is_alive(self.status) or is_alive(self.process)

    @property
    def state(self) -> str:
        """queued, starting, running, stopping, finished, stopped, failed or interrupted."""
        said = str(self.status.get("state", ""))
        if said in ENDED:
            return "stopping" if said == "stopped" and self.alive else said
        if self.outcome:
            return str(self.outcome.get("state", "interrupted"))
        if self.alive:
            return said or "starting"
        if self.queued:
            return "queued"
        just_made = time.time() - float(self.run.get("created") or 0) < UNRESPONSIVE_AFTER
        return "starting" if just_made and not said and not self.process else "interrupted"


def facts(folder: Path) -> Facts:
    """Read the small files of a run folder."""
    # The queue is looked at first: a run taken from it in the meantime then has its process.json.
    queued = is_queued(folder.name)
    return Facts(
        run=read_json(folder / RUN),
        status=read_json(folder / STATUS),
        process=read_json(folder / PROCESS),
        outcome=read_json(folder / OUTCOME),
        queued=queued,
    )


def state(folder: Path) -> str:
    """The state of a run in one word: queued, starting, running, stopping, finished, stopped, failed, interrupted."""
    return facts(folder).state


def queue_entries() -> list[Path]:
    """The entries of the queue, the next one first."""
    return sorted(workspace().queue.glob("*.json"))


def enqueue(folder: Path) -> Path:
    """Put a run at the end of the queue; returns its entry."""
    entry = workspace().queue / f"{time.time_ns():020d}-{folder.name}.json"
    write_json(entry, {"run": folder.name})
    return entry


def entry_of(run: str) -> Path | None:
    """The queue's entry of a run that still waits."""
    return next((entry for entry in queue_entries() if entry.stem.partition("-")[2] == run), None)


def is_queued(run: str) -> bool:
    """Whether a run waits, or is just being taken from the queue."""
    folder = workspace().queue
    return folder.is_dir() and any(
        name.endswith((".json", ".taken")) and name.rpartition(".")[0].partition("-")[2] == run
        for name in os.listdir(folder)
    )


def tail(path: Path, lines: int = 20, limit: int = 16_384) -> list[str]:
    """The last lines of a text file, of at most its last `limit` bytes; progress bars count by their last state."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    shown = (line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n"))
    return [line for line in shown if line][-lines:]


def newest_state(folder: Path) -> Path | None:
    """The last training state that the run completed and that is still there."""
    happened, _ = events.read(folder / EVENTS)
    saved = (Path(item.path) for item in reversed(happened) if isinstance(item, events.Saved) and item.what == "state")
    return next((path for path in saved if path.is_dir()), None)
