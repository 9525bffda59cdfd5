"""LoHa (Hyeon-Woo et al. 2022, FedPara): the elementwise product of two low-rank matrices, of rank up to rank²."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.adapters.lycoris.update import DORA, Shapes, Update, is_spatial, normal, tucker, zero

if TYPE_CHECKING:
    from trainer.settings import Settings

A1, B1, A2, B2, CORE1, CORE2 = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"


class LoHa(Update):
    """delta = (alpha / rank) (A1 B1) ∘ (A2 B2); with cores each half is a Tucker product."""

    suffixes = (A1, B1, A2, B2, CORE1, CORE2, DORA)
    needed = ((A1, B1, A2, B2, CORE1, CORE2), (A1, B1, A2, B2))
    folded = A1
    plus = frozenset({A2})

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """Two pairs of factors, two cores, the length of each output's weights."""
        out, inner, *kernel = layer.weight.shape
        if s.use_tucker and is_spatial(layer.weight.shape):
            core = (rank, rank, *kernel)
            shapes: Shapes = {A1: (rank, out), B1: (rank, inner), A2: (rank, out), B2: (rank, inner)}
            shapes |= {CORE1: core, CORE2: core}
        else:
            columns = layer.weight[0].numel()
            shapes = {A1: (out, rank), B1: (rank, columns), A2: (out, rank), B2: (rank, columns)}
        if s.dora_wd:
            shapes[DORA] = (out, 1, *[1] * len(kernel))
        return shapes

    @classmethod
    def rank_of(cls, shapes: Shapes, alpha: float, layer: Any) -> int:
        """The rows of each B."""
        return shapes[B1][0]

    @property
    def factors(self) -> int:  # type: ignore[override]
        """Two pairs, and two cores."""
        return 6 if self.has(CORE1) else 4

    def start(self, generator: torch.Generator) -> None:
        """Gaussian, with A2 zero unless there is a scalar, which is zero itself."""
        last = zero if self.scalar is None else normal(0.1)
        self.fill(generator, {A1: normal(0.1), B1: normal(1), A2: last, B2: normal(1)})
        self.fill(generator, {CORE1: normal(0.1), CORE2: normal(0.1)})

    def diff(self, W: Tensor) -> Tensor:
        """(alpha / rank) (A1 B1) ∘ (A2 B2)."""
        a1, b1, a2, b2 = (self.tensor(ending) for ending in (A1, B1, A2, B2))
        if self.has(CORE1):
            halves = tucker(self.tensor(CORE1), a1, b1), tucker(self.tensor(CORE2), a2, b2)
        else:
            halves = a1 @ b1, a2 @ b2
        return (halves[0] * halves[1]).view(W.shape) * self.scale
