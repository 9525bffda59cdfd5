"""Native fine-tuning: the weights themselves learn; and the same for normalisations ("Train Norm")."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.adapters.lycoris.update import Plan, Shapes, Update, zero

if TYPE_CHECKING:
    from trainer.settings import Settings

DIFF, DIFF_B = "diff", "diff_b"
W_NORM, B_NORM = "w_norm", "b_norm"


class Whole(Update):
    """A tensor of the weight's shape, and one of the bias's."""

    names: tuple[str, str]

    @classmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """As the layer's own; a normalisation may have none."""
        weight, bias = cls.names
        shapes: Shapes = {} if layer.weight is None else {weight: tuple(layer.weight.shape)}
        return shapes | ({bias: tuple(layer.bias.shape)} if shapes and layer.bias is not None else {})

    @classmethod
    def plan_for(cls, algo: str, layer: Any, s: "Settings") -> Plan | None:
        """There is no rank and no alpha."""
        shapes = cls.shapes(layer, 0, s)
        return Plan(0, 1.0, algo, tuple(shapes.items())) if shapes else None

    @classmethod
    def constants(cls, plan: Plan) -> dict[str, float]:
        """None."""
        return {}

    def start(self, generator: torch.Generator) -> None:
        """Nothing is added."""
        self.fill(generator, dict.fromkeys(self.endings, zero))

    def diff(self, W: Tensor) -> Tensor:
        """What was learned."""
        return self.tensor(self.names[0])

    def diff_bias(self) -> Tensor | None:
        """What was learned."""
        return self.tensor(self.names[1]) if self.has(self.names[1]) else None

    def _delta(self, keep: Tensor | None) -> Tensor:
        return self.delta(keep)


class Full(Whole):
    """delta is trained as it is."""

    suffixes = names = (DIFF, DIFF_B)
    needed = ((DIFF,),)


class Norm(Whole):
    """The factors and offsets of a LayerNorm or GroupNorm."""

    suffixes = names = (W_NORM, B_NORM)
    needed = ((W_NORM,),)

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The normalised input by the changed factors and offsets."""
        _, rank_p, module_p = self.drops if self.learning else (0.0, 0.0, 0.0)
        if module_p and torch.rand(()).item() < module_p:
            return self.plain(x)
        keep, layer = self._kept(rank_p, x.device) if rank_p else None, self.layer
        weight = layer.weight.float() + self.delta(keep)
        change = self._diff_bias(keep)
        bias = None if layer.bias is None else layer.bias.float() if change is None else layer.bias.float() + change
        if isinstance(layer, nn.GroupNorm):
            return F.group_norm(x.float(), layer.num_groups, weight, bias, layer.eps).to(x.dtype)
        return F.layer_norm(x.float(), layer.normalized_shape, weight, bias, layer.eps).to(x.dtype)
