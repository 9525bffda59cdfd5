"""The formulas against closed forms and against diffusers' own scheduler."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
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


def test_zero_terminal_snr_ends_in_pure_noise_and_begins_as_before() -> None:
    before = diffusion.alpha_bars(SCHEDULER)
    rescaled = diffusion.zero_terminal_snr(before)
    assert rescaled[-1] == 0
    assert rescaled[0] == pytest.approx(before[0].item(), rel=1e-6)
    assert bool((rescaled.diff() < 0).all())
    # By hand: √ᾱ' = (√ᾱ - √ᾱ_T) √ᾱ_1 / (√ᾱ_1 - √ᾱ_T)
    first, middle, last = (before[t].item() ** 0.5 for t in (0, 500, 999))
    assert rescaled[500].item() == pytest.approx(((middle - last) * first / (first - last)) ** 2, rel=1e-5)


def test_zero_terminal_snr_is_that_of_diffusers() -> None:
    theirs = rescale_zero_terminal_snr(judge().betas)
    before = diffusion.alpha_bars(SCHEDULER)
    assert torch.allclose(diffusion.zero_terminal_snr(before), torch.cumprod(1 - theirs, 0), atol=1e-6)
    assert torch.allclose(diffusion.betas_of(before), judge().betas, atol=1e-5)


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


# What options add. Each formula is said once more, in numbers or in another way.


def test_timesteps_keep_to_their_range() -> None:
    drawn = diffusion.draw_timesteps(20_000, 600, diffusion.generator(5), 590)
    assert torch.bincount(drawn).nonzero().flatten().tolist() == list(range(590, 600))
    counts = torch.bincount(drawn)[590:]
    assert counts.min() > 1800
    assert counts.max() < 2200


def test_an_adaptive_offset_by_hand() -> None:
    x0 = torch.zeros(1, 3, 2, 2)
    x0[0, 1], x0[0, 2] = -2.0, torch.tensor([[3.0, 1.0], [0.0, 0.0]])  # means 0, -2 and 1
    assert diffusion.adaptive_offset(x0, 0.1, 0.05).flatten().tolist() == pytest.approx([0.1, 0.2, 0.15])
    assert diffusion.adaptive_offset(x0, 0.1, -0.06).flatten().tolist() == pytest.approx([0.1, 0.0, 0.04])


def test_an_offset_that_varies_is_the_fixed_one_when_it_does_not() -> None:
    shape = (3, 4, 5, 6)
    source = diffusion.generator(6)
    in_two = diffusion.add_offset(diffusion.draw_noise(shape, 0.0, source), 0.3, source)
    assert torch.equal(in_two, diffusion.draw_noise(shape, 0.3, diffusion.generator(6)))
    moved = diffusion.add_offset(torch.zeros(shape), torch.arange(12.0).view(3, 4, 1, 1), diffusion.generator(6))
    assert torch.equal(moved, moved[:, :, :1, :1].expand_as(moved))
    assert moved[0, 0].abs().sum() == 0


def test_multires_noise_by_hand() -> None:
    """Of 8 × 6 latents: the whole size, then about a third or a half of it, until a side is one pixel."""
    height, width, discount = 8, 6, 0.5
    noise = torch.randn(2, 4, height, width, generator=diffusion.generator(7))
    found = diffusion.add_multires(noise, 10, discount, diffusion.generator(8))
    source, expected, sizes = diffusion.generator(8), noise.clone(), []
    for i in range(10):
        r = 2 + 2 * torch.rand((), generator=source).item()
        sizes.append((max(1, int(height / r**i)), max(1, int(width / r**i))))
        coarse = torch.randn(2, 4, *sizes[-1], generator=source)
        expected += torch.nn.Upsample(size=(height, width), mode="bilinear")(coarse) * discount**i
        if 1 in sizes[-1]:
            break
    assert sizes[0] == (8, 6)
    assert len(sizes) in (2, 3)
    assert torch.allclose(found, expected / expected.std(), atol=1e-6)
    assert found.std().item() == pytest.approx(1, abs=1e-5)


def test_multires_noise_makes_neighbours_alike() -> None:
    def likeness(noise: torch.Tensor) -> float:
        return (noise[..., 1:] * noise[..., :-1]).mean().item() / noise.square().mean().item()

    noise = torch.randn(16, 4, 32, 32, generator=diffusion.generator(9))
    much = diffusion.add_multires(noise, 6, 0.8, diffusion.generator(9))
    little = diffusion.add_multires(noise, 6, 0.1, diffusion.generator(9))
    assert abs(likeness(noise)) < 0.02
    assert likeness(much) > likeness(little) > 0
    assert likeness(much) > 0.2
    assert torch.allclose(diffusion.add_multires(noise, 0, 0.8, diffusion.generator(9)), noise / noise.std())


def test_a_perturbed_mixture_is_as_noisy_as_said() -> None:
    noise = torch.randn(16, 4, 32, 32, generator=diffusion.generator(10))
    added = diffusion.perturb(noise, 0.1, diffusion.generator(11)) - noise
    assert added.std().item() == pytest.approx(0.1, rel=0.02)
    assert (added * noise).mean().item() == pytest.approx(0, abs=2e-3)


# How far off is how bad.


@pytest.mark.parametrize("c", [0.01, 0.1, 1.0])
def test_losses_equal_the_formulas_as_published(c: float) -> None:
    prediction, wanted = torch.randn(2, 3, 4, 5, 5, generator=diffusion.generator(12)).double()
    d, limit = prediction - wanted, torch.full((3,), c)
    formulas = {
        "l2": d**2,
        "l1": d.abs(),
        "huber": 2 * c * ((d**2 + c**2) ** 0.5 - c),
        "smooth_l1": 2 * ((d**2 + c**2) ** 0.5 - c),
    }
    for kind, expected in formulas.items():
        found = diffusion.distance(prediction, wanted, kind, limit)
        assert torch.allclose(found, expected.float(), atol=1e-5), kind


def test_huber_is_square_for_small_mistakes_and_linear_for_large_ones() -> None:
    d, c = torch.tensor([1e-4, 1e4]).view(2, 1, 1, 1), torch.tensor([0.1, 0.1])
    huber = diffusion.distance(d, torch.zeros_like(d), "huber", c).flatten().tolist()
    assert huber == pytest.approx([1e-8, 2 * 0.1 * 1e4], rel=1e-4)
    smooth = diffusion.distance(d, torch.zeros_like(d), "smooth_l1", c).flatten().tolist()
    assert smooth == pytest.approx([1e-8 / 0.1, 2e4], rel=1e-4)


def test_the_slope_of_each_loss_is_finite_where_nothing_is_wrong() -> None:
    for kind in ("l2", "l1", "huber", "smooth_l1"):
        prediction = torch.zeros(1, 1, 1, 1, requires_grad=True)
        diffusion.distance(prediction, torch.zeros(1, 1, 1, 1), kind, torch.tensor([1e-3])).sum().backward()
        assert prediction.grad is not None
        assert prediction.grad.item() == 0


def test_huber_c_by_schedule() -> None:
    """σ_t is 0, 1 and 3 where ᾱ_t is 1, 1/2 and 1/10."""
    t, alpha_bar = torch.tensor([0, 500, 1000]), torch.tensor([1, 0.5, 0.1])

    def found(schedule: str) -> list[float]:
        return diffusion.huber_c(t, alpha_bar, 1000, schedule, 0.01, 3.0).tolist()

    assert found("constant") == pytest.approx([0.03] * 3)
    assert found("exponential") == pytest.approx([3.0, 0.3, 0.03])
    assert found("snr") == pytest.approx([1, 0.99 / 4 + 0.01, 0.99 / 16 + 0.01])


def test_unknown_losses_are_named() -> None:
    x, one = torch.zeros(1, 1, 1, 1), torch.ones(1)
    with pytest.raises(ValueError, match="l3"):
        diffusion.distance(x, x, "l3", one)
    with pytest.raises(ValueError, match="huber"):
        diffusion.distance(x, x, "huber")
    with pytest.raises(ValueError, match="linear"):
        diffusion.huber_c(one, one, 1000, "linear", 0.1, 1.0)


# What a timestep counts.

SOME = torch.tensor([0.5, 0.9, 0.9999])
"""SNR 1, 9 and 9999, of which 1000 count."""


def test_debiased_weights_by_hand() -> None:
    assert diffusion.debiased_weight(SOME, "epsilon").tolist() == pytest.approx([1, 1 / 3, 1000**-0.5])
    assert diffusion.debiased_weight(SOME, "v_prediction").tolist() == pytest.approx([1 / 2, 1 / 10, 1 / 1001])


def test_velocity_and_noise_like_weights_by_hand() -> None:
    assert diffusion.noise_like_weight(SOME).tolist() == pytest.approx([1 / 2, 9 / 10, 1000 / 1001])
    found = diffusion.velocity_like_weight(SOME, 0.5).tolist()
    assert found == pytest.approx([1 + 0.5 * 2, 1 + 0.5 * 10 / 9, 1 + 0.5 * 1001 / 1000])


def test_a_velocity_loss_weighed_so_is_the_loss_of_the_noise_it_tells() -> None:
    """Both ways: of predictions of the same x_t, ε̂ = √(1-ᾱ)·x_t + √ᾱ·v̂, so ε̂ - ε = √ᾱ·(v̂ - v)."""
    x0, noise, _, alpha_bar = sample()
    x0, noise, alpha_bar = x0[2:], noise[2:], alpha_bar[2:]
    a = alpha_bar.view(-1, 1, 1, 1)
    mixture, v = diffusion.mix(x0, noise, alpha_bar), diffusion.velocity(x0, noise, alpha_bar)
    told = v + 0.3 * torch.randn(v.shape, generator=diffusion.generator(13))
    of_velocity = diffusion.per_sample(diffusion.distance(told, v))
    of_noise = diffusion.per_sample(diffusion.distance((1 - a).sqrt() * mixture + a.sqrt() * told, noise))
    assert torch.allclose(of_velocity * diffusion.noise_like_weight(alpha_bar), of_noise, rtol=1e-3)
    assert torch.allclose(of_noise * (diffusion.velocity_like_weight(alpha_bar, 1.0) - 1), of_velocity, rtol=1e-3)
