"""DyLoRA (Valipour et al. 2023) as LyCORIS has it: each step trains the update cut off at a rank drawn anew."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.adapters.dylora import Rows
from trainer.adapters.lycoris.update import Plan, Shapes, Update, conv, uniform, zero

if TYPE_CHECKING:
    from trainer.settings import Settings

UP, DOWN = "lora_up.weight", "lora_down.weight"


class DyLoRA(Update):
    """(alpha / r) B[:, :r] A[:r] while learning, of which only the last block of ranks learns; the whole otherwise.

    The file is that of a LoRA of the full rank, and its first ranks, in any number of blocks, are a LoRA of their own.
    """

    suffixes = (UP, DOWN)
    needed = ((UP, DOWN),)
    factors = 2
    rests = True

    def __init__(self, layer: Any, plan: Plan, s: "Settings", device: torch.device | str | None = None) -> None:
        self.unit = s.unit
        super().__init__(layer, plan, s, device)

    def _make(self, place: torch.device | str) -> None:
        shapes = dict(self.plan.shapes)
        rank, *inner = shapes[DOWN]
        self.down = Rows(rank, tuple(inner), self.unit, torch.device(place))
        self.up = Rows(rank, (shapes[UP][0],), self.unit, torch.device(place))

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """B and A."""
        out, inner, *kernel = layer.weight.shape
        return {UP: (out, rank, *[1] * len(kernel)), DOWN: (rank, inner, *kernel)}

    @classmethod
    def rank_of(cls, shapes: Shapes, alpha: float, layer: Any) -> int:
        """A's outputs."""
        return shapes[DOWN][0]

    def tensor(self, ending: str) -> nn.Parameter:
        """The whole in the file's shape, sharing the values of the blocks that learn."""
        kernel = (None,) * (self.down.whole.ndim - 2)
        whole = self.down.whole if ending == DOWN else self.up.whole.mT[(..., *kernel)]
        return nn.Parameter(whole, requires_grad=False)

    def learns(self) -> dict[str, list[nn.Parameter]]:
        """Blocks of ranks: the optimizer leaves those alone that were not drawn."""
        return {UP: self.up.blocks, DOWN: self.down.blocks}

    def start(self, generator: torch.Generator) -> None:
        """A kaiming uniform, B zero."""
        self.fill(generator, {UP: zero, DOWN: uniform})

    def _cut(self) -> tuple[Tensor, Tensor, float]:
        """B, as rows, and A up to a rank, and what their product counts; all of it while pictures are drawn."""
        if not self.learning:
            return self.up.whole, self.down.whole, self.scale
        # Drawn on the processor: no wait for the device. Checkpointing replays the draw.
        block = int(torch.randint(len(self.up.blocks), ()))
        fixed = block * self.unit
        up, down = (torch.cat([rows.whole[:fixed], rows.blocks[block]]) for rows in (self.up, self.down))
        return up, down, self.plan.alpha / (fixed + self.unit)

    def diff(self, W: Tensor) -> Tensor:
        """(alpha / rank) B A, at its full rank."""
        return (self.up.whole.mT @ self.down.whole.flatten(1)).view(W.shape) * self.scale

    def shortcut(self, x: Tensor) -> Tensor:
        """B (A x), cut off while learning."""
        up, down, scale = self._cut()
        up, down = up.mT.to(x.dtype), down.to(x.dtype)
        if isinstance(self.layer, nn.Conv2d):
            return F.conv2d(conv(self.layer, x, down), up[..., None, None]) * scale
        return F.linear(F.linear(x, down), up) * scale
