"""What a training step keeps of the U-Net's inner values until it goes backward, by batch, size and checkpointing.

    python -m benchmarks.activations

Counted, not measured: U-Nets of real size go forward without data (PyTorch's meta device), in 16 bits but for what
mixed precision calculates in 32 (normalisation, and what follows it up to the next layer), with LoRA layers; every
tensor that is kept for the backward pass is counted once. Attention counts as sdpa keeps it: what goes in, what comes
out, and one number a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = {
    "sd15": [(512, 512), (768, 768)],
    "sdxl": [(1024, 1024)],
}
BATCHES = (1, 2, 4, 8)


class Attention(torch.autograd.Function):
    """Attention without its matrix: what the kernels of a graphics card keep."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class Adapted(nn.Module):
    """A frozen layer with a LoRA beside it."""

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        self.layer = layer
        if isinstance(layer, nn.Conv2d):
            shape: dict[str, Any] = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding")}
            self.down: nn.Module = nn.Conv2d(layer.in_channels, rank, bias=False, **shape)
            self.up: nn.Module = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            assert isinstance(layer, nn.Linear)
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        out: Tensor = self.layer(x) + self.up(self.down(x)) * 0.5
        return out


def unet_of(family: str, rank: int, conv: bool = False) -> nn.Module:
    """A U-Net of real shape without data, with LoRA layers (`conv`: as LoCon); only they want gradients."""
    from diffusers import UNet2DConditionModel

    from trainer.models.configs import CONFIGS

    with torch.device("meta"):
        unet = (
            UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(Path(CONFIGS[family]) / "unet"))
            .to(torch.float16)
            .requires_grad_(False)
        )
        classes = ("Transformer2DModel", *(("ResnetBlock2D", "Downsample2D", "Upsample2D") if conv else ()))
        for block in [part for part in unet.modules() if type(part).__name__ in classes]:
            for path, layer in list(block.named_modules()):
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    above, _, name = path.rpartition(".")
                    setattr(block.get_submodule(above), name, Adapted(layer, rank).to(torch.float16))
    return unet


@contextmanager
def mixed_precision() -> Iterator[None]:
    """Functions behave as under mixed precision on a card, which the meta device does not know."""
    names = ("linear", "conv2d", "group_norm", "layer_norm", "scaled_dot_product_attention")
    plain: dict[str, Callable[..., Tensor]] = {name: getattr(functional, name) for name in names}

    def half(name: str) -> Callable[..., Tensor]:
        return lambda x, weight, bias=None, *rest, **more: plain[name](
            x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype), *rest, **more
        )

    def full(name: str) -> Callable[..., Tensor]:
        return lambda x, shape, weight=None, bias=None, *rest, **more: plain[name](
            x.float(), shape, *(part if part is None else part.float() for part in (weight, bias)), *rest, **more
        )

    wanted = {"linear": half("linear"), "conv2d": half("conv2d"), "group_norm": full("group_norm")}
    wanted |= {"layer_norm": full("layer_norm")}
    wanted["scaled_dot_product_attention"] = lambda q, k, v, *_, **__: Attention.apply(q, k, v)
    try:
        for name in names:
            setattr(functional, name, wanted[name])
        yield
    finally:
        for name in names:
            setattr(functional, name, plain[name])


def kept(unet: Any, family: str, batch: int, width: int, height: int, checkpointing: bool) -> int:
    """Bytes that are kept from forward to backward, without weights."""
    (unet.enable_gradient_checkpointing if checkpointing else unet.disable_gradient_checkpointing)()
    unet.train()
    seen: dict[int, Any] = {}
    size = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal size
        storage = value.untyped_storage()
        if storage._cdata not in seen:
            seen[storage._cdata] = storage
            size += storage.nbytes()
        return value

    def meta(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.float16, device="meta")

    told = {"text_embeds": meta(batch, 1280), "time_ids": meta(batch, 6)} if family == "sdxl" else None
    states = meta(batch, 77, unet.config.cross_attention_dim)
    frozen = {parameter.untyped_storage()._cdata: parameter for parameter in unet.parameters()}
    seen.update(frozen)
    with mixed_precision(), torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        unet(meta(batch, 4, height // 8, width // 8), torch.empty(batch, device="meta"), states, added_cond_kwargs=told)
    return size


def main() -> None:
    for family, conv in product(ROWS, (False, True)):
        sizes, unet = ROWS[family], unet_of(family, 32, conv)
        for width, height in sizes:
            for checkpointing in (False, True):
                counts = [kept(unet, family, batch, width, height, checkpointing) / 2**20 for batch in BATCHES]
                line = "".join(
                    f"{f'batch {batch}':>10}{count:>7.0f} MiB" for batch, count in zip(BATCHES, counts, strict=True)
                )
                name = f"{family} {width}x{height}{', LoCon' * conv}{', checkpointing' * checkpointing}"
                print(f"{name:<40}{line}", flush=True)


if __name__ == "__main__":
    main()
