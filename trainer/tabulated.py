"""Scheduler classes of PyTorch and other packages, by name or dotted path, as a table of what they set at each step.

Such a class changes an optimizer as it goes along. It is let loose once, before the run, on a stand-in for the real
optimizer; what it did there stands in a table. So a rate is still a function of the step, and a resumed run goes on
exactly. A class that listens to the loss cannot be asked beforehand and is refused.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer import sources
from trainer.arguments import parse_arguments
from trainer.declare import closest, nearest
from trainer.schedules import OF_PYTORCH

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from trainer.settings import Settings

BASE = OF_PYTORCH + "LRScheduler"
FOR_THE_RUN = ("T_max", "total_steps")
"""Arguments that mean how long the run is; it is known, so they may be left out."""
HIGHEST = "max_lr"
"""The argument that means the rates of the settings; it may be left out too."""
NO_TEXT = {"lr_lambda": "a function", "schedulers": "a list of schedulers"}
ITS_OWN = ("optimizer", "last_epoch", "verbose")
SET = ("lr", "momentum", "betas")
"""What schedulers change of an optimizer."""


class Unusable(ValueError):
    """Why a scheduler class cannot be used, as a sentence; `instead` is one that can, or ""."""

    def __init__(self, sentence: str, instead: str = "") -> None:
        super().__init__(sentence)
        self.instead = instead


def path_of(name: str) -> str:
    """The dotted path of a scheduler class; a bare name is one of torch.optim.lr_scheduler."""
    return name.strip() if "." in name else OF_PYTORCH + name.strip()


def complaint(name: str) -> Unusable | None:
    """Why a scheduler class cannot be used, if so; nothing is imported."""
    path = path_of(name)
    try:
        source = sources.find(path)
    except sources.Missing as error:
        return _missing(name, path, error)
    except sources.NoClass:
        return Unusable(f"{name} is not a class.")
    except sources.Unclear:  # only importing it will tell
        return None
    if sources.is_a(source, BASE) is False or source.path == BASE:
        return Unusable(f"{name} is not a scheduler (a class made of {BASE}).")
    step, takes = sources.method(source, "step"), _takes(path)
    if step is not None and sources.call(step).required:
        return Unusable(f"{name} follows the loss; here the rate follows from the step alone, so that a run can go on.")
    for word in takes.required if takes else ():
        if word in NO_TEXT:
            return Unusable(f"{name} needs {word}, {NO_TEXT[word]}, which cannot be written as text.")
    return None


def _missing(name: str, path: str, error: sources.Missing) -> Unusable:
    package = path.partition(".")[0]
    if error.package:
        return Unusable(
            f"{name} needs the package {package}, which is not installed here; "
            f"install it with: pip install {package.replace('_', '-')}"
        )
    word = path.rpartition(".")[2]
    known = sources.classes(error.module, BASE) if error.module == path.rpartition(".")[0] else ()
    close, question = closest(word, known), nearest(word, known) or "."
    if "." in name.strip():
        return Unusable(f"{error.module} has no class {word}{question}", f"{error.module}.{close}" if close else "")
    return Unusable(f"PyTorch has no scheduler {name}{question}", close)


def _takes(path: str) -> sources.Call | None:
    try:
        made = sources.method(sources.find(path), "__init__")
    except LookupError:
        return None
    return sources.call(made) if made else None


def wrong_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    """A sentence about arguments that the class does not take, or needs and has not; "" when all is well."""
    takes = _takes(path_of(name))
    if takes is None or takes.takes_more:
        return ""
    known = [word for word in takes.names if word not in ITS_OWN]
    wrong = [word for word in arguments if word not in known]
    if wrong:
        question = nearest(wrong[0], known) or "."
        return f"{name} has no argument {wrong[0]!r}; it takes {', '.join(known) or 'none'}{question}"
    given = {*arguments, *ITS_OWN, *FOR_THE_RUN, HIGHEST}
    needed = [word for word in takes.required if word not in given]
    return f"{name} needs {' and '.join(needed)}; write {needed[0]}=… here." if needed else ""


class Tabulated:
    """What a scheduler class sets, for every group of the optimizer and every step of a run."""

    def __init__(self, s: Settings, optimizer: Optimizer, steps: int) -> None:
        """Let the class of "LR Scheduler type" run; raises `Unusable`, or `ValueError` about its arguments."""
        self._table: dict[str, dict[str, list[Any]]] = {
            group["name"]: {key: [] for key in SET if key in group} for group in optimizer.param_groups
        }
        name = s.lr_scheduler_type.strip()
        kind = load(name)
        dummy = _stand_in(optimizer)
        options = _completed(path_of(name), parse_arguments(s.lr_scheduler_args), dummy, steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                scheduler = kind(dummy, **options)
                for step in range(steps):
                    self._note(dummy)
                    dummy.step()
                    if step + 1 < steps:
                        scheduler.step()
            except Exception as error:  # whatever a class of any package raises
                raise ValueError(f"{name} does not accept {s.lr_scheduler_args or 'no arguments'}: {error}") from error

    def _note(self, dummy: Optimizer) -> None:
        for group in dummy.param_groups:
            if not (math.isfinite(group["lr"]) and group["lr"] >= 0):
                raise ValueError(f"the rate becomes {group['lr']:g}")
            for key, values in self._table[group["name"]].items():
                values.append(float(group[key]) if key == "lr" else group[key])

    def set(self, optimizer: Optimizer, step: int) -> None:
        """Give every group what the class set after `step` steps; groups that rest may be gone by then."""
        for group in optimizer.param_groups:
            group.update({key: values[step] for key, values in self._table[group["name"]].items()})


def load(name: str) -> Any:
    """Import a scheduler class; raises `Unusable`."""
    from torch.optim.lr_scheduler import LRScheduler

    known = complaint(name)
    if known is not None:
        raise known
    module, _, class_name = path_of(name).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), class_name)
    except Exception as error:  # a package that is broken, or built for another machine
        raise Unusable(f"{name} cannot be loaded here ({error}).") from error
    if not (isinstance(kind, type) and issubclass(kind, LRScheduler)):
        raise Unusable(f"{name} is not a scheduler (a class made of {BASE}).")
    return kind


def _stand_in(optimizer: Optimizer) -> Optimizer:
    """An optimizer of the same groups and options, each over one number, whose steps do nothing."""
    import torch

    class StandIn(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> Any:
            """Nothing."""

    groups = [
        {**{key: group[key] for key in ("name", *SET) if key in group}, "params": [torch.zeros(1)], "lr": group["rate"]}
        for group in optimizer.param_groups
    ]
    return StandIn(groups, {key: value for key, value in optimizer.defaults.items() if key in SET})


def _completed(path: str, arguments: dict[str, Any], dummy: Optimizer, steps: int) -> dict[str, Any]:
    """The arguments, with the length of the run and the rates of the settings where they were left out."""
    takes = _takes(path)
    names = takes.names if takes else ()
    missing = {name: steps for name in FOR_THE_RUN if name in names and not {name, "epochs"} & arguments.keys()}
    if HIGHEST in names and HIGHEST not in arguments:
        missing[HIGHEST] = [group["lr"] for group in dummy.param_groups]  # type: ignore[assignment]
    return {
        **missing,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()},
    }
