"""LoRA-FA (Zhang et al. 2023): a LoRA whose first half A stays as it was drawn, and only B learns.

No gradient of A is needed, and none of the large inputs that it would be computed from has to be kept. The file is that
of a LoRA: A is in it.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.adapters.lora import DOWN, LoRA, LowRank

if TYPE_CHECKING:
    from trainer.settings import Settings


class LoRAFA(LoRA):
    """Low-rank updates with a fixed random projection A."""

    frozen_suffixes = frozenset({DOWN})

    @classmethod
    def trains_convolutions(cls, settings: "Settings") -> bool:
        """Only where a rank is given for convolutions, here or for a block."""
        return LowRank.trains_convolutions(settings)

    def start_of_down(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Normal with variance 2 / (inputs + rank), whatever the kernel, as in the reference."""
        rank, inputs, *_ = shape
        return torch.randn(shape, generator=generator) * math.sqrt(2 / (inputs + rank))
