"""Precision: what trains in which format, on which device, and what is said when it cannot."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import trainings
from tests.tiny import Listener, listener, tiny_model, tiny_sd15
from tests.trainings import losses, make_pictures, tensors
from trainer import devices
from trainer.adapters import ADAPTERS, attach
from trainer.devices import Precision, Scaler, choose_precision, is_out_of_memory, lower
from trainer.report import Failure
from trainer.settings import Settings
from trainer.storage import Frozen

CPU = torch.device("cpu")


def chosen(**values: Any) -> tuple[Precision, list[str]]:
    report = Listener()
    return choose_precision(Settings(**values), report), report.notes  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["fp16", "bf16", "fp8"])
def test_the_processor_calculates_in_full_and_says_so(word: str) -> None:
    precision, notes = chosen(mixed_precision=word)
    assert (precision.dtype, precision.trained, precision.eight_bit) == (torch.float32, torch.float32, False)
    assert notes == [
        f"Mixed precision: {word} is for graphics cards; the processor is faster and more exact without, so this run uses no (float32)."
    ]


@pytest.mark.parametrize(("values", "dtype", "trained", "eight_bit"), [
    ({"mixed_precision": "no"}, torch.float32, torch.float32, False),
    ({"mixed_precision": "bf16"}, torch.bfloat16, torch.float32, False),
    ({"mixed_precision": "fp16", "full_fp16": True}, torch.float16, torch.float16, False),
    ({"mixed_precision": "bf16", "full_bf16": True}, torch.bfloat16, torch.bfloat16, False),
    ({"mixed_precision": "fp8"}, torch.bfloat16, torch.float32, True),
])  # fmt: skip
def test_what_a_device_that_can_everything_is_asked_for(
    values: dict[str, Any], dtype: torch.dtype, trained: torch.dtype, eight_bit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "supports", lambda dtype, device: None)
    monkeypatch.setattr(devices, "why_not_fp8", lambda device: None)
    precision, notes = chosen(**values)
    assert (precision.dtype, precision.trained, precision.eight_bit, notes) == (dtype, trained, eight_bit, [])
    assert precision.scaler.is_enabled() is (dtype == torch.float16)


@pytest.mark.parametrize(("word", "lacks", "advice"), [
    ("fp8", {"fp8"}, "Use bf16."), ("fp8", {"fp8", "bf16"}, "Use fp16."), ("bf16", {"bf16"}, "Use fp16."),
    ("fp16", {"fp16"}, "Use no."),
])  # fmt: skip
def test_a_card_that_cannot_is_a_failure_with_the_way_out(
    word: str, lacks: set[str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "pick_device", lambda: torch.device("mps"))
    monkeypatch.setattr(devices, "supports", lambda dtype, device: "no" if devices.WORDS[dtype] in lacks else None)
    with pytest.raises(Failure) as failed:
        chosen(mixed_precision=word)
    assert (failed.value.advice, failed.value.key) == (advice, "mixed_precision")


def test_a_device_without_8_bits_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "why_not_float8", lambda device: "8-bit weights are not supported by this card")
    with pytest.raises(Failure, match="fp8 base: 8-bit weights are not supported"):
        chosen(fp8_base=True, mixed_precision="no")


def test_gradients_in_fp16_are_unscaled_too() -> None:
    """torch's own scaler refuses them; the step must be that of the unscaled gradient, and none at an overflow."""
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaler = Scaler("cpu", enabled=True, init_scale=8.0)
    scaler.scale(weight.float().sum()).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [8.0] * 4
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [0.5] * 4
    weight.grad = torch.full_like(weight, torch.inf)
    scaler.scale(torch.zeros(()))
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [0.5] * 4
    assert scaler.get_scale() == 4.0


def test_trained_weights_change_their_format_only_when_asked() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    lower([weight], Precision(CPU, torch.bfloat16))
    assert weight.dtype == torch.float32
    lower([weight], Precision(CPU, torch.bfloat16, torch.bfloat16))
    assert weight.dtype == torch.bfloat16


HALF: dict[str, dict[str, Any]] = {
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16"},
    "full bf16": {"mixed_precision": "bf16", "full_bf16": True},
    "full fp16": {"mixed_precision": "fp16", "full_fp16": True, "optimizer": "AdamW8bit"},
    "fp8": {"mixed_precision": "fp8"},
    "fp8 base": {"mixed_precision": "bf16", "fp8_base": True, "LoRA_type": "Kohya LoCon", "conv_dim": 2},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", HALF)
def test_runs_in_half_precision(
    name: str, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a card, on a processor that is told it may: losses near those of float32, and everything that is saved."""
    s = trainings.settings(model, data, tmp_path / "out", max_train_steps=6, learning_rate=1e-3, save_state=True)
    full = losses(trainings.run(s, tmp_path / "full"))
    monkeypatch.setattr(devices, "supports", lambda dtype, device: None)
    monkeypatch.setattr(devices, "why_not_fp8", lambda device: None)
    half = trainings.run(s.changed(**HALF[name]), tmp_path / "half")
    assert losses(half) == pytest.approx(full, rel=0.1)
    assert losses(half) != full
    saved = tensors(tmp_path / "out" / "small.safetensors")
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in saved.values())
    assert any(weight.count_nonzero() for key, weight in saved.items() if "lora_up" in key)
    coarse = s.changed(**HALF[name])
    if coarse.full_bf16 or coarse.full_fp16:
        trained = [weight for key, weight in saved.items() if "alpha" not in key]
        exact = torch.bfloat16 if coarse.full_bf16 else torch.float16
        assert all(torch.equal(weight, weight.to(exact).float()) for weight in trained)


def test_a_run_in_full_bf16_goes_on_exactly(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "supports", lambda dtype, device: None)
    s = trainings.settings(model, data, tmp_path / "out", max_train_steps=6, learning_rate=1e-2, **HALF["full bf16"])
    whole = trainings.run(s.changed(save_state=True, save_every_n_steps=3), tmp_path / "whole")
    state = tmp_path / "out" / "small-step00000003-state"
    rest = trainings.run(s.changed(resume=str(state), output_name="rest"), tmp_path / "rest")
    assert losses(rest) == losses(whole)[3:]
    one, two = (tensors(tmp_path / "out" / f"{name}.safetensors") for name in ("small", "rest"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(("error", "short"), [
    (torch.OutOfMemoryError("x"), True), (MemoryError(), True), (RuntimeError("HIP out of memory"), True),
    (RuntimeError("shapes differ"), False), (ValueError("out of memory"), False),
])  # fmt: skip
def test_which_errors_mean_that_memory_ran_out(error: Exception, short: bool) -> None:
    assert is_out_of_memory(error) is short


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_type_trains_with_weights_in_half_precision(kind: str) -> None:
    """And beside frozen weights in 8 bits: each has a formula of its own for what it makes of the layer's weight."""
    model = tiny_model()
    precision = Precision(CPU, torch.bfloat16, torch.bfloat16)
    s = Settings(LoRA_type=kind, network_dim=8, conv_dim=8, fp8_base=True, optimizer="AdamW", seed=1)
    frozen = Frozen(model, s, precision)
    adapter = attach(model, s, listener())
    frozen.store(adapter.unet_parameters)
    lower(adapter.unet_parameters, precision)
    with precision.autocast():
        output = model.unet(torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 77, 16), return_dict=False)[0]
    output.float().square().mean().backward()
    gradients = [weight.grad for weight in adapter.unet_parameters if weight.grad is not None]
    assert gradients
    assert all(gradient.dtype == torch.bfloat16 and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.count_nonzero() for gradient in gradients)
