"""GLoRA (Chavan et al. 2023) as LyCORIS has it: a low-rank change of the layer's input beside one of its weight."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.adapters.lycoris.update import Shapes, Update, uniform, zero

if TYPE_CHECKING:
    from trainer.settings import Settings

A1, A2, B1, B2 = "a1.weight", "a2.weight", "b1.weight", "b2.weight"


class GLoRA(Update):
    """delta = (alpha / rank) (W a1 a2 + b1 b2)."""

    reads_weight = True
    suffixes = (A1, A2, B1, B2)
    needed = ((A1, A2, B1, B2),)
    plus = frozenset({A2, B2})
    factors = 2

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """Two pairs: one on the inputs, one from inputs to outputs."""
        out, inner, *kernel = layer.weight.shape
        ones = [1] * len(kernel)
        a = {A1: (inner, rank, *ones), A2: (rank, inner, *ones)}
        return {**a, B1: (out, rank, *ones), B2: (rank, inner, *kernel)}

    @classmethod
    def rank_of(cls, shapes: Shapes, alpha: float, layer: Any) -> int:
        """The outputs of each second half."""
        return shapes[A2][0]

    def start(self, generator: torch.Generator) -> None:
        """The first halves kaiming uniform, the second zero."""
        self.fill(generator, {A1: uniform, A2: zero, B1: uniform, B2: zero})

    def diff(self, W: Tensor) -> Tensor:
        """(alpha / rank) (W a1 a2 + b1 b2), the first product over the inputs."""
        a1, a2, b1, b2 = (self.tensor(ending).flatten(1).to(W.dtype) for ending in (A1, A2, B1, B2))
        inputs = torch.einsum("o i ..., i r, r j -> o j ...", W, a1, a2)
        return (inputs + (b1 @ b2).view(W.shape)) * self.scale
