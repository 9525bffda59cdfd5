"""DyLoRA (Valipour et al. 2023) as LyCORIS has it: each step trains the update cut off at a rank drawn anew."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.adapters.lycoris.locon import DOWN, UP
from trainer.adapters.lycoris.update import Plan, Shapes, Update, conv, uniform, zero

if TYPE_CHECKING:
    from trainer.settings import Settings


class DyLoRA(Update):
    """(alpha / r) B[:, :r] A[:r] while learning, of which only the last block of ranks learns; the whole otherwise.

    The file is that of a LoRA of the full rank, and any number of its leading blocks is a LoRA of its own.
    """

    suffixes = (UP, DOWN)
    needed = ((UP, DOWN),)
    plus = frozenset({UP})
    factors = 2

    def __init__(self, layer: Any, plan: Plan, s: "Settings", device: torch.device | str | None = None) -> None:
        super().__init__(layer, plan, s, device)
        self.unit = s.unit

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """B and A."""
        out, inner, *kernel = layer.weight.shape
        return {UP: (out, rank, *[1] * len(kernel)), DOWN: (rank, inner, *kernel)}

    @classmethod
    def rank_of(cls, shapes: Shapes, alpha: float, layer: Any) -> int:
        """A's outputs."""
        return shapes[DOWN][0]

    def start(self, generator: torch.Generator) -> None:
        """A kaiming uniform, B zero."""
        self.fill(generator, {UP: zero, DOWN: uniform})

    def _cut(self) -> tuple[Tensor, Tensor, float]:
        """B and A up to a rank, and what their product counts."""
        up: Tensor = self.tensor(UP)
        down: Tensor = self.tensor(DOWN)
        if not self.learning:
            return up, down, self.scale
        end = self.unit * int(torch.randint(1, self.plan.rank // self.unit + 1, ()))
        fixed = end - self.unit
        up = torch.cat([up[:, :fixed].detach(), up[:, fixed:end]], dim=1)
        down = torch.cat([down[:fixed].detach(), down[fixed:end]])
        return up, down, self.plan.alpha / end

    def diff(self, W: Tensor) -> Tensor:
        """(alpha / rank) B A, at its full rank."""
        return (self.tensor(UP).flatten(1) @ self.tensor(DOWN).flatten(1)).view(W.shape) * self.scale

    def shortcut(self, x: Tensor) -> Tensor:
        """B (A x), cut off while learning."""
        up, down, scale = self._cut()
        up, down = up.to(x.dtype), down.to(x.dtype)
        if isinstance(self.layer, nn.Conv2d):
            return F.conv2d(conv(self.layer, x, down), up) * scale
        return F.linear(F.linear(x, down), up) * scale
