"""Thumbnails: small, the right way up, made once, and never a crash."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import thumbnails
from app.thumbnails import thumbnail


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "work"))
    return tmp_path / "work"


def halves(size: tuple[int, int] = (400, 200)) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = pixels[:, size[0] // 2 :, 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "avif", "gif"])
def test_every_format_becomes_small(tmp_path: Path, ending: str) -> None:
    halves().save(tmp_path / f"a.{ending}")
    with Image.open(thumbnail(tmp_path / f"a.{ending}", 100)) as small:
        assert (small.format, small.size) == ("WEBP", (128, 64))
        left, right = small.convert("RGB").getpixel((10, 32)), small.convert("RGB").getpixel((118, 32))
    assert left[0] > 200 > 60 > left[2]  # type: ignore[index]
    assert right[2] > 200 > 60 > right[0]  # type: ignore[index]


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: left is up
    halves().save(tmp_path / "a.jpg", exif=exif)
    with Image.open(thumbnail(tmp_path / "a.jpg", 128)) as small:
        assert small.size == (64, 128)
        assert small.convert("RGB").getpixel((32, 10))[0] > 200  # type: ignore[index]
        assert small.convert("RGB").getpixel((32, 118))[2] > 200  # type: ignore[index]


def test_small_pictures_are_not_blown_up_and_transparency_stays(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(tmp_path / "a.png")
    with Image.open(thumbnail(tmp_path / "a.png", 512)) as small:
        assert small.size == (20, 10)
        assert small.convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]


def test_made_once_until_the_picture_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    halves().save(path)
    first = thumbnail(path, 128)
    written = first.stat().st_ino
    assert thumbnail(path, 120) == first
    assert first.stat().st_ino == written
    halves((200, 200)).save(path)
    second = thumbnail(path, 128)
    assert second != first
    with Image.open(second) as small:
        assert small.size == (128, 128)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture_is_a_sentence(tmp_path: Path, work: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png"):
        thumbnail(tmp_path / "a.png", 64)
    assert not [path for path in work.rglob("*") if path.is_file()]


def test_a_truncated_picture_is_a_sentence(tmp_path: Path) -> None:
    halves().save(tmp_path / "whole.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a\.png"):
        thumbnail(tmp_path / "a.png", 64)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    halves().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="too large"):
        thumbnail(tmp_path / "a.png", 64)


def test_old_ones_are_forgotten(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    old, new = thumbnail(tmp_path / "a.png", 64), thumbnail(tmp_path / "a.png", 128)
    os.utime(old, (0, 0))
    thumbnails.forget_old()
    assert not old.exists()
    assert new.exists()
