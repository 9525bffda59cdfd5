"""Frozen weights kept smaller or farther away than they are calculated with.

"fp8 base" keeps them in one byte each (float8_e4m3fn: Micikevicius et al. 2022, "FP8 Formats for Deep Learning", table
1), times a power of two for each layer so that its weights fill the format's range and nothing but the last digits is
lost. "lowvram" keeps them in the processor's memory. Either way a layer's weight exists in full only while this layer
is calculated: nothing is left behind for backward, which fetches it again. A layer stays an `nn.Linear` or `nn.Conv2d`,
its names and `weight` as they were, so adapters of every kind sit on it as on any other.

With Mixed precision "fp8" the linear layers of the U-Net also multiply in 8 bits, inputs in float8_e4m3fn and gradients
in float8_e5m2, each scaled by its largest value (same paper, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

if TYPE_CHECKING:
    from trainer.devices import Precision
    from trainer.models import Model
    from trainer.settings import Settings

FLOAT8 = torch.float8_e4m3fn
GRADIENT = torch.float8_e5m2
LARGEST = 448.0
"""The largest number of float8_e4m3fn; the smallest that has all its digits is 2**-6."""

KEPT = ("conv_in", "conv_out", "time_embedding", "add_embedding", "text_projection")
"""Layers that stay as they are: few weights that everything passes through. Norms, biases and embeddings do too."""


WIDE = 512
"""Channels from which convolutions gain by channels-last order: a quarter of the time at SD1.5's real width on a
processor, nothing at a quarter of that width (benchmarks.choices)."""


class Frozen:
    """How the frozen weights of a model are kept. To be made before an adapter adds layers of its own."""

    def __init__(self, model: Model, s: Settings, precision: Precision) -> None:
        self.model, self.precision = model, precision
        if precision.device.type in ("cpu", "cuda") and widest(model.unet) >= WIDE:
            nn.Module.to(model.unet, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.far = is_far(s, precision.device)
        """Whether the U-Net waits in the processor's memory."""
        unet = s.fp8_base or s.fp8_base_unet or precision.eight_bit
        self.small = dict.fromkeys(model.text_encoders, s.fp8_base) | {model.unet: unet}
        self.layers = {
            layer: part
            for part, small in self.small.items()
            if small or (self.far and part is model.unet)
            for layer in _layers(part)
        }

    @torch.no_grad()
    def store(self, trained: Iterable[nn.Parameter] = ()) -> int:
        """Now keep them that way, all but those that are `trained`, and bring the rest to the device; returns the bytes
        that the device is spared."""
        spared = 0
        for layer, part in self.layers.items():
            weight = layer._parameters.get("weight")
            if weight is None or weight.requires_grad:
                continue
            size = weight.nbytes
            self._store(layer, part)
            kept = layer._parameters["weight"]
            assert kept is not None
            spared += size if self.far else size - kept.nbytes
        if self.far:
            _bring(self.model.unet, trained, self.precision.device)
        return spared

    def _store(self, layer: nn.Module, part: nn.Module) -> None:
        weight: Tensor = layer._parameters["weight"].data  # type: ignore[union-attr]
        is_unet, small = part is self.model.unet, self.small[part]
        scale = power_of_two(weight) if small else 1.0
        kept = (weight.float() / scale).to(FLOAT8) if small else weight
        if is_unet and self.far:
            kept = kept.cpu().pin_memory() if self.precision.device.type == "cuda" else kept.cpu()
        layer.register_buffer("scale", torch.tensor(scale, device=self.precision.device), persistent=False)
        layer._parameters["weight"] = nn.Parameter(kept, requires_grad=False)
        layer.__class__ = StoredLinear if isinstance(layer, nn.Linear) else StoredConv2d
        stored: Any = layer
        stored.number_format = weight.dtype
        stored.eight_bit = self.precision.eight_bit and is_unet and not any(size % 16 for size in weight.shape)


def widest(part: nn.Module) -> int:
    """The most channels that a convolution of `part` has."""
    return max((layer.out_channels for layer in part.modules() if isinstance(layer, nn.Conv2d)), default=0)


def is_far(s: Settings, device: torch.device) -> bool:
    """Whether the frozen U-Net shall wait in the processor's memory ("lowvram")."""
    return s.lowvram and device.type != "cpu"


def _layers(part: nn.Module) -> Iterator[nn.Module]:
    for name, layer in part.named_modules():
        plain = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.padding_mode == "zeros")
        if plain and name.split(".")[0] not in KEPT and not isinstance(getattr(layer, "padding", 0), str):
            yield layer


def _bring(part: nn.Module, trained: Iterable[nn.Parameter], device: torch.device) -> None:
    """Everything of `part` to the device, but for what waits elsewhere on purpose."""
    kept = {id(layer.kept) for layer in part.modules() if isinstance(layer, Stored)}
    for tensor in (*part.parameters(), *part.buffers(), *trained):
        if id(tensor) not in kept:
            tensor.data = tensor.data.to(device)


def power_of_two(weight: Tensor) -> float:
    """The smallest power of two that `weight` can be divided by without exceeding the range of float8_e4m3fn."""
    largest = float(weight.abs().max())
    return 2.0 ** math.ceil(math.log2(largest / LARGEST)) if largest and math.isfinite(largest) else 1.0


def fetch(kept: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight where `scale` is and in `dtype`, as exact as it was kept."""
    near = kept.to(scale.device, non_blocking=True)
    return near.to(dtype).mul_(scale) if kept.dtype == FLOAT8 else near.to(dtype)


class Stored(nn.Module):
    """What both kinds of layers share: `weight` is made when it is asked for."""

    scale: Tensor
    number_format: torch.dtype
    eight_bit: bool

    @property
    def kept(self) -> Tensor:
        """The weight as it is kept."""
        weight = self._parameters["weight"]
        assert weight is not None
        return weight

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight in full: a new tensor, frozen, on the device and in the format that is calculated with."""
        return fetch(self.kept, self.scale, self.number_format).requires_grad_(False)

    def _prepared(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Input and bias in the format of the calculation: autocast does not look into our own functions."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return x.to(dtype), None if bias is None else bias.to(dtype)


class StoredLinear(Stored, nn.Linear):  # type: ignore[override]
    """y = W x + b with W fetched when needed."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        x, bias = self._prepared(input, self.bias)
        kind = _LinearIn8Bits if self.eight_bit else _Linear
        return kind.apply(x, self.kept, self.scale, bias)  # type: ignore[no-any-return, no-untyped-call]


class StoredConv2d(Stored, nn.Conv2d):  # type: ignore[override]
    """y = W * x + b with W fetched when needed."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        x, bias = self._prepared(input, self.bias)
        shape = (self.stride, self.padding, self.dilation, self.groups)
        return _Conv2d.apply(x, self.kept, self.scale, bias, *shape)  # type: ignore[no-any-return, no-untyped-call]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(kept, scale)
        return F.linear(x, fetch(kept, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, scale = ctx.saved_tensors
        to_input, _, _, to_bias = ctx.needs_input_grad
        return (
            grad @ fetch(kept, scale, grad.dtype) if to_input else None,
            None,
            None,
            grad.flatten(0, -2).sum(0) if to_bias else None,
        )


class _LinearIn8Bits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(kept, scale)
        return _multiply(x, FLOAT8, kept.t(), scale, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, scale = ctx.saved_tensors
        to_input, _, _, to_bias = ctx.needs_input_grad
        # The hardware wants the second factor column by column.
        columns = kept.t().contiguous().t()
        return (
            _multiply(grad, GRADIENT, columns, scale, None) if to_input else None,
            None,
            None,
            grad.flatten(0, -2).sum(0) if to_bias else None,
        )


def _multiply(x: Tensor, kind: torch.dtype, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K] times weight [K, N] in float8 times `scale`; x is scaled so that its largest value just fits."""
    rows = x.flatten(0, -2)
    own = (rows.abs().amax().float() / torch.finfo(kind).max).clamp(min=1e-12)
    small = (rows / own).to(kind)
    out = torch._scaled_mm(small, weight, own, scale.float(), bias=bias, out_dtype=x.dtype)
    return out.view(*x.shape[:-1], weight.shape[1])


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: Tensor, bias: Tensor | None, *shape: Any) -> Tensor:
        ctx.save_for_backward(kept, scale)
        ctx.size, ctx.shape = x.shape, shape
        return F.conv2d(x, fetch(kept, scale, x.dtype), bias, *shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, scale = ctx.saved_tensors
        to_input, to_bias = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
        weight = fetch(kept, scale, grad.dtype)
        return (
            conv2d_input(ctx.size, weight, grad, *ctx.shape) if to_input else None,
            None,
            None,
            grad.sum((0, 2, 3)) if to_bias else None,
            *(None,) * len(ctx.shape),
        )
