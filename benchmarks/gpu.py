"""Speed and memory of training on a graphics card, in a table: each way of saving one or the other, on real sizes.

    python -m benchmarks.gpu                        SD1.5 at 512 and SDXL at 1024, about 15 minutes
    python -m benchmarks.gpu --family sdxl --only bf16,fp8
    python -m benchmarks.gpu --tiny --steps 2       a tiny model, on any machine: only to see that it works

Nothing is downloaded: weights are random, of the real shapes, in a single file that the run loads like any other. Every
row is a run of its own in a process of its own, with U-Net and text cached as people train. `images/s` is the
median of the steps after the first two; `memory` is the most the run held on the card, in all phases; `TFLOP/s` counts
two passes of the frozen U-Net an image. A row that cannot run says why.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROWS: dict[str, dict[str, Any]] = {
    "fp16": {"mixed_precision": "fp16"},
    "bf16": {"mixed_precision": "bf16"},
    "bf16, batch 4": {"mixed_precision": "bf16", "train_batch_size": 4},
    "bf16, checkpointing": {"mixed_precision": "bf16", "gradient_checkpointing": True},
    "bf16, fp8 base": {"mixed_precision": "bf16", "fp8_base": True},
    "bf16, fp8 base, checkpointing": {"mixed_precision": "bf16", "fp8_base": True, "gradient_checkpointing": True},
    "fp8": {"mixed_precision": "fp8"},
    "bf16, compiled": {"mixed_precision": "bf16", "dynamo_backend": "inductor"},
    "fp8, compiled": {"mixed_precision": "fp8", "dynamo_backend": "inductor"},
    "bf16, compiled, checkpointing": {
        "mixed_precision": "bf16", "dynamo_backend": "inductor", "gradient_checkpointing": True,
    },
    "bf16, attention none": {"mixed_precision": "bf16", "xformers": "none"},
    "bf16, memory efficient": {"mixed_precision": "bf16", "mem_eff_attn": True},
    "full bf16": {"mixed_precision": "bf16", "full_bf16": True},
    "bf16, highvram": {"mixed_precision": "bf16", "highvram": True},
    "bf16, lowvram": {"mixed_precision": "bf16", "lowvram": True},
    "bf16, lowvram, fp8 base, checkpointing": {
        "mixed_precision": "bf16", "lowvram": True, "fp8_base": True, "gradient_checkpointing": True,
    },
    "no (float32)": {"mixed_precision": "no"},
}  # fmt: skip
SIZES = {"sd15": 512, "sd2": 768, "sdxl": 1024}
TERAFLOP = {"sd15": 0.80, "sd2": 2.15, "sdxl": 6.76}
"""Of a forward pass of the U-Net for one image of that size."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=SIZES, action="append", help="default: sd15 and sdxl")
    parser.add_argument("--only", default="", help="names of rows, with semicolons between them; default: all")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--dim", type=int, default=16, help="rank")
    parser.add_argument("--type", default="Standard", help="LoRA type")
    parser.add_argument("--tiny", action="store_true", help="a model of some thousand weights, at 64 pixels")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(run_row(given)))
        return
    names = [name.strip() for name in given.only.split(";") if name.strip()] or list(ROWS)
    for family in given.family or ["sd15", "sdxl"]:
        with tempfile.TemporaryDirectory(prefix="loom-gpu-", ignore_cleanup_errors=True) as folder:
            table(given, family, names, make_model(Path(folder), family, given.tiny))


def make_model(folder: Path, family: str, tiny: bool) -> Path:
    """A model with random weights."""
    if tiny:
        from tests.tiny import tiny_folder

        return tiny_folder(folder / family, family=family)
    from benchmarks.real_size import write_random

    return write_random(folder / f"{family}.safetensors", family)


def table(given: argparse.Namespace, family: str, names: list[str], model: Path) -> None:
    """Run and print the rows of a family."""
    import torch

    from trainer.devices import device_name, pick_device

    side = 64 if given.tiny else SIZES[family]
    print(f"\n{family}{', tiny' if given.tiny else ''}, {side} px, {given.type} rank {given.dim}, AdamW8bit; "
          f"{device_name(pick_device())}, torch {torch.__version__}")  # fmt: skip
    print(f"{'':<40}{'images/s':>10}{'step':>10}{'TFLOP/s':>9}{'memory':>12}{'first step':>12}{'loss':>8}")
    for name in names:
        command = [sys.executable, "-m", "benchmarks.gpu", "--row", name, "--family", family, "--model", str(model),
                   "--steps", str(given.steps), "--dim", str(given.dim), "--type", given.type]  # fmt: skip
        done = subprocess.run(
            [*command, *(["--tiny"] if given.tiny else [])], cwd=ROOT, capture_output=True, text=True, check=False
        )
        print(f"{name:<40}{line(0.0 if given.tiny else TERAFLOP[family], done)}", flush=True)


def line(teraflop: float, done: subprocess.CompletedProcess[str]) -> str:
    """A row of the table from what a process printed; `teraflop` is what a forward pass of one image takes."""
    said = done.stdout.strip().splitlines()
    if done.returncode or not said:
        return "  " + (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:160]
    found = json.loads(said[-1])
    if "failed" in found:
        return f"  {found['failed']}"
    work = 2 * teraflop * found["images"]
    return (f"{found['images']:>10.2f}{1000 * found['step']:>8.0f} ms{work:>9.1f}{found['memory'] / 2**20:>8.0f} MiB"
            f"{found['first']:>10.1f} s{found['loss']:>8.3f}")  # fmt: skip


def run_row(given: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps and tell how fast that was and what it needed."""
    import torch

    from tests.trainings import make_pictures
    from trainer import train as training
    from trainer.devices import peak_memory, pick_device
    from trainer.events import Step
    from trainer.report import Failure, Reporter
    from trainer.settings import Settings

    (family,), values, device = given.family, ROWS[given.row], pick_device()
    batch = values.get("train_batch_size", 1)
    side = 64 if given.tiny else SIZES[family]
    times, found = [time.perf_counter()], list[float]()
    real = training.Desk.after_step

    def after_step(desk: training.Desk) -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter())
        real(desk)

    training.Desk.after_step = after_step  # type: ignore[assignment,method-assign]
    with tempfile.TemporaryDirectory(prefix="loom-gpu-", ignore_cleanup_errors=True) as folder:
        data = make_pictures(Path(folder) / "data", count=2 * batch, repeats=1)
        s = Settings(
            pretrained_model_name_or_path=given.model, sdxl=family == "sdxl", v2=family == "sd2",
            train_data_dir=str(data), output_dir=str(Path(folder) / "out"), max_resolution=f"{side},{side}",
            enable_bucket=False, max_train_steps=given.steps, text_encoder_lr=0, optimizer="AdamW8bit",
            network_dim=given.dim, LoRA_type=given.type, save_every_n_epochs=0, seed=1, **values,
        )  # fmt: skip

        def hear(event: Any) -> None:
            if isinstance(event, Step):
                found.append(event.loss)

        try:
            with Reporter(Path(folder) / "run", listen=hear) as report:
                training.train(s, report)
        except Failure as failure:
            return {"failed": failure.reason}
    took = [after - before for before, after in pairwise(times[1:])]
    step = statistics.median(took[1:] or took)
    return {"step": step, "images": batch / step, "first": times[1] - times[0], "memory": peak_memory(device),
            "loss": statistics.mean(found)}  # fmt: skip


if __name__ == "__main__":
    main()
