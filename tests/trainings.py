"""Small training runs for tests: a tiny model, four pictures, a few seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from trainer import events
from trainer.events import Event, Step
from trainer.report import Reporter
from trainer.settings import Settings


def make_pictures(folder: Path, count: int = 4, repeats: int = 2, concept: str = "cat", seed: int = 0) -> Path:
    """A data set of noise, in two shapes, with captions; returns the folder to train on.

    The files are bitmaps: their bytes, and so the latents drawn for them, are the same with any version of any library.
    """
    inner = folder / f"{repeats}_{concept}"
    inner.mkdir(parents=True, exist_ok=True)
    source = np.random.default_rng(seed)
    for number in range(count):
        size = (64, 64, 3) if number % 2 else (64, 96, 3)
        Image.fromarray(source.integers(0, 256, size, dtype=np.uint8)).save(inner / f"{concept}{number}.bmp")
        (inner / f"{concept}{number}.txt").write_text(f"a {concept}, number {number}, in noise", encoding="utf-8")
    return folder


def settings(model: Path, data: Path, output: Path, **values: Any) -> Settings:
    """Small settings: 8 repeated pictures, batches of 1, 8 steps an epoch."""
    small = {
        "pretrained_model_name_or_path": str(model),
        "train_data_dir": str(data),
        "output_dir": str(output),
        "output_name": "small",
        "max_resolution": "64,64",
        "min_bucket_reso": 64,
        "bucket_no_upscale": False,
        "network_dim": 4,
        "network_alpha": 4,
        "optimizer": "AdamW",
        "learning_rate": 1e-3,
        "lr_warmup": 0,
        "mixed_precision": "no",
        "save_precision": "float",
        "save_every_n_epochs": 0,
        "num_cpu_threads_per_process": 1,
    }
    return Settings(**{**small, **values})


def run(
    s: Settings, folder: Path, at: dict[int, str] | None = None, listen: Callable[[Event], None] | None = None
) -> list[Event]:
    """Train in a run folder and return the events. `at` maps steps to commands that are given right after them."""
    from trainer.train import train

    def hear(event: Event) -> None:
        if isinstance(event, Step) and event.step in (at or {}):
            command(folder, (at or {})[event.step])
        if listen is not None:
            listen(event)

    with Reporter(folder, "train", s.output_name, hear) as report:
        train(s, report)
    return events.read(folder / "events.jsonl")[0]


def command(folder: Path, word: str) -> None:
    """What the page does to tell a run something."""
    (folder / "control" / f"{word}.json").write_text("{}", encoding="utf-8")


def losses(found: list[Event]) -> list[float]:
    """The loss of every step."""
    return [event.loss for event in found if isinstance(event, Step)]


def tensors(path: Path) -> dict[str, Tensor]:
    """What a saved LoRA holds."""
    from safetensors.torch import load_file

    return load_file(path)
