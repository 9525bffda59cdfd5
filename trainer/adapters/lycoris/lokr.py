"""LoKr (Edalati et al. 2022, KronA; Yeh et al. 2023): the Kronecker product of a small matrix and a larger one."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.adapters.lycoris.factors import split
from trainer.adapters.lycoris.update import DORA, Plan, Shapes, Update, conv, is_spatial, tucker, uniform, zero

if TYPE_CHECKING:
    from trainer.settings import Settings

W1, W1A, W1B = "lokr_w1", "lokr_w1_a", "lokr_w1_b"
W2, W2A, W2B, CORE = "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"


class LoKr(Update):
    """delta = (alpha / rank) w1 ⊗ w2, each whole or a product of two of the rank; where both are whole, w1 ⊗ w2."""

    suffixes = (W1, W1A, W1B, W2, W2A, W2B, CORE, DORA)
    needed = ((W1, W2), (W1, W2A, W2B), (W1A, W1B, W2), (W1A, W1B, W2A, W2B))
    folded = W1
    plus = frozenset({W2, W2B})

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """w1 [a, c], w2 [b, d, kernel] with a·b outputs and c·d inputs, split by the factor."""
        out, inner, *kernel = layer.weight.shape
        (a, b), (c, d) = split(out, s.factor), split(inner, s.factor)
        shapes: Shapes = {W1: (a, c)}
        if s.decompose_both and rank < max(a, c) / 2:
            shapes = {W1A: (a, rank), W1B: (rank, c)}
        if rank >= max(b, d) / 2:
            shapes[W2] = (b, d, *kernel)
        elif (s.use_tucker or s.use_cp) and is_spatial(layer.weight.shape):
            shapes |= {W2A: (rank, b), W2B: (rank, d), CORE: (rank, rank, *kernel)}
        else:
            columns = d * layer.weight[0, 0].numel()
            shapes |= {W2A: (b, rank), W2B: (rank, columns)}
        if s.dora_wd:
            shapes[DORA] = (out, 1, *[1] * len(kernel))
        return shapes

    @classmethod
    def plan_for(cls, algo: str, layer: Any, s: "Settings") -> Plan | None:
        """Where both are whole, alpha is the rank: readers take the product as it is."""
        plan = super().plan_for(algo, layer, s)
        if plan is None or not {W1, W2} <= dict(plan.shapes).keys():
            return plan
        return Plan(plan.rank, float(plan.rank), algo, plan.shapes)

    @classmethod
    def rank_of(cls, shapes: Shapes, alpha: float, layer: Any) -> int:
        """The rows of a factor's second half; two whole matrices have alpha in its place."""
        return shapes[W2B][0] if W2B in shapes else shapes[W1B][0] if W1B in shapes else max(1, round(alpha))

    def __init__(self, layer: Any, plan: Plan, s: "Settings", device: torch.device | str | None = None) -> None:
        super().__init__(layer, plan, s, device)
        if self.has(W1) and self.has(W2):
            self.scale = 1.0

    @property
    def factors(self) -> int:  # type: ignore[override]
        """All there are."""
        return len(self.endings) - self.has(DORA)

    def start(self, generator: torch.Generator) -> None:
        """Kaiming uniform, with w2 (or its second half) zero unless there is a scalar, which is zero itself."""
        last = zero if self.scalar is None else uniform
        draws = {W1: uniform, W1A: uniform, W1B: uniform, W2: last, W2A: uniform, W2B: last, CORE: uniform}
        self.fill(generator, draws)

    def _w1(self) -> Tensor:
        return self.tensor(W1) if self.has(W1) else self.tensor(W1A) @ self.tensor(W1B)

    def _w2(self, W: Tensor) -> Tensor:
        if self.has(W2):
            return self.tensor(W2)
        if self.has(CORE):
            return tucker(self.tensor(CORE), self.tensor(W2A), self.tensor(W2B))
        return (self.tensor(W2A) @ self.tensor(W2B)).view(len(self.tensor(W2A)), -1, *W.shape[2:])

    def diff(self, W: Tensor) -> Tensor:
        """(alpha / rank) w1 ⊗ w2."""
        w1, w2 = self._w1(), self._w2(W)
        return torch.kron(w1.view(*w1.shape, *[1] * (w2.ndim - 2)), w2.contiguous()) * self.scale

    def shortcut(self, x: Tensor) -> Tensor | None:
        """(w1 ⊗ w2) x without the product, in bypass mode: w2 on each part of x, then w1 across the parts."""
        if not self.bypass:
            return None
        w1, w2 = self._w1().to(x.dtype), self._w2(self.shape).to(x.dtype)
        parts = w1.shape[1]
        if not isinstance(self.layer, nn.Conv2d):
            inner = F.linear(x.unflatten(-1, (parts, -1)), w2)
            return torch.einsum("a c, ... c b -> ... a b", w1, inner).flatten(-2) * self.scale
        inner = conv(self.layer, x.unflatten(1, (parts, -1)).flatten(0, 1), w2).unflatten(0, (len(x), parts))
        return torch.einsum("a c, n c b h w -> n a b h w", w1, inner).flatten(1, 2) * self.scale
