"""Starts the trainers, one at a time, watches them, and records how each ended; it outlives the page.

A small process of its own, one for each workspace. The page leaves runs in the queue and commands in run folders; the
supervisor takes the next run when nothing else is going on, climbs the *stop ladder* when a stop was asked for, writes
`outcome.json`, and ends by itself when there is nothing left to do. If it is killed, the trainers go on; the next
supervisor finds them again.

The stop ladder: the command file (the run finishes its step and saves everything), then an interrupt, then a request to
end, then the end of the whole process tree. Nobody climbs while the run gets on or is saving. "kill" goes to the top at
once.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from trainer import reasons, runfolder
from trainer.workspace import PROJECT, workspace

IDLE = 30.0
"""Seconds without work after which the supervisor ends."""
PATIENCE = (300.0, 60.0, 15.0)
"""Seconds without any progress before the interrupt, before the request to end, and before the kill."""
LOOK_EVERY, SCAN_EVERY = 0.2, 2.0

LOCK, LOG, WHO = "supervisor.lock", "supervisor.log", "supervisor.json"
NOT_FOR_CHILDREN = ("LOOM_USERNAME", "LOOM_PASSWORD")
"""The page's own secrets."""


def start(idle: float = IDLE, patience: tuple[float, ...] = PATIENCE) -> "subprocess.Popen[bytes]":
    """Start a supervisor for this workspace, detached. One that finds another at work ends at once, so start freely.

    Leave the work (an entry, a command) on disk first: a supervisor looks once more after it gave up its lock.
    """
    root = workspace().root
    root.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-P", "-m", "trainer.supervisor", "--idle", str(idle), "--patience", *map(str, patience)]
    with (root / LOG).open("ab") as log:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), **_detached(hidden=True)
        )
    threading.Thread(target=child.wait, name="supervisor's exit", daemon=True).start()
    return child


def _detached(hidden: bool) -> dict[str, Any]:
    """Arguments for a child that neither Ctrl-C in our terminal nor our own end reaches.

    On Windows the supervisor gets a hidden console, which its trainers share, so that it can send them Ctrl-Break.
    """
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
        return {"creationflags": flags | subprocess.CREATE_NO_WINDOW if hidden else flags}
    return {"start_new_session": True}


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}
    paths = [str(PROJECT), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


class Watched:
    """One run whose process lives: our child, or one that was there before us."""

    def __init__(self, folder: Path, process: psutil.Process, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self.folder, self.process, self.child = folder, process, child
        self.rung = 0
        self.since: float | None = None
        self._progress: tuple[Any, ...] = ()
        self.killed = False
        self._family: list[psutil.Process] = []

    @property
    def gone(self) -> bool:
        """Whether the process has ended."""
        if self.child is not None:
            return self.child.poll() is not None
        with suppress(psutil.Error):
            return not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE
        return True

    @property
    def status(self) -> Mapping[str, Any]:
        return runfolder.read_json(self.folder / runfolder.STATUS)

    def climb(self, patience: tuple[float, ...], now: float) -> None:
        """Take the next rung of the stop ladder when its time has come."""
        if self._asked("kill"):
            self._act("kill", self.kill)
            return
        status = self.status
        if self.since is None:
            if self._asked("stop") or status.get("state") == "stopping":
                self.since = now
            return
        progress = tuple(status.get(name) for name in ("phase", "done", "step"))
        if progress != self._progress and self.rung == 0:  # it is on its way; a slow machine gets its time
            self._progress, self.since = progress, now
        saving = str(status.get("phase", "")).startswith("saving") and runfolder.is_responding(status)
        if saving or self.rung >= len(RUNGS) or now - self.since < patience[self.rung]:
            return
        name, act = RUNGS[self.rung]
        self._act(name, lambda: act(self))
        self.rung, self.since = self.rung + 1, now

    def _asked(self, word: str) -> bool:
        return (self.folder / runfolder.CONTROL / f"{word}.json").exists()

    def _act(self, name: str, act: Callable[[], None]) -> None:
        print(f"{self.folder.name}: {name}", flush=True)
        self.list_family()
        with suppress(psutil.Error, OSError):
            act()

    def list_family(self) -> None:
        """Remember the processes that the trainer started; once it is gone nobody can tell whose they were."""
        with suppress(psutil.Error):
            self._family = self.process.children(recursive=True)

    def interrupt(self) -> None:
        """As Ctrl-C (Ctrl-Break on Windows)."""
        if sys.platform == "win32":
            self.process.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self.process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Ask the process to end; Windows has no such request."""
        if sys.platform != "win32":
            self.process.terminate()

    def kill(self) -> None:
        """End the whole tree at once."""
        self.killed = True
        with suppress(psutil.Error):
            self.process.kill()
        self.kill_family()

    def kill_family(self) -> None:
        """End what the trainer left behind, which may hold memory of the graphics card."""
        for process in self._family:
            with suppress(psutil.Error):
                process.kill()

    def outcome(self) -> dict[str, Any]:
        """How the run ended, for `outcome.json`."""
        code = self.child.returncode if self.child is not None else None
        status, words = self.status, runfolder.tail(self.folder / runfolder.LOG)
        state, reason = str(status.get("state", "")), reasons.Reason(status.get("reason", ""), status.get("advice", ""))
        if state not in runfolder.ENDED:
            if self.killed:
                reason = reasons.Reason("Ended at once because it was asked to; what was saved before is kept.")
                state = "stopped"
            else:
                reason = reasons.of_exit(code, words)
                state = "failed" if code is not None and code > 0 and not status else "interrupted"
        return {
            "state": state, "code": code, "signal": reasons.signal_name(code), "reason": reason.text,
            "advice": reason.advice, "last_words": words, "step": status.get("step", 0), "ended": time.time(),
        }  # fmt: skip


RUNGS: tuple[tuple[str, Callable[[Watched], None]], ...] = (
    ("interrupt", Watched.interrupt),
    ("terminate", Watched.terminate),
    ("kill", Watched.kill),
)


class Supervisor:
    """The one that works the queue of a workspace."""

    def __init__(self, idle: float = IDLE, patience: tuple[float, ...] = PATIENCE) -> None:
        self.idle, self.patience = idle, patience
        self.watched: dict[str, Watched] = {}
        self._settled: set[str] = set()
        self._scanned = 0.0

    def serve(self) -> None:
        """Work until there has been nothing to do for a while."""
        self._recover()
        quiet_since = time.monotonic()
        while True:
            try:
                busy = self.turn()
            except Exception:  # a full disk, a folder deleted under our feet: say so, and go on
                traceback.print_exc()
                busy = True
                time.sleep(1.0)
            if busy:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= self.idle:
                return
            time.sleep(LOOK_EVERY)

    def turn(self) -> bool:
        """Look at everything once; whether there is something to do."""
        now = time.monotonic()
        if now - self._scanned >= SCAN_EVERY:
            self._scanned = now
            self._scan()
        for name, run in list(self.watched.items()):
            if run.gone:
                self._settle(name, run)
            else:
                run.climb(self.patience, now)
        if not self.watched:
            self._start_next()
        return bool(self.watched)

    def _recover(self) -> None:
        """After a supervisor that was killed: what it had taken and not started goes back to the queue."""
        for taken in workspace().queue.glob("*.taken"):
            name = str(runfolder.read_json(taken).get("run", ""))
            started = (workspace().runs / name / runfolder.PROCESS).exists()
            if started or not name:
                taken.unlink(missing_ok=True)
            else:
                taken.rename(taken.with_suffix(".json"))

    def _scan(self) -> None:
        """Find runs that live without our doing, and those that died while nobody watched."""
        for run in self.watched.values():
            run.list_family()
        runs = workspace().runs
        for name in sorted(os.listdir(runs)) if runs.is_dir() else []:
            folder = runs / name
            if name in self.watched or name in self._settled or not (folder / runfolder.RUN).exists():
                continue
            facts = runfolder.facts(folder)
            process = runfolder.process(facts.status) or runfolder.process(facts.process)
            if process is not None:
                self.watched[name] = Watched(folder, process)
            elif facts.outcome or facts.status.get("state") in runfolder.ENDED:
                self._settled.add(name)
            elif facts.state == "interrupted":
                self._record(folder, post_mortem(folder, facts))

    def _settle(self, name: str, run: Watched) -> None:
        run.kill_family()
        self._record(run.folder, run.outcome())
        del self.watched[name]

    def _record(self, folder: Path, outcome: Mapping[str, Any]) -> None:
        print(f"{folder.name}: {outcome['state']} {outcome['reason']}", flush=True)
        runfolder.write_json(folder / runfolder.OUTCOME, outcome)
        self._settled.add(folder.name)

    def _start_next(self) -> None:
        for entry in runfolder.queue_entries():
            taken = entry.with_suffix(".taken")
            try:
                entry.rename(taken)
            except FileNotFoundError:  # somebody removed it from the queue just now
                continue
            folder = workspace().runs / str(runfolder.read_json(taken).get("run", ""))
            if (folder / runfolder.RUN).is_file():
                self._start(folder)
            taken.unlink(missing_ok=True)
            return

    def _start(self, folder: Path) -> None:
        job = str(runfolder.read_json(folder / runfolder.RUN).get("job", ""))
        words = [sys.executable, "-P", "-m", "trainer", job, str(folder)]
        try:
            with (folder / runfolder.LOG).open("ab") as log:
                child = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=_environment(),
                    cwd=_where(folder), **_detached(hidden=False),
                )  # fmt: skip
            run = Watched(folder, psutil.Process(child.pid), child)
        except (OSError, psutil.Error) as error:
            reason = f"It could not be started: {error}"
            self._record(folder, {"state": "failed", "reason": reason, "advice": "", "last_words": [], "step": 0})
            return
        print(f"{folder.name}: started as process {child.pid}", flush=True)
        self.watched[folder.name] = run
        runfolder.write_json(folder / runfolder.PROCESS, runfolder.identity(child.pid))


def _where(folder: Path) -> str | None:
    """The folder that relative paths in the run's settings start from: where the page was when it was queued."""
    there = str(runfolder.read_json(folder / runfolder.RUN).get("cwd", ""))
    return there if there and Path(there).is_dir() else None


def post_mortem(folder: Path, facts: runfolder.Facts) -> dict[str, Any]:
    """How a run ended that died while nobody watched, as far as its files tell."""
    words = runfolder.tail(folder / runfolder.LOG)
    reason = reasons.of_exit(None, words)
    return {
        "state": "interrupted", "code": None, "signal": "", "reason": reason.text, "advice": reason.advice,
        "last_words": words, "step": facts.status.get("step", 0), "ended": facts.status.get("heartbeat", time.time()),
    }  # fmt: skip


def main(argv: list[str]) -> int:
    """Be the supervisor of this workspace, unless there is one."""
    parser = argparse.ArgumentParser(prog="python -m trainer.supervisor", description="Works the queue of a workspace.")
    parser.add_argument("--idle", type=float, default=IDLE, help="seconds without work before it ends")
    parser.add_argument("--patience", type=float, nargs=3, default=PATIENCE, help="seconds on each rung of the ladder")
    options = parser.parse_args(argv)
    root = workspace().root
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / LOCK)
    while True:
        try:
            lock.acquire(timeout=1.0)  # one that was killed a moment ago may still be going
        except Timeout:
            return 0
        with lock:
            runfolder.write_json(root / WHO, runfolder.identity())
            Supervisor(options.idle, tuple(options.patience)).serve()
        # Whoever found the lock taken a moment ago left its work behind; whoever comes now gets the lock.
        if not runfolder.queue_entries():
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
