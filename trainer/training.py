"""Training as a job: its settings, its checks and its plan; the loop itself is `trainer.train`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.declare import Problem, Section
from trainer.jobs import Job
from trainer.settings import Settings

if TYPE_CHECKING:
    from trainer.report import Reporter


class Training(Job):
    """Train a LoRA."""

    name = "train"
    label = "LoRA"
    button = "Start training"
    Settings: ClassVar[type[Section]] = Settings

    def check(self, settings: Any) -> Iterator[Problem]:
        from trainer.checks import check

        return check(settings)

    def notes(self, settings: Any) -> Iterator[Problem]:
        from trainer.checks import notes

        return notes(settings)

    def plan(self, settings: Any) -> Mapping[str, Any]:
        from trainer.plan import summary

        return summary(settings)

    def run(self, settings: Any, report: "Reporter") -> None:
        from trainer.train import train

        train(settings, report)
