"""Training as a job: its settings, its checks and its plan; the loop itself is `trainer.train`."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.declare import Problem, Section
from trainer.flags import at_home, launch_of
from trainer.jobs import Job
from trainer.processes import here, take_device
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

        launch = launch_of(settings)
        yield from launch.problems
        yield from (at_home(problem, launch) for problem in check(launch.settings))

    def notes(self, settings: Any) -> Iterator[Problem]:
        from trainer.checks import notes

        launch = launch_of(settings)
        yield from (at_home(note, launch) for note in notes(launch.settings))

    def plan(self, settings: Any) -> Mapping[str, Any]:
        from trainer.plan import summary

        return summary(launch_of(settings).settings)

    def run(self, settings: Any, report: "Reporter") -> None:
        place, wanted = here(), launch_of(settings)
        if place is None and wanted.settings.num_processes > 1:
            from trainer.launcher import launch

            if token := wanted.settings.huggingface_token.strip():
                os.environ["HF_TOKEN"] = token  # their settings are a file, which holds no secret
            launch(self.name, wanted, report)
            return
        if place is not None:  # whoever started several processes decides how many
            wanted = replace(wanted, settings=wanted.settings.changed(num_processes=place.size))
        take_device(wanted.settings, place, wanted.on_the_processor)
        from trainer.train import train

        train(wanted.settings, report)
