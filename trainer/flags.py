"""The extra arguments of accelerate launch: each is a setting, is followed, or is a sentence why not."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trainer.declare import Problem, by_name, nearest, validate
from trainer.settings import Settings

KNOWN = by_name(Settings)
EXTRA = "extra_accelerate_launch_args"

WAIT = 600.0
"""Seconds until a machine that waits for the others gives up."""


@dataclass(frozen=True)
class Launch:
    """A run as it is to be started: the settings with the extra arguments in their place, and what has no setting."""

    settings: Settings
    wait: float = WAIT
    """Seconds to wait for the other machines."""
    on_the_processor: bool = False
    moved: frozenset[str] = frozenset()
    """The settings that the extra arguments decide."""
    problems: tuple[Problem, ...] = ()

    @property
    def local_size(self) -> int:
        """Processes on this machine."""
        return self.settings.num_processes // self.settings.num_machines


NUMBERS = ("num_processes", "num_machines", "machine_rank", "main_process_port", "num_cpu_threads_per_process")
TEXTS = ("main_process_ip", "gpu_ids", "mixed_precision", "dynamo_backend", "dynamo_mode")
TICKS = ("multi_gpu", "dynamo_use_fullgraph", "dynamo_use_dynamic")
OF_SETTINGS = tuple(name for name in (*NUMBERS, *TEXTS, *TICKS) if name in KNOWN)
"""Flags that are settings of the same name."""

AS_IT_IS = ("quiet", "same_network", "module", "m")
"""Flags that ask for what is done anyway."""
REFUSED = {
    "use_deepspeed": "splitting a model over devices is not offered: each process holds the whole model",
    "use_fsdp": "splitting a model over devices is not offered: each process holds the whole model",
    "use_megatron_lm": "splitting a model over devices is not offered: each process holds the whole model",
    "tpu": "TPUs are not supported",
    "config_file": "configuration files of accelerate are not read; write what it says into the fields here",
    "log_dir": "the log of the run holds what every process says",
    "tee": "the log of the run holds what every process says",
    "max_restarts": "a run that failed is not started again by itself; use Resume on the run",
}


def launch_of(s: Settings) -> Launch:
    """The run that settings with extra arguments ask for. What cannot be read is a problem and changes nothing."""
    if not s.extra_accelerate_launch_args.strip():
        return Launch(s)
    try:
        flags = read_flags(s.extra_accelerate_launch_args)
        launch = Launch(s, **_own(flags))
    except ValueError as error:
        return Launch(s, problems=(_problem(f"{error}."),))
    wanted = {name: value for name, value in flags.items() if name in OF_SETTINGS}
    settings, problems = validate(Settings, {**s.model_dump(), **wanted})
    complaints = tuple(_problem(f"--{problem.key}: {problem.message}") for problem in problems)
    if complaints:
        return replace(launch, problems=complaints)
    return replace(launch, settings=settings, moved=frozenset(wanted))


def read_flags(text: str) -> dict[str, str]:
    """{"num_processes": "2"} from "--num_processes 2"; raises `ValueError` with a sentence (without its end)."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"cannot be read: {str(error).lower()}") from None
    flags: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            raise ValueError(f"{word!r} belongs to no flag; write it like --num_processes 2")
        name, sign, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        takes_none = name in TICKS or name in AS_IT_IS or name == "cpu"
        if not sign and not takes_none and words and not words[0].startswith("--"):
            value = words.pop(0)
        if not takes_none and not value and name not in REFUSED:
            _known(name)
            raise ValueError(f"--{name} needs a value")
        flags[name] = value or "true"
    return flags


def _own(flags: Mapping[str, str]) -> dict[str, Any]:
    """What flags say that are no settings; raises `ValueError` for one that cannot be followed."""
    found: dict[str, Any] = {}
    for name, value in flags.items():
        if name == "cpu":
            found["on_the_processor"] = True
        elif name == "rdzv_conf":
            found["wait"] = _timeout(value)
        elif name == "rdzv_backend" and value not in ("static", "c10d"):
            raise ValueError(f"--rdzv_backend {value} is not offered; the machines meet through torch's own store")
        elif name in REFUSED and not (name == "max_restarts" and value == "0"):
            raise ValueError(f"--{name}: {REFUSED[name]}")
        else:
            _known(name)
    return found


def _known(name: str) -> None:
    known = (*OF_SETTINGS, *AS_IT_IS, *REFUSED, "cpu", "rdzv_conf", "rdzv_backend")
    if name not in known:
        raise ValueError(f"--{name} is not known here{nearest(name, known)}; take it out")


def _timeout(text: str) -> float:
    values = dict(part.partition("=")[::2] for part in text.split(","))
    match = re.fullmatch(r"\d+(\.\d+)?", values.get("timeout", ""))
    if set(values) != {"timeout"} or not match or not float(values["timeout"]):
        raise ValueError("--rdzv_conf takes timeout=SECONDS, such as --rdzv_conf timeout=600")
    return float(values["timeout"])


def at_home(problem: Problem, launch: Launch) -> Problem:
    """A problem with a setting that the extra arguments decide is one with these: changing the field would not help."""
    return _problem(f"--{problem.key}: {problem.message}") if problem.key in launch.moved else problem


def _problem(message: str) -> Problem:
    return Problem(EXTRA, KNOWN[EXTRA].label, message)
