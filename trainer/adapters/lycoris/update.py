"""The trained change of one frozen layer, and how the layer runs with it.

With W the layer's weight and f(W) the changed one, the change is delta = f(W) - W. There are three ways to run it:

* *rebuilt*, in float32: y = f(W) x. One product, as fast as the plain layer.
* *beside*, in half precision or with network dropout: y = W x + delta x. Adding first would round a small delta away.
* *shortcut*, where a type has a cheaper way to delta x than through delta: y = W x + B (A x).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainer.adapters.start import Size

if TYPE_CHECKING:
    from trainer.settings import Settings

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by the ending of their key in a file."""

DORA = "dora_scale"


@dataclass(frozen=True)
class Plan(Size):
    """Rank and alpha of one layer's change, its algorithm, and the shapes of its tensors."""

    algo: str = ""
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


class Update(nn.Module):
    """What is trained beside one layer: a linear one, a convolution or a normalisation.

    A type says which tensors it has (`shapes`), what they start with (`initialise`) and what they add to the layer's
    weight (`diff`). Parameters are float32; nothing is trained until somebody asks for gradients.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """The endings of its keys in a file, in the file's order; not every file has all."""

    needed: ClassVar[tuple[tuple[str, ...], ...]]
    """Sets of endings of which a file must have one in full."""

    folded: ClassVar[str] = ""
    """The tensor that a trained scalar is multiplied into when a file is written."""

    reads_weight: ClassVar[bool] = False
    """Whether `diff` needs the weight's values; else it is given no more than its shape."""

    plus: ClassVar[frozenset[str]] = frozenset()
    """The tensors that start at zero, which LoRA+ gives a higher rate (Hayou et al. 2024)."""

    scale: float = 1.0
    """alpha / rank, for the types that have both."""

    def __init__(self, layer: Any, plan: Plan, s: "Settings", device: torch.device | str | None = None) -> None:
        super().__init__()
        self._layer = (layer,)  # in a tuple: the layer is no part of this module, this module is one of the layer
        self.plain: Callable[[Tensor], Tensor] = layer.forward
        self.plan, self.bypass = plan, s.bypass_mode
        self.drops = s.network_dropout, s.rank_dropout, s.module_dropout
        self.rank_dropout_scale = s.rank_dropout_scale
        self.learning = True
        self.endings = tuple(ending for ending, _ in plan.shapes)
        weight = layer.weight
        place: torch.device | str = device if device is not None else weight.device
        self.shape = torch.empty(weight.shape, device="meta")
        self._make(place)
        self.scalar: nn.Parameter | None = None
        if s.use_scalar and self.folded:
            self.scalar = nn.Parameter(torch.zeros((), device=place), requires_grad=False)
        if plan.rank:
            self.scale = plan.alpha / plan.rank

    def _make(self, place: torch.device | str) -> None:
        for ending, shape in self.plan.shapes:
            weight = torch.zeros(shape, dtype=torch.float32, device=place)
            self.register_parameter(_attribute(ending), nn.Parameter(weight, requires_grad=False))

    # What a type says

    @classmethod
    @abstractmethod
    def shapes(cls, layer: Any, rank: int, s: "Settings") -> Shapes:
        """The tensors for a layer that `s` ask for; none where the layer cannot have any."""

    @classmethod
    def rank_of(cls, shapes: Shapes, alpha: float, layer: Any) -> int:
        """The rank that tensors of a file have; 0 for types without one."""
        return 0

    @classmethod
    def alpha_if_missing(cls, rank: int) -> float:
        """What a file without alpha means: the update counts once."""
        return float(rank) or 1.0

    @abstractmethod
    def start(self, generator: torch.Generator) -> None:
        """Give the tensors the values that training starts with, drawn from `generator`: nothing is changed yet."""

    @abstractmethod
    def diff(self, W: Tensor) -> Tensor:
        """What is added to the weight W (before DoRA, where there is one), in its shape; float32."""

    def diff_bias(self) -> Tensor | None:
        """What is added to the layer's bias."""
        return None

    def shortcut(self, x: Tensor) -> Tensor | None:
        """`diff` applied to the layer's input without forming it; None where that is not cheaper."""
        return None

    factors: ClassVar[int] = 0
    """How many tensors each product of `diff` has: all are scaled alike to limit its norm. 0 where it has none."""

    @classmethod
    def plan_for(cls, algo: str, layer: Any, s: "Settings") -> Plan | None:
        """Rank, alpha and shapes of what the settings ask for; None where the layer is left alone."""
        spatial = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
        rank, alpha = (s.conv_dim, s.conv_alpha) if spatial else (s.network_dim, s.network_alpha)
        shapes = cls.shapes(layer, rank, s) if rank else {}
        return Plan(rank, alpha, algo, tuple(shapes.items())) if shapes else None

    @classmethod
    def constants(cls, plan: Plan) -> dict[str, float]:
        """Single numbers in the file beside the tensors."""
        return {"alpha": plan.alpha}

    # Its tensors

    def tensor(self, ending: str) -> nn.Parameter:
        """The trained tensor of that ending."""
        weight: nn.Parameter = getattr(self, _attribute(ending))
        return weight

    def has(self, ending: str) -> bool:
        """Whether there is a tensor of that ending."""
        return ending in self.endings

    def weights(self) -> dict[str, nn.Parameter]:
        """The trained tensors by their ending in the file."""
        return {ending: self.tensor(ending) for ending in self.endings}

    def trained(self) -> dict[str, nn.Parameter]:
        """The same, and the scalar if there is one."""
        return self.weights() if self.scalar is None else {**self.weights(), "scalar": self.scalar}

    def learns(self) -> dict[str, list[nn.Parameter]]:
        """What the optimizer moves, by the ending of the tensor it is or is a part of."""
        return {ending: [weight] for ending, weight in self.trained().items()}

    rests: ClassVar[bool] = False
    """Whether parts of it have no gradient in some steps, and must then stay where they are."""

    def in_file(self) -> dict[str, Tensor]:
        """The tensors as a file holds them: the scalar is multiplied into one of them."""
        tensors: dict[str, Tensor] = dict(self.weights())
        if self.scalar is not None:
            ending = next(ending for ending in self.endings if ending.startswith(self.folded))
            tensors[ending] = tensors[ending] * self.scalar
        return tensors

    def fill(self, generator: torch.Generator, how: Mapping[str, Callable[[Tensor, torch.Generator], Any]]) -> None:
        """Draw the tensors that there are of `how`, by their endings; on the processor, so that devices start alike."""
        for ending, draw in how.items():
            if self.has(ending):
                value = torch.empty(self.tensor(ending).shape)
                draw(value, generator)
                with torch.no_grad():
                    self.tensor(ending).copy_(value)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Set every tensor to where training starts."""
        self.start(generator)
        if self.scalar is not None:
            self.scalar.zero_()
        if self.has(DORA):
            self.tensor(DORA).copy_(_row_norms(self.layer.weight.float()).view(self.tensor(DORA).shape))

    # Running

    @property
    def layer(self) -> Any:
        """The layer it belongs to."""
        return self._layer[0]

    def put_on(self) -> None:
        """From now on the layer runs with this change."""
        self.layer.add_module("update", self)
        self.layer.forward = self.run

    def delta(self, keep: Tensor | None = None) -> Tensor:
        """f(W) - W, float32. `keep` says which outputs' changes count, and how much: a factor for each."""
        with torch.autocast(self.tensor(self.endings[0]).device.type, enabled=False):
            W = self._weight()
            change = self.diff(W)
            if self.scalar is not None:
                change = change * self.scalar
            if keep is not None:
                change = change * keep.view(-1, *[1] * (change.ndim - 1))
            return decompose(W + change, self.tensor(DORA)) - W if self.has(DORA) else change

    def _weight(self) -> Tensor:
        """The layer's weight in float32. It may be kept small or far away: where its shape is enough, that is given."""
        return self.layer.weight.float() if self.reads_weight or self.has(DORA) else self.shape

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output for an input of [..., inputs] or [B, inputs, h, w]."""
        network_p, rank_p, module_p = self.drops if self.learning else (0.0, 0.0, 0.0)
        # Drawn on the processor: no wait for the device. Checkpointing replays the draw.
        if module_p and torch.rand(()).item() < module_p:
            return self.plain(x)
        keep = self._kept(rank_p, x.device) if rank_p else None
        update = self._apart(x, keep, rank_p)
        if update is None and not network_p and self._is_full_precision(x):
            return self._op(x, self.layer.weight + self._delta(keep), self._bias(keep))
        if update is None:
            bias = self._diff_bias(keep)
            update = self._op(x, self._delta(keep).to(x.dtype), None if bias is None else bias.to(x.dtype))
        if network_p:
            update = F.dropout(update, network_p)
        output = self.plain(x)
        return output + update.to(output.dtype)

    def _apart(self, x: Tensor, keep: Tensor | None, rank_p: float) -> Tensor | None:
        """The update by its shortcut, where it has one that may be taken."""
        if self.has(DORA):
            return None
        update = self.shortcut(x)
        if update is None:
            return None
        if self.scalar is not None:
            update = update * self.scalar.to(update.dtype)
        if keep is not None:
            update = update * _over_channels(keep, update)
        return update

    def _kept(self, p: float, device: torch.device) -> Tensor:
        """Rank dropout of Yeh et al.: outputs whose change is left out, for all pictures of the batch alike."""
        return self._mask(self.shape.shape[0], p, device)

    def _mask(self, count: int, p: float, device: torch.device) -> Tensor:
        mask = (torch.rand(count, device=device) > p).float()
        return mask / mask.mean().clamp(min=1 / count) if self.rank_dropout_scale else mask

    def _delta(self, keep: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled():
            return self.delta(keep)
        # What lies between the tensors and delta is as large as the layer: it is made again for the backward pass.
        result: Tensor = checkpoint(self.delta, keep, use_reentrant=False, preserve_rng_state=False)
        return result

    def _bias(self, keep: Tensor | None) -> Tensor | None:
        change, bias = self._diff_bias(keep), self.layer.bias
        return bias if change is None else bias + change

    def _diff_bias(self, keep: Tensor | None) -> Tensor | None:
        change = self.diff_bias()
        return change if change is None or keep is None else change * keep

    def _is_full_precision(self, x: Tensor) -> bool:
        kept = self.layer._parameters["weight"].dtype
        return x.dtype == kept == torch.float32 and not torch.is_autocast_enabled(x.device.type)

    def _op(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.layer, nn.Conv2d):
            return conv(self.layer, x, weight, bias)
        return F.linear(x, weight, bias)

    @torch.no_grad()
    def norm(self) -> Tensor:
        """The norm of the change, before DoRA; a number on the device."""
        change = self.diff(self._weight())
        return (change if self.scalar is None else change * self.scalar).norm()

    @torch.no_grad()
    def shrink(self, limit: float) -> Tensor:
        """Scale the tensors so that the norm is at most `limit`; returns the norm before."""
        n = self.norm()
        root = (limit / n.clamp(min=limit)) ** (1 / self.factors)
        for ending, weight in self.weights().items():
            if ending != DORA:
                weight.mul_(root)
        return n


def conv(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution with another weight and the layer's own stride and padding."""
    padding: Any = layer.padding
    return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)


def decompose(W: Tensor, m: Tensor) -> Tensor:
    """m W / |W|, the norm over each output's weights (Liu et al. 2024, DoRA, eq. 5, by rows as LyCORIS does)."""
    norm = _row_norms(W) + torch.finfo(W.dtype).eps
    return W * (m.view(norm.shape) / norm)


def _row_norms(W: Tensor) -> Tensor:
    return W.flatten(1).norm(dim=1).view(-1, *[1] * (W.ndim - 1))


def _over_channels(values: Tensor, output: Tensor) -> Tensor:
    values = values.to(output.dtype)
    return values.view(1, -1, 1, 1) if output.ndim == 4 else values


def _attribute(ending: str) -> str:
    return "tensor_" + ending.replace(".", "_")


def is_spatial(shape: torch.Size | tuple[int, ...]) -> bool:
    """Whether a weight of that shape is of a convolution larger than 1x1."""
    return any(side != 1 for side in shape[2:])


def is_complete(kind: type[Update], endings: Set[str]) -> bool:
    """Whether a file's tensors for a layer are all there."""
    return any(endings >= set(group) for group in kind.needed)


def uniform(weight: Tensor, generator: torch.Generator) -> None:
    """Kaiming uniform with a = sqrt 5: in plus and minus 1 / sqrt(inputs)."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def normal(std: float) -> Callable[[Tensor, torch.Generator], Any]:
    """Gaussian values of that standard deviation."""
    return lambda weight, generator: nn.init.normal_(weight, std=std, generator=generator)


def zero(weight: Tensor, generator: torch.Generator) -> None:
    """All zero."""
    nn.init.zeros_(weight)


def tucker(core: Tensor, out: Tensor, inner: Tensor) -> Tensor:
    """A core [r, r, h, w] between factors out [r, o] and inner [r, i], as a weight [o, i, h, w] (Tucker 1966)."""
    return torch.einsum("p q h w, p o, q i -> o i h w", core, out, inner)
