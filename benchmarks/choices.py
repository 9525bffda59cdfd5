"""What each choice of attention, memory and compiling costs or gains, beside the same training without it.

    python -m benchmarks.choices                              a quarter of SD1.5's width, 256 pixels
    python -m benchmarks.choices --size full --resolution 512 --mixed_precision bf16 --only sdpa,none

For each choice two models of the same weights take turns at forward and backward passes in one process, one with the
choice and one without; the median of the turns' ratios counts, so a busy machine slows both. On the processor its own
time is taken. The difference of their outputs stands beside: it is a check, not a measure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.training_step import WIDTHS, random_model, wait
from trainer import storage
from trainer.adapters import attach
from trainer.attention import choose_attention
from trainer.compiling import compile_unet
from trainer.devices import DTYPES, Precision, pick_device
from trainer.settings import Settings
from trainer.storage import Frozen

CHOICES: dict[str, dict[str, Any]] = {
    "CrossAttention none": {"xformers": "none"},
    "Memory efficient attention": {"mem_eff_attn": True},
    "Gradient checkpointing": {"gradient_checkpointing": True},
    "fp8 base": {"fp8_base": True},
    "channels_last (automatic when wide)": {},
    "Dynamo backend inductor": {"dynamo_backend": "inductor"},
}


class Listener:
    """Stands for a `Reporter` and prints what it is told."""

    def note(self, text: str, level: str = "info", key: str = "") -> None:
        print(f"    {text}")

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """Nobody is waiting for it."""


class Runner:
    """A U-Net with its adapter, made as a training run makes it."""

    def __init__(self, given: argparse.Namespace, values: dict[str, Any], channels_last: bool = False) -> None:
        torch.manual_seed(0)
        device = pick_device()
        self.precision = Precision(device, DTYPES[given.mixed_precision])
        self.model = random_model(WIDTHS[given.size], device, self.precision.dtype)
        s = Settings(text_encoder_lr=0, network_dim=16, LoRA_type=given.type, conv_dim=8, seed=1, **values)
        report: Any = Listener()
        choose_attention(self.model, s, report)
        storage.WIDE = 0 if channels_last else 1 << 30
        frozen = Frozen(self.model, s, self.precision)
        self.weights = attach(self.model, s, report).unet_parameters
        frozen.store(self.weights)
        if s.gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()
        compile_unet(self.model.unet, s, report)
        source = torch.Generator().manual_seed(0)
        side = given.resolution // 8
        self.x = torch.randn(given.batch, 4, side, side, generator=source).to(device)
        self.t = torch.full((given.batch,), 500, device=device)
        self.told = torch.randn(given.batch, 77, self.model.unet.config.cross_attention_dim, generator=source).to(
            device
        )

    def step(self) -> torch.Tensor:
        """Forward and backward; returns the output."""
        for weight in self.weights:
            weight.grad = None
        with self.precision.autocast():
            output: torch.Tensor = self.model.unet(self.x, self.t, self.told, return_dict=False)[0]
        output.float().square().mean().backward()
        return output.detach().float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=WIDTHS, default="quarter")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--type", default="Standard", help="LoRA type")
    parser.add_argument("--mixed_precision", default="no")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="parts of names, with commas between them")
    given = parser.parse_args()
    wanted = [part for part in given.only.split(",") if part]
    print(f"{given.size} U-Net, {given.resolution} px, batch {given.batch}, {given.mixed_precision}, "
          f"{torch.get_num_threads()} threads, {busy()}")  # fmt: skip
    print(f"{'':<36}{'time':>8}{'first':>9}{'difference':>13}")
    for name, values in CHOICES.items():
        if wanted and not any(part.lower() in name.lower() for part in wanted):
            continue
        print("{:<36}{:>8.3f}{:>8.1f}s{:>13.1e}".format(name, *compare(given, name, values)), flush=True)


def compare(given: argparse.Namespace, name: str, values: dict[str, Any]) -> tuple[float, float, float]:
    """Time with the choice over time without it, seconds of its first step, and how far the outputs are apart."""
    plain, other = Runner(given, {}), Runner(given, values, channels_last=name.startswith("channels_last"))
    device = plain.model.device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    wanted = plain.step()
    wait(device)
    began = time.perf_counter()
    found = other.step()
    wait(device)
    first = time.perf_counter() - began
    ratios = []
    for _ in range(given.turns):
        ours, bare = timed(other.step, device, clock), timed(plain.step, device, clock)
        ratios.append(ours / bare)
    return statistics.median(ratios), first, float((found - wanted).norm() / wanted.norm())


def timed(step: Callable[[], Any], device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of a step."""
    wait(device)
    began = clock()
    step()
    wait(device)
    return clock() - began


def busy() -> str:
    """How many other programs are at work."""
    return f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"


if __name__ == "__main__":
    main()
