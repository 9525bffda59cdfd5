"""The demo's U-Net and text encoder: Stable Diffusion 1.5's architecture, small, trained together from scratch."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from trainer.demo.make_tokenizer import TOKENIZER
from trainer.demo.muon import Muon
from trainer.demo.pictures import Scene, caption, draw, scenes
from trainer.demo.team import Clock, Team, learning_rate, save
from trainer.demo.vae import to_tensor

BATCH = 8  # pictures per process and step
PEAK_RATES = (2e-3, 1e-3)  # Muon, AdamW
AVERAGE_EVERY = 8  # steps
EMA_DECAY = 0.95  # per averaging
PICTURES = 5_000  # different pictures per process
HELD_BACK = 256  # pictures the loss is measured on
NO_CAPTION = 0.1  # share of empty captions, which classifier-free guidance needs
OFFSET_NOISE, OFFSET_ABOVE = 0.3, 300
MAX_HIGH_NOISE_WEIGHT, GAMMA = 8.0, 20.0

Latents = tuple[torch.Tensor, torch.Tensor]  # mean and deviation, (n, 4, 16, 16)


def make_unet() -> UNet2DConditionModel:
    """SD 1.5's blocks with 64 channels throughout, 4.3 M parameters; LoRA keys have the names of the real model."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 64, 64, 64),
        layers_per_block=2,
        cross_attention_dim=48,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def make_text_encoder() -> CLIPTextModel:
    """CLIP's text transformer, 48 wide and two layers deep, with its whole vocabulary; 2.4 M parameters."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=48,
        intermediate_size=192,
        projection_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    encoder = CLIPTextModel(config)
    # Random signs of one size: words that training never meets stay distinct, and the table packs eight times smaller.
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(0.04 * torch.randint(0, 2, table.shape).mul(2).sub(1))
    return encoder


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class PlainAttention:
    """Attention written out: with heads so few and small it is faster on a CPU than PyTorch's fused one."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`hidden_states` (batch, places, channels) attend to themselves or to the text."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(source).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, source in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        weights = (query * attn.scale @ key.transpose(-1, -2)).softmax(-1)
        return attn.to_out[0]((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


@functools.cache
def tokenizer() -> CLIPTokenizer:
    """The tokenizer embedded in the program."""
    return CLIPTokenizer.from_pretrained(TOKENIZER)


@functools.cache
def token_ids(text: str) -> torch.Tensor:
    """A caption as 77 token ids."""
    return torch.tensor(tokenizer()(text, padding="max_length", truncation=True)["input_ids"])


def some_scenes(seed: int, count: int) -> list[Scene]:
    """The first `count` scenes of a seed."""
    return list(itertools.islice(scenes(seed), count))


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: list[Scene]) -> Latents:
    """Scaled latents' means and deviations of the drawn scenes, in half precision."""
    moments = []
    for start in range(0, len(pictures), 25):
        images = to_tensor([draw(scene) for scene in pictures[start : start + 25]])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images).latent_dist
        scaled = [vae.config.scaling_factor * part for part in (posterior.mean, posterior.std)]
        moments.append(torch.stack(scaled).half())
    means, deviations = torch.cat(moments, dim=1)
    return means, deviations


def remembered_latents(vae: AutoencoderKL, pictures: list[Scene], file: Path) -> Latents:
    """The latents from the file, or encoded and written there."""
    if not file.exists():
        save(file, {"latents": encode(vae, pictures)})
    means, deviations = torch.load(file, weights_only=True)["latents"]
    return means, deviations


def timestep_weights(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """How much each timestep's noise error counts: min-SNR (Hang et al. 2023, equation 8) times a bounded 1/ᾱ, which
    brings out high noise, where colours and places are decided. Timesteps are drawn in these proportions."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=GAMMA) / snr * (1 / alphas_cumprod).clamp(max=MAX_HIGH_NOISE_WEIGHT)


class Denoiser(torch.nn.Module):
    """Text encoder and U-Net as one module: noisy latents, timesteps and token ids in, predicted noise out."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder, self.unet = make_text_encoder(), make_unet()

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """(n, 4, 16, 16), (n), (n, 77) -> (n, 4, 16, 16)."""
        context = self.text_encoder(ids).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            return self.unet(noisy, timesteps, context).sample.float()


def draw_noise(shape: torch.Size, timesteps: torch.Tensor) -> torch.Tensor:
    """Gaussian noise, with a constant added per channel at high noise (offset noise, Guttenberg 2023).

    Without it a flat background can be read off the mean of the noise, and the model never listens to its word."""
    offset = OFFSET_NOISE * torch.randn(*shape[:2], 1, 1) * (timesteps > OFFSET_ABOVE)[:, None, None, None]
    return torch.randn(shape) + offset


def batches(pictures: list[Scene], latents: Latents, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, ...]]:
    """Endless (latents, token ids), drawn from the remembered pictures with ever new captions."""
    means, deviations = latents
    while True:
        chosen = rng.integers(len(pictures), size=BATCH)
        texts = ["" if rng.random() < NO_CAPTION else caption(pictures[index], rng) for index in chosen]
        mean, deviation = means[chosen].float(), deviations[chosen].float()
        yield mean + deviation * torch.randn(mean.shape), torch.stack([token_ids(text) for text in texts])


@torch.no_grad()
def held_back_loss(denoiser: Denoiser, pictures: list[Scene], latents: torch.Tensor) -> float:
    """Mean squared error of the predicted noise at evenly spread timesteps, always with the same noise and captions."""
    alphas = make_scheduler().alphas_cumprod
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    timesteps = torch.linspace(0, 999, len(pictures)).long()
    noise = torch.randn(latents.shape, generator=generator)
    ids = torch.stack([token_ids(caption(scene, rng)) for scene in pictures])
    alpha = alphas[timesteps][:, None, None, None]
    noisy = alpha.sqrt() * latents.float() + (1 - alpha).sqrt() * noise
    denoiser.eval()
    parts = [denoiser(*part) for part in zip(noisy.split(32), timesteps.split(32), ids.split(32), strict=True)]
    denoiser.train()
    return functional.mse_loss(torch.cat(parts), noise).item()


def make_optimizers(denoiser: Denoiser) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the U-Net's inner weights, AdamW for its ends, its biases and the text encoder."""
    ends = ("conv_in", "conv_out", "time_embedding")
    inner = [
        weight for name, weight in denoiser.unet.named_parameters() if weight.ndim >= 2 and not name.startswith(ends)
    ]
    chosen = {id(weight) for weight in inner}
    # No weight decay: it would shrink the rows of words that never occur.
    others = [weight for weight in denoiser.parameters() if id(weight) not in chosen]
    adam = torch.optim.AdamW(others, PEAK_RATES[1], betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    return Muon(inner, PEAK_RATES[0]), adam


def train_denoiser(team: Team, minutes: float, vae: AutoencoderKL, checkpoint: Path) -> None:
    """Train for the given time, or go on from the checkpoint; the first process leaves the result in the checkpoint."""
    torch.manual_seed(0)
    denoiser = Denoiser()
    denoiser.unet.set_attn_processor(PlainAttention())
    optimizers = make_optimizers(denoiser)
    average = [parameter.detach().clone() for parameter in denoiser.parameters()]
    clock, done = Clock(minutes), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        denoiser.load_state_dict(state["denoiser"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        average, clock.seconds, done = state["average"], state["seconds"], state["steps"]
    if team.agree(clock.tick()) == 1:
        return

    seed = 10_000 * (1 + team.rank)
    pictures = some_scenes(seed, PICTURES)
    latents = remembered_latents(vae, pictures, checkpoint.with_name(f"latents-{team.rank}.pt"))
    held_back = some_scenes(1, HELD_BACK) if team.leads else []
    held_back_latents = encode(vae, held_back)[0] if team.leads else torch.empty(0)

    torch.manual_seed(seed + done)
    data = batches(pictures, latents, np.random.default_rng([seed, done]))
    alphas = make_scheduler().alphas_cumprod
    weights, recent = timestep_weights(alphas), 0.0
    fraction = team.agree(clock.tick())
    for step in itertools.count(done + 1):
        for optimizer, peak in zip(optimizers, PEAK_RATES, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(peak, fraction)
        clean, ids = next(data)
        timesteps = torch.multinomial(weights, BATCH, replacement=True)
        noise = draw_noise(clean.shape, timesteps)
        alpha = alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise  # equation 4 of Ho et al. 2020
        predicted = denoiser(noisy, timesteps, ids)
        loss = functional.mse_loss(predicted, noise)
        denoiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        recent += 0.01 * (loss.item() - recent)
        if step % AVERAGE_EVERY == 0:
            team.average(denoiser.parameters())
            decay = min(EMA_DECAY, step / AVERAGE_EVERY / (10 + step / AVERAGE_EVERY))
            torch._foreach_lerp_(average, [parameter.detach() for parameter in denoiser.parameters()], 1 - decay)
            fraction = team.agree(clock.tick())
        if team.leads and (step % 200 == 0 or fraction == 1):
            kept_states = [optimizer.state_dict() for optimizer in optimizers]
            state = {"denoiser": denoiser.state_dict(), "optimizers": kept_states, "average": average}
            save(checkpoint, {**state, "seconds": clock.seconds, "steps": step})
            held = held_back_loss(denoiser, held_back, held_back_latents)
            print(f"unet: step {step}, {100 * fraction:.0f} %, loss {recent:.4f}, held back {held:.4f}", flush=True)
        if fraction == 1:
            return


def trained(checkpoint: Path) -> Denoiser:
    """The checkpoint's averaged weights as a model."""
    denoiser = Denoiser()
    average = torch.load(checkpoint, weights_only=True)["average"]
    with torch.no_grad():
        for parameter, value in zip(denoiser.parameters(), average, strict=True):
            parameter.copy_(value)
    return denoiser.eval()
