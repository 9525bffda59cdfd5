"""Where the program keeps what it makes: runs, the queue, presets, models, caches. Nothing else knows these names."""

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LOOM_WORKSPACE"
"""The environment variable that names another workspace; `--workspace` sets it."""

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Workspace(os.PathLike[str]):
    """The folders of one workspace. Naming a folder does not make it; whoever writes into it does."""

    root: Path

    def __fspath__(self) -> str:
        return str(self.root)

    def __str__(self) -> str:
        return str(self.root)

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    @property
    def runs(self) -> Path:
        """A folder for each run."""
        return self.root / "runs"

    @property
    def queue(self) -> Path:
        """A small file for each run that waits."""
        return self.root / "queue"

    @property
    def presets(self) -> Path:
        """The user's own presets."""
        return self.root / "presets"

    @property
    def models(self) -> Path:
        """Base models, captioners and earlier LoRAs of the user."""
        return self.root / "models"

    @property
    def datasets(self) -> Path:
        """Pictures that were uploaded or prepared here."""
        return self.root / "datasets"

    @property
    def output(self) -> Path:
        """Finished LoRAs of the demo."""
        return self.root / "output"

    @property
    def latents(self) -> Path:
        """Encoded pictures that outlive a run."""
        return self.root / "cache" / "latents"

    @property
    def captions(self) -> Path:
        """What text encoders made of captions, for later runs."""
        return self.root / "cache" / "captions"

    @property
    def thumbnails(self) -> Path:
        """Small pictures for the page."""
        return self.root / "cache" / "thumbnails"

    @property
    def drafts(self) -> Path:
        """What was typed on the page and not yet used."""
        return self.root / "drafts"

    @property
    def downloads(self) -> Path:
        """Files the page offers for download."""
        return self.root / "downloads"

    @property
    def trash(self) -> Path:
        """Deleted runs, for a while."""
        return self.root / "trash"


def workspace() -> Workspace:
    """The workspace named by LOOM_WORKSPACE, else the folder `workspace` of the project; always absolute."""
    named = os.environ.get(VARIABLE, "").strip()
    return Workspace(Path(named).expanduser().absolute() if named else PROJECT / "workspace")
