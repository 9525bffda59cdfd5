"""A model of real size without its real weights: a random single file loads offline, trains a step, and is saved.

python -m benchmarks.real_size --family sd15             2.1 GB of disk, about 7 GB of memory
python -m benchmarks.real_size --family sdxl             6.9 GB of disk, about 10 GB of memory (U-Net and text in bf16)
python -m benchmarks.real_size --family sdxl --dtype no  the same in float32: about 17 GB of memory

Prints seconds, peak memory and the number of layers in the file, which must be those of the reference.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

LAYERS = {
    ("sd15", "Standard"): (192, 72), ("sd15", "Kohya LoCon"): (278, 72),
    ("sd2", "Standard"): (192, 138), ("sd2", "Kohya LoCon"): (278, 138),
    ("sdxl", "Standard"): (722, 264), ("sdxl", "Kohya LoCon"): (788, 264),
}  # fmt: skip
"""Layers of U-Net and text encoders in a file of the reference."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("sd15", "sd2", "sdxl"), default="sd15")
    parser.add_argument("--type", choices=("Standard", "Kohya LoCon"), default="Standard")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument(
        "--dtype", choices=("no", "bf16"), help="of U-Net and text encoders; default: no, bf16 for sdxl"
    )
    options = parser.parse_args()
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    with tempfile.TemporaryDirectory(prefix="loom-real-size-") as folder:
        dtype = options.dtype or ("bf16" if options.family == "sdxl" else "no")
        measure(Path(folder), options.family, options.type, options.resolution, dtype)


def measure(folder: Path, family: str, kind: str, resolution: int, dtype: str) -> None:
    """Write the file, train one step on it, and print what that took."""
    from tests import trainings
    from trainer import train
    from trainer.devices import DTYPES, Precision

    began = time.perf_counter()
    file = write_random(folder / f"{family}.safetensors", family)
    print(f"{file.stat().st_size / 1e9:.2f} GB written in {time.perf_counter() - began:.0f} s", flush=True)
    seconds: dict[str, float] = {}
    train.load_model = timed(train.load_model, seconds, "load")  # type: ignore[attr-defined]
    train.attach = timed(train.attach, seconds, "put the adapter on")  # type: ignore[attr-defined]
    train.Objective.__call__ = timed(train.Objective.__call__, seconds, "forward")  # type: ignore[method-assign]
    train.Learner.backward = timed(train.Learner.backward, seconds, "backward")  # type: ignore[method-assign]
    train.Learner.step = timed(train.Learner.step, seconds, "optimizer")  # type: ignore[method-assign]
    # On the processor a run is in float32; half as much memory is enough to see that a model of this size trains.
    train.choose_precision = lambda s, report: Precision(torch.device("cpu"), DTYPES[dtype])  # type: ignore[attr-defined]
    data = trainings.make_pictures(folder / "data", count=1, repeats=1)
    s = trainings.settings(
        file, data, folder / "out", LoRA_type=kind, max_train_steps=1, conv_dim=4, conv_alpha=4, bucket_reso_steps=64,
        max_resolution=f"{resolution},{resolution}", bucket_no_upscale=False, save_precision="fp16",
    )  # fmt: skip
    with peaks() as peak:
        began = time.perf_counter()
        (loss,) = trainings.losses(trainings.run(s, folder / "run"))
        whole = time.perf_counter() - began
    names = {key.split(".")[0] for key in trainings.tensors(folder / "out" / "small.safetensors")}
    unet, text = (len([name for name in names if re.match(start, name)]) for start in ("lora_unet_", "lora_te"))
    for what, took in seconds.items():
        print(f"{what:<20}{took:8.1f} s")
    print(f"{'the whole run':<20}{whole:8.1f} s")
    print(
        f"peak of its own memory {peak['own'] / 2**30:.1f} GiB, with the file's mapped pages {peak['all'] / 2**30:.1f}"
    )
    print(f"loss {loss:.4f}; {unet} layers of the U-Net and {text} of the text encoders saved")
    if (unet, text) != LAYERS[family, kind]:
        raise SystemExit(f"{LAYERS[family, kind]} were expected")


def timed(work: Callable[..., Any], seconds: dict[str, float], name: str) -> Callable[..., Any]:
    """`work`, with the time it takes added to `seconds`."""

    def wrapped(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return work(*args, **options)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

    return wrapped


@contextmanager
def peaks() -> Iterator[dict[str, int]]:
    """The most memory of this process: "own", which nobody else can have, and "all", with mapped files."""
    found, done, process = {"own": 0, "all": 0}, threading.Event(), psutil.Process()

    def watch() -> None:
        while not done.wait(0.05):
            info = process.memory_info()
            found["all"] = max(found["all"], info.rss)
            found["own"] = max(found["own"], info.rss - getattr(info, "shared", 0))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


# A random model


def write_random(path: Path, family: str) -> Path:
    """A .safetensors file in half precision with the keys and shapes of the family; little memory is needed for it."""
    from tests.models.test_families import full_size
    from tests.tiny import original_state_dict

    full = full_size(family)
    names = ("text_encoder", "text_encoder_2")
    parts = {"unet": full.unet, "vae": full.vae} | dict(zip(names, full.text_encoders, strict=False))
    shapes = {key: tuple(value.shape) for key, value in original_state_dict(parts, family).items()}
    header, end = {}, 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape, dtype=np.int64))
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    pool = (np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32) * 0.02).astype(np.float16)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, shape in shapes.items():
            count = int(np.prod(shape, dtype=np.int64))
            if len(shape) == 1:
                norm = key.endswith("weight")  # the scales of norms are 1, everything else of one dimension 0
                np.full(count, 1.0 if norm else 0.0, np.float16).tofile(file)
                continue
            for start in range(0, count, len(pool)):
                pool[: count - start].tofile(file)
    return path


if __name__ == "__main__":
    main()
