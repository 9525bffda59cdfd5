"""What can run: each job is a class with a section of settings and a `run` method, found by name.

Job classes live beside the work they do (`trainer/captioners/*.py`, `trainer/tools/*.py`) and are found by themselves;
their modules import torch only inside functions, so listing them is cheap.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.declare import Problem, Section

if TYPE_CHECKING:
    from trainer.report import Reporter


class Job:
    """A group of settings that can run in a process of its own."""

    name: ClassVar[str] = ""
    """As on the command line: `python -m trainer NAME`."""
    label: ClassVar[str] = ""
    """As on the page's tab."""
    button: ClassVar[str] = "Start"
    place: ClassVar[str] = ""
    """The tab it belongs to, such as "Utilities > Captioning"; "" for jobs with a page of their own."""
    Settings: ClassVar[type[Section]]

    def check(self, settings: Any) -> Iterator[Problem]:
        """What would go wrong, found before starting. Cheap: no torch, nothing written."""
        return iter(())

    def notes(self, settings: Any) -> Iterator[Problem]:
        """What a person should know before starting, though it does not stop the run."""
        return iter(())

    def plan(self, settings: Any) -> Mapping[str, Any]:
        """What will happen, in numbers, for the page and the command line."""
        return {}

    def run(self, settings: Any, report: "Reporter") -> None:
        """Do the work; raise `trainer.report.Stopped` when a stop command was obeyed."""
        raise NotImplementedError


PACKAGES: tuple[str, ...] = ("trainer.captioners", "trainer.tools")


@cache
def jobs() -> dict[str, Job]:
    """Every job by name: training first, then whatever the packages hold."""
    from trainer.training import Training

    found: list[Job] = [Training()]
    for package in PACKAGES:
        root = importlib.import_module(package)
        for module in sorted(info.name for info in pkgutil.iter_modules(root.__path__, package + ".")):
            members = vars(importlib.import_module(module)).values()
            found += [kind() for kind in members if _is_job(kind, module)]
    return {job.name: job for job in found}


def _is_job(kind: object, module: str) -> bool:
    return isinstance(kind, type) and issubclass(kind, Job) and kind.__module__ == module and bool(kind.name)
