"""What still stands in the form from the demo, when it is used for something else. (no gradio)"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from trainer.declare import Problem, by_name
from trainer.demo.run import PRESET
from trainer.settings import Settings
from trainer.settings.kohya import load
from trainer.workspace import workspace

KNOWN = by_name(Settings)
MODEL, PICTURES, REGULARISATION = "pretrained_model_name_or_path", "train_data_dir", "reg_data_dir"
NAMED = ("learning_rate", "max_resolution")
"""Values of the demo that ruin another model's LoRA first."""
FEW = 3
"""So many values may be the demo's by chance."""


def left_of_the_demo(s: Settings) -> Iterator[Problem]:
    """Notes about fields that nobody filled in: the demo filled them, for its own model and pictures."""
    fix = _regularisation(s)
    if s.pretrained_model_name_or_path.strip() != "demo":
        same = {key: KNOWN[key].default for key, value in of_the_demo().items() if getattr(s, key) == value}
        if len(same) > FEW and all(key in same for key in NAMED):
            values = ", ".join(f"{KNOWN[key].label} {getattr(s, key)}" for key in NAMED)
            message = f"{len(same)} fields still hold what suits the demo's tiny model alone, such as {values}."
            yield Problem(MODEL, KNOWN[MODEL].label, message, {**same, **fix}, "Use the defaults")
    if fix:
        message = "these are the demo's coloured shapes, and the pictures are others."
        yield Problem(REGULARISATION, KNOWN[REGULARISATION].label, message, fix, "Use none")


@cache
def of_the_demo() -> dict[str, Any]:
    """What the demo's preset sets other than the defaults, without its model."""
    values = load(PRESET).values
    return {key: value for key, value in values.items() if key != MODEL and value != KNOWN[key].default}


def _regularisation(s: Settings) -> dict[str, Any]:
    """What empties the folder of regularisation pictures where it is the demo's, beside other pictures."""
    demo = (workspace().datasets / "demo").absolute()
    own = bool(s.train_data_dir.strip()) and not _inside(s.train_data_dir, demo)
    return {REGULARISATION: ""} if own and s.reg_data_dir.strip() and _inside(s.reg_data_dir, demo) else {}


def _inside(path: str, folder: Path) -> bool:
    return Path(path).expanduser().absolute().is_relative_to(folder)
