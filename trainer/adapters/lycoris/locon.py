"""LoRA and LoCon as LyCORIS has them: delta = (alpha / rank) B A, with a Tucker core and DoRA on demand."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.adapters.lycoris.update import DORA, Shapes, Update, conv, is_spatial, tucker, uniform, zero

if TYPE_CHECKING:
    from trainer.settings import Settings

UP, DOWN, MID = "lora_up.weight", "lora_down.weight", "lora_mid.weight"


class LoCon(Update):
    """B A x, where A is a convolution of the layer's kernel; with a core, A is 1x1 and the core has the kernel."""

    suffixes = (UP, DOWN, MID, DORA)
    needed = ((UP, DOWN),)
    folded = UP
    plus = frozenset({UP})

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """B, A, the core, the length of each output's weights."""
        out, inner, *kernel = layer.weight.shape
        ones = [1] * len(kernel)
        with_core = s.use_tucker and is_spatial(layer.weight.shape)
        shapes: Shapes = {UP: (out, rank, *ones), DOWN: (rank, inner, *(ones if with_core else kernel))}
        if with_core:
            shapes[MID] = (rank, rank, *kernel)
        if s.dora_wd:
            shapes[DORA] = (out, 1, *ones)
        return shapes

    @classmethod
    def rank_of(cls, shapes: Shapes, alpha: float, layer: Any) -> int:
        """A's outputs."""
        return shapes[DOWN][0]

    @property
    def factors(self) -> int:  # type: ignore[override]
        """B, A and the core."""
        return 3 if self.has(MID) else 2

    def start(self, generator: torch.Generator) -> None:
        """A and the core kaiming uniform, B zero; with a scalar, which is zero itself, B uniform too."""
        self.fill(generator, {UP: zero if self.scalar is None else uniform, DOWN: uniform, MID: uniform})

    def diff(self, W: Tensor) -> Tensor:
        """(alpha / rank) B A in the shape of the layer's weight."""
        up, down = self.tensor(UP).flatten(1), self.tensor(DOWN).flatten(1)
        product = tucker(self.tensor(MID), up.mT, down) if self.has(MID) else up @ down
        return product.view(W.shape) * self.scale

    def shortcut(self, x: Tensor) -> Tensor:
        """B (A x)."""
        up, down = self.tensor(UP).to(x.dtype), self.tensor(DOWN).to(x.dtype)
        if not isinstance(self.layer, nn.Conv2d):
            return F.linear(self._inner(F.linear(x, down)), up) * self.scale
        if self.has(MID):
            return (
                F.conv2d(self._inner(conv(self.layer, F.conv2d(x, down), self.tensor(MID).to(x.dtype))), up)
                * self.scale
            )
        return F.conv2d(self._inner(conv(self.layer, x, down)), up) * self.scale

    def _apart(self, x: Tensor, keep: Tensor | None, rank_p: float) -> Tensor | None:
        self._rank_p = rank_p
        # Beside the layer there are ranks to drop; what is rebuilt drops outputs.
        return super()._apart(x, None if self.bypass else keep, rank_p)

    def _inner(self, h: Tensor) -> Tensor:
        """In bypass mode rank dropout leaves out whole ranks."""
        if not (self.bypass and self._rank_p):
            return h
        mask = self._mask(self.plan.rank, self._rank_p, h.device).to(h.dtype)
        return h * (mask.view(1, -1, 1, 1) if h.ndim == 4 else mask)
