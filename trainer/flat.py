"""Many small tensors as one vector, so that an optimizer has one tensor to go through instead of hundreds.

A LoRA has some 500 tensors of a few thousand values. Most optimizers update every value by itself, but go through the
tensors one by one, and some wait for the device after each. Laid end to end in one vector, of which the tensors and
their gradients are windows, they are updated all at once, to the same values.
"""

from collections.abc import Sequence

import torch
from torch import nn

BLOCK = 256
"""Each tensor begins at a multiple of this: 8-bit optimizers quantize so many values together, and kernels like it."""


def flatten(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """One vector that shares its values and gradient with all of `parameters`, in their order; gaps hold zeros."""
    with torch.no_grad():
        lengths = [-(-parameter.numel() // BLOCK) * BLOCK for parameter in parameters]
        vector = nn.Parameter(parameters[0].new_zeros(sum(lengths)))
        vector.grad = torch.zeros_like(vector)
        windows = zip(parameters, vector.data.split(lengths), vector.grad.split(lengths), strict=True)
        for parameter, values, gradient in windows:
            count = parameter.numel()
            values[:count].copy_(parameter.flatten())
            parameter.data = values[:count].view(parameter.shape)
            parameter.grad = gradient[:count].view(parameter.shape)
    return vector


def by_size(parameters: Sequence[nn.Parameter], least: int) -> list[list[nn.Parameter]]:
    """Those of at least `least` values, and those of fewer; empty lists left out."""
    large = [parameter for parameter in parameters if parameter.numel() >= least]
    small = [parameter for parameter in parameters if parameter.numel() < least]
    return [some for some in (large, small) if some]
