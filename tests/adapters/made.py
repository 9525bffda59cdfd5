"""Adapters that have learned something, for tests."""

from typing import Any

import torch
from torch import Tensor

from tests.tiny import listener, tiny_model
from trainer.adapters import attach
from trainer.adapters.adapter import Adapter
from trainer.models import Model
from trainer.settings import Settings


def attached(seed: int = 0, family: str = "sd15", **settings: Any) -> tuple[Model, Adapter]:
    """A tiny model with a new adapter."""
    model = tiny_model(family=family)
    return model, attach(model, Settings(seed=seed, **settings), listener())


def taught(**settings: Any) -> tuple[Model, Adapter]:
    """A tiny model with an adapter whose weights are random, large enough to change pictures."""
    model, adapter = attached(**settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in adapter.layers:
            for ending, weight in adapter.trained(name).items():
                value = torch.randn(weight.shape, generator=generator) * 0.2
                # Lengths and factors keep their size: random ones would leave nothing of the model.
                keeps: dict[str, Any] = {"dora_scale": weight, "rescale": weight, "scalar": 0.8}
                weight.copy_(keeps.get(ending, 0) + value)
    return model, adapter


@torch.no_grad()
def drawn(unet: Any) -> Tensor:
    """What a U-Net makes of two fixed latents; that of XL is told a pooled text and sizes too."""
    config = unet.config
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(2, config.in_channels, 8, 8, generator=generator)
    states = torch.randn(2, 77, config.cross_attention_dim, generator=generator)
    told = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
        told = {"text_embeds": torch.randn(2, pooled, generator=generator), "time_ids": sizes}
    result: Tensor = unet(latents, torch.tensor([10, 700]), states, added_cond_kwargs=told).sample
    return result


@torch.no_grad()
def read(encoder: Any) -> Tensor:
    """What a text encoder makes of fixed tokens."""
    ids = torch.tensor([[49406, 320, 2368, *([49407] * 74)]])
    result: Tensor = encoder(ids).last_hidden_state
    return result
