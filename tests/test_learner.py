"""What learns at which rate: LoRA+ and blocks in closed form, schedules, optimizers that know one rate, resting parts."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import trainings
from tests.adapters.made import attached
from tests.tiny import listener, tiny_sd15
from tests.trainings import losses, make_pictures, tensors
from trainer import formats
from trainer.adapters.arguments import network_args
from trainer.adapters.lora import DOWN, UP
from trainer.devices import Scaler, choose_precision
from trainer.events import Step
from trainer.learner import Learner
from trainer.optimizers import OPTIMIZERS
from trainer.report import Failure, Stopped
from trainer.settings import Settings

TYPES = ("Standard", "Kohya LoCon", "LoRA-FA", "Kohya DyLoRA", "LyCORIS/LoHa")
SGD: dict[str, Any] = {
    "optimizer": "SGDNesterov", "optimizer_args": "momentum=0 nesterov=False", "max_grad_norm": 0,
    "lr_scheduler": "constant", "lr_warmup": 0, "mixed_precision": "no",
}  # fmt: skip


def learner(steps: int = 10, **values: Any) -> tuple[Any, Any, Learner]:
    """A tiny model, an adapter, and what moves it."""
    s = Settings(**{"lr_warmup": 0, "mixed_precision": "no", **values})
    model, adapter = attached(**values)
    plan: Any = SimpleNamespace(steps=steps, warmup_steps=0)
    made = Learner(adapter, s, plan, choose_precision(s, listener()), listener())
    made.set_rates(0)
    return model, adapter, made


@pytest.mark.parametrize("kind", TYPES)
def test_a_step_of_sgd_is_the_gradient_times_each_groups_rate(kind: str) -> None:
    """Steps of the rate of the part x the ratio of LoRA+ x the weight of the block (sd-scripts multiplies the same)."""
    blocks: dict[str, Any] = {"up_lr_weight": "linear+0.5", "mid_lr_weight": "2"}
    blocks = {} if kind.startswith("LyCORIS") else blocks
    plus = {"loraplus_lr_ratio": 16, "loraplus_unet_lr_ratio": 4}
    _, adapter, made = learner(
        LoRA_type=kind, unet_lr=1e-2, text_encoder_lr=1e-3, conv_dim=0 if "Dy" in kind else 1, **SGD, **blocks, **plus
    )
    groups, generator = adapter.groups(), torch.Generator().manual_seed(0)
    gradients, before = {}, {}
    for group in groups:
        for parameter in group.parameters:
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.copy_(gradient)
            gradients[id(parameter)], before[id(parameter)] = gradient.clone(), parameter.detach().clone()
    made.step()
    seen = set()
    for group in groups:
        part, *words = group.name.split()
        rate = {"unet": 1e-2, "textencoder": 1e-3}[part]
        rate *= {"unet": 4, "textencoder": 16}[part] if words[-1:] == ["plus"] else 1
        rate *= int(words[1]) / 11 + 0.5 if words[:1] == ["up"] else 2 if words[:1] == ["mid"] else 1
        seen.add(round(rate, 6))
        for parameter in group.parameters:
            moved = parameter.detach() - before[id(parameter)]
            torch.testing.assert_close(moved, -rate * gradients[id(parameter)], atol=1e-6, rtol=1e-4)
    assert len(seen) >= (8 if blocks else 4)


@pytest.mark.parametrize("limit", [0.0, 0.01])
def test_the_length_of_gradients_is_limited_as_they_are_without_the_scale_of_fp16(limit: float) -> None:
    """Losses of fp16 are made 65536 times as large on the way back; what is learnt does not show it."""
    moved = []
    for scale in (0.0, 2.0**16):
        _, adapter, made = learner(learning_rate=1.0, **{**SGD, "max_grad_norm": limit})
        if scale:
            made.precision.scaler = Scaler("cpu", init_scale=scale)
        before = [parameter.detach().clone() for parameter in adapter.unet_parameters]
        loss = torch.stack([(parameter - 1).square().sum() for parameter in adapter.unet_parameters]).sum()
        made.backward(loss)
        made.step()
        moved.append([now.detach() - then for now, then in zip(adapter.unet_parameters, before, strict=True)])
    torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=1e-4)
    length = torch.stack([change.norm() for change in moved[0]]).norm().item()
    assert length == pytest.approx(limit, rel=1e-3) if limit else length > 1


def test_the_half_that_starts_at_zero_is_the_faster() -> None:
    _, adapter, made = learner(loraplus_lr_ratio=16, **SGD)
    rates = {
        id(p): g["lr"]
        for g, own in zip(made.optimizer.param_groups, adapter.groups(), strict=True)
        for p in own.parameters
    }
    for name in adapter.layers:
        weights = adapter.weights(name)
        assert rates[id(weights[UP])] == pytest.approx(16 * rates[id(weights[DOWN])])


def test_schedules_scale_all_groups_alike() -> None:
    _, _, made = learner(steps=10, loraplus_lr_ratio=4, lr_scheduler="linear", mid_lr_weight="0.5", text_encoder_lr=5e-5,
                         optimizer="AdamW", lr_warmup=0)  # fmt: skip
    made.set_rates(0)
    start = made.rates
    made.set_rates(5)
    assert {name: rate / start[name] for name, rate in made.rates.items()} == pytest.approx(dict.fromkeys(start, 0.5))
    assert start["unet mid"] == pytest.approx(5e-5)
    assert start["unet mid plus"] == pytest.approx(2e-4)
    assert start["textencoder plus"] == pytest.approx(2e-4)


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "Adafactor"])
def test_optimizers_that_know_one_rate_refuse_others(name: str) -> None:
    with pytest.raises(Failure, match=r"LoRA\+ learning rate ratio: .* finds one rate") as failed:
        learner(optimizer=name, loraplus_lr_ratio=2)
    assert failed.value.key == "loraplus_lr_ratio"
    with pytest.raises(Failure, match=r"Up LR weights: .* finds one rate"):
        learner(optimizer=name, up_lr_weight="sine+0.1")
    _, adapter, _ = learner(optimizer=name, up_lr_weight="zeros")
    assert not any("_up_blocks_" in layer for layer in adapter.layers)


def test_the_text_encoders_groups_come_to_rest_together() -> None:
    _, adapter, made = learner(optimizer="AdamW", loraplus_lr_ratio=4, mid_lr_weight="0.5")
    before = made.parts
    assert made.trains_text
    made.rest_text_encoder()
    assert made.parts == [name for name in before if name.startswith("unet")] != before
    assert not any(parameter.requires_grad for parameter in adapter.text_parameters)


def test_module_dropout_counts_only_where_it_means_something() -> None:
    """What is left in a hidden field does not cost an ordinary run its speed."""
    assert attached(module_dropout=0.1)[1].rests
    assert not attached()[1].rests
    assert attached(LoRA_type="Kohya DyLoRA")[1].rests


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_has_no_gradient_does_not_move(name: str) -> None:
    """Nor does its part of the optimizer's memory: no optimizer of the table touches it, whatever it remembers."""
    rate = 1.0 if OPTIMIZERS[name].finds_rate else 1e-2
    _, adapter, made = learner(LoRA_type="Kohya DyLoRA", network_dim=2, conv_dim=0, optimizer=name, learning_rate=rate)
    first, second = adapter.unet_parameters[:2]
    for _ in range(3):
        for parameter in made.parameters:
            parameter.grad = torch.ones_like(parameter)
        made.step()
    assert all(parameter.grad is None for parameter in made.parameters)
    values, memory = first.detach().clone(), _memory(made, first)
    moving = second.detach().clone()
    for _ in range(3):
        for parameter in made.parameters[1:]:
            parameter.grad = torch.ones_like(parameter)
        made.step()
    assert torch.equal(first, values)
    assert all(torch.equal(one, other) for one, other in zip(_memory(made, first), memory, strict=True))
    assert not torch.equal(second, moving)


def _memory(made: Learner, parameter: Any) -> list[torch.Tensor]:
    return [value.clone() for value in made.optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]


# Whole runs


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("run")
    return tiny_sd15(root / "model", tokenizer=False), make_pictures(root / "data")


GROUPS: dict[str, dict[str, Any]] = {
    "plus": {"loraplus_lr_ratio": 8, "optimizer": "AdamW8bit"},
    "blocks": {"LoRA_type": "LoRA-FA", "up_lr_weight": "cosine+0.1", "down_lr_weight": "zeros", "network_dim": 2},
    "schedule-free": {"loraplus_unet_lr_ratio": 4, "optimizer": "AdamWScheduleFree", "stop_text_encoder_training": 25},
}


@pytest.mark.parametrize("kind", GROUPS)
def test_a_stopped_run_goes_on_exactly(
    kind: str, places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.report.LOOK_EVERY", 0.0)
    s = trainings.settings(
        *places, tmp_path / "out", max_train_steps=6, lr_scheduler="cosine", **{"conv_dim": 0, **GROUPS[kind]}
    )
    whole = trainings.run(s.changed(output_name="whole"), tmp_path / "whole")
    with pytest.raises(Stopped):
        trainings.run(s, tmp_path / "first", at={3: "stop"})
    state = str(tmp_path / "out" / "small-step00000003-state")
    second = trainings.run(s.changed(resume=state), tmp_path / "second")
    assert losses(second) == losses(whole)[3:]
    assert [event.lr for event in second if isinstance(event, Step)] == [
        event.lr for event in whole if isinstance(event, Step)
    ][3:]
    one, other = (tensors(tmp_path / "out" / f"{name}.safetensors") for name in ("whole", "small"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    about = formats.read_metadata(tmp_path / "out" / "small.safetensors")
    assert json.loads(about["ss_network_args"]) == network_args(s) != {}
    assert about["ss_network_dim"] == str(s.network_dim)
    if kind == "plus":
        with pytest.raises(Failure, match=r"other LoRA\+ ratios or weights of blocks"):
            trainings.run(s.changed(resume=state, loraplus_lr_ratio=0), tmp_path / "third")
        # Another ratio is another rate, which a resumed run may have.
        found = trainings.run(
            s.changed(resume=state, loraplus_lr_ratio=2, lr_scheduler="constant"), tmp_path / "fourth"
        )
        assert next(event.lr for event in found if isinstance(event, Step)) == pytest.approx(
            {"unet": 1e-3, "unet plus": 2e-3, "textencoder": 1e-3, "textencoder plus": 2e-3}
        )
