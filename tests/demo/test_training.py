"""The pieces that train the demo's models, against closed forms and diffusers."""

import math
from pathlib import Path

import pytest
import torch

from trainer.demo.denoiser import (
    PlainAttention,
    make_scheduler,
    make_text_encoder,
    make_unet,
    some_scenes,
    timestep_weights,
)
from trainer.demo.muon import Muon, orthogonal
from trainer.demo.pictures import draw
from trainer.demo.team import Clock, Team, learning_rate, work_together
from trainer.demo.vae import make_vae, standardise, to_tensor


def test_the_learning_rate_follows_the_clock() -> None:
    assert learning_rate(2.0, 0.01) == pytest.approx(2.0)
    assert learning_rate(2.0, 0.505) == pytest.approx(1.0)
    assert learning_rate(2.0, 1.0) == pytest.approx(0.0)
    assert learning_rate(2.0, 0.005) == pytest.approx(1.0)
    assert Clock(minutes=1, seconds=30).tick() == pytest.approx(0.5)
    assert Clock(minutes=1, seconds=90).tick() == 1


def leave_average(team: Team, folder: Path) -> None:
    tensors = [torch.full((2, 3), float(team.rank)), torch.arange(4.0) * team.rank]
    team.average(tensors)
    torch.save([*tensors, torch.tensor(team.agree(team.rank + 7.0))], folder / f"{team.rank}.pt")


def test_a_team_averages_its_weights(tmp_path: Path) -> None:
    work_together(leave_average, 2, tmp_path)
    for rank in (0, 1):
        first, second, agreed = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(first, torch.full((2, 3), 0.5))
        assert torch.equal(second, torch.arange(4.0) / 2)
        assert agreed == 7


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 30, 6)])
def test_muon_moves_every_direction_alike(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_finds_a_least_squares_solution() -> None:
    torch.manual_seed(0)
    wanted, weight = torch.randn(6, 4, 1, 1), torch.nn.Parameter(torch.zeros(6, 4, 1, 1))
    optimizer = Muon([weight], lr=0.5)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = learning_rate(0.5, step / 300)
        loss = (weight - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_timesteps_are_weighted_by_min_snr_and_signal() -> None:
    alphas = torch.tensor([0.99, 0.5, 0.01])
    assert timestep_weights(alphas).tolist() == pytest.approx([20 / 99 / 0.99, 2, 8], rel=1e-4)
    assert timestep_weights(make_scheduler().alphas_cumprod).min() > 0


@torch.no_grad()
def test_plain_attention_is_diffusers_attention() -> None:
    torch.manual_seed(0)
    unet, noisy, context = make_unet().eval(), torch.randn(2, 4, 16, 16), torch.randn(2, 77, 48)
    expected = unet(noisy, torch.tensor([10, 900]), context).sample
    unet.set_attn_processor(PlainAttention())
    assert torch.allclose(unet(noisy, torch.tensor([10, 900]), context).sample, expected, atol=1e-5)


def test_words_start_as_signs_of_one_size() -> None:
    table = make_text_encoder().get_input_embeddings().weight
    assert torch.equal(table.abs(), torch.full_like(table, 0.04))
    assert len(torch.unique(table[:500], dim=0)) == 500


@torch.no_grad()
def test_standardising_changes_latents_but_no_pictures() -> None:
    torch.manual_seed(0)
    vae, images = make_vae().eval(), to_tensor([draw(scene) for scene in some_scenes(61, 6)])
    before, deviation = vae.decode(vae.encode(images).latent_dist.mean).sample, vae.encode(images).latent_dist.std
    ratio = deviation / vae.encode(images).latent_dist.mean.std((0, 2, 3), keepdim=True)
    standardise(vae, images)
    posterior = vae.encode(images).latent_dist
    assert torch.allclose(vae.decode(posterior.mean).sample, before, atol=1e-4)
    scaled = posterior.mean * vae.config.scaling_factor
    assert scaled.mean((0, 2, 3)).abs().max() < 1e-4
    assert all(math.isclose(std, 1, abs_tol=1e-3) for std in scaled.std((0, 2, 3)).tolist())
    assert torch.allclose(posterior.std * vae.config.scaling_factor, ratio, rtol=1e-3)
