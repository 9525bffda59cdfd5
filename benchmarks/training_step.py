"""Time of a training step divided by the time of bare forward and backward passes of the same U-Net with its adapter.

    python -m benchmarks.training_step                      a quarter of SD1.5's width, 256 pixels
    python -m benchmarks.training_step --size full --resolution 512 --mixed_precision fp16

Everything a step does beyond the two passes is in the ratio: batches, noise, loss, clipping, optimizer, events, curves.
Latents and captions are cached. Both kinds of steps take turns in one process, so a busy machine slows both; the median
of the turns' ratios counts. On the processor its own time is taken, for the same reason. Aim: at most 1.10.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trainer import train as training
from trainer.devices import Precision, device_name, peak_memory, pick_device
from trainer.models import Model
from trainer.report import Reporter
from trainer.settings import Settings

WIDTHS = {"tiny": (8, 16, 24, 24), "quarter": (80, 160, 320, 320), "full": (320, 640, 1280, 1280)}
AIM = 1.10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=WIDTHS, default="quarter", help="width of the U-Net")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--turns", type=int, default=12, help="how often the two kinds of steps take turns")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    parser.add_argument("--mixed_precision", default="no")
    parser.add_argument("--optimizer", default="AdamW8bit")
    parser.add_argument("--type", default="Standard", help="LoRA type")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        turns = measure(given, Path(folder))
    ratio = statistics.median(ours / bare for ours, bare in turns)
    ours, bare = (statistics.median(times) for times in zip(*turns, strict=True))
    device = pick_device()
    print(f"{platform.system()} {platform.machine()}, {device_name(device)}, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    print(f"{given.size} U-Net, {given.resolution} px, batch {given.batch}, {given.type} rank {given.dim}, "
          f"{given.optimizer}, {given.mixed_precision}")  # fmt: skip
    print(f"step {1000 * ours:9.1f} ms   bare {1000 * bare:9.1f} ms   ratio {ratio:.3f} (aim {AIM:.2f})")
    print(f"{given.batch / ours:.2f} images/s   peak memory {peak_memory(device) / 2**20:.0f} MiB")


def measure(given: argparse.Namespace, folder: Path) -> list[tuple[float, float]]:
    """Seconds of (a training step, bare passes), turn by turn; the first turn warms up and does not count."""
    stopwatch = Stopwatch(given)
    real_load, real_attach, real_after = training.load_model, training.attach, training.Desk.after_step

    def attach(model: Model, *others: Any) -> Any:
        stopwatch.model, stopwatch.adapter = model, real_attach(model, *others)
        return stopwatch.adapter

    def after_step(desk: training.Desk) -> None:
        real_after(desk)
        stopwatch.step()

    training.load_model = lambda s, report, device, dtype: random_model(WIDTHS[given.size], device, dtype)  # type: ignore[assignment]
    training.attach, training.Desk.after_step = attach, after_step  # type: ignore[assignment,method-assign]
    try:
        with Reporter(folder / "run") as report:
            training.train(settings(given, pictures(folder / "data", given), folder / "out"), report)
    finally:
        training.load_model, training.attach, training.Desk.after_step = real_load, real_attach, real_after  # type: ignore[method-assign]
    return stopwatch.turns[1:]


class Stopwatch:
    """Times training steps as they come and, after every few of them, as many bare passes."""

    model: Model
    adapter: Any

    def __init__(self, given: argparse.Namespace) -> None:
        self.clock = time.process_time if pick_device().type == "cpu" else time.perf_counter
        self.given, self.turns, self.count, self.since = given, list[tuple[float, float]](), 0, self.clock()

    def step(self) -> None:
        """A training step has ended."""
        self.count += 1
        if self.count % self.given.steps == 0:
            wait(self.model.device)
            ours = self.clock() - self.since
            self.turns.append((ours / self.given.steps, self.bare()))
            self.since = self.clock()

    def bare(self) -> float:
        """Seconds of one forward and backward pass, averaged over a turn; gradients are thrown away."""
        model, device, given = self.model, self.model.device, self.given
        precision, side = Precision(device, model.dtype), given.resolution // 8
        x = torch.randn(given.batch, 4, side, side, device=device)
        t = torch.randint(0, 1000, (given.batch,), device=device)
        told = torch.randn(given.batch, 77, model.unet.config.cross_attention_dim, device=device)
        parameters = self.adapter.unet_parameters
        kept = [parameter.grad for parameter in parameters]  # windows of a vector, which the training goes on with
        wait(device)
        began = self.clock()
        for _ in range(given.steps):
            for parameter in parameters:
                parameter.grad = None
            with precision.autocast():
                loss = model.unet(x, t, told, return_dict=False)[0].float().square().mean()
            loss.backward()
        wait(device)
        seconds = (self.clock() - began) / given.steps
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient
        return seconds


def wait(device: torch.device) -> None:
    """Until the device has done everything."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def settings(given: argparse.Namespace, data: Path, output: Path) -> Settings:
    """A run of the wanted number of steps with everything cached, the U-Net trained alone."""
    return Settings(
        train_data_dir=str(data), output_dir=str(output), max_resolution=f"{given.resolution},{given.resolution}",
        train_batch_size=given.batch, max_train_steps=(given.turns + 1) * given.steps, text_encoder_lr=0,
        optimizer=given.optimizer, mixed_precision=given.mixed_precision, network_dim=given.dim, LoRA_type=given.type,
        conv_dim=8, gradient_checkpointing=given.checkpointing, save_every_n_epochs=0,
        num_cpu_threads_per_process=torch.get_num_threads(), **dict(pair.split("=", 1) for pair in given.set),
    )  # fmt: skip


def pictures(folder: Path, given: argparse.Namespace) -> Path:
    """Enough pictures of noise for whole batches."""
    inner = folder / "1_noise"
    inner.mkdir(parents=True)
    for number in range(4 * given.batch):
        noise = np.random.default_rng(number).integers(0, 256, (given.resolution, given.resolution, 3), dtype=np.uint8)
        Image.fromarray(noise).save(inner / f"{number}.bmp")
    return folder


def random_model(widths: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Model:
    """SD1.5's parts with random weights: the U-Net of the given width, a small VAE and text encoder."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTokenizer

    from tests.tiny import HIDDEN, SCHEDULER, TOKENIZER, UNET, tiny_components

    parts: dict[str, Any] = tiny_components()
    if widths != UNET["block_out_channels"]:
        options = {"block_out_channels": widths, "attention_head_dim": 8, "norm_num_groups": 16}
        parts["unet"] = UNet2DConditionModel(**{**UNET, **options}).eval()
    for part in parts.values():
        part.requires_grad_(False).to(device, dtype if device.type != "cpu" else torch.float32)
    assert parts["unet"].config.cross_attention_dim == HIDDEN
    return Model(
        family="sd15", unet=parts["unet"], vae=parts["vae"], text_encoders=[parts["text_encoder"]],
        tokenizers=[CLIPTokenizer.from_pretrained(str(TOKENIZER), local_files_only=True)], scheduler_config=SCHEDULER,
        prediction_type="epsilon", source=Path("random"), name="random", device=device, dtype=dtype,
    )  # fmt: skip


if __name__ == "__main__":
    main()
