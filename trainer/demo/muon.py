"""The Muon optimizer (Jordan et al. 2024), for the demo's U-Net: it needs about half of AdamW's steps there.

PyTorch's own takes matrices only; this one takes convolutions as well, and works on all weights of one shape at once,
which matters when there are hundreds of small ones.
"""

from collections.abc import Iterable
from typing import Any

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ADAM_LIKE = 0.2  # size of an update beside AdamW's, Liu et al. 2025 (arXiv:2502.16982), equation 4


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: every direction of a weight matrix moves equally far."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter; all of them must have gradients and at least two dimensions."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
            for shape, parameters in shapes.items():
                self._step(shape, parameters, group["lr"], group["momentum"])

    def _step(self, shape: tuple[int, int], parameters: list[torch.nn.Parameter], lr: float, momentum: float) -> None:
        gradients = torch.stack(
            [parameter.grad.reshape(shape) for parameter in parameters if parameter.grad is not None]
        )
        state = self.state[parameters[0]]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradients)
        state["momentum"].lerp_(gradients, 1 - momentum)
        updates = orthogonal(gradients.lerp(state["momentum"], momentum))
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.add_(update.reshape(parameter.shape), alpha=-lr * ADAM_LIKE * max(shape) ** 0.5)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The matrices (n, rows, columns) with all singular values brought near 1, by five Newton-Schulz iterations."""
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = (wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.to(matrices.dtype)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x
