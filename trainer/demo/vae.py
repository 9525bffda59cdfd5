"""The demo's VAE: Stable Diffusion's autoencoder, small, trained from scratch on drawn pictures."""

import itertools
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional

from trainer.demo.doodles import doodle
from trainer.demo.pictures import SIZE, draw, scenes
from trainer.demo.team import Clock, Team, learning_rate, save

BATCH = 5  # pictures per process and step
PEAK_RATE = 2e-3
AVERAGE_EVERY = 8  # steps
KL_WEIGHT = 3e-4  # per latent element; less leaves latents so precise that a small denoiser cannot hit them
LOG_VARIANCE = -5.0  # where the latents' noise starts; at 0 it drowns them


def make_vae() -> AutoencoderKL:
    """The untrained model: 0.98 M parameters, 128 x 128 pixels to 4 x 16 x 16 latents."""
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,  # more groups normalise away the flat colours these pictures consist of
        sample_size=SIZE,
        scaling_factor=0.18215,
    )
    start_as_resampling(vae)
    return vae


@torch.no_grad()
def start_as_resampling(vae: AutoencoderKL) -> None:
    """Let the untrained network pass its input on, averaged down and repeated up: residual branches start at zero."""
    for name, module in vae.named_modules():
        if name.endswith(("resnets.0.conv2", "resnets.1.conv2", "to_out.0")):
            module.weight.mul_(0.1)
            module.bias.zero_()
        elif name.endswith("conv_shortcut"):
            torch.nn.init.dirac_(module.weight)
            module.bias.zero_()
        elif name.endswith("downsamplers.0.conv"):
            module.weight.zero_()
            every = torch.arange(module.out_channels)
            module.weight[every, every, :2, :2] = 0.25
            module.bias.zero_()
        elif name.endswith("upsamplers.0.conv"):
            torch.nn.init.dirac_(module.weight)
            module.bias.zero_()
    torch.nn.init.eye_(vae.quant_conv.weight[:, :, 0, 0])
    vae.quant_conv.bias.zero_()
    vae.quant_conv.bias[4:] = LOG_VARIANCE
    torch.nn.init.eye_(vae.post_quant_conv.weight[:, :, 0, 0])
    vae.post_quant_conv.bias.zero_()


def to_tensor(images: list[Image.Image]) -> torch.Tensor:
    """RGB pictures as a float batch (n, 3, height, width) in -1..1."""
    pixels = np.stack([np.asarray(image, np.uint8) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def edges(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighbouring pixels, across and down."""
    return images.diff(dim=-1), images.diff(dim=-2)


def train_vae(team: Team, minutes: float, checkpoint: Path) -> None:
    """Train for the given time, or go on from the checkpoint; the first process leaves the result in the checkpoint."""
    torch.manual_seed(0)
    vae, clock, done = make_vae(), Clock(minutes), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"])
        clock.seconds, done = state["seconds"], state["steps"]
    optimizer = torch.optim.AdamW(vae.parameters(), PEAK_RATE, weight_decay=1e-4, fused=True)
    torch.manual_seed(1000 * team.rank + done)
    rng = np.random.default_rng([team.rank, done])
    pictures = (draw(scene) for scene in scenes(1000 * team.rank + done))
    fraction = team.agree(clock.tick())
    if fraction == 1:
        return
    for step in itertools.count(done + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(PEAK_RATE, fraction)
        images = to_tensor([next(pictures) if rng.random() < 0.5 else doodle(rng) for _ in range(BATCH)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        # Equation 10 of Kingma & Welling 2014, averaged over the latent elements.
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        contours = sum(functional.l1_loss(*pair) for pair in zip(edges(decoded), edges(images), strict=True))
        squared = functional.mse_loss(decoded, images)
        loss = squared + 0.3 * functional.l1_loss(decoded, images) + 0.3 * contours + KL_WEIGHT * divergence
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % AVERAGE_EVERY == 0:
            team.average(vae.parameters())
            fraction = team.agree(clock.tick())
        if team.leads and (step % 200 == 0 or fraction == 1):
            save(checkpoint, {"vae": vae.state_dict(), "seconds": clock.seconds, "steps": step})
            quality = 10 * math.log10(4 / squared.item())
            print(f"vae: step {step}, {100 * fraction:.0f} %, loss {loss.item():.4f}, {quality:.1f} dB", flush=True)
        if fraction == 1:
            return


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold the latents' mean and deviation into the 1 x 1 convolutions: then `scaling_factor` times a latent has mean 0
    and deviation 1 in every channel, while pictures come out as before."""
    latents = vae.encode(images).latent_dist.mean
    mean = latents.mean((0, 2, 3))
    factor = latents.std((0, 2, 3)) * vae.config.scaling_factor
    vae.quant_conv.weight[:4] /= factor[:, None, None, None]
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - mean) / factor
    vae.quant_conv.bias[4:] -= 2 * factor.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= factor[None, :, None, None]


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of decoded against original pictures, in dB."""
    decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    return 10 * math.log10(4 / functional.mse_loss(decoded, images).item())
