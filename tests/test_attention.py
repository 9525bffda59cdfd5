"""Every way to calculate attention gives the same result and the same gradients."""

import importlib.machinery
import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tiny import Listener, listener, tiny_model
from trainer.adapters import attach
from trainer.attention import CHOICES, attend_in_slices, choose_attention
from trainer.settings import Settings


def pass_of(report: Any, **values: Any) -> tuple[Any, Tensor, list[Tensor]]:
    """A pass forward and backward of the tiny U-Net with an adapter that has learnt something."""
    model = tiny_model()
    s = Settings(optimizer="AdamW", seed=1, **values)
    choose_attention(model, s, report)
    adapter = attach(model, s, listener())
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapter.unet_parameters:
            weight.add_(0.1 * torch.randn(weight.shape, generator=source))
    x, told = torch.randn(2, 4, 8, 12, generator=source), torch.randn(2, 77, 16, generator=source)
    output = model.unet(x, torch.tensor([3, 700]), told, return_dict=False)[0]
    output.square().mean().backward()
    return model, output.detach(), [weight.grad for weight in adapter.unet_parameters if weight.grad is not None]


WAYS: dict[str, dict[str, Any]] = {"none": {"xformers": "none"}, "memory efficient": {"mem_eff_attn": True}}


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_give_the_same(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.attention.ROWS", 16)  # several slices of the 96 positions
    monkeypatch.setattr(attend_in_slices, "__defaults__", (16,))
    model, wanted, wanted_gradients = pass_of(listener(), xformers="sdpa")
    other, found, gradients = pass_of(listener(), **WAYS[way])
    assert torch.allclose(found, wanted, atol=1e-5)
    assert len(gradients) == len(wanted_gradients) > 0
    for one, two in zip(gradients, wanted_gradients, strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    kinds = [{type(way) for way in one.unet.attn_processors.values()} for one in (model, other)]
    assert kinds[0] != kinds[1]


def test_without_xformers_sdpa_takes_its_place_and_a_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    report = Listener()
    model = tiny_model()
    choose_attention(model, Settings(xformers="xformers"), report)  # type: ignore[arg-type]
    assert {type(way).__name__ for way in model.unet.attn_processors.values()} == {"AttnProcessor2_0"}
    assert report.notes == [
        "CrossAttention: the package xformers is not installed here; sdpa is used, with the same result."
    ]


def test_on_the_processor_xformers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("xformers", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    report = Listener()
    choose_attention(tiny_model(), Settings(xformers="xformers"), report)  # type: ignore[arg-type]
    assert "graphics cards" in report.notes[0]


def test_with_xformers_its_kernel_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of the package's one function, by its documented formula; inputs are [B heads, N, d]."""
    called = []

    def kernel(
        query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, op: Any = None, scale: float | None = None
    ) -> Tensor:
        called.append(query.shape)
        return F.scaled_dot_product_attention(query, key, value, scale=scale)

    from diffusers.models import attention_processor

    fake = SimpleNamespace(ops=SimpleNamespace(memory_efficient_attention=kernel))
    monkeypatch.setattr(attention_processor, "xformers", fake, raising=False)
    monkeypatch.setattr("trainer.attention.why_not_xformers", lambda device: None)
    report = Listener()
    _, found, _ = pass_of(report, xformers="xformers")
    assert called
    assert not report.notes
    assert torch.allclose(found, pass_of(listener(), xformers="sdpa")[1], atol=1e-5)


def test_slices_are_never_whole() -> None:
    """The largest block of scores that is kept for backward has as many rows as a slice, not as there are queries."""
    query = torch.randn(2, 256, 8, requires_grad=True)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):  # type: ignore[func-returns-value]
        attend_in_slices(query, query, query, 0.3, rows=32)
    assert max(sizes) < 2 * 32 * 256


def test_the_choices_are_the_ones_people_know() -> None:
    assert CHOICES == ("none", "sdpa", "xformers")
