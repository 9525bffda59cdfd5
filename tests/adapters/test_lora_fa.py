"""LoRA-FA: A is drawn as the reference draws it, stays as it is, and is in the file; B alone learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import trainings
from tests.adapters.made import attached, drawn, taught
from tests.tiny import tiny_folder, tiny_model
from tests.trainings import losses, make_pictures, tensors
from trainer import formats
from trainer.adapters.lora import DOWN, UP

KIND: dict[str, Any] = {
    "LoRA_type": "LoRA-FA", "network_dim": 6, "network_alpha": 3, "conv_dim": 2, "conv_alpha": 5,
}  # fmt: skip
CONV = "lora_unet_mid_block_resnets_0_conv1"


def test_it_starts_normal_with_the_variance_of_the_reference() -> None:
    """Variance 2 / (inputs + rank), where a convolution's inputs are its channels; B is zero: nothing changes."""
    model, adapter = attached(**{**KIND, "network_dim": 64, "conv_dim": 16})
    drawn_values, large = [], 0.0
    for name in adapter.layers:
        weights, rank = adapter.weights(name), adapter.sizes[name].rank
        std = math.sqrt(2 / (weights[DOWN].shape[1] + rank))
        drawn_values.append((weights[DOWN] / std).flatten())
        large = max(large, float(drawn_values[-1].abs().max()))
        assert not weights[UP].any()
    values = torch.cat(drawn_values)
    assert values.std().item() == pytest.approx(1, rel=0.01)
    assert values.mean().item() == pytest.approx(0, abs=0.01)
    assert large > 3.5, "a normal distribution has tails"
    torch.testing.assert_close(attached(**KIND)[1].weights(CONV)[DOWN].std().item(), math.sqrt(2 / 26), rtol=0.15, atol=0)
    assert torch.equal(drawn(model.unet), drawn(tiny_model().unet))


def test_a_alone_is_frozen() -> None:
    model, adapter = taught(**KIND)
    model.unet(torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 77, 16)).sample.square().mean().backward()
    for name in adapter.layers:
        weights = adapter.weights(name)
        assert (weights[DOWN].requires_grad, weights[UP].requires_grad) == (False, True)
        assert weights[DOWN].grad is None
        assert (weights[UP].grad is not None) == name.startswith("lora_unet")
    assert len(adapter.unet_parameters) == len([name for name in adapter.layers if name.startswith("lora_unet")])
    assert not adapter.rests


def test_the_gradient_of_b_is_that_of_a_lora() -> None:
    model, adapter = taught(**KIND)
    lora, other = taught(**{**KIND, "LoRA_type": "Kohya LoCon"})
    other.load(adapter.state_dict())
    noise, states = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 16)
    for some in (model, lora):
        some.unet(noise, torch.tensor([5]), states).sample.square().mean().backward()
    for name in (name for name in adapter.layers if name.startswith("lora_unet")):
        torch.testing.assert_close(adapter.weights(name)[UP].grad, other.weights(name)[UP].grad)


def test_convolutions_only_where_they_have_a_rank() -> None:
    assert len(attached(**KIND)[1].layers) == 192 + 86 + 18
    assert len(attached(**{**KIND, "conv_dim": 0})[1].layers) == 192 + 18


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("run")
    made = {family: tiny_folder(root / family, family=family, tokenizer=False) for family in ("sd15", "sdxl")}
    return {"data": make_pictures(root / "data"), **made}


GOLDEN = {
    "sd15": [1.1426897, 1.1520047, 1.1307585, 1.0784492, 1.056587, 0.9961623, 1.0351214, 0.8271662],
    "sdxl": [1.1051133, 1.1266545, 1.0984234, 1.0774928, 1.0640366, 0.9563459, 1.0320328, 0.8148466],
}
RUN: dict[str, Any] = {**KIND, "train_batch_size": 2, "min_snr_gamma": 5, "bucket_reso_steps": 32}


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_losses(family: str, places: dict[str, Path], tmp_path: Path) -> None:
    s = trainings.settings(places[family], places["data"], tmp_path / "out", max_train_steps=8, learning_rate=2e-3, **RUN)
    assert losses(trainings.run(s, tmp_path / "run")) == pytest.approx(GOLDEN[family], abs=1e-5)


def test_a_stays_as_it_was_drawn(places: dict[str, Path], tmp_path: Path) -> None:
    """Weight decay and momentum included; and a run that goes on from a file goes on with the file's A."""
    s = trainings.settings(places["sd15"], places["data"], tmp_path / "out", max_train_steps=4, learning_rate=1e-2,
                           optimizer_args="weight_decay=0.5", **RUN)  # fmt: skip
    trainings.run(s, tmp_path / "run")
    _, fresh = attached(seed=42, **KIND)
    start, end = fresh.state_dict(), tensors(tmp_path / "out" / "small.safetensors")
    assert start.keys() == end.keys()
    for key in start:
        assert torch.equal(start[key], end[key]) == (not key.endswith(UP)), key
    other = s.changed(seed=7, network_weights=str(tmp_path / "out" / "small.safetensors"), output_name="more")
    trainings.run(other, tmp_path / "more")
    more = tensors(tmp_path / "out" / "more.safetensors")
    assert all(torch.equal(more[key], start[key]) == (not key.endswith(UP)) for key in start)


def test_a_lora_can_be_gone_on_with(tmp_path: Path) -> None:
    """The file is a LoRA's; its A is then the one that stays."""
    _, lora = taught(network_dim=6, network_alpha=3)
    file = formats.save(tmp_path / "a.safetensors", lora.state_dict(), {})
    _, adapter = attached(**{**KIND, "conv_dim": 0, "network_weights": str(file)})
    mine, its = adapter.state_dict(), lora.state_dict()
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[key], its[key]) for key in its)
