"""Training states on disk: what a folder says of itself, and which ones there are. Loads no torch."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRESS = "train_state.json"
ENDING = "-state"
"""What the name of a state's folder ends with."""

MOST = 200
"""States that are looked for in one folder; a picker with more helps nobody."""


@dataclass(frozen=True)
class Found:
    """A state: steps and epochs that are done, when it was saved (seconds since 1970), and what it was trained with."""

    folder: Path
    step: int
    epoch: int
    saved: float
    optimizer: str
    model: str


def about(folder: Path) -> dict[str, Any] | None:
    """What a state says of itself; None for a folder that is no state."""
    try:
        said = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def look(folder: Path) -> Found | None:
    """The state in a folder; None when there is none, whatever the folder holds."""
    said = about(folder) or {}
    try:
        saved = (folder / PROGRESS).stat().st_mtime
        return Found(
            folder, int(said["current_step"]), int(said["current_epoch"]), saved,
            str(said["optimizer"]), str(said["base_model"]["name"]),
        )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError):
        return None


def newest(folders: Iterable[Path]) -> list[Found]:
    """The states that lie directly in these folders, each once, the one saved last first."""
    found: dict[Path, Found] = {}
    for folder in folders:
        try:
            inside = sorted(folder.glob(f"*{ENDING}"))[-MOST:]
            for path in inside:
                state = None if path.name.startswith(".") else look(path)
                if state is not None:
                    found.setdefault(path.resolve(), state)
        except OSError:
            continue
    return sorted(found.values(), key=lambda state: state.saved, reverse=True)
