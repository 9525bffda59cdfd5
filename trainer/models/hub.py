"""Fetching a model by its name on the hub: only the files that training needs."""

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.models.identify import KEY, WEIGHTS
from trainer.report import Failure
from trainer.workspace import workspace

if TYPE_CHECKING:
    from trainer.report import Reporter


def download(name: str, report: "Reporter") -> Path:
    """The local folder of the hub model `name`, fetched if it is not there yet.

    Raises `Failure` that says what to download and where to put it when there is no connection.
    """
    raise NotImplementedError(name, report, Path, KEY, WEIGHTS, Failure, workspace)
