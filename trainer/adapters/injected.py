"""Adapters that peft puts on the model: the LoRA family. A subclass says how peft makes it (`peft_config`)."""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.adapters.adapter import Adapter
from trainer.adapters.start import Size
from trainer.adapters.walk import Target

if TYPE_CHECKING:
    from peft import PeftConfig

    from trainer.settings import Settings

NAME = "default"
"""peft's name for the one adapter there is."""


class Injected(Adapter):
    """An adapter whose layers are peft's."""

    @abstractmethod
    def peft_config(self, sizes: Mapping[str, Size]) -> "PeftConfig":
        """peft's description of the adapter on one part of the model; `sizes` by module path."""

    @abstractmethod
    def inner(self, name: str) -> tuple[nn.Module, nn.Module]:
        """The modules whose outputs are the layer's rank-sized inner values and the update itself, for dropouts."""

    def _put_on(self, root: nn.Module, sizes: Mapping[Target, Size], settings: "Settings") -> None:
        from peft import inject_adapter_in_model

        config = self.peft_config({target.path: size for target, size in sizes.items()})
        with torch.random.fork_rng(devices=[]):  # peft draws weights that `initialise` replaces
            inject_adapter_in_model(config, root, adapter_name=NAME)

    def _start_from_nothing(self, settings: "Settings") -> None:
        for name, layer in self.layers.items():
            layer._cast_input_dtype = partial(_cast_unless_autocast, layer._cast_input_dtype)
            for weight in self.weights(name).values():
                weight.data = weight.data.float()
        super()._start_from_nothing(settings)

    # Dropouts

    def _add_dropouts(self, settings: "Settings") -> None:
        p, rank_p, module_p = settings.network_dropout, settings.rank_dropout, settings.module_dropout
        if not (p or rank_p or module_p):
            return
        for name in self.layers:
            down, up = self.inner(name)
            if p or rank_p:
                down.register_forward_hook(partial(self._drop_inner, p, rank_p))
            if module_p:
                up.register_forward_hook(partial(self._drop_module, module_p))

    def _drop_inner(self, p: float, rank_p: float, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Network dropout on each inner value, then rank dropout on each picture's ranks."""
        if not self.training:
            return output
        if p:
            output = F.dropout(output, p)
        if rank_p:
            ranks = output.shape[1] if output.ndim == 4 else output.shape[-1]
            kept = (torch.rand(output.shape[0], ranks, device=output.device) > rank_p) / (1 - rank_p)
            shape = (-1, ranks, 1, 1) if output.ndim == 4 else (-1, *(1,) * (output.ndim - 2), ranks)
            output = output * kept.to(output.dtype).view(shape)
        return output

    def _drop_module(self, p: float, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        # Drawn on the processor: no wait for the device. Checkpointing replays the draw.
        return torch.zeros_like(output) if self.training and torch.rand(()).item() < p else output


def _cast_unless_autocast(cast: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    """peft casts its input to float32; under autocast that would be undone at once, and cost memory."""
    return x if torch.is_autocast_enabled(x.device.type) else cast(x, dtype)
