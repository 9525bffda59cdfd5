"""The maths of a training step: noise, mixing, targets, and how much each mistake counts. Pure functions of tensors.

Symbols are the papers': x0 the picture's latents, ε noise, ᾱ_t (`alpha_bar`) the share of the picture's variance that
is left at timestep t, x_t = √ᾱ_t·x0 + √(1-ᾱ_t)·ε. Tensors named per sample have shape [B]; latents have [B, C, H, W].
Sources: Ho et al. 2020 (DDPM, arXiv 2006.11239), Salimans & Ho 2022 (progressive distillation, 2202.00512),
Hang et al. 2023 (min-SNR, 2303.09556), Ning et al. 2023 (input perturbation, 2301.11706), Yu et al. 2024 (debiased
estimation, 2310.08442), Khrapov et al. 2024 (scheduled Huber loss, 2403.16728).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def alpha_bars(config: Mapping[str, Any]) -> Tensor:
    """ᾱ_t for every timestep of a model's scheduler configuration: float32 [num_train_timesteps].

    β_t by `beta_schedule`, α_t = 1 - β_t, ᾱ_t = ∏ α_s (Ho et al. 2020, section 2). Stable Diffusion uses
    "scaled_linear" (linear in √β) from 0.00085 to 0.012 (Rombach et al. 2022, configuration files).
    """
    begin, end = float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))
    count, kind = int(config.get("num_train_timesteps", 1000)), config.get("beta_schedule", "scaled_linear")
    if kind == "scaled_linear":
        betas = torch.linspace(begin**0.5, end**0.5, count, dtype=torch.float32) ** 2
    elif kind == "linear":
        betas = torch.linspace(begin, end, count, dtype=torch.float32)
    else:
        raise ValueError(f"The model's noise schedule is {kind!r}; only 'scaled_linear' and 'linear' are known.")
    return torch.cumprod(1.0 - betas, dim=0)


def zero_terminal_snr(alpha_bars: Tensor) -> Tensor:
    """ᾱ_t shifted and scaled so that the last is 0, pure noise, and the first stays (Lin et al. 2024, algorithm 1)."""
    roots = alpha_bars.double().sqrt()
    first, last = roots[0], roots[-1]
    return ((roots - last) * first / (first - last)).square().to(alpha_bars.dtype)


def betas_of(alpha_bars: Tensor) -> Tensor:
    """β_t = 1 - ᾱ_t / ᾱ_(t-1), with ᾱ_(-1) = 1."""
    before = torch.cat((alpha_bars.new_ones(1), alpha_bars[:-1]))
    return 1 - alpha_bars / before


# What is drawn.


def generator(seed: int, *place: int) -> torch.Generator:
    """A source of randomness that depends on the run's seed and a place in it (step, batch) alone.

    Nothing needs to be kept for resuming, and nothing that happens between two steps can disturb the draws.
    """
    return torch.Generator().manual_seed(mixed_seed(seed, *place))


def mixed_seed(seed: int, *place: int) -> int:
    """One 64-bit seed from a seed and a place; neighbours get unrelated ones (SplitMix64, Steele et al. 2014)."""
    state = seed & _MASK
    for number in place:
        state = _scramble((state + 0x9E3779B97F4A7C15 * (number + 1)) & _MASK)
    return _scramble(state)


_MASK = 2**64 - 1


def _scramble(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def draw_timesteps(count: int, end: int, source: torch.Generator, begin: int = 0) -> Tensor:
    """t ~ U{begin … end-1}, one a sample: int64 [count] (Ho et al. 2020, algorithm 1, line 3)."""
    return torch.randint(begin, end, (count,), generator=source)


def draw_share(source: torch.Generator) -> float:
    """One number ~ U[0, 1), for all samples of a batch: what part of a strength counts this time."""
    return torch.rand((), generator=source).item()


def draw_noise(shape: torch.Size | tuple[int, ...], offset: float, source: torch.Generator) -> Tensor:
    """ε ~ N(0, I), float32; with an offset, ε + offset·N(0, I) per sample and channel.

    The offset moves whole pictures brighter or darker, which pure ε hardly does (Guttenberg 2023, "Diffusion with
    offset noise").
    """
    noise = torch.randn(shape, generator=source)
    if offset:
        noise += offset * torch.randn((*shape[:2], 1, 1), generator=source)
    return noise


def adaptive_offset(x0: Tensor, offset: float, scale: float) -> Tensor:
    """max(offset + scale·|mean x0|, 0) of every channel: [B, C, 1, 1], in place of a fixed noise offset.

    The darker or brighter a picture's channel already is, the more (or, with a scale below 0, the less) it is moved.
    """
    return (offset + scale * x0.mean(dim=(2, 3), keepdim=True).abs()).clamp(min=0)


def add_offset(noise: Tensor, offset: float | Tensor, source: torch.Generator) -> Tensor:
    """ε + offset·N(0, I) per sample and channel, for an offset that is not the same every time; on noise's device."""
    return noise + offset * torch.randn((*noise.shape[:2], 1, 1), generator=source).to(noise.device)


def add_multires(noise: Tensor, iterations: int, discount: float, source: torch.Generator) -> Tensor:
    """Noise with coarse clouds: (ε + Σ_i discount^i·up(ε_i)) / its standard deviation, i = 0 … iterations-1.

    ε_i ~ N(0, I) is 1/r^i as high and wide, r ~ U[2, 4) anew each time, and grown bilinearly; it ends at one pixel
    (Whitaker 2023, "Multi-resolution noise for diffusion model training"). The deviation is that of the whole batch.
    """
    height, width = noise.shape[2:]
    for i in range(iterations):
        r = 2 + 2 * draw_share(source)
        size = max(1, int(height / r**i)), max(1, int(width / r**i))
        coarse = torch.randn((*noise.shape[:2], *size), generator=source).to(noise.device)
        noise = noise + interpolate(coarse, (height, width), mode="bilinear") * discount**i
        if 1 in size:
            break
    return noise / noise.std()


def perturb(noise: Tensor, gamma: float, source: torch.Generator) -> Tensor:
    """ε + γ·N(0, I): what is mixed into the picture while ε stays what is asked for (Ning et al. 2023, algorithm 1)."""
    return noise + gamma * torch.randn(noise.shape, generator=source).to(noise.device)


# What the model sees, and what it should say.


def mix(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = √ᾱ_t·x0 + √(1-ᾱ_t)·ε (Ho et al. 2020, eq. 4); `alpha_bar` per sample."""
    a = _over_latents(alpha_bar)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def velocity(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = √ᾱ_t·ε - √(1-ᾱ_t)·x0 (Salimans & Ho 2022, appendix D); `alpha_bar` per sample."""
    a = _over_latents(alpha_bar)
    return a.sqrt() * noise - (1 - a).sqrt() * x0


def target(x0: Tensor, noise: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """What the model is asked for: the noise ("epsilon") or the velocity ("v_prediction")."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return velocity(x0, noise, alpha_bar)
    raise ValueError(f"The model predicts {prediction_type!r}; only 'epsilon' and 'v_prediction' can be trained.")


# How much a mistake counts.


def distance(prediction: Tensor, wanted: Tensor, loss_type: str = "l2", c: Tensor | None = None) -> Tensor:
    """How far every element is off, in float32: [B, C, H, W]. With d = prediction - target and `c` per sample:

    "l2" d² (Ho et al. 2020, eq. 14), "l1" |d|, "huber" 2c·(√(d²+c²) - c), "smooth_l1" 2·(√(d²+c²) - c) (Khrapov et al.
    2024, section 3). √(d²+c²) - c is taken as d²/(√(d²+c²) + c), the same number without cancellation.
    """
    d = prediction.float() - wanted.float()
    if loss_type == "l2":
        return d.square()
    if loss_type == "l1":
        return d.abs()
    if c is None or loss_type not in ("huber", "smooth_l1"):
        raise ValueError(f"The loss is {loss_type!r}; 'l2', 'l1', and with a c 'huber' and 'smooth_l1' are known.")
    c = _over_latents(c)
    rounded = 2 * d.square() / ((d.square() + c.square()).sqrt() + c)
    return c * rounded if loss_type == "huber" else rounded


def huber_c(t: Tensor, alpha_bar: Tensor, steps: int, schedule: str, c: float, scale: float) -> Tensor:
    """c_t, the size of mistake from which on "huber" and "smooth_l1" count it linearly: per sample.

    "constant" c·scale, "exponential" c^(t/steps)·scale, "snr" (1-c)/(1+σ_t)² + c with σ_t = √((1-ᾱ_t)/ᾱ_t), to which
    the scale does not apply (Khrapov et al. 2024, section 4.2; `steps` is the length of the model's schedule).
    """
    if schedule == "constant":
        return torch.full_like(alpha_bar, c * scale)
    if schedule == "exponential":
        return c ** (t / steps) * scale
    if schedule == "snr":
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
        return (1 - c) / (1 + sigma) ** 2 + c
    raise ValueError(f"The Huber schedule is {schedule!r}; 'constant', 'exponential' and 'snr' are known.")


def per_sample(losses: Tensor) -> Tensor:
    """The mean over channels and places: [B]."""
    return losses.mean(dim=tuple(range(1, losses.ndim)))


def snr(alpha_bar: Tensor) -> Tensor:
    """Signal-to-noise ratio ᾱ_t / (1-ᾱ_t) (Salimans & Ho 2022, section 4)."""
    return alpha_bar / (1 - alpha_bar)


def min_snr_weight(alpha_bar: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """min(SNR, γ)/SNR for noise, min(SNR, γ)/(SNR+1) for velocity (Hang et al. 2023, section 3.4): per sample."""
    ratio = snr(alpha_bar)
    return ratio.clamp(max=gamma) / (ratio + 1 if prediction_type == "v_prediction" else ratio)


def debiased_weight(alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """1/√SNR for noise (Yu et al. 2024, eq. 11), 1/(SNR+1) for velocity, with SNR at most 1000: per sample."""
    ratio = _bounded_snr(alpha_bar)
    return 1 / (ratio + 1) if prediction_type == "v_prediction" else ratio.rsqrt()


def noise_like_weight(alpha_bar: Tensor) -> Tensor:
    """SNR/(SNR+1), with SNR at most 1000: makes a velocity's mistake count as that of the noise it tells: per sample.

    (The velocity's square error is SNR+1 times that of x0 and (SNR+1)/SNR times that of ε; Salimans & Ho 2022, 4.)
    """
    ratio = _bounded_snr(alpha_bar)
    return ratio / (ratio + 1)


def velocity_like_weight(alpha_bar: Tensor, strength: float) -> Tensor:
    """1 + strength·(SNR+1)/SNR, with SNR at most 1000: a noise loss plus a part of its velocity loss: per sample."""
    return 1 + strength / noise_like_weight(alpha_bar)


def _bounded_snr(alpha_bar: Tensor) -> Tensor:
    return snr(alpha_bar).clamp(max=1000)


def _over_latents(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
