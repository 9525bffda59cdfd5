"""Small made-up data: pictures on disk, data sets without files, a VAE with random weights, a silent reporter."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.tiny import VAE
from trainer.data.dataset import Dataset, Picture, Subset


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A coloured picture unlike any other seed's."""
    small = np.random.default_rng([seed, 7]).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write(folder: Path, **pictures: tuple[int, int]) -> Path:
    """PNG files `name`.png of the given sizes in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, size) in enumerate(pictures.items()):
        noise(*size, seed=seed + 1).save(folder / f"{name}.png")
    return folder


def dataset_of(
    sizes: Iterable[tuple[tuple[int, int], int]], reg: Sequence[tuple[tuple[int, int], int]] = ()
) -> Dataset:
    """A data set of (size, repeats) pairs whose files do not exist."""

    def subset(name: str, pairs: Iterable[tuple[tuple[int, int], int]], is_reg: bool) -> Subset:
        pictures = tuple(
            Picture(Path(f"{name}{place}.png"), size, f"{name} {place}", None, name, repeats, is_reg)
            for place, (size, repeats) in enumerate(pairs)
        )
        return Subset(Path(name), name, 1, is_reg, pictures)

    return Dataset((subset("train", sizes, False), subset("reg", reg, True)))


def tiny_vae(seed: int = 0) -> Any:
    """The VAE of the tiny model, with random weights."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(**VAE).eval().requires_grad_(False)
