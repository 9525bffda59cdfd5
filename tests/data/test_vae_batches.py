"""How many pictures the VAE encodes at once changes the time and the memory, never the latents."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.made import tiny_vae, write
from tests.tiny import Listener
from trainer.data.buckets import place
from trainer.data.dataset import scan
from trainer.data.latents import Encoder, Latents, Wish
from trainer.report import Reporter
from trainer.settings import Settings

CPU = torch.device("cpu")


class Counted:
    """A VAE that remembers how many pictures it was given at once, and gives up when there are too many or too large."""

    def __init__(self, most: int = 99, largest: int = 1 << 30) -> None:
        self.vae, self.most, self.largest, self.seen = tiny_vae(), most, largest, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def encode(self, inputs: torch.Tensor) -> Any:
        whole = not self.vae.use_tiling
        if len(inputs) > self.most or (whole and inputs[0, 0].numel() > self.largest):
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.seen.append(len(inputs))
        return self.vae.encode(inputs)


def pixels(count: int, side: int = 64) -> list[Any]:
    source = np.random.default_rng(0)
    return [source.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize(("together", "seen"), [(0, [5]), (2, [2, 2, 1]), (5, [5]), (32, [5]), (1, [1] * 5)])
def test_as_many_at_once_as_the_setting_says(together: int, seen: list[int]) -> None:
    vae, report = Counted(), Listener()
    found = Encoder(vae, CPU, report, together)(pixels(5), range(5))  # type: ignore[arg-type]
    assert vae.seen == seen
    alone = [Encoder(vae, CPU, report)([one], [seed])[0] for seed, one in enumerate(pixels(5))]  # type: ignore[arg-type]
    assert torch.allclose(found, torch.stack(alone), atol=1e-5)


def test_what_does_not_fit_together_is_encoded_one_by_one() -> None:
    vae, report = Counted(most=1), Listener()
    Encoder(vae, CPU, report)(pixels(3), range(3))  # type: ignore[arg-type]
    assert vae.seen == [1, 1, 1]
    assert report.notes == []


def test_what_does_not_fit_alone_is_encoded_in_tiles_and_told_of() -> None:
    """The tiny VAE's tiles are 64 pixels wide; group norms and attention see a tile alone, so latents differ a little."""
    vae, report = Counted(largest=64 * 64), Listener()
    whole = Encoder(Counted(), CPU, Listener())(pixels(1, 128), [1])  # type: ignore[arg-type]
    tiled = Encoder(vae, CPU, report)(pixels(1, 128), [1])  # type: ignore[arg-type]
    assert tiled.shape == whole.shape == (1, 4, 16, 16)
    assert float((tiled - whole).abs().mean()) < 0.3 * float(whole.abs().mean())
    assert report.notes == ["A picture of 128x128 is encoded in tiles: there is not enough memory for it as a whole."]
    assert not vae.vae.use_tiling


def test_what_does_not_even_fit_in_tiles_runs_out_of_memory() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Encoder(Counted(most=0), CPU, Listener())(pixels(1), [1])  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 3, 32])
def test_the_cache_encodes_pictures_of_one_shape_together(size: int, tmp_path: Path) -> None:
    write(tmp_path / "img" / "1_x", **{f"a{number}": (64, 64) for number in range(4)}, b=(80, 48), c=(80, 48))
    s = Settings(train_data_dir=str(tmp_path / "img"), max_resolution="64,64", bucket_reso_steps=8)
    pictures = scan(s).pictures
    wishes = [Wish(picture, place(picture.size, s)) for picture in pictures]
    found: list[SimpleNamespace] = []
    with Reporter(tmp_path / "run") as report:
        for together in (size, 1):
            vae: Any = Counted()
            latents = Latents(Encoder(vae, CPU, report, together))
            latents.fill(wishes, report)
            found.append(SimpleNamespace(seen=vae.seen, all=[latents.get(one) for one in wishes]))
    assert sorted(found[0].seen) == {1: [1] * 6, 3: [1, 2, 3], 32: [2, 4]}[size]
    for one, other in zip(found[0].all, found[1].all, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
