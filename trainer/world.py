"""The processes that train together, as each of them sees the others: dividing batches, adding up what was learnt.

Every process holds the whole model and the same trained weights. The batches of a step are dealt out like cards; each
process works out the gradients of its own; these are added up over all processes (gloo on processors, NCCL and its
kind on graphics cards), and every process then takes the same step. So it is the step that one process would have taken
with all the batches as accumulation, to the last bits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.devices import is_out_of_memory
from trainer.processes import ALONE, Deserted, Place, here
from trainer.report import Failure

if TYPE_CHECKING:
    from torch import nn

BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}
"""How tensors of a kind of device are added up. (ROCm calls itself cuda and brings RCCL under NCCL's name.)"""

PATIENCE = timedelta(days=1)
"""How long a process waits while the main one draws, saves or is paused. One that died is noticed at once."""

BUNDLE = 1 << 24
"""Values that are added up in one go: small tensors travel together, or the number of messages would decide."""

COMMANDS = ("", "stop", "save", "sample", "pause", "resume")


class World:
    """One process's view of all. Alone, every method does nothing. To be left, or used in a `with`."""

    def __init__(self, place: Place = ALONE, device: torch.device | None = None) -> None:
        self.place = place
        self._gradients: dist.ProcessGroup | None = None
        if place.size > 1:
            with _others_may_be_gone():
                dist.init_process_group("gloo", timeout=PATIENCE)
            self._gradients = self._among(device or torch.device("cpu"))

    def _among(self, device: torch.device) -> dist.ProcessGroup | None:
        """The way between devices of this kind; `Failure` when the main process has another kind."""
        kind = self.read(device.type)
        if kind != device.type:
            reason = f"The main process has a device of the kind {kind}, {self.place} one of the kind {device.type}."
            advice = "Give each process a graphics card: see Number of processes and GPU IDs."
            raise Failure(reason, advice, "num_processes")
        if device.type == "cpu":
            return None
        with _others_may_be_gone():
            return dist.new_group(backend=BACKENDS[device.type])

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.place.size

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that reports, draws samples and saves."""
        return self.place.is_main

    def share(self, places: range) -> range:
        """Those of a row of places that are this process's."""
        return places[self.place.rank :: self.size]

    def add_up(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Put the sum over all processes in the place of `loss` and of every gradient.

        A parameter without a gradient counts as zero, unless no process has one: then it stays without.
        """
        if self.size == 1:
            return
        with _others_may_be_gone():
            there = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
            dist.all_reduce(there, dist.ReduceOp.MAX)
            tensors = [loss]
            for parameter, anywhere in zip(parameters, there.tolist(), strict=True):
                if anywhere and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                if anywhere and parameter.grad is not None:
                    tensors.append(parameter.grad)
            for some in _bundles(tensors):
                self._sum(some)

    def _sum(self, tensors: list[Tensor]) -> None:
        # A view of a single tensor that lies in one piece, else a copy.
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) if len(tensors) > 1 else tensors[0].reshape(-1)
        dist.all_reduce(flat, group=self._gradients)
        if flat.data_ptr() != tensors[0].data_ptr():
            for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(values.view_as(tensor))

    def agree(self, command: str | None) -> str | None:
        """What the main process was told to do; everybody asks at the same moment, and everybody hears the same."""
        if self.size == 1:
            return command
        return COMMANDS[self.hear(COMMANDS.index(command) if command in COMMANDS else 0)] or None

    def hear(self, number: int) -> int:
        """The main process's whole number."""
        if self.size == 1:
            return number
        with _others_may_be_gone():
            said = torch.tensor(number, dtype=torch.int64)
            dist.broadcast(said, 0)
        return int(said)

    def read(self, text: str) -> str:
        """The main process's text."""
        if self.size == 1:
            return text
        data = text.encode()
        size = self.hear(len(data))
        with _others_may_be_gone():
            page = torch.tensor(list(data) if self.is_main else [0] * size, dtype=torch.uint8)
            dist.broadcast(page, 0)
        return bytes(page.tolist()).decode()

    def wait(self) -> None:
        """Until everybody is here."""
        if self.size > 1:
            with _others_may_be_gone():
                dist.barrier()

    def leave(self) -> None:
        """No more words from here."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


def join(device: torch.device) -> World:
    """Meet the others this process was started with, if any. Collective: everybody comes, or nobody goes on."""
    if sys.platform == "win32":
        os.environ.setdefault("USE_LIBUV", "0")  # builds for Windows may lack it
    return World(here() or ALONE, device)


def _bundles(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type together, as many as are worth it."""
    bundle: list[Tensor] = []
    for tensor in tensors:
        full = bundle and (
            tensor.dtype != bundle[0].dtype or sum(one.numel() for one in bundle) + tensor.numel() > BUNDLE
        )
        if full:
            yield bundle
            bundle = []
        bundle.append(tensor)
    if bundle:
        yield bundle


@contextmanager
def _others_may_be_gone() -> Iterator[None]:
    """What torch says when another process died becomes `Deserted`."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise Deserted(str(error).splitlines()[0]) from error
