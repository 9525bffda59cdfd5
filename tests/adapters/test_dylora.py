"""Kohya's DyLoRA: which ranks learn in a pass and which must not move, how it counts, and that it can be repeated."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests import trainings
from tests.adapters.made import attached, drawn, read, taught
from tests.tiny import tiny_folder, tiny_model
from tests.trainings import losses, make_pictures, tensors
from trainer import formats
from trainer.adapters.lora import DOWN, UP
from trainer.devices import Precision, lower
from trainer.events import Saved, Step
from trainer.report import Failure, Stopped

KIND: dict[str, Any] = {
    "LoRA_type": "Kohya DyLoRA", "network_dim": 8, "network_alpha": 3, "conv_dim": 4, "conv_alpha": 2, "unit": 2,
}  # fmt: skip
LINEAR = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
SMALL = "lora_unet_mid_block_attentions_0_proj_in"
CONV = "lora_unet_mid_block_resnets_0_conv1"
DOWNSAMPLER = "lora_unet_down_blocks_0_downsamplers_0_conv"
SHAPES = {LINEAR: (2, 5, 24), SMALL: (2, 24, 3, 3), CONV: (2, 24, 3, 3), DOWNSAMPLER: (2, 8, 4, 4)}


def update(adapter: Any, name: str, x: Tensor) -> Tensor:
    """What the adapter adds to the layer's output."""
    layer = adapter.layers[name]
    plain: Tensor = type(layer).forward(layer, x)
    return layer(x) - plain


def product(adapter: Any, name: str, x: Tensor) -> Tensor:
    """B A x with all ranks, by torch's own functions."""
    layer, weights = adapter.layers[name], adapter.weights(name)
    if isinstance(layer, torch.nn.Conv2d):
        return F.conv2d(F.conv2d(x, weights[DOWN], None, layer.stride, layer.padding), weights[UP])
    return x @ weights[DOWN].mT @ weights[UP].mT


@pytest.mark.parametrize("name", SHAPES)
def test_a_pass_has_all_ranks_and_teaches_a_few(name: str) -> None:
    """y = W x + alpha / rank · √(rank / (r + unit)) B A x; gradients for the ranks r to r + unit, r as likely as any."""
    _, adapter = taught(**KIND)
    size, x = adapter.sizes[name], torch.randn(SHAPES[name])
    whole = product(adapter, name, x).detach()
    down, up = (adapter.learns(name)[ending] for ending in (DOWN, UP))
    assert len(down) == len(up) == size.rank // 2
    seen: Counter[int] = Counter()
    torch.manual_seed(0)
    for _ in range(400):
        found = update(adapter, name, x)
        found.square().sum().backward()
        (block,) = (number for number, weight in enumerate(down) if weight.grad is not None)
        assert [weight.grad is not None for weight in up] == [number == block for number in range(len(up))]
        scale = size.alpha / size.rank * math.sqrt(size.rank / (2 * block + 2))
        torch.testing.assert_close(found.detach(), scale * whole, atol=1e-5, rtol=1e-4)
        seen[block] += 1
        for weight in (*down, *up):
            weight.grad = None
    share = 2 / size.rank
    assert all(seen[block] / 400 == pytest.approx(share, abs=0.08) for block in range(size.rank // 2))


@pytest.mark.parametrize("name", SHAPES)
def test_the_gradients_are_those_of_a_lora(name: str) -> None:
    """Of the ranks that were drawn: as if the whole of A and B had been trained."""
    _, adapter = taught(**KIND)
    x = torch.randn(SHAPES[name])
    torch.manual_seed(1)
    update(adapter, name, x).square().sum().backward()
    blocks = adapter.learns(name)
    (number,) = (n for n, weight in enumerate(blocks[DOWN]) if weight.grad is not None)
    size, layer = adapter.sizes[name], adapter.layers[name]
    scale = size.alpha / size.rank * math.sqrt(size.rank / (2 * number + 2))
    down, up = (adapter.weights(name)[ending].detach().clone().requires_grad_() for ending in (DOWN, UP))
    if isinstance(layer, torch.nn.Conv2d):
        y = F.conv2d(F.conv2d(x, down, None, layer.stride, layer.padding), up) * scale
    else:
        y = x @ down.mT @ up.mT * scale
    y.square().sum().backward()
    rows = slice(2 * number, 2 * number + 2)
    assert down.grad is not None
    assert up.grad is not None
    torch.testing.assert_close(blocks[DOWN][number].grad, down.grad[rows], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(blocks[UP][number].grad, up.grad[:, rows].flatten(1).mT, atol=1e-3, rtol=1e-4)


def test_while_drawing_it_is_the_lora_of_its_file() -> None:
    model, adapter = taught(**KIND)
    assert not torch.equal(update(adapter, LINEAR, torch.ones(1, 1, 24)), update(adapter, LINEAR, torch.ones(1, 1, 24)))
    adapter.train(False)
    lora, other = attached(**{**KIND, "LoRA_type": "Kohya LoCon"})
    loaded = other.load(adapter.state_dict())
    assert (loaded.missing, loaded.unexpected) == ((), ())
    torch.testing.assert_close(drawn(model.unet), drawn(lora.unet), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read(model.text_encoders[0]), read(lora.text_encoders[0]), atol=1e-5, rtol=1e-5)
    assert (drawn(model.unet) - drawn(tiny_model().unet)).abs().max() > 0.05


def test_captions_encoded_once_are_not_a_matter_of_luck() -> None:
    """Without gradients nothing is drawn, even before the first picture is asked for."""
    model, adapter = taught(**KIND)
    assert adapter.training
    assert torch.equal(read(model.text_encoders[0]), read(model.text_encoders[0]))


def test_files_and_parameters_share_their_values() -> None:
    _, adapter = taught(**KIND)
    weights = adapter.weights(CONV)
    assert weights[DOWN].shape == (4, 24, 3, 3)
    assert weights[UP].shape == (24, 4, 1, 1)
    blocks = adapter.learns(CONV)
    assert torch.equal(torch.cat([*blocks[DOWN]]), weights[DOWN])
    assert torch.equal(torch.cat([*blocks[UP]]).mT, weights[UP].flatten(1))
    with torch.no_grad():
        blocks[UP][1].fill_(7)
    assert torch.equal(adapter.weights(CONV)[UP][:, 2:4].flatten(), torch.full((48,), 7.0))
    assert adapter.state_dict()[f"{CONV}.{UP}"].is_contiguous()


def test_the_start_is_that_of_a_lora() -> None:
    _, adapter = attached(seed=3, **KIND)
    _, lora = attached(seed=3, **{**KIND, "LoRA_type": "Kohya LoCon"})
    mine, other = adapter.state_dict(), lora.state_dict()
    assert list(mine) == list(other)
    assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_layers() -> None:
    """264 in SD1.5 without convolutions (here 192 + 18), and LoCon's with them; both encoders of XL by their own names."""
    assert len(attached(**{**KIND, "conv_dim": 0})[1].layers) == 192 + 18
    assert len(attached(**KIND)[1].layers) == 192 + 86 + 18
    _, xl = attached(family="sdxl", **{**KIND, "conv_dim": 0})
    _, lora = attached(family="sdxl")
    assert xl.layers.keys() == lora.layers.keys()
    assert {name.split("_", 2)[1] for name in xl.layers} == {"te1", "te2", "unet"}


def test_a_unit_that_does_not_divide_a_rank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="DyLoRA Unit / Block size: 3 does not divide the rank 8") as failed:
        attached(**{**KIND, "unit": 3})
    assert failed.value.key == "unit"
    _, adapter = taught(**KIND)
    file = formats.save(tmp_path / "a.safetensors", adapter.state_dict(), {})
    with pytest.raises(Failure, match="does not divide"):
        attached(**{**KIND, "unit": 8, "network_weights": str(file), "dim_from_weights": True})


def test_autocast_and_half_precision() -> None:
    """The parameters stay float32, the outputs have the layer's type."""
    _, adapter = taught(**KIND)
    for layer in (adapter.layers[LINEAR], adapter.layers[CONV]):
        layer.to(torch.bfloat16)
    for name in (LINEAR, CONV):
        x = torch.randn(SHAPES[name], dtype=torch.bfloat16)
        assert adapter.layers[name](x).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            y = adapter.layers[name](x)
            assert y.dtype == torch.bfloat16
        y.float().sum().backward()
        grown = [weight.grad for weight in adapter.learns(name)[UP] if weight.grad is not None]
        assert grown
        assert {gradient.dtype for gradient in grown} == {torch.float32}


def test_gradient_checkpointing_draws_the_same_again() -> None:
    gradients = []
    for checkpointing in (False, True):
        model, adapter = taught(**KIND)
        model.unet.train()
        model.text_encoders[0].train()
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
            model.text_encoders[0].gradient_checkpointing_enable({"use_reentrant": False})
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(4)
        states = model.text_encoders[0](torch.tensor([[49406, 320, 2368, *([49407] * 74)]] * 2)).last_hidden_state
        model.unet(latents, torch.tensor([10, 700]), states).sample.square().mean().backward()
        gradients.append([weight.grad for weight in (*adapter.unet_parameters, *adapter.text_parameters)])
    there = [[gradient is not None for gradient in some] for some in gradients]
    assert there[0] == there[1]
    assert 0 < sum(there[0]) < len(there[0]) / 2
    for plain, recomputed in zip(*gradients, strict=True):
        if plain is not None:
            torch.testing.assert_close(recomputed, plain, atol=1e-6, rtol=1e-4)


# Whole runs


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("run")
    made = {family: tiny_folder(root / family, family=family, tokenizer=False) for family in ("sd15", "sdxl")}
    return {"data": make_pictures(root / "data"), **made}


@pytest.fixture
def _heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.report.LOOK_EVERY", 0.0)


GOLDEN = {
    "sd15": [1.1426897, 1.1674688, 1.1571231, 1.0980921, 1.0800632, 1.0439165, 1.0838668, 0.8520961],
    "sdxl": [1.1051133, 1.1334953, 1.1158087, 1.1012158, 1.0990467, 0.9916807, 1.0710527, 0.8580174],
}
SMALL_RUN: dict[str, Any] = {
    "LoRA_type": "Kohya DyLoRA", "unit": 2, "conv_dim": 2, "train_batch_size": 2, "learning_rate": 2e-3,
    "min_snr_gamma": 5, "bucket_reso_steps": 32,
}  # fmt: skip


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_losses(family: str, places: dict[str, Path], tmp_path: Path) -> None:
    s = trainings.settings(places[family], places["data"], tmp_path / "out", max_train_steps=8, **SMALL_RUN)
    assert losses(trainings.run(s, tmp_path / "run")) == pytest.approx(GOLDEN[family], abs=1e-5)


@pytest.mark.usefixtures("_heard_at_once")
def test_a_stopped_run_goes_on_exactly(places: dict[str, Path], tmp_path: Path) -> None:
    """The same ranks are drawn as if it had not been stopped, and each block's count of steps is its own."""
    s = trainings.settings(places["sd15"], places["data"], tmp_path / "out", max_train_steps=6, **SMALL_RUN)
    whole = trainings.run(s.changed(output_name="whole"), tmp_path / "whole")
    with pytest.raises(Stopped):
        trainings.run(s, tmp_path / "first", at={3: "stop"})
    state = str(tmp_path / "out" / "small-step00000003-state")
    second = trainings.run(s.changed(resume=state), tmp_path / "second")
    assert losses(second) == losses(whole)[3:]
    one, other = (tensors(tmp_path / "out" / f"{name}.safetensors") for name in ("whole", "small"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_ranks_that_were_not_drawn_do_not_move(places: dict[str, Path], tmp_path: Path) -> None:
    """Not by momentum nor by weight decay: between two steps, of each layer just one block of ranks changes."""
    s = trainings.settings(places["sd15"], places["data"], tmp_path / "out", max_train_steps=6, save_every_n_steps=1,
                           optimizer_args="weight_decay=0.1", **{**SMALL_RUN, "network_dim": 8})  # fmt: skip
    events = trainings.run(s, tmp_path / "run")
    assert len([event for event in events if isinstance(event, Step)]) == 6
    files = [event.path for event in events if isinstance(event, Saved) and event.what == "weights"]
    moved: Counter[int] = Counter()
    for before, after in zip(map(tensors, map(Path, files)), map(tensors, map(Path, files[1:])), strict=False):
        for key in (key for key in after if key.endswith(DOWN)):
            blocks = (after[key] != before[key]).flatten(1).any(1).view(-1, 2).any(1)
            assert blocks.sum() <= 1, key
            moved[int(blocks.sum())] += 1
    assert moved[1] > 0.8 * moved.total()


def test_another_number_format_keeps_blocks_and_whole_together() -> None:
    """Full bf16 training gives every parameter other memory; what learns must stay what is used and saved."""
    _, adapter = taught(**KIND)
    before = adapter.state_dict()
    lower([*adapter.unet_parameters, *adapter.text_parameters], Precision(torch.device("cpu"), trained=torch.bfloat16))
    for name, shape in SHAPES.items():
        blocks = adapter.learns(name)
        assert {weight.dtype for some in blocks.values() for weight in some} == {torch.bfloat16}
        with torch.no_grad():
            for weight in blocks[UP]:
                weight.add_(1)
        assert torch.equal(torch.cat([*blocks[UP]]).mT, adapter.weights(name)[UP].flatten(1))
        torch.testing.assert_close(adapter.state_dict()[f"{name}.{UP}"], before[f"{name}.{UP}"] + 1, atol=1e-2, rtol=1e-2)
        assert adapter.layers[name](torch.randn(shape)).dtype == torch.float32
