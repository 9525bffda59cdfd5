"""The maths of a training step: noise, mixing, targets, and how much each mistake counts. Pure functions of tensors.

Symbols are the papers': x0 the picture's latents, ε noise, ᾱ_t (`alpha_bar`) the share of the picture's variance that
is left at timestep t, x_t = √ᾱ_t·x0 + √(1-ᾱ_t)·ε. Tensors named per sample have shape [B]; latents have [B, C, H, W].
Sources: Ho et al. 2020 (DDPM, arXiv 2006.11239), Salimans & Ho 2022 (progressive distillation, 2202.00512),
Hang et al. 2023 (min-SNR, 2303.09556).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


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


def draw_timesteps(count: int, steps: int, source: torch.Generator) -> Tensor:
    """t ~ U{0 … steps-1}, one a sample: int64 [count] (Ho et al. 2020, algorithm 1, line 3)."""
    return torch.randint(0, steps, (count,), generator=source)


def draw_noise(shape: torch.Size | tuple[int, ...], offset: float, source: torch.Generator) -> Tensor:
    """ε ~ N(0, I), float32; with an offset, ε + offset·N(0, I) per sample and channel.

    The offset moves whole pictures brighter or darker, which pure ε hardly does (Guttenberg 2023, "Diffusion with
    offset noise").
    """
    noise = torch.randn(shape, generator=source)
    if offset:
        noise += offset * torch.randn((*shape[:2], 1, 1), generator=source)
    return noise


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


def distance(prediction: Tensor, wanted: Tensor) -> Tensor:
    """(prediction - target)² of every element in float32 (Ho et al. 2020, eq. 14): [B, C, H, W]."""
    return (prediction.float() - wanted.float()).square()


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


def _over_latents(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
