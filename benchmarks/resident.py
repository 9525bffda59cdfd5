"""What of the frozen model a graphics card has to hold while training: as it comes, with lowvram, highvram, fp8 base.

    python -m benchmarks.resident                   SD1.5, 2.1 GB of disk
    python -m benchmarks.resident --family sdxl     6.9 GB of disk, about 10 GB of memory

A model of real size with random weights goes forward and backward once on the processor, in bf16. Its memory
stands for both places: what would stay on the card is counted, and what is fetched for a layer is copied and counted
for as long as the copy lives. So the bytes are those of a card, and the seconds are not; activations are not counted:
these settings leave them as they are.
"""

from __future__ import annotations

import argparse
import tempfile
import weakref
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

ROWS: dict[str, dict[str, Any]] = {
    "as it comes": {}, "highvram": {"highvram": True}, "fp8 base": {"fp8_base": True}, "lowvram": {"lowvram": True},
    "lowvram, fp8 base": {"lowvram": True, "fp8_base": True},
}  # fmt: skip


class Fetched:
    """Counts the weights that are fetched while they live."""

    def __init__(self) -> None:
        self.live = self.peak = 0

    def count(self, weight: Tensor) -> Tensor:
        """A copy of a weight, counted until nobody needs it any more."""
        copy = weight.clone()
        self.live += copy.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(copy, self._gone, copy.nbytes)
        return copy

    def _gone(self, size: int) -> None:
        self.live -= size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("sd15", "sd2", "sdxl"), default="sd15")
    parser.add_argument(
        "--tiny", action="store_true", help="a model of some thousand weights, only to see that it works"
    )
    given = parser.parse_args()
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    with tempfile.TemporaryDirectory(prefix="loom-resident-") as folder:
        from benchmarks.gpu import make_model

        model = make_model(Path(folder), given.family, given.tiny)
        print(f"{given.family}: {'U-Net':>22}{'fetched at most':>18}{'text and VAE':>15}{'in all':>11}")
        for name, values in ROWS.items():
            unet, fetched, others = (count / 2**20 for count in held(model, given.family, values))
            print(
                f"{name:<22}{unet:>8.0f} MiB{fetched:>14.0f} MiB{others:>11.0f} MiB{unet + fetched + others:>7.0f} MiB"
            )


def held(path: Path, family: str, values: dict[str, Any]) -> tuple[int, int, int]:
    """Bytes of the U-Net that stay, that are fetched at most at once, and of text encoders and VAE that stay."""
    from tests.tiny import listener
    from trainer import storage
    from trainer.adapters import attach
    from trainer.devices import Precision
    from trainer.models import load_model
    from trainer.settings import Settings

    s = Settings(
        pretrained_model_name_or_path=str(path), sdxl=family == "sdxl", v2=family == "sd2", text_encoder_lr=0, **values
    )
    precision, report, counter = Precision(torch.device("cpu"), torch.bfloat16), listener(), Fetched()
    model = load_model(s, report, precision.device, precision.dtype)
    is_far, fetch = storage.is_far, storage.fetch
    storage.is_far = lambda s, device: s.lowvram  # type: ignore[assignment]
    storage.fetch = lambda *kept: counter.count(fetch(*kept))  # type: ignore[assignment]
    try:
        frozen = storage.Frozen(model, s, precision)
        adapter = attach(model, s, report)
        frozen.store(adapter.unet_parameters)
        unet = model.unet
        unet.train()
        told: Any = None
        if family == "sdxl":
            width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
            told = {"text_embeds": torch.zeros(1, width), "time_ids": torch.zeros(1, 6)}
        states = torch.zeros(1, 77, unet.config.cross_attention_dim, dtype=precision.dtype)
        latents = torch.zeros(1, 4, 16, 16, dtype=precision.dtype)
        with torch.autocast("cpu", torch.bfloat16):
            noise = unet(latents, torch.tensor([500]), states, added_cond_kwargs=told).sample
        noise.float().square().mean().backward()
    finally:
        storage.is_far, storage.fetch = is_far, fetch
    away = {id(layer.kept) for layer in unet.modules() if isinstance(layer, storage.Stored)} if s.lowvram else set()
    stays = sum(weight.nbytes for weight in unet.parameters() if id(weight) not in away and not weight.requires_grad)
    others = sum(map(size, (*model.text_encoders, model.vae))) if s.highvram else 0
    return stays, counter.peak, others


def size(part: nn.Module) -> int:
    """Bytes of all weights of a part of the model."""
    return sum(weight.nbytes for weight in part.parameters())


if __name__ == "__main__":
    main()
