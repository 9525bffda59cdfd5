"""Sample pictures, drawn by the process that trains with the adapter as it is, without a trace in the training."""

from __future__ import annotations

import contextlib
import inspect
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer import formats, runfolder
from trainer.devices import is_out_of_memory
from trainer.diffusion import alpha_bars, betas_of, mixed_seed, zero_terminal_snr
from trainer.events import Sample
from trainer.models.text import Told
from trainer.optimizers import averaged
from trainer.plan import due
from trainer.prompts import Prompt, read_prompts
from trainer.samplers import SAMPLERS

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainer.checkpoint import Progress
    from trainer.conditioning import Conditioning
    from trainer.devices import Precision
    from trainer.learner import Learner
    from trainer.models import Model
    from trainer.report import Reporter
    from trainer.settings import Settings

__all__ = ["Painter", "Prompt", "render"]


class Painter:
    """Draws the run's sample prompts when it is time, the newest ones: those of the settings, or those that were put
    into the run's folder since. Trouble with a picture is a note and never ends the run."""

    def __init__(
        self,
        s: Settings,
        report: Reporter,
        model: Model,
        conditioning: Conditioning,
        learner: Learner,
        draws: bool = True,
    ) -> None:
        """With several processes only one `draws`."""
        self.draws = draws
        self.s, self.report, self.model, self.conditioning, self.learner = s, report, model, conditioning, learner
        self._told: list[tuple[str, str]] = []
        self.prompts: list[Prompt] = []
        self.refreshed()

    def refreshed(self) -> list[Prompt]:
        """The newest prompts. What is wrong with them is said once; those that can be read are drawn."""
        if not self.draws:
            return []
        s = self.s
        found = read_prompts(runfolder.prompts(self.report.folder, s.sample_prompts))
        remarks = [(f"{problem} It is left out.", "warning") for problem in found.problems]
        remarks += [(note, "info") for note in found.notes]
        if remarks != self._told:
            for text, level in remarks:
                self.report.note(f"Sample prompts: {text}", level, "sample_prompts")
            self._told = remarks
        # Without a seed of its own a prompt gets one that stays the same, so that its pictures can be compared.
        seeds = [mixed_seed(s.seed or 0, number) % 2**32 for number in range(len(found.prompts))]
        self.prompts = [
            sized(prompt if prompt.seed is not None else replace(prompt, seed=seed), self.model)
            for prompt, seed in zip(found.prompts, seeds, strict=True)
        ]
        return self.prompts

    def after_step(self, progress: Progress) -> None:
        """Draw if it is time by steps. Sampling by epochs wins over sampling by steps."""
        if not self.s.sample_every_n_epochs and due(progress.step, self.s.sample_every_n_steps):
            self.draw(progress)

    def after_epoch(self, progress: Progress) -> None:
        """Draw if it is time by epochs; `progress.epoch` is the one that ended."""
        if due(progress.epoch, self.s.sample_every_n_epochs):
            self.draw(progress, f"e{progress.epoch:06d}")

    def draw(self, progress: Progress, when: str = "") -> None:
        """Draw every prompt now. `when` is part of the files' names, by default the step."""
        with self._as_in_use():
            for index, prompt in enumerate(self.report.track(self.refreshed(), "sampling")):
                if self.report.stopping():
                    return
                name = self._file_name(when or f"{progress.step:06d}", index, prompt)
                try:
                    image = render(self.model, prompt, self.s, self.learner.precision, self.conditioning)
                    about = _about(prompt, progress, prompt.sampler or self.s.sample_sampler)
                    formats.write(self.report.samples / name, _png(image, about))
                except Exception as error:  # whatever it is, the training goes on
                    self._excuse(index, error)
                    continue
                self.report(
                    Sample(
                        step=progress.step, epoch=progress.epoch, index=index, prompt=prompt.text,
                        seed=prompt.seed or 0, path=f"{self.report.samples.name}/{name}",
                    )
                )  # fmt: skip

    @contextlib.contextmanager
    def _as_in_use(self) -> Iterator[None]:
        """The adapter as the finished file will be: averaged if the optimizer averages, without dropouts."""
        self.learner.adapter.train(False)
        try:
            with averaged(self.learner.optimizer), torch.no_grad():
                yield
        finally:
            self.learner.adapter.train(True)

    def _file_name(self, when: str, index: int, prompt: Prompt) -> str:
        moment = time.strftime("%Y%m%d%H%M%S")
        return f"{self.s.output_name}_{when}_{index:02d}_{moment}_{prompt.seed}.png"

    def _excuse(self, index: int, error: BaseException) -> None:
        short = is_out_of_memory(error)
        why = "there was not enough memory for it; make it smaller with --w and --h" if short else error
        self.report.note(f"Sample {index + 1} could not be drawn: {str(why).rstrip('.')}.", "warning", "sample_prompts")


def _about(prompt: Prompt, progress: Progress, sampler: str) -> Any:
    """What a picture's file says of it, as web UIs write and read it."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    how = {
        "Steps": prompt.steps, "Sampler": sampler, "CFG scale": prompt.guidance, "Seed": prompt.seed,
        "Size": f"{prompt.width}x{prompt.height}", "Training step": progress.step,
    }  # fmt: skip
    line = ", ".join(f"{name}: {value}" for name, value in how.items())
    info.add_itxt("parameters", f"{prompt.text}\nNegative prompt: {prompt.negative}\n{line}")
    return info


def _png(image: Image, about: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()


def sized(prompt: Prompt, model: Model) -> Prompt:
    """The prompt with the model's own size where it names none."""
    return replace(prompt, width=prompt.width or model.size, height=prompt.height or model.size)


def asked_for(s: Settings) -> list[str]:
    """Every text of the sample prompts."""
    return [text for prompt in read_prompts(s.sample_prompts).prompts for text in (prompt.text, prompt.negative)]


@torch.no_grad()
def render(
    model: Model,
    prompt: Prompt,
    s: Settings,
    precision: Precision | None = None,
    conditioning: Conditioning | None = None,
) -> Image:
    """The picture of a prompt by the model as it is now, with classifier-free guidance (Ho & Salimans 2022, eq. 6).

    Randomness comes from the prompt's seed alone. Raises RuntimeError when memory runs out.
    """
    from trainer.conditioning import Conditioning
    from trainer.devices import Precision

    precision = precision or Precision(model.device, model.dtype)
    prompt = sized(prompt, model)
    told = (conditioning or Conditioning(model, s, precision)).prompts([prompt.negative, prompt.text])
    latents = denoise(model, prompt, told, prompt.sampler or s.sample_sampler, precision, s.zero_terminal_snr)
    return decode(model, latents, precision.device)


def denoise(
    model: Model, prompt: Prompt, told: Told, sampler: str, precision: Precision, zero_snr: bool = False
) -> Tensor:
    """From noise to scaled latents [1, 4, h/8, w/8]. `told`: what the U-Net is told of the negative prompt and of the
    prompt. An inpainting model fills in a picture of which everything is hidden."""
    scheduler = make_scheduler(sampler, model.scheduler_config, model.prediction_type, zero_snr)
    scheduler.set_timesteps(prompt.steps, device=precision.device)
    source = torch.Generator().manual_seed(prompt.seed or 0)
    shape = (1, model.unet.config.out_channels, prompt.height // 8, prompt.width // 8)
    latents = torch.randn(shape, generator=source).to(precision.device) * scheduler.init_noise_sigma
    hidden = _all_hidden(model, prompt, source, precision.device) if model.inpainting else None
    guided = prompt.guidance > 1
    told = told if guided else Told(told.states[1:], None if told.pooled is None else told.pooled[1:])
    count = len(told.states)
    size = (prompt.height, prompt.width)
    sizes = torch.tensor([[*size, 0, 0, *size]] * count, dtype=torch.float32, device=precision.device)
    extra = {"generator": source} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in scheduler.timesteps:
        inputs = scheduler.scale_model_input(latents.expand(count, -1, -1, -1), t)
        if hidden is not None:
            inputs = torch.cat((inputs, hidden.expand(count, -1, -1, -1)), dim=1)
        with precision.autocast():
            predictions = model.predict(inputs, t, told, sizes).float()
        if guided:
            unconditional, conditional = predictions.chunk(2)
            predictions = unconditional + prompt.guidance * (conditional - unconditional)
        latents = scheduler.step(predictions, t, latents, return_dict=False, **extra)[0]
    return latents


def _all_hidden(model: Model, prompt: Prompt, source: torch.Generator, device: torch.device) -> Tensor:
    """[1, 5, h/8, w/8]: a mask that is 1 everywhere, and the latents of the grey that is left of the picture."""
    vae, home = model.vae, model.vae.device
    vae.to(device)
    try:
        grey = torch.zeros(1, 3, prompt.height, prompt.width, device=device)
        found = vae.encode(grey.to(vae.dtype)).latent_dist
        if vae.dtype != torch.float32 and not bool(found.mean.isfinite().all()):
            found = vae.float().encode(grey).latent_dist  # half precision overflowed
    finally:
        vae.to(home)
    noise = torch.randn(found.mean.shape, generator=source).to(device)
    latents = (found.mean.float() + found.std.float() * noise) * model.scaling_factor
    return torch.cat((torch.ones_like(latents[:, :1]), latents), dim=1)


def make_scheduler(sampler: str, config: Mapping[str, Any], prediction_type: str, zero_snr: bool = False) -> Any:
    """The diffusers scheduler of a sampler for a model with this scheduler configuration.

    With `zero_snr` it starts at the last timestep ("trailing"), from as good as pure noise: samplers divide by ᾱ, so
    the last is LEAST rather than 0 (Lin et al. 2024, sections 3.1 and 3.3).
    """
    from diffusers import schedulers

    row = SAMPLERS[sampler]
    noise = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
    kind = getattr(schedulers, row.scheduler)
    options = {name: config[name] for name in noise if name in config} | dict(row.options)
    if zero_snr:
        rescaled = zero_terminal_snr(alpha_bars(config)).clamp(min=LEAST)
        options["trained_betas"] = betas_of(rescaled).tolist()
        if "timestep_spacing" in inspect.signature(kind).parameters:  # the others always start at the last
            options["timestep_spacing"] = "trailing"
    return kind(**options, prediction_type=prediction_type)


LEAST = 2.0**-24
"""ᾱ of pure noise, for samplers: what diffusers takes too."""


def decode(model: Model, latents: Tensor, device: torch.device) -> Image:
    """The picture of scaled latents [1, 4, h, w], by the VAE wherever it is kept; in tiles when memory is short."""
    from PIL import Image

    vae, home = model.vae, model.vae.device
    vae.to(device)
    try:
        pixels = _decoded(vae, latents / model.scaling_factor)
    finally:
        vae.to(home)
    pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels[0].permute(1, 2, 0).cpu().numpy())


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    try:
        pixels: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0].float()
    except RuntimeError as error:
        if not is_out_of_memory(error) or vae.use_tiling:
            raise
        vae.enable_tiling()
        try:
            return _decoded(vae, latents)
        finally:
            vae.disable_tiling()
    if vae.dtype != torch.float32 and not bool(pixels.isfinite().all()):
        vae.float()  # half precision overflowed
        return _decoded(vae, latents)
    if not bool(pixels.isfinite().all()):
        raise ValueError("the model gives no usable numbers")
    return pixels
