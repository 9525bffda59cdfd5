"""DyLoRA (Valipour et al. 2023) as Kohya's scripts have it: a LoRA of which each pass trains a few ranks drawn anew.

All ranks take part in the pass, as y = W x + (alpha / rank) sqrt(rank / (r + unit)) B A x, but only the ranks r to
r + unit learn from it: r is a multiple of unit, drawn for each layer. (In the paper the ranks above are left out.) The
file is an ordinary LoRA, and so is the adapter while pictures are drawn.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.adapters.lora import DOWN, UP, LowRank
from trainer.adapters.start import Size, label
from trainer.adapters.walk import Target
from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.settings import Settings


class Rows:
    """A matrix of which `unit` rows at a time learn: each such block is a parameter, a window of the whole.

    A block that was not drawn has no gradient, so that the optimizer leaves it alone: neither momentum nor weight decay
    moves it, and its count of steps stands still. This is what the reference's lists of rows do.
    """

    def __init__(self, rows: int, shape: tuple[int, ...], unit: int, device: torch.device) -> None:
        self.unit = unit
        self._whole = torch.zeros(rows, *shape, device=device)
        self.blocks = [nn.Parameter(window, requires_grad=False) for window in self._whole.split(unit)]

    @property
    def whole(self) -> Tensor:
        """All rows; put together anew after the blocks were given another number format or another device."""
        if self.blocks[0].data_ptr() != self._whole.data_ptr():
            self._whole = torch.cat([block.data for block in self.blocks])
            for block, window in zip(self.blocks, self._whole.split(self.unit), strict=True):
                block.data = window
        return self._whole

    def learning(self, block: int) -> Tensor:
        """The whole, with gradients for one block alone."""
        start, whole = block * self.unit, self.whole
        return torch.cat([whole[:start], self.blocks[block], whole[start + self.unit :]])


class DyLoRA(LowRank):
    """Low-rank updates whose ranks are trained a few at a time."""

    rows: dict[str, tuple[Rows, Rows]]
    """A of each layer, and B with its columns as rows."""

    def _put_on(self, root: nn.Module, sizes: Mapping[Target, Size], settings: "Settings") -> None:
        self.unit = settings.unit
        self.rows = getattr(self, "rows", {})
        for target, size in sizes.items():
            if size.rank % self.unit:
                raise _indivisible(target, size.rank, self.unit)
            out, *inner = target.layer.weight.shape
            down, up = (
                Rows(size.rank, tuple(shape), self.unit, target.layer.weight.device) for shape in (inner, [out])
            )
            self.rows[target.name] = down, up
            target.layer.register_forward_hook(partial(self._add, target.name))

    def _add(self, name: str, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        """The layer's output with the update's."""
        (x,), (down, up), size = args, self.rows[name], self.sizes[name]
        A, B, scale = down.whole, up.whole, size.alpha / size.rank
        if self.training and torch.is_grad_enabled():
            # Drawn on the processor: no wait for the device. Checkpointing replays the draw.
            block = int(torch.randint(size.rank // self.unit, ()))
            A, B = down.learning(block), up.learning(block)
            scale *= math.sqrt(size.rank / ((block + 1) * self.unit))
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(A.dtype)
        if isinstance(layer, nn.Conv2d):
            inner = F.conv2d(x, A, None, layer.stride, layer.padding, layer.dilation)
            update = F.conv2d(inner, B.mT[..., None, None])
        else:
            update = F.linear(F.linear(x, A), B.mT)
        return output + (update * scale).to(output.dtype)

    @property
    def rests(self) -> bool:
        """Most ranks do, in each step."""
        return True

    def learns(self, name: str) -> dict[str, list[nn.Parameter]]:
        """A and B in blocks of ranks."""
        down, up = self.rows[name]
        return {DOWN: down.blocks, UP: up.blocks}

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """A and B in the file's shapes, sharing the values of those that learn."""
        down, up = self.rows[name]
        kernel = (None,) * (down.whole.ndim - 2)
        whole = {DOWN: down.whole, UP: up.whole.mT[(..., *kernel)]}
        return {ending: nn.Parameter(tensor, requires_grad=False) for ending, tensor in whole.items()}

    def _add_dropouts(self, settings: "Settings") -> None:
        """It has none: in each pass most ranks rest anyway."""


def _indivisible(target: Target, rank: int, unit: int) -> Failure:
    key: Any = "conv_dim" if target.is_spatial else "network_dim"
    return Failure(
        f"{label('unit')}: {unit} does not divide the rank {rank} of {target.name}.",
        f"Set it to a divisor of {label(key)}, such as 1.",
        key="unit",
    )
