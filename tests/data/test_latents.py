"""Latents: what the VAE is given, and a cache that is right or not used."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.made import noise, tiny_vae, write
from trainer.data import latents
from trainer.data.buckets import place
from trainer.data.dataset import Picture, scan
from trainer.data.images import fit, open_picture
from trainer.data.latents import Encoder, Latents, Wish, identity, pixels_of
from trainer.events import Phase, read
from trainer.report import Failure, Reporter, Stopped
from trainer.settings import Settings

SETTINGS = Settings(max_resolution="64,64", bucket_reso_steps=8)
CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Picture, ...]:
    write(tmp_path / "img" / "1_x", a=(64, 64), b=(80, 48), c=(48, 80), d=(64, 64))
    return scan(Settings(train_data_dir=str(tmp_path / "img"))).pictures


def wishes(
    pictures: tuple[Picture, ...], settings: Settings = SETTINGS, flips: tuple[bool, ...] = (False,)
) -> list[Wish]:
    return [Wish(picture, place(picture.size, settings), flip) for picture in pictures for flip in flips]


def filled(
    pictures: tuple[Picture, ...], report: Reporter, folder: Path | None = None, vae: Any = None, **kwargs: Any
) -> Latents:
    found = Latents(Encoder(vae or tiny_vae(), CPU, report), folder)
    found.fill(wishes(pictures, **kwargs), report)
    return found


def all_of(found: Latents, pictures: tuple[Picture, ...], flip: bool = False) -> list[torch.Tensor]:
    return [found.get(wish) for wish in wishes(pictures, flips=(flip,))]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_latents_are_samples_of_the_vae_times_its_scale(report: Reporter, pictures: tuple[Picture, ...]) -> None:
    vae = tiny_vae()
    wish = wishes(pictures)[1]
    pixels = fit(open_picture(wish.picture.path), wish.placement)
    assert pixels.shape == (48, 80, 3)
    inputs = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    assert -1 <= inputs.min() < inputs.max() <= 1
    with torch.no_grad():
        distribution = vae.encode(inputs).latent_dist
    eps = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(7))
    expected = (distribution.mean + distribution.std * eps) * vae.config.scaling_factor
    found = Encoder(vae, CPU, report)([pixels], [7])
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)


def test_drawing_does_not_touch_the_global_generator(report: Reporter, pictures: tuple[Picture, ...]) -> None:
    state = torch.get_rng_state()
    filled(pictures, report)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_run_has_the_same_bits(report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path) -> None:
    first = all_of(filled(pictures, report), pictures)
    assert [latent.shape for latent in first] == [(4, 8, 8), (4, 6, 10), (4, 10, 6), (4, 8, 8)]
    assert equal(first, all_of(filled(pictures, report), pictures))
    assert equal(first, all_of(filled(pictures, report, tmp_path / "cache"), pictures))
    assert equal(first, all_of(filled(pictures, report, tmp_path / "cache"), pictures))
    alone = filled(pictures[3:], report)
    assert torch.equal(alone.get(wishes(pictures)[3]), first[3]), "whatever else is in the data set"
    assert not torch.equal(first[0], first[3])


def test_the_disk_cache_is_shared_between_runs(report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path) -> None:
    first = filled(pictures, report, tmp_path / "cache", flips=(False, True))
    assert (first.encoded, first.found) == (8, 0)
    second = filled(pictures, report, tmp_path / "cache", flips=(False, True))
    assert (second.encoded, second.found) == (0, 8)
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    moved = pictures[0].path.with_name("other name.png")
    pictures[0].path.rename(moved)
    third = filled(scan(Settings(train_data_dir=str(moved.parent.parent))).pictures, report, tmp_path / "cache")
    assert (third.encoded, third.found) == (0, 4), "a name says nothing about what is in a file"


def test_mirrored_pictures_are_encoded_mirrored(report: Reporter, pictures: tuple[Picture, ...]) -> None:
    wish = wishes(pictures)[1]
    assert np.array_equal(pixels_of(wish._replace(flipped=True)), pixels_of(wish)[:, ::-1])
    found = filled(pictures, report, flips=(False, True))
    plain, flipped = found.get(wish), found.get(wish._replace(flipped=True))
    vae = tiny_vae()
    with torch.no_grad():
        pixels = torch.from_numpy(pixels_of(wish)[:, ::-1].copy()).permute(2, 0, 1)[None] / 127.5 - 1
        mean = vae.encode(pixels).latent_dist.mean[0] * vae.config.scaling_factor
    assert (flipped - mean).abs().mean() < (plain - mean).abs().mean()


def test_anything_that_matters_makes_a_new_latent(
    report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    filled(pictures, report, cache)
    assert filled(pictures, report, cache).encoded == 0

    # Another picture under the same name, of the same size.
    noise(64, 64, seed=99).save(pictures[0].path)
    assert filled(pictures, report, cache).encoded == 1

    # Another size.
    larger = Settings(max_resolution="128,128", enable_bucket=False)
    assert filled(pictures, report, cache, settings=larger).encoded == 4

    # Another VAE, by a single weight; another scale.
    changed = tiny_vae()
    changed.encoder.conv_in.bias.data[0] += 1e-6
    assert filled(pictures, report, cache, vae=changed).encoded == 4
    rescaled = tiny_vae()
    rescaled.register_to_config(scaling_factor=0.13025)
    assert filled(pictures, report, cache, vae=rescaled).encoded == 4

    # Another version of the program.
    monkeypatch.setattr(latents, "VERSION", latents.VERSION + 1)
    assert filled(pictures, report, cache).encoded == 4


def test_what_cannot_matter_keeps_the_latents(report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path) -> None:
    filled(pictures, report, tmp_path / "cache")
    vae = tiny_vae()
    vae.decoder.conv_in.weight.data += 1
    vae.register_to_config(_name_or_path="/somewhere/else")
    assert filled(pictures, report, tmp_path / "cache", vae=vae).encoded == 0


def test_identity_tells_precisions_and_shapes_apart() -> None:
    assert identity(tiny_vae(0)) == identity(tiny_vae(0))
    assert len({identity(tiny_vae(0)), identity(tiny_vae(1)), identity(tiny_vae(0).to(torch.bfloat16))}) == 3


DAMAGE = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "one bit": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "other content": lambda content: b"PK not a zip at all",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_file_is_made_anew(
    report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path, damage: str
) -> None:
    cache = tmp_path / "cache"
    right = all_of(filled(pictures, report, cache), pictures)
    for file in cache.rglob("*.npz"):
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    again = filled(pictures, report, cache)
    assert again.encoded == 4
    assert equal(all_of(again, pictures), right)
    assert filled(pictures, report, cache).encoded == 0


def test_a_cache_file_of_another_shape_or_with_nan_is_made_anew(
    report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path
) -> None:
    right = all_of(filled(pictures, report, tmp_path / "cache"), pictures)
    wrongs: list[Any] = [
        np.zeros((4, 1, 1), np.float32), np.full((4, 8, 8), np.nan, np.float32), np.zeros((4, 8, 8)), np.array("x"),
    ]  # fmt: skip
    for file, wrong in zip(sorted((tmp_path / "cache").rglob("*.npz")), wrongs, strict=True):
        np.savez(file, latents=wrong)
    assert equal(all_of(filled(pictures, report, tmp_path / "cache"), pictures), right)


def test_large_caches_are_read_from_the_disk_when_needed(
    report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = all_of(filled(pictures, report), pictures)
    monkeypatch.setattr(latents, "MEMORY", 1)
    found = filled(pictures, report, tmp_path / "cache")
    assert len(found._kept) == 1
    assert equal(all_of(found, pictures), right)
    for file in (tmp_path / "cache").rglob("*.npz"):
        file.unlink()
    assert equal(all_of(found, pictures), right), "lost in the middle of a run"


def test_a_cache_that_cannot_be_written_is_done_without(
    report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "MEMORY", 1)
    (tmp_path / "cache").write_text("a file where the folder should be")
    found = filled(pictures, report, tmp_path / "cache")
    assert equal(all_of(found, pictures), all_of(filled(pictures, report), pictures))
    report.flush()
    assert "kept in memory only" in (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8")


def test_equal_files_share_a_latent(report: Reporter, tmp_path: Path) -> None:
    folder = write(tmp_path / "img" / "1_x", a=(64, 64))
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    pictures = scan(Settings(train_data_dir=str(tmp_path / "img"))).pictures
    found = filled(pictures, report, tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1
    assert equal(*([latent] for latent in all_of(found, pictures)))


def test_progress_is_told_and_a_stop_obeyed(report: Reporter, pictures: tuple[Picture, ...]) -> None:
    filled(pictures, report)
    report.flush()
    phases = [event for event in read(report.folder / "events.jsonl")[0] if isinstance(event, Phase)]
    assert [(phase.name, phase.done, phase.total) for phase in phases][-1] == ("caching latents", 4, 4)
    threads = threading.active_count()
    report.stop()
    with pytest.raises(Stopped):
        filled(pictures, report)
    assert threading.active_count() == threads


@pytest.mark.parametrize("change", ["gone", "resized", "broken"])
def test_a_picture_that_changed_since_the_check_is_named(
    report: Reporter, pictures: tuple[Picture, ...], change: str
) -> None:
    path = pictures[2].path
    if change == "gone":
        path.unlink()
    elif change == "resized":
        noise(30, 90).save(path)
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Failure) as caught:
        filled(pictures, report)
    assert str(path) in caught.value.reason
    assert "tart" in caught.value.advice


class Overflowing:
    """A VAE that gives NaN in half precision."""

    config = SimpleNamespace(scaling_factor=2.0)

    def __init__(self) -> None:
        self.dtype = torch.float16

    def float(self) -> "Overflowing":
        self.dtype = torch.float32
        return self

    def encode(self, inputs: torch.Tensor) -> SimpleNamespace:
        assert inputs.dtype == self.dtype
        mean = torch.full((len(inputs), 4, 8, 8), 3.0 if self.dtype == torch.float32 else torch.nan)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.zeros_like(mean)))


def test_overflow_in_half_precision_is_mended_and_told(report: Reporter) -> None:
    encoder = Encoder(Overflowing(), CPU, report)
    found = encoder([np.zeros((64, 64, 3), np.uint8)], [1])
    assert torch.equal(found, torch.full((1, 4, 8, 8), 6.0))
    report.flush()
    assert "overflows in half precision" in (report.folder / "events.jsonl").read_text(encoding="utf-8")


def test_a_vae_without_sense_is_a_failure_not_a_training_on_nan(
    report: Reporter, pictures: tuple[Picture, ...]
) -> None:
    vae = tiny_vae()
    vae.encoder.conv_in.weight.data.fill_(torch.nan)
    with pytest.raises(Failure, match="no usable numbers"):
        filled(pictures, report, vae=vae)


# Trusting what is on disk.


def trusting(pictures: tuple[Picture, ...], report: Reporter, folder: Path) -> Latents:
    found = Latents(Encoder(tiny_vae(), CPU, report), folder, trusting=True)
    found.fill(wishes(pictures), report)
    return found


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of pictures and cached files that are read, in order."""
    names: list[str] = []
    read_bytes, load = Path.read_bytes, np.load

    def listen(path: Path) -> bytes:
        names.append(path.name)
        return read_bytes(path)

    def listen_too(path: Path, **kwargs: Any) -> Any:
        names.append(path.name)
        return load(path, **kwargs)

    monkeypatch.setattr(Path, "read_bytes", listen)
    monkeypatch.setattr("trainer.data.latents.np.load", listen_too)
    return names


@pytest.fixture
def left_alone(pictures: tuple[Picture, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures as if they had been there for a while."""
    monkeypatch.setattr("trainer.data.digests.SETTLED", -1)


@pytest.mark.usefixtures("left_alone")
def test_a_trusting_cache_reads_nothing_before_it_is_needed(
    report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path, read_files: list[str]
) -> None:
    first = all_of(filled(pictures, report, tmp_path / "cache"), pictures)
    read_files.clear()
    checking = filled(pictures, report, tmp_path / "cache")
    assert (checking.found, len(read_files)) == (4, 8), "each picture and each latent"
    read_files.clear()
    found = trusting(pictures, report, tmp_path / "cache")
    assert (found.encoded, found.found) == (0, 4)
    assert read_files == []
    assert equal(first, all_of(found, pictures))
    assert len(read_files) == 4
    assert equal(first, all_of(found, pictures))
    assert len(read_files) == 4, "and once is enough"


@pytest.mark.usefixtures("left_alone")
def test_a_trusting_cache_sees_what_was_changed_lost_or_torn(
    report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = all_of(filled(pictures, report, cache), pictures)
    noise(64, 64, seed=99).save(pictures[0].path)
    changed = trusting(pictures, report, cache)
    assert (changed.encoded, changed.found) == (1, 3)
    assert not torch.equal(changed.get(wishes(pictures)[0]), first[0])
    files = sorted(cache.rglob("*.npz"))
    files[0].unlink()
    files[1].write_bytes(b"torn")
    found = all_of(trusting(pictures, report, cache), pictures)
    assert equal(found[1:], first[1:])
    assert torch.equal(found[0], changed.get(wishes(pictures)[0]))
    assert filled(pictures, report, cache).encoded == 0, "what was torn is whole again"


def test_files_that_were_just_written_are_read_again(
    report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path, read_files: list[str]
) -> None:
    """The clock of a disk may not tell two changes apart that come one right after the other."""
    filled(pictures, report, tmp_path / "cache")
    read_files.clear()
    trusting(pictures, report, tmp_path / "cache")
    assert sorted(set(read_files) & {"a.png", "b.png"}) == ["a.png", "b.png"]


def test_what_there_is_is_told(report: Reporter, pictures: tuple[Picture, ...], tmp_path: Path) -> None:
    assert filled(pictures, report).summary == "4 latents: 4.0 kB in memory."
    filled(pictures[:3], report, tmp_path / "cache")
    said = filled(pictures, report, tmp_path / "cache").summary
    assert said == "4 latents: 4.0 kB in memory and 5.0 kB on disk; 3 of 4 were there already."
