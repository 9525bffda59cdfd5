"""Frozen weights in 8 bits: what is kept, that nothing but the last digits is lost, and that gradients are right."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import trainings
from tests.tiny import listener, tiny_model, tiny_sd15
from tests.trainings import losses, make_pictures, tensors
from trainer import storage
from trainer.adapters import attach
from trainer.devices import Precision
from trainer.models import Model
from trainer.settings import Settings
from trainer.storage import FLOAT8, KEPT, Frozen, Stored, StoredConv2d, StoredLinear, power_of_two

CPU = torch.device("cpu")


def stored(layer: nn.Module, dtype: torch.dtype = torch.float32, **values: Any) -> Any:
    """The layer, kept as the settings say."""

    class Alone:
        unet, text_encoders, device = nn.Sequential(nn.Sequential(layer)), list[nn.Module](), CPU

    alone: Any = Alone()
    Frozen(alone, Settings(**values), Precision(CPU, dtype)).store()
    return layer


def gradient_of_input(layer: Any, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * weight).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_calculates_with_what_it_keeps(bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(24, 10, bias=bias).requires_grad_(False)
    layer = stored(nn.Linear(24, 10, bias=bias).requires_grad_(False), fp8_base=True)
    plain.weight.data = layer.weight
    if bias:
        plain.bias.data = layer.bias
    x, y = torch.randn(3, 5, 24), torch.randn(3, 5, 10)
    assert all(map(torch.equal, gradient_of_input(layer, x, y), gradient_of_input(plain, x, y)))


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 1, "stride": 2}, {"dilation": 2}, {"groups": 2}])
def test_a_convolution_calculates_with_what_it_keeps(options: dict[str, int]) -> None:
    torch.manual_seed(0)
    layer = stored(nn.Conv2d(4, 6, 3, **options).requires_grad_(False), fp8_base=True)  # type: ignore[arg-type]
    plain = nn.Conv2d(4, 6, 3, **options).requires_grad_(False)  # type: ignore[arg-type]
    plain.weight.data, plain.bias.data = layer.weight, layer.bias  # type: ignore[union-attr]
    x = torch.randn(2, 4, 9, 8)
    y = torch.randn_like(plain(x))
    for ours, theirs in zip(gradient_of_input(layer, x, y), gradient_of_input(plain, x, y), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_eight_bits_keep_three_digits_after_the_first_whatever_the_size() -> None:
    """Rounding to 3 binary digits after the point moves a number by at most 1/16 of itself."""
    for size in (1e-3, 0.02, 1.0, 3000.0):
        weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * size
        layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
        layer.weight.data = weight.clone()
        found = stored(layer, fp8_base=True).weight
        large = weight.abs() > weight.abs().max() * 2.0**-13  # below, the format itself has fewer digits
        assert ((found - weight).abs() <= weight.abs() / 16)[large].all()
        assert float((found - weight).norm() / weight.norm()) < 0.03


def test_the_scale_is_the_smallest_power_of_two_that_fits() -> None:
    assert [power_of_two(torch.tensor([peak])) for peak in (448.0, 449.0, 1.0, 0.0)] == [1.0, 2.0, 2.0**-8, 1.0]


def test_a_layer_stays_what_it_was_for_everybody_else() -> None:
    """One byte a weight and no copy; the same names, class and shape; the weight itself in the format of before."""
    layer = stored(nn.Linear(8, 4).requires_grad_(False).to(torch.bfloat16), fp8_base=True)
    assert isinstance(layer, nn.Linear)
    assert layer.kept.dtype == FLOAT8
    assert layer.weight.dtype == torch.bfloat16
    assert (layer.weight.shape, layer.weight.requires_grad) == ((4, 8), False)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_backward_fetches_the_weight_again_instead_of_keeping_it() -> None:
    layer = stored(nn.Linear(64, 64, bias=False).requires_grad_(False), fp8_base=True)
    x = torch.randn(2, 64, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        layer(x).sum()
    assert {tensor.dtype for tensor in kept if tensor.numel() > 1} == {FLOAT8}


@pytest.mark.parametrize(("values", "unet", "text"), [
    ({}, False, False), ({"fp8_base": True}, True, True), ({"fp8_base_unet": True}, True, False),
])  # fmt: skip
def test_which_parts_are_kept_small(values: dict[str, Any], unet: bool, text: bool) -> None:
    model = tiny_model()
    before = size_of(model)
    spared = Frozen(model, Settings(**values), Precision(CPU)).store()
    assert before - size_of(model) == spared
    assert any(isinstance(layer, Stored) for layer in model.unet.modules()) is unet
    assert any(isinstance(layer, Stored) for layer in model.text_encoders[0].modules()) is text
    for name, weight in model.unet.named_parameters():
        small = unet and weight.ndim > 1 and name.split(".")[0] not in KEPT
        assert (weight.dtype == FLOAT8) is small, name
    assert all(
        weight.dtype == torch.float32 for name, weight in model.text_encoders[0].named_parameters() if "embed" in name
    )


def size_of(model: Model) -> int:
    parts = (model.unet, *model.text_encoders)
    return sum(weight.nbytes for part in parts for weight in part.parameters())


@pytest.mark.parametrize("kind", ["Standard", "Kohya LoCon"])
def test_adapters_sit_on_it_and_are_not_made_small(kind: str) -> None:
    model = tiny_model()
    s = Settings(fp8_base=True, LoRA_type=kind, conv_dim=2, optimizer="AdamW", seed=1)
    frozen = Frozen(model, s, Precision(CPU))
    adapter = attach(model, s, listener())
    assert frozen.store(adapter.unet_parameters) > 0
    assert all(weight.dtype == torch.float32 for weight in adapter.unet_parameters + adapter.text_parameters)
    x, t, told = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 77, 16)
    model.unet(x, t, told, return_dict=False)[0].square().sum().backward()
    assert all(weight.grad is not None for weight in adapter.unet_parameters)
    name = next(name for name, layer in adapter.layers.items() if "unet" in name)
    assert adapter.delta(name).shape == adapter.layers[name].weight.shape


def test_a_run_with_small_weights_learns_almost_the_same(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data")
    model = tiny_sd15(tmp_path / "model")
    s = trainings.settings(model, data, tmp_path / "out", max_train_steps=4, sample_at_first=True,
                           sample_prompts="a cat --w 64 --h 64 --s 2", gradient_checkpointing=True)  # fmt: skip
    plain = losses(trainings.run(s, tmp_path / "plain"))
    exact = tensors(tmp_path / "out" / "small.safetensors")
    small = losses(trainings.run(s.changed(fp8_base=True), tmp_path / "fp8"))
    assert small != plain
    assert small == pytest.approx(plain, rel=0.02)
    assert {key: value.shape for key, value in tensors(tmp_path / "out" / "small.safetensors").items()} == {
        key: value.shape for key, value in exact.items()
    }


def test_multiplying_in_eight_bits() -> None:
    """Mixed precision fp8: inputs, weights and gradients each lose digits, and nothing more."""
    torch.manual_seed(0)
    plain = nn.Linear(64, 32).requires_grad_(False).to(torch.bfloat16)
    x, y = torch.randn(3, 5, 64, dtype=torch.bfloat16), torch.randn(3, 5, 32, dtype=torch.bfloat16)
    exact = gradient_of_input(plain, x, y)

    class Alone:
        unet, text_encoders = nn.Sequential(nn.Sequential(plain)), list[nn.Module]()

    alone: Any = Alone()
    Frozen(alone, Settings(), Precision(CPU, torch.bfloat16, eight_bit=True)).store()
    assert isinstance(plain, StoredLinear)
    assert plain.eight_bit
    for found, wanted in zip(gradient_of_input(plain, x, y), exact, strict=True):
        assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.08
    # By hand: both factors rounded, then multiplied exactly.
    scale = x.abs().max().float() / 448
    rounded = (x / scale).to(FLOAT8).float() * scale
    by_hand = F.linear(rounded, plain.kept.float() * plain.scale, plain.bias.float())
    assert torch.allclose(plain(x).float(), by_hand, rtol=0.01, atol=0.01)


def test_layers_that_the_hardware_cannot_multiply_are_fetched() -> None:
    layer = nn.Linear(24, 10).requires_grad_(False).to(torch.bfloat16)

    class Alone:
        unet, text_encoders = nn.Sequential(nn.Sequential(layer)), list[nn.Module]()

    alone: Any = Alone()
    Frozen(alone, Settings(), Precision(CPU, torch.bfloat16, eight_bit=True)).store()
    assert not layer.eight_bit
    assert layer(torch.randn(2, 24, dtype=torch.bfloat16)).shape == (2, 10)


def test_what_is_trained_itself_stays_as_it_is() -> None:
    model = tiny_model()
    layer = model.unet.mid_block.attentions[0].proj_in
    frozen = Frozen(model, Settings(fp8_base=True), Precision(CPU))
    layer.weight.requires_grad_(True)
    frozen.store()
    assert type(layer) is nn.Conv2d
    assert isinstance(model.unet.mid_block.resnets[0].conv1, StoredConv2d)


def test_wide_convolutions_are_kept_with_their_channels_last_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, t, told = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 77, 16)
    found = []
    for least in (1 << 30, 16):
        monkeypatch.setattr(storage, "WIDE", least)
        model = tiny_model()
        s = Settings(LoRA_type="Kohya LoCon", conv_dim=2, optimizer="AdamW", seed=1)
        frozen = Frozen(model, s, Precision(CPU))
        adapter = attach(model, s, listener())
        frozen.store(adapter.unet_parameters)
        output = model.unet(x, t, told, return_dict=False)[0]
        output.square().sum().backward()
        last = model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        found.append((last, output.detach(), [weight.grad for weight in adapter.unet_parameters]))
    assert [last for last, *_ in found] == [False, True]
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
    for one, other in zip(found[0][2], found[1][2], strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("small", [False, True])
def test_a_unet_that_waits_elsewhere_gives_the_same(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """lowvram, with the processor's memory as both places: every layer is fetched, and nothing else changes."""
    x, t, told = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 77, 16)
    found = []
    for far in (False, True):
        monkeypatch.setattr(storage, "is_far", lambda s, device, far=far: far)
        model = tiny_model()
        names = list(model.unet.state_dict())
        s = Settings(lowvram=True, fp8_base=small, optimizer="AdamW", seed=1)
        frozen = Frozen(model, s, Precision(CPU))
        assert list(model.unet.state_dict()) == names
        adapter = attach(model, s, listener())
        spared = frozen.store(adapter.unet_parameters)
        output = model.unet(x, t, told, return_dict=False)[0]
        output.square().sum().backward()
        kinds = {type(layer) for layer in model.unet.modules()}
        assert (StoredLinear in kinds and StoredConv2d in kinds) is (far or small)
        found.append((spared, output.detach(), [weight.grad for weight in adapter.unet_parameters]))
    assert found[1][0] > found[0][0]
    assert torch.equal(found[0][1], found[1][1])
    for one, other in zip(found[0][2], found[1][2], strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
