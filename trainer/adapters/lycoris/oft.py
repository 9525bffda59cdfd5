"""Orthogonal finetuning: Diag-OFT (Qiu et al. 2023) and BOFT (Liu et al. 2024), which turn a layer's outputs.

Both make rotations R = (I + Q)(I - Q)⁻¹ of skew-symmetric Q (Cayley 1846), from trained blocks B by Q = B - Bᵀ. A
convolution's weights are turned over its outputs, each input and place of the kernel alike.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.adapters.lycoris.factors import butterfly, split, stages
from trainer.adapters.lycoris.update import Plan, Shapes, Update, zero

if TYPE_CHECKING:
    from trainer.settings import Settings

BLOCKS, RESCALE = "oft_blocks", "rescale"


class Turning(Update):
    """What both share: the rotations, the limit on them, and a factor for each output."""

    reads_weight = True
    suffixes = (BLOCKS, RESCALE)
    needed = ((BLOCKS,),)

    @classmethod
    def rank_of(cls, shapes: Shapes, alpha: float, layer: Any) -> int:
        """The side of a block."""
        return shapes[BLOCKS][-1]

    @classmethod
    def plan_for(cls, algo: str, layer: Any, s: "Settings") -> Plan | None:
        """The rank is the side of a block; the file's alpha is the limit."""
        plan = super().plan_for(algo, layer, s)
        if plan is None:
            return None
        side = cls.rank_of(dict(plan.shapes), 0.0, layer)
        return Plan(side, cls.limit(s), algo, plan.shapes)

    @classmethod
    def alpha_if_missing(cls, rank: int) -> float:
        """No limit."""
        return 0.0

    @classmethod
    def limit(cls, s: "Settings") -> float:
        """How far blocks may turn; 0 is without limit."""
        return 0.0

    def start(self, generator: torch.Generator) -> None:
        """No rotation."""
        self.fill(generator, {BLOCKS: zero})
        if self.has(RESCALE):
            self.tensor(RESCALE).data.fill_(1)

    def rotations(self, outputs: int) -> Tensor:
        """R of each block: Q shrunk to a norm of at most alpha · outputs (COFT), then Cayley."""
        blocks = self.tensor(BLOCKS)
        Q = blocks - blocks.mT
        if self.plan.alpha > 0:
            Q = Q * (self.plan.alpha * outputs / (Q.norm() + 1e-8)).clamp(max=1)
        identity = torch.eye(Q.shape[-1], device=Q.device)
        return torch.linalg.solve(identity - Q, identity + Q)  # both commute

    def rescaled(self, W: Tensor) -> Tensor:
        """Each output's weights times its factor."""
        return W * self.tensor(RESCALE).view(-1, *[1] * (W.ndim - 1)) if self.has(RESCALE) else W


class DiagOFT(Turning):
    """f(W) = rescale · diag(R₁ᵀ, R₂ᵀ, …) W, each block over its own outputs."""

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """Square blocks along the outputs, of a side of at most `rank`."""
        out, *rest = layer.weight.shape
        side, count = split(out, rank)
        return {BLOCKS: (count, side, side)} | ({RESCALE: (out, *[1] * len(rest))} if s.rescaled else {})

    @classmethod
    def limit(cls, s: "Settings") -> float:
        """The setting of that name."""
        return s.constrain

    def diff(self, W: Tensor) -> Tensor:
        """f(W) - W."""
        R = self.rotations(len(W))
        turned = torch.einsum("k n m, k n i -> k m i", R, W.reshape(*R.shape[:2], -1))
        return self.rescaled(turned.reshape(W.shape)) - W


class BOFT(Turning):
    """f(W) = R_m … R_2 R_1 W, where stage i turns outputs that are 2^i · side / 2 apart: a butterfly (eq. 6)."""

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """As many stages as it takes for each output to reach every other; none where the width allows no butterfly."""
        side, count = butterfly(layer.weight.shape[0], rank)
        return {BLOCKS: (stages(count), count, side, side)} if count else {}

    def diff(self, W: Tensor) -> Tensor:
        """f(W) - W."""
        R = self.rotations(len(W))
        half, turned = R.shape[-1] // 2, W.reshape(len(W), -1)
        for stage, blocks in enumerate(R):
            stride = half * 2**stage
            pairs = turned.unflatten(0, (-1, 2, stride)).transpose(1, 2)  # [groups, stride, 2, inputs]
            pairs = (blocks @ pairs.reshape(*blocks.shape[:2], -1)).view(pairs.shape)
            turned = pairs.transpose(1, 2).reshape(turned.shape)
        return self.rescaled(turned.reshape(W.shape)) - W
