"""A run's events for people who read text: a progress bar on a terminal, and a diary for the log."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from trainer.events import Ended, EpochEnd, Event, Phase, Saved, Started, Step


class Bar:
    """Draws a run's events on stderr: one bar for the training, one for what goes on before and in between.

    Hand it to a `Reporter` as its listener.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self._steps = self._first = 0
        self._training: tqdm[Any] | None = None
        self._other: tqdm[Any] | None = None
        self._phase = ""
        self._saved = ""

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Started):
            self._steps, self._first = int(event.plan.get("steps", 0)), event.resumed_from_step
        elif isinstance(event, Phase):
            self._turn(event)
        elif isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Saved) and event.what == "weights":
            self._saved = event.path
        elif isinstance(event, Ended):
            self._end(event)

    def _turn(self, event: Phase) -> None:
        fresh, self._phase = event.name != self._phase, event.name
        if event.name == "training" and self._steps:
            self._close_other()
            if self._training is None:
                self._training = self._bar(event.name, self._steps, self._first, unit="step")
            return
        if fresh:
            self._close_other()
            self._other = self._bar(event.name, event.total, 0, leave=self._training is None)
        if self._other is not None:
            self._other.total = event.total or None
            self._other.update(event.done - self._other.n)

    def _bar(self, name: str, total: int, first: int, unit: str = "", leave: bool = True) -> "tqdm[Any]":
        often = 0.2 if self.stream.isatty() else 10.0
        return tqdm(
            total=total or None, initial=first, desc=name, unit=unit, file=self.stream, dynamic_ncols=True,
            mininterval=often, leave=leave,
        )  # fmt: skip

    def _step(self, event: Step) -> None:
        if self._training is None:
            self._training = self._bar("training", self._steps, self._first, unit="step")
        self._training.set_postfix(loss=f"{event.average:.4f}", epoch=event.epoch, refresh=False)
        self._training.update(event.step - self._training.n)

    def _close_other(self) -> None:
        if self._other is not None:
            self._other.close()
            self._other = None

    def _end(self, event: Ended) -> None:
        self._close_other()
        if self._training is not None:
            self._training.close()
        said = f"{event.state}: {event.reason}" if event.reason else event.state
        print(*filter(None, (said, event.advice, self._saved)), sep="\n", file=self.stream, flush=True)


class Diary:
    """Writes down what happened when, a line each: phases as they first come, epochs, files.

    Hand it to a `Reporter` as its listener.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self._phases = {"starting"}
        self._steps = 0

    def __call__(self, event: Event) -> None:
        """Write a line, if the event is worth one."""
        for text in filter(None, (self._text(event),)):
            clock = time.strftime("%H:%M:%S", time.localtime(event.time))
            print(f"{clock}  {text}", file=self.stream, flush=True)

    def _text(self, event: Event) -> str:
        match event:
            case Started():
                self._steps = int(event.plan.get("steps", 0))
                return str(event.plan.get("sentence", ""))
            case Phase():
                fresh = event.name not in self._phases
                self._phases.add(event.name)
                return event.name if fresh else ""
            case EpochEnd():
                return f"epoch {event.epoch}: step {event.step} of {self._steps}, average loss {event.loss:.4f}"
            case Saved():
                return f"saved {Path(event.path).name} after step {event.step}"
            case Ended():
                return " ".join(filter(None, (f"{event.state}.", event.reason)))
        return ""


class Both:
    """Hands every event to several listeners."""

    def __init__(self, *listeners: Callable[[Event], None]) -> None:
        self.listeners = listeners

    def __call__(self, event: Event) -> None:
        """Pass an event on."""
        for listener in self.listeners:
            listener(event)


class Tee:
    """A text stream that also goes into a log, and steps aside for the progress bar."""

    def __init__(self, terminal: IO[str], log: IO[str]) -> None:
        self.terminal, self.log = terminal, log

    def write(self, text: str) -> int:
        """Write to both."""
        with tqdm.external_write_mode(file=self.terminal):
            self.terminal.write(text)
        self.log.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush both."""
        self.terminal.flush()
        self.log.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)
