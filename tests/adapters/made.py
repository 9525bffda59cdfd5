"""Adapters that have learned something, for tests."""

from typing import Any

import torch
from torch import Tensor

from tests.tiny import listener, tiny_model
from trainer.adapters import attach
from trainer.adapters.adapter import Adapter
from trainer.models import Model
from trainer.settings import Settings


def attached(seed: int = 0, **settings: Any) -> tuple[Model, Adapter]:
    """A tiny model with a new adapter."""
    model = tiny_model()
    return model, attach(model, Settings(seed=seed, **settings), listener())


def taught(**settings: Any) -> tuple[Model, Adapter]:
    """A tiny model with an adapter whose weights are random, large enough to change pictures."""
    model, adapter = attached(**settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in adapter.layers:
            for weight in adapter.weights(name).values():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model, adapter


@torch.no_grad()
def drawn(unet: Any) -> Tensor:
    """What a U-Net makes of two fixed latents."""
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    states = torch.randn(2, 77, 16, generator=generator)
    result: Tensor = unet(latents, torch.tensor([10, 700]), states).sample
    return result


@torch.no_grad()
def read(encoder: Any) -> Tensor:
    """What a text encoder makes of fixed tokens."""
    ids = torch.tensor([[49406, 320, 2368, *([49407] * 74)]])
    result: Tensor = encoder(ids).last_hidden_state
    return result
