"""Sizes and pixels of real photographs and of broken files."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from tests.data.made import noise
from tests.photos import PHOTOS, make_photo_dataset, photo, sideways, upright
from trainer.data.buckets import Placement
from trainer.data.images import (
    Unreadable,
    check_pixels,
    fit,
    header,
    is_picture,
    open_picture,
    shrink,
    vary_colors,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photo_dataset(tmp_path_factory.mktemp("photos"))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures in shades of 255."""
    return float(np.mean(np.asarray(ImageChops.difference(one.convert("RGB"), other.convert("RGB")))))


@pytest.mark.parametrize("name", PHOTOS)
def test_photographs_come_out_upright_in_rgb(photos: Path, name: str) -> None:
    path = photos / name
    original = upright(name)
    head, opened = header(path), open_picture(path)
    check_pixels(path)
    assert (head.why, head.note) == ("", "")
    assert opened.mode == "RGB"
    assert head.size == opened.size == PHOTOS[name][1]
    if name == "2_places/rocket cut out.png":
        assert np.asarray(opened)[0, 0].min() >= 254, "what is transparent becomes white"
        assert opened.getpixel((150, 213)) == pytest.approx(original.getpixel((150, 213)), abs=4)
    else:
        limit = 15 if "motorcycle" in name else 4  # 64 colours lose some
        assert difference(opened, original) < limit
    assert open_picture(path.read_bytes()).tobytes() == opened.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "avif"])
def test_every_orientation_in_every_format(tmp_path: Path, orientation: int, ending: str) -> None:
    original = photo("coffee.png").resize((96, 64))
    stored, exif = sideways(original, orientation)
    path = tmp_path / f"turned.{ending}"
    stored.save(path, exif=exif, quality=95)
    assert header(path).size == (96, 64)
    assert difference(open_picture(path), original) < 8


def test_exif_behind_the_pixels_of_a_png_counts_too(tmp_path: Path) -> None:
    """Some programs write it there; sizes from headers and from pixels must agree."""
    stored, exif = sideways(noise(60, 40), 6)
    path = tmp_path / "late.png"
    stored.save(path)
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    content = path.read_bytes()
    path.write_bytes(content[:-12] + chunk + content[-12:])
    assert header(path).size == open_picture(path).size == (60, 40)


def test_damaged_exif_loses_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    noise(50, 30).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xffnonsense")
    assert header(path).size == open_picture(path).size == (50, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = noise(40, 32).convert("L")
    shades = np.asarray(grey)
    if mode == "F":
        image = Image.fromarray(shades.astype(np.float32) / 255)
    elif mode.startswith("I"):
        image = Image.fromarray(shades.astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    elif mode == "P":
        image = grey.convert("RGB").quantize(256)
    else:
        image = grey.convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG" if mode not in ("CMYK", "I", "F") else "TIFF")
    opened = open_picture(file.getvalue())
    assert opened.mode == "RGB"
    if mode != "1":
        assert difference(opened, grey) < 3


def test_photographs_of_two_lenses_count_once(tmp_path: Path) -> None:
    """Phones write several pictures into one .jpg; that is nothing to remark on."""
    first, second = noise(400, 300, seed=1), noise(400, 300, seed=2)
    first.save(tmp_path / "two.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    assert header(tmp_path / "two.jpg").note == ""
    assert difference(open_picture(tmp_path / "two.jpg"), first) < 4


def test_transparent_palette_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (10, 10), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((5, 5), 1)
    image.save(tmp_path / "p.png", transparency=0)
    opened = open_picture(tmp_path / "p.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((5, 5)) == (0, 0, 255)


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    first, second = noise(40, 30, seed=1), noise(40, 30, seed=2)
    for name in ("moving.webp", "moving.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert difference(open_picture(tmp_path / name), first) < 1


def test_half_transparent_is_blended(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(tmp_path / "half.png")
    assert open_picture(tmp_path / "half.png").getpixel((3, 3)) == (127, 127, 127)


def test_a_misnamed_picture_is_used_and_told(tmp_path: Path) -> None:
    noise(30, 20).save(tmp_path / "really-jpeg.png", format="JPEG")
    head = header(tmp_path / "really-jpeg.png")
    assert (head.size, head.why) == ((30, 20), "")
    assert "JPEG file named .png" in head.note


def damaged(good: bytes) -> dict[str, tuple[bytes, str]]:
    """Files that are no usable pictures, and words of the reason given."""
    return {
        "zero.png": (b"", "is empty (0 bytes)"),
        "text.png": (("Grüße, kein Bild\n" * 40).encode(), "is text"),
        "page.jpg": (b"<!DOCTYPE html><html>not found</html>", "is text"),
        "phone.jpg": (b"\0\0\0\x18ftypheic" + bytes(200), "HEIC"),
        "lfs.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        "random.webp": (bytes(range(128, 256)) * 20, "damaged or not a picture"),
        "start.png": (good[:20], "damaged or not a picture"),
        "cut.png": (good[: len(good) // 2], "is damaged"),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(damaged(b"")))
def test_what_is_no_picture_is_named_with_the_reason(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    noise(200, 150).save(buffer, "PNG")
    content, reason = damaged(buffer.getvalue())[name]
    path = tmp_path / name
    path.write_bytes(content)
    why = header(path).why
    if name == "cut.png":
        assert why == "", "the header is whole"
        with pytest.raises(Unreadable) as caught:
            check_pixels(path)
        why = str(caught.value)
    assert reason in why
    with pytest.raises(Unreadable):
        open_picture(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp", "avif"])
def test_a_file_cut_short_is_found_when_checked(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cut.{ending}"
    photo("coffee.png").save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    if not header(path).why:
        with pytest.raises(Unreadable, match="is damaged"):
            check_pixels(path)


@given(st.binary(min_size=1, max_size=400), st.integers(0, 3))
def test_no_bytes_whatever_raise_anything_else(data: bytes, kind: int) -> None:
    start = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF\xff\0\0\0WEBPVP8 ")[kind]
    with pytest.raises(Unreadable):
        open_picture(start + data)


def test_far_too_narrow_pictures_are_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (600, 4)).save(tmp_path / "line.png")
    assert "600 × 4 pixels, far too narrow" in header(tmp_path / "line.png").why


def test_too_many_pixels_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(300, 300).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "pixels; save a smaller copy" in header(tmp_path / "huge.png").why


def test_which_names_are_pictures() -> None:
    assert all(map(is_picture, ("a.png", "A.PNG", "b.Jpg", "ü 🐈.jpeg", "x.webp", "x.bmp", "x.avif", "a.b.png")))
    assert not any(map(is_picture, ("a.txt", "._a.png", ".hidden.jpg", "png", "a.gif", "a.png.txt", "a.npz")))


def covered(size: int, total: int) -> np.ndarray:
    """[size, total]: the share of each old pixel in each new one, from the definition."""
    edges = np.arange(size + 1) * total / size
    low = np.maximum(edges[:-1, None], np.arange(total))
    high = np.minimum(edges[1:, None], np.arange(total) + 1)
    return np.clip(high - low, 0, None) * size / total


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_shrinking_is_the_mean_of_the_covered_area(width: int, height: int, data: st.DataObject) -> None:
    new_width, new_height = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    pixels = np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), np.uint8)
    expected = np.einsum("ih,hwc,jw->ijc", covered(new_height, height), pixels.astype(float), covered(new_width, width))
    assert np.abs(shrink(pixels, new_width, new_height) - expected).max() <= 0.5 + 1e-3


def test_shrinking_by_whole_numbers_is_the_box() -> None:
    image = photo("coffee.png")
    boxed = np.asarray(image.reduce(4))
    assert np.abs(shrink(np.asarray(image), 150, 100).astype(int) - boxed).max() <= 1


def test_fit_cuts_out_the_middle_and_grows_with_lanczos() -> None:
    image = photo("chelsea.png")
    grown = fit(image, Placement((640, 448), (674, 448), (17, 0)))
    expected = image.resize((674, 448), Image.Resampling.LANCZOS).crop((17, 0, 657, 448))
    assert np.array_equal(grown, np.asarray(expected))
    same = fit(image, Placement((448, 256), (451, 300), (1, 22)))
    assert np.array_equal(same, np.asarray(image)[22:278, 1:449])
    small = fit(image, Placement((192, 128), (192, 128), (0, 0)))
    assert small.shape == (128, 192, 3)
    assert small.mean() == pytest.approx(np.asarray(image).mean(), abs=0.6)


def test_color_augmentation_is_rare_small_and_repeatable() -> None:
    pixels = np.asarray(photo("coffee.png").resize((60, 40)))
    varied = [vary_colors(pixels, np.random.default_rng(seed)) for seed in range(300)]
    again = [vary_colors(pixels, np.random.default_rng(seed)) for seed in range(300)]
    assert all(np.array_equal(one, other) for one, other in zip(varied, again, strict=True))
    changed = [one for one in varied if not np.array_equal(one, pixels)]
    assert 60 <= len(changed) <= 140, "one in three"
    assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in varied)
    gray = lambda one: one.astype(float).max(axis=-1).mean()  # noqa: E731
    assert all(abs(gray(one) - gray(pixels)) < 8 for one in changed)
