"""Training states on disk: what a folder says of itself, and which ones there are. Loads no torch."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = "lora-loom"
FORMAT = 1
PROGRESS, MODEL, OPTIMIZER = "train_state.json", "model.safetensors", "optimizer.bin"
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


# Going on from one.


class Unfit(NamedTuple):
    """Why a state cannot be gone on from, and what can be done; `fix` are settings with which it could."""

    reason: str
    advice: str
    fix: Mapping[str, Any] | None = None
    fix_label: str = ""


def unusable(folder: Path, said: Mapping[str, Any] | None) -> Unfit | None:
    """What is wrong with a state in itself, `said` is what it says of itself."""
    if said is None or said.get("program") != PROGRAM:
        return Unfit(f"{folder} is not a training state of this program.", "Choose a folder whose name ends in -state.")
    if said.get("format") != FORMAT:
        return Unfit(f"{folder.name} was saved by another version of this program.", "Use that version, or start anew.")
    missing = [name for name in (MODEL, OPTIMIZER) if not (folder / name).is_file()]
    if missing:
        return Unfit(f"{folder.name} is incomplete: {missing[0]} is missing.", "Choose an earlier state.")
    return None


LABELS = {"type": "LoRA type", "dim": "Network Rank (Dimension)", "alpha": "Network Alpha", "modules": "layers"}
SETTINGS = {"type": "LoRA_type", "dim": "network_dim", "alpha": "network_alpha"}
OTHER_LAYERS = "Set the rates of U-Net and text encoder and what decides the layers as they were, or start anew."


def unfit(
    name: str, said: Mapping[str, Any], family: str | None, network: Mapping[str, Any], optimizer: str
) -> Iterator[Unfit]:
    """What of a state called `name` is not as it is here: family (None: not known yet), the parts of `network` that are
    known, the optimizer."""
    base, saved = said["base_model"], said["network"]
    if family is not None and base["family"] != family:
        yield Unfit(f"{name} was trained on a model of another family.", f"Choose {base['name']} as the model.")
    for key, label in LABELS.items():
        if key in network and saved[key] != network[key]:
            reason = f"{name} holds a LoRA with {label} {saved[key]}; it is {network[key]} here."
            if key == "modules":
                yield Unfit(reason, OTHER_LAYERS)
                continue
            fix = {SETTINGS[key]: saved[key]}
            yield Unfit(reason, f"Set {label} to {saved[key]}, or start anew.", fix, f"Use {saved[key]}")
    if said["optimizer"] != optimizer:
        yield Unfit(
            f"{name} was saved with the optimizer {said['optimizer']}; {optimizer} cannot go on from it.",
            f"Set Optimizer to {said['optimizer']}, or start anew with the file as LoRA network weights.",
            {"optimizer": said["optimizer"]},
            f"Use {said['optimizer']}",
        )


def finished(name: str, said: Mapping[str, Any], steps: int) -> Unfit | None:
    """Whether nothing is left to train of a run of so many steps."""
    step = int(said["current_step"])
    if step < steps:
        return None
    return Unfit(
        f"{name} was saved after step {step}, and this run has {steps} steps: nothing is left to train.",
        "Raise Epoch or Max train steps.",
    )
