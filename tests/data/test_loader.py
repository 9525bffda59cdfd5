"""Batches: everything once, the same again from anywhere, and a clean end."""

import threading
from collections import Counter
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.made import noise, tiny_vae, write
from tests.photos import make_photo_dataset
from trainer.data import loader
from trainer.data.buckets import place, told_sizes
from trainer.data.dataset import scan, verify
from trainer.data.latents import Wish, pixels_of
from trainer.data.loader import Batch, Batches
from trainer.plan import make_plan
from trainer.report import Failure, Reporter
from trainer.settings import Settings

MODEL: Any = SimpleNamespace(vae=tiny_vae())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "img" / "2_cat", a=(64, 64), b=(80, 48), c=(64, 64))
    write(tmp_path / "img" / "1_dog", d=(48, 80), e=(64, 64))
    for name, text in {"a": "a cat, grey, sitting, tired", "b": "a cat, black, standing"}.items():
        (tmp_path / "img" / "2_cat" / f"{name}.txt").write_text(text)
    return tmp_path / "img"


def settings(folder: Path, **values: object) -> Settings:
    return Settings(
        **{"train_data_dir": str(folder), "max_resolution": "64,64", "bucket_reso_steps": 8, "seed": 3, **values}
    )


def batches(report: Reporter, s: Settings, **kwargs: Any) -> Batches:
    return Batches(s, scan(s), MODEL, report, "cpu", **kwargs)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.latents, b.latents)
        and torch.equal(a.loss_weights, b.loss_weights)
        and (a.captions, a.pictures, a.epoch, a.index) == (b.captions, b.pictures, b.epoch, b.index)
        for a, b in zip(one, other, strict=True)
    )


LIVELY: dict[str, object] = {
    "flip_aug": True,
    "shuffle_caption": True,
    "keep_tokens": 1,
    "caption_dropout_rate": 0.2,
    "train_batch_size": 2,
}
WAYS: dict[str, dict[str, object]] = {
    "cached": {},
    "on disk": {"cache_latents_to_disk": True},
    "not cached": {"cache_latents": False},
    "colours": {"cache_latents": False, "color_aug": True},
}


def test_an_epoch_shows_every_repeat_once_in_its_bucket(report: Reporter, folder: Path) -> None:
    s = settings(folder, train_batch_size=2)
    with batches(report, s) as source:
        assert source.per_epoch == make_plan(s, scan(s)).batches_per_epoch == 5
        for number in (1, 2, 3):
            epoch = list(source.epoch(number))
            assert [(batch.epoch, batch.index) for batch in epoch] == [(number, index) for index in range(5)]
            shown = Counter(picture.path.stem for batch in epoch for picture in batch.pictures)
            assert shown == {"a": 2, "b": 2, "c": 2, "d": 1, "e": 1}
            for batch in epoch:
                (bucket,) = {place(picture.size, s).bucket for picture in batch.pictures}
                assert batch.latents.shape == (batch.size, 4, bucket[1] // 8, bucket[0] // 8)
                assert batch.latents.dtype == torch.float32
                assert batch.captions == [picture.caption for picture in batch.pictures]
                assert torch.equal(batch.loss_weights, torch.ones(batch.size))


@pytest.mark.parametrize("way", WAYS)
def test_any_batch_is_the_same_from_wherever_one_begins(
    report: Reporter, folder: Path, tmp_path: Path, way: str
) -> None:
    s = settings(folder, **LIVELY, **WAYS[way])
    with batches(report, s, cache_folder=tmp_path / "cache") as source:
        whole = [list(source.epoch(number)) for number in (1, 2, 3)]
    torch.manual_seed(12345)
    with batches(report, s, cache_folder=tmp_path / "cache") as source:
        assert same(list(source.epoch(3, skip=2)), whole[2][2:])
        assert same(list(source.epoch(2)), whole[1])
        first = next(iter(source.epoch(1)))
        assert same([first], whole[0][:1])
        assert same(list(source.epoch(1, skip=1)), whole[0][1:]), "taken up where it was left"
        assert list(source.epoch(1, skip=source.per_epoch)) == []


def test_caching_to_disk_alone_caches_too(report: Reporter, folder: Path, tmp_path: Path) -> None:
    s = settings(folder, cache_latents=False, cache_latents_to_disk=True)
    with batches(report, s, cache_folder=tmp_path / "cache") as source, batches(report, settings(folder)) as other:
        assert same(list(source.epoch(1)), list(other.epoch(1)))
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 5


@pytest.mark.parametrize("way", WAYS)
def test_another_seed_is_another_run(report: Reporter, folder: Path, tmp_path: Path, way: str) -> None:
    found = []
    for seed in (3, 4):
        with batches(report, settings(folder, **LIVELY, **WAYS[way], seed=seed), cache_folder=tmp_path) as source:
            found.append([batch for number in (1, 2, 3) for batch in source.epoch(number)])
    assert not same(*found)


def test_every_epoch_and_every_repeat_is_varied_anew(report: Reporter, folder: Path) -> None:
    (folder / "2_cat" / "a.txt").write_text(", ".join("abcdefgh"))
    with batches(report, settings(folder, shuffle_caption=True, flip_aug=True)) as source:
        shown = [
            (batch.captions[0], batch.latents.sum().item())
            for number in range(1, 11)
            for batch in source.epoch(number)
            if batch.pictures[0].path.stem == "a"
        ]
    assert len(shown) == 20
    assert len({caption for caption, _ in shown}) >= 19
    assert len({latent for _, latent in shown}) == 2, "mirrored and not"


def test_switching_one_chance_on_leaves_the_others(report: Reporter, folder: Path) -> None:
    plain, flipped = settings(folder, shuffle_caption=True), settings(folder, shuffle_caption=True, flip_aug=True)
    with batches(report, plain) as one, batches(report, flipped) as other:
        pairs = [pair for number in range(1, 6) for pair in zip(one.epoch(number), other.epoch(number), strict=True)]
    assert all((a.captions, a.pictures) == (b.captions, b.pictures) for a, b in pairs)
    mirrored = sum(not torch.equal(a.latents, b.latents) for a, b in pairs)
    assert len(pairs) / 4 < mirrored < len(pairs) * 3 / 4


def test_cached_and_uncached_see_the_same_pictures(report: Reporter, folder: Path) -> None:
    """Their samples differ, their distributions do not."""
    with batches(report, settings(folder)) as cached, batches(report, settings(folder, cache_latents=False)) as live:
        for one, other in zip(cached.epoch(1), live.epoch(1), strict=True):
            assert one.pictures == other.pictures
            assert one.latents.shape == other.latents.shape
            assert not torch.equal(one.latents, other.latents)
    s = settings(folder, cache_latents=False)
    vae = MODEL.vae
    with batches(report, s) as live:
        picture = next(batch.pictures[0] for batch in live.epoch(1) if batch.pictures[0].size == (64, 64))
        draws = [
            latent
            for number in range(1, 41)
            for batch in live.epoch(number)
            for shown, latent in zip(batch.pictures, batch.latents, strict=True)
            if shown == picture
        ]
    mean = torch.stack(draws).mean(0)
    pixels = (
        torch.from_numpy(pixels_of(Wish(picture, place(picture.size, s))).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    )
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist
    error = (mean - expected.mean[0] * vae.config.scaling_factor).abs()
    assert (error <= 6 * expected.std[0] * vae.config.scaling_factor / len(draws) ** 0.5).all()


def test_regularisation_is_mixed_in_with_its_own_weight(report: Reporter, tmp_path: Path, folder: Path) -> None:
    write(tmp_path / "reg" / "1_animal", r1=(64, 64), r2=(64, 64))
    s = settings(folder, reg_data_dir=str(tmp_path / "reg"), prior_loss_weight=0.25, train_batch_size=3)
    with batches(report, s) as source:
        epoch = list(source.epoch(1))
    assert sum(batch.size for batch in epoch) == 2 * 8
    for batch in epoch:
        assert batch.loss_weights.tolist() == [0.25 if picture.is_reg else 1.0 for picture in batch.pictures]
    assert any({picture.is_reg for picture in batch.pictures} == {True, False} for batch in epoch)


def test_real_photographs_become_batches(report: Reporter, tmp_path: Path) -> None:
    s = settings(make_photo_dataset(tmp_path / "photos"), max_resolution="96,96", train_batch_size=4, flip_aug=True)
    dataset = verify(scan(s), report)
    assert not dataset.skipped
    with Batches(s, dataset, MODEL, report, "cpu") as source:
        epoch = list(source.epoch(1))
    assert sum(batch.size for batch in epoch) == 27
    assert len({batch.latents.shape[2:] for batch in epoch}) > 2
    assert all(batch.latents.isfinite().all() for batch in epoch)


def test_a_picture_that_vanishes_in_mid_run_is_named(report: Reporter, folder: Path) -> None:
    with batches(report, settings(folder, cache_latents=False)) as source:
        (folder / "1_dog" / "e.png").unlink()
        with pytest.raises(Failure, match=r"e\.png is no longer there"):
            list(chain.from_iterable(map(source.epoch, (1, 2, 3))))


def test_uncached_pictures_are_decoded_once(report: Reporter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = settings(folder, cache_latents=False, color_aug=True, flip_aug=True)
    with batches(report, s) as source:
        once = [list(source.epoch(number)) for number in (1, 2)]
        for path in folder.rglob("*.png"):
            path.unlink()
        assert same(list(source.epoch(1)), once[0])
    monkeypatch.setattr(loader, "PIXELS", 0)
    write(folder / "2_cat", a=(64, 64), b=(80, 48), c=(64, 64))
    write(folder / "1_dog", d=(48, 80), e=(64, 64))
    with batches(report, s) as source:
        assert same(list(source.epoch(2)), once[1]), "and kept or not, they are the same"


def test_cached_latents_do_not_need_the_pictures_any_more(report: Reporter, folder: Path) -> None:
    with batches(report, settings(folder)) as source:
        for path in folder.rglob("*.png"):
            path.unlink()
        assert len(list(source.epoch(1))) == source.per_epoch


def test_everything_ends_when_closed(report: Reporter, folder: Path) -> None:
    threads = threading.active_count()
    for way in WAYS.values():
        with batches(report, settings(folder, **way), cache_folder=folder.parent / "cache") as source:
            next(source.epoch(1))
    assert threading.active_count() == threads


def test_one_picture_and_a_large_batch(report: Reporter, tmp_path: Path) -> None:
    (tmp_path / "img" / "1_x").mkdir(parents=True)
    noise(64, 64).save(tmp_path / "img" / "1_x" / "only.png")
    with batches(report, settings(tmp_path / "img", train_batch_size=64)) as source:
        assert source.per_epoch == 1
        assert [batch.size for number in (1, 2) for batch in source.epoch(number)] == [1, 1]


def test_what_sdxl_is_told_is_turned_with_the_picture(report: Reporter, tmp_path: Path) -> None:
    """Each batch's sizes are those of the picture as it is shown, mirrored or not."""
    write(tmp_path / "img" / "8_x", a=(40, 63))  # taller than its bucket: the margins left and right differ
    s = settings(tmp_path / "img", flip_aug=True, enable_bucket=False)
    with batches(report, s) as source, batches(report, s.changed(flip_aug=False)) as plain:
        upright = next(plain.epoch(1)).latents
        shown = {
            (torch.equal(batch.latents, upright), tuple(batch.sizes[0].tolist()))
            for number in (1, 2)
            for batch in source.epoch(number)
        }
    told = {mirrored: torch.tensor(told_sizes((40, 63), (64, 64), mirrored)) for mirrored in (False, True)}
    assert not torch.equal(*told.values())
    assert shown == {(not mirrored, tuple(sizes.tolist())) for mirrored, sizes in told.items()}


# Random crop.


def crops(report: Reporter, folder: Path, **values: object) -> list[Batch]:
    s = settings(folder, cache_latents=False, random_crop=True, enable_bucket=False, **values)
    with batches(report, s) as source:
        return [batch for number in (1, 2, 3, 4) for batch in source.epoch(number)]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray[Any, Any]]:
    """The pixels that are encoded, in order."""
    pixels: list[np.ndarray[Any, Any]] = []
    encode = loader.Encoder.__call__

    def listen(encoder: Any, pictures: Any, *rest: Any) -> torch.Tensor:
        pixels.extend(pictures)
        return encode(encoder, pictures, *rest)

    monkeypatch.setattr(loader.Encoder, "__call__", listen)
    return pixels


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """A picture that says of each pixel where it is: 96 × 64, red is the column and green the row."""
    (tmp_path / "ramp" / "8_x").mkdir(parents=True)
    rows, columns = np.mgrid[0:64, 0:96].astype(np.uint8)
    rgba = np.dstack([columns, rows, 0 * rows, 255 - 2 * columns])
    Image.fromarray(rgba[..., :3]).save(tmp_path / "ramp" / "8_x" / "a.png")
    return tmp_path / "ramp"


def test_a_random_crop_is_another_window_each_time_of_what_stands_over(
    report: Reporter, ramp: Path, seen: list[np.ndarray[Any, Any]]
) -> None:
    found = crops(report, ramp)
    corners = []
    for pixels in seen:
        left, top = int(pixels[0, 0, 0]), int(pixels[0, 0, 1])
        assert pixels.shape == (64, 64, 3)
        assert np.array_equal(pixels[..., 0], np.tile(np.arange(left, left + 64), (64, 1))), "a whole window"
        corners.append((left, top))
    assert {top for _, top in corners} == {0}, "nothing stands over at the top"
    lefts = [left for left, _ in corners]
    assert len(lefts) == 32
    assert min(lefts) < 6
    assert max(lefts) > 26
    assert len(set(lefts)) > 14
    first = list(seen)
    seen.clear()
    assert same(crops(report, ramp), found)
    assert all(map(np.array_equal, seen, first)), "the same again with the same seed"
    seen.clear()
    assert not same(crops(report, ramp, seed=4), found)


def test_a_tall_picture_is_cropped_at_any_height(
    report: Reporter, tmp_path: Path, seen: list[np.ndarray[Any, Any]]
) -> None:
    (tmp_path / "tall" / "8_x").mkdir(parents=True)
    rows = np.mgrid[0:96, 0:64].astype(np.uint8)[0]
    Image.fromarray(np.dstack([rows] * 3)).save(tmp_path / "tall" / "8_x" / "a.png")
    crops(report, tmp_path / "tall")
    tops = [int(pixels[0, 0, 0]) for pixels in seen]
    assert min(tops) < 6
    assert max(tops) > 26


def test_what_sdxl_is_told_does_not_follow_the_crop(report: Reporter, ramp: Path) -> None:
    """Kohya's margins of the whole picture, as with a crop in the middle."""
    with batches(report, settings(ramp, enable_bucket=False)) as source:
        expected = next(source.epoch(1)).sizes
    assert all(torch.equal(batch.sizes, expected) for batch in crops(report, ramp))


@pytest.mark.parametrize("inpainting", [False, True])
def test_masks_are_cut_and_turned_with_the_random_crop(
    report: Reporter, ramp: Path, tmp_path: Path, seen: list[np.ndarray[Any, Any]], inpainting: bool
) -> None:
    (tmp_path / "masks").mkdir()
    Image.open(ramp / "8_x" / "a.png").save(tmp_path / "masks" / "a.png")  # counts as much as it is red there
    values = {"masked_loss": True, "conditioning_data_dir": str(tmp_path / "masks"), "flip_aug": True}
    found = crops(report, ramp, **values, train_inpainting=inpainting)
    pixels = seen[:: 2 if inpainting else 1]
    for batch, shown in zip(found, pixels, strict=True):
        assert batch.loss_masks is not None
        expected = (shown[..., 0].astype(np.float32) / 255).reshape(8, 8, 8, 8).mean((1, 3))
        assert np.allclose(batch.loss_masks[0, 0].numpy(), expected, atol=1e-6)
    assert len({bool(one[0, 0, 0] < one[0, -1, 0]) for one in pixels}) == 2, "mirrored and not"


# Threads.


@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_threads_gives_the_same_batches(report: Reporter, folder: Path, way: str) -> None:
    found = []
    for workers, persistent in ((0, True), (1, False), (5, True), (3, False)):
        s = settings(
            folder, **LIVELY, **WAYS[way], max_data_loader_n_workers=workers, persistent_data_loader_workers=persistent
        )
        with batches(report, s, cache_folder=folder.parent / "cache") as source:
            found.append([batch for number in (1, 2, 3) for batch in source.epoch(number)])
    assert all(same(found[0], other) for other in found[1:])


def ahead_threads() -> int:
    return sum(thread.name.startswith("ahead") for thread in threading.enumerate())


def test_as_many_threads_as_asked_for_and_they_live_as_asked(report: Reporter, folder: Path) -> None:
    s = settings(folder, cache_latents=False, max_data_loader_n_workers=3)
    with batches(report, s) as source:
        list(source.epoch(1))
        assert ahead_threads() == 3
        assert source.waiting == 5, "the next epoch is being prepared"
    with batches(report, s.changed(persistent_data_loader_workers=False)) as source:
        list(source.epoch(1))
        assert (ahead_threads(), source.waiting) == (0, 0)
        next(source.epoch(2))
        assert ahead_threads() == 3


def test_one_thread_is_enough_where_latents_are_cached(report: Reporter, folder: Path) -> None:
    with batches(report, settings(folder)) as source:
        list(source.epoch(1))
        assert ahead_threads() == 1
