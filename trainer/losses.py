"""Losses on their way from the device to people: read back in batches, averaged, and watched for numbers gone wrong."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.events import Step
from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.data.dataset import Picture

READ_EVERY = 0.5
"""Seconds between two looks at the device. Each look waits for it; on the processor there is nothing to wait for."""


EXPLODED = 1000
"""A loss so many times the average before it, or a hundred where that is small, is not of this run any more: weights by
timestep make one loss at most some hundred times another."""


@dataclass(frozen=True)
class _Waiting:
    """A step whose loss may still be on the device: `loss` is the mean over its batches, a tensor of one number."""

    step: int
    epoch: int
    time: float
    loss: Tensor
    rates: Mapping[str, float]
    pictures: Sequence[Picture]


@dataclass
class Losses:
    """Collects losses without waiting for the device. `window`: steps of an epoch, over which the average is taken."""

    window: int
    device: torch.device
    last: list[float] = field(default_factory=list)
    """The losses of the last `window` steps, oldest first; what a resumed run is given to go on from."""

    def __post_init__(self) -> None:
        self.recent: deque[float] = deque(self.last, maxlen=max(1, self.window))
        self._waiting: list[_Waiting] = []
        self._looked = time.monotonic()

    def add(self, step: int, epoch: int, loss: Tensor, rates: Mapping[str, float], pictures: Sequence[Picture]) -> None:
        """Take note of a step; `loss` stays where it is."""
        self._waiting.append(_Waiting(step, epoch, time.time(), loss, rates, pictures))

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return self.device.type == "cpu" or time.monotonic() - self._looked >= READ_EVERY

    @property
    def average(self) -> float:
        """The mean over an epoch's worth of steps; NaN before the first."""
        return math.fsum(self.recent) / len(self.recent) if self.recent else math.nan

    def read(self) -> list[Step]:
        """Everything that waits, as events. Raises `Failure` that names the pictures when a loss is no number
        or has exploded."""
        waiting, self._waiting = self._waiting, []
        self._looked = time.monotonic()
        values = torch.stack([one.loss for one in waiting]).tolist() if waiting else []
        events = []
        for one, value in zip(waiting, values, strict=True):
            if not math.isfinite(value) or value > EXPLODED * max(self.average, 0.1):
                raise broken(one.step, value, one.pictures)
            self.recent.append(value)
            events.append(
                Step(
                    step=one.step, epoch=one.epoch, time=one.time, loss=value, average=self.average, lr=dict(one.rates)
                )
            )
        return events


def broken(step: int, value: float, pictures: Sequence[Picture]) -> Failure:
    """Why a run whose loss is NaN, infinite or far too large ends, and what can be done about it."""
    names = ", ".join(sorted({picture.path.name for picture in pictures})[:8])
    return Failure(
        f"The loss became {value:.4g} at step {step}, so nothing useful would be learnt from there on. "
        f"The step showed {names}.",
        f"{CALMER} If it happens with the same pictures again, take these out.",
    )


def spoilt(step: int) -> Failure:
    """Why a run whose weights are no numbers ends before it saves them."""
    return Failure(f"After step {step} the trained weights are no numbers any more (NaN or infinite).", CALMER)


CALMER = "Files saved before are good. Use a lower Learning rate; with Mixed precision fp16 try bf16 or no."
