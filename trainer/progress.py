"""A progress bar on the terminal for runs that are started without the page."""

import sys
from typing import IO, Any

from tqdm import tqdm

from trainer.events import Ended, Event, Phase, Saved, Started, Step


class Bar:
    """Draws a run's events as one bar a phase, on stderr; hand it to a `Reporter` as its listener."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self._bar: tqdm[Any] | None = None
        self._phase = ""
        self._steps = 0
        self._first = 0
        self._saved: list[str] = []

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Started):
            self._steps, self._first = int(event.plan.get("steps", 0)), event.resumed_from_step
        elif isinstance(event, Phase):
            self._turn(event)
        elif isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Saved) and event.what == "weights":
            self._saved.append(event.path)
        elif isinstance(event, Ended):
            self._close()
            self._say(event)

    def _turn(self, event: Phase) -> None:
        if event.name != self._phase or self._bar is None:
            self._close()
            self._phase = event.name
            counts_steps = event.name == "training" and self._steps
            total = self._steps if counts_steps else event.total
            first = self._first if counts_steps else event.done
            self._bar = tqdm(
                total=total or None,
                initial=first,
                desc=event.name,
                unit="step" if counts_steps else "",
                file=self.stream,
                dynamic_ncols=True,
                mininterval=0.2 if self.stream.isatty() else 10.0,
            )
        elif self._phase != "training" or not self._steps:
            self._bar.total = event.total or None
            self._bar.update(event.done - self._bar.n)

    def _step(self, event: Step) -> None:
        self._first = event.step
        if self._phase != "training" or self._bar is None:
            self._turn(Phase(name="training"))
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{event.average:.4f}", epoch=event.epoch, refresh=False)
            self._bar.update(event.step - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, event: Ended) -> None:
        lines = [f"{event.state}{': ' + event.reason if event.reason else ''}", event.advice]
        lines += self._saved[-1:]
        print(*filter(None, lines), sep="\n", file=self.stream, flush=True)


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
