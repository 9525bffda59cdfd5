"""How many processes train together, on which machines and devices: where each stands, and what cannot be.

Nothing here loads torch. The words are torch's and accelerate's: of `size` processes in all, over all machines, each
has a `rank`; rank 0 is the main one.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.declare import Problem, by_name
from trainer.flags import launch_of
from trainer.hardware import Hardware, hardware
from trainer.settings import Settings

KNOWN = by_name(Settings)

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


def take_device(s: Settings, place: Place | None, on_the_processor: bool = False) -> None:
    """Let this process see the one graphics card it may use. To be called before anything asks torch for devices.

    With a single card in sight no thread and no library can take memory of another one by mistake.
    """
    if on_the_processor:
        os.environ["ACCELERATE_USE_CPU"] = "true"
        return
    numbers = gpu_list(s)
    if place is None and not numbers:
        return
    local = 0 if place is None else place.local_rank
    for name in (
        "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in os.environ else "CUDA_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
    ):
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
    machine = Hardware() if launch_of(s).on_the_processor else hardware()
    if s.multi_gpu and s.num_processes < 2:
        fix: dict[str, Any] = {"num_processes": machine.count} if machine.count > 1 else {"multi_gpu": False}
        label = f"Use {machine.count} processes" if machine.count > 1 else "Untick it"
        yield _problem("multi_gpu", "needs two processes or more.", fix, label)
    try:
        numbers = gpu_list(s)
    except ValueError as error:
        yield _problem("gpu_ids", str(error), {"gpu_ids": ""}, "Empty it")
        return
    if machine.device == "cpu" and (numbers or s.multi_gpu):
        message = "this machine has no graphics card that can be used; processes train on its processor."
        off = {"gpu_ids": "", "multi_gpu": False}
        yield _problem("gpu_ids" if numbers else "multi_gpu", message, off, "Use the processor")
    elif machine.device == "mps" and s.num_processes > 1:
        message = "Macs cannot add up what several processes learnt; use 1."
        yield _problem("num_processes", message, {"num_processes": 1, "num_machines": 1}, "Use 1")
    elif machine.device not in ("", "cpu"):  # "": nobody knows yet
        yield from _cards(s, numbers, machine.count)


def _cards(s: Settings, numbers: list[int], count: int) -> Iterator[Problem]:
    """Is there a graphics card for every process of this machine?"""
    there = f"this machine has {_count(count, 'graphics card')}"
    missing = [number for number in numbers if number >= count]
    if missing:
        names = f"numbered {', '.join(map(str, range(count)))}" if count > 1 else "number 0"
        yield _problem("gpu_ids", f"there is no {missing[0]} here: {there}, {names}.", {"gpu_ids": ""}, "Empty it")
        return
    usable, local = len(numbers) or count, s.num_processes // s.num_machines
    if local > usable:
        why = f"GPU IDs names {usable}" if numbers else there
        message = f"each process needs a graphics card of its own, and {why}, not {local}."
        fewer = usable * s.num_machines
        yield _problem("num_processes", message, {"num_processes": fewer}, f"Use {fewer}")


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
        fewer = cores() * s.num_machines
        yield _problem("num_processes", message, {"num_processes": fewer}, f"Use {fewer}")
    if s.num_processes > 1 and (s.train_data_dir or s.dataset_config):
        yield from _idle(s)
    if s.num_processes == 1 and s.main_process_port:
        yield _problem("main_process_port", "one process alone needs no port.")
    if s.num_machines == 1 and s.main_process_ip.strip():
        yield _problem("main_process_ip", "has an effect only with several machines.")


def _idle(s: Settings) -> Iterator[Problem]:
    from trainer.data.dataset import scan
    from trainer.plan import make_plan

    batches = make_plan(s, scan(s)).batches_per_epoch
    if 0 < batches < s.num_processes:
        message = (
            f"an epoch has {_count(batches, 'batch', 'es')}, so {s.num_processes - batches} would have nothing to do."
        )
        yield _problem("num_processes", message, {"num_processes": batches}, f"Use {batches}")


def _count(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{ending if number != 1 else ''}"


def _problem(key: str, message: str, fix: Mapping[str, Any] | None = None, fix_label: str = "") -> Problem:
    return Problem(key, KNOWN[key].label, message, fix, fix_label)
