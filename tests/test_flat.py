"""Tensors as windows of one vector: same values, same gradients, in both directions."""

import torch
from torch import nn

from trainer.flat import BLOCK, by_size, flatten


def make() -> list[nn.Parameter]:
    source = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (7,), (2, 3, 3, 3), (BLOCK,)]
    return [nn.Parameter(torch.randn(shape, generator=source)) for shape in shapes]


def test_values_are_shared_both_ways() -> None:
    parameters = make()
    before = [parameter.detach().clone() for parameter in parameters]
    vector = flatten(parameters)
    assert vector.numel() == 4 * BLOCK
    assert all(torch.equal(mine, other) for mine, other in zip(parameters, before, strict=True))
    with torch.no_grad():
        vector.mul_(2)
        assert torch.equal(parameters[2], 2 * before[2])
        parameters[1].fill_(5)
    assert torch.equal(vector[BLOCK : BLOCK + 7], torch.full((7,), 5.0))
    assert vector[BLOCK + 7 : 2 * BLOCK].count_nonzero() == 0


def test_gradients_gather_in_the_vector() -> None:
    plain, parameters = make(), make()
    vector = flatten(parameters)
    for some in (plain, parameters):
        for _ in range(2):  # accumulated
            sum((parameter**3).sum() for parameter in some).backward()  # type: ignore[union-attr]
    assert vector.grad is not None
    for parameter, other, window in zip(parameters, plain, vector.grad.split(BLOCK), strict=True):
        assert parameter.grad is not None
        assert other.grad is not None
        assert torch.equal(parameter.grad, other.grad)
        assert torch.equal(window[: other.numel()], other.grad.flatten())
    vector.grad.zero_()
    assert all(parameter.grad.count_nonzero() == 0 for parameter in parameters if parameter.grad is not None)
    (parameters[0] * 3).sum().backward()
    assert vector.grad[:15].tolist() == [3.0] * 15


def test_large_and_small() -> None:
    parameters = make()
    assert by_size(parameters, 50) == [[parameters[2], parameters[3]], [parameters[0], parameters[1]]]
    assert by_size(parameters, 0) == [parameters]
