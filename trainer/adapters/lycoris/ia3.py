"""(IA)³ (Liu et al. 2022): a factor for each of a layer's inputs or outputs."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.adapters.lycoris.update import Plan, Shapes, Update, zero

if TYPE_CHECKING:
    from trainer.settings import Settings

WEIGHT, ON_INPUT = "weight", "on_input"


class IA3(Update):
    """delta = W · w, over inputs or outputs; the bias is left alone."""

    reads_weight = True
    suffixes = (WEIGHT, ON_INPUT)
    needed = ((WEIGHT,),)

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """One value for each input or output, laid out as LyCORIS does."""
        out, inner, *kernel = layer.weight.shape
        count = inner if s.train_on_input else out
        return {WEIGHT: (1, count, *[1] * len(kernel)) if kernel else (count,)}

    @classmethod
    def plan_for(cls, algo: str, layer: Any, s: "Settings") -> Plan:
        """There is no rank: what takes alpha's place says whether the factors are on the input."""
        return Plan(0, float(s.train_on_input), algo, tuple(cls.shapes(layer, 0, s).items()))

    @classmethod
    def constants(cls, plan: Plan) -> dict[str, float]:
        """Which side the factors are on."""
        return {ON_INPUT: plan.alpha}

    @classmethod
    def alpha_if_missing(cls, rank: int) -> float:
        """The factors are those of outputs."""
        return 0.0

    @property
    def on_input(self) -> bool:
        """Whether the factors are those of inputs."""
        return bool(self.plan.alpha)

    def start(self, generator: torch.Generator) -> None:
        """Nothing is added."""
        self.fill(generator, {WEIGHT: zero})

    def diff(self, W: Tensor) -> Tensor:
        """W with each input's or output's weights times its factor."""
        w = self.tensor(WEIGHT).flatten()
        return W * (w.view(1, -1, *[1] * (W.ndim - 2)) if self.on_input else w.view(-1, *[1] * (W.ndim - 1)))

    def shortcut(self, x: Tensor) -> Tensor:
        """W (w · x), or w · (W x)."""
        w, W = self.tensor(WEIGHT).flatten().to(x.dtype), self.layer.weight.to(x.dtype)
        if isinstance(self.layer, nn.Conv2d):
            w = w.view(1, -1, 1, 1)
        return self._op(x * w, W, None) if self.on_input else self._op(x, W, None) * w
