"""The run's curves in TensorBoard's format, under the names people know from Kohya's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trainer.events import Step

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from trainer.report import Reporter
    from trainer.settings import Settings


def log_folder(s: Settings, report: Reporter) -> Path:
    """Where the logs go: a folder of the run's name in the Logging directory, or `logs` in the run folder."""
    return Path(s.logging_dir).expanduser() / report.folder.name if s.logging_dir else report.folder / "logs"


class Curves:
    """loss/current, loss/average, loss/epoch, and lr/… for each part that is trained."""

    def __init__(self, folder: Path | None, text: Mapping[str, str], first_step: int = 0) -> None:
        """`text` is shown beside the curves; a resumed run replaces what was logged from `first_step` on. Without a
        folder nothing is written."""
        self._writer: SummaryWriter | None = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)
        for name, value in text.items():
            self._writer.add_text(name, value)

    def step(self, event: Step) -> None:
        """The curves of one step."""
        self._add("loss/current", event.loss, event.step, event.time)
        self._add("loss/average", event.average, event.step, event.time)
        for name, rate in event.lr.items():
            self._add(f"lr/{name}", rate, event.step, event.time)

    def epoch(self, epoch: int, loss: float) -> None:
        """The mean loss of an epoch."""
        self._add("loss/epoch", loss, epoch)

    def _add(self, name: str, value: float, step: int, time: float | None = None) -> None:
        if self._writer is not None:
            self._writer.add_scalar(name, value, step, walltime=time)

    def close(self) -> None:
        """Write out everything."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
