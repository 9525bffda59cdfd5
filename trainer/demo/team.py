"""Training on two cores: a few one-thread processes that learn on different data and average their weights.

Averaging every few steps ("local SGD", Stich 2019) instead of every gradient keeps a busy machine from stalling both
processes at once. The learning rate follows the clock, so a run ends when it was told to, however slow the machine is.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed


@dataclass
class Clock:
    """How much of the allotted time is used; `seconds` survives in checkpoints, waiting between runs does not count."""

    minutes: float
    seconds: float = 0.0
    last: float | None = None

    def tick(self) -> float:
        """Count the time since the last tick and return the used fraction, 0 to 1."""
        now = time.monotonic()
        self.seconds += now - (self.last if self.last is not None else now)
        self.last = now
        return min(1.0, self.seconds / (60 * self.minutes))


@dataclass(frozen=True)
class Team:
    """One of `size` processes that train the same model."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the mean of all processes' tensors, in place."""
        tensors = list(tensors)
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        with torch.no_grad():
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def agree(self, value: float) -> float:
        """The first process's value, in every process."""
        shared = torch.tensor([value], dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return shared.item()


def work_together(job: Callable[..., None], size: int, *arguments: object) -> None:
    """Run `job(team, *arguments)` in `size` processes and wait for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        torch.multiprocessing.spawn(_join, (size, meeting, job, arguments), nprocs=size)


def _join(rank: int, size: int, meeting: str, job: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    job(Team(rank, size), *arguments)
    distributed.destroy_process_group()


def learning_rate(peak: float, fraction: float, warmup: float = 0.01) -> float:
    """Linear warm-up, then half a cosine down to nothing; `fraction` is the part of the training that is over."""
    if fraction < warmup:
        return peak * max(0.02, fraction / warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))


def save(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint to a temporary file and rename it."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)
