"""The formulas against closed forms and against diffusers' own scheduler."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from tests.tiny import SCHEDULER
from trainer import diffusion


def judge() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


def sample(count: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    source = diffusion.generator(1)
    x0 = torch.randn(count, 4, 6, 8, generator=source)
    t = torch.tensor([0, 1, 500, 998, 999])
    return x0, diffusion.draw_noise(x0.shape, 0.0, source), t, diffusion.alpha_bars(SCHEDULER)[t]


def test_alpha_bars_are_those_of_stable_diffusion() -> None:
    alpha_bars = diffusion.alpha_bars(SCHEDULER)
    assert torch.equal(alpha_bars, judge().alphas_cumprod)
    assert alpha_bars[0] == pytest.approx(1 - 0.00085)
    assert alpha_bars[999] == pytest.approx(0.0047, abs=1e-4)


def test_alpha_bars_of_a_linear_schedule() -> None:
    config = {"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.3, "num_train_timesteps": 3}
    assert diffusion.alpha_bars(config).tolist() == pytest.approx([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])


def test_an_unknown_noise_schedule_is_named() -> None:
    with pytest.raises(ValueError, match="squaredcos"):
        diffusion.alpha_bars({"beta_schedule": "squaredcos_cap_v2"})


def test_mixing_and_velocity_equal_diffusers() -> None:
    x0, noise, t, alpha_bar = sample()
    assert torch.allclose(diffusion.mix(x0, noise, alpha_bar), judge().add_noise(x0, noise, t), atol=1e-6)
    assert torch.allclose(diffusion.velocity(x0, noise, alpha_bar), judge().get_velocity(x0, noise, t), atol=1e-6)


def test_x0_and_noise_come_back_from_a_mixture_and_its_velocity() -> None:
    x0, noise, _, alpha_bar = sample()
    mixture, v = diffusion.mix(x0, noise, alpha_bar), diffusion.velocity(x0, noise, alpha_bar)
    a = alpha_bar.view(-1, 1, 1, 1)
    assert torch.allclose(a.sqrt() * mixture - (1 - a).sqrt() * v, x0, atol=1e-5)
    assert torch.allclose((1 - a).sqrt() * mixture + a.sqrt() * v, noise, atol=1e-5)


def test_targets() -> None:
    x0, noise, _, alpha_bar = sample()
    assert diffusion.target(x0, noise, alpha_bar, "epsilon") is noise
    assert torch.equal(diffusion.target(x0, noise, alpha_bar, "v_prediction"), diffusion.velocity(x0, noise, alpha_bar))
    with pytest.raises(ValueError, match="flow"):
        diffusion.target(x0, noise, alpha_bar, "flow")


def test_min_snr_weights_by_hand() -> None:
    alpha_bar = torch.tensor([0.5, 0.9, 0.99])  # SNR 1, 9, 99
    assert diffusion.snr(alpha_bar).tolist() == pytest.approx([1, 9, 99], rel=1e-5)
    noise_weights = diffusion.min_snr_weight(alpha_bar, 5.0, "epsilon")
    assert noise_weights.tolist() == pytest.approx([1, 5 / 9, 5 / 99], rel=1e-5)
    velocity_weights = diffusion.min_snr_weight(alpha_bar, 5.0, "v_prediction")
    assert velocity_weights.tolist() == pytest.approx([1 / 2, 5 / 10, 5 / 100], rel=1e-5)


def test_the_loss_is_the_mean_of_squares_in_float32() -> None:
    prediction, wanted = torch.full((2, 4, 3, 3), 2.0, dtype=torch.float16), torch.zeros(2, 4, 3, 3)
    prediction[1] = 3
    losses = diffusion.distance(prediction, wanted)
    assert losses.dtype == torch.float32
    assert diffusion.per_sample(losses).tolist() == [4.0, 9.0]


def test_noise_is_normal_and_an_offset_moves_whole_channels() -> None:
    shape = (64, 4, 32, 32)
    plain = diffusion.draw_noise(shape, 0.0, diffusion.generator(3))
    assert plain.mean().item() == pytest.approx(0, abs=0.01)
    assert plain.std().item() == pytest.approx(1, abs=0.01)
    moved = diffusion.draw_noise(shape, 0.5, diffusion.generator(3)) - plain
    assert torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-6)
    assert moved[:, :, 0, 0].std().item() == pytest.approx(0.5, rel=0.15)


def test_timesteps_are_uniform_over_the_whole_range() -> None:
    drawn = diffusion.draw_timesteps(200_000, 1000, diffusion.generator(4))
    counts = torch.bincount(drawn, minlength=1000)
    assert len(counts) == 1000
    assert counts.min() > 0
    chi_square = ((counts - 200.0) ** 2 / 200).sum().item()
    assert 850 < chi_square < 1150  # 999 degrees of freedom, ± 3.4 standard deviations


def test_draws_depend_on_the_place_alone() -> None:
    first = diffusion.draw_noise((1, 4, 8, 8), 0.1, diffusion.generator(42, 7, 1))
    torch.manual_seed(123)
    torch.randn(5)
    assert torch.equal(first, diffusion.draw_noise((1, 4, 8, 8), 0.1, diffusion.generator(42, 7, 1)))
    for other in ((42, 7, 0), (42, 8, 1), (43, 7, 1), (42, 1, 7), (42, 7)):
        assert not torch.equal(first, diffusion.draw_noise((1, 4, 8, 8), 0.1, diffusion.generator(*other)))


def test_neighbouring_places_give_different_seeds() -> None:
    seeds = {diffusion.mixed_seed(seed, step, batch) for seed in range(20) for step in range(50) for batch in range(4)}
    assert len(seeds) == 20 * 50 * 4
    assert all(0 <= seed < 2**64 for seed in seeds)
