"""How many processes train together, on which machines and devices: what the settings ask for, and what is wrong with it.

Nothing here loads torch. The words are torch's and accelerate's: of `size` processes in all each has a `rank`; the first
process of all is rank 0, the main one.
"""

import os
import re
import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trainer.declare import Problem, by_name, nearest, validate
from trainer.hardware import hardware
from trainer.settings import Settings

KNOWN = by_name(Settings)
EXTRA = "extra_accelerate_launch_args"

WAIT = 600.0
"""Seconds until a machine that waits for the others gives up."""
PORT = 29500
"""The usual port, offered where one must be chosen."""


# Where a process stands.


@dataclass(frozen=True)
class Place:
    """Which of several processes this one is: `rank` of `size` in all, `local_rank` of `local_size` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports, draws samples and saves."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank + 1} of {self.size}"


class Deserted(BaseException):
    """Another process is gone, and this one cannot go on. What happened is told by that one, or by who started us."""


GONE = 4
"""The exit code of a process that was deserted: never the cause."""
LAUNCHER = "LOOM_LAUNCHER"
"""Names the launcher's process id to the processes it starts."""

ALONE = Place()
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""What torchrun, and our launcher, tell each process in its environment."""


def here(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place this process was started for; None when it was started by itself."""
    values = [environment.get(name, "") for name in NAMES]
    return Place(*map(int, values)) if all(value.isdigit() for value in values) else None


# The extra arguments.


@dataclass(frozen=True)
class Launch:
    """A run as it is to be started: the settings with the extra arguments in their place, and what has no setting."""

    settings: Settings
    wait: float = WAIT
    """Seconds to wait for the other machines."""
    on_the_processor: bool = False
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
        return Launch(s, problems=(_problem(EXTRA, f"{error}."),))
    wanted = {name: value for name, value in flags.items() if name in OF_SETTINGS}
    settings, problems = validate(Settings, {**s.model_dump(), **wanted})
    complaints = tuple(_problem(EXTRA, f"--{problem.key}: {problem.message}") for problem in problems)
    return replace(launch, settings=s if complaints else settings, problems=complaints)


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


# Devices.


def gpu_list(s: Settings) -> list[int]:
    """The numbers in GPU IDs; empty when none is named. Raises `ValueError` with a sentence."""
    text = s.gpu_ids.strip()
    if text.lower() in ("", "all"):
        return []
    words = [word for word in re.split(r"[\s,;]+", text.strip("[]()")) if word]
    if not words or not all(word.isdigit() for word in words):
        raise ValueError(f"{text!r} is no list of numbers; write it like 0,1.")
    numbers = [int(word) for word in words]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{text} names a graphics card twice.")
    return numbers


def take_device(launch: Launch, place: Place | None) -> None:
    """Let this process see the one graphics card it may use. To be called before anything asks torch for devices.

    With a single card in sight no thread and no library can take memory of another one by mistake.
    """
    if launch.on_the_processor:
        os.environ["ACCELERATE_USE_CPU"] = "true"
        return
    numbers = gpu_list(launch.settings)
    if place is None and not numbers:
        return
    local = 0 if place is None else place.local_rank
    for name in ("HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in os.environ else "CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        seen = [word for word in os.environ.get(name, "").split(",") if word]
        number = numbers[local] if local < len(numbers) else local
        os.environ[name] = seen[number] if number < len(seen) else str(number)


# What would go wrong.


def problems(s: Settings) -> Iterator[Problem]:
    """Every reason why these processes could not train together on this machine."""
    yield from _machines(s)
    yield from _devices(s)
    yield from _meeting(s)


def _machines(s: Settings) -> Iterator[Problem]:
    if s.num_machines > s.num_processes:
        message = f"counts those of all machines, and each of the {s.num_machines} needs one at least."
        yield _problem("num_processes", message, {"num_processes": s.num_machines}, f"Use {s.num_machines}")
    elif s.num_processes % s.num_machines:
        more = -(-s.num_processes // s.num_machines) * s.num_machines
        message = f"{s.num_processes} cannot be divided evenly among {s.num_machines} machines."
        yield _problem("num_processes", message, {"num_processes": more}, f"Use {more}")
    if s.machine_rank >= s.num_machines:
        those = "the only one is 0" if s.num_machines == 1 else f"they go from 0 to {s.num_machines - 1}"
        message = f"{s.machine_rank} is not one of {s.num_machines} machine{'s' * (s.num_machines > 1)}; {those}."
        yield _problem("machine_rank", message, {"machine_rank": 0}, "Use 0")
    if s.num_machines > 1 and not s.main_process_ip.strip():
        yield _problem("main_process_ip", "with several machines, give the address of the one with Machine rank 0.")
    if s.num_machines > 1 and not s.main_process_port:
        message = "several machines must agree on a port; any free one, such as 29500."
        yield _problem("main_process_port", message, {"main_process_port": PORT}, f"Use {PORT}")


def _devices(s: Settings) -> Iterator[Problem]:
    machine, local = hardware(), max(1, s.num_processes // s.num_machines)
    if s.multi_gpu and s.num_processes < 2:
        fix = {"num_processes": machine.count} if machine.count > 1 else {"multi_gpu": False}
        yield _problem("multi_gpu", "needs two processes or more.", fix, f"Use {machine.count}" if machine.count > 1 else "Untick it")
    try:
        numbers = gpu_list(s)
    except ValueError as error:
        yield _problem("gpu_ids", str(error), {"gpu_ids": ""}, "Empty it")
        return
    if not machine.device:  # nobody knows yet
        return
    if machine.device == "cpu":
        if numbers or s.multi_gpu:
            key, value = ("gpu_ids", "") if numbers else ("multi_gpu", False)
            message = "this machine has no graphics card that can be used; processes train on its processor."
            yield _problem(key, message, {"gpu_ids": "", "multi_gpu": False}, "Use the processor")
        return
    if machine.device == "mps" and s.num_processes > 1:
        yield _problem("num_processes", "Macs cannot add up what several of them learnt; use 1.", {"num_processes": 1, "num_machines": 1}, "Use 1")
        return
    there = f"this machine has {machine.count} graphics card{'s' * (machine.count != 1)}"
    missing = [number for number in numbers if number >= machine.count]
    if missing:
        count = f"numbered {', '.join(map(str, range(machine.count)))}" if machine.count > 1 else "its number is 0"
        yield _problem("gpu_ids", f"there is no {missing[0]} here: {there}, {count}.", {"gpu_ids": ""}, "Use the first")
    usable = len(numbers) or machine.count
    if local > usable and not missing:
        why = f"GPU IDs names {usable}" if numbers else there
        message = f"each process needs a graphics card of its own, and {why}, not {local}."
        yield _problem("num_processes", message, {"num_processes": usable * s.num_machines}, f"Use {usable * s.num_machines}")


def _meeting(s: Settings) -> Iterator[Problem]:
    if s.num_processes > 1 and s.machine_rank == 0 and s.main_process_port and not is_free(s.main_process_port):
        message = f"{s.main_process_port} is in use on this machine, perhaps by another training."
        fix = None if s.num_machines > 1 else {"main_process_port": 0}
        yield _problem("main_process_port", f"{message} Choose another one.", fix, "Use any free one" if fix else "")


def is_free(port: int, host: str = "") -> bool:
    """Whether a port of this machine can be listened on; with a `host`, on that address of it."""
    try:
        with socket.socket() as probe:
            if os.name == "posix":  # elsewhere it would allow what is taken
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError:
        return False
    return True


def remarks(s: Settings) -> Iterator[Problem]:
    """What does not stop several processes but may surprise."""
    from trainer.execution import cores

    local = s.num_processes // s.num_machines
    if s.num_processes > 1 and hardware().device == "cpu" and local > cores():
        message = f"{local} on {_count(cores(), 'processor core')} only get into each other's way."
        yield _problem("num_processes", message, {"num_processes": max(1, cores()) * s.num_machines}, f"Use {max(1, cores())} a machine")
    if s.num_processes == 1 and s.main_process_port:
        yield _problem("main_process_port", "one process alone needs no port.")
    if s.num_machines == 1 and s.main_process_ip.strip():
        yield _problem("main_process_ip", "has an effect only with several machines.")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _problem(key: str, message: str, fix: Mapping[str, Any] | None = None, fix_label: str = "") -> Problem:
    return Problem(key, KNOWN[key].label, message, fix, fix_label)
