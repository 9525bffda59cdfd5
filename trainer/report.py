"""How a run speaks and listens: events and status out, commands in. Every job gets a `Reporter`."""

import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from trainer import events, runfolder
from trainer.events import Ended, EpochEnd, Event, Item, Note, Phase, Sample, Saved, Started, Step, to_line

T = TypeVar("T")

FLUSH_EVERY, HEARTBEAT_EVERY, LOOK_EVERY = 0.5, 2.0, 0.25
"""Seconds between writing out buffered events, renewing the heartbeat, and looking for commands."""


class Stopped(Exception):
    """Raised by a job that obeyed "stop", after it saved what it must."""


class Failure(Exception):
    """Why a run cannot go on, as a sentence for people; `advice` is the way out, `key` the setting it is about."""

    def __init__(self, reason: str, advice: str = "", key: str = "") -> None:
        super().__init__(reason)
        self.reason, self.advice, self.key = reason, advice, key


class Reporter:
    """The voice and the ears of one run, in its folder.

    Calling it with an event appends a line to `events.jsonl` and brings `status.json` up to date; a thread writes out
    what is buffered and renews the heartbeat, so that a call in the training loop costs microseconds. A disk that is
    full delays lines, it does not end the run.
    """

    def __init__(
        self,
        folder: Path,
        job: str = "",
        name: str = "",
        listen: Callable[[Event], None] | None = None,
        process: Mapping[str, Any] | None = None,
    ) -> None:
        """`listen` also hears every event, such as a progress bar. `process` is what the run lives and dies with, as
        `runfolder.identity` gives it; by default this process."""
        self.folder = Path(folder)
        for inner in (runfolder.CONTROL, runfolder.SAMPLES, runfolder.STATE):
            (self.folder / inner).mkdir(parents=True, exist_ok=True)
        self.ended: Ended | None = None
        self._listen = listen
        self._lock = threading.RLock()
        self._lines: list[str] = []
        self._file: IO[bytes] | None = None
        self._pace = Pace()
        self._items: Counter[str] = Counter()
        self._status: dict[str, Any] = {
            "job": job, "name": name, "state": "running", "phase": "", "done": 0, "total": 0,
            "step": 0, "steps": 0, "epoch": 0, "epochs": 0, "loss": None, "average": None, "rate": None, "eta": None,
            "lr": {}, **(process or runfolder.identity()), "heartbeat": time.time(), "started": time.time(),
            "last_saved": "", "samples": 0, "skipped": 0, "reason": "", "advice": "",
        }  # fmt: skip
        self.memory: Callable[[], tuple[int, int]] | None = None
        """Bytes the run has used at most, and bytes there are; for whoever knows the device to set."""
        self._dirty = False
        self._written = self._noted = 0.0
        self._commands: deque[str] = deque()
        self._stop = False
        self._silent = False
        self._looked = 0.0
        self._closed = threading.Event()
        self._lent_from: int | None = None
        """While another process writes the events: the byte from which on they have not been read yet."""
        self._begin()

    def _begin(self) -> None:
        self._write_status()
        self._thread = threading.Thread(target=self._keep_up, name="reporter", daemon=True)
        self._thread.start()

    @property
    def samples(self) -> Path:
        """Where sample pictures go."""
        return self.folder / runfolder.SAMPLES

    @property
    def state(self) -> Path:
        """Where training states go."""
        return self.folder / runfolder.STATE

    @property
    def status(self) -> dict[str, Any]:
        """A copy of what `status.json` says, or is about to say."""
        with self._lock:
            return dict(self._status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Append an event. After `Ended` nothing more is written."""
        with self._lock:
            if self.ended is not None:
                return
            self._lines.append(to_line(event))
            HANDLERS[event.kind](self, event)
            self._dirty = True
            if not isinstance(event, Step | Phase | Item):
                self._write_out()
        if self._listen is not None:
            self._listen(event)

    def also(self, listen: Callable[[Event], None]) -> None:
        """Let somebody else hear every event from here on."""
        earlier = self._listen

        def both(event: Event) -> None:
            if earlier is not None:
                earlier(event)
            listen(event)

        self._listen = both

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """Say what is done now and how far it is; as cheap to call for each of ten thousand pictures as once."""
        now = time.time()
        with self._lock:
            fresh = name != self._status["phase"]
            if not fresh and done != total and now - self._noted < FLUSH_EVERY:
                self._status.update(done=done, total=total)
                self._dirty = True
                return
            self._noted = now
        self(Phase(name=name, done=done, total=total, time=now))
        if fresh:
            self.flush()

    def note(self, text: str, level: str = "info", key: str = "") -> None:
        """Tell people something; it stands on the page and in the log."""
        print(text if level == "info" else f"{level}: {text}", flush=True)
        self(Note(text=text, level=level, key=key))

    def track(self, iterable: Iterable[T], name: str, total: int | None = None) -> Iterator[T]:
        """Go through `iterable` as a phase that counts."""
        if total is None:
            total = len(iterable) if isinstance(iterable, Sized) else 0
        self.phase(name, 0, total)
        for done, item in enumerate(iterable, start=1):
            yield item
            self.phase(name, done, total)

    def command(self) -> str | None:
        """The next command that waits: "stop", "save", "sample", "pause" or "resume". Cheap; taking it uses it up."""
        self._look()
        return self._commands.popleft() if self._commands else None

    def stopping(self) -> bool:
        """Whether a stop was asked for; once true it stays true."""
        self._look()
        return self._stop

    @property
    def stop_requested(self) -> bool:
        """As `stopping`, without looking for a new command."""
        return self._stop

    def stop(self) -> None:
        """Ask this run to stop, as the command does. Safe in a signal handler: nothing is locked or written here."""
        if not self._stop:
            self._stop = True
            self._commands.append("stop")

    def flush(self) -> None:
        """Write out everything now."""
        with self._lock:
            self._write_out()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, another process reports in this folder. What it says is passed on to the listener, and what was asked
        of us to it; if it says how the run ended, that stands."""
        with self._lock:
            self._write_out()
            path = self.folder / runfolder.EVENTS
            self._lent_from = path.stat().st_size if path.exists() else 0
            self._silent = True
        try:
            yield
        finally:
            with self._lock:
                self._follow()
                self._lent_from = None

    def _follow(self) -> None:
        assert self._lent_from is not None
        found, self._lent_from = events.read(self.folder / runfolder.EVENTS, self._lent_from)
        self._silent = self._silent and not found
        for event in found:
            HANDLERS[event.kind](self, event)
            if self._listen is not None:
                self._listen(event)
        while self._commands:
            with suppress(OSError):
                runfolder.command(self.folder, self._commands.popleft())

    def close(self) -> None:
        """Write out everything and end the thread; the folder then is at rest."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            self._write_out()
            if self._file is not None:
                self._file.close()
                self._file = None

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY or self._lent_from is not None:
            return
        self._looked = now
        found = sorted((self.folder / runfolder.CONTROL).glob("*.json"), key=_age)
        for path in found:
            word = path.stem
            if word == "kill":  # the supervisor's business
                continue
            path.unlink(missing_ok=True)
            if word == "stop":
                self.stop()
            else:
                self._commands.append(word)
        if self._stop and self._status["state"] == "running":
            with self._lock:
                self._status["state"] = "stopping"
                self._write_out()

    def _keep_up(self) -> None:
        while not self._closed.wait(FLUSH_EVERY):
            with self._lock:
                if self._lent_from is not None:
                    self._follow()
                    if self._silent:  # it is still starting; somebody must give a sign of life
                        self._write_status()
                    continue
                if self._stop and self._status["state"] == "running":
                    self._status["state"] = "stopping"
                    self._dirty = True
                if self._lines or self._dirty or time.time() - self._written >= HEARTBEAT_EVERY:
                    self._write_out()

    def _write_out(self) -> None:
        self._write_events()
        self._write_status()

    def _write_events(self) -> None:
        if not self._lines:
            return
        data = "".join(line + "\n" for line in self._lines).encode()
        try:
            if self._file is None:
                # Unbuffered: what failed once is not written a second time behind our back.
                self._file = (self.folder / runfolder.EVENTS).open("ab", buffering=0)
                if not _ends_with_newline(self.folder / runfolder.EVENTS):
                    data = b"\n" + data
            self._file.write(data)
        except OSError:  # a full disk: the lines wait; one torn in the middle is skipped by readers
            if self._file is not None:
                self._file.close()
                self._file = None
            return
        self._lines.clear()

    def _write_status(self) -> None:
        self._written = time.time()
        self._status.update(heartbeat=self._written, rate=self._pace.rate, eta=self._pace.eta(self._status))
        if self.memory is not None:
            self._status.update(zip(("memory", "memory_total"), self.memory(), strict=True))
        try:
            runfolder.write_json(self.folder / runfolder.STATUS, self._status)
            self._dirty = False
        except OSError:
            self._dirty = True

    def _on_started(self, event: Started) -> None:
        plan = event.plan
        self._status.update(
            job=event.job or self._status["job"], name=event.name or self._status["name"], step=event.resumed_from_step,
            steps=plan.get("steps", self._status["steps"]), epochs=plan.get("epochs", self._status["epochs"]),
            images_a_step=_images_a_step(plan),
        )  # fmt: skip

    def _on_phase(self, event: Phase) -> None:
        if event.name != self._status["phase"]:
            self._pace.turn(event.time if event.name == "training" else None)
        self._status.update(phase=event.name, done=event.done, total=event.total)

    def _on_step(self, event: Step) -> None:
        self._pace.step(event.time, event.step)
        self._status.update(
            step=event.step, epoch=event.epoch, loss=event.loss, average=event.average, lr=dict(event.lr)
        )

    def _on_epoch(self, event: EpochEnd) -> None:
        self._status.update(epoch=event.epoch)

    def _on_sample(self, event: Sample) -> None:
        self._status["samples"] += 1

    def _on_saved(self, event: Saved) -> None:
        self._status["last_saved"] = event.path

    def _on_item(self, event: Item) -> None:
        self._items[event.status] += 1
        self._status.update(items=dict(self._items), skipped=self._items["skipped"])

    def _on_note(self, event: Note) -> None:
        pass

    def _on_ended(self, event: Ended) -> None:
        self.ended = event
        self._status.update(state=event.state, reason=event.reason, advice=event.advice)


class Quiet(Reporter):
    """For the processes of a run that do not report: nothing is written or shown, and nobody gives commands here.

    `ended` is kept. With `speaks` notes go to the log, for the first process of a machine that has a log of its own.
    """

    def __init__(self, folder: Path, job: str = "", name: str = "", speaks: bool = False) -> None:
        self._speaks = speaks
        super().__init__(folder, job, name)

    def note(self, text: str, level: str = "info", key: str = "") -> None:
        if self._speaks:
            super().note(text, level, key)

    def close(self) -> None:
        """Nothing was opened."""

    def _begin(self) -> None:
        pass

    def _look(self) -> None:
        pass

    def _write_out(self) -> None:
        self._lines.clear()


HANDLERS: dict[str, Callable[[Reporter, Any], None]] = {
    Started.kind: Reporter._on_started,
    Phase.kind: Reporter._on_phase,
    Step.kind: Reporter._on_step,
    EpochEnd.kind: Reporter._on_epoch,
    Sample.kind: Reporter._on_sample,
    Saved.kind: Reporter._on_saved,
    Item.kind: Reporter._on_item,
    Note.kind: Reporter._on_note,
    Ended.kind: Reporter._on_ended,
}


class Pace:
    """Steps per second of training time proper: sampling and saving in between do not count."""

    def __init__(self, window: int = 100) -> None:
        self._points: deque[tuple[float, int]] = deque(maxlen=window)
        self._active = 0.0
        self._since: float | None = None

    def turn(self, since: float | None) -> None:
        """Another phase began: training at the time `since`, or something else (None)."""
        self._since = since

    def step(self, now: float, step: int) -> None:
        """A step ended at the time `now`. Steps may be told in bursts; the clock counts on across them."""
        if self._since is not None:
            self._active += max(0.0, now - self._since)
            if not self._points:
                self._points.append((0.0, step - 1))
        self._since = now
        self._points.append((self._active, step))

    @property
    def rate(self) -> float | None:
        """Steps per second, once it can be told."""
        if len(self._points) < 2:
            return None
        (began, first), (ended, last) = self._points[0], self._points[-1]
        return (last - first) / (ended - began) if ended > began and last > first else None

    def eta(self, status: dict[str, Any]) -> float | None:
        """Seconds of training that are left."""
        left = (status["steps"] or 0) - (status["step"] or 0)
        return left / self.rate if self.rate and left >= 0 and status["steps"] else None


def _images_a_step(plan: Mapping[str, Any]) -> float:
    """How many pictures a step of this plan shows on average, those of all processes together; 0 for other jobs."""
    shown = plan.get("repeated", 0) + plan.get("reg_repeated", 0)
    return shown / plan["steps_per_epoch"] if plan.get("steps_per_epoch") else 0.0


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def speak_plainly() -> None:
    """Let the output of this process hold any character, whatever the terminal's encoding is."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace", line_buffering=True)
