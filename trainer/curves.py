"""The run's curves under the names people know from Kohya's trainer, for every tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from trainer.events import Event, Sample, Step

if TYPE_CHECKING:
    from trainer.report import Reporter
    from trainer.settings import Settings
    from trainer.trackers import Aside, Tracker


def log_folder(s: Settings, report: Reporter) -> Path:
    """Where the logs go: a folder of the run's name in the Logging folder, or `logs` in the run folder.

    "Log prefix" stands before that name, "Log tracker name" is a folder within.
    """
    folder = report.folder / "logs"
    if s.logging_dir:
        folder = Path(s.logging_dir).expanduser() / f"{s.log_prefix}{report.folder.name}"
    return folder / s.log_tracker_name.strip()


class Curves:
    """loss/current, loss/average, loss/epoch, lr/… for each part that is trained, and the sample pictures."""

    def __init__(
        self, s: Settings, report: Reporter, text: Mapping[str, str], first_step: int = 0, writes: bool = True
    ) -> None:
        """`text` is shown beside the curves; a resumed run replaces what was logged from `first_step` on. Of several
        processes one `writes`."""
        self._trackers: list[Aside] = []
        self._report = report
        if not writes:
            return
        from trainer.trackers import trackers

        self._trackers = trackers(s, log_folder(s, report), first_step, report)
        for name, value in text.items():
            self._all("text", name, value)
        if s.log_config:
            self._all("settings", s.public())
        report.also(self.hear)

    def step(self, event: Step) -> None:
        """The curves of one step."""
        rates = {f"lr/{name}": rate for name, rate in event.lr.items()}
        values = {"loss/current": event.loss, "loss/average": event.average, **rates}
        self._all("numbers", values, event.step, event.time)

    def epoch(self, epoch: int, loss: float) -> None:
        """The mean loss of an epoch."""
        self._all("numbers", {"loss/epoch": loss}, epoch)

    def hear(self, event: Event) -> None:
        """Log sample pictures as they are made."""
        if isinstance(event, Sample):
            path = self._report.folder / event.path
            self._all("picture", f"sample_{event.index}", path, event.prompt, event.step)

    def _all(self, method: str, *values: Any) -> None:
        def deed(tracker: Tracker) -> None:
            getattr(tracker, method)(*values)

        for tracker in self._trackers:
            tracker(deed)

    def close(self) -> None:
        """Write out everything."""
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
