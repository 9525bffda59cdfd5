"""What inpainting models are shown: masks of useful sizes, repeatable, and in the right place in a batch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.made import tiny_vae
from tests.tiny import listener, tiny_model
from tests.trainings import make_pictures
from trainer.data.buckets import Placement
from trainer.data.chance import Choice, generator
from trainer.data.dataset import Picture, scan, verify
from trainer.data.loader import Batch, Batches
from trainer.data.masks import draw_mask, folder_of_masks, loss_mask
from trainer.diffusion import per_sample
from trainer.report import Failure, Reporter
from trainer.settings import Settings


def masks(count: int, width: int = 96, height: int = 64) -> list[np.ndarray]:
    return [draw_mask(width, height, generator(Choice.MASK, 1, 1, entry)) for entry in range(count)]


def test_a_quarter_hides_everything_and_the_rest_much_or_little() -> None:
    shares = np.array([mask.mean() for mask in masks(2000)])
    assert abs((shares == 1).mean() - 0.25) < 0.03
    some = shares[shares < 1]
    assert some.min() > 0
    assert 0.25 < some.mean() < 0.55
    assert np.histogram(some, bins=(0, 0.2, 0.4, 0.6, 0.8, 1))[0].min() > 15


def test_masks_have_the_size_asked_for_and_repeat() -> None:
    one, two = masks(20), masks(20)
    assert {mask.shape for mask in one} == {(64, 96)}
    assert {mask.dtype for mask in one} == {np.dtype(np.bool_)}
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert len({mask.tobytes() for mask in one}) > 12


def test_every_place_is_hidden_now_and_then() -> None:
    share = np.mean([mask for mask in masks(2000) if not mask.all()], axis=0)
    assert share.min() > 0.05
    assert share.max() < 0.8


def batches(folder: Path, **values: object) -> list[Batch]:
    s = Settings(train_data_dir=str(folder), max_resolution="64,64", min_bucket_reso=64, seed=4, **values)  # type: ignore[arg-type]
    model = tiny_model(inpainting=bool(values.get("train_inpainting")))
    with Batches(s, scan(s), model, listener_with_track(), "cpu") as found:
        return list(found.epoch(1))


def listener_with_track() -> Any:
    heard = listener()
    heard.track = lambda items, phase, total=None: items
    heard.stopping = lambda: False
    return heard


def test_what_is_hidden_is_grey_in_the_latents_beside(tmp_path: Path) -> None:
    """The five channels are the mask at every eighth pixel and the VAE's answer to the picture with grey in it."""
    (batch,) = (one for one in batches(make_pictures(tmp_path, 1, 1), train_inpainting=True, flip_aug=False))
    assert batch.inpainting is not None
    assert batch.inpainting.shape == (1, 5, *batch.latents.shape[2:])
    mask = draw_mask(64, 64, generator(Choice.MASK, 4, 1, 0))
    assert torch.equal(batch.inpainting[0, 0], torch.from_numpy(mask[::8, ::8]).float())

    from trainer.data.buckets import place
    from trainer.data.latents import Wish, pixels_of

    picture = scan(Settings(train_data_dir=str(tmp_path))).entries()[0]
    s = Settings(max_resolution="64,64", min_bucket_reso=64)
    pixels = torch.from_numpy(pixels_of(Wish(picture, place(picture.size, s)))).permute(2, 0, 1).float() / 127.5 - 1
    vae = tiny_model(inpainting=True).vae
    seed = int(generator(Choice.MASKED_LATENT, 4, 1, 0).integers(2**63))
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = vae.encode((pixels * ~torch.from_numpy(mask)).unsqueeze(0)).latent_dist
    expected = (found.mean + found.std * noise) * 0.18215
    torch.testing.assert_close(batch.inpainting[:, 1:], expected, atol=1e-5, rtol=1e-5)


def test_masks_change_with_the_epoch_and_nothing_is_cached(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path, 2, 2)
    plain = batches(folder)
    hidden = batches(folder, train_inpainting=True, cache_latents=True)
    assert all(batch.inpainting is None for batch in plain)
    assert len({batch.inpainting.numpy().tobytes() for batch in hidden if batch.inpainting is not None}) == 4
    again = batches(folder, train_inpainting=True, cache_latents=False)
    for one, other in zip(hidden, again, strict=True):
        assert torch.equal(one.latents, other.latents)
        assert one.inpainting is not None
        assert other.inpainting is not None
        assert torch.equal(one.inpainting, other.inpainting)


def test_sizes_go_with_their_pictures(tmp_path: Path) -> None:
    for batch in batches(make_pictures(tmp_path, 4, 1), train_batch_size=2, flip_aug=True):
        assert batch.sizes.dtype == torch.float32
        for picture, row in zip(batch.pictures, batch.sizes.tolist(), strict=True):
            height, width = batch.latents.shape[2] * 8, batch.latents.shape[3] * 8
            assert row[:2] == [picture.size[1], picture.size[0]]
            assert row[4:] == [height, width]


# Masked loss.


def cut_out(path: Path, alpha: np.ndarray[Any, Any], **save: Any) -> Path:
    height, width = alpha.shape
    rgba = np.dstack([np.full((height, width, 3), 90, np.uint8), alpha.astype(np.uint8)])
    Image.fromarray(rgba, "RGBA").save(path, **save)
    return path


def picture(path: Path, size: tuple[int, int], mask: Path | None = None) -> Picture:
    return Picture(path, size, "", None, "1_cat", 1, False, mask=mask)


def test_a_loss_mask_is_the_mean_opacity_of_each_latents_pixels(tmp_path: Path) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (32, 24))
    found = loss_mask(picture(cut_out(tmp_path / "a.png", alpha), (24, 32)), Placement((24, 32), (24, 32), (0, 0)), 8)
    judge = torch.nn.functional.interpolate(torch.from_numpy(alpha / 255)[None, None], (4, 3), mode="area")[0, 0]
    assert found is not None
    assert torch.allclose(torch.from_numpy(found).double(), judge, atol=1e-6)


def test_a_loss_mask_is_shrunk_cropped_and_turned_like_its_picture(tmp_path: Path) -> None:
    alpha = np.zeros((64, 96))
    alpha[:, 16:32] = 255  # after shrinking to 48 × 32 and cropping 8 pixels: the left column of latents
    found = loss_mask(picture(cut_out(tmp_path / "a.png", alpha), (96, 64)), Placement((32, 32), (48, 32), (8, 0)), 8)
    assert found is not None
    assert found.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 4
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    turned = cut_out(tmp_path / "b.png", np.rot90(alpha), exif=exif)
    found = loss_mask(picture(turned, (96, 64)), Placement((32, 32), (48, 32), (8, 0)), 8)
    assert found is not None
    assert found.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 4


def test_opaque_pictures_have_no_loss_mask(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    assert loss_mask(picture(tmp_path / "a.png", (16, 16)), Placement((16, 16), (16, 16), (0, 0)), 8) is None


@pytest.mark.parametrize("cached", [True, False])
def test_batches_carry_loss_masks_flipped_with_their_pictures(tmp_path: Path, cached: bool) -> None:
    folder = tmp_path / "img" / "8_cat"
    folder.mkdir(parents=True)
    left = np.zeros((64, 64))
    left[:, :32] = 255
    cut_out(folder / "a.png", left)
    Image.new("RGB", (64, 64), "red").save(folder / "b.png")
    s = Settings(
        train_data_dir=str(tmp_path / "img"), max_resolution="64,64", train_batch_size=2, seed=3, flip_aug=True,
        cache_latents=cached, masked_loss=True,
    )  # fmt: skip
    model: Any = SimpleNamespace(vae=tiny_vae())
    seen = set()
    with Reporter(tmp_path / "run") as report, Batches(s, scan(s), model, report, "cpu") as batches:
        for batch in batches.epoch(1):
            masks = [None] * batch.size if batch.loss_masks is None else batch.loss_masks
            for picture, mask in zip(batch.pictures, masks, strict=True):
                halves = (1.0, 1.0) if mask is None else (mask[0, :, :4].mean().item(), mask[0, :, 4:].mean().item())
                seen.add((picture.path.name, *halves))
    assert seen == {("a.png", 1.0, 0.0), ("a.png", 0.0, 1.0), ("b.png", 1.0, 1.0)}
    with (
        Reporter(tmp_path / "run") as report,
        Batches(s.changed(masked_loss=False), scan(s), model, report, "cpu") as plain,
    ):
        assert all(batch.loss_masks is None for batch in plain.epoch(1))


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(Failure, match=r"a\.png .*no longer there"):
        loss_mask(picture(path, (16, 16)), Placement((16, 16), (16, 16), (0, 0)), 8)
    cut_out(path, np.zeros((16, 24)))
    with pytest.raises(Failure, match=r"a\.png was changed"):
        loss_mask(picture(path, (16, 16)), Placement((16, 16), (16, 16), (0, 0)), 8)


# Masks in a folder.


def masked(tmp_path: Path, **values: object) -> Settings:
    return Settings(
        **{
            "train_data_dir": str(tmp_path / "img"), "max_resolution": "64,64", "seed": 3, "masked_loss": True,
            "conditioning_data_dir": str(tmp_path / "masks"), **values,
        }
    )  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two folders of pictures, a.png and b.jpg in each; only 1_cat/a.png has transparent parts."""
    for name in ("1_cat", "1_dog"):
        (tmp_path / "img" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), "red").save(tmp_path / "img" / name / "b.jpg")
    cut_out(tmp_path / "img" / "1_cat" / "a.png", np.full((64, 64), 51))
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "img" / "1_dog" / "a.png")
    return tmp_path


def mask_file(path: Path, left: int, right: int, size: tuple[int, int] = (64, 64)) -> Path:
    """A mask of two halves that count as much as they are red; green and blue do not matter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0], pixels[:, size[0] // 2 :, 0] = left, right
    pixels[..., 2] = 200
    Image.fromarray(pixels).save(path)
    return path


def test_masks_are_found_by_name_those_in_the_folder_of_the_same_name_first(folders: Path) -> None:
    flat = mask_file(folders / "masks" / "A.webp", 255, 0)
    own = mask_file(folders / "masks" / "1_dog" / "a.png", 0, 255)
    dataset = scan(masked(folders))
    assert [picture.mask for picture in dataset.pictures] == [flat, None, own, None]
    assert scan(masked(folders, masked_loss=False)).pictures[0].mask is None
    notes = [note for note in dataset.notes if "mask" in note]
    assert notes == [
        f"{name}: 1 of 2 pictures has no mask in {folders / 'masks'}, so for each its transparency decides: b.jpg."
        for name in ("1_cat", "1_dog")
    ]
    (folders / "masks" / "1_dog" / "a.png").unlink()
    assert any("A.webp: used for several pictures of that name" in note for note in scan(masked(folders)).notes)


def test_regularisation_pictures_take_no_mask_of_another_picture(folders: Path) -> None:
    mask_file(folders / "masks" / "a.png", 255, 0)
    s = masked(folders, reg_data_dir=str(folders / "img"))
    assert [picture.mask is not None for picture in scan(s).reg_pictures] == [False] * 4


@pytest.mark.parametrize("alpha", [True, False])
def test_the_mask_of_a_picture_wins_over_its_transparency(folders: Path, alpha: bool) -> None:
    mask_file(folders / "masks" / "1_cat" / "a.png", 255, 0, size=(32, 32))  # stretched over the picture
    s = masked(folders, alpha_mask=alpha)
    placement = Placement((64, 64), (64, 64), (0, 0))
    cat, *_ = scan(s).pictures
    found = loss_mask(cat, placement, 8, alpha)
    assert found is not None
    assert np.allclose(found[:, :3], 1)
    assert np.allclose(found[:, 5:], 0)
    transparent = loss_mask(picture(cat.path, (64, 64)), placement, 8, alpha)
    assert (transparent is not None) == alpha
    assert transparent is None or np.allclose(transparent, 0.2)


@pytest.mark.parametrize("cached", [True, False])
def test_half_a_mask_is_half_the_loss(folders: Path, cached: bool) -> None:
    """The mean over all elements of d² m: with m = 1 on one half and 0 on the other, half of it for equal d."""
    for name in ("1_cat", "1_dog"):
        for stem in "ab":
            mask_file(folders / "masks" / name / f"{stem}.png", 255, 0)
    model: Any = SimpleNamespace(vae=tiny_vae())
    s = masked(folders, cache_latents=cached)
    with Reporter(folders / "run") as report, Batches(s, scan(s), model, report, "cpu") as source:
        for batch in source.epoch(1):
            assert batch.loss_masks is not None
            distances = torch.full_like(batch.latents, 3.0) ** 2 * batch.loss_masks
            assert per_sample(distances).tolist() == [4.5] * batch.size


def test_what_is_wrong_with_masks_is_said(folders: Path) -> None:
    s = masked(folders)
    assert folder_of_masks(s) == f"there is no folder {folders / 'masks'}."
    (folders / "masks").mkdir()
    assert folder_of_masks(s).startswith("no pictures in")
    assert folder_of_masks(s.changed(masked_loss=False)) == ""
    mask_file(folders / "masks" / "1_cat" / "a.png", 255, 0)
    assert folder_of_masks(s) == ""
    (folders / "masks" / "1_cat" / "b.png").write_bytes(b"\x89PNG broken")
    with Reporter(folders / "run") as report:
        left = verify(scan(s), report)
    assert [(item.path.name, "has a mask" in item.why) for item in left.skipped] == [("b.jpg", True)]
